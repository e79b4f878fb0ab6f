/* elementwise.c - add, scale, SiLU gate, GELU (tanh form), ReLU, tanh.
 *
 * Backwards recompute the cheap inner function from what the forward read, or from its
 * output where that is enough (ReLU, tanh), and work in the gradient's own buffer when
 * the input has no gradient yet. */
#include "nn/op.h"

#include <math.h>

enum { SPAN = 8192 };

typedef struct {
    nn_tensor *a, *b, *y;
    float s;
} elem;

typedef struct {
    const kern *k;
    float *y, *y2;
    const float *a, *b, *dy;
    float s;
} job;

static nn_tensor *open_op(nn *c, nn_tensor *a, nn_tensor *b)
{
    nn_tensor *y = nn_new(c, a->rows, a->cols);
    if (b && (b->rows != a->rows || b->cols != a->cols))
        nn_fail(c, OM_EARG, "nn: shapes (%u, %u) and (%u, %u) differ", a->rows, a->cols,
                b->rows, b->cols);
    y->needs_grad = a->needs_grad || (b && b->needs_grad);
    nn_touch(c, a);
    if (b)
        nn_touch(c, b);
    return y;
}

static nn_tensor *close_op(nn *c, elem s, pool_fn *fn, nn_back *back)
{
    job j = {
        .k = c->k, .y = s.y->data, .a = s.a->data, .b = s.b ? s.b->data : NULL, .s = s.s};
    if (nn_live(c))
        pool_run(c->pool, op_count(s.y), SPAN, fn, &j);
    if (s.y->needs_grad)
        nn_push(c, back, &s, sizeof(s));
    return s.y;
}

/* ---- add: da += dy, db += dy
 * -------------------------------------------------------------- */

static void add(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    j->k->add(j->y + beg, j->a + beg, j->b + beg, end - beg);
}

static void pass_on(nn *c, nn_tensor *x, const float *dy)
{
    bool fresh;
    float *dx = nn_grad(c, x, &fresh);
    if (!dx || !nn_live(c))
        return;
    if (fresh)
        op_copy(c, dx, dy, op_count(x));
    else
        op_accumulate(c, dx, dy, op_count(x));
}

static void add_back(nn *c, void *saved)
{
    elem *s = saved;
    const float *dy = nn_grad_in(c, s->y);
    if (!dy)
        return;
    /* b first: a may then take dy's buffer over and later add to it. */
    pass_on(c, s->b, dy);
    if (!nn_grad_take(c, s->a, s->y))
        pass_on(c, s->a, nn_grad_in(c, s->y));
}

nn_tensor *nn_add(nn *c, nn_tensor *a, nn_tensor *b)
{
    return close_op(c, (elem){a, b, open_op(c, a, b), 0}, add, add_back);
}

/* ---- scale: dx += s dy
 * --------------------------------------------------------------------- */

static void scale(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    for (size_t i = beg; i < end; i++)
        j->y[i] = j->s * j->a[i];
}

static void scale_add(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    j->k->axpy(j->y + beg, j->s, j->dy + beg, end - beg);
}

/* Run `fresh_fn` (y = f(dy), in place) or `add_fn` (y += f(dy)) over x's gradient. */
static void unary_back(nn *c, elem *s, const nn_tensor *keep, pool_fn *fresh_fn,
                       pool_fn *add_fn)
{
    job j = {.k = c->k, .s = s->s, .dy = nn_grad_in(c, s->y)};
    bool fresh;
    if (!j.dy)
        return;
    bool taken = nn_grad_take(c, s->a, s->y);
    j.y = nn_grad(c, s->a, &fresh);
    if (keep)
        nn_touch(c, keep);
    if (!j.y || !nn_live(c))
        return;
    j.a = keep ? keep->data : j.dy;
    pool_run(c->pool, op_count(s->y), SPAN, taken ? fresh_fn : add_fn, &j);
}

static void scale_back(nn *c, void *saved) { unary_back(c, saved, NULL, scale, scale_add); }

nn_tensor *nn_scale(nn *c, nn_tensor *x, float s)
{
    return close_op(c, (elem){x, NULL, open_op(c, x, NULL), s}, scale, scale_back);
}

/* ---- ReLU and tanh: from the output
 * --------------------------------------------------------- */

static void relu(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    for (size_t i = beg; i < end; i++)
        j->y[i] = j->a[i] < 0.0f ? 0.0f : j->a[i]; /* NaN stays */
}

static void relu_grad(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    for (size_t i = beg; i < end; i++)
        j->y[i] = j->a[i] > 0.0f ? j->dy[i] : 0.0f;
}

static void relu_grad_add(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    for (size_t i = beg; i < end; i++)
        j->y[i] += j->a[i] > 0.0f ? j->dy[i] : 0.0f;
}

