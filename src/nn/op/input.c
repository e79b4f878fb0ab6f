/* input.c - into and out of the planned block, and rows picked by index. */
#include "nn/op.h"

nn_tensor *nn_input(nn *c, const float *x, uint32_t rows, uint32_t cols)
{
    nn_tensor *y = nn_new(c, rows, cols);
    if (nn_live(c))
        op_copy(c, y->data, x, op_count(y));
    return y;
}

void nn_output(nn *c, const nn_tensor *x, float *out)
{
    nn_touch(c, x);
    if (nn_live(c))
        op_copy(c, out, x->data, op_count(x));
}

/* ---- rows ------------------------------------------------------------------------------
 */

typedef struct {
    nn_tensor *x, *y;
    const uint32_t *row;
} picked;

/* y_i = x_row(i), so dx_row(i) += dy_i; a row may be picked twice. */
static void rows_back(nn *c, void *saved)
{
    picked *s = saved;
    const float *dy = nn_grad_in(c, s->y);
    bool fresh;
    float *dx = dy ? nn_grad(c, s->x, &fresh) : NULL;
    if (!dx || !nn_live(c))
        return;
    size_t cols = s->x->cols;
    if (fresh)
        memset(dx, 0, op_count(s->x) * sizeof(float));
    for (uint32_t i = 0; i < s->y->rows; i++)
        c->k->add(dx + s->row[i] * cols, dx + s->row[i] * cols, dy + i * cols, cols);
}

nn_tensor *nn_rows(nn *c, nn_tensor *x, const uint32_t *row, uint32_t n)
{
    nn_tensor *y = nn_new(c, n, x->cols);
    nn_touch(c, x);
    y->needs_grad = x->needs_grad;
    for (uint32_t i = 0; !c->dry && i < n; i++)
        if (row[i] >= x->rows)
            nn_fail(c, OM_EARG, "nn: row %u of %u asked for", row[i], x->rows);
    if (nn_live(c))
        for (uint32_t i = 0; i < n; i++)
            memcpy(op_row(y, i), op_row(x, row[i]), x->cols * sizeof(float));
    if (y->needs_grad)
        nn_push(c, rows_back, &(picked){x, y, row}, sizeof(picked));
    return y;
}
