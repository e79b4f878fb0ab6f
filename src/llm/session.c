/* session.c - timelines of tokens over a paged cache, one or many in a forward.
 *
 * A forward takes rows of several sessions; prompts longer than a batch take several.
 * The head is computed for the rows whose logits are wanted alone.  A call that fails or
 * is cancelled leaves every timeline as it was: cache slots past its end are never
 * read. */
#include "llm/kv.h"

/* ---- open and close --------------------------------------------------------------- */

static void take_out(llm_session *s)
{
    if (s->prev)
        s->prev->next = s->next;
    else if (s->kv && s->kv->sessions == s)
        s->kv->sessions = s->next;
    if (s->next)
        s->next->prev = s->prev;
    s->prev = s->next = NULL;
}

/* To the front of the list: used just now. */
static void link_first(llm_session *s)
{
    take_out(s);
    s->next = s->kv->sessions;
    if (s->next)
        s->next->prev = s;
    s->kv->sessions = s;
}

static om_status fill(llm_session *s, llm_model *m, const llm_session_args *a, om_err *err)
{
    s->context = llm_context_of(m, a->context);
    s->pages = kv_pages_of(s->context);
    s->cancel = a->cancel;
    s->endless = a->endless;
    if (s->endless && (m->pos_embed || s->pages < 4))
        return fail(err, OM_EARG,
                    "session: an endless session needs rotary positions and a "
                    "context of %d tokens at least",
                    4 * KV_TOKENS);
    if (a->kv && a->kv->m != m)
        return fail(err, OM_EARG, "session: the shared cache belongs to another model");
    if (m->pos_embed && s->context > m->pos_embed->rows)
        return fail(err, OM_EARG,
                    "session: a context of %u tokens; this model knows %u "
                    "positions",
                    s->context, m->pos_embed->rows);
    if (a->kv) {
        s->kv = a->kv;
        s->kv->refs++;
    } else {
        TRY(llm_kv_open(m, a, &s->kv, err));
    }
    s->ids = mem_array(s->context, sizeof(*s->ids));
    s->page = mem_array(s->pages, sizeof(*s->page));
    s->view = mem_array(s->pages, sizeof(*s->view));
    if (!s->ids || !s->page || !s->view)
        return fail(err, OM_ENOMEM, "session: no memory for %u tokens", s->context);
    if (s->context > s->kv->capacity)
        s->kv->capacity = s->context;
    link_first(s);
    return OM_OK;
}

om_status llm_session_open(llm_model *m, const llm_session_args *a, llm_session **out,
                           om_err *err)
{
    llm_session *s = mem_alloc(sizeof(*s));
    *out = NULL;
    if (!s)
        return fail(err, OM_ENOMEM, "session: no memory");
    om_status st = fill(s, m, a, err);
    if (st != OM_OK) {
        llm_session_close(s);
        return st;
    }
    *out = s;
    return OM_OK;
}

om_status llm_session_fork(const llm_session *s, llm_session **out, om_err *err)
{
    llm_session_args a = {
        .context = s->context, .cancel = s->cancel, .kv = s->kv, .endless = s->endless};
    TRY(llm_session_open(s->kv->m, &a, out, err));
    llm_session *f = *out;
    f->n = f->computed = s->n;
    f->shift = s->shift;
    memcpy(f->ids, s->ids, s->n * sizeof(*s->ids));
    for (uint32_t i = 0; i < kv_pages_of(s->n); i++) {
        f->page[i] = s->page[i];
        f->page[i]->refs++;
    }
    return OM_OK;
}

void kv_session_swap(llm_session *a, llm_session *b)
{
    llm_session t = *a;
    BUG_IF(a->kv != b->kv || a->context != b->context);
    a->page = b->page, a->view = b->view, a->ids = b->ids;
    a->n = b->n, a->computed = b->computed, a->shift = b->shift;
    b->page = t.page, b->view = t.view, b->ids = t.ids;
    b->n = t.n, b->computed = t.computed, b->shift = t.shift;
}

/* Give back the pages behind the end. */
static void trim(llm_session *s)
{
    s->computed = s->n;
    for (uint32_t i = kv_pages_of(s->n); i < s->pages && s->page[i]; i++) {
        kv_page_drop(s->kv, s->page[i]);
        s->page[i] = NULL;
    }
}

