/* gemm.c - the f32 matrix product: blocking, packing, threads.
 *
 * Goto's scheme (Goto and van de Geijn 2008, "Anatomy of high-performance matrix
 * multiplication"), arranged for few cores and large second-level caches.  The product
 * is cut into outer blocks of at most OUT_M x OUT_N x OUT_K; for each
 *
 *     1. both operands are packed into panels, in parallel, once;
 *     2. the block of C is cut into items of some panels each way, in parallel; an item
 *        walks k in steps of kc, and for each step the tiles of its share.
 *
 * Invariants.  An element of C sees the same k steps in the same order whatever the item
 * sizes and whoever computes it, so threads cannot change a bit.  Packed types (B) are
 * unpacked piece by piece into a thread's small buffer on the way into their panel.
 * An instruction set whose panels cannot carry infinities says so when packing; that
 * outer block is then packed again and computed by the f32 core. */
#include "kern/gemm.h"

#include <stdatomic.h>

enum {
    OUT_N = 1024,
    OUT_K = 1024,
    OUT_M = 1008, /* about; rounded to whole panels of the core                */
    LINE = 64,    /* of cache                                                  */
    SEG = 256,    /* columns of a packed B unpacked together: its longest block */
    SEG_K = 32,   /* rows of it per piece                                      */
    PIECE = 256,  /* k elements of a transposed packed B per piece              */
    SWEEP = 8,    /* panels packed together                                     */
    SWEEP_K = 32, /* rows of them at a time, where rows run across panels       */
    THIN = 16,    /* rows or columns of a thin product                         */
    SPLIT_K = 32, /* least k and m n for a core that splits                    */
    SPLIT_MN = 1024,
    SMALL_N = 64, /* most n and m k of a product for which splitting does not pay  */
    SMALL_MK = 1 << 17,
    DOTS_K = 32,         /* shorter sums are not worth a horizontal reduction         */
    THIN_WORK = 1 << 20, /* multiply-adds of a thin item, about                    */
    ITEM_M = 168,        /* rows and columns of C in an item, before balancing        */
    ITEM_N = 512,
};

typedef struct {
    const gemm_args *g;
    const gemm_core *core, *f32;
    gemm_unpack *unpack; /* of B's type */
    char *a_pack, *b_pack;
    float *temp; /* per worker, for unpacking */
    size_t temp_floats;
    size_t i0, mb, j0, nb, p0, kb; /* the outer block */
    size_t item_m, item_n;         /* in elements, whole panels */
    size_t a_items;                /* panels of A to pack, then B's */
    size_t threads;
    float beta;
    atomic_bool odd; /* an operand the core cannot carry */
} job;

static size_t div_up(size_t a, size_t b) { return (a + b - 1) / b; }
static size_t round_up(size_t a, size_t b) { return div_up(a, b) * b; }
static size_t out_m(const gemm_core *c) { return round_up(OUT_M, c->mr); }

/* ---- packing ------------------------------------------------------------------------ */

/* Where the panel's k step p (counted from the block's start) lies.  Steps of kc are
 * outermost, so the panels an item walks together lie together. */
static char *panel_at(char *base, const gemm_core *c, size_t panels, size_t panel, size_t r,
                      size_t unit, size_t p, size_t kb)
{
    size_t step = p / c->kc * c->kc;
    size_t len = round_up(size_min(c->kc, kb - step), c->k_unit);
    return base + (panels * step + panel * len + (p - step)) * r * unit;
}

static char *a_panel(const job *w, size_t panel, size_t p)
{
    size_t panels = div_up(w->mb, w->core->mr);
    return panel_at(w->a_pack, w->core, panels, panel, w->core->mr, w->core->a_unit, p,
                    w->kb);
}

static char *b_panel(const job *w, size_t panel, size_t p)
{
    size_t panels = div_up(w->nb, w->core->nr);
    return panel_at(w->b_pack, w->core, panels, panel, w->core->nr, w->core->b_unit, p,
                    w->kb);
}

