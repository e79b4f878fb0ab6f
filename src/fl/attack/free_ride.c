/* free_ride.c - no work is done; the update is noise of a part of the honest deviation,
 * to look like some. */
#include "fl/attack/attack.h"

enum { NOISE = ATTACK_COMMON };

static const param params[] = {
    ATTACK_PARAMS,
    [NOISE] = {"noise", 0.1, 0, 1e6, "of the honest standard deviation", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static void forge(const attack_view *v, float *out)
{
    rng r = v->r;
    for (size_t i = 0; i < v->honest.d; i++)
        out[i] = (float)(v->p[NOISE] * rng_normal(&r)) * v->dev[i];
}

const attack attack_free_ride = {
    .name = "free_ride",
    .summary = "no work at all",
    .source = "Fraboni, Vidal, Lorenzi, AISTATS 2021, arXiv 2006.11901",
    .flags = 0,
    .params = params,
    .forge = forge,
};
