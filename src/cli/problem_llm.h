/* problem_llm.h - the language-model half of problem.h: a base model, texts dealt to
 * clients, one trainer a thread. */
#ifndef CLI_PROBLEM_LLM_H
#define CLI_PROBLEM_LLM_H

#include "cli/config.h"
#include "sim/sim.h"

typedef struct llm_problem llm_problem;

om_status llm_problem_open(const config *c, const kern *k, pool *p, const om_cancel *cancel,
                           llm_problem **out, om_err *err);
void llm_problem_close(llm_problem *p);
size_t llm_problem_dim(const llm_problem *p);
uint32_t llm_problem_clients(const llm_problem *p);
/* Where the low-rank pairs or matrices of x lie; NULL: it has none. */
const fl_shape *llm_problem_shape(const llm_problem *p);
const float *llm_problem_start(const llm_problem *p); /* (dim) */
void llm_problem_summary(const llm_problem *p, char *out, size_t cap);
void llm_problem_client(llm_problem *p, uint32_t client, int worker, fl_oracle *out);
om_status llm_problem_score(llm_problem *p, const float *x, sim_score *out, om_err *err);

#endif
