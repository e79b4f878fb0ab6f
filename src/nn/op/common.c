/* common.c - the few loops that several ops share. */
#include "nn/op.h"

enum { SPAN = 16384, COLS = 64 };

typedef struct {
    const kern *k;
    float *y;
    const float *x;
    size_t rows, cols;
} job;

static void accumulate(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    j->k->add(j->y + beg, j->y + beg, j->x + beg, end - beg);
}

void op_accumulate(nn *c, float *y, const float *x, size_t n)
{
    job j = {.k = c->k, .y = y, .x = x};
    pool_run(c->pool, n, SPAN, accumulate, &j);
}

static void copy(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    memcpy(j->y + beg, j->x + beg, (end - beg) * sizeof(float));
}

void op_copy(nn *c, float *y, const float *x, size_t n)
{
    job j = {.y = y, .x = x};
    pool_run(c->pool, n, SPAN, copy, &j);
}

static void col_sum(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    for (size_t i = 0; i < j->rows; i++)
        j->k->add(j->y + beg, j->y + beg, j->x + i * j->cols + beg, end - beg);
}

void op_col_sum(nn *c, float *dst, const float *x, size_t rows, size_t cols)
{
    job j = {.k = c->k, .y = dst, .x = x, .rows = rows, .cols = cols};
    pool_run(c->pool, cols, COLS, col_sum, &j);
}

/* ---- products with a weight ------------------------------------------------------------
 */

bool op_quantized(const nn *c, const nn_weight *w)
{
    return w->type != DTYPE_F32 && !c->exact && (!c->train || c->quant_train) &&
           qmat_supported(w->type);
}

size_t op_matmul_bytes(const nn *c, const nn_weight *w, size_t m)
{
    return op_quantized(c, w) ? qmat_bytes(c->k, w->type, m, w->rows, w->cols, c->pool)
                              : gemm_bytes(c->k, m, w->rows, w->cols, c->pool);
}

void op_product(nn *c, gemm_args *g, arena scratch)
{
    g->precision = dtype_of(g->b_type)->block > 1 ? c->quantized : c->precision;
    gemm(c->k, c->pool, g, scratch);
}

void op_matmul(nn *c, const nn_weight *w, const float *x, float *y, size_t m, void *scratch,
               size_t scratch_bytes)
{
    arena a = arena_of(scratch, scratch_bytes);
    if (op_quantized(c, w)) {
        qmat(c->k, c->pool, w->type, w->data, x, w->cols, y, w->rows, m, w->rows, w->cols,
             a);
        return;
    }
    gemm_args g = {.m = m,
                   .n = w->rows,
                   .k = w->cols,
                   .a = x,
                   .lda = w->cols,
                   .b = w->data,
                   .ldb = w->cols,
                   .b_type = w->type,
                   .b_t = true,
                   .c = y,
                   .ldc = w->rows,
                   .alpha = 1.0f};
    op_product(c, &g, a);
}

/* ---- products with several matrices of one shape ---------------------------------------
 */

size_t op_matmul_parts_bytes(const nn *c, const nn_weight *w, size_t m)
{
    return op_quantized(c, w) ? qmat_stack_bytes(c->k, w->type, m, w->rows, w->cols, c->pool)
                              : op_matmul_bytes(c, w, m);
}

void op_matmul_parts(nn *c, const nn_weight *w, const qmat_part *part, uint32_t n,
                     const float *x, float *y, void *scratch, size_t scratch_bytes)
{
    size_t rows = 0;
    for (uint32_t i = 0; i < n; i++)
        rows += part[i].end - part[i].beg;
    if (op_quantized(c, w) && rows <= QMAT_STACK_ROWS) {
        qmat_stack(c->k, c->pool, w->type, part, n, x, y, w->rows, w->cols,
                   arena_of(scratch, scratch_bytes));
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        nn_weight one = *w;
        one.data = part[i].w;
        op_matmul(c, &one, x + part[i].beg * w->cols, y + part[i].beg * w->rows,
                  part[i].end - part[i].beg, scratch, scratch_bytes);
    }
}
