/* sparse.h - what the codecs that send few of many numbers share: how many, which are
 * the largest (select.c), and how their places are written.
 *
 * Places are written as gaps (index minus the one before minus 1) in Rice codes: g >> b
 * zeros, a one, then the low b bits of g, with b = floor(log2((d-K)/K)) (0 when that is
 * negative), known to both sides.  The gaps add up to at most d - K, hence at most
 * K (1+b) + floor((d-K) / 2^b) bits: about log2(d/K) + 2 an index where a plain index
 * takes log2(d), and where log2(d/K) + 1.44 is the entropy of a random set.  (Rice 1979) */
#ifndef CODEC_SPARSE_H
#define CODEC_SPARSE_H

#include "codec/wire.h"

/* The first two parameters of a codec that sends K of d numbers. */
#define SPARSE_PARAMS                                                           \
    [0] = {"ratio", 0.01, 1e-9, 1, "part of the numbers that is sent", NULL},   \
    [1] = {"k", 0, 0, 4294967295.0, "how many are sent; 0: by ratio", NULL}

static inline size_t sparse_k(double ratio, double count, size_t d)
{
    double k = count >= 1 ? count : ratio * (double)d + 0.5;
    if (d == 0)
        return 0;
    return k < 1 ? 1 : k >= (double)d ? d : (size_t)k;
}

/* ---- the largest (select.c) ---- */

enum { SELECT_BYTES = 4 * 2048 * sizeof(size_t) + 64 };

static inline uint32_t select_magnitude(float v) { return wire_bits(v) & 0x7fffffffu; }

/* The k-th largest magnitude of x, and how many equal to it belong to the top k (ties go
 * to the lower index).  False when x holds a NaN or an infinity. */
bool select_threshold(const float *x, size_t d, size_t k, arena scratch, uint32_t *t,
                      size_t *ties);

/* ---- places ---- */

static inline unsigned sparse_rice(size_t k, size_t d)
{
    unsigned b = 0;
    while (k && b < 32 && (d - k) / k >> (b + 1))
        b++;
    return b;
}

static inline size_t sparse_gap_bytes(size_t k, size_t d) /* at most */
{
    unsigned b = sparse_rice(k, d);
    return (k * (1 + b) + ((d - k) >> b) + 7) / 8;
}

static inline void sparse_put_gap(bits_out *out, size_t gap, unsigned b)
{
    bits_zeros(out, gap >> b);
    bits_put(out, 1, 1);
    bits_put(out, (uint32_t)(gap & ((UINT64_C(1) << b) - 1)), b);
}

typedef struct {
    bits_in bits;
    size_t d, next;
    unsigned b;
} sparse_in;

static inline sparse_in sparse_of(const uint8_t *p, size_t n, size_t k, size_t d)
{
    return (sparse_in){bits_of(p, n), d, 0, sparse_rice(k, d)};
}

/* The next place.  False: the code runs past d or past the end. */
static inline bool sparse_next(sparse_in *s, size_t *i)
{
    size_t high = bits_unary(&s->bits), low = bits_get(&s->bits, s->b);
    if (!s->bits.ok || high > s->d >> s->b || (high << s->b | low) >= s->d - s->next)
        return false;
    *i = s->next + (high << s->b | low);
    s->next = *i + 1;
    return true;
}

#endif
