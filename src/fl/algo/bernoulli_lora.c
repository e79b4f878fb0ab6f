/* bernoulli_lora.c - Bernoulli-LoRA: each step goes through a random low-rank sketch on one
 * side of the gradient; a coin, the same for all, says which.
 *
 *     c = 1 with probability bernoulli_p
 *     c = 1:  B random (rows, r):  W -= lr H G,  H = B (B'B)^-1 B'
 *     c = 0:  A random (r, cols):  W -= lr G H,  H = A' (AA')^-1 A
 *
 * The factors have orthonormal vectors, so that H = BB' or A'A.  G is the estimate of the
 * gradient by a row of its own: this file runs that row and projects its step,
 *
 *     bernoulli_lora         dcgd:   full gradients, minibatches, or compressed (QGD)
 *     bernoulli_lora_mvr     storm:  momentum variance reduction
 *     bernoulli_lora_page    page
 *     bernoulli_lora_marina  marina
 *     bernoulli_lora_ef21    ef21
 *
 * E H G over sketches is (p r/rows + (1-p) r/cols) G.  With bernoulli_p 1 and full gradients
 * this is rac_lora with factor=a and one full local step.  r the size of the matrix: the
 * estimator's own method.  Numbers that are in no matrix of the shape stay as they are.
 *
 * The parameters of a row are those of its estimator, in their order, then RANK and P: the
 * estimator finds its own where it looks for them.
 *
 * Sokolov, Sadiev, Demidovich, Al-Qahtani, Richtarik 2025, arXiv 2508.03820. */
#include "fl/grad.h"
#include "fl/lowrank.h"

#define OWN_PARAMS                                                                         \
    {"rank", 8, 1, LOWRANK_MOST, "of the random factor", NULL},                            \
        {"bernoulli_p", 0.5, 0, 1, "chance that B is drawn, and A stands for the rest",    \
         NULL},                                                                            \
    {                                                                                      \
        NULL, 0, 0, 0, NULL, NULL                                                          \
    }

enum { COIN = 9 };

static uint32_t rank_of(const fl_env *e, double asked)
{
    uint32_t limit = lowrank_limit(e);
    return asked < limit ? (uint32_t)asked : limit;
}

/* Numbers of the largest B'D or row of D A'. */
static size_t product_numbers(const fl_env *e, uint32_t r)
{
    size_t most = 1;
    for (uint32_t i = 0; i < e->shape->n; i++)
        most = size_max(most, e->shape->m[i].cols);
    return most * r;
}

/* The step and the model before it, frames and a product, beside what the inner row takes. */
static size_t own_scratch(const fl_env *e, double asked)
{
    uint32_t r = rank_of(e, asked);
    size_t n = 2 * e->dim + lowrank_len(e, r, SIDE_BOTH) + product_numbers(e, r);
    return n * sizeof(float) + 4 * 64;
}

static om_status close_projected(const fl_env *e, const fl_algo *inner, void *server,
                                 arena scratch, om_err *err)
{
    size_t own = param_count(inner->params);
    uint32_t r = rank_of(e, e->p[own]);
    lowrank_side side = grad_shared_coin(e, e->p[own + 1], COIN) ? SIDE_B : SIDE_A;
    float *was = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    float *d = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    float *frames = arena_alloc(&scratch, sizeof(float), 64, lowrank_len(e, r, side));
    float *product = arena_alloc(&scratch, sizeof(float), 64, product_numbers(e, r));
    memcpy(was, average_model(e, server), e->dim * sizeof(float));
    TRY(lowrank_frames(e, e->round, r, side, frames, err));
    TRY(inner->server_close(e, server, scratch, err));
    float *x = average_vector(e, server, 0);
    for (size_t i = 0; i < e->dim; i++)
        d[i] = x[i] - was[i];
    lowrank_project(e, r, side, frames, product, d);
    memcpy(x, was, e->dim * sizeof(float));
    for (uint32_t i = 0; i < e->shape->n; i++) {
        const fl_matrix *m = &e->shape->m[i];
        for (size_t k = m->a; k < m->a + (size_t)m->rows * m->cols; k++)
            x[k] += d[k];
    }
    return OM_OK;
}

