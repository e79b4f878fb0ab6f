/* sparsegpt.c - column after column, what goes is made up for by the columns behind it.
 *
 * With H^-1 = R^T D^-1 R (obs.h) removing weight t_k of a row costs t_k^2 d_k given the
 * columns before.  Unstructured: at the start of a block of columns the lowest share of
 * these, over all rows of the block, is marked.  N:M: of every M columns a row's lowest,
 * at the first of them.  Then, in order, a marked weight becomes 0 and t_l -= t_k R_kl.
 *
 * With H = I it is magnitude pruning in blocks of columns. */
#include "compress/prune.h"

typedef struct {
    const prune_matrix *j;
    obs f;
    uint8_t *keep; /* (rows, block) */
    float *score;  /* (rows, block) */
    size_t block;
} sweep;

static om_status begin(void *ctx, size_t k0, size_t n, const float *w, om_err *err)
{
    sweep *s = ctx;
    const prune_matrix *j = s->j;
    memset(s->keep, 1, j->rows * s->block);
    if (j->of)
        return OM_OK;
    for (size_t r = 0; r < j->rows; r++)
        for (size_t c = 0; c < n; c++) {
            float t = w[r * j->cols + k0 + c];
            s->score[r * n + c] = t * t * s->f.d[k0 + c];
        }
    size_t go = (size_t)(j->sparsity * (double)(j->rows * (k0 + n))) -
                (size_t)(j->sparsity * (double)(j->rows * k0));
    return prune_lowest(s->score, j->rows * n, go, s->keep, err);
}

static void mark_pattern(const sweep *s, size_t k0, size_t at, const float *w,
                         uint8_t *keep)
{
    const prune_matrix *j = s->j;
    for (uint32_t i = 0; i < j->of; i++) {
        float mine = w[at + i] * w[at + i] * s->f.d[k0 + at + i];
        uint32_t above = 0;
        for (uint32_t o = 0; o < j->of; o++) {
            float its = w[at + o] * w[at + o] * s->f.d[k0 + at + o];
            above += its > mine || (its >= mine && o > i);
        }
        keep[at + i] = above < j->stay;
    }
}

static void row(void *ctx, size_t r, size_t k0, size_t n, float *w, float *c, int worker)
{
    const sweep *s = ctx;
    uint8_t *keep = s->keep + r * n;
    (void)worker;
    for (size_t i = 0; i < n; i++) {
        if (s->j->of && i % s->j->of == 0)
            mark_pattern(s, k0, i, w, keep);
        if (keep[i])
            continue;
        const float *to = s->f.r + (k0 + i) * s->f.n + k0;
        c[i] = -w[i];
        w[i] = 0;
        for (size_t l = i + 1; l < n; l++)
            w[l] += c[i] * to[l];
    }
}

static om_status prune(const prune_matrix *j, om_err *err)
{
    sweep s = {.j = j, .block = size_min(j->block, j->cols)};
    TRY(obs_factor(j->h, j->cols, PRUNE_DAMP, j->k, j->pool, &s.f, err));
    s.keep = mem_array(j->rows, s.block);
    s.score = mem_array(j->rows, s.block * sizeof(float));
    om_status st =
        s.keep && s.score
            ? obs_sweep(&s.f, j->w, j->rows, s.block, j->k, j->pool, begin, row, &s, err)
            : fail(err, OM_ENOMEM, "prune: no memory for %zu rows", j->rows);
    mem_free(s.keep);
    mem_free(s.score);
    obs_free(&s.f);
    return st;
}

const prune_method prune_sparsegpt = {
    .name = "sparsegpt",
    .summary = "column by column, later columns make up",
    .source = "Frantar and Alistarh 2023, arXiv:2301.00774",
    .structures = PRUNE_WEIGHTS,
    .wants = PRUNE_FULL,
    .reconstructs = true,
    .sweep = prune,
};
