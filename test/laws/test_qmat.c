/* test_qmat.c - laws of the quantized product: the definition in kern/qmat.h against a
 * double-precision product, the same bits for any set of instructions, any number of
 * threads and any m, and nothing written outside Y. */
#include "test.h"

#include "kern/qmat.h"

/* Random blocks with scales that keep the values near 1. */
static void random_weights(dtype t, uint8_t *w, size_t bytes, rng *r)
{
    for (size_t i = 0; i < bytes; i++)
        w[i] = (uint8_t)rng_u64(r);
    static const struct {
        dtype t;
        size_t at[2];
    } halves[] = {{DTYPE_Q4_0, {0, 0}},   {DTYPE_Q4_1, {0, 2}},   {DTYPE_Q5_0, {0, 0}},
                  {DTYPE_Q5_1, {0, 2}},   {DTYPE_Q8_0, {0, 0}},   {DTYPE_IQ4_NL, {0, 0}},
                  {DTYPE_Q2_K, {80, 82}}, {DTYPE_Q3_K, {108, 108}}, {DTYPE_Q4_K, {0, 2}},
                  {DTYPE_Q5_K, {0, 2}},   {DTYPE_Q6_K, {208, 208}}, {DTYPE_IQ4_XS, {0, 0}},
                  {DTYPE_IQ1_S, {0, 0}},  {DTYPE_IQ2_XXS, {0, 0}}, {DTYPE_IQ2_XS, {0, 0}},
                  {DTYPE_IQ2_S, {0, 0}},  {DTYPE_IQ3_XXS, {0, 0}}, {DTYPE_IQ3_S, {0, 0}},
                  {DTYPE_F16, {0, 0}},    {DTYPE_BF16, {0, 0}},   {DTYPE_F32, {0, 0}}};
    size_t size = dtype_of(t)->bytes;
    for (size_t b = 0; t == DTYPE_IQ1_M && b < bytes / size; b++) {
        uint16_t half = f32_to_f16((float)(rng_normal(r) * 0.01)); /* in four pieces */
        for (int j = 0; j < 4; j++) {
            uint8_t *s = w + b * size + 48 + 2 * j + 1;
            *s = (uint8_t)((*s & 15) | (half >> 4 * j & 15) << 4);
        }
    }
    for (size_t h = 0; h < countof(halves); h++)
        for (size_t b = 0; halves[h].t == t && b < bytes / size; b++)
            for (int j = 0; j < 2; j++) {
                float v = (float)(rng_normal(r) * 0.01);
                uint16_t half = t == DTYPE_BF16 ? f32_to_bf16(v) : f32_to_f16(v);
                if (t == DTYPE_F32)
                    memcpy(w + b * size, &v, 4);
                else
                    memcpy(w + b * size + halves[h].at[j], &half, 2);
            }
}

typedef struct {
    dtype type;
    size_t m, n, k, stride;
    uint8_t *w;   /* oddly aligned */
    float *x, *y; /* x (m, k + 3), y (m, n + 5) */
    void *block_[3];
} problem;

enum { PAD_X = 3, PAD_Y = 5, GUARD = 64 };

static void problem_make(problem *p, dtype t, size_t m, size_t n, size_t k)
{
    rng r = rng_for(77, (uint32_t)t, (uint32_t)m, (uint32_t)n);
    *p = (problem){.type = t, .m = m, .n = n, .k = k};
    BUG_IF(!dtype_row_bytes(t, k, &p->stride));
    p->block_[0] = mem_alloc(p->stride * n + 1);
    p->block_[1] = mem_array(m * (k + PAD_X) + 1, sizeof(float));
    p->block_[2] = mem_array(m * (n + PAD_Y) + 1, sizeof(float));
    BUG_IF(!p->block_[0] || !p->block_[1] || !p->block_[2]);
    p->w = (uint8_t *)p->block_[0] + 1;
    p->x = (float *)p->block_[1] + 1;
    p->y = (float *)p->block_[2] + 1;
    random_weights(t, p->w, p->stride * n, &r);
    for (size_t i = 0; i < m * (k + PAD_X); i++)
        p->x[i] = (float)rng_normal(&r);
}

static void problem_free(problem *p)
{
    for (int i = 0; i < 3; i++)
        mem_free(p->block_[i]);
}

