/* test_kern.c - the law of kernels: every variant this CPU can run agrees with the C
 * reference for every length 0 to 257 and odd alignments, writes nothing outside its
 * output, and the matrix product agrees with sums in double for all layouts, scalings and
 * ragged sizes, with the same bits for any number of threads. */
#include "kern/gemm.h"
#include "kern/kern.h"
#include "test.h"

enum { NONE = 1 << 30, N = 257, PAD = 32, ROOM = N + 2 * PAD + 8 };

/* Each rung of this machine's ladder, narrowest first; returns how many. */
static size_t variants(kern *out, size_t cap)
{
    static const unsigned masks[] = {NONE,
                                     CPU_AVX2,
                                     CPU_AVX2 | CPU_AVX512,
                                     CPU_AVX2 | CPU_AVXVNNI | CPU_AVX512 | CPU_VNNI |
                                         CPU_AMX,
                                     CPU_NEON,
                                     CPU_NEON | CPU_DOTPROD | CPU_I8MM};
    size_t n = 0;
    for (size_t i = 0; i < countof(masks) && n < cap; i++) {
        kern_init(&out[n], masks[i]);
        if (i == 0 || (out[n].flags != 0 && out[n].flags != out[n - 1].flags))
            n++;
    }
    return n;
}

static const char *names(const kern *k)
{
    static char text[100];
    kern_flag_names(k->flags, text, sizeof(text));
    return text;
}

static void ladder(test *t)
{
    kern k;
    unsigned all = kern_cpu_flags();
    kern_init(&k, NONE);
    CHECK_INT(t, k.flags, 0);
    CHECK_STR(t, names(&k), "");
    kern_init(&k, CPU_AVX512 | CPU_AMX); /* without what they stand on */
    CHECK_INT(t, k.flags, 0);
    setenv("OCTOMIL_CPU_MASK", "avx512,dotprod", 1);
    kern_init(&k, 0);
    CHECK_INT(t, k.flags & (CPU_AVX512 | CPU_VNNI | CPU_AMX | CPU_DOTPROD | CPU_I8MM), 0);
    CHECK_INT(t, k.flags & (CPU_AVX2 | CPU_AVXVNNI | CPU_NEON),
              all & (CPU_AVX2 | CPU_AVXVNNI | CPU_NEON));
    unsetenv("OCTOMIL_CPU_MASK");
    kern_init(&k, 0);
    CHECK_INT(t, k.flags, all);
    char small[6];
    kern_flag_names(CPU_AVX2 | CPU_AVX512, small, sizeof(small));
    CHECK_STR(t, small, "avx2");
}

/* ---- vectors ------------------------------------------------------------------------- */

typedef struct {
    float a[ROOM], b[ROOM], c[ROOM], d[ROOM]; /* reference's copy and the variant's start */
} bench_set;

static void fill(float *x, size_t n, rng *r, double width)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(rng_normal(r) * width);
}

static void set_fill(bench_set *s, uint32_t seed)
{
    rng r = rng_for(7, seed, 0, 0);
    fill(s->a, ROOM, &r, 2.0);
    fill(s->b, ROOM, &r, 1.0);
    fill(s->c, ROOM, &r, 1.0);
    fill(s->d, ROOM, &r, 0.1);
    for (size_t i = 0; i < ROOM; i++)
        s->d[i] = fabsf(s->d[i]);
}

static bool close_to(double got, double want, double tol)
{
    return got == want || fabs(got - want) <= tol * (1.0 + fabs(want)) ||
           (isnan(got) && isnan(want));
}

/* x[at..at+n) near want's, everything else equal to it bit by bit. */
static bool same(const float *got, const float *want, size_t at, size_t n, double tol)
{
    for (size_t i = 0; i < ROOM; i++) {
        if (i < at || i >= at + n) {
            if (memcmp(&got[i], &want[i], 4) != 0)
                return false;
        } else if (!close_to((double)got[i], (double)want[i], tol)) {
            return false;
        }
    }
    return true;
}

static bool same_set(const bench_set *got, const bench_set *want, size_t at, size_t n)
{
    return same(got->a, want->a, at, n, 2e-6) && same(got->b, want->b, at, n, 2e-6) &&
           same(got->c, want->c, at, n, 2e-6) && same(got->d, want->d, at, n, 2e-6);
}

