/* test_cohort.c - the kernels over a cohort's vectors, against sorting and summing in
 * doubles, for every instruction set here and for one and several threads. */
#include "kern/cohort.h"
#include "test.h"

static int ascending(const void *a, const void *b)
{
    float x, y;
    memcpy(&x, a, 4), memcpy(&y, b, 4);
    return (x > y) - (x < y);
}

static float *numbers(size_t n, uint64_t key, bool coarse)
{
    float *v = mem_array(n, sizeof(float));
    rng r = {.key = key, .ctr = 0};
    for (size_t i = 0; i < n; i++) {
        double x = rng_normal(&r);
        v[i] = coarse ? (float)floor(2 * x) : (float)x;
    }
    return v;
}

/* What cohort_columns should give for column `at` of m sorted values. */
static double want_rank(float *s, size_t m, cohort_rank rank, size_t cut)
{
    qsort(s, m, sizeof(float), ascending);
    double middle = ((double)s[(m - 1) / 2] + (double)s[m / 2]) / 2, sum = 0;
    if (rank == COHORT_MEDIAN)
        return middle;
    size_t from = rank == COHORT_TRIMMED ? cut : 0,
           keep = rank == COHORT_TRIMMED ? m - 2 * cut : m - cut;
    while (rank == COHORT_NEAREST && from < cut &&
           middle - (double)s[from] > (double)s[from + keep] - middle)
        from++;
    for (size_t i = from; i < from + keep; i++)
        sum += (double)s[i];
    return sum / (double)keep;
}

static void columns_of(test *t, const kern *k, pool *p, size_t n, size_t d, bool mixed)
{
    float *v = numbers(n * (d + 3), n * 1000 + d, n % 2), *out = mem_array(d, 4);
    float *mix = mem_array(n * n, sizeof(float)), *s = mem_array(n, sizeof(float));
    cohort c = {n, d, d + 3, v};
    size_t bytes = cohort_columns_bytes(n, n, p), cut = (n - 1) / 3;
    char *memory = mem_alloc(bytes);
    for (size_t i = 0; i < n; i++) /* row i is a mean of two rows */
        mix[i * n + i] += 0.75f, mix[i * n + (i + 1) % n] += 0.25f;
    for (int rank = COHORT_MEDIAN; rank <= COHORT_NEAREST; rank++) {
        cohort_columns(k, p, &c, (cohort_rank)rank, cut, mixed ? mix : NULL, n, out,
                       arena_of(memory, bytes));
        for (size_t at = 0; at < d; at++) {
            for (size_t i = 0; i < n; i++)
                s[i] = mixed ? 0.75f * v[i * c.ld + at] + 0.25f * v[(i + 1) % n * c.ld + at]
                             : v[i * c.ld + at];
            CHECK_NEAR(t, out[at], want_rank(s, n, (cohort_rank)rank, cut), 2e-6);
        }
    }
    mem_free(v), mem_free(out), mem_free(mix), mem_free(s), mem_free(memory);
}

/* Every set of the machine, the widest first. */
static const unsigned masks[] = {0, CPU_AVX2 | CPU_AVX512 | CPU_VNNI, CPU_AVX2, CPU_NEON,
                                 1u << 31};

static void columns(test *t)
{
    static const size_t ns[] = {1, 2, 3, 4, 5, 7, 16, 17, 31, 64, 100, 129};
    for (size_t m = 0; m < countof(masks); m++) {
        kern k;
        kern_init(&k, masks[m]);
        for (size_t i = 0; i < countof(ns); i++) {
            columns_of(t, &k, NULL, ns[i], 131, false);
            columns_of(t, &k, NULL, ns[i], 64, ns[i] > 2);
        }
    }
}

static void gram_of(test *t, const kern *k, size_t n, size_t d)
{
    float *v = numbers(n * (d + 1), n + d, false);
    double *g = mem_array(n * n, sizeof(double));
    cohort c = {n, d, d + 1, v};
    size_t bytes = cohort_gram_bytes(k, n, NULL);
    char *memory = mem_alloc(bytes);
    cohort_gram(k, NULL, &c, g, arena_of(memory, bytes));
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double want = 0, a = 0, b = 0;
            for (size_t l = 0; l < d; l++) {
                double x = (double)v[i * c.ld + l], y = (double)v[j * c.ld + l];
                want += x * y, a += x * x, b += y * y;
            }
            CHECK_NEAR(t, g[i * n + j], want, 3e-5 * sqrt(a * b));
            CHECK(t, g[i * n + j] == g[j * n + i]);
        }
    mem_free(v), mem_free(g), mem_free(memory);
}

static void gram(test *t)
{
    static const size_t ns[] = {1, 2, 5, 16, 17, 33, 50, 100}, ds[] = {1, 31, 700, 5000};
    for (size_t m = 0; m < countof(masks); m++) {
        kern k;
        kern_init(&k, masks[m]);
        for (size_t i = 0; i < countof(ns); i++)
            gram_of(t, &k, ns[i], ds[i % 4]);
    }
}