static void note(job *w, bool carried)
{
    if (!carried)
        atomic_store_explicit(&w->odd, true, memory_order_relaxed);
}

/* Rows of A in panels [first, last).  An operand whose rows run along the panels is read
 * SWEEP_K of them at a time, across all these panels: memory likes long runs. */
static void pack_a_panels(job *w, size_t first, size_t last)
{
    const gemm_args *g = w->g;
    const gemm_core *c = w->core;
    size_t rs = g->a_t ? 1 : g->lda, cs = g->a_t ? g->lda : 1;
    size_t piece = g->a_t ? SWEEP_K : c->kc;
    const float *src = g->a + w->i0 * rs + w->p0 * cs;
    for (size_t p = 0; p < w->kb; p += piece)
        for (size_t panel = first; panel < last; panel++) {
            size_t i = panel * c->mr, k = size_min(piece, w->kb - p);
            note(w, c->pack_a(a_panel(w, panel, p), src + i * rs + p * cs, rs, cs,
                              size_min(c->mr, w->mb - i), k));
        }
}

/* Pack k steps [p, p+n) of a panel of B from f32 source; never crosses a piece. */
static void pack_b_steps(job *w, size_t panel, size_t p, size_t n, const float *src,
                         size_t rs, size_t cs)
{
    size_t cols = size_min(w->core->nr, w->nb - panel * w->core->nr);
    for (size_t q = 0; q < n;) {
        size_t to_step = w->core->kc - (p + q) % w->core->kc;
        size_t k = size_min(to_step, n - q);
        note(w, w->core->pack_b(b_panel(w, panel, p + q), src + q * cs, rs, cs, cols, k));
        q += k;
    }
}

static void pack_b_f32(job *w, size_t first, size_t last)
{
    const gemm_args *g = w->g;
    size_t rs = g->b_t ? g->ldb : 1, cs = g->b_t ? 1 : g->ldb;
    size_t piece = g->b_t ? w->kb : SWEEP_K;
    const float *src = (const float *)g->b + w->j0 * rs + w->p0 * cs;
    for (size_t p = 0; p < w->kb; p += piece)
        for (size_t panel = first; panel < last; panel++)
            pack_b_steps(w, panel, p, size_min(piece, w->kb - p),
                         src + panel * w->core->nr * rs + p * cs, rs, cs);
}

static void unpack_row(const job *w, size_t row, size_t col, size_t n, float *out)
{
    const dtype_traits *t = dtype_of(w->g->b_type);
    size_t stride = w->g->ldb / t->block * t->bytes;
    const char *src = (const char *)w->g->b + row * stride + col / t->block * t->bytes;
    w->unpack(src, out, n);
}

/* B stored as n rows of k: a panel's rows, PIECE elements at a time. */
static void pack_b_rows(job *w, size_t panel, float *temp)
{
    size_t j = w->j0 + panel * w->core->nr;
    size_t cols = size_min(w->core->nr, w->j0 + w->nb - j);
    for (size_t p = 0; p < w->kb; p += PIECE) {
        size_t n = size_min(PIECE, w->kb - p);
        for (size_t r = 0; r < cols; r++)
            unpack_row(w, j + r, w->p0 + p, n, temp + r * PIECE);
        pack_b_steps(w, panel, p, n, temp, PIECE, 1);
    }
}

/* B stored as k rows of n: SEG columns (several panels), SEG_K rows at a time. */
static void pack_b_segment(job *w, size_t segment, float *temp)
{
    size_t j = segment * SEG, cols = size_min(SEG, w->nb - j), nr = w->core->nr;
    for (size_t p = 0; p < w->kb; p += SEG_K) {
        size_t n = size_min(SEG_K, w->kb - p);
        for (size_t r = 0; r < n; r++)
            unpack_row(w, w->p0 + p + r, w->j0 + j, cols, temp + r * SEG);
        for (size_t c = 0; c < cols; c += nr)
            pack_b_steps(w, (j + c) / nr, p, n, temp + c, 1, SEG);
    }
}

