/* multinomial.c - see multinomial.h.  Sums over rows are in row order. */
#include "fl/oracle/multinomial.h"
#include "fl/linalg.h"

#include <math.h>

static size_t features(const multinomial_task *t)
{
    return t->rows->n_cols + (size_t)t->intercept;
}

size_t multinomial_dim(const multinomial_task *t) { return features(t) * t->n_classes; }

/* score (n_classes) = a_r'x_k */
static void scores(const multinomial_task *t, const data_sparse *d, size_t r,
                   const float *x, double *score)
{
    size_t w = features(t);
    for (uint32_t k = 0; k < t->n_classes; k++, x += w) {
        score[k] = t->intercept ? (double)x[w - 1] : 0;
        for (size_t e = d->row[r]; e < d->row[r + 1]; e++)
            if (d->col[e] < t->rows->n_cols)
                score[k] += (double)d->value[e] * (double)x[d->col[e]];
    }
}

/* Scores to probabilities; returns the logarithm of the sum of their exponentials. */
static double softmax(double *score, uint32_t n)
{
    double most = score[0], sum = 0;
    for (uint32_t k = 1; k < n; k++)
        most = fmax(most, score[k]);
    for (uint32_t k = 0; k < n; k++)
        sum += score[k] = exp(score[k] - most);
    for (uint32_t k = 0; k < n; k++)
        score[k] /= sum;
    return most + log(sum);
}

/* g_k += scale[k] a_r for every class. */
static void add_row(const multinomial_task *t, size_t r, const double *scale, float *g)
{
    const data_sparse *d = t->rows;
    size_t w = features(t);
    for (uint32_t k = 0; k < t->n_classes; k++, g += w) {
        for (size_t e = d->row[r]; e < d->row[r + 1]; e++)
            g[d->col[e]] += (float)(scale[k] * (double)d->value[e]);
        if (t->intercept)
            g[w - 1] += (float)scale[k];
    }
}

/* One row's part of the mean; returns its loss. */
static double one(const multinomial_task *t, size_t r, double weight, const float *x,
                  float *g)
{
    double p[MULTINOMIAL_MOST_CLASSES], own;
    scores(t, t->rows, r, x, p);
    own = p[t->label[r]];
    double loss = softmax(p, t->n_classes) - own;
    p[t->label[r]] -= 1;
    for (uint32_t k = 0; k < t->n_classes; k++)
        p[k] *= weight;
    if (g)
        add_row(t, r, p, g);
    return weight * loss;
}

/* g = l2 x; returns (l2/2) |x|^2. */
static double start(const multinomial_task *t, const float *x, float *g)
{
    double s = 0;
    float l2 = (float)t->l2;
    for (size_t i = 0; i < multinomial_dim(t); i++) {
        s += (double)x[i] * (double)x[i];
        if (g)
            g[i] = l2 * x[i];
    }
    return 0.5 * t->l2 * s;
}

static om_status grad(void *ctx, const float *x, float *g, double *loss, om_err *err)
{
    const multinomial *self = ctx;
    double sum = start(self->task, x, g);
    (void)err;
    for (size_t j = 0; j < self->n; j++)
        sum += one(self->task, self->index[j], 1.0 / (double)self->n, x, g);
    if (loss)
        *loss = sum;
    return OM_OK;
}

static om_status sgrad(void *ctx, const float *x, uint32_t batch, rng r, float *g,
                       double *loss, om_err *err)
{
    const multinomial *self = ctx;
    size_t from = size_min((size_t)r.ctr * batch, self->n);
    size_t n = size_min(batch, self->n - from);
    double sum = start(self->task, x, g);
    (void)err;
    for (size_t j = 0; j < n; j++)
        sum += one(self->task, self->index[fl_pick(r.key, self->n, from + j)],
                   1.0 / (double)n, x, g);
    if (loss)
        *loss = sum;
    return OM_OK;
}

static om_status value(void *ctx, const float *x, double *loss, om_err *err)
{
    const multinomial *self = ctx;
    (void)err;
    *loss = start(self->task, x, NULL);
    for (size_t j = 0; j < self->n; j++)
        *loss += one(self->task, self->index[j], 1.0 / (double)self->n, x, NULL);
    return OM_OK;
}

/* Of one row: sum over classes of p_k (a'v_k - mean) a, with the mean under p. */
static om_status hvp(void *ctx, const float *x, const float *v, float *hv, om_err *err)
{
    const multinomial *self = ctx;
    const multinomial_task *t = self->task;
    double p[MULTINOMIAL_MOST_CLASSES], along[MULTINOMIAL_MOST_CLASSES];
    (void)err;
    start(t, v, hv);
    for (size_t j = 0; j < self->n; j++) {
        double mean = 0;
        scores(t, t->rows, self->index[j], x, p);
        softmax(p, t->n_classes);
        scores(t, t->rows, self->index[j], v, along);
        for (uint32_t k = 0; k < t->n_classes; k++)
            mean += p[k] * along[k];
        for (uint32_t k = 0; k < t->n_classes; k++)
            along[k] = p[k] * (along[k] - mean) / (double)self->n;
        add_row(t, self->index[j], along, hv);
    }
    return OM_OK;
}

