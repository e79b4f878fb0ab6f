/* privacy.h - differential privacy of a federated run, for its clients.
 *
 * Each update is clipped to length C and laid on a grid; the integers are added up, exact
 * noise of deviation z times the sensitivity on the grid is added, and the sum is divided
 * by the cohort, a number that does not depend on who came:
 *
 *     q_i = round(S min(1, C / |D_i|) D_i / C),   |q_i| <= S + sqrt(d) / 2
 *     D   = C / S (sum q_i + discrete Gaussian(z (S + sqrt(d) / 2))) / cohort
 *
 * (McMahan et al., ICLR 2018, arXiv 1710.06963, with the sampler of coins.h.)  Every client
 * counts the same.  C may follow a quantile of the lengths (Andrew et al., NeurIPS 2021,
 * arXiv 1905.03871): the count of short updates gets noise of its own, and the updates'
 * noise grows so that both together cost what z says.
 *
 * Other noises over the same sums (PRIVACY_MECHANISM):
 *
 *     skellam   a difference of two Poisson numbers, on a grid of about 2 sqrt(d) steps with
 *               random rounding: sums of shares stay Skellam, which suits secure aggregation
 *               (Agarwal, Kairouz, Liu, NeurIPS 2021, arXiv 2110.04995)
 *     ddgauss   the sum of `cohort` discrete Gaussians of variance / cohort each, as if every
 *               client had added its share (Kairouz, Liu, Steinke, ICML 2021, arXiv
 *               2102.06387)
 *     tree, banded   noise whose sums over rounds stay small (DP-FTRL, factor.h): by a binary
 *               tree, begun anew each time everyone had a turn, or by a banded factor.  They
 *               want sampling=cycle: the clients take turns in a fixed order, so that each
 *               rests clients / cohort rounds, and no coin has to be believed.
 *
 * unit=example protects single samples instead, and trusts nobody: each client runs DP-SGD
 * (Abadi et al., CCS 2016, arXiv 1607.00133), its steps drawn, clipped and noised on the
 * spot, before anything leaves it (local.c).
 *
 * What it costs: T Gaussian rounds at rate q cost T compositions.  In turns a client is in
 * every B-th round, so ceil(T / B) compositions; a tree over B rounds counts the
 * ceil(log2(B + 1)) nodes above a leaf each time; a banded factor of unit columns, none of
 * which meet, as much as plain noise.  Examples: steps x rounds compositions at the rate of
 * the examples.
 *
 * The rounds released so far are part of the server's state: they survive a restart, never
 * go back, and a round past the budget leaves the model as it is. */
#ifndef FL_PRIVACY_PRIVACY_H
#define FL_PRIVACY_PRIVACY_H

#include "fl/privacy/coins.h"

enum {
    PRIVACY_EPSILON,
    PRIVACY_DELTA,
    PRIVACY_NOISE,
    PRIVACY_CLIP,
    PRIVACY_SAMPLING,
    PRIVACY_QUANTILE,
    PRIVACY_MECHANISM,
    PRIVACY_UNIT,
    PRIVACY_EXAMPLE_RATE,
    PRIVACY_PARAMS /* how many */
};
enum { SAMPLING_EVERYONE, SAMPLING_POISSON, SAMPLING_CYCLE };
enum { MECHANISM_GAUSSIAN, MECHANISM_SKELLAM, MECHANISM_DDGAUSS, MECHANISM_TREE,
       MECHANISM_BANDED };
#define PRIVACY_MECHANISMS "gaussian|skellam|ddgauss|tree|banded"
enum { UNIT_CLIENT, UNIT_EXAMPLE };

/* Bands of a factor: as many as a cycle has rounds, which is at most this. */
enum { PRIVACY_MOST_BANDS = 1024 };

extern const param privacy_params[];

typedef struct {
    bool on;
    double p[PRIVACY_PARAMS];
    uint32_t most;      /* rounds the budget allows; 0: no budget */
    uint32_t turn;      /* rounds until a client's turn comes again; 0 and 1: any time */
    uint32_t steps;     /* unit=example: noisy steps of a client in a round, most of them */
    uint8_t secret[32]; /* of the noise */
} privacy_rule;

/* Chance that a client takes part in a round. */
double privacy_rate(const privacy_rule *r, uint32_t cohort, uint32_t n_clients);
/* Sampling by turns: the client at place i of a round's cohort, in no order. */
uint32_t privacy_in_turn(uint64_t seed, uint32_t round, uint32_t cohort,
                         uint32_t n_clients, uint32_t i);
/* Does the server add the noise?  (The clients do where the unit is an example.) */
static inline bool privacy_at_server(const privacy_rule *r)
{
    return r && r->on && r->p[PRIVACY_UNIT] < 0.5;
}
static inline bool privacy_at_clients(const privacy_rule *r)
{
    return r && r->on && r->p[PRIVACY_UNIT] > 0.5;
}
/* Before a run of `rounds`: find the noise when it is 0, and the rounds that the budget
 * allows; OM_EREFUSED when they are fewer. */
om_status privacy_settle(privacy_rule *r, uint32_t cohort, uint32_t n_clients,
                         uint32_t rounds, om_err *err);
/* What `rounds` have cost. */
om_status privacy_spent(const privacy_rule *r, uint32_t cohort, uint32_t n_clients,
                        uint32_t rounds, double *epsilon, om_err *err);

/* ---- a round ---- */

/* In the server's state, zero at first. */
typedef struct {
    uint64_t released; /* rounds */
    double clip;       /* C now; 0: the parameter */
} privacy_ledger;

size_t privacy_bytes(size_t d); /* of `room`, the memory of a round */
/* Of what correlated noise remembers between rounds, in the server's state. */
size_t privacy_past_bytes(const privacy_rule *r, size_t d);
void privacy_begin(void *room, size_t d);
/* The (d) numbers a driver decodes an update into, zeros. */
float *privacy_update(void *room, size_t d);
/* Clip it, lay it on the grid, add it up; zeros again. */
void privacy_add(const privacy_rule *r, const privacy_ledger *l, void *room, size_t d);
/* out (d): the noisy mean.  past: privacy_past_bytes, or NULL where they are 0.  Counts the
 * round; OM_ELIMIT when the budget is spent. */
om_status privacy_release(const privacy_rule *r, privacy_ledger *l, void *room, void *past,
                          size_t d, uint32_t cohort, uint64_t seed, uint32_t round,
                          float *out, om_err *err);
/* unit=example: counts a round of noisy clients; OM_ELIMIT when the budget is spent. */
om_status privacy_count(const privacy_rule *r, privacy_ledger *l, om_err *err);

/* ---- a noisy step of a client ---- */

/* The coins of one step of one client in one round: which examples, which noise. */
typedef struct {
    coins choice, noise;
} privacy_step;
privacy_step privacy_step_of(const privacy_rule *r, uint64_t seed, uint32_t round,
                             uint32_t client, uint64_t step);
/* Is the next example of the client's drawn?  Each by a coin of its own. */
bool privacy_drawn(const privacy_rule *r, privacy_step *s);
/* out (d) = (the clipped gradients that were privacy_added + noise) / expected, the number
 * of examples expected and not the one that came; zero examples are noise all the same. */
om_status privacy_step_mean(const privacy_rule *r, privacy_step *s, void *room, size_t d,
                            double expected, float *out, om_err *err);

#endif
