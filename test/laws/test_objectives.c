/* test_objectives.c - laws of the objectives beyond the mean loss: gradients against finite
 * differences of the objective written out, special cases, control variates, the ranks. */
#include "codec/wire.h"
#include "fl/grad.h"
#include "fl/metric.h"
#include "fl/oracle/logistic.h"
#include "fl/oracle/net.h"
#include "fl/rows.h"
#include "test.h"

enum { ROWS = 120, FEATURES = 5, DIM = FEATURES + 1, N = 4 };

typedef struct {
    char *text;
    data_sparse rows;
    float sign[ROWS];
    uint32_t index[ROWS];
    size_t first[N + 1];
    partition split;
    logistic_task task;
    fl_recipe r;
    fl_env e;
    kern k;
    void *server, *memory;
    char *clients;
    size_t stride;
    uint32_t n;
} bench;

/* Rows with an algorithm over n clients, from x0 (NULL: zero). */
static void bench_over(test *t, bench *b, buf text, uint32_t n, const float *x0,
                       const char *algo, const char *params, const char *codec_name)
{
    static const float zero[DIM];
    om_err err = {0};
    b->n = n;
    b->text = (char *)text.data;
    CHECK_OK(t, data_libsvm(text.data, text.len, &b->rows, &err), err);
    CHECK_OK(t, logistic_labels(&b->rows, b->sign, &err), err);
    for (uint32_t i = 0; i < b->rows.n_rows; i++)
        b->index[i] = i;
    for (uint32_t i = 0; i <= n; i++)
        b->first[i] = b->rows.n_rows * i / n;
    b->split = (partition){n, b->first, b->index};
    b->task = (logistic_task){
        .rows = &b->rows, .label = b->sign, .split = &b->split, .intercept = true};
    CHECK_OK(t,
             fl_recipe_of(str_of(algo), str_of(params), str_of(codec_name), str_of(""),
                          &b->r, &err),
             err);
    fl_drive drive = {
        .n_clients = n, .asked = n, .cohort = n, .least = n, .ends = true};
    CHECK_OK(t, fl_recipe_drive(&b->r, &drive, &err), err);
    kern_init(&b->k, 0);
    b->e = (fl_env){.dim = logistic_dim(&b->task),
                    .n_clients = n,
                    .cohort = n,
                    .seed = 11,
                    .p = b->r.p,
                    .up = b->r.up,
                    .up_p = b->r.up_p,
                    .k = &b->k};
    b->server = mem_alloc(b->r.algo->server_bytes(&b->e));
    b->stride = size_align(b->r.algo->client_bytes(&b->e), 64);
    b->clients = mem_array(n, b->stride + 64);
    b->memory = mem_alloc(b->r.algo->scratch_bytes(&b->e));
    CHECK_OK(t, b->r.algo->server_open(&b->e, b->server, x0 ? x0 : zero, &err), err);
}

/* n clients, unlike: positives are a fifth, and the later clients have most of them. */
static void bench_open(test *t, bench *b, uint32_t n, const char *algo, const char *params,
                       const char *codec_name)
{
    buf text = buf_growing(1 << 16);
    rng r = rng_for(9, 1, 4, 1);
    float x0[DIM];
    *b = (bench){0};
    for (uint32_t i = 0; i < ROWS; i++) {
        bool pos = rng_unit(&r) < 0.4 * i / ROWS;
        CHECK_INT(t, buf_fmt(&text, "%d", pos), OM_OK);
        for (int k = 1; k <= FEATURES; k++)
            CHECK_INT(t, buf_fmt(&text, " %d:%.4f", k, rng_normal(&r) + (pos ? 0.5 : 0)),
                      OM_OK);
        CHECK_INT(t, buf_fmt(&text, "\n"), OM_OK);
    }
    for (int i = 0; i < DIM; i++)
        x0[i] = 0.1f * (float)(i - 2);
    bench_over(t, b, text, n, x0, algo, params, codec_name);
}

