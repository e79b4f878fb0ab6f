/* vr.c - variance reduction: minibatch gradients whose noise dies out.
 *
 *     x -= lr mean_i Q(v_i)
 *
 *     svrg     v_i = sg_i(x) - sg_i(w) + grad f_i(w);  w = x every `period` rounds
 *     l-svrg   the same; w = x with probability p, by a coin that all share
 *     saga     the data in `blocks` blocks, the last gradient t_b of each kept:
 *              v_i = B (m_b / m) (g_b(x) - t_b) + sum_b (m_b / m) t_b for a random b
 *     page     v_i = grad f_i(x) with probability p, else v_i + sg_i(x) - sg_i(x of before)
 *     storm    v_i = sg_i(x) + (1 - a) (v_i - sg_i(x of before))
 *
 * sg_i is over a minibatch, the same samples at both points.  svrg, l-svrg and saga are
 * unbiased in each round; page carries its error on until the coin falls; storm forgets it.
 * All but storm converge linearly to the optimum where SGD with a fixed lr does not; storm
 * does so as its noise is of a finite sum whose differences vanish.  p = 0 means batch / m
 * (page: batch / (batch + m)).  Q is the codec up, unbiased; identity leaves v_i as it is.
 * A block gradient serves for saga's table: general functions have no scalar in place of a
 * gradient, so the table is blocks x dim numbers of a client's state. */
#include "fl/grad.h"

#include <math.h>

enum { P = GRAD_PARAMS };
enum { BLOCKS = GRAD_BATCH }; /* saga's batch is a block */
enum { COIN = 6, USE_BLOCK = 0x35000000 };
enum { W, FULL };     /* client vectors of svrg and l-svrg */
enum { V, LAST_X };   /* of page and storm */
enum { MEAN, TABLE }; /* of saga: the weighted sum of the table, then its rows */

#define LR_ROW                                                                             \
    {                                                                                      \
        "lr", 0.1, 0, 1e6, "step along the estimate of the gradient", NULL                 \
    }
#define BATCH_ROW                                                                          \
    {                                                                                      \
        "batch", 32, 1, 1e9, "samples of a gradient", NULL                                 \
    }

