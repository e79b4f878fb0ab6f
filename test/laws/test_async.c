/* test_async.c - asynchronous federations: special cases equal what they should be bit for
 * bit, times equal closed forms, theory's order of the methods holds, and nothing depends on
 * threads or restarts. */
#include "fl/oracle/quadratic.h"
#include "fl/stale.h"
#include "sim/sim.h"
#include "test.h"

enum { DIM = 20, N = 8 };

/* Equal functions with noise, as the theory of Rennala and Ringmaster has them. */
static const quadratic_config alike = {
    .dim = DIM, .n_clients = N, .mu = 0.1, .smooth = 1, .noise = 0.3, .seed = 4};
static const quadratic_config unlike = {
    .dim = DIM, .n_clients = N, .mu = 0.1, .smooth = 1, .heterogeneity = 0.7, .seed = 4};

typedef struct {
    quadratic *q;
    uint64_t calls[N], samples[N]; /* gradients asked of each client */
    sim_config c;
    kern k;
} bed;

typedef struct {
    bed *b;
    uint32_t client;
    fl_oracle f;
} counted;

static om_status count_grad(void *ctx, const float *x, float *g, double *loss, om_err *err)
{
    counted *c = ctx;
    c->b->calls[c->client]++, c->b->samples[c->client] += c->f.n_samples;
    return c->f.grad(c->f.ctx, x, g, loss, err);
}

static om_status count_sgrad(void *ctx, const float *x, uint32_t batch, rng r, float *g,
                             double *loss, om_err *err)
{
    counted *c = ctx;
    uint64_t n = c->f.n_samples, from = r.ctr * batch;
    c->b->calls[c->client]++;
    c->b->samples[c->client] += from < n && n - from < batch ? n - from : batch;
    return c->f.sgrad(c->f.ctx, x, batch, r, g, loss, err);
}

static om_status client_of(void *ctx, uint32_t client, int worker, fl_oracle *out,
                           om_err *err)
{
    static counted self[8];
    bed *b = ctx;
    (void)err;
    self[worker] = (counted){.b = b, .client = client};
    quadratic_oracle(b->q, client, &self[worker].f);
    *out = self[worker].f;
    out->ctx = &self[worker];
    out->grad = count_grad;
    out->sgrad = count_sgrad;
    out->hvp = NULL, out->value = NULL, out->hess = NULL;
    return OM_OK;
}

/* The counters are for one thread. */
static om_status plain_client(void *ctx, uint32_t client, int worker, fl_oracle *out,
                              om_err *err)
{
    const bed *b = ctx;
    (void)worker, (void)err;
    quadratic_oracle(b->q, client, out);
    return OM_OK;
}

/* 100 samples a client; a full gradient of client i takes (i + 1)^spread seconds. */
static void bed_open(test *t, bed *b, const quadratic_config *q, double spread)
{
    om_err err = {0};
    *b = (bed){0};
    CHECK_OK(t, quadratic_open(q, &b->q, &err), err);
    kern_init(&b->k, 0);
    b->c = (sim_config){.dim = DIM,
                        .n_clients = N,
                        .cohort = N,
                        .seed = 3,
                        .k = &b->k,
                        .ctx = b,
                        .pace = {.compute = 0.01, .speed = PACE_LADDER, .spread = spread},
                        .make_oracle = client_of};
}

static sim *start(test *t, bed *b, const char *algo, const char *params, const char *codec_name)
{
    static const float x0[DIM] = {3, -2, 1};
    om_err err = {0};
    sim *s = NULL;
    CHECK_OK(t,
             fl_recipe_of(str_of(algo), str_of(params), str_of(codec_name), STR(""),
                          &b->c.recipe, &err),
             err);
    CHECK_OK(t, sim_open(&b->c, x0, &s, &err), err);
    return s;
}

static sim_row step(test *t, sim *s, int rounds)
{
    om_err err = {0};
    sim_row row = {0};
    for (int i = 0; i < rounds; i++)
        CHECK_OK(t, sim_round(s, &row, &err), err);
    return row;
}

static double gap(const bed *b, const sim *s)
{
    float best[DIM];
    quadratic_optimum(b->q, best);
    return quadratic_mean(b->q, sim_model(s), NULL) - quadratic_mean(b->q, best, NULL);
}

