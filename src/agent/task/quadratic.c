/* quadratic.c - a synthetic problem with a known optimum: every device makes its own
 * part from the seed, no data needed.  For trying out a deployment, and for tests. */
#include "agent/task.h"
#include "fl/oracle/quadratic.h"

typedef struct {
    quadratic *q;
    uint32_t client;
} state;

static om_status read_spec(const task_env *e, quadratic_config *c, om_err *err)
{
    uint64_t dim;
    TRY(task_u64(e, "dim", 100, UINT64_C(1) << 32, &dim, err));
    *c = (quadratic_config){.dim = (size_t)dim,
                            .n_clients = e->n_clients,
                            .uneven = task_bool(e, "uneven", false)};
    if (dim == 0)
        return fail(err, OM_EARG, "task: a quadratic of no dimensions");
    TRY(task_u64(e, "seed", e->seed, UINT64_MAX, &c->seed, err));
    TRY(task_f64(e, "mu", 1, 1e-9, 1e9, &c->mu, err));
    TRY(task_f64(e, "smooth", 10, 1e-9, 1e9, &c->smooth, err));
    TRY(task_f64(e, "heterogeneity", 1, 0, 1e6, &c->heterogeneity, err));
    return task_f64(e, "noise", 0, 0, 1e6, &c->noise, err);
}

static om_status size(const task_env *e, size_t *dim, om_err *err)
{
    quadratic_config c;
    TRY(read_spec(e, &c, err));
    *dim = c.dim;
    return OM_OK;
}

static om_status start(const task_env *e, float *x0, om_err *err)
{
    (void)err;
    memset(x0, 0, e->dim * sizeof(float));
    return OM_OK;
}

static om_status open_task(const task_env *e, void **self, om_err *err)
{
    quadratic_config c;
    TRY(read_spec(e, &c, err));
    if (c.dim != e->dim)
        return fail(err, OM_EFORMAT,
                    "task: a quadratic of %zu dimensions in a model of %zu", c.dim, e->dim);
    state *s = mem_alloc(sizeof(*s));
    if (!s)
        return fail(err, OM_ENOMEM, "task: no memory");
    s->client = e->client;
    om_status st = quadratic_open(&c, &s->q, err);
    if (st != OM_OK) {
        mem_free(s);
        return st;
    }
    *self = s;
    return OM_OK;
}

static void oracle(void *self, fl_oracle *out)
{
    state *s = self;
    quadratic_oracle(s->q, s->client, out);
}

static void close_task(void *self)
{
    state *s = self;
    quadratic_close(s->q);
    mem_free(s);
}

const task_kind task_quadratic = {
    .name = "quadratic",
    .summary = "synthetic quadratics with a known optimum",
    .keys = "dim, mu, smooth, heterogeneity, noise, uneven, seed",
    .size = size,
    .start = start,
    .open = open_task,
    .oracle = oracle,
    .close = close_task,
};
