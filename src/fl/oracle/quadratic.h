/* quadratic.h - clients whose functions are quadratics with a known optimum: what the
 * convergence laws run on.
 *
 *     f_i(x) = 1/2 sum_j a_ij (z_j - c_ij)^2,   z = x - 2 v (v'x),  |v| = 1
 *
 * The Householder reflection couples all coordinates while keeping the curvatures a_ij
 * in [mu, L] exact.  Heterogeneity h moves the clients apart: c_ij = c_j + h n_ij, and
 * a_ij is drawn anew for a part min(h, 1) of the clients' coordinates.  h = 0: all
 * clients have the same function. */
#ifndef FL_ORACLE_QUADRATIC_H
#define FL_ORACLE_QUADRATIC_H

#include "fl/algo.h"

typedef struct {
    size_t dim;
    uint32_t n_clients;
    double mu, smooth;    /* least and largest curvature */
    double heterogeneity; /* h */
    double noise;         /* sgrad: deviation of one sample's gradient, per coordinate */
    bool uneven;          /* 50 to 149 samples each, else 100 */
    uint64_t seed;
} quadratic_config;

typedef struct quadratic quadratic;
om_status quadratic_open(const quadratic_config *c, quadratic **out, om_err *err);
void quadratic_close(quadratic *q);
/* Safe to use from several threads at once. */
void quadratic_oracle(quadratic *q, uint32_t client, fl_oracle *out);
/* x* (dim) of the sample-weighted mean f. */
void quadratic_optimum(const quadratic *q, float *x);
/* f(x), and its gradient g (dim) unless NULL. */
double quadratic_mean(const quadratic *q, const float *x, double *g);

#endif