/* Runs with these kernels; checks that neither scratch nor y's padding was overrun. */
static void problem_run(test *t, problem *p, const struct qmat_kernels *ks, pool *team)
{
    kern k = {.qmat = ks};
    size_t need = qmat_bytes(&k, p->type, p->m, p->n, p->k, team), ldy = p->n + PAD_Y;
    uint8_t *scratch = mem_alloc(need + GUARD);
    BUG_IF(!scratch);
    memset(scratch, 0xa5, need + GUARD);
    memset(p->y, 0x77, p->m * ldy * sizeof(float));
    qmat(&k, team, p->type, p->w, p->x, p->k + PAD_X, p->y, ldy, p->m, p->n, p->k,
         arena_of(scratch, need));
    for (size_t i = 0; i < GUARD; i++)
        CHECK_INT(t, scratch[need + i], 0xa5);
    for (size_t i = 0; i < p->m; i++)
        for (size_t j = p->n; j < ldy; j++) {
            uint32_t u;
            memcpy(&u, &p->y[i * ldy + j], 4);
            CHECK_INT(t, u, 0x77777777);
        }
    mem_free(scratch);
}

/* Types that can be multiplied; iterate with i from 0 until DTYPE_COUNT. */
static dtype next_type(int *i)
{
    while (*i < DTYPE_COUNT && !qmat_supported((dtype)*i))
        ++*i;
    return (dtype)(*i)++;
}

/* The product in double over unpacked weights; the bound is x's rounding, half a step of
 * max|x|/127 an element, and for plain types that of f32. */
static void near_double(test *t, const problem *p)
{
    float *row = mem_array(p->k + 1, sizeof(float));
    BUG_IF(!row);
    bool plain = dtype_of(p->type)->block == 1;
    for (size_t j = 0; j < p->n; j++) {
        dtype_of(p->type)->unpack(p->w + j * p->stride, row, p->k);
        for (size_t i = 0; i < p->m; i++) {
            double sum = 0, abs_w = 0, max_x = 0, abs_wx = 0;
            for (size_t l = 0; l < p->k; l++) {
                double w = (double)row[l], x = (double)p->x[i * (p->k + PAD_X) + l];
                sum += w * x;
                abs_w += fabs(w);
                abs_wx += fabs(w * x);
                max_x = fmax(max_x, fabs(x));
            }
            double tol = 1e-5 * abs_wx + (plain ? 0 : 0.5 * abs_w * max_x / 127);
            CHECK_NEAR(t, p->y[i * (p->n + PAD_Y) + j], sum, tol);
        }
    }
    mem_free(row);
}

static void definition(test *t)
{
    int types = 0;
    for (int i = 0; i < DTYPE_COUNT;) {
        dtype type = next_type(&i);
        if (type == DTYPE_COUNT)
            break;
        problem p;
        problem_make(&p, type, 3, 5, dtype_of(type)->block == 1 ? 77 : 512);
        problem_run(t, &p, &qmat_reference, NULL);
        near_double(t, &p);
        problem_free(&p);
        types++;
    }
    CHECK_INT(t, types, 22);
}

/* The sets that this CPU can run, the reference excluded. */
static size_t available(const struct qmat_kernels *out[8])
{
    static const unsigned ladder[] = {CPU_AVX2, CPU_AVX2 | CPU_AVXVNNI,
                                      CPU_AVX2 | CPU_AVX512 | CPU_VNNI,
                                      CPU_AVX2 | CPU_AVX512 | CPU_VNNI | CPU_AMX,
                                      CPU_NEON, CPU_NEON | CPU_DOTPROD};
    unsigned have = kern_cpu_flags();
    size_t n = 0;
    for (size_t i = 0; i < countof(ladder); i++) {
        const struct qmat_kernels *ks = qmat_kernels_for(ladder[i] & have);
        if ((ladder[i] & have) == ladder[i] && ks != &qmat_reference)
            out[n++] = ks;
    }
    return n;
}

static float *saved_y(const problem *p)
{
    size_t n = p->m * (p->n + PAD_Y) * sizeof(float);
    float *copy = mem_alloc(n);
    BUG_IF(!copy);
    return memcpy(copy, p->y, n);
}

