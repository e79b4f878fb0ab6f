/* safetensors.c - any bytes as a safetensors file, and as an index of shards. */
#include "fmt/safetensors.h"
#include "fuzz.h"

static void use(const safetensors *s)
{
    for (uint32_t i = 0; i < s->n_tensors; i++) {
        const tensor *t = &s->tensors[i];
        size_t bytes = 0;
        char name[SAFETENSORS_MAX_NAME + 1] = {0};
        FUZZ_CHECK(tensor_measure(t->type, t->dim, t->n_dims, &bytes) && bytes == t->bytes);
        FUZZ_CHECK((uintptr_t)t->data % dtype_of(t->type)->bytes == 0);
        fuzz_touch(t->data, t->bytes);
        memcpy(name, t->name.p, t->name.n);
        FUZZ_CHECK(safetensors_find(s, name) == t);
    }
    for (uint32_t i = 0; i < s->n_meta; i++) {
        fuzz_touch(s->meta_key[i].p, s->meta_key[i].n);
        fuzz_touch(s->meta_value[i].p, s->meta_value[i].n);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    safetensors s;
    safetensors_shards h;
    om_err err = {0};
    uint8_t *file = fuzz_copy(data, n);
    om_status status = safetensors_open(file, n, &s, &err);
    FUZZ_CHECK((status == OM_OK) == (s.block_ != NULL) && (status == OM_OK || err.msg[0]));
    use(&s);
    safetensors_close(&s);
    status = safetensors_shards_open(file, n, &h, &err);
    FUZZ_CHECK((status == OM_OK) == (h.n > 0));
    for (uint32_t i = 0; i < h.n; i++)
        FUZZ_CHECK(strlen(h.file[i].p) == h.file[i].n && !strchr(h.file[i].p, '/'));
    safetensors_shards_close(&h);
    free(file);
    return 0;
}
