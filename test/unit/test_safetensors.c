/* test_safetensors.c - the Hugging Face tensor file in and out. */
#include "fmt/safetensors.h"
#include "test.h"

/* A file from its header's text and `data` bytes of value i; exactly sized, 8-byte
 * aligned, so that a sanitizer sees a read beyond it. */
static uint8_t *file_of(const char *header, size_t data, size_t *n)
{
    size_t h = strlen(header);
    *n = 8 + h + data;
    uint8_t *p = malloc(*n);
    if (!p)
        exit(2);
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(h >> (8 * i));
    memcpy(p + 8, header, h);
    for (size_t i = 0; i < data; i++)
        p[8 + h + i] = (uint8_t)i;
    return p;
}

static om_status open_text(const char *header, size_t data, om_err *err)
{
    size_t n;
    safetensors s;
    uint8_t *p = file_of(header, data, &n);
    om_status status = safetensors_open(p, n, &s, err);
    if (status != OM_OK && (s.block_ || s.n_tensors || !err->msg[0]))
        status = OM_EAGAIN; /* not what a failure promises */
    safetensors_close(&s);
    free(p);
    return status;
}

static void refused(test *t)
{
    static const struct {
        const char *header;
        size_t data;
        om_status want;
    } row[] = {
        {"{}", 0, OM_OK},
        {"{}", 1, OM_EFORMAT}, /* bytes nobody speaks of */
        {"[]", 0, OM_EFORMAT},
        {"{", 0, OM_EFORMAT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, OM_OK},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}   ", 8, OM_OK},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, OM_OK},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, OM_OK},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, OM_EFORMAT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9, OM_EFORMAT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, OM_EFORMAT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, OM_EFORMAT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, OM_EFORMAT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8,
         OM_EFORMAT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8,
         OM_EFORMAT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8,
         OM_EFORMAT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}", 8, OM_EFORMAT},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, OM_EFORMAT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, OM_EFORMAT},
        {"{\"a\":[]}", 8, OM_EFORMAT},
        {"{\"\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, OM_EFORMAT},
        {"{\"\\u0000\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
         OM_EFORMAT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],"
         "\"data_offsets\":[0,0]}}",
         0, OM_EFORMAT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         8, OM_EFORMAT},
        {"{\"__metadata__\":{\"a\":1}}", 0, OM_EFORMAT},
        {"{\"__metadata__\":[]}", 0, OM_EFORMAT},
        {"{\"__metadata__\":{\"a\":\"b\"},\"__metadata__\":{\"c\":\"d\"}}", 0, OM_EFORMAT},
    };
    for (size_t i = 0; i < countof(row); i++) {
        om_err err = {0};
        om_status s = open_text(row[i].header, row[i].data, &err);
        t->checks++;
        if (s != row[i].want)
            test_fail(t, __FILE__, __LINE__, "%s: %s %s", row[i].header, om_status_name(s),
                      err.msg);
    }
    static const _Alignas(8) uint8_t huge[10] = {255, 255, 255, 255, 255, 255, 255, 255};
    safetensors s;
    CHECK_INT(t, safetensors_open(huge, sizeof(huge), &s, NULL), OM_EFORMAT);
    CHECK_INT(t, safetensors_open(huge + 1, 9, &s, NULL), OM_EARG);
}

