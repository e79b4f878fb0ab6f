/* test_gguf.c - GGUF in and out: what a written file gives back, what is refused, real
 * files (published ones, made by other programs), every prefix, every flipped bit of a
 * header and every failed allocation. */
#include "fmt/gguf.h"
#include "test.h"

/* ---- a small file with a key of every type ------------------------------------------- */

static const float weights[6] = {0, 1, 2, 3, 4, 5.5F}; /* (2,3) */

static void announce(gguf_writer *w)
{
    static const str words[] = {{"a", 1}, {"", 0}, {"\xc3\xa9t\xc3\xa9", 5}};
    static const int32_t ints[] = {-1, 0, INT32_MAX};
    gguf_put_str(w, "general.architecture", STR("llama"));
    gguf_put_u32(w, "n", 7);
    gguf_put_u64(w, "big", UINT64_MAX);
    gguf_put_f32(w, "eps", 1e-5F);
    gguf_put_bool(w, "flag", true);
    gguf_put_strings(w, "words", words, 3);
    gguf_put_array(w, "ints", GGUF_I32, ints, 3);
    gguf_put_array(w, "empty", GGUF_F32, NULL, 0);
    tensor a = {
        .name = STR("a.weight"), .type = DTYPE_F32, .n_dims = 2, .dim = {2, 3, 1, 1}};
    tensor b = {.name = STR("b"), .type = DTYPE_Q8_0, .n_dims = 1, .dim = {32, 1, 1, 1}};
    gguf_put_tensor_info(w, &a);
    gguf_put_tensor_info(w, &b);
}

/* Bytes in an aligned block of exactly n, so that a sanitizer sees a read beyond it. */
static uint8_t *exact_copy(const void *p, size_t n)
{
    uint8_t *q = malloc(n ? n : 1);
    if (!q)
        exit(2);
    memcpy(q, p, n);
    return q;
}

static om_status build(buf *out, om_err *err)
{
    gguf_writer *w;
    uint8_t q8[34];
    memset(q8, 3, sizeof(q8));
    TRY(gguf_writer_open_buf(out, &w, err));
    announce(w);
    om_status s = gguf_begin_data(w, err);
    if (s == OM_OK)
        s = gguf_write_data(w, weights, 10, err); /* pieces of any size */
    if (s == OM_OK)
        s = gguf_write_data(w, (const uint8_t *)weights + 10, 14, err);
    if (s == OM_OK)
        s = gguf_write_data(w, q8, sizeof(q8), err);
    if (s != OM_OK) {
        gguf_writer_abort(w);
        return s;
    }
    return gguf_writer_commit(w, err);
}

static void check_small(test *t, const gguf *g)
{
    str words[3];
    om_err err = {0};
    CHECK_INT(t, g->n_kv, 8);
    CHECK(t, str_is(gguf_str(g, "general.architecture", ""), "llama"));
    CHECK_INT(t, gguf_u64(g, "n", 0), 7);
    CHECK(t, gguf_u64(g, "big", 0) == UINT64_MAX && gguf_i64(g, "big", -3) == -3);
    CHECK(t, gguf_f64(g, "eps", 0) == (double)1e-5F && gguf_u64(g, "eps", 9) == 9);
    CHECK(t, gguf_bool(g, "flag", false) && gguf_u64(g, "flag", 0) == 1);
    CHECK(t, gguf_bool(g, "n", true) && gguf_bool(g, "absent", true));
    CHECK_INT(t, gguf_strings(gguf_find(g, "words"), words, &err), OM_OK);
    CHECK(t, str_is(words[0], "a") && words[1].n == 0 &&
                 str_is(words[2], "\xc3\xa9t\xc3\xa9"));
    CHECK_INT(t, gguf_strings(gguf_find(g, "ints"), words, &err), OM_EFORMAT);
    CHECK_INT(t, gguf_at_i64(gguf_find(g, "ints"), 0), -1);
    CHECK_NEAR(t, gguf_at_f64(gguf_find(g, "ints"), 2), INT32_MAX, 0);
    CHECK_INT(t, gguf_u64(g, "ints", 5), 5); /* an array is no scalar */
    CHECK_INT(t, gguf_find(g, "empty")->count, 0);
    const tensor *a = gguf_tensor(g, "a.weight"), *b = gguf_tensor(g, "b");
    CHECK(t, a && a->n_dims == 2 && a->dim[0] == 2 && a->dim[1] == 3 && a->bytes == 24);
    CHECK(t, a && memcmp(a->data, weights, 24) == 0);
    CHECK(t, b && b->type == DTYPE_Q8_0 && b->bytes == 34 && *(const char *)b->data == 3);
    CHECK(t, gguf_tensor(g, "c") == NULL && gguf_find(g, "") == NULL);
}

