/* bench_kern.c - speed of the kernels, per instruction set and thread count.
 *
 *     bench_kern [--threads N] [--isa NAME] [--precision f32|fast|bf16] [--quick] [--cpu]
 *                [SHAPE]
 *
 * The matrix product prints GFLOP/s and the share of this machine's multiply-add peak,
 * which the program measures itself, with registers alone, in turns with the product and
 * on as many threads.  With OCTOMIL_PEER_BLAS=/path/to/libopenblas.so the same products run
 * through that library's cblas_sgemm in the same run.  Figures are the best of several
 * repeats: on a shared machine the best is the least disturbed.  --cpu divides by processor
 * time (of all threads, over their number) instead: what it gives where others hold the
 * processors most of the time. */
#define _GNU_SOURCE
#include "kern/kern.h"
#include "os/os.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

typedef struct {
    size_t m, n, k;
    bool a_t, b_t;
    const char *what;
} shape;

static const shape shapes[] = {
    {2048, 2048, 2048, false, false, "square"},
    {256, 4864, 896, false, true, "0.5B ffn forward"},
    {256, 896, 4864, false, false, "0.5B ffn input gradient"},
    {256, 288, 288, false, true, "15M attention forward"},
    {1024, 768, 768, false, true, "110M forward"},
    {1024, 768, 768, false, false, "110M input gradient"},
    {768, 768, 1024, true, false, "110M weight gradient"},
    {1024, 2048, 768, false, true, "110M ffn forward"},
    {1024, 768, 2048, false, true, "110M ffn down"},
    {1024, 32000, 768, false, true, "110M logits"},
    {256, 256, 64, false, true, "attention scores, one head"},
    {256, 64, 256, false, false, "attention values, one head"},
    {1024, 896, 8, false, false, "LoRA up, rank 8"},
    {1024, 8, 896, false, true, "LoRA down, rank 8"},
    {8, 896, 1024, false, false, "LoRA down gradient"},
    {896, 8, 1024, true, false, "LoRA up gradient"},
    {1, 4864, 896, false, true, "matrix-vector"},
    {1, 896, 4864, false, false, "vector-matrix"},
};

typedef void sgemm_fn(int order, int ta, int tb, int m, int n, int k, float alpha,
                      const float *a, int lda, const float *b, int ldb, float beta,
                      float *c, int ldc);

static struct {
    sgemm_fn *sgemm;
    void (*threads)(int);
} peer;

/* ---- the peak
 * ---------------------------------------------------------------------------- */

enum { PEAK_STEPS = 100000, PEAK_SUMS = 16 };

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static float peak_avx512(void)
{
    __m512 s[PEAK_SUMS], x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(1e-3f);
    for (int i = 0; i < PEAK_SUMS; i++)
        s[i] = _mm512_set1_ps((float)i);
    for (long n = 0; n < PEAK_STEPS; n++)
        for (int i = 0; i < PEAK_SUMS; i++)
            s[i] = _mm512_fmadd_ps(s[i], x, y);
    for (int i = 1; i < PEAK_SUMS; i++)
        s[0] = _mm512_add_ps(s[0], s[i]);
    return _mm512_reduce_add_ps(s[0]);
}

enum { YMM_SUMS = 12 };
__attribute__((target("avx2,fma"))) static float peak_avx2(void)
{
    __m256 s[YMM_SUMS], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-3f);
    for (int i = 0; i < YMM_SUMS; i++)
        s[i] = _mm256_set1_ps((float)i);
    for (long n = 0; n < PEAK_STEPS; n++)
        for (int i = 0; i < YMM_SUMS; i++)
            s[i] = _mm256_fmadd_ps(s[i], x, y);
    for (int i = 1; i < YMM_SUMS; i++)
        s[0] = _mm256_add_ps(s[0], s[i]);
    float out[8];
    _mm256_storeu_ps(out, s[0]);
    return out[0] + out[5];
}
#elif defined(__aarch64__)
static float peak_neon(void)
{
    float32x4_t s[PEAK_SUMS], x = vdupq_n_f32(0.999f), y = vdupq_n_f32(1e-3f);
    for (int i = 0; i < PEAK_SUMS; i++)
        s[i] = vdupq_n_f32((float)i);
    for (long n = 0; n < PEAK_STEPS; n++)
        for (int i = 0; i < PEAK_SUMS; i++)
            s[i] = vfmaq_f32(y, s[i], x);
    for (int i = 1; i < PEAK_SUMS; i++)
        s[0] = vaddq_f32(s[0], s[i]);
    return vaddvq_f32(s[0]);
}
#endif

static volatile float sink;

