/* test_algo_phishing.c - the federated algorithms on real data, against figures from
 * elsewhere: logistic regression on LIBSVM's phishing, 20 clients of 552 rows in file
 * order, lambda = 1e-3, from 0.  The constants, the golden gaps and the round counts come
 * from double-precision NumPy programs that share nothing with this code.  Deterministic
 * methods are held to the digits that single precision keeps, randomised ones to their
 * number of rounds. */
#include "fl/oracle/logistic.h"
#include "sim/sim.h"
#include "test.h"

enum { CLIENTS = 20, ROWS = 552, FEATURES = 68, DIM = 69 };

static const double smooth = 0.4120760707, smooth_rms = 0.415657825,
                    smooth_max = 0.4188948887;
static const double smooth_row = 0.5009885368, least = 0.313511501734;

typedef struct {
    buf file;
    data_sparse rows;
    float *label;
    uint32_t *index;
    size_t first[CLIENTS + 1], all[2];
    partition split, whole;
    logistic_task task, one;
    logistic self;
    bool alone; /* one client holds everything */
} problem;

static bool load(test *t, problem *p)
{
    om_err err = {0};
    *p = (problem){.file = test_data_file("tabular/libsvm/phishing.gz")};
    if (!p->file.len) {
        test_skip(t, "no phishing in the test data");
        return false;
    }
    CHECK_OK(t, data_libsvm(p->file.data, p->file.len, &p->rows, &err), err);
    p->label = mem_array(p->rows.n_rows, sizeof(float));
    p->index = mem_array(p->rows.n_rows, sizeof(uint32_t));
    CHECK_OK(t, logistic_labels(&p->rows, p->label, &err), err);
    for (uint32_t i = 0; i < p->rows.n_rows; i++)
        p->index[i] = i;
    for (size_t c = 0; c <= CLIENTS; c++)
        p->first[c] = c * ROWS;
    p->all[1] = CLIENTS * ROWS;
    p->split = (partition){CLIENTS, p->first, p->index};
    p->whole = (partition){1, p->all, p->index};
    p->task = (logistic_task){&p->rows, p->label, &p->split, true, 1e-3, NULL};
    p->one = (logistic_task){&p->rows, p->label, &p->whole, true, 1e-3, NULL};
    return true;
}

static void unload(problem *p)
{
    data_sparse_close(&p->rows);
    mem_free(p->label), mem_free(p->index), buf_free(&p->file);
}

static om_status client_of(void *ctx, uint32_t client, int worker, fl_oracle *out,
                           om_err *err)
{
    problem *p = ctx;
    (void)worker, (void)err;
    logistic_oracle(p->alone ? &p->one : &p->task, client, &p->self, out);
    return OM_OK;
}

/* f(x) - f*, and |grad f(x)|^2 if asked for: clients' single precision, their mean double.
 */
static double gap(test *t, problem *p, const float *x, double *slope)
{
    double sum = 0, mean[DIM] = {0};
    for (uint32_t c = 0; c < CLIENTS; c++) {
        logistic one;
        fl_oracle f;
        float g[DIM];
        double loss;
        om_err err = {0};
        logistic_oracle(&p->task, c, &one, &f);
        CHECK_OK(t, f.grad(f.ctx, x, g, &loss, &err), err);
        sum += loss / CLIENTS;
        for (size_t i = 0; i < DIM; i++)
            mean[i] += (double)g[i] / CLIENTS;
    }
    for (size_t i = 0; slope && i < DIM; i++)
        *slope = (i ? *slope : 0) + mean[i] * mean[i];
    return sum - least;
}

static sim *start(test *t, problem *p, const char *algo, const char *params,
                  const char *codec_name, const char *codec_params)
{
    static const float zero[DIM];
    static kern k;
    om_err err = {0};
    sim *s = NULL;
    kern_init(&k, 0);
    sim_config c = {.dim = DIM,
                    .n_clients = p->alone ? 1 : CLIENTS,
                    .cohort = p->alone ? 1 : CLIENTS,
                    .seed = 4,
                    .ctx = p,
                    .k = &k,
                    .make_oracle = client_of};
    CHECK_OK(t,
             fl_recipe_of(str_of(algo), str_of(params), str_of(codec_name),
                          str_of(codec_params), &c.recipe, &err),
             err);
    CHECK_OK(t, sim_open(&c, zero, &s, &err), err);
    return s;
}

