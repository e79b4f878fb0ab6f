/* qmat_neon.c - the quantized product with plain NEON (Armv8.0): products of bytes in
 * 16 bits, neighbours added twice.  2 128 127 fits 16 bits. */
#include "kern/arm/qmat_neon.h"

static inline V dot4(V acc, V w, const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, 4);
    int8x16_t wb = vreinterpretq_s8_s32(w), xb = vreinterpretq_s8_s32(v_set(four));
    int16x8_t low = vmull_s8(vget_low_s8(wb), vget_low_s8(xb));
    int16x8_t high = vmull_high_s8(wb, xb);
    return vpadalq_s16(acc, vpaddq_s16(low, high));
}

static inline V v_dot_s(V acc, const V w[4], const int8_t *x)
{
    for (int j = 0; j < 4; j++)
        acc = dot4(acc, w[j], x + 4 * j);
    return acc;
}

static inline V v_dot_u(V acc, const V w[4], const int8_t *x) { return v_dot_s(acc, w, x); }

#include "kern/qmat_strip.h"

QMAT_KERNELS(qmat_neon, "neon", NULL);
