/* allocate.c - see allocate.h.
 *
 * The knapsack by dynamic programming over undominated sums: after matrix l the list holds
 * every (bytes, cost) that no other beats in both, ascending in bytes; each step merges
 * the list with itself shifted by every option.  Where a list grows over LIST sums, those
 * that share a LISTth of the budget are thinned to the cheapest. */
#include "compress/allocate.h"

#include "llm/perplexity.h"

#include <math.h>
#include <stdlib.h>

enum { LIST = 1 << 14, SAMPLE_ROWS = 8, NOISE_TOKENS = 2048 };

/* ---- the knapsack ------------------------------------------------------------------ */

typedef struct {
    uint64_t bytes;
    double cost;
    uint32_t from; /* in the list before */
    uint8_t option;
} partial;

static int by_bytes(const void *a, const void *b)
{
    const partial *x = a, *y = b;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return x->cost < y->cost ? -1 : x->cost > y->cost;
}

/* In place: only what costs less than everything before it, and of those that share a
 * cell the last. */
static uint32_t thin(partial *p, uint32_t n, uint64_t budget)
{
    uint32_t kept = 0;
    bool crowded;
    qsort(p, n, sizeof(*p), by_bytes);
    for (uint32_t i = 0; i < n; i++)
        if (kept == 0 || p[i].cost < p[kept - 1].cost)
            p[kept++] = p[i];
    crowded = kept > LIST;
    n = kept;
    kept = 0;
    for (uint32_t i = 0; crowded && i < n; i++) {
        uint64_t cell = budget / LIST + 1;
        if (kept && p[i].bytes / cell == p[kept - 1].bytes / cell)
            kept--;
        p[kept++] = p[i];
    }
    return crowded ? kept : n;
}

static uint32_t extend(const partial *old, uint32_t n_old, const allocate_item *item,
                       uint64_t budget, uint64_t rest, partial *out)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_old; i++)
        for (uint8_t o = 0; o < item->n; o++) {
            uint64_t bytes = old[i].bytes + item->bytes[o];
            if (bytes + rest <= budget) /* the others must fit behind it */
                out[n++] = (partial){bytes, old[i].cost + item->cost[o], i, o};
        }
    return thin(out, n, budget);
}

static uint64_t smallest(const allocate_item *item)
{
    uint64_t least = UINT64_MAX;
    for (uint32_t o = 0; o < item->n; o++)
        least = item->bytes[o] < least ? item->bytes[o] : least;
    return least;
}

static om_status search(const allocate_item *item, uint32_t n, uint64_t budget,
                        uint64_t rest, partial **list, uint8_t *choice, om_err *err)
{
    uint32_t count = 1, at = 0;
    for (uint32_t i = 0; i < n; i++) {
        partial *wide = mem_array((size_t)count * item[i].n, sizeof(*wide));
        if (!wide)
            return fail(err, OM_ENOMEM, "allocate: no memory for %u sums", count);
        rest -= smallest(&item[i]);
        count = extend(list[i], count, &item[i], budget, rest, wide);
        list[i + 1] = mem_grow(NULL, 0, count * sizeof(*wide));
        if (list[i + 1])
            memcpy(list[i + 1], wide, count * sizeof(*wide));
        mem_free(wide);
        if (!list[i + 1])
            return fail(err, OM_ENOMEM, "allocate: no memory for %u sums", count);
    }
    for (uint32_t i = 1; i < count; i++)
        at = list[n][i].cost < list[n][at].cost ? i : at;
    for (uint32_t i = n; i > 0; i--) {
        choice[i - 1] = list[i][at].option;
        at = list[i][at].from;
    }
    return OM_OK;
}

om_status allocate(const allocate_item *item, uint32_t n_items, uint64_t budget,
                   uint8_t *choice, uint64_t *least, om_err *err)
{
    uint64_t rest = 0;
    for (uint32_t i = 0; i < n_items; i++)
        rest += smallest(&item[i]);
    *least = rest;
    if (rest > budget)
        return fail(err, OM_EARG, "allocate: %llu bytes; the smallest types take %llu",
                    (unsigned long long)budget, (unsigned long long)rest);
    partial **list = mem_array((size_t)n_items + 1, sizeof(*list));
    if (list)
        list[0] = mem_array(1, sizeof(**list));
    om_status s = list && list[0] ? search(item, n_items, budget, rest, list, choice, err)
                                  : fail(err, OM_ENOMEM, "allocate: no memory");
    for (uint32_t i = 0; list && i <= n_items; i++)
        mem_free(list[i]);
    mem_free(list);
    return s;
}

/* ---- sensitivity ------------------------------------------------------------------- */

static bool is_matrix(const llm_model *m, const nn_weight *w)
{
    return w->rows > 1 && w != m->pos_embed;
}

/* Values of w with noise of a tenth of their root mean square: t^2 = 0.01. */
static float *noisy(const nn_weight *w, uint32_t which)
{
    size_t n = (size_t)w->rows * w->cols;
    float *v = mem_array(n, sizeof(*v));
    double sum = 0;
    rng r = rng_for(0x5e45, which, 0, 0);
    if (!v)
        return NULL;
    dtype_of(w->type)->unpack(w->data, v, n);
    for (size_t i = 0; i < n; i++)
        sum += (double)v[i] * (double)v[i];
    double size = 0.1 * sqrt(sum / (double)n);
    for (size_t i = 0; i < n; i++)
        v[i] += (float)(size * rng_normal(&r));
    return v;
}