static void run(test *t, sim *s, uint32_t n)
{
    om_err err = {0};
    sim_row row;
    for (uint32_t i = 0; i < n; i++)
        CHECK_OK(t, sim_round(s, &row, &err), err);
}

/* Rounds until |grad f|^2 <= 1e-10, looked at every `every`; most + 1: never. */
static uint32_t rounds_to(test *t, problem *p, sim *s, uint32_t every, uint32_t most)
{
    double slope = 1;
    uint32_t n = 0;
    while (slope > 1e-10 && n <= most) {
        run(t, s, every);
        n += every;
        gap(t, p, sim_model(s), &slope);
    }
    return n;
}

static const char *with_lr(char out[100], double lr, const char *more)
{
    snprintf(out, 100, "lr=%.9g%s%s", lr, more[0] ? "," : "", more);
    return out;
}

static double ef21_step(void)
{
    double alpha = 7.0 / DIM;
    return 1 / (smooth + smooth_rms * ((1 + sqrt(1 - alpha)) / alpha - 1));
}

static void golden(test *t)
{
    static const struct {
        const char *algo, *codec, *codec_params, *more;
        int step; /* which of the steps below */
        uint32_t at[2];
        double gap[2], tolerance;
    } rows[] = {
        {"dcgd",
         "identity",
         "",
         "",
         0,
         {100, 1000},
         {3.2785412200e-2, 3.2538289623e-6},
         2e-3},
        {"fedavg",
         "identity",
         "",
         "batch=0,local_steps=1",
         0,
         {100, 0},
         {3.2785412200e-2, 0},
         1e-4},
        {"ef21", "identity", "", "", 0, {100, 0}, {3.2785412200e-2, 0}, 1e-4},
        {"marina", "identity", "", "p=1", 0, {100, 0}, {3.2785412200e-2, 0}, 1e-4},
        {"ef21",
         "topk",
         "k=7",
         "",
         1,
         {100, 1000},
         {3.1284596164e-1, 8.7829183396e-2},
         1e-4},
        {"3pc-v3",
         "topk",
         "k=7",
         "second=identity,zeta=1e9",
         1,
         {100, 0},
         {3.1284596164e-1, 0},
         1e-4},
    };
    double steps[] = {1 / smooth, ef21_step()};
    problem p;
    if (!load(t, &p))
        return;
    float zero[DIM] = {0};
    double slope;
    CHECK_NEAR(t, gap(t, &p, zero, &slope) + least, log(2), 1e-9);
    CHECK_NEAR(t, sqrt(slope), 0.104616630085, 1e-7);
    for (size_t i = 0; i < countof(rows); i++) {
        char params[100];
        sim *s =
            start(t, &p, rows[i].algo, with_lr(params, steps[rows[i].step], rows[i].more),
                  rows[i].codec, rows[i].codec_params);
        for (int k = 0; k < 2 && rows[i].at[k]; k++) {
            run(t, s, rows[i].at[k] - sim_rounds_done(s));
            double found = gap(t, &p, sim_model(s), NULL);
            if (!(fabs(found / rows[i].gap[k] - 1) < rows[i].tolerance))
                test_fail(t, __FILE__, __LINE__, "%s %s: gap %.10g after %u, golden %.10g",
                          rows[i].algo, params, found, rows[i].at[k], rows[i].gap[k]);
        }
        sim_close(s);
    }
    unload(&p);
}

