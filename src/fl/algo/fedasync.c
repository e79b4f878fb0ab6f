/* fedasync.c - FedAsync: every model that arrives is mixed into the server's at once.
 *
 *     client i, whenever it is free: x_i = local training from the newest x, drawn back
 *     towards it by mu;  sends x_i, or with mixing=update C(x_i - x)
 *     server, an arrival of age tau:   a = mix s(tau)
 *             mixing=model:   x = (1 - a) x + a x_i
 *             mixing=update:  x = x + a (x_i - x_start)
 *
 * s as in fl/stale.h.  A mixed model pulls x back to where the client started, an update
 * does not; at age 0 they are the same.  A codec can only stand between in the second form,
 * for a model is no small vector.  Every arrival is a version. */
#include "codec/wire.h"
#include "fl/average.h"
#include "fl/local.h"
#include "fl/stale.h"

enum { MIX = LOCAL_PARAMS, MIXING, MU, STALE };
enum { MIX_MODEL, MIX_UPDATE };

static const param params[] = {
    FL_LOCAL_PARAMS_WEIGHING(1),
    [MIX] = {"mix", 0.6, 0, 1, "part of an arriving model in the new one", NULL},
    [MIXING] = {"mixing", MIX_MODEL, 0, 1, "what clients send", "model|update"},
    [MU] = {"mu", 0.005, 0, 1e6, "pull of a local step towards the server's model", NULL},
    FL_STALE_PARAMS(STALE),
    {NULL, 0, 0, 0, NULL, NULL},
};

static bool whole(const double *p) { return (int)p[MIXING] == MIX_MODEL; }

static om_status check(const fl_recipe *r, om_err *err)
{
    if (whole(r->p) && strcmp(r->up->name, "identity") != 0)
        return fail(err, OM_EARG,
                    "fedasync: clients send their models whole, which %s would distort; set "
                    "mixing=update or the codec identity",
                    r->up->name);
    return local_check(r, err);
}

static size_t server_bytes(const fl_env *e) { return average_bytes(e, 0); }

/* The difference as every row of the family sends it, moved back to x: exact arithmetic
 * would give x_i, and this gives what the server of mixing=update has at age 0. */
static om_status client_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                             const uint8_t *down, size_t down_n, buf *up, double *loss,
                             arena scratch, om_err *err)
{
    size_t from = up->len;
    TRY(local_step(e, id, client, f, e->p[MU], down, down_n, up, loss, scratch, err));
    for (size_t i = 0; whole(e->p) && i < e->dim; i++) {
        uint8_t *at = up->data + from + 4 * i;
        wire_store_f32(at, wire_load_f32(at) + wire_load_f32(down + 4 * i));
    }
    return OM_OK;
}

static uint32_t oldest(const fl_env *e) { return (uint32_t)e->p[STALE + STALE_BOUND]; }

static om_status take(const fl_env *e, void *server, const fl_arrival *a, arena scratch,
                      om_err *err)
{
    (void)scratch;
    TRY(average_check_head(e, a->id, a->samples, err));
    TRY(e->up->decode(e->up_p, a->up, a->up_n, 1, average_vector(e, server, 1), e->dim,
                      err));
    average_count(server, a->id, 1);
    *average_note(server, 0) = a->age;
    return OM_OK;
}

static bool full(const fl_env *e, const void *server)
{
    (void)e;
    return average_received(server) >= 1;
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    const float *x = average_model(e, server);
    double a =
        e->p[MIX] * stale_weight(e->p + STALE, (uint32_t)*average_note(server, 0));
    float *d, part = (float)a;
    (void)scratch;
    TRY(average_mean(e, server, &d, err));
    for (size_t i = 0; d && i < e->dim; i++)
        d[i] = whole(e->p) ? x[i] + part * (d[i] - x[i]) : x[i] + part * d[i];
    return d ? average_accept(e, server, d, err) : OM_OK;
}

static const fl_async async = {
    .oldest = oldest, .work = local_work, .take = take, .full = full};

const fl_algo fl_fedasync = {
    .name = "fedasync",
    .summary = "every arriving model is mixed in at once",
    .source = "Xie, Koyejo, Gupta 2019, arXiv 1903.03934",
    .flags = FL_CLIENT_STATE,
    .params = params,
    .async = &async,
    .check = check,
    .server_bytes = server_bytes,
    .client_bytes = local_client_bytes,
    .scratch_bytes = local_scratch_bytes,
    .up_bound = local_up_bound,
    .down_bound = average_down_bound,
    .server_open = average_open,
    .server_begin = average_begin,
    .client_step = client_step,
    .server_recv = local_recv,
    .server_check = average_check,
    .server_close = server_close,
    .model = average_model,
};
