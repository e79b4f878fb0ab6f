/* bench_fl.c - what the papers claim of federated methods, on a real data set: rounds and
 * bits until the gradient is short.
 *
 *     bench_fl FILE [clients] [l2] [target] [part of a name]     LIBSVM rows, two classes
 *
 * Logistic regression with intercept, rows in file order dealt in equal runs.  Every method
 * gets the same care: the step that is best among powers of two times 1/L (L by power
 * iteration), chosen by rounds to the target |grad f|^2; a method that does not arrive
 * within the most rounds says where it stands.  Bits are those of the messages, both ways,
 * for one client. */
#include "fl/oracle/logistic.h"
#include "sim/sim.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    logistic_task task;
    partition split;
    logistic *self; /* one a thread */
    pool *pool;
    kern k;
    uint32_t clients;
    size_t dim;
    double target;
} bench;

static void must(om_status s, const om_err *err)
{
    if (s == OM_OK)
        return;
    fprintf(stderr, "bench_fl: %s\n", err->msg);
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

/* |grad f|^2 of the mean of the clients' functions. */
static double slope(bench *b, const float *x)
{
    double *mean = mem_array(b->dim, sizeof(double)), s = 0;
    float *g = mem_array(b->dim, sizeof(float));
    for (uint32_t c = 0; c < b->clients; c++) {
        fl_oracle f;
        om_err err = {0};
        logistic_oracle(&b->task, c, &b->self[0], &f);
        must(f.grad(f.ctx, x, g, NULL, &err), &err);
        for (size_t i = 0; i < b->dim; i++)
            mean[i] += (double)g[i] / b->clients;
    }
    for (size_t i = 0; i < b->dim; i++)
        s += mean[i] * mean[i];
    mem_free(mean), mem_free(g);
    return s;
}

/* Largest eigenvalue of the Hessian at 0, where logistic regression curves most. */
static double smoothness(bench *b)
{
    float *x = mem_array(b->dim, sizeof(float)), *v = mem_array(b->dim, sizeof(float));
    float *hv = mem_array(b->dim, sizeof(float)), *sum = mem_array(b->dim, sizeof(float));
    double norm = 0;
    for (size_t i = 0; i < b->dim; i++)
        v[i] = 1;
    for (int step = 0; step < 30; step++) {
        memset(sum, 0, b->dim * sizeof(float));
        for (uint32_t c = 0; c < b->clients; c++) {
            fl_oracle f;
            om_err err = {0};
            logistic_oracle(&b->task, c, &b->self[0], &f);
            must(f.hvp(f.ctx, x, v, hv, &err), &err);
            for (size_t i = 0; i < b->dim; i++)
                sum[i] += hv[i] / (float)b->clients;
        }
        norm = 0;
        for (size_t i = 0; i < b->dim; i++)
            norm += (double)sum[i] * (double)sum[i];
        norm = sqrt(norm);
        for (size_t i = 0; i < b->dim; i++)
            v[i] = sum[i] / (float)norm;
    }
    mem_free(x), mem_free(v), mem_free(hv), mem_free(sum);
    return norm;
}

typedef struct {
    const char *label, *algo, *params, *codec, *codec_params;
    uint32_t most, every; /* rounds; and between looks */
} method;

typedef struct {
    uint32_t rounds; /* 0: did not arrive */
    double up, down, end;
} outcome;

static outcome run(bench *b, const method *m, double lr, uint32_t most)
{
    char params[200];
    om_err err = {0};
    sim *s;
    sim_row row = {0};
    outcome o = {.end = (double)INFINITY};
    float *x0 = mem_array(b->dim, sizeof(float));
    sim_config c = {.dim = b->dim,
                    .n_clients = b->clients,
                    .cohort = b->clients,
                    .seed = 1,
                    .k = &b->k,
                    .pool = b->pool,
                    .make_oracle = client_of,
                    .ctx = b};
    snprintf(params, sizeof(params), "lr=%.9g%s%s", lr, m->params[0] ? "," : "", m->params);
    must(fl_recipe_of(str_of(m->algo), str_of(params), str_of(m->codec),
                      str_of(m->codec_params), &c.recipe, &err),
         &err);
    must(sim_open(&c, x0, &s, &err), &err);
    for (uint32_t n = 1; n <= most; n++) {
        if (sim_round(s, &row, &err) != OM_OK) { /* diverged */
            o.end = (double)INFINITY;
            break;
        }
        if (n % m->every)
            continue;
        o.end = slope(b, sim_model(s));
        if (!(o.end < 1e3))
            break;
        if (o.end <= b->target) {
            o.rounds = n;
            o.up = (double)row.total_up_bytes * 8 / b->clients;
            o.down = (double)row.total_down_bytes * 8 / b->clients;
            break;
        }
    }
    sim_close(s);
    mem_free(x0);
    return o;
}

static void best(bench *b, const method *m, double smooth)
{
    outcome found = {.end = (double)INFINITY};
    double step = 0;
    uint32_t most = m->most;
    for (int k = 3; k >= -3; k--) {
        outcome o = run(b, m, ldexp(1 / smooth, k), most);
        bool better = o.rounds ? !found.rounds || o.rounds < found.rounds
                               : !found.rounds && o.end < found.end;
        if (better) {
            found = o, step = ldexp(1, k);
            most = o.rounds ? o.rounds : most;
        } else if (found.rounds && !o.rounds) {
            break; /* smaller steps only take longer */
        }
    }
    if (found.rounds)
        printf("| %-28s | %6g | %6u | %9.0f | %9.0f |\n", m->label, step, found.rounds,
               found.up / 1000, found.down / 1000);
    else
        printf("| %-28s | %6g | not in %u: %.1e | | |\n", m->label, step, m->most,
               found.end);
    fflush(stdout);
}

static const method methods[] = {
    {"SGD, batch 32", "dcgd", "batch=32", "identity", "", 20000, 20},
    {"L-SVRG, batch 32", "l-svrg", "batch=32", "identity", "", 20000, 20},
    {"SAGA, 32 blocks", "saga", "blocks=32", "identity", "", 20000, 20},
    {"PAGE, batch 32", "page", "batch=32", "identity", "", 20000, 20},
    {"GD", "dcgd", "", "identity", "", 3000, 10},
    {"DCGD, Rand-10%", "dcgd", "", "randk", "ratio=0.1", 1000, 10},
    {"DIANA, Rand-10%", "diana", "", "randk", "ratio=0.1", 3000, 10},
    {"DIANA, natural", "diana", "", "natural", "", 3000, 10},
    {"EF21, Top-10%", "ef21", "", "topk", "ratio=0.1", 3000, 10},
    {"EF21-BC, Top-10% both ways", "ef21-bc", "down_ratio=0.1", "topk", "ratio=0.1", 3000,
     10},
    {"MARINA, Perm-K", "marina", "", "permk", "", 3000, 10},
    {"MARINA, Rand-10%", "marina", "", "randk", "ratio=0.1", 3000, 10},
    {"DASHA, Rand-10%", "dasha", "", "randk", "ratio=0.1", 3000, 10},
    {"FedAvg, 10 local steps", "fedavg", "batch=0,local_steps=10,weights=equal", "identity",
     "", 2000, 5},
    {"Scaffold, 10 local steps", "scaffold", "batch=0,local_steps=10", "identity", "", 2000,
     5},
    {"ProxSkip, p = 0.05", "proxskip", "p=0.05", "identity", "", 2000, 2},
    {"compressed Scaffnew, s = 4", "compressed-scaffnew", "p=0.1,s=4", "identity", "", 3000,
     5},
    {"LoCoDL, Rand-10%", "locodl", "p=0.18,strong=0.0005", "randk", "ratio=0.1", 3000, 5},
};

int main(int argc, char **argv)
{
    bench b = {.clients = argc > 2 ? (uint32_t)atoi(argv[2]) : 20,
               .target = argc > 4 ? atof(argv[4]) : 1e-8};
    om_err err = {0};
    os_map m;
    data_sparse rows;
    if (argc < 2 || b.clients == 0) {
        fprintf(stderr, "bench_fl FILE [clients] [l2] [target] [part of a name]\n");
        return 2;
    }
    kern_init(&b.k, 0);
    must(pool_open(0, &b.pool, &err), &err);
    must(os_map_open(argv[1], &m, &err), &err);
    must(data_libsvm(m.p, m.n, &rows, &err), &err);
    float *label = mem_array(rows.n_rows, sizeof(float));
    size_t each = rows.n_rows / b.clients;
    b.split = (partition){b.clients, mem_array(b.clients + 1, sizeof(size_t)),
                          mem_array(rows.n_rows, sizeof(uint32_t))};
    must(logistic_labels(&rows, label, &err), &err);
    for (uint32_t i = 0; i < rows.n_rows; i++)
        b.split.index[i] = i;
    for (uint32_t c = 0; c <= b.clients; c++)
        b.split.first[c] = c * each;
    b.task = (logistic_task){&rows, label, &b.split, true, argc > 3 ? atof(argv[3]) : 1e-3, NULL};
    b.self = mem_array((size_t)pool_threads(b.pool), sizeof(logistic));
    b.dim = logistic_dim(&b.task);
    double smooth = smoothness(&b);
    printf("%s: %u clients of %zu rows, %zu numbers, L = %.4g, to |grad f|^2 = %g\n\n"
           "| method | step x L | rounds | kbit up | kbit down |\n|---|---|---|---|---|\n",
           argv[1], (unsigned)b.clients, each, b.dim, smooth, b.target);
    for (size_t i = 0; i < countof(methods); i++)
        if (argc <= 5 || strstr(methods[i].label, argv[5]))
            best(&b, &methods[i], smooth);
    partition_close(&b.split);
    data_sparse_close(&rows);
    mem_free(label), mem_free(b.self);
    os_map_close(&m);
    pool_close(b.pool);
    return 0;
}