static void left_out_and_copied(test *t)
{
    /* An 8-bit mask and a rank of five are left out; F32 at odd bytes is copied. */
    static const char header[] =
        "{\"mask\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[0,3]},"
        "\"five\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1],\"data_offsets\":[3,7]},"
        "\"__metadata__\":{\"format\":\"pt\",\"x\":\"y\"},"
        "\"w\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[7,15]},"
        "\"h\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[15,17]}}";
    size_t n;
    safetensors s;
    om_err err = {0};
    uint8_t *p = file_of(header, 17, &n);
    CHECK_OK(t, safetensors_open(p, n, &s, &err), err);
    CHECK_INT(t, s.n_tensors, 2);
    CHECK_INT(t, s.n_skipped, 2);
    CHECK_INT(t, s.n_meta, 2);
    CHECK(t, str_is(s.meta_key[1], "x") && str_is(s.meta_value[1], "y"));
    const tensor *w = safetensors_find(&s, "w");
    static const uint8_t want[] = {7, 8, 9, 10, 11, 12, 13, 14};
    CHECK(t, w && w->n_dims == 2 && w->dim[1] == 2 && w->bytes == 8);
    CHECK(t, w && (uintptr_t)w->data % 4 == 0 && memcmp(w->data, want, 8) == 0);
    CHECK(t, safetensors_find(&s, "mask") == NULL && safetensors_find(&s, "v") == NULL);
    safetensors_close(&s);
    CHECK(t, safetensors_find(&s, "w") == NULL);
    free(p);
}

static om_status write_sample(const char *path, om_err *err)
{
    static const uint16_t half[3] = {0x3c00, 0xbc00, 0x7c00};
    static const float full[4] = {1, -2, 3.5F, 1e-30F};
    static const str key[] = {{"format", 6}}, value[] = {{"pt", 2}};
    const tensor ts[] = {
        {STR("a.half"), DTYPE_F16, 1, {3, 1, 1, 1}, half, 6},
        {STR("b.full"), DTYPE_F32, 2, {2, 2, 1, 1}, full, 16},
        {STR("scalar"), DTYPE_F32, 0, {1, 1, 1, 1}, full + 2, 4},
    };
    return safetensors_write(path, ts, 3, key, value, 1, err);
}

static void round_trip(test *t)
{
    char path[200];
    om_err err = {0};
    os_map m;
    safetensors s;
    os_join(path, sizeof(path), test_temp_dir(), "x.safetensors");
    CHECK_OK(t, write_sample(path, &err), err);
    CHECK_OK(t, os_map_open(path, &m, &err), err);
    CHECK_OK(t, safetensors_open(m.p, m.n, &s, &err), err);
    CHECK_INT(t, s.n_tensors, 3);
    CHECK(t, str_is(s.tensors[0].name, "b.full")); /* wider elements first */
    const tensor *half = safetensors_find(&s, "a.half"),
                 *one = safetensors_find(&s, "scalar");
    CHECK(t, half && half->type == DTYPE_F16 && half->bytes == 6 &&
                 ((const uint16_t *)half->data)[2] == 0x7c00);
    CHECK(t, one && one->n_dims == 0 && *(const float *)one->data == 3.5F);
    CHECK(t, s.n_meta == 1 && str_is(s.meta_value[0], "pt"));
    CHECK_INT(t, (uintptr_t)s.tensors[0].data % 8, 0);
    safetensors_close(&s);
    for (size_t n = 0; n < m.n; n++) { /* every prefix */
        uint8_t *copy = malloc(n ? n : 1);
        memcpy(copy, m.p, n);
        CHECK_INT(t, safetensors_open(copy, n, &s, &err), OM_EFORMAT);
        free(copy);
    }
    uint8_t *copy = malloc(m.n);
    for (size_t i = 0; i < 8 * (m.n - 26); i++) {
        memcpy(copy, m.p, m.n);
        copy[i / 8] ^= (uint8_t)(1 << i % 8);
        om_status status = safetensors_open(copy, m.n, &s, &err);
        CHECK(t, (status == OM_OK) == (s.block_ != NULL));
        safetensors_close(&s);
    }
    free(copy);
    os_map_close(&m);
}

static void writer_refuses(test *t)
{
    char path[200];
    om_err err = {0};
    static const float x[32] = {0};
    tensor good = {STR("w"), DTYPE_F32, 1, {2, 1, 1, 1}, x, 8}, wrong = good;
    os_join(path, sizeof(path), test_temp_dir(), "refused.safetensors");
    wrong.bytes = 7;
    CHECK_INT(t, safetensors_write(path, &wrong, 1, NULL, NULL, 0, &err), OM_EARG);
    wrong = good;
    wrong.name = STR("a\0b");
    CHECK_INT(t, safetensors_write(path, &wrong, 1, NULL, NULL, 0, &err), OM_EARG);
    wrong = (tensor){STR("q"), DTYPE_Q8_0, 1, {32, 1, 1, 1}, x, 34};
    CHECK_INT(t, safetensors_write(path, &wrong, 1, NULL, NULL, 0, &err), OM_EARG);
    CHECK(t, !os_exists(path));
    CHECK_OK(t, safetensors_write(path, &good, 1, NULL, NULL, 0, &err), err);
    CHECK(t, os_exists(path));
}

