/* test_accountant.c - privacy accounting against published values: Google's
 * differential-privacy library (dp_accounting), Balle and Wang's analytic Gaussian. */
#include "fl/privacy/accountant.h"
#include "test.h"

static const struct {
    double q, z, delta, rdp, order, pld;
    uint32_t rounds;
} published[] = {
    {.01, 1.0, 1e-5, 2.10136653, 7.8, 1.82824365, 1000},
    {.01, 1.1, 1e-5, 5.63201067, 4.7, 5.19262012, 10000},
    {256.0 / 60000, 1.1, 1e-5, 2.59655587, 8.1, 2.38168600, 14062},
    {.001, .8, 1e-6, 1.50469288, 8.5, .55997657, 2000},
    {.1, 2, 1e-5, 6.03456220, 4.4, 5.55546995, 500},
    {1, 10, 1e-5, 4.72850707, 5.4, 4.37717818, 100},
    {1, 1, 1e-5, 4.72850707, 5.4, 4.37717818, 1},
};

/* The published library's series for fractional orders: absolute values of the binomials,
 * which can only add. */
static double unsigned_series(double q, double z, double a)
{
    double z0 = z * z * log(1 / q - 1) + 0.5, sum = 0;
    for (double i = 0; i < 2000; i++) {
        double j = a - i, c = lgamma(a + 1) - lgamma(i + 1) - lgamma(j + 1), r = z * sqrt(2.0);
        double u = exp(c + i * log(q) + j * log1p(-q) + (i * i - i) / (2 * z * z)) *
                   erfc((i - z0) / r) / 2;
        double v = exp(c + j * log(q) + i * log1p(-q) + (j * j - j) / (2 * z * z)) *
                   erfc((z0 - j) / r) / 2;
        if (i > a + 1 && u + v < 1e-14 * sum)
            break;
        sum += (isfinite(u) ? u : 0) + (isfinite(v) ? v : 0);
    }
    return log(sum) / (a - 1);
}

/* Published epsilons are those of that series; the signed one gives a little less. */
static void rdp_published(test *t)
{
    for (size_t i = 0; i < countof(published); i++) {
        double q = published[i].q, z = published[i].z, delta = published[i].delta, order;
        double n = published[i].rounds, a = published[i].order;
        double ours = rdp_epsilon(q, z, n, delta, &order);
        double theirs = q < 1 ? rdp_to_epsilon(n * unsigned_series(q, z, a), a, delta) : ours;
        CHECK_NEAR(t, theirs, published[i].rdp, 1e-6);
        CHECK_NEAR(t, order, a, 1e-9);
        CHECK(t, ours <= published[i].rdp + 1e-6 && ours >= published[i].rdp * (1 - 1e-4));
    }
}

static void pld_published(test *t)
{
    om_err err = {0};
    for (size_t i = 0; i < countof(published); i++) {
        double e = 0;
        CHECK_OK(t,
                 pld_epsilon(published[i].q, published[i].z, published[i].rounds,
                             published[i].delta, &e, &err),
                 err);
        CHECK_NEAR(t, e, published[i].pld, 1e-6);
    }
}

static void divergences(test *t)
{
    static const double a[] = {2, 3, 8, 64, 1.5, 2.3, 32.5};
    static const double one[] = {.000171813422075, .000264637574585, .000893643907606,
                                 27.3217318746,    .000127253743,    .000199120379,
                                 11.4986339351};
    for (size_t i = 0; i < countof(a); i++)
        CHECK_NEAR(t, rdp_round(.01, 1, a[i]), one[i], 1e-9 * fmax(1, one[i]));
    CHECK_NEAR(t, rdp_round(.1, 2, 2), .00283622826626, 1e-12);
    CHECK_NEAR(t, rdp_round(.1, 2, 3), .00437365834858, 1e-12);
    CHECK_NEAR(t, rdp_round(.1, 2, 8), .0137254301032, 1e-12);
    CHECK_NEAR(t, rdp_round(.1, 2, 1.5), .00209893460, 1e-10);
    CHECK_NEAR(t, rdp_round(1, 2, 1.5), 1.5 / 8, 1e-15);
    CHECK(t, rdp_round(0, 2, 2) <= 0 && isinf(rdp_round(.1, 0, 2)));
}

