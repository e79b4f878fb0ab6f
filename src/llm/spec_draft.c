/* spec_draft.c - guesses of a second, smaller model with the same vocabulary.
 *
 * It writes on by itself, drawing with the random number the sampler will use for the same
 * place (both count draws alike): two distributions that are alike then mostly give the same
 * token, more often than two independent draws would.
 *
 * NEAR PAST.  Its own timeline follows the text.  Where that would mean reading more than
 * LAG tokens, after a long prompt or a stretch without guesses, it starts afresh from the
 * last NEAR tokens: a draft needs the neighbourhood, and what it costs to look whether
 * guesses pay stays small. */
#include "llm/speculate.h"

enum { LAG = 48, NEAR = 32 };

typedef struct {
    llm_session *s;
    uint32_t from;   /* its timeline is the text from this token on */
    uint32_t vocab;
    float *logits;   /* (vocab) to draw from */
    void *scratch;
} draft;

bool spec_same_vocabulary(const llm_model *a, const llm_model *b)
{
    if (!a->tok || !b->tok || a->h.vocab != b->h.vocab ||
        tokenizer_size(a->tok) != tokenizer_size(b->tok))
        return false;
    for (uint32_t i = 0; i < tokenizer_size(a->tok); i++)
        if (!str_eq(tokenizer_piece(a->tok, (int32_t)i, true),
                    tokenizer_piece(b->tok, (int32_t)i, true)))
            return false;
    return true;
}

static void close_it(void *self)
{
    draft *d = self;
    if (!d)
        return;
    llm_session_close(d->s);
    mem_free(d->logits);
    mem_free(d->scratch);
    mem_free(d);
}

static om_status fill(draft *d, const spec_source *from, om_err *err)
{
    llm_session_args a = {
        .context = (uint32_t)size_min(llm_context(from->s), from->draft->h.context),
        .kv_type = from->args->kv_type, .k = from->args->k, .pool = from->args->pool,
        .cancel = from->args->cancel,
    };
    TRY(llm_session_open(from->draft, &a, &d->s, err));
    d->vocab = from->draft->h.vocab;
    d->logits = mem_array(d->vocab, sizeof(float));
    d->scratch = mem_alloc(llm_sample_bytes(d->vocab));
    return d->logits && d->scratch ? OM_OK : fail(err, OM_ENOMEM, "speculation: no memory");
}

static om_status open_it(const spec_source *from, void **self, om_err *err)
{
    *self = NULL;
    if (!from->draft)
        return OM_OK;
    draft *d = mem_alloc(sizeof(*d));
    if (!d)
        return fail(err, OM_ENOMEM, "speculation: no memory");
    om_status s = fill(d, from, err);
    if (s != OM_OK)
        close_it(d);
    else
        *self = d;
    return s;
}

static void begin(void *self)
{
    draft *d = self;
    d->from = 0;
}

/* Tokens of the text that its timeline holds. */
static uint32_t shared(const draft *d, const spec_text *t)
{
    const int32_t *ids = llm_tokens(d->s);
    uint32_t n = 0, past = llm_past(d->s);
    while (n < past && d->from + n < t->n && ids[n] == t->ids[d->from + n])
        n++;
    return n;
}

static int look(void *self, const spec_text *t)
{
    const draft *d = self;
    return t->n > 0 && llm_context(d->s) > NEAR + SPEC_MOST ? 0 : -1;
}

/* The draft's logits behind the text. */
static om_status follow(draft *d, const spec_text *t, uint32_t want, const float **logits,
                        om_err *err)
{
    uint32_t have = shared(d, t);
    if (t->n - d->from - have > LAG || t->n - d->from + want > llm_context(d->s))
        d->from = t->n > NEAR ? t->n - NEAR : 0;
    return llm_sync(d->s, t->ids + d->from, t->n - d->from, NULL, logits, err);
}

static om_status guess(void *self, const spec_text *t, uint32_t want, int32_t *out,
                       uint32_t *n, om_err *err)
{
    draft *d = self;
    arena scratch = arena_of(d->scratch, llm_sample_bytes(d->vocab));
    const float *logits;
    int32_t recent[256];
    uint32_t last = (uint32_t)size_min(size_min(t->n, t->how->repeat_last),
                                       countof(recent) - SPEC_MOST);
    rng r = t->r;
    memcpy(recent, t->ids + t->n - last, last * sizeof(*recent));
    *n = 0;
    TRY(follow(d, t, want, &logits, err));
    for (uint32_t i = 0; i < want; i++) {
        if (i > 0)
            TRY(llm_eval(d->s, &out[i - 1], 1, &logits, err));
        memcpy(d->logits, logits, d->vocab * sizeof(float));
        out[i] = llm_sample(t->how, d->logits, d->vocab, recent + i, last, &r, scratch);
        recent[last + i] = out[i];
        *n = i + 1;
    }
    return OM_OK;
}

const spec_kind spec_draft = {
    .name = "draft", .summary = "a smaller model with the same vocabulary writes on",
    .first_class = 5, .classes = 1,
    .open = open_it, .close = close_it, .begin = begin, .look = look, .guess = guess,
};
