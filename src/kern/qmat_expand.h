/* qmat_expand.h - the weights of LANES rows taken apart, a lane a row: written once over
 * the few operations that x86/qmat_*.c and arm/qmat_*.c define before including this:
 *
 *   LANES, SIGNED_BIAS           lanes of 32 bits; what v_signed added to each byte
 *   BATCH                        rows of X whose sums are kept in registers
 *   V, F                         vectors of LANES int32, of LANES floats
 *   v_set v_and v_or v_srl v_sra v_sll v_add v_sub v_mul
 *   v_mla_small(acc, a, b)       acc + a b, |a|, |b| < 2^15
 *   v_load4(out, p, stride)      lane r of out[j] = 32 bits at p + r stride + 4 j, j < 4
 *   v_load1(p, stride)           lane r = 32 bits at p + r stride
 *   v_join(a, b)                 (a >> 16) | (b << 16)
 *   v_dot_u(acc, w, x)           acc + sums over w[0..3], bytes in [0, 63], times the 16
 *                                bytes at x: lane r gets sum over 4 j + e of
 *                                w[j].lane[r].byte[e] x[4 j + e]
 *   v_dot_s(acc, w, x)           the same for bytes made by v_signed or v_iq4
 *   v_signed(v), v_iq4(v)        any int8; the iq4_table entry of indices in [0, 15]
 *   f_set f_mul f_fma f_cvt f_load f_store, f_half(v): f16 in the low 16 bits of a lane
 *   f_half_at(p, stride)         lane r = the f16 at p + r stride
 *
 * The blocks of LANES rows are transposed in registers into 32-bit units of four
 * consecutive weights: what the byte products of every instruction set take. */
#ifndef KERN_QMAT_EXPAND_H
#define KERN_QMAT_EXPAND_H

#include "kern/dtype.h"
#include "kern/qmat.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL_8 _Pragma("clang loop unroll_count(8)")
#else
#define UNROLL_8 _Pragma("GCC unroll 8")
#endif

INLINE V nibble(V v, int shift) { return v_and(v_srl(v, shift), v_set(0x0f0f0f0f)); }

/* The bits `mask` of every byte, taken from bit `from`, put at bit `to`. */
INLINE V bits_to(V v, int from, uint32_t mask, int to)
{
    return v_sll(v_and(v_srl(v, from), v_set((int32_t)(mask * 0x01010101u))), to);
}

/* A small field of each lane. */
INLINE V field(V v, int shift, int mask) { return v_and(v_srl(v, shift), v_set(mask)); }

/* ---- blocks of 32 -------------------------------------------------------------------
 *
 * Blocks of 18, 22 or 34 bytes lie badly, but eight of them are a multiple of 16 bytes:
 * a chunk of eight is loaded in whole pieces of 16 and transposed as it lies, scales and
 * all.  D holds 32-bit units from the one with a block's first byte on; `odd`: that byte
 * is the unit's third. */

typedef void expand32(const V *D, int odd, V w[8]);

/* The unit that begins `at` bytes into the block, at even. */
INLINE V unit(const V *D, int odd, int at)
{
    int pos = at + 2 * odd;
    return pos % 4 ? v_join(D[pos / 4], D[pos / 4 + 1]) : D[pos / 4];
}

/* The f16 there. */
INLINE F half_in(const V *D, int odd, int at)
{
    int pos = at + 2 * odd;
    return f_half(pos % 4 ? v_srl(D[pos / 4], 16) : D[pos / 4]);
}

INLINE void expand_nibbles(const V *D, int odd, int at, V w[8])
{
    for (int j = 0; j < 4; j++) {
        V t = unit(D, odd, at + 4 * j);
        w[j] = nibble(t, 0);
        w[j + 4] = nibble(t, 4);
    }
}

INLINE void expand_q4_0(const V *D, int odd, V w[8])
{
    expand_nibbles(D, odd, offsetof(block_q4_0, qs), w);
}

INLINE void expand_q4_1(const V *D, int odd, V w[8])
{
    expand_nibbles(D, odd, offsetof(block_q4_1, qs), w);
}