/* One call of every kernel, numbered; answers its scalar result. */
static double call(const kern *k, int fn, bench_set *s, size_t at, size_t n)
{
    float *a = s->a + at, *b = s->b + at, *c = s->c + at, *d = s->d + at;
    switch (fn) {
    case 0:
        return (double)k->dot(a, b, n);
    case 1:
        k->axpy(a, 0.37f, b, n);
        return 0;
    case 2:
        k->scale(a, -1.7f, n);
        return 0;
    case 3:
        k->add(c, a, b, n);
        return 0;
    case 4:
        k->mul(c, a, b, n);
        return 0;
    case 5:
        return k->sum(a, n);
    case 6:
        return k->sumsq(a, n);
    case 7:
        return (double)k->max(a, n);
    case 8:
        return k->expsum(b, a, 0.5f, n);
    case 9:
        k->silu_mul(c, a, b, n);
        return 0;
    case 10:
        k->silu_mul_back(c, d, b, a, a, n);
        return 0;
    case 11:
        k->gelu(b, a, n);
        return 0;
    case 12:
        k->gelu_back(c, b, a, n);
        return 0;
    case 13:
        return (double)k->rmsnorm(c, a, b, 1e-5f, n);
    case 14:
        k->adamw(a, b, d, c, n, 1e-2f, .9f, .99f, 1e-3f, .1f, .19f, .02f);
        return 0;
    case 15:
        k->add(a, a, b, n);
        return 0; /* in place */
    case 16:
        k->mul(a, a, a, n);
        return 0;
    case 17:
        return k->expsum(a, a, 1.0f, n);
    case 18:
        k->silu_mul(a, a, b, n);
        return 0;
    case 19:
        k->gelu(a, a, n);
        return 0;
    case 20:
        return (double)k->rmsnorm(a, a, b, 1e-5f, n);
    case 21:
        k->axpy8(a, (const float[]){1, .5f, -.25f, 2, -1, .125f, .75f, -.5f}, s->b, 1, n);
        return 0;
    default:
        return -1;
    }
}

static void vectors(test *t)
{
    kern v[8];
    size_t count = variants(v, countof(v));
    static bench_set ref, got;
    for (size_t i = 0; i < count; i++)
        for (int fn = 0; fn <= 21; fn++)
            for (size_t n = 0; n <= N; n += test_quick() && n > 70 ? 11 : 1) {
                size_t at = PAD + n % 7;
                set_fill(&ref, (uint32_t)n);
                got = ref;
                double want = call(&v[0], fn, &ref, at, n);
                double have = call(&v[i], fn, &got, at, n);
                t->checks++;
                if (!close_to(have, want, 4e-6) || !same_set(&got, &ref, at, n))
                    test_fail(t, __FILE__, __LINE__,
                              "[%s] kernel %d, n = %zu: %.9g, not %.9g", names(&v[i]), fn,
                              n, have, want);
            }
}

static double ulps(float got, double want)
{
    float w = (float)want;
    if (isnan(got) || isinf(w))
        return isnan(want) == isnan(got) && (isnan(got) || got == w) ? 0 : 1e9;
    double ulp = ldexp(1.0, -149), size = fabs(want);
    if (size >= 0x1p-126)
        ulp = ldexp(1.0, ilogb(size) - 23);
    return fabs((double)got - want) / ulp;
}

static void exponentials(test *t)
{
    kern v[8];
    size_t count = variants(v, countof(v));
    float x[512], y[512];
    for (size_t i = 0; i < count; i++) {
        double worst = 0, at = 0;
        for (int block = -26000; block < 23000;
             block += test_quick() ? 7 : 1) { /* -104 .. 92 */
            for (int j = 0; j < 16; j++)
                x[j] = (float)block * 0.004f + (float)j * 0.00025f;
            v[i].expsum(y, x, 0.0f, 16);
            for (int j = 0; j < 16; j++)
                if (ulps(y[j], exp((double)x[j])) > worst)
                    worst = ulps(y[j], exp((double)x[j])), at = (double)x[j];
        }
        t->checks++;
        if (worst > 2.0)
            test_fail(t, __FILE__, __LINE__, "[%s] exp(%.9g) is off by %.2f ulp",
                      names(&v[i]), at, worst);
        float edge[] = {-INFINITY, INFINITY, NAN, -1e30f, 1e30f, 0.0f, -0.0f, 88.722f};
        for (size_t j = 0; j < 8; j++) {
            for (size_t l = 0; l < 20; l++)
                x[l] = edge[j];
            v[i].expsum(y, x, 0.0f, 20);
            CHECK(t, ulps(y[0], exp((double)edge[j])) <= 2 &&
                         ulps(y[19], exp((double)edge[j])) <= 2);
        }
    }
}