static void same_y(test *t, const problem *p, const float *want, const char *who)
{
    t->checks++;
    for (size_t i = 0; i < p->m; i++)
        for (size_t j = 0; j < p->n; j++) {
            size_t at = i * (p->n + PAD_Y) + j;
            if (memcmp(&p->y[at], &want[at], 4) == 0 || (isnan(p->y[at]) && isnan(want[at])))
                continue;
            test_fail(t, __FILE__, __LINE__,
                      "%s %s m=%zu n=%zu k=%zu: y[%zu][%zu] is %.9g, not %.9g",
                      who, dtype_of(p->type)->name, p->m, p->n, p->k, i, j,
                      (double)p->y[at], (double)want[at]);
            return;
        }
}

static void variants_at(test *t, dtype type, size_t m, size_t n, size_t k)
{
    const struct qmat_kernels *sets[8];
    size_t n_sets = available(sets);
    problem p;
    problem_make(&p, type, m, n, k);
    problem_run(t, &p, &qmat_reference, NULL);
    float *want = saved_y(&p);
    for (size_t s = 0; s < n_sets; s++) {
        problem_run(t, &p, sets[s], NULL);
        same_y(t, &p, want, sets[s]->name);
    }
    mem_free(want);
    problem_free(&p);
}

/* Every set of instructions: the reference's bits, for m = 1..9 and beyond a tile, and
 * for n around the number of lanes. */
static void variants(test *t)
{
    static const size_t shapes[][2] = {{1, 1},  {1, 16}, {2, 15}, {3, 17}, {4, 33}, {5, 7},
                                       {6, 31}, {7, 64}, {8, 9},  {9, 19},
                                       {16, 20}, {29, 16}, {64, 16}, {67, 18},
                                       {33, 35}, {270, 17}};
    const struct qmat_kernels *sets[8];
    if (available(sets) == 0) {
        test_skip(t, "this CPU has none of our instruction sets");
        return;
    }
    for (int i = 0; i < DTYPE_COUNT;) {
        dtype type = next_type(&i);
        if (type == DTYPE_COUNT)
            break;
        size_t block = dtype_of(type)->block;
        for (size_t s = 0; s < countof(shapes); s++)
            variants_at(t, type, shapes[s][0], shapes[s][1],
                        block == 1 ? 37 + s : block * (1 + s % 3));
        variants_at(t, type, 2, 16, 0);
        variants_at(t, type, 2, 40, 1024);
        variants_at(t, type, 1, 33, 11 * QK); /* one chunk of eight blocks and some more */
        variants_at(t, type, 7, 17, block == QK ? 9 * QK : 27 * QK_32);
        variants_at(t, type, 1, 16, block == QK ? 2 * QK : 13 * QK_32);
    }
}

/* Weights and x as large as they go: the integer sums must hold. */
static void extremes(test *t)
{
    const struct qmat_kernels *sets[8];
    size_t n_sets = available(sets);
    for (int i = 0; i < DTYPE_COUNT;) {
        dtype type = next_type(&i);
        if (type == DTYPE_COUNT)
            break;
        if (dtype_of(type)->block == 1)
            continue;
        static const uint8_t fill[] = {0xff, 0x80, 0x7f, 0x3c};
        for (size_t f = 0; f < countof(fill); f++) {
            problem p;
            problem_make(&p, type, 2, 16, 256);
            memset(p.w, fill[f] == 0xff ? 0xfb : fill[f], p.stride * p.n);
            for (size_t e = 0; e < p.m * (p.k + PAD_X); e++)
                p.x[e] = e % 2 && f % 2 ? 1.0f : -1.0f;
            problem_run(t, &p, &qmat_reference, NULL);
            float *want = saved_y(&p);
            for (size_t s = 0; s < n_sets; s++) {
                problem_run(t, &p, sets[s], NULL);
                same_y(t, &p, want, sets[s]->name);
            }
            mem_free(want);
            problem_free(&p);
        }
    }
    CHECK(t, n_sets < 8);
}