static void threads(test *t)
{
    enum { N = 23, D = 30011 };
    om_err err = {0};
    pool *p;
    kern k;
    kern_init(&k, 0);
    CHECK_OK(t, pool_open(3, &p, &err), err);
    float *v = numbers((size_t)N * D, 5, false), *out[2];
    double *g[2];
    cohort c = {N, D, D, v};
    float w[N];
    for (size_t i = 0; i < N; i++)
        w[i] = (float)i - 4;
    for (int i = 0; i < 2; i++) {
        pool *q = i ? p : NULL;
        size_t bytes = cohort_columns_bytes(N, N, q) + cohort_gram_bytes(&k, N, q);
        char *memory = mem_alloc(bytes);
        out[i] = mem_array(2 * D, sizeof(float));
        g[i] = mem_array(N * N, sizeof(double));
        cohort_gram(&k, q, &c, g[i], arena_of(memory, bytes));
        cohort_columns(&k, q, &c, COHORT_TRIMMED, 5, NULL, N, out[i],
                       arena_of(memory, bytes));
        cohort_combine(&k, q, &c, w, out[i] + D);
        mem_free(memory);
    }
    CHECK(t, memcmp(out[0], out[1], 2 * D * sizeof(float)) == 0);
    CHECK(t, memcmp(g[0], g[1], N * N * sizeof(double)) == 0);
    for (size_t at = 0; at < D; at += 97) {
        double want = 0;
        for (size_t i = 0; i < N; i++)
            want += (double)w[i] * (double)v[i * D + at];
        CHECK_NEAR(t, out[0][D + at], want, 1e-4);
    }
    for (int i = 0; i < 2; i++)
        mem_free(out[i]), mem_free(g[i]);
    mem_free(v);
    pool_close(p);
}

/* ---- the largest ---- */

typedef struct {
    float v;
    uint32_t i;
} entry;

static int by_magnitude(const void *a, const void *b)
{
    entry x, y;
    memcpy(&x, a, sizeof(x)), memcpy(&y, b, sizeof(y));
    float p = fabsf(x.v), q = fabsf(y.v);
    return p > q ? -1 : p < q ? 1 : (x.i > y.i) - (x.i < y.i);
}

static int by_index(const void *a, const void *b)
{
    entry x, y;
    memcpy(&x, a, sizeof(x)), memcpy(&y, b, sizeof(y));
    return (x.i > y.i) - (x.i < y.i);
}

static void top_of(test *t, const kern *k, pool *p, float *x, size_t d, size_t top)
{
    entry *e = mem_array(d, sizeof(entry));
    uint32_t *index = mem_array(top + 1, sizeof(uint32_t));
    size_t bytes = select_top_bytes(d, top), wrong = 0;
    char *memory = mem_alloc(bytes);
    for (size_t i = 0; i < d; i++)
        e[i] = (entry){x[i], (uint32_t)i};
    qsort(e, d, sizeof(entry), by_magnitude);
    qsort(e, top, sizeof(entry), by_index);
    index[top] = 77;
    CHECK(t, select_top(k, p, x, d, top, index, arena_of(memory, bytes)));
    for (size_t i = 0; i < top; i++)
        wrong += index[i] != e[i].i;
    CHECK_INT(t, wrong, 0);
    CHECK_INT(t, index[top], 77);
    mem_free(e), mem_free(index), mem_free(memory);
}

static void top(test *t)
{
    enum { D = 300001 };
    om_err err = {0};
    pool *p;
    CHECK_OK(t, pool_open(3, &p, &err), err);
    for (size_t m = 0; m < countof(masks); m++) {
        kern k;
        kern_init(&k, masks[m]);
        float *x = numbers(D, 3, false), *y = numbers(D, 4, true);
        top_of(t, &k, NULL, x, 1000, 1);
        top_of(t, &k, NULL, x, 1000, 1000);
        top_of(t, &k, p, x, D, D / 100);
        top_of(t, &k, NULL, x, D, 17);
        top_of(t, &k, p, y, D, D / 50); /* ties by the thousand */
        for (size_t i = 0; i < D; i++)
            x[i] = i > D - 3000 ? x[i] * 1e6f : 0; /* one layer has it all */
        top_of(t, &k, NULL, x, D, D / 100);
        top_of(t, &k, NULL, x, D, D / 20); /* zeros among the top */
        mem_free(x), mem_free(y);
    }
    pool_close(p);
}

static void top_refuses(test *t)
{
    enum { D = 200000 };
    kern k;
    kern_init(&k, 0);
    float *x = numbers(D, 3, false);
    uint32_t index[100];
    size_t bytes = select_top_bytes(D, 100);
    char *memory = mem_alloc(bytes);
    x[777] = (float)NAN;
    CHECK(t, !select_top(&k, NULL, x, D, 100, index, arena_of(memory, bytes)));
    CHECK(t, !select_top(&k, NULL, x, 1000, 100, index, arena_of(memory, bytes)));
    x[777] = -(float)INFINITY;
    CHECK(t, !select_top(&k, NULL, x, D, 100, index, arena_of(memory, bytes)));
    mem_free(x), mem_free(memory);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"columns", "median, trimmed mean and nearest mean equal those of sorted columns",
         columns},
        {"gram", "inner products agree with doubles on every instruction set", gram},
        {"threads", "same bits on one and on three threads", threads},
        {"top", "the largest magnitudes, ties to the lower index, whatever the layout", top},
        {"top_refuses", "a NaN or an infinity is found", top_refuses},
        {0}};
    return test_main(argc, argv, cases);
}
