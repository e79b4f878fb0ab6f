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

INLINE V nibble(V v, int shift) { return v_and(v_srl(v, shift), v_set(0x0f0f0f0f)); }

/* The bits `mask` of every byte, taken from bit `from`, put at bit `to`. */
INLINE V bits_to(V v, int from, uint32_t mask, int to)
{
    return v_sll(v_and(v_srl(v, from), v_set((int32_t)(mask * 0x01010101u))), to);
}

/* A small field of each lane. */
INLINE V field(V v, int shift, int mask) { return v_and(v_srl(v, shift), v_set(mask)); }

/* ---- blocks of 32 ------------------------------------------------------------------- */

typedef void expand32(const uint8_t *block, size_t stride, V w[8]);

INLINE void expand_nibbles(const uint8_t *qs, size_t stride, V w[8])
{
    V t[4];
    v_load4(t, qs, stride);
    for (int j = 0; j < 4; j++) {
        w[j] = nibble(t[j], 0);
        w[j + 4] = nibble(t[j], 4);
    }
}

INLINE void expand_q4_0(const uint8_t *b, size_t stride, V w[8])
{
    expand_nibbles(b + offsetof(block_q4_0, qs), stride, w);
}

INLINE void expand_q4_1(const uint8_t *b, size_t stride, V w[8])
{
    expand_nibbles(b + offsetof(block_q4_1, qs), stride, w);
}

