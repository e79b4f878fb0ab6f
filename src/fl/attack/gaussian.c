/* gaussian.c - independent normal numbers. */
#include "fl/attack/attack.h"

enum { DEVIATION = ATTACK_COMMON };

static const param params[] = {
    ATTACK_PARAMS,
    [DEVIATION] = {"deviation", 200, 0, 1e12, "standard deviation", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static void forge(const attack_view *v, float *out)
{
    rng r = v->r;
    for (size_t i = 0; i < v->honest.d; i++)
        out[i] = (float)(v->p[DEVIATION] * rng_normal(&r));
}

const attack attack_gaussian = {
    .name = "gaussian",
    .summary = "noise",
    .source = "Blanchard et al., NeurIPS 2017, arXiv 1703.02757",
    .flags = 0,
    .params = params,
    .forge = forge,
};
