/* cross_entropy.c - -log softmax(logits)[target], mean over the rows with a target.
 *
 *     dlogits = (softmax - onehot) * grad_scale / counted
 *
 * The gradient is made in the backward, from the logits. */
#include "nn/loss/cross_entropy.h"

#include <math.h>

/* ---- rows, shared with the fused head
 * ---------------------------------------------------- */

static bool first_largest(const float *x, size_t at, float max)
{
    for (size_t i = 0; i < at; i++)
        if (x[i] == max)
            return false;
    return x[at] == max;
}

static void one_row(const softmax_rows *s, size_t i, float *exps)
{
    const float *x = s->x + i * s->n;
    int32_t t = s->target[i];
    if (s->correct)
        s->correct[i] = 0;
    if (t < 0) {
        if (s->nll)
            s->nll[i] = NAN;
        if (s->grad)
            memset(s->grad + i * s->n, 0, s->n * sizeof(float));
        return;
    }
    float max = s->k->max(x, s->n), at_target = x[t];
    if (s->correct)
        s->correct[i] = first_largest(x, (size_t)t, max);
    double sum = s->k->expsum(exps, x, max, s->n);
    if (s->nll)
        s->nll[i] = (float)(log(sum) + (double)max - (double)at_target);
    if (!s->grad)
        return;
    s->k->scale(exps, (float)((double)s->factor / sum), s->n);
    exps[t] -= s->factor;
}

static void some_rows(void *ctx, size_t beg, size_t end, int worker)
{
    const softmax_rows *s = ctx;
    for (size_t i = beg; i < end; i++)
        one_row(s, i, s->grad ? s->grad + i * s->n : s->exps + (size_t)worker * s->n);
}

void softmax_rows_run(pool *p, const softmax_rows *s, size_t rows)
{
    softmax_rows copy = *s;
    pool_run(p, rows, op_grain(s->n), some_rows, &copy);
}

uint64_t loss_count(nn *c, const int32_t *target, size_t rows, size_t n)
{
    uint64_t counted = 0;
    for (size_t i = 0; i < rows; i++) {
        if (target[i] >= 0 && (size_t)target[i] >= n)
            nn_fail(c, OM_EARG, "nn: target %d at row %zu; there are %zu classes",
                    target[i], i, n);
        counted += target[i] >= 0;
    }
    return counted;
}

void loss_sum(nn_loss *out, const int32_t *target, const float *nll, const uint8_t *correct,
              size_t rows)
{
    out->sum = 0;
    out->rows = out->correct = 0;
    for (size_t i = 0; i < rows; i++) {
        if (out->row_nll)
            out->row_nll[i] = nll[i];
        if (target[i] < 0)
            continue;
        out->sum += (double)nll[i];
        out->rows++;
        out->correct += correct[i];
    }
}

/* ---- the op
 * -------------------------------------------------------------------------------- */

typedef struct {
    nn_tensor *x;
    const int32_t *target;
    float grad_scale;
} seeded;

static void back(nn *c, void *saved)
{
    seeded *s = saved;
    size_t rows = s->x->rows, n = s->x->cols;
    bool fresh;
    float *dx = nn_grad(c, s->x, &fresh);
    float *grad = fresh ? NULL : nn_scratch(c, rows * n * sizeof(float));
    nn_touch(c, s->x);
    if (!dx || !nn_live(c))
        return;
    uint64_t counted = loss_count(c, s->target, rows, n);
    softmax_rows r = {.k = c->k,
                      .x = s->x->data,
                      .target = s->target,
                      .n = n,
                      .grad = fresh ? dx : grad,
                      .factor = counted ? s->grad_scale / (float)counted : 0.0f};
    softmax_rows_run(c->pool, &r, rows);
    if (!fresh)
        op_accumulate(c, dx, grad, rows * n);
}

void nn_cross_entropy(nn *c, nn_tensor *logits, const int32_t *target, float grad_scale,
                      nn_loss *out)
{
    size_t rows = logits->rows, n = logits->cols;
    nn_touch(c, logits);
    float *nll = nn_scratch(c, rows * sizeof(float));
    uint8_t *correct = nn_scratch(c, rows);
    float *exps = nn_scratch(c, n * sizeof(float) * pool_threads(c->pool));
    if (logits->needs_grad)
        nn_push(c, back, &(seeded){logits, target, grad_scale}, sizeof(seeded));
    if (!c->dry && c->status == OM_OK)
        loss_count(c, target, rows, n);
    if (!nn_live(c))
        return;
    softmax_rows r = {.k = c->k,
                      .x = logits->data,
                      .target = target,
                      .n = n,
                      .nll = nll,
                      .correct = correct,
                      .exps = exps};
    softmax_rows_run(c->pool, &r, rows);
    loss_sum(out, target, nll, correct, rows);
}
