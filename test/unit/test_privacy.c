/* test_privacy.c - the exact samplers and the noise of DP-FTRL: published block of
 * ChaCha20, moments and frequencies against their formulas, published error figures. */
#include "fl/privacy/coins.h"
#include "fl/privacy/factor.h"
#include "test.h"

static coins fresh(uint32_t use)
{
    static const uint8_t secret[32] = {1, 2, 3};
    return coins_of(secret, 7, 0, use);
}

/* RFC 8439, 2.3.2 */
static void chacha(test *t)
{
    static const uint32_t want[16] = {
        0xe4e7f110, 0x15593bd1, 0x1fdd0f50, 0xc47120a3, 0xc7f4d1c7, 0x0368c033,
        0x9aaa2204, 0x4e6cd4c3, 0x466482d2, 0x09aa9f07, 0x05d7c214, 0xa2028bd9,
        0xd19c12b5, 0xb94e16de, 0xe883d0cb, 0x4e3c50a2};
    uint32_t key[8], out[16];
    for (uint32_t i = 0; i < 8; i++)
        key[i] = 0x03020100u + 0x04040404u * i;
    coins_block(key, 1, (const uint32_t[3]){0x09000000, 0x4a000000, 0}, out);
    CHECK(t, memcmp(out, want, sizeof(want)) == 0);
}

static void streams(test *t)
{
    coins a = fresh(1), b = fresh(1), c = fresh(2);
    uint64_t x = coins_u64(&a);
    CHECK(t, x == coins_u64(&b) && x != coins_u64(&c));
    uint64_t seen[7] = {0};
    for (int i = 0; i < 70000; i++)
        seen[coins_below(&a, 7)]++;
    for (int i = 0; i < 7; i++)
        CHECK_NEAR(t, (double)seen[i], 10000, 5 * sqrt(10000 * 6.0 / 7));
}

static void bernoulli(test *t)
{
    static const uint64_t num[] = {0, 1, 1, 3, 5, 17}, den[] = {1, 2, 1, 4, 2, 4};
    int n = test_times(100000);
    for (size_t i = 0; i < countof(num); i++) {
        coins c = fresh(10 + (uint32_t)i);
        double p = exp(-(double)num[i] / (double)den[i]);
        int yes = 0;
        for (int k = 0; k < n; k++)
            yes += coins_exp(&c, num[i], den[i]);
        CHECK_NEAR(t, (double)yes / n, p, 5 * sqrt(p * (1 - p) / n) + 1e-12);
    }
}

/* Chi-square of draws against p(y) on |y| <= most; the rest is one more cell. */
static void fits(test *t, const double *p, int most, const int64_t *draw, int n)
{
    double rest = 1, chi = 0;
    int cells = 0, inside = 0;
    for (int y = -most; y <= most; y++) {
        int seen = 0;
        for (int i = 0; i < n; i++)
            seen += draw[i] == y;
        double want = n * p[y + most];
        rest -= p[y + most];
        inside += seen;
        if (want < 5)
            continue;
        chi += (seen - want) * (seen - want) / want;
        cells++;
    }
    CHECK_NEAR(t, n - inside, n * rest, 5 * sqrt(n * fmax(rest, 0)) + 3);
    CHECK(t, chi < cells + 5 * sqrt(2.0 * cells));
}

enum { MOST = 12 };

static void gaussian(test *t)
{
    static const uint64_t num[] = {1, 1, 9}, den[] = {4, 1, 1};
    int n = test_times(60000);
    int64_t *draw = mem_array((size_t)n, sizeof(*draw));
    for (size_t i = 0; i < countof(num); i++) {
        coins c = fresh(20 + (uint32_t)i);
        double var = (double)num[i] / (double)den[i], sum = 0, p[2 * MOST + 1];
        for (int y = -60; y <= 60; y++)
            sum += exp(-y * y / (2 * var));
        for (int y = -MOST; y <= MOST; y++)
            p[y + MOST] = exp(-y * y / (2 * var)) / sum;
        for (int k = 0; k < n; k++)
            draw[k] = coins_gaussian(&c, num[i], den[i]);
        fits(t, p, MOST, draw, n);
        if (i == 1)
            CHECK_NEAR(t, p[MOST], .3989422783, 1e-9); /* published p(0) at sigma 1 */
    }
    mem_free(draw);
}