static void relu_back(nn *c, void *saved)
{
    elem *s = saved;
    unary_back(c, s, s->y, relu_grad, relu_grad_add);
}

nn_tensor *nn_relu(nn *c, nn_tensor *x)
{
    return close_op(c, (elem){x, NULL, open_op(c, x, NULL), 0}, relu, relu_back);
}

static void tanh_fn(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    for (size_t i = beg; i < end; i++)
        j->y[i] = tanhf(j->a[i]);
}

static void tanh_grad(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    for (size_t i = beg; i < end; i++)
        j->y[i] = j->dy[i] * (1.0f - j->a[i] * j->a[i]);
}

static void tanh_grad_add(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    for (size_t i = beg; i < end; i++)
        j->y[i] += j->dy[i] * (1.0f - j->a[i] * j->a[i]);
}

static void tanh_back(nn *c, void *saved)
{
    elem *s = saved;
    unary_back(c, s, s->y, tanh_grad, tanh_grad_add);
}

nn_tensor *nn_tanh(nn *c, nn_tensor *x)
{
    return close_op(c, (elem){x, NULL, open_op(c, x, NULL), 0}, tanh_fn, tanh_back);
}

/* ---- GELU
 * ------------------------------------------------------------------------------------ */

static void gelu(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    j->k->gelu(j->y + beg, j->a + beg, end - beg);
}

static void gelu_grad(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    if (j->s != 0.0f) /* fresh */
        memset(j->y + beg, 0, (end - beg) * sizeof(float));
    j->k->gelu_back(j->y + beg, j->dy + beg, j->a + beg, end - beg);
}

static void gelu_back(nn *c, void *saved)
{
    elem *s = saved;
    job j = {.k = c->k, .dy = nn_grad_in(c, s->y)};
    bool fresh;
    j.y = j.dy ? nn_grad(c, s->a, &fresh) : NULL;
    if (!j.y)
        return;
    nn_touch(c, s->a);
    if (!nn_live(c))
        return;
    j.a = s->a->data;
    j.s = fresh ? 1.0f : 0.0f;
    pool_run(c->pool, op_count(s->y), SPAN, gelu_grad, &j);
}

nn_tensor *nn_gelu(nn *c, nn_tensor *x)
{
    return close_op(c, (elem){x, NULL, open_op(c, x, NULL), 0}, gelu, gelu_back);
}

/* ---- SiLU gate: y = silu(gate) up
 * -------------------------------------------------------------- */

static void silu_mul(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    j->k->silu_mul(j->y + beg, j->a + beg, j->b + beg, end - beg);
}

typedef struct {
    job j;
    bool fresh_gate, fresh_up;
} silu_job;

static void silu_grad(void *ctx, size_t beg, size_t end, int worker)
{
    const silu_job *q = ctx;
    const job *j = &q->j;
    size_t n = end - beg;
    (void)worker;
    if (q->fresh_gate)
        memset(j->y + beg, 0, n * sizeof(float));
    if (q->fresh_up)
        memset(j->y2 + beg, 0, n * sizeof(float));
    j->k->silu_mul_back(j->y + beg, j->y2 + beg, j->dy + beg, j->a + beg, j->b + beg, n);
}

/* A gradient nobody wants still needs a place: the kernel writes both. */
static float *grad_or_scratch(nn *c, nn_tensor *t, bool *fresh)
{
    float *g = nn_grad(c, t, fresh);
    if (t->needs_grad)
        return g;
    *fresh = true;
    return nn_scratch(c, op_count(t) * sizeof(float));
}

static void silu_mul_back(nn *c, void *saved)
{
    elem *s = saved;
    silu_job q = {.j = {.k = c->k, .dy = nn_grad_in(c, s->y)}};
    if (!q.j.dy)
        return;
    q.j.y = grad_or_scratch(c, s->a, &q.fresh_gate);
    q.j.y2 = grad_or_scratch(c, s->b, &q.fresh_up);
    nn_touch(c, s->a);
    nn_touch(c, s->b);
    if (!nn_live(c))
        return;
    q.j.a = s->a->data;
    q.j.b = s->b->data;
    pool_run(c->pool, op_count(s->y), SPAN, silu_grad, &q);
}

static nn_tensor *silu_mul_again(nn *c, const void *saved)
{
    const elem *s = saved;
    return nn_silu_mul(c, s->a, s->b);
}

nn_tensor *nn_silu_mul(nn *c, nn_tensor *gate, nn_tensor *up)
{
    elem s = {gate, up, open_op(c, gate, up), 0};
    close_op(c, s, silu_mul, silu_mul_back);
    if (s.y->needs_grad)
        nn_remakes(c, s.y, silu_mul_again, &s, sizeof(s));
    return s.y;
}
