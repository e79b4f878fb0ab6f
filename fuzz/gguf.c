/* gguf.c - any bytes as a GGUF file: all values are read; what is accepted is written,
 * read back as the same, and written again as the same bytes. */
#include "fmt/gguf.h"
#include "fuzz.h"

static void use(const gguf *g)
{
    for (uint32_t i = 0; i < g->n_kv; i++) {
        const gguf_kv *kv = &g->kv[i];
        fuzz_touch(kv->raw, kv->raw_bytes);
        for (uint64_t k = 0; k < kv->count; k += 1 + kv->count / 16) {
            (void)gguf_at_f64(kv, k);
            (void)gguf_at_i64(kv, k);
        }
        str *s = calloc(kv->elem == GGUF_STRING ? kv->count + 1 : 1, sizeof(*s));
        FUZZ_CHECK(s);
        bool strings = gguf_strings(kv, s, NULL) == OM_OK;
        FUZZ_CHECK(strings == (kv->type == GGUF_ARRAY && kv->elem == GGUF_STRING));
        for (uint64_t k = 0; strings && k < kv->count; k++)
            fuzz_touch(s[k].p, s[k].n);
        free(s);
    }
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        const tensor *t = &g->tensors[i];
        size_t bytes = 0;
        FUZZ_CHECK(tensor_measure(t->type, t->dim, t->n_dims, &bytes) && bytes == t->bytes);
        FUZZ_CHECK((uintptr_t)t->data % 8 == 0);
        fuzz_touch(t->data, t->bytes);
        char name[GGUF_MAX_NAME + 1] = {0};
        memcpy(name, t->name.p, t->name.n);
        FUZZ_CHECK(gguf_tensor(g, name) == t);
    }
    (void)gguf_u64(g, "a", 0);
    (void)gguf_bool(g, "a", false);
}

static void rewrite(const gguf *g, buf *out)
{
    gguf_writer *w;
    om_err err = {0};
    FUZZ_CHECK(gguf_writer_open_buf(out, &w, &err) == OM_OK);
    for (uint32_t i = 0; i < g->n_kv; i++)
        gguf_put_kv(w, &g->kv[i]);
    for (uint32_t i = 0; i < g->n_tensors; i++)
        gguf_put_tensor_info(w, &g->tensors[i]);
    FUZZ_CHECK(gguf_begin_data(w, &err) == OM_OK);
    for (uint32_t i = 0; i < g->n_tensors; i++)
        FUZZ_CHECK(gguf_write_data(w, g->tensors[i].data, g->tensors[i].bytes, &err) ==
                   OM_OK);
    FUZZ_CHECK(gguf_writer_commit(w, &err) == OM_OK);
}

/* One tensor's bytes may be shared by many; written out each has its own. */
static size_t unshared_bytes(const gguf *g)
{
    size_t n = 0;
    for (uint32_t i = 0; i < g->n_tensors; i++)
        n += size_align(g->tensors[i].bytes, g->alignment);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    gguf g, back;
    om_err err = {0};
    uint8_t *file = fuzz_copy(data, n);
    om_status s = gguf_open(file, n, &g, &err);
    FUZZ_CHECK((s == OM_OK) == (g.block_ != NULL) && (s == OM_OK || err.msg[0]));
    if (s == OM_OK)
        use(&g);
    if (s == OM_OK && unshared_bytes(&g) < 1 << 22) {
        buf first = buf_growing(1 << 27), second = buf_growing(1 << 27);
        rewrite(&g, &first);
        FUZZ_CHECK(gguf_open(first.data, first.len, &back, &err) == OM_OK);
        FUZZ_CHECK(back.n_kv == g.n_kv && back.n_tensors == g.n_tensors);
        for (uint32_t i = 0; i < g.n_tensors; i++)
            FUZZ_CHECK(
                memcmp(back.tensors[i].data, g.tensors[i].data, g.tensors[i].bytes) == 0);
        rewrite(&back, &second);
        FUZZ_CHECK(first.len == second.len &&
                   memcmp(first.data, second.data, first.len) == 0);
        gguf_close(&back);
        buf_free(&first);
        buf_free(&second);
    }
    gguf_close(&g);
    free(file);
    return 0;
}
