/* quadratic.c - see quadratic.h. */
#include "fl/oracle/quadratic.h"
#include "fl/linalg.h"

#include <math.h>

typedef struct {
    const quadratic *q;
    uint64_t samples;
    float *a, *c; /* (dim) */
} member;

struct quadratic {
    quadratic_config conf;
    float *v; /* (dim) */
    member *member;
    void *block;
};

static void draw(quadratic *q, uint32_t i)
{
    const quadratic_config *c = &q->conf;
    member *m = &q->member[i];
    rng shared = rng_for(c->seed, 0, 0, 1), own = rng_for(c->seed, 0, i, 2);
    m->q = q;
    m->samples = c->uneven ? 50 + rng_below(&own, 100) : 100;
    for (size_t j = 0; j < c->dim; j++) {
        double u = rng_unit(&shared), center = rng_normal(&shared);
        double mine = rng_unit(&own), coin = rng_unit(&own), away = rng_normal(&own);
        if (coin < c->heterogeneity)
            u = mine;
        m->a[j] = (float)(c->mu * pow(c->smooth / c->mu, u));
        m->c[j] = (float)(center + c->heterogeneity * away);
    }
}

om_status quadratic_open(const quadratic_config *c, quadratic **out, om_err *err)
{
    size_t d = c->dim, n = c->n_clients, floats;
    double length = 0;
    if (!(c->mu > 0 && c->smooth >= c->mu) || d == 0 || n == 0)
        return fail(err, OM_EARG,
                    "quadratic: mu must be above 0 and at most the smoothness");
    quadratic *q = mem_alloc(sizeof(*q));
    if (!q || !size_mul(2 * n + 1, d, &floats) ||
        !(q->member = mem_array(n, sizeof(member))) ||
        !(q->block = mem_array(floats, sizeof(float)))) {
        quadratic_close(q);
        return fail(err, OM_ENOMEM, "quadratic: no memory for %zu clients of %zu numbers",
                    n, d);
    }
    float *next = q->block;
    q->conf = *c;
    q->v = next;
    rng r = rng_for(c->seed, 0, 0, 3);
    for (size_t j = 0; j < d; j++) {
        q->v[j] = (float)rng_normal(&r);
        length += (double)q->v[j] * (double)q->v[j];
    }
    for (size_t j = 0; j < d; j++)
        q->v[j] /= (float)sqrt(length);
    for (uint32_t i = 0; i < n; i++) {
        q->member[i].a = next += d;
        q->member[i].c = next += d;
        draw(q, i);
    }
    *out = q;
    return OM_OK;
}

void quadratic_close(quadratic *q)
{
    if (!q)
        return;
    mem_free(q->member);
    mem_free(q->block);
    mem_free(q);
}

static double project(const float *v, const float *x, size_t d)
{
    double s = 0;
    for (size_t j = 0; j < d; j++)
        s += (double)v[j] * (double)x[j];
    return 2 * s;
}

static om_status grad(void *ctx, const float *x, float *g, double *loss, om_err *err)
{
    const member *m = ctx;
    const float *v = m->q->v;
    size_t d = m->q->conf.dim;
    double s = project(v, x, d), sum = 0, back = 0;
    (void)err;
    for (size_t j = 0; j < d; j++) {
        double away = (double)x[j] - (double)v[j] * s - (double)m->c[j];
        double r = (double)m->a[j] * away;
        sum += 0.5 * r * away;
        back += 2 * (double)v[j] * r;
        g[j] = (float)r;
    }
    for (size_t j = 0; j < d; j++)
        g[j] -= (float)((double)v[j] * back);
    if (loss)
        *loss = sum;
    return OM_OK;
}

static om_status sgrad(void *ctx, const float *x, uint32_t batch, rng r, float *g,
                       double *loss, om_err *err)
{
    const member *m = ctx;
    double sigma = m->q->conf.noise / sqrt((double)batch);
    rng coin = rng_for(r.key, 0, 0, (uint32_t)r.ctr);
    TRY(grad(ctx, x, g, loss, err));
    for (size_t j = 0; sigma > 0 && j < m->q->conf.dim; j++)
        g[j] += (float)(sigma * rng_normal(&coin));
    return OM_OK;
}

static om_status value(void *ctx, const float *x, double *loss, om_err *err)
{
    const member *m = ctx;
    const float *v = m->q->v;
    double s = project(v, x, m->q->conf.dim), sum = 0;
    (void)err;
    for (size_t j = 0; j < m->q->conf.dim; j++) {
        double away = (double)x[j] - (double)v[j] * s - (double)m->c[j];
        sum += 0.5 * (double)m->a[j] * away * away;
    }
    *loss = sum;
    return OM_OK;
}