static void bench_close(bench *b)
{
    data_sparse_close(&b->rows);
    mem_free(b->text), mem_free(b->server), mem_free(b->memory), mem_free(b->clients);
}

static arena room(const bench *b)
{
    return arena_of(b->memory, b->r.algo->scratch_bytes(&b->e));
}

static const float *model(const bench *b) { return b->r.algo->model(&b->e, b->server); }

static om_status ask(bench *b, uint32_t i, const uint8_t *down, size_t n, buf *up,
                     uint64_t *samples, om_err *err)
{
    logistic self;
    fl_oracle f;
    double loss;
    logistic_oracle(&b->task, i, &self, &f);
    *samples = f.n_samples;
    return b->r.algo->client_step(&b->e, i, b->clients + i * b->stride, &f, down, n, up,
                                  &loss, room(b), err);
}

static void one_round(test *t, bench *b, bool backwards)
{
    const fl_algo *a = b->r.algo;
    buf down = buf_growing(1 << 20), up[N];
    uint64_t samples[N];
    om_err err = {0};
    CHECK_OK(t, a->server_begin(&b->e, b->server, &down, &err), err);
    CHECK(t, down.len <= a->down_bound(&b->e));
    for (uint32_t k = 0; k < b->n; k++) {
        uint32_t i = backwards ? b->n - 1 - k : k;
        up[i] = buf_growing(1 << 20);
        CHECK_OK(t, ask(b, i, down.data, down.len, &up[i], &samples[i], &err), err);
        CHECK(t, up[i].len <= a->up_bound(&b->e));
    }
    for (uint32_t i = 0; i < b->n; i++) {
        CHECK_OK(t,
                 a->server_recv(&b->e, b->server, i, samples[i], up[i].data, up[i].len,
                                room(b), &err),
                 err);
        buf_free(&up[i]);
    }
    CHECK_OK(t, a->server_close(&b->e, b->server, room(b), &err), err);
    b->e.round++;
    buf_free(&down);
}

/* ---- the oracles' rows ---- */

/* sum_j ds_j score_j + dl_j loss_j */
static double mixed(test *t, const fl_oracle *f, const float *x, const float *ds,
                    const float *dl)
{
    float score[ROWS], loss[ROWS];
    fl_rows out = {.score = score, .loss = loss};
    uint32_t n = 0;
    double sum = 0;
    om_err err = {0};
    CHECK_OK(t, f->rows(f->ctx, x, ROWS, rng_for(1, 2, 3, 4), &out, &n, &err), err);
    for (uint32_t j = 0; j < n; j++)
        sum += (double)ds[j] * (double)score[j] + (double)dl[j] * (double)loss[j];
    return sum;
}

static void pulls(test *t, const fl_oracle *f, float *x, float *g)
{
    float ds[ROWS], dl[ROWS];
    rng r = rng_for(5, 5, 5, 5);
    om_err err = {0};
    for (int j = 0; j < ROWS; j++)
        ds[j] = (float)rng_normal(&r), dl[j] = (float)rng_normal(&r);
    CHECK_OK(t, f->pull(f->ctx, x, ROWS, rng_for(1, 2, 3, 4), ds, dl, g, &err), err);
    for (size_t i = 0; i < f->dim; i++) {
        float was = x[i];
        x[i] = was + 1e-2f;
        double up = mixed(t, f, x, ds, dl), above = (double)x[i];
        x[i] = was - 1e-2f;
        double slope = (up - mixed(t, f, x, ds, dl)) / (above - (double)x[i]);
        x[i] = was;
        CHECK_NEAR(t, g[i], slope, 2e-2 * (1 + fabs(slope)));
    }
}

static void rows_of_logistic(test *t)
{
    bench b;
    logistic self;
    fl_oracle f;
    float x[DIM] = {0.3f, -0.2f, 0.1f, 0.4f, -0.5f, 0.2f}, g[DIM];
    bench_open(t, &b, 1, "fedavg", "", "identity");
    logistic_oracle(&b.task, 0, &self, &f);
    pulls(t, &f, x, g);
    uint64_t pos = 0;
    for (int i = 0; i < ROWS; i++)
        pos += b.sign[i] > 0;
    CHECK_INT(t, f.positives(f.ctx), pos);
    bench_close(&b);
}

