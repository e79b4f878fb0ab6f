/* test_sim.c - the simulator: same bits for any number of threads, exact byte counts,
 * checkpoints; and the problems it runs: logistic regression against published numbers,
 * networks against finite differences, both on real data where it is present. */
#include "fl/oracle/logistic.h"
#include "fl/oracle/net.h"
#include "fl/oracle/quadratic.h"
#include "sim/sim.h"
#include "test.h"

enum { DIM = 40, CLIENTS = 30 };

static const quadratic_config unlike = {.dim = DIM,
                                        .n_clients = CLIENTS,
                                        .mu = 0.1,
                                        .smooth = 1,
                                        .heterogeneity = 0.5,
                                        .noise = 0.2,
                                        .uneven = true,
                                        .seed = 3};

static const kern *kernels(void)
{
    static kern k;
    kern_init(&k, 0);
    return &k;
}

static om_status quadratic_client(void *ctx, uint32_t client, int worker, fl_oracle *out,
                                  om_err *err)
{
    (void)worker, (void)err;
    quadratic_oracle(ctx, client, out);
    return OM_OK;
}

static om_status quadratic_score(void *ctx, const float *x, sim_score *out, om_err *err)
{
    (void)err;
    out->loss = quadratic_mean(ctx, x, NULL);
    return OM_OK;
}

/* 40 numbers as a low-rank pair, A (2, 8) and B (12, 2), or as a matrix (5, 8), and
 * clients of two ranks. */
static const uint32_t own_ranks[] = {2, 1};
static const fl_matrix pair[] = {{0, 16, 12, 8}}, matrix[] = {{0, 0, 5, 8}};
static const fl_shape pairs = {.m = pair, .n = 1, .rank = 2, .ranks = own_ranks,
                               .n_ranks = 2},
                      matrices = {.m = matrix, .n = 1, .ranks = own_ranks, .n_ranks = 2},
                      alike = {.m = matrix, .n = 1};

/* The algorithm with the codec, or with the nearest one that it takes; its parameters as
 * far as it has them; and a cohort that it can bear. */
static void recipe_of(test *t, sim_config *c, const char *algo, const char *codec_name)
{
    static const char *const params[] = {"batch=10,local_epochs=2,lr=0.05,over=clients",
                                         "batch=10,local_epochs=2,lr=0.02,alpha=1",
                                         "batch=10,local_epochs=2,lr=0.05",
                                         "batch=10,lr=0.05", "lr=0.05", ""};
    const char *const names[] = {codec_name, "randk", "identity"};
    om_err err = {0};
    for (size_t i = 0; i < countof(params) * countof(names); i++)
        if (fl_recipe_of(str_of(algo), str_of(params[i % countof(params)]),
                         str_of(names[i / countof(params)]), STR(""), &c->recipe,
                         &err) == OM_OK)
            break;
    CHECK(t, c->recipe.algo != NULL);
    unsigned flags = c->recipe.algo->flags;
    c->shape = flags & FL_PAIRS       ? &pairs
               : flags & FL_RANKS     ? &matrices
               : flags & FL_MATRICES  ? &alike
                                      : NULL;
    if (c->recipe.algo->flags & FL_EVERY_CLIENT)
        c->cohort = CLIENTS;
    if (c->recipe.algo->flags & (FL_EVERY_CLIENT | FL_WHOLE_COHORT)) {
        c->asked = c->cohort;
        c->dropout = 0;
    }
    if (c->recipe.algo->async) {
        c->asked = c->cohort;
        c->pace = (sim_pace){.compute = 1e-3,
                             .speed = PACE_LOGNORMAL,
                             .spread = 1,
                             .jitter = PACE_JITTER_LOGNORMAL,
                             .jitter_size = 0.3,
                             .uplink = 1};
    }
}

