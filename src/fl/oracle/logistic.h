/* logistic.h - clients with binary logistic regression over sparse rows:
 *
 *     f_i(x) = (1/m_i) sum_j log(1 + exp(-b_j a_j'x)) + (l2/2) |x|^2,   b_j = +-1
 *
 * One row's work is its non-zeros; x has a last coordinate for the intercept if asked
 * for (regularised like the others, as the published runs do). */
#ifndef FL_ORACLE_LOGISTIC_H
#define FL_ORACLE_LOGISTIC_H

#include "fl/algo.h"
#include "fl/partition.h"
#include "fmt/libsvm.h"

typedef struct {
    const libsvm *rows;
    const partition *split;  /* who owns which row */
    bool intercept;
    double l2;
} logistic_task;

size_t logistic_dim(const logistic_task *t);

typedef struct {
    const logistic_task *task;
    const uint32_t *index;   /* (n) rows of this client */
    size_t n;
} logistic;

/* Fills *self (kept by the caller while the oracle is used) and *out. */
void logistic_oracle(const logistic_task *t, uint32_t client, logistic *self, fl_oracle *out);
/* Loss without l2, and part of the rows on the right side, over all of `rows`. */
void logistic_eval(const libsvm *rows, bool intercept, const float *x, double *loss,
                   double *accuracy);
/* Labels to +-1: the larger of exactly two values is +1. */
om_status logistic_labels(libsvm *rows, om_err *err);

#endif
