/* test_json.c - RFC 8259 in and out: what is read, what is refused and where, what is
 * written; truncation at every byte and failure of every allocation. */
#include "base/json.h"
#include "test.h"

static om_status parse(const char *z, json_doc *d)
{
    om_err err = {0};
    return json_parse(z, strlen(z), 0, d, &err);
}

static void tree(test *t)
{
    static const char text[] =
        "\xef\xbb\xbf {\"a\" : [1, -2.5e1, \"x\\n\", true, null, {}], \"b\":{\"c\":[]},"
        "\t\"a\":7}\r\n";
    json_doc d;
    CHECK_INT(t, json_parse(text, sizeof(text) - 1, 0, &d, NULL), OM_OK);
    const json *a = json_get(d.root, "a");
    CHECK_INT(t, d.root->count, 3);
    CHECK_INT(t, a->count, 6);
    CHECK_INT(t, json_u64(json_at(a, 0), 9), 1);
    CHECK_NEAR(t, json_f64(json_at(a, 1), 0), -25, 0);
    CHECK_INT(t, json_i64(json_at(a, 1), 0), -25);
    CHECK(t, str_is(json_str(json_at(a, 2), ""), "x\n"));
    CHECK(t, json_bool(json_at(a, 3), false) && json_at(a, 4)->type == JSON_NULL);
    CHECK(t, json_at(a, 5)->type == JSON_OBJECT && json_at(a, 5)->count == 0);
    CHECK(t, json_at(a, 6) == NULL && json_at(d.root, 0) == NULL);
    CHECK_INT(t, json_get(json_get(d.root, "b"), "c")->pos, 56);
    CHECK(t, json_get(d.root, "zz") == NULL && json_get(NULL, "a") == NULL);
    CHECK(t, str_is(json_str(NULL, "def"), "def") && json_u64(a, 5) == 5);
    json_close(&d);
    CHECK(t, d.root == NULL);
}

static void accepted(test *t)
{
    static const char *const good[] = {"0",
                                       "-0",
                                       "-0.0e-0",
                                       "1E+2",
                                       "123456789012345678901234567890",
                                       "\"\"",
                                       "null",
                                       " [ ] ",
                                       "[[],[[]]]",
                                       "{\"\":{}}",
                                       "\"\\u0000\"",
                                       "\"\x7f\"",
                                       "\"\\/\"",
                                       "\"\\uD834\\udd1e\"",
                                       "\"\xf4\x8f\xbf\xbf\"",
                                       "\"\xef\xbf\xbf\"",
                                       "{\"a\":1,\"a\":2}"};
    for (size_t i = 0; i < countof(good); i++) {
        json_doc d;
        t->checks++;
        if (parse(good[i], &d) != OM_OK)
            test_fail(t, __FILE__, __LINE__, "%s is refused", good[i]);
        json_close(&d);
    }
}