static sim_config config_of(test *t, quadratic *q, const char *algo, const char *codec_name)
{
    sim_config c = {.dim = DIM,
                    .n_clients = CLIENTS,
                    .cohort = 10,
                    .asked = 13,
                    .min = 2,
                    .dropout = 0.3,
                    .seed = 8,
                    .evaluate_every = 2,
                    .ctx = q,
                    .make_oracle = quadratic_client,
                    .evaluate = quadratic_score};
    c.k = kernels();
    recipe_of(t, &c, algo, codec_name);
    return c;
}

static const float start[DIM] = {1, 2, 3};

/* Rounds under `threads` threads; the model and the last row come back. */
static void run(test *t, sim_config c, int threads, int rounds, float *model, sim_row *row)
{
    om_err err = {0};
    sim *s;
    CHECK_OK(t, pool_open(threads, &c.pool, &err), err);
    CHECK_OK(t, sim_open(&c, start, &s, &err), err);
    for (int i = 0; i < rounds; i++)
        CHECK_OK(t, sim_round(s, row, &err), err);
    memcpy(model, sim_model(s), DIM * sizeof(float));
    sim_close(s);
    pool_close(c.pool);
}

static void threads(test *t)
{
    static const char *const codec_names[] = {"identity", "topk", "randk", "qsgd"};
    om_err err = {0};
    quadratic *q;
    CHECK_OK(t, quadratic_open(&unlike, &q, &err), err);
    for (size_t a = 0; fl_algos[a]; a++)
        for (size_t k = 0; k < countof(codec_names); k++) {
            if (fl_algos[a]->flags & FL_SCORES) /* test_objectives.c */
                continue;
            float one[DIM], many[DIM];
            sim_row r1, rn;
            sim_config c = config_of(t, q, fl_algos[a]->name, codec_names[k]);
            run(t, c, 1, 6, one, &r1);
            for (int n = 2; n <= 8; n *= 2) {
                run(t, c, n, 6, many, &rn);
                CHECK(t, memcmp(one, many, sizeof(one)) == 0);
                CHECK(t, r1.train_loss == rn.train_loss && r1.score.loss == rn.score.loss);
                CHECK(t, r1.total_up_bytes == rn.total_up_bytes);
            }
            if (memcmp(one, start, sizeof(one)) == 0)
                test_fail(t, __FILE__, __LINE__, "%s with %s does not move",
                          fl_algos[a]->name, codec_names[k]);
        }
    quadratic_close(q);
}

/* Message bytes, counted by hand: identity sends 4 d up, and 4 d down to all asked. */
static void bytes(test *t)
{
    om_err err = {0};
    quadratic *q;
    sim *s;
    sim_row row;
    uint64_t up = 0, down = 0, dropped = 0;
    CHECK_OK(t, quadratic_open(&unlike, &q, &err), err);
    sim_config c = config_of(t, q, "fedavg", "identity");
    CHECK_OK(t, sim_open(&c, start, &s, &err), err);
    for (int i = 0; i < 40; i++) {
        CHECK_OK(t, sim_round(s, &row, &err), err);
        CHECK(t, row.received <= c.cohort && row.asked == c.asked);
        CHECK_INT(t, row.up_bytes, 4 * DIM * (uint64_t)row.received);
        CHECK_INT(t, row.down_bytes, 4 * DIM * (uint64_t)row.asked);
        CHECK_INT(t, row.total_up_bytes, up += row.up_bytes);
        CHECK_INT(t, row.total_down_bytes, down += row.down_bytes);
        CHECK_INT(t, row.round, i);
        CHECK(t, isnan(row.score.loss) == (i % 2 == 0));
        dropped += c.cohort - row.received;
    }
    /* 13 asked, 30 % drop out: a cohort of 10 misses 1.4 on average */
    CHECK_NEAR(t, (double)dropped / 40, 1.4, 0.8);
    sim_close(s), quadratic_close(q);
}