/* Two runs on one bed end with the same bits, or do not. */
static bool same(test *t, bed *b, const char *const one[3], const char *const two[3],
                 int rounds)
{
    sim *s = start(t, b, one[0], one[1], one[2]);
    step(t, s, rounds);
    sim *r = start(t, b, two[0], two[1], two[2]);
    step(t, r, rounds);
    bool equal = memcmp(sim_model(s), sim_model(r), DIM * sizeof(float)) == 0;
    sim_close(s), sim_close(r);
    return equal;
}

/* ---- special cases ---- */

static void equal_speeds(test *t)
{
    static const char *const pairs[][2][3] = {
        {{"fedbuff", "buffer_size=8,batch=10,local_steps=4,lr=0.1,weights=samples", "qsgd"},
         {"fedavg", "batch=10,local_steps=4,lr=0.1", "qsgd"}},
        {{"fedbuff", "buffer_size=8,batch=10,lr=0.1,server_momentum=0.5", "topk"},
         {"fedavg", "batch=10,lr=0.1,server_momentum=0.5,weights=equal", "topk"}},
        {{"rennala", "buffer_size=8,lr=0.3,batch=10", "randk"},
         {"dcgd", "lr=0.3,batch=10", "randk"}},
        {{"malenia", "buffer_size=8,lr=0.3,batch=10", "identity"},
         {"dcgd", "lr=0.3,batch=10", "identity"}},
    };
    bed b;
    bed_open(t, &b, &alike, 0);
    for (size_t i = 0; i < countof(pairs); i++)
        if (!same(t, &b, pairs[i][0], pairs[i][1], 12))
            test_fail(t, __FILE__, __LINE__, "%s is not %s", pairs[i][0][0], pairs[i][1][0]);
    quadratic_close(b.q);
}

static void special_cases(test *t)
{
    static const char *const asgd[] = {"asgd", "adaptive=no,lr=0.05,batch=10", "identity"};
    static const char *const ring[] = {"ringmaster", "staleness_bound=1e9,lr=0.05,batch=10",
                                       "identity"};
    static const char *const short_ring[] = {
        "ringmaster", "staleness_bound=2,lr=0.05,batch=10", "identity"};
    static const char *const fresh[] = {"ringmaster", "staleness_bound=0,lr=0.05,batch=10",
                                        "identity"};
    static const char *const first[] = {"rennala",
                                        "buffer_size=1,lr=0.05,batch=10,restart=finish",
                                        "identity"};
    bed b;
    bed_open(t, &b, &alike, 1);
    CHECK(t, same(t, &b, asgd, ring, 60));
    CHECK(t, !same(t, &b, asgd, short_ring, 60));
    CHECK(t, same(t, &b, fresh, first, 60));
    /* FedBuff that applies each unweighted gradient step is ASGD, to rounding. */
    sim *s = start(t, &b, "asgd", "adaptive=no,lr=0.05", "identity");
    sim *r = start(t, &b, "fedbuff", "buffer_size=1,staleness=constant,batch=0,local_steps=1,"
                                     "lr=0.05", "identity");
    step(t, s, 60), step(t, r, 60);
    for (int i = 0; i < DIM; i++)
        CHECK_NEAR(t, sim_model(s)[i], sim_model(r)[i], 1e-5);
    sim_close(s), sim_close(r), quadratic_close(b.q);
}

/* ---- times ---- */

/* min {t : sum_i floor(t / t_i) >= B}, t_i = i + 1: whole numbers. */
static double rennala_time(int want)
{
    for (int t = 1;; t++) {
        int done = 0;
        for (int i = 0; i < N; i++)
            done += t / (i + 1);
        if (done >= want)
            return t;
    }
}

static void rennala_times(test *t)
{
    static const int buffers[] = {1, 2, 5, 8, 13, 21, 50};
    bed b;
    bed_open(t, &b, &alike, 1);
    for (size_t i = 0; i < countof(buffers); i++) {
        char params[60];
        snprintf(params, sizeof(params), "buffer_size=%d,lr=0.1", buffers[i]);
        sim *s = start(t, &b, "rennala", params, "identity");
        for (int v = 1; v <= 4; v++) {
            sim_row row = step(t, s, 1);
            CHECK_INT(t, row.received, buffers[i]);
            CHECK_NEAR(t, row.clock, v * rennala_time(buffers[i]), 1e-9);
        }
        sim_close(s);
    }
    quadratic_close(b.q);
}