static void written_and_read(test *t)
{
    buf file = buf_growing(1 << 20);
    om_err err = {0};
    gguf g;
    CHECK_OK(t, build(&file, &err), err);
    CHECK_INT(t, file.len % 32, 0);
    uint8_t *copy = exact_copy(file.data, file.len);
    CHECK_OK(t, gguf_open(copy, file.len, &g, &err), err);
    check_small(t, &g);
    gguf_close(&g);
    CHECK(t, gguf_find(&g, "n") == NULL && gguf_tensor(&g, "b") == NULL);
    copy[4] = 2; /* version 2 has the same layout */
    CHECK_OK(t, gguf_open(copy, file.len, &g, &err), err);
    check_small(t, &g);
    gguf_close(&g);
    CHECK_INT(t, gguf_open(copy + 1, file.len - 1, &g, &err), OM_EARG);
    free(copy);
    buf_free(&file);
}

/* ---- hostile bytes ----------------------------------------------------------------------
 */

typedef struct { /* a file written by hand */
    uint8_t raw[1024];
    buf b;
} hand;

static void head(hand *h, uint32_t version, uint64_t n_tensors, uint64_t n_kv)
{
    h->b = buf_fixed(h->raw, sizeof(h->raw));
    buf_put(&h->b, "GGUF", 4);
    buf_u32(&h->b, version);
    buf_u64(&h->b, n_tensors);
    buf_u64(&h->b, n_kv);
}

static void text(hand *h, const char *z)
{
    buf_u64(&h->b, strlen(z));
    buf_str(&h->b, str_of(z));
}

static void info(hand *h, const char *name, uint32_t n_dims, const uint64_t *dims,
                 uint32_t type, uint64_t offset)
{
    text(h, name);
    buf_u32(&h->b, n_dims);
    for (uint32_t d = 0; d < n_dims; d++)
        buf_u64(&h->b, dims[d]);
    buf_u32(&h->b, type);
    buf_u64(&h->b, offset);
}

static void expect_at(test *t, int line, hand *h, om_status want)
{
    gguf g;
    om_err err = {0};
    uint8_t *copy = exact_copy(h->raw, h->b.len);
    om_status s = gguf_open(copy, h->b.len, &g, &err);
    t->checks++;
    if (s != want || (s != OM_OK && (g.block_ || !err.msg[0])))
        test_fail(t, __FILE__, line, "%s: %s", om_status_name(s), err.msg);
    gguf_close(&g);
    free(copy);
}
#define EXPECT(want) expect_at(t, __LINE__, &h, want)

static void refused_heads(test *t)
{
    hand h;
    head(&h, 3, 0, 0);
    EXPECT(OM_OK);
    h.raw[0] = 'g';
    EXPECT(OM_EFORMAT);
    head(&h, 1, 0, 0);
    EXPECT(OM_EUNSUPPORTED);
    head(&h, 0x03000000, 0, 0);
    EXPECT(OM_EUNSUPPORTED);
    head(&h, 3, UINT64_MAX, 0);
    EXPECT(OM_EFORMAT);
    head(&h, 3, 0, UINT64_MAX / 64 + 1);
    EXPECT(OM_EFORMAT);
    h.b.len = 0;
    EXPECT(OM_EFORMAT);
    size_t n = 24 + 14 * ((size_t)GGUF_MAX_KV + 1); /* room for them, yet too many */
    uint8_t *many = mem_alloc(n);
    head(&h, 3, 0, GGUF_MAX_KV + 1);
    memcpy(many, h.raw, 24);
    gguf g;
    CHECK_INT(t, gguf_open(many, n, &g, NULL), OM_ELIMIT);
    mem_free(many);
}