INLINE void expand_iq4_nl(const V *D, int odd, V w[8])
{
    expand_nibbles(D, odd, offsetof(block_iq4_nl, qs), w);
    for (int j = 0; j < 8; j++)
        w[j] = v_iq4(w[j]);
}

/* Four bits become bit 4 of four bytes: x (1 + 2^7 + 2^14 + 2^21) puts bit e at 8 e. */
INLINE void add_fifth(V h, V w[8])
{
    for (int j = 0; j < 8; j++) {
        V spread = v_mul(field(h, 4 * j, 15), v_set(0x00204081));
        w[j] = v_or(w[j], v_sll(v_and(spread, v_set(0x01010101)), 4));
    }
}

INLINE void expand_q5_0(const V *D, int odd, V w[8])
{
    expand_nibbles(D, odd, offsetof(block_q5_0, qs), w);
    add_fifth(unit(D, odd, offsetof(block_q5_0, qh)), w);
}

INLINE void expand_q5_1(const V *D, int odd, V w[8])
{
    expand_nibbles(D, odd, offsetof(block_q5_1, qs), w);
    add_fifth(unit(D, odd, offsetof(block_q5_1, qh)), w);
}

INLINE void expand_q8_0(const V *D, int odd, V w[8])
{
    for (int j = 0; j < 8; j++)
        w[j] = v_signed(unit(D, odd, offsetof(block_q8_0, qs) + 4 * j));
}

/* How the integers of a type are to be multiplied. */
typedef struct {
    size_t bytes;  /* of a block */
    bool is_signed, has_bias, has_min, by16;
} shape;

/* A strip reads LANES streams at once, more than the hardware follows well, and a load
 * that misses holds one of the few buffers of the first-level cache for as long as memory
 * takes.  The next strip lies in one piece behind this one; it is fetched while this one
 * is computed, as FETCHES streams that the second-level prefetcher can run ahead of.
 * Called at block b + j of rows of `stride` bytes, b beginning at w; stride 0: nothing is
 * fetched.  (Past the end of W it does nothing.) */
enum { FETCHES = 4 };
INLINE void fetch_ahead(const uint8_t *w, size_t stride, size_t b, size_t j, size_t bytes)
{
    size_t step = bytes * LANES / FETCHES;
    size_t at = ((b + j) * step + 63) & ~(size_t)63, end = (b + j + 1) * step;
    const uint8_t *p = w - b * bytes + LANES * stride;
    for (; stride && at < end; at += 64)
        for (size_t q = 0; q < FETCHES; q++)
            __builtin_prefetch(p + q * (LANES / FETCHES) * stride + at, 0, 3);
}

enum { CHUNK = 8, CHUNK_UNITS = CHUNK * sizeof(block_q8_0) / 4 };

/* Eight blocks of 32 unpacked: 256 elements of LANES rows. */
typedef struct {
    V w[QK / 4]; /* w[j]: elements 4 j .. 4 j + 3 */
    F d[CHUNK], min[CHUNK];
} chunk;

/* Block j's first unit, after loading what of block j was not loaded with those before. */
INLINE const V *reach_block(shape s, V units[CHUNK_UNITS], const uint8_t *w, size_t stride,
                            size_t j)
{
    size_t end = ((j + 1) * s.bytes + 15) / 16;
    for (size_t t = (j * s.bytes + 15) / 16; t < end; t++)
        v_load4(units + 4 * t, w + 16 * t, stride);
    return units + j * s.bytes / 4;
}

INLINE void expand_chunk(shape s, expand32 *expand, const uint8_t *w, size_t stride,
                         size_t ahead, size_t b, size_t n, chunk *c)
{
    V units[CHUNK_UNITS];
    UNROLL_8
    for (size_t j = 0; j < CHUNK; j++) {
        if (j >= n)
            break;
        const V *D = reach_block(s, units, w, stride, j);
        int odd = (int)(j * s.bytes % 4 / 2);
        fetch_ahead(w, ahead, b, j, s.bytes);
        expand(D, odd, c->w + 8 * j);
        c->d[j] = half_in(D, odd, 0);
        if (s.has_min)
            c->min[j] = half_in(D, odd, 2);
    }
}

