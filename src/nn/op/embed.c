/* embed.c - a row of the embedding matrix per token.
 *
 *     y_i = W[id_i]          dW[id_i] += dy_i
 *
 * W may be packed; a row is unpacked on the way.  The backward is cut over columns, so
 * that a token seen twice is added in the order of its rows on any number of threads. */
#include "nn/op.h"

typedef struct {
    nn_tensor *y;
    const nn_weight *w;
    const int32_t *ids;
} looked_up;

typedef struct {
    const looked_up *s;
    const kern *k;
    const float *dy;
    size_t row_bytes;
} job;

static void scatter(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    const looked_up *s = j->s;
    size_t cols = s->w->cols;
    (void)worker;
    for (uint32_t i = 0; i < s->y->rows; i++) {
        float *dw = s->w->grad + (size_t)s->ids[i] * cols;
        j->k->add(dw + beg, dw + beg, j->dy + i * cols + beg, end - beg);
    }
}

static void back(nn *c, void *saved)
{
    looked_up *s = saved;
    job j = {.s = s, .k = c->k, .dy = nn_grad_in(c, s->y)};
    if (j.dy && nn_live(c))
        pool_run(c->pool, s->w->cols, 256, scatter, &j);
}

static void gather(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    const looked_up *s = j->s;
    const dtype_traits *type = dtype_of(s->w->type);
    (void)worker;
    for (size_t i = beg; i < end; i++)
        type->unpack((const char *)s->w->data + (size_t)s->ids[i] * j->row_bytes,
                     op_row(s->y, i), s->w->cols);
}

static void check(nn *c, const nn_weight *w, const int32_t *ids, uint32_t n)
{
    for (uint32_t i = 0; !c->dry && i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= w->rows)
            nn_fail(c, OM_EARG, "nn: token %d at row %u; %s has %u rows", ids[i], i,
                    w->name ? w->name : "the embedding", w->rows);
}

nn_tensor *nn_embed(nn *c, const nn_weight *w, const int32_t *ids, uint32_t n)
{
    looked_up s = {nn_new(c, n, w->cols), w, ids};
    job j = {.s = &s};
    const dtype_traits *type = dtype_of(w->type);
    if (!type || !type->unpack || !dtype_row_bytes(w->type, w->cols, &j.row_bytes))
        nn_fail(c, OM_EUNSUPPORTED, "nn: an embedding of type %d cannot be unpacked",
                w->type);
    s.y->needs_grad = op_trains(w);
    check(c, w, ids, n);
    if (nn_live(c))
        pool_run(c->pool, n, op_grain(w->cols), gather, &j);
    if (s.y->needs_grad)
        nn_push(c, back, &s, sizeof(s));
    return s.y;
}