static void refused_keys(test *t)
{
    hand h;
    head(&h, 3, 0, 1), text(&h, "k"), buf_u32(&h.b, GGUF_TYPE_COUNT), buf_u32(&h.b, 0);
    EXPECT(OM_EFORMAT);
    head(&h, 3, 0, 1), text(&h, "k"), buf_u32(&h.b, GGUF_BOOL), buf_u8(&h.b, 2);
    EXPECT(OM_EFORMAT);
    head(&h, 3, 0, 1), text(&h, ""), buf_u32(&h.b, GGUF_U32), buf_u64(&h.b, 0);
    EXPECT(OM_EFORMAT);
    head(&h, 3, 0, 1), text(&h, "a\nb"), buf_u32(&h.b, GGUF_U8), buf_u8(&h.b, 0);
    EXPECT(OM_EFORMAT);
    head(&h, 3, 0, 1), text(&h, "\xff"), buf_u32(&h.b, GGUF_U8), buf_u8(&h.b, 0);
    EXPECT(OM_EFORMAT);
    head(&h, 3, 0, 1), buf_u64(&h.b, UINT64_MAX), buf_u64(&h.b, 0);
    EXPECT(OM_EFORMAT);
    for (int i = 0; i < 2; i++) {
        if (i == 0)
            head(&h, 3, 0, 2);
        text(&h, "same"), buf_u32(&h.b, GGUF_U8), buf_u8(&h.b, 0);
    }
    EXPECT(OM_EFORMAT);
}

static void refused_arrays(test *t)
{
    static const struct {
        uint32_t elem;
        uint64_t n;
        om_status want;
    } row[] = {{GGUF_ARRAY, 1, OM_EUNSUPPORTED},
               {99, 1, OM_EFORMAT},
               {GGUF_U32, 1, OM_OK},
               {GGUF_U32, 2, OM_EFORMAT},
               {GGUF_U64, UINT64_MAX / 8 + 2, OM_EFORMAT},
               {GGUF_U8, UINT64_MAX, OM_EFORMAT},
               {GGUF_STRING, 1, OM_EFORMAT},
               {GGUF_STRING, UINT64_MAX, OM_EFORMAT},
               {GGUF_BOOL, 4, OM_EFORMAT},
               {GGUF_STRING, 0, OM_OK}};
    for (size_t i = 0; i < countof(row); i++) {
        hand h;
        head(&h, 3, 0, 1), text(&h, "k"), buf_u32(&h.b, GGUF_ARRAY);
        buf_u32(&h.b, row[i].elem), buf_u64(&h.b, row[i].n), buf_u32(&h.b, 0xffffffff);
        EXPECT(row[i].want);
    }
}

static void refused_tensors(test *t)
{
    static const struct {
        uint32_t n_dims, type;
        uint64_t dims[5], offset;
        om_status want;
    } row[] = {
        {1, DTYPE_F32, {16}, 0, OM_OK},
        {4, DTYPE_F32, {16, 1, 1, 1}, 0, OM_OK},
        {1, DTYPE_F32, {8}, 32, OM_OK},
        {1, DTYPE_F32, {17}, 0, OM_EFORMAT}, /* behind the end */
        {1, DTYPE_F32, {8}, 64, OM_EFORMAT},
        {1, DTYPE_F32, {8}, 8, OM_EFORMAT}, /* not aligned */
        {1, DTYPE_F32, {8}, UINT64_MAX - 31, OM_EFORMAT},
        {1, DTYPE_F32, {8}, (uint64_t)1 << 63, OM_EFORMAT},
        {0, DTYPE_F32, {0}, 0, OM_EFORMAT},
        {5, DTYPE_F32, {1, 1, 1, 1, 1}, 0, OM_EFORMAT},
        {1, DTYPE_F32, {0}, 0, OM_EFORMAT},
        {2, DTYPE_F32, {16, 0}, 0, OM_EFORMAT},
        {2, DTYPE_F32, {(uint64_t)1 << 32, (uint64_t)1 << 32}, 0, OM_EFORMAT},
        {2, DTYPE_F32, {(uint64_t)1 << 62, 1}, 0, OM_EFORMAT},
        {1, DTYPE_Q8_0, {32}, 0, OM_OK},
        {1, DTYPE_Q8_0, {33}, 0, OM_EFORMAT}, /* ragged */
        {1, 4, {32}, 0, OM_EUNSUPPORTED},     /* a withdrawn type */
        {1, 1000, {32}, 0, OM_EUNSUPPORTED},
    };
    for (size_t i = 0; i < countof(row); i++) {
        hand h;
        head(&h, 3, 1, 0);
        info(&h, "w", row[i].n_dims, row[i].dims, row[i].type, row[i].offset);
        while (h.b.len % 32)
            buf_u8(&h.b, 0);
        for (int b = 0; b < 64; b++)
            buf_u8(&h.b, 1);
        EXPECT(row[i].want);
    }
}

