/* dasha.c - DASHA: MARINA without its rounds of whole gradients.
 *
 *     client i:  h+ = an estimate of grad f_i(x+)
 *                m = Q(h+ - h - a (g_i - h));   g_i += m;   h = h+;   sends m
 *     server:    g += (1/n) sum m;   x -= lr g            a = 1 / (2 omega + 1)
 *
 *     dasha        h+ = grad f_i(x+)
 *     dasha-page   h+ = grad f_i(x+) with probability p (a coin of its own),
 *                  else h + (minibatch gradients at x+ and at x: their difference)
 *     dasha-mvr    h+ = sg(x+) + (1 - b) (h - sg(x)), the same samples at both points
 *     dasha-pp     takes part with probability q:  k = grad f_i(x+) - grad f_i(x)
 *                  - b (h - grad f_i(x));  m = Q(k / q - (a / q) (g_i - h));
 *                  h += k / q,   with a = q / (2 omega + 1), b = q / (2 - q)
 *
 *     byz-dasha, byz-dasha-page   the same clients under a robust rule over the g_i
 *                  (mirrors.h)
 *
 * The term a (g_i - h) pulls the estimate back to what it estimates, which is what MARINA's
 * coin did.  g stays the mean of the g_i.  For dasha-pp q = `participation` times
 * cohort / clients; a client that was away compares with the x it saw last.
 * First messages are whole: g_i = h = grad f_i(x). theory: lr = 1 / (L + L^ sqrt(16 omega
 * (2 omega + 1) / n)). */
#include "fl/mirrors.h"

enum { A = GRAD_PARAMS, P };         /* of dasha, dasha-page */
enum { START = P, B };               /* of dasha-mvr */
enum { PP_B = P, PP_PARTICIPATION }; /* of dasha-pp */
enum { G, H, LAST_X };               /* client vectors */
enum { COIN = 4, COIN_PP = 5 };

#define LR_ROW                                                                             \
    {                                                                                      \
        "lr", 0.1, 0, 1e6, "step along the estimate of the gradient", NULL                 \
    }
#define A_ROW                                                                              \
    {                                                                                      \
        "a", 0, 0, 1, "pull towards h; 0: 1 / (2 omega + 1)", NULL                         \
    }

