/* llama2c.c - any bytes as a llama2.c checkpoint. */
#include "fmt/llama2c.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    llama2c m;
    om_err err = {0};
    uint8_t *file = fuzz_copy(data, n);
    om_status s = llama2c_open(file, n, &m, &err);
    FUZZ_CHECK((s == OM_OK) == (m.block_ != NULL) && (s == OM_OK || err.msg[0]));
    for (uint32_t i = 0; i < m.n_tensors; i++) {
        const tensor *t = &m.tensors[i];
        size_t bytes = 0;
        FUZZ_CHECK(tensor_measure(t->type, t->dim, t->n_dims, &bytes) && bytes == t->bytes);
        FUZZ_CHECK((uintptr_t)t->data % 4 == 0 && strlen(t->name.p) == t->name.n);
        fuzz_touch(t->data, t->bytes);
    }
    llama2c_close(&m);
    free(file);
    return 0;
}
