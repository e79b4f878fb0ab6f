/* bulyan.c - n - 2f updates chosen one after the other by Krum, each time among those that
 * are left; then, of each coordinate, the mean of the n - 4f values nearest to the median
 * of the chosen.  Choosing once by one set of scores is not Bulyan: neighbours change as
 * updates leave. */
#include "fl/aggregate/aggregate.h"

static const param params[] = {AGGREGATE_PARAMS, {NULL, 0, 0, 0, NULL, NULL}};

static size_t least(const double *p, size_t f)
{
    (void)p;
    return 4 * f + 3;
}

static size_t plan_bytes(size_t m)
{
    return arena_bytes(double, m) + arena_bytes(uint8_t, m);
}

static om_status plan(const aggregate_view *v, aggregate_plan *out, arena scratch,
                      om_err *err)
{
    double *room = arena_new(&scratch, double, v->m);
    uint8_t *left = arena_new(&scratch, uint8_t, v->m);
    size_t theta = v->m - 2 * v->f;
    (void)err;
    memset(left, 1, v->m);
    memset(out->chosen, 0, v->m);
    for (size_t t = 0; t < theta; t++) {
        size_t best = v->m, take = aggregate_neighbours(v->m - t, v->f);
        double least_score = 0;
        for (size_t i = 0; i < v->m; i++) {
            double s = left[i] ? aggregate_crowding(v, left, i, take, room) : 0;
            if (left[i] && (best == v->m || s < least_score))
                best = i, least_score = s;
        }
        left[best] = 0;
        out->chosen[best] = 1;
    }
    out->ranked = true;
    out->rank = COHORT_NEAREST;
    out->cut = 2 * v->f;
    return OM_OK;
}

const aggregator aggregator_bulyan = {
    .name = "bulyan",
    .summary = "Krum's choice of many, then the values nearest to their median",
    .source = "El Mhamdi, Guerraoui, Rouault, ICML 2018, arXiv 1802.07927",
    .flags = AGGREGATE_GRAM | AGGREGATE_MOVES | AGGREGATE_ROBUST,
    .params = params,
    .least = least,
    .plan_bytes = plan_bytes,
    .plan = plan,
};
