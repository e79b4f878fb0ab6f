/* gram_match.c - where a text stands in a grammar, and which tokens may follow.
 *
 * The network is run as a nondeterministic pushdown automaton, made deterministic as it
 * is met.  A stack is a linked list of return states whose nodes are shared: the same
 * list is the same number.  A place is a sorted set of (state, stack) pairs, also kept
 * once; its 256 successors are filled in when asked for, so that after a while a byte
 * costs one look-up, however ambiguous the grammar.  (Determinisation on the fly:
 * Thompson 1968; shared stacks: Tomita 1985.)
 *
 * Tokens: the vocabulary is a tree of bytes laid out in preorder.  One walk with a place
 * per depth marks the tokens that can come next; a dead byte skips its whole subtree.
 * Masks are remembered per place: inside a string the walk happens once.
 *
 * MEMORY.  When a matcher has met more places than SOFT it forgets all but the present
 * one; a single step that needs more than HARD is refused. */
#include "llm/gram_impl.h"

#include <math.h>

enum {
    SOFT = 1 << 13,
    HARD = 1 << 17,
    PAIRS_MOST = 1 << 22,   /* of all places together */
    PLACE_PAIRS = 1 << 14,  /* of one */
    MASKS = 64,
    UNKNOWN = 0
};
#define DEAD UINT32_MAX

/* ---- the vocabulary --------------------------------------------------------------------- */

typedef struct {
    uint8_t byte, depth_; /* depth within TREE_DEPTH */
    uint32_t skip;        /* the first node after this subtree */
    uint32_t token;       /* the first of `token` that ends here */
    uint32_t n_token;
} tree_node;

enum { TREE_DEPTH = 255 }; /* longer tokens are never allowed */

struct vocab_tree {
    uint32_t vocab, n;
    tree_node *node;
    int32_t *token;    /* sorted by their bytes */
    uint64_t *ends;    /* mask of end-of-text tokens */
    const tokenizer *t;
};

static uint32_t words_of(uint32_t vocab) { return vocab / 64 + 1; }

static int by_bytes(const tokenizer *t, int32_t x, int32_t y)
{
    str a = tokenizer_piece(t, x, false), b = tokenizer_piece(t, y, false);
    int c = memcmp(a.p, b.p, size_min(a.n, b.n));
    return c ? c : a.n != b.n ? (a.n > b.n) - (a.n < b.n) : (x > y) - (x < y);
}

/* Heapsort: no recursion, no global for the comparison. */
static void sift(const tokenizer *t, int32_t *a, size_t i, size_t n)
{
    for (int32_t x = a[i];; ) {
        size_t child = 2 * i + 1;
        if (child < n && child + 1 < n && by_bytes(t, a[child], a[child + 1]) < 0)
            child++;
        if (child >= n || by_bytes(t, x, a[child]) >= 0) {
            a[i] = x;
            return;
        }
        a[i] = a[child];
        i = child;
    }
}

static void sort_tokens(const tokenizer *t, int32_t *a, size_t n)
{
    for (size_t i = n / 2; i-- > 0;)
        sift(t, a, i, n);
    for (size_t end = n; end-- > 1;) {
        int32_t top = a[0];
        a[0] = a[end];
        a[end] = top;
        sift(t, a, 0, end);
    }
}

/* Nodes in preorder from sorted texts: a node is made where a text leaves its neighbour. */
static uint32_t lay_out(vocab_tree *v, uint32_t n_tokens, bool store)
{
    uint32_t open[TREE_DEPTH], depth = 0, n = 0;
    str before = {0};
    for (uint32_t i = 0; i < n_tokens; i++) {
        str s = tokenizer_piece(v->t, v->token[i], false);
        uint32_t same = 0;
        while (same < before.n && same < s.n && before.p[same] == s.p[same])
            same++;
        for (; depth > same; depth--)
            if (store)
                v->node[open[depth - 1]].skip = n;
        for (; depth < s.n; n++) {
            if (store)
                v->node[n] = (tree_node){.byte = (uint8_t)s.p[depth], .depth_ = (uint8_t)depth};
            open[depth++] = n;
        }
        if (store) {
            tree_node *end = &v->node[open[depth - 1]];
            end->token = end->n_token++ ? end->token : i;
        }
        before = s;
    }
    for (; depth > 0; depth--)
        if (store)
            v->node[open[depth - 1]].skip = n;
    return n;
}

