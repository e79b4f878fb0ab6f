/* perturb.h - what single units are worth, from losses of a model without many of them.
 *
 * Losses y_k are measured with masks z_k, +1 where a unit stays and -1 where it goes, and
 *
 *     y_k = b + sum_u z_ku beta_u
 *
 * is fitted: beta = a prior + delta, a >= 0 by least squares, delta by ridge regression in
 * its dual form, (Z Z^T + mu I) alpha = rest, delta = Z^T alpha, so that units may be many
 * and masks few.  mu (or delta = 0) is the one whose predictions of held-out masks, five
 * folds, rank them best (Kendall's tau). */
#ifndef COMPRESS_PERTURB_H
#define COMPRESS_PERTURB_H

#include "base/base.h"

/* z (n_masks, n_units) of +1 and -1; y (n_masks), larger is better; prior (n_units);
 * beta (n_units) out. */
om_status perturb_fit(const int8_t *z, const double *y, uint32_t n_masks, uint32_t n_units,
                      const float *prior, float *beta, om_err *err);
/* Kendall's tau of two lists. */
double perturb_tau(const double *x, const double *y, uint32_t n);

#endif
