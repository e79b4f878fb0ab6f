/* linear.c - y = x W^T + b + s (x A^T) B^T
 *
 *     x (rows, in)   W (out, in)   b (out)   A (rank, in)   B (out, rank)   u = x A^T
 *
 *     dx = dy W + du A     dW += dy^T x     db += sum of dy's rows
 *     du = s dy B          dA += du^T x     dB += s dy^T u
 *
 * Only what a backward reads stays alive: a frozen layer keeps nothing, one with an
 * adapter keeps u, and x unless it can be made again.  W may be packed: its rows are
 * unpacked inside gemm, or, where no exact products are asked for, multiplied in integers
 * by qmat. */
#include "nn/op.h"

typedef struct {
    nn_tensor *x, *y, *u;
    const nn_weight *w, *b;
} layer;

/* ---- shapes of the products; one gemm_args each ---------------------------------------
 */

static gemm_args to_u(const layer *s)
{
    const nn_lowrank *l = s->w->lora;
    return (gemm_args){.m = s->x->rows,
                       .n = l->rank,
                       .k = s->w->cols,
                       .a = s->x->data,
                       .lda = s->w->cols,
                       .b = l->a,
                       .ldb = s->w->cols,
                       .b_t = true,
                       .c = s->u->data,
                       .ldc = l->rank,
                       .alpha = 1.0f};
}

static gemm_args to_y(const layer *s)
{
    const nn_lowrank *l = s->w->lora;
    return (gemm_args){.m = s->x->rows,
                       .n = s->w->rows,
                       .k = l->rank,
                       .a = s->u->data,
                       .lda = l->rank,
                       .b = l->b,
                       .ldb = l->rank,
                       .b_t = true,
                       .c = s->y->data,
                       .ldc = s->w->rows,
                       .alpha = l->scale,
                       .beta = 1.0f};
}

static gemm_args to_dx(const layer *s, const float *dy, float *dx, bool fresh)
{
    return (gemm_args){.m = s->x->rows,
                       .n = s->w->cols,
                       .k = s->w->rows,
                       .a = dy,
                       .lda = s->w->rows,
                       .b = s->w->data,
                       .ldb = s->w->cols,
                       .b_type = s->w->type,
                       .c = dx,
                       .ldc = s->w->cols,
                       .alpha = 1.0f,
                       .beta = fresh ? 0.0f : 1.0f};
}

/* dW += dy^T x, of any rows x n by rows x k pair. */
static gemm_args outer(size_t rows, const float *dy, size_t out, const float *x, size_t in,
                       float *dw, float alpha)
{
    return (gemm_args){.m = out,
                       .n = in,
                       .k = rows,
                       .a = dy,
                       .lda = out,
                       .a_t = true,
                       .b = x,
                       .ldb = in,
                       .c = dw,
                       .ldc = in,
                       .alpha = alpha,
                       .beta = 1.0f};
}

static gemm_args to_du(const layer *s, const float *dy, float *du)
{
    const nn_lowrank *l = s->w->lora;
    return (gemm_args){.m = s->x->rows,
                       .n = l->rank,
                       .k = s->w->rows,
                       .a = dy,
                       .lda = s->w->rows,
                       .b = l->b,
                       .ldb = l->rank,
                       .c = du,
                       .ldc = l->rank,
                       .alpha = l->scale};
}

static gemm_args du_to_dx(const layer *s, const float *du, float *dx)
{
    const nn_lowrank *l = s->w->lora;
    return (gemm_args){.m = s->x->rows,
                       .n = s->w->cols,
                       .k = l->rank,
                       .a = du,
                       .lda = l->rank,
                       .b = l->a,
                       .ldb = s->w->cols,
                       .c = dx,
                       .ldc = s->w->cols,
                       .alpha = 1.0f,
                       .beta = 1.0f};
}

static size_t back_bytes(const nn *c, const layer *s)
{
    size_t rows = s->x->rows, in = s->w->cols, out = s->w->rows;
    size_t n = size_max(gemm_bytes(c->k, rows, in, out, c->pool),
                        gemm_bytes(c->k, out, in, rows, c->pool));
    if (!s->w->lora)
        return n;
    size_t r = s->w->lora->rank;
    n = size_max(n, gemm_bytes(c->k, rows, r, out, c->pool));
    n = size_max(n, gemm_bytes(c->k, rows, in, r, c->pool));
    n = size_max(n, gemm_bytes(c->k, out, r, rows, c->pool));
    return size_max(n, gemm_bytes(c->k, r, in, rows, c->pool));
}

/* ---- backward
 * ---------------------------------------------------------------------------- */

