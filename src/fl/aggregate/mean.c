/* mean.c - the mean of the updates, each counting the same.  One hostile update moves it
 * anywhere: it is here as the thing to compare with, and behind a mixer or a screen.
 * Without either, a round's weighted mean is folded as it comes (fl/average.h). */
#include "fl/aggregate/aggregate.h"

static const param params[] = {AGGREGATE_PARAMS, {NULL, 0, 0, 0, NULL, NULL}};

static size_t least(const double *p, size_t f)
{
    (void)p, (void)f;
    return 1;
}

static size_t plan_bytes(size_t m)
{
    (void)m;
    return 0;
}

static om_status plan(const aggregate_view *v, aggregate_plan *out, arena scratch,
                      om_err *err)
{
    (void)scratch, (void)err;
    for (size_t i = 0; i < v->m; i++)
        out->weight[i] = 1.0 / (double)v->m;
    return OM_OK;
}

const aggregator aggregator_mean = {
    .name = "mean",
    .summary = "the mean; not robust",
    .source = "McMahan et al., AISTATS 2017, arXiv 1602.05629",
    .flags = AGGREGATE_MOVES,
    .params = params,
    .least = least,
    .plan_bytes = plan_bytes,
    .plan = plan,
};
