/* mimic.c - all send the update of one honest client, the one farthest along the
 * direction in which honest updates differ most: nothing of it is false, and a rule
 * that prefers what is crowded hears of that client alone.  The direction is found anew
 * in every round by power iteration on the covariance, where the paper learns it over
 * first rounds. */
#include "fl/attack/attack.h"

#include <math.h>

static const param params[] = {ATTACK_PARAMS, {NULL, 0, 0, 0, NULL, NULL}};

enum { ITERATIONS = 8 };

static double along(const attack_view *v, size_t i, const float *z)
{
    const float *row = v->honest.v + i * v->honest.ld;
    double s = 0;
    for (size_t l = 0; l < v->honest.d; l++)
        s += ((double)row[l] - (double)v->mean[l]) * (double)z[l];
    return s;
}

/* z <- sum of score_i (row_i - mean), to length 1: the covariance times the z before. */
static void iterate(const attack_view *v, const double *score, float *z)
{
    double norm = 0;
    for (size_t l = 0; l < v->honest.d; l++) {
        double s = 0;
        for (size_t i = 0; i < v->honest.n; i++)
            s += score[i] *
                 ((double)v->honest.v[i * v->honest.ld + l] - (double)v->mean[l]);
        z[l] = (float)s;
        norm += s * s;
    }
    float scale = norm > 0 ? (float)(1 / sqrt(norm)) : 0;
    for (size_t l = 0; l < v->honest.d; l++)
        z[l] *= scale;
}

static void forge(const attack_view *v, float *out)
{
    double score[1024];
    attack_view few = *v; /* a thousand honest clients tell the direction well enough */
    few.honest.n = size_min(v->honest.n, countof(score));
    rng r = v->shared;
    size_t best = 0;
    for (size_t l = 0; l < v->honest.d; l++)
        out[l] = (float)rng_normal(&r);
    for (int t = 0; t <= ITERATIONS; t++) {
        for (size_t i = 0; i < few.honest.n; i++)
            score[i] = along(&few, i, out);
        if (t < ITERATIONS)
            iterate(&few, score, out);
    }
    for (size_t i = 1; i < few.honest.n; i++)
        if (fabs(score[i]) > fabs(score[best]))
            best = i;
    memcpy(out, v->honest.n ? v->honest.v + best * v->honest.ld : v->own,
           v->honest.d * sizeof(float));
}

const attack attack_mimic = {
    .name = "mimic",
    .summary = "copies of one unusual honest client",
    .source = "Karimireddy, He, Jaggi, ICLR 2022, arXiv 2006.09365",
    .flags = 0,
    .params = params,
    .forge = forge,
};
