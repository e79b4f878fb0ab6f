/* test_grammar.c - masks against feeding bytes one by one; texts sampled under the mask of
 * every supported schema construct against a validator that knows nothing of grammars. */
#include "llm/bpe_train.h"
#include "llm/grammar.h"
#include "test.h"

#include <regex.h>

/* ---- a validator of its own ------------------------------------------------------------ */

static const json *root;

static bool same(const json *a, const json *b)
{
    if (a->type != b->type)
        return false;
    if (a->type == JSON_NUMBER)
        return fabs(json_f64(a, 0) - json_f64(b, 1)) <= 0;
    if (a->type == JSON_BOOL)
        return a->boolean == b->boolean;
    if (a->type == JSON_STRING)
        return str_eq(a->text, b->text);
    if (a->count != b->count)
        return false;
    for (const json *x = a->child, *y = b->child; x; x = x->next, y = y->next) {
        const json *other = a->type == JSON_OBJECT ? json_get(b, x->key.p) : y;
        if (!other || !same(x, other))
            return false;
    }
    return true;
}

static bool has_type(const json *v, str name)
{
    double d = json_f64(v, 0.5);
    return (str_is(name, "null") && v->type == JSON_NULL) ||
           (str_is(name, "boolean") && v->type == JSON_BOOL) ||
           (str_is(name, "number") && v->type == JSON_NUMBER) ||
           (str_is(name, "integer") && v->type == JSON_NUMBER && fabs(floor(d) - d) <= 0) ||
           (str_is(name, "string") && v->type == JSON_STRING) ||
           (str_is(name, "array") && v->type == JSON_ARRAY) ||
           (str_is(name, "object") && v->type == JSON_OBJECT);
}

static bool type_ok(const json *t, const json *v)
{
    if (!t || t->type == JSON_STRING)
        return !t || has_type(v, t->text);
    for (const json *e = t->child; e; e = e->next)
        if (has_type(v, e->text))
            return true;
    return false;
}

static size_t characters(str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++)
        n += ((uint8_t)s.p[i] & 0xc0) != 0x80;
    return n;
}

