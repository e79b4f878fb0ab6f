/* gemm_avx512.c - f32 products on 512-bit registers.
 *
 * The core's tile is 14 x 32: 28 registers of sums, two of B, one broadcast of A; per
 * step of k 28 multiply-adds against 16 loads, so the two FMA ports are the limit.  A
 * tile of fewer rows has its own loop and wastes nothing.
 *
 * The thin paths read operands as they lie.  Every sum is one lane (outer) or one
 * register reduced by one fixed tree (dots), whatever tile it falls in, so that cutting
 * the work elsewhere changes no bit. */
#include "kern/gemm.h"
#include "kern/x86/transpose_avx512.h"

#define INLINE static inline __attribute__((always_inline))

enum { MR = 14, NR = 32, KC = 256 };

/* The sums of a tile, one variable each: compilers keep variables in registers but store
 * an array of them in every step.  Conditions on the number fold away. */
#define SUMS(X)                                                                            \
    X(0)                                                                                   \
    X(1)                                                                                   \
    X(2)                                                                                   \
    X(3)                                                                                   \
    X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16) X(17) X(18)    \
        X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27)
#define DECLARE(t) __m512 s##t = _mm512_setzero_ps();

static __mmask16 first(size_t n) { return (__mmask16)(n >= 16 ? 0xffff : (1u << n) - 1); }

/* ---- packing --------------------------------------------------------------------------
 */

/* k steps of `rows` consecutive floats, each step `cs` after the last: copied to steps of
 * `width` <= 16 floats, `step` apart. */
INLINE void copy_steps(float *dst, size_t step, size_t width, const float *src, size_t cs,
                       size_t rows, size_t k)
{
    __mmask16 in = first(rows), out = first(width);
    for (size_t p = 0; p < k; p++)
        _mm512_mask_storeu_ps(dst + p * step, out, _mm512_maskz_loadu_ps(in, src + p * cs));
}

/* The same from rows of consecutive k, turned 16 x 16 at a time. */
INLINE void turn_steps(float *dst, size_t step, size_t width, const float *src, size_t rs,
                       size_t rows, size_t k)
{
    __mmask16 out = first(width);
    for (size_t p = 0; p < k; p += 16) {
        __m512i v[16];
        __mmask16 in = first(k - p);
        for (size_t r = 0; r < 16; r++)
            v[r] = r < rows ? _mm512_maskz_loadu_epi32(in, src + r * rs + p)
                            : _mm512_setzero_si512();
        transpose16(v);
        for (size_t q = 0; q < 16 && p + q < k; q++)
            _mm512_mask_storeu_epi32(dst + (p + q) * step, out, v[q]);
    }
}

static bool pack_a(void *dst, const float *src, size_t rs, size_t cs, size_t rows, size_t k)
{
    if (cs == 1)
        turn_steps(dst, MR, MR, src, rs, rows, k);
    else
        copy_steps(dst, MR, MR, src, cs, rows, k);
    return true;
}

static bool pack_b(void *dst, const float *src, size_t rs, size_t cs, size_t rows, size_t k)
{
    float *d = dst;
    size_t low = size_min(rows, 16);
    if (cs == 1) {
        turn_steps(d, NR, 16, src, rs, low, k);
        turn_steps(d + 16, NR, 16, src + 16 * rs, rs, rows - low, k);
    } else {
        copy_steps(d, NR, 16, src, cs, low, k);
        copy_steps(d + 16, NR, 16, src + 16, cs, rows - low, k);
    }
    return true;
}

/* ---- the tile -------------------------------------------------------------------------
 */

INLINE void put(float *c, __mmask16 mask, __m512 sum, float alpha, float beta)
{
    __m512 v = _mm512_mul_ps(_mm512_set1_ps(alpha), sum);
    if (beta != 0.0f)
        v = _mm512_fmadd_ps(_mm512_set1_ps(beta), _mm512_maskz_loadu_ps(mask, c), v);
    _mm512_mask_storeu_ps(c, mask, v);
}

/* One step's multiplier for row r: rows 3 q, 3 q + 1 and 3 q + 2 are reached from base q,
 * which leaves registers for the rest. */
#define ROW_OF(r) (base[(r) / 3] + (r) % 3 * rs)