/* Too few answers: the round is counted and changes nothing. */
static void too_few(test *t)
{
    om_err err = {0};
    quadratic *q;
    sim *s;
    sim_row row;
    CHECK_OK(t, quadratic_open(&unlike, &q, &err), err);
    sim_config c = config_of(t, q, "fedavg", "identity");
    c.dropout = 0.99;
    c.min = 8;
    CHECK_OK(t, sim_open(&c, start, &s, &err), err);
    CHECK_OK(t, sim_round(s, &row, &err), err);
    CHECK(t, row.received == 0 && row.up_bytes == 0 && isnan(row.train_loss));
    CHECK(t, memcmp(sim_model(s), start, sizeof(start)) == 0 && sim_rounds_done(s) == 1);
    sim_close(s), quadratic_close(q);
}

static void checkpoint(test *t)
{
    char path[300];
    om_err err = {0};
    quadratic *q;
    snprintf(path, sizeof(path), "%s/run.sim", test_temp_dir());
    CHECK_OK(t, quadratic_open(&unlike, &q, &err), err);
    for (size_t a = 0; fl_algos[a]; a++) {
        sim *s, *r;
        sim_row row, last;
        if (fl_algos[a]->flags & FL_SCORES) /* test_objectives.c */
            continue;
        sim_config c = config_of(t, q, fl_algos[a]->name, "topk");
        CHECK_OK(t, sim_open(&c, start, &s, &err), err);
        CHECK_OK(t, sim_open(&c, start, &r, &err), err);
        for (int i = 0; i < 5; i++)
            CHECK_OK(t, sim_round(s, &row, &err), err);
        CHECK_OK(t, sim_save(s, path, &err), err);
        CHECK_OK(t, sim_load(r, path, &err), err);
        for (int i = 0; i < 5; i++) {
            CHECK_OK(t, sim_round(s, &row, &err), err);
            CHECK_OK(t, sim_round(r, &last, &err), err);
        }
        CHECK(t, memcmp(sim_model(s), sim_model(r), DIM * sizeof(float)) == 0);
        CHECK(t, row.total_up_bytes == last.total_up_bytes && row.round == last.round);
        sim_close(s), sim_close(r);
    }
    quadratic_close(q);
}

/* A checkpoint that is cut, bent or of another run is refused and changes nothing. */
static void hostile_checkpoint(test *t)
{
    char path[300];
    om_err err = {0};
    quadratic *q;
    sim *s, *r;
    sim_row row;
    buf file;
    snprintf(path, sizeof(path), "%s/bad.sim", test_temp_dir());
    CHECK_OK(t, quadratic_open(&unlike, &q, &err), err);
    sim_config c = config_of(t, q, "fedavg", "topk");
    CHECK_OK(t, sim_open(&c, start, &s, &err), err);
    CHECK_OK(t, sim_round(s, &row, &err), err);
    CHECK_OK(t, sim_save(s, path, &err), err);
    CHECK_OK(t, os_read_file(path, 1 << 20, &file, &err), err);
    sim_config other = c;
    other.seed++;
    CHECK_OK(t, sim_open(&other, start, &r, &err), err);
    CHECK(t, sim_load(r, path, &err) == OM_EARG && strstr(err.msg, "configuration"));
    sim_close(r);
    CHECK_OK(t, sim_open(&c, start, &r, &err), err);
    for (size_t i = 0; i < 60; i++) {
        size_t at = i * 97 % file.len, n = i % 2 ? at : file.len;
        file.data[at] ^= 4;
        FILE *f = fopen(path, "wb");
        CHECK(t, f && fwrite(file.data, 1, n, f) == n && fclose(f) == 0);
        file.data[at] ^= 4;
        CHECK(t, sim_load(r, path, &err) != OM_OK);
        CHECK(t,
              memcmp(sim_model(r), start, sizeof(start)) == 0 && sim_rounds_done(r) == 0);
    }
    buf_free(&file);
    sim_close(s), sim_close(r), quadratic_close(q);
}

static om_status failing(void *ctx, const float *x, float *g, double *loss, om_err *err)
{
    (void)ctx, (void)x, (void)g, (void)loss;
    return fail(err, OM_EIO, "the disk is gone");
}

