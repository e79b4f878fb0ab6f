/* pld.c - accounting by privacy loss distributions; see accountant.h.
 *
 * The loss of one round lives on the grid l_i = i h.  What lies between two neighbours
 * is laid on them so that its probability under both distributions is kept: then the
 * delta curve joins the points (e^{l_i}, delta(l_i)) by straight lines, above the true
 * curve, which is convex, and equal to it on the grid.  Each cell is computed from its
 * own two ends: second differences of delta would leave 1e-12 of noise in every one.  T
 * rounds are the T-fold convolution: one FFT, each value to the power T, one FFT back,
 * over a window that holds all but 1e-15 of the sum (Chernoff). Removing a client and
 * adding one are two distributions; epsilon is the larger. */
#include "fl/privacy/accountant.h"

#include <math.h>

static const double grid = 1e-4, tail = 1e-15;
enum { MOST_POINTS = 1 << 22, MOST_FFT = 1 << 24 };

typedef struct {
    double q, z;
    bool adding;
} mechanism;

static double below(double x) { return 0.5 * erfc(-x / sqrt(2.0)); }
static double above(double x) { return 0.5 * erfc(x / sqrt(2.0)); }

/* P(lo < N(mean, z) <= hi), by the tail in which it does not cancel. */
static double between(double lo, double hi, double mean, double z)
{
    double a = (lo - mean) / z, b = (hi - mean) / z;
    return fmax(a > 0 ? above(a) - above(b) : below(b) - below(a), 0);
}

/* Without the client the sum is N(0, z); with it, N(0, z) or, with chance q, N(1, z).
 * log(with / without) at x rises with x; this is where it is l. */
static double place(const mechanism *m, double l)
{
    double z2 = m->z * m->z;
    if (m->q >= 1)
        return z2 * l + 0.5;
    double r = expm1(l) + m->q;
    return r > 0 ? z2 * log(r / m->q) + 0.5 : -HUGE_VAL;
}

/* Masses p[0..n) at (first + i) h, and `infinite`. */
typedef struct {
    double h, infinite;
    int64_t first;
    size_t n;
    double *p;
} losses;

/* The loss between two neighbours of the grid: probability `own` under the first
 * distribution, `other` under the second, is laid on the two ends so that both stay. */
static void lay(losses *l, size_t i, double own, double other)
{
    double at = (double)(l->first + (int64_t)i) * l->h;
    double top = fmin(fmax((own - other * exp(at)) / -expm1(-l->h), 0), own);
    l->p[i] += own - top;
    l->p[i + 1] += top;
}

static void fill(const mechanism *m, losses *l)
{
    double sign = m->adding ? -1 : 1, q = m->q, z = m->z;
    double x = place(m, sign * (double)l->first * l->h);
    double without = m->adding ? above(x / z) : below(x / z);
    double with = (1 - q) * without +
                  q * (m->adding ? above((x - 1) / z) : below((x - 1) / z));
    l->p[0] = m->adding ? without : with; /* all losses below the grid */
    for (size_t i = 0; i + 1 < l->n; i++) {
        double y = place(m, sign * (double)(l->first + (int64_t)i + 1) * l->h);
        double lo = fmin(x, y), hi = fmax(x, y);
        without = between(lo, hi, 0, z);
        with = (1 - q) * without + q * between(lo, hi, 1, z);
        if (without > 0 || with > 0)
            lay(l, i, m->adding ? without : with, m->adding ? with : without);
        x = y;
    }
    double last = (double)(l->first + (int64_t)l->n - 1) * l->h;
    without = m->adding ? below(x / z) : above(x / z);
    with = (1 - q) * without +
           q * (m->adding ? below((x - 1) / z) : above((x - 1) / z));
    double own = m->adding ? without : with, other = m->adding ? with : without;
    l->infinite = fmax(own - exp(last) * other, 0);
    l->p[l->n - 1] += own - l->infinite;
}

static om_status one_round(const mechanism *m, losses *l, om_err *err)
{
    double range = (0.5 + 10.2 * m->z) / (m->z * m->z), h = grid;
    while (2 * range / h > MOST_POINTS)
        h *= 2;
    int64_t half = (int64_t)ceil(range / h);
    *l = (losses){.h = h, .first = -half, .n = (size_t)(2 * half + 1)};
    l->p = mem_array(l->n, sizeof(double));
    if (!l->p)
        return fail(err, OM_ENOMEM, "privacy: no memory for %zu losses", l->n);
    fill(m, l);
    return OM_OK;
}

