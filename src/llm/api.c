/* api.c - the public functions of octomil/model.h and octomil/run.h.
 *
 * A public session owns its pool of threads and its kernel table: nothing is global.
 * om_generate is a loop over om_next.  A token is computed when the text before it has been
 * handed out, so nobody waits for more than he asked. */
#include "octomil/run.h"

#include "llm/grammar.h"
#include "llm/outlet.h"
#include "llm/perplexity.h"
#include "llm/speculate.h"

#include <math.h>

#define API_TEXT_MAX ((size_t)1 << 30)

/* ---- models -------------------------------------------------------------------------- */

om_status om_model_open(const char *path, const om_model_opts *opts, om_model **out,
                        om_err *err)
{
    return llm_open_with(path, opts ? opts->tokenizer : NULL, out, err);
}

void om_model_close(om_model *m) { llm_close(m); }

void om_model_describe(const om_model *m, om_model_info *out)
{
    const llm_hparams *h = &m->h;
    *out = (om_model_info){
        .family = m->arch->name, .vocab = h->vocab, .dim = h->dim, .layers = h->n_layer,
        .heads = h->n_head, .kv_heads = h->n_kv_head, .head_dim = h->head_dim,
        .ffn = h->ffn, .context = h->context, .has_tokenizer = m->tok != NULL,
        .chat_template = m->chat ? chat_template_name(m->chat) : NULL,
    };
    for (uint32_t i = 0; i < m->n_weight; i++) {
        const nn_weight *w = &m->weight[i];
        size_t row = 0;
        out->parameters += (uint64_t)w->rows * w->cols;
        if (dtype_row_bytes(w->type, w->cols, &row))
            out->weight_bytes += (uint64_t)row * w->rows;
    }
}

om_status om_tokenize(const om_model *m, const char *text, size_t text_bytes, unsigned flags,
                      int32_t *ids, size_t cap, size_t *n, om_err *err)
{
    *n = 0;
    TRY(llm_need_tokenizer(m, err));
    return tokenizer_encode(m->tok, (str){text, text_bytes}, !(flags & OM_TOKENIZE_PLAIN),
                            (flags & OM_TOKENIZE_SPECIAL) != 0, ids, cap, n, err);
}

om_status om_detokenize(const om_model *m, const int32_t *ids, size_t n, char *text,
                        size_t cap, size_t *text_bytes, om_err *err)
{
    buf b = buf_growing(API_TEXT_MAX);
    *text_bytes = 0;
    TRY(llm_need_tokenizer(m, err));
    om_status s = tokenizer_decode(m->tok, ids, n, false, &b, err);
    *text_bytes = b.len;
    if (s == OM_OK && b.len > cap)
        s = fail(err, OM_ELIMIT, "model: the text has %zu bytes, there is room for %zu", b.len,
                 cap);
    if (b.len)
        memcpy(text, b.data, size_min(b.len, cap));
    buf_free(&b);
    return s;
}

om_status om_model_save(const om_model *m, const char *path, const char *type,
                        om_progress_fn *progress, void *ctx, om_err *err)
{
    dtype t = type ? dtype_find(str_of(type)) : DTYPE_COUNT;
    if (type && (t == DTYPE_COUNT || !dtype_of(t)->pack))
        return fail(err, OM_EARG, "model: weights cannot be written as '%s'; F32, F16, BF16, "
                                  "Q8_0, Q4_0, Q4_K and Q6_K are common", type);
    return llm_write_gguf(m, path, t, progress, ctx, err);
}

/* ---- sessions ------------------------------------------------------------------------ */

enum { API_STOPS = 16 };

/* An answer that is being given. */
typedef struct {
    llm_sampling how;
    rng r;
    uint32_t n;          /* tokens in the session's ids */
    uint32_t max_tokens;
    bool ignore_end, running;
    int32_t due;         /* a token to compute before the next can be drawn; -1: none */
    outlet out;
    size_t shown;
    str stop[API_STOPS];
    grammar *g;
    gmatch *match;
    const float *at;     /* (vocab) what the next token is drawn from */
    om_generate_stats st;
} answer;

