/* data.c - training data: the first byte of the input chooses the reader. */
#include "fmt/data.h"
#include "fuzz.h"

static void texts(const uint8_t *p, size_t n, uint8_t which)
{
    static const char *const separator[] = {"\n", "\n\n", "<|endoftext|>", "aa"};
    static const char *const path[] = {"", "text", "a.0.b", "0"};
    data_texts t;
    om_status s = which < 4 ? data_split(p, n, separator[which], &t, NULL)
                            : data_jsonl(p, n, path[which - 4], &t, NULL);
    FUZZ_CHECK(s == OM_OK || !t.block_);
    for (uint32_t i = 0; i < t.n; i++) {
        FUZZ_CHECK(t.item[i].n > 0);
        fuzz_touch(t.item[i].p, t.item[i].n);
    }
    data_texts_close(&t);
}

static void idx(const uint8_t *p, size_t n)
{
    data_idx d;
    if (data_idx_open(p, n, &d, NULL) != OM_OK)
        return;
    float v[8];
    for (size_t i = 0; i < d.count; i += 8)
        data_idx_f32(&d, i, size_min(8, d.count - i), v);
}

static void libsvm(const uint8_t *p, size_t n)
{
    data_sparse s;
    om_status status = data_libsvm(p, n, &s, NULL);
    FUZZ_CHECK(status == OM_OK || !s.block_);
    for (uint32_t i = 0; i < s.n_rows; i++)
        for (size_t k = s.row[i]; k < s.row[i + 1]; k++) {
            FUZZ_CHECK(s.col[k] < s.n_cols);
            FUZZ_CHECK(k == s.row[i] || s.col[k] > s.col[k - 1]);
            fuzz_touch(&s.value[k], 4);
        }
    data_sparse_close(&s);
}

static void csv(const uint8_t *p, size_t n, char comma)
{
    data_table t;
    om_status status = data_csv(p, n, comma, &t, NULL);
    FUZZ_CHECK(status == OM_OK || !t.block_);
    fuzz_touch(t.value, (size_t)t.n_rows * t.n_cols * 4);
    for (uint32_t i = 0; t.name && i < t.n_cols; i++)
        fuzz_touch(t.name[i].p, t.name[i].n);
    (void)data_column(&t, "a");
    data_table_close(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0)
        return 0;
    uint8_t *file = fuzz_copy(data + 1, n - 1);
    uint8_t which = data[0] % 12;
    if (which < 8)
        texts(file, n - 1, which);
    else if (which == 8)
        idx(file, n - 1);
    else if (which == 9)
        libsvm(file, n - 1);
    else
        csv(file, n - 1, which == 10 ? ',' : ';');
    free(file);
    return 0;
}
