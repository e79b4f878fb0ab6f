/* grammar.c - putting a network together, and what must hold before it is used.
 *
 * A state's edges are a linked list.  gram_finish computes per state
 *     TAIL   only the end of the rule lies ahead: a call that leads here need not be
 *            returned from, so lists written by right recursion take no stack
 *     need   how many calls inside each other the shortest way to the rule's end takes
 * A matcher drops every way whose stack and need together are deeper than GRAM_DEPTH.
 * What it keeps can therefore always be finished: that is the proof behind the promise
 * in grammar.h, for recursive schemas too.
 *
 * Left recursion (a rule that can call itself before it has read a byte) would make the
 * set of stacks infinite and is refused. */
#include "llm/gram_impl.h"

#include "llm/unicode.h"

/* ---- states, edges, rules --------------------------------------------------------------- */

static void spoil(grammar *g, om_status s, const char *what)
{
    if (g->status == OM_OK) {
        g->status = s;
        g->what = what;
    }
}

/* Room for one more in an array; false: spoilt. */
static bool room(grammar *g, void **p, size_t n, size_t *cap, size_t size, size_t most,
                 const char *what)
{
    if (g->status != OM_OK)
        return false;
    if (n < *cap)
        return true;
    if (n >= most)
        return spoil(g, OM_ELIMIT, what), false;
    size_t wider = size_min(*cap ? *cap * 2 : 64, most);
    void *grown = mem_grow(*p, *cap * size, wider * size);
    if (!grown)
        return spoil(g, OM_ENOMEM, "memory"), false;
    *p = grown;
    *cap = wider;
    return true;
}

grammar *gram_new(om_err *err)
{
    grammar *g = mem_alloc(sizeof(*g));
    if (!g)
        fail(err, OM_ENOMEM, "grammar: no memory");
    return g;
}

void grammar_close(grammar *g)
{
    if (!g)
        return;
    mem_free(g->state);
    mem_free(g->edge);
    mem_free(g->rule);
    mem_free(g);
}

uint32_t gram_add_state(grammar *g)
{
    void *p = g->state;
    bool ok = room(g, &p, g->n_state, &g->cap_state, sizeof(*g->state), GRAM_STATES, "states");
    g->state = p;
    if (!ok)
        return 0;
    g->state[g->n_state] = (gram_state){0};
    return (uint32_t)g->n_state++;
}

uint32_t gram_rule_at(grammar *g, uint32_t start)
{
    void *p = g->rule;
    bool ok = room(g, &p, g->n_rule, &g->cap_rule, sizeof(*g->rule), GRAM_RULES, "rules");
    g->rule = p;
    if (!ok)
        return 0;
    g->rule[g->n_rule] = start;
    return (uint32_t)g->n_rule++;
}

uint32_t gram_add_rule(grammar *g) { return gram_rule_at(g, gram_add_state(g)); }

static void add_edge(grammar *g, uint32_t from, gram_edge e)
{
    void *p = g->edge;
    bool ok = room(g, &p, g->n_edge, &g->cap_edge, sizeof(*g->edge), GRAM_EDGES, "edges");
    g->edge = p;
    if (!ok)
        return;
    e.next = g->state[from].edge;
    g->edge[g->n_edge++] = e;
    g->state[from].edge = (uint32_t)g->n_edge;
}

void gram_accept(grammar *g, uint32_t state)
{
    if (g->status == OM_OK)
        g->state[state].flags |= GRAM_ACCEPT;
}

void gram_eps(grammar *g, uint32_t from, uint32_t to)
{
    add_edge(g, from, (gram_edge){.kind = GRAM_EPS, .to = to});
}

void gram_bytes(grammar *g, uint32_t from, uint8_t lo, uint8_t hi, uint32_t to)
{
    add_edge(g, from, (gram_edge){.kind = GRAM_BYTES, .lo = lo, .hi = hi, .to = to});
}

void gram_call(grammar *g, uint32_t from, uint32_t rule, uint32_t to)
{
    add_edge(g, from, (gram_edge){.kind = GRAM_CALL, .rule = rule, .to = to});
}

uint32_t gram_call_to(grammar *g, uint32_t from, uint32_t rule)
{
    uint32_t to = gram_add_state(g);
    gram_call(g, from, rule, to);
    return to;
}

