/* rows.c - see rows.h. */
#include "fl/rows.h"
#include "codec/wire.h"

om_status rows_check(const fl_recipe *r, om_err *err)
{
    TRY(local_check(r, err));
    if (r->p[LOCAL_BATCH] < 1 || r->p[LOCAL_BATCH] > ROWS_MOST_BATCH)
        return fail(err, OM_EARG,
                    "%s: batch is %g; its objective looks at each example of a minibatch, "
                    "so set 1 to %d",
                    r->algo->name, r->p[LOCAL_BATCH], ROWS_MOST_BATCH);
    return OM_OK;
}

static size_t batch_of(const fl_env *e) { return (size_t)e->p[LOCAL_BATCH]; }

size_t rows_scratch_bytes(const fl_env *e) { return 4 * arena_bytes(float, batch_of(e)); }

static om_status sgrad(void *ctx, const float *x, uint32_t batch, rng r, float *g,
                       double *loss, om_err *err)
{
    rows_task *t = ctx;
    uint32_t n;
    TRY(t->f->rows(t->f->ctx, x, batch, r, &t->at, &n, err));
    float *slope = t->on_scores ? t->dscore : t->dloss;
    memset(slope, 0, batch * sizeof(float));
    *loss = t->slopes(t, n);
    return t->f->pull(t->f->ctx, x, batch, r, t->dscore, t->dloss, g, err);
}

om_status rows_open(rows_task *t, arena *scratch, fl_oracle *out, om_err *err)
{
    const fl_oracle *f = t->f;
    size_t b = batch_of(t->e);
    if (!f->rows || !f->pull || (t->on_scores && !f->positives))
        return fail(err, OM_EARG, "this objective needs %s; choose another algorithm",
                    f->rows ? "examples of two classes" : "labelled examples");
    t->at = (fl_rows){0};
    t->dscore = t->dloss = NULL;
    if (t->on_scores) {
        t->at.score = arena_new(scratch, float, b);
        t->at.sign = arena_new(scratch, float, b);
        t->dscore = arena_new(scratch, float, b);
    } else {
        t->at.loss = arena_new(scratch, float, b);
        t->dloss = arena_new(scratch, float, b);
    }
    *out = (fl_oracle){.dim = f->dim, .n_samples = f->n_samples, .ctx = t, .sgrad = sgrad};
    return OM_OK;
}

/* ---- numbers beside the model ---- */

size_t beside_bytes(const fl_env *e, uint32_t own_vectors)
{
    return average_bytes(e, own_vectors) + size_align(sizeof(beside), 64);
}

beside *beside_of(const fl_env *e, void *server, uint32_t own_vectors)
{
    return (beside *)(void *)((char *)server + average_bytes(e, own_vectors));
}

om_status beside_put(buf *out, const float *v, uint32_t n, om_err *err)
{
    if (buf_reserve(out, 4 * (size_t)n) != OM_OK)
        return fail(err, OM_ENOMEM, "no room for %u numbers", (unsigned)n);
    for (uint32_t i = 0; i < n; i++, out->len += 4)
        wire_store_f32(out->data + out->len, v[i]);
    return OM_OK;
}

om_status beside_read(const uint8_t *in, size_t bytes, uint32_t n, float *v, om_err *err)
{
    if (bytes / 4 < n || !wire_all_finite(in, n))
        return fail(err, OM_EFORMAT,
                    "%zu bytes where %u finite numbers beside the model were due", bytes,
                    (unsigned)n);
    for (uint32_t i = 0; i < n; i++)
        v[i] = wire_load_f32(in + 4 * i);
    return OM_OK;
}

om_status beside_check(const fl_env *e, uint32_t id, uint64_t samples, const uint8_t *up,
                       size_t bytes, uint32_t n, float *zeros, om_err *err)
{
    float v[BESIDE_MOST];
    TRY(average_check_head(e, id, samples, err));
    TRY(beside_read(up, bytes, n, v, err));
    return e->up->decode(e->up_p, up + 4 * n, bytes - 4 * n, 0, zeros, e->dim, err);
}

om_status beside_recv(const fl_env *e, void *server, uint32_t own_vectors, uint32_t n,
                      uint32_t id, uint64_t samples, const uint8_t *up, size_t bytes,
                      om_err *err)
{
    beside *b = beside_of(e, server, own_vectors);
    float v[BESIDE_MOST], *sum = average_vector(e, server, 1);
    float weight = e->p[LOCAL_WEIGHTS] < 0.5 ? (float)samples : 1.0f;
    TRY(average_admit(e, server, id, samples, err));
    TRY(beside_read(up, bytes, n, v, err));
    TRY(e->up->decode(e->up_p, up + 4 * n, bytes - 4 * n, weight, sum, e->dim, err));
    for (uint32_t i = 0; i < n; i++)
        b->sum[i] += (double)weight * (double)v[i];
    average_count(server, id, (double)weight);
    return OM_OK;
}

double beside_mean(const beside *b, const void *server, uint32_t i)
{
    return b->sum[i] / average_weight(server);
}