static om_status tree_fill(vocab_tree *v, om_err *err)
{
    uint32_t n = 0;
    v->token = mem_array(v->vocab + 1, sizeof(*v->token));
    v->ends = mem_array(words_of(v->vocab), sizeof(*v->ends));
    if (!v->token || !v->ends)
        return fail(err, OM_ENOMEM, "grammar: no memory for the vocabulary");
    for (uint32_t i = 0; i < v->vocab; i++) {
        str s = tokenizer_piece(v->t, (int32_t)i, false);
        if (tokenizer_is_end(v->t, (int32_t)i))
            v->ends[i / 64] |= (uint64_t)1 << i % 64;
        else if (s.n && s.n <= TREE_DEPTH)
            v->token[n++] = (int32_t)i;
    }
    sort_tokens(v->t, v->token, n);
    v->n = lay_out(v, n, false);
    v->node = mem_array((size_t)v->n + 1, sizeof(*v->node));
    if (!v->node)
        return fail(err, OM_ENOMEM, "grammar: no memory for the vocabulary");
    lay_out(v, n, true);
    return OM_OK;
}

om_status vocab_tree_open(const tokenizer *t, vocab_tree **out, om_err *err)
{
    vocab_tree *v = mem_alloc(sizeof(*v));
    *out = NULL;
    if (!v)
        return fail(err, OM_ENOMEM, "grammar: no memory for the vocabulary");
    v->t = t;
    v->vocab = tokenizer_size(t);
    om_status s = tree_fill(v, err);
    if (s != OM_OK)
        vocab_tree_close(v);
    else
        *out = v;
    return s;
}

void vocab_tree_close(vocab_tree *v)
{
    if (!v)
        return;
    mem_free(v->node);
    mem_free(v->token);
    mem_free(v->ends);
    mem_free(v);
}

/* ---- stacks and places ------------------------------------------------------------------ */

typedef struct {
    uint32_t state, stack;
} pair;

typedef struct {
    uint32_t ret, parent, depth; /* frame 0: the empty stack */
} frame;

typedef struct {
    uint32_t beg, n; /* in pairs */
    bool can_end;
    uint32_t mask;   /* slot + 1 */
    uint32_t *next;  /* (256) NULL until asked for */
} place;

typedef struct {
    uint32_t *slot; /* index + 1 */
    uint32_t mask;
} index_map;

struct gmatch {
    const grammar *g;
    const vocab_tree *v;
    frame *frame;
    place *place;
    pair *pair;
    uint32_t n_frame, n_place, n_pair, cap_frame, cap_place, cap_pair;
    index_map frames, places;
    /* the set being built */
    pair *todo, *kept;
    index_map seen; /* of todo */
    uint32_t n_todo, n_kept, cap_todo;
    bool ends;
    /* masks */
    uint64_t *mask;              /* (MASKS, words) */
    uint32_t owner[MASKS], count[MASKS], turn;
    uint32_t now;                /* the present place */
    om_status status;
};

static bool widen(gmatch *m, void **p, uint32_t n, uint32_t *cap, size_t size, uint32_t most)
{
    if (m->status != OM_OK)
        return false;
    if (n < *cap)
        return true;
    uint32_t wider = (uint32_t)size_min(*cap ? (size_t)*cap * 2 : 256, most);
    void *grown = n < most ? mem_grow(*p, *cap * size, wider * size) : NULL;
    if (!grown) {
        m->status = n < most ? OM_ENOMEM : OM_ELIMIT;
        return false;
    }
    *p = grown;
    *cap = wider;
    return true;
}