uint32_t gram_literal(grammar *g, uint32_t from, str bytes)
{
    for (size_t i = 0; i < bytes.n && g->status == OM_OK; i++) {
        uint32_t to = gram_add_state(g);
        gram_bytes(g, from, (uint8_t)bytes.p[i], (uint8_t)bytes.p[i], to);
        from = to;
    }
    return from;
}

/* Counted repetitions call the body as a rule, so each count costs a state, no copy. */
static uint32_t repeat_counted(grammar *g, uint32_t from, uint32_t body, uint32_t min,
                               uint32_t max)
{
    uint32_t at = gram_add_state(g), end = gram_add_state(g), last = min;
    gram_eps(g, from, at);
    for (uint32_t i = 0; i < min && g->status == OM_OK; i++)
        at = gram_call_to(g, at, body);
    if (max == UINT32_MAX)
        gram_call(g, at, body, at);
    else
        for (; last < max && g->status == OM_OK; last++) {
            gram_eps(g, at, end);
            at = gram_call_to(g, at, body);
        }
    gram_eps(g, at, end);
    return end;
}

uint32_t gram_repeat(grammar *g, uint32_t from, uint32_t a, uint32_t e, uint32_t min,
                     uint32_t max)
{
    if (min > GRAM_REPEAT || (max != UINT32_MAX && max > GRAM_REPEAT))
        return spoil(g, OM_ELIMIT, "repetitions"), e;
    if (min == 1 && max == 1) {
        gram_eps(g, from, a);
        return e;
    }
    if (min > 1 || (max > 1 && max != UINT32_MAX) || max == 0) {
        gram_accept(g, e);
        return repeat_counted(g, from, gram_rule_at(g, a), min, max);
    }
    uint32_t in = gram_add_state(g), end = gram_add_state(g);
    gram_eps(g, from, in);
    gram_eps(g, in, a);
    gram_eps(g, e, end);
    if (min == 0)
        gram_eps(g, in, end);
    if (max == UINT32_MAX)
        gram_eps(g, e, in);
    return end;
}

/* ---- characters ------------------------------------------------------------------------- */

static bool all_are(const uint8_t *p, size_t n, uint8_t v)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != v)
            return false;
    return true;
}

void gram_between(grammar *g, uint32_t from, const uint8_t *lo, const uint8_t *hi, size_t n,
                  uint8_t least, uint8_t most, uint32_t to)
{
    uint8_t first = lo[0], last = hi[0], low[24], high[24];
    BUG_IF(n == 0 || n > sizeof(low));
    if (n == 1) {
        gram_bytes(g, from, first, last, to);
        return;
    }
    memset(low, least, sizeof(low));
    memset(high, most, sizeof(high));
    if (first == last || !all_are(lo + 1, n - 1, least)) { /* the lowest first letter */
        uint32_t mid = gram_add_state(g);
        gram_bytes(g, from, first, first, mid);
        gram_between(g, mid, lo + 1, first == last ? hi + 1 : high, n - 1, least, most, to);
        if (first == last)
            return;
        first++;
    }
    if (!all_are(hi + 1, n - 1, most)) { /* the highest */
        uint32_t mid = gram_add_state(g);
        gram_bytes(g, from, last, last, mid);
        gram_between(g, mid, low, hi + 1, n - 1, least, most, to);
        last--;
    }
    if (first <= last) { /* any letters after those between */
        uint32_t mid = gram_add_state(g);
        gram_bytes(g, from, first, last, mid);
        gram_between(g, mid, low, high, n - 1, least, most, to);
    }
}

void gram_class_add(gram_class *c, uint32_t lo, uint32_t hi)
{
    if (c->n == GRAM_CLASS)
        c->full = true;
    else if (lo <= hi) {
        c->range[c->n].lo = lo;
        c->range[c->n++].hi = hi;
    }
}

static void class_sort(gram_class *c)
{
    for (uint32_t i = 1; i < c->n; i++)
        for (uint32_t j = i; j > 0 && c->range[j - 1].lo > c->range[j].lo; j--) {
            uint32_t lo = c->range[j].lo, hi = c->range[j].hi;
            c->range[j] = c->range[j - 1];
            c->range[j - 1].lo = lo;
            c->range[j - 1].hi = hi;
        }
}