static om_status some_fail(void *ctx, uint32_t client, int worker, fl_oracle *out,
                           om_err *err)
{
    TRY(quadratic_client(ctx, client, worker, out, err));
    if (client % 3 == 1) {
        out->grad = failing;
        out->sgrad = NULL;
    }
    return OM_OK;
}

static void failures(test *t)
{
    om_err err = {0};
    quadratic *q;
    sim *s;
    sim_row row;
    om_cancel cancel = {1};
    CHECK_OK(t, quadratic_open(&unlike, &q, &err), err);
    sim_config c = config_of(t, q, "fedavg", "identity");
    c.cohort = c.asked = CLIENTS;
    c.dropout = 0;
    c.make_oracle = some_fail;
    CHECK_OK(t, sim_open(&c, start, &s, &err), err);
    CHECK(t, sim_round(s, &row, &err) == OM_EIO);
    CHECK_STR(t, err.msg, "round 0, client 1: the disk is gone");
    sim_close(s);
    c.make_oracle = quadratic_client;
    c.cancel = &cancel;
    CHECK_OK(t, sim_open(&c, start, &s, &err), err);
    CHECK(t, sim_round(s, &row, &err) == OM_ECANCEL);
    sim_close(s);
    c.cohort = CLIENTS + 1;
    CHECK(t, sim_open(&c, start, &s, &err) == OM_EARG);
    quadratic_close(q);
}

#ifdef OM_FAULTS
static void out_of_memory(test *t)
{
    om_err err = {0};
    quadratic *q;
    CHECK_OK(t, quadratic_open(&unlike, &q, &err), err);
    sim_config c = config_of(t, q, "fedavg", "topk");
    long n = 1;
    for (;; n++) {
        sim *s = NULL;
        mem_fail_at(n);
        om_status st = sim_open(&c, start, &s, &err);
        mem_fail_at(0);
        if (st == OM_OK) {
            sim_close(s);
            break;
        }
        CHECK_INT(t, st, OM_ENOMEM);
    }
    CHECK(t, n > 8);
    quadratic_close(q);
}
#endif

/* ---- logistic regression ---- */

typedef struct {
    logistic_task task;
    logistic self[8];
    data_sparse rows;
    float *label;
    partition split;
} logreg;

static om_status logreg_client(void *ctx, uint32_t client, int worker, fl_oracle *out,
                               om_err *err)
{
    logreg *l = ctx;
    (void)err;
    logistic_oracle(&l->task, client, &l->self[worker], out);
    return OM_OK;
}

/* The first rows_of_split rows in file order, equal runs to n clients. */
static bool logreg_open(test *t, logreg *l, const char *file, uint32_t n, uint32_t used)
{
    buf text = test_data_file(file);
    om_err err = {0};
    *l = (logreg){0};
    if (!text.len) {
        test_skip(t, "no shared test data");
        return false;
    }
    CHECK_OK(t, data_libsvm(text.data, text.len, &l->rows, &err), err);
    buf_free(&text);
    l->label = mem_array(l->rows.n_rows, sizeof(float));
    CHECK_OK(t, logistic_labels(&l->rows, l->label, &err), err);
    used = used ? used : l->rows.n_rows / n;
    l->split = (partition){n, mem_array(n + 1, sizeof(size_t)),
                           mem_array((size_t)n * used, sizeof(uint32_t))};
    for (uint32_t c = 0; c <= n; c++)
        l->split.first[c] = (size_t)c * used;
    for (uint32_t i = 0; i < n * used; i++)
        l->split.index[i] = i;
    l->task = (logistic_task){&l->rows, l->label, &l->split, true, 1e-3, NULL};
    return true;
}

static void logreg_close(logreg *l)
{
    data_sparse_close(&l->rows);
    partition_close(&l->split);
    mem_free(l->label);
}

/* f at x, from the clients' own values. */
static double pooled(test *t, logreg *l, const float *x)
{
    double sum = 0, v;
    for (uint32_t c = 0; c < l->split.n_clients; c++) {
        fl_oracle f;
        om_err err = {0};
        logistic_oracle(&l->task, c, &l->self[0], &f);
        CHECK_OK(t, f.value(f.ctx, x, &v, &err), err);
        sum += v / l->split.n_clients;
    }
    return sum;
}

