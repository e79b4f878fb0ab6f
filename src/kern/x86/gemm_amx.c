/* gemm_amx.c - f32 products on bf16 tiles, by splitting.
 *
 * A float is written as a sum of bf16 parts, x = x0 + x1 (+ x2), each the nearest bf16 to
 * what is left; a part carries 8 bits, so two parts keep 16 and three all 24 bits.  The
 * product of two sums is then taken to the order that matters, in f32 accumulators
 * (Henry, Tang and Heinecke 2019, arXiv:1904.06376):
 *
 *     one part      x0 y0                                             error below 2^-7
 *     two parts     x0 y0 + x0 y1 + x1 y0                             error below 2^-15
 *     three parts   and x1 y1 + x0 y2 + x2 y0                         below 2^-23
 *     B is bf16     x0 y + x1 y (+ x2 y), y being exact               2^-17 (2^-24)
 *
 * relative to |x||y|, per product.  A tile instruction does 16 x 16 x 32 products, 16
 * times what the FMA ports do in the same time, so even six of them are a gain.
 *
 * Parts of infinity would be infinity and NaN, and a number over the largest bf16 would
 * become infinity; packing refuses both and gemm.c takes the exact core.  Tiles flush
 * denormal parts to zero: an absolute error of at most 2^-126 times the other factor.
 *
 * A panel holds, for each 32 steps of k and each part, two tiles: A's are 16 rows of 32 k
 * values, B's 16 pairs of k for 16 columns. */
#include "kern/gemm.h"
#include "kern/x86/transpose_avx512.h"

#define INLINE static inline __attribute__((always_inline))

enum { MR = 32, NR = 32, KU = 32, KC = 1024, TILE = 1024, HALF = 16, MAX_PARTS = 3 };
enum { BF16_LARGEST = 0x7f7f0000 }; /* as f32 bits */

/* ---- packing --------------------------------------------------------------------------
 */

/* 32 bf16 as two registers of f32. */
INLINE __m512 low_half(__m512i h)
{
    __m512i w = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(h));
    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
}

INLINE __m512 high_half(__m512i h)
{
    __m512i w = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(h, 1));
    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
}

/* The next part of 32 floats; what it leaves stays in lo, hi. */
INLINE __m512i next_part(__m512 *lo, __m512 *hi)
{
    __m512i part = (__m512i)_mm512_cvtne2ps_pbh(*hi, *lo);
    *lo = _mm512_sub_ps(*lo, low_half(part));
    *hi = _mm512_sub_ps(*hi, high_half(part));
    return part;
}

INLINE __m512i larger(__m512i seen, __m512 x)
{
    __m512i bits = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
    return _mm512_max_epu32(seen, bits);
}

/* 16 rows by 32 k of parts: v[part][i] is row i (source rows of consecutive k) or the pair
 * (2i, 2i+1) of k for all rows (source columns).  Returns the largest magnitude's bits. */
INLINE __m512i split_rows(__m512i v[][HALF], size_t parts, const float *src, size_t rs,
                          size_t rows, size_t k)
{
    __mmask16 m0 = (__mmask16)((1u << size_min(k, 16)) - 1);
    __mmask16 m1 = (__mmask16)((1u << size_min(k > 16 ? k - 16 : 0, 16)) - 1);
    __m512i seen = _mm512_setzero_si512();
    for (size_t i = 0; i < HALF; i++) {
        const float *row = src + size_min(i, rows - 1) * rs;
        __mmask16 real = i < rows ? 0xffff : 0;
        __m512 lo = _mm512_maskz_loadu_ps(m0 & real, row);
        __m512 hi = _mm512_maskz_loadu_ps(m1 & real, row + (m1 ? 16 : 0));
        seen = larger(larger(seen, lo), hi);
        for (size_t part = 0; part < parts; part++)
            v[part][i] = next_part(&lo, &hi);
    }
    return seen;
}

INLINE __m512i split_columns(__m512i v[][HALF], size_t parts, const float *src, size_t cs,
                             size_t rows, size_t k)
{
    static const uint16_t order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                       21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                       11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512i pairs = _mm512_loadu_si512(order), seen = _mm512_setzero_si512();
    __mmask16 mask = (__mmask16)((1u << rows) - 1);
    for (size_t i = 0; i < HALF; i++) {
        const float *p0 = src + size_min(2 * i, k - 1) * cs;
        const float *p1 = src + size_min(2 * i + 1, k - 1) * cs;
        __m512 lo = _mm512_maskz_loadu_ps(2 * i < k ? mask : 0, p0);
        __m512 hi = _mm512_maskz_loadu_ps(2 * i + 1 < k ? mask : 0, p1);
        seen = larger(larger(seen, lo), hi);
        for (size_t part = 0; part < parts; part++)
            v[part][i] = _mm512_permutexvar_epi16(pairs, next_part(&lo, &hi));
    }
    return seen;
}

