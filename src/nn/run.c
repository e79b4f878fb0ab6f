/* run.c - opening a context, running a function dry and then for real, and the small
 * calls of which ops are made.  The contract is at the head of nn.h. */
#include "nn/plan.h"

#include <stdio.h>

om_status nn_open(const nn_config *cfg, nn **out, om_err *err)
{
    *out = NULL;
    nn *c = mem_alloc(sizeof(*c));
    nn_plan *p = mem_alloc(sizeof(*p));
    if (!c || !p) {
        mem_free(c);
        mem_free(p);
        return fail(err, OM_ENOMEM, "nn: no memory for a context");
    }
    p->max_bytes = cfg->max_bytes;
    p->no_reuse = cfg->no_reuse;
    *c = (nn){.k = cfg->k, .pool = cfg->pool, .plan = p};
    *out = c;
    return OM_OK;
}

void nn_close(nn *c)
{
    if (!c)
        return;
    plan_clear(c->plan);
    mem_free(c->plan);
    mem_free(c);
}

/* ---- running ------------------------------------------------------------------------- */

static om_status pass(nn *c, bool dry, bool train, nn_fn *fn, void *ctx, om_err *err)
{
    nn_plan *p = c->plan;
    plan_meta_reset(&p->meta);
    p->tape.top = NULL;
    p->rope.table = NULL;
    p->next = 0;
    c->dry = dry;
    c->train = train;
    c->tape = train ? &p->tape : NULL;
    c->status = OM_OK;
    c->err = (om_err){0};
    om_status s = fn(c, ctx);
    if (c->status == OM_OK && s != OM_OK)
        nn_fail(c, s, "nn: the function to run gave up");
    c->tape = NULL;
    if (c->status != OM_OK && err)
        *err = c->err;
    return c->status;
}

static om_status dry_pass(nn *c, bool train, nn_fn *fn, void *ctx, om_err *err)
{
    plan_start_dry(c->plan);
    return pass(c, true, train, fn, ctx, err);
}

om_status nn_run(nn *c, uint64_t shape_key, bool train, nn_fn *fn, void *ctx, om_err *err)
{
    nn_plan *p = c->plan;
    unsigned mode =
        (unsigned)train | (unsigned)c->exact << 1 | (unsigned)c->quant_train << 2;
    plan_entry *e = plan_find(p, shape_key, mode);
    if (!e) {
        TRY(dry_pass(c, train, fn, ctx, err));
        TRY(plan_keep(p, shape_key, mode, &e, err));
    }
    e->used = ++p->stamp;
    p->now = e;
    if (p->no_reuse) /* what an op forgot to write must show */
        memset(p->block, 0xff, e->total);
    return pass(c, false, train, fn, ctx, err);
}

om_status nn_measure(nn *c, bool train, nn_fn *fn, void *ctx, size_t *bytes, om_err *err)
{
    nn_plan *p = c->plan;
    *bytes = 0;
    TRY(dry_pass(c, train, fn, ctx, err));
    uint32_t *scratch = mem_array((size_t)p->n_buf * 2 + 1, sizeof(*scratch));
    if (!scratch)
        return fail(err, OM_ENOMEM, "nn: no memory to plan %u buffers", p->n_buf);
    *bytes = plan_pack(p->buf, p->n_buf, p->no_reuse, scratch);
    mem_free(scratch);
    return OM_OK;
}

om_status nn_fail(nn *c, om_status s, const char *fmt, ...)
{
    if (c->status != OM_OK)
        return c->status;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->err.msg, sizeof(c->err.msg), fmt, ap);
    va_end(ap);
    c->err.code = s;
    c->status = s;
    return s;
}

/* ---- for ops ---------------------------------------------------------------------------
 */

nn_tensor *nn_new(nn *c, uint32_t rows, uint32_t cols)
{
    size_t n, bytes;
    void *data;
    c->plan->dummy = (nn_tensor){.rows = rows, .cols = cols};
    if (!size_mul(rows, cols, &n) || !size_mul(n, sizeof(float), &bytes) ||
        bytes > SIZE_MAX / 4) {
        nn_fail(c, OM_ELIMIT, "nn: an activation of %u rows and %u columns is too large",
                rows, cols);
        return &c->plan->dummy;
    }
    uint32_t id = plan_alloc(c, bytes, &data);
    nn_tensor *t = id ? plan_meta_alloc(c, sizeof(*t)) : NULL;
    if (!t)
        return &c->plan->dummy;
    *t = (nn_tensor){.rows = rows, .cols = cols, .data = data, .id = id};
    return t;
}

void nn_touch(nn *c, const nn_tensor *t) { plan_touch(c, t->id); }

float *nn_grad(nn *c, nn_tensor *t, bool *fresh)
{
    *fresh = false;
    if (!t->needs_grad)
        return NULL;
    if (!t->grad_id) {
        void *data;
        t->grad_id = plan_alloc(c, (size_t)t->rows * t->cols * sizeof(float), &data);
        t->grad = data;
        *fresh = true;
    }
    plan_touch(c, t->grad_id);
    return c->dry ? &c->plan->nothing : t->grad;
}

const float *nn_grad_in(nn *c, nn_tensor *t)
{
    if (!t->grad_id)
        return NULL;
    plan_touch(c, t->grad_id);
    return c->dry ? &c->plan->nothing : t->grad;
}

bool nn_grad_take(nn *c, nn_tensor *x, nn_tensor *y)
{
    BUG_IF(x->rows != y->rows || x->cols != y->cols);
    if (!x->needs_grad || x->grad_id)
        return false;
    plan_touch(c, y->grad_id);
    x->grad = y->grad;
    x->grad_id = y->grad_id;
    return true;
}

bool nn_live(nn *c)
{
    if (c->dry)
        c->plan->tick++;
    if (is_cancelled(c->cancel))
        nn_fail(c, OM_ECANCEL, "nn: cancelled");
    return !c->dry && c->status == OM_OK;
}

void *nn_scratch(nn *c, size_t n)
{
    void *data;
    plan_alloc(c, n, &data);
    return data;
}