/* At least log sum p e^{order loss}: groups of 64 grid points at their worst end, which
 * only widens the window. */
static double log_moment(const losses *l, double order)
{
    double most = -HUGE_VAL, sum = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < l->n; i += 64) {
            double p = 0;
            size_t end = size_min(i + 64, l->n);
            for (size_t j = i; j < end; j++)
                p += l->p[j];
            double at = (double)(l->first + (int64_t)(order > 0 ? end - 1 : i)) * l->h;
            double v = p > 0 ? log(p) + order * at : -HUGE_VAL;
            if (pass == 0)
                most = fmax(most, v);
            else
                sum += exp(v - most);
        }
    return most + log(sum);
}

/* The sum of T losses lies in [*lo, *hi] h but for 1e-15 at each end. */
static void window(const losses *l, double rounds, int64_t *lo, int64_t *hi)
{
    double most = (double)(l->first + (int64_t)l->n - 1) * l->h * rounds;
    double least = (double)l->first * l->h * rounds;
    for (int k = -4; k <= 10; k++) {
        double order = exp2(k);
        most = fmin(most, (rounds * log_moment(l, order) - log(tail)) / order);
        least = fmax(least, -(rounds * log_moment(l, -order) - log(tail)) / order);
    }
    *lo = (int64_t)floor(least / l->h) - 1;
    *hi = (int64_t)ceil(most / l->h) + 1;
}

/* ---- FFT ---- */

typedef struct {
    double re, im;
} complex_number;

