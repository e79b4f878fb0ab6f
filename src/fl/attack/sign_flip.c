/* sign_flip.c - each attacker sends its own update with the opposite sign, scale times as
 * long. */
#include "fl/attack/attack.h"

enum { SCALE = ATTACK_COMMON };

static const param params[] = {
    ATTACK_PARAMS,
    [SCALE] = {"scale", 1, 0, 1e6, "length of what is sent", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static void forge(const attack_view *v, float *out)
{
    float scale = (float)v->p[SCALE];
    for (size_t i = 0; i < v->honest.d; i++)
        out[i] = -scale * v->own[i];
}

const attack attack_sign_flip = {
    .name = "sign_flip",
    .summary = "the own update, reversed",
    .source = "Li et al., AAAI 2019, arXiv 1811.03761",
    .flags = 0,
    .params = params,
    .forge = forge,
};
