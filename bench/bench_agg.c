/* bench_agg.c - the kernels of federation: seconds to aggregate a cohort, and to find the
 * largest magnitudes of one long vector.
 *
 *     bench_agg [--threads N] [--clients N] [--dim N] [--long N] [--repeat N] [NAME...]
 *
 * Rows are standard normal numbers.  Each line is NAME, median and best seconds.  The same
 * operations in NumPy and PyTorch, in one run with these, are in bench/agg_peers.py. */
#include "fl/aggregate/aggregate.h"
#include "os/os.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    kern k;
    pool *pool;
    cohort rows;
    float *data, *out, *x;
    uint32_t *id, *index;
    size_t n, d, longest, repeat;
    char **wanted;
    int n_wanted;
} bench;

static void must(om_status s, const om_err *err)
{
    if (s == OM_OK)
        return;
    fprintf(stderr, "bench_agg: %s\n", err->msg);
    exit(1);
}

static void *need(void *p)
{
    if (p)
        return p;
    fprintf(stderr, "bench_agg: no memory\n");
    exit(1);
}

static void fill(void *ctx, size_t beg, size_t end, int worker)
{
    float *x = ctx;
    (void)worker;
    for (size_t i = beg; i < end; i++) {
        rng r = {.key = 7, .ctr = 2 * i};
        x[i] = (float)rng_normal(&r);
    }
}

static bool asked(const bench *b, const char *name)
{
    for (int i = 0; i < b->n_wanted; i++)
        if (strcmp(b->wanted[i], name) == 0)
            return true;
    return b->n_wanted == 0;
}

static void say(const char *name, double *seconds, size_t n)
{
    qsort(seconds, n, sizeof(double), aggregate_ascending);
    printf("%-20s %.6f %.6f\n", name, seconds[n / 2], seconds[0]);
    fflush(stdout);
}

static void aggregate(bench *b, const char *label, const char *name, double f)
{
    aggregate_rule a = {0};
    om_err err = {0};
    double seconds[64];
    if (!asked(b, label))
        return;
    must(aggregator_need(str_of(name), &a.row, &err), &err);
    param_defaults(a.row->params, a.p);
    a.p[AGGREGATE_F] = f;
    size_t bytes = aggregate_bytes(&a, &b->k, b->n, b->pool);
    char *memory = need(mem_alloc(bytes + 64));
    for (size_t i = 0; i < b->repeat; i++) {
        uint64_t from = os_now_ns();
        must(aggregate_run(&a, &b->rows, b->id, (rng){1, 0}, &b->k, b->pool, b->out,
                           arena_of(memory, bytes), &err),
             &err);
        seconds[i] = (double)(os_now_ns() - from) * 1e-9;
    }
    mem_free(memory);
    say(label, seconds, b->repeat);
}

static void mean(bench *b)
{
    double seconds[64];
    float *w = need(mem_array(b->n, sizeof(float)));
    for (size_t i = 0; i < b->n; i++)
        w[i] = 1.0f / (float)b->n;
    for (size_t i = 0; i < b->repeat && asked(b, "mean"); i++) {
        uint64_t from = os_now_ns();
        cohort_combine(&b->k, b->pool, &b->rows, w, b->out);
        seconds[i] = (double)(os_now_ns() - from) * 1e-9;
    }
    if (asked(b, "mean"))
        say("mean", seconds, b->repeat);
    mem_free(w);
}

static void top(bench *b)
{
    size_t top = b->longest / 100, bytes = select_top_bytes(b->longest, top);
    double seconds[64];
    if (!asked(b, "top"))
        return;
    b->x = need(mem_array(b->longest, sizeof(float)));
    b->index = need(mem_array(top, sizeof(uint32_t)));
    char *memory = need(mem_alloc(bytes + 64));
    pool_run(b->pool, b->longest, 1 << 20, fill, b->x);
    for (size_t i = 0; i < b->repeat; i++) {
        uint64_t from = os_now_ns();
        if (!select_top(&b->k, b->pool, b->x, b->longest, top, b->index,
                        arena_of(memory, bytes)))
            exit(1);
        for (size_t j = 0; j < top; j++) /* torch.topk gives the values too */
            ((float *)(void *)memory)[j] = b->x[b->index[j]];
        seconds[i] = (double)(os_now_ns() - from) * 1e-9;
    }
    say("top", seconds, b->repeat);
    mem_free(memory), mem_free(b->x), mem_free(b->index);
}

static size_t number(int argc, char **argv, const char *name, size_t def)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return (size_t)strtoull(argv[i + 1], NULL, 10);
    return def;
}

int main(int argc, char **argv)
{
    om_err err = {0};
    bench b = {.n = number(argc, argv, "--clients", 100),
               .d = number(argc, argv, "--dim", 1000000),
               .longest = number(argc, argv, "--long", 100000000),
               .repeat = size_min(number(argc, argv, "--repeat", 5), 64)};
    int first = 1;
    while (first + 1 < argc && argv[first][0] == '-')
        first += 2;
    b.wanted = argv + first;
    b.n_wanted = argc - first;
    kern_init(&b.k, 0);
    must(pool_open((int)number(argc, argv, "--threads", 0), &b.pool, &err), &err);
    b.data = need(mem_array(b.n * b.d, sizeof(float)));
    b.out = need(mem_array(b.d, sizeof(float)));
    b.id = need(mem_array(b.n, sizeof(uint32_t)));
    b.rows = (cohort){b.n, b.d, b.d, b.data};
    pool_run(b.pool, b.n * b.d, 1 << 20, fill, b.data);
    double f = (double)(b.n / 5);
    mean(&b);
    aggregate(&b, "median", "median", 0);
    aggregate(&b, "trimmed_mean", "trimmed_mean", (double)(b.n / 10));
    aggregate(&b, "meamed", "meamed", f);
    aggregate(&b, "krum", "krum", f);
    aggregate(&b, "multi_krum", "multi_krum", f);
    aggregate(&b, "bulyan", "bulyan", f);
    aggregate(&b, "geometric_median", "geometric_median", 0);
    top(&b);
    mem_free(b.data), mem_free(b.out), mem_free(b.id);
    pool_close(b.pool);
    return 0;
}