/* tanh would be smoother; a hidden ReLU is what there is, and few units change sides. */
static void rows_of_net(test *t)
{
    enum { W = 3 };
    float x[ROWS * W], *w, *g, grad[256];
    int32_t label[ROWS];
    uint32_t index[ROWS];
    size_t first[] = {0, ROWS};
    partition split = {1, first, index};
    net_shape shape = {.features = W, .classes = 2, .n_hidden = 1, .hidden = {4}};
    net_data data = {.n = ROWS, .features = W, .classes = 2, .x = x, .label = label};
    kern k;
    net *n;
    fl_oracle f;
    om_err err = {0};
    rng r = rng_for(2, 2, 2, 2);
    kern_init(&k, 0);
    for (int i = 0; i < ROWS * W; i++)
        x[i] = (float)rng_normal(&r);
    for (uint32_t i = 0; i < ROWS; i++)
        label[i] = (int32_t)rng_below(&r, 2), index[i] = i;
    net_task task = {&shape, &data, &split, 0, &k};
    CHECK_OK(t, net_open(&task, &n, &err), err);
    net_client(n, 0, &f);
    w = mem_array(2 * f.dim, sizeof(float));
    g = w + f.dim;
    net_init(&shape, 3, w);
    /* cross-entropy by rows is the oracle's own gradient and loss */
    float one[ROWS], loss[ROWS];
    double mean = 0, sum = 0;
    uint32_t count;
    for (int j = 0; j < ROWS; j++)
        one[j] = 1.0f / ROWS;
    rng at = rng_for(1, 2, 3, 4);
    CHECK_OK(t, f.sgrad(f.ctx, w, ROWS, at, grad, &mean, &err), err);
    CHECK_OK(t, f.pull(f.ctx, w, ROWS, at, NULL, one, g, &err), err);
    CHECK_OK(t, f.rows(f.ctx, w, ROWS, at, &(fl_rows){.loss = loss}, &count, &err), err);
    for (int j = 0; j < ROWS; j++)
        sum += (double)loss[j] / ROWS;
    CHECK_NEAR(t, sum, mean, 1e-5);
    for (size_t i = 0; i < f.dim; i++)
        CHECK_NEAR(t, g[i], grad[i], 1e-5);
    net_close(n);
    net_shape linear = {.features = W, .classes = 2};
    task.shape = &linear;
    CHECK_OK(t, net_open(&task, &n, &err), err);
    net_client(n, 0, &f);
    pulls(t, &f, w, g);
    net_close(n);
    mem_free(w);
}

/* ---- one step is the gradient of the objective, written out over all pairs ---- */

static double sigmoid(double h) { return 1 / (1 + exp(-h)); }

static double score_at(const bench *b, const double *x, int i)
{
    double h = x[FEATURES];
    for (size_t e = b->rows.row[i]; e < b->rows.row[i + 1]; e++)
        h += (double)b->rows.value[e] * x[b->rows.col[e]];
    return sigmoid(h);
}

static double objective(const bench *b, const char *what, const double *x)
{
    double h[ROWS], sum = 0, pos = 0;
    for (int i = 0; i < ROWS; i++) {
        h[i] = score_at(b, x, i);
        pos += b->sign[i] > 0;
    }
    for (int i = 0; i < ROWS; i++) {
        double same = 0, other = 0, soft = 0;
        if (!strcmp(what, "minmax")) /* a = b = al = 0 */
            sum += h[i] * h[i] / (b->sign[i] > 0 ? pos : ROWS - pos);
        if (b->sign[i] < 0 || !strcmp(what, "minmax"))
            continue;
        for (int j = 0; j < ROWS; j++) {
            double d = 1 - (h[i] - h[j]), l = d > 0 ? d * d : 0;
            if (b->sign[j] > 0)
                same += l;
            else
                other += l, soft += exp(l / 0.5);
        }
        if (!strcmp(what, "auc"))
            sum += other / (ROWS - pos) / pos;
        else if (!strcmp(what, "pauc"))
            sum += 0.5 * log(soft / (ROWS - pos)) / pos;
        else
            sum -= same / (same + other) / pos;
    }
    return sum;
}

