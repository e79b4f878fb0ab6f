/* attention.c - softmax(scale Q K^T + mask) V, never holding a score matrix.
 *
 * A tile of ATTN_Q queries walks over tiles of ATTN_K keys with the online softmax
 * (Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022): with m the largest
 * score so far, l the sum of exp(score - m) and o the weighted sum of values,
 *
 *     m' = max(m, scores)   l' = l e^(m-m') + sum e^(score-m')   o' = o e^(m-m') + P V
 *
 * Keys and values come from this batch (training) or from a cache that the batch was
 * first appended to.  Groups of query heads share a key head (GQA, Ainslie et al.
 * 2023).  Position p sees keys up to p, the last `window` of them when there is one.
 *
 * A single new token per sequence, the decode step, takes dot products over the cache
 * row by row: all query heads of a group use a row while it is in the first cache. */
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

/* Where one head's keys and values of one sequence lie. */
typedef struct {
    const char *k, *v;
    dtype type;
    size_t ld, size; /* elements between tokens; bytes of one */
} source;

static source head_source(const attn *s, const nn_seq *q, uint32_t kv_head)
{
    size_t ld = (size_t)s->a.n_kv_head * s->a.head_dim;
    size_t first = s->kv ? q->kv_slot : q->row;
    source f = {.type = s->kv ? s->kv->type : DTYPE_F32, .ld = ld};
    f.size = f.type == DTYPE_F16 ? 2 : 4;
    size_t at = (first * ld + (size_t)kv_head * s->a.head_dim) * f.size;
    f.k = (s->kv ? (const char *)s->kv->k : (const char *)s->k->data) + at;
    f.v = (s->kv ? (const char *)s->kv->v : (const char *)s->v->data) + at;
    return f;
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
    float *wide; /* (ATTN_K, d) a tile of an F16 cache in f32 */
    arena scratch;
} tile;

/* A tile of keys or values in f32, and its stride. */
static const float *widen(const tile *t, const char *p, size_t n, size_t *ld)
{
    *ld = t->f.type == DTYPE_F32 ? t->f.ld : t->d;
    if (t->f.type == DTYPE_F32)
        return (const float *)p;
    for (size_t i = 0; i < n; i++)
        t->j->k->f16_to_f32(t->wide + i * t->d, (const uint16_t *)p + i * t->f.ld, t->d);
    return t->wide;
}

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
    size_t at = j0 * t->f.ld * t->f.size;
    size_t ld;
    const float *x = widen(t, t->f.k + at, n, &ld);
    gemm_args qk = {.m = t->m,
                    .n = n,
                    .k = t->d,
                    .a = t->q,
                    .lda = t->ld,
                    .b = x,
                    .ldb = ld,
                    .b_t = true,
                    .c = t->score,
                    .ldc = ATTN_K,
                    .alpha = s->a.scale,
                    .precision = t->j->precision};
    gemm(t->j->k, NULL, &qk, t->scratch);
    for (size_t i = 0; i < t->m; i++)
        fold_row(t, i, j0, n);
    x = widen(t, t->f.v + at, n, &ld);
    gemm_args pv = {.m = t->m,
                    .n = t->d,
                    .k = n,
                    .a = t->score,
                    .lda = ATTN_K,
                    .b = x,
                    .ldb = ld,
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
              .pos = (uint64_t)q->past + i0,
              .score = scratch,
              .max = scratch + ATTN_Q * ATTN_K,
              .sum = scratch + ATTN_Q * (ATTN_K + 1),
              .wide = scratch + ATTN_Q * (ATTN_K + 2)};
    t.scratch = arena_of(t.wide + ATTN_K * d, j->gemm_bytes);
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

/* ---- one query per sequence: all heads of a group over each cache row
 * --------------------- */

typedef struct {
    const job *j;
    source f;
    const float *q; /* (group, d) */
    float *o;
    size_t group, d;
    float *row, *score, *max, *sum; /* (d), (group, ATTN_K), (group), (group) */
} step;

static const float *as_f32(const step *t, const char *p)
{
    if (t->f.type == DTYPE_F32)
        return (const float *)p;
    t->j->k->f16_to_f32(t->row, (const uint16_t *)p, t->d);
    return t->row;
}

static void step_keys(const step *t, uint64_t j0, size_t n)
{
    const kern *k = t->j->k;
    for (size_t i = 0; i < n; i++) {
        const float *key = as_f32(t, t->f.k + (j0 + i) * t->f.ld * t->f.size);
        for (size_t g = 0; g < t->group; g++)
            t->score[g * ATTN_K + i] =
                t->j->s->a.scale * k->dot(t->q + g * t->d, key, t->d);
    }
    for (size_t g = 0; g < t->group; g++) {
        float *p = t->score + g * ATTN_K;
        float m = fmaxf(t->max[g], k->max(p, n)), keep = expf(t->max[g] - m);
        t->max[g] = m;
        t->sum[g] = t->sum[g] * keep + (float)k->expsum(p, p, m, n);
        k->scale(t->o + g * t->d, keep, t->d);
    }
    for (size_t i = 0; i < n; i++) {
        const float *value = as_f32(t, t->f.v + (j0 + i) * t->f.ld * t->f.size);
        for (size_t g = 0; g < t->group; g++)
            k->axpy(t->o + g * t->d, t->score[g * ATTN_K + i], value, t->d);
    }
}

