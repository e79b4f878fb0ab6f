/* lowrank.h - what the federated methods of low rank share: clients of unequal rank,
 * factors in the order of their rank, and local training of the factors.
 *
 * A model of PAIRS (FL_PAIRS) is the flat vector of adapt/trainable.c: for each adapted
 * matrix A (rank, cols) and B (rows, rank), W += s B A.  A client of rank r has the first
 * r rows of every A and columns of every B.  One s serves all ranks, so that a factor
 * means the same wherever it lies.
 *
 * A model of MATRICES (FL_MATRICES) holds W itself; the factors live at the clients, and
 * their gradients come from that of W:  dB = s G A',  dA = s B' G.
 *
 * Messages put factors in the order of the rank: row 0 of every A with column 0 of every
 * B, then row 1 ...  So what a client of a smaller rank needs is a prefix. */
#ifndef FL_LOWRANK_H
#define FL_LOWRANK_H

#include "fl/average.h"
#include "fl/local.h"

enum { LOWRANK_MOST = 1024 };

typedef enum { SIDE_BOTH, SIDE_A, SIDE_B } lowrank_side; /* which factors travel */

/* The rank of a client, at most `most`. */
uint32_t lowrank_rank(const fl_env *e, uint32_t id, uint32_t most);
/* Numbers of the factors of rank r over all matrices. */
size_t lowrank_len(const fl_env *e, uint32_t r, lowrank_side side);
/* The largest rank that no matrix is too small for. */
uint32_t lowrank_limit(const fl_env *e);

/* ---- pairs ---- */

/* z = the factors of rank r of x, in the order of messages; and back. */
void pairs_take(const fl_env *e, const float *x, uint32_t r, lowrank_side side, float *z);
void pairs_put(const fl_env *e, const float *z, uint32_t r, lowrank_side side, float *x);

/* The server's state: that of average.h with the weight each rank got (vector 2). */
om_status pairs_begin(const fl_env *e, void *server, lowrank_side side, buf *down,
                      om_err *err);
size_t pairs_down_part(const fl_env *e, uint32_t id, lowrank_side side);

/* A pull that shrinks the last ranks of a client, from `tail` on (HetLoRA):
 * strength * sum over matrices |A_tail| |B_tail|. */
typedef struct {
    double strength;
    uint32_t tail;
} pairs_pull;
double pairs_tail(const fl_env *e, const float *z, uint32_t r, uint32_t tail);

/* One client's round: reads the down message to z and trains y from it, both (dim), of
 * which lowrank_len(r) are used.  What does not travel stays as it was at the start. */
om_status pairs_train(const fl_env *e, uint32_t id, const fl_oracle *f, uint32_t r,
                      lowrank_side side, pairs_pull pull, const uint8_t *down,
                      size_t down_n, float *z, float *y, double *loss, arena scratch,
                      om_err *err);
/* Up message: r as u32, then C(delta); error: local_client_bytes(e) of the client's state. */
om_status pairs_send(const fl_env *e, uint32_t id, void *error, uint32_t r,
                     lowrank_side side, float *delta, buf *up, arena scratch, om_err *err);
size_t pairs_scratch_bytes(const fl_env *e); /* of the two, and of the server's calls */
size_t pairs_up_bound(const fl_env *e);
om_status pairs_check_recipe(const fl_recipe *r, om_err *err);

/* Reads an up message to z (dim) and its rank.  any: the client chooses its rank. */
om_status pairs_read(const fl_env *e, uint32_t id, bool any, lowrank_side side,
                     const uint8_t *up, size_t n, float *z, uint32_t *r, om_err *err);
om_status pairs_check(const fl_env *e, uint32_t id, uint64_t samples, bool any,
                      lowrank_side side, const uint8_t *up, size_t n, float *zeros,
                      om_err *err);
/* sum += weight z for the ranks there are. */
void pairs_add(const fl_env *e, void *server, uint32_t id, uint32_t r, lowrank_side side,
               double weight, const float *z);
/* x = mean of the clients' factors, those of a smaller rank filled up with zeros. */
om_status pairs_close(const fl_env *e, void *server, lowrank_side side, arena scratch,
                      om_err *err);

/* ---- matrices ---- */

/* Both factors of rank r in the order of messages, of which one may be fixed. */
typedef struct {
    const fl_env *e;
    const fl_oracle *inner;
    uint32_t r;
    lowrank_side side;  /* which are trained */
    float scale;
    const float *w;     /* (dim) the model under them */
    const float *fixed; /* the other side's factors; NULL with SIDE_BOTH */
    float *full, *grad; /* (dim) scratch */
} lowrank_view;

/* w += scale B A for the factors z of `side` (and the fixed ones). */
void lowrank_apply(const fl_env *e, uint32_t r, lowrank_side side, float scale,
                   const float *z, const float *fixed, float *w);
/* The client's function of the factors alone; v must outlive it. */
fl_oracle lowrank_oracle(lowrank_view *v);
/* Local training of z (n numbers; overwritten): lowrank_len(e, v->r, v->side). */
om_status lowrank_train(lowrank_view *v, uint32_t id, float *z, double *loss,
                        arena scratch, om_err *err);
size_t lowrank_train_bytes(const fl_env *e);

/* Random frames, the same on every device: for each matrix r orthonormal vectors, uniform
 * over all such (Gram-Schmidt of Gaussians): columns of B (rows) or rows of A (cols).
 * They depend on seed, round and `use`, never on who asks. */
om_status lowrank_frames(const fl_env *e, uint32_t round, uint32_t r, lowrank_side side,
                         float *out, om_err *err);
/* d = H d for every matrix: B B' D with frames of B, D A' A with frames of A. */
void lowrank_project(const fl_env *e, uint32_t r, lowrank_side side, const float *frames,
                     float *t, float *d);

#endif