/* A table with room for n more than half empty; false: no memory. */
static bool map_room(gmatch *m, index_map *map, uint32_t n)
{
    if (m->status != OM_OK)
        return false;
    if (map->slot && (uint64_t)n * 2 < (uint64_t)map->mask + 1)
        return true;
    uint32_t size = map->slot ? (map->mask + 1) * 2 : 1024;
    mem_free(map->slot);
    map->slot = mem_array(size, sizeof(*map->slot));
    map->mask = size - 1;
    if (!map->slot)
        m->status = OM_ENOMEM;
    return false; /* emptied: the caller fills it again */
}

static uint32_t frame_hash(uint32_t ret, uint32_t parent)
{
    uint64_t h = ((uint64_t)ret << 32 | parent) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 32);
}

static void frame_file(gmatch *m, uint32_t i)
{
    uint32_t at = frame_hash(m->frame[i].ret, m->frame[i].parent);
    while (m->frames.slot[at &= m->frames.mask])
        at++;
    m->frames.slot[at] = i + 1;
}

static uint32_t push(gmatch *m, uint32_t ret, uint32_t parent)
{
    void *p = m->frame;
    bool ok = widen(m, &p, m->n_frame, &m->cap_frame, sizeof(*m->frame), PAIRS_MOST);
    m->frame = p;
    if (!ok)
        return 0;
    if (!map_room(m, &m->frames, m->n_frame + 1)) {
        if (m->status != OM_OK)
            return 0;
        for (uint32_t i = 1; i < m->n_frame; i++)
            frame_file(m, i);
    }
    for (uint32_t at = frame_hash(ret, parent), i; (i = m->frames.slot[at &= m->frames.mask]);
         at++)
        if (m->frame[i - 1].ret == ret && m->frame[i - 1].parent == parent)
            return i - 1;
    m->frame[m->n_frame] = (frame){ret, parent, m->frame[parent].depth + 1};
    frame_file(m, m->n_frame);
    return m->n_frame++;
}

static bool seen_before(gmatch *m, pair x)
{
    for (uint32_t at = frame_hash(x.state, x.stack), i;; at++) {
        i = m->seen.slot[at &= m->seen.mask];
        if (!i) {
            m->seen.slot[at] = m->n_todo + 1;
            return false;
        }
        if (m->todo[i - 1].state == x.state && m->todo[i - 1].stack == x.stack)
            return true;
    }
}

/* Into the set, unless its end could not be reached within the depth. */
static void reach(gmatch *m, uint32_t state, uint32_t stack)
{
    if (m->status != OM_OK)
        return;
    if (m->frame[stack].depth + m->g->state[state].need > GRAM_DEPTH)
        return;
    if (m->n_todo == PLACE_PAIRS)
        m->status = OM_ELIMIT;
    else if (!seen_before(m, (pair){state, stack}))
        m->todo[m->n_todo++] = (pair){state, stack};
}

static void enter(gmatch *m, const gram_edge *e, uint32_t stack)
{
    const gram_state *to = &m->g->state[e->to];
    bool tail = to->flags & GRAM_TAIL;
    if (!tail && m->frame[stack].depth + to->need > GRAM_DEPTH)
        return; /* could not go on after the call */
    reach(m, m->g->rule[e->rule], tail ? stack : push(m, e->to, stack));
}

/* Everything that is reached without reading; of it, what can read is kept. */
static void close_set(gmatch *m)
{
    m->n_kept = 0;
    m->ends = false;
    for (uint32_t i = 0; i < m->n_todo && m->status == OM_OK; i++) {
        pair x = m->todo[i];
        const gram_state *s = &m->g->state[x.state];
        bool reads = false;
        if (s->flags & GRAM_ACCEPT && x.stack)
            reach(m, m->frame[x.stack].ret, m->frame[x.stack].parent);
        m->ends |= s->flags & GRAM_ACCEPT && !x.stack;
        for (uint32_t k = s->edge; k; k = m->g->edge[k - 1].next) {
            const gram_edge *e = &m->g->edge[k - 1];
            if (e->kind == GRAM_EPS)
                reach(m, e->to, x.stack);
            else if (e->kind == GRAM_CALL)
                enter(m, e, x.stack);
            reads |= e->kind == GRAM_BYTES;
        }
        if (reads)
            m->kept[m->n_kept++] = x;
    }
}

