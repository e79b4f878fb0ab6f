/* qmat_quantize.h - rows of x to 8 bits, written once over these operations (see
 * qmat_strip.h), so that the bits are the same everywhere:
 *
 *   v_bits(F), v_max, v_highest(V)   the floats' bits; lane by lane; the largest lane
 *   v_round(F), v_sum(V)             nearest even; the sum of the lanes
 *   v_store8(p, V)                   LANES bytes
 *
 * The largest magnitude is found on the bit patterns (a signed integer maximum orders
 * non-negative floats), which also catches infinity and NaN: such a block gets scale NaN,
 * so that the result says so. */
#include "kern/qmat.h"

#include <math.h>

static int32_t largest(const float *x, size_t n)
{
    V most = v_set(0);
    for (size_t l = 0; l < n; l += LANES)
        most = v_max(most, v_and(v_bits(f_load(x + l)), v_set(0x7fffffff)));
    return v_highest(most);
}

/* 16 elements; returns sums of q, lane by lane. */
static inline V quantize16(const float *x, float inverse, int8_t *q)
{
    V sum = v_set(0);
    for (size_t l = 0; l < 16; l += LANES) {
        V v = v_round(f_mul(f_load(x + l), f_set(inverse)));
        v_store8(q + l, v);
        sum = v_add(sum, v);
    }
    return sum;
}

/* Scale of elements whose largest magnitude has the bits `most` into *d; returns what to
 * multiply them with. */
static float scale_of(int32_t most, float *d)
{
    float max;
    memcpy(&max, &most, 4);
    /* Below 2^-120 the inverse would overflow; such a block is zero. */
    bool some = max >= 0x1p-120f && most < 0x7f800000;
    *d = most >= 0x7f800000 ? NAN : some ? max / 127.0f : 0.0f;
    return some ? 127.0f / max : 0.0f;
}

/* Elements [32 s, 32 s + 32) of row i of the tile. */
static inline void quantize32(const float *x, float inverse, bool finite, qmat_x *t,
                              size_t s, size_t i)
{
    int8_t *q = qmat_at(t, s, i);
    V lo = v_set(0), hi = v_set(0);
    if (finite) {
        lo = quantize16(x, inverse, q);
        hi = quantize16(x + 16, inverse, q + 16);
    } else {
        memset(q, 0, 32);
    }
    if (t->group == 32) {
        t->sum[s * t->m + i] = t->sum_scale * v_sum(v_add(lo, hi));
    } else {
        t->sum[2 * s * t->m + i] = t->sum_scale * v_sum(lo);
        t->sum[(2 * s + 1) * t->m + i] = t->sum_scale * v_sum(hi);
    }
}

static void quantize(const float *x, qmat_x *t, size_t i)
{
    for (size_t b = 0; b < t->k / t->block; b++) {
        int32_t most = largest(x + b * t->block, t->block);
        float inverse = scale_of(most, &t->d[b * t->m + i]);
        for (size_t s = b * t->block / 32; s < (b + 1) * t->block / 32; s++)
            quantize32(x + 32 * s, inverse, most < 0x7f800000, t, s, i);
    }
}
