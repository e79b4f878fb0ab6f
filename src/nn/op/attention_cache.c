/* attention_cache.c - attention of new tokens over a paged cache.
 *
 * The rows are appended to their pages, then every query attends to what its sequence
 * has.  The context is cut at multiples of CHUNK tokens, wherever a batch begins.  Over a
 * chunk a query has
 *
 *     m = max scores      l = sum exp(score - m)      o = sum exp(score - m) value
 *
 * and the chunks are folded in order by the online softmax (Milakov and Gimelshein 2018;
 * split over the context as in Flash-Decoding, Dao et al. 2023).  All query heads that
 * share a kv head go together, so keys and values are read once.
 *
 * WORK.  A few rows: one item per (row tile, kv head, chunk), partial results to memory,
 * a second pass folds them; a single sequence at depth keeps every core busy.  More
 * rows: one item per (row tile, kv head), which folds as it goes.  Both do the same
 * arithmetic, and the products (kern/attn.h) do not depend on what else is in a tile: a
 * row's bits depend neither on its batch nor on the number of threads. */
#include "nn/op/attention.h"

#include <math.h>

enum {
    CHUNK_PAGES = 4,
    CHUNK = CHUNK_PAGES * KV_TOKENS,
    TILE_Q = 32, /* queries of a tile: rows times query heads per kv head */
};

typedef struct {
    const attn *s;
    const kern *k;
    float *query, *partial, *work;
    size_t d, dk, dv, group; /* dk, dv: padded to rows of keys, lanes of values */
    size_t tile_rows, worker_floats, chunks;
    const struct piece *piece;
    size_t n_piece;
} job;

/* A row tile: rows [i0, i0 + n) of a sequence. */
typedef struct piece {
    const nn_seq *seq;
    uint32_t i0, n;
} piece;

/* One (row tile, kv head): n queries, row-major by (row, head of the group). */
typedef struct {
    const job *j;
    const piece *p;
    size_t head, n;
    const float *q;      /* (n, dk) scaled, rotated, padded with zeros */
    float *score;        /* (n, CHUNK) then probabilities */
    float *o;            /* (n, dv) of a chunk */
    float *m, *l;        /* (n) of a chunk */
    float *to, *tm, *tl; /* folded: (n, dv), (n), (n) */
} tile;

static size_t worker_floats(const job *j)
{
    size_t n = j->tile_rows * j->group;
    return size_align(n * (CHUNK + 2 * j->dv + 4), 16);
}

/* Queries lie by (kv head, row, head of the group). */
static float *query(const job *j, size_t head, size_t row)
{
    return j->query + (head * j->s->q->rows + row) * j->group * j->dk;
}

static tile tile_open(const job *j, const piece *p, size_t head, int worker)
{
    float *w = j->work + (size_t)worker * j->worker_floats;
    size_t n = p->n * j->group;
    tile t = {.j = j, .p = p, .head = head, .n = n, .score = w};
    t.q = query(j, head, (size_t)p->seq->row + p->i0);
    t.o = t.score + n * CHUNK;
    t.to = t.o + n * j->dv;
    t.m = t.to + n * j->dv;
    t.l = t.m + n;
    t.tm = t.l + n;
    t.tl = t.tm + n;
    return t;
}

static uint64_t position(const tile *t, size_t i) /* of query i */
{
    return (uint64_t)t->p->seq->past + t->p->i0 + i / t->j->group;
}

/* Query i's place in q and y. */
static size_t place(const tile *t, size_t i)
{
    const job *j = t->j;
    size_t row = (size_t)t->p->seq->row + t->p->i0 + i / j->group;
    return (row * j->s->a.n_head + t->head * j->group + i % j->group) * j->d;
}

/* ---- one chunk -------------------------------------------------------------------- */

typedef struct {
    const void *block;
    kv_type type;
} source;

static source head_block(const tile *t, uint64_t page, bool values)
{
    const nn_kv_page *p = &t->p->seq->page[page];
    const nn_kv_part *l = &p->layer[t->j->s->kv->layer];
    kv_type type = values ? l->v : l->k;
    size_t bytes = kv_block_bytes(type, values, t->j->d);
    return (source){p->data + (values ? l->v_at : l->k_at) + t->head * bytes, type};
}

