/* algo.h - a federated algorithm, seen from the round loop.
 *
 * ONE OBJECT, THREE DRIVERS: the simulator (threads), later MPI, and the network drive
 * the same functions.  A round is
 *
 *     server_begin -> down message -> each client of the cohort: client_step -> up message
 *     -> server_recv for each accepted message IN ASCENDING CLIENT ID -> server_close
 *
 * The fixed order of recv makes the result independent of arrival, threads, processes
 * and restarts.  State is flat bytes of a size known beforehand: saved with one write,
 * mapped, or moved to another machine; all zero = start.  Messages are wire bytes, so
 * the simulator counts what the network carries. */
#ifndef FL_ALGO_H
#define FL_ALGO_H

#include "base/base.h"
#include "codec/codec.h"
#include "fl/aggregate/aggregate.h"
#include "fl/privacy/privacy.h"
#include "nn/nn.h"

/* A client's local problem f_i.  x is (dim).  All functions may be NULL but grad. */
typedef struct {
    size_t dim;
    uint64_t n_samples; /* its weight in the mean */
    void *ctx;
    /* g = grad f_i(x) over all its data; *loss may be NULL. */
    om_status (*grad)(void *ctx, const float *x, float *g, double *loss, om_err *err);
    /* g = gradient over minibatch number r.ctr of the shuffle named by r.key (see
     * fl_pick); batch is its size, shorter at the end of the data.  NULL: use grad. */
    om_status (*sgrad)(void *ctx, const float *x, uint32_t batch, rng r, float *g,
                       double *loss, om_err *err);
    /* y -= lr * that gradient, in place, for batches up to fused_batch; NULL: no shortcut.
     */
    om_status (*sgd)(void *ctx, float *y, uint32_t batch, rng r, double lr, double *loss,
                     om_err *err);
    uint32_t fused_batch;
    om_status (*value)(void *ctx, const float *x, double *loss, om_err *err);
    om_status (*hvp)(void *ctx, const float *x, const float *v, float *hv, om_err *err);
    /* h (dim, dim) = the Hessian at x, both triangles. */
    om_status (*hess)(void *ctx, const float *x, float *h, om_err *err);
} fl_oracle;

/* A Hessian from dim products with unit vectors: for problems with nothing better. */
om_status fl_hess_by_hvp(void *ctx,
                         om_status (*hvp)(void *ctx, const float *x, const float *v,
                                          float *hv, om_err *err),
                         size_t dim, const float *x, float *h, om_err *err);

typedef struct {
    size_t dim;
    uint32_t n_clients; /* population */
    uint32_t cohort;    /* clients whose update closes the round */
    uint32_t round;     /* from 0 */
    uint64_t seed;
    const double *p; /* the algorithm's parameters, in table order */
    const codec *up; /* uplink compressor */
    const double *up_p;
    const kern *k;
    /* NULL, or a robust rule in place of the mean, or noise over it; then `kept` is the
     * driver's memory of fl_round_bytes(), from server_begin to server_close. */
    const aggregate_rule *robust;
    const privacy_rule *privacy;
    void *kept;
    pool *pool; /* for server_close; NULL: one thread */
    /* Called with a part of the server's state that this call will not touch again: a
     * driver whose state lies in a file can let it out of memory.  NULL: no need. */
    void (*release)(void *ctx, const void *p, size_t n);
    void *release_ctx;
} fl_env;

enum {
    FL_NEEDS_UNBIASED = 1u << 0, /* refuse a codec that is only contractive */
    FL_CLIENT_STATE = 1u << 1, /* clients may keep client_bytes (0: none) between rounds */
    FL_TAKES_SIGNS = 1u << 2,  /* sound with a codec that keeps directions alone */
    FL_EVERY_CLIENT = 1u << 3, /* every client in every round, or the state goes wrong */
    FL_WHOLE_COHORT = 1u << 4, /* whoever is chosen answers: nobody asked in vain */
    FL_ROBUST = 1u << 5,  /* a robust rule may stand in for its mean (average.h) */
    FL_PRIVATE = 1u << 6, /* so may a noisy one */
};

