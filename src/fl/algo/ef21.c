/* ef21.c - EF21: error feedback that learns the gradients, and its relatives.
 *
 *     x -= lr g,   g = mean_i g_i
 *     client i:  c_i = C(grad f_i(x) - g_i);  g_i += c_i;  sends c_i
 *     server:    g += (1/n) sum_i c_i
 *
 * C is contractive; an unbiased Q serves as Q / (1 + omega).  Each g_i tends to the
 * gradient it follows, so what is compressed tends to zero, and on smooth functions the
 * method has the rate of gradient descent.  g stays the mean of the g_i through absences,
 * because who does not answer does not move its g_i.  First messages are whole gradients
 * (init=full), or g_i begins at zero.
 *
 *     ef21-hb     heavy ball:  v = momentum v + g;  x -= lr v
 *     ef21-pp     partial participation: a client answers with probability `participation`
 *     ef21-sgdm   the client's momentum:  v_i = (1 - eta) v_i + eta sg_i(x), and v_i is
 *                 followed instead of the gradient: sound for minibatches, where following
 *                 sg_i itself stalls; `twice` filters once more
 *     byz-ef21-sgdm   the same under a robust rule over the g_i (mirrors.h): the momentum
 *                 is what keeps honest g_i together where minibatches are noisy
 *
 * theory: lr = 1 / (L + L~ ((1 + sqrt(1-alpha)) / alpha - 1)), L~^2 the mean of L_i^2; 16
 * times that is often still stable.  Phi = f - f* + lr / (2 (1 - sqrt(1-alpha)))
 * mean |g_i - grad f_i|^2 never grows.  The versions with a compressed way down are in
 * ef21_down.c. */
#include "fl/mirrors.h"

enum { INIT = GRAD_PARAMS, HEAVY, PARTICIPATION, ETA, TWICE };
enum { FULL, ZERO };
enum { G, V, U }; /* client vectors */
enum { COIN = 1 };

#define EF21_PARAMS(heavy, participation, eta)                                             \
    {                                                                                      \
        FL_GRAD_PARAMS, [INIT] = {"init",     FULL, 0, 1, "a client's first message",      \
                                  "full|zero"},                                            \
                        [HEAVY] = {"server_momentum",   heavy, 0, 0.999999,                \
                                   "of the heavy ball", NULL},                             \
                        [PARTICIPATION] = {"participation",                                \
                                           participation,                                  \
                                           1e-6,                                           \
                                           1,                                              \
                                           "probability that a client answers",            \
                                           NULL},                                          \
                        [ETA] = {"eta", eta, 1e-6, 1, "new part of the client's momentum", \
                                 NULL},                                                    \
                        [TWICE] =                                                          \
                            {"twice", 0, 0, 1, "momentum of the momentum", "no|yes"},      \
                        {NULL, 0, 0, 0, NULL, NULL},                                       \
    }

static const param params[] = EF21_PARAMS(0, 1, 1);
static const param params_hb[] = EF21_PARAMS(0.9, 1, 1);
static const param params_pp[] = EF21_PARAMS(0, 0.5, 1);
static const param params_sgdm[] = EF21_PARAMS(0, 1, 0.1);

static size_t client_bytes(const fl_env *e)
{
    return client_bytes_of(e, e->p[ETA] < 1 ? 2 + (e->p[TWICE] > 0.5) : 1);
}

static size_t server_bytes(const fl_env *e)
{
    return average_bytes(e, 1 + (e->p[HEAVY] > 0));
}

/* v = (1 - eta) v + eta w; the first time v = w. */
static const float *filter(grad_step *s, uint32_t vector, const float *w)
{
    float *v = grad_vector(s, vector), eta = (float)s->e->p[ETA];
    for (size_t i = 0; i < s->e->dim; i++)
        v[i] = grad_first(s) ? w[i] : (1 - eta) * v[i] + eta * w[i];
    return v;
}

