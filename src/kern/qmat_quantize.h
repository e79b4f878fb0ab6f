/* qmat_quantize.h - rows of x to 8 bits, included by every qmat_*.c so that the
 * compiler vectorizes it for that instruction set; same bits everywhere.
 *
 * The largest magnitude is found on the bit patterns (a signed integer maximum orders
 * non-negative floats), which also catches infinity and NaN: such a block gets scale NaN,
 * so that the result says so.  Rounding to nearest even adds and removes 1.5 2^23. */
#include "kern/qmat.h"

#include <math.h>

static int32_t max_bits(const float *x, size_t n)
{
    int32_t most = 0;
    for (size_t l = 0; l < n; l++) {
        int32_t u;
        memcpy(&u, &x[l], 4);
        u &= 0x7fffffff;
        most = u > most ? u : most;
    }
    return most;
}

static void quantize32(const float *x, float inverse, int8_t *q)
{
    for (size_t l = 0; l < 32; l++) {
        float v = x[l] * inverse + 12582912.0f;
        int32_t u;
        memcpy(&u, &v, 4);
        q[l] = (int8_t)(u - 0x4b400000);
    }
}

static int32_t sum_of(const int8_t *q, size_t n)
{
    int32_t s = 0;
    for (size_t l = 0; l < n; l++)
        s += q[l];
    return s;
}

/* Scale of n elements into *d; returns what to multiply them with. */
static float scale_of(const float *x, size_t n, float *d)
{
    int32_t most = max_bits(x, n);
    float max;
    memcpy(&max, &most, 4);
    *d = max / 127.0f;
    if (most >= 0x7f800000) {
        *d = NAN;
        return 0.0f;
    }
    /* Below 2^-120 the inverse would overflow; such a block is zero. */
    if (max < 0x1p-120f)
        *d = 0.0f;
    return max < 0x1p-120f ? 0.0f : 127.0f / max;
}

static void quantize(const float *x, qmat_x *t, size_t i)
{
    for (size_t b = 0; b < t->k / t->block; b++) {
        float inverse = scale_of(x + b * t->block, t->block, &t->d[b * t->m + i]);
        bool finite = t->d[b * t->m + i] <= 3.4e38f;
        for (size_t s = b * t->block / 32; s < (b + 1) * t->block / 32; s++) {
            int8_t *q = t->q + (s * t->m + i) * 32;
            if (finite)
                quantize32(x + 32 * s, inverse, q);
            else
                memset(q, 0, 32);
            if (t->sum_scale)
                for (size_t g = 0; g < 32 / t->group; g++)
                    t->sum[(s * 32 / t->group + g) * t->m + i] =
                        t->sum_scale * sum_of(q + g * t->group, t->group);
        }
    }
}
