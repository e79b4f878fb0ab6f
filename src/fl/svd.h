/* svd.h - the singular value decomposition of a small dense matrix. */
#ifndef FL_SVD_H
#define FL_SVD_H

#include "base/base.h"

/* X = U diag(s) V' for X (m rows, n columns), m >= n, column after column in u, which
 * becomes U; s (n) descending; v (n, n), column after column.  A column of U whose singular
 * value is zero is zero; V is orthogonal always.  One-sided Jacobi (Hestenes 1958): small
 * singular values keep their relative accuracy. */
void svd_thin(double *u, size_t m, size_t n, double *s, double *v);

#endif