void gram_class_invert(gram_class *c)
{
    gram_class_add(c, 0xd800, 0xdfff);
    class_sort(c);
    gram_class out = {.full = c->full};
    uint32_t next = 0;
    for (uint32_t i = 0; i < c->n; i++) {
        if (c->range[i].lo > next)
            gram_class_add(&out, next, c->range[i].lo - 1);
        if (c->range[i].hi >= next)
            next = c->range[i].hi + 1;
    }
    if (next <= 0x10ffff)
        gram_class_add(&out, next, 0x10ffff);
    *c = out;
}

/* lo..hi as UTF-8: one piece per length, surrogates left out. */
static void put_range(grammar *g, uint32_t from, uint32_t lo, uint32_t hi, uint32_t to)
{
    static const uint32_t cut[] = {0x7f, 0x7ff, 0xd7ff, 0xdfff, 0xffff, 0x10ffff};
    for (size_t i = 0; i < countof(cut) && lo <= hi; i++) {
        uint32_t end = hi < cut[i] ? hi : cut[i];
        uint8_t a[4], b[4];
        if (lo > end)
            continue;
        if (cut[i] != 0xdfff) {
            uint32_t n = unicode_put(lo, a);
            unicode_put(end, b);
            gram_between(g, from, a, b, n, 0x80, 0xbf, to);
        }
        lo = end + 1;
    }
}

static void put_escaped(grammar *g, uint32_t from, uint32_t c, uint32_t to)
{
    static const char code[] = "\b\f\n\r\t\"\\", letter[] = "bfnrt\"\\", hex[] = "0123456789abcdef";
    const char *found = c ? strchr(code, (int)c) : NULL;
    char text[8] = "\\u00";
    text[4] = hex[c >> 4 & 15];
    text[5] = hex[c & 15];
    if (found)
        text[1] = letter[found - code];
    gram_eps(g, gram_literal(g, from, (str){text, found ? 2 : 6}), to);
}

void gram_char(grammar *g, uint32_t from, const gram_class *c, bool quoted, uint32_t to)
{
    if (c->full)
        spoil(g, OM_ELIMIT, "ranges in a set of characters");
    for (uint32_t i = 0; i < c->n; i++) {
        uint32_t lo = c->range[i].lo, hi = c->range[i].hi;
        while (quoted && lo <= hi && lo <= '\\') {
            uint32_t end = lo < 0x20 ? lo : lo <= '"' ? '"' : '\\';
            bool escape = lo < 0x20 || lo == '"' || lo == '\\';
            if (escape)
                put_escaped(g, from, lo, to);
            else if (hi < end)
                break;
            else
                put_range(g, from, lo, end - 1, to);
            lo = escape ? lo + 1 : end;
        }
        if (lo <= hi)
            put_range(g, from, lo, hi, to);
    }
}

/* ---- what must hold ---------------------------------------------------------------------- */

#define EACH_EDGE(g, s, e)                                                               \
    for (const gram_edge *e = (g)->state[s].edge ? &(g)->edge[(g)->state[s].edge - 1] : NULL; \
         e; e = e->next ? &(g)->edge[e->next - 1] : NULL)

static bool find_tails(grammar *g)
{
    bool changed = false;
    for (size_t s = g->n_state; s-- > 0;) {
        bool tail = g->state[s].edge != 0 || g->state[s].flags & GRAM_ACCEPT;
        if (g->state[s].flags & GRAM_TAIL)
            continue;
        EACH_EDGE(g, s, e)
            tail = tail && e->kind == GRAM_EPS && g->state[e->to].flags & GRAM_TAIL;
        if (tail) {
            g->state[s].flags |= GRAM_TAIL;
            changed = true;
        }
    }
    return changed;
}

static uint16_t need_of(const grammar *g, uint32_t s)
{
    uint32_t best = g->state[s].flags & GRAM_ACCEPT ? 0 : GRAM_FAR;
    EACH_EDGE(g, s, e) {
        uint32_t need = g->state[e->to].need;
        if (e->kind == GRAM_CALL) {
            uint32_t in = g->state[g->rule[e->rule]].need;
            in += in != GRAM_FAR && !(g->state[e->to].flags & GRAM_TAIL);
            need = need > in ? need : in;
        }
        best = need < best ? need : best;
    }
    return (uint16_t)best;
}

