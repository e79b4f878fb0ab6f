/* bpe_train.c - byte-pair encoding learnt from a text (Sennrich, Haddow, Birch 2016, on
 * bytes as in GPT-2).
 *
 * The text is cut into words; equal words are counted once.  Again and again the most
 * frequent adjacent pair of symbols becomes a new token; among equally frequent pairs
 * the lexicographically greatest (left bytes, then right bytes).
 *
 * Fast because a merge visits only the words that hold the pair: every pair keeps a list
 * of words it has been seen in (some may have lost it since), and the most frequent pair
 * comes from a heap whose entries may be out of date: an entry that disagrees with the
 * count is put back with the count it has now.  Counts only fall, but for pairs with
 * the token just made, and those are pushed again. */
#include "llm/bpe_train.h"

#include "llm/tok_impl.h"

enum { LONGEST = 256 }; /* bytes of a token */

typedef struct {
    str text;
    uint64_t count;
    uint32_t beg, len; /* its symbols */
} word;

typedef struct {
    uint32_t a, b;
    uint64_t count;
    uint32_t seen;  /* head of the list of words, index + 1 into links */
    uint32_t stamp; /* the merge that touched it last */
} pair;

typedef struct {
    uint32_t word, next;
} link;

typedef struct {
    uint64_t count;
    uint32_t pair;
} entry;

/* A growing array: `p` has room for cap elements; `more` is what it is about to be. */
#define VEC(T)        \
    struct {          \
        T *p;         \
        void *more;   \
        uint32_t n;   \
        size_t cap;   \
    }

typedef struct {
    tokenizer *t; /* gets the tokens as they are made */
    om_err *err;
    VEC(word) words;
    VEC(uint32_t) sym;
    VEC(pair) pairs;
    VEC(link) links;
    VEC(entry) heap;
    VEC(uint32_t) touched;
    uint64_t *merges;    /* left << 32 | right */
    uint32_t n_merges, stamp;
    uint32_t *word_slot, *pair_slot, *token_slot; /* index + 1, open addressing */
    uint32_t word_mask, pair_mask, token_mask;
} trainer;

static om_status no_memory(trainer *r)
{
    return fail(r->err, OM_ENOMEM, "bpe: no memory for %u words and %u pairs", r->words.n,
                r->pairs.n);
}

static void *twice(void *p, size_t *cap, size_t size)
{
    size_t want = *cap ? 2 * *cap : 256;
    void *q = want < UINT32_MAX ? mem_grow(p, *cap * size, want * size) : NULL;
    if (q)
        *cap = want;
    return q;
}

/* Room for one more element; false, and nothing lost, without memory. */
#define ROOM(v)                                                       \
    ((v)->n < (v)->cap ||                                             \
     (((v)->more = twice((v)->p, &(v)->cap, sizeof(*(v)->p))) != NULL \
      && ((v)->p = (v)->more, true)))

/* ---- words --------------------------------------------------------------------------- */

static bool grow_slots(uint32_t **slot, uint32_t *mask, uint32_t n)
{
    if (*slot && n < *mask / 2)
        return true;
    uint32_t size = *slot ? 2 * (*mask + 1) : 1024;
    uint32_t *p = mem_array(size, sizeof(*p));
    if (!p)
        return false;
    mem_free(*slot);
    *slot = p;
    *mask = size - 1;
    return true;
}

static uint32_t *word_slot(const trainer *r, str text)
{
    uint32_t i = (uint32_t)hash64(text.p, text.n) & r->word_mask;
    while (r->word_slot[i] && !str_eq(r->words.p[r->word_slot[i] - 1].text, text))
        i = (i + 1) & r->word_mask;
    return &r->word_slot[i];
}

static om_status count_word(void *ctx, const uint8_t *p, size_t n)
{
    trainer *r = ctx;
    str text = {(const char *)p, n};
    uint32_t mask = r->word_mask;
    if (!grow_slots(&r->word_slot, &r->word_mask, r->words.n))
        return no_memory(r);
    if (mask != r->word_mask)
        for (uint32_t i = 0; i < r->words.n; i++)
            *word_slot(r, r->words.p[i].text) = i + 1;
    uint32_t *slot = word_slot(r, text);
    if (!*slot) {
        if (!ROOM(&r->words))
            return no_memory(r);
        r->words.p[r->words.n++] = (word){.text = text};
        *slot = r->words.n;
    }
    r->words.p[*slot - 1].count++;
    return OM_OK;
}

