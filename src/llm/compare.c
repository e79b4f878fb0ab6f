/* compare.c - models beside a reference: KL divergence, agreement, ratio of perplexities.
 *
 * A batch of windows goes through the reference and through every model; hidden states of
 * the scored rows are kept, (rows, dim) each, and turned into logits a few rows at a time,
 * so that memory does not grow with the vocabulary.  A row's figures are computed in
 * double by one thread and summed in text order: same bits for any number of threads. */
#include "llm/windows.h"

#include <math.h>
#include <stdlib.h>

enum { LOGIT_BYTES = 16 << 20, LEAST_ROWS = 8 };

/* What is kept of every scored token, for one model. */
typedef struct {
    double nll, nll2; /* sums of nll and its square */
    double d, d2;     /* of nll less the reference's */
    double kl, kl2;
    uint64_t same;
    float *each; /* (tokens) KL, for the quantile */
    double seconds;
} tally;

typedef struct {
    llm_model *m;
    nn *c;
    float *hidden; /* (room, dim) */
    float *logits; /* (chunk, vocab) */
    tally sum;
} side;

typedef struct {
    const compare_args *a;
    text_windows t;
    side *side; /* [0]: the reference, or no model; then the models */
    uint32_t n_sides, chunk, vocab;
    uint64_t tokens, cap;
    float *nll[2];      /* (chunk) of the reference, of the model in hand */
    double *kl;         /* (chunk) */
    uint8_t *same;      /* (chunk) */
    side *now;          /* whose rows are compared, or run through nn */
    uint32_t beg, rows; /* the chunk of the batch's scored rows */
} comparer;

/* ---- rows -------------------------------------------------------------------------- */

static double log_sum_exp(const float *x, uint32_t n, uint32_t *top)
{
    *top = 0;
    for (uint32_t i = 1; i < n; i++)
        if (x[i] > x[*top])
            *top = i;
    double most = (double)x[*top], sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)x[i] - most);
    return most + log(sum);
}

static void compare_rows(void *ctx, size_t beg, size_t end, int worker)
{
    const comparer *j = ctx;
    const side *ref = &j->side[0], *q = j->now;
    (void)worker;
    for (size_t i = beg; i < end; i++) {
        const float *b = q->logits + i * j->vocab;
        int32_t target = j->t.target[j->beg + i];
        uint32_t top_p, top_q;
        double zq = log_sum_exp(b, j->vocab, &top_q);
        j->nll[1][i] = (float)(zq - (double)b[target]);
        if (!ref->m)
            continue;
        const float *a = ref->logits + i * j->vocab;
        double zp = log_sum_exp(a, j->vocab, &top_p), kl = 0;
        for (uint32_t v = 0; v < j->vocab; v++) {
            double lp = (double)a[v] - zp;
            kl += exp(lp) * (lp - ((double)b[v] - zq));
        }
        j->nll[0][i] = (float)(zp - (double)a[target]);
        j->kl[i] = fmax(kl, 0); /* below zero by rounding only */
        j->same[i] = top_p == top_q;
    }
}

static om_status add_rows(comparer *j, om_err *err)
{
    tally *s = &j->now->sum;
    for (uint32_t i = 0; i < j->rows; i++) {
        double q = (double)j->nll[1][i];
        s->nll += q;
        s->nll2 += q * q;
        if (!j->side[0].m)
            continue;
        double d = q - (double)j->nll[0][i];
        s->d += d;
        s->d2 += d * d;
        s->kl += j->kl[i];
        s->kl2 += j->kl[i] * j->kl[i];
        s->same += j->same[i];
        BUG_IF(j->tokens + j->beg + i >= j->cap); /* a text's token is scored once */
        s->each[j->tokens + j->beg + i] = (float)j->kl[i];
    }
    return is_cancelled(j->a->cancel) ? fail(err, OM_ECANCEL, "compare: cancelled") : OM_OK;
}

/* ---- forwards ---------------------------------------------------------------------- */

static om_status body(nn *c, void *ctx)
{
    comparer *j = ctx;
    nn_output(c, text_windows_forward(c, j->now->m, &j->t), j->now->hidden);
    return c->status;
}

static om_status head(nn *c, void *ctx)
{
    comparer *j = ctx;
    const llm_model *m = j->now->m;
    const float *at = j->now->hidden + (size_t)j->beg * m->h.dim;
    nn_tensor *x = nn_input(c, at, j->rows, m->h.dim);
    nn_output(c, nn_linear(c, x, m->output, NULL), j->now->logits);
    return c->status;
}

static om_status run_side(comparer *j, side *s, uint64_t key, nn_fn *fn, om_err *err)
{
    uint64_t start = os_now_ns();
    j->now = s;
    TRY(nn_run(s->c, key, false, fn, j, err));
    s->sum.seconds += (double)(os_now_ns() - start) * 1e-9;
    return OM_OK;
}

static om_status one_chunk(comparer *j, om_err *err)
{
    for (uint32_t i = j->side[0].m ? 0 : 1; i < j->n_sides; i++) {
        TRY(run_side(j, &j->side[i], (uint64_t)j->rows << 1 | 1, head, err));
        pool_run(j->a->pool, j->rows, 1, compare_rows, j); /* i 0: with itself */
        TRY(add_rows(j, err));
    }
    return OM_OK;
}

static om_status all_batches(comparer *j, om_err *err)
{
    while (text_windows_next(&j->t)) {
        for (uint32_t i = j->side[0].m ? 0 : 1; i < j->n_sides; i++)
            TRY(run_side(j, &j->side[i], text_windows_key(&j->t) << 1, body, err));
        for (j->beg = 0; j->beg < j->t.n_scored; j->beg += j->rows) {
            j->rows = (uint32_t)size_min(j->chunk, j->t.n_scored - j->beg);
            TRY(one_chunk(j, err));
        }
        j->tokens += j->t.n_scored;
        if (j->a->progress)
            j->a->progress(j->a->ctx, "comparing", "tokens", j->t.scored_to, j->t.n);
    }
    return OM_OK;
}

