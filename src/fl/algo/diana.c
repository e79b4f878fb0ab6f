/* diana.c - DIANA: unbiased compression of differences to a learnt shift.
 *
 *     client i:  q_i = Q(grad f_i(x) - h_i);   h_i += alpha q_i;   sends q_i
 *     server:    g = h + mean_i q_i;   h += (alpha / n) sum_i q_i;   x -= lr g
 *
 * E g = grad f(x); h is the mean of the h_i, and h_i tends to grad f_i(x*), so the noise of
 * compression dies out and the method converges linearly to x* itself where dcgd stalls.
 * alpha = 1 / (1 + omega) unless set; theory: lr = 1 / (L (1 + 6 omega / n)).  With a
 * cohort smaller than the population, the mean is over who answered and only they move. */
#include "fl/grad.h"

enum { ALPHA = GRAD_PARAMS };
enum { H_CLIENT = 0, H_SERVER = 2 };

static const param params[] = {
    FL_GRAD_PARAMS,
    [ALPHA] = {"alpha", 0, 0, 1, "speed of the shifts; 0: 1 / (1 + omega)", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static double alpha(const fl_env *e)
{
    return e->p[ALPHA] > 0 ? e->p[ALPHA] : 1 / (1 + grad_omega(e));
}

static size_t client_bytes(const fl_env *e) { return client_bytes_of(e, 1); }
static size_t server_bytes(const fl_env *e) { return average_bytes(e, 1); }

static om_status rule(grad_step *s)
{
    float *h = grad_vector(s, H_CLIENT);
    TRY(grad_at(s, s->x, 0, s->g));
    for (size_t i = 0; i < s->e->dim; i++)
        s->t[i] = s->g[i] - h[i];
    return up_coded(s, s->t, (float)alpha(s->e), h);
}
GRAD_CLIENT(client_step, rule)

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    float *q, *h = average_vector(e, server, H_SERVER);
    float *g = arena_new(&scratch, float, e->dim),
          *next = arena_new(&scratch, float, e->dim);
    float a = (float)(alpha(e) * (double)average_received(server) / e->n_clients);
    TRY(average_mean(e, server, &q, err));
    if (!q)
        return OM_OK;
    for (size_t i = 0; i < e->dim; i++) {
        g[i] = h[i] + q[i];
        next[i] = h[i] + a * q[i];
    }
    TRY(grad_move(e, server, g, e->p[GRAD_LR], scratch, err));
    memcpy(h, next, e->dim * sizeof(float));
    return OM_OK;
}

const fl_algo fl_diana = {
    .name = "diana",
    .summary = "unbiased compression of differences to a learnt shift",
    .source = "Mishchenko, Gorbunov, Takac, Richtarik 2019, arXiv 1901.09269",
    .flags = FL_CLIENT_STATE | FL_NEEDS_UNBIASED,
    .params = params,
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
