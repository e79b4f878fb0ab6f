/* fl_loop.h - for the laws of the federated algorithms: a plain round loop in one thread,
 * over heterogeneous quadratics with a known optimum, and the settings under which every
 * row of the table is tried. */
#ifndef TEST_FL_LOOP_H
#define TEST_FL_LOOP_H

#include "fl/oracle/quadratic.h"
#include "test.h"

#define LOOP_UNUSED __attribute__((unused))

enum { DIM = 24, N = 10 };

typedef struct {
    fl_recipe r;
    fl_env e;
    quadratic *q;
    void *server;
    char *clients;
    size_t client_stride;
    void *memory;
    kern k;
    uint64_t up_bytes, down_bytes; /* all rounds; the last one */
    double loss;
} loop;

static const quadratic_config unlike = {.dim = DIM,
                                        .n_clients = N,
                                        .mu = 0.1,
                                        .smooth = 1,
                                        .heterogeneity = 0.7,
                                        .uneven = true,
                                        .seed = 5};
/* The same with clients that count alike, as most papers have it. */
static const quadratic_config even = {
    .dim = DIM, .n_clients = N, .mu = 0.1, .smooth = 1, .heterogeneity = 0.7, .seed = 5};

/* Settings under which a row reaches tolerance in f - f*, from a gap of about 10. */
typedef struct {
    const char *algo, *params, *codec, *codec_params;
    uint32_t rounds;
    double tolerance;
} loop_setting;