static void refused(test *t)
{
    static const struct {
        const char *text;
        size_t pos;
    } wrong[] = {{"", 0},
                 {" ", 1},
                 {"[1,]", 3},
                 {"[,1]", 1},
                 {"[1 2]", 3},
                 {"{\"a\"}", 4},
                 {"{\"a\":}", 5},
                 {"{a:1}", 1},
                 {"{\"a\":1,}", 7},
                 {"[1", 2},
                 {"01", 1},
                 {"-", 1},
                 {"+1", 0},
                 {".5", 0},
                 {"1.", 2},
                 {"1.e1", 2},
                 {"1e", 2},
                 {"1e+", 3},
                 {"0x1", 1},
                 {"NaN", 0},
                 {"Infinity", 0},
                 {"tru", 0},
                 {"True", 0},
                 {"nul", 0},
                 {"\"a", 2},
                 {"\"\\\"", 3},
                 {"\"\n\"", 1},
                 {"\"\t\"", 1},
                 {"\"\\x\"", 2},
                 {"\"\\u12\"", 2},
                 {"\"\\u12G4\"", 2},
                 {"\"\\ud800\"", 7},
                 {"\"\\udc00\"", 7},
                 {"\"\\ud800\\ud800\"", 7},
                 {"\"\\ud800x\"", 7},
                 {"\"\xff\"", 1},
                 {"\"\xc0\x80\"", 1},
                 {"\"\xe0\x80\xaf\"", 1},
                 {"\"\xed\xa0\x80\"", 1},
                 {"\"\xf4\x90\x80\x80\"", 1},
                 {"\"\xc3\"", 1},
                 {"\"\x80\"", 1},
                 {"1 1", 2},
                 {"[]]", 2},
                 {"'a'", 0},
                 {"[1]//x", 3},
                 {"\xef\xbb\xbf", 3},
                 {"\xef\xbb", 0},
                 {"{\"a\":1 \"b\":2}", 7}};
    for (size_t i = 0; i < countof(wrong); i++) {
        json_doc d;
        om_err err = {0};
        om_status s = json_parse(wrong[i].text, strlen(wrong[i].text), 0, &d, &err);
        t->checks++;
        if (s != OM_EFORMAT || err.pos != wrong[i].pos || d.root)
            test_fail(t, __FILE__, __LINE__, "%s: %s at %llu", wrong[i].text,
                      om_status_name(s), (unsigned long long)err.pos);
    }
    json_doc d;
    CHECK_INT(t, json_parse("\0", 1, 0, &d, NULL), OM_EFORMAT);
    CHECK_INT(t, json_parse("\"\0\"", 3, 0, &d, NULL), OM_EFORMAT);
}

static void limits(test *t)
{
    char deep[2 * JSON_DEPTH + 3];
    json_doc d;
    om_err err = {0};
    memset(deep, '[', JSON_DEPTH);
    memset(deep + JSON_DEPTH, ']', JSON_DEPTH);
    CHECK_INT(t, json_parse(deep, 2 * JSON_DEPTH, 0, &d, &err), OM_OK);
    json_close(&d);
    memset(deep, '[', JSON_DEPTH + 1);
    memset(deep + JSON_DEPTH + 1, ']', JSON_DEPTH + 1);
    CHECK_INT(t, json_parse(deep, 2 * JSON_DEPTH + 2, 0, &d, &err), OM_ELIMIT);
    CHECK_INT(t, err.pos, JSON_DEPTH);
    CHECK_INT(t, json_parse("[1,2,3]", 7, 3, &d, &err), OM_ELIMIT);
    CHECK_INT(t, json_parse("[1,2,3]", 7, 4, &d, &err), OM_OK);
    json_close(&d);
    CHECK_INT(t, json_parse("[\",,,[[[{{{\"]", 13, 2, &d, &err), OM_OK);
    json_close(&d);
    CHECK_INT(t, json_parse("1", UINT32_MAX, 0, &d, &err), OM_ELIMIT);
}

static void strings(test *t)
{
    json_doc d;
    CHECK_INT(t,
              parse("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\\u20AC\\ud834\\uDD1E"
                    "\xc3\xa9\"",
                    &d),
              OM_OK);
    static const char want[] =
        "\"\\/\b\f\n\r\tA\xc3\xa9\xe2\x82\xac\xf0\x9d\x84\x9e\xc3\xa9";
    CHECK(t, str_is(d.root->text, want));
    CHECK_INT(t, d.root->text.p[d.root->text.n], 0);
    json_close(&d);
    CHECK_INT(t, parse("[\"a\\u0000b\",\"\\u0000\"]", &d), OM_OK);
    CHECK(t, str_eq(json_at(d.root, 0)->text, STR("a\0b")));
    json_close(&d);
}

static double number(const char *z)
{
    json_doc d;
    parse(z, &d);
    double v = json_f64(d.root, -77);
    json_close(&d);
    return v;
}

