/* stale.h - what an update counts for that is `age` versions old:
 *
 *     constant 1;  polynomial (1 + age)^-a;  hinge 1 up to b, then 1 / (a (age - b) + 1);
 *     threshold 1 up to b, then a
 *
 * Source: Xie, Koyejo, Gupta 2019, arXiv 1903.03934; Nguyen et al. 2022, arXiv 2106.06639.
 * A row's table has FL_STALE_PARAMS from index `at` on. */
#ifndef FL_STALE_H
#define FL_STALE_H

#include "base/base.h"

#include <math.h>

enum { STALE_BOUND, STALE_HOW, STALE_A, STALE_B, STALE_PARAMS /* how many */ };
enum { STALE_CONSTANT, STALE_POLYNOMIAL, STALE_HINGE, STALE_THRESHOLD };

/* Old enough for "any". */
#define STALE_ANY 1000000000

#define FL_STALE_PARAMS(at)                                                                \
    [(at) + STALE_BOUND] = {"staleness_bound",                                             \
                            STALE_ANY,                                                     \
                            0,                                                             \
                            STALE_ANY,                                                     \
                            "versions an update may be behind; older are refused",         \
                            NULL},                                                         \
    [(at) + STALE_HOW] = {"staleness", STALE_POLYNOMIAL, 0, 3,                             \
                          "what an update of some age counts for",                         \
                          "constant|polynomial|hinge|threshold"},                          \
    [(at) + STALE_A] = {"staleness_a", 0.5, 0, 1e6,                                        \
                        "polynomial: exponent; hinge: slope; threshold: weight", NULL},    \
    [(at) + STALE_B] = {"staleness_b", 4, 0, STALE_ANY,                                    \
                        "hinge, threshold: age that counts in full", NULL}

static inline double stale_weight(const double *p, uint32_t age)
{
    double a = p[STALE_A], over = age > p[STALE_B] ? age - p[STALE_B] : 0;
    switch ((int)p[STALE_HOW]) {
    case STALE_POLYNOMIAL:
        return pow(1.0 + age, -a);
    case STALE_HINGE:
        return 1 / (a * over + 1);
    case STALE_THRESHOLD:
        return over > 0 ? a : 1;
    default:
        return 1;
    }
}

#endif