static const param params_svrg[] = {
    [GRAD_LR] = LR_ROW,
    [GRAD_BATCH] = BATCH_ROW,
    [P] = {"period", 0, 0, 1e9, "rounds between full gradients; 0: 2 m / batch", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};
static const param params_lsvrg[] = {
    [GRAD_LR] = LR_ROW,
    [GRAD_BATCH] = BATCH_ROW,
    [P] = {"p", 0, 0, 1, "of a full gradient; 0: batch / m", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};
static const param params_saga[] = {
    [GRAD_LR] = LR_ROW,
    [BLOCKS] = {"blocks", 16, 1, 4096, "parts of a client's data, each with a gradient",
                NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};
static const param params_page[] = {
    [GRAD_LR] = LR_ROW,
    [GRAD_BATCH] = BATCH_ROW,
    [P] = {"p", 0, 0, 1, "of a full gradient; 0: batch / (batch + m)", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};
static const param params_storm[] = {
    [GRAD_LR] = LR_ROW,
    [GRAD_BATCH] = BATCH_ROW,
    [P] = {"a", 0.1, 0, 1, "new part of the estimate", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static size_t two_vectors(const fl_env *e) { return client_bytes_of(e, 2); }

static size_t saga_bytes(const fl_env *e)
{
    return client_bytes_of(e, TABLE + (uint32_t)e->p[BLOCKS]);
}
static size_t server_bytes(const fl_env *e) { return average_bytes(e, 0); }

/* ---- svrg, l-svrg ---- */

/* The minibatch estimate; with `renew` first a new w and its full gradient. */
static om_status snapshot(grad_step *s, bool renew)
{
    float *w = grad_vector(s, W), *full = grad_vector(s, FULL);
    if (renew) {
        TRY(grad_full(s, s->x, full));
        memcpy(w, s->x, s->e->dim * sizeof(float));
    }
    TRY(grad_at(s, w, 0, s->t));
    TRY(grad_at(s, s->x, 0, s->g));
    for (size_t i = 0; i < s->e->dim; i++)
        s->g[i] += full[i] - s->t[i];
    return up_coded(s, s->g, 1, NULL);
}

static om_status rule_svrg(grad_step *s)
{
    double period = s->e->p[P];
    if (period < 1)
        period = fmax(1, floor(2 * (double)s->f->n_samples / s->e->p[GRAD_BATCH]));
    return snapshot(s, grad_head(s)->answers % (uint64_t)period == 0);
}

static om_status rule_lsvrg(grad_step *s)
{
    double p = s->e->p[P] > 0 ? s->e->p[P]
                              : fmin(1, s->e->p[GRAD_BATCH] / (double)s->f->n_samples);
    return snapshot(s, grad_first(s) || grad_shared_coin(s->e, p, COIN));
}

/* ---- page, storm ---- */

/* v = sg(x) + keep (v - sg(x of before)), sent. */
static om_status recursive(grad_step *s, float keep)
{
    float *v = grad_vector(s, V), *last = grad_vector(s, LAST_X);
    size_t d = s->e->dim;
    TRY(grad_at(s, last, 0, s->t));
    TRY(grad_at(s, s->x, 0, s->g));
    for (size_t i = 0; i < d; i++)
        v[i] = s->g[i] + keep * (v[i] - s->t[i]);
    memcpy(last, s->x, d * sizeof(float));
    return up_coded(s, v, 1, NULL);
}

static om_status restart(grad_step *s)
{
    float *v = grad_vector(s, V);
    TRY(grad_full(s, s->x, v));
    memcpy(grad_vector(s, LAST_X), s->x, s->e->dim * sizeof(float));
    return up_coded(s, v, 1, NULL);
}

static om_status rule_page(grad_step *s)
{
    double batch = s->e->p[GRAD_BATCH];
    double p = s->e->p[P] > 0 ? s->e->p[P] : batch / (batch + (double)s->f->n_samples);
    return grad_first(s) || grad_shared_coin(s->e, p, COIN) ? restart(s) : recursive(s, 1);
}

static om_status rule_storm(grad_step *s)
{
    return grad_first(s) ? restart(s) : recursive(s, 1 - (float)s->e->p[P]);
}

/* ---- saga ---- */

/* The gradient over block b: minibatch b of a shuffle that never changes. */
static om_status block_gradient(grad_step *s, uint64_t size, uint64_t b, const float *x,
                                float *g)
{
    rng r = rng_for(s->e->seed, 0, s->id, USE_BLOCK);
    r.ctr = b;
    if (!s->f->sgrad)
        return grad_full(s, x, g);
    return s->f->sgrad(s->f->ctx, x, (uint32_t)size, r, g, &s->loss, s->err);
}

static om_status rule_saga(grad_step *s)
{
    uint64_t m = s->f->n_samples, d = s->e->dim;
    uint64_t most = s->f->sgrad ? (uint64_t)s->e->p[BLOCKS] : 1,
             size = (m + most - 1) / most;
    uint64_t blocks = (m + size - 1) / size, last = m - (blocks - 1) * size;
    float *mean = grad_vector(s, MEAN);
    rng r = rng_for(s->e->seed, s->e->round, s->id, USE_BLOCK + 1);
    for (uint64_t b = 0; grad_first(s) && b < blocks; b++) { /* the table at the first x */
        float *row = grad_vector(s, TABLE + (uint32_t)b);
        float part = (float)((double)(b + 1 == blocks ? last : size) / (double)m);
        TRY(block_gradient(s, size, b, s->x, row));
        for (size_t i = 0; i < d; i++)
            mean[i] += part * row[i];
    }
    uint32_t b = rng_below(&r, (uint32_t)blocks);
    float *row = grad_vector(s, TABLE + b);
    float part = (float)((double)(b + 1 == blocks ? last : size) / (double)m);
    float up = part * (float)blocks;
    TRY(block_gradient(s, size, b, s->x, s->g));
    for (size_t i = 0; i < d; i++) {
        float change = s->g[i] - row[i];
        s->t[i] = up * change + mean[i];
        mean[i] += part * change;
        row[i] = s->g[i];
    }
    return up_coded(s, s->t, 1, NULL);
}

GRAD_CLIENT(step_svrg, rule_svrg)
GRAD_CLIENT(step_lsvrg, rule_lsvrg)
GRAD_CLIENT(step_saga, rule_saga)
GRAD_CLIENT(step_page, rule_page)
GRAD_CLIENT(step_storm, rule_storm)

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    float *g;
    TRY(average_mean(e, server, &g, err));
    return g ? grad_move(e, server, g, e->p[GRAD_LR], scratch, err) : OM_OK;
}

#define VR_ROW(symbol, name_, summary_, source_, params_, bytes_, step_)                   \
    const fl_algo symbol = {                                                               \
        .name = name_,                                                                     \
        .summary = summary_,                                                               \
        .source = source_,                                                                 \
        .flags = FL_CLIENT_STATE | FL_NEEDS_UNBIASED,                                      \
        .params = params_,                                                                 \
        .server_bytes = server_bytes,                                                      \
        .client_bytes = bytes_,                                                            \
        .scratch_bytes = grad_scratch_bytes,                                               \
        .up_bound = up_bound_of,                                                           \
        .down_bound = average_down_bound,                                                  \
        .server_open = average_open,                                                       \
        .server_begin = average_begin,                                                     \
        .client_step = step_,                                                              \
        .server_recv = grad_recv,                                                          \
        .server_check = grad_check,                                                        \
        .server_close = server_close,                                                      \
        .model = average_model,                                                            \
    }

VR_ROW(fl_svrg, "svrg", "minibatches corrected by a full gradient of an earlier point",
       "Johnson, Zhang, NIPS 2013", params_svrg, two_vectors, step_svrg);
VR_ROW(fl_l_svrg, "l-svrg", "SVRG whose earlier point is renewed by a coin",
       "Kovalev, Horvath, Richtarik, ALT 2020, arXiv 1901.08689", params_lsvrg, two_vectors,
       step_lsvrg);
VR_ROW(fl_saga, "saga", "minibatches corrected by a table of past gradients",
       "Defazio, Bach, Lacoste-Julien, NIPS 2014, arXiv 1407.0202", params_saga, saga_bytes,
       step_saga);
VR_ROW(fl_page, "page", "minibatch differences, and a full gradient by a coin",
       "Li, Bao, Zhang, Richtarik, ICML 2021, arXiv 2008.10898", params_page, two_vectors,
       step_page);
VR_ROW(fl_storm, "storm", "minibatches with momentum that follows the gradient",
       "Cutkosky, Orabona, NeurIPS 2019, arXiv 1905.10018", params_storm, two_vectors,
       step_storm);