static bool pair_below(pair a, pair b)
{
    return a.state < b.state || (a.state == b.state && a.stack < b.stack);
}

static void sort_pairs(pair *a, uint32_t n) /* Shell's, Ciura's gaps: sets are small */
{
    static const uint32_t gaps[] = {1750, 701, 301, 132, 57, 23, 10, 4, 1};
    for (size_t k = 0; k < countof(gaps); k++)
        for (uint32_t i = gaps[k]; i < n; i++) {
            pair x = a[i];
            uint32_t j = i;
            for (; j >= gaps[k] && pair_below(x, a[j - gaps[k]]); j -= gaps[k])
                a[j] = a[j - gaps[k]];
            a[j] = x;
        }
}

static uint32_t place_hash(const pair *p, uint32_t n, bool can_end)
{
    return (uint32_t)(hash64(p, n * sizeof(*p)) + can_end);
}

static void place_file(gmatch *m, uint32_t i)
{
    const place *s = &m->place[i];
    uint32_t at = place_hash(m->pair + s->beg, s->n, s->can_end);
    while (m->places.slot[at &= m->places.mask])
        at++;
    m->places.slot[at] = i + 1;
}

static bool place_is(const gmatch *m, uint32_t i)
{
    const place *s = &m->place[i];
    return s->n == m->n_kept && s->can_end == m->ends &&
           (s->n == 0 || memcmp(m->pair + s->beg, m->kept, s->n * sizeof(pair)) == 0);
}

/* The place that the closed set is. */
static uint32_t file_place(gmatch *m)
{
    sort_pairs(m->kept, m->n_kept);
    void *p = m->place;
    bool ok = widen(m, &p, m->n_place, &m->cap_place, sizeof(*m->place), HARD);
    m->place = p;
    for (void *q; ok && m->cap_pair - m->n_pair < m->n_kept; m->pair = q) {
        q = m->pair;
        ok = widen(m, &q, m->cap_pair, &m->cap_pair, sizeof(*m->pair), PAIRS_MOST);
    }
    if (!ok)
        return DEAD;
    if (!map_room(m, &m->places, m->n_place + 1)) {
        if (m->status != OM_OK)
            return DEAD;
        for (uint32_t i = 0; i < m->n_place; i++)
            place_file(m, i);
    }
    uint32_t at = place_hash(m->kept, m->n_kept, m->ends);
    for (uint32_t i; (i = m->places.slot[at &= m->places.mask]); at++)
        if (place_is(m, i - 1))
            return i - 1;
    if (m->n_kept)
        memcpy(m->pair + m->n_pair, m->kept, m->n_kept * sizeof(pair));
    m->place[m->n_place] = (place){.beg = m->n_pair, .n = m->n_kept, .can_end = m->ends};
    m->n_pair += m->n_kept;
    place_file(m, m->n_place);
    return m->n_place++;
}

/* Emptied in the reverse order of filling, every look-up meets what it met then. */
static void begin_set(gmatch *m)
{
    while (m->n_todo) {
        pair x = m->todo[m->n_todo - 1];
        uint32_t at = frame_hash(x.state, x.stack);
        while (m->seen.slot[at &= m->seen.mask] != m->n_todo)
            at++;
        m->seen.slot[at] = 0;
        m->n_todo--;
    }
}

static uint32_t after_byte(gmatch *m, uint32_t at, uint8_t byte)
{
    place s = m->place[at];
    begin_set(m);
    for (uint32_t i = 0; i < s.n; i++) {
        pair x = m->pair[s.beg + i];
        for (uint32_t k = m->g->state[x.state].edge; k; k = m->g->edge[k - 1].next) {
            const gram_edge *e = &m->g->edge[k - 1];
            if (e->kind == GRAM_BYTES && e->lo <= byte && byte <= e->hi)
                reach(m, e->to, x.stack);
        }
    }
    close_set(m);
    return m->status != OM_OK || (m->n_kept == 0 && !m->ends) ? DEAD : file_place(m);
}

