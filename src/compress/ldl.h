/* ldl.h - the factor that carries rounding errors to columns not yet rounded.
 *
 * H (n,n), the damped second moment of a layer's input, is H = U diag(d) U^T with U unit
 * upper triangular.  Columns of W are rounded in order, column k to
 *
 *     V_k = Q( W_k + sum_{j<k} (W_j - V_j) U_jk )
 *
 * and then  tr (W-V) H (W-V)^T = sum_k d_k |Q's own error in column k|^2:  GPTQ (Frantar
 * et al. 2022) in the form of LDLQ (Chee et al. 2023), which needs no inverse of H. */
#ifndef COMPRESS_LDL_H
#define COMPRESS_LDL_H

#include "kern/kern.h"

typedef struct {
    size_t n;
    float *u; /* (n,n), rows; below the diagonal undefined, the diagonal 1 */
    float *d; /* (n) positive */
} ldl;

/* h (n,n) is damped by `damp` times the mean of its diagonal (1 where that is 0) and
 * factored; not changed.  OM_EFORMAT when it holds no number. */
om_status ldl_factor(const float *h, size_t n, double damp, const kern *k, pool *p,
                     ldl *out, om_err *err);
void ldl_free(ldl *f);

/* One row's columns [k0, k0 + n) : t (n) the targets with the feedback of all earlier
 * blocks in it, w (n) the weights themselves.  Writes what the codes will read as into q
 * (n), and the packed block where it keeps it.  Its own feedback is its own affair. */
typedef void ldl_round(void *ctx, size_t row, size_t k0, size_t n, const float *t,
                       const float *w, float *q);
/* W (rows, f->n) through `round`, a block of columns at a time: exact feedback between
 * blocks.  f NULL: none.  Rows may run on several threads. */
om_status ldl_run(const ldl *f, const float *w, size_t rows, size_t cols, size_t block,
                  const kern *k, pool *p, ldl_round *round, void *ctx, om_err *err);

#endif