/* The signed series is the divergence: Simpson's rule over the definition. */
static void against_quadrature(test *t)
{
    static const struct {
        double q, z, a;
    } at[] = {{.01, 1, 1.5}, {.1, 2, 2.7}, {.3, 1.2, 4.4}, {.5, 3, 9.9}};
    for (size_t i = 0; i < countof(at); i++) {
        double z = at[i].z, h = z / 2000, sum = 0;
        for (int k = -60000; k <= 120000; k++) {
            double x = k * h, w = k == -60000 || k == 120000 ? 1 : k % 2 ? 4 : 2;
            double ratio = 1 - at[i].q + at[i].q * exp((2 * x - 1) / (2 * z * z));
            sum += w * exp(-x * x / (2 * z * z)) * pow(ratio, at[i].a);
        }
        sum *= h / 3 / (z * sqrt(2 * acos(-1.0)));
        double want = log(sum) / (at[i].a - 1);
        CHECK_NEAR(t, rdp_round(at[i].q, z, at[i].a), want, 1e-9 * fmax(1, want));
    }
}

static void analytic_gaussian(test *t)
{
    static const double sigma[][3] = {{1, 1e-5, 3.73063163482},
                                      {.1, 1e-6, 36.3046904},
                                      {8, 1e-5, .600229072},
                                      {3, 1e-9, 1.94372426}};
    static const double delta[][2] = {{0, .3829249225},
                                      {.5, .2384217081},
                                      {1, .1269367375},
                                      {2, .02092363582},
                                      {4, 4.712241201e-5}};
    for (size_t i = 0; i < countof(sigma); i++)
        CHECK_NEAR(t, gaussian_sigma(sigma[i][0], sigma[i][1]), sigma[i][2], 1e-7);
    for (size_t i = 0; i < countof(delta); i++)
        CHECK_NEAR(t, gaussian_delta(1, delta[i][0]), delta[i][1], 1e-9);
    om_err err = {0};
    double e; /* PLD of one round is the analytic curve */
    for (size_t i = 2; i < countof(delta); i++) {
        CHECK_OK(t, pld_epsilon(1, 1, 1, delta[i][1], &e, &err), err);
        CHECK_NEAR(t, e, delta[i][0], 1e-6);
    }
    CHECK_OK(t, pld_epsilon(1, 1, 10, .3838368543, &e, &err), err);
    CHECK_NEAR(t, e, 5, 1e-6); /* ten of them */
    CHECK_OK(t, pld_epsilon(.01, 1, 1, 2.214519e-7, &e, &err), err);
    CHECK_NEAR(t, e, .5, 1e-5); /* subsampled */
    static const double tenfold[][2] = {{1, .8185178269}, {5, .3838368543}, {10, .03377954567}};
    for (size_t i = 0; i < countof(tenfold); i++) {
        CHECK_OK(t, pld_epsilon(1, 1, 10, tenfold[i][1], &e, &err), err);
        CHECK_NEAR(t, e, tenfold[i][0], 1e-6);
    }
    /* at rate .01 the sampled mechanism's delta is .003829249225 where epsilon is 0 */
    CHECK_OK(t, pld_epsilon(.01, 1, 1, .003829249225, &e, &err), err);
    CHECK_NEAR(t, e, 0, 1e-6);
    CHECK_OK(t, pld_epsilon(.01, 1, 1, 2.732009e-9, &e, &err), err);
    CHECK_NEAR(t, e, 1, 1e-4);
}

static void other_mechanisms(test *t)
{
    double best = HUGE_VAL, at = 0;
    const double *a;
    size_t n = rdp_orders(&a);
    for (size_t i = 0; i < n; i++) {
        double e = rdp_to_epsilon(rdp_tree(4, 1000, a[i]), a[i], 1e-5);
        if (e < best)
            best = e, at = a[i];
    }
    CHECK_NEAR(t, best, 3.6170997730, 1e-9);
    CHECK_NEAR(t, at, 6.6, 1e-9);
    CHECK_NEAR(t, ddgauss_tau(10, 1), 5.435242582e-4, 1e-13);
    /* One client with much noise is a Gaussian; so is a Skellam of large variance. */
    CHECK_NEAR(t, rdp_ddgauss(1, 1, 1, 1, 10, 4), 4.0 / 200, 1e-12);
    CHECK_NEAR(t, rdp_skellam(1, 1, 100, 1e6, 4), 4.0 / 200, 1e-9);
    /* The grid's bound is above the Gaussian's and above any finer grid's own. */
    for (double z = 0.5; z < 5; z *= 2)
        for (double o = 2; o < 64; o *= 2) {
            double bound = rdp_skellam_grid(z, o), fine = 1000;
            CHECK(t, bound > o / (2 * z * z) && bound < 1.01 * o / (2 * z * z) + 1e-3 * o);
            CHECK(t, rdp_skellam(fine * fine / 2, fine, z * z * fine * fine, 1, o) < bound);
        }
}