static void pack_items(void *ctx, size_t beg, size_t end, int worker)
{
    job *w = ctx;
    float *temp = w->temp + (size_t)worker * w->temp_floats;
    size_t a_end = size_min(end, w->a_items), b = size_max(beg, w->a_items) - w->a_items;
    if (beg < a_end)
        pack_a_panels(w, beg, a_end);
    if (end <= w->a_items)
        return;
    if (w->g->b_type == DTYPE_F32) {
        pack_b_f32(w, b, end - w->a_items);
        return;
    }
    for (; b < end - w->a_items; b++)
        if (w->g->b_t)
            pack_b_rows(w, b, temp);
        else
            pack_b_segment(w, b, temp);
}

/* Pack the current block; false when the core cannot carry an element of it. */
static bool pack_block(job *w, pool *p, bool with_a, bool with_b)
{
    bool packed = w->g->b_type != DTYPE_F32, segments = packed && !w->g->b_t;
    size_t b_items = with_b ? div_up(w->nb, segments ? SEG : w->core->nr) : 0;
    w->a_items = with_a ? div_up(w->mb, w->core->mr) : 0;
    size_t grain = div_up(w->a_items + b_items, 4 * w->threads);
    grain = packed ? 1 : size_max(size_min(grain, SWEEP), 1);
    pool_run(p, w->a_items + b_items, grain, pack_items, w);
    return !atomic_load_explicit(&w->odd, memory_order_relaxed);
}

/* ---- computing ---------------------------------------------------------------------- */

typedef struct {
    size_t i0, i1, j0, j1;
} item;

/* What tile (i,j) of an item brings near: its share of the next panel of B, or after the
 * last one its own panel of A for the next step of k; and C of the tile that follows. */
static gemm_soon soon(const job *w, const item *t, size_t i, size_t j, size_t p)
{
    const gemm_core *c = w->core;
    size_t k = round_up(size_min(c->kc, w->kb - p), c->k_unit);
    bool last = j + c->nr >= t->j1, below = i + c->mr < t->i1;
    gemm_soon s = {.c = w->g->c + (w->i0 + (below ? i + c->mr : t->i0)) * w->g->ldc + w->j0 +
                        (below || last ? j : j + c->nr)};
    if (last) {
        size_t next = p + c->kc < w->kb ? p + c->kc : 0;
        s.panel = a_panel(w, i / c->mr, next);
        s.lines = k * c->mr * c->a_unit / LINE;
    } else {
        size_t lines = k * c->nr * c->b_unit / LINE, tiles = div_up(t->i1 - t->i0, c->mr);
        s.lines = div_up(lines, tiles);
        s.panel = b_panel(w, j / c->nr + 1, p) + (i - t->i0) / c->mr * s.lines * LINE;
    }
    return s;
}

/* The tiles of one item for one step of k.  B's panel stays in the first-level cache
 * while A's pass by. */
static void item_step(const job *w, const item *t, size_t p)
{
    const gemm_core *c = w->core;
    size_t k = size_min(c->kc, w->kb - p);
    float beta = p ? 1.0f : w->beta;
    for (size_t j = t->j0; j < t->j1; j += c->nr) {
        const char *b = b_panel(w, j / c->nr, p);
        for (size_t i = t->i0; i < t->i1; i += c->mr) {
            float *out = w->g->c + (w->i0 + i) * w->g->ldc + w->j0 + j;
            gemm_soon next = soon(w, t, i, j, p);
            c->tile(k, a_panel(w, i / c->mr, p), b, out, w->g->ldc,
                    size_min(c->mr, t->i1 - i), size_min(c->nr, t->j1 - j), w->g->alpha,
                    beta, &next);
        }
    }
}