/* Rounds: the slowest of the cohort; the deadline; a race of more than a cohort. */
static void round_times(test *t)
{
    om_err err = {0};
    bed b;
    sim *s;
    bed_open(t, &b, &unlike, 1);
    b.c.pace.uplink = 8e-6 * 4 * DIM; /* a second for a message */
    b.c.pace.downlink = 4 * 8e-6 * 4 * DIM;
    b.c.pace.latency = 0.5;
    s = start(t, &b, "fedavg", "batch=0,local_steps=2,lr=0.1", "identity");
    sim_row row = step(t, s, 3);
    CHECK_NEAR(t, row.clock, 3 * (0.75 + 2 * N + 1.5), 1e-9);
    sim_close(s);
    b.c.deadline = 10; /* work of 2, 4, 6, 8, 10 s, and a message shorter than a second */
    s = start(t, &b, "fedavg", "batch=0,local_steps=2,lr=0.1", "topk");
    row = step(t, s, 3);
    CHECK(t, row.received == 4 && row.late == N - 4);
    CHECK_NEAR(t, row.clock, 30, 1e-9);
    sim_close(s);
    b.c.deadline = 11;
    s = start(t, &b, "marina", "lr=0.1", "identity");
    CHECK_OK(t, sim_round(s, &row, &err), err);
    sim_close(s);
    b.c.deadline = 5;
    s = start(t, &b, "marina", "lr=0.1", "identity");
    CHECK(t, sim_round(s, &row, &err) == OM_EARG && strstr(err.msg, "needs every answer"));
    sim_close(s);
    b.c.deadline = 1;
    CHECK_OK(t, fl_recipe_of(STR("fedavg"), STR(""), STR("identity"), STR(""), &b.c.recipe,
                             &err), err);
    CHECK(t, sim_open(&b.c, (float[DIM]){0}, &s, &err) == OM_EARG &&
                 strstr(err.msg, "raise cohort.deadline"));
    b.c.deadline = 0;
    b.c.cohort = 3, b.c.asked = N;
    s = start(t, &b, "fedavg", "batch=0,local_steps=1,lr=0.1", "identity");
    row = step(t, s, 2);
    CHECK(t, row.received == 3 && row.late == N - 3);
    CHECK_NEAR(t, row.clock, 2 * (0.75 + 3 + 1.5), 1e-9);
    sim_close(s), quadratic_close(b.q);
}

/* fl_async.work is what a step asks the oracle for. */
static void declared_work(test *t)
{
    static const char *const runs[][2] = {
        {"fedbuff", "batch=32,local_epochs=2,lr=0.01"}, {"fedbuff", "batch=0,local_steps=3"},
        {"fedasync", "batch=30,local_steps=6,lr=0.01"}, {"asgd", "batch=7,lr=0.01"},
        {"ringmaster", "lr=0.01"},                      {"malenia", "batch=500,lr=0.01"}};
    for (size_t i = 0; i < countof(runs); i++) {
        om_err err = {0};
        fl_oracle f;
        bed b;
        bed_open(t, &b, &alike, 0);
        sim *s = start(t, &b, runs[i][0], runs[i][1], "identity");
        fl_env e = {.dim = DIM, .n_clients = N, .cohort = N, .p = b.c.recipe.p};
        uint64_t want = b.c.recipe.algo->async->work(&e, 100);
        step(t, s, 3);
        CHECK_OK(t, sim_save(s, "/dev/null", NULL), err);
        for (int c = 0; c < N; c++)
            CHECK(t, b.calls[c] > 0 && b.samples[c] % want == 0);
        CHECK_OK(t, client_of(&b, 0, 0, &f, &err), err);
        sim_close(s), quadratic_close(b.q);
    }
}

/* ---- what theory says ---- */

