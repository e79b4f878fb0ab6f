/* test_oracle.c - the clients' problems against finite differences: value, gradient,
 * Hessian times vector and Hessian agree with one another, for every convex oracle. */
#include "fl/linalg.h"
#include "fl/oracle/logistic.h"
#include "fl/oracle/multinomial.h"
#include "fl/oracle/quadratic.h"
#include "test.h"

enum { ROWS = 40, FEATURES = 6, MOST = 32 };

/* Random sparse rows of classes 0..n-1, two of three entries present. */
typedef struct {
    char *text;
    data_sparse rows;
    float sign[ROWS];
    uint32_t label[ROWS], index[ROWS];
    size_t first[3];
    partition split;
} table;

static void table_open(test *t, table *a, uint32_t n_classes)
{
    buf b = buf_growing(1 << 16);
    rng r = rng_for(3, 1, 4, n_classes);
    om_err err = {0};
    memset(a, 0, sizeof(*a));
    for (uint32_t i = 0; i < ROWS; i++) {
        a->label[i] = i < n_classes ? i : rng_below(&r, n_classes);
        a->sign[i] = a->label[i] ? 1.0f : -1.0f;
        a->index[i] = i;
        CHECK_INT(t, buf_fmt(&b, "%u", a->label[i]), OM_OK);
        for (int k = 1; k <= FEATURES; k++)
            if (i == 0 || rng_unit(&r) < 0.67)
                CHECK_INT(t, buf_fmt(&b, " %d:%.4f", k, rng_normal(&r)), OM_OK);
        CHECK_INT(t, buf_fmt(&b, "\n"), OM_OK);
    }
    a->first[1] = 25, a->first[2] = ROWS;
    a->split = (partition){2, a->first, a->index};
    CHECK_OK(t, data_libsvm(b.data, b.len, &a->rows, &err), err);
    a->text = (char *)b.data;
}

static void table_close(table *a)
{
    data_sparse_close(&a->rows);
    mem_free(a->text);
}

static double dot(const float *a, const float *b, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)a[i] * (double)b[i];
    return s;
}

/* One client's functions at random points, in random directions. */
static void agree(test *t, const fl_oracle *f)
{
    size_t d = f->dim;
    float x[MOST], v[MOST], up[MOST], dn[MOST], g[MOST], gu[MOST], gd[MOST], hv[MOST];
    float h[MOST * MOST];
    om_err err = {0};
    rng r = rng_for(2, 7, 1, 8);
    CHECK(t, d <= MOST);
    for (int k = 0; k < 20; k++) {
        double loss, value, hi, lo, step = 1e-2;
        for (size_t i = 0; i < d; i++) {
            x[i] = (float)rng_normal(&r), v[i] = (float)rng_normal(&r);
            up[i] = x[i] + (float)step * v[i], dn[i] = x[i] - (float)step * v[i];
        }
        CHECK_OK(t, f->grad(f->ctx, x, g, &loss, &err), err);
        CHECK_OK(t, f->value(f->ctx, x, &value, &err), err);
        CHECK_NEAR(t, loss, value, 1e-9 * (1 + value));
        CHECK_OK(t, f->value(f->ctx, up, &hi, &err), err);
        CHECK_OK(t, f->value(f->ctx, dn, &lo, &err), err);
        CHECK_NEAR(t, (hi - lo) / (2 * step), dot(g, v, d),
                   2e-3 * (1 + fabs(dot(g, v, d))));
        CHECK_OK(t, f->grad(f->ctx, up, gu, NULL, &err), err);
        CHECK_OK(t, f->grad(f->ctx, dn, gd, NULL, &err), err);
        CHECK_OK(t, f->hvp(f->ctx, x, v, hv, &err), err);
        CHECK_OK(t, f->hess(f->ctx, x, h, &err), err);
        for (size_t i = 0; i < d; i++) {
            CHECK_NEAR(t, ((double)gu[i] - (double)gd[i]) / (2 * step), hv[i], 3e-3);
            CHECK_NEAR(t, dot(h + i * d, v, d), hv[i], 1e-4);
            for (size_t j = 0; j < d; j++)
                CHECK_NEAR(t, h[i * d + j], h[j * d + i], 1e-5);
        }
        CHECK(t, dot(v, hv, d) > 0); /* convex, strongly by l2 */
    }
}