/* `rows` x 32 sums; element (i,p) of A lies rs i + cs p bytes behind a. */
INLINE void tile_rows(size_t rows, const gemm_block *g, const gemm_soon *soon)
{
    size_t rs = g->ars * 4, cs = g->acs * 4, ldb = g->ldb;
    __mmask16 m0 = first(g->n), m1 = g->n > 16 ? first(g->n - 16) : 0;
    const float *b = g->b;
    const char *base[5], *near = soon->panel, *end = near + soon->lines * 64;
    for (size_t i = 0; i < rows; i++) {
        _mm_prefetch((const char *)(g->c + i * g->ldc), _MM_HINT_T0);
        _mm_prefetch((const char *)(g->c + i * g->ldc + g->n - 1), _MM_HINT_T0);
    }
    for (size_t q = 0; 3 * q < rows; q++)
        base[q] = (const char *)g->a + 3 * q * rs;
    SUMS(DECLARE)
    for (size_t p = g->k; p; p--, b += ldb) {
        _mm_prefetch(near, _MM_HINT_T1);
        near += near < end ? 64 : 0;
        __m512 b0 = _mm512_maskz_loadu_ps(m0, b), b1 = _mm512_maskz_loadu_ps(m1, b + 16);
#define STEP(t)                                                                            \
    if (t < 2 * rows)                                                                      \
        s##t = _mm512_fmadd_ps(_mm512_set1_ps(*(const float *)(const void *)ROW_OF(t / 2)), \
                               t % 2 ? b1 : b0, s##t);
        SUMS(STEP)
#undef STEP
        for (size_t q = 0; 3 * q < rows; q++)
            base[q] += cs;
    }
#define PUT(t)                                                                             \
    if (t < 2 * rows && (t % 2 ? m1 : m0))                                                 \
        put(g->c + t / 2 * g->ldc + t % 2 * 16, t % 2 ? m1 : m0, s##t, g->alpha, g->beta);
    SUMS(PUT)
#undef PUT
}

static void tile_as_it_lies(const gemm_block *g, const gemm_soon *soon)
{
    switch (g->m) {
#define CASE(r)                                                                            \
    case r:                                                                                \
        tile_rows(r, g, soon);                                                             \
        break;
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
        CASE(5)
        CASE(6)
        CASE(7)
        CASE(8)
        CASE(9)
        CASE(10)
        CASE(11)
        CASE(12)
        CASE(13)
#undef CASE
    default:
        tile_rows(MR, g, soon);
        break;
    }
}

static void tile(size_t k, const void *a, const void *b, float *c, size_t ldc, size_t m,
                 size_t n, float alpha, float beta, const gemm_soon *soon)
{
    gemm_block g = {.m = m, .n = n, .k = k, .a = a, .ars = 1, .acs = MR, .b = b, .ldb = NR,
                     .c = c, .ldc = ldc, .alpha = alpha, .beta = beta};
    tile_as_it_lies(&g, soon);
}

static const gemm_core core = {
    .name = "avx512",
    .mr = MR,
    .nr = NR,
    .k_unit = 1,
    .kc = KC,
    .a_unit = 4,
    .b_unit = 4,
    .pack_a = pack_a,
    .pack_b = pack_b,
    .tile = tile,
    .direct = tile_as_it_lies,
};

/* ---- dots: both operands in rows of consecutive k ---------------------------------------
 */

/* Eight registers to their eight sums, each by the tree ((0+8)(1+9))((2+10)(3+11)).. that a
 * lone register would see. */
INLINE __m256 sums8(const __m512 v[8])
{
    __m256 h[8];
    for (size_t i = 0; i < 8; i++)
        h[i] = _mm256_add_ps(_mm512_castps512_ps256(v[i]), _mm512_extractf32x8_ps(v[i], 1));
    __m256 p = _mm256_hadd_ps(_mm256_hadd_ps(h[0], h[1]), _mm256_hadd_ps(h[2], h[3]));
    __m256 q = _mm256_hadd_ps(_mm256_hadd_ps(h[4], h[5]), _mm256_hadd_ps(h[6], h[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(p, q, 0x20),
                         _mm256_permute2f128_ps(p, q, 0x31));
}

INLINE void dots_put(const gemm_thin *g, size_t i, size_t j, size_t cols, const __m512 v[8])
{
    float sum[8];
    _mm256_storeu_ps(sum, sums8(v));
    for (size_t l = 0; l < cols; l++)
        gemm_put(g, i, j + l, sum[l]);
}

/* `rows` <= 3 rows of X against `cols` <= 8 rows of Y; sum t is of rows t / 8 and t % 8. */
INLINE void dots_tile(size_t rows, size_t cols, const gemm_thin *g, size_t i, size_t j)
{
    size_t ldx = g->ldx, ldy = g->ldy;
    const float *x = g->x + i * ldx, *y = g->y + j * ldy;
    SUMS(DECLARE)
    for (size_t p = 0; p < g->k; p += 16) {
        __mmask16 in = first(g->k - p);
#define STEP(t)                                                                            \
    if (t / 8 < rows && t % 8 < cols)                                                      \
        s##t = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(in, x + t / 8 * ldx + p),             \
                               _mm512_maskz_loadu_ps(in, y + t % 8 * ldy + p), s##t);
        SUMS(STEP)
#undef STEP
    }
    dots_put(g, i, j, cols, (__m512[8]){s0, s1, s2, s3, s4, s5, s6, s7});
    if (rows > 1)
        dots_put(g, i + 1, j, cols, (__m512[8]){s8, s9, s10, s11, s12, s13, s14, s15});
    if (rows > 2)
        dots_put(g, i + 2, j, cols, (__m512[8]){s16, s17, s18, s19, s20, s21, s22, s23});
    (void)s24, (void)s25, (void)s26, (void)s27;
}

INLINE void dots_rows(size_t rows, const gemm_thin *g, size_t i)
{
    size_t j = 0;
    for (; j + 8 <= g->n; j += 8)
        dots_tile(rows, 8, g, i, j);
    for (; j + 4 <= g->n; j += 4)
        dots_tile(rows, 4, g, i, j);
    for (; j < g->n; j++)
        dots_tile(rows, 1, g, i, j);
}

static void dots(const gemm_thin *g)
{
    size_t i = 0;
    for (; i + 3 <= g->m; i += 3)
        dots_rows(3, g, i);
    for (; i < g->m; i++)
        dots_rows(1, g, i);
}

/* ---- outer: few rows of X, both operands in rows of m (n) ------------------------- */

/* The same where C's columns are not neighbours: a function of its own, for inlined into
 * every sum of every tile it was nine tenths of this file's code. */
__attribute__((noinline)) static void outer_scatter(const gemm_thin *g, size_t i, size_t j,
                                                    __mmask16 mask, __m512 sum)
{
    float s[16];
    _mm512_storeu_ps(s, sum);
    for (size_t l = 0; l < 16 && (mask >> l & 1); l++)
        gemm_put(g, i, j + l, s[l]);
}

/* Sixteen sums of row i from column j on, the first of them that `mask` names. */
INLINE void outer_put(const gemm_thin *g, size_t i, size_t j, __mmask16 mask, __m512 sum)
{
    if (g->ccs == 1)
        put(g->c + i * g->crs + j, mask, sum, g->alpha, g->beta);
    else
        outer_scatter(g, i, j, mask, sum);
}

/* `rows` by `regs` registers of columns, the last masked; sum t is of row t / regs. */
INLINE void outer_tile(size_t rows, size_t regs, const gemm_thin *g, size_t i, size_t j,
                       __mmask16 last)
{
    const float *x = g->x + i, *y = g->y + j;
    SUMS(DECLARE)
    for (size_t p = 0; p < g->k; p++, x += g->ldx, y += g->ldy) {
#define STEP(t)                                                                            \
    if (t < rows * regs)                                                                   \
        s##t = _mm512_fmadd_ps(_mm512_set1_ps(x[t / regs]),                                \
                               t % regs + 1 < regs                                         \
                                   ? _mm512_loadu_ps(y + t % regs * 16)                    \
                                   : _mm512_maskz_loadu_ps(last, y + t % regs * 16),       \
                               s##t);
        SUMS(STEP)
#undef STEP
    }
#define PUT(t)                                                                             \
    if (t < rows * regs)                                                                   \
        outer_put(g, i + t / regs, j + t % regs * 16, t % regs + 1 < regs ? 0xffff : last, \
                  s##t);
    SUMS(PUT)
#undef PUT
}

INLINE void outer_rows(size_t rows, size_t regs, const gemm_thin *g, size_t i)
{
    size_t j = 0;
    for (; j + 16 * regs <= g->n; j += 16 * regs)
        outer_tile(rows, regs, g, i, j, 0xffff);
    for (; j < g->n; j += 16)
        outer_tile(rows, 1, g, i, j, first(g->n - j));
}

static void outer(const gemm_thin *g)
{
    for (size_t i = 0; i < g->m; i += 8)
        switch (size_min(8, g->m - i)) {
        case 1:
            outer_rows(1, 12, g, i);
            break;
        case 2:
            outer_rows(2, 8, g, i);
            break;
        case 3:
            outer_rows(3, 6, g, i);
            break;
        case 4:
            outer_rows(4, 5, g, i);
            break;
        case 5:
            outer_rows(5, 4, g, i);
            break;
        case 6:
            outer_rows(6, 4, g, i);
            break;
        case 7:
            outer_rows(7, 3, g, i);
            break;
        default:
            outer_rows(8, 3, g, i);
            break;
        }
}

const gemm_kernels gemm_avx512 = {
    .f32 = &core, .unpack = gemm_unpack_avx512, .dots = dots, .outer = outer};
