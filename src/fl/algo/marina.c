/* marina.c - MARINA: compressed differences of gradients, and now and then a whole one.
 *
 * A coin c that all parties share falls with probability p:
 *
 *     c:      client i sends grad f_i(x+);                    g = the mean of them
 *     not c:  client i sends Q(grad f_i(x+) - grad f_i(x));   g += the mean of them
 *     x -= lr g
 *
 *     vr-marina   the differences are over a minibatch, the same samples at both points
 *     pp-marina   without c only r clients are drawn, with replacement, and g += their mean
 *
 * With c the estimate is exact; without, its bias is carried on and none is added.  Perm-K
 * suits it best: clients that agree lose nothing.  p = 1 is gradient descent; p = 0 means
 * 1 / (1 + omega) (times r / n for pp-marina), where whole and compressed rounds cost the
 * same.  theory: lr = 1 / (L + L~ sqrt((1 - p) omega / (p n))).
 *
 * Every client remembers the last x, so every client takes part in every round. */
#include "fl/grad.h"

enum { P = GRAD_PARAMS, DRAWN };
enum { LAST_X };  /* client vector */
enum { COIN = 3, USE_DRAW = 0x34000000 };

static const param params[] = {
    FL_GRAD_PARAMS,
    [P] = {"p", 0, 0, 1, "of a round of whole gradients; 0: 1 / (1 + omega)", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};
static const param params_vr[] = {
    [GRAD_LR] = {"lr", 0.1, 0, 1e6, "step along the estimate of the gradient", NULL},
    [GRAD_BATCH] = {"batch", 32, 0, 1e9, "samples of a difference; 0: all of them", NULL},
    [P] = {"p", 0, 0, 1, "of a round of whole gradients; 0: 1 / (1 + omega)", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};
static const param params_pp[] = {
    FL_GRAD_PARAMS,
    [P] = {"p", 0, 0, 1, "of a round of whole gradients; 0: r / (n (1 + omega))", NULL},
    [DRAWN] = {"drawn", 5, 1, 1e6, "r, draws of a client without c", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static size_t client_bytes(const fl_env *e) { return client_bytes_of(e, 1); }
static size_t server_bytes(const fl_env *e) { return average_bytes(e, 1); }

/* Is this a round of whole gradients?  r: clients drawn otherwise, 0: all. */
static bool whole(const fl_env *e, double r)
{
    double share = r > 0 ? r / e->n_clients : 1;
    double p = e->p[P] > 0 ? e->p[P] : share / (1 + grad_omega(e));
    return e->round == 0 || grad_shared_coin(e, p, COIN);
}

/* How often client id is among r draws with replacement. */
static uint32_t times_drawn(const fl_env *e, uint32_t id, double r)
{
    rng draw = rng_for(e->seed, e->round, 0, USE_DRAW);
    uint32_t times = 0;
    for (double i = 0; i < r; i++)
        times += rng_below(&draw, e->n_clients) == id;
    return times;
}

/* Sends `times` Q(grad f_i(x+) - grad f_i(x)), or with c the whole gradient. */
static om_status send(grad_step *s, bool c, uint32_t times)
{
    size_t d = s->e->dim;
    float *last = grad_vector(s, LAST_X);
    if (c || grad_first(s)) {
        TRY(grad_full(s, s->x, s->g));
        memcpy(last, s->x, d * sizeof(float));
        return up_dense(s, s->g);
    }
    if (times == 0) {
        memcpy(last, s->x, d * sizeof(float));
        return up_nothing(s);
    }
    TRY(grad_at(s, last, 0, s->t));
    TRY(grad_at(s, s->x, 0, s->g));
    for (size_t i = 0; i < d; i++)
        s->t[i] = (float)times * (s->g[i] - s->t[i]);
    memcpy(last, s->x, d * sizeof(float));
    return up_coded(s, s->t, 1, NULL);
}

static om_status rule(grad_step *s) { return send(s, whole(s->e, 0), 1); }

static om_status rule_pp(grad_step *s)
{
    double r = s->e->p[DRAWN];
    return send(s, whole(s->e, r), times_drawn(s->e, s->id, r));
}

GRAD_CLIENT(step, rule)
GRAD_CLIENT(step_pp, rule_pp)

static om_status close_round(const fl_env *e, void *server, bool c, double divisor,
                             arena scratch, om_err *err)
{
    if (c && average_received(server)) /* g is forgotten: the mean takes its place */
        memset(average_vector(e, server, 2), 0, e->dim * sizeof(float));
    return grad_track(e, server, divisor, e->p[GRAD_LR], scratch, err);
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    return close_round(e, server, whole(e, 0), e->n_clients, scratch, err);
}

static om_status close_pp(const fl_env *e, void *server, arena scratch, om_err *err)
{
    bool c = whole(e, e->p[DRAWN]);
    return close_round(e, server, c, c ? e->n_clients : e->p[DRAWN], scratch, err);
}

#define MARINA_ROW(symbol, name_, summary_, params_, step_, close_)             \
    const fl_algo symbol = {                                                    \
        .name = name_,                                                          \
        .summary = summary_,                                                    \
        .source = "Gorbunov, Burlachenko, Li, Richtarik, ICML 2021, arXiv 2102.07845", \
        .flags = FL_CLIENT_STATE | FL_NEEDS_UNBIASED | FL_EVERY_CLIENT,         \
        .params = params_,                                                      \
        .server_bytes = server_bytes,                                           \
        .client_bytes = client_bytes,                                           \
        .scratch_bytes = grad_scratch_bytes,                                    \
        .up_bound = up_bound_of,                                                \
        .down_bound = average_down_bound,                                       \
        .server_open = average_open,                                            \
        .server_begin = average_begin,                                          \
        .client_step = step_,                                                   \
        .server_recv = grad_recv,                                               \
        .server_check = grad_check,                                             \
        .server_close = close_,                                                 \
        .model = average_model,                                                 \
    }

MARINA_ROW(fl_marina, "marina", "compressed gradient differences, now and then a whole one",
           params, step, server_close);
MARINA_ROW(fl_vr_marina, "vr-marina", "MARINA over minibatches", params_vr, step,
           server_close);
MARINA_ROW(fl_pp_marina, "pp-marina", "MARINA with a few clients a round", params_pp,
           step_pp, close_pp);
