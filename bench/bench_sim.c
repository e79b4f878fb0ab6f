/* bench_sim.c - rounds per second of the simulator.
 *
 *     bench_sim [--threads N] [--rounds N]
 *
 * The published set-up of federated averaging: 100 clients with 600 samples each, an MLP
 * 784-200-10, 10 clients a round, one local epoch, batch 10.  The samples are random
 * bytes: the arithmetic is that of the digits.  Also one pass of each codec over a
 * million numbers.  The peer is bench/torch_fedavg.py.  Figures are the median and the best round of the run. */
#include "fl/oracle/net.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { CLIENTS = 100, EACH = 600, COHORT = 10, FEATURES = 784, CLASSES = 10 };

typedef struct {
    net *nets[64];
    fl_recipe recipe;
    fl_env env;
    void *server;
    char *scratch;
    size_t scratch_bytes;
    buf down, up[COHORT];
    uint32_t chosen[COHORT];
} bench;

static void must(om_status s, const om_err *err)
{
    if (s == OM_OK)
        return;
    fprintf(stderr, "bench_sim: %s\n", err->msg);
    exit(1);
}

static void client_work(void *ctx, size_t beg, size_t end, int worker)
{
    bench *b = ctx;
    om_err err = {0};
    for (size_t i = beg; i < end; i++) {
        fl_oracle f;
        arena a =
            arena_of(b->scratch + (size_t)worker * b->scratch_bytes, b->scratch_bytes);
        net_client(b->nets[worker], b->chosen[i], &f);
        b->up[i].len = 0;
        must(b->recipe.algo->client_step(&b->env, b->chosen[i], NULL, &f, b->down.data,
                                         b->down.len, &b->up[i], NULL, a, &err),
             &err);
    }
}

