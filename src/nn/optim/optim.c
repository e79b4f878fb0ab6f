/* optim.c - the table of optimizers, and clipping by the norm. */
#include "nn/nn.h"

#include <math.h>

#define X(name) extern const nn_optim optim_##name;
#include "nn/optim/list.h"
#undef X

const nn_optim *const nn_optims[] = {
#define X(name) &optim_##name,
#include "nn/optim/list.h"
#undef X
    NULL};

const nn_optim *nn_optim_find(str name)
{
    for (const nn_optim *const *o = nn_optims; *o; o++)
        if (str_is(name, (*o)->name))
            return *o;
    return NULL;
}

/* ---- clipping --------------------------------------------------------------------------
 */

enum { PARTS = 256 };

typedef struct {
    const kern *k;
    float *g;
    size_t grain;
    float by;
    double part[PARTS];
} job;

static void square(void *ctx, size_t beg, size_t end, int worker)
{
    job *j = ctx;
    (void)worker;
    j->part[beg / j->grain] = j->k->sumsq(j->g + beg, end - beg);
}

static void shrink(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    j->k->scale(j->g + beg, j->by, end - beg);
}

double nn_clip_norm(const kern *k, pool *workers, float *g, size_t n, double max_norm)
{
    job j = {.k = k, .g = g, .grain = size_max((n + PARTS - 1) / PARTS, 4096)};
    double sum = 0;
    pool_run(workers, n, j.grain, square, &j);
    for (int i = 0; i < PARTS; i++)
        sum += j.part[i];
    double norm = sqrt(sum);
    if (norm > max_norm) {
        j.by = (float)(max_norm / norm);
        pool_run(workers, n, j.grain, shrink, &j);
    }
    return norm;
}
