/* bit_flip.c - a part of the numbers has the highest bit of its exponent flipped: small
 * numbers become enormous, as faulty memory makes them.  What would not be finite
 * stays. */
#include "fl/attack/attack.h"

enum { PART = ATTACK_COMMON };

static const param params[] = {
    ATTACK_PARAMS,
    [PART] = {"part", 0.01, 0, 1, "of the numbers", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static void forge(const attack_view *v, float *out)
{
    rng r = v->r;
    for (size_t i = 0; i < v->honest.d; i++) {
        uint32_t u;
        memcpy(&u, &v->own[i], 4);
        if (rng_unit(&r) < v->p[PART] && (u & 0x3f800000u) != 0x3f800000u)
            u ^= 0x40000000u;
        memcpy(&out[i], &u, 4);
    }
}

const attack attack_bit_flip = {
    .name = "bit_flip",
    .summary = "the own update with exponent bits flipped",
    .source = "Xie, Koyejo, Gupta 2018, arXiv 1802.10116",
    .flags = 0,
    .params = params,
    .forge = forge,
};
