/* linear_cross_entropy.c - output head and loss in one.
 *
 *     logits = x W^T,  loss = mean of -log softmax(logits)[target]
 *
 * [tokens x vocabulary] is the largest matrix of a language model.  Here it exists a
 * chunk of rows at a time: a chunk's logits become their own gradient in place, which is
 * folded into dx and dW at once (as in Liger-Kernel, Hsu et al. 2024).  grad_scale and
 * the count of targets are known in the forward, so nothing is left for the backward:
 * dx already lies in x's gradient. */
#include "nn/loss/cross_entropy.h"

enum { CHUNK_BYTES = 32 << 20, ROWS_LEAST = 16 };

typedef struct {
    nn_tensor *x;
    const nn_weight *w;
    const int32_t *target;
    float *dx, *logits, *nll, *exps;
    uint8_t *correct;
    bool fresh, want_dx, want_dw;
    float factor;
    size_t chunk;
    void *scratch;
    size_t bytes;
} head;

/* Rows in a chunk: equal ones of at most CHUNK_BYTES. */
static size_t chunk_rows(size_t rows, size_t vocab)
{
    size_t most = size_max(CHUNK_BYTES / (sizeof(float) * size_max(vocab, 1)), ROWS_LEAST);
    size_t n_chunks = (rows + most - 1) / most;
    size_t even = (rows + size_max(n_chunks, 1) - 1) / size_max(n_chunks, 1);
    return size_max(size_align(even, ROWS_LEAST), ROWS_LEAST);
}

static void fold_gradient(nn *c, const head *h, size_t beg, size_t m)
{
    size_t dim = h->w->cols, vocab = h->w->rows;
    arena scratch = arena_of(h->scratch, h->bytes);
    if (h->want_dx) {
        gemm_args g = {.m = m,
                       .n = dim,
                       .k = vocab,
                       .a = h->logits,
                       .lda = vocab,
                       .b = h->w->data,
                       .ldb = dim,
                       .b_type = h->w->type,
                       .c = h->dx + beg * dim,
                       .ldc = dim,
                       .alpha = 1.0f,
                       .beta = h->fresh ? 0.0f : 1.0f};
        op_product(c, &g, scratch);
    }
    if (h->want_dw) {
        gemm_args g = {.m = vocab,
                       .n = dim,
                       .k = m,
                       .a = h->logits,
                       .lda = vocab,
                       .a_t = true,
                       .b = op_row(h->x, beg),
                       .ldb = dim,
                       .c = h->w->grad,
                       .ldc = dim,
                       .alpha = 1.0f,
                       .beta = 1.0f};
        op_product(c, &g, scratch);
    }
}

static void one_chunk(nn *c, const head *h, size_t beg)
{
    size_t m = size_min(h->chunk, h->x->rows - beg);
    if (c->on_linear)
        c->on_linear(c->on_linear_ctx, h->w, op_row(h->x, beg), (uint32_t)m);
    op_matmul(c, h->w, op_row(h->x, beg), h->logits, m, h->scratch, h->bytes);
    bool grad = h->want_dx || h->want_dw;
    softmax_rows r = {.k = c->k,
                      .x = h->logits,
                      .target = h->target + beg,
                      .n = h->w->rows,
                      .nll = h->nll + beg,
                      .correct = h->correct + beg,
                      .grad = grad ? h->logits : NULL,
                      .exps = h->exps,
                      .factor = h->factor};
    softmax_rows_run(c->pool, &r, m);
    if (grad)
        fold_gradient(c, h, beg, m);
}

static void declare(nn *c, head *h)
{
    size_t rows = h->x->rows, dim = h->w->cols, vocab = h->w->rows;
    h->chunk = size_min(chunk_rows(rows, vocab), size_max(rows, 1));
    h->want_dx = c->tape && h->x->needs_grad;
    h->want_dw = c->tape && h->w->grad;
    if (h->want_dx)
        h->dx = nn_grad(c, h->x, &h->fresh);
    nn_touch(c, h->x);
    h->bytes = op_matmul_bytes(c, h->w, h->chunk);
    if (h->want_dx)
        h->bytes = size_max(h->bytes, gemm_bytes(c->k, h->chunk, dim, vocab, c->pool));
    if (h->want_dw)
        h->bytes = size_max(h->bytes, gemm_bytes(c->k, vocab, dim, h->chunk, c->pool));
    h->scratch = nn_scratch(c, h->bytes);
    h->logits = nn_scratch(c, h->chunk * vocab * sizeof(float));
    h->nll = nn_scratch(c, rows * sizeof(float));
    h->correct = nn_scratch(c, rows);
    if (!h->want_dx && !h->want_dw)
        h->exps = nn_scratch(c, vocab * sizeof(float) * pool_threads(c->pool));
}

void nn_linear_cross_entropy(nn *c, nn_tensor *x, const nn_weight *w, const int32_t *target,
                             float grad_scale, nn_loss *out)
{
    head h = {.x = x, .w = w, .target = target};
    if (x->cols != w->cols)
        nn_fail(c, OM_EARG, "nn: the head takes %u columns, its input has %u", w->cols,
                x->cols);
    else if (w->lora)
        nn_fail(c, OM_EUNSUPPORTED, "nn: an adapter on the output head is not supported");
    else if (!dtype_of(w->type) || !dtype_of(w->type)->unpack)
        nn_fail(c, OM_EUNSUPPORTED, "nn: a head of type %d cannot be unpacked", w->type);
    if (c->status != OM_OK)
        return;
    declare(c, &h);
    uint64_t counted = c->dry ? 0 : loss_count(c, target, x->rows, w->rows);
    h.factor = counted ? grad_scale / (float)counted : 0.0f;
    if (!nn_live(c))
        return;
    for (size_t beg = 0; beg < x->rows; beg += h.chunk)
        one_chunk(c, &h, beg);
    loss_sum(out, target, h.nll, h.correct, x->rows);
}
