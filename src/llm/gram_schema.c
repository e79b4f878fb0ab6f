/* gram_schema.c - a JSON schema compiled to a grammar of its values.
 *
 * The unit of work is a CONJUNCTION: a set of schemas that one value must satisfy
 * together.  $ref and allOf add to the set; every keyword is then read over all members
 * (bounds: the tightest; a property: what each member says of it), and anyOf or oneOf
 * becomes alternatives of the set with one branch more.  So siblings of $ref, allOf with
 * overlapping properties and anyOf beside properties need no special cases.
 *
 * Equal sets share a rule, which is what makes recursive schemas finite; rules wait in a
 * queue, so the depth of a schema is not the depth of our stack.  A set that nothing can
 * satisfy is a rule without an end: gram_finish finds out whether that matters.
 *
 * SOUND, NOT COMPLETE.  Every text of the grammar satisfies the schema; not every value
 * is a text of it: members in the schema's order, no member beyond `properties` unless
 * additionalProperties asks for it, names of further members without escapes, numbers of
 * at most 15 digits.  Keywords that would make this false are refused by name. */
#include "llm/gram_impl.h"

#include <math.h>

enum {
    SET = 24,          /* schemas in a conjunction */
    RULES = 2048,
    NAMES = 512,       /* members of one object */
    ITEMS = 10000,     /* of an array that must be counted */
    BRANCHES = 256
};

enum {
    T_NULL = 1, T_BOOL = 2, T_INT = 4, T_FRACTION = 8, T_STRING = 16, T_ARRAY = 32,
    T_OBJECT = 64, T_ALL = 127
};

/* `skip`: alternatives of this schema that were chosen from already. */
enum { SKIP_ANY = 1, SKIP_ONE = 2 };
typedef struct {
    const json *s;
    unsigned skip;
} member;

typedef struct {
    member m[SET];
    uint32_t n;
    bool never; /* false is among them */
} conj;

typedef struct {
    grammar *g;
    gram_json j;
    const json *root;
    conj *set; /* (RULES) of each rule; the queue */
    uint32_t *rule;
    uint32_t n, done;
    om_err *err;
} compiler;

/* ---- keywords --------------------------------------------------------------------------- */

static const char *const known[] = {
    "type", "enum", "const", "properties", "required", "additionalProperties", "items",
    "prefixItems", "minItems", "maxItems", "minLength", "maxLength", "pattern", "format",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "anyOf", "oneOf", "allOf",
    "$ref", NULL};
static const char *const silent[] = {
    "title", "description", "default", "examples", "example", "$schema", "$id", "$comment",
    "$defs", "definitions", "deprecated", "readOnly", "writeOnly", "strict", "name", NULL};

static bool listed(const char *const *list, str s)
{
    for (; *list; list++)
        if (str_is(s, *list))
            return true;
    return false;
}

static om_status refuse(const compiler *c, const json *at, const char *what)
{
    return fail_at(c->err, OM_EUNSUPPORTED, at->pos, "schema: byte %u: %s", at->pos, what);
}

static om_status check_keywords(const compiler *c, const json *s)
{
    for (const json *k = s->child; k; k = k->next)
        if (!listed(known, k->key) && !listed(silent, k->key))
            return fail_at(c->err, OM_EUNSUPPORTED, k->pos,
                           "schema: '%.*s' is not supported; known are type, enum, const, "
                           "properties, required, additionalProperties, items, prefixItems, "
                           "min/maxItems, min/maxLength, pattern, format, minimum, maximum, "
                           "anyOf, oneOf, allOf, $ref, $defs",
                           (int)size_min(k->key.n, 40), k->key.p);
    return OM_OK;
}

/* "#/$defs/node", with ~0 ~1 undone. */
static const json *pointer(const json *root, str path)
{
    const json *at = root;
    if (path.n == 0 || path.p[0] != '#')
        return NULL;
    for (size_t i = 1; at && i < path.n;) {
        char name[256];
        size_t n = 0;
        uint64_t index;
        if (path.p[i++] != '/')
            return NULL;
        for (; i < path.n && path.p[i] != '/' && n + 1 < sizeof(name); i++) {
            bool escape = path.p[i] == '~' && i + 1 < path.n;
            name[n++] = escape ? (path.p[++i] == '1' ? '/' : '~') : path.p[i];
        }
        name[n] = '\0';
        at = at->type == JSON_ARRAY && str_u64((str){name, n}, &index) && index < at->count
                 ? json_at(at, (uint32_t)index)
                 : json_get(at, name);
    }
    return at;
}

/* ---- conjunctions ------------------------------------------------------------------------ */

