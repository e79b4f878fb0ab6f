/* trimmed_mean.c - of each coordinate, the mean without its least and its greatest values:
 * num_byzantine of each, or when that is 0, the part beta of the updates. */
#include "fl/aggregate/aggregate.h"

enum { BETA = AGGREGATE_COMMON };

static const param params[] = {
    AGGREGATE_PARAMS,
    [BETA] = {"beta", 0.2, 0, 0.499999, "part cut at each end when num_byzantine is 0",
              NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static size_t least(const double *p, size_t f)
{
    (void)p;
    return 2 * f + 1;
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
    out->ranked = true;
    out->rank = COHORT_TRIMMED;
    out->cut = v->f ? v->f : (size_t)(v->p[BETA] * (double)v->m);
    return OM_OK;
}

const aggregator aggregator_trimmed_mean = {
    .name = "trimmed_mean",
    .alias = "fedtrimmedavg",
    .summary = "the mean of each coordinate without its extremes",
    .source = "Yin et al., ICML 2018, arXiv 1803.01498",
    .flags = AGGREGATE_MOVES | AGGREGATE_ROBUST,
    .params = params,
    .least = least,
    .plan_bytes = plan_bytes,
    .plan = plan,
};