static om_status rule(grad_step *s)
{
    const fl_env *e = s->e;
    float *gi = grad_vector(s, G);
    const float *target = s->g;
    if (!grad_own_coin(e, s->id, e->p[PARTICIPATION], COIN))
        return up_nothing(s);
    TRY(grad_at(s, s->x, 0, s->g));
    if (e->p[ETA] < 1)
        target = filter(s, V, target);
    if (e->p[ETA] < 1 && e->p[TWICE] > 0.5)
        target = filter(s, U, target);
    if (grad_first(s) && (int)e->p[INIT] == FULL) {
        memcpy(gi, target, e->dim * sizeof(float));
        return up_dense(s, gi);
    }
    for (size_t i = 0; i < e->dim; i++)
        s->t[i] = target[i] - gi[i];
    return up_coded(s, s->t, (float)codec_scale(e->up, e->up_p, e->dim), gi);
}
GRAD_CLIENT(client_step, rule)

static om_status heavy_ball(const fl_env *e, void *server, arena scratch, om_err *err)
{
    float *sum, *g = average_vector(e, server, 2), *v = average_vector(e, server, 3);
    float *now = arena_new(&scratch, float, e->dim),
          *along = arena_new(&scratch, float, e->dim);
    float keep = (float)e->p[HEAVY];
    TRY(average_sum(e, server, e->n_clients, &sum, err));
    if (!sum)
        return OM_OK;
    for (size_t i = 0; i < e->dim; i++) {
        now[i] = g[i] + sum[i];
        along[i] = keep * v[i] + now[i];
    }
    TRY(grad_move(e, server, along, e->p[GRAD_LR], scratch, err));
    memcpy(g, now, e->dim * sizeof(float));
    memcpy(v, along, e->dim * sizeof(float));
    return OM_OK;
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    if (e->p[HEAVY] > 0)
        return heavy_ball(e, server, scratch, err);
    return grad_track(e, server, e->n_clients, e->p[GRAD_LR], scratch, err);
}

#define EF21_ROW(symbol, name_, summary_, source_, params_)                                \
    EF21_ROW_OF(symbol, name_, summary_, source_, params_, FL_CLIENT_STATE, server_bytes,   \
                grad_scratch_bytes, grad_recv_scaled, server_close)
#define EF21_ROW_OF(symbol, name_, summary_, source_, params_, flags_, bytes_, scratch_,    \
                    recv_, close_)                                                         \
    const fl_algo symbol = {                                                               \
        .name = name_,                                                                     \
        .summary = summary_,                                                               \
        .source = source_,                                                                 \
        .flags = flags_,                                                                   \
        .params = params_,                                                                 \
        .server_bytes = bytes_,                                                            \
        .client_bytes = client_bytes,                                                      \
        .scratch_bytes = scratch_,                                                         \
        .up_bound = up_bound_of,                                                           \
        .down_bound = average_down_bound,                                                  \
        .server_open = average_open,                                                       \
        .server_begin = average_begin,                                                     \
        .client_step = client_step,                                                        \
        .server_recv = recv_,                                                              \
        .server_check = grad_check,                                                        \
        .server_close = close_,                                                            \
        .model = average_model,                                                            \
        .up_read = grad_up_read,                                                           \
        .up_write = grad_up_write,                                                         \
    }
EF21_ROW(fl_ef21, "ef21", "compressed differences to a learnt gradient",
         "Richtarik, Sokolov, Fatkhullin, NeurIPS 2021, arXiv 2106.05203", params);
EF21_ROW(fl_ef21_hb, "ef21-hb", "EF21 with a heavy ball at the server",
         "Fatkhullin et al. 2021, arXiv 2110.03294", params_hb);
EF21_ROW(fl_ef21_pp, "ef21-pp", "EF21 whose clients answer by a coin",
         "Fatkhullin et al. 2021, arXiv 2110.03294", params_pp);
EF21_ROW(fl_ef21_sgdm, "ef21-sgdm", "EF21 with momentum at the client, for minibatches",
         "Fatkhullin, Tyurin, Richtarik, NeurIPS 2023, arXiv 2305.15155", params_sgdm);
EF21_ROW_OF(fl_byz_ef21_sgdm, "byz-ef21-sgdm", "EF21-SGDM under a robust aggregator",
            "Rammal et al., AISTATS 2024, arXiv 2310.09804, with the momentum of arXiv "
            "2305.15155",
            params_sgdm, FL_CLIENT_STATE | FL_EVERY_CLIENT | FL_ROBUST, mirrors_bytes,
            mirrors_scratch_bytes, mirrors_recv_scaled, mirrors_close);
