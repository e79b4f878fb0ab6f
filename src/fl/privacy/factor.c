/* factor.c - see factor.h. */
#include "fl/privacy/factor.h"

#include <math.h>

void factor_sqrt(size_t bands, bool unit, double *c)
{
    double sum = 0;
    for (size_t k = 0; k < bands; k++) {
        c[k] = k ? c[k - 1] * (2 * (double)k - 1) / (2 * (double)k) : 1;
        sum += c[k] * c[k];
    }
    for (size_t k = 0; unit && k < bands; k++)
        c[k] /= sqrt(sum);
}

double factor_sensitivity2(const double *c, size_t bands, uint32_t k)
{
    double sum = 0;
    for (size_t i = 0; i < bands; i++)
        sum += c[i] * c[i];
    return k * sum; /* columns b apart do not meet */
}

double factor_sensitivity2_any(const double *c, size_t bands, size_t n, size_t s,
                               uint32_t k)
{
    double sum = 0;
    for (size_t row = 0; row < n; row++) {
        double v = 0;
        for (uint32_t j = 0; j < k && j * s <= row; j++)
            v += row - j * s < bands ? c[row - j * s] : 0;
        sum += v * v;
    }
    return sum;
}

void factor_error(const double *c, size_t bands, size_t n, double sens2, double *worst,
                  double *mean, double *scratch)
{
    double *inverse = scratch, *prefix = scratch + n, so_far = 0;
    *worst = *mean = 0;
    for (size_t t = 0; t < n; t++) {
        double v = t == 0;
        for (size_t j = 1; j < bands && j <= t; j++)
            v -= c[j] * inverse[t - j];
        inverse[t] = v / c[0];
        prefix[t] = inverse[t] + (t ? prefix[t - 1] : 0);
        so_far += prefix[t] * prefix[t];
        *worst = fmax(*worst, sens2 * so_far);
        *mean += sens2 * so_far / (double)n;
    }
}

double factor_next(const double *c, size_t bands, uint64_t t, double w, double *past,
                   size_t d, size_t i)
{
    size_t ring = bands - 1;
    for (size_t j = 1; j < bands && j <= t; j++)
        w -= c[j] * past[(size_t)((t - j) % ring) * d + i];
    w /= c[0];
    if (ring)
        past[(size_t)(t % ring) * d + i] = w;
    return w;
}

void factor_step(const double *c, size_t bands, uint64_t t, double *noise, double *past,
                 size_t d)
{
    for (size_t i = 0; i < d; i++)
        noise[i] = factor_next(c, bands, t, noise[i], past, d, i);
}