/* Simulated seconds until f - f* is below eps; the best of some steps. */
static double seconds_to(test *t, bed *b, const char *algo, const char *more, double eps)
{
    static const char *const rates[] = {"0.02", "0.06", "0.2", "0.6"};
    double best = (double)INFINITY;
    for (size_t i = 0; i < countof(rates); i++) {
        char params[100];
        snprintf(params, sizeof(params), "batch=1,lr=%s%s", rates[i], more);
        sim *s = start(t, b, algo, params, "identity");
        sim_row row = {0};
        while (row.clock < best && row.clock < 1000 && gap(b, s) > eps && row.round < 20000)
            row = step(t, s, 1);
        if (gap(b, s) <= eps && row.clock < best)
            best = row.clock;
        sim_close(s);
    }
    return best;
}

/* On equal data and unequal speeds the methods that heed the delay are faster than the one
 * that waits for all, and no slower than the one that heeds nothing. */
static void faster(test *t)
{
    bed b;
    bed_open(t, &b, &alike, 3); /* 1 to 512 */
    b.c.make_oracle = plain_client;
    double rounds = seconds_to(t, &b, "dcgd", "", 0.02);
    double asgd = seconds_to(t, &b, "asgd", ",adaptive=no", 0.02);
    double ring = seconds_to(t, &b, "ringmaster", ",staleness_bound=8", 0.02);
    double renn = seconds_to(t, &b, "rennala", ",buffer_size=8", 0.02);
    if (getenv("OM_TEST_PRINT"))
        printf("to 0.02: rounds %g s, asgd %g, ringmaster %g, rennala %g\n", rounds, asgd,
               ring, renn);
    CHECK(t, ring <= asgd && renn < rounds / 2 && ring < rounds / 2);
    quadratic_close(b.q);
}

/* On unlike data Malenia finds the optimum at any speeds; ASGD finds that of the fast. */
static void unlike_data(test *t)
{
    bed b;
    bed_open(t, &b, &unlike, 1);
    sim *s = start(t, &b, "malenia", "lr=0.5,buffer_size=24", "identity");
    sim *r = start(t, &b, "asgd", "lr=0.02", "identity");
    CHECK(t, gap(&b, s) > 1);
    step(t, s, 200), step(t, r, 4000);
    CHECK(t, gap(&b, s) < 1e-6);
    CHECK(t, gap(&b, r) > 0.05 && gap(&b, r) < 1);
    sim_close(s), sim_close(r);
    s = start(t, &b, "fedasync", "batch=0,local_steps=1,lr=0.2,mix=0.1", "identity");
    r = start(t, &b, "fedbuff", "batch=0,local_steps=1,lr=0.2,buffer_size=8", "identity");
    step(t, s, 1500), step(t, r, 400);
    CHECK(t, gap(&b, s) < 1 && gap(&b, r) < 1);
    sim_close(s), sim_close(r), quadratic_close(b.q);
}

/* The part of trials that is finished is p, and rounds are as short as t_i says. */
static void mindflayer(test *t)
{
    bed b;
    bed_open(t, &b, &alike, 0);
    b.c.pace.jitter = PACE_JITTER_POWER;
    b.c.pace.jitter_size = 2; /* no mean: shape 1/2 */
    sim *s = start(t, &b, "mindflayer", "batch=0,lr=0.5,trials=5,within=0.5", "identity");
    uint64_t done = 0;
    step(t, s, 200);
    for (int c = 0; c < N; c++)
        done += b.calls[c];
    /* 8000 coins: within five deviations of one half */
    CHECK_NEAR(t, (double)done / (200.0 * N * 5), 0.5, 5 * 0.5 / sqrt(8000));
    sim_row row = step(t, s, 1);
    /* t_i = (1 - 1/2)^-2 = 4 seconds, five trials */
    CHECK(t, row.clock < 201 * 20.0 + 1e-6 && row.clock > 201 * 5);
    CHECK(t, gap(&b, s) < 1e-3);
    sim *r = start(t, &b, "dcgd", "lr=0.5", "identity");
    CHECK(t, step(t, r, 201).clock > 10 * row.clock);
    sim_close(s), sim_close(r), quadratic_close(b.q);
}