static void scale_by_token(const tile *t, const source *f, bool values, float *x)
{
    float scale[KV_TOKENS];
    if (!kv_packed(f->type))
        return;
    kv_scales(t->j->k, f->type, values, f->block, t->j->d, scale);
    for (size_t i = 0; i < t->n; i++)
        t->j->k->mul(x + i * CHUNK, x + i * CHUNK, scale, KV_TOKENS);
}

static void scores(const tile *t, uint64_t page, float *x)
{
    const job *j = t->j;
    source f = head_block(t, page, false);
    kv_product p = {.w = f.block,
                    .rows = j->dk,
                    .lanes = KV_TOKENS,
                    .a = t->q,
                    .lda = j->dk,
                    .n = t->n,
                    .y = x,
                    .ldy = CHUNK};
    j->k->attn->product[f.type](&p);
    scale_by_token(t, &f, false, x);
}

/* Scores of a chunk become probabilities, 0 where a query may not look. */
static void soften(const tile *t, uint64_t at, size_t n)
{
    const kern *k = t->j->k;
    for (size_t i = 0; i < t->n; i++) {
        float *p = t->score + i * CHUNK;
        size_t lo, hi;
        attn_visible(t->j->s->a.window, position(t, i), at, n, &lo, &hi);
        memset(p, 0, lo * sizeof(*p));
        memset(p + hi, 0, (CHUNK - hi) * sizeof(*p));
        t->m[i] = lo < hi ? k->max(p + lo, hi - lo) : -INFINITY;
        t->l[i] = lo < hi ? (float)k->expsum(p + lo, p + lo, t->m[i], hi - lo) : 0.0f;
    }
}

/* Tokens [at, at + n) of the sequence. */
static void chunk(const tile *t, uint64_t at, size_t n)
{
    const job *j = t->j;
    size_t pages = (n + KV_TOKENS - 1) / KV_TOKENS;
    uint64_t first = at / KV_TOKENS;
    for (size_t i = 0; i < pages; i++)
        scores(t, first + i, t->score + i * KV_TOKENS);
    soften(t, at, n);
    for (size_t i = 0; i < pages; i++) {
        source f = head_block(t, first + i, true);
        float *p = t->score + i * KV_TOKENS;
        scale_by_token(t, &f, true, p);
        kv_product mix = {.w = f.block,
                          .rows = kv_rows(size_min(n - i * KV_TOKENS, KV_TOKENS)),
                          .lanes = j->dv,
                          .a = p,
                          .lda = CHUNK,
                          .n = t->n,
                          .y = t->o,
                          .ldy = j->dv,
                          .add = i > 0};
        j->k->attn->product[f.type](&mix);
    }
}

/* ---- folding ---------------------------------------------------------------------- */

static void fold(const job *j, float *to, float *tm, float *tl, const float *o, float m,
                 float l)
{
    if (m == -INFINITY)
        return;
    if (m > *tm) {
        float keep = expf(*tm - m);
        j->k->scale(to, keep, j->dv);
        j->k->add(to, to, o, j->dv);
        *tl = *tl * keep + l;
        *tm = m;
        return;
    }
    float part = expf(m - *tm);
    j->k->axpy(to, part, o, j->dv);
    *tl += l * part;
}

static void finish(const tile *t, size_t i)
{
    const job *j = t->j;
    float *o = t->to + i * j->dv;
    j->k->scale(o, 1.0f / t->tl[i], j->d);
    if (j->s->kv->rotate)
        kv_rotate(o, j->d);
    memcpy(j->s->y->data + place(t, i), o, j->d * sizeof(float));
}

static void start_folding(const tile *t)
{
    memset(t->to, 0, t->n * t->j->dv * sizeof(float));
    for (size_t i = 0; i < t->n; i++) {
        t->tm[i] = -INFINITY;
        t->tl[i] = 0.0f;
    }
}

