/* test_llama2c.c - llama2.c checkpoints: a small one of each version made here, and
 * published ones beside the GGUF file of the same model. */
#include "fmt/gguf.h"
#include "fmt/llama2c.h"
#include "test.h"

enum { DIM = 4, HIDDEN = 6, LAYERS = 2, HEADS = 2, KV = 1, VOCAB = 5, SEQ = 3 };

static void put_head(buf *b, int version, bool tied, uint32_t group)
{
    if (version) {
        buf_u32(b, 0x616b3432);
        buf_u32(b, (uint32_t)version);
    }
    const int32_t head[] = {
        DIM, HIDDEN, LAYERS, HEADS, KV, version == 0 && !tied ? -VOCAB : VOCAB, SEQ};
    for (size_t i = 0; i < countof(head); i++)
        buf_u32(b, (uint32_t)head[i]);
    if (!version)
        return;
    buf_u8(b, tied);
    if (version == 2)
        buf_u32(b, group);
    while (b->len < 256)
        buf_u8(b, 0);
}

/* n floats counting from `first`. */
static void put_floats(buf *b, size_t n, float first)
{
    for (size_t i = 0; i < n; i++)
        buf_f32(b, first + (float)i);
}

/* n int8, then n / group scales: a value is int8 * scale. */
static void put_groups(buf *b, size_t n, size_t group)
{
    for (size_t i = 0; i < n; i++)
        buf_u8(b, (uint8_t)(i % 7 - 3));
    for (size_t i = 0; i < n / group; i++)
        buf_f32(b, (float)i + 0.5F);
}

/* Parts of a layer in the order wq wk wv wo w1 w2 w3. */
static const size_t matrix[] = {16, 8, 8, 16, 24, 24, 24};

static void build(buf *b, int version, bool tied, uint32_t group)
{
    put_head(b, version, tied, group);
    if (version == 0)
        put_floats(b, VOCAB * DIM, 0);
    put_floats(b, LAYERS * DIM, 1000); /* attention norms */
    if (version == 0)
        for (size_t i = 0; i < 4; i++)
            put_floats(b, LAYERS * matrix[i], 2000 + 100 * (float)i);
    put_floats(b, LAYERS * DIM, 1100); /* feed-forward norms */
    if (version == 0)
        for (size_t i = 4; i < 7; i++)
            put_floats(b, LAYERS * matrix[i], 2000 + 100 * (float)i);
    put_floats(b, DIM, 1200);
    if (version == 0)
        put_floats(b, SEQ * (DIM / HEADS), 9000);
    for (size_t i = 0; version == 1 && i < 8; i++)
        put_floats(b, i ? LAYERS * matrix[i - 1] : VOCAB * DIM,
                   i ? 1900 + 100 * (float)i : 0);
    if (version == 2)
        put_groups(b, VOCAB * DIM, group);
    for (size_t i = 0; version == 2 && i < 7; i++)
        for (int l = 0; l < LAYERS; l++)
            put_groups(b, matrix[i], group);
    if (!tied && version == 2)
        put_groups(b, VOCAB * DIM, group);
    else if (!tied)
        put_floats(b, VOCAB * DIM, 5000);
}

static float at(const llama2c *m, const char *name, size_t i)
{
    const tensor *x = llama2c_find(m, name);
    return x && i * 4 < x->bytes ? ((const float *)x->data)[i] : (float)NAN;
}

