/* cross_entropy.h - inside nn/loss: one row of -log softmax(x)[target]. */
#ifndef NN_LOSS_CROSS_ENTROPY_H
#define NN_LOSS_CROSS_ENTROPY_H

#include "nn/op.h"

/* Rows of logits with their targets; what is NULL is not written. */
typedef struct {
    const kern *k;
    const float *x;        /* (rows, n) logits; may be grad */
    const int32_t *target; /* (rows) */
    size_t n;
    float *nll;       /* (rows) NaN where not counted */
    float *grad;      /* (rows, n) factor * (softmax - onehot); 0 where not counted */
    uint8_t *correct; /* (rows) */
    float *exps;      /* per worker (n), when grad is NULL */
    float factor;
} softmax_rows;

void softmax_rows_run(pool *p, const softmax_rows *s, size_t rows);
/* Fail when a target is not below n; else how many are counted. */
uint64_t loss_count(nn *c, const int32_t *target, size_t rows, size_t n);
/* Sum up, in order, into *out, which keeps row_nll (filled when not NULL). */
void loss_sum(nn_loss *out, const int32_t *target, const float *nll, const uint8_t *correct,
              size_t rows);

#endif