static om_status add(compiler *c, conj *k, const json *s, unsigned skip, int depth)
{
    if (depth > JSON_DEPTH)
        return refuse(c, s, "$ref or allOf leads back to itself");
    if (s->type == JSON_BOOL) {
        k->never |= !s->boolean;
        return OM_OK;
    }
    if (s->type != JSON_OBJECT)
        return refuse(c, s, "a schema must be an object, true or false");
    for (uint32_t i = 0; i < k->n; i++)
        if (k->m[i].s == s) {
            k->m[i].skip |= skip;
            return OM_OK;
        }
    if (k->n == SET)
        return refuse(c, s, "more than 24 schemas must hold together");
    TRY(check_keywords(c, s));
    k->m[k->n++] = (member){s, skip};
    const json *ref = json_get(s, "$ref"), *all = json_get(s, "allOf");
    if (ref) {
        const json *to = pointer(c->root, json_str(ref, ""));
        if (!to)
            return refuse(c, ref, "$ref leads nowhere; \"#/$defs/NAME\" of the same document "
                                  "is known");
        TRY(add(c, k, to, 0, depth + 1));
    }
    if (all && all->type != JSON_ARRAY)
        return refuse(c, all, "allOf takes an array");
    for (const json *e = all ? all->child : NULL; e; e = e->next)
        TRY(add(c, k, e, 0, depth + 1));
    return OM_OK;
}

static int member_order(member a, member b)
{
    return a.s->pos != b.s->pos ? (a.s->pos > b.s->pos) - (a.s->pos < b.s->pos)
                                : (a.skip > b.skip) - (a.skip < b.skip);
}

static void sort_members(conj *k)
{
    for (uint32_t i = 1; i < k->n; i++)
        for (uint32_t j = i; j > 0 && member_order(k->m[j], k->m[j - 1]) < 0; j--) {
            member x = k->m[j];
            k->m[j] = k->m[j - 1];
            k->m[j - 1] = x;
        }
}

static bool same_conj(const conj *a, const conj *b)
{
    if (a->n != b->n || a->never != b->never)
        return false;
    for (uint32_t i = 0; i < a->n; i++)
        if (a->m[i].s != b->m[i].s || a->m[i].skip != b->m[i].skip)
            return false;
    return true;
}

/* The rule of a conjunction, which may still wait to be written.  Members keep their
 * order for the one that comes first: it decides the order of properties. */
static om_status rule_of(compiler *c, const conj *k, uint32_t *out)
{
    conj sorted = *k;
    sort_members(&sorted);
    for (uint32_t i = 0; i < c->n; i++) {
        conj other = c->set[i];
        if (other.n == k->n && other.never == k->never) {
            sort_members(&other);
            if (same_conj(&other, &sorted))
                return *out = c->rule[i], OM_OK;
        }
    }
    if (c->n == RULES)
        return fail(c->err, OM_ELIMIT, "schema: needs more than %d rules", RULES);
    c->set[c->n] = *k;
    *out = c->rule[c->n++] = gram_add_rule(c->g);
    return OM_OK;
}

static const json *keyword(const conj *k, uint32_t i, const char *name)
{
    return json_get(k->m[i].s, name);
}

static bool has(const conj *k, const char *name)
{
    for (uint32_t i = 0; i < k->n; i++)
        if (keyword(k, i, name))
            return true;
    return false;
}

/* ---- types -------------------------------------------------------------------------------- */

static unsigned type_named(str s)
{
    static const struct {
        const char *name;
        unsigned bits;
    } row[] = {{"null", T_NULL}, {"boolean", T_BOOL}, {"integer", T_INT},
               {"number", T_INT | T_FRACTION}, {"string", T_STRING}, {"array", T_ARRAY},
               {"object", T_OBJECT}};
    for (size_t i = 0; i < countof(row); i++)
        if (str_is(s, row[i].name))
            return row[i].bits;
    return 0;
}

static om_status type_bits(const compiler *c, const json *t, unsigned *out)
{
    *out = t->type == JSON_STRING ? type_named(t->text) : 0;
    for (const json *e = t->type == JSON_ARRAY ? t->child : NULL; e; e = e->next) {
        unsigned bits = e->type == JSON_STRING ? type_named(e->text) : 0;
        if (!bits)
            return refuse(c, e, "no such type");
        *out |= bits;
    }
    return *out ? OM_OK : refuse(c, t, "no such type");
}

