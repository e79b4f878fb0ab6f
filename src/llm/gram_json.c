/* gram_json.c - the rules of JSON (RFC 8259) as a network: values of any kind, numbers of
 * an interval, member names other than given ones.
 *
 * Numbers keep to what every reader holds exactly or finitely: 15 digits, exponents of
 * two.  Whitespace is one space or one indented line, so that a model cannot go on
 * writing blanks for ever. */
#include "llm/gram_impl.h"

enum { DIGITS = 15 };

static uint32_t put_bytes(grammar *g, uint32_t from, uint8_t lo, uint8_t hi)
{
    uint32_t to = gram_add_state(g);
    gram_bytes(g, from, lo, hi, to);
    return to;
}

static uint32_t put(grammar *g, uint32_t from, const char *z)
{
    return gram_literal(g, from, str_of(z));
}

/* min to max digits. */
static uint32_t put_digits(grammar *g, uint32_t from, uint32_t min, uint32_t max)
{
    uint32_t a = gram_add_state(g);
    return gram_repeat(g, from, a, put_bytes(g, a, '0', '9'), min, max);
}

static void space_rule(grammar *g, uint32_t rule)
{
    uint32_t at = g->status == OM_OK ? g->rule[rule] : 0;
    gram_accept(g, at);
    gram_accept(g, put(g, at, " "));
    at = put(g, at, "\n");
    for (int i = 0; i < 16; i++) {
        gram_accept(g, at);
        at = put(g, at, " ");
    }
    gram_accept(g, at);
}

/* One hexadecimal digit of the set, given in lower case. */
static uint32_t put_hex(grammar *g, uint32_t from, const char *set)
{
    uint32_t to = gram_add_state(g);
    for (const char *c = set; *c; c++) {
        gram_bytes(g, from, (uint8_t)*c, (uint8_t)*c, to);
        if (*c >= 'a')
            gram_bytes(g, from, (uint8_t)(*c & ~32), (uint8_t)(*c & ~32), to);
    }
    return to;
}

#define HEX "0123456789abcdef"

/* A character of a string: as it is, or escaped; never half a surrogate pair. */
static void character_rule(grammar *g, uint32_t rule)
{
    uint32_t at = g->status == OM_OK ? g->rule[rule] : 0, end = gram_add_state(g);
    gram_class plain = {.n = 0};
    gram_accept(g, end);
    gram_class_add(&plain, 0, 0x1f);
    gram_class_add(&plain, '"', '"');
    gram_class_add(&plain, '\\', '\\');
    gram_class_invert(&plain);
    gram_char(g, at, &plain, false, end);
    uint32_t slash = put(g, at, "\\"), u = put(g, slash, "u");
    for (const char *c = "\"\\/bfnrt"; *c; c++)
        gram_bytes(g, slash, (uint8_t)*c, (uint8_t)*c, end);
    uint32_t any = put_hex(g, u, "0123456789abcef"), d = put_hex(g, u, "d");
    gram_eps(g, put_hex(g, put_hex(g, put_hex(g, any, HEX), HEX), HEX), end);
    gram_eps(g, put_hex(g, put_hex(g, put_hex(g, d, "01234567"), HEX), HEX), end);
    uint32_t high = put_hex(g, put_hex(g, put_hex(g, d, "89ab"), HEX), HEX);
    uint32_t low = put_hex(g, put_hex(g, put(g, high, "\\u"), "d"), "cdef");
    gram_eps(g, put_hex(g, put_hex(g, low, HEX), HEX), end);
}

static void string_rule(grammar *g, const gram_json *j)
{
    uint32_t loop = put(g, g->status == OM_OK ? g->rule[j->string] : 0, "\"");
    gram_call(g, loop, j->character, loop);
    gram_accept(g, put(g, loop, "\""));
}

