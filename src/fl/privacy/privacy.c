/* privacy.c - see privacy.h. */
#include "fl/privacy/privacy.h"

#include "fl/privacy/accountant.h"
#include "fl/privacy/coins.h"

#include <math.h>

const param privacy_params[] = {
    [PRIVACY_EPSILON] = {"epsilon", 8, 0, 1e6, "budget of the run; 0: only counted", NULL},
    [PRIVACY_DELTA] = {"delta", 1e-5, 1e-15, 0.5,
                       "chance left to a breach; below 1 / clients", NULL},
    [PRIVACY_NOISE] = {"noise_multiplier", 0, 0, 1e4,
                       "deviation of the noise over max_grad_norm; 0: the least that the "
                       "budget asks for",
                       NULL},
    [PRIVACY_CLIP] = {"max_grad_norm", 1, 1e-12, 1e12, "longest update of a client", NULL},
    [PRIVACY_SAMPLING] = {"sampling", 0, 0, 1,
                          "who takes part is no secret, or (simulate) is each client's own "
                          "coin, which saves much of the budget",
                          "everyone|poisson"},
    [PRIVACY_QUANTILE] = {"clip_quantile", 0, 0, 1,
                          "max_grad_norm follows this quantile of the lengths; 0: stays",
                          NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

double privacy_rate(const privacy_rule *r, uint32_t cohort, uint32_t n_clients)
{
    return r->p[PRIVACY_SAMPLING] > 0.5 ? (double)cohort / n_clients : 1;
}

om_status privacy_settle(privacy_rule *r, uint32_t cohort, uint32_t n_clients,
                         uint32_t rounds, om_err *err)
{
    double q = privacy_rate(r, cohort, n_clients), epsilon = r->p[PRIVACY_EPSILON];
    double delta = r->p[PRIVACY_DELTA], *z = &r->p[PRIVACY_NOISE];
    r->most = 0;
    if (*z <= 0 && epsilon <= 0)
        return fail(err, OM_EARG, "privacy: neither noise_multiplier nor epsilon is set");
    if (*z <= 0)
        TRY(privacy_noise_for(q, rounds, epsilon, delta, z, err));
    if (epsilon <= 0)
        return OM_OK;
    TRY(privacy_rounds_for(q, *z, epsilon, delta, rounds, &r->most, err));
    if (r->most >= rounds)
        return OM_OK;
    return fail(err, OM_EREFUSED,
                "privacy: epsilon %g at delta %g pays for %u rounds with noise_multiplier "
                "%g, not for %u; ask for fewer, add noise, or leave noise_multiplier at 0",
                epsilon, delta, (unsigned)r->most, *z, (unsigned)rounds);
}

om_status privacy_spent(const privacy_rule *r, uint32_t cohort, uint32_t n_clients,
                        uint32_t rounds, double *epsilon, om_err *err)
{
    return pld_epsilon(privacy_rate(r, cohort, n_clients), r->p[PRIVACY_NOISE], rounds,
                       r->p[PRIVACY_DELTA], epsilon, err);
}

/* ---- a round ---- */

/* Room: a head, the sums (d) int64, the update (d) floats. */
typedef struct {
    uint64_t came, shorter; /* updates, and those not over C */
    uint64_t zero[6];
} head;

size_t privacy_bytes(size_t d)
{
    return sizeof(head) + size_align(d * sizeof(int64_t), 64) + d * sizeof(float);
}

static int64_t *sums(void *room)
{
    return (int64_t *)(void *)((char *)room + sizeof(head));
}

float *privacy_update(void *room, size_t d)
{
    return (float *)(void *)((char *)sums(room) + size_align(d * sizeof(int64_t), 64));
}

void privacy_begin(void *room, size_t d) { memset(room, 0, privacy_bytes(d)); }

static double clip_of(const privacy_rule *r, const privacy_ledger *l)
{
    return l->clip > 0 ? l->clip : r->p[PRIVACY_CLIP];
}

/* Steps of the grid in C: many, yet the noise's variance stays below 2^42. */
static double steps_of(const privacy_rule *r)
{
    return floor(fmin(262144, 1048576 / fmax(r->p[PRIVACY_NOISE], 1)));
}

void privacy_add(const privacy_rule *r, const privacy_ledger *l, void *room, size_t d)
{
    head *h = room;
    float *x = privacy_update(room, d);
    int64_t *sum = sums(room);
    double c = clip_of(r, l), square = 0;
    for (size_t i = 0; i < d; i++)
        square += (double)x[i] * (double)x[i];
    double norm = sqrt(square), scale = steps_of(r) / c * (norm > c ? c / norm : 1);
    for (size_t i = 0; i < d; i++)
        sum[i] += llrint(scale * (double)x[i]);
    h->came++;
    h->shorter += norm <= c;
    memset(x, 0, d * sizeof(float));
}

enum { USE_NOISE = 1, USE_COUNT = 2 };

/* The count's noise has deviation cohort / 20 (the paper's), on counts doubled so that
 * the recentred bit, +-1/2, is whole: sensitivity 1 in those units. */
static double count_deviation(uint32_t cohort) { return fmax(cohort / 20.0, 0.5); }

/* The updates' share of the noise: z^-2 = z_D^-2 + (2 sigma_b)^-2. */
static double update_noise(const privacy_rule *r, uint32_t cohort)
{
    double z = r->p[PRIVACY_NOISE], b = count_deviation(cohort);
    if (r->p[PRIVACY_QUANTILE] <= 0)
        return z;
    return 1 / sqrt(1 / (z * z) - 1 / (4 * b * b));
}

static void follow_quantile(const privacy_rule *r, privacy_ledger *l, const head *h,
                            uint32_t cohort, coins *c)
{
    double b = 2 * count_deviation(cohort), goal = r->p[PRIVACY_QUANTILE];
    int64_t twice = 2 * (int64_t)h->shorter - (int64_t)h->came;
    twice += coins_gaussian(c, (uint64_t)ceil(b * b), 1);
    double part = 0.5 + 0.5 * (double)twice / cohort;
    l->clip = clip_of(r, l) * exp(-0.2 * (fmin(fmax(part, 0), 1) - goal));
}

om_status privacy_release(const privacy_rule *r, privacy_ledger *l, void *room, size_t d,
                          uint32_t cohort, uint64_t seed, uint32_t round, float *out,
                          om_err *err)
{
    if (r->most && l->released >= r->most)
        return fail(err, OM_ELIMIT,
                    "privacy: the budget of epsilon %g is spent after %llu rounds; the "
                    "model is kept",
                    r->p[PRIVACY_EPSILON], (unsigned long long)l->released);
    if (r->p[PRIVACY_QUANTILE] > 0 && r->p[PRIVACY_NOISE] >= 2 * count_deviation(cohort))
        return fail(err, OM_ELIMIT,
                    "privacy: noise_multiplier %g leaves nothing for the count behind "
                    "clip_quantile, which has deviation %g; take larger cohorts",
                    r->p[PRIVACY_NOISE], count_deviation(cohort));
    double steps = steps_of(r), sigma = update_noise(r, cohort);
    sigma *= steps + sqrt((double)d) / 2;
    uint64_t var = (uint64_t)ceil(sigma * sigma);
    if (var > UINT64_C(1) << 42)
        return fail(err, OM_ELIMIT, "privacy: noise of deviation %g on a grid of %g steps "
                                    "is beyond the sampler", sigma, steps);
    coins noise = coins_of(r->secret, seed, round, USE_NOISE);
    coins count = coins_of(r->secret, seed, round, USE_COUNT);
    double scale = clip_of(r, l) / steps / cohort;
    const int64_t *sum = sums(room);
    for (size_t i = 0; i < d; i++)
        out[i] = (float)(scale * (double)(sum[i] + coins_gaussian(&noise, var, 1)));
    l->released++;
    if (r->p[PRIVACY_QUANTILE] > 0)
        follow_quantile(r, l, room, cohort, &count);
    return OM_OK;
}
