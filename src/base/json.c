/* json.c - RFC 8259 in and out.  See json.h for what is promised.
 *
 * Reading takes two walks.  The first only skips strings and counts brackets and
 * commas: nodes <= 1 + brackets + commas, and every unescaped string or number with
 * its NUL fits in the bytes it was written in plus one.  So the whole tree is one
 * allocation of known size, and the second walk, which checks everything, can never
 * run out.  Recursion is as deep as the text, at most JSON_DEPTH. */
#include "base/json.h"

#include <math.h>
#include <stdio.h>

typedef struct {
    const char *p;
    size_t n, at;
    json *node;
    size_t n_nodes, max_nodes;
    char *text; /* where the next string goes */
    int depth;
    om_err *err;
} reader;

static om_status bad(reader *r, const char *what)
{
    return fail_at(r->err, OM_EFORMAT, r->at, "json: byte %zu: %s", r->at, what);
}

/* ---- text ------------------------------------------------------------------------ */

static void skip_space(reader *r)
{
    while (r->at < r->n && (r->p[r->at] == ' ' || r->p[r->at] == '\t' ||
                            r->p[r->at] == '\n' || r->p[r->at] == '\r'))
        r->at++;
}

/* The next byte, or 0, which no token starts with. */
static char peek(const reader *r) { return r->at < r->n ? r->p[r->at] : '\0'; }

static bool accept(reader *r, char c)
{
    skip_space(r);
    if (peek(r) != c)
        return false;
    r->at++;
    return true;
}

static bool hex4(const reader *r, size_t at, uint32_t *out)
{
    uint8_t byte[2];
    char low[4];
    if (r->n - at < 4)
        return false;
    for (size_t i = 0; i < 4; i++) {
        char c = r->p[at + i];
        low[i] = c >= 'A' && c <= 'F' ? (char)(c | 32) : c;
    }
    if (!hex_decode((str){low, 4}, byte, 2))
        return false;
    *out = (uint32_t)byte[0] << 8 | byte[1];
    return true;
}

/* At the 'u' that four digits follow; a high surrogate must be followed by its low one. */
static om_status unescape_code(reader *r)
{
    uint32_t code, low;
    if (!hex4(r, r->at + 1, &code))
        return bad(r, "expected four hexadecimal digits after \\u");
    r->at += 5;
    if (code >= 0xd800 && code < 0xdc00) {
        if (r->n - r->at < 6 || r->p[r->at] != '\\' || r->p[r->at + 1] != 'u' ||
            !hex4(r, r->at + 2, &low) || low < 0xdc00 || low > 0xdfff)
            return bad(r, "a high surrogate without its low surrogate");
        r->at += 6;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    size_t len = utf8_encode(code, r->text); /* at most 3 bytes for 6, 4 for 12 */
    if (len == 0)
        return bad(r, "a low surrogate without its high surrogate");
    r->text += len;
    return OM_OK;
}

static om_status unescape(reader *r)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    r->at++;
    char c = peek(r);
    if (c == 'u')
        return unescape_code(r);
    const char *found = c ? strchr(from, c) : NULL;
    if (!found)
        return bad(r, "unknown escape after a backslash");
    *r->text++ = to[found - from];
    r->at++;
    return OM_OK;
}

/* At the opening quote. */
static om_status parse_string(reader *r, str *out)
{
    char *beg = r->text;
    r->at++;
    for (;;) {
        if (r->at >= r->n)
            return bad(r, "the text ends inside a string");
        uint8_t c = (uint8_t)r->p[r->at];
        if (c == '"')
            break;
        if (c == '\\') {
            TRY(unescape(r));
        } else if (c < 0x20) {
            return bad(r, "a control character in a string; write it as \\u00XX");
        } else if (c < 0x80) {
            *r->text++ = (char)c;
            r->at++;
        } else {
            uint32_t code;
            size_t len = utf8_take((str){r->p + r->at, r->n - r->at}, &code);
            if (len == 0)
                return bad(r, "bytes that are not UTF-8");
            memcpy(r->text, r->p + r->at, len);
            r->text += len;
            r->at += len;
        }
    }
    r->at++;
    *out = (str){beg, (size_t)(r->text - beg)};
    *r->text++ = '\0';
    return OM_OK;
}

static bool skip_digits(reader *r)
{
    size_t beg = r->at;
    while (peek(r) >= '0' && peek(r) <= '9')
        r->at++;
    return r->at > beg;
}

static om_status parse_number(reader *r, json *j)
{
    size_t beg = r->at;
    r->at += peek(r) == '-';
    if (peek(r) == '0')
        r->at++;
    else if (!skip_digits(r))
        return bad(r, "expected a value");
    if (peek(r) == '.') {
        r->at++;
        if (!skip_digits(r))
            return bad(r, "expected a digit after the decimal point");
    }
    if (peek(r) == 'e' || peek(r) == 'E') {
        r->at++;
        r->at += peek(r) == '+' || peek(r) == '-';
        if (!skip_digits(r))
            return bad(r, "expected a digit in the exponent");
    }
    j->type = JSON_NUMBER;
    j->text = (str){r->text, r->at - beg};
    memcpy(r->text, r->p + beg, j->text.n);
    r->text += j->text.n;
    *r->text++ = '\0';
    return OM_OK;
}

