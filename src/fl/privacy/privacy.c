/* privacy.c - see privacy.h. */
#include "fl/privacy/privacy.h"

#include "fl/privacy/accountant.h"
#include "fl/privacy/factor.h"

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
    [PRIVACY_SAMPLING] = {"sampling", 0, 0, 2,
                          "who takes part is no secret; or (simulate) is each client's own "
                          "coin, which saves much of the budget; or (simulate) they take "
                          "turns",
                          "everyone|poisson|cycle"},
    [PRIVACY_QUANTILE] = {"clip_quantile", 0, 0, 1,
                          "max_grad_norm follows this quantile of the lengths; 0: stays",
                          NULL},
    [PRIVACY_MECHANISM] = {"mechanism", MECHANISM_GAUSSIAN, 0, MECHANISM_BANDED,
                           "the noise: independent in each round, or correlated over "
                           "rounds (tree, banded; with sampling=cycle)",
                           PRIVACY_MECHANISMS},
    [PRIVACY_UNIT] = {"unit", UNIT_CLIENT, 0, 1,
                      "what is protected: all data of a client, noised by the server; or "
                      "(simulate) single examples, noised by the client itself",
                      "client|example"},
    [PRIVACY_EXAMPLE_RATE] = {"example_rate", 0.05, 1e-6, 1,
                              "unit=example: chance of an example to be in a local step",
                              NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static int mechanism(const privacy_rule *r) { return (int)r->p[PRIVACY_MECHANISM]; }

static bool correlated(const privacy_rule *r) { return mechanism(r) >= MECHANISM_TREE; }

/* ---- what it costs ---- */

double privacy_rate(const privacy_rule *r, uint32_t cohort, uint32_t n_clients)
{
    if (privacy_at_clients(r))
        return r->p[PRIVACY_EXAMPLE_RATE];
    return (int)r->p[PRIVACY_SAMPLING] == SAMPLING_POISSON ? (double)cohort / n_clients : 1;
}

static uint32_t turn_of(const privacy_rule *r, uint32_t cohort, uint32_t n_clients)
{
    if ((int)r->p[PRIVACY_SAMPLING] != SAMPLING_CYCLE)
        return 1;
    return n_clients / (cohort ? cohort : 1) > 0 ? n_clients / (cohort ? cohort : 1) : 1;
}

/* Compositions of one Gaussian that a turn costs whose turn it is. */
static uint32_t units_of_turn(const privacy_rule *r, uint32_t turn)
{
    uint32_t levels = 0;
    if (privacy_at_clients(r))
        return r->steps ? r->steps : 1;
    if (mechanism(r) != MECHANISM_TREE)
        return 1;
    while ((UINT64_C(1) << levels) < (uint64_t)turn + 1)
        levels++;
    return levels;
}

/* Of `rounds`; saturates far above what any budget allows. */
static uint32_t units_of(const privacy_rule *r, uint32_t turn, uint32_t rounds)
{
    uint64_t units = ((uint64_t)rounds + turn - 1) / turn * units_of_turn(r, turn);
    return units < (1u << 30) ? (uint32_t)units : 1u << 30;
}

/* Skellam noise has no loss distribution here: by Renyi divergence. */
static double skellam_epsilon(double q, double z, double rounds, double delta)
{
    double best = HUGE_VAL;
    for (double a = 2; a <= 256; a = a < 64 ? a + 1 : a * 2) {
        double one = rdp_skellam_grid(z, a);
        if (q < 1)
            one = rdp_sampled(q, a, rdp_skellam_grid, z);
        best = fmin(best, rdp_to_epsilon(rounds * one, a, delta));
    }
    return best;
}

static om_status epsilon_of(const privacy_rule *r, double q, double z, uint32_t units,
                            double *epsilon, om_err *err)
{
    double delta = r->p[PRIVACY_DELTA];
    if (mechanism(r) != MECHANISM_SKELLAM)
        return pld_epsilon(q, z, units, delta, epsilon, err);
    *epsilon = skellam_epsilon(q, z, units, delta);
    return OM_OK;
}

static om_status noise_for(const privacy_rule *r, double q, uint32_t units, double *z,
                           om_err *err)
{
    double epsilon = r->p[PRIVACY_EPSILON], delta = r->p[PRIVACY_DELTA], lo = 0.05, hi = 1;
    if (mechanism(r) != MECHANISM_SKELLAM)
        return privacy_noise_for(q, units, epsilon, delta, z, err);
    while (skellam_epsilon(q, hi, units, delta) > epsilon && hi < 1e6)
        hi *= 2;
    if (hi >= 1e6)
        return fail(err, OM_EARG, "privacy: no Skellam noise keeps %u rounds within epsilon "
                                  "%g", (unsigned)units, epsilon);
    while (hi / lo > 1.0001) {
        double mid = sqrt(lo * hi);
        if (skellam_epsilon(q, mid, units, delta) <= epsilon)
            hi = mid;
        else
            lo = mid;
    }
    *z = hi;
    return OM_OK;
}

/* The most compositions, up to `most`, within epsilon. */
static om_status units_for(const privacy_rule *r, double q, double z, uint32_t most,
                           uint32_t *units, om_err *err)
{
    double epsilon = r->p[PRIVACY_EPSILON], delta = r->p[PRIVACY_DELTA];
    if (mechanism(r) != MECHANISM_SKELLAM)
        return privacy_rounds_for(q, z, epsilon, delta, most, units, err);
    uint32_t lo = 0, hi = most + 1;
    while (lo + 1 < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (skellam_epsilon(q, z, mid, delta) <= epsilon)
            lo = mid;
        else
            hi = mid;
    }
    *units = lo;
    return OM_OK;
}

static om_status check(const privacy_rule *r, om_err *err)
{
    int sampling = (int)r->p[PRIVACY_SAMPLING];
    if (correlated(r) && (sampling != SAMPLING_CYCLE || privacy_at_clients(r)))
        return fail(err, OM_EARG,
                    "privacy: mechanism %s counts on clients that take turns; set sampling "
                    "to cycle and unit to client, or mechanism to gaussian",
                    mechanism(r) == MECHANISM_TREE ? "tree" : "banded");
    if (mechanism(r) == MECHANISM_BANDED && r->turn > PRIVACY_MOST_BANDS)
        return fail(err, OM_EARG, "privacy: mechanism banded remembers the noise of a whole "
                                  "cycle, and %u rounds are too many; choose tree, or a "
                                  "larger cohort", (unsigned)r->turn);
    if (r->p[PRIVACY_QUANTILE] > 0 && (mechanism(r) != MECHANISM_GAUSSIAN ||
                                       privacy_at_clients(r)))
        return fail(err, OM_EARG, "privacy: clip_quantile goes with mechanism gaussian and "
                                  "unit client; set it to 0");
    if (privacy_at_clients(r) && mechanism(r) != MECHANISM_GAUSSIAN)
        return fail(err, OM_EARG,
                    "privacy: unit example goes with mechanism gaussian");
    if (privacy_at_clients(r) && sampling == SAMPLING_POISSON)
        return fail(err, OM_EARG, "privacy: unit example draws examples by coins, not "
                                  "clients; set sampling to everyone or cycle");
    return OM_OK;
}

om_status privacy_settle(privacy_rule *r, uint32_t cohort, uint32_t n_clients,
                         uint32_t rounds, om_err *err)
{
    double q = privacy_rate(r, cohort, n_clients), epsilon = r->p[PRIVACY_EPSILON];
    double delta = r->p[PRIVACY_DELTA], *z = &r->p[PRIVACY_NOISE];
    uint32_t turn = turn_of(r, cohort, n_clients), units = units_of(r, turn, rounds), paid;
    r->most = 0;
    r->turn = turn;
    TRY(check(r, err));
    if (*z <= 0 && epsilon <= 0)
        return fail(err, OM_EARG, "privacy: neither noise_multiplier nor epsilon is set");
    if (*z <= 0)
        TRY(noise_for(r, q, units, z, err));
    if (epsilon <= 0)
        return OM_OK;
    TRY(units_for(r, q, *z, units, &paid, err));
    uint64_t most = (uint64_t)(paid / units_of_turn(r, turn)) * turn;
    r->most = most < UINT32_MAX ? (uint32_t)most : UINT32_MAX;
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
    uint32_t units = units_of(r, turn_of(r, cohort, n_clients), rounds);
    return epsilon_of(r, privacy_rate(r, cohort, n_clients), r->p[PRIVACY_NOISE], units,
                      epsilon, err);
}

enum { USE_TURNS = 0x7475726e };

uint32_t privacy_in_turn(uint64_t seed, uint32_t round, uint32_t cohort,
                         uint32_t n_clients, uint32_t i)
{
    uint32_t turns = n_clients / cohort;
    uint64_t key = rng_for(seed, 0, 0, USE_TURNS).key;
    return (uint32_t)rng_pick(key, n_clients, (uint64_t)(round % turns) * cohort + i);
}

/* ---- a round ---- */

enum { USE_NOISE = 1, USE_COUNT = 2, USE_ROUNDING = 3, USE_STEP = 4, USE_TREE = 0x100 };

/* Room: a head, the sums (d) int64 and as many again for a rounding, the update (d) floats.
 */
typedef struct {
    uint64_t came, shorter; /* updates, and those not over C */
    uint64_t zero[6];
} head;

size_t privacy_bytes(size_t d)
{
    return sizeof(head) + size_align(2 * d * sizeof(int64_t), 64) + d * sizeof(float);
}

static int64_t *sums(void *room)
{
    return (int64_t *)(void *)((char *)room + sizeof(head));
}

float *privacy_update(void *room, size_t d)
{
    return (float *)(void *)((char *)sums(room) + size_align(2 * d * sizeof(int64_t), 64));
}

void privacy_begin(void *room, size_t d) { memset(room, 0, privacy_bytes(d)); }

static double clip_of(const privacy_rule *r, const privacy_ledger *l)
{
    return l->clip > 0 ? l->clip : r->p[PRIVACY_CLIP];
}

/* Steps of the grid in C: many, yet the noise's variance stays below 2^42.  Skellam noise
 * is drawn in time that grows with its deviation, so its grid is the coarsest whose
 * rounding costs little. */
static double steps_of(const privacy_rule *r, size_t d)
{
    if (mechanism(r) == MECHANISM_SKELLAM)
        return fmax(64, ceil(2 * sqrt((double)d)));
    return floor(fmin(262144, 1048576 / fmax(r->p[PRIVACY_NOISE], 1)));
}

/* How far one update can move the sum, in steps.  Rounding to the nearest adds up to half a
 * step a number; random rounding is redrawn until it adds no more than this. */
static double reach_of(const privacy_rule *r, size_t d)
{
    double steps = steps_of(r, d), root = sqrt((double)d);
    if (mechanism(r) != MECHANISM_SKELLAM)
        return steps + root / 2;
    return fmin(steps + root, sqrt(steps * steps + (double)d / 4 + steps + root / 2));
}

/* One random rounding of scale x; its squared length. */
static double round_by_coins(const float *x, double scale, size_t d, rng *coin,
                             int64_t *out)
{
    double square = 0;
    for (size_t i = 0; i < d; i++) {
        double v = scale * (double)x[i], low = floor(v);
        low += rng_unit(coin) < v - low;
        out[i] = (int64_t)low;
        square += low * low;
    }
    return square;
}

/* The roundings' coins need not be secret: the bound on the length is what counts. */
static void add_by_coins(const privacy_rule *r, const privacy_ledger *l, void *room,
                         size_t d, double scale)
{
    head *h = room;
    float *x = privacy_update(room, d);
    int64_t *sum = sums(room), *one = sum + d;
    double reach = reach_of(r, d);
    rng coin = rng_for(1, (uint32_t)l->released, (uint32_t)h->came, USE_ROUNDING);
    while (round_by_coins(x, scale, d, &coin, one) > reach * reach)
        ;
    for (size_t i = 0; i < d; i++)
        sum[i] += one[i];
}

void privacy_add(const privacy_rule *r, const privacy_ledger *l, void *room, size_t d)
{
    head *h = room;
    float *x = privacy_update(room, d);
    int64_t *sum = sums(room);
    double c = clip_of(r, l), square = 0;
    for (size_t i = 0; i < d; i++)
        square += (double)x[i] * (double)x[i];
    double norm = sqrt(square), scale = steps_of(r, d) / c * (norm > c ? c / norm : 1);
    if (mechanism(r) == MECHANISM_SKELLAM)
        add_by_coins(r, l, room, d, scale);
    for (size_t i = 0; mechanism(r) != MECHANISM_SKELLAM && i < d; i++)
        sum[i] += llrint(scale * (double)x[i]);
    h->came++;
    h->shorter += norm <= c;
    memset(x, 0, d * sizeof(float));
}



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

/* ---- the noises ---- */

/* The nodes of the tree that round s (from 0 in its cycle) adds to the prefix sum's noise
 * and takes away: of the prefix m = s + 1 the node of its lowest bit, of the prefix s those
 * of the bits that are carried. */
static void tree_noise(const privacy_rule *r, uint64_t seed, uint64_t round, uint64_t var,
                       int64_t *noise, size_t d)
{
    uint32_t turn = r->turn ? r->turn : 1, s = (uint32_t)(round % turn);
    uint64_t epoch = round - s;
    for (uint32_t level = 0; level < 32; level++) {
        bool last = (s + 1) >> level & 1;
        uint32_t index = (last ? (s + 1) >> level : s >> level) - 1;
        coins c = coins_of(r->secret, seed, (uint32_t)(epoch + ((uint64_t)index << level)),
                           USE_TREE + level);
        for (size_t i = 0; i < d; i++)
            noise[i] += last ? coins_gaussian(&c, var, 1) : -coins_gaussian(&c, var, 1);
        if (last)
            return;
    }
}

static int64_t one_noise(const privacy_rule *r, coins *c, uint64_t var, uint32_t cohort)
{
    int64_t sum = 0;
    if (mechanism(r) == MECHANISM_SKELLAM)
        return coins_skellam(c, var + (var & 1));
    if (mechanism(r) != MECHANISM_DDGAUSS)
        return coins_gaussian(c, var, 1);
    for (uint32_t i = 0; i < cohort; i++) /* every client's share */
        sum += coins_gaussian(c, (var + cohort - 1) / cohort, 1);
    return sum;
}

size_t privacy_past_bytes(const privacy_rule *r, size_t d)
{
    if (!privacy_at_server(r) || mechanism(r) != MECHANISM_BANDED || r->turn < 2)
        return 0;
    return size_align((size_t)(r->turn - 1) * d * sizeof(double), 64);
}

static void add_noise(const privacy_rule *r, const privacy_ledger *l, void *room, void *past,
                      size_t d, uint64_t var, uint32_t cohort, uint64_t seed,
                      uint32_t round, double scale, float *out)
{
    int64_t *sum = sums(room), *noise = sum + d;
    coins c = coins_of(r->secret, seed, round, USE_NOISE);
    memset(noise, 0, d * sizeof(*noise));
    if (mechanism(r) == MECHANISM_TREE)
        tree_noise(r, seed, l->released, var, noise, d);
    for (size_t i = 0; mechanism(r) != MECHANISM_TREE && i < d; i++)
        noise[i] = one_noise(r, &c, var, cohort);
    if (mechanism(r) != MECHANISM_BANDED) {
        for (size_t i = 0; i < d; i++)
            out[i] = (float)(scale * (double)(sum[i] + noise[i]));
        return;
    }
    double factor[PRIVACY_MOST_BANDS];
    factor_sqrt(r->turn, true, factor);
    for (size_t i = 0; i < d; i++)
        out[i] = (float)(scale * ((double)sum[i] + factor_next(factor, r->turn, l->released,
                                                               (double)noise[i], past, d,
                                                               i)));
}

static om_status spent(const privacy_rule *r, const privacy_ledger *l, om_err *err)
{
    if (!r->most || l->released < r->most)
        return OM_OK;
    return fail(err, OM_ELIMIT,
                "privacy: the budget of epsilon %g is spent after %llu rounds; the model is "
                "kept",
                r->p[PRIVACY_EPSILON], (unsigned long long)l->released);
}

/* Of the noise on the grid, within what the samplers draw. */
static om_status variance(const privacy_rule *r, double z, size_t d, uint32_t cohort,
                          uint64_t *var, om_err *err)
{
    double sigma = z * reach_of(r, d), v = ceil(sigma * sigma);
    double most = mechanism(r) == MECHANISM_SKELLAM ? 0x1p31 : 0x1p42;
    double least = mechanism(r) == MECHANISM_DDGAUSS ? 64.0 * cohort : 0;
    if (v > most || v < least)
        return fail(err, OM_ELIMIT,
                    "privacy: noise of deviation %g on a grid of %g steps is beyond the "
                    "sampler of mechanism %s; %s noise_multiplier or choose gaussian",
                    sigma, steps_of(r, d),
                    mechanism(r) == MECHANISM_SKELLAM   ? "skellam"
                    : mechanism(r) == MECHANISM_DDGAUSS ? "ddgauss"
                                                        : "gaussian",
                    v > most ? "lower" : "raise");
    *var = (uint64_t)v;
    return OM_OK;
}

om_status privacy_count(const privacy_rule *r, privacy_ledger *l, om_err *err)
{
    TRY(spent(r, l, err));
    l->released++;
    return OM_OK;
}

om_status privacy_release(const privacy_rule *r, privacy_ledger *l, void *room, void *past,
                          size_t d, uint32_t cohort, uint64_t seed, uint32_t round,
                          float *out, om_err *err)
{
    TRY(spent(r, l, err));
    if (r->p[PRIVACY_QUANTILE] > 0 && r->p[PRIVACY_NOISE] >= 2 * count_deviation(cohort))
        return fail(err, OM_ELIMIT,
                    "privacy: noise_multiplier %g leaves nothing for the count behind "
                    "clip_quantile, which has deviation %g; take larger cohorts",
                    r->p[PRIVACY_NOISE], count_deviation(cohort));
    uint64_t var;
    TRY(variance(r, update_noise(r, cohort), d, cohort, &var, err));
    coins count = coins_of(r->secret, seed, round, USE_COUNT);
    add_noise(r, l, room, past, d, var, cohort, seed, round,
              clip_of(r, l) / steps_of(r, d) / cohort, out);
    l->released++;
    if (r->p[PRIVACY_QUANTILE] > 0)
        follow_quantile(r, l, room, cohort, &count);
    return OM_OK;
}

/* ---- a noisy step of a client ---- */

privacy_step privacy_step_of(const privacy_rule *r, uint64_t seed, uint32_t round,
                             uint32_t client, uint64_t step)
{
    coins c = coins_of(r->secret, seed, round, USE_STEP);
    uint8_t own[32];
    buf b = buf_fixed(own, sizeof(own));
    for (int i = 0; i < 4; i++)
        BUG_IF(buf_u64(&b, coins_u64(&c)) != OM_OK);
    return (privacy_step){coins_of(own, step, client, USE_COUNT),
                          coins_of(own, step, client, USE_NOISE)};
}

bool privacy_drawn(const privacy_rule *r, privacy_step *s)
{
    const uint64_t whole = UINT64_C(1) << 53;
    return coins_below(&s->choice, whole) <
           (uint64_t)(r->p[PRIVACY_EXAMPLE_RATE] * (double)whole);
}

om_status privacy_step_mean(const privacy_rule *r, privacy_step *s, void *room, size_t d,
                            double expected, float *out, om_err *err)
{
    double scale = r->p[PRIVACY_CLIP] / steps_of(r, d) / expected;
    const int64_t *sum = sums(room);
    uint64_t var;
    TRY(variance(r, r->p[PRIVACY_NOISE], d, 1, &var, err));
    for (size_t i = 0; i < d; i++)
        out[i] = (float)(scale * (double)(sum[i] + coins_gaussian(&s->noise, var, 1)));
    return OM_OK;
}