/* Numbers of an independent NumPy run in f64: phishing, 20 clients of 552 rows in file
 * order, intercept, l2 = 1e-3.  FedAvg with one full step of 1/L is gradient descent. */
static void phishing(test *t)
{
    logreg l;
    om_err err = {0};
    if (!logreg_open(t, &l, "tabular/libsvm/phishing.gz", 20, 552))
        return;
    CHECK_INT(t, logistic_dim(&l.task), 69);
    float x0[69] = {0}, g[69];
    double mean[69] = {0}, norm = 0, loss;
    CHECK_NEAR(t, pooled(t, &l, x0), log(2), 1e-9);
    for (uint32_t c = 0; c < 20; c++) {
        fl_oracle f;
        logistic_oracle(&l.task, c, &l.self[0], &f);
        CHECK_OK(t, f.grad(f.ctx, x0, g, &loss, &err), err);
        for (int i = 0; i < 69; i++)
            mean[i] += (double)g[i] / 20;
    }
    for (int i = 0; i < 69; i++)
        norm += mean[i] * mean[i];
    CHECK_NEAR(t, sqrt(norm), 0.104616630085, 1e-7);
    sim_config c = {.dim = 69,
                    .n_clients = 20,
                    .cohort = 20,
                    .ctx = &l,
                    .make_oracle = logreg_client,
                    .k = kernels()};
    char params[80];
    snprintf(params, sizeof(params), "batch=0,local_steps=1,lr=%.12g", 1 / 0.4120760707);
    CHECK_OK(t,
             fl_recipe_of(STR("fedavg"), str_of(params), STR("identity"), STR(""),
                          &c.recipe, &err),
             err);
    sim *s;
    sim_row row;
    CHECK_OK(t, pool_open(2, &c.pool, &err), err);
    CHECK_OK(t, sim_open(&c, x0, &s, &err), err);
    for (int i = 0; i < 100; i++)
        CHECK_OK(t, sim_round(s, &row, &err), err);
    CHECK_NEAR(t, pooled(t, &l, sim_model(s)) - 0.313511501734, 3.2785412200e-2, 2e-7);
    sim_close(s), pool_close(c.pool), logreg_close(&l);
}

/* Value, gradient and Hessian agree: central differences in f64 of f32 points. */
static void logistic_derivatives(test *t)
{
    logreg l;
    om_err err = {0};
    if (!logreg_open(t, &l, "tabular/libsvm/a9a.gz", 80, 0))
        return;
    enum { A9A = 124 };
    CHECK_INT(t, logistic_dim(&l.task), A9A);
    float x[A9A], v[A9A], g[A9A], gp[A9A], gm[A9A], hv[A9A], xp[A9A], xm[A9A];
    double up, dn, along = 0, mean[A9A] = {0}, batch_loss = 0;
    rng r = rng_for(1, 0, 0, 0);
    fl_oracle f;
    logistic_oracle(&l.task, 5, &l.self[0], &f);
    for (int i = 0; i < A9A; i++) {
        x[i] = (float)rng_normal(&r) * 0.3f, v[i] = (float)rng_normal(&r);
        xp[i] = x[i] + 0.01f * v[i], xm[i] = x[i] - 0.01f * v[i];
    }
    CHECK_OK(t, f.grad(f.ctx, x, g, NULL, &err), err);
    CHECK_OK(t, f.grad(f.ctx, xp, gp, &up, &err), err);
    CHECK_OK(t, f.grad(f.ctx, xm, gm, &dn, &err), err);
    CHECK_OK(t, f.hvp(f.ctx, x, v, hv, &err), err);
    for (int i = 0; i < A9A; i++) {
        along += (double)g[i] * (double)v[i];
        CHECK_NEAR(t, hv[i], (gp[i] - gm[i]) / 0.02f, 2e-4 + 2e-3 * fabs((double)hv[i]));
    }
    CHECK_NEAR(t, (up - dn) / 0.02, along, 1e-3 * fabs(along) + 1e-4);
    for (uint64_t b = 0; b * 10 < f.n_samples; b++) { /* an epoch's minibatches: the mean */
        double part = (double)size_min(10, f.n_samples - b * 10) / (double)f.n_samples, lb;
        CHECK_OK(t, f.sgrad(f.ctx, x, 10, (rng){.key = 77, .ctr = b}, gp, &lb, &err), err);
        batch_loss += part * lb;
        for (int i = 0; i < A9A; i++)
            mean[i] += part * (double)gp[i];
    }
    CHECK_OK(t, f.value(f.ctx, x, &up, &err), err);
    CHECK_NEAR(t, batch_loss, up, 1e-9);
    for (int i = 0; i < A9A; i++)
        CHECK_NEAR(t, mean[i], g[i], 1e-6);
    logreg_close(&l);
}