static void steps(test *t)
{
    static const char *const of[][3] = {
        {"fedxl", "objective=auc,", "auc"},
        {"fedxl", "objective=pauc,lambda=0.5,", "pauc"},
        {"fedxl", "objective=ap,", "ap"},
        {"coda", "", "minmax"},
        {"codasca", "", "minmax"},
    };
    for (size_t k = 0; k < countof(of); k++) {
        bench b;
        char params[100];
        float was[DIM];
        double x[DIM];
        snprintf(params, sizeof(params), "%sbatch=120,local_steps=1,lr=0.5", of[k][1]);
        bench_open(t, &b, 1, of[k][0], params, "identity");
        memcpy(was, model(&b), sizeof(was));
        one_round(t, &b, false); /* fills the pool, counts the labels */
        CHECK(t, memcmp(was, model(&b), sizeof(was)) == 0);
        one_round(t, &b, false);
        for (int i = 0; i < DIM; i++)
            x[i] = (double)was[i];
        for (int i = 0; i < DIM; i++) {
            x[i] = (double)was[i] + 1e-5;
            double up = objective(&b, of[k][2], x);
            x[i] = (double)was[i] - 1e-5;
            double slope = (up - objective(&b, of[k][2], x)) / 2e-5;
            x[i] = (double)was[i];
            double moved = ((double)was[i] - (double)model(&b)[i]) / 0.5;
            if (fabs(moved - slope) > 1e-5 + 1e-4 * fabs(slope))
                test_fail(t, __FILE__, __LINE__, "%s %s: number %d moved by %g, slope %g",
                          of[k][0], of[k][2], i, moved, slope);
        }
        bench_close(&b);
    }
}

/* From test/golden/objectives_golden.py, double precision. */
static void golden(test *t)
{
    static const struct {
        const char *algo;
        uint32_t clients;
        double end[7];
    } of[] = {
        {"coda",
         1,
         {-0.473321438, -0.121197528, -0.00651811104, -0.0611458061,
          0.146484955, -0.0853391489, 0.753395013}},
        {"coda",
         2,
         {-0.42861895, -0.101634497, -0.0191935289, -0.0659882757,
          0.169423191, -0.103434916, 0.71236101}},
        {"codasca",
         2,
         {-0.472196189, -0.120257328, -0.00598746221, -0.0607690233,
          0.145799474, -0.0850304511, 0.754389192}},
    };
    for (size_t k = 0; k < countof(of); k++) {
        bench b = {0};
        buf text = buf_growing(1 << 16);
        for (int i = 0; i < 20; i++)
            CHECK_INT(t,
                      buf_fmt(&text, "%d 1:%g 2:%g 3:%g\n", i % 5 == 0,
                              ((7 * i) % 11 - 5) / 4.0, ((7 * i + 5) % 11 - 5) / 4.0,
                              ((7 * i + 10) % 11 - 5) / 4.0),
                      OM_OK);
        bench_over(t, &b, text, of[k].clients, NULL, of[k].algo,
                   "batch=20,local_steps=4,lr=0.05,score=linear,positive_share=0.2,"
                   "weights=equal",
                   "identity");
        for (int i = 0; i < 10; i++)
            one_round(t, &b, false);
        bool sca = !strcmp(of[k].algo, "codasca");
        const beside *few = beside_of(&b.e, b.server, sca ? 3 : 1);
        for (int i = 0; i < 4; i++)
            CHECK_NEAR(t, model(&b)[i], of[k].end[i], 2e-6);
        for (int i = 0; i < 3; i++)
            CHECK_NEAR(t, few->value[i], of[k].end[4 + i], 2e-6);
        bench_close(&b);
    }
}