static om_status parse_word(reader *r, const char *word)
{
    size_t n = strlen(word);
    if (r->n - r->at < n || memcmp(r->p + r->at, word, n) != 0)
        return bad(r, "expected a value");
    r->at += n;
    return OM_OK;
}

/* ---- tree ------------------------------------------------------------------------ */

static om_status parse_value(reader *r, json *j);

/* One element or member, appended to `parent` after `*last`. */
static om_status parse_item(reader *r, json *parent, json **last)
{
    BUG_IF(r->n_nodes == r->max_nodes);
    json *j = &r->node[r->n_nodes++];
    if (parent->type == JSON_OBJECT) {
        skip_space(r);
        if (peek(r) != '"')
            return bad(r, "expected a member's name in quotes");
        TRY(parse_string(r, &j->key));
        if (!accept(r, ':'))
            return bad(r, "expected ':' after a member's name");
    }
    TRY(parse_value(r, j));
    if (*last)
        (*last)->next = j;
    else
        parent->child = j;
    *last = j;
    parent->count++;
    return OM_OK;
}

/* At the opening bracket. */
static om_status parse_container(reader *r, json *j)
{
    bool object = peek(r) == '{';
    char shut = object ? '}' : ']';
    json *last = NULL;
    if (r->depth == JSON_DEPTH)
        return fail_at(r->err, OM_ELIMIT, r->at, "json: byte %zu: nested deeper than %d",
                       r->at, JSON_DEPTH);
    j->type = object ? JSON_OBJECT : JSON_ARRAY;
    r->at++;
    if (accept(r, shut))
        return OM_OK;
    r->depth++;
    do {
        TRY(parse_item(r, j, &last));
    } while (accept(r, ','));
    r->depth--;
    if (!accept(r, shut))
        return bad(r, object ? "expected ',' or '}'" : "expected ',' or ']'");
    return OM_OK;
}

static om_status parse_value(reader *r, json *j)
{
    skip_space(r);
    j->pos = (uint32_t)r->at;
    switch (peek(r)) {
    case '{':
    case '[':
        return parse_container(r, j);
    case '"':
        j->type = JSON_STRING;
        return parse_string(r, &j->text);
    case 't':
        j->type = JSON_BOOL;
        j->boolean = true;
        return parse_word(r, "true");
    case 'f':
        j->type = JSON_BOOL;
        return parse_word(r, "false");
    case 'n':
        return parse_word(r, "null");
    default:
        return parse_number(r, j);
    }
}

/* An upper bound of the nodes in any text that starts like this one. */
static size_t count_nodes(const char *p, size_t n)
{
    size_t nodes = 1;
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '"')
            quoted = !quoted;
        else if (quoted)
            i += p[i] == '\\';
        else
            nodes += p[i] == ',' || p[i] == '[' || p[i] == '{';
    }
    return nodes;
}

static om_status parse_all(reader *r)
{
    if (r->n >= 3 && memcmp(r->p, "\xef\xbb\xbf", 3) == 0)
        r->at = 3;
    r->n_nodes = 1;
    TRY(parse_value(r, r->node));
    skip_space(r);
    return r->at == r->n ? OM_OK : bad(r, "something follows the end of the value");
}

om_status json_parse(const void *p, size_t n, uint32_t max_nodes, json_doc *out,
                     om_err *err)
{
    *out = (json_doc){0};
    if (n >= UINT32_MAX)
        return fail(err, OM_ELIMIT, "json: %zu bytes; at most 4 GiB can be read", n);
    reader r = {.p = p, .n = n, .err = err, .max_nodes = count_nodes(p, n)};
    size_t limit = max_nodes ? max_nodes : 1000000;
    if (r.max_nodes > limit)
        return fail(err, OM_ELIMIT, "json: about %zu values; the limit is %zu", r.max_nodes,
                    limit);
    size_t nodes = r.max_nodes * sizeof(json); /* <= 2^32 * 64 */
    r.node = mem_alloc(nodes + n + 1);
    if (!r.node)
        return fail(err, OM_ENOMEM, "json: no memory for %zu values", r.max_nodes);
    r.text = (char *)r.node + nodes;
    om_status s = parse_all(&r);
    if (s != OM_OK) {
        mem_free(r.node);
        return s;
    }
    *out = (json_doc){r.node, r.node};
    return OM_OK;
}

void json_close(json_doc *d)
{
    mem_free(d->block_);
    *d = (json_doc){0};
}

const json *json_get(const json *object, const char *key)
{
    if (!object || object->type != JSON_OBJECT)
        return NULL;
    const json *j = object->child;
    while (j && !str_is(j->key, key))
        j = j->next;
    return j;
}

const json *json_at(const json *array, uint32_t i)
{
    if (!array || array->type != JSON_ARRAY)
        return NULL;
    const json *j = array->child;
    while (j && i--)
        j = j->next;
    return j;
}

