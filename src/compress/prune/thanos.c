/* thanos.c - blocks of columns; in each, all that goes from a row goes at once and
 * everything that stays makes up for it (obs.h).
 *
 * Unstructured: before a block the lowest |W_ij| |X_j| of the whole matrix from the block
 * on, as it stands by then, are marked, as many as are still to go; those inside the block
 * go.  N:M: of every M columns a row's lowest.  Units: the columns of least wanda loss, the
 * closed form for all rows (obs_drop).
 *
 * The paper keeps a tenth of the rows dense ("outliers") in N:M and structured pruning;
 * here none is, so that the pattern holds everywhere and columns can leave the file. */
#include "compress/prune.h"

#include <math.h>

extern const prune_method prune_thanos;

typedef struct {
    const prune_matrix *j;
    obs f;
    size_t block, zeros;
    uint8_t *keep, *marked; /* (rows, block); (rows, cols) */
    float *score;           /* (rows, cols) */
    double *g, *scratch;
} sweep;

/* The lowest of the remaining matrix; the block's part of the mask. */
static om_status mark(sweep *s, size_t k0, size_t n, const float *w, om_err *err)
{
    const prune_matrix *j = s->j;
    size_t cols = j->cols - k0;
    size_t go = (size_t)(j->sparsity * (double)(j->rows * j->cols)) - s->zeros;
    for (size_t r = 0; r < j->rows; r++)
        for (size_t c = 0; c < cols; c++)
            s->score[r * cols + c] = fabsf(w[r * j->cols + k0 + c]) * sqrtf(j->x2[k0 + c]);
    memset(s->marked, 1, j->rows * cols);
    TRY(prune_lowest(s->score, j->rows * cols, go, s->marked, err));
    for (size_t r = 0; r < j->rows; r++)
        for (size_t c = 0; c < n; c++) {
            s->keep[r * n + c] = s->marked[r * cols + c];
            s->zeros += !s->marked[r * cols + c];
        }
    return OM_OK;
}

static om_status begin(void *ctx, size_t k0, size_t n, const float *w, om_err *err)
{
    sweep *s = ctx;
    const prune_matrix *j = s->j;
    obs_block(&s->f, k0, n, s->g);
    if (!j->of)
        return mark(s, k0, n, w, err);
    prune_matrix part = *j;
    part.cols = n;
    for (size_t r = 0; r < j->rows; r++) {
        for (size_t c = 0; c < n; c++)
            s->score[c] = fabsf(w[r * j->cols + k0 + c]) * sqrtf(j->x2[k0 + c]);
        prune_pattern(&part, s->score, s->keep + r * n);
    }
    return OM_OK;
}

static void row(void *ctx, size_t r, size_t k0, size_t n, float *w, float *c, int worker)
{
    const sweep *s = ctx;
    obs_joint(&s->f, k0, n, s->g, s->keep + r * n, w, c,
              s->scratch + (size_t)worker * obs_joint_room(s->block));
}

static om_status run(sweep *s, om_err *err)
{
    const prune_matrix *j = s->j;
    size_t workers = (size_t)pool_threads(j->pool);
    s->keep = mem_array(j->rows, s->block);
    s->marked = mem_array(j->rows, j->cols);
    s->score = mem_array(j->rows, j->cols * sizeof(float));
    s->g = mem_array(s->block, s->block * sizeof(double));
    s->scratch = mem_array(workers, obs_joint_room(s->block) * sizeof(double));
    if (!s->keep || !s->marked || !s->score || !s->g || !s->scratch)
        return fail(err, OM_ENOMEM, "prune: no memory for blocks of %zu columns", s->block);
    return obs_sweep(&s->f, j->w, j->rows, s->block, j->k, j->pool, begin, row, s, err);
}

static om_status prune(const prune_matrix *j, om_err *err)
{
    sweep s = {.j = j, .block = size_min(j->block, j->cols)};
    if (!j->reconstruct)
        return prune_by_score(&prune_thanos, j, err);
    TRY(obs_factor(j->h, j->cols, PRUNE_DAMP, j->k, j->pool, &s.f, err));
    om_status st = run(&s, err);
    mem_free(s.keep);
    mem_free(s.marked);
    mem_free(s.score);
    mem_free(s.g);
    mem_free(s.scratch);
    obs_free(&s.f);
    return st;
}

const prune_method prune_thanos = {
    .name = "thanos",
    .summary = "blocks of columns, all that stays makes up",
    .source = "Ilin and Richtarik 2025, arXiv:2504.05346",
    .structures = PRUNE_WEIGHTS | PRUNE_UNITS,
    .wants = PRUNE_FULL,
    .reconstructs = true,
    .score = prune_score_wanda,
    .sweep = prune,
};