static size_t special_at(const char *p, size_t n, const str *special, uint32_t n_special)
{
    size_t longest = 0;
    for (uint32_t k = 0; k < n_special; k++)
        if (special[k].n <= n && special[k].n > longest &&
            memcmp(p, special[k].p, special[k].n) == 0)
            longest = special[k].n;
    return longest;
}

static om_status count_words(trainer *r, str text, const str *special, uint32_t n_special)
{
    static tok_rule *const rules[] = {tok_rule_gpt2, NULL};
    const uint8_t *p = (const uint8_t *)text.p;
    size_t beg = 0;
    for (size_t i = 0; n_special && i < text.n;) {
        size_t n = special_at(text.p + i, text.n - i, special, n_special);
        if (n == 0) {
            i++;
            continue;
        }
        TRY(tok_split(rules, p + beg, i - beg, count_word, r));
        beg = i += n;
    }
    return tok_split(rules, p + beg, text.n - beg, count_word, r);
}

/* ---- pairs --------------------------------------------------------------------------- */

static uint32_t *pair_slot(const trainer *r, uint32_t a, uint32_t b)
{
    uint64_t key = (uint64_t)a << 32 | b;
    uint32_t i = (uint32_t)((key * UINT64_C(0x9E3779B97F4A7C15)) >> 32) & r->pair_mask;
    while (r->pair_slot[i]) {
        const pair *q = &r->pairs.p[r->pair_slot[i] - 1];
        if (q->a == a && q->b == b)
            break;
        i = (i + 1) & r->pair_mask;
    }
    return &r->pair_slot[i];
}

static pair *pair_of(trainer *r, uint32_t a, uint32_t b)
{
    uint32_t mask = r->pair_mask;
    if (!grow_slots(&r->pair_slot, &r->pair_mask, r->pairs.n))
        return NULL;
    if (mask != r->pair_mask)
        for (uint32_t i = 0; i < r->pairs.n; i++)
            *pair_slot(r, r->pairs.p[i].a, r->pairs.p[i].b) = i + 1;
    uint32_t *slot = pair_slot(r, a, b);
    if (!*slot) {
        if (!ROOM(&r->pairs))
            return NULL;
        r->pairs.p[r->pairs.n++] = (pair){.a = a, .b = b};
        *slot = r->pairs.n;
    }
    return &r->pairs.p[*slot - 1];
}

static om_status add_pairs(trainer *r, uint32_t w)
{
    const word *x = &r->words.p[w];
    const uint32_t *s = r->sym.p + x->beg;
    for (uint32_t i = 0; i + 1 < x->len; i++) {
        pair *q = pair_of(r, s[i], s[i + 1]);
        if (!q || !ROOM(&r->links) || !ROOM(&r->touched))
            return no_memory(r);
        q->count += x->count;
        if (!q->seen || r->links.p[q->seen - 1].word != w) {
            r->links.p[r->links.n++] = (link){w, q->seen};
            q->seen = r->links.n;
        }
        if (q->stamp != r->stamp) {
            q->stamp = r->stamp;
            r->touched.p[r->touched.n++] = (uint32_t)(q - r->pairs.p);
        }
    }
    return OM_OK;
}

static void take_pairs(trainer *r, const word *x)
{
    const uint32_t *s = r->sym.p + x->beg;
    for (uint32_t i = 0; i + 1 < x->len; i++)
        r->pairs.p[*pair_slot(r, s[i], s[i + 1]) - 1].count -= x->count;
}

/* ---- the heap ------------------------------------------------------------------------ */