static void numbers(test *t)
{
    /* Nearest doubles: half-way cases, subnormals and limits (IEEE 754). */
    CHECK(t, number("0.1") == 0.1 && number("1e22") == 1e22 && number("1e23") == 1e23);
    CHECK(t, number("9007199254740993") == 9007199254740992.0);
    CHECK(t,
          number("9007199254740993.00000000000000000000000000000000000000000000000001") ==
              9007199254740994.0);
    CHECK(t, number("4.9406564584124654e-324") == 4.9406564584124654e-324);
    CHECK(t, number("2.2250738585072011e-308") == 2.2250738585072011e-308);
    CHECK(t, number("1.7976931348623157e308") == 1.7976931348623157e308);
    CHECK(t, number("1e400") == -77 && number("-1e400") == -77);
    CHECK(t, number("1e-400") == 0 && number("0e999999999999") == 0);
    CHECK(t, number("1e-99999999999999999999") == 0);
    CHECK(t, signbit(number("-0")) && number("-0") == 0);
    char digits[2001];
    memset(digits, '0', 2000); /* 0.000...01 with 1900 zeros, times 10^1901 */
    memcpy(digits, "0.", 2);
    strcpy(digits + 1902, "1e1901");
    CHECK(t, number(digits) == 1.0);
}

static void integers(test *t)
{
    json_doc d;
    CHECK_INT(t,
              parse("[18446744073709551615,18446744073709551616,-9223372036854775808,"
                    "-9223372036854775809,1.0,1e3,1.5,-1,9223372036854775808,1e30]",
                    &d),
              OM_OK);
    CHECK(t, json_u64(json_at(d.root, 0), 5) == UINT64_MAX);
    CHECK(t, json_i64(json_at(d.root, 0), 5) == 5);
    CHECK(t, json_u64(json_at(d.root, 1), 5) == 5);
    CHECK(t, json_i64(json_at(d.root, 2), 5) == INT64_MIN);
    CHECK(t, json_i64(json_at(d.root, 3), 5) == 5);
    CHECK(t,
          json_u64(json_at(d.root, 4), 5) == 1 && json_i64(json_at(d.root, 5), 5) == 1000);
    CHECK(t, json_u64(json_at(d.root, 6), 5) == 5 && json_u64(json_at(d.root, 7), 5) == 5);
    CHECK(t, json_i64(json_at(d.root, 7), 5) == -1 && json_i64(json_at(d.root, 8), 5) == 5);
    CHECK(t, json_u64(json_at(d.root, 9), 5) == 5);
    json_close(&d);
}

static void writing(test *t)
{
    buf b = buf_growing(1000);
    json_out o = json_to(&b);
    json_open_object(&o, NULL);
    json_put_str(&o, "s", STR("a\"\\\n\x01\x7f\xc3\xa9\xff\xed\xa0\x80\0z"));
    json_open_array(&o, "n");
    json_put_f64(&o, NULL, 0.1);
    json_put_f64(&o, NULL, 1.0 / 3.0);
    json_put_f64(&o, NULL, (double)NAN);
    json_put_f64(&o, NULL, -1e300);
    json_put_u64(&o, NULL, UINT64_MAX);
    json_put_i64(&o, NULL, INT64_MIN);
    json_shut(&o, ']');
    json_open_object(&o, "e");
    json_shut(&o, '}');
    json_put_bool(&o, "b", true);
    json_put_null(&o, "z");
    json_put_raw(&o, "r", STR("[1]"));
    json_shut(&o, '}');
    CHECK_INT(t, o.status, OM_OK);
    CHECK_INT(t, buf_u8(&b, 0), OM_OK);
    CHECK_STR(t, (char *)b.data,
              "{\"s\":\"a\\\"\\\\\\n\\u0001\x7f\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
              "\xef\xbf\xbd\\u0000z\",\"n\":[0.1,0.3333333333333333,null,-1e+300,"
              "18446744073709551615,-9223372036854775808],\"e\":{},\"b\":true,\"z\":null,"
              "\"r\":[1]}");
    buf_free(&b);
    b = buf_growing(10);
    o = json_to(&b);
    json_put_str(&o, NULL, STR("0123456789"));
    json_put_u64(&o, NULL, 1);
    CHECK_INT(t, o.status, OM_ELIMIT);
    buf_free(&b);
}

