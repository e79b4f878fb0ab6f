/* cohort.c - see cohort.h: the drivers that cut the work and call an instruction set. */
#include "kern/cohort.h"

enum {
    GRAM_PIECE = 1024,    /* coordinates whose products are summed in f32 */
    COLUMNS_GRAIN = 4096, /* coordinates a thread takes at a time */
};

const cohort_kernels *cohort_kernels_for(unsigned flags)
{
    const cohort_kernels *best = &cohort_c;
    (void)flags;
#if defined(__x86_64__)
    if (flags & CPU_AVX2)
        best = &cohort_avx2;
    if (flags & CPU_AVX512)
        best = &cohort_avx512;
#elif defined(__aarch64__)
    if (flags & CPU_NEON)
        best = &cohort_neon;
#endif
    return best;
}

/* ---- inner products ---- */

/* Groups of coordinates with a sum each, added up in order at the end: their number
 * depends on the shape alone. */
static size_t groups_of(size_t n, size_t d)
{
    size_t most = n <= 256 ? 16 : 4, pieces = (d + GRAM_PIECE - 1) / GRAM_PIECE;
    return size_min(most, size_max(pieces, 1));
}

typedef struct {
    const kern *k;
    const cohort *c;
    size_t groups, product_bytes;
    double *sum;    /* (groups, n, n) */
    float *product; /* (threads, n, n) */
    char *scratch;  /* (threads, product_bytes) */
} gram_job;

/* NULL: by general matrix products. */
static const cohort_products *products_for(const kern *k)
{
#if defined(__x86_64__)
    if (k->flags & CPU_AMX)
        return &cohort_amx;
#endif
    (void)k;
    return NULL;
}

static void gram_group(gram_job *j, size_t group, int worker)
{
    const cohort *c = j->c;
    const cohort_products *own = products_for(j->k);
    size_t n = c->n, pieces = (c->d + GRAM_PIECE - 1) / GRAM_PIECE;
    size_t from = pieces * group / j->groups, to = pieces * (group + 1) / j->groups;
    double *sum = j->sum + group * n * n;
    float *part = j->product + (size_t)worker * n * n;
    arena room = arena_of(j->scratch + (size_t)worker * j->product_bytes, j->product_bytes);
    if (own) {
        own->span(c, from * GRAM_PIECE, size_min(to * GRAM_PIECE, c->d), sum, room.beg);
        return;
    }
    for (size_t q = from; q < to; q++) {
        size_t at = q * GRAM_PIECE;
        gemm_args g = {.m = n,
                       .n = n,
                       .k = size_min(GRAM_PIECE, c->d - at),
                       .a = c->v + at,
                       .lda = c->ld,
                       .b = c->v + at,
                       .ldb = c->ld,
                       .b_type = DTYPE_F32,
                       .b_t = true,
                       .c = part,
                       .ldc = n,
                       .alpha = 1,
                       .precision = GEMM_FAST};
        gemm(j->k, NULL, &g, room);
        for (size_t i = 0; i < n * n; i++)
            sum[i] += (double)part[i];
    }
}

static void gram_work(void *ctx, size_t beg, size_t end, int worker)
{
    for (size_t i = beg; i < end; i++)
        gram_group(ctx, i, worker);
}

static size_t product_bytes(const kern *k, size_t n)
{
    if (products_for(k))
        return size_align(products_for(k)->bytes(n), 64);
    return size_align(gemm_bytes(k, n, n, GRAM_PIECE, NULL), 64) + 64;
}

size_t cohort_gram_bytes(const kern *k, size_t n, const pool *p)
{
    size_t threads = (size_t)pool_threads(p), groups = n <= 256 ? 16 : 4;
    return arena_bytes(double, groups * n * n) + arena_bytes(float, threads * n * n) +
           threads * product_bytes(k, n) + 64;
}

