/* cohort_amx.c - inner products of rows on bf16 tiles.
 *
 * Each row is written as two bf16 parts, v = h + l (see gemm_amx.c), and
 *     v_i . v_j = h_i . h_j + l_i . h_j + h_i . l_j                error below 2^-16 |v||v|
 * Rows are packed once for both sides of the product, a side being the other's 16 x 16
 * transpose, and only blocks on and above the diagonal are multiplied: half the work of a
 * general product, and a tile does 16 times that of the FMA ports. */
#include "kern/cohort.h"
#include "kern/x86/transpose_avx512.h"

#define INLINE static inline __attribute__((always_inline))

enum { TILE = 1024, ROWS = 16, KU = 32, BLOCK = 32 };
enum { LEFT_H, LEFT_L, RIGHT_H, RIGHT_L, PARTS };

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes; /* as ldtilecfg reads it */

INLINE __m512 widened(__m512i h, bool high)
{
    __m256i half = high ? _mm512_extracti64x4_epi64(h, 1) : _mm512_castsi512_si256(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* 16 rows by 32 coordinates into four tiles; rows and coordinates past the end are 0. */
static void pack(const float *src, size_t ld, size_t rows, size_t k, char *out)
{
    __mmask16 m0 = (__mmask16)((1u << size_min(k, 16)) - 1);
    __mmask16 m1 = (__mmask16)((1u << size_min(k > 16 ? k - 16 : 0, 16)) - 1);
    __m512i h[ROWS], l[ROWS];
    for (size_t i = 0; i < ROWS; i++) {
        const float *row = src + size_min(i, rows - 1) * ld;
        __mmask16 real = i < rows ? 0xffff : 0;
        __m512 lo = _mm512_maskz_loadu_ps(m0 & real, row);
        __m512 hi = _mm512_maskz_loadu_ps(m1 & real, row + (m1 ? 16 : 0));
        h[i] = (__m512i)_mm512_cvtne2ps_pbh(hi, lo);
        lo = _mm512_sub_ps(lo, widened(h[i], false));
        hi = _mm512_sub_ps(hi, widened(h[i], true));
        l[i] = (__m512i)_mm512_cvtne2ps_pbh(hi, lo);
        _mm512_store_si512(out + LEFT_H * TILE + i * 64, h[i]);
        _mm512_store_si512(out + LEFT_L * TILE + i * 64, l[i]);
    }
    transpose16(h);
    transpose16(l);
    for (size_t i = 0; i < ROWS; i++) {
        _mm512_store_si512(out + RIGHT_H * TILE + i * 64, h[i]);
        _mm512_store_si512(out + RIGHT_L * TILE + i * 64, l[i]);
    }
}

INLINE void load_left(const char *a, const char *b, int part)
{
    _tile_loadd(4, a + part * TILE, 64);
    _tile_loadd(5, b + part * TILE, 64);
}

INLINE void load_right(const char *a, const char *b, int part)
{
    _tile_loadd(6, a + part * TILE, 64);
    _tile_loadd(7, b + part * TILE, 64);
}

INLINE void multiply(void)
{
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

/* out (32, 32) = rows of panels i, i+1 by rows of panels j, j+1; a panel is `bytes` long
 * and has a step of PARTS tiles for each 32 coordinates. */
static void block(const char *i0, const char *i1, const char *j0, const char *j1,
                  size_t steps, float *out)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t s = 0; s < steps; s++) {
        size_t at = s * PARTS * TILE;
        load_right(j0 + at, j1 + at, RIGHT_H);
        load_left(i0 + at, i1 + at, LEFT_L);
        multiply();
        load_left(i0 + at, i1 + at, LEFT_H);
        multiply();
        load_right(j0 + at, j1 + at, RIGHT_L);
        multiply();
    }
    _tile_stored(0, out, BLOCK * 4);
    _tile_stored(1, out + ROWS, BLOCK * 4);
    _tile_stored(2, out + ROWS * BLOCK, BLOCK * 4);
    _tile_stored(3, out + ROWS * BLOCK + ROWS, BLOCK * 4);
}

static void add_block(const float *from, size_t i, size_t j, size_t n, double *sum)
{
    for (size_t r = 0; r < BLOCK && i + r < n; r++)
        for (size_t c = 0; c < BLOCK && j + c < n; c++)
            sum[(i + r) * n + j + c] += (double)from[r * BLOCK + c];
}

static size_t panels_of(size_t n) { return 2 * ((n + BLOCK - 1) / BLOCK); }

/* Coordinates at a time: packed, they stay within the second-level cache. */
static size_t width_of(size_t n)
{
    size_t w = (1u << 20) / (panels_of(n) * PARTS * TILE) * KU;
    return size_max(KU, size_min(w, 512));
}

static size_t bytes(size_t n)
{
    return panels_of(n) * (width_of(n) / KU) * PARTS * TILE + 64;
}

static void piece(const cohort *c, size_t at, size_t w, double *sum, char *scratch)
{
    size_t steps = (w + KU - 1) / KU, panels = panels_of(c->n), n = c->n;
    size_t panel = steps * PARTS * TILE;
    _Alignas(64) float out[BLOCK * BLOCK];
    for (size_t q = 0; q < panels; q++) {
        char *to = scratch + q * panel;
        size_t rows = q * ROWS < n ? size_min(ROWS, n - q * ROWS) : 0;
        if (rows == 0)
            memset(to, 0, panel);
        for (size_t s = 0; s < steps && rows; s++)
            pack(c->v + q * ROWS * c->ld + at + s * KU, c->ld, rows,
                 size_min(KU, w - s * KU), to + s * PARTS * TILE);
    }
    for (size_t i = 0; i < panels; i += 2)
        for (size_t j = i; j < panels; j += 2) {
            const char *a = scratch + i * panel, *b = scratch + j * panel;
            block(a, a + panel, b, b + panel, steps, out);
            add_block(out, i * ROWS, j * ROWS, n, sum);
        }
}

static void span(const cohort *c, size_t from, size_t to, double *sum, char *scratch)
{
    static const tile_shapes whole = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16},
    };
    size_t width = width_of(c->n);
    char *room = scratch + (-(uintptr_t)scratch & 63);
    _tile_loadconfig(&whole);
    for (size_t at = from; at < to; at += width)
        piece(c, at, size_min(width, to - at), sum, room);
    _tile_release();
}

const cohort_products cohort_amx = {bytes, span};
