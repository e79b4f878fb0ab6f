/* test_tensor.c - sizes of shapes, overflow, and reading part of a tensor. */
#include "test.h"

#include "tensor/tensor.h"

static void measure(test *t)
{
    size_t bytes = 0;
    CHECK(t, tensor_measure(DTYPE_F32, (uint64_t[]){2, 3, 5}, 3, &bytes) && bytes == 120);
    CHECK(t, tensor_measure(DTYPE_Q4_K, (uint64_t[]){7, 512}, 2, &bytes) && bytes == 2016);
    CHECK(t, tensor_measure(DTYPE_F16, (uint64_t[]){9}, 1, &bytes) && bytes == 18);
    CHECK(t, tensor_measure(DTYPE_F32, NULL, 0, &bytes) && bytes == 4);
    CHECK(t, tensor_measure(DTYPE_F32, (uint64_t[]){0, 3}, 2, &bytes) && bytes == 0);
    CHECK(t, !tensor_measure(DTYPE_Q8_0, (uint64_t[]){32, 31}, 2, &bytes));
    CHECK(t, !tensor_measure(DTYPE_F32, (uint64_t[]){1, 1, 1, 1, 1}, 5, &bytes));
    uint64_t big = (uint64_t)1 << 32;
    CHECK(t, !tensor_measure(DTYPE_F32, (uint64_t[]){big, big}, 2, &bytes));
    CHECK(t, !tensor_measure(DTYPE_I8, (uint64_t[]){big, big}, 2, &bytes));
    /* 2^64 elements of 18/32 bytes would fit in bytes, not in a count. */
    CHECK(t, !tensor_measure(DTYPE_Q4_0, (uint64_t[]){big, big}, 2, &bytes));
}

static void reading(test *t)
{
    float v[12], out[12];
    om_err err;
    for (int i = 0; i < 12; i++)
        v[i] = (float)i;
    tensor a = {.name = STR("a"), .type = DTYPE_F32, .n_dims = 3, .dim = {2, 3, 2, 1},
                .data = v, .bytes = sizeof(v)};
    CHECK_INT(t, tensor_count(&a), 12);
    CHECK_INT(t, tensor_rows(&a), 6);
    CHECK_INT(t, tensor_cols(&a), 2);
    CHECK_OK(t, tensor_to_f32(&a, 5, 7, out, &err), err);
    CHECK(t, out[0] == 5.0f && out[6] == 11.0f);
    CHECK_INT(t, tensor_to_f32(&a, 6, 7, out, &err), OM_EARG);
    CHECK_INT(t, tensor_to_f32(&a, UINT64_MAX, 2, out, &err), OM_EARG);
    a.type = DTYPE_I16;
    CHECK_INT(t, tensor_to_f32(&a, 0, 1, out, &err), OM_EUNSUPPORTED);
}

static void blocks(test *t)
{
    uint8_t q[2 * sizeof(block_q8_0)] = {0};
    float out[32];
    om_err err;
    q[sizeof(block_q8_0) + 1] = 0x3c; /* scale 1.0 of the second block */
    q[sizeof(block_q8_0) + 2] = 0xff; /* q = -1 */
    tensor a = {.name = STR("a"), .type = DTYPE_Q8_0, .n_dims = 1, .dim = {64, 1, 1, 1},
                .data = q, .bytes = sizeof(q)};
    CHECK_OK(t, tensor_to_f32(&a, 32, 32, out, &err), err);
    CHECK(t, out[0] == -1.0f && out[1] == 0.0f);
    CHECK_INT(t, tensor_to_f32(&a, 16, 32, out, &err), OM_EARG);
    CHECK_INT(t, tensor_to_f32(&a, 0, 33, out, &err), OM_EARG);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"measure", "bytes of a shape, overflow refused", measure},
        {"reading", "a stretch of a plain tensor as f32", reading},
        {"blocks", "a stretch of a packed tensor, on block borders only", blocks},
        {0}};
    return test_main(argc, argv, cases);
}
