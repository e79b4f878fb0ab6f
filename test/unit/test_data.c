/* test_data.c - readers of training data: small texts with known answers, lies refused
 * with their line, published data sets, every prefix, failed allocations. */
#include "fmt/data.h"
#include "test.h"

/* ---- texts -------------------------------------------------------------------------- */

static void splitting(test *t)
{
    static const char text[] =
        "\xef\xbb\xbf  one two\r\n\n three<|end|><|end|>\n<|end|>four";
    data_texts d;
    om_err err = {0};
    CHECK_OK(t, data_split(text, sizeof(text) - 1, "<|end|>", &d, &err), err);
    CHECK_INT(t, d.n, 2);
    CHECK(t, str_is(d.item[0], "one two\r\n\n three") && str_is(d.item[1], "four"));
    data_texts_close(&d);
    CHECK_OK(t, data_split(text, sizeof(text) - 1, "\n", &d, &err), err);
    CHECK_INT(t, d.n, 3);
    CHECK(t, str_is(d.item[0], "one two") && str_is(d.item[2], "<|end|>four"));
    data_texts_close(&d);
    CHECK_OK(t, data_split("", 0, "\n", &d, &err), err);
    CHECK_INT(t, d.n, 0);
    data_texts_close(&d);
    CHECK_OK(t, data_split("aaa", 3, "aa", &d, &err), err);
    CHECK(t, d.n == 1 && str_is(d.item[0], "a"));
    data_texts_close(&d);
    CHECK_INT(t, data_split("a", 1, "", &d, &err), OM_EARG);
}

static om_status jsonl(const char *text, const char *path, data_texts *d, om_err *err)
{
    return data_jsonl(text, strlen(text), path, d, err);
}

static void json_lines(test *t)
{
    data_texts d;
    om_err err = {0};
    CHECK_OK(
        t,
        jsonl("{\"text\":\"a\\u00e9\"}\n\n{\"x\":1,\"text\":\"b\\n\"}\r\n{\"text\":\"\"}",
              "text", &d, &err),
        err);
    CHECK_INT(t, d.n, 2);
    CHECK(t, str_is(d.item[0], "a\xc3\xa9") && str_is(d.item[1], "b\n"));
    data_texts_close(&d);
    CHECK_OK(t, jsonl("{\"m\":[{\"c\":\"q\"},{\"c\":\"r\"}]}", "m.1.c", &d, &err), err);
    CHECK(t, d.n == 1 && str_is(d.item[0], "r"));
    data_texts_close(&d);
    CHECK_OK(t, jsonl("\"a\"\n\"b\"", "", &d, &err), err);
    CHECK_INT(t, d.n, 2);
    data_texts_close(&d);
    CHECK_INT(t, jsonl("{\"a\":\"x\"}\n{\"b\":1}", "a", &d, &err), OM_EFORMAT);
    CHECK(t, strstr(err.msg, "line 2") && d.block_ == NULL);
    CHECK_INT(t, jsonl("\"x\"\n\n{\"a\"", "", &d, &err), OM_EFORMAT);
    CHECK(t, strstr(err.msg, "line 3") && d.n == 0);
    CHECK_INT(t, jsonl("{\"m\":[1]}", "m.0", &d, &err), OM_EFORMAT);
    CHECK_INT(t, jsonl("{\"m\":[1]}", "m.7.x", &d, &err), OM_EFORMAT);
    CHECK_INT(t, jsonl("3", "m", &d, &err), OM_EFORMAT);
}

/* ---- arrays -----------------------------------------------------------------------------
 */

static void idx_types(test *t)
{
    static const struct {
        uint8_t type, n_dims, raw[8];
        size_t bytes;
        float want;
    } row[] = {{IDX_U8, 1, {200}, 1, 200},
               {IDX_I8, 1, {200}, 1, -56},
               {IDX_I16, 1, {0xff, 0xfe}, 2, -2},
               {IDX_I32, 1, {0x80, 0, 0, 0}, 4, -2147483648.0F},
               {IDX_F32, 1, {0x3f, 0x80, 0, 0}, 4, 1},
               {IDX_F64, 1, {0xc0, 0x00, 0, 0, 0, 0, 0, 0}, 8, -2}};
    for (size_t i = 0; i < countof(row); i++) {
        uint8_t file[16] = {0, 0, row[i].type, 1, 0, 0, 0, 1};
        float v = 0;
        data_idx d;
        om_err err = {0};
        memcpy(file + 8, row[i].raw, row[i].bytes);
        CHECK_OK(t, data_idx_open(file, 8 + row[i].bytes, &d, &err), err);
        data_idx_f32(&d, 0, 1, &v);
        CHECK_NEAR(t, v, row[i].want, 0);
        for (size_t n = 0; n < 8 + row[i].bytes; n++)
            CHECK_INT(t, data_idx_open(file, n, &d, &err), OM_EFORMAT);
    }
    static const uint8_t wrong[][8] = {
        {1, 0, 8, 1}, {0, 0, 10, 1}, {0, 0, 99, 1}, {0, 0, 8, 1, 255, 255, 255, 255}};
    data_idx d;
    for (size_t i = 0; i < countof(wrong); i++)
        CHECK_INT(t, data_idx_open(wrong[i], 8, &d, NULL), OM_EFORMAT);
    static const uint8_t many[4 + 20] = {0, 0, 8, 5}, none[4] = {0, 0, 8, 0};
    CHECK_INT(t, data_idx_open(many, sizeof(many), &d, NULL), OM_EUNSUPPORTED);
    CHECK_INT(t, data_idx_open(none, sizeof(none), &d, NULL), OM_EUNSUPPORTED);
    uint8_t huge[20] = {0, 0, 14, 4}; /* a product of 2^128 */
    memset(huge + 4, 255, 16);
    CHECK_INT(t, data_idx_open(huge, sizeof(huge), &d, NULL), OM_EFORMAT);
}

