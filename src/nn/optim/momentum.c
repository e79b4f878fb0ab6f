/* momentum.c - heavy ball, or Nesterov's look-ahead, as Sutskever et al. (2013) put it:
 *
 *     v = momentum v + (g + weight_decay x)
 *     x -= lr v                      heavy ball
 *     x -= lr (g + momentum v)       nesterov */
#include "nn/nn.h"

enum { MOMENTUM, NESTEROV, WEIGHT_DECAY };

typedef struct {
    float *x, *v;
    const float *g;
    float lr, mu, decay;
    bool nesterov;
} job;

static void some(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    for (size_t i = beg; i < end; i++) {
        float g = j->g[i] + j->decay * j->x[i];
        float v = j->mu * j->v[i] + g;
        j->v[i] = v;
        j->x[i] -= j->lr * (j->nesterov ? g + j->mu * v : v);
    }
}

static void step(const kern *k, pool *workers, const double *p, void *state, float *x,
                 const float *g, size_t n, double lr, uint64_t t)
{
    job j = {.x = x,
             .v = state,
             .g = g,
             .lr = (float)lr,
             .mu = (float)p[MOMENTUM],
             .decay = (float)p[WEIGHT_DECAY],
             .nesterov = p[NESTEROV] != 0.0};
    (void)k, (void)t;
    pool_run(workers, n, 16384, some, &j);
}

static size_t state_bytes(const double *p, size_t n)
{
    (void)p;
    return n * sizeof(float);
}

static const param params[] = {
    [MOMENTUM] = {"momentum", 0.9, 0.0, 1.0, "how much of the last step is kept", NULL},
    [NESTEROV] = {"nesterov", 0.0, 0.0, 1.0, "look ahead (true or false)", NULL},
    [WEIGHT_DECAY] = {"weight_decay", 0.0, 0.0, 1.0, "added to the gradient, times x",
                      NULL},
    {0}};

const nn_optim optim_momentum = {.name = "momentum",
                                 .summary = "gradient descent with memory",
                                 .source = "Polyak 1964; Sutskever et al. 2013",
                                 .params = params,
                                 .state_bytes = state_bytes,
                                 .step = step};