static const struct {
    const char *name;
    unsigned bits;
} implies[] = {
    {"properties", T_OBJECT}, {"required", T_OBJECT}, {"additionalProperties", T_OBJECT},
    {"items", T_ARRAY}, {"prefixItems", T_ARRAY}, {"minItems", T_ARRAY},
    {"maxItems", T_ARRAY}, {"minLength", T_STRING}, {"maxLength", T_STRING},
    {"pattern", T_STRING}, {"format", T_STRING}, {"minimum", T_INT | T_FRACTION},
    {"maximum", T_INT | T_FRACTION}, {"exclusiveMinimum", T_INT | T_FRACTION},
    {"exclusiveMaximum", T_INT | T_FRACTION}};

/* Without "type", keywords that speak of one type mean it. */
static om_status types_of(const compiler *c, const conj *k, unsigned *out)
{
    unsigned said = 0;
    bool named = false;
    *out = k->never ? 0 : T_ALL;
    for (uint32_t i = 0; i < k->n; i++) {
        const json *t = keyword(k, i, "type");
        unsigned bits;
        if (!t)
            continue;
        TRY(type_bits(c, t, &bits));
        *out &= bits;
        named = true;
    }
    for (size_t i = 0; i < countof(implies) && !named; i++)
        if (has(k, implies[i].name))
            said |= implies[i].bits;
    if (said)
        *out &= said;
    return OM_OK;
}

static unsigned type_of_value(const json *v)
{
    static const unsigned of[] = {[JSON_NULL] = T_NULL, [JSON_BOOL] = T_BOOL,
                                  [JSON_STRING] = T_STRING, [JSON_ARRAY] = T_ARRAY,
                                  [JSON_OBJECT] = T_OBJECT, [JSON_NUMBER] = T_FRACTION};
    double d = json_f64(v, 0.5);
    return v->type == JSON_NUMBER && floor(d) == d ? T_INT : of[v->type];
}

/* ---- enum and const ----------------------------------------------------------------------- */

static bool equal(const json *a, const json *b)
{
    if (a->type != b->type || a->count != b->count)
        return false;
    if (a->type == JSON_NUMBER)
        return !(json_f64(a, 0) < json_f64(b, 0)) && !(json_f64(a, 0) > json_f64(b, 0));
    if (a->type == JSON_BOOL)
        return a->boolean == b->boolean;
    if (a->type == JSON_STRING)
        return str_eq(a->text, b->text);
    for (const json *x = a->child, *y = b->child; x; x = x->next) {
        if (a->type == JSON_OBJECT)
            y = json_get(b, x->key.p);
        if (!y || !equal(x, y))
            return false;
        y = y->next;
    }
    return true;
}

static void put_json(json_out *o, const char *key, const json *v)
{
    switch (v->type) {
    case JSON_NULL: json_put_null(o, key); return;
    case JSON_BOOL: json_put_bool(o, key, v->boolean); return;
    case JSON_NUMBER: json_put_raw(o, key, v->text); return;
    case JSON_STRING: json_put_str(o, key, v->text); return;
    default: break;
    }
    bool object = v->type == JSON_OBJECT;
    if (object)
        json_open_object(o, key);
    else
        json_open_array(o, key);
    for (const json *e = v->child; e; e = e->next)
        put_json(o, object ? e->key.p : NULL, e);
    json_shut(o, object ? '}' : ']');
}

static om_status put_value(compiler *c, uint32_t from, const json *v, uint32_t to)
{
    buf b = buf_growing((size_t)1 << 20);
    json_out o = json_to(&b);
    put_json(&o, NULL, v);
    gram_eps(c->g, gram_literal(c->g, from, (str){(char *)b.data, b.len}), to);
    buf_free(&b);
    return o.status == OM_OK ? OM_OK : fail(c->err, o.status, "schema: a value too large");
}

static bool among(const json *list, const json *v)
{
    for (const json *e = list->child; e; e = e->next)
        if (equal(e, v))
            return true;
    return false;
}

/* Does every enum and const allow v? */
static bool allowed(const conj *k, const json *v)
{
    for (uint32_t i = 0; i < k->n; i++) {
        const json *e = keyword(k, i, "enum"), *one = keyword(k, i, "const");
        if ((one && !equal(one, v)) || (e && !among(e, v)))
            return false;
    }
    return true;
}

/* The first list of values, from which the others can only take away. */
static const json *values_of(const conj *k, bool *single)
{
    for (uint32_t i = 0; i < k->n; i++) {
        const json *one = keyword(k, i, "const"), *e = keyword(k, i, "enum");
        *single = one != NULL;
        if (one || e)
            return one ? one : e;
    }
    return NULL;
}

