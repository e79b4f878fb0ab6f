/* fedavg.c - FedAvg: clients train on their own data, the server takes the weighted mean.
 *
 *     client i: y_i = x; several steps y_i -= lr g_i(y_i);  sends D_i = y_i - x
 *     server:   D = sum m_i D_i / sum m_i;  m = server_momentum m + D;  x += server_lr m
 *
 * With one full-gradient step, everybody taking part and server_lr 1 this is gradient
 * descent.  With more steps on unlike data it stops beside the optimum, nearer for a
 * smaller lr: that is the method, not a bug.  d floats down, C(D_i) up.  Server state:
 * x, the running sum, and m if there is momentum.  fedavgm is the same with server_momentum
 * 0.9 where fedavg has 0. */
#include "fl/average.h"
#include "fl/local.h"

enum { SERVER_LR = LOCAL_PARAMS, SERVER_MOMENTUM };

#define FEDAVG_PARAMS(momentum)                                                           \
    {                                                                                     \
        FL_LOCAL_PARAMS,                                                                  \
        [SERVER_LR] = {"server_lr", 1, 0, 1e6, "step along the mean update", NULL},       \
        [SERVER_MOMENTUM] = {"server_momentum", momentum, 0, 0.999999,                    \
                             "memory of past updates", NULL},                             \
        {NULL, 0, 0, 0, NULL, NULL},                                                      \
    }

static const param params[] = FEDAVG_PARAMS(0);
static const param params_m[] = FEDAVG_PARAMS(0.9);

static size_t server_bytes(const fl_env *e)
{
    return average_bytes(e, e->p[SERVER_MOMENTUM] > 0);
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    (void)scratch;
    return average_step(e, server, e->p[SERVER_LR], e->p[SERVER_MOMENTUM], err);
}

const fl_algo fl_fedavg = {
    .name = "fedavg",
    .summary = "local training, then the weighted mean",
    .source = "McMahan et al., AISTATS 2017, arXiv 1602.05629",
    .flags = FL_CLIENT_STATE | FL_ROBUST | FL_PRIVATE,
    .params = params,
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

const fl_algo fl_fedavgm = {
    .name = "fedavgm",
    .summary = "FedAvg with momentum at the server",
    .source = "Hsu, Qi, Brown 2019, arXiv 1909.06335",
    .flags = FL_CLIENT_STATE | FL_ROBUST | FL_PRIVATE,
    .params = params_m,
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
    .server_close = server_close,
    .model = average_model,
};