/* The dual problem solved: AUC of the min-max model comes close to that of the pairs. */
static double auc_of(const bench *b)
{
    float h[ROWS];
    double x[DIM];
    metric_ranks r;
    for (int i = 0; i < DIM; i++)
        x[i] = (double)model(b)[i];
    for (int i = 0; i < ROWS; i++)
        h[i] = (float)score_at(b, x, i);
    return metric_of_scores(h, b->sign, ROWS, 0.1, &r, NULL) == OM_OK ? r.auc : 0;
}

static void learns(test *t)
{
    static const char *const of[][2] = {{"fedxl", "lr=2"},
                                        {"coda", "lr=0.2"},
                                        {"codasca", "lr=0.2"},
                                        {"coda", "lr=0.2,prox=0.1,stage=20,stage_decay=2"}};
    for (size_t k = 0; k < countof(of); k++) {
        bench b;
        char params[100];
        snprintf(params, sizeof(params), "batch=30,local_steps=4,%s", of[k][1]);
        bench_open(t, &b, N, of[k][0], params, "identity");
        double before = auc_of(&b);
        for (int i = 0; i < 60; i++)
            one_round(t, &b, false);
        if (!(auc_of(&b) > 0.74 && auc_of(&b) > before + 0.1))
            test_fail(t, __FILE__, __LINE__, "%s %s: AUC %g, %g before", of[k][0], of[k][1],
                      auc_of(&b), before);
        bench_close(&b);
    }
}

/* ---- special cases ---- */

static void whole_tail_is_the_mean(test *t)
{
    static const char *const of[][2] = {{"cvar", "alpha=1"},
                                        {"cvar", "alpha=1,over=clients"},
                                        {"kl-dro", "lambda=1e12"},
                                        {"kl-dro", "lambda=1e12,over=clients"}};
    for (size_t k = 0; k < countof(of); k++) {
        bench a, b;
        char params[100];
        snprintf(params, sizeof(params), "batch=8,local_steps=3,lr=0.2,%s", of[k][1]);
        bench_open(t, &a, N, "fedavg", "batch=8,local_steps=3,lr=0.2", "identity");
        bench_open(t, &b, N, of[k][0], params, "identity");
        for (int i = 0; i < 10; i++)
            one_round(t, &a, false), one_round(t, &b, false);
        for (int i = 0; i < DIM; i++)
            CHECK_NEAR(t, model(&a)[i], model(&b)[i], 2e-6);
        bench_close(&a), bench_close(&b);
    }
}

/* The largest of the clients' mean losses; mean of the worst tenth of all examples. */
static void worst(const bench *b, double *client, double *tenth)
{
    double l[ROWS];
    *client = 0, *tenth = 0;
    for (uint32_t i = 0; i < b->n; i++) {
        double sum = 0;
        for (size_t j = b->first[i]; j < b->first[i + 1]; j++) {
            double x[DIM];
            for (int k = 0; k < DIM; k++)
                x[k] = (double)model(b)[k];
            double s = score_at(b, x, (int)j);
            l[j] = -log(b->sign[j] > 0 ? s : 1 - s);
            sum += l[j] / (double)(b->first[i + 1] - b->first[i]);
        }
        *client = fmax(*client, sum);
    }
    for (int k = 0; k < ROWS / 10; k++) {
        int at = 0;
        for (int j = 1; j < ROWS; j++)
            at = l[j] > l[at] ? j : at;
        *tenth += l[at] / (ROWS / 10);
        l[at] = -1;
    }
}

