/* code.c - rows of a matrix into the standard types: see method.h. */
#include "compress/grid.h"
#include "compress/method.h"

#include <math.h>

#define X(name) extern const quant_method quant_##name;
#include "compress/list.h"
QUANT_METHOD_LIST(X)
#undef X

const quant_method *const quant_methods[] = {
#define X(name) &quant_##name,
    QUANT_METHOD_LIST(X)
#undef X
        NULL};

const dtype quant_standard[] = {DTYPE_Q2_K, DTYPE_Q3_K, DTYPE_IQ4_XS, DTYPE_Q4_K,
                                DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_Q8_0,   DTYPE_F32};

const quant_method *quant_method_find(str name)
{
    for (size_t i = 0; quant_methods[i]; i++)
        if (str_is(name, quant_methods[i]->name))
            return quant_methods[i];
    return NULL;
}

/* ---- as it comes ------------------------------------------------------------------- */

static void pack_rows(void *ctx, size_t beg, size_t end, int worker)
{
    const quant_rows *j = ctx;
    const dtype_traits *t = dtype_of(j->type);
    (void)worker;
    for (size_t r = beg; r < end; r++)
        t->pack(j->w + r * j->cols, j->out + r * j->row_bytes, j->cols);
}

om_status quant_encode_plain(const quant_rows *j, om_err *err)
{
    if (!dtype_of(j->type)->pack)
        return fail(err, OM_EUNSUPPORTED, "quantize: %s cannot be packed by this method",
                    dtype_of(j->type)->name);
    pool_run(j->pool, j->rows, 1, pack_rows, (void *)j);
    return OM_OK;
}

/* ---- by grid ----------------------------------------------------------------------- */

typedef struct {
    const quant_rows *j;
    const grid *g;
} grid_job;

/* What an error in each column counts: its share of the loss after feedback, or its
 * importance, larger values counting more. */
static void weigh(const quant_rows *j, size_t k, size_t n, const float *x, float *out)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    float sigma2 = (float)(2 * sum / (double)n);
    for (size_t i = 0; i < n; i++) {
        float large = sqrtf(sigma2 + x[i] * x[i]);
        out[i] = j->f ? j->f->d[k + i] : j->mean ? j->mean[k + i] * large : 1;
    }
}

/* Columns [k0, k0 + n) of one row: blocks in order, each fitted to what the errors so far
 * made of its targets, then rounded column by column. */
static void round_row(void *ctx, size_t row, size_t k0, size_t n, const float *t,
                      const float *w, float *q)
{
    const grid_job *job = ctx;
    const quant_rows *j = job->j;
    const grid *g = job->g;
    uint8_t *out = j->out + row * j->row_bytes + k0 / g->block * dtype_of(g->type)->bytes;
    float x[QK], weight[QK];
    memcpy(x, t, n * sizeof(float));
    for (size_t at = 0; at < n; at += g->block, out += dtype_of(g->type)->bytes) {
        grid_block b;
        weigh(j, k0 + at, g->block, x + at, weight);
        grid_fit(g, x + at, weight, &b);
        for (size_t i = 0; i < g->block; i++) {
            size_t c = at + i;
            q[c] = grid_round(g, &b, i, x[c], &b.c.l[i]);
            if (!j->f)
                continue;
            const float *u = j->f->u + (k0 + c) * j->f->n + k0;
            float e = w[c] - q[c];
            for (size_t later = c + 1; later < n; later++)
                x[later] += e * u[later];
        }
        grid_put(g, &b, out);
    }
}

om_status quant_encode_grid(const quant_rows *j, om_err *err)
{
    grid_job job = {j, grid_of(j->type)};
    if (!job.g)
        return quant_encode_plain(j, err);
    return ldl_run(j->f, j->w, j->rows, j->cols, size_min(QK, j->cols), j->k, j->pool,
                   round_row, &job, err);
}