struct om_session {
    om_model *m;
    kern k;
    pool *pool;
    llm_session *s;
    const om_cancel *cancel; /* the caller's, or own */
    om_cancel own;
    answer a;
    vocab_tree *vocab;  /* once a form was asked for */
    void *scratch;      /* for sampling */
    size_t scratch_n;
    float *logits;      /* (vocab) a copy to sample from */
    int32_t *ids;       /* (cap_ids) a prompt, then the answer behind it */
    size_t cap_ids;
    speculator *spec;   /* NULL: one token per forward */
    om_model *draft;    /* NULL: none */
};

static om_status open_speculation(om_session *s, const om_speculate_opts *o,
                                  const llm_session_args *a, om_err *err)
{
    spec_args how = {.most = o->most, .args = a};
    if (o->kind == OM_SPECULATE_OFF)
        return OM_OK;
    if (o->kind == OM_SPECULATE_DRAFT && !o->draft)
        return fail(err, OM_EARG, "session: speculation by a draft model needs its path");
    if (o->kind != OM_SPECULATE_AUTO)
        how.only = o->kind == OM_SPECULATE_LOOKUP ? "lookup" : "draft";
    if (o->draft && o->kind != OM_SPECULATE_LOOKUP) {
        TRY(llm_open(o->draft, &s->draft, err));
        if (!spec_same_vocabulary(s->m, s->draft))
            return fail(err, OM_EARG, "session: the draft model %s has not the vocabulary of "
                                      "the model it is to draft for", o->draft);
    }
    how.draft = s->draft;
    return spec_open(s->s, &how, &s->spec, err);
}

static om_status session_fill(om_session *s, const om_session_opts *o, om_err *err)
{
    TRY(llm_need_tokenizer(s->m, err));
    if (o->expert_bytes && !s->m->h.n_expert)
        return fail(err, OM_EARG, "session: this model has no experts to keep; leave the "
                                  "cache of experts out");
    TRY(pool_open((int)size_min(o->threads, 1024), &s->pool, err));
    kern_init(&s->k, 0);
    llm_session_args a = {
        .context = o->context, .batch = o->batch, .k = &s->k,
        .cancel = o->cancel ? o->cancel : &s->own,
        .pool = s->pool, .kv_type = o->cache_f32 ? DTYPE_F32 : DTYPE_F16,
        .bits = o->cache_bits, .budget = o->cache_bytes, .spill = o->spill,
        .expert_cache = o->expert_bytes,
    };
    TRY(llm_session_fit(s->m, &a, err));
    TRY(llm_session_open(s->m, &a, &s->s, err));
    TRY(open_speculation(s, &o->speculate, &a, err));
    s->cancel = a.cancel;
    s->scratch_n = llm_sample_bytes(s->m->h.vocab);
    s->cap_ids = (size_t)llm_context(s->s) + 1;
    s->scratch = mem_alloc(s->scratch_n);
    s->logits = mem_array(s->m->h.vocab, sizeof(float));
    s->ids = mem_array(s->cap_ids, sizeof(*s->ids));
    if (!s->scratch || !s->logits || !s->ids)
        return fail(err, OM_ENOMEM, "session: no memory");
    return OM_OK;
}

om_status om_session_open(om_model *m, const om_session_opts *opts, om_session **out,
                          om_err *err)
{
    om_session *s = mem_alloc(sizeof(*s));
    *out = NULL;
    if (!s)
        return fail(err, OM_ENOMEM, "session: no memory");
    s->m = m;
    om_status st = session_fill(s, opts ? opts : &(om_session_opts){0}, err);
    if (st != OM_OK) {
        om_session_close(s);
        return st;
    }
    *out = s;
    return OM_OK;
}

static void answer_close(answer *a)
{
    gmatch_close(a->match);
    grammar_close(a->g);
    buf_free(&a->out.text);
    for (size_t i = 0; i < API_STOPS; i++)
        mem_free((char *)(uintptr_t)a->stop[i].p);
    *a = (answer){.n = 0};
}

