/* fedadagrad.c - FedAdagrad: the server's second moment is
 *     v = v + D^2
 * The rest is fedopt.c. */
#include "fl/average.h"
#include "fl/fedopt.h"

static const param params[] = {FEDOPT_PARAMS(0.0, 0.99), {NULL, 0, 0, 0, NULL, NULL}};

static float rule(float v, float d2, float b2)
{
    (void)b2;
    return v + d2;
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    (void)scratch;
    return fedopt_close(e, server, rule, err);
}

const fl_algo fl_fedadagrad = {
    .name = "fedadagrad",
    .summary = "local training, then an adaptive server step (sum of D^2)",
    .source = "Reddi et al., ICLR 2021, arXiv 2003.00295",
    .flags = FL_CLIENT_STATE | FL_ROBUST | FL_PRIVATE,
    .params = params,
    .check = local_check,
    .server_bytes = fedopt_server_bytes,
    .client_bytes = local_client_bytes,
    .scratch_bytes = local_scratch_bytes,
    .up_bound = local_up_bound,
    .down_bound = average_down_bound,
    .server_open = fedopt_open,
    .server_begin = average_begin,
    .client_step = local_plain_step,
    .server_recv = local_recv,
    .server_check = average_check,
    .server_norm = average_norm,
    .server_close = server_close,
    .model = average_model,
};