static void fedavg_a9a(test *t)
{
    logreg l;
    om_err err = {0};
    if (!logreg_open(t, &l, "tabular/libsvm/a9a.gz", 80, 0))
        return;
    float x0[124] = {0};
    sim_config c = {.dim = 124,
                    .n_clients = 80,
                    .cohort = 16,
                    .ctx = &l,
                    .seed = 1,
                    .make_oracle = logreg_client,
                    .k = kernels()};
    CHECK_OK(t,
             fl_recipe_of(STR("fedavg"), STR("batch=32,local_epochs=2,lr=0.3"), STR("qsgd"),
                          STR(""), &c.recipe, &err),
             err);
    sim *s;
    sim_row row;
    double loss, accuracy;
    CHECK_OK(t, sim_open(&c, x0, &s, &err), err);
    for (int i = 0; i < 25; i++)
        CHECK_OK(t, sim_round(s, &row, &err), err);
    logistic_eval(&l.rows, l.label, l.rows.n_cols, true, sim_model(s), NULL, &loss,
                  &accuracy);
    CHECK(t, accuracy > 0.84 && loss < 0.345); /* the optimum has 0.8486 and 0.323 */
    CHECK(t, row.total_up_bytes < row.total_down_bytes / 3);
    sim_close(s), logreg_close(&l);
}

/* ---- networks ---- */

