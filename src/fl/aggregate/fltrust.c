/* fltrust.c - trust from a root update v_0 that the server believes, made by a device of
 * its own that takes part under the id `trusted`:
 *
 *     t_i = max(0, cos(v_i, v_0)),   A = sum t_i (|v_0| / |v_i|) v_i / sum t_i
 *
 * over the others.  When nobody points the root's way the root update alone is taken. */
#include "fl/aggregate/aggregate.h"

#include <math.h>

enum { TRUSTED = AGGREGATE_COMMON };

static const param params[] = {
    AGGREGATE_PARAMS,
    [TRUSTED] = {"trusted", 0, 0, 4294967295.0, "client whose update is believed", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

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
    size_t root = v->trusted;
    double total = 0;
    (void)scratch;
    if (root == v->m)
        return fail(err, OM_ELIMIT, "fltrust: client %.0f, which is trusted, sent no "
                                    "update", v->p[TRUSTED]);
    double own = sqrt(fmax(v->gram[root * v->m + root], 0));
    for (size_t i = 0; i < v->m; i++) {
        double n = sqrt(fmax(v->gram[i * v->m + i], 0));
        double along = v->gram[i * v->m + root];
        if (i == root || n <= 0 || own <= 0 || along <= 0)
            continue;
        double trust = along / (n * own);
        out->weight[i] = trust * own / n;
        total += trust;
    }
    for (size_t i = 0; i < v->m && total > 0; i++)
        out->weight[i] /= total;
    if (total <= 0)
        out->weight[root] = 1;
    return OM_OK;
}

const aggregator aggregator_fltrust = {
    .name = "fltrust",
    .summary = "updates weighted by how far they agree with a trusted one",
    .source = "Cao et al., NDSS 2021, arXiv 2012.13995",
    .flags = AGGREGATE_GRAM | AGGREGATE_TRUSTED | AGGREGATE_ROBUST,
    .params = params,
    .least = least,
    .plan_bytes = plan_bytes,
    .plan = plan,
};
