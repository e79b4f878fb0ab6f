/* logistic.c - see logistic.h.  Sums over rows are in double and in row order. */
#include "fl/oracle/logistic.h"

#include <math.h>

size_t logistic_dim(const logistic_task *t) { return t->rows->features + (size_t)t->intercept; }

/* a_r'x, with the intercept as a last feature of value 1. */
static double margin(const libsvm *d, size_t r, bool intercept, const float *x)
{
    double s = intercept ? (double)x[d->features] : 0;
    for (size_t e = d->start[r]; e < d->start[r + 1]; e++)
        s += (double)d->value[e] * (double)x[d->col[e]];
    return s;
}

static void add_row(const libsvm *d, size_t r, bool intercept, double scale, float *g)
{
    for (size_t e = d->start[r]; e < d->start[r + 1]; e++)
        g[d->col[e]] += (float)(scale * (double)d->value[e]);
    if (intercept)
        g[d->features] += (float)scale;
}

/* log(1 + e^-m) without overflow. */
static double soft(double m) { return m > 0 ? log1p(exp(-m)) : log1p(exp(m)) - m; }
/* 1 / (1 + e^m) = -d soft / dm */
static double miss(double m) { return m > 0 ? exp(-m) / (1 + exp(-m)) : 1 / (1 + exp(m)); }

static double square(const float *x, size_t d)
{
    double s = 0;
    for (size_t i = 0; i < d; i++)
        s += (double)x[i] * (double)x[i];
    return s;
}

/* One row's part of the mean; returns its loss. */
static double one(const logistic *self, size_t r, double weight, const float *x, float *g)
{
    const logistic_task *t = self->task;
    double b = (double)t->rows->label[r], m = b * margin(t->rows, r, t->intercept, x);
    add_row(t->rows, r, t->intercept, -b * miss(m) * weight, g);
    return soft(m) * weight;
}

static double start(const logistic *self, const float *x, float *g)
{
    const logistic_task *t = self->task;
    size_t d = logistic_dim(t);
    float l2 = (float)t->l2;
    for (size_t i = 0; i < d; i++)
        g[i] = l2 * x[i];
    return t->l2 > 0 ? 0.5 * t->l2 * square(x, d) : 0;
}

static om_status grad(void *ctx, const float *x, float *g, double *loss, om_err *err)
{
    const logistic *self = ctx;
    double sum = start(self, x, g);
    (void)err;
    for (size_t j = 0; j < self->n; j++)
        sum += one(self, self->index[j], 1.0 / (double)self->n, x, g);
    if (loss)
        *loss = sum;
    return OM_OK;
}

static om_status sgrad(void *ctx, const float *x, uint32_t batch, rng r, float *g,
                       double *loss, om_err *err)
{
    const logistic *self = ctx;
    size_t from = size_min((size_t)r.ctr * batch, self->n);
    size_t n = size_min(batch, self->n - from);
    double sum = start(self, x, g);
    (void)err;
    for (size_t j = 0; j < n; j++)
        sum += one(self, self->index[fl_pick(r.key, self->n, from + j)], 1.0 / (double)n, x, g);
    if (loss)
        *loss = sum;
    return OM_OK;
}

static om_status value(void *ctx, const float *x, double *loss, om_err *err)
{
    const logistic *self = ctx;
    const logistic_task *t = self->task;
    double sum = 0.5 * t->l2 * square(x, logistic_dim(t));
    (void)err;
    for (size_t j = 0; j < self->n; j++) {
        size_t r = self->index[j];
        double b = (double)t->rows->label[r];
        sum += soft(b * margin(t->rows, r, t->intercept, x)) / (double)self->n;
    }
    *loss = sum;
    return OM_OK;
}

static om_status hvp(void *ctx, const float *x, const float *v, float *hv, om_err *err)
{
    const logistic *self = ctx;
    const logistic_task *t = self->task;
    (void)err;
    start(self, v, hv); /* hv = l2 v */
    for (size_t j = 0; j < self->n; j++) {
        size_t r = self->index[j];
        double m = margin(t->rows, r, t->intercept, x), curve = miss(m) * miss(-m);
        double along = margin(t->rows, r, t->intercept, v);
        add_row(t->rows, r, t->intercept, curve * along / (double)self->n, hv);
    }
    return OM_OK;
}

void logistic_oracle(const logistic_task *t, uint32_t client, logistic *self, fl_oracle *out)
{
    const partition *p = t->split;
    BUG_IF(client >= p->n_clients);
    *self = (logistic){t, p->index + p->first[client],
                       p->first[client + 1] - p->first[client]};
    *out = (fl_oracle){
        .dim = logistic_dim(t),
        .n_samples = self->n,
        .ctx = self,
        .grad = grad,
        .sgrad = sgrad,
        .value = value,
        .hvp = hvp,
    };
}

void logistic_eval(const libsvm *rows, bool intercept, const float *x, double *loss,
                   double *accuracy)
{
    double sum = 0;
    size_t right = 0;
    for (size_t r = 0; r < rows->rows; r++) {
        double m = (double)rows->label[r] * margin(rows, r, intercept, x);
        sum += soft(m);
        right += m > 0;
    }
    *loss = sum / (double)rows->rows;
    *accuracy = (double)right / (double)rows->rows;
}

om_status logistic_labels(libsvm *rows, om_err *err)
{
    float low = rows->label[0], high = low;
    for (size_t r = 0; r < rows->rows; r++) {
        low = rows->label[r] < low ? rows->label[r] : low;
        high = rows->label[r] > high ? rows->label[r] : high;
    }
    for (size_t r = 0; r < rows->rows; r++)
        if (rows->label[r] != low && rows->label[r] != high)
            return fail(err, OM_EARG, "logistic: row %zu has label %g, a third one beside %g "
                        "and %g; use the softmax model for more classes", r + 1,
                        (double)rows->label[r], (double)low, (double)high);
    if (low == high)
        return fail(err, OM_EARG, "logistic: every label is %g", (double)low);
    for (size_t r = 0; r < rows->rows; r++)
        rows->label[r] = rows->label[r] == high ? 1.0f : -1.0f;
    return OM_OK;
}