INLINE void expand_iq4_nl(const uint8_t *b, size_t stride, V w[8])
{
    expand_nibbles(b + offsetof(block_iq4_nl, qs), stride, w);
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

INLINE void expand_q5_0(const uint8_t *b, size_t stride, V w[8])
{
    expand_nibbles(b + offsetof(block_q5_0, qs), stride, w);
    add_fifth(v_load1(b + offsetof(block_q5_0, qh), stride), w);
}

INLINE void expand_q5_1(const uint8_t *b, size_t stride, V w[8])
{
    expand_nibbles(b + offsetof(block_q5_1, qs), stride, w);
    add_fifth(v_load1(b + offsetof(block_q5_1, qh), stride), w);
}

INLINE void expand_q8_0(const uint8_t *b, size_t stride, V w[8])
{
    v_load4(w, b + offsetof(block_q8_0, qs), stride);
    v_load4(w + 4, b + offsetof(block_q8_0, qs) + 16, stride);
    for (int j = 0; j < 8; j++)
        w[j] = v_signed(w[j]);
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

/* A strip reads LANES streams at once, more than the hardware follows well; the next
 * strip lies in one piece behind this one and is fetched while this one is computed, the
 * b-th part beside block b.  (Past the end of W this does nothing.) */
INLINE void fetch_ahead(const uint8_t *next, size_t b, size_t bytes)
{
    const uint8_t *p = next + b * bytes * LANES;
    for (size_t i = 0; i < bytes * LANES; i += 64)
        __builtin_prefetch(p + i, 0, 2);
}

/* Eight blocks of 32 unpacked: 256 elements of LANES rows. */
typedef struct {
    V w[QK / 4]; /* w[j]: elements 4 j .. 4 j + 3 */
    F d[8], min[8];
} chunk;

/* The f16 at `at` in n blocks of each row.  Scalar moves, because building vectors from
 * 16-bit pieces would keep the shuffle unit busy; volatile, because the compiler would. */
INLINE void load_halves(const uint8_t *at, size_t stride, size_t bytes, size_t n, F *out)
{
    uint16_t half[8][LANES];
    for (size_t r = 0; r < LANES; r++)
        for (size_t j = 0; j < n; j++) {
            uint16_t h;
            memcpy(&h, at + r * stride + j * bytes, 2);
            *(volatile uint16_t *)&half[j][r] = h;
        }
    for (size_t j = 0; j < n; j++)
        out[j] = f_load_f16((const uint8_t *)half[j]);
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

/* One row of x: the weights stay in registers. */
INLINE void single32(shape s, expand32 *expand, const uint8_t *w, size_t stride,
                     const qmat_x *x, float *y)
{
    const uint8_t *next = w + LANES * stride;
    F a = f_set(0), d[8], min[8];
    for (size_t b = 0; b < x->k / 32; b++, w += s.bytes) {
        V wq[8], dot[1];
        size_t j = b % 8;
        if (j == 0) {
            size_t n = size_min(x->k / 32 - b, 8);
            load_halves(w, stride, s.bytes, n, d);
            if (s.has_min)
                load_halves(w + 2, stride, s.bytes, n, min);
        }
        fetch_ahead(next, b, s.bytes);
        expand(w, stride, wq);
        dot_start(s, 1, x->sum + b, dot);
        dot_rows(s, 2, 1, wq, x->q + 32 * b, dot);
        F dx = f_set(x->d[b]);
        a = f_fma(f_mul(d[j], dx), f_cvt(dot[0]), a);
        if (s.has_min)
            a = f_fma(f_mul(min[j], dx), f_set((float)x->sum[b]), a);
    }
    f_store(y, a);
}

INLINE void strip32(shape s, expand32 *expand, const uint8_t *w, size_t stride,
                    const qmat_x *x, float *y, size_t ldy)
{
    if (x->m == 1) {
        single32(s, expand, w, stride, x, y);
        return;
    }
    float acc[QMAT_TILE * LANES]; /* (m, LANES): y itself would collide in the cache */
    const uint8_t *next = w + LANES * stride;
    size_t n, m = x->m;
    zero_rows(acc, m);
    for (size_t b = 0; b < x->k / 32; b += n, w += n * s.bytes) {
        chunk c;
        n = size_min(x->k / 32 - b, 8);
        load_halves(w, stride, s.bytes, n, c.d);
        if (s.has_min)
            load_halves(w + 2, stride, s.bytes, n, c.min);
        for (size_t j = 0; j < n; j++) {
            fetch_ahead(next, b + j, s.bytes);
            expand(w + j * s.bytes, stride, c.w + 8 * j);
        }
        size_t i = 0;
        for (; i + BATCH <= m; i += BATCH)
            rows32(s, BATCH, &c, n, x, b, i, acc);
        for (; i < m; i++)
            rows32(s, 1, &c, n, x, b, i, acc);
    }
    store_rows(acc, m, y, ldy);
}

/* ---- blocks of 256 ------------------------------------------------------------------ */

typedef struct {
    V w[QK / 4];        /* w[j]: elements 4 j .. 4 j + 3 */
    V sc[16], mn[16];   /* per group of 16, or the first 8 per group of 32 */
    F d, dmin;
} super;

typedef void expand256(const uint8_t *block, size_t stride, super *o);

/* The first 16 bytes of Q4_K and Q5_K: d, dmin and the 6-bit scales and mins. */
INLINE void expand_header_k4(const uint8_t *b, size_t stride, super *o)
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

INLINE void expand_q4_k(const uint8_t *b, size_t stride, super *o)
{
    expand_header_k4(b, stride, o);
    for (int j = 0; j < 8; j++) { /* 16 bytes: half of group 2 (j / 2) and of the next */
        V t[4];
        v_load4(t, b + offsetof(block_q4_k, qs) + 16 * j, stride);
        for (int e = 0; e < 4; e++) {
            int at = 16 * (j / 2) + 4 * (j % 2) + e;
            o->w[at] = nibble(t[e], 0);
            o->w[at + 8] = nibble(t[e], 4);
        }
    }
}

INLINE void expand_q5_k(const uint8_t *b, size_t stride, super *o)
{
    V h[8];
    expand_header_k4(b, stride, o);
    v_load4(h, b + offsetof(block_q5_k, qh), stride);
    v_load4(h + 4, b + offsetof(block_q5_k, qh) + 16, stride);
    for (int j = 0; j < 8; j++) {
        V t[4];
        v_load4(t, b + offsetof(block_q5_k, qs) + 16 * j, stride);
        for (int e = 0; e < 4; e++) {
            int at = 16 * (j / 2) + 4 * (j % 2) + e, g = 2 * (j / 2);
            V high = h[4 * (j % 2) + e];
            o->w[at] = v_or(nibble(t[e], 0), bits_to(high, g, 1, 4));
            o->w[at + 8] = v_or(nibble(t[e], 4), bits_to(high, g + 1, 1, 4));
        }
    }
}

INLINE void expand_iq4_xs(const uint8_t *b, size_t stride, super *o)
{
    V h = v_load1(b, stride), low = v_load1(b + offsetof(block_iq4_xs, scales_l), stride);
    o->d = f_half(h);
    for (int j = 0; j < 8; j++) {
        V sc = v_or(field(low, 4 * j, 15), v_sll(field(h, 16 + 2 * j, 3), 4));
        o->sc[j] = v_sub(sc, v_set(32));
        expand_nibbles(b + offsetof(block_iq4_xs, qs) + 16 * j, stride, o->w + 8 * j);
        for (int e = 0; e < 8; e++)
            o->w[8 * j + e] = v_iq4(o->w[8 * j + e]);
    }
}

INLINE void expand_q6_k(const uint8_t *b, size_t stride, super *o)
{
    V s[4];
    v_load4(s, b + offsetof(block_q6_k, scales), stride);
    o->d = f_half_at(b + offsetof(block_q6_k, d), stride);
    for (int g = 0; g < 16; g++)
        o->sc[g] = v_sra(v_sll(s[g / 4], 24 - 8 * (g % 4)), 24);
    for (int part = 0; part < 4; part++) { /* half h, bytes 16 c.. of its 32-byte rows */
        int h = part / 2, c = part % 2;
        V high[4], a[4], z[4];
        v_load4(high, b + offsetof(block_q6_k, qh) + 32 * h + 16 * c, stride);
        v_load4(a, b + 64 * h + 16 * c, stride);
        v_load4(z, b + 64 * h + 32 + 16 * c, stride);
        for (int e = 0; e < 4; e++) {
            V *w = o->w + 32 * h + 4 * c + e;
            w[0] = v_or(nibble(a[e], 0), bits_to(high[e], 0, 3, 4));
            w[8] = v_or(nibble(z[e], 0), bits_to(high[e], 2, 3, 4));
            w[16] = v_or(nibble(a[e], 4), bits_to(high[e], 4, 3, 4));
            w[24] = v_or(nibble(z[e], 4), bits_to(high[e], 6, 3, 4));
        }
    }
}

/* The two low bits of Q2_K and Q3_K. */
INLINE void expand_pairs(const uint8_t *qs, size_t stride, V w[64])
{
    for (int part = 0; part < 4; part++) {
        V t[4];
        v_load4(t, qs + 16 * part, stride);
        for (int s = 0; s < 4; s++)
            for (int e = 0; e < 4; e++) {
                int at = 32 * (part / 2) + 8 * s + 4 * (part % 2) + e;
                w[at] = bits_to(t[e], 2 * s, 3, 0);
            }
    }
}

INLINE void expand_q2_k(const uint8_t *b, size_t stride, super *o)
{
    V s[4], h = v_load1(b + offsetof(block_q2_k, d), stride);
    v_load4(s, b, stride);
    o->d = f_half(h);
    o->dmin = f_half(v_srl(h, 16));
    for (int g = 0; g < 16; g++) {
        o->sc[g] = field(s[g / 4], 8 * (g % 4), 15);
        o->mn[g] = field(s[g / 4], 8 * (g % 4) + 4, 15);
    }
    expand_pairs(b + offsetof(block_q2_k, qs), stride, o->w);
}

INLINE void expand_q3_k(const uint8_t *b, size_t stride, super *o)
{
    const uint8_t *scales = b + offsetof(block_q3_k, scales);
    V low[2] = {v_load1(scales, stride), v_load1(scales + 4, stride)};
    V top = v_load1(scales + 8, stride), mask[8];
    o->d = f_half_at(b + offsetof(block_q3_k, d), stride);
    for (int g = 0; g < 16; g++) {
        V sc = field(low[g / 4 % 2], 8 * (g % 4) + 4 * (g / 8), 15);
        sc = v_or(sc, v_sll(field(top, 8 * (g % 4) + 2 * (g / 4), 3), 4));
        o->sc[g] = v_sub(sc, v_set(32));
    }
    expand_pairs(b + offsetof(block_q3_k, qs), stride, o->w);
    v_load4(mask, b, stride);
    v_load4(mask + 4, b + 16, stride);
    for (int j = 0; j < 64; j++)
        o->w[j] = v_or(o->w[j], bits_to(mask[j % 8], j / 8, 1, 2));
}

/* Group j of 32 elements of rows [i, i + rows) of x, into isum and msum. */
INLINE void group32(shape s, int rows, const super *o, size_t j, const qmat_x *x, size_t at,
                    V *isum, V *msum)
{
    V dot[BATCH];
    const int32_t *sum = x->sum + at;
    dot_start(s, rows, sum, dot);
    dot_rows(s, 2, rows, o->w + 8 * j, x->q + 32 * at, dot);
    for (int r = 0; r < rows; r++) {
        isum[r] = v_add(isum[r], v_mul(dot[r], o->sc[j]));
        if (s.has_min)
            msum[r] = v_mla_small(msum[r], o->mn[j], v_set(sum[r]));
    }
}

/* The same where a group of 16 has its scale: group g, in half g mod 2 of its 32. */
INLINE void group16(shape s, int rows, const super *o, size_t g, const qmat_x *x, size_t b,
                    size_t i, V *isum, V *msum)
{
    V dot[BATCH];
    const int32_t *sum = x->sum + (16 * b + g) * x->m + i;
    const int8_t *q = x->q + 32 * ((8 * b + g / 2) * x->m + i) + 16 * (g % 2);
    dot_start(s, rows, sum, dot);
    dot_rows(s, 1, rows, o->w + 4 * g, q, dot);
    for (int r = 0; r < rows; r++) {
        isum[r] = v_add(isum[r], v_mul(dot[r], o->sc[g]));
        if (s.has_min)
            msum[r] = v_mla_small(msum[r], o->mn[g], v_set(sum[r]));
    }
}

/* Rows [i, i + rows) of x by block b. */
INLINE void rows256(shape s, int rows, const super *o, const qmat_x *x, size_t b, size_t i,
                    float *acc)
{
    V isum[BATCH], msum[BATCH];
    for (int r = 0; r < rows; r++)
        isum[r] = msum[r] = v_set(0);
    for (size_t g = 0; s.by16 && g < 16; g++)
        group16(s, rows, o, g, x, b, i, isum, msum);
    for (size_t j = 0; !s.by16 && j < 8; j++)
        group32(s, rows, o, j, x, (8 * b + j) * x->m + i, isum, msum);
    for (int r = 0; r < rows; r++) {
        float *ar = acc + (i + (size_t)r) * LANES;
        F dx = f_set(x->d[b * x->m + i + (size_t)r]), a = f_load(ar);
        a = f_fma(f_mul(o->d, dx), f_cvt(isum[r]), a);
        if (s.has_min)
            a = f_fma(f_neg(f_mul(o->dmin, dx)), f_cvt(msum[r]), a);
        f_store(ar, a);
    }
}

INLINE void strip256(shape s, expand256 *expand, const uint8_t *w, size_t stride,
                     const qmat_x *x, float *y, size_t ldy)
{
    float acc[QMAT_TILE * LANES]; /* (m, LANES) */
    const uint8_t *next = w + LANES * stride;
    size_t m = x->m;
    zero_rows(acc, m);
    for (size_t b = 0; b < x->k / QK; b++, w += s.bytes) {
        super o;
        fetch_ahead(next, b, s.bytes);
        expand(w, stride, &o);
        size_t i = 0;
        for (; i + BATCH <= m; i += BATCH)
            rows256(s, BATCH, &o, x, b, i, acc);
        for (; i < m; i++)
            rows256(s, 1, &o, x, b, i, acc);
    }
    store_rows(acc, m, y, ldy);
}

/* ---- the rows ----------------------------------------------------------------------- */

#define STRIP(t, fn, ...)                                                               \
    static void strip_##t(const uint8_t *w, size_t stride, const qmat_x *x, float *y,   \
                          size_t ldy)                                                   \
    {                                                                                   \
        fn((shape){sizeof(block_##t), __VA_ARGS__}, expand_##t, w, stride, x, y, ldy);  \
    }
/*                     signed bias              min    by16  */
STRIP(q4_0, strip32,   false, true,             false, false)
STRIP(q4_1, strip32,   false, false,            true,  false)
STRIP(q5_0, strip32,   false, true,             false, false)
STRIP(q5_1, strip32,   false, false,            true,  false)
STRIP(q8_0, strip32,   true,  SIGNED_BIAS != 0, false, false)
STRIP(iq4_nl, strip32, true,  SIGNED_BIAS != 0, false, false)
STRIP(q2_k, strip256,  false, false,            true,  true)
STRIP(q3_k, strip256,  false, true,             false, true)
STRIP(q4_k, strip256,  false, false,            true,  false)
STRIP(q5_k, strip256,  false, false,            true,  false)
STRIP(q6_k, strip256,  false, true,             false, true)
STRIP(iq4_xs, strip256, true, SIGNED_BIAS != 0, false, false)

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
