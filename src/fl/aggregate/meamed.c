/* meamed.c - of each coordinate, the mean of the n - f values nearest to its median; of
 * two equally near, the lower. */
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
    (void)scratch, (void)err;
    out->ranked = true;
    out->rank = COHORT_NEAREST;
    out->cut = v->f;
    return OM_OK;
}

const aggregator aggregator_meamed = {
    .name = "meamed",
    .summary = "the mean of the values nearest to each coordinate's median",
    .source = "Xie, Koyejo, Gupta 2018, arXiv 1802.10116",
    .flags = AGGREGATE_MOVES | AGGREGATE_ROBUST,
    .params = params,
    .least = least,
    .plan_bytes = plan_bytes,
    .plan = plan,
};
