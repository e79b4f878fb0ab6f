/* test_aggregate.c - laws of every aggregator of the table: published values, equality of
 * special cases, permutation, translation, and the (f, kappa) bound
 *
 *     |A(v) - mean_S|^2 <= kappa / |S| sum_S |v_i - mean_S|^2     S: the honest
 *
 * of Allouah et al. 2023 with the constants of their table 1, on attacked inputs. */
#include "fl/aggregate/aggregate.h"
#include "test.h"

typedef struct {
    kern k;
    aggregate_rule a;
} bench;

static void open(test *t, bench *b, const char *name)
{
    om_err err = {0};
    kern_init(&b->k, 0);
    b->a = (aggregate_rule){0};
    CHECK_OK(t, aggregator_need(str_of(name), &b->a.row, &err), err);
    param_defaults(b->a.row->params, b->a.p);
}

static void set(test *t, bench *b, const char *name, const char *value)
{
    om_err err = {0};
    CHECK_OK(t, param_set(b->a.row->params, b->a.row->name, b->a.p, str_of(name),
                          str_of(value), &err),
             err);
}

static om_status run(bench *b, const float *v, size_t n, size_t d, float *out, om_err *err)
{
    uint32_t id[64];
    cohort c = {n, d, d, v};
    for (size_t i = 0; i < n; i++)
        id[i] = (uint32_t)i;
    size_t bytes = aggregate_bytes(&b->a, &b->k, n, NULL) + 64;
    void *memory = mem_alloc(bytes);
    om_status s = aggregate_run(&b->a, &c, id, (rng){9, 0}, &b->k, NULL, out,
                                arena_of(memory, bytes), err);
    mem_free(memory);
    return s;
}

/* ---- published values ---- */