void llm_session_close(llm_session *s)
{
    if (!s)
        return;
    s->n = 0;
    if (s->page)
        trim(s);
    take_out(s);
    llm_kv_close(s->kv);
    mem_free(s->page);
    mem_free(s->view);
    mem_free(s->ids);
    mem_free(s);
}

/* ---- a forward -------------------------------------------------------------------- */

typedef struct {
    llm_kv *kv;
    const llm_turn *turn;
    uint32_t n_turn;
    uint32_t at, done;           /* the next row: of turn `at`, row `done` */
    uint32_t first;              /* turn of the first sequence of this forward */
    uint32_t rows, n_seq, n_out; /* of this forward */
    size_t rows_before, out_before;
    float *hidden; /* (all rows, dim) or NULL */
} batch;

static om_status forward(nn *c, void *ctx)
{
    const batch *b = ctx;
    llm_kv *kv = b->kv;
    llm_model *m = kv->m;
    llm_batch in = {.ids = kv->ids,
                    .pos = kv->pos,
                    .rows = b->rows,
                    .seq = kv->seq,
                    .n_seq = b->n_seq,
                    .kv = kv->layer,
                    .experts = experts_face(kv->experts)};
    nn_tensor *x = m->arch->forward(c, m, &in);
    if (b->hidden)
        nn_output(c, x, b->hidden + b->rows_before * m->h.dim);
    if (!b->n_out)
        return c->status;
    if (b->n_out < b->rows)
        x = nn_rows(c, x, kv->out_row, b->n_out);
    nn_output(c, nn_linear(c, x, m->output, NULL), kv->logits + b->out_before * m->h.vocab);
    return c->status;
}

/* Rows [done, done + n) of turn t behind the rows there are. */
static void add_rows(batch *b, const llm_turn *t, uint32_t n)
{
    llm_kv *kv = b->kv;
    kv->seq[b->n_seq++] = (nn_seq){
        .row = b->rows, .n_rows = n, .past = t->s->n + b->done, .page = t->s->view};
    for (uint32_t i = b->done; i < b->done + n; i++, b->rows++) {
        kv->ids[b->rows] = t->ids[i];
        kv->pos[b->rows] = (int32_t)(t->s->shift + t->s->n + i);
        if (i + t->want >= t->n)
            kv->out_row[b->n_out++] = b->rows;
    }
}

static bool next_batch(batch *b)
{
    b->rows_before += b->rows;
    b->out_before += b->n_out;
    b->rows = b->n_seq = b->n_out = 0;
    b->first = b->at;
    while (b->at < b->n_turn && b->rows < b->kv->batch) {
        const llm_turn *t = &b->turn[b->at];
        uint32_t n = (uint32_t)size_min(t->n - b->done, b->kv->batch - b->rows);
        add_rows(b, t, n);
        b->done += n;
        if (b->done == t->n) {
            b->done = 0;
            b->at++;
        }
    }
    return b->rows > 0;
}

/* Pages for the tokens [beg, end) of a timeline, writable. */
static om_status room(llm_session *s, uint32_t beg, uint32_t end, om_err *err)
{
    for (uint32_t i = beg / KV_TOKENS; i < kv_pages_of(end); i++)
        TRY(s->page[i] ? kv_page_own(s->kv, &s->page[i], err)
                       : kv_page_new(s->kv, &s->kv->plain, &s->page[i], err));
    return OM_OK;
}

/* Whole pages before token `end` less the recent ones are packed. */
static om_status pack_old(llm_session *s, uint32_t end, om_err *err)
{
    llm_kv *kv = s->kv;
    if (!kv->packed.bytes || kv->pack_late || end < kv->recent)
        return OM_OK;
    for (uint32_t i = (end - kv->recent) / KV_TOKENS; i-- > 0;) {
        if (s->page[i]->form != &kv->plain)
            break; /* those before it are packed too, or in a file */
        if (!s->page[i]->segment)
            TRY(kv_page_pack(kv, s->page[i], err));
    }
    return OM_OK;
}