/* Rounds to |grad f|^2 <= 1e-10 against the reference's one run each. */
static void counts(test *t)
{
    double kappa = smooth_max / 1e-3, w = DIM / 7.0 - 1;
    double locodl = sqrt((1 + w / CLIENTS) * (1 + 2 * w) / kappa);
    struct {
        const char *algo, *codec, *codec_params, *more;
        double lr;
        uint32_t every, reference;
        double low, high; /* of the reference's rounds */
    } rows[] = {
        {"proxskip", "identity", "", "p=0.0489", 1 / smooth_max, 2, 72, 0.5, 1.6},
        {"compressed-scaffnew", "identity", "", "s=4,p=0.109", 1 / smooth_max, 10, 240, 0.5,
         1.6},
        {"locodl", "randk", "k=7", "strong=0.0005,p=", 1 / smooth_max, 10, 590, 0.5, 1.6},
    };
    problem p;
    if (!load(t, &p))
        return;
    for (size_t i = 0; i < countof(rows); i++) {
        char params[100], more[60];
        snprintf(more, sizeof(more), "%s", rows[i].more);
        if (strstr(more, "p=") && !strstr(more, "p=0"))
            snprintf(more, sizeof(more), "%s%.4f", rows[i].more, locodl);
        sim *s = start(t, &p, rows[i].algo, with_lr(params, rows[i].lr, more),
                       rows[i].codec, rows[i].codec_params);
        uint32_t n = rounds_to(t, &p, s, rows[i].every, 2 * rows[i].reference);
        if (!(n >= rows[i].low * rows[i].reference &&
              n <= rows[i].high * rows[i].reference))
            test_fail(t, __FILE__, __LINE__, "%s %s: %u rounds, the reference took %u",
                      rows[i].algo, params, n, rows[i].reference);
        sim_close(s);
    }
    unload(&p);
}

/* One client with all rows, minibatches of 64: steps against the reference's. */
static void variance_reduction(test *t)
{
    double m = CLIENTS * ROWS, b = 64, p64 = b / (b + m);
    double page = 1 / (smooth + smooth_row * sqrt((1 - p64) / (p64 * b)));
    struct {
        const char *algo, *more;
        double lr;
        uint32_t reference;
    } rows[] = {
        {"page", "batch=64", page, 4890},
        {"l-svrg", "batch=64", 1 / (6 * smooth_row), 11880},
        {"saga", "blocks=173", 1 / (3 * smooth_row), 5950},
    };
    problem p;
    if (!load(t, &p))
        return;
    p.alone = true;
    for (size_t i = 0; i < countof(rows); i++) {
        char params[100];
        sim *s = start(t, &p, rows[i].algo, with_lr(params, rows[i].lr, rows[i].more),
                       "identity", "");
        uint32_t n = rounds_to(t, &p, s, 100, 2 * rows[i].reference);
        if (!(n >= 0.6 * rows[i].reference && n <= 1.4 * rows[i].reference))
            test_fail(t, __FILE__, __LINE__, "%s %s: %u steps, the reference took %u",
                      rows[i].algo, params, n, rows[i].reference);
        sim_close(s);
    }
    /* SGD with the same minibatches and step stands still at its noise. */
    char params[100];
    sim *s = start(t, &p, "dcgd", with_lr(params, 1 / (3 * smooth_row), "batch=64"),
                   "identity", "");
    run(t, s, 6000);
    double slope;
    gap(t, &p, sim_model(s), &slope);
    CHECK(t, slope > 1e-6);
    sim_close(s);
    unload(&p);
}

/* Second order, K = 8 d of the packed triangle's d (d + 1) / 2.  Hessians are in single
 * precision, hence the tolerances. */
