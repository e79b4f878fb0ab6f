/* json.c - any text: what is accepted is written and read back as the same tree. */
#include "base/json.h"
#include "fuzz.h"

#include <math.h>

static void write_node(json_out *o, const char *key, const json *j)
{
    switch (j->type) {
    case JSON_NULL:
        json_put_null(o, key);
        return;
    case JSON_BOOL:
        json_put_bool(o, key, j->boolean);
        return;
    case JSON_NUMBER:
        json_put_raw(o, key, j->text);
        return;
    case JSON_STRING:
        json_put_str(o, key, j->text);
        return;
    default:
        break;
    }
    bool object = j->type == JSON_OBJECT;
    if (object)
        json_open_object(o, key);
    else
        json_open_array(o, key);
    for (const json *c = j->child; c; c = c->next)
        write_node(o, object ? c->key.p : NULL, c);
    json_shut(o, object ? '}' : ']');
}

/* Keys are written as C strings, so one with a NUL inside comes back cut. */
static str cut(str s)
{
    const char *nul = s.n ? memchr(s.p, 0, s.n) : NULL;
    return nul ? (str){s.p, (size_t)(nul - s.p)} : s;
}

static void check_equal(const json *a, const json *b)
{
    FUZZ_CHECK(a->type == b->type && a->count == b->count && a->boolean == b->boolean);
    FUZZ_CHECK(str_eq(a->text, b->text) && str_eq(cut(a->key), b->key));
    uint32_t n = 0;
    const json *y = b->child;
    for (const json *x = a->child; x; x = x->next, y = y->next, n++) {
        FUZZ_CHECK(y);
        check_equal(x, y);
    }
    FUZZ_CHECK(!y && n == a->count);
}

static void use(const json *j)
{
    FUZZ_CHECK(!isnan(json_f64(j, 0)));
    if (json_u64(j, 0) <= INT64_MAX && json_i64(j, 0) >= 0)
        FUZZ_CHECK(json_u64(j, 0) == (uint64_t)json_i64(j, 0));
    fuzz_touch(json_str(j, "").p, json_str(j, "").n + 1);
    for (const json *c = j->child; c; c = c->next)
        use(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    json_doc a, b;
    om_err err = {0};
    if (json_parse(data, n, 0, &a, &err) != OM_OK) {
        FUZZ_CHECK(!a.root && !a.block_ && err.msg[0] && err.pos <= n);
        return 0;
    }
    use(a.root);
    buf out = buf_growing((size_t)1 << 28);
    json_out o = json_to(&out);
    write_node(&o, NULL, a.root);
    FUZZ_CHECK(o.status == OM_OK);
    FUZZ_CHECK(json_parse(out.data, out.len, 0, &b, &err) == OM_OK);
    check_equal(a.root, b.root);
    json_close(&b);
    json_close(&a);
    buf_free(&out);
    return 0;
}
