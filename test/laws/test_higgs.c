/* test_higgs.c - laws of the rotated types: the rotation, the places of codes, and that
 * the error is the code book's own whatever the weights. */
#include "test.h"

#include "compress/method.h"
#include "kern/higgs.h"

static const dtype all[] = {DTYPE_H2_P4, DTYPE_H3_P2, DTYPE_H4_P2, DTYPE_H8_P1,
                            DTYPE_HT2,   DTYPE_HT3,   DTYPE_HT4,   DTYPE_HT5};

enum { ROWS = 6, COLS = 512, N = ROWS * COLS };

static void rotation(test *t)
{
    float x[512], y[512];
    rng r = rng_for(1, 0, 0, 0);
    double before = 0, after = 0, apart = 0;
    for (int i = 0; i < 512; i++)
        y[i] = x[i] = (float)rng_normal(&r);
    higgs_rotate(y, 512);
    for (int i = 0; i < 512; i++) {
        before += (double)x[i] * (double)x[i];
        after += (double)y[i] * (double)y[i];
    }
    CHECK_NEAR(t, after, before, 1e-4 * before);
    higgs_unrotate(y, 512);
    for (int i = 0; i < 512; i++)
        apart = fmax(apart, fabs((double)y[i] - (double)x[i]));
    CHECK(t, apart < 1e-5);
    /* By definition, not by butterflies: y_k = sum_i (-1)^popcount(i & k) s_i x_i / 16,
     * the signs read off the rotations of unit vectors. */
    float one[256], want[256] = {0};
    for (int i = 0; i < 256; i++) {
        memset(one, 0, sizeof(one));
        one[i] = 1;
        higgs_rotate(one, 256);
        for (int k = 0; k < 256; k++) {
            float h = __builtin_popcount((unsigned)(i & k)) % 2 ? -0.0625f : 0.0625f;
            CHECK(t, one[k] == (one[0] > 0 ? h : -h));
            want[k] += one[k] * x[i];
        }
    }
    higgs_rotate(x, 256);
    for (int k = 0; k < 256; k++)
        CHECK_NEAR(t, x[k], want[k], 1e-5);
}

static void places(test *t)
{
    rng r = rng_for(2, 0, 0, 0);
    for (size_t a = 0; a < countof(all); a++) {
        const higgs_type *h = higgs_of(all[a]);
        uint8_t code[256], back[256], block[HIGGS_BYTES(8)];
        size_t n = h->p ? 256u / h->p : 256;
        bool seen[256] = {false};
        CHECK_INT(t, dtype_of(all[a])->bytes, HIGGS_BYTES(h->bits));
        for (size_t i = 0; i < 256; i++)
            seen[higgs_column(h, i)] = true;
        for (size_t i = 0; i < 256; i++)
            CHECK(t, seen[i]);
        for (size_t i = 0; i < n; i++)
            code[i] = (uint8_t)rng_below(&r, h->n);
        for (size_t i = 0; !h->p && i < 2 * n; i++) /* new bits above, old ones below */
            code[i % n] = (uint8_t)((code[(i + n - 1) % n] >> h->bits) |
                                    (code[i % n] >> (8 - h->bits)) << (8 - h->bits));
        higgs_put(h, 0.5f, code, block);
        CHECK(t, higgs_get(h, block, back) == 0.5f);
        CHECK(t, memcmp(code, back, n) == 0);
    }
}

/* Weights of several shapes: Gaussian, heavy tails, all equal, one in seven. */
static float weight_of(int shape, rng *r)
{
    double g = rng_normal(r);
    if (shape == 0)
        return (float)g;
    if (shape == 1)
        return (float)(g / sqrt(0.2 + rng_unit(r) * rng_unit(r)) *
                       (rng_unit(r) < 0.02 ? 9 : 1));
    if (shape == 2)
        return 0.3f;
    return rng_unit(r) < 0.15 ? (float)g : 0;
}

static void encode(test *t, dtype type, const float *w, pool *p, uint8_t *out, float *v)
{
    kern k;
    om_err err;
    kern_init(&k, 0);
    quant_rows j = {
        .w = w, .rows = ROWS, .cols = COLS, .type = type, .k = &k, .pool = p, .out = out};
    CHECK(t, dtype_row_bytes(type, COLS, &j.row_bytes));
    CHECK_OK(t, quant_method_find(STR("higgs"))->encode(&j, &err), err);
    dtype_of(type)->unpack(out, v, N);
}

static void error(test *t)
{
    static float w[N], v[N];
    static uint8_t out[N * 2];
    for (size_t a = 0; a < countof(all); a++)
        for (int shape = 0; shape < 4; shape++) {
            const higgs_type *h = higgs_of(all[a]);
            rng r = rng_for(3, (uint32_t)shape, 0, 0);
            double e = 0, s = 0;
            for (size_t i = 0; i < N; i++)
                w[i] = weight_of(shape, &r);
            encode(t, all[a], w, NULL, out, v);
            for (size_t i = 0; i < N; i++) {
                e += ((double)w[i] - (double)v[i]) * ((double)w[i] - (double)v[i]);
                s += (double)w[i] * (double)w[i];
            }
            t->checks++;
            double ratio = e / s / (double)h->error, room = h->bits == 8 ? 0.25 : 0.08;
            if (shape == 2) /* every block the same: one draw, not many */
                room *= 2;
            if (!(fabs(ratio - 1) < room))
                test_fail(t, __FILE__, __LINE__,
                          "%s, weights %d: error %.5f, the book's %.5f",
                          dtype_of(all[a])->name, shape, e / s, (double)h->error);
        }
}

static void zero(test *t)
{
    static float w[N], v[N];
    static uint8_t out[N * 2];
    for (size_t a = 0; a < countof(all); a++) {
        double sum = 0;
        encode(t, all[a], w, NULL, out, v);
        for (size_t i = 0; i < N; i++)
            sum += fabs((double)v[i]);
        CHECK(t, sum == 0);
    }
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"rotation", "orthonormal, its inverse, the Hadamard matrix", rotation},
        {"places", "codes and states come back; coding order is a permutation", places},
        {"error", "the relative error is the code book's, whatever the weights", error},
        {"zero", "a zero row stays zero", zero},
        {0}};
    return test_main(argc, argv, cases);
}