static double peak_flop(unsigned flags) /* of one call of peak_item */
{
    if (flags & CPU_AVX512)
        return 32.0 * PEAK_SUMS * PEAK_STEPS;
    if (flags & CPU_AVX2)
        return 16.0 * 12 * PEAK_STEPS;
    if (flags & CPU_NEON)
        return 8.0 * PEAK_SUMS * PEAK_STEPS;
    return 0;
}

static void peak_item(void *ctx, size_t beg, size_t end, int worker)
{
    unsigned flags = *(const unsigned *)ctx;
    (void)beg, (void)end, (void)worker;
#if defined(__x86_64__)
    if (flags & CPU_AVX512)
        sink = peak_avx512();
    else if (flags & CPU_AVX2)
        sink = peak_avx2();
#elif defined(__aarch64__)
    if (flags & CPU_NEON)
        sink = peak_neon();
#endif
    (void)flags;
}

static int cpu_threads; /* 0: by the wall clock */

static double seconds(void)
{
    if (cpu_threads)
        return (double)clock() / CLOCKS_PER_SEC / cpu_threads;
    return (double)os_now_ns() * 1e-9;
}

/* One run of the peak loop on every thread, in GFLOP/s. */
static double peak_once(unsigned flags, pool *p)
{
    size_t threads = (size_t)pool_threads(p);
    double t = seconds();
    pool_run(p, threads, 1, peak_item, &flags);
    return peak_flop(flags) * (double)threads / (seconds() - t) * 1e-9;
}

/* ---- products
 * ------------------------------------------------------------------------------ */

typedef struct {
    float *a, *b, *c;
    char *scratch;
    size_t bytes;
    gemm_precision precision;
} data;

static void run_ours(const kern *k, pool *p, const shape *s, const data *d)
{
    gemm_args g = {.m = s->m,
                   .n = s->n,
                   .k = s->k,
                   .a = d->a,
                   .lda = s->a_t ? s->m : s->k,
                   .a_t = s->a_t,
                   .b = d->b,
                   .ldb = s->b_t ? s->k : s->n,
                   .b_type = DTYPE_F32,
                   .b_t = s->b_t,
                   .c = d->c,
                   .ldc = s->n,
                   .alpha = 1,
                   .precision = d->precision};
    gemm(k, p, &g, arena_of(d->scratch, d->bytes));
}

static void run_peer(const shape *s, const data *d)
{
    peer.sgemm(101, s->a_t ? 112 : 111, s->b_t ? 112 : 111, (int)s->m, (int)s->n, (int)s->k,
               1.0f, d->a, (int)(s->a_t ? s->m : s->k), d->b, (int)(s->b_t ? s->k : s->n),
               0.0f, d->c, (int)s->n);
}

typedef struct {
    double ours, peer, peak; /* GFLOP/s */
} rates;

static double timed(const kern *k, pool *p, const shape *s, const data *d, int inner)
{
    double t = seconds();
    for (int j = 0; j < inner; j++)
        k ? run_ours(k, p, s, d) : run_peer(s, d);
    return 2e-9 * (double)s->m * (double)s->n * (double)s->k * inner / (seconds() - t);
}

/* The best of each over `budget` seconds, taken in turns: what disturbs one disturbs all.
 */
static rates measure(const kern *k, pool *p, const shape *s, const data *d, double budget)
{
    rates r = {0};
    int inner = (int)fmax(1, 2e7 / (2.0 * (double)s->m * (double)s->n * (double)s->k));
    double start = seconds();
    for (int i = 0; i < 3 || seconds() - start < budget; i++) {
        r.ours = fmax(r.ours, timed(k, p, s, d, inner));
        if (peer.sgemm)
            r.peer = fmax(r.peer, timed(NULL, p, s, d, inner));
        if (peak_flop(k->flags) > 0)
            r.peak = fmax(r.peak, peak_once(k->flags, p));
    }
    return r;
}

static bool data_open(data *d, const kern *k, pool *p, const shape *s)
{
    d->bytes = gemm_bytes(k, s->m, s->n, s->k, p);
    d->a = mem_array(s->m * s->k, 4);
    d->b = mem_array(s->n * s->k, 4);
    d->c = mem_array(s->m * s->n, 4);
    d->scratch = mem_alloc(d->bytes);
    if (!d->a || !d->b || !d->c || !d->scratch)
        return false;
    rng r = rng_for(1, 0, 0, 0);
    for (size_t i = 0; i < s->m * s->k; i++)
        d->a[i] = (float)rng_unit(&r) - 0.5f;
    for (size_t i = 0; i < s->n * s->k; i++)
        d->b[i] = (float)rng_unit(&r) - 0.5f;
    return true;
}

static void data_close(data *d)
{
    mem_free(d->a);
    mem_free(d->b);
    mem_free(d->c);
    mem_free(d->scratch);
}