static void twice_the_same_tensor(test *t)
{
    static const uint64_t eight[] = {8};
    hand h;
    head(&h, 3, 2, 0);
    info(&h, "w", 1, eight, DTYPE_F32, 0);
    info(&h, "w", 1, eight, DTYPE_F32, 0);
    h.b.len = 128;
    EXPECT(OM_EFORMAT);
    h.raw[24 + 8 + 1 + 4 + 8 + 4 + 8 + 8] = 'v'; /* two names may share bytes */
    EXPECT(OM_OK);
}

static void alignment(test *t)
{
    static const uint32_t good[] = {8, 64, 4096}, wrong[] = {0, 4, 24, 1u << 31};
    static const uint64_t dims[] = {2};
    for (size_t i = 0; i < countof(good) + countof(wrong); i++) {
        bool ok = i < countof(good);
        hand h;
        uint8_t raw[8300] = {0};
        head(&h, 3, 1, 1), text(&h, "general.alignment"), buf_u32(&h.b, GGUF_U32);
        buf_u32(&h.b, ok ? good[i] : wrong[i - countof(good)]);
        info(&h, "w", 1, dims, DTYPE_F32, 0);
        memcpy(raw, h.raw, h.b.len);
        gguf g;
        uint8_t *copy = exact_copy(raw, sizeof(raw));
        CHECK_INT(t, gguf_open(copy, sizeof(raw), &g, NULL), ok ? OM_OK : OM_EFORMAT);
        if (ok)
            CHECK_INT(t, (const uint8_t *)gguf_tensor(&g, "w")->data - copy,
                      size_align(h.b.len, good[i]));
        gguf_close(&g);
        free(copy);
    }
    hand h;
    head(&h, 3, 0, 1), text(&h, "general.alignment"), buf_u32(&h.b, GGUF_U64);
    buf_u64(&h.b, 32);
    EXPECT(OM_EFORMAT);
}

static void truncation(test *t)
{
    buf file = buf_growing(1 << 20);
    om_err err = {0};
    CHECK_OK(t, build(&file, &err), err);
    for (size_t n = 0; n < file.len; n++) {
        gguf g;
        uint8_t *copy = exact_copy(file.data, n);
        om_status s = gguf_open(copy, n, &g, &err);
        /* only the padding behind the last tensor may be missing */
        CHECK(t, s == OM_EFORMAT || (s == OM_OK && n >= file.len - 30));
        gguf_close(&g);
        if (gguf_open_part(copy, n, file.len, &g, &err) == OM_OK)
            CHECK(t, n >= g.data_at - 31 && (gguf_tensor(&g, "a.weight")->data != NULL) ==
                                                (n >= g.data_at + 24));
        gguf_close(&g);
        free(copy);
    }
    buf_free(&file);
}

