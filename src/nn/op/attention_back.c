/* attention_back.c - gradients of attention from q, k, v, the output and one number per
 * row and head (FlashAttention-2, Dao 2023):
 *
 *     P = exp(scale Q K^T - lse)         D_i = sum of dO_i O_i
 *     dV += P^T dO    dP = dO V^T    dS = scale P (dP - D)    dQ += dS K    dK += dS^T Q
 *
 * One task is a key head of a sequence with all the query heads of its group: nobody
 * else writes these columns of dq, dk and dv, and inside the order is fixed. */
#include "nn/op/attention.h"

typedef struct {
    const attn *s;
    const kern *k;
    gemm_precision precision;
    const float *dy;
    float *dq, *dk, *dv; /* NULL where nobody asks */
    bool fresh_q, fresh_k, fresh_v;
    float *dot; /* (rows, n_head): D */
    float *scratch;
    size_t worker_floats, gemm_bytes;
} job;

static void row_dots(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    size_t heads = j->s->a.n_head, d = j->s->a.head_dim;
    (void)worker;
    for (size_t i = beg * heads; i < end * heads; i++)
        j->dot[i] = j->k->dot(j->dy + i * d, j->s->y->data + i * d, d);
}

/* One tile: m queries of one head against n keys. */
typedef struct {
    const job *j;
    size_t m, n, d, q_ld, k_ld;
    size_t q_at, k_at; /* first element in q, y, dq and in k, v, dk, dv */
    size_t stat_at;    /* first element in lse and D */
    uint64_t i0, k0;
    float *p, *ds; /* (m, ATTN_K) */
    arena scratch;
} tile;

/* C (m, n) = alpha A B^T over d: scores, and dP. */
static void over_dims(const tile *t, const float *a, const float *b, float alpha,
                      float *out)
{
    gemm_args g = {.m = t->m,
                   .n = t->n,
                   .k = t->d,
                   .a = a + t->q_at,
                   .lda = t->q_ld,
                   .b = b + t->k_at,
                   .ldb = t->k_ld,
                   .b_t = true,
                   .c = out,
                   .ldc = ATTN_K,
                   .alpha = alpha,
                   .precision = t->j->precision};
    gemm(t->j->k, NULL, &g, t->scratch);
}

/* dk or dv (n, d) += S^T (m, n) X (m, d) */
static void over_queries(const tile *t, const float *scores, const float *x, float *out)
{
    gemm_args g = {.m = t->n,
                   .n = t->d,
                   .k = t->m,
                   .a = scores,
                   .lda = ATTN_K,
                   .a_t = true,
                   .b = x + t->q_at,
                   .ldb = t->q_ld,
                   .c = out + t->k_at,
                   .ldc = t->k_ld,
                   .alpha = 1.0f,
                   .beta = 1.0f,
                   .precision = t->j->precision};
    gemm(t->j->k, NULL, &g, t->scratch);
}

static void over_keys(const tile *t)
{
    gemm_args g = {.m = t->m,
                   .n = t->d,
                   .k = t->n,
                   .a = t->ds,
                   .lda = ATTN_K,
                   .b = t->j->s->k->data + t->k_at,
                   .ldb = t->k_ld,
                   .c = t->j->dq + t->q_at,
                   .ldc = t->q_ld,
                   .alpha = 1.0f,
                   .beta = 1.0f,
                   .precision = t->j->precision};
    gemm(t->j->k, NULL, &g, t->scratch);
}

static void probabilities(const tile *t)
{
    const attn *s = t->j->s;
    for (size_t i = 0; i < t->m; i++) {
        float *p = t->p + i * ATTN_K;
        size_t lo, hi;
        attn_visible(s->a.window, t->i0 + i, t->k0, t->n, &lo, &hi);
        memset(p, 0, lo * sizeof(*p));
        memset(p + hi, 0, (t->n - hi) * sizeof(*p));
        t->j->k->expsum(p + lo, p + lo, s->lse->data[t->stat_at + i * s->a.n_head],
                        hi - lo);
    }
}

static void score_grads(const tile *t)
{
    const attn *s = t->j->s;
    for (size_t i = 0; i < t->m; i++) {
        const float *p = t->p + i * ATTN_K;
        float *ds = t->ds + i * ATTN_K, dot = t->j->dot[t->stat_at + i * s->a.n_head];
        for (size_t k = 0; k < t->n; k++)
            ds[k] = s->a.scale * p[k] * (ds[k] - dot);
    }
}

static void tile_back(const tile *t)
{
    const job *j = t->j;
    over_dims(t, j->s->q->data, j->s->k->data, j->s->a.scale, t->p);
    probabilities(t);
    if (j->dv)
        over_queries(t, t->p, j->dy, j->dv);
    if (!j->dq && !j->dk)
        return;
    over_dims(t, j->dy, j->s->v->data, 1.0f, t->ds);
    score_grads(t);
    if (j->dk)
        over_queries(t, t->ds, j->s->q->data, j->dk);
    if (j->dq)
        over_keys(t);
}