/* On equal data any plan is the gradient: E g = grad f, here without noise exactly. */
static void shadowheart(test *t)
{
    quadratic_config quiet = alike;
    quiet.noise = 0;
    bed b;
    bed_open(t, &b, &quiet, 1);
    b.c.pace.uplink = 1e-2;
    sim *s = start(t, &b, "shadowheart", "lr=0.5,noise_ratio=3", "identity");
    sim *r = start(t, &b, "dcgd", "lr=0.5", "identity");
    step(t, s, 10), step(t, r, 10);
    for (int i = 0; i < DIM; i++)
        CHECK_NEAR(t, sim_model(s)[i], sim_model(r)[i], 1e-5);
    sim_close(r), sim_close(s);
    s = start(t, &b, "shadowheart", "lr=0.5,noise_ratio=3", "natural");
    step(t, s, 200);
    CHECK(t, gap(&b, s) < 1e-3);
    sim_close(s), quadratic_close(b.q);
}

/* ---- stale, lost, stopped ---- */

static void ages(test *t)
{
    double p[STALE_PARAMS] = {STALE_ANY, STALE_POLYNOMIAL, 0.5, 4};
    bed b;
    CHECK_NEAR(t, stale_weight(p, 3), 0.5, 1e-12);
    p[STALE_HOW] = STALE_HINGE, p[STALE_A] = 10;
    CHECK_NEAR(t, stale_weight(p, 4), 1, 0);
    CHECK_NEAR(t, stale_weight(p, 6), 1.0 / 21, 1e-12);
    p[STALE_HOW] = STALE_THRESHOLD, p[STALE_A] = 0.25;
    CHECK(t, stale_weight(p, 4) == 1 && stale_weight(p, 5) == 0.25);
    p[STALE_HOW] = STALE_CONSTANT;
    CHECK(t, stale_weight(p, 1000) == 1);
    bed_open(t, &b, &alike, 2);
    static const char *const bounds[] = {"staleness_bound=0", "staleness_bound=3",
                                         "staleness_bound=1000"};
    uint32_t stale[3] = {0};
    for (int i = 0; i < 3; i++) {
        char params[100];
        snprintf(params, sizeof(params), "buffer_size=2,batch=0,lr=0.1,%s", bounds[i]);
        sim *s = start(t, &b, "fedbuff", params, "identity");
        for (int v = 0; v < 60; v++) {
            sim_row row = step(t, s, 1);
            CHECK_INT(t, row.received, 2); /* one version a buffer, exactly */
            stale[i] += row.stale;
        }
        sim_close(s);
    }
    CHECK(t, stale[0] > stale[1] && stale[1] > stale[2] && stale[2] == 0);
    quadratic_close(b.q);
}

static void dropouts(test *t)
{
    bed b;
    uint32_t asked = 0, received = 0;
    bed_open(t, &b, &alike, 1);
    b.c.dropout = 0.4;
    sim *s = start(t, &b, "fedbuff", "buffer_size=4,batch=0,local_steps=1,lr=0.8", "identity");
    for (int v = 0; v < 200; v++) {
        sim_row row = step(t, s, 1);
        asked += row.asked, received += row.received;
        CHECK_INT(t, row.up_bytes, 4 * DIM * 4);
    }
    CHECK_NEAR(t, (double)received / asked, 0.6, 0.06);
    CHECK(t, gap(&b, s) < 1e-4);
    sim_close(s), quadratic_close(b.q);
}

/* ---- bits ---- */

static const char *const everything[][3] = {
    {"fedasync", "batch=10,lr=0.1,mixing=update", "topk"},
    {"fedbuff", "buffer_size=3,batch=10,lr=0.1,staleness_bound=2", "topk"},
    {"asgd", "batch=10,lr=0.05", "qsgd"},
    {"ringmaster", "batch=10,lr=0.05,staleness_bound=3,restart=stop", "randk"},
    {"rennala", "batch=10,lr=0.1,buffer_size=5", "natural"},
    {"malenia", "batch=10,lr=0.1,buffer_size=12", "randk"},
};