static complex_number times(complex_number a, complex_number b)
{
    return (complex_number){a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

/* In place, n a power of two; root (n / 2): the first half of the n-th roots of unity. */
static void fft(complex_number *v, size_t n, const complex_number *root, bool back)
{
    for (size_t i = 1, j = 0; i < n; i++) {
        size_t bit = n >> 1;
        for (; j & bit; bit >>= 1)
            j ^= bit;
        j ^= bit;
        if (i < j) {
            complex_number t = v[i];
            v[i] = v[j], v[j] = t;
        }
    }
    for (size_t len = 2; len <= n; len *= 2)
        for (size_t i = 0; i < n; i += len)
            for (size_t k = 0; k < len / 2; k++) {
                complex_number w = root[k * (n / len)], *a = &v[i + k], *b = a + len / 2;
                if (back)
                    w.im = -w.im;
                complex_number t = times(*b, w);
                *b = (complex_number){a->re - t.re, a->im - t.im};
                *a = (complex_number){a->re + t.re, a->im + t.im};
            }
}

static complex_number to_power(complex_number v, uint32_t e)
{
    complex_number out = {1, 0};
    for (; e; e >>= 1) {
        if (e & 1)
            out = times(out, v);
        v = times(v, v);
    }
    return out;
}

/* l becomes the sum of T such losses. */
static om_status compose(losses *l, uint32_t rounds, om_err *err)
{
    int64_t lo, hi;
    size_t n = 2;
    window(l, rounds, &lo, &hi);
    while (n < (size_t)(hi - lo + 1) && n <= MOST_FFT)
        n *= 2;
    if (n > MOST_FFT)
        return fail(err, OM_EARG, "privacy: %u rounds with so little noise spread the loss "
                                  "over %g; raise the noise", (unsigned)rounds,
                    (double)(hi - lo) * l->h);
    complex_number *v = mem_array(n + n / 2, sizeof(*v)), *root = v + n;
    if (!v)
        return fail(err, OM_ENOMEM, "privacy: no memory for %zu losses", n);
    for (size_t k = 0; k < n / 2; k++) {
        double turn = -2 * acos(-1.0) * (double)k / (double)n;
        root[k] = (complex_number){cos(turn), sin(turn)};
    }
    for (size_t i = 0; i < l->n; i++)
        v[i % n].re += l->p[i];
    fft(v, n, root, false);
    for (size_t k = 0; k < n; k++)
        v[k] = to_power(v[k], rounds);
    fft(v, n, root, true);
    mem_free(l->p);
    l->p = mem_array(n, sizeof(double));
    if (!l->p) {
        mem_free(v);
        return fail(err, OM_ENOMEM, "privacy: no memory for %zu losses", n);
    }
    /* Place j of the result is the loss first T + j, modulo n; the window starts at lo. */
    int64_t shift = (lo - l->first * (int64_t)rounds) % (int64_t)n;
    for (size_t i = 0; i < n; i++) {
        size_t j = (size_t)((shift + (int64_t)n + (int64_t)i) % (int64_t)n);
        l->p[i] = v[j].re / (double)n; /* rounding may leave -1e-17: it cancels in sums */
    }
    mem_free(v);
    l->n = n;
    l->first = lo;
    l->infinite = -expm1(rounds * log1p(-l->infinite)) + 2 * tail;
    return OM_OK;
}

/* The least epsilon >= 0 with delta(epsilon) <= delta: from the largest loss down,
 * delta(e) = infinite + sum p - e^e sum p e^-l over losses above e. */
static double epsilon_of(const losses *l, double delta)
{
    double mass = l->infinite, scaled = 0;
    if (mass > delta)
        return HUGE_VAL;
    for (size_t i = l->n; i-- > 0;) {
        double loss = (double)(l->first + (int64_t)i) * l->h;
        double here = fmax(loss, 0); /* delta at this loss, from those above it */
        if (mass - exp(here) * scaled > delta)
            return scaled > 0 ? fmax(log((mass - delta) / scaled), 0) : here;
        if (loss <= 0)
            return 0;
        mass += l->p[i];
        scaled += l->p[i] * exp(-loss);
    }
    return mass - scaled > delta ? log((mass - delta) / scaled) : 0;
}

static om_status epsilon_one_way(const mechanism *m, uint32_t rounds, double delta,
                                 double *epsilon, om_err *err)
{
    losses l = {0};
    om_status s = one_round(m, &l, err);
    if (s == OM_OK && rounds > 1)
        s = compose(&l, rounds, err);
    if (s == OM_OK)
        *epsilon = epsilon_of(&l, delta);
    mem_free(l.p);
    return s;
}

om_status pld_epsilon(double q, double z, uint32_t rounds, double delta, double *epsilon,
                      om_err *err)
{
    double remove, add;
    if (!(q >= 0 && q <= 1) || !(z >= 0.05 && z <= 1e6) || !(delta > 0 && delta < 1))
        return fail(err, OM_EARG,
                    "privacy: rate %g, noise %g, delta %g; rates lie in 0 to 1, noise in "
                    "0.05 to 1e6, delta between 0 and 1", q, z, delta);
    *epsilon = 0;
    if (q <= 0 || rounds == 0)
        return OM_OK;
    TRY(epsilon_one_way(&(mechanism){q, z, false}, rounds, delta, &remove, err));
    TRY(epsilon_one_way(&(mechanism){q, z, true}, rounds, delta, &add, err));
    *epsilon = fmax(remove, add);
    return OM_OK;
}

/* ---- plans ---- */

om_status privacy_noise_for(double q, uint32_t rounds, double epsilon, double delta,
                            double *z, om_err *err)
{
    double lo = 0.05, hi = 1, e = HUGE_VAL;
    /* RDP tells in microseconds where to look. */
    while (rdp_epsilon(q, hi, rounds, delta, NULL) > epsilon && hi < 1e6)
        hi *= 2;
    if (hi >= 1e6)
        return fail(err, OM_EARG, "privacy: no noise keeps %u rounds within epsilon %g at "
                                  "delta %g", (unsigned)rounds, epsilon, delta);
    for (lo = hi / 4; lo > 0.05 && rdp_epsilon(q, lo, rounds, delta, NULL) < epsilon;)
        lo /= 2;
    lo = fmax(lo / 2, 0.05);
    while (hi / lo > 1.0001) {
        double mid = sqrt(lo * hi);
        if (pld_epsilon(q, mid, rounds, delta, &e, NULL) == OM_OK && e <= epsilon)
            hi = mid;
        else
            lo = mid;
    }
    *z = hi;
    return OM_OK;
}

om_status privacy_rounds_for(double q, double z, double epsilon, double delta,
                             uint32_t most, uint32_t *rounds, om_err *err)
{
    uint32_t lo = 0, hi = most;
    double e;
    TRY(pld_epsilon(q, z, 1, delta, &e, err));
    if (pld_epsilon(q, z, most, delta, &e, NULL) == OM_OK && e <= epsilon)
        lo = most;
    while (lo + 1 < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (pld_epsilon(q, z, mid, delta, &e, NULL) == OM_OK && e <= epsilon)
            lo = mid;
        else
            hi = mid;
    }
    *rounds = lo;
    return OM_OK;
}