/* "[" or "{", items with commas between, "]" or "}". */
static void container_rule(grammar *g, const gram_json *j, bool object)
{
    uint32_t start = g->status == OM_OK ? g->rule[object ? j->object : j->array] : 0;
    uint32_t open = gram_call_to(g, put(g, start, object ? "{" : "["), j->space);
    uint32_t item = gram_add_state(g), at = item;
    gram_eps(g, open, item);
    if (object) {
        at = put(g, gram_call_to(g, at, j->string), ":");
        at = gram_call_to(g, at, j->space);
    }
    at = gram_call_to(g, at, j->value);
    gram_call(g, put(g, at, ","), j->space, item);
    uint32_t end = gram_call_to(g, at, j->space);
    gram_eps(g, open, end);
    gram_accept(g, put(g, end, object ? "}" : "]"));
}

static void value_rule(grammar *g, const gram_json *j)
{
    uint32_t at = g->status == OM_OK ? g->rule[j->value] : 0, end = gram_add_state(g);
    const uint32_t part[] = {j->string, j->number, j->object, j->array};
    gram_accept(g, end);
    for (size_t i = 0; i < countof(part); i++)
        gram_call(g, at, part[i], end);
    gram_eps(g, put(g, at, "true"), end);
    gram_eps(g, put(g, at, "false"), end);
    gram_eps(g, put(g, at, "null"), end);
}

static void number_rule(grammar *g, const gram_json *j)
{
    uint32_t at = g->status == OM_OK ? g->rule[j->number] : 0, whole = gram_add_state(g);
    gram_call(g, at, j->integer, whole);
    gram_accept(g, whole);
    uint32_t frac = put_digits(g, put(g, whole, "."), 1, DIGITS), e = gram_add_state(g);
    gram_accept(g, frac);
    gram_bytes(g, whole, 'e', 'e', e);
    gram_bytes(g, frac, 'e', 'e', e);
    gram_bytes(g, whole, 'E', 'E', e);
    gram_bytes(g, frac, 'E', 'E', e);
    uint32_t sign = put(g, e, "-");
    gram_eps(g, e, sign);
    gram_bytes(g, e, '+', '+', sign);
    gram_accept(g, put_digits(g, sign, 1, 2));
}

void gram_json_rules(grammar *g, gram_json *j)
{
    uint32_t *rule[] = {&j->space, &j->character, &j->string, &j->number,
                        &j->integer, &j->value, &j->object, &j->array};
    for (size_t i = 0; i < countof(rule); i++)
        *rule[i] = gram_add_rule(g);
    space_rule(g, j->space);
    character_rule(g, j->character);
    string_rule(g, j);
    uint32_t end = gram_add_state(g);
    gram_accept(g, end);
    gram_number(g, g->status == OM_OK ? g->rule[j->integer] : 0,
                &(gram_interval){.whole = true}, end);
    number_rule(g, j);
    value_rule(g, j);
    container_rule(g, j, true);
    container_rule(g, j, false);
}

/* ---- numbers of an interval --------------------------------------------------------------- */

/* Whole numbers lo..hi, not negative, each as it is written; one piece per length. */
static uint32_t put_magnitude(grammar *g, uint32_t from, int64_t lo, int64_t hi)
{
    uint32_t to = gram_add_state(g);
    int64_t least = 0, most = 9;
    for (size_t n = 1; n <= DIGITS; n++, least = most + 1, most = most * 10 + 9) {
        int64_t a = lo > least ? lo : least, b = hi < most ? hi : most;
        uint8_t low[DIGITS], high[DIGITS];
        if (a > b)
            continue;
        for (size_t i = n; i-- > 0; a /= 10, b /= 10) {
            low[i] = (uint8_t)('0' + a % 10);
            high[i] = (uint8_t)('0' + b % 10);
        }
        gram_between(g, from, low, high, n, '0', '9', to);
    }
    return to;
}

/* A magnitude of lo..hi with or without a fraction.  A fraction moves a number away from
 * zero, so it may follow all but the highest; what stays above an open lo needs one that
 * is not zero. */
static void put_real(grammar *g, uint32_t from, int64_t lo, int64_t hi, bool open_lo,
                     bool open_hi, uint32_t to)
{
    if (lo + open_lo <= hi - 1) {
        uint32_t at = put_magnitude(g, from, lo + open_lo, hi - 1);
        gram_eps(g, at, to);
        gram_eps(g, put_digits(g, put(g, at, "."), 1, DIGITS), to);
    }
    if (open_lo && lo < hi) {
        uint32_t at = put(g, put_magnitude(g, from, lo, lo), ".");
        at = put_digits(g, at, 0, DIGITS - 1);
        gram_bytes(g, at, '1', '9', to);
    }
    if (!open_hi && (lo < hi || !open_lo))
        gram_eps(g, put_magnitude(g, from, hi, hi), to);
}