/* Finite differences of the loss along random directions, softmax, MLP and CNN. */
static void net_gradients(test *t)
{
    enum { ROWS = 150, SIDE = 8 };
    float data[ROWS * SIDE * SIDE];
    int32_t label[ROWS];
    rng r = rng_for(4, 0, 0, 0);
    for (int i = 0; i < ROWS * SIDE * SIDE; i++)
        data[i] = (float)rng_normal(&r);
    for (int i = 0; i < ROWS; i++)
        label[i] = (int32_t)rng_below(&r, 3);
    net_data d = {ROWS, SIDE * SIDE, 3, NULL, data, label};
    net_shape shapes[3] = {{.features = 64, .classes = 3},
                           {.features = 64, .classes = 3, .n_hidden = 2, .hidden = {20, 9}},
                           {.features = 64,
                            .classes = 3,
                            .n_hidden = 1,
                            .hidden = {12},
                            .conv = {3, 4},
                            .height = SIDE,
                            .width = SIDE}};
    size_t first[2] = {0, ROWS};
    uint32_t index[ROWS];
    for (uint32_t i = 0; i < ROWS; i++)
        index[i] = i;
    partition all = {1, first, index};
    static const size_t dims[] = {195, 1300 + 189 + 30, 78 + 304 + 204 + 39};
    for (int m = 0; m < 3; m++) {
        net_task task = {&shapes[m], &d, &all, 0.01, kernels()};
        size_t n = net_dim(&shapes[m]);
        CHECK_INT(t, n, dims[m]);
        float *x = mem_array(n, 4), *g = mem_array(n, 4), *h = mem_array(n, 4);
        double *mean = mem_array(n, 8), loss, up, dn;
        om_err err = {0};
        net *net_;
        fl_oracle f;
        CHECK_OK(t, net_open(&task, &net_, &err), err);
        net_client(net_, 0, &f);
        net_init(&shapes[m], 3, x);
        CHECK_OK(t, f.grad(f.ctx, x, g, &loss, &err), err);
        for (int trial = 0; trial < 5; trial++) {
            double along = 0, step = 4e-5; /* short: few ReLUs flip */
            for (size_t i = 0; i < n; i++) {
                float v = (float)rng_normal(&r);
                h[i] = v;
                along += (double)v * (double)g[i];
                x[i] += (float)step * v;
            }
            CHECK_OK(t, f.value(f.ctx, x, &up, &err), err);
            for (size_t i = 0; i < n; i++)
                x[i] -= 2 * (float)step * h[i];
            CHECK_OK(t, f.value(f.ctx, x, &dn, &err), err);
            for (size_t i = 0; i < n; i++)
                x[i] += (float)step * h[i];
            CHECK_NEAR(t, (up - dn) / (2 * step), along, 5e-3 * fabs(along) + 2e-3);
        }
        for (uint64_t b = 0; b * 40 < ROWS; b++) { /* an epoch's minibatches: the mean */
            double part = (double)size_min(40, ROWS - b * 40) / ROWS;
            CHECK_OK(t, f.sgrad(f.ctx, x, 40, (rng){.key = 9, .ctr = b}, h, NULL, &err),
                     err);
            for (size_t i = 0; i < n; i++)
                mean[i] += part * (double)h[i];
        }
        CHECK_OK(t, f.grad(f.ctx, x, g, &loss, &err), err);
        for (size_t i = 0; i < n; i++)
            CHECK_NEAR(t, mean[i], g[i], 2e-5);
        if (m < 2) { /* the fused step is the step: l2 off, conv has none */
            net_task plain = task;
            plain.l2 = 0;
            net *fast;
            CHECK_OK(t, net_open(&plain, &fast, &err), err);
            net_client(fast, 0, &f);
            CHECK(t, f.sgd && f.fused_batch >= 40);
            for (uint64_t b = 0; b <= 3; b += 3) { /* by the tape; the short last by thin.h */
                rng key = {.key = 9, .ctr = b};
                CHECK_OK(t, f.sgrad(f.ctx, x, 40, key, g, &up, &err), err);
                memcpy(h, x, n * 4);
                CHECK_OK(t, f.sgd(f.ctx, h, 40, key, 0.3, &dn, &err), err);
                CHECK_NEAR(t, up, dn, 1e-6);
                for (size_t i = 0; i < n; i++)
                    CHECK_NEAR(t, h[i], x[i] - 0.3f * g[i], 1e-6);
                CHECK_OK(t, f.sgrad(f.ctx, x, 40, key, h, &up, &err), err);
                CHECK(t, memcmp(g, h, n * 4) == 0); /* and gradients are gradients again */
            }
            net_close(fast);
        }
        net_close(net_);
        mem_free(x), mem_free(g), mem_free(h), mem_free(mean);
    }
}

typedef struct {
    net *nets[8];
} net_ctx;

static om_status mlp_client(void *ctx, uint32_t client, int worker, fl_oracle *out,
                            om_err *err)
{
    (void)err;
    net_client(((net_ctx *)ctx)->nets[worker], client, out);
    return OM_OK;
}

/* FedAvg on MNIST: 20 clients with two classes each learn all ten digits; one and two
 * threads give the same bits. */
