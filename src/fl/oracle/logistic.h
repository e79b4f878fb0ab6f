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
#include "fmt/data.h"

typedef struct {
    const data_sparse *rows;
    const float *label;     /* (n_rows) +-1, from logistic_labels */
    const partition *split; /* who owns which row */
    bool intercept;
    double l2;
    const kern *k; /* NULL: Hessians by the rows' zeros alone, see jet */
} logistic_task;

size_t logistic_dim(const logistic_task *t);

typedef struct {
    const logistic_task *task;
    const uint32_t *index; /* (n) rows of this client */
    size_t n;
} logistic;

/* Fills *self (kept by the caller while the oracle is used) and *out. */
void logistic_oracle(const logistic_task *t, uint32_t client, logistic *self,
                     fl_oracle *out);
/* Loss without l2, and part of the rows on the right side, over all of `rows`; indices
 * past x's features (n_cols of the training rows) count as absent.  score (n_rows), NULL:
 * not wanted. */
void logistic_eval(const data_sparse *rows, const float *label, uint32_t features,
                   bool intercept, const float *x, float *score, double *loss,
                   double *accuracy);
/* Labels as +-1 into out (n_rows): the larger of exactly two values is +1. */
om_status logistic_labels(const data_sparse *rows, float *out, om_err *err);

#endif