static void compute_items(void *ctx, size_t beg, size_t end, int worker)
{
    const job *w = ctx;
    size_t across = div_up(w->nb, w->item_n);
    (void)worker;
    if (w->core->begin)
        w->core->begin();
    for (size_t n = beg; n < end; n++) {
        size_t i = n / across * w->item_m, j = n % across * w->item_n;
        item t = {i, size_min(i + w->item_m, w->mb), j, size_min(j + w->item_n, w->nb)};
        for (size_t p = 0; p < w->kb; p += w->core->kc)
            item_step(w, &t, p);
    }
    if (w->core->end)
        w->core->end();
}

/* Halve items until every thread has a few, or they are single panels. */
static void balance(job *w)
{
    size_t mr = w->core->mr, nr = w->core->nr, want = w->threads > 1 ? 4 * w->threads : 1;
    w->item_m = round_up(size_min(ITEM_M, w->mb), mr);
    w->item_n = round_up(size_min(ITEM_N, w->nb), nr);
    while (div_up(w->mb, w->item_m) * div_up(w->nb, w->item_n) < want) {
        if (w->item_n > nr && w->item_n >= w->item_m)
            w->item_n = round_up(w->item_n / 2, nr);
        else if (w->item_m > mr)
            w->item_m = round_up(w->item_m / 2, mr);
        else if (w->item_n > nr)
            w->item_n = round_up(w->item_n / 2, nr);
        else
            break;
    }
}

static void compute_block(job *w, pool *p)
{
    balance(w);
    size_t items = div_up(w->mb, w->item_m) * div_up(w->nb, w->item_n);
    pool_run(p, items, 1, compute_items, w);
}

/* One outer block with the core, or with the f32 one.  `a_ready`: A's panels of these
 * rows lie packed by this core; the answer says whether they still do. */
static bool run_block(job *w, pool *p, const gemm_core *core, bool a_ready, bool with_b)
{
    w->core = core;
    atomic_store(&w->odd, false);
    bool carried = pack_block(w, p, !a_ready, with_b);
    if (!carried) {
        w->core = w->f32;
        atomic_store(&w->odd, false);
        pack_block(w, p, true, true);
    }
    compute_block(w, p);
    return carried;
}

static void run_blocks(job *w, pool *p, const gemm_core *core)
{
    const gemm_args *g = w->g;
    size_t step_m = out_m(core);
    for (w->p0 = 0; w->p0 < g->k; w->p0 += OUT_K) {
        bool a_ready = false;
        w->kb = size_min(OUT_K, g->k - w->p0);
        w->beta = w->p0 ? 1.0f : g->beta;
        for (w->j0 = 0; w->j0 < g->n; w->j0 += OUT_N) {
            bool b_ready = false;
            w->nb = size_min(OUT_N, g->n - w->j0);
            for (w->i0 = 0; w->i0 < g->m; w->i0 += step_m) {
                w->mb = size_min(step_m, g->m - w->i0);
                bool kept = run_block(w, p, core, a_ready, !b_ready);
                b_ready = kept;
                a_ready = kept && g->m <= step_m;
            }
        }
    }
}

/* ---- the door ------------------------------------------------------------------------ */

static size_t a_bytes(const gemm_core *c, size_t m, size_t k)
{
    m = round_up(size_min(m, out_m(c)), c->mr);
    return size_align(m * round_up(size_min(k, OUT_K), c->k_unit) * c->a_unit, GEMM_ALIGN);
}

static size_t b_bytes(const gemm_core *c, size_t n, size_t k)
{
    n = round_up(size_min(n, OUT_N), c->nr);
    return size_align(n * round_up(size_min(k, OUT_K), c->k_unit) * c->b_unit, GEMM_ALIGN);
}

/* Floats of a worker's unpacking buffer; the same formula whatever B is, so that scratch
 * need not know. */
static size_t temp_floats(const gemm_core *c, size_t n, size_t k)
{
    size_t rows = size_min(n, c->nr) * PIECE;
    rows = size_max(rows, c->direct ? c->kc * c->nr : 0);
    return size_max(rows, SEG_K * SEG) * (k > 0);
}

