/* asgd.c - asynchronous SGD: every gradient that arrives moves the model at once.
 *
 *     client i, whenever it is free: sends C(g_i(x)), x the newest model
 *     server, an arrival of age tau:   x -= lr c(tau) g
 *
 *     asgd        adaptive=no     c = 1
 *                 adaptive=scale  c = 1 up to n, then n / tau     n clients at work
 *                 adaptive=drop   c = 1 up to n, older are refused
 *     ringmaster  c = 1, refused when tau > staleness_bound (R - 1 of the paper), with
 *                 restart=stop as soon as that is certain
 *
 * With adaptive the rate does not depend on the longest delay; ringmaster's time is optimal
 * for equal data, R = max(1, ceil(sigma^2 / eps)).  staleness_bound=0 takes fresh gradients
 * alone, a bound never reached makes ringmaster asgd, bit for bit.  On unlike data both
 * favour what fast clients have: malenia does not.  Every gradient taken is a version. */
#include "fl/grad.h"
#include "fl/stop.h"

enum { BOUND = GRAD_PARAMS, RESTART, ADAPTIVE };
enum { ADAPT_NO, ADAPT_SCALE, ADAPT_DROP };
enum { ANY = 1000000000 };

#define ASGD_PARAMS(bound)                                                                 \
    FL_GRAD_PARAMS,                                                                        \
        [BOUND] = {"staleness_bound",                                                      \
                   bound,                                                                  \
                   0,                                                                      \
                   ANY,                                                                    \
                   "versions a gradient may be behind; older are refused",                 \
                   NULL},                                                                  \
        FL_STOP_PARAM(RESTART, 0)

static const param params[] = {
    ASGD_PARAMS(ANY),
    [ADAPTIVE] = {"adaptive", ADAPT_SCALE, 0, 2,
                  "step of a gradient older than there are clients at work",
                  "no|scale|drop"},
    {NULL, 0, 0, 0, NULL, NULL},
};

static const param params_ringmaster[] = {
    ASGD_PARAMS(10),
    {NULL, 0, 0, 0, NULL, NULL},
};

static size_t server_bytes(const fl_env *e) { return average_bytes(e, 0); }

static size_t client_bytes(const fl_env *e) { return client_bytes_of(e, 0); }

GRAD_CLIENT(client_step, grad_send_one)

static uint32_t bound(const fl_env *e) { return (uint32_t)e->p[BOUND]; }

static uint32_t oldest(const fl_env *e)
{
    bool drop = (int)e->p[ADAPTIVE] == ADAPT_DROP && e->cohort < bound(e);
    return drop ? e->cohort : bound(e);
}

static bool stops(const fl_env *e) { return e->p[RESTART] > 0.5; }

static om_status take(const fl_env *e, void *server, const fl_arrival *a, arena scratch,
                      om_err *err)
{
    (void)scratch;
    TRY(grad_take(e, server, a, 1, err));
    *average_note(server, 0) = a->age;
    return OM_OK;
}

static bool full(const fl_env *e, const void *server)
{
    (void)e;
    return average_received(server) >= 1;
}

static om_status move(const fl_env *e, void *server, double scale, arena scratch,
                      om_err *err)
{
    float *g;
    TRY(average_mean(e, server, &g, err));
    return g ? grad_move(e, server, g, scale * e->p[GRAD_LR], scratch, err) : OM_OK;
}

static om_status close_asgd(const fl_env *e, void *server, arena scratch, om_err *err)
{
    double age = (double)*average_note(server, 0), n = e->cohort;
    bool late = (int)e->p[ADAPTIVE] == ADAPT_SCALE && age > n;
    return move(e, server, late ? n / age : 1, scratch, err);
}

static om_status close_ringmaster(const fl_env *e, void *server, arena scratch, om_err *err)
{
    return move(e, server, 1, scratch, err);
}

static const fl_async async = {
    .oldest = oldest, .stops = stops, .work = grad_work, .take = take, .full = full};

static const fl_async async_ringmaster = {
    .oldest = bound, .stops = stops, .work = grad_work, .take = take, .full = full};

const fl_algo fl_asgd = {
    .name = "asgd",
    .summary = "asynchronous SGD, with steps that heed the delay",
    .source = "Mishchenko et al., NeurIPS 2022, arXiv 2206.07638",
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
    .server_close = close_asgd,
    .model = average_model,
};

const fl_algo fl_ringmaster = {
    .name = "ringmaster",
    .summary = "asynchronous SGD that ignores what is too old",
    .source = "Maranjyan, Tyurin, Richtarik, ICML 2025, arXiv 2501.16168",
    .flags = FL_CLIENT_STATE | FL_NEEDS_UNBIASED,
    .params = params_ringmaster,
    .async = &async_ringmaster,
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
    .server_close = close_ringmaster,
    .model = average_model,
};