INLINE __m512i pack_half(char *dst, const float *src, size_t rs, size_t cs, size_t rows,
                         size_t k, size_t parts, bool want_rows)
{
    __m512i v[MAX_PARTS][HALF], seen;
    if (cs == 1)
        seen = split_rows(v, parts, src, rs, rows, k);
    else
        seen = split_columns(v, parts, src, cs, rows, k);
    for (size_t part = 0; part < parts; part++) {
        if ((cs == 1) != want_rows)
            transpose16(v[part]);
        for (size_t i = 0; i < HALF; i++)
            _mm512_store_si512(dst + part * 2 * TILE + i * 64, v[part][i]);
    }
    return seen;
}

INLINE bool pack(char *dst, const float *src, size_t rs, size_t cs, size_t rows, size_t k,
                 size_t parts, bool want_rows)
{
    __m512i seen = _mm512_setzero_si512();
    size_t low = size_min(rows, HALF);
    for (size_t p = 0; p < k; p += KU, dst += parts * 2 * TILE) {
        const float *s = src + p * cs;
        size_t n = size_min(KU, k - p);
        seen = _mm512_max_epu32(seen, pack_half(dst, s, rs, cs, low, n, parts, want_rows));
        if (rows > HALF)
            seen = _mm512_max_epu32(seen, pack_half(dst + TILE, s + HALF * rs, rs, cs,
                                                    rows - HALF, n, parts, want_rows));
    }
    return _mm512_reduce_max_epu32(seen) <= BF16_LARGEST;
}

static bool pack_a1(void *dst, const float *src, size_t rs, size_t cs, size_t rows,
                    size_t k)
{
    return cs == 1 ? pack(dst, src, rs, 1, rows, k, 1, true)
                   : pack(dst, src, 1, cs, rows, k, 1, true);
}

static bool pack_a2(void *dst, const float *src, size_t rs, size_t cs, size_t rows,
                    size_t k)
{
    return cs == 1 ? pack(dst, src, rs, 1, rows, k, 2, true)
                   : pack(dst, src, 1, cs, rows, k, 2, true);
}

static bool pack_a3(void *dst, const float *src, size_t rs, size_t cs, size_t rows,
                    size_t k)
{
    return cs == 1 ? pack(dst, src, rs, 1, rows, k, 3, true)
                   : pack(dst, src, 1, cs, rows, k, 3, true);
}

static bool pack_b1(void *dst, const float *src, size_t rs, size_t cs, size_t rows,
                    size_t k)
{
    return cs == 1 ? pack(dst, src, rs, 1, rows, k, 1, false)
                   : pack(dst, src, 1, cs, rows, k, 1, false);
}

static bool pack_b2(void *dst, const float *src, size_t rs, size_t cs, size_t rows,
                    size_t k)
{
    return cs == 1 ? pack(dst, src, rs, 1, rows, k, 2, false)
                   : pack(dst, src, 1, cs, rows, k, 2, false);
}

static bool pack_b3(void *dst, const float *src, size_t rs, size_t cs, size_t rows,
                    size_t k)
{
    return cs == 1 ? pack(dst, src, rs, 1, rows, k, 3, false)
                   : pack(dst, src, 1, cs, rows, k, 3, false);
}

/* ---- tiles: 0 to 3 are C, 4 and 5 A, 6 and 7 B ------------------------------------------
 */

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes; /* as ldtilecfg reads it */
_Static_assert(sizeof(tile_shapes) == 64, "one tile configuration");

static void begin(void)
{
    static const tile_shapes whole = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16},
    };
    _tile_loadconfig(&whole);
}

static void end(void) { _tile_release(); }

INLINE void load_a(const char *step, size_t part, bool tall)
{
    _tile_loadd(4, step + part * 2 * TILE, 64);
    if (tall)
        _tile_loadd(5, step + part * 2 * TILE + TILE, 64);
}

INLINE void load_b(const char *step, size_t part, bool wide)
{
    _tile_loadd(6, step + part * 2 * TILE, 64);
    if (wide)
        _tile_loadd(7, step + part * 2 * TILE + TILE, 64);
}