static void extremes(test *t)
{
    kern v[8];
    size_t count = variants(v, countof(v));
    float x[40], y[40], one[40];
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < 40; j++)
            x[j] = j % 2 ? -200.0f : 200.0f, one[j] = 1.0f;
        v[i].silu_mul(y, x, one, 40);
        for (size_t j = 0; j < 40; j++)
            CHECK(t, j % 2 ? fabsf(y[j]) < 1e-30f : y[j] == 200.0f);
        v[i].gelu(y, x, 40);
        for (size_t j = 0; j < 40; j++)
            CHECK(t, j % 2 ? fabsf(y[j]) < 1e-30f : y[j] == 200.0f);
        for (size_t at = 0; at < 40; at++) { /* a NaN or infinity anywhere is seen */
            memcpy(y, x, sizeof(y));
            y[at] = INFINITY;
            CHECK(t, v[i].max(y, 40) == INFINITY && isinf(v[i].sum(y, 40)));
            y[at] = NAN;
            CHECK(t, isnan(v[i].sum(y, 40)) && isnan(v[i].sumsq(y, 40)) &&
                         isnan(v[i].dot(y, one, 40)));
        }
        CHECK(t, v[i].max(x, 0) == -INFINITY && v[i].sum(x, 0) == 0.0);
        for (size_t j = 0; j < 40; j++)
            x[j] = 1e30f; /* squares beyond f32, not beyond double */
        CHECK_NEAR(t, v[i].sumsq(x, 40) / 4e61, 1, 1e-6);
    }
}

/* Every half value there is, both ways. */
static void halves(test *t)
{
    kern v[8];
    size_t count = variants(v, countof(v));
    static uint16_t h[65536], back[65536];
    static float f[65536];
    for (size_t i = 0; i < 65536; i++)
        h[i] = (uint16_t)i;
    for (size_t i = 0; i < count; i++) {
        v[i].f16_to_f32(f, h, 65535); /* odd counts reach the tails */
        v[i].f16_to_f32(f + 65535, h + 65535, 1);
        v[i].f32_to_f16(back, f, 65533);
        v[i].f32_to_f16(back + 65533, f + 65533, 3);
        long wrong = 0;
        for (size_t j = 0; j < 65536; j++) {
            int e = h[j] >> 10 & 31, m = h[j] & 1023;
            double want = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
            if (e == 31)
                wrong +=
                    m ? !(isnan(f[j]) && (back[j] & 0x7c00) == 0x7c00 && back[j] & 1023)
                      : !(isinf(f[j]) && back[j] == h[j]);
            else
                wrong += (double)f[j] != (h[j] & 0x8000 ? -want : want) || back[j] != h[j];
        }
        t->checks++;
        if (wrong)
            test_fail(t, __FILE__, __LINE__, "[%s] %ld halves differ", names(&v[i]), wrong);
        float ties[] = {1.00048828125f, 1.00146484375f, 65519.996f,
                        65520.0f,       2.98e-8f,       1e9f};
        uint16_t want[] = {0x3c00, 0x3c02, 0x7bff, 0x7c00, 0, 0x7c00}, got[6];
        v[i].f32_to_f16(got, ties, 6);
        CHECK(t, memcmp(got, want, 4 * 2) == 0 && got[5] == want[5]);
    }
}

/* ---- matrix product ------------------------------------------------------------------ */

typedef struct {
    size_t m, n, k;
    bool a_t, b_t;
    float alpha, beta;
    gemm_precision precision;
} shape;

/* Operands in blocks of exactly their size, so that an address sanitizer sees a read
 * outside; odd leading dimensions; C with a guarded margin. */
typedef struct {
    float *a, *b, *c0, *c;
    size_t lda, ldb, ldc, a_n, b_n, c_n;
} operands;

