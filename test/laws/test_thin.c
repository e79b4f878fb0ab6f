/* test_thin.c - the law of thin layers: every variant this CPU can run agrees with the
 * reference for every number of rows and ragged widths, and writes only its outputs. */
#include "kern/kern.h"
#include "kern/thin.h"
#include "test.h"

enum { M = THIN_ROWS, N = 7, K = 70, ROOM = M * K + 64 };

typedef struct {
    float x[ROOM], w[ROOM], b[ROOM], d[ROOM], y[ROOM], dx[ROOM];
} bench;

static void fill(rng *r, float *p)
{
    for (size_t i = 0; i < ROOM; i++)
        p[i] = (float)rng_normal(r);
}

static void make(bench *s, uint32_t seed)
{
    rng r = rng_for(seed, 0, 0, 0);
    fill(&r, s->x), fill(&r, s->w), fill(&r, s->b);
    fill(&r, s->d), fill(&r, s->y), fill(&r, s->dx);
}

static void compare(test *t, const float *got, const float *want, size_t used)
{
    for (size_t i = 0; i < used; i++)
        CHECK_NEAR(t, got[i], want[i], 3e-5);
    CHECK(t, memcmp(got + used, want + used, (ROOM - used) * sizeof(float)) == 0);
}

static void one_size(test *t, const thin_kernels *fast, size_t m, size_t n, size_t k)
{
    static bench a, b;
    make(&a, (uint32_t)(m * 1000 + n * 100 + k));
    b = a;
    thin_c.forward(a.y, a.x, a.w, a.b, m, n, k);
    fast->forward(b.y, b.x, b.w, b.b, m, n, k);
    compare(t, b.y, a.y, m * n);
    thin_c.back(a.dx, a.d, a.w, m, n, k);
    fast->back(b.dx, b.d, b.w, m, n, k);
    compare(t, b.dx, a.dx, m * k);
    thin_c.update(a.w, a.b, a.d, a.x, m, n, k);
    fast->update(b.w, b.b, b.d, b.x, m, n, k);
    compare(t, b.w, a.w, n * k);
    compare(t, b.b, a.b, n);
}

static void variants_agree(test *t)
{
    static const unsigned masks[] = {CPU_AVX2, CPU_AVX2 | CPU_AVX512, CPU_NEON};
    static const size_t widths[] = {1, 5, 8, 16, 31, 33, K};
    for (size_t v = 0; v < countof(masks); v++) {
        kern k;
        kern_init(&k, masks[v]);
        const thin_kernels *fast = thin_kernels_for(k.flags);
        if (fast == &thin_c)
            continue;
        for (size_t m = 1; m <= M; m++)
            for (size_t n = 1; n <= N; n++)
                for (size_t w = 0; w < countof(widths); w++)
                    one_size(t, fast, m, n, widths[w]);
    }
}

/* The reference against numbers worked out by hand. */
static void reference(test *t)
{
    float x[4] = {1, 2, 3, 4}, w[4] = {1, -1, 2, 0.5f}, b[2] = {10, 20}, y[4], dx[4];
    float d[4] = {1, 0, 0, 2};
    thin_c.forward(y, x, w, b, 2, 2, 2);
    CHECK(t, y[0] == 9 && y[1] == 23 && y[2] == 9 && y[3] == 28);
    thin_c.back(dx, d, w, 2, 2, 2);
    CHECK(t, dx[0] == 1 && dx[1] == -1 && dx[2] == 4 && dx[3] == 1);
    thin_c.update(w, b, d, x, 2, 2, 2);
    CHECK(t, w[0] == 2 && w[1] == 1 && w[2] == 8 && w[3] == 8.5f);
    CHECK(t, b[0] == 11 && b[1] == 22);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"reference", "by hand", reference},
        {"variants_agree", "every instruction set, all ragged sizes", variants_agree},
        {0}};
    return test_main(argc, argv, cases);
}
