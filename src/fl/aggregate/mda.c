/* mda.c - minimum-diameter averaging: the mean of the n - f updates whose greatest
 * distance from one another is least; of equally good sets the first in order.
 *
 * Exact.  For a diameter t, join rows that are farther apart than t; n - f rows are within
 * t of one another when removing f rows cuts every join (a vertex cover).  The least t is
 * found by bisection over the distances, a cover by a search of depth f: the first row
 * with a join either stays, and all its partners go, or goes itself. */
#include "fl/aggregate/aggregate.h"

#include <stdlib.h>

enum { MOST_F = 16 };

static const param params[] = {AGGREGATE_PARAMS, {NULL, 0, 0, 0, NULL, NULL}};

static size_t least(const double *p, size_t f)
{
    (void)p;
    return f <= MOST_F ? 2 * f + 1 : COHORT_MOST + 1;
}

static size_t plan_bytes(size_t m)
{
    return arena_bytes(double, m * m) + arena_bytes(uint8_t, m);
}

static bool joined(const aggregate_view *v, const uint8_t *gone, size_t i, size_t j,
                   double t)
{
    return i != j && !gone[i] && !gone[j] && aggregate_distance(v, i, j) > t;
}

/* Cut every join from row `from` on by marking at most `most` rows in gone. */
static bool cover(const aggregate_view *v, double t, size_t from, size_t most,
                  uint8_t *gone)
{
    for (size_t i = from; i < v->m; i++) {
        size_t partners = 0;
        for (size_t j = 0; j < v->m; j++)
            partners += joined(v, gone, i, j, t);
        if (partners == 0)
            continue;
        if (most == 0)
            return false;
        size_t out[MOST_F];
        if (partners <= most) {
            size_t n = 0;
            for (size_t j = 0; j < v->m; j++)
                if (joined(v, gone, i, j, t))
                    out[n++] = j;
            for (size_t j = 0; j < n; j++)
                gone[out[j]] = 1;
            if (cover(v, t, i + 1, most - n, gone))
                return true;
            for (size_t j = 0; j < n; j++)
                gone[out[j]] = 0;
        }
        gone[i] = 1;
        if (cover(v, t, i + 1, most - 1, gone))
            return true;
        gone[i] = 0;
        return false;
    }
    return true;
}

static om_status plan(const aggregate_view *v, aggregate_plan *out, arena scratch,
                      om_err *err)
{
    double *diameter = arena_new(&scratch, double, v->m *v->m);
    uint8_t *gone = arena_new(&scratch, uint8_t, v->m);
    size_t n = 0, keep = v->m - v->f, taken = 0;
    (void)err;
    diameter[n++] = 0;
    for (size_t i = 0; i < v->m; i++)
        for (size_t j = i + 1; j < v->m; j++)
            diameter[n++] = aggregate_distance(v, i, j);
    qsort(diameter, n, sizeof(double), aggregate_ascending);
    size_t lo = 0, hi = n - 1; /* the greatest distance always does */
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        memset(gone, 0, v->m);
        if (cover(v, diameter[mid], 0, v->f, gone))
            hi = mid;
        else
            lo = mid + 1;
    }
    memset(gone, 0, v->m);
    BUG_IF(!cover(v, diameter[hi], 0, v->f, gone));
    for (size_t i = 0; i < v->m && taken < keep; i++)
        if (!gone[i]) {
            out->weight[i] = 1.0 / (double)keep;
            taken++;
        }
    return OM_OK;
}

const aggregator aggregator_mda = {
    .name = "mda",
    .summary = "the mean of the tightest n - f updates; num_byzantine up to 16",
    .source = "El Mhamdi et al., 2020, arXiv 2008.00742 (after Rousseeuw 1985)",
    .flags = AGGREGATE_GRAM | AGGREGATE_MOVES | AGGREGATE_ROBUST,
    .params = params,
    .least = least,
    .plan_bytes = plan_bytes,
    .plan = plan,
};
