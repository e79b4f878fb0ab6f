/* krum.c - the one update whose n - f - 2 nearest others are nearest:
 *     score_i = sum of the n - f - 2 least |v_i - v_j|^2 over j other than i
 * Of equal scores the lower row.  Distances are squared once, and a row is not its own
 * neighbour: public versions differ in both. */
#include "fl/aggregate/aggregate.h"

static const param params[] = {AGGREGATE_PARAMS, {NULL, 0, 0, 0, NULL, NULL}};

static size_t least(const double *p, size_t f)
{
    (void)p;
    return f ? 2 * f + 3 : 1;
}

static size_t plan_bytes(size_t m) { return arena_bytes(double, m); }

static om_status plan(const aggregate_view *v, aggregate_plan *out, arena scratch,
                      om_err *err)
{
    double *room = arena_new(&scratch, double, v->m), best = 0;
    size_t at = v->m;
    (void)err;
    for (size_t i = 0; i < v->m; i++) {
        double s = aggregate_crowding(v, out->chosen, i, aggregate_neighbours(v->m, v->f),
                                      room);
        if (at == v->m || s < best)
            at = i, best = s;
    }
    out->weight[at] = 1;
    return OM_OK;
}

const aggregator aggregator_krum = {
    .name = "krum",
    .summary = "the update nearest to its neighbours",
    .source = "Blanchard et al., NeurIPS 2017, arXiv 1703.02757",
    .flags = AGGREGATE_GRAM | AGGREGATE_MOVES | AGGREGATE_ROBUST,
    .params = params,
    .least = least,
    .plan_bytes = plan_bytes,
    .plan = plan,
};
