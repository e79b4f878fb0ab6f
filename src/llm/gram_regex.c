/* gram_regex.c - a schema's "pattern" as the inside of a JSON string.
 *
 * ECMA-262 regular expressions without what needs memory or a look elsewhere.  Known:
 * characters, ., [...], [^...], \d \w \s \D \W \S, \n \r \t \f \v \0, \xHH \uHHHH and
 * escaped punctuation, ( ) and (?: ), |, * + ? {m} {m,} {m,n} and their lazy forms (the
 * same language), ^ at the beginning and $ at the end of the whole or of one of its
 * alternatives.  Refused: look-around, back references, \b, \p, named groups.
 *
 * A pattern may match anywhere, so a side without its anchor gets "any characters". */
#include "llm/gram_impl.h"

enum { GROUPS = 48 };

typedef struct {
    grammar *g;
    str s;
    size_t at;
    int depth;
    om_err *err;
} reader;

static om_status bad(reader *r, const char *what)
{
    return fail(r->err, OM_EUNSUPPORTED, "schema: pattern '%.*s', character %zu: %s",
                (int)size_min(r->s.n, 80), r->s.p, r->at, what);
}

static char peek(const reader *r) { return r->at < r->s.n ? r->s.p[r->at] : '\0'; }
static bool accept(reader *r, char c)
{
    bool yes = r->at < r->s.n && r->s.p[r->at] == c;
    r->at += yes;
    return yes;
}

static const uint16_t spaces[][2] = {{9, 13}, {32, 32}, {0xa0, 0xa0}, {0x1680, 0x1680},
    {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f},
    {0x3000, 0x3000}, {0xfeff, 0xfeff}};

/* \d \w \s and their opposites; false: another letter. */
static bool shorthand(gram_class *c, char letter)
{
    gram_class k = {.n = 0};
    switch (letter | 32) {
    case 'w':
        gram_class_add(&k, 'a', 'z');
        gram_class_add(&k, 'A', 'Z');
        gram_class_add(&k, '_', '_');
        gram_class_add(&k, '0', '9');
        break;
    case 'd':
        gram_class_add(&k, '0', '9');
        break;
    case 's':
        for (size_t i = 0; i < countof(spaces); i++)
            gram_class_add(&k, spaces[i][0], spaces[i][1]);
        break;
    default:
        return false;
    }
    if (letter < 'a')
        gram_class_invert(&k);
    for (uint32_t i = 0; i < k.n; i++)
        gram_class_add(c, k.range[i].lo, k.range[i].hi);
    return true;
}

static om_status take_hex(reader *r, int digits, uint32_t *out)
{
    uint8_t byte[2] = {0};
    char low[4];
    for (int i = 0; i < digits; i++) {
        char c = peek(r);
        low[i] = c >= 'A' && c <= 'F' ? (char)(c | 32) : c;
        r->at += c != 0;
    }
    if (!hex_decode((str){low, (size_t)digits}, byte, (size_t)digits / 2))
        return bad(r, "expected hexadecimal digits");
    *out = digits == 4 ? (uint32_t)byte[0] << 8 | byte[1] : byte[0];
    return *out >= 0xd800 && *out <= 0xdfff ? bad(r, "half a character") : OM_OK;
}

/* After a backslash: one character. */
static om_status escaped(reader *r, uint32_t *out)
{
    static const char from[] = "nrtfv0", to[] = "\n\r\t\f\v\0";
    char c = peek(r);
    const char *found = c ? strchr(from, c) : NULL;
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '1' && c <= '9');
    r->at += c != 0;
    if (c == 'x' || c == 'u')
        return take_hex(r, c == 'x' ? 2 : 4, out);
    if (!found && (letter || !c || (uint8_t)c >= 0x80))
        return bad(r, "this escape is not known; \\d \\w \\s, \\n \\r \\t \\f \\v \\0, \\xHH, "
                      "\\uHHHH and escaped punctuation are");
    *out = found ? (uint8_t)to[found - from] : (uint8_t)c;
    return OM_OK;
}

static om_status take_char(reader *r, uint32_t *out)
{
    size_t n = utf8_take((str){r->s.p + r->at, r->s.n - r->at}, out);
    r->at += n;
    return n ? OM_OK : bad(r, "the pattern ends here");
}

static om_status set_item(reader *r, gram_class *c)
{
    uint32_t lo, hi;
    if (accept(r, '\\')) {
        if (shorthand(c, peek(r)))
            return r->at++, OM_OK;
        TRY(escaped(r, &lo));
    } else {
        TRY(take_char(r, &lo));
    }
    hi = lo;
    if (peek(r) == '-' && r->at + 1 < r->s.n && r->s.p[r->at + 1] != ']') {
        r->at++;
        TRY(accept(r, '\\') ? escaped(r, &hi) : take_char(r, &hi));
    }
    if (hi < lo)
        return bad(r, "a range that runs backwards");
    gram_class_add(c, lo, hi);
    return OM_OK;
}

