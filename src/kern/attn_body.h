/* attn_body.h - the products of attn.h over a few register operations; compiled once per
 * instruction set by x86/attn_avx2.c, x86/attn_avx512.c and arm/attn_neon.c, which define
 *
 *     V of W floats; v_set v_load v_store v_fma(a,b,c) = a b + c
 *     v_f16(p) v_i8(p)                W numbers of that type as floats
 *     v_q4(words, j) v_q3(words, j)   levels of the j-th codes of W words of eight
 *     U of W words; u_q4(p), u_q3(p, lanes)
 *     FEW_V, MANY_Q, MANY_V           tiles: 4 queries by FEW_V registers, MANY_Q by MANY_V
 *
 * A few queries (the decode step) read the block as it is stored.  For many (a prompt) a
 * panel of it is first widened to floats in the first cache.  Both sum in order of rows. */
#include "kern/attn.h"

#define INLINE static inline __attribute__((always_inline))

enum { FEW_Q = 4, FEW_MOST = 8, PANEL_ROWS = 256, PANEL = MANY_V * W };

/* Row 8 r + j, W lanes from l. */
INLINE V level(kv_type t, const void *w, size_t lanes, size_t r, size_t j, size_t l)
{
    size_t at = (8 * r + j) * lanes + l;
    switch (t) {
    case KV_F32:
        return v_load((const float *)w + at);
    case KV_F16:
        return v_f16((const uint16_t *)w + at);
    case KV_Q8:
        return v_i8((const int8_t *)w + at);
    case KV_Q4:
        return v_q4(u_q4((const uint8_t *)w + (r * lanes + l) * 4), (int)j);
    default:
        return v_q3(u_q3((const uint8_t *)w + r * 3 * lanes + l, lanes), (int)j);
    }
}

/* One variable per sum: compilers keep variables in registers but store an array of them
 * in every step.  Sum t is of query t / nv and register t % nv. */
#define SUMS(X)                                                                            \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

/* rows_w: rows in memory's order of w; `stride`: its lanes. */
INLINE void tile(kv_type t, size_t nq, size_t nv, const void *w, size_t stride, size_t rows,
                 size_t l, const float *a, size_t lda, float *y, size_t ldy, bool add)
{
#define START(t_)                                                                          \
    V s##t_ = t_ < nq * nv && add ? v_load(y + t_ / nv * ldy + t_ % nv * W) : v_set(0);
    SUMS(START)
#undef START
    for (size_t r = 0; r < rows / 8; r++) {
#define STEP(t_)                                                                           \
    if (t_ < nq * nv)                                                                      \
        s##t_ = v_fma(v_set(a[t_ / nv * lda + 8 * r + j]),                                 \
                      t_ % nv == 0   ? w0                                                  \
                      : t_ % nv == 1 ? w1                                                  \
                      : t_ % nv == 2 ? w2                                                  \
                                     : w3,                                                 \
                      s##t_);
#define ROW(j_)                                                                            \
    {                                                                                      \
        enum { j = j_ };                                                                   \
        V w0 = level(t, w, stride, r, j, l);                                               \
        V w1 = nv > 1 ? level(t, w, stride, r, j, l + W) : w0;                             \
        V w2 = nv > 2 ? level(t, w, stride, r, j, l + 2 * W) : w0;                         \
        V w3 = nv > 3 ? level(t, w, stride, r, j, l + 3 * W) : w0;                         \
        SUMS(STEP)                                                                         \
    }
        ROW(0) ROW(1) ROW(2) ROW(3) ROW(4) ROW(5) ROW(6) ROW(7)
#undef ROW
#undef STEP
    }
#define FINISH(t_)                                                                         \
    if (t_ < nq * nv)                                                                      \
        v_store(y + t_ / nv * ldy + t_ % nv * W, s##t_);
    SUMS(FINISH)
#undef FINISH
}

/* Up to FEW_Q queries over all lanes. */
INLINE void few_queries(kv_type t, size_t nq, const kv_product *p, size_t i)
{
    const float *a = p->a + i * p->lda;
    float *y = p->y + i * p->ldy;
    size_t l = 0;
    for (; l + FEW_V * W <= p->lanes; l += FEW_V * W)
        tile(t, nq, FEW_V, p->w, p->lanes, p->rows, l, a, p->lda, y + l, p->ldy, p->add);
    for (; l < p->lanes; l += W)
        tile(t, nq, 1, p->w, p->lanes, p->rows, l, a, p->lda, y + l, p->ldy, p->add);
}

INLINE void few(kv_type t, const kv_product *p)
{
    for (size_t i = 0; i < p->n; i += FEW_Q)
        switch (size_min(p->n - i, FEW_Q)) {
        case 1:
            few_queries(t, 1, p, i);
            break;
        case 2:
            few_queries(t, 2, p, i);
            break;
        case 3:
            few_queries(t, 3, p, i);
            break;
        default:
            few_queries(t, 4, p, i);
            break;
        }
}

/* Rows [r0, r0 + rows) of PANEL lanes, widened. */
typedef struct {
    float w[PANEL_ROWS * PANEL];
} panel;

INLINE void widen(kv_type t, const kv_product *p, size_t r0, size_t rows, size_t l,
                  panel *to)
{
    for (size_t r = 0; r < rows / 8; r++)
        for (size_t v = 0; v < MANY_V; v++) {
            float *out = to->w + 8 * r * PANEL + v * W;
#define ROW(j) v_store(out + j * PANEL, level(t, p->w, p->lanes, r0 / 8 + r, j, l + v * W));
            ROW(0) ROW(1) ROW(2) ROW(3) ROW(4) ROW(5) ROW(6) ROW(7)
#undef ROW
        }
}

INLINE void many_queries(const panel *w, size_t rows, const kv_product *p, size_t r0,
                         size_t l)
{
    bool add = p->add || r0;
    size_t i = 0;
    for (; i + MANY_Q <= p->n; i += MANY_Q)
        tile(KV_F32, MANY_Q, MANY_V, w->w, PANEL, rows, 0, p->a + i * p->lda + r0, p->lda,
             p->y + i * p->ldy + l, p->ldy, add);
    for (; i < p->n; i++)
        tile(KV_F32, 1, MANY_V, w->w, PANEL, rows, 0, p->a + i * p->lda + r0, p->lda,
             p->y + i * p->ldy + l, p->ldy, add);
}

INLINE void product(kv_type t, const kv_product *p)
{
    if (p->n <= FEW_MOST || p->lanes % PANEL) {
        few(t, p);
        return;
    }
    panel w;
    for (size_t l = 0; l < p->lanes; l += PANEL)
        for (size_t r0 = 0; r0 < p->rows; r0 += PANEL_ROWS) {
            size_t rows = size_min(p->rows - r0, PANEL_ROWS);
            widen(t, p, r0, rows, l, &w);
            many_queries(&w, rows, p, r0, l);
        }
}

static void product_f32(const kv_product *p) { product(KV_F32, p); }
static void product_f16(const kv_product *p) { product(KV_F16, p); }
static void product_q8(const kv_product *p) { product(KV_Q8, p); }
static void product_q4(const kv_product *p) { product(KV_Q4, p); }
static void product_q3(const kv_product *p) { product(KV_Q3, p); }

#define ATTN_PRODUCTS                                                                      \
    {                                                                                      \
        product_f32, product_f16, product_q8, product_q4, product_q3                       \
    }