/* The blocks after the last whole chunk, with room for one, (LANES, TAIL_STRIDE). */
enum { TAIL_STRIDE = CHUNK * sizeof(block_q8_0) };
INLINE void copy_tail(const uint8_t *w, size_t stride, size_t bytes, uint8_t *tail)
{
    memset(tail, 0, LANES * TAIL_STRIDE);
    for (size_t r = 0; r < LANES; r++)
        memcpy(tail + r * TAIL_STRIDE, w + r * stride, bytes);
}

/* A block of each row, opened: what its groups share.  Its weights come a part of 64 at a
 * time, sixteen units of four:
 *     scale per group of 32   groups 2 p and 2 p + 1, eight units each
 *     scale per group of 16   groups 8 (p / 2) + 2 s + p % 2, s = 0..3, four units each */
enum { PARTS = 4, UNITS = 16 };
typedef struct {
    V sc[16], mn[16];   /* per group of 16, or the first 8 per group of 32 */
    V high[8];          /* bits that belong to all parts */
    F d, dmin;
} super;

typedef void open256(const uint8_t *block, size_t stride, super *o);
typedef void part256(const uint8_t *block, size_t stride, const super *o, int p,
                     V w[UNITS]);

INLINE size_t group_of(int p, int s) { return (size_t)(8 * (p / 2) + 2 * s + p % 2); }

/* The first 16 bytes of Q4_K and Q5_K: d, dmin and the 6-bit scales and mins. */
INLINE void open_q4_k(const uint8_t *b, size_t stride, super *o)
{
    V h[4];
    v_load4(h, b, stride);
    o->d = f_half(h[0]);
    o->dmin = f_half(v_srl(h[0], 16));
    for (int j = 0; j < 4; j++) {
        o->sc[j] = field(h[1], 8 * j, 63);
        o->mn[j] = field(h[2], 8 * j, 63);
        o->sc[j + 4] = v_or(field(h[3], 8 * j, 15), v_sll(field(h[1], 8 * j + 6, 3), 4));
        o->mn[j + 4] =
            v_or(field(h[3], 8 * j + 4, 15), v_sll(field(h[2], 8 * j + 6, 3), 4));
    }
}

INLINE void part_q4_k(const uint8_t *b, size_t stride, const super *o, int p, V w[UNITS])
{
    (void)o;
    for (int c = 0; c < 2; c++) { /* 16 bytes: half of either group */
        V t[4];
        v_load4(t, b + offsetof(block_q4_k, qs) + 32 * p + 16 * c, stride);
        for (int e = 0; e < 4; e++) {
            w[4 * c + e] = nibble(t[e], 0);
            w[8 + 4 * c + e] = nibble(t[e], 4);
        }
    }
}

INLINE void open_q5_k(const uint8_t *b, size_t stride, super *o)
{
    open_q4_k(b, stride, o);
    v_load4(o->high, b + offsetof(block_q5_k, qh), stride);
    v_load4(o->high + 4, b + offsetof(block_q5_k, qh) + 16, stride);
}

INLINE void part_q5_k(const uint8_t *b, size_t stride, const super *o, int p, V w[UNITS])
{
    for (int c = 0; c < 2; c++) {
        V t[4];
        v_load4(t, b + offsetof(block_q5_k, qs) + 32 * p + 16 * c, stride);
        for (int e = 0; e < 4; e++) {
            V high = o->high[4 * c + e];
            w[4 * c + e] = v_or(nibble(t[e], 0), bits_to(high, 2 * p, 1, 4));
            w[8 + 4 * c + e] = v_or(nibble(t[e], 4), bits_to(high, 2 * p + 1, 1, 4));
        }
    }
}

INLINE void open_iq4_xs(const uint8_t *b, size_t stride, super *o)
{
    V h = v_load1(b, stride), low = v_load1(b + offsetof(block_iq4_xs, scales_l), stride);
    o->d = f_half(h);
    for (int j = 0; j < 8; j++) {
        V sc = v_or(field(low, 4 * j, 15), v_sll(field(h, 16 + 2 * j, 3), 4));
        o->sc[j] = v_sub(sc, v_set(32));
    }
}

