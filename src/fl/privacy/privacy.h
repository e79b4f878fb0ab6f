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
 * The rounds released so far are part of the server's state: they survive a restart, never
 * go back, and a round past the budget leaves the model as it is. */
#ifndef FL_PRIVACY_PRIVACY_H
#define FL_PRIVACY_PRIVACY_H

#include "base/base.h"

enum {
    PRIVACY_EPSILON,
    PRIVACY_DELTA,
    PRIVACY_NOISE,
    PRIVACY_CLIP,
    PRIVACY_SAMPLING,
    PRIVACY_QUANTILE,
    PRIVACY_PARAMS /* how many */
};
enum { SAMPLING_EVERYONE, SAMPLING_POISSON };

extern const param privacy_params[];

typedef struct {
    bool on;
    double p[8];
    uint32_t most;      /* rounds the budget allows; 0: no budget */
    uint8_t secret[32]; /* of the noise */
} privacy_rule;

/* Chance that a client takes part in a round. */
double privacy_rate(const privacy_rule *r, uint32_t cohort, uint32_t n_clients);
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
void privacy_begin(void *room, size_t d);
/* The (d) numbers a driver decodes an update into, zeros. */
float *privacy_update(void *room, size_t d);
/* Clip it, lay it on the grid, add it up; zeros again. */
void privacy_add(const privacy_rule *r, const privacy_ledger *l, void *room, size_t d);
/* out (d): the noisy mean.  Counts the round; OM_ELIMIT when the budget is spent. */
om_status privacy_release(const privacy_rule *r, privacy_ledger *l, void *room, size_t d,
                          uint32_t cohort, uint64_t seed, uint32_t round, float *out,
                          om_err *err);

#endif
