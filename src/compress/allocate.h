/* allocate.h - which tensor type for which matrix, so that a model fits a size and loses
 * least.
 *
 * The linearity theorem (Malinovskii et al. 2024, arXiv:2411.17525): for small errors the
 * loss grows by sum_l a_l t_l^2, t_l^2 being the relative squared error of matrix l, with
 * factors a_l that do not depend on how it came about.  So a_l is measured once, by adding
 * noise to one matrix at a time, and the choice is a knapsack. */
#ifndef COMPRESS_ALLOCATE_H
#define COMPRESS_ALLOCATE_H

#include "compress/method.h"

enum { ALLOCATE_OPTIONS = 12 };

typedef struct {
    uint32_t n; /* options */
    uint64_t bytes[ALLOCATE_OPTIONS];
    double cost[ALLOCATE_OPTIONS];
} allocate_item;

/* choice (n_items): the option of each that costs least in sum within `budget` bytes.
 * Exact while at most 2^14 undominated sums exist, then cheapest a 2^14th of the budget.
 * OM_EARG when even the smallest do not fit: *least says what they need. */
om_status allocate(const allocate_item *item, uint32_t n_items, uint64_t budget,
                   uint8_t *choice, uint64_t *least, om_err *err);

/* factor (m->n_weight): a_l of every matrix, 0 of vectors: KL divergence, nats a token,
 * over t^2, at t^2 = 0.01.  text: ids, machine and progress. */
om_status sensitivity(llm_model *m, const calib_args *text, double *factor, om_err *err);

/* Types (m->n_weight) of the method's candidates, so that all matrices take at most
 * `budget` bytes.  OM_EARG with the least possible in *least. */
om_status allocate_types(llm_model *m, const quant_method *how, const double *factor,
                         uint64_t budget, const kern *k, pool *p, dtype *types,
                         uint64_t *least, om_err *err);

#endif
