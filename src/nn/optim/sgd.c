/* sgd.c - stochastic gradient descent: x -= lr (g + weight_decay x).  No state. */
#include "nn/nn.h"

typedef struct {
    const kern *k;
    float *x;
    const float *g;
    float lr, shrink;
} job;

static void some(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    if (j->shrink != 1.0f)
        j->k->scale(j->x + beg, j->shrink, end - beg);
    j->k->axpy(j->x + beg, -j->lr, j->g + beg, end - beg);
}

static void step(const kern *k, pool *workers, const double *p, void *state, float *x,
                 const float *g, size_t n, double lr, uint64_t t)
{
    job j = {.k = k, .x = x, .g = g, .lr = (float)lr, .shrink = (float)(1.0 - lr * p[0])};
    (void)state, (void)t;
    pool_run(workers, n, 16384, some, &j);
}

static size_t state_bytes(const double *p, size_t n)
{
    (void)p, (void)n;
    return 0;
}

static const param params[] = {
    {"weight_decay", 0.0, 0.0, 1.0, "pull towards zero, times lr per step", NULL}, {0}};

const nn_optim optim_sgd = {.name = "sgd",
                            .summary = "plain gradient descent",
                            .source = "Robbins and Monro 1951",
                            .params = params,
                            .state_bytes = state_bytes,
                            .step = step};