static om_status set(reader *r, gram_class *c)
{
    bool invert = accept(r, '^');
    while (!accept(r, ']'))
        TRY(set_item(r, c));
    if (invert)
        gram_class_invert(c);
    return OM_OK;
}

static uint32_t put(reader *r, uint32_t from, const gram_class *c)
{
    uint32_t to = gram_add_state(r->g);
    gram_char(r->g, from, c, true, to);
    return to;
}

static om_status alternatives(reader *r, uint32_t from, uint32_t to);

static om_status group(reader *r, uint32_t *at)
{
    uint32_t to = gram_add_state(r->g);
    if (accept(r, '?') && !accept(r, ':'))
        return bad(r, "look-around and named groups are not supported; (?: and ( are");
    TRY(alternatives(r, *at, to));
    *at = to;
    return accept(r, ')') ? OM_OK : bad(r, "expected )");
}

static om_status atom(reader *r, uint32_t *at)
{
    gram_class c = {.n = 0};
    uint32_t one;
    if (accept(r, '('))
        return group(r, at);
    if (accept(r, '[')) {
        TRY(set(r, &c));
    } else if (accept(r, '.')) {
        gram_class_add(&c, '\n', '\n');
        gram_class_add(&c, '\r', '\r');
        gram_class_add(&c, 0x2028, 0x2029);
        gram_class_invert(&c);
    } else if (accept(r, '\\')) {
        if (shorthand(&c, peek(r))) {
            r->at++;
        } else {
            TRY(escaped(r, &one));
            gram_class_add(&c, one, one);
        }
    } else if (strchr("^$", peek(r))) {
        return bad(r, "^ and $ are supported at the ends of the pattern alone");
    } else if (strchr("*+?{", peek(r))) {
        return bad(r, "nothing to repeat");
    } else {
        TRY(take_char(r, &one));
        gram_class_add(&c, one, one);
    }
    *at = put(r, *at, &c);
    return OM_OK;
}

static om_status take_number(reader *r, uint32_t *out)
{
    str s = {r->s.p + r->at, 0};
    uint64_t v;
    for (; peek(r) >= '0' && peek(r) <= '9'; r->at++)
        s.n++;
    if (!str_u64(s, &v) || v > GRAM_REPEAT)
        return bad(r, "expected a count of at most 65536");
    *out = (uint32_t)v;
    return OM_OK;
}

static om_status counts(reader *r, uint32_t *min, uint32_t *max)
{
    *min = *max = 1;
    if (accept(r, '*'))
        *min = 0, *max = UINT32_MAX;
    else if (accept(r, '+'))
        *max = UINT32_MAX;
    else if (accept(r, '?'))
        *min = 0;
    else if (accept(r, '{')) {
        TRY(take_number(r, min));
        *max = *min;
        if (accept(r, ',')) {
            *max = UINT32_MAX;
            if (peek(r) != '}')
                TRY(take_number(r, max));
        }
        if (!accept(r, '}') || *max < *min)
            return bad(r, "expected {m}, {m,} or {m,n}");
    } else {
        return OM_OK;
    }
    accept(r, '?'); /* lazy */
    return OM_OK;
}

static bool at_end(const reader *r)
{
    return r->at >= r->s.n || peek(r) == '|' || peek(r) == ')' ||
           (peek(r) == '$' && r->depth == 1 &&
            (r->at + 1 == r->s.n || r->s.p[r->at + 1] == '|'));
}

static om_status sequence(reader *r, uint32_t *from)
{
    while (!at_end(r) && r->g->status == OM_OK) {
        uint32_t beg = gram_add_state(r->g), end = beg, min, max;
        TRY(atom(r, &end));
        TRY(counts(r, &min, &max));
        *from = gram_repeat(r->g, *from, beg, end, min, max);
    }
    return OM_OK;
}

static uint32_t anything(reader *r, uint32_t from)
{
    gram_class any = {.n = 0};
    uint32_t loop = gram_add_state(r->g);
    gram_class_invert(&any);
    gram_eps(r->g, from, loop);
    gram_char(r->g, loop, &any, true, loop);
    return loop;
}

static om_status alternatives(reader *r, uint32_t from, uint32_t to)
{
    if (r->depth == GROUPS)
        return bad(r, "too many groups inside each other");
    bool whole = r->depth++ == 0;
    do {
        uint32_t at = from;
        if (whole && !accept(r, '^'))
            at = anything(r, at);
        TRY(sequence(r, &at));
        if (whole && !accept(r, '$'))
            at = anything(r, at);
        gram_eps(r->g, at, to);
    } while (accept(r, '|'));
    r->depth--;
    return OM_OK;
}

om_status gram_regex(grammar *g, uint32_t from, str pattern, uint32_t *to, om_err *err)
{
    reader r = {.g = g, .s = pattern, .err = err};
    *to = gram_add_state(g);
    TRY(alternatives(&r, from, *to));
    return r.at < pattern.n && g->status == OM_OK ? bad(&r, "a ) that closes nothing") : OM_OK;
}