static void second_golden(test *t)
{
    static const struct {
        const char *algo, *codec, *codec_params, *more;
        uint32_t at[3];
        double gap[3], tolerance;
    } rows[] = {
        {"fednl", "topk", "k=552", "", {1, 5, 10},
         {2.1923652602e-2, 6.5979113720e-3, 3.2693365673e-4}, 2e-5},
        {"fednl", "topk", "k=552", "option=a", {2, 3, 5},
         {6.2324064220e-3, 2.0077034406e-3, 6.0403344146e-5}, 2e-3},
        {"fednl-ls", "topk", "k=552", "option=a", {6, 10, 20},
         {3.0299499479e-3, 9.6359250740e-5, 3.3254560217e-10}, 3e-3},
        {"fednl", "rankr", "rank=1", "", {3, 10, 0}, {1.2438687626e-2, 6.9304171646e-4, 0},
         1e-4},
        {"fednl", "identity", "", "", {3, 10, 0}, {4.3082918807e-3, 1.2996182296e-6, 0},
         2e-4},
    };
    problem p;
    if (!load(t, &p))
        return;
    sim *newton = start(t, &p, "fednl", "", "identity", "");
    run(t, newton, 25);
    double shift = gap(t, &p, sim_model(newton), NULL); /* rows are floats here */
    CHECK_NEAR(t, shift, 0, 1e-8);
    sim_close(newton);
    for (size_t i = 0; i < countof(rows); i++) {
        sim *s = start(t, &p, rows[i].algo, rows[i].more, rows[i].codec,
                       rows[i].codec_params);
        for (int k = 0; k < 3 && rows[i].at[k]; k++) {
            run(t, s, rows[i].at[k] - sim_rounds_done(s));
            double found = gap(t, &p, sim_model(s), NULL) - shift;
            if (!(fabs(found / rows[i].gap[k] - 1) < rows[i].tolerance))
                test_fail(t, __FILE__, __LINE__, "%s %s %s: gap %.10g after %u, golden %.10g",
                          rows[i].algo, rows[i].more, rows[i].codec, found, rows[i].at[k],
                          rows[i].gap[k]);
        }
        sim_close(s);
    }
    unload(&p);
}

/* Rounds to |grad f|^2 <= 1e-20 against the reference's one run each; its gradient is known
 * a round later. */
static void second_counts(test *t)
{
    static const struct {
        const char *algo, *codec, *codec_params, *more;
        uint32_t reference;
        double low, high; /* of the reference's rounds */
    } rows[] = {
        {"fednl", "topk", "k=552", "", 20, 0.9, 1.1},
        {"fednl", "randseqk", "k=552", "", 52, 0.8, 1.2},
        {"fednl", "natural", "", "", 19, 0.8, 1.2},
        {"fednl", "identity", "", "", 14, 0.9, 1.1},
        {"fednl", "topk", "k=552", "option=a", 11, 0.9, 1.1},
        {"fednl-bc", "topk", "k=552", "p=0.5,down=topk,down_ratio=0.2", 21, 0.6, 1.4},
        {"newton-3pc", "topk", "k=552", "variant=cbag,p=0.5", 16, 0.6, 1.4},
        {"bl1", "topk", "ratio=0.06", "", 10, 0.6, 1.6},
    };
    problem p;
    if (!load(t, &p))
        return;
    for (size_t i = 0; i < countof(rows); i++) {
        sim *s = start(t, &p, rows[i].algo, rows[i].more, rows[i].codec,
                       rows[i].codec_params);
        sim_row row = {.slope = 1};
        om_err err = {0};
        while (!(row.slope <= 1e-10) && sim_rounds_done(s) < 2 * rows[i].reference + 1)
            CHECK_OK(t, sim_round(s, &row, &err), err);
        uint32_t n = sim_rounds_done(s) - 1;
        if (!(n >= rows[i].low * rows[i].reference && n <= rows[i].high * rows[i].reference))
            test_fail(t, __FILE__, __LINE__,
                      "%s %s %s: %u rounds (|grad f| %g), the reference took %u",
                      rows[i].algo, rows[i].more, rows[i].codec, n, row.slope,
                      rows[i].reference);
        sim_close(s);
    }
    unload(&p);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"second_golden", "FedNL's gaps after fixed rounds", second_golden},
        {"second_counts", "FedNL's rounds to |grad f| = 1e-10", second_counts},
        {"golden", "gaps after fixed rounds, to single precision", golden},
        {"counts", "rounds to |grad f|^2 = 1e-10", counts},
        {"variance_reduction", "page, l-svrg and saga against the reference; SGD beside",
         variance_reduction},
        {0}};
    return test_main(argc, argv, cases);
}
