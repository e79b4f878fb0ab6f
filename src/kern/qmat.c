/* qmat.c - the quantized matrix product: the reference kernels, the choice of a set,
 * and the driver that cuts the work.
 *
 * The driver takes X in tiles of QMAT_TILE or QMAT_MANY rows, quantizes a tile, and runs
 * strips of W over the pool.  The last strip of a matrix may overlap the one before it: it
 * computes rows again but stores only the new ones. */
#include "kern/qmat.h"

#include "kern/dtype.h"

#include <math.h>

/* ---- reference: one lane ------------------------------------------------------------ */

typedef int32_t V;
typedef float F;
enum { LANES = 1 };

static V v_set(int32_t a) { return a; }
static V v_and(V a, V b) { return a & b; }
static V v_add(V a, V b) { return a + b; }
static V v_max(V a, V b) { return a > b ? a : b; }
static V v_highest(V a) { return a; }
static V v_sum(V a) { return a; }
static void v_store8(int8_t *p, V a) { *p = (int8_t)a; }
static F f_load(const float *p) { return *p; }
static F f_set(float a) { return a; }
static F f_mul(F a, F b) { return a * b; }

static V v_bits(F a)
{
    V u;
    memcpy(&u, &a, 4);
    return u;
}

/* Adding 1.5 2^23 leaves the nearest integer, ties to even, in the low bits. */
static V v_round(F a) { return v_bits(a + 12582912.0f) - 0x4b400000; }

#include "kern/qmat_quantize.h"

static void dot_block(const qblock *w, const qmat_x *x, size_t b, size_t i, int32_t *isum,
                      int32_t *msum)
{
    *isum = *msum = 0;
    for (size_t l = 0; l < x->block; l++) {
        size_t p = b * x->block + l;
        int32_t q = qmat_at(x, p / 32, i)[p % 32];
        *isum += w->sc[l / 16] * w->q[l] * q;
        *msum += w->mn[l / 16] * q;
    }
}

static inline void strip_ref(dtype t, const uint8_t *w, const qmat_x *x, bool has_min,
                             float *y, size_t ldy)
{
    qblock_fn *decode = qblock_of(t);
    size_t bytes = dtype_of(t)->bytes;
    qblock blk;
    for (size_t i = 0; i < x->rows; i++)
        y[i * ldy] = 0;
    for (size_t b = 0; b < x->k / x->block; b++) {
        decode(w + b * bytes, &blk);
        for (size_t i = 0; i < x->rows; i++) {
            int32_t isum, msum;
            float dx = x->d[b * x->m + i];
            dot_block(&blk, x, b, i, &isum, &msum);
            y[i * ldy] = fmaf(blk.d * dx, (float)isum, y[i * ldy]);
            if (has_min)
                y[i * ldy] = fmaf(-(blk.dmin * dx), (float)msum, y[i * ldy]);
        }
    }
}

#define STRIP(t, T, has_min)                                                         \
    static void strip_##t(const uint8_t *w, size_t stride, const qmat_x *x, float *y, \
                          size_t ldy)                                                \
    {                                                                                \
        (void)stride;                                                                \
        strip_ref(DTYPE_##T, w, x, has_min, y, ldy);                                 \
    }
STRIP(q4_0, Q4_0, false)
STRIP(q4_1, Q4_1, true)
STRIP(q5_0, Q5_0, false)
STRIP(q5_1, Q5_1, true)
STRIP(q8_0, Q8_0, false)
STRIP(iq4_nl, IQ4_NL, false)
STRIP(q2_k, Q2_K, true)
STRIP(q3_k, Q3_K, false)
STRIP(q4_k, Q4_K, true)
STRIP(q5_k, Q5_K, true)
STRIP(q6_k, Q6_K, false)
STRIP(iq4_xs, IQ4_XS, false)
STRIP(iq1_s, IQ1_S, false)
STRIP(iq1_m, IQ1_M, false)
STRIP(iq2_xxs, IQ2_XXS, false)
STRIP(iq2_xs, IQ2_XS, false)
STRIP(iq2_s, IQ2_S, false)
STRIP(iq3_xxs, IQ3_XXS, false)
STRIP(iq3_s, IQ3_S, false)

static inline void plain_ref(dtype t, const uint8_t *w, size_t stride, size_t rows,
                             const float *x, size_t ldx, size_t m, size_t k, float *y,
                             size_t ldy)
{
    const dtype_traits *d = dtype_of(t);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < m; i++) {
            float s[16] = {0};
            for (size_t p = 0; p < k; p++) {
                float v;
                d->unpack(w + r * stride + p * d->bytes, &v, 1);
                s[p % 16] = fmaf(v, x[i * ldx + p], s[p % 16]);
            }
            for (size_t half = 8; half; half /= 2)
                for (size_t l = 0; l < half; l++)
                    s[l] += s[l + half];
            y[i * ldy + r] = s[0];
        }
}