/* The objective of a tail at x, written out: losses of examples or means of clients. */
static double tail_at(const bench *b, bool kl, bool clients, double part, const double *x)
{
    double l[ROWS], sum = 0, left = 1;
    uint32_t n = clients ? b->n : ROWS;
    memset(l, 0, sizeof(l));
    for (uint32_t j = 0; j < ROWS; j++) {
        double s = score_at(b, x, (int)j);
        l[clients ? j * n / ROWS : j] +=
            -log(b->sign[j] > 0 ? s : 1 - s) / (clients ? ROWS / n : 1);
    }
    for (uint32_t j = 0; kl && j < n; j++)
        sum += exp(l[j] / part) / n;
    if (kl)
        return part * log(sum);
    for (double each = 1 / (part * n); left > 0; left -= each) {
        uint32_t at = 0;
        for (uint32_t j = 1; j < n; j++)
            at = l[j] > l[at] ? j : at;
        sum += l[at] * fmin(each, left);
        l[at] = -1;
    }
    return sum;
}

/* The objectives are convex here: no step along a number makes one smaller, and the worst
 * fare better than under the mean.  cvar takes subgradients, which stay off by their step. */
static void tails_are_lighter(test *t)
{
    static const struct {
        const char *algo, *params;
        bool kl, clients;
        double part, flat;
    } of[] = {{"fedavg", "lr=0.5", 0, 0, 0, 0},
              {"cvar", "lr=0.01,alpha=0.1,tail_lr=0.02", 0, 0, 0.1, 3e-3},
              {"kl-dro", "lr=0.5,lambda=0.3", 1, 0, 0.3, 1e-5},
              {"cvar", "lr=0.02,alpha=0.4,over=clients,tail_lr=0.02", 0, 1, 0.4, 3e-3},
              {"kl-dro", "lr=0.5,lambda=0.1,over=clients", 1, 1, 0.1, 1e-5}};
    double client[countof(of)], tenth[countof(of)], x[DIM];
    for (size_t k = 0; k < countof(of); k++) {
        bench b;
        char params[100];
        snprintf(params, sizeof(params), "batch=30,local_steps=1,%s", of[k].params);
        bench_open(t, &b, N, of[k].algo, params, "identity");
        for (int i = 0; i < 1000; i++)
            one_round(t, &b, false);
        worst(&b, &client[k], &tenth[k]);
        for (int i = 0; i < DIM; i++)
            x[i] = (double)model(&b)[i];
        double here = k ? tail_at(&b, of[k].kl, of[k].clients, of[k].part, x) : 0;
        for (int i = 0; k && i < 2 * DIM; i++) {
            double was = x[i / 2];
            x[i / 2] += i % 2 ? 0.05 : -0.05;
            double there = tail_at(&b, of[k].kl, of[k].clients, of[k].part, x);
            x[i / 2] = was;
            if (!(there > here - of[k].flat))
                test_fail(t, __FILE__, __LINE__, "%s %s: %g, %g beside it", of[k].algo,
                          of[k].params, here, there);
        }
        bench_close(&b);
        bool better = of[k].clients ? client[k] < 0.98 * client[0] : tenth[k] < 0.9 * tenth[0];
        if (k && !better)
            test_fail(t, __FILE__, __LINE__, "%s %s: client %g, tenth %g; mean's %g, %g",
                      of[k].algo, of[k].params, client[k], tenth[k], client[0], tenth[0]);
    }
}

/* codasca: c is the mean of the c_i, those of a, b and alpha too. */
static void controls(test *t)
{
    bench b;
    bench_open(t, &b, N, "codasca", "batch=8,local_steps=3,lr=0.1", "natural");
    for (int i = 0; i < 8; i++)
        one_round(t, &b, false);
    const float *c = average_vector(&b.e, b.server, 3);
    double size = 0;
    for (int i = 0; i < DIM; i++) {
        double mean = 0;
        for (uint32_t k = 0; k < N; k++)
            mean += (double)client_vector(&b.e, b.clients + k * b.stride, 0)[i] / N;
        CHECK_NEAR(t, c[i], mean, 1e-4);
        size += fabs(mean);
    }
    CHECK(t, size > 1e-3);
    bench_close(&b);
}

/* ---- laws of every row ---- */

