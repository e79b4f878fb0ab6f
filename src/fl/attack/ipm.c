/* ipm.c - inner product manipulation: minus epsilon times the honest mean.  A small epsilon
 * hides near the median and Krum; above honest / hostile it turns the mean around. */
#include "fl/attack/attack.h"

enum { EPSILON = ATTACK_COMMON };

static const param params[] = {
    ATTACK_PARAMS,
    [EPSILON] = {"epsilon", 0.1, 0, 1e6, "part of the mean", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static void forge(const attack_view *v, float *out)
{
    float scale = (float)v->p[EPSILON];
    for (size_t i = 0; i < v->honest.d; i++)
        out[i] = -scale * v->mean[i];
}

const attack attack_ipm = {
    .name = "ipm",
    .summary = "a little against the honest mean",
    .source = "Xie, Koyejo, Gupta, UAI 2019, arXiv 1903.03936",
    .flags = 0,
    .params = params,
    .forge = forge,
};
