/* layernorm.c - layer normalisation (Ba, Kiros and Hinton 2016).
 *
 *     z = (x - mean) r,  r = 1 / sqrt(variance + eps),  y = w z + b
 *     dz = w dy
 *     dx = r (dz - mean(dz) - z mean(dz z))    dw += sum dy z    db += sum dy
 *
 * Kept: x, and (mean, r) of each row. */
#include "nn/op.h"

#include <math.h>

typedef struct {
    nn_tensor *x, *y, *stat; /* stat (rows, 2): mean, r */
    const nn_weight *w, *b;
    float eps;
} norm;

typedef struct {
    const norm *s;
    const float *dy;
    float *dx;
    bool fresh;
} job;

static void forward(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    const norm *s = j->s;
    const float *w = s->w->data, *b = s->b ? s->b->data : NULL;
    size_t n = s->x->cols;
    (void)worker;
    for (size_t i = beg; i < end; i++) {
        const float *x = op_row(s->x, i);
        float *y = op_row(s->y, i);
        double sum = 0, sq = 0;
        for (size_t k = 0; k < n; k++)
            sum += (double)x[k];
        double mean = sum / (double)n;
        for (size_t k = 0; k < n; k++) {
            double d = (double)x[k] - mean;
            sq += d * d;
        }
        float m = (float)mean, r = (float)(1.0 / sqrt(sq / (double)n + (double)s->eps));
        for (size_t k = 0; k < n; k++)
            y[k] = w[k] * ((x[k] - m) * r) + (b ? b[k] : 0.0f);
        s->stat->data[2 * i] = m;
        s->stat->data[2 * i + 1] = r;
    }
}

static void back_x(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    const norm *s = j->s;
    const float *w = s->w->data;
    size_t n = s->x->cols;
    (void)worker;
    for (size_t i = beg; i < end; i++) {
        const float *x = op_row(s->x, i), *dy = j->dy + i * n;
        float m = s->stat->data[2 * i], r = s->stat->data[2 * i + 1];
        float *dx = j->dx + i * n;
        double sum = 0, dot = 0;
        for (size_t k = 0; k < n; k++) {
            double dz = (double)(w[k] * dy[k]);
            sum += dz;
            dot += dz * (double)((x[k] - m) * r);
        }
        float a = (float)(sum / (double)n), b = (float)(dot / (double)n);
        for (size_t k = 0; k < n; k++) {
            float g = r * (w[k] * dy[k] - a - (x[k] - m) * r * b);
            dx[k] = j->fresh ? g : dx[k] + g;
        }
    }
}

static void back_w(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    const norm *s = j->s;
    size_t n = s->x->cols;
    (void)worker;
    for (size_t i = 0; i < s->x->rows; i++) {
        const float *x = op_row(s->x, i), *dy = j->dy + i * n;
        float m = s->stat->data[2 * i], r = s->stat->data[2 * i + 1];
        for (size_t k = beg; k < end; k++)
            s->w->grad[k] += dy[k] * ((x[k] - m) * r);
    }
}

static void back(nn *c, void *saved)
{
    norm *s = saved;
    job j = {.s = s, .dy = nn_grad_in(c, s->y)};
    if (!j.dy)
        return;
    j.dx = nn_grad(c, s->x, &j.fresh);
    nn_touch(c, s->x);
    nn_touch(c, s->stat);
    if (!nn_live(c))
        return;
    if (j.dx)
        pool_run(c->pool, s->x->rows, op_grain(s->x->cols), back_x, &j);
    if (s->w->grad)
        pool_run(c->pool, s->x->cols, 64, back_w, &j);
    if (op_trains(s->b))
        op_col_sum(c, s->b->grad, j.dy, s->x->rows, s->x->cols);
}

static bool vector_of(const nn_weight *w, uint32_t cols)
{
    return w->type == DTYPE_F32 && w->cols == cols;
}

nn_tensor *nn_layernorm(nn *c, nn_tensor *x, const nn_weight *w, const nn_weight *b,
                        float eps)
{
    norm s = {.x = x, .y = nn_new(c, x->rows, x->cols), .w = w, .b = b, .eps = eps};
    if (!vector_of(w, x->cols) || (b && !vector_of(b, x->cols))) {
        nn_fail(c, OM_EARG, "nn: %s and its bias must have %u columns in F32",
                w->name ? w->name : "a layer norm", x->cols);
        return s.y;
    }
    s.stat = nn_new(c, x->rows, 2);
    s.y->needs_grad = x->needs_grad || w->grad || op_trains(b);
    nn_touch(c, x);
    job j = {.s = &s};
    if (nn_live(c))
        pool_run(c->pool, x->rows, op_grain(x->cols), forward, &j);
    if (s.y->needs_grad)
        nn_push(c, back, &s, sizeof(s));
    return s.y;
}