void om_session_close(om_session *s)
{
    if (!s)
        return;
    answer_close(&s->a);
    vocab_tree_close(s->vocab);
    spec_close(s->spec);
    llm_close(s->draft);
    llm_session_close(s->s);
    pool_close(s->pool);
    mem_free(s->scratch);
    mem_free(s->logits);
    mem_free(s->ids);
    mem_free(s);
}

void om_cancel_now(om_session *s) { cancel_now(&s->own); }

/* A cancellation is for one call. */
static om_status served(om_session *s, om_status st)
{
    if (st == OM_ECANCEL)
        atomic_store(&s->own.requested, 0);
    return st;
}

static om_status check_cancel(const om_session *s, om_err *err)
{
    return is_cancelled(s->cancel) || is_cancelled(&s->own)
               ? fail(err, OM_ECANCEL, "generation was cancelled")
               : OM_OK;
}

/* ---- generation ---------------------------------------------------------------------- */

static llm_sampling sampling_of(const om_generate_opts *o)
{
    return (llm_sampling){
        .temperature = o->greedy ? 0 : o->temperature > 0 ? o->temperature : 0.8f,
        .top_k = o->top_k == 0 ? 40 : o->top_k == UINT32_MAX ? 0 : o->top_k,
        .top_p = o->top_p > 0 ? o->top_p : 0.95f,
        .min_p = o->min_p == 0 ? 0.05f : o->min_p < 0 ? 0 : o->min_p,
        .repeat_penalty = o->repeat_penalty > 0 ? o->repeat_penalty : 1,
        .repeat_last = 64, .seed = o->seed,
    };
}

static om_status read_prompt(om_session *s, const char *prompt, bool special, uint32_t *n,
                             om_err *err)
{
    size_t need = 0;
    om_status st = tokenizer_encode(s->m->tok, str_of(prompt), true, special, s->ids,
                                    s->cap_ids - 1, &need, err);
    if (need >= s->cap_ids)
        return fail(err, OM_ELIMIT,
                    "session: the prompt has %zu tokens, the session holds %zu; open it with a "
                    "larger context", need, s->cap_ids - 1);
    TRY(st);
    if (need == 0) { /* nothing to condition on: begin as training texts began */
        int32_t bos = tokenizer_bos(s->m->tok), eos = tokenizer_eos(s->m->tok);
        if (bos < 0 && eos < 0)
            return fail(err, OM_EARG, "session: an empty prompt, and the model has no BOS");
        s->ids[need++] = bos >= 0 ? bos : eos;
    }
    *n = (uint32_t)need;
    return OM_OK;
}

/* The tokens of a trained prompt go before the text's. */
static om_status put_lead(om_session *s, uint32_t *n, om_err *err)
{
    uint32_t lead = llm_prompt_tokens(s->m);
    if (*n + lead >= s->cap_ids)
        return fail(err, OM_ELIMIT,
                    "session: the prompt has %u tokens and the trained one %u, the session "
                    "holds %zu; open it with a larger context", *n, lead, s->cap_ids - 1);
    memmove(s->ids + lead, s->ids, *n * sizeof(*s->ids));
    for (uint32_t i = 0; i < lead; i++)
        s->ids[i] = (int32_t)(s->m->h.vocab + i);
    *n += lead;
    return OM_OK;
}

/* Chat templates spell out BOS; the tokenizer adds one: keep one. */
static uint32_t drop_second_bos(const tokenizer *t, int32_t *ids, uint32_t n)
{
    int32_t bos = tokenizer_bos(t);
    if (n < 2 || bos < 0 || ids[0] != bos || ids[1] != bos)
        return n;
    memmove(ids, ids + 1, (n - 1) * sizeof(*ids));
    return n - 1;
}