static void libsvm(test *t)
{
    static const char text[] =
        "# a comment\n+1 1:0.5 3:-2e1\t7:1 \r\n\n-1\n2 2:.25 # x:y\n";
    static const char *const wrong[] = {
        "a 1:1",     "1 0:1", "1 1",    "1 1:",          "1 1:nan", "1 2:1 2:1",
        "1 2:1 1:1", "1 :1",  "1 -1:1", "1 134217729:1", "1 1:1x"};
    data_sparse s;
    om_err err = {0};
    CHECK_OK(t, data_libsvm(text, sizeof(text) - 1, &s, &err), err);
    CHECK(t, s.n_rows == 3 && s.n_cols == 7);
    CHECK(t, s.label[0] == 1 && s.label[1] == -1 && s.label[2] == 2);
    CHECK(t, s.row[0] == 0 && s.row[1] == 3 && s.row[2] == 3 && s.row[3] == 4);
    CHECK(t, s.col[1] == 2 && s.value[1] == -20 && s.col[3] == 1 && s.value[3] == 0.25F);
    data_sparse_close(&s);
    for (size_t i = 0; i < countof(wrong); i++) {
        char two[64];
        snprintf(two, sizeof(two), "1 1:1\n%s\n", wrong[i]);
        CHECK_INT(t, data_libsvm(two, strlen(two), &s, &err), OM_EFORMAT);
        CHECK(t, strstr(err.msg, "line 2") && s.block_ == NULL);
    }
    CHECK_OK(t, data_libsvm("", 0, &s, &err), err);
    CHECK_INT(t, s.n_rows, 0);
    data_sparse_close(&s);
}

static void csv(test *t)
{
    static const char text[] = "\xef\xbb\xbf\"a b\", c ,'d'\r\n1, -2.5,\n\n\"3\",?,'-1'\n";
    static const char *const wrong[] = {"1,2\n3",     "1,2\n3,4,5",    "1,2\n3,x",
                                        "1,2\n\"3,4", "1,2\n\"3\"x,4", "1,2\n3,inf"};
    data_table d;
    om_err err = {0};
    CHECK_OK(t, data_csv(text, sizeof(text) - 1, ',', &d, &err), err);
    CHECK(t, d.n_rows == 2 && d.n_cols == 3);
    CHECK(t, str_is(d.name[0], "a b") && data_column(&d, "c") == 1);
    CHECK(t, data_column(&d, "d") == 2 && data_column(&d, "e") == 3);
    CHECK(t, d.value[0] == 1 && d.value[1] == -2.5F && isnan(d.value[2]));
    CHECK(t, d.value[3] == 3 && isnan(d.value[4]) && d.value[5] == -1);
    data_table_close(&d);
    for (size_t i = 0; i < countof(wrong); i++) {
        CHECK_INT(t, data_csv(wrong[i], strlen(wrong[i]), ',', &d, &err), OM_EFORMAT);
        CHECK(t, d.block_ == NULL && err.msg[0]);
    }
    CHECK_OK(t, data_csv("1;2\n3;4", 7, ';', &d, &err), err);
    CHECK(t, d.n_rows == 2 && d.name == NULL && d.value[3] == 4);
    data_table_close(&d);
    CHECK_OK(t, data_csv("", 0, ',', &d, &err), err);
    CHECK(t, d.n_rows == 0 && d.n_cols == 0);
    data_table_close(&d);
}

/* ---- published data sets ----------------------------------------------------------------
 */

static void images(test *t)
{
    buf a = test_data_file("images/mnist/t10k-images-idx3-ubyte.gz");
    buf b = test_data_file("images/mnist/t10k-labels-idx1-ubyte.gz");
    data_idx image, label;
    om_err err = {0};
    if (!a.len) {
        test_skip(t, "the shared data is absent");
        return;
    }
    CHECK_OK(t, data_idx_open(a.data, a.len, &image, &err), err);
    CHECK_OK(t, data_idx_open(b.data, b.len, &label, &err), err);
    CHECK(t, image.n_dims == 3 && image.dim[0] == 10000 && image.dim[2] == 28);
    CHECK_INT(t, label.count, 10000);
    /* the first ten labels of MNIST's test set, as every tutorial prints them */
    static const float first[] = {7, 2, 1, 0, 4, 1, 4, 9, 5, 9};
    float got[10];
    data_idx_f32(&label, 0, 10, got);
    CHECK(t, memcmp(got, first, sizeof(first)) == 0);
    buf_free(&a);
    buf_free(&b);
}

