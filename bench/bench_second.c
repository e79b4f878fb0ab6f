/* bench_second.c - second-order methods on a real data set: time and rounds to a gradient.
 *
 *     bench_second FILE ALGO CODEC [clients] [rounds] [target |grad f|] [threads]
 *
 * Logistic regression with intercept, l2 = 1e-3, rows shuffled (seed 123), floor(rows /
 * clients) each, the rest dropped; K = 8 d of d (d + 1) / 2 for the codecs that have a K.
 * The gradient is the method's own, of the model its round began with.  One line of JSON:
 * mean milliseconds a round, rounds and seconds until |grad f| <= target (-1: never), the
 * last gradient, bytes up, peak memory.  bench/second.py puts the peer beside it. */
#include "fl/oracle/logistic.h"
#include "sim/sim.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

typedef struct {
    logistic_task task;
    partition split;
    logistic self[64];
} bench;

static void must(om_status s, const om_err *err)
{
    if (s == OM_OK)
        return;
    fprintf(stderr, "bench_second: %s\n", err->msg);
    exit(1);
}

static om_status client_of(void *ctx, uint32_t client, int worker, fl_oracle *out,
                           om_err *err)
{
    bench *b = ctx;
    (void)err;
    logistic_oracle(&b->task, client, &b->self[worker], out);
    return OM_OK;
}

static void deal(bench *b, size_t n, uint32_t clients)
{
    uint32_t *index = mem_array(n, sizeof(uint32_t));
    size_t *first = mem_array(clients + 1, sizeof(size_t));
    rng r = rng_for(123, 0, 0, 0);
    uint64_t key = rng_u64(&r);
    for (size_t i = 0; i < n; i++)
        index[i] = (uint32_t)rng_pick(key, n, i);
    for (size_t c = 0; c <= clients; c++)
        first[c] = c * (n / clients);
    b->split = (partition){clients, first, index};
}

static double number(int argc, char **argv, int i, double otherwise)
{
    return argc > i ? atof(argv[i]) : otherwise;
}

int main(int argc, char **argv)
{
    static bench b;
    om_err err = {0};
    os_map file;
    data_sparse rows;
    kern k;
    sim *s;
    if (argc < 4) {
        fprintf(stderr, "usage: bench_second FILE ALGO CODEC [clients] [rounds] [target] "
                        "[threads]\n");
        return 2;
    }
    uint32_t clients = (uint32_t)number(argc, argv, 4, 142);
    uint32_t rounds = (uint32_t)number(argc, argv, 5, 100);
    double target = number(argc, argv, 6, 1e-9);
    must(os_map_open(argv[1], &file, &err), &err);
    must(data_libsvm(file.p, file.n, &rows, &err), &err);
    float *label = mem_array(rows.n_rows, sizeof(float));
    must(logistic_labels(&rows, label, &err), &err);
    os_map_close(&file);
    deal(&b, rows.n_rows, clients);
    b.task = (logistic_task){&rows, label, &b.split, true, 1e-3, &k};
    sim_config c = {.dim = logistic_dim(&b.task),
                    .n_clients = clients,
                    .cohort = clients,
                    .seed = 1,
                    .k = &k,
                    .make_oracle = client_of,
                    .ctx = &b};
    kern_init(&k, 0);
    must(pool_open((int)number(argc, argv, 7, 0), &c.pool, &err), &err);
    char codec_params[40] = "";
    if (strstr("topk toplek randk randseqk", argv[3]))
        snprintf(codec_params, sizeof(codec_params), "k=%zu", 8 * c.dim);
    must(fl_recipe_of(str_of(argv[2]), STR(""), str_of(argv[3]), str_of(codec_params),
                      &c.recipe, &err),
         &err);
    float *x0 = mem_array(c.dim, sizeof(float));
    must(sim_open(&c, x0, &s, &err), &err);
    sim_row row = {0};
    double spent = 0, arrived = -1;
    long at = -1;
    for (uint32_t i = 0; i < rounds; i++) {
        must(sim_round(s, &row, &err), &err);
        spent += row.seconds;
        if (at < 0 && row.slope <= target) {
            at = (long)i;
            arrived = spent;
        }
    }
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    printf("{\"ms_per_round\":%.4f,\"rounds_to\":%ld,\"seconds_to\":%.5f,\"slope\":%.3g,"
           "\"up_mb\":%.2f,\"rss_mb\":%.1f,\"dim\":%zu}\n",
           1e3 * spent / rounds, at, arrived, row.slope, (double)row.total_up_bytes * 1e-6,
           (double)use.ru_maxrss / 1024, c.dim);
    sim_close(s);
    return 0;
}
