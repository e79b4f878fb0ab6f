/* geometric_median.c - the point with the least sum of distances to the updates, by
 * smoothed Weiszfeld steps (RFA):
 *
 *     a_i = 1 / max(|z - v_i|, nu),   z = sum a_i v_i / sum a_i
 *
 * z is always a weighted sum of the rows, z = w' V, so a step needs w and G alone:
 * |z - v_i|^2 = w'Gw - 2 (Gw)_i + G_ii. */
#include "fl/aggregate/aggregate.h"

#include <math.h>

enum { STEPS = AGGREGATE_COMMON, NU, START };

static const param params[] = {
    AGGREGATE_PARAMS,
    [STEPS] = {"steps", 10, 1, 10000, "Weiszfeld steps", NULL},
    [NU] = {"nu", 1e-6, 1e-30, 1e9, "least distance that is divided by", NULL},
    [START] = {"start", 0, 0, 1, "where the steps begin", "mean|zero"},
    {NULL, 0, 0, 0, NULL, NULL},
};

static size_t least(const double *p, size_t f)
{
    (void)p;
    return 2 * f + 1;
}

static size_t plan_bytes(size_t m) { return arena_bytes(double, m); }

/* w <- the next weights; gw (m) is scratch. */
static void weiszfeld(const aggregate_view *v, double nu, double *w, double *gw)
{
    double zz = 0, total = 0;
    for (size_t i = 0; i < v->m; i++) {
        gw[i] = 0;
        for (size_t j = 0; j < v->m; j++)
            gw[i] += v->gram[i * v->m + j] * w[j];
    }
    for (size_t i = 0; i < v->m; i++)
        zz += w[i] * gw[i];
    for (size_t i = 0; i < v->m; i++) {
        double d2 = zz - 2 * gw[i] + v->gram[i * v->m + i];
        w[i] = 1 / fmax(d2 > 0 ? sqrt(d2) : 0, nu);
        total += w[i];
    }
    for (size_t i = 0; i < v->m; i++)
        w[i] /= total;
}

static om_status plan(const aggregate_view *v, aggregate_plan *out, arena scratch,
                      om_err *err)
{
    double *gw = arena_new(&scratch, double, v->m);
    (void)err;
    for (size_t i = 0; i < v->m && v->p[START] < 0.5; i++)
        out->weight[i] = 1.0 / (double)v->m;
    for (size_t t = 0; t < (size_t)v->p[STEPS]; t++)
        weiszfeld(v, v->p[NU], out->weight, gw);
    return OM_OK;
}

const aggregator aggregator_geometric_median = {
    .name = "geometric_median",
    .alias = "rfa",
    .summary = "the point nearest to all updates in sum of distances",
    .source = "Pillutla, Kakade, Harchaoui, IEEE TSP 2022, arXiv 1912.13445",
    .flags = AGGREGATE_GRAM | AGGREGATE_MOVES | AGGREGATE_ROBUST,
    .params = params,
    .least = least,
    .plan_bytes = plan_bytes,
    .plan = plan,
};
