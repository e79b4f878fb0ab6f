/* mse.c - mean over rows of the squared distance to the target, |y_i - t_i|^2.
 *
 *     sum = sum of |y_i - t_i|^2,  dy = 2 (y - t) grad_scale / rows */
#include "nn/op.h"

typedef struct {
    nn_tensor *y;
    const float *target;
    float grad_scale;
} seeded;

static void back(nn *c, void *saved)
{
    seeded *s = saved;
    bool fresh;
    float *dy = nn_grad(c, s->y, &fresh);
    nn_touch(c, s->y);
    if (!dy || !nn_live(c))
        return;
    float f = 2.0f * s->grad_scale / (float)s->y->rows;
    for (size_t i = 0; i < op_count(s->y); i++) {
        float g = f * (s->y->data[i] - s->target[i]);
        dy[i] = fresh ? g : dy[i] + g;
    }
}

void nn_mse(nn *c, nn_tensor *y, const float *target, float grad_scale, nn_loss *out)
{
    nn_touch(c, y);
    if (y->needs_grad)
        nn_push(c, back, &(seeded){y, target, grad_scale}, sizeof(seeded));
    if (!nn_live(c))
        return;
    out->sum = 0;
    out->rows = y->rows;
    out->correct = 0;
    for (size_t i = 0; i < y->rows; i++) {
        double row = 0;
        for (size_t k = i * y->cols; k < (i + 1) * y->cols; k++) {
            double d = (double)y->data[k] - (double)target[k];
            row += d * d;
        }
        out->sum += row;
        if (out->row_nll)
            out->row_nll[i] = (float)row;
    }
}