static void tables(test *t)
{
    buf a = test_data_file("tabular/libsvm/a9a.gz");
    buf b = test_data_file("tabular/UCI_Credit_Card.csv.gz");
    buf c = test_data_file("tabular/heart-disease/processed.hungarian.data");
    buf d = test_data_file("tabular/mammography.csv.gz");
    data_sparse s;
    data_table x;
    om_err err = {0};
    if (!a.len) {
        test_skip(t, "the shared data is absent");
        return;
    }
    CHECK_OK(t, data_libsvm(a.data, a.len, &s, &err), err); /* sizes: LIBSVM's data page */
    CHECK(t, s.n_rows == 32561 && s.n_cols == 123);
    data_sparse_close(&s);
    CHECK_OK(t, data_csv(b.data, b.len, ',', &x, &err), err);
    CHECK(t, x.n_rows == 30000 && x.n_cols == 25);
    double positive = 0;
    uint32_t y = data_column(&x, "default.payment.next.month");
    for (uint32_t i = 0; y < x.n_cols && i < x.n_rows; i++)
        positive += (double)x.value[(size_t)i * x.n_cols + y];
    CHECK_INT(t, positive, 6636); /* 22.12 % */
    data_table_close(&x);
    CHECK_OK(t, data_csv(c.data, c.len, ',', &x, &err), err);
    CHECK(t, x.n_rows == 294 && x.n_cols == 14 && isnan(x.value[10]));
    data_table_close(&x);
    CHECK_OK(t, data_csv(d.data, d.len, ',', &x, &err), err);
    CHECK(t, x.n_rows == 11183 && x.n_cols == 7 && x.name == NULL);
    data_table_close(&x);
    buf_free(&a);
    buf_free(&b);
    buf_free(&c);
    buf_free(&d);
}

static void texts(test *t)
{
    buf a = test_data_file("text/gsm8k/gsm8k-test.jsonl.gz");
    buf b = test_data_file("text/instruct/self-instruct-seed_tasks.jsonl");
    buf c = test_data_file("text/names.txt.gz");
    data_texts d;
    om_err err = {0};
    if (!a.len) {
        test_skip(t, "the shared data is absent");
        return;
    }
    CHECK_OK(t, data_jsonl(a.data, a.len, "question", &d, &err), err);
    CHECK_INT(t, d.n, 1319);
    CHECK(t, str_starts(d.item[0], "Janet\xe2\x80\x99s ducks lay 16 eggs per day."));
    data_texts_close(&d);
    CHECK_OK(t, data_jsonl(b.data, b.len, "instances.0.output", &d, &err), err);
    CHECK_INT(t, d.n, 175);
    data_texts_close(&d);
    CHECK_OK(t, data_split(c.data, c.len, "\n", &d, &err), err);
    CHECK(t, d.n == 32033 && str_is(d.item[0], "emma"));
    data_texts_close(&d);
    buf_free(&a);
    buf_free(&b);
    buf_free(&c);
}

static void allocation_failure(test *t)
{
#ifdef OM_FAULTS
    om_status s = OM_ENOMEM;
    long nth = 1;
    for (; s == OM_ENOMEM; nth++) {
        data_texts a = {0}, b = {0};
        data_sparse c = {0};
        data_table d = {0};
        mem_fail_at(nth);
        s = data_split("a b", 3, " ", &a, NULL);
        s = s != OM_OK ? s : jsonl("\"a\"\n\"b\"", "", &b, NULL);
        s = s != OM_OK ? s : data_libsvm("1 1:1", 5, &c, NULL);
        s = s != OM_OK ? s : data_csv("a,b\n1,2", 7, ',', &d, NULL);
        bool failed = mem_count() >= nth;
        mem_fail_at(0);
        CHECK(t, s == (failed ? OM_ENOMEM : OM_OK));
        data_texts_close(&a);
        data_texts_close(&b);
        data_sparse_close(&c);
        data_table_close(&d);
    }
    CHECK_INT(t, nth, 6 + 2);
#else
    test_skip(t, "built without OM_FAULTS");
#endif
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"splitting", "pieces between separators", splitting},
        {"json_lines", "a path picks a string in every line", json_lines},
        {"idx_types", "every element type, big-endian; lies", idx_types},
        {"libsvm", "sparse rows; lies with their line", libsvm},
        {"csv", "quotes, missing cells, names; lies", csv},
        {"images", "MNIST's test set", images},
        {"tables", "a9a, credit cards, hospitals, mammography", tables},
        {"texts", "gsm8k, self-instruct, names", texts},
        {"allocation_failure", "every allocation may fail", allocation_failure},
        {0}};
    return test_main(argc, argv, cases);
}