static size_t extent(size_t rows, size_t cols, size_t ld)
{
    return rows ? (rows - 1) * ld + cols : 0;
}

static void operands_open(operands *o, const shape *s, uint32_t seed)
{
    rng r = rng_for(11, seed, 0, 0);
    o->lda = (s->a_t ? s->m : s->k) + 3;
    o->ldb = (s->b_t ? s->k : s->n) + 1;
    o->ldc = s->n + 5;
    o->a_n = extent(s->a_t ? s->k : s->m, s->a_t ? s->m : s->k, o->lda);
    o->b_n = extent(s->b_t ? s->n : s->k, s->b_t ? s->k : s->n, o->ldb);
    o->c_n = s->m * o->ldc + 7;
    o->a = mem_array(o->a_n + 1, 4);
    o->b = mem_array(o->b_n + 1, 4);
    o->c0 = mem_array(o->c_n, 4);
    o->c = mem_array(o->c_n, 4);
    fill(o->a, o->a_n, &r, 1);
    fill(o->b, o->b_n, &r, 1);
    fill(o->c0, o->c_n, &r, 1);
    memcpy(o->c, o->c0, o->c_n * 4);
}

static void operands_close(operands *o)
{
    mem_free(o->a);
    mem_free(o->b);
    mem_free(o->c0);
    mem_free(o->c);
}

static gemm_args args_of(const shape *s, const operands *o)
{
    return (gemm_args){.m = s->m,
                       .n = s->n,
                       .k = s->k,
                       .a = o->a,
                       .lda = o->lda,
                       .a_t = s->a_t,
                       .b = o->b,
                       .ldb = o->ldb,
                       .b_type = DTYPE_F32,
                       .b_t = s->b_t,
                       .c = o->c,
                       .ldc = o->ldc,
                       .alpha = s->alpha,
                       .beta = s->beta,
                       .precision = s->precision};
}

/* As kern.h promises per product; the first is the rounding of a sum. */
static double bound(gemm_precision p)
{
    static const double split[] = {0, 0x1p-15, 0x1p-7 + 0x1p-16}; /* (1 + 2^-8)^2 - 1 */
    return 3e-6 + split[p];
}

static void multiply(const kern *k, pool *p, const gemm_args *g)
{
    size_t bytes = gemm_bytes(k, g->m, g->n, g->k, p);
    char *mem = mem_alloc(bytes);
    memset(mem, 0xff, bytes); /* NaN: stale scratch must not leak into the result */
    gemm(k, p, g, arena_of(mem, bytes));
    mem_free(mem);
}

/* Largest |error| over the bound's natural size, sum |alpha a b| + |beta c|. */
static double worst_error(const gemm_args *g, const float *c0)
{
    double worst = 0;
    const float *b = g->b;
    for (size_t i = 0; i < g->m; i++)
        for (size_t j = 0; j < g->n; j++) {
            double s = 0, size = 0;
            for (size_t p = 0; p < g->k; p++) {
                double x = (double)g->a[g->a_t ? p * g->lda + i : i * g->lda + p] *
                           (double)b[g->b_t ? j * g->ldb + p : p * g->ldb + j];
                s += x, size += fabs(x);
            }
            double old = g->beta == 0.0f ? 0 : (double)g->beta * (double)c0[i * g->ldc + j];
            size = fabs((double)g->alpha) * size + fabs(old) + 1e-30;
            double e =
                fabs((double)g->alpha * s + old - (double)g->c[i * g->ldc + j]) / size;
            worst = e > worst || isnan(e) ? e : worst;
        }
    return worst;
}

static bool margins_kept(const operands *o, size_t m, size_t n)
{
    for (size_t i = 0; i < o->c_n; i++)
        if ((i / o->ldc >= m || i % o->ldc >= n) && memcmp(&o->c[i], &o->c0[i], 4) != 0)
            return false;
    return true;
}

