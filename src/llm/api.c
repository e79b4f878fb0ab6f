/* api.c - the public functions of octomil/model.h and octomil/run.h.
 *
 * A public session owns its pool of threads and its kernel table: nothing is global.
 * Text is handed out in whole UTF-8 characters: bytes of an unfinished one wait. */
#include "octomil/run.h"

#include "llm/perplexity.h"

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

struct om_session {
    om_model *m;
    kern k;
    pool *pool;
    llm_session *s;
    const om_cancel *cancel;
    void *scratch;      /* for sampling */
    size_t scratch_n;
    float *logits;      /* (vocab) a copy to sample from */
    int32_t *ids;       /* (cap_ids) a prompt, then the answer behind it */
    size_t cap_ids;
};

static om_status session_fill(om_session *s, const om_session_opts *o, om_err *err)
{
    TRY(llm_need_tokenizer(s->m, err));
    TRY(pool_open((int)size_min(o->threads, 1024), &s->pool, err));
    kern_init(&s->k, 0);
    llm_session_args a = {
        .context = o->context, .batch = o->batch, .cancel = o->cancel, .k = &s->k,
        .pool = s->pool, .kv_type = o->cache_f32 ? DTYPE_F32 : DTYPE_F16,
    };
    TRY(llm_session_open(s->m, &a, &s->s, err));
    s->cancel = o->cancel;
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

void om_session_close(om_session *s)
{
    if (!s)
        return;
    llm_session_close(s->s);
    pool_close(s->pool);
    mem_free(s->scratch);
    mem_free(s->logits);
    mem_free(s->ids);
    mem_free(s);
}

/* ---- generation ---------------------------------------------------------------------- */

/* Bytes at the end of p[0..n) that begin a character but do not finish it. */
static size_t unfinished(const char *p, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)p[n - back];
        if ((c & 0xc0) == 0x80)
            continue;
        size_t whole = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        return whole > back ? back : 0;
    }
    return 0;
}

typedef struct {
    om_text_fn *fn;
    void *ctx;
    char held[1024];
    size_t n;
} writer;

static bool put_text(writer *w, str piece, bool last)
{
    while (piece.n || last) {
        size_t take = size_min(piece.n, sizeof(w->held) - w->n);
        if (take)
            memcpy(w->held + w->n, piece.p, take);
        w->n += take;
        piece.p += take;
        piece.n -= take;
        size_t keep = last && !piece.n ? 0 : unfinished(w->held, w->n), out = w->n - keep;
        if (out && w->fn && !w->fn(w->ctx, w->held, out))
            return false;
        memmove(w->held, w->held + out, keep);
        w->n = keep;
        if (last && !piece.n)
            break;
    }
    return true;
}

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

/* Chat templates spell out BOS; the tokenizer adds one: keep one. */
static uint32_t drop_second_bos(const tokenizer *t, int32_t *ids, uint32_t n)
{
    int32_t bos = tokenizer_bos(t);
    if (n < 2 || bos < 0 || ids[0] != bos || ids[1] != bos)
        return n;
    memmove(ids, ids + 1, (n - 1) * sizeof(*ids));
    return n - 1;
}

typedef struct {
    om_session *s;
    const om_generate_opts *o;
    llm_sampling how;
    rng r;
    writer w;
    uint32_t n; /* tokens in s->ids */
    om_generate_stats *st;
} generator;

static om_status next_token(generator *g, const float *logits, bool *stop, om_err *err)
{
    om_session *s = g->s;
    uint32_t vocab = s->m->h.vocab;
    uint32_t recent = (uint32_t)size_min(g->n, g->how.repeat_last);
    memcpy(s->logits, logits, vocab * sizeof(float));
    int32_t id = llm_sample(&g->how, s->logits, vocab, s->ids + g->n - recent, recent, &g->r,
                            arena_of(s->scratch, s->scratch_n));
    *stop = true;
    if (!g->o->ignore_end && tokenizer_is_end(s->m->tok, id)) {
        g->st->stop = OM_STOP_END;
        return OM_OK;
    }
    s->ids[g->n++] = id;
    g->st->generated_tokens++;
    str piece = tokenizer_piece(s->m->tok, id, false);
    bool first = g->n == 2 && s->ids[0] == tokenizer_bos(s->m->tok);
    if (first && str_starts(piece, " ")) /* a text does not begin with a space */
        piece = (str){piece.p + 1, piece.n - 1};
    if (!put_text(&g->w, piece, false))
        g->st->stop = OM_STOP_CALLBACK;
    else if (g->o->max_tokens && g->st->generated_tokens >= g->o->max_tokens)
        g->st->stop = OM_STOP_LENGTH;
    else if (llm_past(s->s) >= llm_context(s->s))
        g->st->stop = OM_STOP_CONTEXT;
    else
        *stop = false;
    if (is_cancelled(s->cancel))
        return fail(err, OM_ECANCEL, "generation was cancelled");
    return OM_OK;
}

static om_status generate(generator *g, const char *prompt, om_err *err)
{
    om_session *s = g->s;
    const float *logits = NULL;
    bool stop = false;
    uint64_t start = os_now_ns();
    TRY(read_prompt(s, prompt, g->o->special, &g->n, err));
    g->n = drop_second_bos(s->m->tok, s->ids, g->n);
    g->st->prompt_tokens = g->n;
    TRY(llm_sync(s->s, s->ids, g->n, &g->st->reused_tokens, &logits, err));
    g->st->prompt_seconds = (double)(os_now_ns() - start) * 1e-9;
    start = os_now_ns();
    for (;;) {
        TRY(next_token(g, logits, &stop, err));
        g->st->generate_seconds = (double)(os_now_ns() - start) * 1e-9;
        if (stop)
            break;
        TRY(llm_eval(s->s, &s->ids[g->n - 1], 1, &logits, err));
    }
    if (g->st->stop != OM_STOP_CALLBACK && !put_text(&g->w, (str){0}, true))
        g->st->stop = OM_STOP_CALLBACK;
    return OM_OK;
}

om_status om_generate(om_session *s, const char *prompt, const om_generate_opts *opts,
                      om_text_fn *text, void *ctx, om_generate_stats *stats, om_err *err)
{
    om_generate_opts none = {0};
    om_generate_stats unused;
    generator g = {.s = s, .o = opts ? opts : &none, .st = stats ? stats : &unused,
                   .w = {.fn = text, .ctx = ctx}};
    *g.st = (om_generate_stats){0};
    g.how = sampling_of(g.o);
    g.r = rng_for(g.how.seed, 0, 0, 0x5a);
    return generate(&g, prompt, err);
}

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
