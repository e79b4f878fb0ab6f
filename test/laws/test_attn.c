/* test_attn.c - the law of attention over a cache: every instruction set's products
 * against sums in double within what rounding allows; blocks hold what was written; packed
 * types within the error their levels promise; rotation keeps scalar products; attention
 * over packed pages against attention over what those pages hold. */
#include "nn/nn.h"
#include "test.h"

#include <float.h>

static const struct {
    const char *name;
    unsigned flags;
} sets[] = {{"c", 1u << 31},
            {"avx2", CPU_AVX2},
            {"avx512", CPU_AVX2 | CPU_AVX512},
            {"neon", CPU_NEON}};

static float *normal(rng *r, size_t n)
{
    float *x = mem_array(n, sizeof(*x));
    for (size_t i = 0; i < n; i++)
        x[i] = (float)rng_normal(r);
    return x;
}

/* Levels of a block as numbers: its scales are 1. */
static void block_levels(kv_type type, bool values, const void *block, size_t d, float *w)
{
    float *x = mem_array(KV_TOKENS * d, sizeof(*x));
    kern k;
    float scale[KV_TOKENS];
    kern_init(&k, 1u << 31);
    kv_unpack(type, values, block, d, x);
    if (kv_packed(type))
        kv_scales(&k, type, values, block, d, scale);
    size_t rows = values ? KV_TOKENS : kv_rows(d), lanes = values ? kv_lanes(d) : KV_TOKENS;
    for (size_t i = 0; i < rows * lanes; i++) /* padding is code 0 */
        w[i] = type == KV_Q4 ? kv_level4[0] : type == KV_Q3 ? kv_level3[0] : 0;
    for (size_t t = 0; t < KV_TOKENS; t++)
        for (size_t i = 0; i < d; i++) {
            float v = x[t * d + i] / (kv_packed(type) ? scale[t] : 1.0f);
            w[values ? t * lanes + i : i * lanes + t] = kv_packed(type) ? rintf(v) : v;
        }
    mem_free(x);
}

static void check_product(test *t, const kern *k, kv_type type, bool values, size_t d,
                          size_t n)
{
    rng r = rng_for(d * 8 + type, (uint32_t)n, values, 0);
    size_t rows = values ? KV_TOKENS : kv_rows(d), lanes = values ? kv_lanes(d) : KV_TOKENS;
    float *x = normal(&r, KV_TOKENS * d), *a = normal(&r, n * (rows + 3));
    float *y = normal(&r, n * (lanes + 5)), *w = mem_array(rows * lanes, sizeof(*w));
    uint8_t *block = mem_alloc(kv_block_bytes(type, values, d));
    for (size_t i = 0; i < KV_TOKENS && !kv_packed(type); i++)
        kv_put(k, type, values, block, d, i, x + i * d);
    if (kv_packed(type))
        kv_pack(type, values, block, d, x);
    block_levels(type, values, block, d, w);
    float *before = mem_array(n * (lanes + 5), sizeof(*y));
    for (int add = 0; add < 2; add++) {
        memcpy(before, y, n * (lanes + 5) * sizeof(*y));
        kv_product p = {.w = block,
                        .rows = rows,
                        .lanes = lanes,
                        .a = a,
                        .lda = rows + 3,
                        .n = n,
                        .y = y,
                        .ldy = lanes + 5,
                        .add = add};
        k->attn->product[type](&p);
        for (size_t i = 0; i < n; i++)
            for (size_t l = 0; l < lanes; l++) {
                double sum = add ? (double)before[i * (lanes + 5) + l] : 0,
                       size = fabs(sum);
                for (size_t j = 0; j < rows; j++) {
                    double v = (double)a[i * (rows + 3) + j] * (double)w[j * lanes + l];
                    sum += v;
                    size += fabs(v);
                }
                double got = (double)y[i * (lanes + 5) + l];
                if (!(fabs(got - sum) <= size * (double)rows * (double)FLT_EPSILON)) {
                    test_fail(t, __FILE__, __LINE__, "%s %s d %zu n %zu (%zu, %zu): %g, %g",
                              k->attn->name, kv_type_name(type), d, n, i, l, got, sum);
                    goto done;
                }
            }
        for (size_t i = 0; i + 1 < n; i++) /* nothing beyond a row is written */
            CHECK(t, memcmp(y + i * (lanes + 5) + lanes, before + i * (lanes + 5) + lanes,
                            5 * sizeof(*y)) == 0);
    }
done:
    t->checks++;
    mem_free(x);
    mem_free(a);
    mem_free(y);
    mem_free(w);
    mem_free(before);
    mem_free(block);
}

static void products(test *t)
{
    static const size_t dims[] = {8, 48, 64, 80, 128, 264},
                        counts[] = {1, 3, 4, 7, 8, 9, 33};
    for (size_t s = 0; s < countof(sets); s++) {
        kern k;
        kern_init(&k, sets[s].flags);
        if (strcmp(k.attn->name, sets[s].name) != 0)
            continue; /* not on this machine */
        for (int type = 0; type < KV_TYPES; type++)
            for (size_t d = 0; d < countof(dims); d++)
                for (size_t n = 0; n < countof(counts); n++) {
                    check_product(t, &k, (kv_type)type, false, dims[d], counts[n]);
                    check_product(t, &k, (kv_type)type, true, dims[d], counts[n]);
                }
    }
}