INLINE void part_iq4_xs(const uint8_t *b, size_t stride, const super *o, int p,
                        V w[UNITS])
{
    (void)o;
    for (int g = 0; g < 2; g++) {
        V t[4];
        v_load4(t, b + offsetof(block_iq4_xs, qs) + 32 * p + 16 * g, stride);
        expand_nibbles(t, 0, 0, w + 8 * g);
    }
    for (int u = 0; u < UNITS; u++)
        w[u] = v_iq4(w[u]);
}

INLINE void open_q6_k(const uint8_t *b, size_t stride, super *o)
{
    V s[4];
    v_load4(s, b + offsetof(block_q6_k, scales), stride);
    o->d = f_half_at(b + offsetof(block_q6_k, d), stride);
    for (int g = 0; g < 16; g++)
        o->sc[g] = v_sra(v_sll(s[g / 4], 24 - 8 * (g % 4)), 24);
}

INLINE void part_q6_k(const uint8_t *b, size_t stride, const super *o, int p, V w[UNITS])
{
    int h = p / 2, c = p % 2; /* half of the block, half of its 32-byte rows */
    V high[4], a[4], z[4];
    (void)o;
    v_load4(high, b + offsetof(block_q6_k, qh) + 32 * h + 16 * c, stride);
    v_load4(a, b + 64 * h + 16 * c, stride);
    v_load4(z, b + 64 * h + 32 + 16 * c, stride);
    for (int e = 0; e < 4; e++) {
        w[e] = v_or(nibble(a[e], 0), bits_to(high[e], 0, 3, 4));
        w[4 + e] = v_or(nibble(z[e], 0), bits_to(high[e], 2, 3, 4));
        w[8 + e] = v_or(nibble(a[e], 4), bits_to(high[e], 4, 3, 4));
        w[12 + e] = v_or(nibble(z[e], 4), bits_to(high[e], 6, 3, 4));
    }
}

/* The two low bits of Q2_K and Q3_K. */
INLINE void part_pairs(const uint8_t *qs, size_t stride, int p, V w[UNITS])
{
    V t[4];
    v_load4(t, qs + 16 * p, stride);
    for (int s = 0; s < 4; s++)
        for (int e = 0; e < 4; e++)
            w[4 * s + e] = bits_to(t[e], 2 * s, 3, 0);
}

INLINE void open_q2_k(const uint8_t *b, size_t stride, super *o)
{
    V s[4], h = v_load1(b + offsetof(block_q2_k, d), stride);
    v_load4(s, b, stride);
    o->d = f_half(h);
    o->dmin = f_half(v_srl(h, 16));
    for (int g = 0; g < 16; g++) {
        o->sc[g] = field(s[g / 4], 8 * (g % 4), 15);
        o->mn[g] = field(s[g / 4], 8 * (g % 4) + 4, 15);
    }
}

INLINE void part_q2_k(const uint8_t *b, size_t stride, const super *o, int p, V w[UNITS])
{
    (void)o;
    part_pairs(b + offsetof(block_q2_k, qs), stride, p, w);
}

INLINE void open_q3_k(const uint8_t *b, size_t stride, super *o)
{
    const uint8_t *scales = b + offsetof(block_q3_k, scales);
    V low[2] = {v_load1(scales, stride), v_load1(scales + 4, stride)};
    V top = v_load1(scales + 8, stride);
    o->d = f_half_at(b + offsetof(block_q3_k, d), stride);
    for (int g = 0; g < 16; g++) {
        V sc = field(low[g / 4 % 2], 8 * (g % 4) + 4 * (g / 8), 15);
        sc = v_or(sc, v_sll(field(top, 8 * (g % 4) + 2 * (g / 4), 3), 4));
        o->sc[g] = v_sub(sc, v_set(32));
    }
    v_load4(o->high, b, stride);
    v_load4(o->high + 4, b + 16, stride);
}

INLINE void part_q3_k(const uint8_t *b, size_t stride, const super *o, int p, V w[UNITS])
{
    part_pairs(b + offsetof(block_q3_k, qs), stride, p, w);
    for (int s = 0; s < 4; s++)
        for (int e = 0; e < 4; e++)
            w[4 * s + e] = v_or(w[4 * s + e],
                                bits_to(o->high[4 * (p % 2) + e], 4 * (p / 2) + s, 1, 2));
}

#endif
