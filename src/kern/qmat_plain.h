/* qmat_plain.h - products with F32, F16 and BF16 weights, written once over the vector
 * operations named in qmat_strip.h and
 *
 *   f_load_f32(p) f_load_f16(p) f_load_bf16(p)    LANES elements of that type
 *   PLAIN_ROWS, PLAIN_BATCH                       rows of W and of X in registers
 *
 * Sixteen partial sums per product (see qmat.h) whatever the width of a vector: `SPLIT`
 * vectors hold them.  Elements past the last sixteen are padded with zeros, which leaves
 * sums as they are. */
#include "kern/qmat.h"

enum { SPLIT = 16 / LANES };

typedef F plain_load(const uint8_t *w);

static float sum16(const F s[SPLIT])
{
    float v[16];
    for (int h = 0; h < SPLIT; h++)
        f_store(v + h * LANES, s[h]);
    for (int half = 8; half; half /= 2)
        for (int l = 0; l < half; l++)
            v[l] += v[l + half];
    return v[0];
}

/* acc[r][i][h] += w[r] x[i] over sixteen elements. */
static inline __attribute__((always_inline)) void
plain_step(plain_load *load, size_t size, int rows, int batch, const uint8_t *w,
           size_t stride, const float *x, size_t ldx, F acc[PLAIN_ROWS][PLAIN_BATCH][SPLIT])
{
    for (int h = 0; h < SPLIT; h++) {
        F xv[PLAIN_BATCH];
        for (int i = 0; i < batch; i++)
            xv[i] = f_load(x + (size_t)i * ldx + h * LANES);
        for (int r = 0; r < rows; r++) {
            F wv = load(w + (size_t)r * stride + (size_t)h * LANES * size);
            for (int i = 0; i < batch; i++)
                acc[r][i][h] = f_fma(wv, xv[i], acc[r][i][h]);
        }
    }
}

static inline __attribute__((always_inline)) void
plain_tile(plain_load *load, size_t size, int rows, int batch, const uint8_t *w,
           size_t stride, const float *x, size_t ldx, size_t k, float *y, size_t ldy)
{
    F acc[PLAIN_ROWS][PLAIN_BATCH][SPLIT];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < batch; i++)
            for (int h = 0; h < SPLIT; h++)
                acc[r][i][h] = f_set(0);
    size_t p = 0;
    for (; p + 16 <= k; p += 16)
        plain_step(load, size, rows, batch, w + p * size, stride, x + p, ldx, acc);
    if (p < k) {
        float xt[PLAIN_BATCH][16] = {{0}};
        uint8_t wt[PLAIN_ROWS][64] = {{0}};
        for (int i = 0; i < batch; i++)
            memcpy(xt[i], x + (size_t)i * ldx + p, (k - p) * sizeof(float));
        for (int r = 0; r < rows; r++)
            memcpy(wt[r], w + (size_t)r * stride + p * size, (k - p) * size);
        plain_step(load, size, rows, batch, wt[0], 64, xt[0], 16, acc);
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < batch; i++)
            y[(size_t)i * ldy + (size_t)r] = sum16(acc[r][i]);
}

/* All rows of W by `batch` rows of x. */
static inline __attribute__((always_inline)) void
plain_batch(plain_load *load, size_t size, int batch, const uint8_t *w, size_t stride,
            size_t rows, const float *x, size_t ldx, size_t k, float *y, size_t ldy)
{
    size_t r = 0;
    for (; r + PLAIN_ROWS <= rows; r += PLAIN_ROWS)
        plain_tile(load, size, PLAIN_ROWS, batch, w + r * stride, stride, x, ldx, k, y + r,
                   ldy);
    for (; r < rows; r++)
        plain_tile(load, size, 1, batch, w + r * stride, stride, x, ldx, k, y + r, ldy);
}

static inline __attribute__((always_inline)) void
plain_all(plain_load *load, size_t size, const uint8_t *w, size_t stride, size_t rows,
          const float *x, size_t ldx, size_t m, size_t k, float *y, size_t ldy)
{
    size_t i = 0;
    for (; i + PLAIN_BATCH <= m; i += PLAIN_BATCH)
        plain_batch(load, size, PLAIN_BATCH, w, stride, rows, x + i * ldx, ldx, k,
                    y + i * ldy, ldy);
    if (PLAIN_BATCH > 2 && i + 2 <= m) {
        plain_batch(load, size, 2, w, stride, rows, x + i * ldx, ldx, k, y + i * ldy, ldy);
        i += 2;
    }
    if (i < m)
        plain_batch(load, size, 1, w, stride, rows, x + i * ldx, ldx, k, y + i * ldy, ldy);
}

#define PLAIN(t, size)                                                                     \
    static void plain_##t(const uint8_t *w, size_t stride, size_t rows, const float *x,    \
                          size_t ldx, size_t m, size_t k, float *y, size_t ldy)            \
    {                                                                                      \
        plain_all(f_load_##t, size, w, stride, rows, x, ldx, m, k, y, ldy);                \
    }
PLAIN(f32, 4)
PLAIN(f16, 2)
PLAIN(bf16, 2)