static om_status take_stops(answer *a, const char *const *stops, om_err *err)
{
    for (uint32_t i = 0; stops && stops[i]; i++) {
        if (i == API_STOPS || !stops[i][0])
            return fail(err, OM_EARG, "session: at most %d stops, none of them empty", API_STOPS);
        char *copy = mem_strdup(str_of(stops[i]));
        if (!copy)
            return fail(err, OM_ENOMEM, "session: no memory");
        a->stop[i] = str_of(copy);
        a->out.n_stop = i + 1;
    }
    a->out.stop = a->stop;
    return OM_OK;
}

static om_status make_form(const om_generate_opts *o, grammar **out, om_err *err)
{
    json_doc d;
    *out = NULL;
    if (o->json + (o->json_schema != NULL) + (o->grammar != NULL) > 1)
        return fail(err, OM_EARG, "session: one of json, json_schema and grammar at a time");
    if (o->json)
        return grammar_json(out, err);
    if (o->grammar)
        return grammar_from_text(str_of(o->grammar), out, err);
    if (!o->json_schema)
        return OM_OK;
    TRY(json_parse(o->json_schema, strlen(o->json_schema), 0, &d, err));
    om_status s = grammar_from_schema(d.root, out, err);
    json_close(&d);
    return s;
}

static om_status take_form(om_session *s, const om_generate_opts *o, om_err *err)
{
    TRY(make_form(o, &s->a.g, err));
    if (!s->a.g)
        return OM_OK;
    if (!s->vocab)
        TRY(vocab_tree_open(s->m->tok, &s->vocab, err));
    return gmatch_open(s->a.g, s->vocab, &s->a.match, err);
}

static om_status begin(om_session *s, const char *prompt, const om_generate_opts *o,
                       om_err *err)
{
    answer *a = &s->a;
    uint64_t start = os_now_ns();
    answer_close(a);
    a->out.text = buf_growing(API_TEXT_MAX);
    a->how = sampling_of(o);
    a->r = rng_for(a->how.seed, 0, 0, 0x5a);
    a->max_tokens = o->max_tokens;
    a->ignore_end = o->ignore_end;
    a->due = -1;
    TRY(check_cancel(s, err));
    TRY(take_stops(a, o->stops, err));
    TRY(take_form(s, o, err));
    TRY(read_prompt(s, prompt, o->special, &a->n, err));
    a->n = drop_second_bos(s->m->tok, s->ids, a->n);
    TRY(put_lead(s, &a->n, err));
    a->st.prompt_tokens = a->n;
    if (s->spec)
        spec_begin(s->spec);
    TRY(llm_sync(s->s, s->ids, a->n, &a->st.reused_tokens, &a->at, err));
    a->st.prompt_seconds = (double)(os_now_ns() - start) * 1e-9;
    a->running = true;
    return OM_OK;
}

om_status om_start(om_session *s, const char *prompt, const om_generate_opts *opts, om_err *err)
{
    static const om_generate_opts none = {0};
    return served(s, begin(s, prompt, opts ? opts : &none, err));
}

/* The end of the answer, for this reason. */
static void finish(answer *a, om_stop why)
{
    a->running = false;
    a->st.stop = why;
    outlet_end(&a->out);
}

/* Tokens that keep the form; false: the answer ended. */
static om_status keep_form(om_session *s, bool *ended, om_err *err)
{
    const uint64_t *mask;
    uint32_t n;
    *ended = false;
    if (!s->a.match)
        return OM_OK;
    TRY(gmatch_mask(s->a.match, &mask, &n, err));
    *ended = n == 0;
    if (n == 0 && !gmatch_can_end(s->a.match))
        return fail(err, OM_EUNSUPPORTED, "session: no token of this vocabulary is what the "
                                          "grammar allows here");
    gmatch_apply(mask, s->logits, s->m->h.vocab);
    return OM_OK;
}

