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
                test_fail(t, __FILE__, __LINE__, "%s[%u] is %.9g, expected %.9g", d->name,
                          i, (double)got[i], (double)w);
        }
        types++;
    }
    CHECK_INT(t, types, 12);
    buf_free(&file);
}

/* Every entry of the code books: test/golden/iq.bin, by ggml's own decoder in NumPy. */
static void books(test *t)
{
    om_err err;
    buf file = {0};
    CHECK_OK(t, os_read_file(OM_SOURCE_DIR "/test/golden/iq.bin", 1 << 20, &file, &err), err);
    cursor c = cursor_of(file.data, file.len);
    int types = 0;
    while (c.pos < c.n && c.ok) {
        dtype id = (dtype)cursor_u32(&c);
        uint32_t n = cursor_u32(&c), bytes = cursor_u32(&c);
        const uint8_t *blocks = cursor_take(&c, bytes), *want = cursor_take(&c, 8 * n);
        const dtype_traits *d = dtype_of(id);
        CHECK(t, c.ok && d && d->unpack && d->block == QK && bytes == n * d->bytes);
        if (!c.ok || !d || !d->unpack || bytes != n * d->bytes)
            break;
        for (uint32_t b = 0; b < n; b++) {
            float v[QK];
            double sum = 0, expected;
            d->unpack(blocks + b * d->bytes, v, QK);
            for (int i = 0; i < QK; i++)
                sum += (double)v[i] * (i + 1);
            memcpy(&expected, want + 8 * b, 8);
            t->checks++;
            if (sum != expected)
                test_fail(t, __FILE__, __LINE__, "%s block %u sums to %.17g, expected %.17g",
                          d->name, b, sum, expected);
        }
        types++;
    }
    CHECK_INT(t, types, 7);
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
            test_fail(t, __FILE__, __LINE__, "f16 %04x comes back as %04x", h,
                      f32_to_f16(v));
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

/* Relative squared error of packing standard normals; at most `limit`, which is what the
 * published encoders reach on such data (unweighted), and less with every bit. */
static double relative_error(dtype id, const float *x, size_t n, void *packed, float *back)
{
    const dtype_traits *d = dtype_of(id);
    double e = 0, s = 0;
    d->pack(x, packed, n);
    d->unpack(packed, back, n);
    for (size_t i = 0; i < n; i++) {
        e += ((double)x[i] - (double)back[i]) * ((double)x[i] - (double)back[i]);
        s += (double)x[i] * (double)x[i];
    }
    return e / s;
}

enum { GAUSS = 64 * 1024 };
static float gauss[GAUSS], back[GAUSS];
static uint8_t packed[4 * GAUSS];

static void pack_error(test *t)
{
    static const struct {
        dtype id;
        double limit;
    } rows[] = {{DTYPE_Q2_K, .0889},  {DTYPE_Q3_K, .0227},  {DTYPE_Q4_0, .00735},
                {DTYPE_Q4_1, .00615}, {DTYPE_Q4_K, .00508}, {DTYPE_Q5_0, .00182},
                {DTYPE_Q5_1, .00150}, {DTYPE_Q5_K, .00129}, {DTYPE_Q6_K, .000311},
                {DTYPE_Q8_0, .0000295}, {DTYPE_BF16, 3e-6}, {DTYPE_F16, 5e-8},
                {DTYPE_F32, 0}};
    rng r = rng_for(5, 0, 0, 0);
    for (size_t i = 0; i < GAUSS; i++)
        gauss[i] = (float)rng_normal(&r);
    for (size_t i = 0; i < countof(rows); i++) {
        double e = relative_error(rows[i].id, gauss, GAUSS, packed, back);
        t->checks++;
        if (!(e <= rows[i].limit))
            test_fail(t, __FILE__, __LINE__, "%s: relative error %.3g over %.3g",
                      dtype_of(rows[i].id)->name, e, rows[i].limit);
        if (getenv("OCTOMIL_TEST_VERBOSE"))
            printf("%-5s %.6f\n", dtype_of(rows[i].id)->name, e);
    }
    CHECK(t, memcmp(gauss, back, sizeof(back)) == 0);
}

/* Packing what was unpacked changes little; zeros stay zeros; non-finite input and huge or
 * tiny values are survived; the bytes around the block are left alone. */
static void pack_edges(test *t)
{
    static const float special[] = {0,        1e-38f,    1e30f, -1e30f,
                                    INFINITY, -INFINITY, NAN,   65504};
    for (int id = 0; id < DTYPE_COUNT; id++) {
        const dtype_traits *d = dtype_of((dtype)id);
        if (!d || !d->pack)
            continue;
        size_t n = d->block == 1 ? 16 : d->block;
        float x[256], y[256];
        uint8_t raw[4 * 256 + 2];
        size_t bytes = n / d->block * d->bytes;
        for (size_t s = 0; s < countof(special); s++) {
            for (size_t i = 0; i < n; i++)
                x[i] = i % 3 ? (float)i * 0.01f : special[s];
            memset(raw, 0x5a, sizeof(raw));
            d->pack(x, raw + 1, n);
            d->unpack(raw + 1, y, n);
            CHECK(t, raw[0] == 0x5a && raw[bytes + 1] == 0x5a);
        }
        memset(x, 0, sizeof(x));
        d->pack(x, raw + 1, n);
        d->unpack(raw + 1, y, n);
        for (size_t i = 0; i < n; i++)
            CHECK(t, y[i] == 0.0f);
        for (size_t i = 0; i < n; i++)
            x[i] = 3.25f;
        d->pack(x, raw + 1, n);
        d->unpack(raw + 1, y, n);
        for (size_t i = 0; i < n; i++)
            CHECK_NEAR(t, y[i], 3.25f, 0.02f);
    }
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"table", "names, sizes, refusals", table},
        {"books", "code books equal ggml's, entry by entry", books},
        {"golden", "unpacking equals an independent NumPy reading", golden},
        {"half_range", "all 65536 f16 values, both ways", half_range},
        {"half_rounding", "f32 to f16 rounds to nearest even", half_rounding},
        {"bfloat", "bf16 both ways", bfloat},
        {"pack_error", "error on Gaussian data at most the published one", pack_error},
        {"pack_edges", "zeros, constants, non-finite input", pack_edges},
        {0}};
    return test_main(argc, argv, cases);
}
