/* rmsnorm.c - RMS normalisation (Zhang and Sennrich 2019), whole rows or head by head.
 *
 *     y = w x r,  r = 1 / sqrt(mean(x^2) + eps)
 *     dx = r (w dy - x r^2 mean(w dy x))      dw += sum over rows of dy x r
 *
 * One routine serves both: a row is cut into groups of w->cols numbers.  Only x is kept;
 * r, one number per group, is saved because recomputing it would read x twice. */
#include "nn/op.h"

typedef struct {
    nn_tensor *x, *y, *r; /* r (rows, groups) */
    const nn_weight *w;
    float eps;
} norm;

typedef struct {
    const norm *s;
    const kern *k;
    const float *dy;
    float *dx;
    bool fresh;
} job;

static void forward(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    const norm *s = j->s;
    size_t d = s->w->cols;
    (void)worker;
    for (size_t i = beg; i < end; i++)
        s->r->data[i] =
            j->k->rmsnorm(s->y->data + i * d, s->x->data + i * d, s->w->data, s->eps, d);
}

static void back_group(float *dx, const float *dy, const float *x, const float *w, float r,
                       bool fresh, size_t d)
{
    float part[8] = {0};
    size_t whole = d & ~(size_t)7;
    for (size_t i = 0; i < whole; i += 8)
        for (size_t l = 0; l < 8; l++)
            part[l] += w[i + l] * dy[i + l] * x[i + l];
    float sum = ((part[0] + part[4]) + (part[1] + part[5])) +
                ((part[2] + part[6]) + (part[3] + part[7]));
    for (size_t i = whole; i < d; i++)
        sum += w[i] * dy[i] * x[i];
    float t = sum * r * r * r / (float)d;
    if (fresh)
        for (size_t i = 0; i < d; i++)
            dx[i] = r * w[i] * dy[i] - t * x[i];
    else
        for (size_t i = 0; i < d; i++)
            dx[i] += r * w[i] * dy[i] - t * x[i];
}

static void back_x(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    const norm *s = j->s;
    size_t d = s->w->cols;
    (void)worker;
    for (size_t i = beg; i < end; i++)
        back_group(j->dx + i * d, j->dy + i * d, s->x->data + i * d, s->w->data,
                   s->r->data[i], j->fresh, d);
}

static void back_w(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    const norm *s = j->s;
    size_t d = s->w->cols, n = (size_t)s->r->rows * s->r->cols;
    (void)worker;
    for (size_t i = 0; i < n; i++) {
        const float *x = s->x->data + i * d, *dy = j->dy + i * d;
        float r = s->r->data[i];
        for (size_t k = beg; k < end; k++)
            s->w->grad[k] += dy[k] * x[k] * r;
    }
}

static void back(nn *c, void *saved)
{
    norm *s = saved;
    job j = {.s = s, .k = c->k, .dy = nn_grad_in(c, s->y)};
    if (!j.dy)
        return;
    j.dx = nn_grad(c, s->x, &j.fresh);
    nn_touch(c, s->x);
    nn_touch(c, s->r);
    if (!nn_live(c))
        return;
    if (j.dx)
        pool_run(c->pool, op_count(s->r), op_grain(s->w->cols), back_x, &j);
    if (s->w->grad)
        pool_run(c->pool, s->w->cols, 64, back_w, &j);
}

static nn_make again;

static nn_tensor *normalise(nn *c, nn_tensor *x, const nn_weight *w, float eps)
{
    norm s = {.x = x, .y = nn_new(c, x->rows, x->cols), .w = w, .eps = eps};
    if (w->cols == 0 || x->cols % w->cols || w->type != DTYPE_F32) {
        nn_fail(c, OM_EARG,
                "nn: %s has %u columns of type %d; F32 and a divisor of %u "
                "expected",
                w->name ? w->name : "a norm", w->cols, w->type, x->cols);
        return s.y;
    }
    s.r = nn_new(c, x->rows, x->cols / w->cols);
    s.y->needs_grad = x->needs_grad || w->grad;
    nn_touch(c, x);
    job j = {.s = &s, .k = c->k};
    if (nn_live(c))
        pool_run(c->pool, op_count(s.r), op_grain(w->cols), forward, &j);
    if (s.y->needs_grad) {
        nn_push(c, back, &s, sizeof(s));
        nn_remakes(c, s.y, again, &s, sizeof(s));
    }
    return s.y;
}

static nn_tensor *again(nn *c, const void *saved)
{
    const norm *s = saved;
    return normalise(c, s->x, s->w, s->eps);
}

nn_tensor *nn_rmsnorm(nn *c, nn_tensor *x, const nn_weight *w, float eps)
{
    if (w->cols != x->cols)
        nn_fail(c, OM_EARG, "nn: %s has %u columns, its input %u",
                w->name ? w->name : "a norm", w->cols, x->cols);
    return normalise(c, x, w, eps);
}

nn_tensor *nn_rmsnorm_heads(nn *c, nn_tensor *x, const nn_weight *w, float eps)
{
    return normalise(c, x, w, eps);
}
