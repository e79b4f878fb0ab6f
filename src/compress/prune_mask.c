/* prune_mask.c - from scores to masks, from masks to weights: see prune.h. */
#include "compress/prune.h"

#include <math.h>
#include <stdlib.h>

#define X(name) extern const prune_method prune_##name;
#include "compress/prune_list.h"
PRUNE_METHOD_LIST(X)
#undef X

const prune_method *const prune_methods[] = {
#define X(name) &prune_##name,
    PRUNE_METHOD_LIST(X)
#undef X
        NULL};

const prune_method *prune_method_find(str name)
{
    for (size_t i = 0; prune_methods[i]; i++)
        if (str_is(name, prune_methods[i]->name))
            return prune_methods[i];
    return NULL;
}

/* ---- scores ------------------------------------------------------------------------ */

void prune_score_magnitude(const prune_matrix *j, float *s)
{
    for (size_t i = 0; i < j->rows * j->cols; i++)
        s[i] = fabsf(j->w[i]);
}

void prune_score_wanda(const prune_matrix *j, float *s)
{
    for (size_t r = 0; r < j->rows; r++)
        for (size_t c = 0; c < j->cols; c++)
            s[r * j->cols + c] = fabsf(j->w[r * j->cols + c]) * sqrtf(j->x2[c]);
}

/* ---- masks ------------------------------------------------------------------------- */

typedef struct {
    float score;
    uint32_t at;
} ranked;

static int by_score(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->score < y->score || x->score > y->score)
        return x->score < y->score ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

om_status prune_lowest(const float *score, size_t count, size_t n, uint8_t *keep,
                       om_err *err)
{
    ranked *all = mem_array(count, sizeof(*all));
    if (!all || count > UINT32_MAX) {
        mem_free(all);
        return fail(err, OM_ENOMEM, "prune: no memory to sort %zu scores", count);
    }
    for (size_t i = 0; i < count; i++)
        all[i] = (ranked){score[i], (uint32_t)i};
    qsort(all, count, sizeof(*all), by_score);
    for (size_t i = 0; i < n; i++)
        keep[all[i].at] = 0;
    mem_free(all);
    return OM_OK;
}

void prune_pattern(const prune_matrix *j, const float *score, uint8_t *keep)
{
    for (size_t c = 0; c < j->cols; c += j->of)
        for (uint32_t i = 0; i < j->of; i++) {
            uint32_t above = 0; /* neighbours that stay before this one does */
            for (uint32_t o = 0; o < j->of; o++) {
                float a = score[c + o], b = score[c + i];
                above += a > b || (a >= b && o > i);
            }
            keep[c + i] = above < j->stay;
        }
}

static om_status mask_of(const prune_method *how, const prune_matrix *j, const float *s,
                         uint8_t *keep, om_err *err)
{
    size_t all = j->rows * j->cols;
    memset(keep, 1, all);
    if (!j->of && !how->by_row)
        return prune_lowest(s, all, (size_t)(j->sparsity * (double)all), keep, err);
    for (size_t r = 0; r < j->rows; r++) {
        const float *row = s + r * j->cols;
        if (j->of)
            prune_pattern(j, row, keep + r * j->cols);
        else
            TRY(prune_lowest(row, j->cols, (size_t)(j->sparsity * (double)j->cols),
                             keep + r * j->cols, err));
    }
    return OM_OK;
}

/* ---- the others make up ------------------------------------------------------------ */

typedef struct {
    const prune_matrix *j;
    const uint8_t *keep;
    obs f;
    double *g, *scratch; /* (block, block); one room a worker */
    size_t block;
} joint;

static om_status begin(void *ctx, size_t k0, size_t n, const float *w, om_err *err)
{
    joint *t = ctx;
    (void)w;
    (void)err;
    obs_block(&t->f, k0, n, t->g);
    return OM_OK;
}

static void joint_row(void *ctx, size_t row, size_t k0, size_t n, float *w, float *c,
                      int worker)
{
    joint *t = ctx;
    obs_joint(&t->f, k0, n, t->g, t->keep + row * t->j->cols + k0, w, c,
              t->scratch + (size_t)worker * obs_joint_room(t->block));
}

om_status prune_reconstruct(const prune_matrix *j, const uint8_t *keep, om_err *err)
{
    joint t = {.j = j, .keep = keep, .block = size_min(j->block, j->cols)};
    size_t workers = (size_t)pool_threads(j->pool);
    TRY(obs_factor(j->h, j->cols, PRUNE_DAMP, j->k, j->pool, &t.f, err));
    t.g = mem_array(t.block, t.block * sizeof(double));
    t.scratch = mem_array(workers, obs_joint_room(t.block) * sizeof(double));
    om_status s =
        t.g && t.scratch
            ? obs_sweep(&t.f, j->w, j->rows, t.block, j->k, j->pool, begin, joint_row, &t,
                        err)
            : fail(err, OM_ENOMEM, "prune: no memory for blocks of %zu columns", t.block);
    mem_free(t.g);
    mem_free(t.scratch);
    obs_free(&t.f);
    return s;
}

om_status prune_by_score(const prune_method *how, const prune_matrix *j, om_err *err)
{
    float *s = mem_array(j->rows, j->cols * sizeof(float));
    uint8_t *keep = mem_array(j->rows, j->cols);
    om_status st = s && keep ? OM_OK
                             : fail(err, OM_ENOMEM, "prune: no memory for %zu scores",
                                    j->rows * j->cols);
    if (st == OM_OK) {
        how->score(j, s);
        st = mask_of(how, j, s, keep, err);
    }
    if (st == OM_OK && j->reconstruct)
        st = prune_reconstruct(j, keep, err);
    for (size_t i = 0; st == OM_OK && i < j->rows * j->cols; i++)
        j->w[i] = keep[i] ? j->w[i] : 0;
    mem_free(s);
    mem_free(keep);
    return st;
}
