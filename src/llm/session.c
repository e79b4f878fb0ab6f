/* session.c - one timeline of tokens and its key-value cache.
 *
 * Prompts go through in batches; the head is computed for the last token alone.  A call
 * that fails or is cancelled leaves the timeline as it was: cache slots past its end are
 * never read. */
#include "llm/model.h"

enum { DEFAULT_CONTEXT = 4096, DEFAULT_BATCH = 256 };

struct llm_session {
    llm_model *m;
    nn *c;
    nn_kv_layer *kv;   /* (n_layer) */
    void *cache;       /* all layers' keys and values */
    int32_t *ids;      /* (context) the timeline */
    int32_t *pos;      /* (context) 0, 1, 2, ... */
    float *logits;     /* (vocab) */
    uint32_t n, context, batch;
};

/* ---- open and close ------------------------------------------------------------------ */

static om_status cache_open(llm_session *s, dtype type, om_err *err)
{
    const llm_hparams *h = &s->m->h;
    size_t row = (size_t)h->n_kv_head * h->head_dim * (type == DTYPE_F16 ? 2 : 4), half, all;
    if (!size_mul(row, s->context, &half) || !size_mul(half, 2 * (size_t)h->n_layer, &all))
        return fail(err, OM_ELIMIT, "session: a cache of %u tokens is too large", s->context);
    uint8_t *p = s->cache = mem_alloc(all);
    s->kv = mem_array(h->n_layer, sizeof(*s->kv));
    if (!p || !s->kv)
        return fail(err, OM_ENOMEM,
                    "session: no memory for the cache of %u tokens (%zu MB); take a smaller "
                    "context", s->context, all >> 20);
    for (uint32_t i = 0; i < h->n_layer; i++, p += 2 * half)
        s->kv[i] = (nn_kv_layer){.type = type, .k = p, .v = p + half, .capacity = s->context};
    return OM_OK;
}

static om_status fill(llm_session *s, const llm_session_args *a, om_err *err)
{
    const llm_hparams *h = &s->m->h;
    s->context = a->context ? a->context : (uint32_t)size_min(h->context, DEFAULT_CONTEXT);
    s->batch = (uint32_t)size_min(a->batch ? a->batch : DEFAULT_BATCH, s->context);
    if (s->m->pos_embed && s->context > s->m->pos_embed->rows)
        return fail(err, OM_EARG, "session: a context of %u tokens; this model knows %u "
                    "positions", s->context, s->m->pos_embed->rows);
    if (a->kv_type != DTYPE_F32 && a->kv_type != DTYPE_F16)
        return fail(err, OM_EARG, "session: the cache can be F32 or F16, not type %d",
                    (int)a->kv_type);
    s->ids = mem_array(s->context, sizeof(*s->ids));
    s->pos = mem_array(s->context, sizeof(*s->pos));
    s->logits = mem_array(h->vocab, sizeof(*s->logits));
    if (!s->ids || !s->pos || !s->logits)
        return fail(err, OM_ENOMEM, "session: no memory for %u tokens", s->context);
    for (uint32_t i = 0; i < s->context; i++)
        s->pos[i] = (int32_t)i;
    TRY(cache_open(s, a->kv_type, err));
    TRY(nn_open(&(nn_config){.k = a->k, .pool = a->pool}, &s->c, err));
    s->c->exact = a->exact;
    s->c->cancel = a->cancel;
    return OM_OK;
}

om_status llm_session_open(llm_model *m, const llm_session_args *a, llm_session **out,
                           om_err *err)
{
    llm_session *s = mem_alloc(sizeof(*s));
    *out = NULL;
    if (!s)
        return fail(err, OM_ENOMEM, "session: no memory");
    s->m = m;
    om_status st = fill(s, a, err);
    if (st != OM_OK) {
        llm_session_close(s);
        return st;
    }
    *out = s;
    return OM_OK;
}

void llm_session_close(llm_session *s)
{
    if (!s)
        return;
    nn_close(s->c);
    mem_free(s->kv);
    mem_free(s->cache);
    mem_free(s->ids);
    mem_free(s->pos);
    mem_free(s->logits);
    mem_free(s);
}

/* ---- evaluation ---------------------------------------------------------------------- */

typedef struct {
    llm_session *s;
    uint32_t past, rows;
    bool head;
} step;

static om_status run_step(nn *c, void *ctx)
{
    const step *t = ctx;
    llm_session *s = t->s;
    nn_seq seq = {.row = 0, .n_rows = t->rows, .past = t->past};
    llm_batch b = {.ids = s->ids + t->past, .pos = s->pos + t->past, .rows = t->rows,
                   .seq = &seq, .n_seq = 1, .kv = s->kv};
    nn_tensor *x = s->m->arch->forward(c, s->m, &b);
    if (!t->head)
        return c->status;
    uint32_t last = t->rows - 1;
    nn_tensor *y = nn_linear(c, nn_rows(c, x, &last, 1), s->m->output, NULL);
    nn_output(c, y, s->logits);
    return c->status;
}

static om_status check_ids(const llm_session *s, const int32_t *ids, uint32_t n, om_err *err)
{
    if (n == 0)
        return fail(err, OM_EARG, "session: no tokens to evaluate");
    if (n > s->context - s->n)
        return fail(err, OM_ELIMIT,
                    "session: %u tokens after %u do not fit a context of %u", n, s->n,
                    s->context);
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= s->m->h.vocab)
            return fail(err, OM_EARG, "session: token %d; the vocabulary has %u", ids[i],
                        s->m->h.vocab);
    return OM_OK;
}

om_status llm_eval(llm_session *s, const int32_t *ids, uint32_t n, const float **logits,
                   om_err *err)
{
    TRY(check_ids(s, ids, n, err));
    memmove(s->ids + s->n, ids, n * sizeof(*ids));
    for (uint32_t done = 0; done < n;) {
        step t = {.s = s, .past = s->n + done,
                  .rows = (uint32_t)size_min(n - done, s->batch)};
        t.head = done + t.rows == n;
        uint64_t key = (uint64_t)t.rows << 1 | t.head;
        TRY(nn_run(s->c, key, false, run_step, &t, err));
        done += t.rows;
    }
    s->n += n;
    if (logits)
        *logits = s->logits;
    return OM_OK;
}

om_status llm_sync(llm_session *s, const int32_t *ids, uint32_t n, uint32_t *reused,
                   const float **logits, om_err *err)
{
    uint32_t same = 0, before = s->n;
    if (n == 0)
        return fail(err, OM_EARG, "session: no tokens to evaluate");
    while (same < before && same + 1 < n && s->ids[same] == ids[same])
        same++;
    s->n = same; /* at least the last token is computed: its logits are wanted */
    if (reused)
        *reused = same;
    return llm_eval(s, ids + same, n - same, logits, err);
}

uint32_t llm_past(const llm_session *s) { return s->n; }
uint32_t llm_context(const llm_session *s) { return s->context; }

om_status llm_rewind(llm_session *s, uint32_t n_tokens, om_err *err)
{
    if (n_tokens > s->n)
        return fail(err, OM_EARG, "session: cannot rewind %u of %u tokens", n_tokens, s->n);
    s->n -= n_tokens;
    return OM_OK;
}