static double gaussian_rdp(double z, double order) { return order / (2 * z * z); }

/* Sampled divergences: q = 1 is the mechanism itself; below the Gaussian's own theorem it
 * is looser, never tighter. */
static void sampled(test *t)
{
    for (double a = 2; a < 40; a += 3) {
        CHECK_NEAR(t, rdp_sampled(1 - 1e-12, a, gaussian_rdp, 2), gaussian_rdp(2, a),
                   log(3) / (a - 1) + 1e-6);
        CHECK(t, rdp_sampled(.05, a, gaussian_rdp, 2) >= rdp_round(.05, 2, a) - 1e-12);
        CHECK(t, rdp_sampled(.05, a, gaussian_rdp, 2) < gaussian_rdp(2, a));
    }
    CHECK_NEAR(t, rdp_sampled(.1, 2, gaussian_rdp, 2), rdp_round(.1, 2, 2), 1e-12);
}

static void plans(test *t)
{
    om_err err = {0};
    double z, e;
    uint32_t rounds;
    CHECK_OK(t, privacy_noise_for(.05, 100, 2, 1e-5, &z, &err), err);
    CHECK_OK(t, pld_epsilon(.05, z, 100, 1e-5, &e, &err), err);
    CHECK(t, e <= 2);
    CHECK_OK(t, pld_epsilon(.05, z * 0.999, 100, 1e-5, &e, &err), err);
    CHECK(t, e > 2);
    CHECK_OK(t, privacy_rounds_for(.1, 1, 3, 1e-5, 64, &rounds, &err), err);
    CHECK_OK(t, pld_epsilon(.1, 1, rounds, 1e-5, &e, &err), err);
    CHECK(t, e <= 3);
    CHECK_OK(t, pld_epsilon(.1, 1, rounds + 1, 1e-5, &e, &err), err);
    CHECK(t, e > 3);
    CHECK_OK(t, privacy_rounds_for(1, 1, 1, 1e-5, 10, &rounds, &err), err);
    CHECK_INT(t, rounds, 0);
    CHECK(t, pld_epsilon(2, 1, 1, 1e-5, &e, &err) == OM_EARG);
    CHECK(t, pld_epsilon(.1, 0, 1, 1e-5, &e, &err) == OM_EARG);
}

/* More rounds, more clients, less noise: never less spent. */
static void monotone(test *t)
{
    om_err err = {0};
    double before = 0, e;
    for (uint32_t rounds = 1; rounds < 300; rounds *= 3) {
        CHECK_OK(t, pld_epsilon(.05, 1.5, rounds, 1e-6, &e, &err), err);
        CHECK(t, e >= before && e <= rdp_epsilon(.05, 1.5, rounds, 1e-6, NULL));
        before = e;
    }
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"rdp", "epsilon by Renyi divergences equals the published values", rdp_published},
        {"pld", "epsilon by loss distributions equals the published values", pld_published},
        {"divergences", "one round's divergence, whole and fractional orders", divergences},
        {"quadrature", "fractional orders equal the integral", against_quadrature},
        {"gaussian", "the analytic Gaussian, and PLD agrees with it", analytic_gaussian},
        {"mechanisms", "tree, distributed discrete Gaussian, Skellam", other_mechanisms},
        {"sampled", "amplification by sampling of any mechanism", sampled},
        {"plans", "noise for a budget, rounds for a budget", plans},
        {"monotone", "epsilon grows with rounds and PLD is below RDP", monotone},
        {0}};
    return test_main(argc, argv, cases);
}