static void adapter_back(nn *c, const layer *s, const float *x, const float *dy, float *dx,
                         float *du, arena scratch)
{
    const nn_lowrank *l = s->w->lora;
    size_t rows = s->x->rows;
    gemm_args g;
    if (l->b_grad) {
        g = outer(rows, dy, s->w->rows, s->u->data, l->rank, l->b_grad, l->scale);
        op_product(c, &g, scratch);
    }
    g = to_du(s, dy, du);
    op_product(c, &g, scratch);
    if (l->a_grad) {
        g = outer(rows, du, l->rank, x, s->w->cols, l->a_grad, 1.0f);
        op_product(c, &g, scratch);
    }
    if (dx) {
        g = du_to_dx(s, du, dx);
        op_product(c, &g, scratch);
    }
}

static void back(nn *c, void *saved)
{
    const layer *s = saved;
    const nn_lowrank *l = s->w->lora;
    bool fresh, needs_x = s->w->grad || (l && l->a_grad);
    if (!nn_grad_in(c, s->y))
        return;
    const nn_tensor *x = needs_x ? nn_again(c, s->x) : s->x;
    const float *dy = nn_grad_in(c, s->y);
    float *dx = nn_grad(c, s->x, &fresh);
    if (needs_x)
        nn_touch(c, x);
    if (l && l->b_grad)
        nn_touch(c, s->u);
    size_t n = back_bytes(c, s);
    float *du = l ? nn_scratch(c, (size_t)s->x->rows * l->rank * sizeof(float)) : NULL;
    arena scratch = arena_of(nn_scratch(c, n), n);
    if (!nn_live(c))
        return;
    gemm_args g;
    if (dx) {
        g = to_dx(s, dy, dx, fresh);
        op_product(c, &g, scratch);
    }
    if (s->w->grad) {
        g = outer(s->x->rows, dy, s->w->rows, x->data, s->w->cols, s->w->grad, 1.0f);
        op_product(c, &g, scratch);
    }
    if (op_trains(s->b))
        op_col_sum(c, s->b->grad, dy, s->y->rows, s->y->cols);
    if (l)
        adapter_back(c, s, x->data, dy, dx, du, scratch);
}

/* ---- forward
 * ----------------------------------------------------------------------------- */

typedef struct {
    const layer *s;
    const kern *k;
} bias_job;

static void add_bias(void *ctx, size_t beg, size_t end, int worker)
{
    const bias_job *j = ctx;
    const layer *s = j->s;
    (void)worker;
    for (size_t i = beg; i < end; i++)
        j->k->add(op_row(s->y, i), op_row(s->y, i), s->b->data, s->y->cols);
}

static void compute(nn *c, const layer *s, void *scratch, size_t n)
{
    if (c->on_linear)
        c->on_linear(c->on_linear_ctx, s->w, s->x->data, s->x->rows);
    op_matmul(c, s->w, s->x->data, s->y->data, s->x->rows, scratch, n);
    if (s->b)
        pool_run(c->pool, s->y->rows, op_grain(s->y->cols), add_bias, &(bias_job){s, c->k});
    if (!s->w->lora)
        return;
    gemm_args u = to_u(s), y = to_y(s);
    op_product(c, &u, arena_of(scratch, n));
    op_product(c, &y, arena_of(scratch, n));
}

static bool fits(nn *c, const nn_tensor *x, const nn_weight *w, const nn_weight *b)
{
    const char *name = w->name ? w->name : "a linear layer";
    if (x->cols != w->cols)
        nn_fail(c, OM_EARG, "nn: %s takes %u columns, its input has %u", name, w->cols,
                x->cols);
    else if (b && (b->cols != w->rows || b->rows != 1 || b->type != DTYPE_F32))
        nn_fail(c, OM_EARG,
                "nn: %s has %u rows, its bias is (%u, %u) of type %d; it must "
                "be (1, rows) in F32",
                name, w->rows, b->rows, b->cols, b->type);
    else if (!dtype_of(w->type) || !dtype_of(w->type)->unpack)
        nn_fail(c, OM_EUNSUPPORTED, "nn: %s has type %d, which cannot be unpacked", name,
                w->type);
    return c->status == OM_OK;
}

nn_tensor *nn_linear(nn *c, nn_tensor *x, const nn_weight *w, const nn_weight *b)
{
    const nn_lowrank *l = w->lora;
    layer s = {.x = x, .y = nn_new(c, x->rows, w->rows), .w = w, .b = b};
    if (!fits(c, x, w, b))
        return s.y;
    s.y->needs_grad =
        x->needs_grad || w->grad || op_trains(b) || (l && (l->a_grad || l->b_grad));
    nn_touch(c, x);
    size_t n = op_matmul_bytes(c, w, x->rows);
    if (l) {
        s.u = nn_new(c, x->rows, l->rank);
        n = size_max(n, gemm_bytes(c->k, x->rows, l->rank, w->cols, c->pool));
        n = size_max(n, gemm_bytes(c->k, x->rows, w->rows, l->rank, c->pool));
    }
    void *scratch = nn_scratch(c, n);
    if (nn_live(c))
        compute(c, &s, scratch, n);
    if (s.y->needs_grad)
        nn_push(c, back, &s, sizeof(s));
    return s.y;
}