static om_status hess(void *ctx, const float *x, float *h, om_err *err)
{
    const multinomial *self = ctx;
    return fl_hess_by_hvp(ctx, hvp, multinomial_dim(self->task), x, h, err);
}

/* Packed h += weight a_r a_r' (x) (diag p - p p'). */
static void add_packed(const multinomial_task *t, size_t r, const double *p, double weight,
                       float *h)
{
    const data_sparse *d = t->rows;
    size_t w = features(t), n = multinomial_dim(t), from = d->row[r];
    size_t count = d->row[r + 1] - from + t->intercept;
    for (uint32_t k = 0; k < t->n_classes; k++)
        for (uint32_t l = k; l < t->n_classes; l++)
            for (size_t i = 0; i < count; i++) {
                bool one_i = from + i == d->row[r + 1];
                size_t ci = one_i ? w - 1 : d->col[from + i];
                double by = weight * p[k] * ((k == l) - p[l]);
                float v = (float)(by * (one_i ? 1 : (double)d->value[from + i]));
                float *row = h + tri_row(n, k * w + ci) + l * w;
                for (size_t j = k == l ? i : 0; j < count; j++) {
                    bool one_j = from + j == d->row[r + 1];
                    row[one_j ? w - 1 : d->col[from + j]] +=
                        v * (one_j ? 1 : d->value[from + j]);
                }
            }
}

static om_status jet(void *ctx, const double *x, double *loss, double *g, float *h,
                     om_err *err)
{
    const multinomial *self = ctx;
    const multinomial_task *t = self->task;
    const data_sparse *d = t->rows;
    size_t w = features(t), n = multinomial_dim(t);
    double p[MULTINOMIAL_MOST_CLASSES], weight = 1.0 / (double)self->n, sum = 0;
    (void)err;
    for (size_t i = 0; i < n; i++) {
        sum += 0.5 * t->l2 * x[i] * x[i];
        if (g)
            g[i] = t->l2 * x[i];
    }
    if (h)
        memset(h, 0, tri_size(n) * sizeof(float));
    for (size_t j = 0; j < self->n; j++) {
        size_t r = self->index[j];
        for (uint32_t k = 0; k < t->n_classes; k++) {
            p[k] = t->intercept ? x[k * w + w - 1] : 0;
            for (size_t e = d->row[r]; e < d->row[r + 1]; e++)
                p[k] += (double)d->value[e] * x[k * w + d->col[e]];
        }
        double own = p[t->label[r]];
        sum += weight * (softmax(p, t->n_classes) - own);
        if (h)
            add_packed(t, r, p, weight, h);
        for (uint32_t k = 0; g && k < t->n_classes; k++) {
            double by = weight * (p[k] - (k == t->label[r]));
            for (size_t e = d->row[r]; e < d->row[r + 1]; e++)
                g[k * w + d->col[e]] += by * (double)d->value[e];
            if (t->intercept)
                g[k * w + w - 1] += by;
        }
    }
    for (size_t i = 0; h && i < n; i++)
        h[tri_row(n, i) + i] += (float)t->l2;
    *loss = sum;
    return OM_OK;
}

void multinomial_oracle(const multinomial_task *t, uint32_t client, multinomial *self,
                        fl_oracle *out)
{
    const partition *p = t->split;
    BUG_IF(client >= p->n_clients || t->n_classes > MULTINOMIAL_MOST_CLASSES);
    *self = (multinomial){t, p->index + p->first[client],
                          p->first[client + 1] - p->first[client]};
    *out = (fl_oracle){
        .dim = multinomial_dim(t),
        .n_samples = self->n,
        .ctx = self,
        .grad = grad,
        .sgrad = sgrad,
        .value = value,
        .hvp = hvp,
        .hess = hess,
        .jet = jet,
    };
}

void multinomial_eval(const multinomial_task *t, const data_sparse *rows,
                      const uint32_t *label, size_t n, const float *x, double *loss,
                      double *accuracy)
{
    double score[MULTINOMIAL_MOST_CLASSES], sum = 0;
    size_t right = 0;
    for (size_t r = 0; r < n; r++) {
        scores(t, rows, r, x, score);
        double own = score[label[r]];
        bool best = true;
        for (uint32_t k = 0; k < t->n_classes; k++)
            best &= k == label[r] || score[k] < own;
        right += best;
        sum += softmax(score, t->n_classes) - own;
    }
    *loss = sum / (double)n;
    *accuracy = (double)right / (double)n;
}
