/* accountant.h - how much privacy a run has spent.
 *
 * One round: each client takes part with chance q, on its own coins (Poisson sampling; q
 * = 1: everyone, or nobody knows who); the sum of the clipped updates gets normal noise of
 * z clipping lengths.  Adjacent: one client's data more or less.  Two accountants answer
 * for T rounds:
 *
 *     RDP   Renyi divergences add up (Mironov, CSF 2017; Mironov, Talwar, Zhang 2019,
 *           arXiv 1908.10530); quick, a few per cent high
 *     PLD   the privacy loss distribution on a grid, convolved by FFT (Koskela, Jalko,
 *           Honkela, AISTATS 2020; Doroshenko et al., PoPETs 2022, arXiv 2207.04380:
 *           "connect the dots"): an upper bound, and tight
 *
 * Where fractional Renyi orders are summed, public code takes the absolute values of the
 * generalised binomials; here they keep their signs, and the result is the divergence. */
#ifndef FL_PRIVACY_ACCOUNTANT_H
#define FL_PRIVACY_ACCOUNTANT_H

#include "base/base.h"

/* Renyi divergence of order a > 1 of one round; infinite when z is 0. */
double rdp_round(double q, double z, double a);
/* Of T compositions with those divergences at rdp_order(i): the least epsilon, and the
 * order that gave it (may be NULL). */
double rdp_epsilon(double q, double z, double rounds, double delta, double *order);
/* From a divergence to epsilon and back (Canonne, Kamath, Steinke 2020, with the bound on
 * total variation). */
double rdp_to_epsilon(double rdp, double order, double delta);
double rdp_to_delta(double rdp, double order, double epsilon);
size_t rdp_orders(const double **order); /* the orders that are tried */

/* Epsilon of T rounds. OM_EARG: outside what can be computed; OM_ENOMEM. */
om_status pld_epsilon(double q, double z, uint32_t rounds, double delta, double *epsilon,
                      om_err *err);

/* The Gaussian mechanism with deviation sigma per unit of sensitivity, exactly (Balle,
 * Wang, ICML 2018). */
double gaussian_delta(double sigma, double epsilon);
double gaussian_sigma(double epsilon, double delta);

/* ---- other mechanisms ---- */

/* Tree aggregation of one epoch of `leaves` steps: rounds = 1 of this divergence. */
double rdp_tree(double z, uint64_t leaves, double a);
/* A sum of n clients' discrete Gaussians of deviation sigma each (Kairouz, Liu, Steinke,
 * ICML 2021): l2, l1 sensitivity on the integer grid, d coordinates. */
double ddgauss_tau(uint32_t n, double sigma);
double rdp_ddgauss(double l2, double l1, double d, uint32_t n, double sigma, double a);
/* Skellam noise of variance mu and scale s (Agarwal, Kairouz, Liu, NeurIPS 2021); l1, l2
 * and mu in unscaled units. */
double rdp_skellam(double l1, double l2, double mu, double s, double a);

/* The same for privacy.h's grid, a bound that needs no dimension: unit sensitivity of at
 * least 64 steps and 2 sqrt(d), so l1 <= sqrt(d) l2 <= l2^2 / 2 in steps. */
double rdp_skellam_grid(double z, double a);
/* Of a mechanism with divergences rdp(z, order), whole order a, when each takes part with
 * chance q (Zhu, Wang, ICML 2019, theorem 5). */
double rdp_sampled(double q, double a, double (*rdp)(double z, double order), double z);

/* ---- plans ---- */

/* The least noise multiplier (to 0.01 %) that keeps `rounds` within epsilon; the most
 * rounds that z keeps within it (0: not even one).  By PLD. */
om_status privacy_noise_for(double q, uint32_t rounds, double epsilon, double delta,
                            double *z, om_err *err);
om_status privacy_rounds_for(double q, double z, double epsilon, double delta,
                             uint32_t most, uint32_t *rounds, om_err *err);

#endif