/* Chunks a tile looks at: [*first, end). */
static uint64_t chunks_of(const job *j, const piece *p, uint64_t *first)
{
    uint64_t pos = (uint64_t)p->seq->past + p->i0;
    *first = attn_first(j->s->a.window, pos) / CHUNK;
    return (pos + p->n + CHUNK - 1) / CHUNK;
}

static size_t chunk_tokens(const piece *p, uint64_t c)
{
    uint64_t end = (uint64_t)p->seq->past + p->i0 + p->n, at = c * CHUNK;
    return (size_t)(end - at < CHUNK ? end - at : CHUNK);
}

static void whole(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    for (size_t item = beg; item < end; item++) {
        size_t heads = j->s->a.n_kv_head;
        tile t = tile_open(j, &j->piece[item / heads], item % heads, worker);
        uint64_t c, last = chunks_of(j, t.p, &c);
        start_folding(&t);
        for (; c < last; c++) {
            chunk(&t, c * CHUNK, chunk_tokens(t.p, c));
            for (size_t i = 0; i < t.n; i++)
                fold(j, t.to + i * j->dv, &t.tm[i], &t.tl[i], t.o + i * j->dv, t.m[i],
                     t.l[i]);
        }
        for (size_t i = 0; i < t.n; i++)
            finish(&t, i);
    }
}

/* ---- split over the context ------------------------------------------------------- */

/* Where query i of the tile keeps its result for chunk c: m, l, o. */
static float *partial(const tile *t, size_t i, uint64_t c)
{
    const job *j = t->j;
    return j->partial + (place(t, i) / j->d * j->chunks + c) * (j->dv + 16);
}

static void parts(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    for (size_t item = beg; item < end; item++) {
        size_t heads = j->s->a.n_kv_head;
        const piece *p = &j->piece[item / j->chunks / heads];
        uint64_t first, c = item % j->chunks, last = chunks_of(j, p, &first);
        if (c < first || c >= last)
            continue;
        tile t = tile_open(j, p, item / j->chunks % heads, worker);
        chunk(&t, c * CHUNK, chunk_tokens(p, c));
        for (size_t i = 0; i < t.n; i++) {
            float *to = partial(&t, i, c);
            to[0] = t.m[i];
            to[1] = t.l[i];
            memcpy(to + 16, t.o + i * j->dv, j->dv * sizeof(float));
        }
    }
}

static void fold_parts(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    for (size_t item = beg; item < end; item++) {
        size_t heads = j->s->a.n_kv_head;
        tile t = tile_open(j, &j->piece[item / heads], item % heads, worker);
        uint64_t first, last = chunks_of(j, t.p, &first);
        start_folding(&t);
        for (size_t i = 0; i < t.n; i++) {
            for (uint64_t c = first; c < last; c++) {
                const float *p = partial(&t, i, c);
                fold(j, t.to + i * j->dv, &t.tm[i], &t.tl[i], p + 16, p[0], p[1]);
            }
            finish(&t, i);
        }
    }
}

/* ---- appending, and queries made ready -------------------------------------------- */

    /* Token i of sequence q into its page. */
    static void put_head(const job *j, const nn_seq *q, uint32_t i, size_t head,
                         bool values, float *row)
{
    const attn *s = j->s;
    uint64_t at = (uint64_t)q->past + i;
    const nn_kv_page *page = &q->page[at / KV_TOKENS];
    const nn_kv_part *l = &page->layer[s->kv->layer];
    kv_type type = values ? l->v : l->k;
    uint8_t *blocks = page->data + (values ? l->v_at : l->k_at);
    const nn_tensor *from = values ? s->v : s->k;
    const float *x = op_row(from, (size_t)q->row + i) + head * j->d;
    if (s->kv->rotate) {
        memcpy(row, x, j->d * sizeof(*row));
        kv_rotate(row, j->d);
        x = row;
    }
    kv_put(j->k, type, values, blocks + head * kv_block_bytes(type, values, j->d), j->d,
           at % KV_TOKENS, x);
}

