/* perplexity.c - exp of the mean negative log-likelihood over the windows of a text.
 *
 * Several windows go through one forward (windows.h), and only rows whose target is
 * scored reach the output matrix.  Sums run in text order, so the figure has the same
 * bits for any number of threads.
 *
 * Interval: with s the standard error of the mean nll, d exp(x) = exp(x) dx gives
 * exp(nll) (1 +- 1.96 s).  It treats tokens as independent draws. */
#include "llm/windows.h"

#include <math.h>

typedef struct {
    const llm_model *m;
    text_windows t;
    nn_loss loss;
} scorer;

static om_status forward(nn *c, void *ctx)
{
    scorer *s = ctx;
    nn_tensor *x = text_windows_forward(c, s->m, &s->t);
    nn_linear_cross_entropy(c, x, s->m->output, s->t.target, 1, &s->loss);
    return c->status;
}

static om_status score(scorer *s, nn *c, om_progress_fn *progress, void *ctx,
                       perplexity_report *out, om_err *err)
{
    double sum = 0, squares = 0;
    while (text_windows_next(&s->t)) {
        TRY(nn_run(c, text_windows_key(&s->t), false, forward, s, err));
        for (uint32_t i = 0; i < s->t.n_scored; i++) {
            double v = (double)s->loss.row_nll[i];
            sum += v;
            squares += v * v;
        }
        out->tokens += s->t.n_scored;
        if (progress)
            progress(ctx, "scoring", "tokens", s->t.scored_to, s->t.n);
    }
    double n = (double)out->tokens, mean = sum / n;
    double variance = n > 1 ? fmax(squares - n * mean * mean, 0) / (n - 1) : 0;
    double error = 1.959963985 * sqrt(variance / n);
    out->nll = mean;
    out->perplexity = exp(mean);
    out->low = out->perplexity * fmax(1 - error, 0);
    out->high = out->perplexity * (1 + error);
    return OM_OK;
}

static om_status open_and_score(scorer *s, const nn_config *config, const om_cancel *cancel,
                                om_progress_fn *progress, void *ctx, perplexity_report *out,
                                om_err *err)
{
    nn *c;
    s->loss.row_nll = mem_array(s->t.room, sizeof(float));
    if (!s->loss.row_nll)
        return fail(err, OM_ENOMEM, "perplexity: no memory for %u tokens", s->t.room);
    TRY(nn_open(config, &c, err));
    c->cancel = cancel;
    om_status st = score(s, c, progress, ctx, out, err);
    nn_close(c);
    return st;
}

om_status llm_perplexity(llm_model *m, const kern *k, pool *p, const int32_t *ids, size_t n,
                         uint32_t window, uint32_t stride, const om_cancel *cancel,
                         om_progress_fn *progress, void *ctx, perplexity_report *out,
                         om_err *err)
{
    scorer s = {.m = m};
    uint64_t start = os_now_ns();
    *out = (perplexity_report){0};
    om_status st = text_windows_open(&s.t, m, ids, n, window, stride, err);
    if (st == OM_OK)
        st = open_and_score(&s, &(nn_config){.k = k, .pool = p}, cancel, progress, ctx, out,
                            err);
    out->seconds = (double)(os_now_ns() - start) * 1e-9;
    text_windows_close(&s.t);
    mem_free(s.loss.row_nll);
    return st;
}