/* `c` needs this, with room for the f32 core should it have to take over. */
static size_t core_bytes(const gemm_core *c, const gemm_core *f32, size_t m, size_t n,
                         size_t k, size_t threads)
{
    return size_max(a_bytes(c, m, k), a_bytes(f32, m, k)) +
           size_max(b_bytes(c, n, k), b_bytes(f32, n, k)) +
           temp_floats(c, n, k) * threads * 4;
}

static size_t thin_bytes(size_t m, size_t n, size_t k)
{
    size_t small = size_min(m, n);
    return small <= THIN ? small * k * 4 : 0;
}

static gemm_unpack *unpack_of(const gemm_kernels *gk, dtype t)
{
    gemm_unpack *faster = gk->unpack ? gk->unpack(t) : NULL;
    return faster ? faster : dtype_of(t)->unpack;
}

static const gemm_splits *splits_of(const kern *k)
{
#if defined(__x86_64__)
    if (k->flags & CPU_AMX)
        return &gemm_amx;
#endif
    (void)k;
    return NULL;
}

/* A few columns by an A that the second-level cache holds: read as it lies (gemm_direct.c),
 * such a product is done before the split core has packed its parts. */
static bool is_small(const gemm_core *f32, const gemm_args *g)
{
    return f32->direct && g->b_type == DTYPE_F32 && g->n <= SMALL_N && g->m * g->k <= SMALL_MK;
}

/* The core for a product; short sums would leave a split core's tiles mostly empty. */
static const gemm_core *core_for(const kern *k, const gemm_args *g)
{
    const gemm_splits *s = splits_of(k);
    if (!s || g->k < SPLIT_K || g->m * g->n < SPLIT_MN || is_small(k->gemm->f32, g))
        return k->gemm->f32;
    if (g->precision == GEMM_BF16)
        return s->one;
    if (g->b_type == DTYPE_BF16)
        return g->precision == GEMM_FAST ? s->two_bf16 : s->three_bf16;
    return g->precision == GEMM_FAST ? s->two : s->three;
}

size_t gemm_bytes(const kern *k, size_t m, size_t n, size_t kk, const pool *p)
{
    size_t threads = (size_t)pool_threads(p);
    size_t bytes = core_bytes(k->gemm->f32, k->gemm->f32, m, n, kk, threads);
    if (splits_of(k)) /* three parts are the largest */
        bytes = size_max(bytes,
                         core_bytes(splits_of(k)->three, k->gemm->f32, m, n, kk, threads));
    return size_max(bytes, thin_bytes(m, n, kk)) + GEMM_ALIGN;
}

static void scale_c(const gemm_args *g)
{
    for (size_t i = 0; i < g->m; i++)
        for (size_t j = 0; j < g->n; j++) {
            float *c = &g->c[i * g->ldc + j];
            *c = g->beta == 0.0f ? 0.0f : g->beta * *c;
        }
}

/* ---- thin products ------------------------------------------------------------------- */

typedef struct {
    const gemm_thin *whole;
    void (*fn)(const gemm_thin *g);
    bool cut_m;       /* else n */
    size_t rows_step; /* floats between rows of the cut operand */
} thin_job;

static void thin_items(void *ctx, size_t beg, size_t end, int worker)
{
    const thin_job *w = ctx;
    gemm_thin part = *w->whole;
    (void)worker;
    if (w->cut_m) {
        part.m = end - beg;
        part.x += beg * w->rows_step;
        part.c += beg * part.crs;
    } else {
        part.n = end - beg;
        part.y += beg * w->rows_step;
        part.c += beg * part.ccs;
    }
    w->fn(&part);
}

/* Small operand, element (i,p) at src[i*rs + p*cs], as (rows,k) or (k,rows). */
static void small_copy(float *out, const float *src, size_t rs, size_t cs, size_t rows,
                       size_t k, bool k_first)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t p = 0; p < k; p++)
            out[k_first ? p * rows + i : i * k + p] = src[i * rs + p * cs];
}

/* True when the product was thin and is done.  `big` is the long operand, `small` the
 * other; rows of consecutive k go to dots, else to outer. */
