/* attention.c - softmax(scale Q K^T + mask) V, never holding a score matrix.
 *
 * A tile of ATTN_Q queries walks over tiles of ATTN_K keys with the online softmax
 * (Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022): with m the largest
 * score so far, l the sum of exp(score - m) and o the weighted sum of values,
 *
 *     m' = max(m, scores)   l' = l e^(m-m') + sum e^(score-m')   o' = o e^(m-m') + P V
 *
 * Here keys and values come from this batch (training, calibration, perplexity); over a
 * cache attention_cache.c computes.  Groups of query heads share a key head (GQA, Ainslie
 * et al. 2023).  Position p sees keys up to p, the last `window` of them when there is
 * one. */
#include "nn/op/attention.h"

#include <math.h>

typedef struct {
    const attn *s;
    const kern *k;
    gemm_precision precision;
    float *scratch;
    size_t worker_floats, gemm_bytes;
    size_t tiles; /* query tiles of the longest sequence */
} job;

/* One head's keys and values of one sequence. */
typedef struct {
    const float *k, *v;
    size_t ld; /* between tokens */
} source;

static source head_source(const attn *s, const nn_seq *q, uint32_t kv_head)
{
    size_t ld = (size_t)s->a.n_kv_head * s->a.head_dim;
    size_t at = q->row * ld + (size_t)kv_head * s->a.head_dim;
    return (source){.k = s->k->data + at, .v = s->v->data + at, .ld = ld};
}

static float *worker_scratch(const job *j, int worker)
{
    return j->scratch + (size_t)worker * j->worker_floats;
}

/* ---- tiles: several queries of one head -------------------------------------------------
 */

typedef struct {
    const job *j;
    source f;
    const float *q; /* (m, d) of one head, ld */
    float *o;
    size_t m, d, ld;
    uint64_t pos; /* of the first query */
    float *score, *max, *sum;
    arena scratch;
} tile;

/* Fold the scores of one query over one key tile into its running max and sum; they
 * become probabilities relative to the new max, 0 where masked. */
static void fold_row(const tile *t, size_t i, uint64_t j0, size_t n)
{
    float *p = t->score + i * ATTN_K;
    size_t lo, hi;
    attn_visible(t->j->s->a.window, t->pos + i, j0, n, &lo, &hi);
    memset(p, 0, lo * sizeof(*p));
    memset(p + hi, 0, (n - hi) * sizeof(*p));
    if (lo == hi)
        return;
    float m = t->j->k->max(p + lo, hi - lo);
    if (m <= t->max[i]) {
        t->sum[i] += (float)t->j->k->expsum(p + lo, p + lo, t->max[i], hi - lo);
        return;
    }
    float keep = expf(t->max[i] - m);
    t->max[i] = m;
    t->sum[i] = t->sum[i] * keep + (float)t->j->k->expsum(p + lo, p + lo, m, hi - lo);
    t->j->k->scale(t->o + i * t->ld, keep, t->d);
}

static void key_tile(const tile *t, uint64_t j0, size_t n)
{
    const attn *s = t->j->s;
    size_t at = j0 * t->f.ld;
    gemm_args qk = {.m = t->m,
                    .n = n,
                    .k = t->d,
                    .a = t->q,
                    .lda = t->ld,
                    .b = t->f.k + at,
                    .ldb = t->f.ld,
                    .b_t = true,
                    .c = t->score,
                    .ldc = ATTN_K,
                    .alpha = s->a.scale,
                    .precision = t->j->precision};
    gemm(t->j->k, NULL, &qk, t->scratch);
    for (size_t i = 0; i < t->m; i++)
        fold_row(t, i, j0, n);
    gemm_args pv = {.m = t->m,
                    .n = t->d,
                    .k = n,
                    .a = t->score,
                    .lda = ATTN_K,
                    .b = t->f.v + at,
                    .ldb = t->f.ld,
                    .c = t->o,
                    .ldc = t->ld,
                    .alpha = 1.0f,
                    .beta = 1.0f,
                    .precision = t->j->precision};
    gemm(t->j->k, NULL, &pv, t->scratch);
}

static void finish_tile(const tile *t, float *lse, size_t lse_ld)
{
    for (size_t i = 0; i < t->m; i++) {
        t->j->k->scale(t->o + i * t->ld, 1.0f / t->sum[i], t->d);
        if (lse)
            lse[i * lse_ld] = t->max[i] + logf(t->sum[i]);
    }
}

/* Queries [i0, i0 + m) of sequence q, head h. */
static void query_tile(const job *j, const nn_seq *q, uint32_t h, uint32_t i0, uint32_t m,
                       float *scratch)
{
    const attn *s = j->s;
    size_t d = s->a.head_dim, ld = (size_t)s->a.n_head * d;
    size_t at = ((size_t)q->row + i0) * ld + h * d;
    tile t = {.j = j,
              .f = head_source(s, q, h / (s->a.n_head / s->a.n_kv_head)),
              .q = s->q->data + at,
              .o = s->y->data + at,
              .m = m,
              .d = d,
              .ld = ld,
              .pos = i0,
              .score = scratch,
              .max = scratch + ATTN_Q * ATTN_K,
              .sum = scratch + ATTN_Q * (ATTN_K + 1)};
    t.scratch = arena_of(scratch + ATTN_Q * (ATTN_K + 2), j->gemm_bytes);
    for (size_t i = 0; i < m; i++) {
        t.max[i] = -INFINITY;
        t.sum[i] = 0.0f;
        memset(t.o + i * ld, 0, d * sizeof(float));
    }
    uint64_t end = t.pos + m;
    for (uint64_t k0 = attn_first(s->a.window, t.pos); k0 < end; k0 += ATTN_K)
        key_tile(&t, k0, (size_t)(end - k0 < ATTN_K ? end - k0 : ATTN_K));
    float *lse = s->lse ? op_row(s->lse, q->row + i0) + h : NULL;
    finish_tile(&t, lse, s->a.n_head);
}

