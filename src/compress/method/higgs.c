/* higgs.c - rotated Gaussian grids and trellises (kern/higgs.h).
 *
 * Without data: every block is scaled to its own root mean square and coded; the relative
 * error is the code book's, whatever the weights.  With a calibration text errors are fed
 * back between columns as in gptq.c, in rotated coordinates: if H holds the inputs'
 * second moments, those of rotated inputs are R H R^T, and positions are rounded in coding
 * order.  (Malinovskii et al. 2024 is data-free; the feedback is QuIP#'s and QTIP's, Tseng
 * et al. 2024.)
 *
 * A grid of p dimensions is searched exactly: the errors within a vector act on each
 * other through U like those between vectors. */
#include "compress/trellis.h"
#include "compress/method.h"

#include <math.h>

typedef struct {
    const quant_rows *j;
    const higgs_type *h;
} job;

/* ---- a block of a grid ------------------------------------------------------------- */

typedef struct {
    const higgs_type *h;
    float d;
    const float *w, *u, *weight; /* u NULL: no feedback */
    size_t ldu;
} vector_job;

/* The point for positions [i, i + p) with targets t; q their values. */
static uint8_t nearest_point(const vector_job *v, size_t i, const float *t, float *q)
{
    size_t p = v->h->p, best = 0;
    float least = INFINITY;
    for (size_t c = 0; c < v->h->n; c++) {
        float e[4], cost = 0;
        for (size_t k = 0; k < p; k++) {
            float g = v->d * (float)v->h->value[k * v->h->n + c], target = t[k];
            for (size_t b = 0; v->u && b < k; b++)
                target += e[b] * v->u[(i + b) * v->ldu + i + k];
            e[k] = v->w[i + k] - g;
            cost += (v->weight ? v->weight[i + k] : 1) * (target - g) * (target - g);
        }
        if (cost < least) {
            least = cost;
            best = c;
        }
    }
    for (size_t k = 0; k < p; k++)
        q[k] = v->d * (float)v->h->value[k * v->h->n + best];
    return (uint8_t)best;
}

static void grid_path(const vector_job *v, const float *t, uint8_t *code, float *q)
{
    float x[QK];
    size_t p = v->h->p;
    memcpy(x, t, sizeof(x));
    for (size_t i = 0; i < QK; i += p) {
        code[i / p] = nearest_point(v, i, x + i, q + i);
        for (size_t k = i; v->u && k < i + p; k++) {
            float e = v->w[k] - q[k];
            for (size_t later = i + p; later < QK; later++)
                x[later] += e * v->u[k * v->ldu + later];
        }
    }
}

/* ---- a row ------------------------------------------------------------------------- */

/* Scale that serves values x coded as q = d g best, d being what it was. */
static float refit(const float *x, const float *q, float d)
{
    double xq = 0, qq = 0;
    for (size_t i = 0; i < QK; i++) {
        xq += (double)x[i] * (double)q[i];
        qq += (double)q[i] * (double)q[i];
    }
    return qq > 0 && xq > 0 ? (float)((double)d * xq / qq) : d;
}

static void code_block(const job *b, size_t k0, float d, const float *t, const float *w,
                       uint8_t *code, float *q)
{
    const ldl *f = b->j->f;
    const float *u = f ? f->u + k0 * f->n + k0 : NULL, *weight = f ? f->d + k0 : NULL;
    size_t ldu = f ? f->n : 0;
    if (b->h->p)
        grid_path(&(vector_job){b->h, d, w, u, weight, ldu}, t, code, q);
    else
        trellis_path(&(trellis_job){b->h, d, t, w, u, ldu, weight}, code, q);
}

/* One block in coding order. */
static void round_block(void *ctx, size_t row, size_t k0, size_t n, const float *t,
                        const float *w, float *q)
{
    const job *b = ctx;
    const quant_rows *j = b->j;
    uint8_t *out = j->out + row * j->row_bytes + k0 / QK * HIGGS_BYTES(b->h->bits),
            code[QK];
    double sum = 0;
    BUG_IF(n != QK);
    for (size_t i = 0; i < QK; i++)
        sum += (double)t[i] * (double)t[i];
    float d = f16_to_f32(f32_to_f16((float)sqrt(sum / QK) * b->h->unit));
    code_block(b, k0, d, t, w, code, q);
    if (!j->f) { /* the scale the codes would have liked */
        d = f16_to_f32(f32_to_f16(refit(t, q, d)));
        code_block(b, k0, d, t, w, code, q);
    }
    higgs_put(b->h, d, code, out);
}

static void rotate_rows(void *ctx, size_t beg, size_t end, int worker)
{
    const struct {
        const job *b;
        float *to;
    } *c = ctx;
    const quant_rows *j = c->b->j;
    (void)worker;
    for (size_t r = beg; r < end; r++)
        for (size_t at = 0; at < j->cols; at += QK) {
            float x[QK], *to = c->to + r * j->cols + at;
            memcpy(x, j->w + r * j->cols + at, sizeof(x));
            higgs_rotate(x, QK);
            for (size_t i = 0; i < QK; i++)
                to[i] = x[higgs_column(c->b->h, i)];
        }
}

static om_status encode(const quant_rows *j, om_err *err)
{
    job b = {j, higgs_of(j->type)};
    if (!b.h)
        return quant_encode_grid(j, err);
    float *w = mem_array(j->rows, j->cols * sizeof(float));
    if (!w)
        return fail(err, OM_ENOMEM, "quantize: no memory for %zu rotated rows", j->rows);
    struct {
        const job *b;
        float *to;
    } r = {&b, w};
    pool_run(j->pool, j->rows, 1, rotate_rows, &r);
    om_status s =
        ldl_run(j->f, w, j->rows, j->cols, QK, j->k, j->pool, round_block, &b, err);
    mem_free(w);
    return s;
}

static const dtype candidates[] = {DTYPE_HT2,  DTYPE_HT3,  DTYPE_HT4, DTYPE_HT5,
                                   DTYPE_Q6_K, DTYPE_Q8_0, DTYPE_F32};

const quant_method quant_higgs = {
    .name = "higgs",
    .summary = "rotated Gaussian grids and trellises, our own types",
    .source =
        "Malinovskii et al. 2024, arXiv:2411.17525; Tseng et al. 2024, arXiv:2406.11235",
    .wants = QUANT_FULL,
    .of_bits = {[2] = DTYPE_HT2,
                [3] = DTYPE_HT3,
                [4] = DTYPE_HT4,
                [5] = DTYPE_HT5,
                [8] = DTYPE_H8_P1},
    .candidates = candidates,
    .encode = encode,
};
