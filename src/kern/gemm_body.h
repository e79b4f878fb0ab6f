/* gemm_body.h - the f32 product over a few register operations; compiled once per
 * instruction set by x86/gemm_avx2.c and arm/gemm_neon.c, which define
 *
 *     V of W floats; v_set v_load v_store v_add v_fma(a,b,c) = a b + c
 *     v_load_part(p,n)   the first n < W floats, 0 in the others
 *     v_sum(v)           one fixed order of additions
 *     MR, NV             a tile is MR rows by NV registers; MR * NV <= 16
 *
 * Sums are one lane (tile, outer) or one register reduced by v_sum (dots) whatever tile
 * they fall in, so that cutting the work elsewhere changes no bit. */
#include "kern/gemm.h"

#define INLINE static inline __attribute__((always_inline))

enum { NR = NV * W, KC = 256 };

/* One variable per sum: compilers keep variables in registers but store an array of them
 * in every step.  Conditions on the number fold away. */
#define SUMS(X)                                                                            \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define DECLARE(t) V s##t = v_set(0);

/* Element (r,p) at src[r*rs + p*cs] to step p, place r; places from `rows` on are 0. */
INLINE void pack(float *dst, size_t width, const float *src, size_t rs, size_t cs,
                 size_t rows, size_t k)
{
    if (rows == width && rs == 1) {
        for (size_t p = 0; p < k; p++)
            for (size_t r = 0; r < width; r++)
                dst[p * width + r] = src[p * cs + r];
        return;
    }
    for (size_t r = 0; r < width; r++)
        for (size_t p = 0; p < k; p++)
            dst[p * width + r] = r < rows ? src[r * rs + p * cs] : 0.0f;
}

static bool pack_a(void *dst, const float *src, size_t rs, size_t cs, size_t rows, size_t k)
{
    pack(dst, MR, src, rs, cs, rows, k);
    return true;
}

static bool pack_b(void *dst, const float *src, size_t rs, size_t cs, size_t rows, size_t k)
{
    pack(dst, NR, src, rs, cs, rows, k);
    return true;
}

/* One register of sums to n <= W places of a row of C. */
INLINE void put(float *c, size_t n, V sum, float alpha, float beta)
{
    float lane[W];
    if (n == W && (beta == 0.0f || beta == 1.0f)) {
        V zero = v_set(0),
          scaled = v_fma(v_set(alpha), sum, beta == 0.0f ? zero : v_load(c));
        v_store(c, scaled);
        return;
    }
    v_store(lane, sum);
    for (size_t j = 0; j < n; j++)
        c[j] = alpha * lane[j] + (beta == 0.0f ? 0.0f : beta * c[j]);
}

INLINE size_t columns_in(size_t n, size_t reg) /* of register `reg` when n are left */
{
    return n > reg * W ? size_min(n - reg * W, W) : 0;
}