/* Deviation 2^20: mean and variance, and both halves of the bits move. */
static void wide_gaussian(test *t)
{
    coins c = fresh(30);
    int n = test_times(20000);
    double sum = 0, square = 0, var = exp2(40);
    int odd = 0;
    for (int i = 0; i < n; i++) {
        int64_t y = coins_gaussian(&c, UINT64_C(1) << 40, 1);
        sum += (double)y, square += (double)y * (double)y;
        odd += (int)(y & 1);
    }
    CHECK_NEAR(t, sum / n, 0, 5 * sqrt(var / n));
    CHECK_NEAR(t, square / n / var, 1, 5 * sqrt(2.0 / n));
    CHECK_NEAR(t, (double)odd / n, 0.5, 5 * sqrt(0.25 / n));
}

static void laplace(test *t)
{
    coins c = fresh(40);
    int n = test_times(60000);
    int64_t *draw = mem_array((size_t)n, sizeof(*draw));
    double p[2 * MOST + 1], e = exp(-1.0 / 3);
    for (int y = -MOST; y <= MOST; y++)
        p[y + MOST] = (1 - e) / (1 + e) * pow(e, abs(y));
    for (int k = 0; k < n; k++)
        draw[k] = coins_laplace(&c, 3);
    fits(t, p, MOST, draw, n);
    mem_free(draw);
}

static void poisson(test *t)
{
    coins c = fresh(50);
    int n = test_times(60000);
    int64_t *draw = mem_array((size_t)n, sizeof(*draw));
    double p[2 * MOST + 1] = {0};
    for (int y = 0; y <= MOST; y++)
        p[y + MOST] = exp(-3 + y * log(3) - lgamma(y + 1.0));
    for (int k = 0; k < n; k++)
        draw[k] = (int64_t)coins_poisson(&c, 3);
    fits(t, p, MOST, draw, n);
    double square = 0;
    for (int k = 0; k < n; k++) {
        double y = (double)coins_skellam(&c, 20);
        square += y * y;
    }
    CHECK_NEAR(t, square / n, 20, 5 * sqrt((3 * 400 + 20.0 - 400) / n));
    mem_free(draw);
}

/* Means above 64 are drawn another way: by chi-square again, and far out by moments. */
static void large_poisson(test *t)
{
    enum { MEAN = 100, FAR = 20000 };
    coins c = fresh(51);
    int n = test_times(20000), m = test_times(2000);
    int64_t *draw = mem_array((size_t)n, sizeof(*draw));
    double p[2 * MOST + 1] = {0}, sum = 0, square = 0;
    for (int y = -MOST; y <= MOST; y++)
        p[y + MOST] = exp(-MEAN + (y + MEAN) * log(MEAN) - lgamma(y + MEAN + 1.0));
    for (int k = 0; k < n; k++)
        draw[k] = (int64_t)coins_poisson(&c, MEAN) - MEAN;
    fits(t, p, MOST, draw, n);
    for (int k = 0; k < m; k++) {
        double y = (double)coins_skellam(&c, FAR);
        sum += y, square += y * y;
    }
    CHECK_NEAR(t, sum / m, 0, 5 * sqrt((double)FAR / m));
    CHECK_NEAR(t, square / m, FAR, 5 * FAR * sqrt(2.0 / m));
    mem_free(draw);
}

/* Published moments of the discrete Gaussian, and of its samples. */
static void gaussian_moments(test *t)
{
    static const double want[][2] = {{0.5, .2150126751}, {1, .9999997888}};
    coins c = fresh(52);
    int n = test_times(40000);
    for (size_t i = 0; i < countof(want); i++) {
        double mass = 0, var = 0, drawn = 0, s2 = want[i][0] * want[i][0];
        for (int y = -60; y <= 60; y++) {
            mass += exp(-y * y / (2 * s2));
            var += y * y * exp(-y * y / (2 * s2));
        }
        CHECK_NEAR(t, var / mass, want[i][1], 1e-9);
        for (int k = 0; k < n; k++) {
            double y = (double)coins_gaussian(&c, i ? 1 : 1, i ? 1 : 4);
            drawn += y * y;
        }
        CHECK_NEAR(t, drawn / n, want[i][1], 5 * sqrt(2.5 * want[i][1] / n));
    }
}