static int bytes_order(str a, str b)
{
    int c = memcmp(a.p, b.p, size_min(a.n, b.n));
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

/* Is x to be merged before y? */
static bool before(const trainer *r, entry x, entry y)
{
    if (x.count != y.count)
        return x.count > y.count;
    const pair *p = &r->pairs.p[x.pair], *q = &r->pairs.p[y.pair];
    int c = bytes_order(tok_raw(r->t, p->a), tok_raw(r->t, q->a));
    return (c ? c : bytes_order(tok_raw(r->t, p->b), tok_raw(r->t, q->b))) > 0;
}

static bool push(trainer *r, entry x)
{
    if (!ROOM(&r->heap))
        return false;
    entry *h = r->heap.p;
    uint32_t i = r->heap.n++;
    for (; i && before(r, x, h[(i - 1) / 2]); i = (i - 1) / 2)
        h[i] = h[(i - 1) / 2];
    h[i] = x;
    return true;
}

static entry pop(trainer *r)
{
    entry *h = r->heap.p, top = h[0], x = h[--r->heap.n];
    uint32_t i = 0, c;
    while ((c = 2 * i + 1) < r->heap.n) {
        if (c + 1 < r->heap.n && before(r, h[c + 1], h[c]))
            c++;
        if (!before(r, h[c], x))
            break;
        h[i] = h[c];
        i = c;
    }
    h[i] = x;
    return top;
}

/* Pairs touched by the last step whose count may have grown: those with `made`, or all. */
static om_status push_touched(trainer *r, uint32_t made)
{
    for (uint32_t i = 0; i < r->touched.n; i++) {
        const pair *q = &r->pairs.p[r->touched.p[i]];
        bool grew = made == UINT32_MAX || q->a == made || q->b == made;
        if (grew && q->count && !push(r, (entry){q->count, r->touched.p[i]}))
            return no_memory(r);
    }
    r->touched.n = 0;
    return OM_OK;
}

/* The pair to merge next, or UINT32_MAX when none occurs twice. */
static uint32_t best_pair(trainer *r)
{
    while (r->heap.n) {
        entry x = pop(r);
        const pair *q = &r->pairs.p[x.pair];
        uint64_t now = q->count;
        if (now < 2 || tok_raw(r->t, q->a).n + tok_raw(r->t, q->b).n > LONGEST)
            continue;
        if (now == x.count)
            return x.pair;
        if (now < x.count) /* room is there: one was just taken out */
            push(r, (entry){now, x.pair});
    }
    return UINT32_MAX;
}

/* ---- merging ------------------------------------------------------------------------- */

static uint32_t *token_slot(const trainer *r, str raw)
{
    uint32_t i = (uint32_t)hash64(raw.p, raw.n) & r->token_mask;
    while (r->token_slot[i] && !str_eq(tok_raw(r->t, r->token_slot[i] - 1), raw))
        i = (i + 1) & r->token_mask;
    return &r->token_slot[i];
}

/* The token of both symbols' bytes; two ways to spell a word can lead to one. */
static om_status join(trainer *r, const pair *q, uint32_t *made)
{
    uint8_t room[LONGEST];
    buf raw = buf_fixed(room, sizeof(room));
    om_status s = buf_str(&raw, tok_raw(r->t, q->a));
    if (s == OM_OK)
        s = buf_str(&raw, tok_raw(r->t, q->b));
    if (s == OM_OK) {
        str joined = {(const char *)raw.data, raw.len};
        uint32_t *slot = token_slot(r, joined);
        if (!*slot) {
            s = tok_add(r->t, joined, TOKEN_NORMAL, 0, 0, r->err);
            *slot = r->t->n;
        }
        *made = *slot - 1;
    } else {
        s = no_memory(r);
    }
    return s;
}

static void rewrite(trainer *r, word *x, uint32_t a, uint32_t b, uint32_t made)
{
    uint32_t *s = r->sym.p + x->beg, n = 0;
    for (uint32_t i = 0; i < x->len; i++) {
        bool both = i + 1 < x->len && s[i] == a && s[i + 1] == b;
        s[n++] = both ? made : s[i];
        i += both;
    }
    x->len = n;
}

static bool holds(const trainer *r, const word *x, uint32_t a, uint32_t b)
{
    const uint32_t *s = r->sym.p + x->beg;
    for (uint32_t i = 0; i + 1 < x->len; i++)
        if (s[i] == a && s[i + 1] == b)
            return true;
    return false;
}

static om_status merge(trainer *r, uint32_t best)
{
    pair q = r->pairs.p[best];
    uint32_t made = 0;
    TRY(join(r, &q, &made));
    r->merges[r->n_merges++] = (uint64_t)q.a << 32 | q.b;
    r->stamp++;
    r->pairs.p[best].seen = 0;
    for (uint32_t l = q.seen; l; l = r->links.p[l - 1].next) {
        uint32_t w = r->links.p[l - 1].word;
        word *x = &r->words.p[w];
        if (!holds(r, x, q.a, q.b))
            continue;
        take_pairs(r, x);
        rewrite(r, x, q.a, q.b, made);
        TRY(add_pairs(r, w));
    }
    return push_touched(r, made);
}

/* ---- start and finish ---------------------------------------------------------------- */

/* Special tokens, then the bytes in the order of the characters that show them. */
static om_status first_tokens(trainer *r, const str *special, uint32_t n_special, uint32_t *of_byte)
{
    for (uint32_t k = 0; k < n_special; k++)
        TRY(tok_add(r->t, special[k], TOKEN_CONTROL, 0, 0, r->err));
    uint32_t shown_as[512] = {0}; /* character -> byte + 1 */
    for (uint32_t b = 0; b < 256; b++)
        shown_as[tok_byte_char((uint8_t)b)] = b + 1;
    for (uint32_t cp = 0; cp < 512; cp++) {
        char byte = (char)(uint8_t)(shown_as[cp] - 1);
        if (!shown_as[cp])
            continue;
        of_byte[shown_as[cp] - 1] = r->t->n;
        TRY(tok_add(r->t, (str){&byte, 1}, TOKEN_NORMAL, 0, 0, r->err));
    }
    for (uint32_t i = n_special; i < r->t->n; i++)
        *token_slot(r, tok_raw(r->t, i)) = i + 1;
    return OM_OK;
}

static om_status first_symbols(trainer *r, const uint32_t *of_byte)
{
    for (uint32_t w = 0; w < r->words.n; w++) {
        word *x = &r->words.p[w];
        x->beg = r->sym.n;
        x->len = (uint32_t)x->text.n;
        for (size_t i = 0; i < x->text.n; i++) {
            if (!ROOM(&r->sym))
                return no_memory(r);
            r->sym.p[r->sym.n++] = of_byte[(uint8_t)x->text.p[i]];
        }
        TRY(add_pairs(r, w));
    }
    return push_touched(r, UINT32_MAX);
}

static om_status finish(trainer *r, uint32_t n_special)
{
    tokenizer *t = r->t;
    t->pre = tok_pre_find(STR("gpt-2"));
    t->bos = t->eos = n_special ? 0 : -1;
    TRY(tok_index(t, r->err));
    TRY(tok_reserve_merges(t, r->n_merges, r->err));
    for (uint32_t i = 0; i < r->n_merges; i++)
        TRY(tok_add_merge(t, tok_raw(t, (uint32_t)(r->merges[i] >> 32)),
                          tok_raw(t, (uint32_t)r->merges[i]), r->err));
    return tok_ready(t, r->err);
}

static om_status train(trainer *r, str text, uint32_t vocab_size, const str *special,
                       uint32_t n_special)
{
    uint32_t of_byte[256], size = 1024;
    while (size < 2 * vocab_size)
        size *= 2;
    r->token_slot = mem_array(size, sizeof(*r->token_slot));
    r->token_mask = size - 1;
    /* Most merges make a token; one that makes a token there already takes no place. */
    r->merges = mem_array(2 * (size_t)vocab_size, sizeof(*r->merges));
    if (!r->token_slot || !r->merges)
        return no_memory(r);
    r->stamp = 1;
    TRY(first_tokens(r, special, n_special, of_byte));
    TRY(count_words(r, text, special, n_special));
    TRY(first_symbols(r, of_byte));
    while (r->t->n < vocab_size && r->n_merges < 2 * vocab_size) {
        uint32_t best = best_pair(r);
        if (best == UINT32_MAX)
            break;
        TRY(merge(r, best));
    }
    return finish(r, n_special);
}

om_status bpe_train(str text, uint32_t vocab_size, const str *special, uint32_t n_special,
                    tokenizer **out, om_err *err)
{
    trainer r = {.err = err};
    *out = NULL;
    for (uint32_t k = 0; k < n_special; k++)
        if (special[k].n == 0)
            return fail(err, OM_EARG, "bpe: special token %u is empty", k);
    if (n_special > 4096 || vocab_size < 256 + n_special || vocab_size > 1 << 20)
        return fail(err, OM_EARG, "bpe: a vocabulary of %u tokens; it holds 256 bytes and %u "
                    "special tokens, and at most 2^20", vocab_size, n_special);
    if (text.n >= UINT32_MAX / 2)
        return fail(err, OM_ELIMIT, "bpe: a text of %zu bytes, the limit is 2 GiB", text.n);
    om_status s = tok_new(TOK_BPE, &r.t, err);
    if (s == OM_OK)
        s = train(&r, text, vocab_size, special, n_special);
    if (s == OM_OK)
        *out = r.t;
    else
        tokenizer_close(r.t);
    mem_free(r.words.p);
    mem_free(r.sym.p);
    mem_free(r.pairs.p);
    mem_free(r.links.p);
    mem_free(r.heap.p);
    mem_free(r.touched.p);
    mem_free(r.merges);
    mem_free(r.word_slot);
    mem_free(r.pair_slot);
    mem_free(r.token_slot);
    return s;
}
