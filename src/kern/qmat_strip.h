/* qmat_strip.h - the vector strips of the quantized product, written once over the few
 * operations that x86/qmat_*.c and arm/qmat_*.c define before including this:
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
 * A lane is a row of W.  The blocks of LANES rows are transposed in registers into 32-bit
 * units of four consecutive weights; x is broadcast.  All sums over a block are exact, so
 * the order does not matter, and the float steps are those of the definition in qmat.h. */
#include "kern/dtype.h"
#include "kern/qmat.h"
#include "kern/qmat_plain.h"
#include "kern/qmat_quantize.h"

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

INLINE void zero_rows(float *acc, size_t m)
{
    for (size_t i = 0; i < m; i++)
        f_store(acc + i * LANES, f_set(0));
}

INLINE void store_rows(const float *acc, size_t m, float *y, size_t ldy)
{
    for (size_t i = 0; i < m; i++)
        f_store(y + i * ldy, f_load(acc + i * LANES));
}

/* dot[r] += w (4 n units) times n pieces of 16 bytes of row r, rows 32 bytes apart. */
INLINE void dot_rows(shape s, int n, int rows, const V *w, const int8_t *x, V *dot)
{
    V second = v_set(0); /* a row alone: two chains, to hide the latency */
    for (int h = 0; h < n; h++) {
        V w4[4] = {w[4 * h], w[4 * h + 1], w[4 * h + 2], w[4 * h + 3]};
        for (int r = 0; r < rows; r++) {
            V *to = rows == 1 && h == 1 ? &second : &dot[r];
            *to = s.is_signed ? v_dot_s(*to, w4, x + 32 * r + 16 * h)
                              : v_dot_u(*to, w4, x + 32 * r + 16 * h);
        }
    }
    if (rows == 1 && n == 2)
        dot[0] = v_add(dot[0], second);
}

/* Starting values of the sums of `rows` rows. */
INLINE void dot_start(shape s, int rows, const int32_t *sum, V *dot)
{
    for (int r = 0; r < rows; r++)
        dot[r] = s.has_bias ? v_set(sum[r]) : v_set(0);
}

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

/* Rows [i, i + rows) of x by the n blocks of the chunk from block b on. */
INLINE void rows32(shape s, int rows, const chunk *c, size_t n, const qmat_x *x, size_t b,
                   size_t i, float *acc)
{
    F a[BATCH];
    for (int r = 0; r < rows; r++)
        a[r] = f_load(acc + (i + (size_t)r) * LANES);
    for (size_t j = 0; j < n; j++) {
        size_t at = (b + j) * x->m + i;
        const int32_t *sum = x->sum + at;
        const float *xd = x->d + at;
        V dot[BATCH];
        dot_start(s, rows, sum, dot);
        dot_rows(s, 2, rows, c->w + 8 * j, x->q + 32 * at, dot);
        for (int r = 0; r < rows; r++) {
            F dx = f_set(xd[r]);
            a[r] = f_fma(f_mul(c->d[j], dx), f_cvt(dot[r]), a[r]);
            if (s.has_min)
                a[r] = f_fma(f_mul(c->min[j], dx), f_set((float)sum[r]), a[r]);
        }
    }
    for (int r = 0; r < rows; r++)
        f_store(acc + (i + (size_t)r) * LANES, a[r]);
}

/* All rows of x by a chunk: as many at a time as there are sums in registers, then half
 * as many, ... */
INLINE void all_rows32(shape s, const chunk *c, size_t n, const qmat_x *x, size_t b,
                       float *acc)
{
    size_t i = 0;
    for (; i + BATCH <= x->m; i += BATCH)
        rows32(s, BATCH, c, n, x, b, i, acc);
    if (BATCH > 4 && i + 4 <= x->m) {
        rows32(s, 4, c, n, x, b, i, acc);
        i += 4;
    }
    if (i + 2 <= x->m) {
        rows32(s, 2, c, n, x, b, i, acc);
        i += 2;
    }
    if (i < x->m)
        rows32(s, 1, c, n, x, b, i, acc);
}