/* ---- factors ---- */

static void square_root(test *t)
{
    static const struct {
        size_t n;
        double sum;
    } want[] = {{10, 1.7913439416}, {100, 2.5313521126}, {1000, 3.2650030807},
                {4096, 3.7138836274}};
    double *c = mem_array(4096, sizeof(double)), worst, mean;
    double *scratch = mem_array(2000, sizeof(double));
    for (size_t i = 0; i < countof(want); i++) {
        factor_sqrt(want[i].n, false, c);
        CHECK_NEAR(t, factor_sensitivity2(c, want[i].n, 1), want[i].sum, 1e-9);
    }
    factor_sqrt(50, false, c); /* its square is the prefix sum: all ones */
    for (size_t k = 0; k < 50; k++) {
        double v = 0;
        for (size_t j = 0; j <= k; j++)
            v += c[j] * c[k - j];
        CHECK_NEAR(t, v, 1, 1e-12);
    }
    factor_sqrt(10, true, c);
    factor_error(c, 10, 100, factor_sensitivity2(c, 10, 1), &worst, &mean, scratch);
    CHECK_NEAR(t, worst, 16.3798892364, 1e-8);
    CHECK_NEAR(t, mean, 9.2371307702, 1e-8);
    factor_sqrt(100, true, c);
    factor_error(c, 100, 1000, factor_sensitivity2(c, 100, 10), &worst, &mean, scratch);
    CHECK_NEAR(t, worst, 246.134425574, 1e-6);
    factor_sqrt(1, true, c); /* independent noise */
    factor_error(c, 1, 100, factor_sensitivity2(c, 1, 3), &worst, &mean, scratch);
    CHECK_NEAR(t, worst, 300, 1e-9);
    factor_sqrt(10, true, c); /* at a separation of b both formulas are the same */
    CHECK_NEAR(t, factor_sensitivity2_any(c, 10, 100, 10, 4), 4, 1e-12);
    CHECK(t, factor_sensitivity2_any(c, 10, 100, 5, 4) > 4);
    mem_free(c), mem_free(scratch);
}

/* C u = w, whatever the ring did. */
static void streaming(test *t)
{
    enum { D = 3, B = 4, T = 12 };
    double c[B], past[(B - 1) * D] = {0}, u[T][D], w[T][D];
    rng r = {.key = 5, .ctr = 0};
    factor_sqrt(B, true, c);
    for (uint64_t s = 0; s < T; s++) {
        for (int i = 0; i < D; i++)
            u[s][i] = w[s][i] = rng_normal(&r);
        factor_step(c, B, s, u[s], past, D);
        for (int i = 0; i < D; i++) {
            double v = 0;
            for (uint64_t j = 0; j < B && j <= s; j++)
                v += c[j] * u[s - j][i];
            CHECK_NEAR(t, v, w[s][i], 1e-12);
        }
    }
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"chacha", "the block of RFC 8439", chacha},
        {"streams", "streams repeat and differ; draws below n are even", streams},
        {"bernoulli", "coins of bias exp(-a/b)", bernoulli},
        {"gaussian", "discrete Gaussian by chi-square, published p(0)", gaussian},
        {"wide_gaussian", "a deviation of a million", wide_gaussian},
        {"laplace", "discrete Laplace by chi-square", laplace},
        {"poisson", "Poisson by chi-square, Skellam's variance", poisson},
        {"large_poisson", "large means by chi-square, Skellam far out", large_poisson},
        {"moments", "published variances of the discrete Gaussian", gaussian_moments},
        {"square_root", "published sums and errors of Toeplitz factors", square_root},
        {"streaming", "the noise satisfies C u = w", streaming},
        {0}};
    return test_main(argc, argv, cases);
}
