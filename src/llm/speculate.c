/* speculate.c - guesses computed beside the token that is due, and kept while they come true.
 *
 * A forward takes the due token and n guesses; its n + 1 rows of logits stay where they are.
 * The caller draws from the first.  If what it drew is the first guess, the second row is
 * the answer to the next call, and so on; at the first other token the guesses left are
 * taken off the timeline and the next forward begins. */
#include "llm/speculate.h"

#include "llm/kv.h"
#include "os/os.h"

const spec_kind *const spec_kinds[] = {&spec_lookup, &spec_draft, NULL};

enum { KINDS = 4 };

typedef struct {
    const spec_kind *kind;
    void *self;
} guesser;

struct speculator {
    llm_session *s;
    guesser of[KINDS];
    uint32_t n_of, most;
    bool always;
    spec_control c;
    /* The forward whose rows are being used. */
    int32_t ids[SPEC_MOST + 1]; /* the due token, then the guesses */
    uint32_t n, right;          /* guesses; those that were drawn */
    uint32_t k;                 /* their class */
    const float *logits;        /* (n + 1, vocab) */
    spec_stats st;
};

/* ---- open and close ------------------------------------------------------------------- */

static om_status open_kinds(speculator *p, const spec_args *a, om_err *err)
{
    spec_source from = {.s = p->s, .draft = a->draft, .args = a->args};
    for (const spec_kind *const *k = spec_kinds; *k; k++) {
        guesser g = {.kind = *k};
        if (a->only && strcmp(a->only, (*k)->name) != 0)
            continue;
        TRY((*k)->open(&from, &g.self, err));
        if (g.self)
            p->of[p->n_of++] = g;
    }
    return OM_OK;
}

om_status spec_open(llm_session *s, const spec_args *a, speculator **out, om_err *err)
{
    speculator *p = mem_alloc(sizeof(*p));
    *out = NULL;
    if (!p)
        return fail(err, OM_ENOMEM, "speculation: no memory");
    p->s = s;
    p->always = a->always;
    p->most = a->most && a->most < SPEC_MOST ? a->most : SPEC_MOST;
    spec_control_init(&p->c);
    om_status st = open_kinds(p, a, err);
    if (st != OM_OK) {
        spec_close(p);
        return st;
    }
    spec_begin(p);
    *out = p;
    return OM_OK;
}

void spec_close(speculator *p)
{
    for (uint32_t i = 0; p && i < p->n_of; i++)
        p->of[i].kind->close(p->of[i].self);
    mem_free(p);
}

void spec_begin(speculator *p)
{
    for (uint32_t i = 0; i < p->n_of; i++)
        p->of[i].kind->begin(p->of[i].self);
    p->n = p->right = 0;
    p->logits = NULL;
    p->st = (spec_stats){.speedup = 1};
    p->c.tokens = p->c.spent = 0;
}

/* ---- a forward ------------------------------------------------------------------------ */

/* What is left of the last guesses was wrong. */
static om_status settle(speculator *p, om_err *err)
{
    uint32_t wrong = p->n - p->right;
    if (p->n)
        spec_came_true(&p->c, p->k, p->n, p->right);
    p->st.accepted += p->right;
    p->n = p->right = 0;
    p->logits = NULL;
    return llm_rewind(p->s, wrong, err);
}

/* The longest of the lengths there are. */
static uint32_t whole(uint32_t n)
{
    uint32_t i = SPEC_LENGTHS - 1;
    while (spec_length(i) > n)
        i--;
    return spec_length(i);
}

static uint32_t choose(const speculator *p, uint32_t k, uint32_t most, double *gain)
{
    *gain = 1;
    return p->always ? whole(most) : spec_choose(&p->c, k, most, gain);
}

/* The kind that promises most fills ids[1..*n]; *cost: the nanoseconds that took. */
static om_status make_guesses(speculator *p, const spec_text *t, uint32_t most, uint32_t *n,
                              double *cost, om_err *err)
{
    const guesser *best = NULL;
    uint32_t want = 0;
    double gain = 0, g;
    uint64_t start = os_now_ns();
    for (uint32_t i = 0; i < p->n_of; i++) {
        const spec_kind *kind = p->of[i].kind;
        int class = kind->look(p->of[i].self, t);
        uint32_t k = kind->first_class + (uint32_t)class;
        uint32_t length = class < 0 ? 0 : choose(p, k, most, &g);
        if (length == 0 || g <= gain)
            continue;
        gain = g, best = &p->of[i], want = length, p->k = k;
    }
    *n = 0;
    if (best)
        TRY(best->kind->guess(best->self, t, want, p->ids + 1, n, err));
    *cost = (double)(os_now_ns() - start);
    return OM_OK;
}

/* Guesses beside the next token.  A packed cache must be packed at the very tokens at which
 * plain decoding does it: so none beyond the page of that token, whose successor may have
 * others packed for room, and none beyond the token at which the next page grows old. */
static uint32_t room_for(const llm_session *s)
{
    const llm_kv *kv = s->kv;
    int64_t room = (int64_t)s->context - s->n - 1, age = (int64_t)s->n - kv->recent;
    if (!kv->packed.bytes)
        return room > 0 ? (uint32_t)room : 0;
    int64_t page = KV_TOKENS - 1 - s->n % KV_TOKENS;
    int64_t old = KV_TOKENS - 2 - (age % KV_TOKENS + KV_TOKENS) % KV_TOKENS;
    room = page < room ? page : room;
    room = old < room ? old : room;
    return room > 0 ? (uint32_t)room : 0;
}

om_status spec_next(speculator *p, const spec_text *t, uint32_t most, const float **logits,
                    om_err *err)
{
    int32_t due = t->ids[t->n - 1];
    if (p->right < p->n && p->ids[p->right + 1] == due) {
        p->right++;
        *logits = p->logits + (size_t)p->right * p->s->kv->m->h.vocab;
        return OM_OK;
    }
    TRY(settle(p, err));
    double guessing = 0;
    most = (uint32_t)size_min(size_min(most, p->most), room_for(p->s));
    uint32_t n;
    TRY(make_guesses(p, t, most, &n, &guessing, err));
    n = whole(n);
    p->ids[0] = due;
    uint64_t start = os_now_ns();
    llm_turn turn = {.s = p->s, .ids = p->ids, .n = n + 1, .want = n + 1};
    TRY(llm_eval_many(&turn, 1, err));
    spec_paid(&p->c, n, (double)(os_now_ns() - start), guessing);
    p->n = n;
    p->logits = *logits = turn.logits;
    p->st.drafted += n;
    return OM_OK;
}

spec_stats spec_now(const speculator *p)
{
    spec_stats st = p->st;
    st.accepted += p->right;
    if (st.drafted) /* right ones of this forward are not counted yet */
        st.speedup = (p->c.tokens + p->right) / p->c.spent;
    return st;
}
