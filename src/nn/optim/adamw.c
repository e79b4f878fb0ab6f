/* adamw.c - Adam with decoupled weight decay (Loshchilov and Hutter 2019).
 *
 *     m = b1 m + (1-b1) g     v = b2 v + (1-b2) g^2
 *     x -= lr (m / (1-b1^t) / (sqrt(v / (1-b2^t)) + eps) + weight_decay x)
 *
 * State: m then v, n floats each. */
#include "nn/nn.h"

#include <math.h>

enum { BETA1, BETA2, EPS, WEIGHT_DECAY };

typedef struct {
    const kern *k;
    float *x, *m, *v;
    const float *g;
    float lr, b1, b2, eps, decay, c1, c2;
} job;

static void some(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    j->k->adamw(j->x + beg, j->m + beg, j->v + beg, j->g + beg, end - beg, j->lr, j->b1,
                j->b2, j->eps, j->decay, j->c1, j->c2);
}

static void step(const kern *k, pool *workers, const double *p, void *state, float *x,
                 const float *g, size_t n, double lr, uint64_t t)
{
    job j = {.k = k,
             .x = x,
             .m = state,
             .v = (float *)state + n,
             .g = g,
             .lr = (float)lr,
             .b1 = (float)p[BETA1],
             .b2 = (float)p[BETA2],
             .eps = (float)p[EPS],
             .decay = (float)p[WEIGHT_DECAY],
             .c1 = (float)(1.0 - pow(p[BETA1], (double)t)),
             .c2 = (float)(1.0 - pow(p[BETA2], (double)t))};
    pool_run(workers, n, 16384, some, &j);
}

static size_t state_bytes(const double *p, size_t n)
{
    (void)p;
    return n * 2 * sizeof(float);
}

static const param params[] = {
    [BETA1] = {"beta1", 0.9, 0.0, 0.999999, "memory of the gradient", NULL},
    [BETA2] = {"beta2", 0.999, 0.0, 0.999999, "memory of its square", NULL},
    [EPS] = {"eps", 1e-8, 1e-12, 1.0, "added to the root of the second moment", NULL},
    [WEIGHT_DECAY] = {"weight_decay", 0.01, 0.0, 1.0, "pull towards zero, times lr", NULL},
    {0}};

const nn_optim optim_adamw = {.name = "adamw",
                              .summary = "Adam with decoupled weight decay",
                              .source = "Loshchilov and Hutter 2019",
                              .params = params,
                              .state_bytes = state_bytes,
                              .step = step};