static void flipped_bits(test *t)
{
    buf file = buf_growing(1 << 20);
    om_err err = {0};
    CHECK_OK(t, build(&file, &err), err);
    uint8_t *copy = exact_copy(file.data, file.len);
    for (size_t i = 0; i < 8 * (file.len - 64); i++) {
        gguf g;
        copy[i / 8] ^= (uint8_t)(1 << i % 8);
        om_status s = gguf_open(copy, file.len, &g, &err);
        CHECK(t, (s == OM_OK) == (g.block_ != NULL));
        gguf_close(&g);
        copy[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    free(copy);
    buf_free(&file);
}

/* ---- the writer
 * ----------------------------------------------------------------------------- */

static om_status one_tensor(tensor info_of, const char *key, om_err *err)
{
    buf out = buf_growing(1 << 20);
    gguf_writer *w;
    TRY(gguf_writer_open_buf(&out, &w, err));
    gguf_put_u32(w, key, 64);
    gguf_put_u32(w, "second", 64);
    gguf_put_tensor_info(w, &info_of);
    om_status s = gguf_begin_data(w, err);
    gguf_writer_abort(w);
    buf_free(&out);
    return s;
}

static void writer_refuses(test *t)
{
    om_err err = {0};
    tensor good = {.name = STR("w"), .type = DTYPE_F32, .n_dims = 1, .dim = {2, 1, 1, 1}};
    tensor wrong = good;
    CHECK_OK(t, one_tensor(good, "general.alignment", &err), err);
    CHECK_INT(t, one_tensor(good, "second", &err), OM_EARG); /* a key twice */
    CHECK_INT(t, one_tensor(good, "", &err), OM_EARG);
    wrong.name = STR("a\nb");
    CHECK_INT(t, one_tensor(wrong, "k", &err), OM_EARG);
    wrong = good;
    wrong.dim[0] = 0;
    CHECK_INT(t, one_tensor(wrong, "k", &err), OM_EARG);
    wrong.type = DTYPE_Q8_0;
    wrong.dim[0] = 31;
    CHECK_INT(t, one_tensor(wrong, "k", &err), OM_EARG);
}

static void file_is_atomic(test *t)
{
    char path[200];
    om_err err = {0};
    gguf_writer *w;
    uint64_t size;
    tensor a = {.name = STR("w"), .type = DTYPE_F32, .n_dims = 2, .dim = {2, 3, 1, 1}};
    os_join(path, sizeof(path), test_temp_dir(), "x.gguf");
    CHECK_OK(t, os_write_file_atomic(path, "old", 3, &err), err);
    for (int missing = 1; missing >= 0; missing--) {
        CHECK_OK(t, gguf_writer_open(path, &w, &err), err);
        gguf_put_tensor_info(w, &a);
        CHECK_OK(t, gguf_begin_data(w, &err), err);
        CHECK_INT(t, gguf_write_data(w, weights, 25, &err), OM_EARG);
        CHECK_OK(t, gguf_write_data(w, weights, 24 - (size_t)missing, &err), err);
        CHECK_INT(t, gguf_writer_commit(w, &err), missing ? OM_EARG : OM_OK);
        CHECK_OK(t, os_file_size(path, &size, &err), err);
        CHECK_INT(t, size, missing ? 3 : 128);
    }
    os_map m;
    gguf g;
    CHECK_OK(t, os_map_open(path, &m, &err), err);
    CHECK_OK(t, gguf_open(m.p, m.n, &g, &err), err);
    CHECK(t, memcmp(gguf_tensor(&g, "w")->data, weights, 24) == 0);
    gguf_close(&g);
    os_map_close(&m);
}

/* write(read(file)), through memory. */
static om_status rewrite(const gguf *g, buf *out, om_err *err)
{
    gguf_writer *w;
    TRY(gguf_writer_open_buf(out, &w, err));
    for (uint32_t i = 0; i < g->n_kv; i++)
        gguf_put_kv(w, &g->kv[i]);
    for (uint32_t i = 0; i < g->n_tensors; i++)
        gguf_put_tensor_info(w, &g->tensors[i]);
    om_status s = gguf_begin_data(w, err);
    for (uint32_t i = 0; s == OM_OK && i < g->n_tensors; i++)
        s = gguf_write_data(w, g->tensors[i].data, g->tensors[i].bytes, err);
    if (s != OM_OK) {
        gguf_writer_abort(w);
        return s;
    }
    return gguf_writer_commit(w, err);
}

static void check_equal(test *t, const gguf *a, const gguf *b)
{
    CHECK_INT(t, b->n_kv, a->n_kv);
    CHECK_INT(t, b->n_tensors, a->n_tensors);
    for (uint32_t i = 0; i < a->n_kv; i++) {
        const gguf_kv *x = &a->kv[i], *y = &b->kv[i];
        CHECK(t, str_eq(x->key, y->key) && x->type == y->type && x->elem == y->elem);
        CHECK(t, x->count == y->count && x->raw_bytes == y->raw_bytes &&
                     memcmp(x->raw, y->raw, x->raw_bytes) == 0);
    }
    for (uint32_t i = 0; i < a->n_tensors; i++) {
        const tensor *x = &a->tensors[i], *y = &b->tensors[i];
        CHECK(t, str_eq(x->name, y->name) && x->type == y->type && x->n_dims == y->n_dims);
        CHECK(t, memcmp(x->dim, y->dim, sizeof(x->dim)) == 0 && x->bytes == y->bytes &&
                     memcmp(x->data, y->data, x->bytes) == 0);
    }
}

static void check_file(test *t, const void *p, size_t n, uint32_t n_kv, uint32_t n_tensors)
{
    om_err err = {0};
    gguf g, back;
    buf out = buf_growing((size_t)1 << 28);
    CHECK_OK(t, gguf_open(p, n, &g, &err), err);
    CHECK_INT(t, g.n_kv, n_kv);
    CHECK_INT(t, g.n_tensors, n_tensors);
    CHECK_OK(t, rewrite(&g, &out, &err), err);
    CHECK_OK(t, gguf_open(out.data, out.len, &back, &err), err);
    check_equal(t, &g, &back);
    if (g.version == 3 && g.n_tensors) /* by other writers, yet the same bytes */
        CHECK(t, out.len == n && memcmp(out.data, p, n) == 0);
    gguf_close(&back);
    gguf_close(&g);
    buf_free(&out);
}

static void real_files(test *t)
{
    static const struct { /* counts read with Python's struct */
        const char *name;
        uint32_t n_kv, n_tensors;
    } file[] = {{"models/llama-2-tiny-random.gguf", 18, 12},
                {"models/stories260K.gguf", 19, 48},
                {"tokenizers/ggml-vocab/ggml-vocab-bert-bge.gguf.gz", 20, 0},
                {"tokenizers/ggml-vocab/ggml-vocab-falcon.gguf.gz", 18, 0},
                {"tokenizers/ggml-vocab/ggml-vocab-gpt-2.gguf.gz", 16, 0},
                {"tokenizers/ggml-vocab/ggml-vocab-llama-spm.gguf.gz", 22, 0},
                {"tokenizers/ggml-vocab/ggml-vocab-phi-3.gguf.gz", 26, 0}};
    bool any = false;
    for (size_t i = 0; i < countof(file); i++) {
        buf b = test_data_file(file[i].name);
        any |= b.len > 0;
        if (b.len)
            check_file(t, b.data, b.len, file[i].n_kv, file[i].n_tensors);
        buf_free(&b);
    }
    if (!any)
        test_skip(t, "the shared data is absent");
}

static void stories(test *t)
{
    buf b = test_data_file("models/stories260K.gguf");
    om_err err = {0};
    gguf g;
    if (!b.len) {
        test_skip(t, "the shared data is absent");
        return;
    }
    CHECK_OK(t, gguf_open(b.data, b.len, &g, &err), err);
    CHECK(t, str_is(gguf_str(&g, "general.architecture", ""), "llama"));
    CHECK_INT(t, gguf_u64(&g, "llama.embedding_length", 0), 64);
    CHECK_INT(t, gguf_u64(&g, "llama.block_count", 0), 5);
    const gguf_kv *tokens = gguf_find(&g, "tokenizer.ggml.tokens");
    str token[512];
    CHECK_INT(t, tokens ? tokens->count : 0, 512);
    CHECK_OK(t, gguf_strings(tokens, token, &err), err);
    CHECK(t, str_is(token[1], "<s>") || str_is(token[1], "\n<s>\n"));
    const tensor *down = gguf_tensor(&g, "blk.4.ffn_down.weight");
    CHECK(t, down && down->dim[0] == 64 && down->dim[1] == 172);
    gguf_close(&g);
    buf_free(&b);
}

static void allocation_failure(test *t)
{
#ifdef OM_FAULTS
    buf good = buf_growing(1 << 20);
    om_err err = {0};
    CHECK_OK(t, build(&good, &err), err);
    om_status s = OM_ENOMEM;
    long nth = 1;
    for (; s == OM_ENOMEM; nth++) { /* writing, then reading */
        buf out = buf_growing(1 << 20);
        gguf g = {0};
        mem_fail_at(nth);
        s = build(&out, &err);
        if (s == OM_OK)
            s = gguf_open(good.data, good.len, &g, &err);
        bool failed = mem_count() >= nth;
        mem_fail_at(0);
        CHECK(t, s == (failed ? OM_ENOMEM : OM_OK));
        gguf_close(&g);
        buf_free(&out);
    }
    CHECK(t, nth > 6);
    buf_free(&good);
#else
    test_skip(t, "built without OM_FAULTS");
#endif
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"written_and_read", "every type of value comes back, v2 and v3", written_and_read},
        {"refused_heads", "magic, version, impossible counts", refused_heads},
        {"refused_keys", "names, types, bools, doubles", refused_keys},
        {"refused_arrays", "nesting, counts that overflow", refused_arrays},
        {"refused_tensors", "shapes, ranges, types", refused_tensors},
        {"twice", "a tensor's name is there once", twice_the_same_tensor},
        {"alignment", "general.alignment is obeyed or refused", alignment},
        {"truncation", "every prefix is refused", truncation},
        {"flipped_bits", "every flipped bit is harmless", flipped_bits},
        {"writer_refuses", "what the reader would refuse is not written", writer_refuses},
        {"file_is_atomic", "the old file stays until the new one is whole", file_is_atomic},
        {"real_files", "published files: write(read(f)) is f", real_files},
        {"stories", "a published model's values", stories},
        {"allocation_failure", "every allocation may fail", allocation_failure},
        {0}};
    return test_main(argc, argv, cases);
}