static void one_round(bench *b, pool *p)
{
    const fl_algo *a = b->recipe.algo;
    om_err err = {0};
    char room[256];
    arena none = arena_of(b->scratch, b->scratch_bytes);
    fl_cohort(1, b->env.round, CLIENTS, COHORT, b->chosen, arena_of(room, sizeof(room)));
    b->down.len = 0;
    must(a->server_begin(&b->env, b->server, &b->down, &err), &err);
    pool_run(p, COHORT, 1, client_work, b);
    for (int i = 0; i < COHORT; i++)
        must(a->server_recv(&b->env, b->server, b->chosen[i], EACH, b->up[i].data,
                            b->up[i].len, none, &err),
             &err);
    must(a->server_close(&b->env, b->server, none, &err), &err);
    b->env.round++;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void fedavg(pool *p, const kern *k, int rounds)
{
    enum { N = CLIENTS * EACH };
    om_err err = {0};
    bench b = {0};
    uint8_t *pixels = mem_array(N, FEATURES);
    int32_t *label = mem_array(N, sizeof(int32_t));
    uint32_t *index = mem_array(N, sizeof(uint32_t));
    size_t first[CLIENTS + 1];
    rng r = rng_for(1, 0, 0, 0);
    for (size_t i = 0; i < (size_t)N * FEATURES; i += 8) {
        uint64_t v = rng_u64(&r);
        memcpy(pixels + i, &v, 8);
    }
    for (uint32_t i = 0; i < N; i++) {
        index[i] = i;
        label[i] = (int32_t)rng_below(&r, CLASSES);
    }
    for (size_t i = 0; i <= CLIENTS; i++)
        first[i] = i * EACH;
    net_data data = {N, FEATURES, CLASSES, pixels, NULL, label};
    partition split = {CLIENTS, first, index};
    net_shape shape = {
        .features = FEATURES, .classes = CLASSES, .n_hidden = 1, .hidden = {200}};
    net_task task = {&shape, &data, &split, 0, k};
    int threads = pool_threads(p);
    for (int i = 0; i < threads; i++)
        must(net_open(&task, &b.nets[i], &err), &err);
    must(fl_recipe_of(STR("fedavg"), STR("batch=10,lr=0.05"), STR("identity"), STR(""),
                      &b.recipe, &err),
         &err);
    size_t d = net_dim(&shape);
    b.env = (fl_env){.dim = d,
                     .n_clients = CLIENTS,
                     .cohort = COHORT,
                     .seed = 1,
                     .p = b.recipe.p,
                     .up = b.recipe.up,
                     .up_p = b.recipe.up_p,
                     .k = k};
    b.scratch_bytes = size_align(b.recipe.algo->scratch_bytes(&b.env), 64);
    b.scratch = mem_array((size_t)threads, b.scratch_bytes);
    b.server = mem_alloc(b.recipe.algo->server_bytes(&b.env));
    b.down = buf_growing(4 * d + 1);
    for (int i = 0; i < COHORT; i++)
        b.up[i] = buf_growing(4 * d + 1);
    float *x0 = mem_array(d, sizeof(float));
    net_init(&shape, 1, x0);
    must(b.recipe.algo->server_open(&b.env, b.server, x0, &err), &err);
    double *ms = mem_array((size_t)rounds, sizeof(double));
    one_round(&b, p); /* warm up: plans, pages */
    clock_t cpu = clock();
    for (int i = 0; i < rounds; i++) {
        uint64_t from = os_now_ns();
        one_round(&b, p);
        ms[i] = (double)(os_now_ns() - from) * 1e-6;
    }
    cpu = clock() - cpu;
    qsort(ms, (size_t)rounds, sizeof(double), by_value);
    printf("fedavg mlp 784-200-10, 10 x 600 samples, batch 10, %d threads: "
           "median %.1f ms, best %.1f ms, %.1f rounds/s (best %.1f), %.1f ms of CPU a "
           "round\n",
           threads, ms[rounds / 2], ms[0], 1e3 / ms[rounds / 2], 1e3 / ms[0],
           1e3 * (double)cpu / CLOCKS_PER_SEC / rounds);
    for (int i = 0; i < threads; i++)
        net_close(b.nets[i]);
    for (int i = 0; i < COHORT; i++)
        buf_free(&b.up[i]);
    buf_free(&b.down);
    mem_free(b.scratch), mem_free(b.server), mem_free(x0), mem_free(ms);
    mem_free(pixels), mem_free(label), mem_free(index);
}

static void codec_pass(const codec *c)
{
    enum { D = 1000000, TIMES = 7 };
    double p[16], best[2] = {1e9, 1e9};
    float *x = mem_array(D, sizeof(float)), *y = mem_array(D, sizeof(float));
    om_err err = {0};
    rng r = rng_for(1, 2, 3, 4);
    param_defaults(c->params, p);
    if (c->flags & CODEC_JOINT) /* deals coordinates to this many clients */
        p[0] = COHORT;
    for (size_t i = 0; i < D; i++)
        x[i] = (float)rng_normal(&r);
    r.ctr = 3; /* of which this is one */
    size_t n = c->scratch_bytes(p, D);
    void *scratch = mem_alloc(n);
    buf out = buf_growing(c->bound(p, D) + 1);
    for (int i = 0; i < TIMES; i++) {
        uint64_t t0 = os_now_ns();
        out.len = 0;
        must(c->encode(p, x, D, r, arena_of(scratch, n), &out), &err);
        uint64_t t1 = os_now_ns();
        must(c->decode(p, out.data, out.len, 1, y, D, &err), &err);
        uint64_t t2 = os_now_ns();
        best[0] = (double)(t1 - t0) * 1e-6 < best[0] ? (double)(t1 - t0) * 1e-6 : best[0];
        best[1] = (double)(t2 - t1) * 1e-6 < best[1] ? (double)(t2 - t1) * 1e-6 : best[1];
    }
    printf("%-9s 1M numbers: encode %.2f ms, decode %.2f ms, %zu bytes\n", c->name, best[0],
           best[1], out.len);
    buf_free(&out);
    mem_free(scratch), mem_free(x), mem_free(y);
}

int main(int argc, char **argv)
{
    int threads = 0, rounds = 20;
    om_err err = {0};
    pool *p;
    kern k;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--threads") == 0)
            threads = atoi(argv[i + 1]);
        if (strcmp(argv[i], "--rounds") == 0)
            rounds = atoi(argv[i + 1]);
    }
    kern_init(&k, 0);
    must(pool_open(threads, &p, &err), &err);
    fedavg(p, &k, rounds < 1 ? 1 : rounds);
    for (size_t i = 0; codecs[i]; i++)
        codec_pass(codecs[i]);
    pool_close(p);
    return 0;
}