static bool run_thin(const gemm_kernels *gk, pool *p, const gemm_args *g, float *copy)
{
    bool small_b = g->n <= g->m;
    size_t s = small_b ? g->n : g->m, b = small_b ? g->m : g->n;
    const float *fb = g->b, *big = small_b ? g->a : fb, *small = small_b ? fb : g->a;
    size_t ld_big = small_b ? g->lda : g->ldb, ld_small = small_b ? g->ldb : g->lda;
    bool big_rows = small_b ? !g->a_t : g->b_t, small_rows = small_b ? g->b_t : !g->a_t;
    size_t c_big = small_b ? g->ldc : 1, c_small = small_b ? 1 : g->ldc;
    if (s > THIN || g->b_type != DTYPE_F32 || !gk->dots || (big_rows && g->k < DOTS_K))
        return false;
    if (small_rows != big_rows) {
        small_copy(copy, small, small_rows ? ld_small : 1, small_rows ? 1 : ld_small, s,
                   g->k, !big_rows);
        small = copy, ld_small = big_rows ? g->k : s;
    }
    gemm_thin t = {.k = g->k, .c = g->c, .alpha = g->alpha, .beta = g->beta};
    thin_job w = {.whole = &t, .fn = big_rows ? gk->dots : gk->outer};
    w.cut_m = big_rows && s > 2; /* dots of one or two rows want them as x */
    w.rows_step = big_rows ? ld_big : 1;
    if (w.cut_m) {
        t.m = b, t.n = s, t.x = big, t.ldx = ld_big, t.y = small, t.ldy = ld_small;
        t.crs = c_big, t.ccs = c_small;
    } else {
        t.m = s, t.n = b, t.x = small, t.ldx = ld_small, t.y = big, t.ldy = ld_big;
        t.crs = c_small, t.ccs = c_big;
    }
    size_t grain = size_max(round_up(THIN_WORK / (s * g->k), 48), 48);
    pool_run(p, b, size_min(grain, round_up(div_up(b, 4 * (size_t)pool_threads(p)), 48)),
             thin_items, &w);
    return true;
}

/* Scratch is used as it is: zeroing it, as arena_alloc would, costs as much as packing. */
void gemm(const kern *k, pool *p, const gemm_args *g, arena scratch)
{
    BUG_IF((size_t)(scratch.end - scratch.beg) < gemm_bytes(k, g->m, g->n, g->k, p));
    char *beg = scratch.beg + (-(uintptr_t)scratch.beg & (GEMM_ALIGN - 1));
    if (g->k == 0) {
        scale_c(g);
        return;
    }
    if (run_thin(k->gemm, p, g, (float *)(void *)beg))
        return;
    const gemm_core *core = core_for(k, g), *f32 = k->gemm->f32;
    size_t a = size_max(a_bytes(core, g->m, g->k), a_bytes(f32, g->m, g->k));
    size_t b = size_max(b_bytes(core, g->n, g->k), b_bytes(f32, g->n, g->k));
    job w = {
        .g = g,
        .f32 = f32,
        .unpack = unpack_of(k->gemm, g->b_type),
        .threads = (size_t)pool_threads(p),
        .a_pack = beg,
        .b_pack = beg + a,
        .temp = (float *)(void *)(beg + a + b),
        .temp_floats = temp_floats(core, g->n, g->k),
    };
    if (core == f32 && gemm_direct(core, p, g, w.temp, w.temp_floats))
        return;
    run_blocks(&w, p, core);
}

const gemm_kernels *gemm_kernels_for(unsigned flags)
{
    const gemm_kernels *best = &gemm_c;
    (void)flags;
#if defined(__x86_64__)
    if (flags & CPU_AVX2)
        best = &gemm_avx2;
    if (flags & CPU_AVX512)
        best = &gemm_avx512;
#elif defined(__aarch64__)
    if (flags & CPU_NEON)
        best = &gemm_neon;
#endif
    return best;
}