static const char *const every[][2] = {
    {"fedxl", "batch=8,local_steps=3,lr=0.5"},
    {"fedxl", "objective=ap,batch=8,lr=0.5,pool=32"},
    {"coda", "batch=8,local_steps=3,lr=0.1,prox=0.01,stage=2"},
    {"codasca", "batch=8,local_steps=3,lr=0.1,prox=0.01,stage=2"},
    {"cvar", "batch=8,lr=0.1,alpha=0.3"},
    {"kl-dro", "batch=8,lr=0.1,over=clients"},
};

static void same_bits(test *t)
{
    for (size_t k = 0; k < countof(every); k++) {
        bench a, b;
        bench_open(t, &a, N, every[k][0], every[k][1], "topk");
        if (!strcmp(every[k][0], "codasca")) {
            bench_close(&a);
            bench_open(t, &a, N, every[k][0], every[k][1], "natural");
        }
        const char *up = a.r.up->name;
        bench_open(t, &b, N, every[k][0], every[k][1], up);
        size_t n = a.r.algo->server_bytes(&a.e);
        for (int i = 0; i < 4; i++)
            one_round(t, &a, false);
        for (int i = 0; i < 2; i++)
            one_round(t, &b, true); /* any order of the clients' work */
        void *moved = mem_alloc(n);
        memcpy(moved, b.server, n); /* saved and restored */
        mem_free(b.server);
        b.server = moved;
        for (int i = 0; i < 2; i++)
            one_round(t, &b, true);
        CHECK(t, memcmp(a.server, b.server, n) == 0);
        CHECK(t, memcmp(a.clients, b.clients, N * a.stride) == 0);
        bench_close(&a), bench_close(&b);
    }
}

/* Messages cut anywhere or with a NaN are refused; a refusal leaves the server as it was. */
static void hostile(test *t)
{
    for (size_t k = 0; k < countof(every); k++) {
        bench b;
        om_err err = {0};
        buf down = buf_growing(1 << 20), up = buf_growing(1 << 20);
        uint64_t samples;
        float zeros[DIM] = {0};
        bench_open(t, &b, N, every[k][0], every[k][1], "identity");
        one_round(t, &b, false);
        const fl_algo *a = b.r.algo;
        size_t n = a->server_bytes(&b.e);
        CHECK_OK(t, a->server_begin(&b.e, b.server, &down, &err), err);
        for (size_t i = 0; i < down.len; i++) {
            CHECK(t, ask(&b, 1, down.data, i, &up, &samples, &err) == OM_EFORMAT);
            CHECK_INT(t, up.len, 0);
        }
        CHECK_OK(t, ask(&b, 1, down.data, down.len, &up, &samples, &err), err);
        void *before = mem_alloc(n);
        memcpy(before, b.server, n);
        for (size_t i = 0; i <= up.len; i++) {
            bool cut = i < up.len;
            size_t len = cut ? i : up.len;
            uint8_t *exact = mem_alloc(len + !len);
            memcpy(exact, up.data, len);
            if (!cut)
                memset(exact, 0xff, 4); /* the first number beside the model */
            CHECK(t, a->server_recv(&b.e, b.server, 1, samples, exact, len, room(&b),
                                    &err) != OM_OK);
            CHECK(t, a->server_check(&b.e, 1, samples, exact, len, zeros, &err) != OM_OK);
            mem_free(exact);
        }
        for (int i = 0; i < 4 && !strncmp(every[k][0], "coda", 4); i++) {
            float far = i < 3 ? 1e7f : 1.5f; /* a, b, alpha; the share of positives */
            uint8_t *exact = mem_alloc(up.len);
            memcpy(exact, up.data, up.len);
            wire_store_f32(exact + 4 * i, far);
            CHECK(t, a->server_recv(&b.e, b.server, 1, samples, exact, up.len, room(&b),
                                    &err) == OM_EFORMAT);
            CHECK(t, a->server_check(&b.e, 1, samples, exact, up.len, zeros, &err) ==
                         OM_EFORMAT);
            mem_free(exact);
        }
        CHECK(t, memcmp(before, b.server, n) == 0);
        CHECK_OK(t, a->server_check(&b.e, 1, samples, up.data, up.len, zeros, &err), err);
        for (int i = 0; i < DIM; i++)
            CHECK(t, zeros[i] == 0);
        mem_free(before);
        buf_free(&down), buf_free(&up);
        bench_close(&b);
    }
}