static void put_queries(const job *j, size_t row, size_t head)
{
    const float *from = op_row(j->s->q, row) + head * j->group * j->d;
    float *to = query(j, head, row);
    for (size_t g = 0; g < j->group; g++, from += j->d, to += j->dk) {
        memcpy(to, from, j->d * sizeof(*to));
        if (j->s->kv->rotate)
            kv_rotate(to, j->d);
        j->k->scale(to, j->s->a.scale, j->d);
        memset(to + j->d, 0, (j->dk - j->d) * sizeof(*to));
    }
}

/* Items are kv heads. */
static void append(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    float *row = j->work + (size_t)worker * j->worker_floats;
    for (size_t head = beg; head < end; head++)
        for (uint32_t n = 0; n < j->s->n_seq; n++)
            for (uint32_t i = 0; i < j->s->seq[n].n_rows; i++) {
                put_head(j, &j->s->seq[n], i, head, false, row);
                put_head(j, &j->s->seq[n], i, head, true, row);
                put_queries(j, (size_t)j->s->seq[n].row + i, head);
            }
}

/* ---- the op ----------------------------------------------------------------------- */

typedef struct {
    size_t query, partial, work, total; /* offsets in the scratch, pieces before */
} layout;

static layout measure(const nn *c, const attn *s, job *j)
{
    const nn_attn_args *a = &s->a;
    size_t rows = s->q->rows;
    *j = (job){.s = s,
               .k = c->k,
               .d = a->head_dim,
               .dk = kv_rows(a->head_dim),
               .dv = kv_lanes(a->head_dim),
               .group = a->n_head / a->n_kv_head};
    j->tile_rows = size_max(TILE_Q / j->group, 1);
    j->worker_floats = worker_floats(j);
    j->chunks = (s->kv->capacity + (size_t)CHUNK - 1) / CHUNK;
    layout l = {0};
    l.query = size_align(rows * sizeof(piece), 64);
    l.partial = l.query + size_align(rows * a->n_head * j->dk * sizeof(float), 64);
    l.work = l.partial;
    if (rows <= NN_SPLIT_ROWS)
        l.work +=
            size_align(rows * a->n_head * j->chunks * (j->dv + 16) * sizeof(float), 64);
    l.total = l.work + j->worker_floats * sizeof(float) * (size_t)pool_threads(c->pool);
    return l;
}

size_t attn_cache_bytes(const nn *c, const attn *s)
{
    job j;
    return measure(c, s, &j).total;
}

static size_t cut(const job *j, piece *out)
{
    size_t n = 0;
    for (uint32_t q = 0; q < j->s->n_seq; q++)
        for (uint32_t i = 0; i < j->s->seq[q].n_rows; i += (uint32_t)j->tile_rows)
            out[n++] = (piece){&j->s->seq[q], i,
                               (uint32_t)size_min(j->s->seq[q].n_rows - i, j->tile_rows)};
    return n;
}

void attn_cache(nn *c, const attn *s, void *scratch)
{
    job j;
    layout l = measure(c, s, &j);
    char *p = scratch;
    piece *pieces = scratch;
    size_t heads = s->a.n_kv_head;
    j.query = (float *)(void *)(p + l.query);
    j.partial = (float *)(void *)(p + l.partial);
    j.work = (float *)(void *)(p + l.work);
    j.n_piece = cut(&j, pieces);
    j.piece = pieces;
    if (s->q->rows <= NN_SPLIT_ROWS) { /* not worth a hand-over */
        append(&j, 0, heads, 0);
        uint64_t longest = 0;
        for (size_t i = 0; i < j.n_piece; i++) {
            uint64_t first, last = chunks_of(&j, &j.piece[i], &first);
            longest = last > longest ? last : longest;
        }
        j.chunks = size_min(j.chunks, (size_t)longest);
        pool_run(c->pool, j.n_piece * heads * j.chunks, 1, parts, &j);
        pool_run(c->pool, j.n_piece * heads, 1, fold_parts, &j);
        return;
    }
    pool_run(c->pool, heads, 1, append, &j);
    pool_run(c->pool, j.n_piece * heads, 1, whole, &j);
}
