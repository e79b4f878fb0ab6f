/* local.h - the client's half that fedavg and its relatives share: local training from
 * the server's model, and the compressed difference as the up message.
 *
 * A row's parameter table begins with FL_LOCAL_PARAMS, so that the indices below hold in
 * every row; its own parameters follow from LOCAL_PARAMS on. */
#ifndef FL_LOCAL_H
#define FL_LOCAL_H

#include "fl/algo.h"

enum {
    LOCAL_EPOCHS,
    LOCAL_STEPS,
    LOCAL_BATCH,
    LOCAL_LR,
    LOCAL_CLIP,
    LOCAL_WEIGHTS,
    LOCAL_FEEDBACK,
    LOCAL_OPTIMIZER,
    LOCAL_MOMENTUM,
    LOCAL_DECAY,
    LOCAL_PARAMS /* how many */
};

#define LOCAL_OPTIMIZERS "sgd|momentum|adamw"
#define FL_LOCAL_PARAMS FL_LOCAL_PARAMS_WEIGHING(0)
#define FL_LOCAL_PARAMS_WEIGHING(weights)                                                  \
    [LOCAL_EPOCHS] = {"local_epochs", 1, 0, 10000, "passes over a client's data", NULL},   \
    [LOCAL_STEPS] =                                                                        \
        {"local_steps", 0, 0, 1e9, "steps instead of passes; 0: passes", NULL},            \
    [LOCAL_BATCH] = {"batch", 32, 0, 1e9, "samples of a step; 0: all of them", NULL},      \
    [LOCAL_LR] = {"lr", 0.1, 0, 1e6, "learning rate of a client", NULL},                   \
    [LOCAL_CLIP] = {"clip", 0, 0, 1e9, "longest gradient of a step; 0: any", NULL},        \
    [LOCAL_WEIGHTS] = {"weights",      weights, 0, 1, "what a client counts for",          \
                       "samples|equal"},                                                   \
    [LOCAL_FEEDBACK] = {"error_feedback",                                                  \
                        0,                                                                 \
                        0,                                                                 \
                        2,                                                                 \
                        "keep what the codec cut off for the next round; auto: when the "  \
                        "codec is biased",                                                 \
                        "auto|off|on"},                                                    \
    [LOCAL_OPTIMIZER] =                                                                    \
        {"local_optimizer", 0, 0, 2, "of a client; starts anew each round",                \
         LOCAL_OPTIMIZERS},                                                                \
    [LOCAL_MOMENTUM] = {"momentum", 0.9, 0, 0.999999, "local_optimizer momentum", NULL},   \
    [LOCAL_DECAY] = {"weight_decay", 0, 0, 1, "pull of a local step towards zero", NULL}

om_status local_check(const fl_recipe *r, om_err *err);
size_t local_client_bytes(const fl_env *e);
size_t local_scratch_bytes(const fl_env *e);
size_t local_up_bound(const fl_env *e);
/* Steps a client makes in a round where the privacy of examples is its own affair. */
uint32_t local_private_steps(const double *p, double rate);
/* mu: weight of (mu/2) |y - x|^2, added to the client's function; 0: none.
 * *loss: mean over the local steps. */
om_status local_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                     double mu, const uint8_t *down, size_t down_n, buf *up, double *loss,
                     arena scratch, om_err *err);
/* Its parts, for rows that send more than the difference.  local_train: from x (dim) to
 * y (dim), y = x at first; shift (dim, NULL: none) is added to every gradient; g (dim) is
 * scratch; *steps: how many were made.  local_send: C(delta) with feedback as asked for. */
om_status local_train(const fl_env *e, uint32_t id, const fl_oracle *f, double mu,
                      const float *shift, const float *x, float *y, float *g, double *loss,
                      uint64_t *steps, arena scratch, om_err *err);
om_status local_send(const fl_env *e, uint32_t id, void *client, float *delta, buf *up,
                     arena scratch, om_err *err);
/* fl_algo.client_step with no pull, and fl_algo.server_recv with the weights that the
 * parameters ask for: what a row takes when it changes neither. */
om_status local_plain_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                           const uint8_t *down, size_t down_n, buf *up, double *loss,
                           arena scratch, om_err *err);
om_status local_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                     const uint8_t *up, size_t up_n, arena scratch, om_err *err);

#endif
