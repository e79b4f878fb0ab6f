/* embed.c - a row of the embedding matrix per token.
 *
 *     y_i = W[id_i]          dW[id_i] += dy_i
 *
 * Ids from the last row on are rows of W's `more` (a trained prompt), which is f32.  W may
 * be packed; a row is unpacked on the way.  The backward is cut over columns, so
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
        uint32_t id = (uint32_t)s->ids[i], rows = s->w->rows;
        float *dw = id < rows ? s->w->grad : s->w->more->grad;
        if (!dw)
            continue;
        dw += (size_t)(id < rows ? id : id - rows) * cols;
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
    for (size_t i = beg; i < end; i++) {
        uint32_t id = (uint32_t)s->ids[i], rows = s->w->rows, cols = s->w->cols;
        if (id < rows)
            type->unpack((const char *)s->w->data + (size_t)id * j->row_bytes,
                         op_row(s->y, i), cols);
        else
            memcpy(op_row(s->y, i), s->w->more->data + (size_t)(id - rows) * cols,
                   cols * sizeof(float));
    }
}

static void check(nn *c, const nn_weight *w, const int32_t *ids, uint32_t n)
{
    uint32_t rows = w->rows + (w->more ? w->more->rows : 0);
    for (uint32_t i = 0; !c->dry && i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= rows)
            nn_fail(c, OM_EARG, "nn: token %d at row %u; %s has %u rows", ids[i], i,
                    w->name ? w->name : "the embedding", rows);
}

nn_tensor *nn_embed(nn *c, const nn_weight *w, const int32_t *ids, uint32_t n)
{
    looked_up s = {nn_new(c, n, w->cols), w, ids};
    job j = {.s = &s};
    const dtype_traits *type = dtype_of(w->type);
    if (!type || !type->unpack || !dtype_row_bytes(w->type, w->cols, &j.row_bytes))
        nn_fail(c, OM_EUNSUPPORTED, "nn: an embedding of type %d cannot be unpacked",
                w->type);
    s.y->needs_grad = op_trains(w) || (w->more && w->more->grad);
    check(c, w, ids, n);
    if (nn_live(c))
        pool_run(c->pool, n, op_grain(w->cols), gather, &j);
    if (s.y->needs_grad)
        nn_push(c, back, &s, sizeof(s));
    return s.y;
}
