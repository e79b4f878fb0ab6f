/* gram_text.c - grammars written as text, in the notation llama.cpp's users know (GBNF).
 *
 *     root  ::= "yes" | "no" reason?
 *     reason ::= ", because " [^.\n]{1,200} "."      # a comment
 *
 * One pass: names are given rules when they are first met, and an atom is built on states
 * of its own, so that what is behind it (*, +, {2,5}) can still be tied around it. */
#include "llm/gram_impl.h"

enum { NAMES = 4096, GROUPS = 64 };

typedef struct {
    str name;
    uint32_t rule;
    bool defined;
} entry;

typedef struct {
    grammar *g;
    str s;
    size_t at;
    entry *name; /* (NAMES) */
    uint32_t n;
    int depth;
    om_err *err;
} reader;

static om_status bad(reader *r, const char *what)
{
    return fail_at(r->err, OM_EFORMAT, r->at, "grammar: byte %zu: %s", r->at, what);
}

static char peek(const reader *r) { return r->at < r->s.n ? r->s.p[r->at] : '\0'; }

static void skip_space(reader *r)
{
    for (; r->at < r->s.n; r->at++) {
        char c = r->s.p[r->at];
        if (c == '#')
            while (r->at + 1 < r->s.n && r->s.p[r->at + 1] != '\n')
                r->at++;
        else if (c != ' ' && c != '\t' && c != '\n' && c != '\r')
            return;
    }
}

static bool accept(reader *r, char c)
{
    skip_space(r);
    if (r->at >= r->s.n || r->s.p[r->at] != c)
        return false;
    r->at++;
    return true;
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c == '-' || c == '_';
}

static str take_name(reader *r)
{
    size_t beg = r->at;
    while (is_name(peek(r)))
        r->at++;
    return (str){r->s.p + beg, r->at - beg};
}

static om_status find_rule(reader *r, str name, entry **out)
{
    for (uint32_t i = 0; i < r->n; i++)
        if (str_eq(r->name[i].name, name))
            return *out = &r->name[i], OM_OK;
    if (r->n == NAMES)
        return bad(r, "more than 4096 rules");
    r->name[r->n] = (entry){name, gram_add_rule(r->g), false};
    *out = &r->name[r->n++];
    return OM_OK;
}

static om_status take_hex(reader *r, int digits, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < digits; i++, r->at++) {
        char c = peek(r);
        int v = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (v < 0)
            return bad(r, "expected a hexadecimal digit");
        *out = *out << 4 | (uint32_t)v;
    }
    return OM_OK;
}

/* One character of a literal or a set, escapes undone. */
static om_status take_char(reader *r, uint32_t *out)
{
    static const char from[] = "nrt\"\\]-[^", to[] = "\n\r\t\"\\]-[^";
    if (r->at >= r->s.n || peek(r) == '\n')
        return bad(r, "the line ends inside a literal or a set");
    if (peek(r) != '\\') {
        size_t n = utf8_take((str){r->s.p + r->at, r->s.n - r->at}, out);
        r->at += n;
        return n ? OM_OK : bad(r, "bytes that are not UTF-8");
    }
    r->at++;
    char c = peek(r);
    const char *found = c ? strchr(from, c) : NULL;
    r->at += c != 0;
    if (found)
        return *out = (uint32_t)(uint8_t)to[found - from], OM_OK;
    if (c != 'x' && c != 'u' && c != 'U')
        return bad(r, "unknown escape; \\n \\r \\t \\\" \\\\ \\xHH \\uHHHH are known");
    TRY(take_hex(r, c == 'x' ? 2 : c == 'u' ? 4 : 8, out));
    return *out <= 0x10ffff && (*out < 0xd800 || *out > 0xdfff)
               ? OM_OK
               : bad(r, "not a character");
}

static om_status literal(reader *r, uint32_t *at)
{
    char text[4];
    while (peek(r) != '"') {
        uint32_t c;
        TRY(take_char(r, &c));
        *at = gram_literal(r->g, *at, (str){text, utf8_encode(c, text)});
    }
    r->at++;
    return OM_OK;
}

static om_status set(reader *r, uint32_t *at)
{
    gram_class c = {.n = 0};
    bool invert = peek(r) == '^';
    r->at += invert;
    while (peek(r) != ']') {
        uint32_t lo, hi;
        TRY(take_char(r, &lo));
        hi = lo;
        if (peek(r) == '-' && r->at + 1 < r->s.n && r->s.p[r->at + 1] != ']') {
            r->at++;
            TRY(take_char(r, &hi));
        }
        if (hi < lo)
            return bad(r, "a range that runs backwards");
        gram_class_add(&c, lo, hi);
    }
    r->at++;
    if (invert)
        gram_class_invert(&c);
    uint32_t to = gram_add_state(r->g);
    gram_char(r->g, *at, &c, false, to);
    *at = to;
    return OM_OK;
}

static om_status alternatives(reader *r, uint32_t from, uint32_t to);

