/* fedopt.h - FedOpt: the round's mean update as a gradient of an adaptive optimizer
 * (Reddi et al., ICLR 2021, arXiv 2003.00295, algorithm 2).  One row each in
 * algo/fedadam.c, fedyogi.c, fedadagrad.c; they differ in how v grows. */
#ifndef FL_FEDOPT_H
#define FL_FEDOPT_H

#include "fl/local.h"

enum {
    FEDOPT_SERVER_LR = LOCAL_PARAMS,
    FEDOPT_BETA1,
    FEDOPT_BETA2,
    FEDOPT_TAU,
    FEDOPT_V0,
};

#define FEDOPT_PARAMS(b1, b2)                                                              \
    FL_LOCAL_PARAMS,                                                                       \
        [FEDOPT_SERVER_LR] = {"server_lr", 0.1, 0, 1e6, "step of the server", NULL},       \
        [FEDOPT_BETA1] = {"beta_1", (b1), 0, 0.999999, "memory of the mean update", NULL}, \
        [FEDOPT_BETA2] = {"beta_2", (b2), 0, 0.999999, "memory of its square", NULL},      \
        [FEDOPT_TAU] = {"tau", 1e-3, 1e-12, 1e6, "adaptivity: added to sqrt(v)", NULL},    \
        [FEDOPT_V0] = {"v0",                                                               \
                       1e-6,                                                               \
                       0,                                                                  \
                       1e6,                                                                \
                       "v before the first round; the paper asks for at "                  \
                       "least tau^2",                                                      \
                       NULL}

/* The new v, given the old one and D^2. */
typedef float fedopt_rule(float v, float d2, float b2);

size_t fedopt_server_bytes(const fl_env *e);
om_status fedopt_open(const fl_env *e, void *server, const float *x0, om_err *err);
om_status fedopt_close(const fl_env *e, void *server, fedopt_rule *rule, om_err *err);

#endif