/* POSIX expressions for the patterns and formats that the schemas below use. */
static const char *const posix[][2] = {
    {"^[a-z]+-\\d{2,3}$", "^[a-z]+-[0-9]{2,3}$"},
    {"ab+", "ab+"},
    {"^(?:x|yy)*$|^z", "^(x|yy)*$|^z"},
    {"^\\w\\s\\S$", "^[A-Za-z0-9_][^A-Za-z0-9_].*$"},
    {"^[^a-z\"]{3}$", "^[^a-z\"]+$"},
    {"^\\u0041.\\\\?$", "^A"},
    {"^a|b$", "^a|b$"},
    {"date", "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
    {"time", "^[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]+)?(Z|[-+][0-9]{2}:[0-9]{2})$"},
    {"date-time", "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]+)?(Z|[-+]"
                  "[0-9]{2}:[0-9]{2})$"},
    {"uuid", "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
    {"ipv4", "^([0-9]{1,3}\\.){3}[0-9]{1,3}$"},
    {"hostname", "^[a-z0-9-]+(\\.[a-z0-9-]+)*$"},
    {"email", "^[^@ ]+@[^@ ]+\\.[^@ ]+$"},
};

static bool pattern_ok(const json *p, str s)
{
    regex_t re;
    for (size_t i = 0; p && i < countof(posix); i++)
        if (str_is(p->text, posix[i][0])) {
            if (regcomp(&re, posix[i][1], REG_EXTENDED | REG_NOSUB) != 0)
                return false;
            bool ok = regexec(&re, s.p, 0, NULL, 0) == 0;
            regfree(&re);
            return ok;
        }
    return !p;
}

static bool limits_ok(const json *s, const json *v)
{
    double d = json_f64(v, 0);
    size_t n = characters(v->text);
    const json *e;
    if (v->type == JSON_NUMBER)
        return !((e = json_get(s, "minimum")) && d < json_f64(e, 0)) &&
               !((e = json_get(s, "maximum")) && d > json_f64(e, 0)) &&
               !((e = json_get(s, "exclusiveMinimum")) && d <= json_f64(e, 0)) &&
               !((e = json_get(s, "exclusiveMaximum")) && d >= json_f64(e, 0));
    if (v->type == JSON_STRING)
        return n >= json_u64(json_get(s, "minLength"), 0) &&
               n <= json_u64(json_get(s, "maxLength"), 1 << 30) &&
               pattern_ok(json_get(s, "pattern"), v->text) &&
               pattern_ok(json_get(s, "format"), v->text);
    return v->type != JSON_ARRAY || (v->count >= json_u64(json_get(s, "minItems"), 0) &&
                                     v->count <= json_u64(json_get(s, "maxItems"), 1 << 30));
}

static bool valid(const json *s, const json *v);

static bool object_ok(const json *s, const json *v)
{
    const json *p = json_get(s, "properties"), *more = json_get(s, "additionalProperties");
    const json *r = json_get(s, "required");
    for (const json *e = r ? r->child : NULL; e; e = e->next)
        if (!json_get(v, e->text.p))
            return false;
    for (const json *e = v->child; e; e = e->next) {
        const json *own = json_get(p, e->key.p);
        if (own ? !valid(own, e) : more && !valid(more, e))
            return false;
        for (const json *twin = e->next; twin; twin = twin->next)
            if (str_eq(twin->key, e->key) && own)
                return false;
    }
    return true;
}

static bool array_ok(const json *s, const json *v)
{
    const json *prefix = json_get(s, "prefixItems"), *items = json_get(s, "items");
    uint32_t i = 0;
    for (const json *e = v->child; e; e = e->next, i++) {
        const json *at = prefix && i < prefix->count ? json_at(prefix, i) : items;
        if (at && !valid(at, e))
            return false;
    }
    return true;
}

static int holding(const json *list, const json *v)
{
    int n = 0;
    for (const json *e = list->child; e; e = e->next)
        n += valid(e, v);
    return n;
}

static bool valid(const json *s, const json *v)
{
    const json *e, *in;
    if (s->type == JSON_BOOL)
        return s->boolean;
    if ((e = json_get(s, "$ref"))) {
        const char *name = strrchr(e->text.p, '/');
        if (!valid(name ? json_get(json_get(root, "$defs"), name + 1) : root, v))
            return false;
    }
    if (((e = json_get(s, "const")) && !same(e, v)) || !type_ok(json_get(s, "type"), v))
        return false;
    if ((e = json_get(s, "enum"))) {
        for (in = e->child; in && !same(in, v); in = in->next)
            ;
        if (!in)
            return false;
    }
    if (((e = json_get(s, "anyOf")) && holding(e, v) < 1) ||
        ((e = json_get(s, "oneOf")) && holding(e, v) != 1) ||
        ((e = json_get(s, "allOf")) && holding(e, v) != (int)e->count))
        return false;
    return limits_ok(s, v) && (v->type != JSON_OBJECT || object_ok(s, v)) &&
           (v->type != JSON_ARRAY || array_ok(s, v));
}

/* ---- a vocabulary ---------------------------------------------------------------------- */

static tokenizer *make_vocab(test *t)
{
    static const char text[] =
        "{\"name\": \"Ada\", \"age\": 36, \"tags\": [\"x\", \"y\"], \"ok\": true, \"z\": null}\n"
        "{\"name\": \"Bob\", \"age\": 41, \"tags\": [], \"ok\": false, \"d\": \"2024-01-31\"}\n"
        "{\"name\": \"Zo\xC3\xAB\", \"age\": -1.5e3, \"deep\": {\"deep\": {\"deep\": []}}}\n";
    buf b = buf_growing(1 << 20);
    str special = STR("<end>");
    tokenizer *tok = NULL;
    om_err err = {0};
    for (int i = 0; i < 20; i++)
        CHECK(t, buf_str(&b, (str){text, sizeof(text) - 1}) == OM_OK);
    CHECK_OK(t, bpe_train((str){(char *)b.data, b.len}, 400, &special, 1, &tok, &err), err);
    buf_free(&b);
    return tok;
}

typedef struct {
    tokenizer *tok;
    vocab_tree *tree;
} vocab;

static vocab open_vocab(test *t)
{
    vocab v = {.tok = make_vocab(t)};
    om_err err = {0};
    CHECK_OK(t, vocab_tree_open(v.tok, &v.tree, &err), err);
    return v;
}

static void close_vocab(vocab *v)
{
    vocab_tree_close(v->tree);
    tokenizer_close(v->tok);
}

static om_status compile(const char *schema, json_doc *doc, grammar **g, om_err *err)
{
    TRY(json_parse(schema, strlen(schema), 0, doc, err));
    return grammar_from_schema(doc->root, g, err);
}

/* ---- sampling --------------------------------------------------------------------------- */

static int32_t nth_of(const uint64_t *mask, uint32_t i)
{
    for (uint32_t id = 0;; id++)
        if (mask[id / 64] >> id % 64 & 1 && i-- == 0)
            return (int32_t)id;
}

/* Mostly a token that ends something. */
static int32_t closer(const vocab *v, const uint64_t *mask, rng *r)
{
    const char *const order[] = {"\"", "-", "a", "b", "}", "]", ":", "0"};
    uint32_t n = tokenizer_size(v->tok);
    for (size_t k = 0; k <= countof(order); k++)
        for (uint32_t id = 0; id < n; id++)
            if (mask[id / 64] >> id % 64 & 1 && rng_below(r, 4) &&
                (k == 0 ? tokenizer_is_end(v->tok, (int32_t)id)
                        : str_is(tokenizer_piece(v->tok, (int32_t)id, false), order[k - 1])))
                return (int32_t)id;
    return -1;
}

/* Random tokens of the mask until the end; false: it never came. */
static bool sample(test *t, const vocab *v, gmatch *m, rng *r, buf *out)
{
    om_err err = {0};
    out->len = 0;
    for (int i = 0; i < 4000; i++) {
        const uint64_t *mask;
        uint32_t n;
        CHECK_OK(t, gmatch_mask(m, &mask, &n, &err), err);
        CHECK(t, n > 0);
        if (n == 0)
            return false;
        int32_t id = i > 60 || rng_below(r, 4) == 0 ? closer(v, mask, r) : -1;
        id = id < 0 ? nth_of(mask, rng_below(r, n)) : id;
        CHECK_OK(t, gmatch_token(m, id, &err), err);
        if (tokenizer_is_end(v->tok, id))
            return true;
        buf_str(out, tokenizer_piece(v->tok, id, false));
    }
    return false;
}

static const char *const schemas[] = {
    "{}", "true", "{\"type\":\"object\"}", "{\"type\":\"array\"}",
    "{\"type\":\"string\"}", "{\"type\":\"number\"}", "{\"type\":\"integer\"}",
    "{\"type\":\"boolean\"}", "{\"type\":\"null\"}", "{\"type\":[\"string\",\"null\"]}",
    /* objects */
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":"
    "\"string\"},\"c\":{\"type\":\"boolean\"}},\"required\":[\"b\"]}",
    "{\"properties\":{\"a\":{},\"b\":{}},\"required\":[\"a\",\"b\"],\"additionalProperties\":"
    "false}",
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"n\":{\"type\":"
    "\"null\"}},\"additionalProperties\":{\"type\":\"integer\"}}",
    "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"boolean\"},\"required\":[\"k\\n\"]}",
    "{\"type\":\"object\",\"additionalProperties\":false}",
    "{\"type\":\"object\",\"properties\":{\"\":{\"type\":\"integer\"},\"a\\\"\\\\\":{\"type\":"
    "\"null\"},\"\xC3\xA4\":{}},\"additionalProperties\":true,\"required\":[\"\"]}",
    /* values */
    "{\"enum\":[1,\"two\",null,true,{\"a\":[1,2]},1.5]}",
    "{\"enum\":[1,\"two\",null],\"type\":[\"string\",\"null\"]}",
    "{\"const\":{\"x\":[\"\\u00e9\\n\"]}}",
    "{\"allOf\":[{\"enum\":[1,2,3]},{\"enum\":[2,3,4]}],\"type\":\"integer\"}",
    /* arrays */
    "{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":2,\"maxItems\":4}",
    "{\"items\":{\"enum\":[\"a\",\"b\"]},\"minItems\":3}",
    "{\"type\":\"array\",\"maxItems\":0}",
    "{\"type\":\"array\",\"prefixItems\":[{\"type\":\"string\"},{\"type\":\"null\"}],\"items\":"
    "{\"type\":\"boolean\"}}",
    "{\"type\":\"array\",\"prefixItems\":[{\"const\":1},{\"const\":2}],\"items\":false,"
    "\"minItems\":1}",
    /* strings */
    "{\"type\":\"string\",\"minLength\":3,\"maxLength\":5}",
    "{\"type\":\"string\",\"minLength\":2}", "{\"type\":\"string\",\"maxLength\":0}",
    "{\"type\":\"string\",\"pattern\":\"^[a-z]+-\\\\d{2,3}$\"}",
    "{\"type\":\"string\",\"pattern\":\"ab+\"}",
    "{\"type\":\"string\",\"pattern\":\"^(?:x|yy)*$|^z\"}",
    "{\"type\":\"string\",\"pattern\":\"^\\\\w\\\\s\\\\S$\"}",
    "{\"type\":\"string\",\"pattern\":\"^[^a-z\\\"]{3}$\"}",
    "{\"type\":\"string\",\"pattern\":\"^\\\\u0041.\\\\\\\\?$\"}",
    "{\"type\":\"string\",\"pattern\":\"^a|b$\"}",
    "{\"format\":\"date\"}", "{\"format\":\"time\"}", "{\"format\":\"date-time\"}",
    "{\"format\":\"uuid\"}", "{\"format\":\"ipv4\"}", "{\"format\":\"hostname\"}",
    "{\"format\":\"email\"}",
    /* numbers */
    "{\"type\":\"integer\",\"minimum\":17,\"maximum\":1203}",
    "{\"type\":\"integer\",\"minimum\":-25,\"maximum\":-7}",
    "{\"type\":\"integer\",\"exclusiveMinimum\":-3,\"exclusiveMaximum\":3}",
    "{\"type\":\"integer\",\"minimum\":0.5,\"maximum\":9.5}",
    "{\"type\":\"integer\",\"minimum\":100}", "{\"type\":\"integer\",\"maximum\":-100}",
    "{\"type\":\"number\",\"minimum\":0,\"maximum\":1}",
    "{\"type\":\"number\",\"exclusiveMinimum\":0}",
    "{\"type\":\"number\",\"exclusiveMinimum\":-2,\"exclusiveMaximum\":5}",
    "{\"type\":\"number\",\"minimum\":-7,\"exclusiveMaximum\":-3}",
    "{\"type\":\"number\",\"minimum\":99,\"maximum\":1001}",
    /* alternatives */
    "{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"string\",\"maxLength\":3},{\"type\":\"null\"}]}",
    "{\"type\":\"object\",\"properties\":{\"k\":{\"type\":\"integer\"}},\"anyOf\":[{\"required\":"
    "[\"k\"]},{\"properties\":{\"m\":{\"type\":\"null\"}},\"required\":[\"m\"]}]}",
    "{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"string\"}]}",
    "{\"oneOf\":[{\"type\":\"object\",\"properties\":{\"kind\":{\"const\":\"a\"},\"x\":{\"type\":"
    "\"integer\"}},\"required\":[\"kind\",\"x\"]},{\"type\":\"object\",\"properties\":{\"kind\":"
    "{\"enum\":[\"b\",\"c\"]}},\"required\":[\"kind\"]}]}",
    "{\"oneOf\":[{\"const\":1},{\"const\":2},{\"enum\":[3,4]}]}",
    "{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"integer\"}],\"type\":\"integer\",\"minimum\":5}",
    "{\"anyOf\":[{\"anyOf\":[{\"const\":1},{\"const\":2}]},{\"const\":3}]}",
    /* together */
    "{\"allOf\":[{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"number\"}},\"required\":"
    "[\"a\"]},{\"properties\":{\"a\":{\"type\":\"integer\",\"minimum\":3},\"b\":{\"type\":"
    "\"null\"}}}]}",
    "{\"allOf\":[{\"minLength\":2,\"type\":\"string\"},{\"maxLength\":3}],\"minLength\":3}",
    "{\"type\":\"integer\",\"minimum\":1,\"allOf\":[{\"maximum\":9},{\"minimum\":4}]}",
    "{\"type\":\"array\",\"items\":{\"type\":\"number\"},\"allOf\":[{\"prefixItems\":[{\"type\":"
    "\"integer\"}]},{\"maxItems\":2}]}",
    /* references */
    "{\"$defs\":{\"node\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},"
    "\"next\":{\"anyOf\":[{\"$ref\":\"#/$defs/node\"},{\"type\":\"null\"}]}},\"required\":[\"v\","
    "\"next\"]}},\"$ref\":\"#/$defs/node\"}",
    "{\"type\":\"object\",\"properties\":{\"children\":{\"type\":\"array\",\"items\":{\"$ref\":"
    "\"#\"}}},\"required\":[\"children\"]}",
    "{\"$defs\":{\"n\":{\"type\":\"integer\"}},\"type\":\"object\",\"properties\":{\"x\":{\"$ref\":"
    "\"#/$defs/n\",\"minimum\":7}},\"required\":[\"x\"]}",
};

static void sampled_texts_are_valid(test *t)
{
    vocab v = open_vocab(t);
    buf text = buf_growing(1 << 20);
    for (size_t i = 0; i < countof(schemas); i++) {
        json_doc doc = {0}, value = {0};
        grammar *g = NULL;
        gmatch *m = NULL;
        om_err err = {0};
        int ended = 0, times = test_times(60);
        CHECK_OK(t, compile(schemas[i], &doc, &g, &err), err);
        if (!g)
            continue;
        CHECK_OK(t, gmatch_open(g, v.tree, &m, &err), err);
        root = doc.root;
        for (int k = 0; m && k < times; k++) {
            rng r = rng_for(1, (uint32_t)i, (uint32_t)k, 1);
            CHECK_OK(t, gmatch_restart(m, &err), err);
            if (!sample(t, &v, m, &r, &text))
                continue;
            ended++;
            CHECK_OK(t, json_parse(text.data, text.len, 0, &value, &err), err);
            bool ok = value.root && valid(doc.root, value.root);
            if (!ok)
                test_fail(t, __FILE__, __LINE__, "schema %s gave %.*s", schemas[i],
                          (int)text.len, text.data);
            json_close(&value);
        }
        if (ended != times)
            test_fail(t, __FILE__, __LINE__, "schema %s ended %d times of %d", schemas[i], ended,
                      times);
        gmatch_close(m);
        grammar_close(g);
        json_close(&doc);
    }
    buf_free(&text);
    close_vocab(&v);
}

static void any_json(test *t)
{
    vocab v = open_vocab(t);
    buf text = buf_growing(1 << 20);
    grammar *g;
    gmatch *m;
    json_doc doc;
    om_err err = {0};
    CHECK_OK(t, grammar_json(&g, &err), err);
    CHECK_OK(t, gmatch_open(g, v.tree, &m, &err), err);
    for (int k = 0; k < test_times(200); k++) {
        rng r = rng_for(2, 0, (uint32_t)k, 1);
        CHECK_OK(t, gmatch_restart(m, &err), err);
        CHECK(t, sample(t, &v, m, &r, &text));
        CHECK_OK(t, json_parse(text.data, text.len, 0, &doc, &err), err);
        CHECK(t, doc.root && doc.root->type == JSON_OBJECT);
        json_close(&doc);
    }
    gmatch_close(m);
    grammar_close(g);
    buf_free(&text);
    close_vocab(&v);
}

/* ---- masks ------------------------------------------------------------------------------ */

/* A bit is set exactly where the token's bytes can be fed one by one. */
static void check_mask(test *t, const vocab *v, const grammar *g, gmatch *m, str before)
{
    const uint64_t *mask;
    uint32_t n, found = 0;
    gmatch *bytes;
    om_err err = {0};
    CHECK_OK(t, gmatch_mask(m, &mask, &n, &err), err);
    CHECK_OK(t, gmatch_open(g, NULL, &bytes, &err), err);
    for (uint32_t id = 0; id < tokenizer_size(v->tok); id++) {
        str s = tokenizer_piece(v->tok, (int32_t)id, false);
        bool set = mask[id / 64] >> id % 64 & 1, want;
        CHECK_OK(t, gmatch_restart(bytes, &err), err);
        CHECK_OK(t, gmatch_bytes(bytes, before, &err), err);
        if (tokenizer_is_end(v->tok, (int32_t)id))
            want = gmatch_can_end(bytes);
        else
            want = s.n && gmatch_bytes(bytes, s, &err) == OM_OK;
        found += want;
        if (set != want)
            test_fail(t, __FILE__, __LINE__, "after '%.*s' token '%.*s' is %d", (int)before.n,
                      before.p, (int)s.n, s.p, set);
    }
    CHECK_INT(t, n, found);
    gmatch_close(bytes);
}

static void masks_are_what_bytes_allow(test *t)
{
    vocab v = open_vocab(t);
    buf text = buf_growing(1 << 20);
    for (size_t i = 0; i < countof(schemas); i += 5) {
        json_doc doc = {0};
        grammar *g = NULL;
        gmatch *m = NULL;
        om_err err = {0};
        rng r = rng_for(3, (uint32_t)i, 0, 1);
        CHECK_OK(t, compile(schemas[i], &doc, &g, &err), err);
        CHECK_OK(t, gmatch_open(g, v.tree, &m, &err), err);
        text.len = 0;
        for (int k = 0; k < 8; k++) {
            const uint64_t *mask;
            uint32_t n;
            check_mask(t, &v, g, m, (str){(char *)text.data, text.len});
            CHECK_OK(t, gmatch_mask(m, &mask, &n, &err), err);
            int32_t id = nth_of(mask, rng_below(&r, n));
            CHECK_OK(t, gmatch_token(m, id, &err), err);
            if (tokenizer_is_end(v.tok, id))
                break;
            buf_str(&text, tokenizer_piece(v.tok, id, false));
        }
        gmatch_close(m);
        grammar_close(g);
        json_close(&doc);
    }
    buf_free(&text);
    close_vocab(&v);
}

/* ---- accepted and refused texts ------------------------------------------------------------ */

static bool takes(grammar *g, const char *text)
{
    gmatch *m;
    om_err err;
    if (gmatch_open(g, NULL, &m, &err) != OM_OK)
        return false;
    bool ok = gmatch_bytes(m, str_of(text), &err) == OM_OK && gmatch_can_end(m);
    gmatch_close(m);
    return ok;
}

static void values_in_and_out(test *t)
{
    static const struct {
        const char *schema, *yes[6], *no[6];
    } rows[] = {
        {"{\"type\":\"integer\",\"minimum\":17,\"maximum\":1203}",
         {"17", "99", "100", "999", "1000", "1203"}, {"16", "1204", "1.0", "017", "-17", ""}},
        {"{\"type\":\"integer\",\"minimum\":-25,\"maximum\":7}",
         {"-25", "-9", "-0", "0", "7", "-10"}, {"-26", "8", "-100", "10", "--1", "+1"}},
        {"{\"type\":\"number\",\"exclusiveMinimum\":0,\"maximum\":2}",
         {"0.1", "0.001", "1", "1.99", "2", "0.101"}, {"0", "0.0", "2.0001", "-1", "3", "00.1"}},
        {"{\"type\":\"string\",\"maxLength\":2}",
         {"\"\"", "\"ab\"", "\"\xC3\xA4\xF0\x9F\x98\x80\"", "\"\\u00e4b\"", "\"\\ud83d\\ude00x\"",
          "\"\\n\\\\\""},
         {"\"abc\"", "\"\\ud83dx\"", "\"\n\"", "\"\\q\"", "\"\xC3\"", "\"\\ude00\""}},
        {"{\"type\":\"object\",\"properties\":{\"ab\":{\"type\":\"null\"}},"
         "\"additionalProperties\":{\"type\":\"boolean\"}}",
         {"{}", "{\"ab\":null}", "{\"ab\": null,\"a\": true}", "{\"a\":true}", "{\"abc\":false}",
          "{\"\":true, \"b\":false}"},
         {"{\"ab\":true}", "{\"a\":null}", "{\"a\":true,\"ab\":null}", "{\"a\":true,}",
          "{\"\\u0061b\":true}", "{\"ab\":null \"a\":true}"}},
        {"{\"type\":\"string\",\"pattern\":\"b.d\"}",
         {"\"bad\"", "\"xxbadyy\"", "\"b\\\"d\"", "\"b\\\\d\"", "\"b\xC3\xA4" "d\"", "\"bdbxd\""},
         {"\"bd\"", "\"b\\nd\"", "\"bxxd\"", "\"\"", "\"b\\qd\"", "bad"}},
        {"{\"format\":\"date\"}",
         {"\"2024-02-28\"", "\"1999-12-31\"", "\"2000-04-30\"", "\"2024-01-31\"", NULL},
         {"\"2023-02-29\"", "\"2024-13-01\"", "\"2024-04-31\"", "\"24-01-01\"", "\"2024-1-1\"",
          "\"2024-00-10\""}},
    };
    for (size_t i = 0; i < countof(rows); i++) {
        json_doc doc = {0};
        grammar *g = NULL;
        om_err err = {0};
        CHECK_OK(t, compile(rows[i].schema, &doc, &g, &err), err);
        for (int k = 0; k < 6; k++) {
            if (rows[i].yes[k] && !takes(g, rows[i].yes[k]))
                test_fail(t, __FILE__, __LINE__, "%s refuses %s", rows[i].schema, rows[i].yes[k]);
            if (rows[i].no[k] && takes(g, rows[i].no[k]))
                test_fail(t, __FILE__, __LINE__, "%s takes %s", rows[i].schema, rows[i].no[k]);
            t->checks += 2;
        }
        grammar_close(g);
        json_close(&doc);
    }
}

static void refused_by_name(test *t)
{
    static const char *const rows[][2] = {
        {"{\"not\":{}}", "'not'"},
        {"{\"type\":\"object\",\"patternProperties\":{}}", "'patternProperties'"},
        {"{\"uniqueItems\":true}", "'uniqueItems'"},
        {"{\"multipleOf\":3}", "'multipleOf'"},
        {"{\"if\":{}}", "'if'"},
        {"{\"dependentRequired\":{}}", "'dependentRequired'"},
        {"{\"type\":\"text\"}", "no such type"},
        {"{\"format\":\"iri\"}", "format"},
        {"{\"type\":\"string\",\"pattern\":\"(?=a)\"}", "look-around"},
        {"{\"type\":\"string\",\"pattern\":\"\\\\bword\"}", "escape"},
        {"{\"type\":\"string\",\"pattern\":\"a$b\"}", "ends of the pattern"},
        {"{\"type\":\"string\",\"pattern\":\"a)\"}", "closes nothing"},
        {"{\"type\":\"string\",\"pattern\":\"a\",\"minLength\":2}", "at a time"},
        {"{\"$ref\":\"http://x/y\"}", "$ref"},
        {"{\"$ref\":\"#/$defs/none\"}", "$ref"},
        {"{\"$ref\":\"#\"}", ""},
        {"{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}", "oneOf"},
        {"{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", "no text"},
        {"{\"allOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]}", "no text"},
        {"{\"$defs\":{\"a\":{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#/$defs/a\"}},"
         "\"required\":[\"a\"]}},\"$ref\":\"#/$defs/a\"}", "no text"},
        {"{\"type\":\"number\",\"minimum\":0.5}", "whole"},
        {"{\"enum\":[\"abc\"],\"maxLength\":2}", "enum"},
        {"{\"type\":\"string\",\"maxLength\":70000}", "65536"},
        {"{\"type\":\"array\",\"items\":[{}]}", "prefixItems"},
        {"[]", "object"},
    };
    for (size_t i = 0; i < countof(rows); i++) {
        json_doc doc = {0};
        grammar *g = NULL;
        om_err err = {0};
        om_status s = compile(rows[i][0], &doc, &g, &err);
        if (i != 15) { /* {"$ref":"#"}: every value satisfies it */
            CHECK(t, s != OM_OK && !g);
            if (!strstr(err.msg, rows[i][1]))
                test_fail(t, __FILE__, __LINE__, "%s says: %s", rows[i][0], err.msg);
        }
        grammar_close(g);
        json_close(&doc);
    }
}

static void grammars_as_text(test *t)
{
    static const struct {
        const char *text, *yes[4], *no[4];
    } rows[] = {
        {"root ::= \"yes\" | \"no\"", {"yes", "no"}, {"y", "yesno", ""}},
        {"root ::= item (\", \" item)* # list\nitem ::= [a-c]+ | [^a-z\\n]{2,3}",
         {"abc, 12, a", "\xC3\xA4Z", "b"}, {"abc,a", "1", "d", "1234"}},
        {"root ::= \"(\" root? \")\"\n", {"()", "((()))"}, {"(", "(()", ")("}},
        {"root ::= .\"\\x41\\u00e4\\\"\"", {"zA\xC3\xA4\""}, {"A\xC3\xA4\""}},
        {"root ::= a{3} b{2,}\na ::= \"a\" b ::= \"b\"", {"aaabb", "aaabbbb"}, {"aabb", "aaab"}},
        {"root ::= \"\" | x root\nx ::= \"x\"?  \"y\"", {"", "yxyy"}, {"x", "xx"}},
    };
    static const char *const bad[][2] = {
        {"root ::= root \"a\"", "left recursion"},
        {"root ::= a\na ::= b? a \"c\"\nb ::= \"b\"", "left recursion"},
        {"root ::= \"a", "line ends"},
        {"root ::= missing", "'missing'"},
        {"a ::= \"x\"", "'root'"},
        {"root ::= [z-a]", "backwards"},
        {"root ::= (\"a\"", "')'"},
        {"root ::= \"a\"{3,2}", "count"},
        {"root ::= \"a\"{99999}", "count"},
        {"root ::= \"a\" root", "no text"},
        {"root ::= \"a\"\nroot ::= \"b\"", "twice"},
        {"root = \"a\"", "::="},
    };
    om_err err = {0};
    for (size_t i = 0; i < countof(rows); i++) {
        grammar *g = NULL;
        CHECK_OK(t, grammar_from_text(str_of(rows[i].text), &g, &err), err);
        for (int k = 0; k < 4 && g; k++) {
            CHECK(t, !rows[i].yes[k] || takes(g, rows[i].yes[k]));
            if (rows[i].no[k] && takes(g, rows[i].no[k]))
                test_fail(t, __FILE__, __LINE__, "%s takes %s", rows[i].text, rows[i].no[k]);
        }
        grammar_close(g);
    }
    for (size_t i = 0; i < countof(bad); i++) {
        grammar *g;
        CHECK(t, grammar_from_text(str_of(bad[i][0]), &g, &err) != OM_OK && !g);
        if (!strstr(err.msg, bad[i][1]))
            test_fail(t, __FILE__, __LINE__, "%s says: %s", bad[i][0], err.msg);
    }
}

/* What is nested as deep as it may be can still be finished. */
static void deep_and_long(test *t)
{
    vocab v = open_vocab(t);
    grammar *g;
    gmatch *m;
    om_err err = {0};
    const uint64_t *mask;
    uint32_t n;
    int depth = 0;
    CHECK_OK(t, grammar_json(&g, &err), err);
    CHECK_OK(t, gmatch_open(g, v.tree, &m, &err), err);
    CHECK_OK(t, gmatch_bytes(m, STR("{\"a\":"), &err), err);
    while (gmatch_bytes(m, STR("["), &err) == OM_OK)
        depth++;
    CHECK(t, depth > 40 && depth < JSON_DEPTH);
    CHECK_OK(t, gmatch_mask(m, &mask, &n, &err), err);
    CHECK(t, n > 0);
    for (int i = 0; i < depth; i++)
        CHECK_OK(t, gmatch_bytes(m, STR("]"), &err), err);
    CHECK_OK(t, gmatch_bytes(m, STR(",\"b\":\""), &err), err);
    for (int i = 0; i < test_times(100000); i++) /* memory stays what it is */
        if (gmatch_bytes(m, STR("word \\n "), &err) != OM_OK)
            test_fail(t, __FILE__, __LINE__, "%s", err.msg);
    CHECK_OK(t, gmatch_bytes(m, STR("\"}"), &err), err);
    CHECK(t, gmatch_can_end(m));
    gmatch_close(m);
    grammar_close(g);
    close_vocab(&v);
}

/* A matcher that meets more places than it may keep forgets and goes on. */
static void forgetting(test *t)
{
    vocab v = open_vocab(t);
    grammar *g;
    gmatch *m;
    om_err err = {0};
    const uint64_t *mask;
    uint32_t n;
    CHECK_OK(t, grammar_from_text(STR("root ::= ([a-z]{1,20000} \"-\")* \"!\""), &g, &err), err);
    CHECK_OK(t, gmatch_open(g, v.tree, &m, &err), err);
    for (int i = 0; i < 20000; i++)
        if (gmatch_bytes(m, STR("a"), &err) != OM_OK)
            test_fail(t, __FILE__, __LINE__, "%s", err.msg);
    CHECK_OK(t, gmatch_mask(m, &mask, &n, &err), err);
    CHECK(t, gmatch_bytes(m, STR("a"), &err) == OM_EARG);
    CHECK_OK(t, gmatch_bytes(m, STR("-abc-!"), &err), err);
    CHECK(t, gmatch_can_end(m));
    gmatch_close(m);
    grammar_close(g);
    close_vocab(&v);
}

static void calls_of_functions(test *t)
{
    static const char params[] =
        "{\"$defs\":{\"u\":{\"enum\":[\"C\",\"F\"]}},\"type\":\"object\",\"properties\":{\"city\":"
        "{\"type\":\"string\"},\"unit\":{\"$ref\":\"#/$defs/u\"}},\"required\":[\"city\"]}";
    json_doc doc;
    grammar *g = NULL;
    om_err err = {0};
    CHECK_OK(t, json_parse(params, sizeof(params) - 1, 0, &doc, &err), err);
    grammar_tool tools[] = {{STR("weather"), doc.root}, {STR("time"), NULL}};
    grammar_calls c = {tools, 2, "<tool_call>\n", "\n</tool_call>\n<tool_call>\n",
                       "\n</tool_call>", "arguments", true};
    CHECK_OK(t, grammar_from_tools(&c, &g, &err), err);
    CHECK(t, takes(g, "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Ulm\", "
                      "\"unit\": \"C\"}}\n</tool_call>"));
    CHECK(t, takes(g, "<tool_call>\n{\"name\": \"time\", \"arguments\": {\"x\": 1}}\n</tool_call>\n"
                      "<tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call>"));
    CHECK(t, !takes(g, "<tool_call>\n{\"name\": \"weather\", \"arguments\": {}}\n</tool_call>"));
    CHECK(t, !takes(g, "<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call>"));
    grammar_close(g);
    json_close(&doc);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"sampled", "sampled under the mask, every text is valid", sampled_texts_are_valid},
        {"any_json", "JSON mode gives objects", any_json},
        {"masks", "a bit is set exactly where bytes can be fed", masks_are_what_bytes_allow},
        {"values", "values at the edges of schemas", values_in_and_out},
        {"refused", "what is not supported is refused by name", refused_by_name},
        {"text", "grammars written as text", grammars_as_text},
        {"deep", "nesting and length", deep_and_long},
        {"forgetting", "more places than are kept", forgetting},
        {"calls", "calls of functions", calls_of_functions},
        {0}};
    return test_main(argc, argv, cases);
}
