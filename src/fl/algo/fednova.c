/* fednova.c - FedNova: FedAvg for clients that make unlike numbers of steps.
 *
 *     client i makes t_i local steps and sends D_i = y_i - x with t_i
 *     server:   x += server_lr (sum_i p_i a_i) sum_i p_i D_i / a_i,    p_i = m_i / sum m
 *     a_i = t_i;  with local momentum r:  (t_i - r (1 - r^t_i) / (1 - r)) / (1 - r)
 *
 * D_i / a_i is a mean gradient, whatever t_i: so the method descends on f itself, where
 * FedAvg leans towards the clients that make more steps.  With equal t_i it is FedAvg. */
#include "codec/wire.h"
#include "fl/grad.h"
#include "fl/local.h"

#include <math.h>

enum { SERVER_LR = LOCAL_PARAMS };
enum { MOMENTUM = 1, ADAMW = 2, MOST_STEPS = 1000000000 };
enum { STEPS_NOTE = 0 }; /* sum of weight a_i, the bits of a double */

static const param params[] = {
    FL_LOCAL_PARAMS,
    [SERVER_LR] = {"server_lr", 1, 0, 1e6, "step along the mean update", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static om_status check(const fl_recipe *r, om_err *err)
{
    TRY(local_check(r, err));
    if ((int)r->p[LOCAL_OPTIMIZER] == ADAMW)
        return fail(err, OM_EARG,
                    "fednova: adamw's steps have no length to divide by; choose "
                    "local_optimizer sgd or momentum");
    return OM_OK;
}

static size_t server_bytes(const fl_env *e) { return average_bytes(e, 0); }
static size_t up_bound(const fl_env *e) { return 4 + local_up_bound(e); }

static size_t scratch_bytes(const fl_env *e)
{
    return local_scratch_bytes(e) + arena_bytes(float, e->dim);
}

static om_status client_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                             const uint8_t *down, size_t n, buf *up, double *loss,
                             arena scratch, om_err *err)
{
    float *x = arena_new(&scratch, float, e->dim), *y = arena_new(&scratch, float, e->dim);
    float *g = arena_new(&scratch, float, e->dim);
    double mean_loss;
    uint64_t steps;
    if (f->dim != e->dim || f->n_samples == 0)
        return fail(err, OM_EARG, "client %u has a problem of %zu numbers, expected %zu",
                    (unsigned)id, f->dim, e->dim);
    TRY(average_read(e, down, n, x, err));
    memcpy(y, x, e->dim * sizeof(float));
    TRY(local_train(e, id, f, 0, NULL, x, y, g, &mean_loss, &steps, scratch, err));
    for (size_t i = 0; i < e->dim; i++)
        y[i] -= x[i];
    if (steps > MOST_STEPS || buf_u32(up, (uint32_t)steps) != OM_OK)
        return fail(err, OM_ELIMIT, "fednova: %llu local steps", (unsigned long long)steps);
    if (loss)
        *loss = mean_loss;
    return local_send(e, id, client, y, up, scratch, err);
}

static om_status server_check(const fl_env *e, uint32_t id, uint64_t samples,
                              const uint8_t *up, size_t n, float *zeros, om_err *err)
{
    if (n < 4 || wire_load(up) == 0 || wire_load(up) > MOST_STEPS)
        return fail(err, OM_EFORMAT, "fednova: an update of %zu bytes and %u steps", n,
                    n < 4 ? 0 : (unsigned)wire_load(up));
    return average_check(e, id, samples, up + 4, n - 4, zeros, err);
}

static double length(const fl_env *e, double steps)
{
    double r = e->p[LOCAL_MOMENTUM];
    if ((int)e->p[LOCAL_OPTIMIZER] != MOMENTUM)
        return steps;
    return (steps - r * (1 - pow(r, steps)) / (1 - r)) / (1 - r);
}

static om_status server_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                             const uint8_t *up, size_t n, arena scratch, om_err *err)
{
    float *sum = average_vector(e, server, 1);
    double total, weight = e->p[LOCAL_WEIGHTS] < 0.5 ? (double)samples : 1;
    uint64_t *note = average_note(server, STEPS_NOTE);
    (void)scratch;
    TRY(average_admit(e, server, id, samples, err));
    TRY(server_check(e, id, samples, up, n, sum, err));
    double a = length(e, wire_load(up));
    TRY(e->up->decode(e->up_p, up + 4, n - 4, (float)(weight / a), sum, e->dim, err));
    memcpy(&total, note, sizeof(total));
    total = (average_received(server) ? total : 0) + weight * a;
    memcpy(note, &total, sizeof(total));
    average_count(server, id, weight);
    return OM_OK;
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    double total, weight = average_weight(server);
    float *d;
    memcpy(&total, average_note(server, STEPS_NOTE), sizeof(total));
    TRY(average_mean(e, server, &d, err));
    if (!d)
        return OM_OK;
    return grad_move(e, server, d, -e->p[SERVER_LR] * total / weight, scratch, err);
}

const fl_algo fl_fednova = {
    .name = "fednova",
    .summary = "FedAvg for unlike numbers of local steps",
    .source = "Wang et al., NeurIPS 2020, arXiv 2007.07481",
    .flags = FL_CLIENT_STATE,
    .params = params,
    .check = check,
    .server_bytes = server_bytes,
    .client_bytes = local_client_bytes,
    .scratch_bytes = scratch_bytes,
    .up_bound = up_bound,
    .down_bound = average_down_bound,
    .server_open = average_open,
    .server_begin = average_begin,
    .client_step = client_step,
    .server_recv = server_recv,
    .server_check = server_check,
    .server_close = server_close,
    .model = average_model,
};