/* A row of a batch has the bits of the row alone; threads change nothing. */
static void batch_and_threads(test *t)
{
    const struct qmat_kernels *best = qmat_kernels_for(kern_cpu_flags());
    pool *team;
    om_err err;
    CHECK_OK(t, pool_open(3, &team, &err), err);
    for (int i = 0; i < DTYPE_COUNT;) {
        dtype type = next_type(&i);
        if (type == DTYPE_COUNT)
            break;
        problem p, one;
        problem_make(&p, type, 6, 1500, 512);
        problem_run(t, &p, best, NULL);
        float *want = saved_y(&p);
        problem_run(t, &p, best, team);
        same_y(t, &p, want, "threads");
        one = p;
        one.m = 1;
        one.x = p.x + 4 * (p.k + PAD_X);
        problem_run(t, &one, best, team);
        CHECK(t, memcmp(one.y, want + 4 * (p.n + PAD_Y), p.n * sizeof(float)) == 0);
        mem_free(want);
        problem_free(&p);
    }
    pool_close(team);
}

/* A NaN or an infinity in x is seen in the result, and only in its row. */
static void non_finite(test *t)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    const struct qmat_kernels *best = qmat_kernels_for(kern_cpu_flags());
    for (size_t b = 0; b < countof(bad); b++)
        for (int i = 0; i < DTYPE_COUNT;) {
            dtype type = next_type(&i);
            if (type == DTYPE_COUNT)
                break;
            problem p;
            problem_make(&p, type, 2, 20, 512);
            p.x[p.k + PAD_X + 300] = bad[b];
            problem_run(t, &p, best, NULL);
            for (size_t j = 0; j < p.n; j++)
                CHECK(t, isfinite(p.y[j]) && !isfinite(p.y[p.n + PAD_Y + j]));
            problem_free(&p);
        }
}

/* A stack of matrices, some without rows: the bits of a product for each. */
static void stacks(test *t)
{
    enum { COUNT = 6, N = 37 };
    static const uint32_t beg[COUNT + 1] = {0, 1, 1, 4, 5, 22, 22};
    const struct qmat_kernels *sets[8];
    size_t n_sets = available(sets);
    sets[n_sets++] = &qmat_reference;
    pool *team;
    om_err err = {0};
    CHECK_OK(t, pool_open(3, &team, &err), err);
    for (int i = 0; i < DTYPE_COUNT;) {
        dtype type = next_type(&i);
        if (type == DTYPE_COUNT)
            break;
        size_t rows = beg[COUNT], k = dtype_of(type)->block == 1 ? 50 : 512;
        problem p;
        problem_make(&p, type, rows, COUNT * N, k);
        size_t stride;
        CHECK(t, dtype_row_bytes(type, k, &stride));
        float *want = mem_array(rows * N, sizeof(float)), *got = mem_array(rows * N, 4);
        BUG_IF(!want || !got);
        qmat_part part[COUNT];
        uint32_t n = 0;
        for (uint32_t m = 0; m < COUNT; m++)
            if (beg[m + 1] > beg[m])
                part[n++] = (qmat_part){p.w + m * N * stride, beg[m], beg[m + 1]};
        for (size_t s = 0; s < n_sets; s++) {
            kern kk = {.qmat = sets[s]};
            size_t need = qmat_stack_bytes(&kk, type, rows, N, k, team);
            uint8_t *room = mem_alloc(need + GUARD);
            BUG_IF(!room);
            memset(room, 0xa5, need + GUARD);
            for (uint32_t m = 0; m < COUNT; m++)
                qmat(&kk, NULL, type, p.w + m * N * stride, p.x + beg[m] * k, k,
                     want + beg[m] * N, N, beg[m + 1] - beg[m], N, k, arena_of(room, need));
            qmat_stack(&kk, team, type, part, n, p.x, got, N, k, arena_of(room, need));
            CHECK(t, memcmp(want, got, rows * N * sizeof(float)) == 0);
            for (size_t g = 0; g < GUARD; g++)
                CHECK_INT(t, room[need + g], 0xa5);
            mem_free(room);
        }
        mem_free(want);
        mem_free(got);
        problem_free(&p);
    }
    pool_close(team);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"definition", "the reference is the product, to the rounding of x", definition},
        {"variants", "every instruction set gives the reference's bits", variants},
        {"extremes", "the largest weights and x do not overflow", extremes},
        {"batch_and_threads", "bits independent of m and of threads", batch_and_threads},
        {"stacks", "several matrices at once: the bits of each alone", stacks},
        {"non_finite", "NaN and infinity in x reach the result", non_finite},
        {0}};
    return test_main(argc, argv, cases);
}
