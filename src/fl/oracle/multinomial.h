/* multinomial.h - clients with multinomial logistic regression over sparse rows:
 *
 *     f_i(x) = (1/m_i) sum_j (log sum_k exp(a_j'x_k) - a_j'x_{y_j}) + (l2/2) |x|^2
 *
 * x is (classes, features), the last feature being the intercept of value 1 if asked for.
 * Convex, and with second derivatives: what the softmax network of net.h is not asked for.
 */
#ifndef FL_ORACLE_MULTINOMIAL_H
#define FL_ORACLE_MULTINOMIAL_H

#include "fl/algo.h"
#include "fl/partition.h"
#include "fmt/data.h"

enum { MULTINOMIAL_MOST_CLASSES = 1024 };

typedef struct {
    const data_sparse *rows;
    const uint32_t *label; /* (n_rows) below n_classes */
    uint32_t n_classes;
    const partition *split; /* who owns which row */
    bool intercept;
    double l2;
} multinomial_task;

size_t multinomial_dim(const multinomial_task *t);

typedef struct {
    const multinomial_task *task;
    const uint32_t *index; /* (n) rows of this client */
    size_t n;
} multinomial;

/* Fills *self (kept by the caller while the oracle is used) and *out. */
void multinomial_oracle(const multinomial_task *t, uint32_t client, multinomial *self,
                        fl_oracle *out);
/* Loss without l2, and part of the rows that are right, over all of `rows` with these
 * labels; features past t's own count as absent. */
void multinomial_eval(const multinomial_task *t, const data_sparse *rows,
                      const uint32_t *label, size_t n, const float *x, double *loss,
                      double *accuracy);

#endif