static bool find_needs(grammar *g)
{
    bool changed = false;
    for (size_t s = g->n_state; s-- > 0;) {
        uint16_t need = need_of(g, (uint32_t)s);
        changed |= need < g->state[s].need;
        g->state[s].need = need;
    }
    return changed;
}

/* What a rule can reach without reading a byte: the rules it calls, and whether its end.
 * `mark` and `todo` have room for every state. */
typedef struct {
    grammar *g;
    uint32_t *mark, *todo, stamp;
    uint8_t *nullable, *color; /* (n_rule) */
    size_t n;
} left_walk;

static void reach(left_walk *w, uint32_t s)
{
    if (w->mark[s] != w->stamp) {
        w->mark[s] = w->stamp;
        w->todo[w->n++] = s;
    }
}

static bool ends_unread(left_walk *w, uint32_t rule)
{
    bool end = false;
    w->stamp++;
    w->n = 0;
    reach(w, w->g->rule[rule]);
    for (size_t i = 0; i < w->n; i++) {
        end |= (w->g->state[w->todo[i]].flags & GRAM_ACCEPT) != 0;
        EACH_EDGE(w->g, w->todo[i], e)
            if (e->kind == GRAM_EPS || (e->kind == GRAM_CALL && w->nullable[e->rule]))
                reach(w, e->to);
    }
    return end;
}

/* Kahn's order by repeated removal: a rule is clean when all it calls first are. */
static bool calls_clean(left_walk *w, uint32_t rule)
{
    ends_unread(w, rule);
    for (size_t i = 0; i < w->n; i++)
        EACH_EDGE(w->g, w->todo[i], e)
            if (e->kind == GRAM_CALL && !w->color[e->rule])
                return false;
    return true;
}

static om_status refuse_left_recursion(left_walk *w, om_err *err)
{
    size_t n = w->g->n_rule, left = n;
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t r = n; r-- > 0;)
            if (!w->nullable[r] && ends_unread(w, (uint32_t)r))
                w->nullable[r] = changed = true;
    }
    for (bool changed = true; changed && left;) {
        changed = false;
        for (size_t r = n; r-- > 0;)
            if (!w->color[r] && calls_clean(w, (uint32_t)r)) {
                w->color[r] = changed = true;
                left--;
            }
    }
    if (left)
        return fail(err, OM_EUNSUPPORTED, "grammar: left recursion: a rule calls itself before "
                    "anything is read; write it as a repetition");
    return OM_OK;
}

static om_status check_left(grammar *g, om_err *err)
{
    left_walk w = {.g = g, .mark = mem_array(g->n_state, sizeof(uint32_t)),
                   .todo = mem_array(g->n_state, sizeof(uint32_t)),
                   .nullable = mem_array(g->n_rule, 1), .color = mem_array(g->n_rule, 1)};
    om_status s = OM_OK;
    if (!w.mark || !w.todo || !w.nullable || !w.color)
        s = fail(err, OM_ENOMEM, "grammar: no memory");
    else
        s = refuse_left_recursion(&w, err);
    mem_free(w.mark);
    mem_free(w.todo);
    mem_free(w.nullable);
    mem_free(w.color);
    return s;
}

om_status gram_finish(grammar *g, uint32_t root, om_err *err)
{
    if (g->status != OM_OK)
        return fail(err, g->status, "grammar: too many %s; make it simpler", g->what);
    g->root = root;
    TRY(check_left(g, err));
    while (find_tails(g))
        ;
    for (size_t s = 0; s < g->n_state; s++)
        g->state[s].need = GRAM_FAR;
    while (find_needs(g))
        ;
    if (g->state[g->rule[root]].need > GRAM_DEPTH)
        return fail(err, OM_EFORMAT, "grammar: no text has this form, or only texts nested "
                    "deeper than %d", GRAM_DEPTH);
    return OM_OK;
}

om_status gram_done(grammar *g, om_status s, grammar **out, om_err *err)
{
    if (g->status != OM_OK && s == OM_OK)
        s = fail(err, g->status, "grammar: too many %s; make it simpler", g->what);
    if (s != OM_OK) {
        grammar_close(g);
        g = NULL;
    }
    *out = g;
    return s;
}
