/* wire.h - what the codecs' messages are made of: little-endian floats and bits.
 *
 * Bits are packed from the least significant bit of each byte up; the bits that fill
 * the last byte are zero, and a reader refuses any other filling, so that a vector has
 * one encoding.  Writers go to memory reserved from the codec's bound and do not check. */
#ifndef CODEC_WIRE_H
#define CODEC_WIRE_H

#include "base/base.h"

static inline uint32_t wire_load(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

static inline void wire_store(uint8_t *p, uint32_t u)
{
    p[0] = (uint8_t)u;
    p[1] = (uint8_t)(u >> 8);
    p[2] = (uint8_t)(u >> 16);
    p[3] = (uint8_t)(u >> 24);
}

static inline uint32_t wire_bits(float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    return u;
}

static inline float wire_load_f32(const uint8_t *p)
{
    uint32_t u = wire_load(p);
    float v;
    memcpy(&v, &u, 4);
    return v;
}

static inline void wire_store_f32(uint8_t *p, float v) { wire_store(p, wire_bits(v)); }

/* Not NaN and not infinite. */
static inline bool wire_finite(uint32_t u) { return (u & 0x7f800000u) != 0x7f800000u; }

/* True when the n little-endian floats at p are finite; no early exit, so it vectorises. */
static inline bool wire_all_finite(const uint8_t *p, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++)
        bad |= (uint32_t)!wire_finite(wire_load(p + 4 * i));
    return !bad;
}

/* The first float of x that is not finite, or d. */
static inline size_t wire_first_bad(const float *x, size_t d)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < d; i++)
        bad |= (uint32_t)!wire_finite(wire_bits(x[i]));
    for (size_t i = 0; bad && i < d; i++)
        if (!wire_finite(wire_bits(x[i])))
            return i;
    return d;
}

/* ---- bits out ---- */

typedef struct {
    uint8_t *p;
    uint64_t acc; /* the low n bits wait to be written; n < 8 between calls */
    unsigned n;
} bits_out;

static inline void bits_put(bits_out *b, uint32_t v, unsigned width) /* width <= 32 */
{
    b->acc |= (uint64_t)v << b->n;
    b->n += width;
    for (; b->n >= 8; b->n -= 8) {
        *b->p++ = (uint8_t)b->acc;
        b->acc >>= 8;
    }
}

static inline void bits_zeros(bits_out *b, size_t n)
{
    for (; n > 32; n -= 32)
        bits_put(b, 0, 32);
    bits_put(b, 0, (unsigned)n);
}

static inline void bits_end(bits_out *b)
{
    if (b->n)
        *b->p++ = (uint8_t)b->acc;
    b->acc = 0;
    b->n = 0;
}

/* ---- bits in ---- */

typedef struct {
    const uint8_t *p, *end;
    uint64_t acc;
    unsigned n; /* bits in acc */
    bool ok;    /* false once more was asked for than there is */
} bits_in;

static inline bits_in bits_of(const uint8_t *p, size_t n)
{
    return (bits_in){.p = p, .end = p + n, .ok = true};
}

static inline void bits_fill(bits_in *b)
{
    for (; b->n <= 56 && b->p < b->end; b->n += 8)
        b->acc |= (uint64_t)*b->p++ << b->n;
}

static inline uint32_t bits_get(bits_in *b, unsigned width) /* width <= 32 */
{
    if (b->n < width)
        bits_fill(b);
    if (b->n < width) {
        b->ok = false;
        return 0;
    }
    uint32_t v = (uint32_t)(b->acc & ((UINT64_C(1) << width) - 1));
    b->acc >>= width;
    b->n -= width;
    return v;
}

/* Zeros before the next one, which is taken too. */
static inline size_t bits_unary(bits_in *b)
{
    size_t zeros = 0;
    for (;;) {
        bits_fill(b);
        if (b->n == 0) {
            b->ok = false;
            return 0;
        }
        if (b->acc) {
            unsigned z = (unsigned)__builtin_ctzll(b->acc);
            b->acc = z == 63 ? 0 : b->acc >> (z + 1);
            b->n -= z + 1;
            return zeros + z;
        }
        zeros += b->n;
        b->n = 0;
    }
}

/* All was read and the filling of the last byte is zero. */
static inline bool bits_done(const bits_in *b)
{
    return b->ok && b->p == b->end && b->n < 8 && b->acc == 0;
}

#endif
