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

/* The other way: codes and scales chosen, into their places.  Codes are as stored, before
 * a zero point is taken off; group e / 32 or e / 16 of a K type has sc (less the 32 that
 * Q3_K and IQ4_XS add) and mn.  Blocks of 32 have d, and where there is a minimum its f16
 * in dmin (added, not subtracted). */
typedef struct {
    uint16_t d, dmin;
    int16_t sc[QK / 16], mn[QK / 16];
    uint8_t l[QK];
} dtype_codes;

typedef void dtype_put_fn(const dtype_codes *c, void *block);
dtype_put_fn *dtype_put_of(dtype t); /* NULL for plain types and Q8_0 */

/* unpack and pack of the packed types, for the table in dtype.c. */
#define DTYPE_PACKED(X)                                                                 \
    X(q4_0) X(q4_1) X(q5_0) X(q5_1) X(q8_0) X(iq4_nl)                                   \
    X(q2_k) X(q3_k) X(q4_k) X(q5_k) X(q6_k) X(iq4_xs)
#define X(t) void unpack_##t(const void *src, float *dst, size_t n);
DTYPE_PACKED(X)
X(iq1_s) X(iq1_m) X(iq2_xxs) X(iq2_xs) X(iq2_s) X(iq3_xxs) X(iq3_s)
#undef X
#define X(t) void pack_##t(const float *src, void *dst, size_t n);
DTYPE_PACKED(X)
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