/* What a drawn token means for the text and for going on. */
static om_status say(om_session *s, int32_t id, om_err *err)
{
    answer *a = &s->a;
    const tokenizer *t = s->m->tok;
    if (a->match)
        TRY(gmatch_token(a->match, id, err));
    if (tokenizer_is_end(t, id) && (!a->ignore_end || a->match)) {
        finish(a, OM_STOP_END);
        return OM_OK;
    }
    s->ids[a->n++] = id;
    a->due = id;
    a->st.generated_tokens++;
    str piece = tokenizer_piece(t, id, false);
    uint32_t lead = llm_prompt_tokens(s->m);
    bool first = a->n == lead + 2 && s->ids[lead] == tokenizer_bos(t);
    if (first && str_starts(piece, " ")) /* a text does not begin with a space */
        piece = (str){piece.p + 1, piece.n - 1};
    if (outlet_put(&a->out, piece) != OM_OK)
        return fail(err, OM_ENOMEM, "session: no memory for the answer");
    if (a->out.stopped)
        finish(a, OM_STOP_END);
    else if (a->max_tokens && a->st.generated_tokens >= a->max_tokens)
        finish(a, OM_STOP_LENGTH);
    else if (a->n > llm_context(s->s))
        finish(a, OM_STOP_CONTEXT);
    return OM_OK;
}

/* The logits behind the token that is due. */
static om_status advance(om_session *s, om_err *err)
{
    answer *a = &s->a;
    spec_text t = {s->ids, a->n, &a->how, a->r};
    uint32_t left = a->max_tokens ? a->max_tokens - a->st.generated_tokens : UINT32_MAX;
    return s->spec ? spec_next(s->spec, &t, left - 1, &a->at, err)
                   : llm_eval(s->s, &a->due, 1, &a->at, err);
}

static om_status next_token(om_session *s, om_err *err)
{
    answer *a = &s->a;
    uint32_t vocab = s->m->h.vocab, recent = (uint32_t)size_min(a->n, a->how.repeat_last);
    bool ended;
    TRY(check_cancel(s, err));
    if (a->due >= 0)
        TRY(advance(s, err));
    a->due = -1;
    memcpy(s->logits, a->at, vocab * sizeof(float));
    TRY(keep_form(s, &ended, err));
    if (ended) {
        finish(a, OM_STOP_END);
        return OM_OK;
    }
    return say(s, llm_sample(&a->how, s->logits, vocab, s->ids + a->n - recent, recent, &a->r,
                             arena_of(s->scratch, s->scratch_n)), err);
}

om_status om_next(om_session *s, const char **text, size_t *n, om_err *err)
{
    answer *a = &s->a;
    uint64_t start = os_now_ns();
    om_status st = OM_OK;
    while (st == OM_OK && a->running && a->out.ready == a->shown)
        st = next_token(s, err);
    a->st.generate_seconds += (double)(os_now_ns() - start) * 1e-9;
    *text = a->out.text.data ? (const char *)a->out.text.data + a->shown : "";
    *n = st == OM_OK ? a->out.ready - a->shown : 0;
    a->shown += *n;
    a->running = a->running && st == OM_OK;
    return served(s, st);
}

void om_statistics(const om_session *s, om_generate_stats *out)
{
    spec_stats sp = s->spec ? spec_now(s->spec) : (spec_stats){.speedup = 1};
    *out = s->a.st;
    out->drafted_tokens = (uint32_t)sp.drafted;
    out->accepted_tokens = (uint32_t)sp.accepted;
    out->speedup = sp.speedup;
    llm_expert_stats ex = llm_experts_now(llm_session_kv(s->s));
    out->experts = ex.requests;
    out->experts_awaited = ex.misses;
}

om_status om_generate(om_session *s, const char *prompt, const om_generate_opts *opts,
                      om_text_fn *fn, void *ctx, om_generate_stats *stats, om_err *err)
{
    const char *text;
    size_t n = 0;
    om_status st = om_start(s, prompt, opts, err);
    while (st == OM_OK) {
        st = om_next(s, &text, &n, err);
        if (st != OM_OK || n == 0)
            break;
        if (fn && !fn(ctx, text, n)) {
            finish(&s->a, OM_STOP_CALLBACK);
            break;
        }
    }
    if (stats)
        om_statistics(s, stats);
    return st;
}

/* ---- embeddings ---------------------------------------------------------------------- */

