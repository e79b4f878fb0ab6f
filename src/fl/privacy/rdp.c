/* rdp.c - Renyi accounting; see accountant.h. */
#include "fl/privacy/accountant.h"

#include <math.h>

static double log_add(double a, double b)
{
    double hi = fmax(a, b), lo = fmin(a, b);
    return isinf(hi) ? hi : hi + log1p(exp(lo - hi));
}

static double log_binomial(double a, double i)
{
    return lgamma(a + 1) - lgamma(i + 1) - lgamma(a - i + 1);
}

/* log A for whole a: sum over i of C(a,i) q^i (1-q)^(a-i) exp((i^2 - i) / (2 z^2)) */
static double log_moment_whole(double q, double z, double a)
{
    double sum = -HUGE_VAL;
    for (double i = 0; i <= a; i++)
        sum = log_add(sum, log_binomial(a, i) + i * log(q) + (a - i) * log1p(-q) +
                               (i * i - i) / (2 * z * z));
    return sum;
}

/* log of erfc(x) / 2, also where erfc underflows. */
static double log_half_erfc(double x)
{
    if (x < 20)
        return log(0.5 * erfc(x));
    double x2 = x * x;
    return -x2 - log(2 * x * sqrt(acos(-1.0))) + log1p(-0.5 / x2 + 0.75 / (x2 * x2));
}

/* A signed sum in the log domain. */
typedef struct {
    double log_abs;
    double sign;
} signed_log;

static void add_signed(signed_log *s, double log_abs, double sign)
{
    if (isinf(log_abs) && log_abs < 0)
        return;
    if (isinf(s->log_abs)) {
        *s = (signed_log){log_abs, sign};
        return;
    }
    double hi = fmax(s->log_abs, log_abs);
    double v = s->sign * exp(s->log_abs - hi) + sign * exp(log_abs - hi);
    s->sign = v < 0 ? -1 : 1;
    s->log_abs = v < 0 || v > 0 ? hi + log(fabs(v)) : -HUGE_VAL;
}

/* log A for fractional a: two infinite series that meet at z0, with generalised binomials
 * C(a, i), whose sign alternates past i = a. */
static double log_moment_fractional(double q, double z, double a)
{
    double z0 = z * z * log(1 / q - 1) + 0.5, log_c = 0, sign = 1;
    signed_log sum = {-HUGE_VAL, 1};
    for (double i = 0; i < 100000; i++) {
        double j = a - i;
        double t0 = log_c + i * log(q) + j * log1p(-q) + (i * i - i) / (2 * z * z) +
                    log_half_erfc((i - z0) / (z * sqrt(2.0)));
        double t1 = log_c + j * log(q) + i * log1p(-q) + (j * j - j) / (2 * z * z) +
                    log_half_erfc((z0 - j) / (z * sqrt(2.0)));
        add_signed(&sum, t0, sign);
        add_signed(&sum, t1, sign);
        if (i > a && fmax(t0, t1) < sum.log_abs - 40)
            break;
        log_c += log(fabs(a - i)) - log(i + 1);
        sign *= a - i < 0 ? -1 : 1;
    }
    return sum.log_abs;
}

double rdp_round(double q, double z, double a)
{
    if (z <= 0)
        return q > 0 ? HUGE_VAL : 0;
    if (q <= 0)
        return 0;
    if (q >= 1)
        return a / (2 * z * z);
    bool whole = fabs(a - floor(a + 0.5)) < 1e-9;
    double m = whole ? log_moment_whole(q, z, floor(a + 0.5))
                     : log_moment_fractional(q, z, a);
    return fmax(m, 0) / (a - 1);
}

size_t rdp_orders(const double **order)
{
    static const double all[] = {
        1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2,   2.1, 2.2,  2.3, 2.4, 2.5, 2.6,
        2.7, 2.8, 2.9, 3,   3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 3.7, 3.8,  3.9, 4,   4.1, 4.2,
        4.3, 4.4, 4.5, 4.6, 4.7, 4.8, 4.9, 5,   5.1, 5.2, 5.3, 5.4,  5.5, 5.6, 5.7, 5.8,
        5.9, 6,   6.1, 6.2, 6.3, 6.4, 6.5, 6.6, 6.7, 6.8, 6.9, 7,    7.1, 7.2, 7.3, 7.4,
        7.5, 7.6, 7.7, 7.8, 7.9, 8,   8.1, 8.2, 8.3, 8.4, 8.5, 8.6,  8.7, 8.8, 8.9, 9,
        9.1, 9.2, 9.3, 9.4, 9.5, 9.6, 9.7, 9.8, 9.9, 10,  10.1, 10.2, 10.3, 10.4, 10.5,
        10.6, 10.7, 10.8, 10.9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25,
        26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46,
        47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 128, 256, 512,
        1024};
    *order = all;
    return countof(all);
}

