/* bench_qmat.c - speed of the quantized product, per type, instruction set and threads.
 *
 *     bench_qmat [--threads N] [--isa NAME] [--quick] [TYPE...]
 *     NAME  c | avx2 | avxvnni | vnni | amx | neon | dotprod
 *
 * m = 1 is generation: bytes of W per second, beside the read bandwidth measured in turns
 * with it over the same memory.  W is a fresh part of a buffer larger than any cache in
 * every repeat.  m > 1 is a prompt or a training batch: integer operations per second.
 * Shapes are those of a model of one billion parameters.  Figures are the best of several
 * repeats, and for m = 1 over 64 MB at a time. */
#include "kern/qmat.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>

enum { BUFFER = 384 << 20, SWEEP = 64 << 20, MAX_K = 8192, MAX_N = 32000, MAX_M = 128 };

static const struct {
    size_t n, k;
} shapes[] = {{2048, 2048}, {8192, 2048}, {2048, 8192}, {32000, 2048}};

typedef struct {
    uint8_t *w;
    float *x, *y;
    arena scratch;
    size_t at; /* where the next W lies */
    pool *team;
    kern k;
} bench;

static double seconds(void) { return (double)os_now_ns() * 1e-9; }

/* Four streams a chunk: one alone does not reach what the memory can give. */
static void read_chunk(void *ctx, size_t beg, size_t end, int worker)
{
    const uint8_t *p = ctx;
    size_t part = (end - beg) / 4 & ~(size_t)255;
    (void)worker;
    uint64_t s[8] = {0};
    for (size_t i = beg; i < beg + part; i += 256)
        for (size_t q = 0; q < 16; q++) {
            uint64_t v[8];
            memcpy(v, p + i + q / 4 * part + q % 4 * 64, 64);
            for (int j = 0; j < 8; j++)
                s[j] ^= v[j];
        }
    volatile uint64_t sink = s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
    (void)sink;
}

static uint8_t *next_w(bench *b, size_t bytes)
{
    if (b->at + bytes > BUFFER)
        b->at = 0;
    uint8_t *w = b->w + b->at;
    b->at += size_align(bytes, 64);
    return w;
}

static double read_seconds(bench *b, size_t bytes)
{
    double t = seconds();
    pool_run(b->team, bytes & ~(size_t)63, 4 << 20, read_chunk, next_w(b, bytes));
    return seconds() - t;
}

/* Seconds of one product; several of them over different W when one is small. */
static double product_seconds(bench *b, dtype t, size_t m, size_t n, size_t k)
{
    size_t row, count;
    if (!dtype_row_bytes(t, k, &row))
        return 0;
    count = m == 1 ? size_max(SWEEP / (row * n), 1) : 1;
    double start = seconds();
    for (size_t i = 0; i < count; i++)
        qmat(&b->k, b->team, t, next_w(b, row * n), b->x, k, b->y, n, m, n, k, b->scratch);
    return (seconds() - start) / (double)count;
}

static void one_shape(bench *b, dtype t, size_t n, size_t k, bool quick)
{
    static const size_t batches[] = {1, 2, 4, 16, 128};
    size_t row;
    if (!dtype_row_bytes(t, k, &row) || row * n > BUFFER)
        return;
    printf("%-7s %-7s %6zu x %-5zu", dtype_of(t)->name, b->k.qmat->name, n, k);
    for (size_t i = 0; i < countof(batches); i++) {
        size_t m = batches[i];
        double best = 1e9, read = 1e9;
        for (int rep = 0; rep < (quick ? 3 : 7); rep++) {
            double s = product_seconds(b, t, m, n, k);
            best = s < best ? s : best;
            double r = m == 1 ? read_seconds(b, SWEEP) : 1;
            read = r < read ? r : read;
        }
        double gbs = (double)(row * n) / best * 1e-9, all = SWEEP / read * 1e-9;
        if (m == 1)
            printf("  %6.2f GB/s (%3.0f %% of %.1f)", gbs, 100 * gbs / all, all);
        else
            printf("  m=%-3zu %5.0f", m, 2e-9 * (double)(m * n * k) / best);
    }
    printf(" GOP/s\n");
    fflush(stdout);
}

/* Random bytes that make small normal numbers, whatever they are read as: denormal
 * products would measure something else. */
static void fill(bench *b, bool plain)
{
    rng r = rng_for(1, 0, 0, 0);
    for (size_t i = 0; i < BUFFER; i += 8) {
        uint64_t v = rng_u64(&r) & 0x3b3b3b3b3b3b3b3b;
        if (plain)
            v = (v & 0x01ff01ff01ff01ff) | 0x3a003a003a003a00;
        memcpy(b->w + i, &v, 8);
    }
}

static bool prepare(bench *b)
{
    size_t need = (size_t)MAX_M * (MAX_K * 2) + (1 << 16);
    b->w = mem_alloc(BUFFER);
    b->x = mem_array(MAX_M * (size_t)MAX_K, sizeof(float));
    b->y = mem_array(MAX_M * (size_t)MAX_N, sizeof(float));
    void *scratch = mem_alloc(need);
    if (!b->w || !b->x || !b->y || !scratch)
        return false;
    b->scratch = arena_of(scratch, need);
    rng r = rng_for(2, 0, 0, 0);
    for (size_t i = 0; i < MAX_M * (size_t)MAX_K; i++)
        b->x[i] = (float)rng_unit(&r) - 0.5f;
    return true;
}

static const struct qmat_kernels *kernels_named(const char *name)
{
    static const unsigned ladder[] = {0, CPU_AVX2, CPU_AVX2 | CPU_AVXVNNI,
                                      CPU_AVX2 | CPU_AVX512 | CPU_VNNI,
                                      CPU_AVX2 | CPU_AVX512 | CPU_VNNI | CPU_AMX, CPU_NEON,
                                      CPU_NEON | CPU_DOTPROD};
    unsigned have = kern_cpu_flags();
    if (!name)
        return qmat_kernels_for(have);
    for (size_t i = 0; i < countof(ladder); i++)
        if ((ladder[i] & have) == ladder[i] &&
            strcmp(qmat_kernels_for(ladder[i])->name, name) == 0)
            return qmat_kernels_for(ladder[i]);
    return NULL;
}

static void run(bench *b, dtype t, bool quick)
{
    fill(b, dtype_of(t)->block == 1);
    for (size_t s = 0; s < (quick ? 2 : countof(shapes)); s++)
        one_shape(b, t, shapes[s].n, shapes[s].k, quick);
}

int main(int argc, char **argv)
{
    static bench b;
    const char *isa = NULL;
    int threads = 0, named = 0;
    bool quick = false;
    om_err err;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc)
            threads = atoi(argv[++i]);
        else if (strcmp(argv[i], "--isa") == 0 && i + 1 < argc)
            isa = argv[++i];
        else if (strcmp(argv[i], "--quick") == 0)
            quick = true;
    }
    b.k.qmat = kernels_named(isa);
    if (!b.k.qmat || pool_open(threads, &b.team, &err) != OM_OK || !prepare(&b)) {
        fprintf(stderr, "bench_qmat: no such instruction set here, or no memory\n");
        return 1;
    }
    printf("threads %d\n", pool_threads(b.team));
    for (int i = 1; i < argc; i++) {
        dtype t = dtype_find(str_of(argv[i]));
        named += t != DTYPE_COUNT;
        if (t != DTYPE_COUNT)
            run(&b, t, quick);
    }
    for (int t = 0; !named && t < DTYPE_COUNT; t++)
        if (qmat_supported((dtype)t))
            run(&b, (dtype)t, quick);
    pool_close(b.team);
    return 0;
}