static void tile(size_t k, const void *a, const void *b, float *c, size_t ldc, size_t m,
                 size_t n, float alpha, float beta, const gemm_soon *soon)
{
    const float *ap = a, *bp = b; // (k,MR), (k,NR)
    (void)soon;
    SUMS(DECLARE)
    for (size_t p = 0; p < k; p++, ap += MR, bp += NR) {
#define STEP(t)                                                                            \
    if (t < MR * NV)                                                                       \
        s##t = v_fma(v_set(ap[t / NV]), v_load(bp + t % NV * W), s##t);
        SUMS(STEP)
#undef STEP
    }
#define PUT(t)                                                                             \
    if (t < MR * NV && t / NV < m)                                                         \
        put(c + t / NV * ldc + t % NV * W, columns_in(n, t % NV), s##t, alpha, beta);
    SUMS(PUT)
#undef PUT
}

static const gemm_core core = {
    .name = "fma",
    .mr = MR,
    .nr = NR,
    .k_unit = 1,
    .kc = KC,
    .a_unit = 4,
    .b_unit = 4,
    .pack_a = pack_a,
    .pack_b = pack_b,
    .tile = tile,
};

/* ---- dots: both operands in rows of consecutive k
 * ----------------------------------------- */

/* `rows` <= 3 rows of X by `cols` <= 4 of Y; sum t is of rows t / 4 and t % 4. */
INLINE void dots_tile(size_t rows, size_t cols, const gemm_thin *g, size_t i, size_t j)
{
    const float *x = g->x + i * g->ldx, *y = g->y + j * g->ldy;
    size_t p = 0, rest = g->k % W;
    SUMS(DECLARE)
    for (; p + W <= g->k; p += W) {
#define STEP(t)                                                                            \
    if (t / 4 < rows && t % 4 < cols)                                                      \
        s##t = v_fma(v_load(x + t / 4 * g->ldx + p), v_load(y + t % 4 * g->ldy + p), s##t);
        SUMS(STEP)
#undef STEP
    }
#define LAST(t)                                                                            \
    if (t / 4 < rows && t % 4 < cols && rest)                                              \
        s##t = v_fma(v_load_part(x + t / 4 * g->ldx + p, rest),                            \
                     v_load_part(y + t % 4 * g->ldy + p, rest), s##t);
    SUMS(LAST)
#undef LAST
#define PUT(t)                                                                             \
    if (t / 4 < rows && t % 4 < cols)                                                      \
        gemm_put(g, i + t / 4, j + t % 4, v_sum(s##t));
    SUMS(PUT)
#undef PUT
}

static void dots(const gemm_thin *g)
{
    for (size_t i = 0; i < g->m; i += i + 3 <= g->m ? 3 : 1)
        for (size_t j = 0; j < g->n; j += j + 4 <= g->n ? 4 : 1) {
            bool tall = i + 3 <= g->m, wide = j + 4 <= g->n;
            if (tall && wide)
                dots_tile(3, 4, g, i, j);
            else if (tall)
                dots_tile(3, 1, g, i, j);
            else if (wide)
                dots_tile(1, 4, g, i, j);
            else
                dots_tile(1, 1, g, i, j);
        }
}

/* ---- outer: few rows of X, both operands in rows of m (n)
 * ---------------------------------- */

INLINE void outer_put(const gemm_thin *g, size_t i, size_t j, size_t n, V sum)
{
    float lane[W];
    if (g->ccs == 1) {
        put(g->c + i * g->crs + j, n, sum, g->alpha, g->beta);
        return;
    }
    v_store(lane, sum);
    for (size_t l = 0; l < n; l++)
        gemm_put(g, i, j + l, lane[l]);
}

/* `rows` by `regs` registers of columns, the last of `last` columns; sum t is of row
 * t / regs. */
INLINE void outer_tile(size_t rows, size_t regs, const gemm_thin *g, size_t i, size_t j,
                       size_t last)
{
    const float *x = g->x + i, *y = g->y + j;
    SUMS(DECLARE)
    for (size_t p = 0; p < g->k; p++, x += g->ldx, y += g->ldy) {
#define STEP(t)                                                                            \
    if (t < rows * regs)                                                                   \
        s##t =                                                                             \
            v_fma(v_set(x[t / regs]),                                                      \
                  t % regs + 1 < regs || last == W ? v_load(y + t % regs * W)              \
                                                   : v_load_part(y + t % regs * W, last),  \
                  s##t);
        SUMS(STEP)
#undef STEP
    }
#define PUT(t)                                                                             \
    if (t < rows * regs)                                                                   \
        outer_put(g, i + t / regs, j + t % regs * W, t % regs + 1 < regs ? W : last, s##t);
    SUMS(PUT)
#undef PUT
}

INLINE void outer_rows(size_t rows, size_t regs, const gemm_thin *g, size_t i)
{
    size_t j = 0;
    for (; j + regs * W <= g->n; j += regs * W)
        outer_tile(rows, regs, g, i, j, W);
    for (; j + W <= g->n; j += W)
        outer_tile(rows, 1, g, i, j, W);
    if (j < g->n)
        outer_tile(rows, 1, g, i, j, g->n - j);
}

static void outer(const gemm_thin *g)
{
    size_t i = 0;
    for (; i + 4 <= g->m; i += 4)
        outer_rows(4, 3, g, i);
    for (; i < g->m; i++)
        outer_rows(1, 8, g, i);
}