static void shards(test *t)
{
    static const char index[] =
        "{\"metadata\":{\"total_size\":1},\"weight_map\":{\"a\":\"m-2.safetensors\","
        "\"b\":\"m-1.safetensors\",\"c\":\"m-2.safetensors\"}}";
    static const char *const wrong[] = {"",
                                        "{}",
                                        "[]",
                                        "{\"weight_map\":[]}",
                                        "{\"weight_map\":{}}",
                                        "{\"weight_map\":{\"a\":1}}",
                                        "{\"weight_map\":{\"a\":\"../x\"}}",
                                        "{\"weight_map\":{\"a\":\"/etc/passwd\"}}",
                                        "{\"weight_map\":{\"a\":\"..\"}}",
                                        "{\"weight_map\":{\"a\":\"\"}}",
                                        "{\"weight_map\":{\"a\":\"x\\u0000\"}}"};
    safetensors_shards s;
    om_err err = {0};
    CHECK_OK(t, safetensors_shards_open(index, sizeof(index) - 1, &s, &err), err);
    CHECK_INT(t, s.n, 2);
    CHECK_STR(t, s.file[0].p, "m-1.safetensors");
    CHECK_STR(t, s.file[1].p, "m-2.safetensors");
    safetensors_shards_close(&s);
    for (size_t i = 0; i < countof(wrong); i++) {
        CHECK_INT(t, safetensors_shards_open(wrong[i], strlen(wrong[i]), &s, &err),
                  OM_EFORMAT);
        CHECK(t, s.n == 0 && s.block_ == NULL);
    }
}

static void allocation_failure(test *t)
{
#ifdef OM_FAULTS
    static const char header[] =
        "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[1,9]},"
        "\"m\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}} ";
    static const char index[] = "{\"weight_map\":{\"a\":\"b\"}}";
    char path[200];
    size_t n;
    om_err err = {0};
    os_join(path, sizeof(path), test_temp_dir(), "faults.safetensors");
    CHECK_OK(t, os_write_file_atomic(path, "old", 3, &err), err);
    uint8_t *p = file_of(header, 9, &n);
    om_status s = OM_ENOMEM;
    long nth = 1;
    for (; s == OM_ENOMEM; nth++) {
        safetensors st = {0};
        safetensors_shards sh = {0};
        mem_fail_at(nth);
        s = safetensors_open(p, n, &st, &err);
        if (s == OM_OK)
            s = safetensors_shards_open(index, sizeof(index) - 1, &sh, &err);
        if (s == OM_OK)
            s = write_sample(path, &err);
        bool failed = mem_count() >= nth;
        mem_fail_at(0);
        CHECK(t, s == (failed ? OM_ENOMEM : OM_OK));
        uint64_t size = 0;
        CHECK_OK(t, os_file_size(path, &size, &err), err);
        CHECK(t, (size == 3) == failed);
        safetensors_close(&st);
        safetensors_shards_close(&sh);
    }
    CHECK(t, nth > 7);
    free(p);
#else
    test_skip(t, "built without OM_FAULTS");
#endif
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"refused", "headers that lie are refused", refused},
        {"left_out", "unused types are left out, misaligned data is copied",
         left_out_and_copied},
        {"round_trip", "written and read; every prefix, every flipped bit", round_trip},
        {"writer_refuses", "nothing is written that could not be read", writer_refuses},
        {"shards", "an index names plain files once", shards},
        {"allocation_failure", "every allocation may fail", allocation_failure},
        {0}};
    return test_main(argc, argv, cases);
}