#define PLAIN(t, T)                                                                        \
    static void plain_##t(const uint8_t *w, size_t stride, size_t rows, const float *x,    \
                          size_t ldx, size_t m, size_t k, float *y, size_t ldy)            \
    {                                                                                      \
        plain_ref(DTYPE_##T, w, stride, rows, x, ldx, m, k, y, ldy);                       \
    }
PLAIN(f32, F32)
PLAIN(f16, F16)
PLAIN(bf16, BF16)

const struct qmat_kernels qmat_reference = {
    .name = "c",
    .lanes = 1,
    .quantize = quantize,
    .packed = {
        [DTYPE_Q4_0] = {strip_q4_0, 0, 32}, [DTYPE_Q4_1] = {strip_q4_1, 0, 32},
        [DTYPE_Q5_0] = {strip_q5_0, 0, 32}, [DTYPE_Q5_1] = {strip_q5_1, 0, 32},
        [DTYPE_Q8_0] = {strip_q8_0, 0, 32}, [DTYPE_IQ4_NL] = {strip_iq4_nl, 0, 32},
        [DTYPE_Q2_K] = {strip_q2_k, 0, 32}, [DTYPE_Q3_K] = {strip_q3_k, 0, 32},
        [DTYPE_Q4_K] = {strip_q4_k, 0, 32}, [DTYPE_Q5_K] = {strip_q5_k, 0, 32},
        [DTYPE_Q6_K] = {strip_q6_k, 0, 32}, [DTYPE_IQ4_XS] = {strip_iq4_xs, 0, 32},
        [DTYPE_IQ1_S] = {strip_iq1_s, 0, 32}, [DTYPE_IQ1_M] = {strip_iq1_m, 0, 32},
        [DTYPE_IQ2_XXS] = {strip_iq2_xxs, 0, 32}, [DTYPE_IQ2_XS] = {strip_iq2_xs, 0, 32},
        [DTYPE_IQ2_S] = {strip_iq2_s, 0, 32}, [DTYPE_IQ3_XXS] = {strip_iq3_xxs, 0, 32},
        [DTYPE_IQ3_S] = {strip_iq3_s, 0, 32},
    },
    .plain = {
        [DTYPE_F32] = plain_f32, [DTYPE_F16] = plain_f16, [DTYPE_BF16] = plain_bf16,
    },
};

const struct qmat_kernels *qmat_kernels_for(unsigned flags)
{
#if defined(__x86_64__)
    if (flags & CPU_AMX)
        return &qmat_amx;
    if (flags & CPU_VNNI)
        return &qmat_vnni;
    if (flags & CPU_AVXVNNI)
        return &qmat_avxvnni;
    if (flags & CPU_AVX2)
        return &qmat_avx2;
#elif defined(__aarch64__)
    if (flags & CPU_DOTPROD)
        return &qmat_dotprod;
    if (flags & CPU_NEON)
        return &qmat_neon;
#endif
    (void)flags;
    return &qmat_reference;
}

/* ---- driver ------------------------------------------------------------------------- */

bool qmat_supported(dtype t)
{
    return (unsigned)t < DTYPE_COUNT &&
           (qmat_reference.packed[t].strip || qmat_reference.plain[t]);
}

static const struct qmat_kernels *kernels_of(const kern *k)
{
    return k->qmat ? k->qmat : &qmat_reference;
}

/* Sizes of the three parts of a tile; each starts on a cache line. */
static size_t tile_bytes(size_t m, size_t k, size_t part[3])
{
    part[0] = size_align(m * size_align(k, 32), 64);
    part[1] = size_align(m * (k / 32 + 1) * sizeof(float), 64);
    part[2] = size_align(m * (k / 16 + 1) * sizeof(int32_t), 64);
    return part[0] + part[1] + part[2] + 64;
}

size_t qmat_bytes(const kern *k, dtype t, size_t m, size_t n, size_t kk, const pool *p)
{
    size_t part[3];
    (void)n, (void)p;
    m = size_min(size_align(m, 16), QMAT_MANY); /* a full tile is the largest */
    return kernels_of(k)->plain[t] ? 0 : tile_bytes(m, kk, part);
}

typedef struct {
    const struct qmat_kernels *ks;
    dtype type;
    const uint8_t *w;
    size_t stride; /* bytes of a row of W */
    const float *x;
    size_t ldx;
    float *y;
    size_t ldy, m, n, k;
    qmat_x tile;
    qmat_strip *strip;
} job;

static void quantize_rows(void *ctx, size_t beg, size_t end, int worker)
{
    job *j = ctx;
    (void)worker;
    for (size_t i = beg; i < end; i++) /* rows that only fill up repeat the last */
        j->ks->quantize(j->x + size_min(i, j->tile.rows - 1) * j->ldx, &j->tile, i);
}

/* The rows of W after the last whole strip, rows [beg, end) with end - beg < lanes. */
static void last_strip(const job *j, size_t beg, size_t end)
{
    float out[QMAT_MANY * QMAT_MAX_LANES];
    size_t lanes = j->ks->lanes, first = end < lanes ? 0 : end - lanes;
    if (end < lanes) { /* a matrix of fewer rows than lanes */
        for (size_t r = beg; r < end; r++)
            qmat_reference.packed[j->type].strip(j->w + r * j->stride, j->stride, &j->tile,
                                                 j->y + r, j->ldy);
        return;
    }
    j->strip(j->w + first * j->stride, j->stride, &j->tile, out, lanes);
    for (size_t i = 0; i < j->tile.rows; i++)
        memcpy(j->y + i * j->ldy + beg, out + i * lanes + (beg - first),
               (end - beg) * sizeof(float));
}

static void packed_rows(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    size_t lanes = j->ks->lanes, r = beg;
    (void)worker;
    for (; r + lanes <= end; r += lanes)
        j->strip(j->w + r * j->stride, j->stride, &j->tile, j->y + r, j->ldy);
    if (r < end)
        last_strip(j, r, end);
}

static void plain_rows(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    j->ks->plain[j->type](j->w + beg * j->stride, j->stride, end - beg, j->x, j->ldx, j->m,
                          j->k, j->y + beg, j->ldy);
}

/* Rows of W a chunk: some 2^19 products, whole strips. */
static size_t grain(size_t m, size_t k, size_t lanes)
{
    size_t rows = ((size_t)1 << 19) / size_max(m * k, 1);
    return size_align(size_max(rows, 1), lanes);
}

/* What multiplies a tile of so many rows of X by matrix instructions, or NULL. */
static const qmat_many_row *many_row(const job *j, size_t rows)
{
    const qmat_many_row *r = j->ks->many ? &j->ks->many[j->type] : NULL;
    return r && r->strip && rows >= QMAT_MANY_FROM ? r : NULL;
}

/* The tile's parts for m rows at `at`, which is aligned. */
static void lay_tile(job *j, size_t m, size_t rows, const qmat_many_row *many, char *at)
{
    const qmat_row *row = &j->ks->packed[j->type];
    size_t part[3];
    tile_bytes(m, j->k, part);
    j->strip = many ? many->strip : row->strip;
    j->tile = (qmat_x){.m = m, .k = j->k, .rows = rows, .piece = many ? many->piece : 32,
                       .block = dtype_of(j->type)->block, .group = row->group,
                       .sum_scale = row->sum_scale};
    j->tile.q = (int8_t *)at;
    j->tile.d = (float *)(at + part[0]);
    j->tile.sum = (int32_t *)(at + part[0] + part[1]);
}

static size_t quantize_grain(size_t k) { return size_max(((size_t)1 << 14) / size_max(k, 1), 1); }

static void run_tile(job *j, pool *p, size_t rows, arena scratch)
{
    const qmat_many_row *many = many_row(j, rows);
    size_t part[3], m = many ? size_align(rows, 16) : rows;
    char *at = scratch.beg + (-(uintptr_t)scratch.beg & 63);
    BUG_IF(tile_bytes(m, j->k, part) - 64 > (size_t)(scratch.end - at));
    lay_tile(j, m, rows, many, at);
    pool_run(p, m, quantize_grain(j->k), quantize_rows, j);
    pool_run(p, j->n, grain(m, j->k, j->ks->lanes), packed_rows, j);
}

void qmat(const kern *k, pool *p, dtype t, const void *w, const float *x, size_t ldx,
          float *y, size_t ldy, size_t m, size_t n, size_t kk, arena scratch)
{
    job j = {.ks = kernels_of(k), .type = t, .w = w, .x = x, .ldx = ldx, .y = y, .ldy = ldy,
             .m = m, .n = n, .k = kk};
    BUG_IF(!qmat_supported(t) || !dtype_row_bytes(t, kk, &j.stride));
    if (j.ks->plain[t]) {
        pool_run(p, n, grain(m, kk, 4), plain_rows, &j);
        return;
    }
    size_t step = many_row(&j, m) ? QMAT_MANY : QMAT_TILE;
    for (size_t i = 0; i < m; i += step) {
        j.x = x + i * ldx;
        j.y = y + i * ldy;
        run_tile(&j, p, size_min(m - i, step), scratch);
    }
}

/* ---- a stack of matrices -------------------------------------------------------------
 *
 * Every matrix that has rows gets a tile of its own, so that a lone row takes the path of
 * lone rows; rows are quantized, and strips of all matrices multiplied, in one cut each. */

typedef struct {
    job part[QMAT_STACK_ROWS];
    struct {
        uint32_t part, row;
    } of[QMAT_STACK_ROWS]; /* every row */
    size_t strips;         /* of one matrix */
} stack;

static void stack_quantize(void *ctx, size_t beg, size_t end, int worker)
{
    stack *s = ctx;
    for (size_t r = beg; r < end; r++)
        quantize_rows(&s->part[s->of[r].part], s->of[r].row, s->of[r].row + 1, worker);
}

static void stack_strips(void *ctx, size_t beg, size_t end, int worker)
{
    const stack *s = ctx;
    while (beg < end) {
        job j = s->part[beg / s->strips];
        size_t first = beg % s->strips, lanes = j.ks->lanes;
        size_t last = size_min(s->strips, first + (end - beg));
        pool_fn *rows = j.ks->plain[j.type] ? plain_rows : packed_rows;
        rows(&j, first * lanes, size_min(last * lanes, j.n), worker);
        beg += last - first;
    }
}

size_t qmat_stack_bytes(const kern *k, dtype t, size_t m, size_t n, size_t kk, const pool *p)
{
    size_t part[3];
    size_t most = qmat_bytes(k, t, m, n, kk, p);
    return size_max(most, size_min(m, QMAT_STACK_ROWS) * tile_bytes(1, kk, part));
}

void qmat_stack(const kern *k, pool *p, dtype t, const qmat_part *part, uint32_t count,
                const float *x, float *y, size_t n, size_t kk, arena scratch)
{
    job all = {.ks = kernels_of(k), .type = t, .ldx = kk, .ldy = n, .n = n, .k = kk};
    bool plain = all.ks->plain[t] != NULL;
    stack s = {.strips = (n + all.ks->lanes - 1) / all.ks->lanes};
    size_t sizes[3], rows = 0;
    BUG_IF(!qmat_supported(t) || !dtype_row_bytes(t, kk, &all.stride));
    char *at = plain ? NULL : scratch.beg + (-(uintptr_t)scratch.beg & 63);
    for (uint32_t i = 0; i < count; i++) {
        job *j = &s.part[i];
        size_t m = part[i].end - part[i].beg;
        BUG_IF(m == 0 || rows + m > QMAT_STACK_ROWS);
        *j = all;
        j->m = m;
        j->w = part[i].w;
        j->x = x + part[i].beg * kk;
        j->y = y + part[i].beg * n;
        for (uint32_t r = 0; r < m; r++, rows++) {
            s.of[rows].part = i;
            s.of[rows].row = r;
        }
        if (!plain) {
            size_t bytes = tile_bytes(m, kk, sizes) - 64;
            BUG_IF(bytes > (size_t)(scratch.end - at));
            lay_tile(j, m, m, NULL, at);
            at += bytes;
        }
    }
    if (!plain)
        pool_run(p, rows, quantize_grain(kk), stack_quantize, &s);
    pool_run(p, count * s.strips, grain(1, kk, all.ks->lanes) / all.ks->lanes, stack_strips,
             &s);
}