static om_status atom(reader *r, uint32_t *at, bool *none)
{
    char c = peek(r);
    *none = false;
    if (c == '"')
        return r->at++, literal(r, at);
    if (c == '[')
        return r->at++, set(r, at);
    if (c == '.') {
        gram_class any = {.n = 0};
        uint32_t to = gram_add_state(r->g);
        gram_class_invert(&any);
        gram_char(r->g, *at, &any, false, to);
        *at = to;
        return r->at++, OM_OK;
    }
    if (c == '(') {
        uint32_t to = gram_add_state(r->g);
        r->at++;
        TRY(alternatives(r, *at, to));
        *at = to;
        return accept(r, ')') ? OM_OK : bad(r, "expected ')'");
    }
    size_t beg = r->at;
    str name = take_name(r);
    skip_space(r);
    bool next_rule = r->s.n - r->at >= 3 && memcmp(r->s.p + r->at, "::=", 3) == 0;
    if (name.n == 0 || next_rule) {
        r->at = beg;
        *none = true;
        return OM_OK;
    }
    r->at = beg + name.n; /* a repetition must stand right behind */
    entry *e;
    TRY(find_rule(r, name, &e));
    *at = gram_call_to(r->g, *at, e->rule);
    return OM_OK;
}

static om_status take_number(reader *r, uint32_t *out)
{
    str s = {r->s.p + r->at, 0};
    uint64_t v;
    while (peek(r) >= '0' && peek(r) <= '9') {
        s.n++;
        r->at++;
    }
    if (!str_u64(s, &v) || v > GRAM_REPEAT)
        return bad(r, "expected a count of at most 65536");
    *out = (uint32_t)v;
    return OM_OK;
}

static om_status counts(reader *r, uint32_t *min, uint32_t *max)
{
    char c = peek(r);
    *min = c == '*' || c == '?' ? 0 : 1;
    *max = c == '*' || c == '+' ? UINT32_MAX : 1;
    if (c == '*' || c == '+' || c == '?')
        r->at++;
    if (c != '{')
        return OM_OK;
    r->at++;
    TRY(take_number(r, min));
    *max = *min;
    if (accept(r, ',')) {
        skip_space(r);
        *max = UINT32_MAX;
        if (peek(r) != '}')
            TRY(take_number(r, max));
    }
    if (*max < *min)
        return bad(r, "the largest count is below the smallest");
    return accept(r, '}') ? OM_OK : bad(r, "expected '}'");
}

static om_status sequence(reader *r, uint32_t from, uint32_t to)
{
    for (;;) {
        uint32_t beg = gram_add_state(r->g), end = beg, min, max;
        bool none;
        skip_space(r);
        TRY(atom(r, &end, &none));
        if (none)
            break;
        TRY(counts(r, &min, &max));
        from = gram_repeat(r->g, from, beg, end, min, max);
        if (r->g->status != OM_OK)
            break;
    }
    gram_eps(r->g, from, to);
    return OM_OK;
}

static om_status alternatives(reader *r, uint32_t from, uint32_t to)
{
    if (r->depth == GROUPS)
        return bad(r, "more than 64 parentheses inside each other");
    r->depth++;
    do
        TRY(sequence(r, from, to));
    while (accept(r, '|'));
    r->depth--;
    return OM_OK;
}

static om_status definition(reader *r)
{
    size_t beg = r->at;
    str name = take_name(r);
    entry *e;
    if (name.n == 0)
        return bad(r, "expected the name of a rule");
    skip_space(r);
    if (r->s.n - r->at < 3 || memcmp(r->s.p + r->at, "::=", 3) != 0)
        return bad(r, "expected ::= after the name");
    r->at += 3;
    TRY(find_rule(r, name, &e));
    if (e->defined)
        return r->at = beg, bad(r, "this rule is defined twice");
    e->defined = true;
    uint32_t from = r->g->status == OM_OK ? r->g->rule[e->rule] : 0, to = gram_add_state(r->g);
    TRY(alternatives(r, from, to));
    gram_accept(r->g, to);
    return OM_OK;
}

static om_status read_all(reader *r)
{
    entry *root;
    TRY(find_rule(r, STR("root"), &root));
    for (skip_space(r); r->at < r->s.n; skip_space(r))
        TRY(definition(r));
    for (uint32_t i = 0; i < r->n; i++)
        if (!r->name[i].defined)
            return fail(r->err, OM_EFORMAT, "grammar: the rule '%.*s' is not defined",
                        (int)size_min(r->name[i].name.n, 60), r->name[i].name.p);
    return gram_finish(r->g, root->rule, r->err);
}

om_status grammar_from_text(str text, grammar **out, om_err *err)
{
    reader r = {.g = gram_new(err), .s = text, .err = err};
    *out = NULL;
    if (!r.g)
        return OM_ENOMEM;
    r.name = mem_array(NAMES, sizeof(*r.name));
    om_status s = r.name ? read_all(&r) : fail(err, OM_ENOMEM, "grammar: no memory");
    mem_free(r.name);
    return gram_done(r.g, s, out, err);
}