/* Sums do not depend on what else is in the product: bits, for the vector sets. */
static void rows_alone(test *t)
{
    kern k;
    rng r = rng_for(5, 0, 0, 0);
    kern_init(&k, 0);
    float *x = normal(&r, KV_TOKENS * 128), *a = normal(&r, 33 * KV_TOKENS);
    float *many = mem_array(33 * 128, 4), *one = mem_array(128, 4);
    for (int type = 0; type < KV_TYPES; type++) {
        uint8_t *block = mem_alloc(kv_block_bytes((kv_type)type, true, 128));
        for (size_t i = 0; i < KV_TOKENS && !kv_packed((kv_type)type); i++)
            kv_put(&k, (kv_type)type, true, block, 128, i, x + i * 128);
        if (kv_packed((kv_type)type))
            kv_pack((kv_type)type, true, block, 128, x);
        kv_product p = {.w = block,
                        .rows = KV_TOKENS,
                        .lanes = 128,
                        .a = a,
                        .lda = KV_TOKENS,
                        .n = 33,
                        .y = many,
                        .ldy = 128};
        k.attn->product[type](&p);
        for (size_t i = 0; i < 33; i++) {
            kv_product q = p;
            q.a = a + i * KV_TOKENS;
            q.n = 1;
            q.y = one;
            k.attn->product[type](&q);
            CHECK(t, memcmp(one, many + i * 128, 128 * sizeof(*one)) == 0);
        }
        mem_free(block);
    }
    mem_free(x);
    mem_free(a);
    mem_free(many);
    mem_free(one);
}

/* Squared error of normal data relative to its square: Lloyd and Max's tables say 0.0095
 * for 16 levels and 0.0345 for 8; a scale per 64 numbers beats them a little. */
static void errors(test *t)
{
    static const double most[KV_TYPES] = {0, 5e-8, 5e-5, 0.0095, 0.0345};
    enum { D = 64, BLOCKS = 40 };
    kern k;
    kern_init(&k, 0);
    float *back = mem_array(KV_TOKENS * D, sizeof(*back));
    for (int type = 0; type < KV_TYPES; type++)
        for (int values = 0; values < 2; values++) {
            rng r = rng_for(11, 0, 0, 0);
            double error = 0, square = 0;
            uint8_t *block = mem_alloc(kv_block_bytes((kv_type)type, values, D));
            for (int b = 0; b < BLOCKS; b++) {
                float *x = normal(&r, KV_TOKENS * D);
                for (size_t i = 0; i < KV_TOKENS && !kv_packed((kv_type)type); i++)
                    kv_put(&k, (kv_type)type, values, block, D, i, x + i * D);
                if (kv_packed((kv_type)type))
                    kv_pack((kv_type)type, values, block, D, x);
                kv_unpack((kv_type)type, values, block, D, back);
                for (size_t i = 0; i < KV_TOKENS * D; i++) {
                    error += pow((double)back[i] - (double)x[i], 2);
                    square += pow((double)x[i], 2);
                }
                mem_free(x);
            }
            CHECK(t, error / square <= most[type]);
            CHECK(t, error / square >= most[type] / 2);
            mem_free(block);
        }
    /* all zeros, and what a half cannot hold */
    uint8_t *block = mem_alloc(kv_block_bytes(KV_Q4, false, D));
    memset(back, 0, KV_TOKENS * D * sizeof(*back));
    kv_pack(KV_Q4, false, block, D, back);
    kv_unpack(KV_Q4, false, block, D, back);
    for (size_t i = 0; i < KV_TOKENS * D; i++)
        CHECK(t, back[i] == 0.0f);
    mem_free(block);
    mem_free(back);
}

static void rotation(test *t)
{
    static const size_t dims[] = {2, 8, 48, 64, 80, 96, 128, 256};
    for (size_t s = 0; s < countof(dims); s++) {
        rng r = rng_for(7, 0, 0, 0);
        size_t d = dims[s];
        float *x = normal(&r, d), *y = normal(&r, d), *was = mem_array(d, sizeof(*was));
        double before = 0, after = 0;
        memcpy(was, x, d * sizeof(*x));
        for (size_t i = 0; i < d; i++)
            before += (double)x[i] * (double)y[i];
        kv_rotate(x, d);
        kv_rotate(y, d);
        CHECK(t, memcmp(x, was, d * sizeof(*x)) != 0);
        for (size_t i = 0; i < d; i++)
            after += (double)x[i] * (double)y[i];
        CHECK_NEAR(t, after, before, 1e-5);
        kv_rotate(x, d);
        for (size_t i = 0; i < d; i++)
            CHECK_NEAR(t, (double)x[i], (double)was[i], 1e-5);
        mem_free(x);
        mem_free(y);
        mem_free(was);
    }
    /* one coordinate far outside the others: a scale per token no longer suffers */
    enum { D = 64 };
    rng r = rng_for(8, 0, 0, 0);
    float *x = normal(&r, KV_TOKENS * D), *back = mem_array(KV_TOKENS * D, sizeof(*back));
    uint8_t *block = mem_alloc(kv_block_bytes(KV_Q4, true, D));
    double error[2] = {0};
    for (int rotated = 0; rotated < 2; rotated++) {
        for (size_t i = 0; i < KV_TOKENS; i++) {
            x[i * D + 5] = 40;
            if (rotated)
                kv_rotate(x + i * D, D);
        }
        kv_pack(KV_Q4, true, block, D, x);
        kv_unpack(KV_Q4, true, block, D, back);
        for (size_t i = 0; i < KV_TOKENS * D; i++)
            error[rotated] += pow((double)back[i] - (double)x[i], 2);
    }
    CHECK(t, error[1] < error[0] / 4);
    mem_free(x);
    mem_free(back);
    mem_free(block);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"products", "every type and set against sums in double", products},
        {"rows_alone", "a row has the same bits in any product", rows_alone},
        {"errors", "squared error of packed types", errors},
        {"rotation", "an isometry and its own inverse; spreads outliers", rotation},
        {0}};
    return test_main(argc, argv, cases);
}
