/* problem.h - from a configuration to what a simulation runs on: the clients' functions,
 * the starting point, and the score of a model. */
#ifndef CLI_PROBLEM_H
#define CLI_PROBLEM_H

#include "cli/config.h"
#include "sim/sim.h"

typedef struct problem problem;

om_status problem_open(const config *c, const kern *k, pool *p, const om_cancel *cancel,
                       problem **out, om_err *err);
void problem_close(problem *p);

/* Fills dim, n_clients, make_oracle, evaluate and ctx of *s; *x0 (dim) lives as long as
 * the problem. */
void problem_describe(problem *p, sim_config *s, const float **x0);
/* One line for people: "mlp 784-200-10, 159010 numbers; 100 clients of 40 to 900 samples".
 */
const char *problem_summary(const problem *p);

#endif
