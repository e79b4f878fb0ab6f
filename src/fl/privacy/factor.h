/* factor.h - correlated noise for sums over rounds: DP-FTRL by matrix factorisation.
 *
 * The server shows every prefix sum of the rounds' updates.  Noise C^-1 w, with w
 * independent, hides them like ONE Gaussian mechanism of sensitivity sens(C), and most of
 * it cancels in later prefixes (Kairouz et al. 2021, arXiv 2103.00039; Choquette-Choo et
 * al. 2023, arXiv 2306.08153).  C is banded Toeplitz, c_0..c_{b-1}: round t's noise is
 *
 *     u_t = (w_t - sum_{j=1}^{b-1} c_j u_{t-j}) / c_0
 *
 * and a client may take part again after b rounds or more.  No sampling of clients needs
 * to be believed. */
#ifndef FL_PRIVACY_FACTOR_H
#define FL_PRIVACY_FACTOR_H

#include "base/base.h"

/* c (bands): the first coefficients of the square root of the prefix sum, the best
 * Toeplitz factor for one epoch, scaled to length 1 when `unit`. */
void factor_sqrt(size_t bands, bool unit, double *c);
/* sens^2 when a client takes part k times, at least `bands` rounds apart. */
double factor_sensitivity2(const double *c, size_t bands, uint32_t k);
/* The same for decreasing coefficients and any separation s (rounds n). */
double factor_sensitivity2_any(const double *c, size_t bands, size_t n, size_t s,
                               uint32_t k);
/* Squared error of the prefix sums over n rounds, per unit of noise^2: the worst and the
 * mean, sens2 included.  scratch: 2 n doubles. */
void factor_error(const double *c, size_t bands, size_t n, double sens2, double *worst,
                  double *mean, double *scratch);
/* noise (d), w_t at first, becomes u_t; past (bands - 1, d) is a ring of earlier u. */
void factor_step(const double *c, size_t bands, uint64_t t, double *noise, double *past,
                 size_t d);
/* The same for number i alone: w_t to u_t. */
double factor_next(const double *c, size_t bands, uint64_t t, double w, double *past,
                   size_t d, size_t i);

#endif