static void check_shape(test *t, const kern *k, const shape *s)
{
    operands o;
    operands_open(&o, s, (uint32_t)(s->m * 31 + s->n * 7 + s->k));
    gemm_args g = args_of(s, &o);
    multiply(k, NULL, &g);
    double e = worst_error(&g, o.c0);
    t->checks++;
    if (!(e < bound(s->precision)) || !margins_kept(&o, s->m, s->n))
        test_fail(
            t, __FILE__, __LINE__,
            "[%s] %zux%zux%zu a_t=%d b_t=%d alpha=%g beta=%g precision %d: error %.3g, "
            "margins %s",
            names(k), s->m, s->n, s->k, s->a_t, s->b_t, (double)s->alpha, (double)s->beta,
            (int)s->precision, e, margins_kept(&o, s->m, s->n) ? "kept" : "written");
    operands_close(&o);
}

static void products(test *t)
{
    static const size_t sizes[][3] = {
        {1, 1, 1},      {1, 37, 70},    {37, 1, 70},    {1, 1, 300},   {5, 7, 3},
        {8, 8, 8},      {8, 40, 300},   {3, 50, 33},    {50, 3, 33},   {50, 8, 513},
        {16, 16, 16},   {17, 33, 65},   {33, 17, 31},   {14, 32, 256}, {15, 31, 257},
        {28, 64, 512},  {61, 67, 8},    {64, 96, 1},    {100, 70, 16}, {12, 100, 17},
        {100, 12, 17},  {65, 129, 300}, {130, 65, 600}, {31, 2, 2},    {2, 95, 2},
        {20, 20, 1100}, {47, 1100, 5},  {1100, 33, 20}};
    static const float scales[][2] = {{1, 0}, {1, 1}, {-0.5f, 0.25f}, {0, 2}};
    kern v[8];
    size_t count = variants(v, countof(v));
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < countof(sizes); j++)
            for (int form = 0; form < 4; form++) {
                if (test_quick() && ((size_t)form + j) % 2)
                    continue;
                const float *ab = scales[(j + (size_t)form) % 4];
                shape s = {sizes[j][0], sizes[j][1], sizes[j][2], form & 1,
                           form >> 1,   ab[0],       ab[1],       GEMM_F32};
                check_shape(t, &v[i], &s);
                for (int p = GEMM_FAST; p <= GEMM_BF16 && v[i].flags & CPU_AMX; p++) {
                    s.precision = (gemm_precision)p;
                    check_shape(t, &v[i], &s);
                }
            }
}

static void products_small(test *t)
{
    kern v[8];
    size_t count = variants(v, countof(v));
    for (size_t i = 0; i < count; i++)
        for (size_t code = 0; code < (size_t)test_times(2000); code++) {
            rng r = rng_for(3, (uint32_t)code, 0, 0);
            shape s = {1 + rng_below(&r, 40),  1 + rng_below(&r, 70),
                       1 + rng_below(&r, 50),  code & 1,
                       code >> 1 & 1,          1,
                       code & 4 ? 1.0f : 0.0f, code & 8 ? GEMM_FAST : GEMM_F32};
            check_shape(t, &v[i], &s);
        }
}

/* Errors of a typical product, relative to its root mean square: what kern.h says of the
 * precisions, and that a faster one is not silently another. */
static void products_precision(test *t)
{
    static const double least[] = {0, 0x1p-21, 0x1p-10};
    static const double most[] = {0x1p-20, 0x1p-17, 0x1p-8};
    kern v[8];
    size_t count = variants(v, countof(v));
    for (size_t i = 0; i < count; i++)
        for (int p = GEMM_F32; p <= GEMM_BF16; p++) {
            shape s = {64, 96, 256, false, true, 1, 0, (gemm_precision)p};
            operands o;
            operands_open(&o, &s, 21);
            gemm_args g = args_of(&s, &o);
            multiply(&v[i], NULL, &g);
            double err = 0, size = 0;
            for (size_t r = 0; r < s.m; r++)
                for (size_t c = 0; c < s.n; c++) {
                    double want = 0;
                    for (size_t q = 0; q < s.k; q++)
                        want += (double)o.a[r * o.lda + q] * (double)o.b[c * o.ldb + q];
                    err += pow((double)o.c[r * o.ldc + c] - want, 2);
                    size += want * want;
                }
            double rms = sqrt(err / size);
            int got = v[i].flags & CPU_AMX ? p : GEMM_F32;
            CHECK(t, rms >= least[got] && rms < most[got]);
            operands_close(&o);
        }
}