static void golden(test *t)
{
    static const float v[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    static const struct {
        const char *name, *params[4][2];
        double first;
    } want[] = {
        {"mean", {{0}}, 4},
        {"median", {{0}}, 4},
        {"trimmed_mean", {{"num_byzantine", "1"}}, 4},
        {"meamed", {{"num_byzantine", "1"}}, 2.5},
        {"mda", {{"num_byzantine", "1"}}, 2.5},
        {"centered_clipping", {{"tau", "100"}, {"steps", "1"}}, 4},
        {"geometric_median",
         {{"start", "zero"}, {"steps", "3"}, {"nu", "0.1"}},
         3.78788764},
    };
    for (size_t i = 0; i < countof(want); i++) {
        bench b;
        float out[3];
        om_err err = {0};
        open(t, &b, want[i].name);
        for (size_t j = 0; want[i].params[j][0]; j++)
            set(t, &b, want[i].params[j][0], want[i].params[j][1]);
        CHECK_OK(t, run(&b, v, 3, 3, out, &err), err);
        for (int c = 0; c < 3; c++)
            CHECK_NEAR(t, out[c], want[i].first + c, 2e-6);
    }
}

/* Krum asks for 2f + 3; the published three-row example has fewer, so the scores are met
 * here on five rows in a line with one far off: 0 1 2 3 50, f = 1, two neighbours each:
 * scores 1+4, 1+1, 1+1, 1+4, 47^2+48^2; of the tied the lower. */
static void krum_by_hand(test *t)
{
    static const float v[5] = {0, 1, 2, 3, 50};
    bench b;
    float out;
    om_err err = {0};
    open(t, &b, "krum");
    set(t, &b, "num_byzantine", "1");
    CHECK_OK(t, run(&b, v, 5, 1, &out, &err), err);
    CHECK_NEAR(t, out, 1, 0);
    open(t, &b, "multi_krum");
    set(t, &b, "num_byzantine", "1");
    CHECK_OK(t, run(&b, v, 5, 1, &out, &err), err);
    CHECK_NEAR(t, out, 1.5, 1e-6);
    set(t, &b, "k", "2");
    CHECK_OK(t, run(&b, v, 5, 1, &out, &err), err);
    CHECK_NEAR(t, out, 1.5, 1e-6);
    CHECK(t, run(&b, v, 4, 1, &out, &err) == OM_ELIMIT);
}

/* Seven rows 0 1 2 3 4 5 90, f = 1: Krum takes 2, 3, 1 and then, of 0 4 5 90 with one
 * neighbour each, 4, and of 0 5 90 the nearest pair's lower, 0: the chosen are 0 1 2 3 4,
 * and the mean of the three values nearest to their median 2 is 2. */
static void bulyan_by_hand(test *t)
{
    static const float v[7] = {0, 1, 2, 3, 4, 5, 90};
    bench b;
    float out;
    om_err err = {0};
    open(t, &b, "bulyan");
    set(t, &b, "num_byzantine", "1");
    CHECK_OK(t, run(&b, v, 7, 1, &out, &err), err);
    CHECK_NEAR(t, out, 2, 1e-6);
}

/* Root (1,0); (2,0) agrees fully, (0,3) not at all, (-1,0) is against it, and (3,4) has
 * cosine 0.6: A = ((1,0) + 0.6 (0.6,0.8)) / 1.6. */
static void fltrust_by_hand(test *t)
{
    static const float v[10] = {1, 0, 2, 0, 0, 3, -1, 0, 3, 4};
    bench b;
    float out[2];
    om_err err = {0};
    open(t, &b, "fltrust");
    CHECK_OK(t, run(&b, v, 5, 2, out, &err), err);
    CHECK_NEAR(t, out[0], 1.36 / 1.6, 1e-6);
    CHECK_NEAR(t, out[1], 0.48 / 1.6, 1e-6);
    set(t, &b, "trusted", "9");
    CHECK(t, run(&b, v, 5, 2, out, &err) == OM_ELIMIT);
}

/* ---- laws ---- */

enum { N = 15, D = 40, F = 3 };
static const char *const pres[] = {"none", "bucketing", "nnm", "arc", "arc+nnm"};

static void draw(float *v, size_t n, uint64_t key)
{
    rng r = {.key = key, .ctr = 0};
    for (size_t i = 0; i < n; i++)
        v[i] = (float)rng_normal(&r);
}

/* Every row of the table, every mixer it allows. */
static bool each(test *t, size_t i, size_t pre, bench *b)
{
    om_err err = {0};
    open(t, b, aggregators[i]->name);
    set(t, b, "num_byzantine", "3");
    set(t, b, "pre", pres[pre]);
    if (strcmp(aggregators[i]->name, "bulyan") == 0 && pre == 1)
        return false; /* eight buckets are too few for f = 3 */
    if (strstr(aggregators[i]->name, "krum") && pre == 1)
        return false;
    return aggregate_check(&b->a, N, &err) == OM_OK;
}

static void permutation(test *t)
{
    float v[N * D], w[N * D], x[D], y[D];
    om_err err = {0};
    draw(v, N * D, 1);
    for (size_t i = 0; i < N; i++) /* row 0, the trusted one, stays */
        memcpy(w + i * D, v + (i ? 1 + (i * 9) % (N - 1) : 0) * D, D * sizeof(float));
    for (size_t i = 0; aggregators[i]; i++)
        for (size_t pre = 0; pre < countof(pres); pre++) {
            bench b;
            if (pre == 1 || !each(t, i, pre, &b)) /* buckets are drawn by place */
                continue;
            if (strcmp(aggregators[i]->name, "mda") == 0)
                continue; /* several sets share the least diameter: the first is taken */
            CHECK_OK(t, run(&b, v, N, D, x, &err), err);
            CHECK_OK(t, run(&b, w, N, D, y, &err), err);
            for (size_t c = 0; c < D; c++)
                CHECK_NEAR(t, y[c], x[c], 2e-5);
        }
}

static void translation(test *t)
{
    float v[N * D], w[N * D], shift[D], x[D], y[D];
    om_err err = {0};
    draw(v, N * D, 2);
    draw(shift, D, 3);
    for (size_t i = 0; i < N * D; i++)
        w[i] = v[i] + 3 * shift[i % D];
    for (size_t i = 0; aggregators[i]; i++)
        for (size_t pre = 0; pre < 3; pre++) {
            bench b;
            if (!(aggregators[i]->flags & AGGREGATE_MOVES) || !each(t, i, pre, &b))
                continue;
            CHECK_OK(t, run(&b, v, N, D, x, &err), err);
            CHECK_OK(t, run(&b, w, N, D, y, &err), err);
            for (size_t c = 0; c < D; c++)
                CHECK_NEAR(t, y[c], x[c] + 3 * shift[c], 5e-4);
        }
}

static void equal_rows(test *t)
{
    float v[N * D], x[D];
    om_err err = {0};
    draw(v, D, 4);
    for (size_t i = D; i < N * D; i++)
        v[i] = v[i - D];
    for (size_t i = 0; aggregators[i]; i++)
        for (size_t pre = 0; pre < countof(pres); pre++) {
            bench b;
            if (!each(t, i, pre, &b))
                continue;
            if (strcmp(aggregators[i]->name, "centered_clipping") == 0)
                set(t, &b, "steps", "20"); /* it walks there from zero */
            CHECK_OK(t, run(&b, v, N, D, x, &err), err);
            for (size_t c = 0; c < D; c++)
                CHECK_NEAR(t, x[c], v[c], 1e-5);
        }
}

/* With f = 0 these are the mean: nothing is cut, every neighbour is near. */
static void nobody_hostile(test *t)
{
    static const char *const same[][3] = {{"trimmed_mean", "beta", "0"},
                                          {"meamed", "pre", "none"},
                                          {"multi_krum", "pre", "none"},
                                          {"mda", "pre", "none"},
                                          {"bulyan", "pre", "none"},
                                          {"centered_clipping", "tau", "1e9"},
                                          {"median", "pre", "nnm"},
                                          {"krum", "pre", "nnm"},
                                          {"geometric_median", "pre", "nnm"},
                                          {"mean", "pre", "arc"}};
    float v[N * D], x[D];
    om_err err = {0};
    draw(v, N * D, 5);
    for (size_t i = 0; i < countof(same); i++) {
        bench b;
        open(t, &b, same[i][0]);
        set(t, &b, same[i][1], same[i][2]);
        CHECK_OK(t, run(&b, v, N, D, x, &err), err);
        for (size_t c = 0; c < D; c++) {
            double want = 0;
            for (size_t r = 0; r < N; r++)
                want += (double)v[r * D + c] / N;
            CHECK_NEAR(t, x[c], want, 2e-6);
        }
    }
}

/* Weiszfeld's sum of distances falls with every step. */
static void weiszfeld_descends(test *t)
{
    float v[N * D], x[D];
    om_err err = {0};
    double before = HUGE_VAL;
    draw(v, N * D, 6);
    for (size_t i = 0; i < 2 * D; i++)
        v[i] += 30;
    for (int steps = 1; steps < 12; steps++) {
        bench b;
        char text[16];
        open(t, &b, "geometric_median");
        snprintf(text, sizeof(text), "%d", steps);
        set(t, &b, "steps", text);
        CHECK_OK(t, run(&b, v, N, D, x, &err), err);
        double sum = 0;
        for (size_t i = 0; i < N; i++) {
            double d2 = 0;
            for (size_t c = 0; c < D; c++)
                d2 += pow((double)v[i * D + c] - (double)x[c], 2);
            sum += sqrt(d2);
        }
        CHECK(t, sum <= before + 1e-5);
        before = sum;
    }
}

/* ---- robustness ---- */

enum { FAR, BESIDE, HIDDEN, SAME, ONE_SIDE, PLACEMENTS };

/* The first N - F rows are honest, the rest are put where they hurt. */
static void attacked(float *v, int placement, uint64_t key)
{
    float mean[D] = {0}, dev[D] = {0};
    draw(v, N * D, key);
    for (size_t i = 0; i < N - F; i++)
        for (size_t c = 0; c < D; c++)
            mean[c] += v[i * D + c] / (N - F);
    for (size_t i = 0; i < N - F; i++)
        for (size_t c = 0; c < D; c++)
            dev[c] += (v[i * D + c] - mean[c]) * (v[i * D + c] - mean[c]) / (N - F);
    for (size_t i = N - F; i < N; i++)
        for (size_t c = 0; c < D; c++) {
            float s = sqrtf(dev[c]), *x = &v[i * D + c];
            *x = placement == FAR      ? 1e6f
                 : placement == BESIDE ? mean[c] - 1.5f * s
                 : placement == HIDDEN ? mean[c] + 0.3f * s
                 : placement == SAME   ? v[c]
                                       : v[(c % (N - F)) * D + c] + 2 * s;
        }
}

static double kappa_seen(const float *v, const float *out)
{
    double miss = 0, spread = 0;
    for (size_t c = 0; c < D; c++) {
        double mean = 0;
        for (size_t i = 0; i < N - F; i++)
            mean += (double)v[i * D + c] / (N - F);
        miss += pow((double)out[c] - mean, 2);
        for (size_t i = 0; i < N - F; i++)
            spread += pow((double)v[i * D + c] - mean, 2) / (N - F);
    }
    return miss / spread;
}

/* kappa of the rule alone (Allouah et al. 2023, table 1), and after mixing. */
static double kappa_of(const char *name)
{
    double f = F, n = N, r = f / (n - 2 * f);
    if (strcmp(name, "trimmed_mean") == 0)
        return 6 * r * (1 + r);
    if (strcmp(name, "median") == 0 || strcmp(name, "geometric_median") == 0)
        return 4 * (1 + r) * (1 + r);
    return 6 * (1 + r); /* Krum; the others have no smaller published constant */
}

static void robust(test *t)
{
    float v[N * D], x[D];
    om_err err = {0};
    for (size_t i = 0; aggregators[i]; i++)
        for (size_t pre = 0; pre < countof(pres); pre++)
            for (int placement = 0; placement < PLACEMENTS; placement++) {
                bench b;
                if (!(aggregators[i]->flags & AGGREGATE_ROBUST) || pre == 1 ||
                    (aggregators[i]->flags & AGGREGATE_TRUSTED) || !each(t, i, pre, &b))
                    continue;
                double kappa = kappa_of(aggregators[i]->name);
                if (pre == 2)
                    kappa = 8.0 * F / (N - F) * (kappa + 1);
                attacked(v, placement, 100 + (uint64_t)placement);
                CHECK_OK(t, run(&b, v, N, D, x, &err), err);
                CHECK(t, kappa_seen(v, x) <= kappa);
            }
}

/* What the laws above would catch: the mean is not robust. */
static void mean_is_not(test *t)
{
    float v[N * D], x[D];
    bench b;
    om_err err = {0};
    attacked(v, FAR, 100);
    open(t, &b, "mean");
    set(t, &b, "pre", "arc"); /* with f = 0 it clips nothing */
    CHECK_OK(t, run(&b, v, N, D, x, &err), err);
    CHECK(t, kappa_seen(v, x) > 1e6);
    set(t, &b, "screen", "10");
    CHECK_OK(t, run(&b, v, N, D, x, &err), err);
    CHECK(t, kappa_seen(v, x) < 1e-9);
    set(t, &b, "screen", "0");
    set(t, &b, "num_byzantine", "3");
    set(t, &b, "pre", "nnm");
    CHECK_OK(t, run(&b, v, N, D, x, &err), err);
    CHECK(t, kappa_seen(v, x) > 1e6); /* means of neighbours are not enough alone */
}

/* One hostile update in ten: buckets of two keep it to one bucket in five. */
static void buckets(test *t)
{
    float v[10 * D], x[D];
    bench b;
    om_err err = {0};
    draw(v, 10 * D, 8);
    for (size_t c = 0; c < D; c++)
        v[c] = 1e6f;
    open(t, &b, "median");
    set(t, &b, "num_byzantine", "1");
    set(t, &b, "pre", "bucketing");
    CHECK_OK(t, run(&b, v, 10, D, x, &err), err);
    for (size_t c = 0; c < D; c++)
        CHECK(t, fabsf(x[c]) < 4);
    set(t, &b, "num_byzantine", "3"); /* five buckets cannot outvote three */
    CHECK(t, aggregate_check(&b.a, 10, &err) == OM_EARG);
}

static void refuses(test *t)
{
    aggregate_rule a = {0};
    om_err err = {0};
    CHECK(t, aggregator_need(STR("krumm"), &a.row, &err) == OM_ENOTFOUND);
    CHECK(t, strstr(err.msg, "krum") != NULL);
    CHECK_OK(t, aggregator_need(STR("fedmedian"), &a.row, &err), err);
    CHECK_STR(t, a.row->name, "median");
    CHECK_OK(t, aggregator_need(STR("fedtrimmedavg"), &a.row, &err), err);
    CHECK_STR(t, a.row->name, "trimmed_mean");
    CHECK(t, aggregate_is_mean(&(aggregate_rule){0}));
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"golden", "three rows give the published results", golden},
        {"krum_by_hand", "Krum's scores and ties on a line", krum_by_hand},
        {"bulyan_by_hand", "Bulyan chooses one after the other", bulyan_by_hand},
        {"fltrust_by_hand", "trust is the cosine, lengths are the root's", fltrust_by_hand},
        {"permutation", "the order of the updates does not matter", permutation},
        {"translation", "moving every update moves the result", translation},
        {"equal_rows", "equal updates give that update", equal_rows},
        {"nobody_hostile", "with nothing to cut they are the mean", nobody_hostile},
        {"weiszfeld_descends", "each step lowers the sum of distances", weiszfeld_descends},
        {"robust", "attacked inputs stay within the published kappa", robust},
        {"mean_is_not", "the mean does not, until screened", mean_is_not},
        {"buckets", "buckets hold a hostile update, and too many are refused", buckets},
        {"refuses", "unknown names are answered with the nearest", refuses},
        {0}};
    return test_main(argc, argv, cases);
}