static void hard(bed *b)
{
    b->c.pace = (sim_pace){.compute = 1e-3,
                           .speed = PACE_POWER,
                           .spread = 0.7,
                           .jitter = PACE_JITTER_LOGNORMAL,
                           .jitter_size = 0.8,
                           .period = 0.3,
                           .swing = 0.6,
                           .uplink = 0.05,
                           .downlink = 0.2,
                           .latency = 0.01,
                           .network_spread = 0.5};
    b->c.make_oracle = plain_client;
    b->c.dropout = 0.2;
}

/* Fewer at work than there are, on any number of threads; saved by four threads in the
 * middle of things and continued by one. */
static void same_bits(test *t)
{
    char path[300];
    om_err err = {0};
    snprintf(path, sizeof(path), "%s/async.sim", test_temp_dir());
    for (size_t i = 0; i < countof(everything); i++) {
        bed b;
        bed_open(t, &b, &alike, 0);
        hard(&b);
        bool all = strcmp(everything[i][0], "malenia") == 0;
        b.c.cohort = all ? N : 5;
        sim *s = start(t, &b, everything[i][0], everything[i][1], everything[i][2]);
        sim_row one = step(t, s, 40);
        CHECK_OK(t, pool_open(4, &b.c.pool, &err), err);
        sim *r = start(t, &b, everything[i][0], everything[i][1], everything[i][2]);
        step(t, r, 17);
        CHECK_OK(t, sim_save(r, path, &err), err);
        sim_row four = step(t, r, 23);
        b.c.pool = (sim_close(r), pool_close(b.c.pool), NULL);
        sim *again = start(t, &b, everything[i][0], everything[i][1], everything[i][2]);
        CHECK_OK(t, sim_load(again, path, &err), err);
        sim_row rest = step(t, again, 23);
        CHECK(t, memcmp(sim_model(s), sim_model(again), DIM * sizeof(float)) == 0);
        CHECK(t, one.clock == four.clock && one.clock == rest.clock && one.clock > 0);
        CHECK(t, one.total_up_bytes == four.total_up_bytes &&
                     one.total_up_bytes == rest.total_up_bytes);
        CHECK(t, one.total_down_bytes == rest.total_down_bytes && one.stale == rest.stale);
        CHECK(t, one.train_loss == four.train_loss && one.train_loss == rest.train_loss);
        sim_close(s), sim_close(again), quadratic_close(b.q);
    }
}

/* A checkpoint with tasks under way that is cut or bent is refused and changes nothing. */
static void hostile_checkpoint(test *t)
{
    char path[300];
    om_err err = {0};
    buf file;
    bed b;
    snprintf(path, sizeof(path), "%s/bent.sim", test_temp_dir());
    bed_open(t, &b, &alike, 0);
    hard(&b);
    sim *s = start(t, &b, everything[1][0], everything[1][1], everything[1][2]);
    sim *r = start(t, &b, everything[1][0], everything[1][1], everything[1][2]);
    step(t, s, 7);
    CHECK_OK(t, sim_save(s, path, &err), err);
    CHECK_OK(t, os_read_file(path, 1 << 20, &file, &err), err);
    for (size_t i = 0; i < 80; i++) {
        size_t at = i * 131 % file.len, n = i % 2 ? at : file.len;
        file.data[at] ^= 16;
        FILE *f = fopen(path, "wb");
        CHECK(t, f && fwrite(file.data, 1, n, f) == n && fclose(f) == 0);
        file.data[at] ^= 16;
        CHECK(t, sim_load(r, path, &err) != OM_OK && sim_rounds_done(r) == 0);
    }
    buf_free(&file);
    step(t, r, 7);
    CHECK(t, memcmp(sim_model(s), sim_model(r), DIM * sizeof(float)) == 0);
    sim_close(s), sim_close(r), quadratic_close(b.q);
}

/* ---- refusals ---- */

