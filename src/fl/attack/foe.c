/* foe.c - fall of empires: the inner product attack at a length that beats the mean. */
#include "fl/attack/attack.h"

enum { SCALE = ATTACK_COMMON };

static const param params[] = {
    ATTACK_PARAMS,
    [SCALE] = {"scale", 1.1, 0, 1e6, "times the honest mean", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static void forge(const attack_view *v, float *out)
{
    float scale = (float)v->p[SCALE];
    for (size_t i = 0; i < v->honest.d; i++)
        out[i] = -scale * v->mean[i];
}

const attack attack_foe = {
    .name = "foe",
    .summary = "more than the honest mean, against it",
    .source = "Xie, Koyejo, Gupta, UAI 2019, arXiv 1903.03936",
    .flags = 0,
    .params = params,
    .forge = forge,
};