static om_status one_factor(llm_model *m, llm_model *work, uint32_t i,
                            const calib_args *text, double *factor, om_err *err)
{
    nn_weight *w = &work->weight[i], kept = *w;
    compare_args a = {.k = text->k,
                      .pool = text->pool,
                      .cancel = text->cancel,
                      .stride = PERPLEXITY_HALVES,
                      .window = (uint32_t)size_min(m->h.context, 256)};
    comparison c;
    float *v = noisy(w, i);
    if (!v)
        return fail(err, OM_ENOMEM, "sensitivity: no memory for %s", w->name);
    w->data = v;
    w->type = DTYPE_F32;
    om_status s = llm_compare(m, &work, 1, text->ids, size_min(text->n, NOISE_TOKENS), &a,
                              NULL, &c, err);
    *w = kept;
    mem_free(v);
    *factor = s == OM_OK ? c.kl / 0.01 : 0;
    return s;
}

om_status sensitivity(llm_model *m, const calib_args *text, double *factor, om_err *err)
{
    llm_model *work;
    om_status s = llm_fork(m, &work, err);
    for (uint32_t i = 0; s == OM_OK && i < m->n_weight; i++) {
        factor[i] = 0;
        if (is_matrix(m, &m->weight[i]))
            s = one_factor(m, work, i, text, &factor[i], err);
        if (text->progress)
            text->progress(text->ctx, "sensitivity", "tensors", i + 1, m->n_weight);
    }
    llm_fork_close(work);
    return s;
}

/* ---- types ------------------------------------------------------------------------- */

/* Relative squared error of a few rows of w as type t. */
static om_status error_as(const nn_weight *w, dtype t, const quant_method *how,
                          const kern *k, pool *p, double *out, om_err *err)
{
    size_t rows = size_min(SAMPLE_ROWS, w->rows), n = rows * w->cols, in_row = 0;
    quant_rows j = {.rows = rows, .cols = w->cols, .type = t, .k = k, .pool = p};
    bool fits = dtype_row_bytes(t, w->cols, &j.row_bytes);
    dtype_row_bytes(w->type, w->cols, &in_row);
    float *v = mem_array(2 * n, sizeof(*v));
    uint8_t *packed = fits ? mem_array(rows, j.row_bytes) : NULL;
    om_status s = v && packed ? OM_OK : fail(err, OM_ENOMEM, "allocate: no memory");
    if (s == OM_OK) {
        for (size_t r = 0; r < rows; r++) /* spread over the matrix */
            dtype_of(w->type)->unpack((const uint8_t *)w->data +
                                          w->rows / rows * r * in_row,
                                      v + r * w->cols, w->cols);
        j.w = v;
        j.out = packed;
        s = how->encode(&j, err);
    }
    if (s == OM_OK) {
        double e = 0, sum = 1e-30;
        dtype_of(t)->unpack(packed, v + n, n);
        for (size_t i = 0; i < n; i++) {
            e += ((double)v[i] - (double)v[n + i]) * ((double)v[i] - (double)v[n + i]);
            sum += (double)v[i] * (double)v[i];
        }
        *out = e / sum;
    }
    mem_free(v);
    mem_free(packed);
    return s;
}

static om_status options_of(const nn_weight *w, const quant_method *how, double factor,
                            const kern *k, pool *p, allocate_item *item, dtype *type,
                            om_err *err)
{
    item->n = 0;
    for (const dtype *t = how->candidates; *t != DTYPE_F32; t++) {
        size_t row;
        double e;
        if (!dtype_row_bytes(*t, w->cols, &row))
            continue;
        TRY(error_as(w, *t, how, k, p, &e, err));
        type[item->n] = *t;
        item->bytes[item->n] = (uint64_t)row * w->rows;
        item->cost[item->n++] = factor * e;
    }
    if (item->n)
        return OM_OK;
    size_t row;
    type[0] = dtype_row_bytes(DTYPE_Q8_0, w->cols, &row) ? DTYPE_Q8_0 : DTYPE_F16;
    dtype_row_bytes(type[0], w->cols, &row);
    *item = (allocate_item){.n = 1, .bytes = {(uint64_t)row * w->rows}};
    return OM_OK;
}

om_status allocate_types(llm_model *m, const quant_method *how, const double *factor,
                         uint64_t budget, const kern *k, pool *p, dtype *types,
                         uint64_t *least, om_err *err)
{
    allocate_item *item = mem_array(m->n_weight, sizeof(*item));
    dtype(*type)[ALLOCATE_OPTIONS] = mem_array(m->n_weight, sizeof(*type));
    uint32_t *which = mem_array(m->n_weight, sizeof(*which)), n = 0;
    uint8_t *choice = mem_array(m->n_weight, 1);
    bool there = item && type && which && choice;
    om_status s = there ? OM_OK : fail(err, OM_ENOMEM, "allocate: no memory");
    for (uint32_t i = 0; s == OM_OK && i < m->n_weight; i++) {
        types[i] = DTYPE_F32;
        if (!is_matrix(m, &m->weight[i]))
            continue;
        s = options_of(&m->weight[i], how, factor[i], k, p, &item[n], type[n], err);
        which[n++] = i;
    }
    if (s == OM_OK)
        s = allocate(item, n, budget, choice, least, err);
    for (uint32_t i = 0; s == OM_OK && i < n; i++)
        types[which[i]] = type[i][choice[i]];
    mem_free(item);
    mem_free(type);
    mem_free(which);
    mem_free(choice);
    return s;
}
