/* meter.c - see meter.h.  A pass over a client's data counts as its samples whatever it
 * computes: values, products with the Hessian and Hessians too. */
#include "sim/meter.h"

static double all(const meter *m) { return (double)m->f.n_samples; }

/* Minibatch number c of size b is places [c b, min(n, (c + 1) b)). */
static double some(const meter *m, uint32_t batch, uint64_t c)
{
    double n = all(m), from = (double)c * batch;
    return from < n && n - from < batch ? n - from : batch;
}

static om_status grad(void *ctx, const float *x, float *g, double *loss, om_err *err)
{
    meter *m = ctx;
    m->samples += all(m);
    return m->f.grad(m->f.ctx, x, g, loss, err);
}

static om_status sgrad(void *ctx, const float *x, uint32_t batch, rng r, float *g,
                       double *loss, om_err *err)
{
    meter *m = ctx;
    m->samples += some(m, batch, r.ctr);
    return m->f.sgrad(m->f.ctx, x, batch, r, g, loss, err);
}

static om_status sgd(void *ctx, float *y, uint32_t batch, rng r, double lr, double *loss,
                     om_err *err)
{
    meter *m = ctx;
    m->samples += some(m, batch, r.ctr);
    return m->f.sgd(m->f.ctx, y, batch, r, lr, loss, err);
}

static om_status attempt(void *ctx, const float *x, uint32_t batch, rng r, double patience,
                         float *g, bool *done, double *loss, om_err *err)
{
    meter *m = ctx;
    bool full = batch < 1 || !m->f.sgrad || batch >= m->f.n_samples;
    double seconds = pace_work(m->pace, m->client, m->draw, ++m->trials,
                               full ? all(m) : batch, m->now);
    *done = seconds <= patience;
    m->spent += *done ? seconds : patience;
    if (!*done)
        return OM_OK;
    return full ? m->f.grad(m->f.ctx, x, g, loss, err)
                : m->f.sgrad(m->f.ctx, x, batch, r, g, loss, err);
}

static om_status value(void *ctx, const float *x, double *loss, om_err *err)
{
    meter *m = ctx;
    m->samples += all(m);
    return m->f.value(m->f.ctx, x, loss, err);
}

static om_status hvp(void *ctx, const float *x, const float *v, float *hv, om_err *err)
{
    meter *m = ctx;
    m->samples += all(m);
    return m->f.hvp(m->f.ctx, x, v, hv, err);
}

static om_status hess(void *ctx, const float *x, float *h, om_err *err)
{
    meter *m = ctx;
    m->samples += all(m);
    return m->f.hess(m->f.ctx, x, h, err);
}

static om_status jet(void *ctx, const double *x, double *loss, double *g, float *h,
                     om_err *err)
{
    meter *m = ctx;
    m->samples += all(m);
    return m->f.jet(m->f.ctx, x, loss, g, h, err);
}

static om_status rows(void *ctx, const float *x, uint32_t batch, rng r, const fl_rows *out,
                      uint32_t *n, om_err *err)
{
    meter *m = ctx;
    m->samples += some(m, batch, r.ctr);
    return m->f.rows(m->f.ctx, x, batch, r, out, n, err);
}

static om_status pull(void *ctx, const float *x, uint32_t batch, rng r, const float *dscore,
                      const float *dloss, float *g, om_err *err)
{
    meter *m = ctx;
    m->samples += some(m, batch, r.ctr);
    return m->f.pull(m->f.ctx, x, batch, r, dscore, dloss, g, err);
}

static uint64_t positives(void *ctx) /* labels alone: no time */
{
    const meter *m = ctx;
    return m->f.positives(m->f.ctx);
}

void meter_begin(meter *m, const fl_oracle *f, fl_oracle *out)
{
    m->f = *f;
    m->samples = m->spent = 0;
    m->trials = 0;
    *out = *f;
    out->ctx = m;
    out->grad = grad;
    out->sgrad = f->sgrad ? sgrad : NULL;
    out->sgd = f->sgd ? sgd : NULL;
    out->attempt = attempt;
    out->value = f->value ? value : NULL;
    out->hvp = f->hvp ? hvp : NULL;
    out->hess = f->hess ? hess : NULL;
    out->jet = f->jet ? jet : NULL;
    out->rows = f->rows ? rows : NULL;
    out->pull = f->pull ? pull : NULL;
    out->positives = f->positives ? positives : NULL;
}

double meter_seconds(const meter *m)
{
    return m->spent + pace_work(m->pace, m->client, m->draw, 0, m->samples, m->now);
}
