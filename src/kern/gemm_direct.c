/* gemm_direct.c - f32 products whose first factor is multiplied as it lies.
 *
 * Where A and a step of B fit the second-level cache, packing A and the wait between
 * packing and computing cost more than they give.  Here an item of C is some columns by
 * some rows; it walks k in steps of kc, and for each step its panels of B: one that
 * lies well is read where it is, another is packed into the worker's own buffer, which the
 * first-level cache holds while all rows of the item pass by.
 *
 * Invariant: an element of C sees the same k steps in the same order as in gemm.c, whatever
 * the items, so neither threads nor the choice between the two can change a bit. */
#include "kern/gemm.h"

enum {
    A_STEP = 128 << 10, /* floats of A in a step of k: a quarter of a second-level cache */
    PAGES = 64 << 10,   /* floats a step of a strided operand may span: TLB entries      */
    COLLIDE = 1024,     /* floats: rows so far apart share the first-level cache's sets  */
    SMALL_B = 8 << 10,  /* floats of a B that needs no packing: the first-level cache    */
    GROUP = 8,          /* panels of an item at most: A is read once for all of them     */
    PACK_ROWS = 10,     /* packing a panel takes about as long as multiplying so many    */
    AGAIN = 16,         /* reading rows of A costs a 16th of multiplying a panel by them */
};

typedef struct {
    const gemm_core *core;
    const gemm_args *g;
    float *temp;
    size_t temp_floats;
    size_t item_m, item_n, across;
    bool pack;
} job;

static size_t div_up(size_t a, size_t b) { return (a + b - 1) / b; }

/* Panels of B and how to read them. */
typedef struct {
    const float *b;
    size_t ldb;
} panel;

static panel panel_of(const job *w, size_t j, size_t n, size_t p, size_t k, float *temp)
{
    const gemm_args *g = w->g;
    const float *b = g->b;
    if (!w->pack)
        return (panel){b + p * g->ldb + j, g->ldb};
    b += g->b_t ? j * g->ldb + p : p * g->ldb + j;
    w->core->pack_b(temp, b, g->b_t ? g->ldb : 1, g->b_t ? 1 : g->ldb, n, k);
    return (panel){temp, w->core->nr};
}

/* Rows [i0, i1) by columns [j, j + n), in tiles of nearly the same height. */
static void column(const job *w, size_t i0, size_t i1, size_t j, size_t n, size_t p, size_t k,
                   panel b)
{
    const gemm_args *g = w->g;
    size_t tiles = div_up(i1 - i0, w->core->mr);
    gemm_block t = {.n = n, .k = k, .b = b.b, .ldb = b.ldb, .ldc = g->ldc,
                    .ars = g->a_t ? 1 : g->lda, .acs = g->a_t ? g->lda : 1,
                    .alpha = g->alpha, .beta = p ? 1.0f : g->beta};
    gemm_soon nothing = {.panel = (const char *)b.b};
    for (size_t s = 0; s < tiles; s++) {
        size_t i = i0 + s * (i1 - i0) / tiles;
        t.m = i0 + (s + 1) * (i1 - i0) / tiles - i;
        t.a = g->a + i * t.ars + p * t.acs;
        t.c = g->c + i * g->ldc + j;
        w->core->direct(&t, &nothing);
    }
}

static void step(const job *w, size_t i0, size_t i1, size_t j0, size_t j1, size_t p, size_t k,
                 float *temp)
{
    for (size_t j = j0; j < j1; j += w->core->nr) {
        size_t n = size_min(w->core->nr, j1 - j);
        column(w, i0, i1, j, n, p, k, panel_of(w, j, n, p, k, temp));
    }
}

static void items(void *ctx, size_t beg, size_t end, int worker)
{
    const job *w = ctx;
    const gemm_args *g = w->g;
    float *temp = w->temp + (size_t)worker * w->temp_floats;
    for (size_t n = beg; n < end; n++) {
        size_t i0 = n / w->across * w->item_m, i1 = size_min(i0 + w->item_m, g->m);
        size_t j0 = n % w->across * w->item_n, j1 = size_min(j0 + w->item_n, g->n);
        size_t rows = w->pack ? i1 - i0 : w->core->mr;
        for (size_t p = 0; p < g->k; p += w->core->kc)
            for (size_t i = i0; i < i1; i += rows)
                step(w, i, size_min(i + rows, i1), j0, j1, p, size_min(w->core->kc, g->k - p),
                     temp);
    }
}

/* What the slowest thread does, in rows of a panel, when items are `panels` by a `parts`-th
 * of the rows: each packs its panels, and reads its rows of A again. */
static size_t cost(const job *w, size_t threads, size_t panels, size_t parts)
{
    size_t all = div_up(w->g->n, w->core->nr), items = div_up(all, panels) * parts;
    size_t rows = div_up(w->g->m, parts) + PACK_ROWS;
    return div_up(items, threads) * rows * (panels * AGAIN + 1);
}

static void cut(job *w, size_t threads)
{
    const gemm_args *g = w->g;
    size_t mr = w->core->mr, nr = w->core->nr, best = SIZE_MAX, share = 2 * threads;
    w->item_n = g->n;
    w->item_m = threads > 1 ? div_up(g->m, size_max(share, div_up(g->m, 8 * mr))) : g->m;
    for (size_t panels = 1; w->pack && panels <= GROUP; panels++)
        for (size_t parts = 1; parts == 1 || g->m / parts >= 2 * mr; parts *= 2) {
            size_t now = cost(w, threads, panels, parts);
            if (now >= best)
                continue;
            best = now;
            w->item_n = panels * nr;
            w->item_m = div_up(g->m, parts);
        }
    w->across = div_up(g->n, w->item_n);
}

static bool lies_badly(size_t ld, size_t k) { return k * ld > PAGES; }

bool gemm_direct(const gemm_core *c, pool *p, const gemm_args *g, float *temp,
                 size_t temp_floats)
{
    size_t kc = size_min(c->kc, g->k);
    if (!c->direct || g->b_type != DTYPE_F32 || g->m * kc > A_STEP)
        return false;
    if (g->a_t ? lies_badly(g->lda, kc) : g->lda % COLLIDE == 0)
        return false;
    job w = {.core = c, .g = g, .temp = temp, .temp_floats = temp_floats};
    w.pack = g->b_t || g->n * g->k > SMALL_B;
    cut(&w, (size_t)pool_threads(p));
    pool_run(p, w.across * div_up(g->m, w.item_m), 1, items, &w);
    return true;
}
