/* fedbuff.c - FedBuff: nobody waits; the server moves once a buffer of updates has come.
 *
 *     client i, whenever it is free: D_i = local training from the newest x, sends C(D_i)
 *     server: after buffer_size arrivals of age tau_i:
 *             D = sum m_i s(tau_i) D_i / sum m_i;   m = server_momentum m + D;
 *             x += server_lr m
 *
 * m_i is 1, or with weights=samples the client's samples; s as in fl/stale.h.  Updates that
 * are more than staleness_bound versions old are refused.  One version a buffer, exactly.
 * A buffer of the whole federation at equal speeds is fedavg, bit for bit; a buffer of 1
 * without staleness weight is asynchronous SGD.  Server state: x and one sum. */
#include "fl/average.h"
#include "fl/local.h"
#include "fl/stale.h"

enum { SERVER_LR = LOCAL_PARAMS, SERVER_MOMENTUM, BUFFER, STALE };

static const param params[] = {
    FL_LOCAL_PARAMS_WEIGHING(1),
    [SERVER_LR] = {"server_lr", 1, 0, 1e6, "step along the mean update", NULL},
    [SERVER_MOMENTUM] = {"server_momentum", 0, 0, 0.999999, "memory of past updates", NULL},
    [BUFFER] = {"buffer_size", 10, 1, 1e9, "updates that close a version", NULL},
    FL_STALE_PARAMS(STALE),
    {NULL, 0, 0, 0, NULL, NULL},
};

static size_t server_bytes(const fl_env *e)
{
    return average_bytes(e, e->p[SERVER_MOMENTUM] > 0);
}

static uint32_t oldest(const fl_env *e) { return (uint32_t)e->p[STALE + STALE_BOUND]; }

static om_status take(const fl_env *e, void *server, const fl_arrival *a, arena scratch,
                      om_err *err)
{
    double weight = e->p[LOCAL_WEIGHTS] < 0.5 ? (double)a->samples : 1;
    (void)scratch;
    TRY(average_check_head(e, a->id, a->samples, err));
    TRY(e->up->decode(e->up_p, a->up, a->up_n,
                      (float)(weight * stale_weight(e->p + STALE, a->age)),
                      average_vector(e, server, 1), e->dim, err));
    average_count(server, a->id, weight);
    return OM_OK;
}

static bool full(const fl_env *e, const void *server)
{
    return (double)average_received(server) >= e->p[BUFFER];
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    (void)scratch;
    return average_step(e, server, e->p[SERVER_LR], e->p[SERVER_MOMENTUM], err);
}

static const fl_async async = {
    .oldest = oldest, .work = local_work, .take = take, .full = full};

const fl_algo fl_fedbuff = {
    .name = "fedbuff",
    .summary = "asynchronous FedAvg: a buffer of updates makes a version",
    .source = "Nguyen et al., AISTATS 2022, arXiv 2106.06639",
    .flags = FL_CLIENT_STATE,
    .params = params,
    .async = &async,
    .check = local_check,
    .server_bytes = server_bytes,
    .client_bytes = local_client_bytes,
    .scratch_bytes = local_scratch_bytes,
    .up_bound = local_up_bound,
    .down_bound = average_down_bound,
    .server_open = average_open,
    .server_begin = average_begin,
    .client_step = local_plain_step,
    .server_recv = local_recv,
    .server_check = average_check,
    .server_norm = average_norm,
    .server_close = server_close,
    .model = average_model,
};