static om_status hvp(void *ctx, const float *x, const float *w, float *hw, om_err *err)
{
    const member *m = ctx;
    const float *v = m->q->v;
    size_t d = m->q->conf.dim;
    double s = project(v, w, d), back = 0;
    (void)x, (void)err;
    for (size_t j = 0; j < d; j++) {
        double r = (double)m->a[j] * ((double)w[j] - (double)v[j] * s);
        back += 2 * (double)v[j] * r;
        hw[j] = (float)r;
    }
    for (size_t j = 0; j < d; j++)
        hw[j] -= (float)((double)v[j] * back);
    return OM_OK;
}

static om_status hess(void *ctx, const float *x, float *h, om_err *err)
{
    return fl_hess_by_hvp(ctx, hvp, ((const member *)ctx)->q->conf.dim, x, h, err);
}

/* H = R A R with R = I - 2 v v'. */
static void packed(const member *m, float *h)
{
    const float *v = m->q->v;
    size_t d = m->q->conf.dim;
    double s = 0;
    for (size_t k = 0; k < d; k++)
        s += (double)m->a[k] * (double)v[k] * (double)v[k];
    for (size_t i = 0; i < d; i++)
        for (size_t j = i; j < d; j++) {
            double vv = (double)v[i] * (double)v[j];
            double both = (double)m->a[i] + (double)m->a[j];
            double on = i == j ? (double)m->a[i] : 0;
            h[tri_row(d, i) + j] = (float)(on + 4 * vv * s - 2 * vv * both);
        }
}

static om_status jet(void *ctx, const double *x, double *loss, double *g, float *h,
                     om_err *err)
{
    const member *m = ctx;
    const float *v = m->q->v;
    size_t d = m->q->conf.dim;
    double s = 0, back = 0;
    (void)err;
    *loss = 0;
    for (size_t j = 0; j < d; j++)
        s += 2 * (double)v[j] * x[j];
    for (size_t j = 0; j < d; j++) {
        double away = x[j] - (double)v[j] * s - (double)m->c[j], r = (double)m->a[j] * away;
        *loss += 0.5 * r * away;
        back += 2 * (double)v[j] * r;
        if (g)
            g[j] = r;
    }
    for (size_t j = 0; g && j < d; j++)
        g[j] -= (double)v[j] * back;
    if (h)
        packed(m, h);
    return OM_OK;
}

void quadratic_oracle(quadratic *q, uint32_t client, fl_oracle *out)
{
    BUG_IF(client >= q->conf.n_clients);
    *out = (fl_oracle){
        .dim = q->conf.dim,
        .n_samples = q->member[client].samples,
        .ctx = &q->member[client],
        .grad = grad,
        .sgrad = sgrad,
        .value = value,
        .hvp = hvp,
        .hess = hess,
        .jet = jet,
    };
}

void quadratic_optimum(const quadratic *q, float *x)
{
    size_t d = q->conf.dim;
    for (size_t j = 0; j < d; j++) { /* z*_j = sum m_i a_ij c_ij / sum m_i a_ij */
        double top = 0, bottom = 0;
        for (uint32_t i = 0; i < q->conf.n_clients; i++) {
            const member *m = &q->member[i];
            double w = (double)m->samples * (double)m->a[j];
            top += w * (double)m->c[j];
            bottom += w;
        }
        x[j] = (float)(top / bottom);
    }
    double s = project(q->v, x, d); /* the reflection is its own inverse */
    for (size_t j = 0; j < d; j++)
        x[j] -= (float)((double)q->v[j] * s);
}

double quadratic_mean(const quadratic *q, const float *x, double *g)
{
    size_t d = q->conf.dim;
    double total = 0, samples = 0, s = project(q->v, x, d);
    for (size_t j = 0; g && j < d; j++)
        g[j] = 0;
    for (uint32_t i = 0; i < q->conf.n_clients; i++)
        samples += (double)q->member[i].samples;
    for (uint32_t i = 0; i < q->conf.n_clients; i++) {
        const member *m = &q->member[i];
        double w = (double)m->samples / samples;
        for (size_t j = 0; j < d; j++) {
            double away = (double)x[j] - (double)q->v[j] * s - (double)m->c[j];
            total += w * 0.5 * (double)m->a[j] * away * away;
            if (g)
                g[j] += w * (double)m->a[j] * away;
        }
    }
    double back = 0;
    for (size_t j = 0; g && j < d; j++)
        back += 2 * (double)q->v[j] * g[j];
    for (size_t j = 0; g && j < d; j++)
        g[j] -= (double)q->v[j] * back;
    return total;
}
