/* dtype.h - inside kern/: a packed block taken apart into integers.
 *
 * Every packed type we read is, per group of 16 elements,
 *
 *     w = d sc q - dmin mn          q, sc, mn integers, d and dmin floats
 *
 * so one decoder per type serves unpack, the reference integer product and, as the
 * yardstick, the tests.  d sc has at most 11 + 7 bits: exact in f32. */
#ifndef KERN_DTYPE_H
#define KERN_DTYPE_H

#include "kern/blocks.h"

typedef struct {
    float d, dmin;
    int8_t q[QK];                    /* zero point taken off                   */
    int16_t sc[QK / 16], mn[QK / 16];
} qblock;

/* Decoder of a packed type, NULL for plain ones. Fills the first `block` elements. */
typedef void qblock_fn(const void *block, qblock *out);
qblock_fn *qblock_of(dtype t);

/* unpack and pack of the packed types, for the table in dtype.c. */
#define DTYPE_PACKED(X)                                                                 \
    X(q4_0) X(q4_1) X(q5_0) X(q5_1) X(q8_0) X(iq4_nl)                                   \
    X(q2_k) X(q3_k) X(q4_k) X(q5_k) X(q6_k) X(iq4_xs)
#define X(t) void unpack_##t(const void *src, float *dst, size_t n);
DTYPE_PACKED(X)
#undef X
#define DTYPE_WRITTEN(X) \
    X(q4_0) X(q4_1) X(q5_0) X(q5_1) X(q8_0) X(q2_k) X(q3_k) X(q4_k) X(q5_k) X(q6_k)
#define X(t) void pack_##t(const float *src, void *dst, size_t n);
DTYPE_WRITTEN(X)
#undef X

/* The 6-bit scales and mins of Q4_K and Q5_K, j in [0, 8). */
static inline void scale_min_k4(const uint8_t *s, int j, uint8_t *sc, uint8_t *mn)
{
    if (j < 4) {
        *sc = s[j] & 63;
        *mn = s[j + 4] & 63;
    } else {
        *sc = (uint8_t)((s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
        *mn = (uint8_t)(s[j + 4] >> 4 | (s[j] >> 6) << 4);
    }
}

#endif