/* i, of which the part that is not negative (or mirrored, not positive). */
static void put_side(grammar *g, uint32_t from, const gram_interval *i, bool mirrored,
                     uint32_t to)
{
    int64_t lo = mirrored ? -i->max : i->min, hi = mirrored ? -i->min : i->max;
    bool open_lo = mirrored ? i->open_max : i->open_min;
    bool open_hi = mirrored ? i->open_min : i->open_max;
    if (lo < 0)
        lo = 0, open_lo = false;
    if (hi < lo || (hi == lo && (open_lo || open_hi)))
        return;
    if (mirrored)
        from = put(g, from, "-");
    if (!i->whole)
        put_real(g, from, lo, hi, open_lo, open_hi, to);
    else if (lo + open_lo <= hi - open_hi)
        gram_eps(g, put_magnitude(g, from, lo + open_lo, hi - open_hi), to);
}

void gram_number(grammar *g, uint32_t from, const gram_interval *i, uint32_t to)
{
    gram_interval k = *i;
    if (!k.has_min)
        k.min = -GRAM_NUMBER, k.open_min = false;
    if (!k.has_max)
        k.max = GRAM_NUMBER, k.open_max = false;
    put_side(g, from, &k, false, to);
    put_side(g, from, &k, true, to);
}

/* ---- member names ------------------------------------------------------------------------- */

/* The characters that names with the same first `depth` bytes have next, and those names'
 * number; name[0..n) all share them. */
typedef struct {
    grammar *g;
    uint32_t free; /* here the name is different already */
    uint32_t end;  /* behind the closing quote */
} key_walk;

static void plain_class(gram_class *c)
{
    gram_class_add(c, 0, 0x1f);
    gram_class_add(c, '"', '"');
    gram_class_add(c, '\\', '\\');
}

static bool shares(str name, str prefix)
{
    return prefix.n == 0 || (name.n >= prefix.n && memcmp(name.p, prefix.p, prefix.n) == 0);
}

/* At a state that the prefix led to.  Every first-seen next character of a name that
 * shares the prefix gets a state of its own; all others leave for `free`. */
static void key_step(key_walk *w, uint32_t at, const str *name, uint32_t n, str prefix)
{
    gram_class others = {.n = 0};
    bool is_name = false;
    for (uint32_t i = 0; i < n && w->g->status == OM_OK; i++) {
        uint32_t c;
        if (!shares(name[i], prefix))
            continue;
        str rest = {name[i].p + prefix.n, name[i].n - prefix.n};
        size_t len = utf8_take(rest, &c);
        is_name |= rest.n == 0;
        bool seen = len == 0;
        for (uint32_t k = 0; k < others.n; k++)
            seen |= others.range[k].lo == c;
        if (seen)
            continue;
        gram_class_add(&others, c, c);
        gram_class one = {.n = 0};
        gram_class_add(&one, c, c);
        uint32_t to = gram_add_state(w->g);
        if (c >= 0x20 && c != '"' && c != '\\') { /* else a name we could not write anyway */
            gram_char(w->g, at, &one, false, to);
            key_step(w, to, name, n, (str){name[i].p, prefix.n + len});
        }
    }
    plain_class(&others);
    gram_class_invert(&others);
    gram_char(w->g, at, &others, false, w->free);
    if (!is_name)
        gram_bytes(w->g, at, '"', '"', w->end);
}

/* Written without escapes, so that one name has one form. */
void gram_other_key(grammar *g, uint32_t from, const str *name, uint32_t n, uint32_t to)
{
    key_walk w = {g, gram_add_state(g), to};
    gram_class plain = {.n = 0};
    plain_class(&plain);
    gram_class_invert(&plain);
    gram_char(g, w.free, &plain, false, w.free);
    gram_bytes(g, w.free, '"', '"', to);
    key_step(&w, put(g, from, "\""), name, n, (str){0});
}
