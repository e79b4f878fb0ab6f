/* multi_krum.c - the mean of the k updates with the best Krum scores (krum.c); k = 0 takes
 * n - f.  Every one counts the same, whatever a client says of its samples. */
#include "fl/aggregate/aggregate.h"

#include <math.h>

enum { K = AGGREGATE_COMMON };

static const param params[] = {
    AGGREGATE_PARAMS,
    [K] = {"k", 0, 0, 16384, "updates averaged; 0: all but num_byzantine", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static size_t least(const double *p, size_t f)
{
    return size_max(f ? 2 * f + 3 : 1, (size_t)p[K]);
}

static size_t plan_bytes(size_t m) { return 2 * arena_bytes(double, m); }

static om_status plan(const aggregate_view *v, aggregate_plan *out, arena scratch,
                      om_err *err)
{
    double *room = arena_new(&scratch, double, v->m);
    double *score = arena_new(&scratch, double, v->m);
    size_t k = v->p[K] >= 1 ? (size_t)v->p[K] : v->m - v->f;
    (void)err;
    for (size_t i = 0; i < v->m; i++)
        score[i] = aggregate_crowding(v, out->chosen, i,
                                      aggregate_neighbours(v->m, v->f), room);
    for (size_t taken = 0; taken < k; taken++) {
        size_t best = 0;
        for (size_t i = 1; i < v->m; i++)
            if (score[i] < score[best])
                best = i;
        out->weight[best] = 1.0 / (double)k;
        score[best] = HUGE_VAL;
    }
    return OM_OK;
}

const aggregator aggregator_multi_krum = {
    .name = "multi_krum",
    .summary = "the mean of the updates nearest to their neighbours",
    .source = "Blanchard et al., NeurIPS 2017, arXiv 1703.02757",
    .flags = AGGREGATE_GRAM | AGGREGATE_MOVES | AGGREGATE_ROBUST,
    .params = params,
    .least = least,
    .plan_bytes = plan_bytes,
    .plan = plan,
};
