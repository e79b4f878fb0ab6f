/* linalg.h - dense symmetric systems in double precision: the one place of the second-order
 * methods' linear algebra.
 *
 * A symmetric matrix of order d is packed as its upper triangle, row after row:
 * (i, j), i <= j, lies at tri_row(d, i) + j.  Work space is (d, d), row-major. */
#ifndef FL_LINALG_H
#define FL_LINALG_H

#include "os/os.h"

static inline size_t tri_size(size_t d) { return d * (d + 1) / 2; }
static inline size_t tri_row(size_t d, size_t i) { return i * d - i * (i + 1) / 2; }

/* a (d, d) upper triangle = packed h + shift I; below it is left alone. */
void tri_unpack(const double *h, size_t d, double shift, double *a);

/* A = U'U in place, A (d, d) by its upper triangle, which becomes U.  False: A is not
 * positive definite (to working precision), and is spoilt.  Same bits for any pool. */
bool cholesky(double *a, size_t d, pool *p);
/* b = (U'U)^-1 b, and b = U'^-1 b */
void cholesky_solve(const double *u, size_t d, double *b);
void cholesky_half(const double *u, size_t d, double *b);

/* y = H x, H packed. */
void tri_times(const double *h, size_t d, const double *x, double *y);

/* A = sum_k w_k v_k v_k', A (d, d) by both triangles, which is spoilt; the v_k are rows of
 * v (d, d), w (d) in no order.  Jacobi's rotations: slow, and exact to the last digits.
 * False: no convergence, which a finite matrix does not show. */
bool sym_eigen(double *a, size_t d, double *w, double *v);

#endif