/* Value, gradient and packed Hessian in one: those of the single functions, the gradient
 * by differences in double. */
static void jet_agrees(test *t, const fl_oracle *f)
{
    size_t d = f->dim;
    double x[MOST], up[MOST], dn[MOST], g[MOST], loss, hi, lo, alone;
    float xf[MOST], h[MOST * MOST], packed[MOST * MOST];
    om_err err = {0};
    rng r = rng_for(4, 7, 1, 8);
    for (int k = 0; k < 5; k++) {
        double along = 0, v[MOST], step = 1e-5;
        for (size_t i = 0; i < d; i++) {
            xf[i] = (float)rng_normal(&r), x[i] = (double)xf[i], v[i] = rng_normal(&r);
            up[i] = x[i] + step * v[i], dn[i] = x[i] - step * v[i];
        }
        CHECK_OK(t, f->jet(f->ctx, x, &loss, g, packed, &err), err);
        CHECK_OK(t, f->value(f->ctx, xf, &alone, &err), err);
        CHECK_NEAR(t, loss, alone, 1e-9 * (1 + alone));
        CHECK_OK(t, f->jet(f->ctx, up, &hi, NULL, NULL, &err), err);
        CHECK_OK(t, f->jet(f->ctx, dn, &lo, NULL, NULL, &err), err);
        for (size_t i = 0; i < d; i++)
            along += g[i] * v[i];
        CHECK_NEAR(t, (hi - lo) / (2 * step), along, 1e-8 * (1 + fabs(along)));
        CHECK_OK(t, f->hess(f->ctx, xf, h, &err), err);
        for (size_t i = 0; i < d; i++)
            for (size_t j = i; j < d; j++)
                CHECK_NEAR(t, packed[tri_row(d, i) + j], h[i * d + j], 1e-5);
    }
}

/* The mean over the minibatches of one shuffle, each by its size, is the gradient. */
static void batches(test *t, const fl_oracle *f)
{
    float x[MOST], g[MOST], part[MOST];
    double sum[MOST] = {0};
    om_err err = {0};
    for (size_t i = 0; i < f->dim; i++)
        x[i] = 0.3f * (float)i - 1;
    rng r = rng_for(5, 5, 5, 5);
    for (uint64_t from = 0; from < f->n_samples; from += 7, r.ctr++) {
        uint64_t n = f->n_samples - from < 7 ? f->n_samples - from : 7;
        CHECK_OK(t, f->sgrad(f->ctx, x, 7, r, part, NULL, &err), err);
        for (size_t i = 0; i < f->dim; i++)
            sum[i] += (double)part[i] * (double)n / (double)f->n_samples;
    }
    CHECK_OK(t, f->grad(f->ctx, x, g, NULL, &err), err);
    for (size_t i = 0; i < f->dim; i++)
        CHECK_NEAR(t, sum[i], g[i], 1e-5);
}

static void logistic_agrees(test *t)
{
    table a;
    kern k;
    table_open(t, &a, 2);
    for (int intercept = 0; intercept < 2; intercept++) {
        logistic_task task = {&a.rows, a.sign, &a.split, intercept, 0.01, NULL};
        kern_init(&k, 0);
        for (uint32_t c = 0; c < 2; c++) {
            logistic self;
            fl_oracle f;
            logistic_oracle(&task, c, &self, &f);
            jet_agrees(t, &f);
            task.k = &k; /* the dense form */
            agree(t, &f), jet_agrees(t, &f), batches(t, &f);
        }
    }
    table_close(&a);
}