/* ---- figures ----------------------------------------------------------------------- */

static double half_width(double sum, double squares, double n)
{
    double mean = sum / n;
    double variance = n > 1 ? fmax(squares - n * mean * mean, 0) / (n - 1) : 0;
    return 1.959963985 * sqrt(variance / n);
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static perplexity_report perplexity_of(const tally *s, uint64_t tokens)
{
    double n = (double)tokens, e = half_width(s->nll, s->nll2, n);
    perplexity_report r = {.nll = s->nll / n, .tokens = tokens, .seconds = s->seconds};
    r.perplexity = exp(r.nll);
    r.low = r.perplexity * fmax(1 - e, 0);
    r.high = r.perplexity * (1 + e);
    return r;
}

static void report(const comparer *j, tally *s, comparison *out)
{
    double n = (double)j->tokens, e;
    *out = (comparison){.p = perplexity_of(s, j->tokens)};
    if (!j->side[0].m)
        return;
    out->ratio = exp(s->d / n);
    e = half_width(s->d, s->d2, n);
    out->ratio_low = out->ratio * exp(-e);
    out->ratio_high = out->ratio * exp(e);
    out->kl = s->kl / n;
    e = half_width(s->kl, s->kl2, n);
    out->kl_low = fmax(out->kl - e, 0);
    out->kl_high = out->kl + e;
    qsort(s->each, j->tokens, sizeof(float), by_value);
    out->kl_99 = (double)s->each[(uint64_t)(0.99 * (n - 1))];
    out->same_top = (double)s->same / n;
    e = half_width((double)s->same, (double)s->same, n);
    out->same_top_low = fmax(out->same_top - e, 0);
    out->same_top_high = fmin(out->same_top + e, 1);
}

/* ---- open -------------------------------------------------------------------------- */

static om_status open_side(comparer *j, side *s, om_err *err)
{
    nn_config c = {.k = j->a->k, .pool = j->a->pool};
    if (s->m->h.vocab != j->vocab)
        return fail(err, OM_EARG,
                    "compare: %.*s has a vocabulary of %u, another model has %u",
                    (int)s->m->name.n, s->m->name.p, s->m->h.vocab, j->vocab);
    s->hidden = mem_array((size_t)j->t.room * s->m->h.dim, sizeof(float));
    s->logits = mem_array((size_t)j->chunk * j->vocab, sizeof(float));
    s->sum.each = j->side[0].m ? mem_array(j->cap, sizeof(float)) : NULL;
    if (!s->hidden || !s->logits || (j->side[0].m && !s->sum.each))
        return fail(err, OM_ENOMEM, "compare: no memory for %u rows", j->t.room);
    TRY(nn_open(&c, &s->c, err));
    s->c->cancel = j->a->cancel;
    return OM_OK;
}

static om_status open_all(comparer *j, const int32_t *ids, size_t n, om_err *err)
{
    const llm_model *first = j->side[j->side[0].m ? 0 : 1].m;
    TRY(text_windows_open(&j->t, first, ids, n, j->a->window, j->a->stride, err));
    j->cap = n;
    j->vocab = first->h.vocab;
    size_t rows = LOGIT_BYTES / sizeof(float) / j->vocab;
    j->chunk = (uint32_t)size_min(size_max(rows, LEAST_ROWS), j->t.room);
    j->nll[0] = mem_array(j->chunk, sizeof(float));
    j->nll[1] = mem_array(j->chunk, sizeof(float));
    j->kl = mem_array(j->chunk, sizeof(double));
    j->same = mem_array(j->chunk, 1);
    if (!j->nll[0] || !j->nll[1] || !j->kl || !j->same)
        return fail(err, OM_ENOMEM, "compare: no memory for %u rows", j->chunk);
    for (uint32_t i = j->side[0].m ? 0 : 1; i < j->n_sides; i++)
        TRY(open_side(j, &j->side[i], err));
    return OM_OK;
}

static void close_all(comparer *j)
{
    for (uint32_t i = 0; j->side && i < j->n_sides; i++) {
        nn_close(j->side[i].c);
        mem_free(j->side[i].hidden);
        mem_free(j->side[i].logits);
        mem_free(j->side[i].sum.each);
    }
    text_windows_close(&j->t);
    mem_free(j->side);
    mem_free(j->nll[0]);
    mem_free(j->nll[1]);
    mem_free(j->kl);
    mem_free(j->same);
}

om_status llm_compare(llm_model *reference, llm_model *const *models, uint32_t n_models,
                      const int32_t *ids, size_t n, const compare_args *a,
                      perplexity_report *reference_out, comparison *out, om_err *err)
{
    comparer j = {.a = a, .n_sides = n_models + 1};
    j.side = mem_array(j.n_sides, sizeof(*j.side));
    if (!j.side || !n_models) {
        mem_free(j.side);
        return fail(err, n_models ? OM_ENOMEM : OM_EARG, "compare: no models or no memory");
    }
    j.side[0].m = reference;
    for (uint32_t i = 0; i < n_models; i++)
        j.side[i + 1].m = models[i];
    om_status s = open_all(&j, ids, n, err);
    if (s == OM_OK)
        s = all_batches(&j, err);
    if (s == OM_OK && reference && reference_out)
        *reference_out = perplexity_of(&j.side[0].sum, j.tokens);
    for (uint32_t i = 0; s == OM_OK && i < n_models; i++)
        report(&j, &j.side[i + 1].sum, &out[i]);
    close_all(&j);
    return s;
}
