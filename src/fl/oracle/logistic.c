/* logistic.c - see logistic.h.  Sums over rows are in double and in row order. */
#include "fl/oracle/logistic.h"
#include "fl/linalg.h"

#include <math.h>

enum { DENSE_DIM = 256 }; /* most for the dense form of a Hessian: eight rows on the stack */

size_t logistic_dim(const logistic_task *t)
{
    return t->rows->n_cols + (size_t)t->intercept;
}

/* a_r'x, with the intercept as a last feature of value 1. */
static double margin(const logistic_task *t, size_t r, const float *x)
{
    const data_sparse *d = t->rows;
    double s = t->intercept ? (double)x[d->n_cols] : 0;
    for (size_t e = d->row[r]; e < d->row[r + 1]; e++)
        s += (double)d->value[e] * (double)x[d->col[e]];
    return s;
}

static void add_row(const logistic_task *t, size_t r, double scale, float *g)
{
    const data_sparse *d = t->rows;
    float by = (float)scale;
    for (size_t e = d->row[r]; e < d->row[r + 1]; e++)
        g[d->col[e]] += by * d->value[e];
    if (t->intercept)
        g[d->n_cols] += (float)scale;
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

/* One row's part of the mean, *loss too unless NULL, from one exponential. */
static void one(const logistic *self, size_t r, double weight, const float *x, float *g,
                double *loss)
{
    const logistic_task *t = self->task;
    double b = (double)t->label[r], m = b * margin(t, r, x), e = exp(-fabs(m));
    add_row(t, r, -b * (m > 0 ? e : 1) / (1 + e) * weight, g);
    if (loss)
        *loss += (log1p(e) + (m > 0 ? 0 : -m)) * weight;
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
        one(self, self->index[j], 1.0 / (double)self->n, x, g, loss ? &sum : NULL);
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
        one(self, self->index[fl_pick(r.key, self->n, from + j)], 1.0 / (double)n, x, g,
            loss ? &sum : NULL);
    if (loss)
        *loss = sum;
    return OM_OK;
}

static om_status rows(void *ctx, const float *x, uint32_t batch, rng r, const fl_rows *out,
                      uint32_t *count, om_err *err)
{
    const logistic *self = ctx;
    size_t from = size_min((size_t)r.ctr * batch, self->n);
    (void)err;
    *count = (uint32_t)size_min(batch, self->n - from);
    for (size_t j = 0; j < *count; j++) {
        size_t row = self->index[fl_pick(r.key, self->n, from + j)];
        double h = margin(self->task, row, x);
        if (out->score)
            out->score[j] = (float)h;
        if (out->sign)
            out->sign[j] = self->task->label[row];
        if (out->loss)
            out->loss[j] = (float)soft((double)self->task->label[row] * h);
    }
    return OM_OK;
}

static om_status pull(void *ctx, const float *x, uint32_t batch, rng r, const float *dscore,
                      const float *dloss, float *g, om_err *err)
{
    const logistic *self = ctx;
    size_t from = size_min((size_t)r.ctr * batch, self->n);
    size_t n = size_min(batch, self->n - from);
    (void)err;
    start(self, x, g);
    for (size_t j = 0; j < n; j++) {
        size_t row = self->index[fl_pick(r.key, self->n, from + j)];
        double b = (double)self->task->label[row], by = dscore ? (double)dscore[j] : 0;
        if (dloss && (dloss[j] < 0 || dloss[j] > 0))
            by -= (double)dloss[j] * b * miss(b * margin(self->task, row, x));
        if (by < 0 || by > 0)
            add_row(self->task, row, by, g);
    }
    return OM_OK;
}

static uint64_t positives(void *ctx)
{
    const logistic *self = ctx;
    uint64_t n = 0;
    for (size_t j = 0; j < self->n; j++)
        n += self->task->label[self->index[j]] > 0;
    return n;
}

static om_status value(void *ctx, const float *x, double *loss, om_err *err)
{
    const logistic *self = ctx;
    const logistic_task *t = self->task;
    double sum = 0.5 * t->l2 * square(x, logistic_dim(t));
    (void)err;
    for (size_t j = 0; j < self->n; j++) {
        size_t r = self->index[j];
        double b = (double)t->label[r];
        sum += soft(b * margin(t, r, x)) / (double)self->n;
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
        double m = margin(t, r, x), curve = miss(m) * miss(-m);
        double along = margin(t, r, v);
        add_row(t, r, curve * along / (double)self->n, hv);
    }
    return OM_OK;
}

/* h += scale a_r a_r' on and above the diagonal; columns ascend within a row. */
static void add_outer(const logistic_task *t, size_t r, double scale, float *h)
{
    const data_sparse *d = t->rows;
    size_t n = logistic_dim(t);
    for (size_t i = d->row[r]; i < d->row[r + 1]; i++) {
        float *row = h + d->col[i] * n, v = (float)(scale * (double)d->value[i]);
        for (size_t j = i; j < d->row[r + 1]; j++)
            row[d->col[j]] += v * d->value[j];
        if (t->intercept)
            row[n - 1] += v;
    }
    if (t->intercept)
        h[n * n - 1] += (float)scale;
}

static om_status hess(void *ctx, const float *x, float *h, om_err *err)
{
    const logistic *self = ctx;
    size_t d = logistic_dim(self->task);
    (void)err;
    memset(h, 0, d * d * sizeof(float));
    for (size_t j = 0; j < self->n; j++) {
        double m = margin(self->task, self->index[j], x);
        add_outer(self->task, self->index[j], miss(m) * miss(-m) / (double)self->n, h);
    }
    for (size_t i = 0; i < d; i++) {
        h[i * d + i] += (float)self->task->l2;
        for (size_t j = 0; j < i; j++)
            h[i * d + j] = h[j * d + i];
    }
    return OM_OK;
}

/* ---- in double, all at once ---- */

static double margin64(const logistic_task *t, size_t r, const double *x)
{
    const data_sparse *d = t->rows;
    double s = t->intercept ? x[d->n_cols] : 0;
    for (size_t e = d->row[r]; e < d->row[r + 1]; e++)
        s += (double)d->value[e] * x[d->col[e]];
    return s;
}

static void add_row64(const logistic_task *t, size_t r, double scale, double *g)
{
    const data_sparse *d = t->rows;
    for (size_t e = d->row[r]; e < d->row[r + 1]; e++)
        g[d->col[e]] += scale * (double)d->value[e];
    if (t->intercept)
        g[d->n_cols] += scale;
}

/* Packed h += scale a_r a_r': its non-zeros squared and halved, not dim^2. */
static void add_packed(const logistic_task *t, size_t r, double scale, float *h)
{
    const data_sparse *d = t->rows;
    size_t n = logistic_dim(t), end = d->row[r + 1];
    for (size_t i = d->row[r]; i < end; i++) {
        float *row = h + tri_row(n, d->col[i]), v = (float)(scale * (double)d->value[i]);
        for (size_t j = i; j < end; j++)
            row[d->col[j]] += v * d->value[j];
        if (t->intercept)
            row[n - 1] += v;
    }
    if (t->intercept)
        h[tri_size(n) - 1] += (float)scale;
}

/* Eight rows at once for the dense form: as floats side by side, and their weights. */
typedef struct {
    float row[8 * DENSE_DIM], weight[8];
    size_t n;
} eight;

/* h += sum_s weight_s a_s a_s' by rows of the triangle, zeros and all. */
static void add_eight(const logistic_task *t, eight *b, float *h)
{
    size_t d = logistic_dim(t);
    for (size_t i = 0; i < d && b->n; i++) {
        float by[8], any = 0;
        for (size_t s = 0; s < 8; s++) {
            by[s] = b->weight[s] * b->row[s * d + i];
            any += fabsf(by[s]);
        }
        if (any > 0)
            t->k->axpy8(h + tri_row(d, i) + i, by, b->row + i, d, d - i);
    }
    memset(b->row, 0, 8 * d * sizeof(float));
    memset(b->weight, 0, sizeof(b->weight));
    b->n = 0;
}

static void put_eighth(const logistic_task *t, eight *b, size_t r, double weight, float *h)
{
    const data_sparse *d = t->rows;
    float *row = b->row + b->n * logistic_dim(t);
    for (size_t e = d->row[r]; e < d->row[r + 1]; e++)
        row[d->col[e]] = d->value[e];
    if (t->intercept)
        row[d->n_cols] = 1;
    b->weight[b->n++] = (float)weight;
    if (b->n == 8)
        add_eight(t, b, h);
}

/* Which form of the Hessian is cheaper, counting a scattered addition as four cycles and a
 * dense one as a sixteenth, with two a row of the triangle. */
static bool is_dense(const logistic *self)
{
    const logistic_task *t = self->task;
    const data_sparse *rows = t->rows;
    double d = (double)logistic_dim(t), sparse = 0;
    if (!t->k || d > DENSE_DIM)
        return false;
    for (size_t j = 0; j < self->n; j++) {
        size_t r = self->index[j];
        double n = (double)(rows->row[r + 1] - rows->row[r]) + t->intercept;
        sparse += 2 * n * n;
    }
    return sparse > (double)self->n * (d * d / 32 + 2 * d);
}

static om_status jet(void *ctx, const double *x, double *loss, double *g, float *h,
                     om_err *err)
{
    const logistic *self = ctx;
    const logistic_task *t = self->task;
    size_t d = logistic_dim(t);
    double sum = 0, weight = 1.0 / (double)self->n;
    bool dense = h && is_dense(self);
    eight rows;
    (void)err;
    for (size_t i = 0; i < d; i++) {
        sum += 0.5 * t->l2 * x[i] * x[i];
        if (g)
            g[i] = t->l2 * x[i];
    }
    if (h)
        memset(h, 0, tri_size(d) * sizeof(float));
    rows.n = 0;
    if (dense)
        add_eight(t, &rows, h);
    for (size_t j = 0; j < self->n; j++) {
        size_t r = self->index[j];
        double b = (double)t->label[r], m = b * margin64(t, r, x), e = exp(-fabs(m));
        double part = 1 / (1 + e), curve = e * part * part * weight;
        sum += (log1p(e) + (m > 0 ? 0 : -m)) * weight;
        if (g)
            add_row64(t, r, -b * (m > 0 ? e : 1) * part * weight, g);
        if (dense)
            put_eighth(t, &rows, r, curve, h);
        else if (h)
            add_packed(t, r, curve, h);
    }
    if (dense)
        add_eight(t, &rows, h);
    for (size_t i = 0; h && i < d; i++)
        h[tri_row(d, i) + i] += (float)t->l2;
    *loss = sum;
    return OM_OK;
}

void logistic_oracle(const logistic_task *t, uint32_t client, logistic *self,
                     fl_oracle *out)
{
    const partition *p = t->split;
    BUG_IF(client >= p->n_clients);
    *self =
        (logistic){t, p->index + p->first[client], p->first[client + 1] - p->first[client]};
    *out = (fl_oracle){
        .dim = logistic_dim(t),
        .n_samples = self->n,
        .ctx = self,
        .grad = grad,
        .sgrad = sgrad,
        .value = value,
        .hvp = hvp,
        .hess = hess,
        .jet = jet,
        .rows = rows,
        .pull = pull,
        .positives = positives,
    };
}

void logistic_eval(const data_sparse *rows, const float *label, uint32_t features,
                   bool intercept, const float *x, float *score, double *loss,
                   double *accuracy)
{
    double sum = 0;
    size_t right = 0;
    for (size_t r = 0; r < rows->n_rows; r++) {
        double m = intercept ? (double)x[features] : 0;
        for (size_t e = rows->row[r]; e < rows->row[r + 1] && rows->col[e] < features; e++)
            m += (double)rows->value[e] * (double)x[rows->col[e]];
        if (score)
            score[r] = (float)m;
        m *= (double)label[r];
        sum += soft(m);
        right += m > 0;
    }
    *loss = sum / (double)rows->n_rows;
    *accuracy = (double)right / (double)rows->n_rows;
}

om_status logistic_labels(const data_sparse *rows, float *out, om_err *err)
{
    const float *label = rows->label;
    if (rows->n_rows == 0)
        return fail(err, OM_EARG, "logistic: there are no rows");
    float low = label[0], high = label[0];
    for (size_t r = 0; r < rows->n_rows; r++) {
        low = label[r] < low ? label[r] : low;
        high = label[r] > high ? label[r] : high;
    }
    if (low == high)
        return fail(err, OM_EARG, "logistic: every label is %g", (double)low);
    for (size_t r = 0; r < rows->n_rows; r++) {
        if (label[r] != low && label[r] != high)
            return fail(err, OM_EARG,
                        "logistic: row %zu has label %g, a third one beside %g "
                        "and %g; use the softmax model for more classes",
                        r + 1, (double)label[r], (double)low, (double)high);
        out[r] = label[r] == high ? 1.0f : -1.0f;
    }
    return OM_OK;
}