/* A page that was spilled comes back where the budget has room by now. */
static om_status look(llm_session *s, uint32_t end, om_err *err)
{
    llm_kv *kv = s->kv;
    for (uint32_t i = 0; i < kv_pages_of(end); i++) {
        kv_page *p = s->page[i];
        if (p->segment && kv->now.memory + p->form->bytes <= kv->budget)
            TRY(kv_page_fetch(kv, p, err));
        s->view[i] = (nn_kv_page){p->data, p->form->layer};
    }
    return OM_OK;
}

/* One forward.  Room for all comes first: making it may move the pages of others. */
static om_status run_batch(batch *b, om_err *err)
{
    llm_kv *kv = b->kv;
    const nn_seq *q = kv->seq;
    uint64_t key = (uint64_t)b->rows | (uint64_t)b->n_out << 17 |
                   (uint64_t)(b->hidden != NULL) << 34 | (uint64_t)kv->capacity << 35;
    for (uint32_t i = 0; i < b->n_seq; i++)
        TRY(room(b->turn[b->first + i].s, q[i].past, q[i].past + q[i].n_rows, err));
    for (uint32_t i = 0; i < b->n_seq; i++)
        TRY(look(b->turn[b->first + i].s, q[i].past + q[i].n_rows, err));
    TRY(nn_run(kv->c, key, false, forward, b, err));
    kv_spill_rest(kv);
    for (uint32_t i = 0; i < b->n_seq; i++) {
        llm_session *s = b->turn[b->first + i].s;
        s->computed = q[i].past + q[i].n_rows;
        TRY(pack_old(s, s->computed, err));
    }
    return OM_OK;
}

static om_status run_all(batch *b, om_err *err)
{
    llm_kv *kv = b->kv;
    for (uint32_t i = 0; i < kv->m->h.n_layer; i++)
        kv->layer[i].capacity = kv->capacity;
    for (uint32_t i = b->n_turn; i-- > 0;) {
        link_first(b->turn[i].s);
        b->turn[i].s->busy = true;
    }
    kv->c->cancel = b->turn[0].s->cancel;
    while (next_batch(b))
        TRY(run_batch(b, err));
    return OM_OK;
}

/* ---- several sessions ------------------------------------------------------------- */

static om_status check_turn(const llm_turn *t, om_err *err)
{
    const llm_session *s = t->s;
    if (t->n == 0)
        return fail(err, OM_EARG, "session: no tokens to evaluate");
    if (t->want > t->n)
        return fail(err, OM_EARG, "session: logits of %u rows wanted, %u are computed",
                    t->want, t->n);
    if (t->n > s->context - s->n)
        return fail(err, OM_ELIMIT,
                    "session: %u tokens after %u do not fit a context of %u", t->n, s->n,
                    s->context);
    for (uint32_t i = 0; i < t->n; i++)
        if (t->ids[i] < 0 || (uint32_t)t->ids[i] >= llm_token_limit(s->kv->m))
            return fail(err, OM_EARG, "session: token %d; the vocabulary has %u", t->ids[i],
                        s->kv->m->h.vocab);
    return OM_OK;
}

/* Forget a part of an endless session's middle so that n tokens fit: its first page stays,
 * the attention sink (Xiao et al. 2024), and moves up in position to what follows.  That
 * page alone is turned: rotary positions only matter by their differences. */
static om_status make_endless_room(llm_session *s, uint32_t n, om_err *err)
{
    uint32_t whole = s->n / KV_TOKENS, least, by;
    if (!s->endless || n <= s->context - s->n)
        return OM_OK;
    least = kv_pages_of(n - (s->context - s->n));
    uint32_t pages = least > s->pages / 4 ? least : s->pages / 4;
    if (whole < 2 || pages > whole - 1)
        return OM_OK; /* the turn is too long: check_turn says so */
    by = pages * KV_TOKENS;
    if (s->shift > INT32_MAX - by - 2 * s->context)
        return fail(err, OM_ELIMIT, "session: its positions are used up after 2^31 tokens");
    TRY(kv_page_own(s->kv, &s->page[0], err));
    kv_page_turn(s->kv, s->page[0], (int32_t)by);
    for (uint32_t i = 1; i <= pages; i++)
        kv_page_drop(s->kv, s->page[i]);
    uint32_t left = kv_pages_of(s->n) - 1 - pages;
    memmove(s->page + 1, s->page + 1 + pages, left * sizeof(*s->page));
    memset(s->page + 1 + left, 0, pages * sizeof(*s->page));
    memmove(s->ids + KV_TOKENS, s->ids + KV_TOKENS + by,
            (s->n - KV_TOKENS - by) * sizeof(*s->ids));
    s->n -= by;
    s->computed = s->n;
    s->shift += by;
    return OM_OK;
}