static const loop_setting settings[] = {
    {"fedavg", "batch=0,local_epochs=1,lr=0.9", "identity", "", 400, 1e-6},
    {"fedavg", "batch=0,local_steps=1,lr=0.5,server_momentum=0.5", "identity", "", 400,
     1e-6},
    {"fedavgm", "batch=0,local_steps=1,lr=0.1,weights=equal", "identity", "", 400, 1e-6},
    {"fedprox", "batch=0,local_steps=1,lr=0.9,mu=0.1", "identity", "", 400, 1e-6},
    {"fedadam", "batch=0,local_steps=1,lr=0.5,server_lr=0.02", "identity", "", 400, 2e-3},
    {"fedyogi", "batch=0,local_steps=1,lr=0.5,server_lr=0.02", "identity", "", 400, 2e-3},
    {"fedadagrad", "batch=0,local_steps=1,lr=0.5,server_lr=0.5", "identity", "", 400, 2e-3},
    {"scaffold", "batch=0,local_steps=5,lr=0.2", "identity", "", 300, 1e-6},
    {"scaffold", "batch=0,local_steps=5,lr=0.1", "natural", "", 400, 1e-5},
    {"fednova", "batch=0,local_steps=1,lr=0.9", "identity", "", 400, 1e-6},
    {"dcgd", "lr=0.9", "identity", "", 400, 1e-6},
    {"dcgd", "lr=0.002,vote=majority", "sign", "", 1500, 0.2},
    {"ef21", "lr=0.3", "topk", "ratio=0.1", 1500, 1e-6},
    {"ef21", "lr=0.3,init=zero", "randk", "ratio=0.3", 1500, 1e-6},
    {"ef21-hb", "lr=0.05,server_momentum=0.8", "topk", "ratio=0.2", 1500, 1e-6},
    {"ef21-pp", "lr=0.2", "topk", "ratio=0.2", 1500, 1e-6},
    {"ef21-sgdm", "lr=0.1,eta=0.3", "topk", "ratio=0.2", 2000, 1e-6},
    {"ef21-sgdm", "lr=0.1,eta=0.5,twice=yes", "topk", "ratio=0.2", 2000, 1e-6},
    {"ef21-bc", "lr=0.1,down=topk,down_ratio=0.3", "topk", "ratio=0.3", 2000, 1e-6},
    {"ef21-p", "lr=0.1,down=topk,down_ratio=0.3", "topk", "ratio=0.3", 2000, 1e-6},
    {"diana", "lr=0.5", "randk", "ratio=0.3", 800, 1e-6},
    {"lag", "lr=0.3,zeta=1", "identity", "", 800, 1e-6},
    {"clag", "lr=0.2,zeta=1", "topk", "ratio=0.3", 1500, 1e-6},
    {"3pc-v1", "lr=0.3", "topk", "ratio=0.3", 1500, 1e-6},
    {"3pc-v2", "lr=0.2,second_ratio=0.2", "topk", "ratio=0.2", 1500, 1e-6},
    {"3pc-v3", "lr=0.2,second_ratio=0.2", "topk", "ratio=0.2", 1500, 1e-6},
    {"3pc-v4", "lr=0.2,second_ratio=0.2", "topk", "ratio=0.2", 1500, 1e-6},
    {"3pc-v5", "lr=0.2,p=0.2", "topk", "ratio=0.3", 1500, 1e-6},
    {"marina", "lr=0.4", "randk", "ratio=0.3", 800, 1e-6},
    {"marina", "lr=0.5", "permk", "", 800, 1e-6},
    {"vr-marina", "lr=0.4,batch=8", "randk", "ratio=0.3", 800, 1e-6},
    {"pp-marina", "lr=0.15,drawn=4", "randk", "ratio=0.5", 1500, 1e-6},
    {"byz-ef21-sgdm", "lr=0.1,eta=0.3", "topk", "ratio=0.2", 2000, 1e-6},
    {"clip21", "lr=0.5,tau=0.2", "identity", "", 400, 1e-6},
    {"clip21", "lr=0.3,tau=0.2,eta=0.5", "natural", "", 800, 1e-6},
    {"byz-vr-marina", "lr=0.4,batch=8", "randk", "ratio=0.3", 800, 1e-6},
    {"byz-vr-marina-pp", "lr=0.1,batch=8,clip=4,p=0.3", "randk", "ratio=0.5", 1500, 1e-6},
    {"byz-dasha", "lr=0.3", "randk", "ratio=0.3", 1000, 1e-6},
    {"byz-dasha-page", "lr=0.3,batch=8", "randk", "ratio=0.3", 1000, 1e-6},
    {"dasha", "lr=0.3", "randk", "ratio=0.3", 1000, 1e-6},
    {"dasha-page", "lr=0.3,batch=8", "randk", "ratio=0.3", 1000, 1e-6},
    {"dasha-mvr", "lr=0.2,batch=8", "randk", "ratio=0.3", 1500, 1e-6},
    {"dasha-pp", "lr=0.1,participation=0.5", "randk", "ratio=0.5", 2000, 1e-6},
    {"proxskip", "lr=0.9,p=0.3", "identity", "", 200, 1e-6},
    {"compressed-scaffnew", "lr=0.9,p=0.5,s=4", "identity", "", 500, 1e-6},
    {"tamuna", "lr=0.9,p=0.5,s=4", "identity", "", 500, 1e-6},
    {"locodl", "lr=0.9,p=0.5,strong=0.05", "randk", "ratio=0.5", 800, 1e-6},
    {"bicolor", "lr=0.9,p=0.5,strong=0.05,down=topk,down_ratio=0.3", "randk", "ratio=0.5",
     1200, 1e-6},
    {"bicolor", "lr=0.9,p=0.5,strong=0.05,down=natural", "natural", "", 800, 1e-6},
    {"svrg", "lr=0.5,batch=10", "identity", "", 400, 1e-6},
    {"l-svrg", "lr=0.5,batch=10", "identity", "", 400, 1e-6},
    {"saga", "lr=0.5,blocks=8", "identity", "", 400, 1e-6},
    {"page", "lr=0.5,batch=10", "identity", "", 400, 1e-6},
    {"storm", "lr=0.5,batch=10", "identity", "", 400, 1e-6},
    {"cvar", "batch=0,local_steps=1,lr=0.9,over=clients,alpha=1", "identity", "", 400,
     1e-6},
    {"kl-dro", "batch=0,local_steps=1,lr=0.9,over=clients,lambda=1e9", "identity", "", 400,
     1e-6},
    /* by rounds; test_async.c has them as they are meant */
    {"fedasync", "batch=0,local_steps=1,lr=0.9,mix=0.9,mu=0", "identity", "", 400, 1e-6},
    {"fedasync", "batch=0,local_steps=1,lr=0.9,mixing=update", "identity", "", 400, 1e-6},
    {"fedbuff", "batch=0,local_steps=1,lr=0.9", "identity", "", 400, 1e-6},
    {"asgd", "lr=0.9", "identity", "", 400, 1e-6},
    {"ringmaster", "lr=0.9", "identity", "", 400, 1e-6},
    {"rennala", "lr=0.9", "identity", "", 400, 1e-6},
    {"malenia", "lr=0.9", "identity", "", 400, 1e-6},
    {"shadowheart", "lr=0.9,noise_ratio=1", "identity", "", 400, 1e-6},
    {"mindflayer", "lr=0.9,trials=2", "identity", "", 400, 1e-6},
    {"fedit", "batch=0,local_steps=1,lr=0.9", "identity", "", 400, 1e-6},
    {"fedit", "batch=0,local_steps=1,lr=0.5", "topk", "ratio=0.3", 800, 1e-2},
    /* A stays where it is: what is left is the gap of its eight numbers. */
    {"ffa-lora", "batch=0,local_steps=1,lr=0.9", "identity", "", 400, 6},
    {"hetlora", "batch=0,local_steps=1,lr=0.9,gamma=1,weigh_by=equal", "identity", "", 400,
     1e-6},
    /* The factors are turned each round, and this function knows of no product. */
    {"flexlora", "batch=0,local_steps=1,lr=0.5", "identity", "", 100, 20},
    {"flasc", "batch=0,local_steps=1,lr=0.5,server_lr=0.02,density_down=1,density_up=1",
     "identity", "", 400, 2e-3},
    {"flora", "batch=0,local_steps=5,lr=0.02,rank=4,alpha=4", "identity", "", 1500, 2e-3},
    {"rac-lora", "batch=0,local_steps=1,lr=0.9,rank=2", "identity", "", 600, 1e-6},
    {"rac-lora", "batch=0,local_steps=1,lr=0.9,rank=2,factor=b", "randk", "ratio=0.5", 800,
     1e-1},
    {"bernoulli-lora", "lr=0.9,rank=2", "identity", "", 600, 1e-6},
    {"bernoulli-lora-mvr", "lr=0.5,batch=10,rank=2", "identity", "", 800, 1e-6},
    {"bernoulli-lora-page", "lr=0.5,batch=10,rank=2", "identity", "", 800, 1e-6},
    {"bernoulli-lora-marina", "lr=0.4,rank=2", "randk", "ratio=0.3", 1500, 1e-6},
    {"bernoulli-lora-ef21", "lr=0.3,rank=2", "topk", "ratio=0.2", 2000, 1e-6},
    {"fednl", "", "identity", "", 5, 1e-6},
    {"fednl", "init=zero,option=a,mu=0.1", "topk", "ratio=0.3", 60, 1e-6},
    {"fednl", "init=zero", "rankr", "rank=1", 100, 1e-6},
    {"fednl-ls", "", "topk", "ratio=0.3", 10, 1e-6},
    {"fednl-pp", "drawn=4", "topk", "ratio=0.3", 40, 1e-6},
    {"fednl-pp", "drawn=10", "identity", "", 5, 1e-6},
    {"fednl-cr", "m=1,init=zero", "randk", "ratio=0.3", 150, 1e-6},
    {"fednl-bc", "p=0.5,down=topk,down_ratio=0.3,mu=0.1", "topk", "ratio=0.3", 60, 1e-6},
    {"fednl-bc", "", "identity", "", 5, 1e-6},
    {"newton-3pc", "variant=cbag", "topk", "ratio=0.3", 40, 1e-6},
    {"newton-3pc", "variant=lag", "identity", "", 10, 1e-6},
    {"newton-3pc", "variant=clag,option=b", "topk", "ratio=0.3", 40, 1e-6},
    {"newton-3pc", "variant=v5", "topk", "ratio=0.3", 40, 1e-6},
    {"bl1", "l2=0", "topk", "ratio=0.3", 20, 1e-6},
    {"bl2", "l2=0,drawn=4", "topk", "ratio=0.3", 40, 1e-6},
    {"fednew", "alpha=0.05,rho=0.3", "identity", "", 200, 1e-6},
    {"fednew", "alpha=0.05,rho=0.3,renew=0", "qsgd", "", 400, 1e-6},
};

