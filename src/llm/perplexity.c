/* perplexity.c - exp of the mean negative log-likelihood, sliding windows.
 *
 * Several windows go through one forward side by side (no cache: they attend among
 * themselves), and only rows whose target is scored reach the output matrix.  Sums run
 * in text order, so the figure has the same bits for any number of threads.
 *
 * Interval: with s the standard error of the mean nll, d exp(x) = exp(x) dx gives
 * exp(nll) (1 +- 1.96 s).  It treats tokens as independent draws. */
#include "llm/perplexity.h"

#include <math.h>

enum { DEFAULT_WINDOW = 512, MAX_WINDOW = 1 << 20, ROWS = 1024 };

typedef struct {
    llm_model *m;
    const int32_t *text;
    size_t n;
    uint32_t window, stride, content; /* content: text tokens in a window */
    int32_t bos;                      /* -1: none in front */
    size_t next, scored_to;           /* next window starts; targets before are scored */
    bool finished;
    uint32_t room;                    /* rows one forward takes */
    int32_t *ids, *pos, *target;      /* (room) */
    uint32_t *row;                    /* (room) rows that are scored */
    float *nll;                       /* (room) of the scored rows */
    nn_seq *seq;                      /* (room) */
    uint32_t rows, n_seq, n_scored;
    nn_loss loss;
} scorer;

/* One window behind the rows there are; window w predicts text[t] from what is before. */
static void add_window(scorer *s)
{
    size_t end = size_min(s->next + s->content, s->n);
    nn_seq *q = &s->seq[s->n_seq++];
    *q = (nn_seq){.row = s->rows};
    int32_t at = 0;
    for (size_t t = s->next; t < end || at == 0;) {
        uint32_t r = s->rows++;
        bool first = at == 0 && s->bos >= 0;
        s->ids[r] = first ? s->bos : s->text[t];
        s->pos[r] = at++;
        t += !first;
        if (t < end && t >= s->scored_to) {
            s->target[s->n_scored] = s->text[t];
            s->row[s->n_scored++] = r;
        }
    }
    q->n_rows = s->rows - q->row;
    s->scored_to = end;
    s->finished = end == s->n;
    s->next += s->stride;
}

static void add_windows(scorer *s)
{
    s->rows = s->n_seq = s->n_scored = 0;
    while (!s->finished && s->rows + s->window <= s->room)
        add_window(s);
}

static om_status forward(nn *c, void *ctx)
{
    scorer *s = ctx;
    llm_batch b = {.ids = s->ids, .pos = s->pos, .rows = s->rows, .seq = s->seq,
                   .n_seq = s->n_seq};
    nn_tensor *x = s->m->arch->forward(c, s->m, &b);
    x = nn_rows(c, x, s->row, s->n_scored);
    nn_linear_cross_entropy(c, x, s->m->output, s->target, 1, &s->loss);
    return c->status;
}

static om_status room(scorer *s, om_err *err)
{
    s->room = (uint32_t)size_max(s->window, ROWS);
    s->ids = mem_array(s->room, sizeof(*s->ids));
    s->pos = mem_array(s->room, sizeof(*s->pos));
    s->target = mem_array(s->room, sizeof(*s->target));
    s->row = mem_array(s->room, sizeof(*s->row));
    s->nll = mem_array(s->room, sizeof(*s->nll));
    s->seq = mem_array(s->room, sizeof(*s->seq));
    if (!s->ids || !s->pos || !s->target || !s->row || !s->nll || !s->seq)
        return fail(err, OM_ENOMEM, "perplexity: no memory for %u tokens", s->room);
    s->loss.row_nll = s->nll;
    return OM_OK;
}

static om_status prepare(scorer *s, uint32_t window, uint32_t stride, om_err *err)
{
    const llm_hparams *h = &s->m->h;
    const tokenizer *tok = s->m->tok;
    s->bos = tok && tokenizer_adds_bos(tok) ? tokenizer_bos(tok) : -1;
    if (s->bos >= 0 && s->n && s->text[0] == s->bos) {
        s->text++;
        s->n--;
    }
    s->window = window ? window : (uint32_t)size_min(h->context, DEFAULT_WINDOW);
    s->content = s->window - (s->bos >= 0);
    s->stride = stride ? stride : (s->window + 1) / 2;
    uint32_t most = s->m->pos_embed ? h->context : MAX_WINDOW;
    uint32_t longest = s->window - 1; /* every token but BOS needs one before it */
    if (s->window < 2 || s->window > most)
        return fail(err, OM_EARG, "perplexity: a window of %u tokens; this model takes 2 to "
                                  "%u", s->window, most);
    if (s->stride > longest)
        return fail(err, OM_EARG, "perplexity: stride %u; a window of %u tokens allows up to "
                                  "%u", s->stride, s->window, longest);
    if (s->n < 2)
        return fail(err, OM_EARG, "perplexity: the text has %zu tokens; 2 are needed", s->n);
    for (size_t i = 0; i < s->n; i++)
        if (s->text[i] < 0 || (uint32_t)s->text[i] >= h->vocab)
            return fail(err, OM_EARG, "perplexity: token %d; the vocabulary has %u",
                        s->text[i], h->vocab);
    s->scored_to = s->bos >= 0 ? 0 : 1;
    return room(s, err);
}

static om_status score(scorer *s, nn *c, om_progress_fn *progress, void *ctx,
                       perplexity_report *out, om_err *err)
{
    double sum = 0, squares = 0;
    while (!s->finished) {
        add_windows(s);
        uint64_t key = (uint64_t)s->rows << 40 | (uint64_t)s->n_seq << 20 | s->n_scored;
        TRY(nn_run(c, key, false, forward, s, err));
        for (uint32_t i = 0; i < s->n_scored; i++) {
            double v = (double)s->nll[i];
            sum += v;
            squares += v * v;
        }
        out->tokens += s->n_scored;
        if (progress)
            progress(ctx, "scoring", "tokens", s->scored_to, s->n);
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

om_status llm_perplexity(llm_model *m, const kern *k, pool *p, const int32_t *ids, size_t n,
                         uint32_t window, uint32_t stride, const om_cancel *cancel,
                         om_progress_fn *progress, void *ctx, perplexity_report *out,
                         om_err *err)
{
    scorer s = {.m = m, .text = ids, .n = n};
    nn *c = NULL;
    uint64_t start = os_now_ns();
    *out = (perplexity_report){0};
    om_status st = prepare(&s, window, stride, err);
    if (st == OM_OK)
        st = nn_open(&(nn_config){.k = k, .pool = p}, &c, err);
    if (st == OM_OK) {
        c->cancel = cancel;
        st = score(&s, c, progress, ctx, out, err);
    }
    out->seconds = (double)(os_now_ns() - start) * 1e-9;
    nn_close(c);
    mem_free(s.ids);
    mem_free(s.pos);
    mem_free(s.target);
    mem_free(s.row);
    mem_free(s.nll);
    mem_free(s.seq);
    return st;
}