static void clear(float *x, size_t at, size_t rows, size_t ld, size_t cols)
{
    for (size_t i = 0; i < rows; i++)
        memset(x + at + i * ld, 0, cols * sizeof(float));
}

static void clear_fresh(const job *j, const nn_seq *q, uint32_t kv_head)
{
    const nn_attn_args *a = &j->s->a;
    size_t d = a->head_dim, group = a->n_head / a->n_kv_head;
    size_t q_ld = a->n_head * d, k_ld = a->n_kv_head * d;
    size_t q_at = q->row * q_ld + kv_head * group * d, k_at = q->row * k_ld + kv_head * d;
    if (j->dq && j->fresh_q)
        clear(j->dq, q_at, q->n_rows, q_ld, group * d);
    if (j->dk && j->fresh_k)
        clear(j->dk, k_at, q->n_rows, k_ld, d);
    if (j->dv && j->fresh_v)
        clear(j->dv, k_at, q->n_rows, k_ld, d);
}

/* Every query tile of head h that sees something of keys [k0, k0 + n). */
static void head_back(const job *j, const nn_seq *q, uint32_t h, uint32_t k0,
                      float *scratch)
{
    const nn_attn_args *a = &j->s->a;
    size_t d = a->head_dim;
    tile t = {.j = j,
              .n = size_min(q->n_rows - k0, ATTN_K),
              .d = d,
              .q_ld = a->n_head * d,
              .k_ld = a->n_kv_head * d,
              .k0 = k0,
              .p = scratch,
              .ds = scratch + ATTN_Q * ATTN_K,
              .scratch = arena_of(scratch + 2 * ATTN_Q * ATTN_K, j->gemm_bytes)};
    uint32_t kv_head = h / (a->n_head / a->n_kv_head);
    t.k_at = ((size_t)q->row + k0) * t.k_ld + kv_head * d;
    for (uint32_t i0 = k0 / ATTN_Q * ATTN_Q; i0 < q->n_rows; i0 += ATTN_Q) {
        if (attn_first(a->window, i0) >= k0 + t.n)
            break;
        t.m = size_min(q->n_rows - i0, ATTN_Q);
        t.i0 = i0;
        t.q_at = ((size_t)q->row + i0) * t.q_ld + h * d;
        t.stat_at = ((size_t)q->row + i0) * a->n_head + h;
        tile_back(&t);
    }
}

static void key_heads(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    const nn_attn_args *a = &j->s->a;
    uint32_t group = a->n_head / a->n_kv_head;
    float *scratch = j->scratch + (size_t)worker * j->worker_floats;
    for (size_t item = beg; item < end; item++) {
        const nn_seq *q = &j->s->seq[item / a->n_kv_head];
        uint32_t kv_head = (uint32_t)(item % a->n_kv_head);
        clear_fresh(j, q, kv_head);
        for (uint32_t k0 = 0; k0 < q->n_rows; k0 += ATTN_K)
            for (uint32_t g = 0; g < group; g++)
                head_back(j, q, kv_head * group + g, k0, scratch);
    }
}

static void declare(nn *c, attn *s, job *j)
{
    size_t d = s->a.head_dim;
    j->dq = nn_grad(c, s->q, &j->fresh_q);
    j->dk = nn_grad(c, s->k, &j->fresh_k);
    j->dv = nn_grad(c, s->v, &j->fresh_v);
    nn_touch(c, s->q);
    nn_touch(c, s->k);
    nn_touch(c, s->v);
    nn_touch(c, s->y);
    nn_touch(c, s->lse);
    size_t n = gemm_bytes(c->k, ATTN_Q, ATTN_K, d, NULL);
    n = size_max(n, gemm_bytes(c->k, ATTN_Q, d, ATTN_K, NULL));
    n = size_max(n, gemm_bytes(c->k, ATTN_K, d, ATTN_Q, NULL));
    j->gemm_bytes = size_align(n, 64);
    j->worker_floats = 2 * ATTN_Q * ATTN_K + j->gemm_bytes / sizeof(float);
    j->scratch = nn_scratch(c, j->worker_floats * sizeof(float) * pool_threads(c->pool));
    j->dot = nn_scratch(c, (size_t)s->q->rows * s->a.n_head * sizeof(float));
}

void attn_back(nn *c, void *saved)
{
    attn *s = saved;
    job j = {.s = s, .k = c->k, .precision = c->precision, .dy = nn_grad_in(c, s->y)};
    if (!j.dy)
        return;
    declare(c, s, &j);
    if (!nn_live(c))
        return;
    pool_run(c->pool, s->q->rows, op_grain(s->q->cols), row_dots, &j);
    pool_run(c->pool, (size_t)s->n_seq * s->a.n_kv_head, 1, key_heads, &j);
}