str json_str(const json *j, const char *def)
{
    return j && j->type == JSON_STRING ? j->text : str_of(def);
}

double json_f64(const json *j, double def)
{
    double v;
    return j && j->type == JSON_NUMBER && str_f64(j->text, &v) ? v : def;
}

/* 1.0 and 1e3 are whole numbers too, as far as doubles are exact. */
static bool whole(const json *j, double *out)
{
    double v = json_f64(j, 0.5);
    if (v != floor(v) || fabs(v) > 9007199254740992.0)
        return false;
    *out = v;
    return true;
}

static bool plain_integer(const json *j)
{
    return j && j->type == JSON_NUMBER && !memchr(j->text.p, '.', j->text.n) &&
           !memchr(j->text.p, 'e', j->text.n) && !memchr(j->text.p, 'E', j->text.n);
}

uint64_t json_u64(const json *j, uint64_t def)
{
    uint64_t v;
    double d;
    if (plain_integer(j))
        return str_u64(j->text, &v) ? v : def;
    return whole(j, &d) && d >= 0 ? (uint64_t)d : def;
}

int64_t json_i64(const json *j, int64_t def)
{
    uint64_t v;
    double d;
    if (!plain_integer(j))
        return whole(j, &d) ? (int64_t)d : def;
    bool minus = j->text.p[0] == '-';
    if (!str_u64((str){j->text.p + minus, j->text.n - minus}, &v))
        return def;
    if (minus)
        return v <= (uint64_t)INT64_MAX + 1 ? (int64_t)(0 - v) : def;
    return v <= INT64_MAX ? (int64_t)v : def;
}

bool json_bool(const json *j, bool def)
{
    return j && j->type == JSON_BOOL ? j->boolean : def;
}

/* ---- writing ------------------------------------------------------------------------ */

static void put(json_out *o, const char *p, size_t n)
{
    if (o->status == OM_OK)
        o->status = buf_put(o->out, p, n);
}

static void put_quoted(json_out *o, str v)
{
    static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    put(o, "\"", 1);
    for (size_t i = 0; i < v.n && o->status == OM_OK;) {
        uint32_t code = 0;
        size_t len = utf8_take((str){v.p + i, v.n - i}, &code);
        const char *found = code && code < 0x80 ? strchr(plain, (int)code) : NULL;
        if (len == 0) {
            put(o, "\xef\xbf\xbd", 3);
        } else if (found) {
            put(o, "\\", 1);
            put(o, &letter[found - plain], 1);
        } else if (code < 0x20) {
            o->status = buf_fmt(o->out, "\\u%04x", (unsigned)code);
        } else {
            put(o, v.p + i, len);
        }
        i += len ? len : 1;
    }
    put(o, "\"", 1);
}

/* The comma and the name that go before a value. */
static void lead(json_out *o, const char *key)
{
    if (o->comma[o->depth])
        put(o, ",", 1);
    o->comma[o->depth] = true;
    if (key) {
        put_quoted(o, str_of(key));
        put(o, ":", 1);
    }
}

json_out json_to(buf *b) { return (json_out){.out = b}; }

static void open_container(json_out *o, const char *key, const char *bracket)
{
    BUG_IF(o->depth == JSON_DEPTH);
    lead(o, key);
    put(o, bracket, 1);
    o->comma[++o->depth] = false;
}

void json_open_object(json_out *o, const char *key) { open_container(o, key, "{"); }
void json_open_array(json_out *o, const char *key) { open_container(o, key, "["); }

void json_shut(json_out *o, char bracket)
{
    BUG_IF(o->depth == 0);
    o->depth--;
    put(o, &bracket, 1);
}

void json_put_str(json_out *o, const char *key, str v)
{
    lead(o, key);
    put_quoted(o, v);
}

void json_put_f64(json_out *o, const char *key, double v)
{
    char z[40] = "null";
    for (int digits = 15; isfinite(v) && digits <= 17; digits++) {
        double back = 0;
        snprintf(z, sizeof(z), "%.*g", digits, v);
        char *point = z + strspn(z, "-0123456789e+"); /* ',' in some locales */
        if (*point)
            *point = '.';
        if (str_f64(str_of(z), &back) && back == v)
            break;
    }
    json_put_raw(o, key, str_of(z));
}

void json_put_u64(json_out *o, const char *key, uint64_t v)
{
    char z[24];
    snprintf(z, sizeof(z), "%llu", (unsigned long long)v);
    json_put_raw(o, key, str_of(z));
}

void json_put_i64(json_out *o, const char *key, int64_t v)
{
    char z[24];
    snprintf(z, sizeof(z), "%lld", (long long)v);
    json_put_raw(o, key, str_of(z));
}

void json_put_bool(json_out *o, const char *key, bool v)
{
    json_put_raw(o, key, v ? STR("true") : STR("false"));
}

void json_put_null(json_out *o, const char *key) { json_put_raw(o, key, STR("null")); }

void json_put_raw(json_out *o, const char *key, str json_text)
{
    lead(o, key);
    put(o, json_text.p, json_text.n);
}
