/* balance.c - sparsity over the matrices of a model by what it costs in each.
 *
 * The knapsack of allocate.h with shares of weights in place of types: a matrix's options
 * are sparsities about the one asked, a weight that stays is a byte, the cost a_l t_l^2,
 * t_l^2 being the squared part of the matrix that its smallest weights hold. */
#include "compress/allocate.h"
#include "compress/prune.h"

#include <math.h>
#include <stdlib.h>

enum { SPREAD = 5, SAMPLE = 1 << 16 }; /* steps each way */
#define STEP 0.05

static int rising(const void *a, const void *b)
{
    const float *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* Share of |W|^2 in the lowest `sparsity` of a sample of w, for every option. */
static om_status options_of(const nn_weight *w, double factor, double sparsity,
                            double *choice, allocate_item *item, om_err *err)
{
    size_t rows = size_min(size_max(SAMPLE / w->cols, 1), w->rows), n = rows * w->cols;
    size_t row = 0;
    float *v = mem_array(n, sizeof(*v));
    if (!v)
        return fail(err, OM_ENOMEM, "prune: no memory for a sample of %s", w->name);
    dtype_row_bytes(w->type, w->cols, &row);
    for (size_t r = 0; r < rows; r++) /* spread over the matrix */
        dtype_of(w->type)->unpack((const uint8_t *)w->data + w->rows / rows * r * row,
                                  v + r * w->cols, w->cols);
    double all = 1e-30, below = 0;
    for (size_t i = 0; i < n; i++) {
        v[i] *= v[i];
        all += (double)v[i];
    }
    qsort(v, n, sizeof(*v), rising);
    size_t at = 0;
    item->n = 0;
    for (int i = -SPREAD; i <= SPREAD; i++) {
        double s = sparsity + i * STEP;
        if (s < 0 || s > 0.98)
            continue;
        for (; at < (size_t)(s * (double)n); at++)
            below += (double)v[at];
        choice[item->n] = s;
        item->bytes[item->n] = (uint64_t)ceil((1 - s) * (double)w->rows * w->cols);
        item->cost[item->n++] = factor * below / all;
    }
    mem_free(v);
    return OM_OK;
}

static om_status fill(llm_model *m, const double *factor, double sparsity, double *balance,
                      om_err *err)
{
    allocate_item *item = mem_array(m->n_weight, sizeof(*item));
    double(*option)[ALLOCATE_OPTIONS] = mem_array(m->n_weight, sizeof(*option));
    uint32_t *which = mem_array(m->n_weight, sizeof(*which)), n = 0;
    uint8_t *choice = mem_array(m->n_weight, 1);
    uint64_t least, budget = 0;
    om_status s = item && option && which && choice
                      ? OM_OK
                      : fail(err, OM_ENOMEM, "prune: no memory to balance layers");
    for (uint32_t i = 0; s == OM_OK && i < m->n_weight; i++) {
        const nn_weight *w = &m->weight[i];
        balance[i] = 0;
        if (w->rows == 1 || w == m->embed || w == m->output || w == m->pos_embed)
            continue;
        s = options_of(w, factor[i], sparsity, option[n], &item[n], err);
        budget += (uint64_t)ceil((1 - sparsity) * (double)w->rows * w->cols);
        which[n++] = i;
    }
    if (s == OM_OK)
        s = allocate(item, n, budget, choice, &least, err);
    for (uint32_t i = 0; s == OM_OK && i < n; i++)
        balance[which[i]] = option[i][choice[i]];
    mem_free(item);
    mem_free(option);
    mem_free(which);
    mem_free(choice);
    return s;
}

om_status prune_balance(llm_model *m, const calib_args *text, double sparsity,
                        double *balance, om_err *err)
{
    double *factor = mem_array(m->n_weight, sizeof(*factor));
    om_status s = factor ? sensitivity(m, text, factor, err)
                         : fail(err, OM_ENOMEM, "prune: no memory to balance layers");
    if (s == OM_OK)
        s = fill(m, factor, sparsity, balance, err);
    mem_free(factor);
    return s;
}
