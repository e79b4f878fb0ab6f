/* qmat_strip.h - the vector strips of the quantized product, written once over the
 * operations named in qmat_expand.h and BATCH, the rows of X whose sums are kept in
 * registers.
 *
 * A lane is a row of W; x is broadcast.  All sums over a block are exact, so the order does
 * not matter, and the float steps are those of the definition in qmat.h. */
#include "kern/iq.h"
#include "kern/qmat_expand.h"
#include "kern/qmat_plain.h"
#include "kern/qmat_quantize.h"

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
/* The code books are looked up row by row; what is looked up is transposed like any other.
 * The looking up is most of the time, so these strips share their code. */
#define STRIP_BOOKS(name, by16)                                                         \
    __attribute__((noinline)) static void name(                                         \
        size_t bytes, open256 *open, part256 *part, const uint8_t *w, size_t stride,    \
        const qmat_x *x, float *y, size_t ldy)                                          \
    {                                                                                   \
        strip256((shape){bytes, true, SIGNED_BIAS != 0, false, by16}, open, part, w,    \
                 stride, x, y, ldy);                                                    \
    }
STRIP_BOOKS(strip_books_by16, true)
STRIP_BOOKS(strip_books_by32, false)

#define STRIP_IQ(t, unit, by16)                                                         \
    static void open_##t(const uint8_t *b, size_t stride, super *o)                     \
    {                                                                                   \
        uint16_t d[LANES];                                                              \
        int32_t sc[16][LANES];                                                          \
        size_t groups = (by16) ? 16 : 8;                                                \
        for (size_t r = 0; r < LANES; r++) {                                            \
            d[r] = t##_half(b + r * stride);                                            \
            for (size_t g = 0; g < groups; g++)                                         \
                sc[g][r] = t##_scale(b + r * stride, (by16) ? g : 2 * g);               \
        }                                                                               \
        o->d = f_mul(f_half_at((const uint8_t *)d, 2), f_set(unit));                    \
        for (size_t g = 0; g < groups; g++)                                             \
            o->sc[g] = v_load1((const uint8_t *)sc[g], 4);                              \
    }                                                                                   \
    static void part_##t(const uint8_t *b, size_t stride, const super *o, int p,        \
                         V w[UNITS])                                                    \
    {                                                                                   \
        uint64_t eight[LANES][8];                                                       \
        (void)o;                                                                        \
        for (size_t r = 0; r < LANES; r++)                                              \
            for (size_t i = 0; i < 8; i++) {                                            \
                size_t g = (by16) ? group_of(p, (int)i / 2) : 4 * (size_t)p + i / 2;    \
                eight[r][i] = t##_eight(b + r * stride, 2 * g + i % 2);                 \
            }                                                                           \
        for (size_t i = 0; i < 4; i++)                                                  \
            v_load4(w + 4 * i, (const uint8_t *)eight + 16 * i, sizeof(eight[0]));      \
        for (size_t i = 0; i < UNITS; i++)                                              \
            w[i] = v_signed(w[i]);                                                      \
    }                                                                                   \
    static void strip_##t(const uint8_t *w, size_t stride, const qmat_x *x, float *y,   \
                          size_t ldy)                                                   \
    {                                                                                   \
        ((by16) ? strip_books_by16 : strip_books_by32)(                                 \
            sizeof(block_##t), open_##t, part_##t, w, stride, x, y, ldy);               \
    }
IQ_TYPES(STRIP_IQ)

/* sum_scale: minus the zero point, or 1 where a minimum is multiplied by the sum. */
#define QMAT_KERNELS(symbol, text, many_rows)                                             \
    const struct qmat_kernels symbol = {                                                  \
        .name = text,                                                                     \
        .lanes = LANES,                                                                   \
        .quantize = quantize,                                                             \
        .many = many_rows,                                                                \
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
            [DTYPE_IQ1_S] = {strip_iq1_s, -SIGNED_BIAS, 32},                              \
            [DTYPE_IQ1_M] = {strip_iq1_m, -SIGNED_BIAS, 16},                              \
            [DTYPE_IQ2_XXS] = {strip_iq2_xxs, -SIGNED_BIAS, 32},                          \
            [DTYPE_IQ2_XS] = {strip_iq2_xs, -SIGNED_BIAS, 16},                            \
            [DTYPE_IQ2_S] = {strip_iq2_s, -SIGNED_BIAS, 16},                              \
            [DTYPE_IQ3_XXS] = {strip_iq3_xxs, -SIGNED_BIAS, 32},                          \
            [DTYPE_IQ3_S] = {strip_iq3_s, -SIGNED_BIAS, 32},                              \
        },                                                                                \
        .plain = {                                                                        \
            [DTYPE_F32] = plain_f32, [DTYPE_F16] = plain_f16, [DTYPE_BF16] = plain_bf16,  \
        },                                                                                \
    }