/* beta = 0 does not read C; k = 0 still scales it. */
static void products_edges(test *t)
{
    kern v[8];
    size_t count = variants(v, countof(v));
    for (size_t i = 0; i < count; i++) {
        shape s = {19, 35, 9, false, true, 1, 0, GEMM_F32};
        operands o;
        operands_open(&o, &s, 5);
        for (size_t j = 0; j < 19 * o.ldc; j++)
            o.c0[j] = o.c[j] = NAN;
        gemm_args g = args_of(&s, &o);
        multiply(&v[i], NULL, &g);
        CHECK(t, worst_error(&g, o.c0) < 1e-6 && margins_kept(&o, 19, 35));
        g.k = 0;
        g.beta = 2;
        float was = o.c[3];
        multiply(&v[i], NULL, &g);
        CHECK(t, o.c[3] == 2 * was && margins_kept(&o, 19, 35));
        g.beta = 0;
        multiply(&v[i], NULL, &g);
        CHECK(t, o.c[0] == 0.0f && o.c[18 * o.ldc + 34] == 0.0f);
        g.n = 0;
        multiply(&v[i], NULL, &g);
        operands_close(&o);
    }
}

/* Infinity and NaN in an operand reach what they touch, and nothing else changes kind. */
static void products_not_finite(test *t)
{
    kern v[8];
    size_t count = variants(v, countof(v));
    for (size_t i = 0; i < count; i++)
        for (int form = 0; form < 4; form++) {
            shape s = {45,        70, 80, form & 1,
                       form >> 1, 1,  0,  (gemm_precision)(form % 3)};
            operands o;
            operands_open(&o, &s, 6);
            for (size_t j = 0; j < o.b_n; j++)
                o.b[j] = fabsf(o.b[j]) + 0.1f; /* no 0 for infinity to meet */
            o.a[s.a_t ? 3 * o.lda + 20 : 20 * o.lda + 3] = INFINITY;
            o.a[s.a_t ? 3 * o.lda + 21 : 21 * o.lda + 3] = NAN;
            o.a[s.a_t ? 3 * o.lda + 22 : 22 * o.lda + 3] = 3.4028235e38f;
            gemm_args g = args_of(&s, &o);
            multiply(&v[i], NULL, &g);
            long wrong = 0;
            for (size_t r = 0; r < 45; r++)
                for (size_t c = 0; c < 70; c++) {
                    float x = o.c[r * o.ldc + c];
                    wrong += r == 20   ? x != INFINITY
                             : r == 21 ? !isnan(x)
                             : r == 22 ? !(x > 1e37f)
                                       : !isfinite(x);
                }
            CHECK_INT(t, wrong, 0);
            operands_close(&o);
        }
}

static void products_threads(test *t)
{
    static const shape shapes[] = {{300, 280, 300, false, true, 1, 0, GEMM_FAST},
                                   {300, 280, 600, false, true, 1, 0, GEMM_BF16},
                                   {8, 500, 400, false, false, 1, 1, GEMM_F32},
                                   {500, 8, 400, false, true, 1, 0, GEMM_F32},
                                   {500, 400, 8, false, false, 1, 1, GEMM_F32},
                                   {1, 900, 300, false, true, 1, 0, GEMM_F32},
                                   {900, 1, 300, false, true, 1, 0, GEMM_F32},
                                   {130, 300, 290, false, true, 1, 0, GEMM_F32},
                                   {256, 64, 100, false, false, 2, 1, GEMM_F32},
                                   {90, 50, 280, true, false, 1, 0, GEMM_F32},
                                   {1100, 40, 1050, true, false, 1, 0, GEMM_F32},
                                   {70, 1300, 100, true, true, 2, 1, GEMM_F32}};
    kern v[8];
    size_t count = variants(v, countof(v));
    static const int threads[] = {2, 5};
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < countof(shapes); j++) {
            operands o;
            operands_open(&o, &shapes[j], 9);
            gemm_args g = args_of(&shapes[j], &o);
            multiply(&v[i], NULL, &g);
            CHECK(t, worst_error(&g, o.c0) < bound(g.precision));
            float *one = mem_array(o.c_n, 4);
            memcpy(one, o.c, o.c_n * 4);
            for (size_t n = test_quick(); n < countof(threads); n++) {
                pool *p = NULL;
                om_err err;
                CHECK_OK(t, pool_open(threads[n], &p, &err), err);
                memcpy(o.c, o.c0, o.c_n * 4);
                multiply(&v[i], p, &g);
                CHECK(t, memcmp(one, o.c, o.c_n * 4) == 0);
                pool_close(p);
            }
            mem_free(one);
            operands_close(&o);
        }
}

