/* alie.c - a little is enough: the honest mean minus z standard deviations in every
 * coordinate, with z so small that enough honest updates lie farther out:
 *     s = floor(n/2 + 1) - B,   z = Phi^-1((n - B - s) / (n - B)),   not below 0 */
#include "fl/attack/attack.h"

#include <math.h>

enum { Z = ATTACK_COMMON };

static const param params[] = {
    ATTACK_PARAMS,
    [Z] = {"z", 0, 0, 1e6, "standard deviations; 0: by the number of attackers", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

/* Phi^-1 by bisection: thirty digits of a rank are not needed. */
static double quantile(double p)
{
    double lo = -10, hi = 10;
    for (int i = 0; i < 60; i++) {
        double mid = (lo + hi) / 2;
        if (0.5 * erfc(-mid / sqrt(2.0)) < p)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

static double deviations(const attack_view *v)
{
    size_t good = v->honest.n, n = good + v->hostile, half = n / 2 + 1;
    size_t s = half > v->hostile ? half - v->hostile : 0;
    if (v->p[Z] > 0)
        return v->p[Z];
    double z = good > s ? quantile((double)(good - s) / (double)good) : 0;
    return z > 0 ? z : 0;
}

static void forge(const attack_view *v, float *out)
{
    float z = (float)deviations(v);
    for (size_t i = 0; i < v->honest.d; i++)
        out[i] = v->mean[i] - z * v->dev[i];
}

const attack attack_alie = {
    .name = "alie",
    .summary = "as far from the mean as goes unnoticed",
    .source = "Baruch, Baruch, Goldberg, NeurIPS 2019, arXiv 1902.06156",
    .flags = 0,
    .params = params,
    .forge = forge,
};
