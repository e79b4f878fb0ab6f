/* test_dtype.c - laws of the tensor types: sizes, golden bytes (test/golden/dtype.bin,
 * written by an independent NumPy reading of the format), 16-bit floats over their whole
 * range, and what packing may lose. */
#include "test.h"

#include "kern/blocks.h"
#include "os/os.h"

static void table(test *t)
{
    CHECK(t, dtype_of(DTYPE_COUNT) == NULL);
    CHECK(t, dtype_of((dtype)-1) == NULL);
    CHECK(t, dtype_of((dtype)4) == NULL); /* a hole in the format's ids */
    int n = 0;
    for (int i = 0; i < DTYPE_COUNT; i++) {
        const dtype_traits *d = dtype_of((dtype)i);
        if (!d)
            continue;
        n++;
        CHECK_INT(t, dtype_find(str_of(d->name)), i);
        CHECK(t, d->block && d->bytes);
    }
    CHECK(t, n >= 20);
    CHECK_INT(t, dtype_find(STR("q4_k")), DTYPE_Q4_K);
    CHECK_INT(t, dtype_find(STR("Q4_K_M")), DTYPE_COUNT);
    CHECK_INT(t, dtype_find(STR("")), DTYPE_COUNT);
    size_t bytes = 7;
    CHECK(t, dtype_row_bytes(DTYPE_Q4_K, 512, &bytes) && bytes == 288);
    CHECK(t, dtype_row_bytes(DTYPE_I64, 3, &bytes) && bytes == 24);
    CHECK(t, dtype_row_bytes(DTYPE_Q8_0, 0, &bytes) && bytes == 0);
    CHECK(t, !dtype_row_bytes(DTYPE_Q4_K, 511, &bytes));
    CHECK(t, !dtype_row_bytes(DTYPE_F32, UINT64_MAX, &bytes));
    CHECK(t, !dtype_row_bytes(DTYPE_Q8_K, 256, &bytes));
}

static void golden(test *t)
{
    om_err err;
    buf file = {0};
    CHECK_OK(t, os_read_file(OM_SOURCE_DIR "/test/golden/dtype.bin", 1 << 20, &file, &err),
             err);
    cursor c = cursor_of(file.data, file.len);
    int types = 0;
    while (c.pos < c.n && c.ok) {
        dtype id = (dtype)cursor_u32(&c);
        uint32_t n = cursor_u32(&c), bytes = cursor_u32(&c);
        const uint8_t *blocks = cursor_take(&c, bytes), *want = cursor_take(&c, 4 * n);
        const dtype_traits *d = dtype_of(id);
        size_t row;
        CHECK(t, c.ok && d && d->unpack && n <= 1024);
        if (!c.ok || !d || !d->unpack || n > 1024)
            break;
        CHECK(t, dtype_row_bytes(id, n, &row) && row == bytes);
        float got[1024];
        d->unpack(blocks, got, n);
        for (uint32_t i = 0; i < n; i++) {
            float w;
            memcpy(&w, want + 4 * i, 4);
            t->checks++;
            if (got[i] != w)
                test_fail(t, __FILE__, __LINE__, "%s[%u] is %.9g, expected %.9g", d->name, i,
                          (double)got[i], (double)w);
        }
        types++;
    }
    CHECK_INT(t, types, 12);
    buf_free(&file);
}

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

/* Every f16: its value by definition, and back. */
static void half_range(test *t)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        uint32_t e = h >> 10 & 31, f = h & 0x3ff;
        double mag = e == 0 ? ldexp(f, -24) : ldexp(1024 + f, (int)e - 25);
        float v = f16_to_f32((uint16_t)h);
        if (e == 31) {
            CHECK(t, f ? isnan(v) : isinf(v));
            CHECK(t, f ? (f32_to_f16(v) & 0x7e00) == 0x7e00 : f32_to_f16(v) == h);
            continue;
        }
        t->checks += 2;
        if ((double)v != (h & 0x8000 ? -mag : mag) || !signbit(v) != !(h >> 15))
            test_fail(t, __FILE__, __LINE__, "f16 %04x is %.9g", h, (double)v);
        if (f32_to_f16(v) != h)
            test_fail(t, __FILE__, __LINE__, "f16 %04x comes back as %04x", h, f32_to_f16(v));
    }
}

/* Nearest even: of the two neighbours, the nearer; at a tie the even one. */
static void half_rounding(test *t)
{
    for (uint16_t h = 0; h < 0x7bff; h++) {
        float a = f16_to_f32(h), b = f16_to_f32((uint16_t)(h + 1)), mid = 0.5f * (a + b);
        uint16_t even = (uint16_t)(h + (h & 1));
        t->checks++;
        if (f32_to_f16(mid) != even || f32_to_f16(nextafterf(mid, 0)) != h ||
            f32_to_f16(nextafterf(mid, 1e9f)) != h + 1)
            test_fail(t, __FILE__, __LINE__, "rounding near f16 %04x", h);
    }
    CHECK_INT(t, f32_to_f16(65519.996f), 0x7bff);
    CHECK_INT(t, f32_to_f16(65520.0f), 0x7c00);
    CHECK_INT(t, f32_to_f16(-1e30f), 0xfc00);
    CHECK_INT(t, f32_to_f16(0x1p-26f), 0);
}

static void bfloat(test *t)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        float v = bf16_to_f32((uint16_t)h);
        if (!isnan(v))
            CHECK_INT(t, f32_to_bf16(v), h);
        else
            CHECK(t, isnan(bf16_to_f32(f32_to_bf16(v))));
    }
    float tie = 1.00390625f; /* 1 + 2^-8: halfway between 3f80 and 3f81 */
    CHECK_INT(t, f32_to_bf16(tie), 0x3f80);
    CHECK_INT(t, f32_to_bf16(nextafterf(tie, 2)), 0x3f81);
    CHECK_INT(t, bits_of(bf16_to_f32(0x3f81)), 0x3f810000);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"table", "names, sizes, refusals", table},
        {"golden", "unpacking equals an independent NumPy reading", golden},
        {"half_range", "all 65536 f16 values, both ways", half_range},
        {"half_rounding", "f32 to f16 rounds to nearest even", half_rounding},
        {"bfloat", "bf16 both ways", bfloat},
        {0}};
    return test_main(argc, argv, cases);
}
