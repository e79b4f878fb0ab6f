/* fedprox.c - FedProx: FedAvg whose clients are pulled back to the server's model.
 *
 *     client i minimises f_i(y) + (mu/2) |y - x|^2, so a step is
 *     y_i -= lr (g_i(y_i) + mu (y_i - x));  the rest is fedavg.c, and mu = 0 is fedavg
 *
 * Clients may do different amounts of work. */
#include "fl/average.h"
#include "fl/local.h"

enum { SERVER_LR = LOCAL_PARAMS, SERVER_MOMENTUM, MU };

static const param params[] = {
    FL_LOCAL_PARAMS,
    [SERVER_LR] = {"server_lr", 1, 0, 1e6, "step along the mean update", NULL},
    [SERVER_MOMENTUM] = {"server_momentum", 0, 0, 0.999999, "memory of past updates", NULL},
    [MU] = {"mu", 0.01, 0, 1e6, "pull towards the server's model", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static size_t server_bytes(const fl_env *e)
{
    return average_bytes(e, e->p[SERVER_MOMENTUM] > 0);
}

static om_status client_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                             const uint8_t *down, size_t down_n, buf *up, double *loss,
                             arena scratch, om_err *err)
{
    return local_step(e, id, client, f, e->p[MU], down, down_n, up, loss, scratch, err);
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    (void)scratch;
    return average_step(e, server, e->p[SERVER_LR], e->p[SERVER_MOMENTUM], err);
}

const fl_algo fl_fedprox = {
    .name = "fedprox",
    .summary = "FedAvg with a pull towards the server's model",
    .source = "Li et al., MLSys 2020, arXiv 1812.06127",
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
    .client_step = client_step,
    .server_recv = local_recv,
    .server_check = average_check,
    .server_norm = average_norm,
    .server_close = server_close,
    .model = average_model,
};
