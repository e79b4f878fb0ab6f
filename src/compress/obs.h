/* obs.h - weights removed from a layer so that the others make up for them.
 *
 * Optimal brain surgeon (Hassibi and Stork 1993) on the layer's output error
 * tr (V - W) H (V - W)^T, H (n,n) the damped second moments of its input.  Removing a set q
 * of a row's weights w, the best values of the others are
 *
 *     V = w - lambda^T (H^-1)_q,      (H^-1)_qq lambda = w_q.
 *
 * With H = U D U^T (ldl.h) and R = U^-1, unit upper triangular, H^-1 = R^T D^-1 R; and the
 * inverse of what is left of H from column k on is that of R's and D's tails, so that
 * columns are treated in order, a block at a time, with one factor.  A block gives every
 * row a vector c of its errors in the coordinates of D, and all columns behind it get
 * c R: what is left is at the minimum given the columns before. */
#ifndef COMPRESS_OBS_H
#define COMPRESS_OBS_H

#include "compress/ldl.h"

typedef struct {
    size_t n;
    float *r; /* (n,n), rows; zero below the diagonal, the diagonal 1 */
    float *d; /* (n) positive */
} obs;

/* As ldl_factor. */
om_status obs_factor(const float *h, size_t n, double damp, const kern *k, pool *p,
                     obs *out, om_err *err);
void obs_free(obs *f);

/* One row's columns [k0, k0 + n): w (n) as the blocks before left them.  Removes what it
 * removes, moves the block's others, and writes the errors into c (n, zeroed). */
typedef void obs_row(void *ctx, size_t row, size_t k0, size_t n, float *w, float *c,
                     int worker);
/* Before a block's rows: w (rows, cols) as it stands. */
typedef om_status obs_begin(void *ctx, size_t k0, size_t n, const float *w, om_err *err);
om_status obs_sweep(const obs *f, float *w, size_t rows, size_t block, const kern *k,
                    pool *p, obs_begin *begin, obs_row *row, void *ctx, om_err *err);

/* The joint removal of a mask, for obs_row: keep (n) of a block, g (n,n) from obs_block. */
void obs_block(const obs *f, size_t k0, size_t n, double *g);
/* scratch: obs_joint_room(n) doubles. */
size_t obs_joint_room(size_t n);
void obs_joint(const obs *f, size_t k0, size_t n, const double *g, const uint8_t *keep,
               float *w, float *c, double *scratch);

/* Columns that are not kept, the same of every row, are set to zero and all others to
 * their best values: W_K + W_q H_qK H_KK^-1.  w (rows, n) is changed in place. */
om_status obs_drop(const float *h, size_t n, double damp, const uint8_t *keep, float *w,
                   size_t rows, const kern *k, pool *p, om_err *err);

#endif