static const param params[] = {FL_GRAD_PARAMS, [A] = A_ROW, {NULL, 0, 0, 0, NULL, NULL}};
static const param params_page[] = {
    [GRAD_LR] = LR_ROW,
    [GRAD_BATCH] = {"batch", 32, 1, 1e9, "samples of a difference", NULL},
    [A] = A_ROW,
    [P] = {"p", 0, 0, 1, "of a full gradient; 0: batch / (batch + samples)", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};
static const param params_mvr[] = {
    [GRAD_LR] = LR_ROW,
    [GRAD_BATCH] = {"batch", 32, 1, 1e9, "samples of a gradient", NULL},
    [A] = A_ROW,
    [START] = {"start", 1, 0, 1, "1: full first gradient; 0: of a minibatch", NULL},
    [B] = {"b", 0.1, 1e-6, 1, "new part of the momentum", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};
static const param params_pp[] = {
    FL_GRAD_PARAMS,
    [A] = {"a", 0, 0, 1, "pull towards h; 0: q / (2 omega + 1)", NULL},
    [PP_B] = {"b", 0, 0, 1, "pull of h; 0: q / (2 - q)", NULL},
    [PP_PARTICIPATION] = {"participation", 1, 1e-6, 1,
                          "probability that a client of the cohort answers", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static size_t client_bytes(const fl_env *e) { return client_bytes_of(e, 3); }
static size_t server_bytes(const fl_env *e) { return average_bytes(e, 1); }

static size_t scratch_bytes(const fl_env *e)
{
    return grad_scratch_bytes(e) + arena_bytes(float, e->dim);
}

static double pull(const fl_env *e, double q)
{
    return e->p[A] > 0 ? e->p[A] : q / (2 * grad_omega(e) + 1);
}

/* The first message: g_i = h = v. */
static om_status start(grad_step *s, const float *v)
{
    size_t bytes = s->e->dim * sizeof(float);
    memcpy(grad_vector(s, G), v, bytes);
    memcpy(grad_vector(s, H), v, bytes);
    memcpy(grad_vector(s, LAST_X), s->x, bytes);
    return up_dense(s, v);
}

/* Sends Q(next - h - a (g_i - h)); h = next. */
static om_status send(grad_step *s, const float *next)
{
    float *g = grad_vector(s, G), *h = grad_vector(s, H), a = (float)pull(s->e, 1);
    for (size_t i = 0; i < s->e->dim; i++) {
        s->t[i] = next[i] - h[i] - a * (g[i] - h[i]);
        h[i] = next[i];
    }
    memcpy(grad_vector(s, LAST_X), s->x, s->e->dim * sizeof(float));
    return up_coded(s, s->t, 1, g);
}

static om_status rule(grad_step *s)
{
    TRY(grad_at(s, s->x, 0, s->g));
    return grad_first(s) ? start(s, s->g) : send(s, s->g);
}

static om_status rule_page(grad_step *s)
{
    const fl_env *e = s->e;
    const float *h = grad_vector(s, H);
    double batch = e->p[GRAD_BATCH];
    double p = e->p[P] > 0 ? e->p[P] : batch / (batch + (double)s->f->n_samples);
    bool full = grad_first(s) || grad_own_coin(e, s->id, p, COIN);
    if (full) {
        TRY(grad_full(s, s->x, s->g));
        return grad_first(s) ? start(s, s->g) : send(s, s->g);
    }
    TRY(grad_at(s, grad_vector(s, LAST_X), 0, s->t));
    TRY(grad_at(s, s->x, 0, s->g));
    for (size_t i = 0; i < e->dim; i++)
        s->g[i] += h[i] - s->t[i];
    return send(s, s->g);
}

static om_status rule_mvr(grad_step *s)
{
    const fl_env *e = s->e;
    const float *h = grad_vector(s, H);
    float keep = 1 - (float)e->p[B];
    if (grad_first(s)) {
        TRY(e->p[START] > 0.5 ? grad_full(s, s->x, s->g) : grad_at(s, s->x, 0, s->g));
        return start(s, s->g);
    }
    TRY(grad_at(s, grad_vector(s, LAST_X), 0, s->t));
    TRY(grad_at(s, s->x, 0, s->g));
    for (size_t i = 0; i < e->dim; i++)
        s->g[i] += keep * (h[i] - s->t[i]);
    return send(s, s->g);
}

static om_status rule_pp(grad_step *s)
{
    const fl_env *e = s->e;
    float *g = grad_vector(s, G), *h = grad_vector(s, H), *last = grad_vector(s, LAST_X);
    double q = e->p[PP_PARTICIPATION] * e->cohort / e->n_clients,
           b = e->p[PP_B] > 0 ? e->p[PP_B] : q / (2 - q);
    float a = (float)pull(e, q), beta = (float)b, over = (float)(1 / q);
    if (e->round > 0 && !grad_own_coin(e, s->id, e->p[PP_PARTICIPATION], COIN_PP))
        return up_nothing(s);
    TRY(grad_at(s, s->x, 0, s->g));
    if (grad_first(s))
        return start(s, s->g);
    TRY(grad_at(s, last, 0, s->t));
    for (size_t i = 0; i < e->dim; i++) {
        float k = s->g[i] - s->t[i] - beta * (h[i] - s->t[i]);
        s->t[i] = over * k - a * over * (g[i] - h[i]);
        h[i] += over * k;
    }
    memcpy(last, s->x, e->dim * sizeof(float));
    return up_coded(s, s->t, 1, g);
}

GRAD_CLIENT(step, rule)
GRAD_CLIENT(step_page, rule_page)
GRAD_CLIENT(step_mvr, rule_mvr)
GRAD_CLIENT(step_pp, rule_pp)

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    return grad_track(e, server, e->n_clients, e->p[GRAD_LR], scratch, err);
}

#define DASHA_ROW(symbol, name_, summary_, source_, params_, step_)                        \
    DASHA_ROW_OF(symbol, name_, summary_, source_, params_, step_, 0, server_bytes,         \
                 scratch_bytes, grad_recv, server_close)
#define DASHA_ROW_OF(symbol, name_, summary_, source_, params_, step_, flags_, bytes_,      \
                     scratch_, recv_, close_)                                              \
    const fl_algo symbol = {                                                               \
        .name = name_,                                                                     \
        .summary = summary_,                                                               \
        .source = source_,                                                                 \
        .flags = FL_CLIENT_STATE | FL_NEEDS_UNBIASED | (flags_),                           \
        .params = params_,                                                                 \
        .server_bytes = bytes_,                                                            \
        .client_bytes = client_bytes,                                                      \
        .scratch_bytes = scratch_,                                                         \
        .up_bound = up_bound_of,                                                           \
        .down_bound = average_down_bound,                                                  \
        .server_open = average_open,                                                       \
        .server_begin = average_begin,                                                     \
        .client_step = step_,                                                              \
        .server_recv = recv_,                                                              \
        .server_check = grad_check,                                                        \
        .server_close = close_,                                                            \
        .model = average_model,                                                            \
        .up_read = grad_up_read,                                                           \
        .up_write = grad_up_write,                                                         \
    }
DASHA_ROW(fl_dasha, "dasha",
          "compressed differences, never a whole gradient after the first",
          "Tyurin, Richtarik, ICLR 2023, arXiv 2202.01268", params, step);
DASHA_ROW(fl_dasha_page, "dasha-page", "DASHA over minibatches, finite sums",
          "Tyurin, Richtarik, ICLR 2023, arXiv 2202.01268", params_page, step_page);
DASHA_ROW(fl_dasha_mvr, "dasha-mvr", "DASHA over minibatches, with momentum",
          "Tyurin, Richtarik, ICLR 2023, arXiv 2202.01268", params_mvr, step_mvr);
DASHA_ROW(fl_dasha_pp, "dasha-pp", "DASHA with absent clients",
          "Tyurin, Richtarik, NeurIPS 2023, arXiv 2205.15580", params_pp, step_pp);
#define BYZ_DASHA_ROW(symbol, name_, summary_, params_, step_)                             \
    DASHA_ROW_OF(symbol, name_, summary_,                                                  \
                 "Rammal, Gruntkowska, Fedin, Gorbunov, Richtarik, AISTATS 2024, arXiv "   \
                 "2310.09804",                                                             \
                 params_, step_, FL_EVERY_CLIENT | FL_ROBUST, mirrors_bytes,               \
                 mirrors_scratch_bytes, mirrors_recv, mirrors_close)
BYZ_DASHA_ROW(fl_byz_dasha, "byz-dasha", "DASHA under a robust aggregator", params, step);
BYZ_DASHA_ROW(fl_byz_dasha_page, "byz-dasha-page", "DASHA-PAGE under a robust aggregator",
              params_page, step_page);