static void round_trip(test *t)
{
    rng r = rng_for(7, 0, 0, 0);
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = rng_u64(&r);
        double v, back;
        memcpy(&v, &bits, 8);
        if (i % 2)
            v = rng_normal(&r);
        uint8_t raw[64];
        buf b = buf_fixed(raw, sizeof(raw));
        json_out o = json_to(&b);
        json_put_f64(&o, NULL, v);
        json_doc d;
        if (json_parse(b.data, b.len, 0, &d, NULL) != OM_OK)
            test_fail(t, __FILE__, __LINE__, "%.17g is not read back", v);
        back = json_f64(d.root, (double)NAN);
        json_close(&d);
        CHECK(t, isfinite(v) ? back == v : isnan(back));
    }
}

static const char sample[] =
    "{\"name\":\"stories \\u00e9\",\"dims\":[64,172,-5.25e2,0],\"ok\":true,\"none\":null,"
    "\"deep\":[[[{\"x\":\"\\ud834\\udd1e\"}]]],\"\xc3\xa9\":false}";

static void truncation(test *t)
{
    json_doc d;
    for (size_t n = 0; n < sizeof(sample) - 1; n++) {
        char *exact = malloc(n ? n : 1); /* so that a sanitizer sees a read beyond it */
        memcpy(exact, sample, n);
        om_err err = {0};
        CHECK_INT(t, json_parse(exact, n, 0, &d, &err), OM_EFORMAT);
        CHECK(t, d.root == NULL && err.pos <= n && err.msg[0]);
        free(exact);
    }
    CHECK_INT(t, parse(sample, &d), OM_OK);
    json_close(&d);
}

static void flipped_bits(test *t)
{
    char *copy = malloc(sizeof(sample) - 1);
    for (size_t i = 0; i < 8 * (sizeof(sample) - 1); i++) {
        memcpy(copy, sample, sizeof(sample) - 1);
        copy[i / 8] = (char)(copy[i / 8] ^ 1 << i % 8);
        json_doc d;
        om_status s = json_parse(copy, sizeof(sample) - 1, 0, &d, NULL);
        CHECK(t, (s == OM_OK) == (d.root != NULL));
        json_close(&d);
    }
    free(copy);
}

static void allocation_failure(test *t)
{
#ifdef OM_FAULTS
    om_status s = OM_ENOMEM;
    for (long nth = 1; s == OM_ENOMEM; nth++) {
        json_doc d;
        mem_fail_at(nth);
        s = parse(sample, &d);
        bool failed = mem_count() >= nth;
        mem_fail_at(0);
        CHECK(t, s == (failed ? OM_ENOMEM : OM_OK));
        json_close(&d);
    }
#else
    test_skip(t, "built without OM_FAULTS");
#endif
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"tree", "members, elements, defaults, first of duplicate keys", tree},
        {"accepted", "texts of the grammar's corners", accepted},
        {"refused", "texts outside the grammar, with their position", refused},
        {"limits", "depth, values, size", limits},
        {"strings", "escapes, surrogate pairs, NUL", strings},
        {"numbers", "nearest doubles", numbers},
        {"integers", "64-bit integers survive", integers},
        {"writing", "escapes, commas, sticky failure", writing},
        {"round_trip", "doubles come back to the bit", round_trip},
        {"truncation", "every prefix is refused", truncation},
        {"flipped_bits", "every flipped bit is harmless", flipped_bits},
        {"allocation_failure", "every allocation may fail", allocation_failure},
        {0}};
    return test_main(argc, argv, cases);
}