double rdp_to_epsilon(double rdp, double order, double delta)
{
    if (delta * delta + expm1(-rdp) > 0)
        return 0;
    return fmax(rdp + log1p(-1 / order) - log(delta * order) / (order - 1), 0);
}

double rdp_to_delta(double rdp, double order, double epsilon)
{
    double direct = (order - 1) * (rdp - epsilon + log1p(-1 / order)) - log(order);
    return fmin(exp(fmin(direct, 0)), sqrt(-expm1(-rdp)));
}

double rdp_epsilon(double q, double z, double rounds, double delta, double *order)
{
    const double *a;
    size_t n = rdp_orders(&a);
    double best = HUGE_VAL;
    for (size_t i = 0; i < n; i++) {
        double e = rdp_to_epsilon(rounds * rdp_round(q, z, a[i]), a[i], delta);
        if (e >= best)
            continue;
        best = e;
        if (order)
            *order = a[i];
    }
    return best;
}

/* ---- other mechanisms ---- */

double rdp_tree(double z, uint64_t leaves, double a)
{
    double levels = 0;
    while (((uint64_t)1 << (int)levels) < leaves + 1)
        levels++;
    return a * levels / (2 * z * z);
}

double ddgauss_tau(uint32_t n, double sigma)
{
    double sum = 0, pi = acos(-1.0);
    for (double k = 1; k < n; k++)
        sum += exp(-2 * pi * pi * sigma * sigma * k / (k + 1));
    return 10 * sum;
}

double rdp_ddgauss(double l2, double l1, double d, uint32_t n, double sigma, double a)
{
    double tau = ddgauss_tau(n, sigma), unit = sqrt((double)n) * sigma;
    double d2 = l2 / unit, d1 = l1 / unit;
    double x = a * d2 * d2 / 2 + tau * d;
    double y = a / 2 * (d2 * d2 + 2 * d1 * tau + tau * tau * d);
    double w = a / 2 * (d2 + sqrt(d) * tau) * (d2 + sqrt(d) * tau);
    return fmin(x, fmin(y, w));
}

double rdp_skellam(double l1, double l2, double mu, double s, double a)
{
    double first = ((2 * a - 1) * s * l2 * l2 + 6 * l1) / (4 * s * s * s * mu * mu);
    return a * l2 * l2 / (2 * mu) + fmin(first, 3 * l1 / (2 * s * mu));
}

double rdp_skellam_grid(double z, double a)
{
    double reach = 64, mu = z * z * reach * reach;
    return rdp_skellam(reach * reach / 2, reach, mu, 1, a);
}

double rdp_sampled(double q, double a, double (*rdp)(double z, double order), double z)
{
    double sum = (a - 1) * log1p(-q) + log(a * q - q + 1);
    for (double l = 2; l <= a; l++) {
        double term = log_binomial(a, l) + l * log(q) + (a - l) * log1p(-q) +
                      (l - 1) * rdp(z, l);
        sum = log_add(sum, term + (l > 2 ? log(3) : 0));
    }
    return fmax(sum, 0) / (a - 1);
}

/* ---- the Gaussian mechanism ---- */

static double upper(double x) { return 0.5 * erfc(x / sqrt(2.0)); } /* P(N > x) */

double gaussian_delta(double s, double epsilon)
{
    double t = epsilon * s + 1 / (2 * s), lo = t - 1 / s;
    /* Far out both terms are tiny and e^eps huge: the second in logs. */
    return fmax(upper(lo) - exp(epsilon + log_half_erfc(t / sqrt(2.0))), 0);
}

double gaussian_sigma(double epsilon, double delta)
{
    double lo = 1e-6, hi = 1e-6;
    while (gaussian_delta(hi, epsilon) > delta && hi < 1e12)
        hi *= 2;
    for (int i = 0; i < 200 && lo < hi; i++) {
        double mid = 0.5 * (lo + hi);
        if (gaussian_delta(mid, epsilon) > delta)
            lo = mid;
        else
            hi = mid;
    }
    return hi;
}