static void f32_versions(test *t)
{
    for (int version = 0; version < 2; version++)
        for (int tied = 0; tied < 2; tied++) {
            buf b = buf_growing(1 << 16);
            om_err err = {0};
            llama2c m;
            build(&b, version, tied, 0);
            CHECK_OK(t, llama2c_open(b.data, b.len, &m, &err), err);
            CHECK(t, m.version == (uint32_t)version && m.tied == tied && m.seq_len == SEQ);
            CHECK_INT(t, m.n_tensors, 9 * LAYERS + 2 + !tied);
            CHECK_INT(t, m.vocab_size, VOCAB);
            CHECK(t, at(&m, "token_embd.weight", 3) == 3);
            CHECK(t, at(&m, "blk.1.attn_norm.weight", 0) == 1000 + DIM);
            CHECK(t, at(&m, "blk.1.attn_k.weight", 0) == 2100 + 8);
            CHECK(t, at(&m, "blk.1.attn_output.weight", 1) == 2300 + 16 + 1);
            CHECK(t, at(&m, "blk.0.ffn_norm.weight", 1) == 1101);
            CHECK(t, at(&m, "blk.1.ffn_gate.weight", 0) == 2400 + 24);
            CHECK(t, at(&m, "blk.1.ffn_down.weight", 0) == 2500 + 24);
            CHECK(t, at(&m, "blk.1.ffn_up.weight", 23) == 2600 + 47);
            CHECK(t, at(&m, "output_norm.weight", 0) == 1200);
            const tensor *down = llama2c_find(&m, "blk.0.ffn_down.weight");
            CHECK(t, down && down->dim[0] == DIM && down->dim[1] == HIDDEN);
            CHECK(t, (llama2c_find(&m, "output.weight") == NULL) == tied);
            CHECK(t, tied || at(&m, "output.weight", 0) == 5000);
            llama2c_close(&m);
            buf_free(&b);
        }
}

static void int8_version(test *t)
{
    for (int tied = 0; tied < 2; tied++) {
        buf b = buf_growing(1 << 16);
        om_err err = {0};
        llama2c m;
        build(&b, 2, tied, 4);
        CHECK_OK(t, llama2c_open(b.data, b.len, &m, &err), err);
        CHECK_INT(t, m.group_size, 4);
        CHECK(t, at(&m, "token_embd.weight", 2) == -1 * 0.5F);
        CHECK(t, at(&m, "blk.1.attn_q.weight", 15) == (15 % 7 - 3) * 3.5F);
        CHECK(t, at(&m, "blk.1.ffn_up.weight", 23) == (23 % 7 - 3) * 5.5F);
        CHECK(t, at(&m, "blk.1.ffn_norm.weight", 1) == 1100 + DIM + 1);
        CHECK(t, tied || at(&m, "output.weight", 19) == (19 % 7 - 3) * 4.5F);
        llama2c_close(&m);
        buf_free(&b);
    }
    buf b = buf_growing(1 << 16); /* a group that does not divide every matrix */
    llama2c m;
    build(&b, 2, true, 5);
    CHECK_INT(t, llama2c_open(b.data, b.len, &m, NULL), OM_EFORMAT);
    buf_free(&b);
}

static void refused(test *t)
{
    static const struct {
        size_t at;
        uint32_t value;
    } row[] = {{8, 0},           {8, 1 << 30},     {12, 0},         {16, 0}, {16, 3},
               {16, UINT32_MAX}, {20, 0},          {20, 3},         {24, 0}, {24, 4},
               {28, 0},          {28, UINT32_MAX}, {32, 0},         {4, 3},  {4, 0},
               {37, 0},          {37, UINT32_MAX}, {28, VOCAB + 1}, {0, 4}};
    for (size_t i = 0; i < countof(row); i++) {
        buf b = buf_growing(1 << 16);
        om_err err = {0};
        llama2c m;
        build(&b, 2, true, 4);
        for (int k = 0; k < 4; k++)
            b.data[row[i].at + (size_t)k] = (uint8_t)(row[i].value >> (8 * k));
        om_status want = row[i].at == 4 ? OM_EUNSUPPORTED : OM_EFORMAT;
        CHECK_INT(t, llama2c_open(b.data, b.len, &m, &err), want);
        CHECK(t, m.block_ == NULL && err.msg[0]);
        buf_free(&b);
    }
}

static void truncation(test *t)
{
    for (int version = 0; version < 3; version++) {
        buf b = buf_growing(1 << 16);
        om_err err = {0};
        llama2c m;
        build(&b, version, version == 1, 4);
        for (size_t n = 0; n <= b.len + 1; n++) {
            uint8_t *copy = calloc(1, n ? n : 1);
            memcpy(copy, b.data, size_min(n, b.len));
            CHECK_INT(t, llama2c_open(copy, n, &m, &err), n == b.len ? OM_OK : OM_EFORMAT);
            llama2c_close(&m);
            free(copy);
        }
        buf_free(&b);
    }
}