/* Everybody takes a second for a gradient and one for a message. */
static LOOP_UNUSED double second(void *ctx, uint32_t id, uint32_t batch, double part)
{
    (void)ctx, (void)id, (void)batch, (void)part;
    return 1;
}

static LOOP_UNUSED double done_after(void *ctx, uint32_t id, uint32_t batch, double seconds)
{
    (void)ctx, (void)id, (void)batch;
    return seconds >= 1 ? 1 : 0;
}

static LOOP_UNUSED double message(void *ctx, uint32_t id, size_t bytes)
{
    (void)ctx, (void)id, (void)bytes;
    return 1;
}

static const fl_pace all_alike = {NULL, second, done_after, message};


/* 24 numbers as a low-rank pair, A (2, 4) and B (8, 2), or as a matrix (4, 6). */
static const float loop_start[DIM];
static const fl_matrix loop_pair[] = {{0, 8, 8, 4}}, loop_matrix[] = {{0, 0, 4, 6}};
static const fl_shape loop_pairs = {.m = loop_pair, .n = 1, .rank = 2, .start = loop_start},
                      loop_matrices = {.m = loop_matrix, .n = 1, .start = loop_start};
static LOOP_UNUSED const fl_shape *loop_shape(const fl_algo *a)
{
    return a->flags & FL_PAIRS ? &loop_pairs : a->flags & FL_MATRICES ? &loop_matrices : NULL;
}