/* A row of x alone by n blocks from block b on: the weights stay in registers. */
INLINE F single32(shape s, expand32 *expand, const uint8_t *w, size_t stride, size_t ahead,
                  const qmat_x *x, size_t b, size_t n, F a)
{
    V units[CHUNK_UNITS];
    UNROLL_8
    for (size_t j = 0; j < CHUNK; j++) {
        if (j >= n)
            break;
        V wq[8], dot[1];
        const V *D = reach_block(s, units, w, stride, j);
        int odd = (int)(j * s.bytes % 4 / 2);
        fetch_ahead(w, ahead, b, j, s.bytes);
        expand(D, odd, wq);
        dot_start(s, 1, x->sum + b + j, dot);
        dot_rows(s, 2, 1, wq, x->q + 32 * (b + j), dot);
        F dx = f_set(x->d[b + j]);
        a = f_fma(f_mul(half_in(D, odd, 0), dx), f_cvt(dot[0]), a);
        if (s.has_min)
            a = f_fma(f_mul(half_in(D, odd, 2), dx), f_set((float)x->sum[b + j]), a);
    }
    return a;
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

INLINE void strip32_alone(shape s, expand32 *expand, const uint8_t *w, size_t stride,
                          const qmat_x *x, float *y)
{
    size_t b = 0, blocks = x->k / 32;
    F a = f_set(0);
    for (; b + CHUNK <= blocks; b += CHUNK, w += CHUNK * s.bytes)
        a = single32(s, expand, w, stride, stride, x, b, CHUNK, a);
    if (b < blocks) {
        uint8_t tail[LANES * TAIL_STRIDE];
        copy_tail(w, stride, (blocks - b) * s.bytes, tail);
        a = single32(s, expand, tail, TAIL_STRIDE, 0, x, b, blocks - b, a);
    }
    f_store(y, a);
}

INLINE void strip32(shape s, expand32 *expand, const uint8_t *w, size_t stride,
                    const qmat_x *x, float *y, size_t ldy)
{
    if (x->m == 1) {
        strip32_alone(s, expand, w, stride, x, y);
        return;
    }
    float acc[QMAT_TILE * LANES]; /* (m, LANES): y itself would collide in the cache */
    size_t b = 0, blocks = x->k / 32;
    chunk c;
    zero_rows(acc, x->m);
    for (; b + CHUNK <= blocks; b += CHUNK, w += CHUNK * s.bytes) {
        expand_chunk(s, expand, w, stride, stride, b, CHUNK, &c);
        all_rows32(s, &c, CHUNK, x, b, acc);
    }
    if (b < blocks) {
        uint8_t tail[LANES * TAIL_STRIDE];
        copy_tail(w, stride, (blocks - b) * s.bytes, tail);
        expand_chunk(s, expand, tail, TAIL_STRIDE, 0, b, blocks - b, &c);
        all_rows32(s, &c, blocks - b, x, b, acc);
    }
    store_rows(acc, x->m, y, ldy);
}

/* ---- blocks of 256 ------------------------------------------------------------------ */

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

/* One group of `rows` rows of x, `pieces` of 16 elements at q, into isum and msum. */
INLINE void group(shape s, int rows, int pieces, const V *w, V sc, V mn,
                  const int32_t *sum, const int8_t *q, V *isum, V *msum)
{
    V dot[BATCH];
    dot_start(s, rows, sum, dot);
    dot_rows(s, pieces, rows, w, q, dot);
    for (int r = 0; r < rows; r++) {
        isum[r] = v_add(isum[r], v_mul(dot[r], sc));
        if (s.has_min)
            msum[r] = v_mla_small(msum[r], mn, v_set(sum[r]));
    }
}

/* Part p of block b by rows [i, i + rows) of x. */
INLINE void rows_part(shape s, int rows, const super *o, int p, const V w[UNITS],
                      const qmat_x *x, size_t b, size_t i, V *isum, V *msum)
{
    for (int t = 0; s.by16 && t < 4; t++) {
        size_t g = group_of(p, t);
        group(s, rows, 1, w + 4 * t, o->sc[g], o->mn[g], x->sum + (16 * b + g) * x->m + i,
              x->q + 32 * ((8 * b + g / 2) * x->m + i) + 16 * (g % 2), isum, msum);
    }
    for (int t = 0; !s.by16 && t < 2; t++) {
        size_t g = (size_t)(2 * p + t), at = (8 * b + g) * x->m + i;
        group(s, rows, 2, w + 8 * t, o->sc[g], o->mn[g], x->sum + at, x->q + 32 * at, isum,
              msum);
    }
}

INLINE F add_block(shape s, const super *o, float xd, V isum, V msum, F a)
{
    F dx = f_set(xd);
    a = f_fma(f_mul(o->d, dx), f_cvt(isum), a);
    return s.has_min ? f_fma(f_neg(f_mul(o->dmin, dx)), f_cvt(msum), a) : a;
}

/* Rows [i, i + rows) of x by block b, whose weights are in w. */
INLINE void rows256(shape s, int rows, const super *o, const V *w, const qmat_x *x,
                    size_t b, size_t i, float *acc)
{
    V isum[BATCH], msum[BATCH];
    for (int r = 0; r < rows; r++)
        isum[r] = msum[r] = v_set(0);
    for (int p = 0; p < PARTS; p++)
        rows_part(s, rows, o, p, w + UNITS * p, x, b, i, isum, msum);
    for (int r = 0; r < rows; r++) {
        float *ar = acc + (i + (size_t)r) * LANES;
        float xd = x->d[b * x->m + i + (size_t)r];
        f_store(ar, add_block(s, o, xd, isum[r], msum[r], f_load(ar)));
    }
}

INLINE void all_rows256(shape s, const super *o, const V *w, const qmat_x *x, size_t b,
                        float *acc)
{
    size_t i = 0;
    for (; i + BATCH <= x->m; i += BATCH)
        rows256(s, BATCH, o, w, x, b, i, acc);
    if (BATCH > 4 && i + 4 <= x->m) {
        rows256(s, 4, o, w, x, b, i, acc);
        i += 4;
    }
    if (i + 2 <= x->m) {
        rows256(s, 2, o, w, x, b, i, acc);
        i += 2;
    }
    if (i < x->m)
        rows256(s, 1, o, w, x, b, i, acc);
}

/* A row of x alone: a part's weights stay in registers. */
INLINE void strip256_alone(shape s, open256 *open, part256 *part, const uint8_t *w,
                           size_t stride, const qmat_x *x, float *y)
{
    F a = f_set(0);
    for (size_t b = 0; b < x->k / QK; b++, w += s.bytes) {
        super o;
        V isum = v_set(0), msum = v_set(0);
        fetch_ahead(w, stride, b, 0, s.bytes);
        open(w, stride, &o);
        for (int p = 0; p < PARTS; p++) {
            V wp[UNITS];
            part(w, stride, &o, p, wp);
            rows_part(s, 1, &o, p, wp, x, b, 0, &isum, &msum);
        }
        a = add_block(s, &o, x->d[b], isum, msum, a);
    }
    f_store(y, a);
}

INLINE void strip256(shape s, open256 *open, part256 *part, const uint8_t *w,
                     size_t stride, const qmat_x *x, float *y, size_t ldy)
{
    if (x->m == 1) {
        strip256_alone(s, open, part, w, stride, x, y);
        return;
    }
    float acc[QMAT_TILE * LANES]; /* (m, LANES) */
    zero_rows(acc, x->m);
    for (size_t b = 0; b < x->k / QK; b++, w += s.bytes) {
        super o;
        V wq[PARTS * UNITS];
        fetch_ahead(w, stride, b, 0, s.bytes);
        open(w, stride, &o);
        for (int p = 0; p < PARTS; p++)
            part(w, stride, &o, p, wq + UNITS * p);
        all_rows256(s, &o, wq, x, b, acc);
    }
    store_rows(acc, x->m, y, ldy);
}

/* ---- the rows ----------------------------------------------------------------------- */

#define STRIP32(t, ...)                                                                 \
    static void strip_##t(const uint8_t *w, size_t stride, const qmat_x *x, float *y,   \
                          size_t ldy)                                                   \
    {                                                                                   \
        strip32((shape){sizeof(block_##t), __VA_ARGS__, false}, expand_##t, w, stride,  \
                x, y, ldy);                                                             \
    }
#define STRIP256(t, ...)                                                                \
    static void strip_##t(const uint8_t *w, size_t stride, const qmat_x *x, float *y,   \
                          size_t ldy)                                                   \
    {                                                                                   \
        strip256((shape){sizeof(block_##t), __VA_ARGS__}, open_##t, part_##t, w,   \
                 stride, x, y, ldy);                                                    \
    }
/*                       signed bias              min */
STRIP32(q4_0,            false, true,             false)
STRIP32(q4_1,            false, false,            true)
STRIP32(q5_0,            false, true,             false)
STRIP32(q5_1,            false, false,            true)
STRIP32(q8_0,            true,  SIGNED_BIAS != 0, false)
STRIP32(iq4_nl,          true,  SIGNED_BIAS != 0, false)
/*                                                       by16 */
STRIP256(q2_k,     false, false,            true,  true)
STRIP256(q3_k,     false, true,             false, true)
STRIP256(q4_k,     false, false,            true,  false)
STRIP256(q5_k,     false, false,            true,  false)
STRIP256(q6_k,     false, true,             false, true)
STRIP256(iq4_xs, true,  SIGNED_BIAS != 0, false, false)

/* sum_scale: minus the zero point, or 1 where a minimum is multiplied by the sum. */
#define QMAT_KERNELS(symbol, text)                                                        \
    const struct qmat_kernels symbol = {                                                  \
        .name = text,                                                                     \
        .lanes = LANES,                                                                   \
        .quantize = quantize,                                                             \
        .packed = {                                                                       \
            [DTYPE_Q4_0] = {strip_q4_0, -8, 32},                                          \
            [DTYPE_Q4_1] = {strip_q4_1, 1, 32},                                           \
            [DTYPE_Q5_0] = {strip_q5_0, -16, 32},                                         \
            [DTYPE_Q5_1] = {strip_q5_1, 1, 32},                                           \
            [DTYPE_Q8_0] = {strip_q8_0, -SIGNED_BIAS, 32},                                \
            [DTYPE_IQ4_NL] = {strip_iq4_nl, -SIGNED_BIAS, 32},                            \
            [DTYPE_Q2_K] = {strip_q2_k, 1, 16},                                           \
            [DTYPE_Q3_K] = {strip_q3_k, -4, 16},                                          \
            [DTYPE_Q4_K] = {strip_q4_k, 1, 32},                                           \
            [DTYPE_Q5_K] = {strip_q5_k, 1, 32},                                           \
            [DTYPE_Q6_K] = {strip_q6_k, -32, 16},                                         \
            [DTYPE_IQ4_XS] = {strip_iq4_xs, -SIGNED_BIAS, 32},                            \
        },                                                                                \
        .plain = {                                                                        \
            [DTYPE_F32] = plain_f32, [DTYPE_F16] = plain_f16, [DTYPE_BF16] = plain_bf16,  \
        },                                                                                \
    }