static void fedavg_mnist(test *t)
{
    buf images = test_data_file("images/mnist/t10k-images-idx3-ubyte.gz");
    buf labels = test_data_file("images/mnist/t10k-labels-idx1-ubyte.gz");
    enum { TRAIN = 4000, TEST = 2000, N = 20 };
    om_err err = {0};
    data_idx im, la;
    if (!images.len || !labels.len) {
        test_skip(t, "no shared test data");
        return;
    }
    CHECK_OK(t, data_idx_open(images.data, images.len, &im, &err), err);
    CHECK_OK(t, data_idx_open(labels.data, labels.len, &la, &err), err);
    static int32_t label[TRAIN + TEST];
    static uint32_t cls[TRAIN];
    for (int i = 0; i < TRAIN + TEST; i++)
        label[i] = la.raw[i];
    for (int i = 0; i < TRAIN; i++)
        cls[i] = la.raw[i];
    net_data train = {TRAIN, 784, 10, im.raw, NULL, label};
    net_data held = {TEST, 784, 10, im.raw + TRAIN * 784, NULL, label + TRAIN};
    const partition_rule *rule;
    partition split;
    double alpha = 0.3;
    CHECK_OK(t, partition_need(STR("dirichlet"), &rule, &err), err);
    CHECK_OK(t,
             partition_open(rule, &alpha, &(partition_data){TRAIN, cls, 10, NULL}, N, 1,
                            &split, &err),
             err);
    net_shape shape = {.features = 784, .classes = 10, .n_hidden = 1, .hidden = {64}};
    net_task task = {&shape, &train, &split, 0, kernels()};
    size_t d = net_dim(&shape);
    float *x0 = mem_array(d, 4), *first = mem_array(d, 4);
    net_init(&shape, 1, x0);
    for (int threads_n = 1; threads_n <= 2; threads_n++) {
        net_ctx ctx;
        sim_config c = {.dim = d,
                        .n_clients = N,
                        .cohort = 10,
                        .seed = 2,
                        .ctx = &ctx,
                        .make_oracle = mlp_client,
                        .k = kernels()};
        sim *s;
        sim_row row;
        double loss, accuracy;
        CHECK_OK(t, pool_open(threads_n, &c.pool, &err), err);
        for (int i = 0; i < threads_n; i++)
            CHECK_OK(t, net_open(&task, &ctx.nets[i], &err), err);
        CHECK_OK(t,
                 fl_recipe_of(STR("fedavg"), STR("batch=10,local_epochs=1,lr=0.1"),
                              STR("identity"), STR(""), &c.recipe, &err),
                 err);
        CHECK_OK(t, sim_open(&c, x0, &s, &err), err);
        for (int i = 0; i < 12; i++)
            CHECK_OK(t, sim_round(s, &row, &err), err);
        CHECK_OK(t,
                 net_score(ctx.nets, c.pool, &held, sim_model(s), NULL, &loss, &accuracy,
                           &err),
                 err);
        CHECK(t, accuracy > 0.85);
        if (threads_n == 1)
            memcpy(first, sim_model(s), d * 4);
        else
            CHECK(t, memcmp(first, sim_model(s), d * 4) == 0);
        sim_close(s);
        for (int i = 0; i < threads_n; i++)
            net_close(ctx.nets[i]);
        pool_close(c.pool);
    }
    mem_free(x0), mem_free(first), partition_close(&split);
    buf_free(&images), buf_free(&labels);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"threads", "1, 2, 4, 8 threads: same bits, every algorithm and codec", threads},
        {"bytes", "counted bytes are the messages' bytes", bytes},
        {"too_few", "below the minimum nothing changes", too_few},
        {"checkpoint", "save, load, continue: same bits", checkpoint},
        {"hostile_checkpoint", "cut, bent, foreign checkpoints", hostile_checkpoint},
        {"failures", "a client's error, cancelling, bad sizes", failures},
#ifdef OM_FAULTS
        {"out_of_memory", "every allocation fails once", out_of_memory},
#endif
        {"phishing", "gradient descent against published numbers", phishing},
        {"logistic_derivatives", "value, gradient, Hessian, minibatches",
         logistic_derivatives},
        {"fedavg_a9a", "FedAvg with 8-bit QSGD on a9a", fedavg_a9a},
        {"net_gradients", "softmax, MLP, CNN against finite differences", net_gradients},
        {"fedavg_mnist", "FedAvg on digits, 1 and 2 threads", fedavg_mnist},
        {0}};
    return test_main(argc, argv, cases);
}