static om_status prepare(const llm_turn *t, uint32_t n, om_err *err)
{
    llm_kv *kv = t[0].s->kv;
    size_t outs = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (t[i].s->kv != kv)
            return fail(err, OM_EARG, "session: sessions of one forward must share pages");
        for (uint32_t j = 0; j < i; j++)
            if (t[i].s == t[j].s)
                return fail(err, OM_EARG,
                            "session: a session has two turns in one forward");
        TRY(make_endless_room(t[i].s, t[i].n, err));
        TRY(check_turn(&t[i], err));
        outs += t[i].want;
    }
    if (outs <= kv->cap_logits)
        return OM_OK;
    size_t floats;
    float *p =
        size_mul(outs, kv->m->h.vocab, &floats) ? mem_array(floats, sizeof(*p)) : NULL;
    if (!p)
        return fail(err, OM_ENOMEM, "session: no memory for the logits of %zu rows", outs);
    mem_free(kv->logits);
    kv->logits = p;
    kv->cap_logits = outs;
    return OM_OK;
}

static om_status eval(llm_turn *t, uint32_t n, float *hidden, om_err *err)
{
    if (n == 0)
        return fail(err, OM_EARG, "session: no tokens to evaluate");
    batch b = {.kv = t[0].s->kv, .turn = t, .n_turn = n, .hidden = hidden};
    om_status st = prepare(t, n, err);
    if (st == OM_OK)
        st = run_all(&b, err);
    const float *logits = b.kv->logits;
    for (uint32_t i = 0; i < n; i++) {
        llm_session *s = t[i].s;
        t[i].logits = NULL;
        s->busy = false;
        if (st != OM_OK) {
            trim(s);
            continue;
        }
        memmove(s->ids + s->n, t[i].ids, t[i].n * sizeof(*s->ids));
        s->n += t[i].n;
        s->computed = s->n;
        if (t[i].want)
            t[i].logits = logits;
        logits += (size_t)t[i].want * b.kv->m->h.vocab;
    }
    return st;
}

om_status llm_eval_many(llm_turn *t, uint32_t n, om_err *err)
{
    return eval(t, n, NULL, err);
}

om_status llm_hidden(llm_session *s, const int32_t *ids, uint32_t n, float *out,
                     om_err *err)
{
    llm_turn t = {.s = s, .ids = ids, .n = n};
    return eval(&t, 1, out, err);
}

/* ---- one session ------------------------------------------------------------------ */

om_status llm_eval(llm_session *s, const int32_t *ids, uint32_t n, const float **logits,
                   om_err *err)
{
    llm_turn t = {.s = s, .ids = ids, .n = n, .want = n > 0};
    TRY(eval(&t, 1, NULL, err));
    if (logits)
        *logits = t.logits;
    return OM_OK;
}

om_status llm_sync(llm_session *s, const int32_t *ids, uint32_t n, uint32_t *reused,
                   const float **logits, om_err *err)
{
    uint32_t same = 0;
    if (n == 0)
        return fail(err, OM_EARG, "session: no tokens to evaluate");
    while (same < s->n && same + 1 < n && s->ids[same] == ids[same])
        same++;
    s->n = same; /* at least the last token is computed: its logits are wanted */
    trim(s);
    if (reused)
        *reused = same;
    return llm_eval(s, ids + same, n - same, logits, err);
}

uint32_t llm_past(const llm_session *s) { return s->n; }
const int32_t *llm_tokens(const llm_session *s) { return s->ids; }
uint32_t llm_context(const llm_session *s) { return s->context; }
llm_kv *llm_session_kv(const llm_session *s) { return s->kv; }

om_status llm_rewind(llm_session *s, uint32_t n_tokens, om_err *err)
{
    if (n_tokens > s->n)
        return fail(err, OM_EARG, "session: cannot rewind %u of %u tokens", n_tokens, s->n);
    s->n -= n_tokens;
    trim(s);
    return OM_OK;
}
