/* tok_merge.c - the merging at the heart of both kinds: a word is a list of symbols,
 * and the best adjacent pair becomes one until no pair is a token.
 *
 * SentencePiece asks for the pair whose piece has the best score, byte-level BPE for the
 * pair that comes first in the list of merges; both are a rank, and among equals the
 * leftmost wins.  Candidates lie in a heap; an entry whose symbols have changed since is
 * recognised by its size and dropped.  Each merge adds at most two candidates, so a word
 * of n symbols needs 3n entries and O(n log n) time, whatever the text. */
#include "llm/tok_impl.h"

#include "llm/unicode.h"

#define NONE UINT32_MAX

void tok_encoder_open(tok_encoder *e, const tokenizer *t, int32_t *ids, size_t cap, om_err *err)
{
    e->t = t;
    e->err = err;
    e->ids = ids;
    e->cap = cap;
    e->n = 0;
    e->after_special = true;
    e->sym = e->sym_inline;
    e->heap = e->heap_inline;
    e->room = TOK_INLINE;
}

void tok_encoder_close(tok_encoder *e)
{
    if (e->sym != e->sym_inline) {
        mem_free(e->sym);
        mem_free(e->heap);
    }
}

static om_status make_room(tok_encoder *e, size_t n)
{
    if (n <= e->room)
        return OM_OK;
    size_t room = size_max(n, e->room * 2);
    tok_symbol *sym = mem_array(room, sizeof(*sym));
    tok_pair *heap = mem_array(room, 3 * sizeof(*heap));
    if (!sym || !heap) {
        mem_free(sym);
        mem_free(heap);
        return fail(e->err, OM_ENOMEM, "tokenizer: no memory for a word of %zu bytes", n);
    }
    tok_encoder_close(e);
    e->sym = sym;
    e->heap = heap;
    e->room = room;
    return OM_OK;
}

om_status tok_emit(tok_encoder *e, int32_t id)
{
    if (e->n < e->cap)
        e->ids[e->n] = id;
    e->n++;
    return OM_OK;
}

static void heap_push(tok_pair *h, size_t *n, tok_pair x)
{
    size_t i = (*n)++;
    for (; i > 0 && h[(i - 1) / 2].key > x.key; i = (i - 1) / 2)
        h[i] = h[(i - 1) / 2];
    h[i] = x;
}

static tok_pair heap_pop(tok_pair *h, size_t *n)
{
    tok_pair top = h[0], x = h[--*n];
    size_t i = 0, c;
    while ((c = 2 * i + 1) < *n) {
        if (c + 1 < *n && h[c + 1].key < h[c].key)
            c++;
        if (h[c].key >= x.key)
            break;
        h[i] = h[c];
        i = c;
    }
    h[i] = x;
    return top;
}

/* A candidate for symbols i and its right neighbour, if together they are a token. */
static void consider(const tok_encoder *e, const uint8_t *word, uint32_t i, size_t *n)
{
    const tokenizer *t = e->t;
    const tok_symbol *a = &e->sym[i];
    if (a->next == NONE)
        return;
    const tok_symbol *b = &e->sym[a->next];
    uint32_t rank, id;
    if (t->kind == TOK_BPE) {
        const tok_merge *m = a->id < 0 || b->id < 0
                                 ? NULL : tok_merge_of(t, (uint32_t)a->id, (uint32_t)b->id);
        if (!m)
            return;
        rank = m->rank;
        id = m->id;
    } else {
        int32_t found = tok_find_word(t, (str){(const char *)word + a->off, a->len + b->len});
        if (found < 0 || t->order[found] == UINT32_MAX)
            return;
        id = (uint32_t)found;
        rank = t->order[id];
    }
    heap_push(e->heap, n, (tok_pair){(uint64_t)rank << 32 | i, a->len + b->len, id});
}

static void merge_all(tok_encoder *e, const uint8_t *word, uint32_t n_sym)
{
    size_t n = 0;
    for (uint32_t i = 0; i < n_sym; i++)
        consider(e, word, i, &n);
    while (n) {
        tok_pair best = heap_pop(e->heap, &n);
        uint32_t i = (uint32_t)best.key;
        tok_symbol *a = &e->sym[i];
        if (a->len == 0 || a->next == NONE)
            continue;
        tok_symbol *b = &e->sym[a->next];
        if (a->len + b->len != best.size)
            continue;
        a->len = best.size;
        a->id = (int32_t)best.id;
        a->next = b->next;
        b->len = 0;
        if (a->next != NONE)
            e->sym[a->next].prev = i;
        consider(e, word, i, &n);
        if (a->prev != NONE)
            consider(e, word, a->prev, &n);
    }
}

/* BPE begins with bytes, SentencePiece with characters. */
static uint32_t cut(tok_encoder *e, const uint8_t *p, size_t n)
{
    const tokenizer *t = e->t;
    uint32_t count = 0;
    for (size_t i = 0; i < n; count++) {
        uint32_t len = 1;
        int32_t id;
        if (t->kind == TOK_BPE) {
            id = t->byte_id[p[i]];
        } else {
            unicode_at(p + i, p + n, &len);
            id = tok_find_word(t, (str){(const char *)p + i, len});
        }
        e->sym[count] = (tok_symbol){(uint32_t)i, len, id, count - 1, count + 1};
        i += len;
    }
    e->sym[0].prev = e->sym[count - 1].next = NONE;
    return count;
}

/* What has no token goes byte by byte; a byte without one is the unknown token, once for
 * the whole symbol. */
static om_status emit_bytes(tok_encoder *e, const uint8_t *p, uint32_t n)
{
    const tokenizer *t = e->t;
    for (uint32_t i = 0; i < n; i++) {
        if (t->byte_id[p[i]] >= 0)
            continue;
        if (t->unk < 0)
            return fail(e->err, OM_EUNSUPPORTED,
                        "tokenizer: byte 0x%02x has no token, and there is none for unknown",
                        p[i]);
        return tok_emit(e, t->unk);
    }
    for (uint32_t i = 0; i < n; i++)
        TRY(tok_emit(e, t->byte_id[p[i]]));
    return OM_OK;
}

om_status tok_merge_word(tok_encoder *e, const uint8_t *p, size_t n)
{
    const tokenizer *t = e->t;
    if (n == 0)
        return OM_OK;
    if (t->whole_words_first) {
        int32_t id = tok_find_word(t, (str){(const char *)p, n});
        if (id >= 0)
            return tok_emit(e, id);
    }
    TRY(make_room(e, n));
    merge_all(e, p, cut(e, p, n));
    for (uint32_t i = 0; i != NONE; i = e->sym[i].next) {
        const tok_symbol *s = &e->sym[i];
        if (s->id >= 0)
            TRY(tok_emit(e, s->id));
        else
            TRY(emit_bytes(e, p + s->off, s->len));
    }
    return OM_OK;
}