/* A row over the estimator `inner`, with a table that begins like its own. */
#define BERNOULLI_ROW(kind, symbol, name_, summary_, flags_, ...)                          \
    extern const fl_algo fl_##kind;                                                        \
    static const param params_##kind[] = {__VA_ARGS__, OWN_PARAMS};                        \
    static om_status kind##_check(const fl_recipe *r, om_err *err)                         \
    {                                                                                      \
        return fl_##kind.check ? fl_##kind.check(r, err) : OM_OK;                          \
    }                                                                                      \
    static size_t kind##_server(const fl_env *e) { return fl_##kind.server_bytes(e); }     \
    static size_t kind##_client(const fl_env *e) { return fl_##kind.client_bytes(e); }     \
    static size_t kind##_scratch(const fl_env *e)                                          \
    {                                                                                      \
        return fl_##kind.scratch_bytes(e) +                                               \
               own_scratch(e, e->p[param_count(fl_##kind.params)]);                                \
    }                                                                                      \
    static om_status kind##_step(const fl_env *e, uint32_t id, void *client,               \
                                 const fl_oracle *f, const uint8_t *down, size_t down_n,   \
                                 buf *up, double *loss, arena scratch, om_err *err)        \
    {                                                                                      \
        return fl_##kind.client_step(e, id, client, f, down, down_n, up, loss, scratch,    \
                                     err);                                                 \
    }                                                                                      \
    static om_status kind##_recv(const fl_env *e, void *server, uint32_t id,               \
                                 uint64_t samples, const uint8_t *up, size_t up_n,         \
                                 arena scratch, om_err *err)                               \
    {                                                                                      \
        return fl_##kind.server_recv(e, server, id, samples, up, up_n, scratch, err);      \
    }                                                                                      \
    static om_status kind##_close(const fl_env *e, void *server, arena scratch,            \
                                  om_err *err)                                             \
    {                                                                                      \
        return close_projected(e, &fl_##kind, server, scratch, err);                       \
    }                                                                                      \
    const fl_algo symbol = {                                                               \
        .name = name_,                                                                     \
        .summary = summary_,                                                               \
        .source = "Sokolov et al. 2025, arXiv 2508.03820",                                 \
        .flags = FL_CLIENT_STATE | FL_MATRICES | (flags_),                                 \
        .params = params_##kind,                                                           \
        .check = kind##_check,                                                             \
        .server_bytes = kind##_server,                                                     \
        .client_bytes = kind##_client,                                                     \
        .scratch_bytes = kind##_scratch,                                                   \
        .up_bound = up_bound_of,                                                           \
        .down_bound = average_down_bound,                                                  \
        .server_open = average_open,                                                       \
        .server_begin = average_begin,                                                     \
        .client_step = kind##_step,                                                        \
        .server_recv = kind##_recv,                                                        \
        .server_check = grad_check,                                                        \
        .server_close = kind##_close,                                                      \
        .model = average_model,                                                            \
    }

BERNOULLI_ROW(dcgd, fl_bernoulli_lora, "bernoulli-lora",
              "descent through a random sketch on a random side of the gradient",
              FL_NEEDS_UNBIASED, FL_GRAD_PARAMS,
              {"vote", 0, 0, 0, "of the messages the mean is taken", "mean"});
BERNOULLI_ROW(storm, fl_bernoulli_lora_mvr, "bernoulli-lora-mvr",
              "Bernoulli-LoRA over minibatches with momentum that follows the gradient",
              FL_NEEDS_UNBIASED,
              {"lr", 0.1, 0, 1e6, "step along the estimate of the gradient", NULL},
              {"batch", 32, 1, 1e9, "samples of a gradient", NULL},
              {"a", 0.1, 0, 1, "new part of the estimate", NULL});
BERNOULLI_ROW(page, fl_bernoulli_lora_page, "bernoulli-lora-page",
              "Bernoulli-LoRA over minibatch differences, and now and then a full gradient",
              FL_NEEDS_UNBIASED,
              {"lr", 0.1, 0, 1e6, "step along the estimate of the gradient", NULL},
              {"batch", 32, 1, 1e9, "samples of a gradient", NULL},
              {"p", 0, 0, 1, "of a full gradient; 0: batch / (batch + m)", NULL});
BERNOULLI_ROW(marina, fl_bernoulli_lora_marina, "bernoulli-lora-marina",
              "Bernoulli-LoRA over compressed gradient differences",
              FL_NEEDS_UNBIASED | FL_EVERY_CLIENT, FL_GRAD_PARAMS,
              {"p", 0, 0, 1, "of a round of whole gradients; 0: 1 / (1 + omega)", NULL});
BERNOULLI_ROW(ef21, fl_bernoulli_lora_ef21, "bernoulli-lora-ef21",
              "Bernoulli-LoRA over compressed differences to a learnt gradient", 0,
              FL_GRAD_PARAMS,
              {"init", 0, 0, 1, "a client's first message", "full|zero"},
              {"server_momentum", 0, 0, 0.999999, "of the heavy ball", NULL},
              {"participation", 1, 1e-6, 1, "probability that a client answers", NULL},
              {"eta", 1, 1e-6, 1, "new part of the client's momentum", NULL},
              {"twice", 0, 0, 1, "momentum of the momentum", "no|yes"});
