/* centered_clipping.c - steps towards the updates, none of which pulls harder than tau:
 *
 *     v <- v + mean_i min(1, tau / |v_i - v|) (v_i - v)
 *
 * The paper begins at the round before's aggregate; here v begins at zero, no update at
 * all, so that a round is a function of its own messages.  tau = 0 takes the median of the
 * distances |v_i - v| at each step, which a hostile minority cannot move beyond the honest
 * ones.  v stays a weighted sum of the rows, so a step needs their inner products alone. */
#include "fl/aggregate/aggregate.h"

#include <math.h>
#include <stdlib.h>

enum { TAU = AGGREGATE_COMMON, STEPS };

static const param params[] = {
    AGGREGATE_PARAMS,
    [TAU] = {"tau", 0, 0, 1e15, "longest pull of an update; 0: the median distance", NULL},
    [STEPS] = {"steps", 3, 1, 10000, "steps a round", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static size_t least(const double *p, size_t f)
{
    (void)p;
    return 2 * f + 1;
}

static size_t plan_bytes(size_t m) { return 2 * arena_bytes(double, m); }

/* distance (m) from v = w' rows. */
static void distances(const aggregate_view *v, const double *w, double *distance)
{
    double vv = 0;
    for (size_t i = 0; i < v->m; i++) {
        distance[i] = 0;
        for (size_t j = 0; j < v->m; j++)
            distance[i] += v->gram[i * v->m + j] * w[j];
        vv += w[i] * distance[i];
    }
    for (size_t i = 0; i < v->m; i++) {
        double d2 = vv - 2 * distance[i] + v->gram[i * v->m + i];
        distance[i] = d2 > 0 ? sqrt(d2) : 0;
    }
}

static om_status plan(const aggregate_view *v, aggregate_plan *out, arena scratch,
                      om_err *err)
{
    double *distance = arena_new(&scratch, double, v->m);
    double *sorted = arena_new(&scratch, double, v->m), *w = out->weight;
    (void)err;
    for (size_t t = 0; t < (size_t)v->p[STEPS]; t++) {
        double tau = v->p[TAU], pulled = 0;
        distances(v, w, distance);
        memcpy(sorted, distance, v->m * sizeof(double));
        qsort(sorted, v->m, sizeof(double), aggregate_ascending);
        if (tau <= 0)
            tau = sorted[(v->m - 1) / 2];
        for (size_t i = 0; i < v->m; i++) {
            sorted[i] = (distance[i] > tau ? tau / distance[i] : 1) / (double)v->m;
            pulled += sorted[i];
        }
        for (size_t i = 0; i < v->m; i++)
            w[i] = w[i] * (1 - pulled) + sorted[i];
    }
    return OM_OK;
}

const aggregator aggregator_centered_clipping = {
    .name = "centered_clipping",
    .summary = "steps towards the updates with a bound on the pull of each",
    .source = "Karimireddy, He, Jaggi, ICML 2021, arXiv 2012.10333",
    .flags = AGGREGATE_GRAM | AGGREGATE_ROBUST,
    .params = params,
    .least = least,
    .plan_bytes = plan_bytes,
    .plan = plan,
};