static void decode(const job *j, const nn_seq *q, uint32_t kv_head, float *scratch)
{
    const attn *s = j->s;
    size_t d = s->a.head_dim, group = s->a.n_head / s->a.n_kv_head;
    size_t at = ((size_t)q->row * s->a.n_head + kv_head * group) * d;
    step t = {.j = j,
              .f = head_source(s, q, kv_head),
              .q = s->q->data + at,
              .o = s->y->data + at,
              .group = group,
              .d = d,
              .row = scratch,
              .max = scratch + d,
              .sum = scratch + d + group,
              .score = scratch + d + 2 * group};
    for (size_t g = 0; g < group; g++) {
        t.max[g] = -INFINITY;
        t.sum[g] = 0.0f;
    }
    memset(t.o, 0, group * d * sizeof(float));
    uint64_t end = (uint64_t)q->past + 1;
    for (uint64_t k0 = attn_first(s->a.window, q->past); k0 < end; k0 += ATTN_K)
        step_keys(&t, k0, (size_t)(end - k0 < ATTN_K ? end - k0 : ATTN_K));
    for (size_t g = 0; g < group; g++)
        j->k->scale(t.o + g * d, 1.0f / t.sum[g], d);
}

static void steps(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    for (size_t item = beg; item < end; item++)
        decode(j, &j->s->seq[item / j->s->a.n_kv_head],
               (uint32_t)(item % j->s->a.n_kv_head), worker_scratch(j, worker));
}

/* ---- the cache
 * ----------------------------------------------------------------------------- */

static void store(const kern *k, dtype type, void *to, size_t at, const float *from,
                  size_t n)
{
    if (type == DTYPE_F16)
        k->f32_to_f16((uint16_t *)to + at, from, n);
    else
        memcpy((float *)to + at, from, n * sizeof(float));
}

static void append(nn *c, const attn *s)
{
    size_t cols = s->k->cols;
    for (uint32_t i = 0; i < s->n_seq; i++) {
        const nn_seq *q = &s->seq[i];
        size_t at = ((size_t)q->kv_slot + q->past) * cols, n = (size_t)q->n_rows * cols;
        store(c->k, s->kv->type, s->kv->k, at, op_row(s->k, q->row), n);
        store(c->k, s->kv->type, s->kv->v, at, op_row(s->v, q->row), n);
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
    else if (s->kv && s->kv->type != DTYPE_F32 && s->kv->type != DTYPE_F16)
        nn_fail(c, OM_EUNSUPPORTED, "nn: a cache is F32 or F16, this one has type %d",
                s->kv->type);
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
        else if (s->kv && (uint64_t)q->kv_slot + q->past + q->n_rows > s->kv->capacity)
            nn_fail(c, OM_ELIMIT,
                    "nn: the cache holds %u tokens, sequence %u needs %llu; "
                    "open it with a longer context",
                    s->kv->capacity, i,
                    (unsigned long long)q->kv_slot + q->past + q->n_rows);
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
    if (s->kv)
        append(c, s);
    j->tiles = (longest + ATTN_Q - 1) / ATTN_Q;
    if (longest == 1 && s->kv)
        pool_run(c->pool, (size_t)s->n_seq * s->a.n_kv_head, 1, steps, j);
    else
        pool_run(c->pool, (size_t)s->n_seq * s->a.n_head * j->tiles, 1, tiles, j);
}

/* Floats of scratch one worker needs, for tiles or steps, whichever is larger: lengths
 * are data, so the plan cannot depend on them. */
static void measure(nn *c, const attn *s, job *j)
{
    size_t d = s->a.head_dim, group = s->a.n_head / s->a.n_kv_head;
    j->gemm_bytes = size_align(size_max(gemm_bytes(c->k, ATTN_Q, ATTN_K, d, NULL),
                                        gemm_bytes(c->k, ATTN_Q, d, ATTN_K, NULL)),
                               64);
    size_t for_tiles = ATTN_Q * (ATTN_K + 2) + ATTN_K * d + j->gemm_bytes / sizeof(float);
    size_t for_steps = d + group * (2 + ATTN_K);
    j->worker_floats = size_align(size_max(for_tiles, for_steps), 16);
}

nn_tensor *nn_attention(nn *c, nn_tensor *q, nn_tensor *k, nn_tensor *v, const nn_seq *seq,
                        uint32_t n_seq, const nn_attn_args *a, nn_kv_layer *kv)
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
    measure(c, &s, &j);
    j.scratch = nn_scratch(c, j.worker_floats * sizeof(float) * pool_threads(c->pool));
    if (nn_live(c))
        compute(c, &s, &j);
    if (keep)
        nn_push(c, attn_back, &s, sizeof(s));
    return s.y;
}