static void refusals(test *t)
{
    static const struct {
        const char *algo, *params, *codec, *says;
    } bad[] = {
        {"fedasync", "", "qsgd", "mixing=update"},
        {"asgd", "", "topk", "nearest first: randk"},
        {"rennala", "buffer_size=0", "identity", "buffer_size"},
        {"fedbuff", "", "permk", "nearest: randk"},
    };
    om_err err = {0};
    sim *s;
    bed b;
    bed_open(t, &b, &alike, 0);
    for (size_t i = 0; i < countof(bad); i++) {
        om_status st = fl_recipe_of(str_of(bad[i].algo), str_of(bad[i].params),
                                    str_of(bad[i].codec), STR(""), &b.c.recipe, &err);
        if (st == OM_OK)
            st = sim_open(&b.c, (float[DIM]){0}, &s, &err);
        if (st == OM_OK || !strstr(err.msg, bad[i].says))
            test_fail(t, __FILE__, __LINE__, "'%s' does not say '%s'", err.msg, bad[i].says);
    }
    CHECK_OK(t, fl_recipe_of(STR("fedbuff"), STR(""), STR("identity"), STR(""), &b.c.recipe,
                             &err), err);
    b.c.cohort = 4, b.c.asked = 6;
    CHECK(t, sim_open(&b.c, (float[DIM]){0}, &s, &err) == OM_EARG &&
                 strstr(err.msg, "over_selection to 1"));
    fl_drive network = {.n_clients = N, .asked = N, .cohort = N, .least = N};
    CHECK(t, fl_recipe_drive(&b.c.recipe, &network, &err) == OM_EUNSUPPORTED &&
                 strstr(err.msg, "choose fedavg"));
    CHECK_OK(t, fl_recipe_of(STR("mindflayer"), STR(""), STR("identity"), STR(""),
                             &b.c.recipe, &err), err);
    CHECK(t, fl_recipe_drive(&b.c.recipe, &network, &err) == OM_EUNSUPPORTED &&
                 strstr(err.msg, "speed of every client"));
    CHECK_OK(t, fl_recipe_of(STR("fedavg"), STR("lr=0.7,server_momentum=0.2"),
                             STR("identity"), STR(""), &b.c.recipe, &err), err);
    CHECK_OK(t, fl_recipe_async(&b.c.recipe, &err), err);
    CHECK_STR(t, b.c.recipe.algo->name, "fedbuff");
    CHECK(t, b.c.recipe.p[3] == 0.7 && strcmp(b.c.recipe.algo->params[3].name, "lr") == 0);
    CHECK_OK(t, fl_recipe_of(STR("marina"), STR(""), STR("identity"), STR(""), &b.c.recipe,
                             &err), err);
    CHECK(t, fl_recipe_async(&b.c.recipe, &err) == OM_EARG && strstr(err.msg, "fedbuff"));
    quadratic_close(b.q);
}

#ifdef OM_FAULTS
static void out_of_memory(test *t)
{
    bed b;
    om_err err = {0};
    bed_open(t, &b, &alike, 0);
    sim_close(start(t, &b, "malenia", "", "identity"));
    for (long n = 1;; n++) {
        sim *s = NULL;
        mem_fail_at(n);
        om_status st = sim_open(&b.c, (float[DIM]){0}, &s, &err);
        mem_fail_at(0);
        if (st == OM_OK) {
            CHECK(t, n > 20);
            sim_close(s);
            break;
        }
        CHECK_INT(t, st, OM_ENOMEM);
    }
    quadratic_close(b.q);
}
#endif

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"equal_speeds", "FedBuff is FedAvg, Rennala and Malenia minibatch SGD", equal_speeds},
        {"special_cases", "Ringmaster, Rennala and FedBuff as ASGD", special_cases},
        {"rennala_times", "a version takes what the closed form says", rennala_times},
        {"round_times", "slowest, deadline, race", round_times},
        {"declared_work", "steps ask for as many gradients as they say", declared_work},
        {"faster", "Ringmaster and Rennala in time", faster},
        {"unlike_data", "Malenia is right on unlike data", unlike_data},
        {"mindflayer", "heavy tails: part finished, time bounded", mindflayer},
        {"shadowheart", "any plan is the gradient", shadowheart},
        {"ages", "weights of the old, and their refusal", ages},
        {"dropouts", "lost work is lost time", dropouts},
        {"same_bits", "any threads, any restart", same_bits},
        {"hostile_checkpoint", "cut and bent files", hostile_checkpoint},
        {"refusals", "what makes no sense is refused with the nearest choice", refusals},
#ifdef OM_FAULTS
        {"out_of_memory", "every allocation may fail", out_of_memory},
#endif
        {0}};
    return test_main(argc, argv, cases);
}
