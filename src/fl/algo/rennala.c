/* rennala.c - Rennala SGD: a minibatch of fresh gradients, from whoever is fast.
 *
 *     client i, whenever it is free: sends C(g_i(x)), x the newest model
 *     server: takes gradients of age 0 alone; after B = buffer_size of them
 *             x -= lr (1/B) sum g
 *
 * Optimal in time for equal data: B = max(1, ceil(sigma^2 / eps)), and lr as for SGD with
 * batches of B.  With constant times t_i and restart=stop a version takes exactly
 * min{t : sum_i floor(t / t_i) >= B}; at equal speeds and B = n it is minibatch SGD. */
#include "fl/grad.h"
#include "fl/stop.h"

enum { BUFFER = GRAD_PARAMS, RESTART };

static const param params[] = {
    FL_GRAD_PARAMS,
    [BUFFER] = {"buffer_size", 10, 1, 1e9, "gradients that close a version", NULL},
    FL_STOP_PARAM(RESTART, 1),
    {NULL, 0, 0, 0, NULL, NULL},
};

static size_t server_bytes(const fl_env *e) { return average_bytes(e, 0); }

static size_t client_bytes(const fl_env *e) { return client_bytes_of(e, 0); }

GRAD_CLIENT(client_step, grad_send_one)

static uint32_t oldest(const fl_env *e)
{
    (void)e;
    return 0;
}

static bool stops(const fl_env *e) { return e->p[RESTART] > 0.5; }

static om_status take(const fl_env *e, void *server, const fl_arrival *a, arena scratch,
                      om_err *err)
{
    (void)scratch;
    return grad_take(e, server, a, 1, err);
}

static bool full(const fl_env *e, const void *server)
{
    return (double)average_received(server) >= e->p[BUFFER];
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    float *g;
    TRY(average_mean(e, server, &g, err));
    return g ? grad_move(e, server, g, e->p[GRAD_LR], scratch, err) : OM_OK;
}

static const fl_async async = {
    .oldest = oldest, .stops = stops, .work = grad_work, .take = take, .full = full};

const fl_algo fl_rennala = {
    .name = "rennala",
    .summary = "a minibatch of fresh gradients from whoever is fast",
    .source = "Tyurin, Richtarik, NeurIPS 2023, arXiv 2305.12387",
    .flags = FL_CLIENT_STATE | FL_NEEDS_UNBIASED,
    .params = params,
    .async = &async,
    .server_bytes = server_bytes,
    .client_bytes = client_bytes,
    .scratch_bytes = grad_scratch_bytes,
    .up_bound = up_bound_of,
    .down_bound = average_down_bound,
    .server_open = average_open,
    .server_begin = average_begin,
    .client_step = client_step,
    .server_recv = grad_recv,
    .server_check = grad_check,
    .server_close = server_close,
    .model = average_model,
};