static uint32_t step(gmatch *m, uint32_t at, uint8_t byte)
{
    if (!m->place[at].next) {
        m->place[at].next = mem_array(256, sizeof(uint32_t));
        if (!m->place[at].next) {
            m->status = OM_ENOMEM;
            return DEAD;
        }
    }
    uint32_t known = m->place[at].next[byte];
    if (known != UNKNOWN)
        return known == DEAD ? DEAD : known - 1;
    uint32_t to = after_byte(m, at, byte);
    if (m->status == OM_OK)
        m->place[at].next[byte] = to == DEAD ? DEAD : to + 1;
    return to;
}

/* ---- forgetting ------------------------------------------------------------------------- */

static void forget(gmatch *m)
{
    for (uint32_t i = 0; i < m->n_place; i++)
        mem_free(m->place[i].next);
    m->n_place = m->n_pair = 0;
    m->n_frame = 1;
    memset(m->owner, 0, sizeof(m->owner));
    if (m->frames.slot)
        memset(m->frames.slot, 0, ((size_t)m->frames.mask + 1) * sizeof(uint32_t));
    if (m->places.slot)
        memset(m->places.slot, 0, ((size_t)m->places.mask + 1) * sizeof(uint32_t));
}

/* A stack of `old` frames again, as new ones. */
static uint32_t push_again(gmatch *m, const frame *old, uint32_t top)
{
    uint32_t list[GRAM_DEPTH + 1], n = 0, stack = 0;
    for (; top; top = old[top].parent)
        list[n++] = old[top].ret;
    while (n)
        stack = push(m, list[--n], stack);
    return stack;
}

static void keep_present_only(gmatch *m)
{
    place s = m->place[m->now];
    frame *old = mem_array(m->n_frame, sizeof(*old));
    pair *set = mem_array((size_t)s.n + 1, sizeof(*set));
    if (old && set) {
        memcpy(old, m->frame, m->n_frame * sizeof(*old));
        if (s.n)
            memcpy(set, m->pair + s.beg, s.n * sizeof(*set));
        forget(m);
        for (uint32_t i = 0; i < s.n; i++)
            m->kept[i] = (pair){set[i].state, push_again(m, old, set[i].stack)};
        m->n_kept = s.n;
        m->ends = s.can_end;
        m->now = file_place(m);
    } else {
        m->status = OM_ENOMEM;
    }
    mem_free(old);
    mem_free(set);
}

/* ---- public ----------------------------------------------------------------------------- */

static om_status sick(const gmatch *m, om_err *err)
{
    return fail(err, m->status, "grammar: %s",
                m->status == OM_ELIMIT ? "too ambiguous to be followed; make it simpler"
                                       : "no memory");
}

static om_status open_all(gmatch *m, om_err *err)
{
    m->todo = mem_array(PLACE_PAIRS, sizeof(pair));
    m->kept = mem_array(PLACE_PAIRS, sizeof(pair));
    m->seen = (index_map){mem_array(4 * PLACE_PAIRS, sizeof(uint32_t)), 4 * PLACE_PAIRS - 1};
    if (m->v)
        m->mask = mem_array(MASKS, words_of(m->v->vocab) * sizeof(uint64_t));
    void *p = NULL;
    if (!m->todo || !m->kept || !m->seen.slot || (m->v && !m->mask) ||
        !widen(m, &p, 0, &m->cap_frame, sizeof(frame), PAIRS_MOST))
        return fail(err, OM_ENOMEM, "grammar: no memory");
    m->frame = p;
    m->n_frame = 1;
    return gmatch_restart(m, err);
}

om_status gmatch_open(const grammar *g, const vocab_tree *v, gmatch **out, om_err *err)
{
    gmatch *m = mem_alloc(sizeof(*m));
    *out = NULL;
    if (!m)
        return fail(err, OM_ENOMEM, "grammar: no memory");
    m->g = g;
    m->v = v;
    om_status s = open_all(m, err);
    if (s != OM_OK)
        gmatch_close(m);
    else
        *out = m;
    return s;
}