/* ---- ranks ---- */

static void ranks(test *t)
{
    enum { MANY = 300 };
    float score[MANY], sign[MANY];
    rng r = rng_for(1, 1, 1, 1);
    om_err err = {0};
    metric_ranks m, empty;
    metric_bins *a = mem_alloc(sizeof(*a)), *b = mem_alloc(sizeof(*b));
    double pairs = 0, won = 0, slack;
    for (int i = 0; i < MANY; i++) {
        sign[i] = rng_unit(&r) < 0.2 ? 1.0f : -1.0f;
        score[i] = 0.5f * (float)rng_below(&r, 8) + (sign[i] > 0); /* many ties */
    }
    for (int i = 0; i < MANY; i++)
        for (int j = 0; j < MANY && sign[i] > 0; j++)
            if (sign[j] < 0) {
                pairs++;
                won += score[i] > score[j] ? 1 : score[i] < score[j] ? 0 : 0.5;
            }
    CHECK_OK(t, metric_of_scores(score, sign, MANY, 1, &m, &err), err);
    CHECK_NEAR(t, m.auc, won / pairs, 1e-12);
    CHECK_NEAR(t, m.pauc, m.auc, 1e-12); /* up to FPR 1 is all of it */
    /* scores a bin apart: exact; clients' histograms add up to that of the pool */
    metric_count(a, score, sign, 100);
    metric_count(b, score + 100, sign + 100, MANY - 100);
    metric_add(a, b);
    CHECK_NEAR(t, metric_of_bins(a, 1, &slack).auc, m.auc, 1e-12);
    for (int i = 0; i < MANY; i++)
        score[i] = (float)rng_normal(&r) + (sign[i] > 0);
    memset(a, 0, sizeof(*a));
    metric_count(a, score, sign, MANY);
    CHECK_OK(t, metric_of_scores(score, sign, MANY, 0.1, &m, &err), err);
    double off = fabs(metric_of_bins(a, 0.1, &slack).auc - m.auc);
    CHECK(t, off <= slack + 1e-12 && slack < 0.01 && off > 0);
    /* four scores by hand: + - + -; AP = (1/1 + 2/3) / 2, and scikit-learn's figures */
    static const float four[] = {4, 3, 2, 1}, signs[] = {1, -1, 1, -1};
    CHECK_OK(t, metric_of_scores(four, signs, 4, 0.5, &m, &err), err);
    CHECK_NEAR(t, m.auc, 0.75, 1e-12);
    CHECK_NEAR(t, m.ap, 5.0 / 6, 1e-12);
    CHECK_NEAR(t, m.pauc, 0.5, 1e-12);
    CHECK_OK(t, metric_of_scores(four, four, 4, 0.5, &empty, &err), err);
    CHECK(t, isnan(empty.auc) && isnan(empty.ap));
    score[3] = NAN;
    CHECK(t, metric_of_scores(score, sign, MANY, 0.1, &m, &err) == OM_EARG);
    mem_free(a), mem_free(b);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"rows_logistic", "regression: weighed scores and losses", rows_of_logistic},
        {"rows_net", "networks: weighed scores and losses", rows_of_net},
        {"steps", "a step is the gradient of the objective over all pairs", steps},
        {"golden", "CODA and CODASCA end where NumPy does", golden},
        {"learns", "AUC rises", learns},
        {"mean", "a tail that is everything is the mean", whole_tail_is_the_mean},
        {"tails", "worst tenth and worst client fare better", tails_are_lighter},
        {"controls", "codasca: control variates sum to zero", controls},
        {"same_bits", "any order of work, saved and restored", same_bits},
        {"hostile", "malformed messages are refused and change nothing", hostile},
        {"ranks", "AUC, partial AUC, AP; pooled and from histograms", ranks},
        {0}};
    return test_main(argc, argv, cases);
}