typedef struct {
    const char *isa, *shape;
    int threads; /* 0: 1 and all */
    double budget;
    gemm_precision precision;
    bool cpu;
} options;

static void bench_shape(const kern *k, pool *p, const shape *s, const options *o)
{
    data d = {.precision = o->precision};
    if (!data_open(&d, k, p, s)) {
        printf("  no memory for %zux%zux%zu\n", s->m, s->n, s->k);
    } else {
        rates r = measure(k, p, s, &d, o->budget);
        printf("  %5zu %5zu %5zu %c%c  %8.1f", s->m, s->n, s->k, s->a_t ? 'T' : 'N',
               s->b_t ? 'T' : 'N', r.ours);
        if (r.peak > 0)
            printf("  %6.0f  %5.1f %%", r.peak, 100 * r.ours / r.peak);
        if (peer.sgemm)
            printf("  %8.1f  %5.2fx", r.peer, r.ours / r.peer);
        printf("  %s\n", s->what);
        fflush(stdout);
    }
    data_close(&d);
}

static void bench_group(unsigned mask, int threads, const options *o)
{
    kern k;
    char names[100];
    pool *p = NULL;
    om_err err;
    kern_init(&k, mask);
    kern_flag_names(k.flags, names, sizeof(names));
    if (pool_open(threads, &p, &err) != OM_OK) {
        printf("%s\n", err.msg);
        return;
    }
    if (peer.threads)
        peer.threads(threads);
    cpu_threads = o->cpu ? threads : 0;
    printf("\n[%s] %d thread%s, GFLOP/s\n", names[0] ? names : "c", threads,
           threads == 1 ? "" : "s");
    printf("      m     n     k         ours%s%s\n",
           peak_flop(k.flags) > 0 ? "    peak    share" : "",
           peer.sgemm ? "      peer   ratio" : "");
    for (size_t i = 0; i < countof(shapes); i++)
        if (!o->shape || strstr(shapes[i].what, o->shape))
            bench_shape(&k, p, &shapes[i], o);
    pool_close(p);
}

static void peer_open(void)
{
    const char *path = getenv("OCTOMIL_PEER_BLAS");
    void *lib = path ? dlopen(path, RTLD_NOW) : NULL;
    if (!path)
        printf("peer: none (set OCTOMIL_PEER_BLAS to a library with cblas_sgemm)\n");
    else if (!lib)
        printf("peer: absent: %s\n", dlerror());
    if (!lib)
        return;
    *(void **)&peer.sgemm = dlsym(lib, "cblas_sgemm");
    *(void **)&peer.threads = dlsym(lib, "openblas_set_num_threads");
    char *(*core)(void) = NULL;
    *(void **)&core = dlsym(lib, "openblas_get_corename");
    printf("peer: %s%s%s%s\n", path, core ? ", core type " : "", core ? core() : "",
           peer.sgemm ? "" : ", which has no cblas_sgemm");
}

static gemm_precision precision_of(const char *name)
{
    return strcmp(name, "bf16") == 0   ? GEMM_BF16
           : strcmp(name, "fast") == 0 ? GEMM_FAST
                                       : GEMM_F32;
}

int main(int argc, char **argv)
{
    static const unsigned masks[] = {1u << 30, CPU_AVX2, CPU_AVX2 | CPU_AVX512, ~0u};
    options o = {.budget = 0.3};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0)
            o.budget = 0.05;
        else if (strcmp(argv[i], "--cpu") == 0)
            o.cpu = true;
        else if (strcmp(argv[i], "--isa") == 0 && i + 1 < argc)
            o.isa = argv[++i];
        else if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc)
            o.threads = atoi(argv[++i]);
        else if (strcmp(argv[i], "--precision") == 0 && i + 1 < argc)
            o.precision = precision_of(argv[++i]);
        else
            o.shape = argv[i];
    }
    char cpu[200];
    int all = os_cpu_count();
    printf("%s, %d CPUs\n", os_cpu_name(cpu, sizeof(cpu)), all);
    peer_open();
    unsigned last = ~0u;
    for (size_t i = 0; i < countof(masks); i++) {
        kern k;
        kern_init(&k, masks[i]);
        char names[100];
        kern_flag_names(k.flags, names, sizeof(names));
        const char *top = k.flags ? strrchr(names, ' ') : "c";
        top = top ? top + (*top == ' ') : names;
        if (k.flags == last || (o.isa ? strcmp(o.isa, top) != 0 : k.flags == 0))
            continue; /* the reference only when asked for */
        last = k.flags;
        if (o.threads) {
            bench_group(masks[i], o.threads, &o);
            continue;
        }
        bench_group(masks[i], 1, &o);
        if (all > 1)
            bench_group(masks[i], all, &o);
    }
    return 0;
}
