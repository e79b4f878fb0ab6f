/* op.h - inside nn: what the files in op/ and loss/ share. */
#ifndef NN_OP_H
#define NN_OP_H

#include "nn/nn.h"

/* Rows per chunk so that a chunk is worth a hand-over to another thread.  Depends on
 * the shape alone, as everything that cuts work must. */
static inline size_t op_grain(size_t cols)
{
    return size_max(16384 / size_max(cols, 1), 1);
}

static inline bool op_trains(const nn_weight *w) { return w && w->grad; }

static inline float *op_row(const nn_tensor *t, size_t i) { return t->data + i * t->cols; }

static inline size_t op_count(const nn_tensor *t) { return (size_t)t->rows * t->cols; }

/* y += x, both n. */
void op_accumulate(nn *c, float *y, const float *x, size_t n);
void op_copy(nn *c, float *y, const float *x, size_t n);
/* dst (cols) += column sums of x (rows, cols), rows in order. */
void op_col_sum(nn *c, float *dst, const float *x, size_t rows, size_t cols);
/* True when y = x W^T goes through the integer kernels. */
bool op_quantized(const nn *c, const nn_weight *w);
/* A product of the run's precision for its kind of B. */
void op_product(nn *c, gemm_args *g, arena scratch);
/* y (m, w->rows) = x (m, w->cols) W^T; scratch of op_matmul_bytes. */
size_t op_matmul_bytes(const nn *c, const nn_weight *w, size_t m);
void op_matmul(nn *c, const nn_weight *w, const float *x, float *y, size_t m, void *scratch,
               size_t scratch_bytes);
/* The same with several matrices of the shape and type of w, each for its rows of x and y. */
size_t op_matmul_parts_bytes(const nn *c, const nn_weight *w, size_t m);
void op_matmul_parts(nn *c, const nn_weight *w, const qmat_part *part, uint32_t n,
                     const float *x, float *y, void *scratch, size_t scratch_bytes);

#endif