typedef struct fl_algo fl_algo;
typedef struct fl_recipe fl_recipe;
struct fl_algo {
    const char *name, *summary, *source;
    unsigned flags;
    const param *params;
    /* Combinations of parameters and codec that make no sense; may be NULL. */
    om_status (*check)(const fl_recipe *r, om_err *err);
    size_t (*server_bytes)(const fl_env *e);
    size_t (*client_bytes)(const fl_env *e);
    size_t (*scratch_bytes)(const fl_env *e); /* for any one call below */
    size_t (*up_bound)(const fl_env *e);      /* most bytes of one up message */
    size_t (*down_bound)(const fl_env *e);
    om_status (*server_open)(const fl_env *e, void *server, const float *x0, om_err *err);
    om_status (*server_begin)(const fl_env *e, void *server, buf *down, om_err *err);
    /* `client` (zero at first) is moved on as if the message will be accepted: a driver
     * that can lose it keeps the old bytes until the server has said yes. */
    om_status (*client_step)(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                             const uint8_t *down, size_t down_n, buf *up, double *loss,
                             arena scratch, om_err *err);
    /* samples: the client's n_samples (weights the mean where the algorithm says so).
     * A refusal (malformed message, id not above the one before, absurd sample count)
     * leaves the server as it was. */
    om_status (*server_recv)(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                             const uint8_t *up, size_t up_n, arena scratch, om_err *err);
    /* Would server_recv take this message, apart from its place in the order?  Touches
     * nothing but zeros (dim), which stay zero: a driver can refuse an update at the
     * door instead of at the close. */
    om_status (*server_check)(const fl_env *e, uint32_t id, uint64_t samples,
                              const uint8_t *up, size_t up_n, float *zeros, om_err *err);
    /* The L2 norm of what the message adds to the model (before weighting): a driver may
     * refuse what is too large.  Of a message that server_check takes; zeros as there.
     * NULL: the messages of this algorithm have no such norm. */
    om_status (*server_norm)(const fl_env *e, const uint8_t *up, size_t up_n, float *zeros,
                             double *norm, om_err *err);
    /* The new model.  On failure (nothing finite came out) the old model stands. */
    om_status (*server_close)(const fl_env *e, void *server, arena scratch, om_err *err);
    const float *(*model)(const fl_env *e, const void *server); /* (dim) */
    /* For attacks in the simulator: what a message says, added to y (dim); and a message of
     * that `kind` (its first byte) that says x.  NULL: messages are the codec's alone. */
    om_status (*up_read)(const fl_env *e, const uint8_t *up, size_t up_n, float *y,
                         om_err *err);
    om_status (*up_write)(const fl_env *e, uint8_t kind, const float *x, rng r, buf *up,
                          arena scratch, om_err *err);
    /* Or NULL.  After the close, for each client whose message was received: the new
     * model, for methods whose clients finish the round with it and may then be away for
     * long.  Only drivers that say so can run such a method (fl_drive.ends). */
    void (*client_end)(const fl_env *e, uint32_t id, void *client, const float *model);
};

/* States are handed over 64-byte aligned.  server_begin forgets what was received, so a
 * round that was interrupted is run again from the state of the last server_close. */
extern const fl_algo *const fl_algos[]; /* ends with NULL */
const fl_algo *fl_algo_find(str name);

/* Bytes of fl_env.kept for this cohort; 0 when the rule is the mean. */
size_t fl_round_bytes(const fl_env *e);

/* ---- recipe.c ---- */

/* Find rows, check that the codec is of a class the algorithm allows, fill defaults and
 * overrides ("lr=0.1,local_steps=5"): one place for simulator, coordinator and agent. */
struct fl_recipe {
    const fl_algo *algo;
    double p[32];
    const codec *up;
    double up_p[16];
    aggregate_rule robust;
    privacy_rule privacy;
};
om_status fl_recipe_of(str algo, str algo_params, str codec_name, str codec_params,
                       fl_recipe *out, om_err *err);
/* Who takes part, as a driver sees it. */
typedef struct {
    uint32_t n_clients, asked, cohort, least; /* chosen, wanted, enough to close a round */
    bool ends; /* calls client_end */
} fl_drive;
/* What depends on it: refuses an algorithm that this drive would break, and tells a codec
 * that deals coordinates to clients how many there are.  Every driver calls it first. */
om_status fl_recipe_drive(fl_recipe *r, const fl_drive *d, om_err *err);
/* "krum" and "num_byzantine=3,pre=nnm" over what r holds; "" is the mean. */
om_status fl_recipe_robust(fl_recipe *r, str name, str params, om_err *err);
/* privacy_settle, where privacy is on: before a run of `rounds`. */
om_status fl_recipe_private(fl_recipe *r, uint32_t wanted, uint32_t n_clients,
                            uint32_t rounds, om_err *err);
/* The checks alone, after p or up_p were changed by param_set. */
om_status fl_recipe_check(const fl_recipe *r, om_err *err);

/* The coins of a client's message: of its own, or, for a codec whose messages belong
 * together, the round's, with the client's id as counter. */
rng fl_codec_rng(const fl_env *e, uint32_t id);

/* Seeded choice of `want` <= n distinct clients of `n` for a round, ascending, each set
 * equally likely. scratch: fl_cohort_bytes(n). */
void fl_cohort(uint64_t seed, uint32_t round, uint32_t n, uint32_t want, uint32_t *out,
               arena scratch);
size_t fl_cohort_bytes(uint32_t n);

/* The sample at place i of the shuffle of n samples named by key: a permutation without
 * memory, so a minibatch is found without shuffling anything.  Minibatch number c of
 * size b is places [c b, min(n, (c+1) b)). */
uint64_t fl_pick(uint64_t key, uint64_t n, uint64_t i);

/* For algorithms: those bytes of the state are done with in this call. */
static inline void fl_release(const fl_env *e, const void *p, size_t n)
{
    if (e->release)
        e->release(e->release_ctx, p, n);
}

#endif