void gmatch_close(gmatch *m)
{
    if (!m)
        return;
    for (uint32_t i = 0; i < m->n_place; i++)
        mem_free(m->place[i].next);
    mem_free(m->frame);
    mem_free(m->place);
    mem_free(m->pair);
    mem_free(m->frames.slot);
    mem_free(m->places.slot);
    mem_free(m->todo);
    mem_free(m->kept);
    mem_free(m->seen.slot);
    mem_free(m->mask);
    mem_free(m);
}

om_status gmatch_restart(gmatch *m, om_err *err)
{
    m->status = OM_OK;
    if (m->n_place > SOFT)
        forget(m);
    begin_set(m);
    reach(m, m->g->rule[m->g->root], 0);
    close_set(m);
    m->now = file_place(m);
    return m->status == OM_OK ? OM_OK : sick(m, err);
}

bool gmatch_can_end(const gmatch *m) { return m->place[m->now].can_end; }

static uint32_t walk(gmatch *m, uint64_t *mask)
{
    const vocab_tree *v = m->v;
    uint32_t at[TREE_DEPTH + 1] = {m->now}, n = 0;
    for (uint32_t i = 0; i < v->n && m->status == OM_OK;) {
        const tree_node *t = &v->node[i];
        uint32_t to = at[t->depth_ + 1] = step(m, at[t->depth_], t->byte);
        for (uint32_t k = 0; to != DEAD && k < t->n_token; k++, n++) {
            uint32_t id = (uint32_t)v->token[t->token + k];
            mask[id / 64] |= (uint64_t)1 << id % 64;
        }
        i = to == DEAD ? t->skip : i + 1;
    }
    for (uint32_t i = 0; gmatch_can_end(m) && i < words_of(v->vocab); i++) {
        mask[i] |= v->ends[i];
        n += (uint32_t)__builtin_popcountll(v->ends[i]);
    }
    return n;
}

om_status gmatch_mask(gmatch *m, const uint64_t **mask, uint32_t *n, om_err *err)
{
    uint32_t words = words_of(m->v->vocab), slot = m->place[m->now].mask;
    if (slot && m->owner[slot - 1] == m->now + 1) {
        *mask = m->mask + (size_t)(slot - 1) * words;
        *n = m->count[slot - 1];
        return OM_OK;
    }
    if (m->n_place > SOFT)
        keep_present_only(m);
    slot = m->turn++ % MASKS;
    uint64_t *bits = m->mask + (size_t)slot * words;
    memset(bits, 0, words * sizeof(*bits));
    if (m->status == OM_OK)
        m->count[slot] = walk(m, bits);
    if (m->status != OM_OK)
        return sick(m, err);
    m->owner[slot] = m->now + 1;
    m->place[m->now].mask = slot + 1;
    *mask = bits;
    *n = m->count[slot];
    return OM_OK;
}

om_status gmatch_bytes(gmatch *m, str bytes, om_err *err)
{
    uint32_t at = m->now;
    for (size_t i = 0; i < bytes.n && at != DEAD; i++)
        at = step(m, at, (uint8_t)bytes.p[i]);
    if (m->status != OM_OK)
        return sick(m, err);
    if (at == DEAD)
        return fail(err, OM_EARG, "grammar: '%.*s' may not come here",
                    (int)size_min(bytes.n, 40), bytes.p);
    m->now = at;
    if (m->n_place > SOFT)
        keep_present_only(m);
    return m->status == OM_OK ? OM_OK : sick(m, err);
}

om_status gmatch_token(gmatch *m, int32_t id, om_err *err)
{
    if (tokenizer_is_end(m->v->t, id))
        return gmatch_can_end(m) ? OM_OK
                                 : fail(err, OM_EARG, "grammar: the text may not end here");
    str s = tokenizer_piece(m->v->t, id, false);
    return s.n ? gmatch_bytes(m, s, err)
               : fail(err, OM_EARG, "grammar: token %d has no text", id);
}

void gmatch_apply(const uint64_t *mask, float *logits, uint32_t vocab)
{
    for (uint32_t i = 0; i < vocab; i++)
        if (!(mask[i / 64] >> i % 64 & 1))
            logits[i] = -INFINITY;
}
