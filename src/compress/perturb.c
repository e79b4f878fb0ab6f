/* perturb.c - see perturb.h. */
#include "compress/perturb.h"

#include <math.h>

enum { FOLDS = 5 };

typedef struct {
    const double *gram, *zp, *y; /* Z Z^T; Z prior; losses */
    uint32_t n;
    double *a, *alpha; /* room: (n, n), (n) */
    uint32_t *in;      /* (n) */
} fit;

double perturb_tau(const double *x, const double *y, uint32_t n)
{
    double s = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < i; j++) {
            double p = (x[i] - x[j]) * (y[i] - y[j]);
            s += p > 0 ? 1 : p < 0 ? -1 : 0;
        }
    return n > 1 ? s / (0.5 * n * (n - 1.0)) : 0;
}

/* a (n, n) x = b in place, a symmetric and positive definite. */
static void solve(double *a, uint32_t n, double *b)
{
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j <= i; j++) {
            double s = a[i * n + j];
            for (uint32_t l = 0; l < j; l++)
                s -= a[i * n + l] * a[j * n + l];
            a[i * n + j] = i == j ? sqrt(s > 1e-300 ? s : 1e-300) : s / a[j * n + j];
        }
        for (uint32_t l = 0; l < i; l++)
            b[i] -= a[i * n + l] * b[l];
        b[i] /= a[i * n + i];
    }
    for (uint32_t i = n; i-- > 0;) {
        for (uint32_t l = i + 1; l < n; l++)
            b[i] -= a[l * n + i] * b[l];
        b[i] /= a[i * n + i];
    }
}

typedef struct {
    double mean, scale; /* b, less what centering takes; a */
} line;

/* On masks outside `fold` (FOLDS: on all): the line of the prior, and alpha of f->in; mu
 * negative: delta = 0. */
static line train(fit *f, uint32_t fold, double mu, uint32_t *n_in)
{
    uint32_t m = 0;
    double zbar = 0, ybar = 0, zy = 0, zz = 1e-30;
    for (uint32_t i = 0; i < f->n; i++)
        if (i / 2 % FOLDS != fold) /* a mask and its complement share a fold */
            f->in[m++] = i;
    for (uint32_t i = 0; i < m; i++) {
        zbar += f->zp[f->in[i]] / m;
        ybar += f->y[f->in[i]] / m;
    }
    for (uint32_t i = 0; i < m; i++) {
        double z = f->zp[f->in[i]] - zbar;
        zy += z * (f->y[f->in[i]] - ybar);
        zz += z * z;
    }
    line l = {.scale = fmax(zy / zz, 0)};
    l.mean = ybar - l.scale * zbar;
    for (uint32_t i = 0; i < m; i++)
        f->alpha[i] = mu < 0 ? 0 : f->y[f->in[i]] - l.mean - l.scale * f->zp[f->in[i]];
    for (uint32_t i = 0; mu >= 0 && i < m; i++)
        for (uint32_t j = 0; j <= i; j++)
            f->a[i * m + j] = f->gram[f->in[i] * f->n + f->in[j]] + (i == j ? mu : 0);
    if (mu >= 0)
        solve(f->a, m, f->alpha);
    *n_in = m;
    return l;
}

/* Kendall's tau of held-out predictions. */
static double validate(fit *f, double mu, double *predicted)
{
    for (uint32_t fold = 0; fold < FOLDS; fold++) {
        uint32_t m;
        line l = train(f, fold, mu, &m);
        for (uint32_t k = 0; k < f->n; k++) {
            if (k / 2 % FOLDS != fold)
                continue;
            predicted[k] = l.mean + l.scale * f->zp[k];
            for (uint32_t i = 0; i < m; i++)
                predicted[k] += f->alpha[i] * f->gram[k * f->n + f->in[i]];
        }
    }
    return perturb_tau(predicted, f->y, f->n);
}

static void products(const int8_t *z, uint32_t n_masks, uint32_t n_units,
                     const float *prior, double *gram, double *zp)
{
    for (uint32_t i = 0; i < n_masks; i++) {
        const int8_t *x = z + (size_t)i * n_units;
        zp[i] = 0;
        for (uint32_t u = 0; u < n_units; u++)
            zp[i] += (double)x[u] * (double)prior[u];
        for (uint32_t j = 0; j <= i; j++) {
            const int8_t *o = z + (size_t)j * n_units;
            int64_t s = 0;
            for (uint32_t u = 0; u < n_units; u++)
                s += x[u] * o[u];
            gram[i * n_masks + j] = gram[j * n_masks + i] = (double)s;
        }
    }
}

om_status perturb_fit(const int8_t *z, const double *y, uint32_t n_masks, uint32_t n_units,
                      const float *prior, float *beta, om_err *err)
{
    static const double mus[] = {-1, 0.01, 0.1, 1, 10, 100}; /* times n_units */
    size_t n = n_masks;
    double *room = mem_array(2 * n * n + 3 * n, sizeof(double));
    fit f = {.y = y, .n = n_masks, .in = mem_array(n, sizeof(uint32_t))};
    if (!room || !f.in) {
        mem_free(room);
        mem_free(f.in);
        return fail(err, OM_ENOMEM, "prune: no memory for %u masks", n_masks);
    }
    double *gram = room, *zp = room + 2 * n * n, *predicted = zp + 2 * n;
    double best = -2, chosen = -1;
    products(z, n_masks, n_units, prior, gram, zp);
    f.gram = gram;
    f.zp = zp;
    f.a = room + n * n;
    f.alpha = zp + n;
    for (size_t i = 0; i < countof(mus); i++) {
        double mu = mus[i] < 0 ? -1 : mus[i] * n_units, tau = validate(&f, mu, predicted);
        if (tau > best) {
            best = tau;
            chosen = mu;
        }
    }
    uint32_t m;
    line l = train(&f, FOLDS, chosen, &m);
    for (uint32_t u = 0; u < n_units; u++) {
        double b = l.scale * (double)prior[u];
        for (uint32_t k = 0; k < m; k++)
            b += f.alpha[k] * z[(size_t)f.in[k] * n_units + u];
        beta[u] = (float)b;
    }
    if (l.scale <= 0 && chosen < 0) /* nothing was learned: the prior as it is */
        memcpy(beta, prior, n_units * sizeof(*beta));
    mem_free(room);
    mem_free(f.in);
    return OM_OK;
}