static om_status put_values(compiler *c, const conj *k, uint32_t from, uint32_t to)
{
    unsigned types;
    bool single;
    const json *v = values_of(k, &single);
    if (!single && v->type != JSON_ARRAY)
        return refuse(c, v, "enum takes an array");
    for (size_t i = 0; i < countof(implies); i++)
        if (has(k, implies[i].name))
            return refuse(c, v, "enum and const are not supported together with other limits");
    TRY(types_of(c, k, &types));
    for (const json *e = single ? v : v->child; e; e = single ? NULL : e->next)
        if (types & type_of_value(e) && allowed(k, e))
            TRY(put_value(c, from, e, to));
    return OM_OK;
}

/* ---- strings ------------------------------------------------------------------------------ */

#define D2(lo) "(?:" lo ")"
#define MONTH_DAY                                                                    \
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]" \
    "[0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
#define DATE "[12][0-9]{3}-" MONTH_DAY
#define CLOCK "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?"
#define ZONE "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
#define HEX4 "[0-9a-f]{4}"
#define OCTET "(?:[0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])"
#define LABEL "[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?"

static const struct {
    const char *name, *pattern;
} formats[] = {
    {"date", "^" DATE "$"},
    {"time", "^" CLOCK ZONE "$"},
    {"date-time", "^" DATE "T" CLOCK ZONE "$"},
    {"uuid", "^" HEX4 HEX4 "-" HEX4 "-" HEX4 "-" HEX4 "-" HEX4 HEX4 HEX4 "$"},
    {"ipv4", "^" OCTET "\\." OCTET "\\." OCTET "\\." OCTET "$"},
    {"hostname", "^" LABEL "(?:\\." LABEL "){0,3}$"},
    {"email", "^[a-z0-9_+-]{1,20}(?:\\.[a-z0-9_+-]{1,20}){0,2}@" LABEL "(?:\\." LABEL
              "){1,3}$"},
};

static om_status format_pattern(const compiler *c, const json *f, str *out)
{
    for (size_t i = 0; i < countof(formats); i++)
        if (f->type == JSON_STRING && str_is(f->text, formats[i].name))
            return *out = str_of(formats[i].pattern), OM_OK;
    return refuse(c, f, "this format is not known; date, time, date-time, uuid, ipv4, "
                        "hostname and email are");
}

/* A count over all members: the largest of the least, or the smallest of the most. */
static om_status count_of(const compiler *c, const conj *k, const char *name, bool least,
                          uint64_t *out)
{
    for (uint32_t i = 0; i < k->n; i++) {
        const json *v = keyword(k, i, name);
        uint64_t n = v ? json_u64(v, UINT64_MAX) : *out;
        if (v && n > UINT32_MAX - 1)
            return refuse(c, v, "expected a count");
        if (least ? n > *out : n < *out)
            *out = n;
    }
    return OM_OK;
}

static om_status put_string(compiler *c, const conj *k, uint32_t from, uint32_t to)
{
    grammar *g = c->g;
    uint64_t min = 0, max = UINT32_MAX;
    str pattern = {0};
    uint32_t n = 0;
    TRY(count_of(c, k, "minLength", true, &min));
    TRY(count_of(c, k, "maxLength", false, &max));
    for (uint32_t i = 0; i < k->n; i++) {
        const json *p = keyword(k, i, "pattern"), *f = keyword(k, i, "format");
        if (p && p->type != JSON_STRING)
            return refuse(c, p, "pattern takes a string");
        if (p)
            pattern = p->text;
        if (f)
            TRY(format_pattern(c, f, &pattern));
        n += (p != NULL) + (f != NULL);
        if (n > 1 || (n && (min > 0 || max < UINT32_MAX)))
            return refuse(c, p ? p : f ? f : k->m[i].s,
                          "one of pattern, format and minLength/maxLength at a time");
    }
    if (max < min)
        return OM_OK; /* nothing satisfies it */
    if (max > GRAM_REPEAT && max != UINT32_MAX)
        max = UINT32_MAX - 1;
    if (min > GRAM_REPEAT || max == UINT32_MAX - 1)
        return refuse(c, k->m[0].s, "lengths over 65536 are not supported");
    uint32_t at = gram_literal(g, from, STR("\""));
    if (n) {
        TRY(gram_regex(g, at, pattern, &at, c->err));
    } else {
        uint32_t a = gram_add_state(g);
        at = gram_repeat(g, at, a, gram_call_to(g, a, c->j.character), (uint32_t)min,
                         (uint32_t)max);
    }
    gram_eps(g, gram_literal(g, at, STR("\"")), to);
    return OM_OK;
}

/* ---- numbers ------------------------------------------------------------------------------ */

static om_status bound(const compiler *c, const json *v, gram_interval *out, bool upper,
                       bool open)
{
    double d = json_f64(v, (double)NAN), whole = upper ? floor(d) : ceil(d);
    if (!(fabs(d) <= (double)GRAM_NUMBER))
        return refuse(c, v, "expected a number of at most 15 digits");
    bool fraction = whole < d || whole > d;
    if (fraction && !out->whole)
        return refuse(c, v, "limits of \"number\" must be whole; those of \"integer\" need not");
    open = open && !fraction;
    int64_t i = (int64_t)whole;
    bool *has_one = upper ? &out->has_max : &out->has_min;
    int64_t *at = upper ? &out->max : &out->min;
    bool *is_open = upper ? &out->open_max : &out->open_min;
    if (!*has_one || (upper ? i < *at : i > *at) || (i == *at && open)) {
        *at = i;
        *is_open = open;
        *has_one = true;
    }
    return OM_OK;
}

static om_status put_number(compiler *c, const conj *k, bool whole, uint32_t from, uint32_t to)
{
    static const struct {
        const char *name;
        bool upper, open;
    } row[] = {{"minimum", false, false}, {"exclusiveMinimum", false, true},
               {"maximum", true, false}, {"exclusiveMaximum", true, true}};
    gram_interval in = {.whole = whole};
    for (uint32_t i = 0; i < k->n; i++)
        for (size_t j = 0; j < countof(row); j++) {
            const json *v = keyword(k, i, row[j].name);
            if (v)
                TRY(bound(c, v, &in, row[j].upper, row[j].open));
        }
    if (!whole && !in.has_min && !in.has_max)
        gram_call(c->g, from, c->j.number, to);
    else
        gram_number(c->g, from, &in, to);
    return OM_OK;
}

/* ---- arrays ------------------------------------------------------------------------------- */

/* What item i must satisfy.  `rest` means any item behind all prefixItems. */
static om_status item_conj(compiler *c, const conj *k, uint32_t i, bool rest, conj *out)
{
    *out = (conj){.n = 0};
    for (uint32_t m = 0; m < k->n; m++) {
        const json *prefix = keyword(k, m, "prefixItems"), *items = keyword(k, m, "items");
        if (items && items->type == JSON_ARRAY)
            return refuse(c, items, "items as a list is the old form of prefixItems");
        const json *s = prefix && !rest && i < prefix->count ? json_at(prefix, i) : items;
        if (s)
            TRY(add(c, out, s, 0, 0));
    }
    return OM_OK;
}

static om_status put_array(compiler *c, const conj *k, uint32_t from, uint32_t to)
{
    grammar *g = c->g;
    uint64_t min = 0, max = UINT32_MAX, prefix = 0;
    TRY(count_of(c, k, "minItems", true, &min));
    TRY(count_of(c, k, "maxItems", false, &max));
    for (uint32_t m = 0; m < k->n; m++) {
        const json *p = keyword(k, m, "prefixItems");
        if (p && p->type != JSON_ARRAY)
            return refuse(c, p, "prefixItems takes an array");
        if (p && p->count > prefix)
            prefix = p->count;
    }
    uint64_t counted = max < UINT32_MAX ? max : min > prefix ? min : prefix;
    if (counted > ITEMS)
        return refuse(c, k->m[0].s, "arrays with more than 10000 counted items");
    uint32_t at = gram_call_to(g, gram_literal(g, from, STR("[")), c->j.space);
    uint32_t end = gram_add_state(g), rule;
    conj item;
    for (uint32_t i = 0;; i++) {
        bool loop = i >= counted && max == UINT32_MAX;
        if (i >= min)
            gram_eps(g, at, end);
        if (i >= max || (i > 0 && loop && i > counted))
            break;
        TRY(item_conj(c, k, i, i >= prefix, &item));
        TRY(rule_of(c, &item, &rule));
        if (i > 0)
            at = gram_call_to(g, gram_literal(g, at, STR(",")), c->j.space);
        uint32_t first = gram_add_state(g); /* apart from `at`, where the array may end */
        gram_eps(g, at, first);
        at = gram_call_to(g, first, rule);
        if (loop) /* for ever */
            gram_call(g, gram_literal(g, at, STR(",")), c->j.space, first);
    }
    gram_eps(g, gram_literal(g, gram_call_to(g, end, c->j.space), STR("]")), to);
    return OM_OK;
}

/* ---- objects ------------------------------------------------------------------------------ */

typedef struct {
    str name[NAMES];
    bool required[NAMES];
    uint32_t n;
} names;

static om_status add_name(const compiler *c, names *list, const json *at, str name,
                          bool required)
{
    for (uint32_t i = 0; i < list->n; i++)
        if (str_eq(list->name[i], name)) {
            list->required[i] |= required;
            return OM_OK;
        }
    if (list->n == NAMES)
        return refuse(c, at, "more than 512 properties in one object");
    list->required[list->n] = required;
    list->name[list->n++] = name;
    return OM_OK;
}

static om_status gather_names(const compiler *c, const conj *k, names *list)
{
    list->n = 0;
    for (uint32_t m = 0; m < k->n; m++) {
        const json *p = keyword(k, m, "properties");
        if (p && p->type != JSON_OBJECT)
            return refuse(c, p, "properties takes an object");
        for (const json *e = p ? p->child : NULL; e; e = e->next)
            TRY(add_name(c, list, e, e->key, false));
    }
    for (uint32_t m = 0; m < k->n; m++) {
        const json *r = keyword(k, m, "required");
        for (const json *e = r ? r->child : NULL; e; e = e->next) {
            if (e->type != JSON_STRING)
                return refuse(c, e, "required takes names");
            TRY(add_name(c, list, e, e->text, true));
        }
    }
    return OM_OK;
}

/* What the member `name` must satisfy; n 0: a member that no schema names. */
static om_status member_conj(compiler *c, const conj *k, str name, conj *out)
{
    *out = (conj){.n = 0};
    for (uint32_t m = 0; m < k->n; m++) {
        const json *p = keyword(k, m, "properties"), *s = NULL;
        for (const json *e = p && name.p ? p->child : NULL; e && !s; e = e->next)
            if (str_eq(e->key, name))
                s = e;
        if (!s)
            s = keyword(k, m, "additionalProperties");
        if (s)
            TRY(add(c, out, s, 0, 0));
    }
    return OM_OK;
}

/* Members beyond those named are written only where a schema speaks of them, or where no
 * member is named at all. */
static bool wants_more(const conj *k, const names *list)
{
    return has(k, "additionalProperties") || list->n == 0;
}

static om_status put_member_name(compiler *c, uint32_t from, str name, uint32_t *to)
{
    buf b = buf_growing((size_t)1 << 20);
    json_out o = json_to(&b);
    json_put_str(&o, NULL, name);
    *to = gram_literal(c->g, from, (str){(char *)b.data, b.len});
    buf_free(&b);
    return o.status == OM_OK ? OM_OK : fail(c->err, o.status, "schema: a name too long");
}

/* first: before any member; later: behind one.  Both move on with every member. */
static om_status put_members(compiler *c, const conj *k, const names *list, uint32_t *first,
                             uint32_t *later)
{
    grammar *g = c->g;
    for (uint32_t i = 0; i < list->n; i++) {
        uint32_t key = gram_add_state(g), next_first = gram_add_state(g), rule;
        uint32_t next_later = gram_add_state(g), at;
        conj value;
        TRY(member_conj(c, k, list->name[i], &value));
        TRY(rule_of(c, &value, &rule));
        gram_eps(g, *first, key);
        gram_call(g, gram_literal(g, *later, STR(",")), c->j.space, key);
        TRY(put_member_name(c, key, list->name[i], &at));
        at = gram_call_to(g, gram_literal(g, at, STR(":")), c->j.space);
        gram_call(g, at, rule, next_later);
        if (!list->required[i]) {
            gram_eps(g, *first, next_first);
            gram_eps(g, *later, next_later);
        }
        *first = next_first;
        *later = next_later;
    }
    return OM_OK;
}

static om_status put_object(compiler *c, const conj *k, uint32_t from, uint32_t to)
{
    grammar *g = c->g;
    names *list = mem_alloc(sizeof(*list));
    uint32_t first = gram_call_to(g, gram_literal(g, from, STR("{")), c->j.space), rule;
    uint32_t later = gram_add_state(g), end = gram_add_state(g);
    conj more;
    om_status s = list ? gather_names(c, k, list) : fail(c->err, OM_ENOMEM, "schema: no memory");
    if (s == OM_OK)
        s = put_members(c, k, list, &first, &later);
    if (s == OM_OK && wants_more(k, list)) {
        uint32_t key = gram_add_state(g), at = gram_add_state(g);
        s = member_conj(c, k, (str){0}, &more);
        if (s == OM_OK)
            s = rule_of(c, &more, &rule);
        if (s == OM_OK) {
            gram_eps(g, first, key);
            gram_call(g, gram_literal(g, later, STR(",")), c->j.space, key);
            gram_other_key(g, key, list->name, list->n, at);
            at = gram_call_to(g, gram_literal(g, at, STR(":")), c->j.space);
            gram_call(g, at, rule, later);
        }
    }
    mem_free(list);
    gram_eps(g, first, end);
    gram_eps(g, later, end);
    gram_eps(g, gram_literal(g, gram_call_to(g, end, c->j.space), STR("}")), to);
    return s;
}

/* ---- alternatives ------------------------------------------------------------------------- */

/* The set with branch b of member i's anyOf or oneOf instead of all of them. */
static om_status with_branch(compiler *c, const conj *k, uint32_t i, unsigned skip,
                             const json *b, conj *out)
{
    *out = *k;
    out->m[i].skip |= skip;
    return add(c, out, b, 0, 0);
}

static bool no_value_in_both(const conj *a, const conj *b)
{
    bool single;
    const json *v = values_of(a, &single);
    if (!v || !values_of(b, &(bool){0}))
        return false;
    for (const json *e = single ? v : v->child; e; e = single ? NULL : e->next)
        if (allowed(a, e) && allowed(b, e))
            return false;
    return true;
}

static bool requires(const conj *k, str name)
{
    for (uint32_t m = 0; m < k->n; m++) {
        const json *r = keyword(k, m, "required");
        for (const json *e = r ? r->child : NULL; e; e = e->next)
            if (e->type == JSON_STRING && str_eq(e->text, name))
                return true;
    }
    return false;
}

/* A member both require and for which they name different values tells them apart. */
static om_status told_apart(compiler *c, const conj *a, const conj *b, bool *out)
{
    for (uint32_t m = 0; m < a->n; m++) {
        const json *r = keyword(a, m, "required");
        for (const json *e = r ? r->child : NULL; e; e = e->next) {
            conj x, y;
            if (e->type != JSON_STRING || !requires(b, e->text))
                continue;
            TRY(member_conj(c, a, e->text, &x));
            TRY(member_conj(c, b, e->text, &y));
            *out |= no_value_in_both(&x, &y);
        }
    }
    return OM_OK;
}

/* Can no value satisfy both?  Only what is plain to see counts. */
static om_status disjoint(compiler *c, const conj *a, const conj *b, bool *out)
{
    unsigned x, y;
    TRY(types_of(c, a, &x));
    TRY(types_of(c, b, &y));
    *out = !(x & y) || no_value_in_both(a, b);
    return x & y & ~(unsigned)T_OBJECT ? OM_OK : told_apart(c, a, b, out);
}

static om_status check_one_of(compiler *c, const conj *k, uint32_t i, const json *list)
{
    conj a, b;
    bool apart;
    for (const json *x = list->child; x; x = x->next)
        for (const json *y = x->next; y; y = y->next) {
            TRY(with_branch(c, k, i, SKIP_ONE, x, &a));
            TRY(with_branch(c, k, i, SKIP_ONE, y, &b));
            TRY(disjoint(c, &a, &b, &apart));
            if (!apart)
                return refuse(c, y, "oneOf: this and an earlier branch may both hold; give "
                                    "them different types or a required member with "
                                    "different const values, or use anyOf");
        }
    return OM_OK;
}

/* true in *done when the set had alternatives left to choose from. */
static om_status put_alternatives(compiler *c, const conj *k, uint32_t from, uint32_t to,
                                  bool *done)
{
    *done = false;
    for (uint32_t i = 0; i < k->n && !*done; i++) {
        bool any = keyword(k, i, "anyOf") && !(k->m[i].skip & SKIP_ANY);
        bool one = keyword(k, i, "oneOf") && !(k->m[i].skip & SKIP_ONE);
        if (!any && !one)
            continue;
        const json *list = keyword(k, i, any ? "anyOf" : "oneOf");
        if (list->type != JSON_ARRAY || list->count == 0 || list->count > BRANCHES)
            return refuse(c, list, "anyOf and oneOf take an array of at most 256 schemas");
        if (!any)
            TRY(check_one_of(c, k, i, list));
        for (const json *b = list->child; b; b = b->next) {
            conj with;
            uint32_t rule;
            TRY(with_branch(c, k, i, any ? SKIP_ANY : SKIP_ONE, b, &with));
            TRY(rule_of(c, &with, &rule));
            gram_call(c->g, from, rule, to);
        }
        *done = true;
    }
    return OM_OK;
}

/* ---- rules -------------------------------------------------------------------------------- */

static om_status put_types(compiler *c, const conj *k, uint32_t from, uint32_t to)
{
    grammar *g = c->g;
    unsigned types;
    TRY(types_of(c, k, &types));
    if (types & T_NULL)
        gram_eps(g, gram_literal(g, from, STR("null")), to);
    if (types & T_BOOL) {
        gram_eps(g, gram_literal(g, from, STR("true")), to);
        gram_eps(g, gram_literal(g, from, STR("false")), to);
    }
    if (types & T_INT)
        TRY(put_number(c, k, !(types & T_FRACTION), from, to));
    if (types & T_STRING)
        TRY(put_string(c, k, from, to));
    if (types & T_ARRAY)
        TRY(put_array(c, k, from, to));
    return types & T_OBJECT ? put_object(c, k, from, to) : OM_OK;
}

static om_status write_rule(compiler *c, const conj *k, uint32_t rule)
{
    if (c->g->status != OM_OK)
        return OM_OK; /* gram_finish tells */
    uint32_t from = c->g->rule[rule], to = gram_add_state(c->g);
    bool done, single;
    gram_accept(c->g, to);
    if (k->never)
        return OM_OK;
    if (k->n == 0) {
        gram_call(c->g, from, c->j.value, to);
        return OM_OK;
    }
    TRY(put_alternatives(c, k, from, to, &done));
    if (done)
        return OM_OK;
    return values_of(k, &single) ? put_values(c, k, from, to) : put_types(c, k, from, to);
}

static om_status open_compiler(compiler *c, const json *root, om_err *err)
{
    *c = (compiler){.root = root, .err = err, .g = gram_new(err)};
    c->set = mem_array(RULES, sizeof(*c->set));
    c->rule = mem_array(RULES, sizeof(*c->rule));
    if (!c->g || !c->set || !c->rule)
        return fail(err, OM_ENOMEM, "schema: no memory");
    gram_json_rules(c->g, &c->j);
    return OM_OK;
}

static om_status write_rules(compiler *c)
{
    for (; c->done < c->n; c->done++)
        TRY(write_rule(c, &c->set[c->done], c->rule[c->done]));
    return OM_OK;
}

static om_status close_compiler(compiler *c, om_status s, grammar **out, om_err *err)
{
    mem_free(c->set);
    mem_free(c->rule);
    if (!c->g)
        return s;
    return gram_done(c->g, s, out, err);
}

static om_status schema_rule(compiler *c, const json *schema, uint32_t *rule)
{
    conj k = {.n = 0};
    if (schema)
        TRY(add(c, &k, schema, 0, 0));
    TRY(rule_of(c, &k, rule));
    return write_rules(c);
}

om_status grammar_from_schema(const json *schema, grammar **out, om_err *err)
{
    compiler c;
    uint32_t root;
    *out = NULL;
    om_status s = open_compiler(&c, schema, err);
    if (s == OM_OK)
        s = schema_rule(&c, schema, &root);
    if (s == OM_OK)
        s = gram_finish(c.g, root, err);
    return close_compiler(&c, s, out, err);
}

om_status grammar_json(grammar **out, om_err *err)
{
    gram_json j;
    grammar *g = gram_new(err);
    *out = NULL;
    if (!g)
        return OM_ENOMEM;
    gram_json_rules(g, &j);
    return gram_done(g, gram_finish(g, j.object, err), out, err);
}

/* ---- calls of functions ------------------------------------------------------------------- */

/* {"name": "NAME", "arguments": VALUE} */
static om_status put_call(compiler *c, const grammar_calls *a, const grammar_tool *t,
                          uint32_t from, uint32_t to)
{
    grammar *g = c->g;
    uint32_t rule;
    c->root = t->parameters; /* where its $ref begin */
    TRY(schema_rule(c, t->parameters, &rule));
    if (!t->parameters)
        rule = c->j.object;
    uint32_t at = gram_literal(g, from, STR("{\"name\": "));
    TRY(put_member_name(c, at, t->name, &at));
    at = gram_literal(g, gram_literal(g, at, STR(", \"")), str_of(a->key));
    at = gram_call_to(g, gram_literal(g, at, STR("\": ")), rule);
    gram_eps(g, gram_literal(g, at, STR("}")), to);
    return OM_OK;
}

static om_status put_calls(compiler *c, const grammar_calls *a, uint32_t *root)
{
    grammar *g = c->g;
    *root = gram_add_rule(g);
    uint32_t first = gram_literal(g, g->status == OM_OK ? g->rule[*root] : 0,
                                  str_of(a->before));
    uint32_t end = gram_add_state(g);
    for (size_t i = 0; i < a->n; i++)
        TRY(put_call(c, a, &a->tool[i], first, end));
    if (a->many)
        gram_eps(g, gram_literal(g, end, str_of(a->between)), first);
    gram_accept(g, gram_literal(g, end, str_of(a->after)));
    return gram_finish(g, *root, c->err);
}

om_status grammar_from_tools(const grammar_calls *a, grammar **out, om_err *err)
{
    compiler c;
    uint32_t root;
    *out = NULL;
    om_status s = open_compiler(&c, NULL, err);
    if (s == OM_OK)
        s = put_calls(&c, a, &root);
    return close_compiler(&c, s, out, err);
}