INLINE void multiply(bool tall, bool wide)
{
    _tile_dpbf16ps(0, 4, 6);
    if (wide)
        _tile_dpbf16ps(1, 4, 7);
    if (tall)
        _tile_dpbf16ps(2, 5, 6);
    if (tall && wide)
        _tile_dpbf16ps(3, 5, 7);
}

/* 32 steps of k, small terms first; in an order that loads each part about once. */
INLINE void step(const char *a, const char *b, size_t a_parts, size_t b_parts, bool tall,
                 bool wide)
{
    load_b(b, 0, wide);
    for (size_t part = a_parts; part-- > 1;) {
        load_a(a, part, tall);
        multiply(tall, wide); /* x2 y0, x1 y0 */
    }
    if (b_parts == 3) {
        load_b(b, 1, wide);
        multiply(tall, wide); /* x1 y1 */
        load_a(a, 0, tall);
        multiply(tall, wide); /* x0 y1 */
        load_b(b, 2, wide);
        multiply(tall, wide); /* x0 y2 */
        load_b(b, 0, wide);
        multiply(tall, wide); /* x0 y0 */
        return;
    }
    load_a(a, 0, tall);
    multiply(tall, wide); /* x0 y0 */
    if (b_parts == 2) {
        load_b(b, 1, wide);
        multiply(tall, wide); /* x0 y1 */
    }
}

INLINE void zero_c(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

INLINE void load_c(const float *c, size_t ldc, bool tall, bool wide)
{
    _tile_loadd(0, c, ldc * 4);
    if (wide)
        _tile_loadd(1, c + 16, ldc * 4);
    if (tall)
        _tile_loadd(2, c + 16 * ldc, ldc * 4);
    if (tall && wide)
        _tile_loadd(3, c + 16 * ldc + 16, ldc * 4);
}

/* The same for a ragged tile, so that a row's sums start alike whatever m and n are. */
INLINE void stage_c(float *sum, const float *c, size_t ldc, size_t m, size_t n, bool tall,
                    bool wide)
{
    memset(sum, 0, MR * NR * sizeof(*sum));
    for (size_t i = 0; i < m; i++)
        memcpy(sum + i * NR, c + i * ldc, n * sizeof(*sum));
    load_c(sum, NR, tall, wide);
}

INLINE void store_c(float *c, size_t ldc, bool tall, bool wide)
{
    _tile_stored(0, c, ldc * 4);
    if (wide)
        _tile_stored(1, c + 16, ldc * 4);
    if (tall)
        _tile_stored(2, c + 16 * ldc, ldc * 4);
    if (tall && wide)
        _tile_stored(3, c + 16 * ldc + 16, ldc * 4);
}

/* Rows [beg, end) of the next tile's C: two lines each. */
INLINE void near_c(const float *c, size_t ldc, size_t beg, size_t end)
{
    for (size_t i = beg; i < end; i++) {
        _mm_prefetch((const char *)(c + i * ldc), _MM_HINT_T0);
        _mm_prefetch((const char *)(c + i * ldc + NR - 1), _MM_HINT_T0);
    }
}

/* What comes soon is spread over the steps: loads of tiles need most of the cache. */
INLINE void steps(size_t k, const char *a, const char *b, size_t ldc, size_t a_parts,
                  size_t b_parts, bool tall, bool wide, const gemm_soon *soon)
{
    size_t n = (k + KU - 1) / KU, lines = (soon->lines + n - 1) / n, rows = (MR + n - 1) / n;
    const char *panel = soon->panel;
    for (size_t s = 0; s < n; s++, a += a_parts * 2 * TILE, b += b_parts * 2 * TILE) {
        step(a, b, a_parts, b_parts, tall, wide);
        for (size_t line = 0; line < lines; line++, panel += 64)
            _mm_prefetch(panel, _MM_HINT_T1);
        near_c(soon->c, ldc, size_min(s * rows, MR), size_min((s + 1) * rows, MR));
    }
}

/* From the sums of a ragged or scaled tile to C. */
static void merge(float *c, size_t ldc, const float *sum, size_t m, size_t n, float alpha,
                  float beta)
{
    __m512 av = _mm512_set1_ps(alpha), bv = _mm512_set1_ps(beta);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j += 16) {
            __mmask16 mask = (__mmask16)((1u << size_min(n - j, 16)) - 1);
            float *out = c + i * ldc + j;
            __m512 v = _mm512_mul_ps(av, _mm512_load_ps(sum + i * NR + j));
            if (beta != 0.0f)
                v = _mm512_fmadd_ps(bv, _mm512_maskz_loadu_ps(mask, out), v);
            _mm512_mask_storeu_ps(out, mask, v);
        }
}

