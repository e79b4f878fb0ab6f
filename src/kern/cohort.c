/* cohort.c - see cohort.h: the drivers that cut the work and call an instruction set. */
#include "kern/cohort.h"

#include <math.h>

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

/* Rows of a tile, and one more of infinities for partners past the end. */
static size_t padded(size_t m) { return size_align(m, 16); }

static size_t network_most(size_t m)
{
    size_t t = 0;
    while (((size_t)1 << t) < m)
        t++;
    return padded(m) * (t * (t + 1) / 4 + 2);
}

typedef struct {
    cohort_step *step;
    size_t n, rows; /* rows: padded */
} network_plan;

/* Partners past the end are infinite: their row is the spare one. */
static void put_step(network_plan *p, cohort_kind kind, const size_t *row, size_t n)
{
    cohort_step *s = &p->step[p->n];
    size_t real = 0;
    s->kind = (uint16_t)kind;
    for (size_t i = 0; i < n; i++) {
        real += row[i] < p->rows;
        s->row[i] = (uint16_t)size_min(row[i], p->rows);
    }
    p->n += real > 1 || n == 1;
}

/* Pairs `apart` rows from one another within the blocks of twice that. */
static void half_clean(network_plan *p, size_t base, size_t run, size_t apart)
{
    for (size_t i = 0; i < run; i++)
        if (!(i & apart))
            put_step(p, COHORT_MERGE2, (size_t[]){base + i, base + i + apart}, 2);
}

/* Two sorted runs of run/2 rows from base on: mirrored, then halved until 16 rows are
 * left to themselves. */
static void merge(network_plan *p, size_t base, size_t run)
{
    size_t end = base + run - 1, b = base;
    for (size_t i = 0; i < run / 2 && (i < 16 || run > 128); i++)
        if (run == 64)
            put_step(p, COHORT_MERGE4,
                     (size_t[]){b + i, b + i + 16, end - i - 16, end - i}, 4);
        else if (run == 128)
            put_step(p, COHORT_MERGE8,
                     (size_t[]){b + i, b + i + 16, b + i + 32, b + i + 48, end - i - 48,
                                end - i - 32, end - i - 16, end - i},
                     8);
        else
            put_step(p, COHORT_MERGE2, (size_t[]){b + i, end - i}, 2);
    for (size_t apart = run / 4; run > 128 && apart >= 16; apart /= 2)
        half_clean(p, base, run, apart);
    for (size_t at = base; at < base + run && at < p->rows; at += 16)
        put_step(p, COHORT_CLEAN16, &at, 1);
}

static size_t network_of(size_t m, cohort_step *step)
{
    network_plan p = {.step = step, .rows = padded(m)};
    for (size_t at = 0; at < p.rows; at += 16)
        put_step(&p, COHORT_SORT16, &at, 1);
    for (size_t run = 32; run / 2 < p.rows; run *= 2)
        for (size_t base = 0; base + run / 2 < p.rows; base += run)
            merge(&p, base, run);
    return p.n;
}

typedef struct {
    const kern *k;
    const cohort_kernels *of;
    const cohort *c;
    cohort_rank rank;
    size_t cut, m, steps;
    const cohort_step *step;
    const float *mix; /* (m, n) or NULL */
    float *out;
    float *loaded; /* (threads, tiles) tiles of n rows */
    float *mixed;  /* (threads) tiles of m rows, with mix */
} columns_job;

/* Coordinates [at, at + w) of every row into tiles that lie `apart` floats from one
 * another: rows are read in long runs, which the CPU sees coming; tile by tile it would
 * meet as many streams as there are rows. */
static void load_tiles(const cohort *c, size_t at, size_t w, float *tile, size_t apart)
{
    for (size_t i = 0; i < c->n; i++) {
        const float *from = c->v + i * c->ld + at;
        float *to = tile + i * COHORT_STRIDE;
        for (size_t done = 0; done < w; done += COHORT_LANES, to += apart) {
            size_t n = size_min(COHORT_LANES, w - done);
            memcpy(to, from + done, n * sizeof(float));
            if (n < COHORT_LANES)
                memset(to + n, 0, (COHORT_LANES - n) * sizeof(float));
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

static size_t tile_floats(size_t rows) { return (padded(rows) + 1) * COHORT_STRIDE; }

/* Tiles side by side: what fits half a second-level cache. */
static size_t tiles_of(size_t n)
{
    size_t fit = (1u << 19) / (tile_floats(n) * sizeof(float));
    return size_max(1, size_min(fit, 16));
}

static void columns_work(void *ctx, size_t beg, size_t end, int worker)
{
    const columns_job *j = ctx;
    size_t apart = tile_floats(j->c->n), block = tiles_of(j->c->n) * COHORT_LANES;
    float out[COHORT_LANES];
    float *loaded = j->loaded + (size_t)worker * tiles_of(j->c->n) * apart;
    float *mixed = j->mix ? j->mixed + (size_t)worker * tile_floats(j->m) : NULL;
    for (size_t at = beg; at < end; at += block) {
        size_t width = size_min(block, end - at);
        load_tiles(j->c, at, width, loaded, apart);
        for (size_t done = 0; done < width; done += COHORT_LANES) {
            float *tile = loaded + done / COHORT_LANES * apart;
            if (j->mix)
                mix_tile(j, tile, mixed);
            rank_tile(j, j->mix ? mixed : tile, out);
            memcpy(j->out + at + done, out,
                   size_min(COHORT_LANES, width - done) * sizeof(float));
        }
    }
}

size_t cohort_columns_bytes(size_t n, size_t m, const pool *p)
{
    size_t threads = (size_t)pool_threads(p);
    size_t tiles = tiles_of(n) * tile_floats(n) + tile_floats(m);
    return arena_bytes(cohort_step, network_most(m)) + threads * tiles * sizeof(float) +
           256;
}

static void infinities(float *tile, size_t m)
{
    for (size_t i = m * COHORT_STRIDE; i < tile_floats(m); i++)
        tile[i] = HUGE_VALF;
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
    j.steps = network_of(j.m, step);
    j.step = step;
    size_t tiles = threads * tiles_of(c->n), n = c->n;
    j.loaded = arena_alloc(&scratch, sizeof(float), 64, tiles * tile_floats(n));
    j.mixed = mix ? arena_alloc(&scratch, sizeof(float), 64, threads * tile_floats(j.m))
                  : NULL;
    for (size_t i = 0; i < tiles; i++)
        infinities(j.loaded + i * tile_floats(n), n);
    for (size_t i = 0; mix && i < threads; i++)
        infinities(j.mixed + i * tile_floats(j.m), j.m);
    pool_run(p, c->d, COLUMNS_GRAIN, columns_work, &j);
}
