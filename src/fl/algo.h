/* algo.h - a federated algorithm, seen from the round loop.
 *
 * ONE OBJECT, THREE DRIVERS: the simulator (threads), later MPI, and the network drive
 * the same functions.  A round is
 *
 *     server_begin -> down message -> each client of the cohort: client_step -> up message
 *     -> server_recv for each accepted message IN ASCENDING CLIENT ID -> server_close
 *
 * An asynchronous row (fl_algo.async) has versions for rounds: a client begins with the
 * newest down message whenever it is free, its message is taken when it arrives, and the
 * method says which arrival closes the version; see fl_async.
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

/* Examples of a minibatch, arrays of `batch`, any of them NULL.  score: above 0 speaks for
 * the positive class; not a number where there are not two classes. */
typedef struct {
    float *score, *loss;
    float *sign; /* +1: positive, -1 */
} fl_rows;

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
    /* sgrad (batch 0: grad) given up after `patience` seconds; *done: was it in time, else
     * g is nothing.  NULL: nobody has the time, every gradient is finished. */
    om_status (*attempt)(void *ctx, const float *x, uint32_t batch, rng r, double patience,
                         float *g, bool *done, double *loss, om_err *err);
    om_status (*value)(void *ctx, const float *x, double *loss, om_err *err);
    om_status (*hvp)(void *ctx, const float *x, const float *v, float *hv, om_err *err);
    /* h (dim, dim) = the Hessian at x, both triangles. */
    om_status (*hess)(void *ctx, const float *x, float *h, om_err *err);
    /* Value, gradient (dim) and Hessian at x from one pass over the data; g and h may be
     * NULL.  x, value and gradient in double, as Newton's methods end at |g| = 1e-16; h in
     * float, packed as in fl/linalg.h, as it need only be near. */
    om_status (*jet)(void *ctx, const double *x, double *loss, double *g, float *h,
                     om_err *err);
    /* For objectives that are not a mean of losses; NULL: the problem has no labelled
     * examples.  rows: how each example of the minibatch fares, its number (at most batch)
     * in *n.  pull: g = sum_j dscore_j grad score_j + dloss_j grad loss_j + the gradient of
     * the regulariser; dscore or dloss (n) may be NULL.  The same r is the same examples. */
    om_status (*rows)(void *ctx, const float *x, uint32_t batch, rng r,
                      const fl_rows *out, uint32_t *n, om_err *err);
    om_status (*pull)(void *ctx, const float *x, uint32_t batch, rng r,
                      const float *dscore, const float *dloss, float *g, om_err *err);
    /* Examples of the class with positive scores; NULL: there are not two classes. */
    uint64_t (*positives)(void *ctx);
} fl_oracle;

/* A Hessian from dim products with unit vectors: for problems with nothing better. */
om_status fl_hess_by_hvp(void *ctx,
                         om_status (*hvp)(void *ctx, const float *x, const float *v,
                                          float *hv, om_err *err),
                         size_t dim, const float *x, float *h, om_err *err);

/* What is known of the clients' speeds, for methods that plan with them. */
typedef struct {
    void *ctx;
    /* Seconds within which this part (0 to below 1) of a client's gradients over batch
     * samples (0: all its data) is finished; and the part that is within these seconds. */
    double (*gradient)(void *ctx, uint32_t id, uint32_t batch, double part);
    double (*finished)(void *ctx, uint32_t id, uint32_t batch, double seconds);
    double (*message)(void *ctx, uint32_t id, size_t bytes); /* seconds on the way up */
} fl_pace;

/* Matrices inside the flat vector, for methods that move along low rank (lowrank.h). */
typedef struct {
    size_t a, b; /* where A (rank, cols) and B (rows, rank) lie; with rank 0: the matrix
                    itself, (rows, cols), at a */
    uint32_t rows, cols;
} fl_matrix;

typedef struct {
    const fl_matrix *m; /* (n) */
    uint32_t n;
    uint32_t rank;         /* of the pairs in the vector; 0: it holds whole matrices */
    const uint32_t *ranks; /* (n_ranks) client i has ranks[i % n_ranks]; none: rank */
    uint32_t n_ranks;
    /* (dim) what every client holds before the first round, so that nobody sends it: the
     * base's own weights, or the factors that the seed gives. */
    const float *start;
} fl_shape;