static void multinomial_agrees(test *t)
{
    table a;
    table_open(t, &a, 4);
    multinomial_task task = {&a.rows, a.label, 4, &a.split, true, 0.01};
    for (uint32_t c = 0; c < 2; c++) {
        multinomial self;
        fl_oracle f;
        multinomial_oracle(&task, c, &self, &f);
        CHECK_INT(t, f.dim, 4 * (FEATURES + 1));
        agree(t, &f), jet_agrees(t, &f), batches(t, &f);
    }
    table_close(&a);
}

/* Two classes with x_1 = -x_0 = w / 2 are logistic regression at w. */
static void two_classes(test *t)
{
    table a;
    table_open(t, &a, 2);
    logistic_task lt = {&a.rows, a.sign, &a.split, true, 0, NULL};
    multinomial_task mt = {&a.rows, a.label, 2, &a.split, true, 0};
    float w[FEATURES + 1], x[2 * (FEATURES + 1)], g[FEATURES + 1], mg[2 * (FEATURES + 1)];
    double one, two, accuracy[2];
    om_err err = {0};
    for (int i = 0; i <= FEATURES; i++) {
        w[i] = 0.4f * (float)(i - 3);
        x[i] = -w[i] / 2, x[FEATURES + 1 + i] = w[i] / 2;
    }
    logistic ls;
    multinomial ms;
    fl_oracle lf, mf;
    logistic_oracle(&lt, 0, &ls, &lf);
    multinomial_oracle(&mt, 0, &ms, &mf);
    CHECK_OK(t, lf.grad(lf.ctx, w, g, &one, &err), err);
    CHECK_OK(t, mf.grad(mf.ctx, x, mg, &two, &err), err);
    CHECK_NEAR(t, one, two, 1e-6);
    for (int i = 0; i <= FEATURES; i++) {
        CHECK_NEAR(t, mg[FEATURES + 1 + i], g[i], 1e-5);
        CHECK_NEAR(t, mg[i], -g[i], 1e-5);
    }
    logistic_eval(&a.rows, a.sign, FEATURES, true, w, NULL, &one, &accuracy[0]);
    multinomial_eval(&mt, &a.rows, a.label, ROWS, x, &two, &accuracy[1]);
    CHECK_NEAR(t, one, two, 1e-6);
    CHECK_NEAR(t, accuracy[0], accuracy[1], 1e-12);
    table_close(&a);
}

/* At zero every class is as likely: loss log K. */
static void at_zero(test *t)
{
    table a;
    table_open(t, &a, 4);
    multinomial_task task = {&a.rows, a.label, 4, &a.split, true, 0.1};
    multinomial self;
    fl_oracle f;
    float x[MOST] = {0};
    double value;
    om_err err = {0};
    multinomial_oracle(&task, 0, &self, &f);
    CHECK_OK(t, f.value(f.ctx, x, &value, &err), err);
    CHECK_NEAR(t, value, log(4), 1e-12);
    table_close(&a);
}

static void quadratic_agrees(test *t)
{
    quadratic *q;
    om_err err = {0};
    fl_oracle f;
    quadratic_config c = {
        .dim = 20, .n_clients = 3, .mu = 0.1, .smooth = 1, .heterogeneity = 1, .seed = 2};
    CHECK_OK(t, quadratic_open(&c, &q, &err), err);
    quadratic_oracle(q, 1, &f);
    agree(t, &f);
    jet_agrees(t, &f);
    quadratic_close(q);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"logistic", "value, gradient, hvp and Hessian agree", logistic_agrees},
        {"multinomial", "value, gradient, hvp and Hessian agree", multinomial_agrees},
        {"two_classes", "multinomial of two classes is logistic", two_classes},
        {"at_zero", "log K at zero", at_zero},
        {"quadratic", "value, gradient, hvp and Hessian agree", quadratic_agrees},
        {0}};
    return test_main(argc, argv, cases);
}