/* B of a packed type equals B unpacked first, both ways it may lie. */
static void products_packed(test *t)
{
    static const dtype types[] = {DTYPE_F16,  DTYPE_BF16, DTYPE_Q8_0,
                                  DTYPE_Q4_0, DTYPE_Q4_K, DTYPE_Q6_K};
    kern v[8];
    size_t count = variants(v, countof(v));
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < countof(types) * 2; j++) {
            const dtype_traits *d = dtype_of(types[j / 2]);
            if (!d || !d->pack || !d->unpack)
                continue;
            bool b_t = j % 2;
            shape s = {21, 1280, 1280, false, b_t, 1, 0, GEMM_F32};
            *(b_t ? &s.n : &s.k) = 45;
            size_t rows = 45, cols = 1280, bytes = cols / d->block * d->bytes;
            operands o;
            operands_open(&o, &s, 12);
            float *plain = mem_array(rows * cols, 4);
            char *packed = mem_alloc(rows * bytes);
            for (size_t r = 0; r < rows; r++) {
                d->pack(o.b + r * o.ldb, packed + r * bytes, cols);
                d->unpack(packed + r * bytes, plain + r * cols, cols);
            }
            gemm_args g = args_of(&s, &o);
            g.b = packed, g.b_type = types[j / 2], g.ldb = cols;
            g.precision = (gemm_precision)(j % 3);
            multiply(&v[i], NULL, &g);
            g.b = plain;
            t->checks++;
            if (!(worst_error(&g, o.c0) < bound(g.precision)) ||
                !margins_kept(&o, s.m, s.n))
                test_fail(t, __FILE__, __LINE__, "[%s] %s, b_t=%d: error %g", names(&v[i]),
                          d->name, b_t, worst_error(&g, o.c0));
            mem_free(plain);
            mem_free(packed);
            operands_close(&o);
        }
}

/* A faster unpacking gives the bits of the reference, whatever bytes a file holds. */
static void unpacking(test *t)
{
    kern v[8];
    size_t count = variants(v, countof(v));
    uint8_t bytes[1024];
    float got[512], want[512];
    rng r = rng_for(17, 0, 0, 0);
    for (size_t i = 0; i < count; i++)
        for (int type = 0; type < DTYPE_COUNT; type++) {
            gemm_unpack *fast = v[i].gemm->unpack ? v[i].gemm->unpack((dtype)type) : NULL;
            const dtype_traits *d = dtype_of((dtype)type);
            for (int trial = 0; fast && trial < test_times(400); trial++) {
                for (size_t j = 0; j < sizeof(bytes); j++)
                    bytes[j] = (uint8_t)rng_below(&r, 256);
                fast(bytes + trial % 3, got, 512);
                d->unpack(bytes + trial % 3, want, 512);
                long wrong = 0;
                for (size_t j = 0; j < 512; j++)
                    wrong += memcmp(&got[j], &want[j], 4) != 0 &&
                             !(isnan(got[j]) && isnan(want[j]));
                CHECK_INT(t, wrong, 0);
            }
        }
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"ladder", "masks give machines that exist", ladder},
        {"vectors", "variants agree with the reference for n = 0..257", vectors},
        {"exponentials", "exp is within 2 ulp, denormals and infinities included",
         exponentials},
        {"extremes", "tails, NaN and infinity", extremes},
        {"halves", "every half value, both ways", halves},
        {"products", "all layouts and scalings against sums in double", products},
        {"products_small", "two thousand small ragged shapes", products_small},
        {"products_precision", "typical errors are as documented", products_precision},
        {"products_edges", "beta = 0 reads nothing, k = 0 scales", products_edges},
        {"products_not_finite", "infinity stays infinity, NaN stays NaN",
         products_not_finite},
        {"products_threads", "the same bits on 1, 2 and 5 threads", products_threads},
        {"products_packed", "packed weights, both ways they lie", products_packed},
        {"unpacking", "packed weights to f32, bit by bit", unpacking},
        {0}};
    return test_main(argc, argv, cases);
}