static LOOP_UNUSED void loop_open(test *t, loop *l, const quadratic_config *c,
                                  const char *algo, const char *params,
                                  const char *codec_name, const char *codec_params)
{
    om_err err = {0};
    float x0[DIM] = {0};
    *l = (loop){0};
    CHECK_OK(t,
             fl_recipe_of(str_of(algo), str_of(params), str_of(codec_name),
                          str_of(codec_params), &l->r, &err),
             err);
    fl_drive drive = {N, N, N, N, true, true, true, loop_shape(l->r.algo)};
    CHECK_OK(t, fl_recipe_drive(&l->r, &drive, &err), err);
    CHECK_OK(t, quadratic_open(c, &l->q, &err), err);
    l->e = (fl_env){.dim = DIM,
                    .n_clients = N,
                    .cohort = N,
                    .seed = 11,
                    .p = l->r.p,
                    .up = l->r.up,
                    .up_p = l->r.up_p,
                    .k = &l->k,
                    .pace = &all_alike,
                    .shape = loop_shape(l->r.algo)};
    kern_init(&l->k, 0);
    l->server = mem_alloc(l->r.algo->server_bytes(&l->e));
    l->client_stride = size_align(l->r.algo->client_bytes(&l->e), 64);
    l->clients = mem_array(N, l->client_stride + 64);
    l->memory = mem_alloc(l->r.algo->scratch_bytes(&l->e));
    CHECK_OK(t, l->r.algo->server_open(&l->e, l->server, x0, &err), err);
}

static LOOP_UNUSED void loop_close(loop *l)
{
    quadratic_close(l->q);
    mem_free(l->server), mem_free(l->clients), mem_free(l->memory);
}

static LOOP_UNUSED arena scratch(const loop *l)
{
    return arena_of(l->memory, l->r.algo->scratch_bytes(&l->e));
}

static const float *model(const loop *l) { return l->r.algo->model(&l->e, l->server); }

/* One round with the clients that are present (NULL: all), computing in the order `perm`.
 */
static LOOP_UNUSED void round_among(test *t, loop *l, const uint32_t *perm,
                                    const bool *present)
{
    const fl_algo *a = l->r.algo;
    buf down = buf_growing(1 << 20), up[N];
    uint64_t samples[N];
    om_err err = {0};
    l->loss = 0, l->down_bytes = 0;
    CHECK_OK(t, a->server_begin(&l->e, l->server, &down, &err), err);
    CHECK(t, down.len <= a->down_bound(&l->e));
    l->down_bytes = down.len;
    for (uint32_t k = 0; k < N; k++) {
        uint32_t i = perm ? perm[k] : k;
        if (present && !present[i])
            continue;
        fl_oracle f;
        double loss = 0;
        quadratic_oracle(l->q, i, &f);
        up[i] = buf_growing(1 << 20);
        samples[i] = f.n_samples;
        CHECK_OK(t,
                 a->client_step(&l->e, i, l->clients + i * l->client_stride, &f, down.data,
                                down.len, &up[i], &loss, scratch(l), &err),
                 err);
        CHECK(t, up[i].len <= a->up_bound(&l->e));
        l->up_bytes += up[i].len;
        l->loss += loss / N;
    }
    for (uint32_t i = 0; i < N; i++) {
        if (present && !present[i])
            continue;
        CHECK_OK(t,
                 a->server_recv(&l->e, l->server, i, samples[i], up[i].data, up[i].len,
                                scratch(l), &err),
                 err);
        buf_free(&up[i]);
    }
    CHECK_OK(t, a->server_close(&l->e, l->server, scratch(l), &err), err);
    for (uint32_t i = 0; a->client_end && i < N; i++)
        if (!present || present[i])
            a->client_end(&l->e, i, l->clients + i * l->client_stride, model(l));
    l->e.round++;
    buf_free(&down);
}

static LOOP_UNUSED void round_of(test *t, loop *l, const uint32_t *perm)
{
    round_among(t, l, perm, NULL);
}

static LOOP_UNUSED void rounds(test *t, loop *l, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        round_of(t, l, NULL);
}

/* f(x) - f(x*) */
static LOOP_UNUSED double gap(const loop *l)
{
    float best[DIM];
    quadratic_optimum(l->q, best);
    return quadratic_mean(l->q, model(l), NULL) - quadratic_mean(l->q, best, NULL);
}

static LOOP_UNUSED double distance(const float *x, const float *y)
{
    double s = 0;
    for (int i = 0; i < DIM; i++)
        s += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    return sqrt(s);
}

static LOOP_UNUSED void loop_open_setting(test *t, loop *l, const loop_setting *s)
{
    loop_open(t, l, &even, s->algo, s->params, s->codec, s->codec_params);
}

#endif