void cohort_gram(const kern *k, pool *p, const cohort *c, double *g, arena scratch)
{
    size_t n = c->n, threads = (size_t)pool_threads(p);
    gram_job j = {.k = k,
                  .c = c,
                  .groups = groups_of(n, c->d),
                  .product_bytes = product_bytes(k, n)};
    j.sum = arena_new(&scratch, double, j.groups *n *n);
    j.product = arena_new(&scratch, float, threads *n *n);
    j.scratch = arena_alloc(&scratch, 1, 64, threads * j.product_bytes);
    pool_run(p, j.groups, 1, gram_work, &j);
    for (size_t i = 0; i < n; i++)
        for (size_t r = 0; r < n; r++) {
            double s = 0;
            for (size_t q = 0; q < j.groups; q++)
                s += j.sum[q * n * n + size_min(i, r) * n + size_max(i, r)];
            g[i * n + r] = s;
        }
}

/* ---- a weighted sum of rows ---- */

typedef struct {
    const kern *k;
    const cohort *c;
    const float *weight;
    float *out;
} combine_job;

static void combine_work(void *ctx, size_t beg, size_t end, int worker)
{
    const combine_job *j = ctx;
    (void)worker;
    memset(j->out + beg, 0, (end - beg) * sizeof(float));
    for (size_t i = 0; i < j->c->n; i++)
        if (j->weight[i] < 0 || j->weight[i] > 0)
            j->k->axpy(j->out + beg, j->weight[i], j->c->v + i * j->c->ld + beg, end - beg);
}

void cohort_combine(const kern *k, pool *p, const cohort *c, const float *weight,
                    float *out)
{
    combine_job j = {k, c, weight, out};
    pool_run(p, c->d, COLUMNS_GRAIN, combine_work, &j);
}

/* ---- order within coordinates ---- */

/* Comparators of Batcher's merge exchange on m rows, about m (log m)^2 / 4; no more than
 * m log m (log m + 1) / 4 + m. */
static size_t network_most(size_t m)
{
    size_t t = 0;
    while (((size_t)1 << t) < m)
        t++;
    return m * (t * (t + 1) / 4 + 1) + 1;
}

static size_t network_all(size_t m, cohort_step *step)
{
    size_t top = 1, n = 0;
    while (2 * top < m)
        top *= 2;
    for (size_t p = top; m > 1 && p > 0; p /= 2) {
        size_t q = top, r = 0, d = p;
        for (;;) {
            for (size_t i = 0; i + d < m; i++)
                if ((i & p) == r)
                    step[n++] = (cohort_step){(uint16_t)i, (uint16_t)(i + d)};
            if (q == p)
                break;
            d = q - p, q /= 2, r = p;
        }
    }
    return n;
}

/* Keep, in order, the comparators on which the rows marked in `wanted` (m) depend. */
static size_t network_prune(cohort_step *step, size_t n, uint8_t *wanted)
{
    size_t kept = n;
    for (size_t s = n; s-- > 0;) {
        if (!wanted[step[s].a] && !wanted[step[s].b])
            continue;
        wanted[step[s].a] = wanted[step[s].b] = 1;
        step[--kept] = step[s];
    }
    memmove(step, step + kept, (n - kept) * sizeof(*step));
    return n - kept;
}

typedef struct {
    const kern *k;
    const cohort_kernels *of;
    const cohort *c;
    cohort_rank rank;
    size_t cut, m, steps;
    const cohort_step *step;
    const float *mix; /* (m, n) or NULL */
    float *out, *tile, *raw; /* tile (threads, m, lanes), raw (threads, n, lanes) */
} columns_job;

/* Rows' coordinates [at, at + w) into a tile, and the next tile's into the cache. */
static void load_tile(const cohort *c, size_t at, size_t w, float *tile)
{
    for (size_t i = 0; i < c->n; i++) {
        const float *from = c->v + i * c->ld + at;
        float *to = tile + i * COHORT_STRIDE;
        if (w == COHORT_LANES) {
            for (size_t l = 0; l < COHORT_LANES; l += 16)
                __builtin_prefetch(from + COHORT_LANES + l, 0, 2);
            memcpy(to, from, COHORT_LANES * sizeof(float));
        } else {
            memset(to, 0, COHORT_LANES * sizeof(float));
            memcpy(to, from, w * sizeof(float));
        }
    }
}

static void mix_tile(const columns_job *j, const float *raw, float *tile)
{
    size_t n = j->c->n;
    memset(tile, 0, j->m * COHORT_STRIDE * sizeof(float));
    for (size_t r = 0; r < j->m; r++)
        for (size_t i = 0; i < n; i++)
            if (j->mix[r * n + i] < 0 || j->mix[r * n + i] > 0)
                j->k->axpy(tile + r * COHORT_STRIDE, j->mix[r * n + i],
                           raw + i * COHORT_STRIDE, COHORT_LANES);
}

