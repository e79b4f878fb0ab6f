/* median.c - the median of each coordinate; of an even number of updates, the mean of the
 * two middle values. */
#include "fl/aggregate/aggregate.h"

static const param params[] = {AGGREGATE_PARAMS, {NULL, 0, 0, 0, NULL, NULL}};

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
    (void)v, (void)scratch, (void)err;
    out->ranked = true;
    out->rank = COHORT_MEDIAN;
    return OM_OK;
}

const aggregator aggregator_median = {
    .name = "median",
    .alias = "fedmedian",
    .summary = "the median of each coordinate",
    .source = "Yin et al., ICML 2018, arXiv 1803.01498",
    .flags = AGGREGATE_MOVES | AGGREGATE_ROBUST,
    .params = params,
    .least = least,
    .plan_bytes = plan_bytes,
    .plan = plan,
};