static om_status embed_ids(om_session *s, llm_session *on, const int32_t *ids, uint32_t n,
                           float *out, om_err *err)
{
    uint32_t dim = s->m->h.dim, most = 256;
    float *h = mem_array((size_t)most * dim, sizeof(float));
    double norm = 0;
    om_status st = h ? OM_OK : fail(err, OM_ENOMEM, "session: no memory for an embedding");
    memset(out, 0, dim * sizeof(float));
    for (uint32_t at = 0, take; at < n && st == OM_OK; at += take) {
        take = (uint32_t)size_min(n - at, most);
        st = llm_hidden(on, ids + at, take, h, err);
        for (size_t i = 0; st == OM_OK && i < (size_t)take * dim; i++)
            out[i % dim] += h[i];
    }
    mem_free(h);
    for (uint32_t i = 0; i < dim; i++)
        norm += (double)out[i] * (double)out[i];
    for (uint32_t i = 0; i < dim && norm > 0; i++)
        out[i] = (float)((double)out[i] / sqrt(norm));
    return st;
}

om_status om_embed(om_session *s, const char *text, float *out, om_err *err)
{
    llm_session *on = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    llm_session_args a = {.context = llm_context(s->s), .kv = llm_session_kv(s->s),
                          .cancel = s->cancel};
    TRY(llm_tokenize(s->m, str_of(text), &ids, &n, err));
    om_status st = llm_session_open(s->m, &a, &on, err);
    if (st == OM_OK && (n == 0 || n > llm_context(s->s)))
        st = fail(err, OM_ELIMIT, "session: a text of %zu tokens; 1 to %u can be embedded", n,
                  llm_context(s->s));
    if (st == OM_OK)
        st = embed_ids(s, on, ids, (uint32_t)n, out, err);
    llm_session_close(on);
    mem_free(ids);
    return served(s, st);
}

/* ---- conversations ------------------------------------------------------------------- */

om_status om_chat_prompt(const om_model *m, const om_message *messages, size_t n, char *out,
                         size_t cap, size_t *need, om_err *err)
{
    buf b = buf_growing(API_TEXT_MAX);
    *need = 0;
    if (!m->chat)
        return fail(err, OM_EUNSUPPORTED, "model: no chat template that is known");
    chat_message *list = mem_array(n, sizeof(*list));
    if (!list)
        return fail(err, OM_ENOMEM, "model: no memory for %zu messages", n);
    for (size_t i = 0; i < n; i++)
        list[i] = (chat_message){messages[i].role, str_of(messages[i].content)};
    om_status s = chat_render(m->chat, list, n, true, &b, err);
    mem_free(list);
    *need = b.len + 1;
    if (s == OM_OK && b.len >= cap)
        s = fail(err, OM_ELIMIT, "model: the prompt has %zu bytes, there is room for %zu",
                 b.len + 1, cap);
    if (s == OM_OK) {
        memcpy(out, b.data, b.len);
        out[b.len] = '\0';
    }
    buf_free(&b);
    return s;
}

/* ---- perplexity ---------------------------------------------------------------------- */

om_status om_perplexity(om_model *m, const char *text, size_t text_bytes,
                        const om_perplexity_opts *opts, om_perplexity_result *out, om_err *err)
{
    om_perplexity_opts o = opts ? *opts : (om_perplexity_opts){0};
    perplexity_report r = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    pool *p = NULL;
    kern k;
    kern_init(&k, 0);
    om_status s = llm_tokenize(m, (str){text, text_bytes}, &ids, &n, err);
    if (s == OM_OK)
        s = pool_open((int)size_min(o.threads, 1024), &p, err);
    if (s == OM_OK)
        s = llm_perplexity(m, &k, p, ids, n, o.window, o.stride, o.cancel, o.progress,
                           o.progress_ctx, &r, err);
    *out = (om_perplexity_result){r.perplexity, r.low, r.high, r.nll, r.tokens, r.seconds};
    pool_close(p);
    mem_free(ids);
    return s;
}