static void tiles(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    for (size_t item = beg; item < end; item++) {
        uint32_t i0 = (uint32_t)(item % j->tiles) * ATTN_Q;
        uint32_t h = (uint32_t)(item / j->tiles % j->s->a.n_head);
        const nn_seq *q = &j->s->seq[item / j->tiles / j->s->a.n_head];
        if (i0 < q->n_rows)
            query_tile(j, q, h, i0, (uint32_t)size_min(q->n_rows - i0, ATTN_Q),
                       worker_scratch(j, worker));
    }
}

/* ---- the op
 * ----------------------------------------------------------------------------------- */

static void check_shapes(nn *c, const attn *s)
{
    const nn_attn_args *a = &s->a;
    uint64_t d = a->head_dim;
    if (!a->n_kv_head || !d || a->n_head % a->n_kv_head || s->q->cols != a->n_head * d ||
        s->k->cols != a->n_kv_head * d || s->v->cols != s->k->cols ||
        s->k->rows != s->q->rows || s->v->rows != s->q->rows)
        nn_fail(c, OM_EARG,
                "nn: attention of %u heads, %u key heads, %u numbers each does "
                "not fit q (%u, %u), k (%u, %u), v (%u, %u)",
                a->n_head, a->n_kv_head, a->head_dim, s->q->rows, s->q->cols, s->k->rows,
                s->k->cols, s->v->rows, s->v->cols);
    else if (s->kv && c->train)
        nn_fail(c, OM_EARG,
                "nn: attention over a cache has no backward; train without one");
}

static void check_sequences(nn *c, const attn *s)
{
    for (uint32_t i = 0; !c->dry && i < s->n_seq; i++) {
        const nn_seq *q = &s->seq[i];
        if (q->n_rows > s->q->rows || q->row > s->q->rows - q->n_rows)
            nn_fail(c, OM_EARG, "nn: sequence %u has rows %u+%u of %u", i, q->row,
                    q->n_rows, s->q->rows);
        else if (s->kv && (uint64_t)q->past + q->n_rows > s->kv->capacity)
            nn_fail(c, OM_ELIMIT,
                    "nn: the cache holds %u tokens, sequence %u needs %llu; "
                    "open it with a longer context",
                    s->kv->capacity, i, (unsigned long long)q->past + q->n_rows);
        else if (!s->kv && q->past)
            nn_fail(c, OM_EARG, "nn: sequence %u has %u past tokens and no cache", i,
                    q->past);
    }
}

static void compute(nn *c, const attn *s, job *j)
{
    uint32_t longest = 0;
    for (uint32_t i = 0; i < s->n_seq; i++)
        longest = s->seq[i].n_rows > longest ? s->seq[i].n_rows : longest;
    j->tiles = (longest + ATTN_Q - 1) / ATTN_Q;
    pool_run(c->pool, (size_t)s->n_seq * s->a.n_head * j->tiles, 1, tiles, j);
}

/* Sizes of the scratch of one worker; returns the bytes of all. */
static size_t measure(nn *c, const attn *s, job *j)
{
    size_t d = s->a.head_dim;
    j->gemm_bytes = size_align(size_max(gemm_bytes(c->k, ATTN_Q, ATTN_K, d, NULL),
                                        gemm_bytes(c->k, ATTN_Q, d, ATTN_K, NULL)),
                               64);
    j->worker_floats =
        size_align(ATTN_Q * (ATTN_K + 2) + j->gemm_bytes / sizeof(float), 16);
    return j->worker_floats * sizeof(float) * (size_t)pool_threads(c->pool);
}

nn_tensor *nn_attention(nn *c, nn_tensor *q, nn_tensor *k, nn_tensor *v, const nn_seq *seq,
                        uint32_t n_seq, const nn_attn_args *a, const nn_kv_layer *kv)
{
    attn s = {.q = q,
              .k = k,
              .v = v,
              .y = nn_new(c, q->rows, q->cols),
              .seq = seq,
              .n_seq = n_seq,
              .a = *a,
              .kv = kv};
    check_shapes(c, &s);
    check_sequences(c, &s);
    if (c->status != OM_OK)
        return s.y;
    if (s.a.scale == 0.0f)
        s.a.scale = 1.0f / sqrtf((float)a->head_dim);
    s.y->needs_grad = q->needs_grad || k->needs_grad || v->needs_grad;
    bool keep = c->tape && s.y->needs_grad;
    if (keep)
        s.lse = nn_new(c, q->rows, a->n_head);
    nn_touch(c, q);
    nn_touch(c, k);
    nn_touch(c, v);
    job j = {.s = &s, .k = c->k, .precision = c->precision};
    j.scratch = nn_scratch(c, kv ? attn_cache_bytes(c, &s) : measure(c, &s, &j));
    if (nn_live(c)) {
        if (kv)
            attn_cache(c, &s, j.scratch);
        else
            compute(c, &s, &j);
    }
    if (keep)
        nn_push(c, attn_back, &s, sizeof(s));
    return s.y;
}
