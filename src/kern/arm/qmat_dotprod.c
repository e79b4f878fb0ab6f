/* qmat_dotprod.c - the quantized product with the Armv8.2 dot product, whose by-element
 * form broadcasts four bytes of x for nothing. */
#include "kern/arm/qmat_neon.h"

static inline V v_dot_s(V acc, const V w[4], const int8_t *x)
{
    int8x16_t xb = vld1q_s8(x);
    acc = vdotq_laneq_s32(acc, vreinterpretq_s8_s32(w[0]), xb, 0);
    acc = vdotq_laneq_s32(acc, vreinterpretq_s8_s32(w[1]), xb, 1);
    acc = vdotq_laneq_s32(acc, vreinterpretq_s8_s32(w[2]), xb, 2);
    return vdotq_laneq_s32(acc, vreinterpretq_s8_s32(w[3]), xb, 3);
}

static inline V v_dot_u(V acc, const V w[4], const int8_t *x) { return v_dot_s(acc, w, x); }

#include "kern/qmat_strip.h"

QMAT_KERNELS(qmat_dotprod, "dotprod", NULL);