typedef struct {
    size_t dim;
    uint32_t n_clients; /* population */
    uint32_t cohort;    /* clients whose update closes the round; asynchronous: at work */
    /* From 0; asynchronous: the version at the server, and in client_step how many steps
     * this client has begun before, so that no two draw the same. */
    uint32_t round;
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
    const fl_pace *pace; /* NULL: not known */
    pool *pool; /* for server_close; NULL: one thread */
    const fl_shape *shape; /* NULL: not known; see FL_PAIRS, FL_MATRICES */
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
    FL_KNOWS_PACE = 1u << 6, /* plans with fl_env.pace */
    FL_PRIVATE = 1u << 7, /* a noisy rule may stand in for its mean, like a robust one */
    FL_PAIRS = 1u << 8,    /* the vector is low-rank pairs, and env.shape says where */
    FL_MATRICES = 1u << 9, /* it holds whole matrices, likewise */
    FL_RANKS = 1u << 10,   /* its clients may differ in rank */
    FL_SCORES = 1u << 11, /* needs an oracle with rows, pull and two classes */
};

/* A message that arrives: `age` versions were closed since the one it is computed at. */
typedef struct {
    uint32_t id, age;
    uint64_t samples;
    const uint8_t *up;
    size_t up_n;
} fl_arrival;

/* What makes a method asynchronous.  The driver hands out the newest version, refuses what
 * is too old, takes the rest in order of arrival, and once `full` calls server_close and
 * server_begin, which open the next version.  The same row goes by rounds too, all ages 0:
 * server_recv is take without the order of arrival. */
typedef struct {
    uint32_t (*oldest)(const fl_env *e); /* greatest age that is of use */
    /* Is a client stopped, to begin anew, as soon as its message would be too old? */
    bool (*stops)(const fl_env *e);
    /* Samples whose gradients one client_step of a client with so many evaluates. */
    uint64_t (*work)(const fl_env *e, uint64_t samples);
    /* As server_recv: a refusal leaves the server as it was. */
    om_status (*take)(const fl_env *e, void *server, const fl_arrival *a, arena scratch,
                      om_err *err);
    bool (*full)(const fl_env *e, const void *server);
} fl_async;

typedef struct fl_algo fl_algo;
typedef struct fl_recipe fl_recipe;
struct fl_algo {
    const char *name, *summary, *source;
    unsigned flags;
    const param *params;
    const fl_async *async; /* NULL: it goes by rounds alone */
    /* Combinations of parameters and codec that make no sense; may be NULL. */
    om_status (*check)(const fl_recipe *r, om_err *err);
    size_t (*server_bytes)(const fl_env *e);
    size_t (*client_bytes)(const fl_env *e);
    size_t (*scratch_bytes)(const fl_env *e); /* for any one call below */
    size_t (*up_bound)(const fl_env *e);      /* most bytes of one up message */
    size_t (*down_bound)(const fl_env *e);
    /* How much of the down message client id needs: a prefix of it, where clients differ
     * in size.  NULL: all. */
    size_t (*down_part)(const fl_env *e, uint32_t id, const uint8_t *down, size_t n);
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
    /* Or NULL: the norm of the mean gradient where the last round began, in double; NAN
     * before the first. */
    double (*slope)(const fl_env *e, const void *server);
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
    bool ends;     /* calls client_end */
    bool arrivals; /* takes messages as they come (fl_async) */
    bool paced;    /* knows fl_env.pace */
    const fl_shape *shape; /* as in fl_env */
} fl_drive;
/* What depends on it: refuses an algorithm that this drive would break, and tells a codec
 * that deals coordinates to clients how many there are.  Every driver calls it first. */
om_status fl_recipe_drive(fl_recipe *r, const fl_drive *d, om_err *err);
/* The asynchronous version of r (fedavg's is fedbuff), parameters kept by name; refuses,
 * naming the nearest, where there is none. */
om_status fl_recipe_async(fl_recipe *r, om_err *err);
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
