/* grad.h - what the methods share whose server moves along an estimate of the gradient:
 *
 *     x = x - lr g,   g made of one message a client and round
 *
 * A family is a rule for the client (a function of grad_step) and a close for the server.
 * Clients count alike: f = (1/n) sum_i f_i, as the papers have it.
 *
 * Down message: x as dim floats (average.h), unless the family says otherwise.  Up message:
 * one byte and what it announces: nothing (the client keeps what it had), a vector as it
 * is, or a vector through the codec.
 *
 * Client state: a 64-byte head, then vectors of dim floats at 64-byte steps. */
#ifndef FL_GRAD_H
#define FL_GRAD_H

#include "fl/average.h"

enum { GRAD_LR, GRAD_BATCH, GRAD_PARAMS };
#define FL_GRAD_PARAMS                                                                     \
    [GRAD_LR] = {"lr", 0.1, 0, 1e6, "step along the estimate of the gradient", NULL},      \
    [GRAD_BATCH] = {"batch", 0, 0, 1e9, "samples of a gradient; 0: all of them", NULL}

/* ---- the client's side ---- */

typedef struct {
    uint64_t answers; /* rounds this client took part in */
    uint64_t last;    /* the last of them, plus 1 */
    uint64_t sent;    /* messages that were not empty */
    uint64_t own[5];
} client_head;
_Static_assert(sizeof(client_head) == 64, "vectors start on a cache line");

size_t client_bytes_of(const fl_env *e, uint32_t vectors);
float *client_vector(const fl_env *e, void *client, uint32_t i); /* (dim) */

/* One client's round, as a rule sees it. */
typedef struct {
    const fl_env *e;
    uint32_t id;
    void *client; /* its state; client_head first */
    const fl_oracle *f;
    const float *x; /* (dim) the model of the round */
    float *g, *t;   /* (dim) scratch */
    buf *up;
    double loss; /* of the last grad_at */
    arena scratch;
    om_err *err;
} grad_step;

typedef om_status grad_rule(grad_step *s);

/* Reads the down message, runs the rule, counts the answer. */
om_status grad_client(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                      const uint8_t *down, size_t down_n, buf *up, double *loss,
                      arena scratch, grad_rule *rule, om_err *err);
/* The same at a point that the family has read itself. */
om_status grad_client_at(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                         const float *x, buf *up, double *loss, arena scratch,
                         grad_rule *rule, om_err *err);
/* fl_algo.client_step that runs `rule`. */
#define GRAD_CLIENT(name, rule)                                                            \
    static om_status name(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,  \
                          const uint8_t *down, size_t down_n, buf *up, double *loss,       \
                          arena scratch, om_err *err)                                      \
    {                                                                                      \
        return grad_client(e, id, client, f, down, down_n, up, loss, scratch, rule, err);  \
    }
size_t
grad_scratch_bytes(const fl_env *e); /* fl_algo.scratch_bytes: of a rule or a close */

static inline client_head *grad_head(const grad_step *s) { return s->client; }
/* Has the server nothing from this client yet? */
static inline bool grad_first(const grad_step *s) { return grad_head(s)->sent == 0; }
static inline float *grad_vector(const grad_step *s, uint32_t i)
{
    return client_vector(s->e, s->client, i);
}

/* g = the client's gradient at x: full, or over the minibatch number `draw` of the round,
 * so that the same draw at two points is the same samples. */
om_status grad_at(grad_step *s, const float *x, uint32_t draw, float *g);
om_status grad_full(grad_step *s, const float *x, float *g);
/* A rule: one gradient through the codec. */
om_status grad_send_one(grad_step *s);
/* Samples of one grad_at: fl_async.work. */
uint64_t grad_work(const fl_env *e, uint64_t samples);

/* ---- up messages ---- */

enum { UP_NOTHING, UP_DENSE, UP_CODED };

size_t up_bound_of(const fl_env *e); /* fl_algo.up_bound */
om_status up_nothing(grad_step *s);
om_status up_dense(grad_step *s, const float *v);
/* Sends C(v); mirror (NULL: none) += scale C(v), which is what the server will add. */
om_status up_coded(grad_step *s, const float *v, float scale, float *mirror);

/* ---- the server's side ---- */

/* fl_algo.server_recv: the sum += what came, once a client.  `scaled`: C(v) counts
 * codec_scale times, so that an unbiased codec serves as a contractive one. */
om_status grad_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                    const uint8_t *up, size_t up_n, arena scratch, om_err *err);
om_status grad_recv_scaled(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                           const uint8_t *up, size_t up_n, arena scratch, om_err *err);
/* The same in any order, a client as often as it comes, weighted: fl_async.take. */
om_status grad_take(const fl_env *e, void *server, const fl_arrival *a, float weight,
                    om_err *err);
om_status grad_check(const fl_env *e, uint32_t id, uint64_t samples, const uint8_t *up,
                     size_t up_n, float *zeros, om_err *err);

/* fl_algo.up_read and up_write, for methods that stand attacks. */
om_status grad_up_read(const fl_env *e, const uint8_t *up, size_t up_n, float *y,
                       om_err *err);
om_status grad_up_write(const fl_env *e, uint8_t kind, const float *x, rng r, buf *up,
                        arena scratch, om_err *err);
/* grad_recv (scaled: grad_recv_scaled) for a method where a robust rule may stand in for
 * the mean: then the message is kept as a row.  A message about nothing is no row.
 * clip: C(v) longer than this is cut to it; 0: any length. */
om_status grad_recv_kept(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                         const uint8_t *up, size_t up_n, bool scaled, double clip,
                         arena scratch, om_err *err);

/* g (vector 2) += sum / divisor, x -= lr g; nothing changes on failure, and nothing when
 * nothing came.  What a server does that tracks g = mean of the clients' g_i. */
om_status grad_track(const fl_env *e, void *server, double divisor, double lr,
                     arena scratch, om_err *err);
/* x -= lr g, unless that is not finite; forgets the round.  g (dim) may be the sum. */
om_status grad_move(const fl_env *e, void *server, const float *g, double lr, arena scratch,
                    om_err *err);

/* ---- coins ---- */

/* All parties throw the same coin in a round; a client its own. `use` tells coins apart. */
bool grad_shared_coin(const fl_env *e, double p, uint32_t use);
bool grad_own_coin(const fl_env *e, uint32_t id, double p, uint32_t use);
/* Throws of a shared coin up to and with the first head: at least 1. */
uint32_t grad_throws(const fl_env *e, double p, uint32_t use);

double grad_omega(const fl_env *e); /* of the up codec, which is unbiased */

#endif