static void allocation_failure(test *t)
{
#ifdef OM_FAULTS
    buf b = buf_growing(1 << 16);
    llama2c m;
    build(&b, 2, false, 4);
    mem_fail_at(1);
    om_status s = llama2c_open(b.data, b.len, &m, NULL);
    mem_fail_at(0);
    CHECK_INT(t, s, OM_ENOMEM);
    CHECK(t, m.block_ == NULL);
    buf_free(&b);
#else
    test_skip(t, "built without OM_FAULTS");
#endif
}

/* ---- published files ---------------------------------------------------------------- */

static bool map_model(const char *name, os_map *m)
{
    char path[500];
    const char *dir = test_data_dir();
    return dir && os_join(path, sizeof(path), dir, name) == OM_OK &&
           os_map_open(path, m, NULL) == OM_OK;
}

static void stories(test *t)
{
    os_map bin, gg, q8;
    om_err err = {0};
    gguf g;
    llama2c m, q;
    if (!map_model("models/stories260K.bin", &bin) ||
        !map_model("models/stories260K.gguf", &gg) ||
        !map_model("models/stories260K-q80-gs8.bin", &q8)) {
        test_skip(t, "the shared data is absent");
        return;
    }
    CHECK_OK(t, gguf_open(gg.p, gg.n, &g, &err), err);
    CHECK_OK(t, llama2c_open(bin.p, bin.n, &m, &err), err);
    CHECK_OK(t, llama2c_open(q8.p, q8.n, &q, &err), err);
    CHECK(t, m.tied && m.dim == 64 && m.hidden_dim == 172 && m.n_layers == 5);
    CHECK_INT(t, q.group_size, 8);
    CHECK_INT(t, m.n_tensors, 47);
    for (uint32_t i = 0; i < m.n_tensors; i++) {
        const tensor *a = &m.tensors[i], *b = gguf_tensor(&g, a->name.p);
        const tensor *c = llama2c_find(&q, a->name.p);
        CHECK(t, b && b->type == DTYPE_F32 && b->n_dims == a->n_dims);
        CHECK(t, b && memcmp(a->dim, b->dim, sizeof(a->dim)) == 0);
        CHECK(t, b && a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0);
        double err2 = 0, all2 = 0;
        for (size_t k = 0; c && k < a->bytes / 4; k++) {
            double x = (double)((const float *)a->data)[k];
            double d = x - (double)((const float *)c->data)[k];
            err2 += d * d;
            all2 += x * x;
        }
        CHECK(t, c && err2 < 1e-4 * all2); /* 8 bits in groups of 8 */
    }
    llama2c_close(&q);
    llama2c_close(&m);
    gguf_close(&g);
    os_map_close(&q8);
    os_map_close(&gg);
    os_map_close(&bin);
}

static void others(test *t)
{
    static const char *const name[] = {"models/babyllama-0.9M-char105.bin",
                                       "models/llama2xs-281K-tok512.bin",
                                       "models/relufied-260K-q80.bin"};
    for (size_t i = 0; i < countof(name); i++) {
        os_map b;
        llama2c m;
        om_err err = {0};
        if (!map_model(name[i], &b)) {
            test_skip(t, "the shared data is absent");
            return;
        }
        CHECK_OK(t, llama2c_open(b.p, b.n, &m, &err), err);
        CHECK_INT(t, m.n_layers, i == 2 ? 4 : 5);
        float first = at(&m, "output_norm.weight", 0); /* a trained norm is near one */
        CHECK(t, fabsf(first) > 0.1F && fabsf(first) < 20);
        llama2c_close(&m);
        os_map_close(&b);
    }
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"f32_versions", "legacy and version 1, tied and not", f32_versions},
        {"int8_version", "version 2: int8 times scale", int8_version},
        {"refused", "heads that make no model", refused},
        {"truncation", "every other length is refused", truncation},
        {"allocation_failure", "no memory is reported", allocation_failure},
        {"stories", "the same bits as the GGUF file of the same model", stories},
        {"others", "other published checkpoints open", others},
        {0}};
    return test_main(argc, argv, cases);
}