/* The n - cut values nearest to the median stand together in the sorted column: begin
 * with the lowest window and slide it while what it leaves is farther off than what it
 * takes in.  Both distances move one way, so the slides come first and then the rests. */
static void nearest_mean(const columns_job *j, const float *tile, float *out)
{
    size_t m = j->m, keep = m - j->cut, row = COHORT_STRIDE;
    const float *lower = tile + (m - 1) / 2 * row, *upper = tile + m / 2 * row;
    float scale = 1.0f / (float)keep;
    for (size_t l = 0; l < COHORT_LANES; l++) {
        float middle = 0.5f * lower[l] + 0.5f * upper[l], sum = 0;
        size_t s = 0;
        while (s < j->cut &&
               middle - tile[s * row + l] > tile[(s + keep) * row + l] - middle)
            s++;
        for (size_t i = s; i < s + keep; i++)
            sum += tile[i * row + l];
        out[l] = sum * scale;
    }
}

static void rank_tile(const columns_job *j, float *tile, float *out)
{
    j->of->network(j->step, j->steps, tile);
    if (j->rank == COHORT_MEDIAN)
        j->of->mean(tile, (j->m - 1) / 2, j->m / 2 + 1, out);
    else if (j->rank == COHORT_TRIMMED)
        j->of->mean(tile, j->cut, j->m - j->cut, out);
    else
        nearest_mean(j, tile, out);
}

static void columns_work(void *ctx, size_t beg, size_t end, int worker)
{
    const columns_job *j = ctx;
    float *tile = j->tile + (size_t)worker * j->m * COHORT_STRIDE, out[COHORT_LANES];
    float *raw = j->mix ? j->raw + (size_t)worker * j->c->n * COHORT_STRIDE : tile;
    for (size_t at = beg; at < end; at += COHORT_LANES) {
        size_t w = size_min(COHORT_LANES, end - at);
        load_tile(j->c, at, w, raw);
        if (j->mix)
            mix_tile(j, raw, tile);
        rank_tile(j, tile, out);
        memcpy(j->out + at, out, w * sizeof(float));
    }
}

size_t cohort_columns_bytes(size_t n, size_t m, const pool *p)
{
    size_t threads = (size_t)pool_threads(p);
    return arena_bytes(cohort_step, network_most(m)) + arena_bytes(uint8_t, m) +
           threads * (n + m) * COHORT_STRIDE * sizeof(float) + 256;
}

void cohort_columns(const kern *k, pool *p, const cohort *c, cohort_rank rank, size_t cut,
                    const float *mix, size_t m, float *out, arena scratch)
{
    size_t threads = (size_t)pool_threads(p);
    columns_job j = {.k = k,
                     .of = cohort_kernels_for(k->flags),
                     .c = c,
                     .rank = rank,
                     .cut = cut,
                     .m = mix ? m : c->n,
                     .mix = mix,
                     .out = out};
    BUG_IF(j.m == 0 || j.m > COHORT_MOST || c->n > COHORT_MOST);
    BUG_IF(rank != COHORT_MEDIAN && (rank == COHORT_TRIMMED ? 2 * cut : cut) >= j.m);
    cohort_step *step = arena_new(&scratch, cohort_step, network_most(j.m));
    uint8_t *wanted = arena_new(&scratch, uint8_t, j.m);
    size_t from = rank == COHORT_MEDIAN ? (j.m - 1) / 2 : rank == COHORT_TRIMMED ? cut : 0;
    memset(wanted + from, 1, j.m - 2 * from);
    j.steps = network_prune(step, network_all(j.m, step), wanted);
    j.step = step;
    j.tile = arena_alloc(&scratch, sizeof(float), 64, threads * j.m * COHORT_STRIDE);
    j.raw = mix ? arena_alloc(&scratch, sizeof(float), 64, threads * c->n * COHORT_STRIDE)
                : NULL;
    pool_run(p, c->d, COLUMNS_GRAIN, columns_work, &j);
}