INLINE void tile(size_t k, const char *a, const char *b, float *c, size_t ldc, size_t m,
                 size_t n, float alpha, float beta, const gemm_soon *soon, size_t a_parts,
                 size_t b_parts)
{
    _Alignas(64) float sum[MR * NR];
    bool tall = m > HALF, wide = n > HALF;
    bool whole = m % HALF == 0 && n % HALF == 0;
    bool add = alpha == 1.0f && beta == 1.0f;
    zero_c();
    if (add && whole)
        load_c(c, ldc, tall, wide);
    else if (add)
        stage_c(sum, c, ldc, m, n, tall, wide);
    if (tall && wide)
        steps(k, a, b, ldc, a_parts, b_parts, true, true, soon);
    else if (tall)
        steps(k, a, b, ldc, a_parts, b_parts, true, false, soon);
    else if (wide)
        steps(k, a, b, ldc, a_parts, b_parts, false, true, soon);
    else
        steps(k, a, b, ldc, a_parts, b_parts, false, false, soon);
    if (whole && alpha == 1.0f && (add || beta == 0.0f)) {
        store_c(c, ldc, tall, wide);
        return;
    }
    store_c(sum, NR, tall, wide);
    merge(c, ldc, sum, m, n, alpha, add ? 0.0f : beta);
}

static void tile11(size_t k, const void *a, const void *b, float *c, size_t ldc, size_t m,
                   size_t n, float alpha, float beta, const gemm_soon *soon)
{
    tile(k, a, b, c, ldc, m, n, alpha, beta, soon, 1, 1);
}

static void tile22(size_t k, const void *a, const void *b, float *c, size_t ldc, size_t m,
                   size_t n, float alpha, float beta, const gemm_soon *soon)
{
    tile(k, a, b, c, ldc, m, n, alpha, beta, soon, 2, 2);
}

static void tile33(size_t k, const void *a, const void *b, float *c, size_t ldc, size_t m,
                   size_t n, float alpha, float beta, const gemm_soon *soon)
{
    tile(k, a, b, c, ldc, m, n, alpha, beta, soon, 3, 3);
}

static void tile21(size_t k, const void *a, const void *b, float *c, size_t ldc, size_t m,
                   size_t n, float alpha, float beta, const gemm_soon *soon)
{
    tile(k, a, b, c, ldc, m, n, alpha, beta, soon, 2, 1);
}

static void tile31(size_t k, const void *a, const void *b, float *c, size_t ldc, size_t m,
                   size_t n, float alpha, float beta, const gemm_soon *soon)
{
    tile(k, a, b, c, ldc, m, n, alpha, beta, soon, 3, 1);
}

static const gemm_core one = {
    .name = "amx, one part",
    .mr = MR,
    .nr = NR,
    .k_unit = KU,
    .kc = KC,
    .a_unit = 2,
    .b_unit = 2,
    .pack_a = pack_a1,
    .pack_b = pack_b1,
    .tile = tile11,
    .begin = begin,
    .end = end,
};

static const gemm_core two = {
    .name = "amx, two parts",
    .mr = MR,
    .nr = NR,
    .k_unit = KU,
    .kc = KC,
    .a_unit = 4,
    .b_unit = 4,
    .pack_a = pack_a2,
    .pack_b = pack_b2,
    .tile = tile22,
    .begin = begin,
    .end = end,
};

static const gemm_core three = {
    .name = "amx, three parts",
    .mr = MR,
    .nr = NR,
    .k_unit = KU,
    .kc = KC,
    .a_unit = 6,
    .b_unit = 6,
    .pack_a = pack_a3,
    .pack_b = pack_b3,
    .tile = tile33,
    .begin = begin,
    .end = end,
};

static const gemm_core two_bf16 = {
    .name = "amx, two parts by bf16",
    .mr = MR,
    .nr = NR,
    .k_unit = KU,
    .kc = KC,
    .a_unit = 4,
    .b_unit = 2,
    .pack_a = pack_a2,
    .pack_b = pack_b1,
    .tile = tile21,
    .begin = begin,
    .end = end,
};

static const gemm_core three_bf16 = {
    .name = "amx, three parts by bf16",
    .mr = MR,
    .nr = NR,
    .k_unit = KU,
    .kc = KC,
    .a_unit = 6,
    .b_unit = 2,
    .pack_a = pack_a3,
    .pack_b = pack_b1,
    .tile = tile31,
    .begin = begin,
    .end = end,
};

const gemm_splits gemm_amx = {
    .one = &one,
    .two = &two,
    .three = &three,
    .two_bf16 = &two_bf16,
    .three_bf16 = &three_bf16,
};
