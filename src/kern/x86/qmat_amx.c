/* qmat_amx.c - the quantized product of many rows of X with AMX int8 tiles.
 *
 * A tile instruction adds a (16 rows of X, 64 bytes) times b (64 bytes of k, 16 rows of W)
 * to 16 x 16 int32.  The units that qmat_expand.h makes, four weights of sixteen rows each,
 * are b's rows as they come.  What costs is not the product but what surrounds it: sums
 * leave the tiles by memory, and every block has its scale.  So
 *
 *   blocks of 32    half a tile deep; the sums of one block are scaled, in the registers
 *                   of sixteen rows, while the tiles multiply the next;
 *   blocks of 256   the groups' integer scales are multiplied into the weights first,
 *                   p = sc q = 128 high + low, low in [0, 127] and high in int8 (|p| is at
 *                   most 4096), and the two halves multiplied separately: sums leave the
 *                   tiles once in 256 elements, full tiles deep.
 *
 * Integer sums are exact either way, so the bits are those of every other variant. */
#include "kern/x86/qmat_zmm.h"

enum { SIGNED_BIAS = 0 };

static inline V v_signed(V a) { return a; }

static inline V v_iq4(V a)
{
    const __m128i table = _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25,
                                        38, 53, 69, 89, 113);
    return v_lookup(table, a);
}

#include "kern/qmat_expand.h"

#if defined(__clang__)
#define UNROLL_16 _Pragma("clang loop unroll_count(16)")
#else
#define UNROLL_16 _Pragma("GCC unroll 16")
#endif

enum { SIDE = 16, SUMS = SIDE * SIDE };

/* ---- tiles ---------------------------------------------------------------------------
 * 0 and 1 sum, 2 and 5 hold x, 3, 4 and 6, 7 weights. */

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes;

/* Tiles `deep` bytes of k deep. */
INLINE void begin(uint8_t deep)
{
    tile_shapes t = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        bool x = i == 2 || i == 5, sums = i < 2;
        t.row_bytes[i] = x ? deep : 64;
        t.rows[i] = x || sums ? SIDE : deep / 4;
    }
    _tile_loadconfig(&t);
}

/* To gcc a tile load is an instruction that reads no memory; before one, what it is to
 * find there must have been written. */
INLINE void written(void) { __asm__ volatile("" ::: "memory"); }

/* 16 rows of x (32 bytes each) by a block of 32, into sums.  Neighbours use other tiles. */
INLINE void product32(bool odd, const int8_t *x, const V w[8], int32_t sums[SUMS])
{
    if (odd) {
        _tile_zero(1);
        _tile_loadd(5, x, 32);
        _tile_loadd(6, w, 64);
        _tile_dpbssd(1, 5, 6);
        _tile_stored(1, sums, 64);
    } else {
        _tile_zero(0);
        _tile_loadd(2, x, 32);
        _tile_loadd(3, w, 64);
        _tile_dpbssd(0, 2, 3);
        _tile_stored(0, sums, 64);
    }
}

/* ---- blocks of 32 -------------------------------------------------------------------- */

/* Zero points off: the products are of signed bytes. */
INLINE void take_zero(V *w, size_t n, int8_t zero)
{
    for (size_t u = 0; zero && u < n; u++)
        w[u] = _mm512_sub_epi8(w[u], _mm512_set1_epi8((char)zero));
}

/* The sums of block b by its scales, sixteen rows from row i of x on. */
INLINE void scale32(shape s, F d, F min, const int32_t *sums, const qmat_x *x, size_t b,
                    size_t i, F a[SIDE])
{
    const float *xd = x->d + b * x->m + i;
    const int32_t *xs = x->sum + b * x->m + i;
    UNROLL_16
    for (int r = 0; r < SIDE; r++) {
        F dx = f_set(xd[r]);
        V dot = _mm512_load_si512(sums + r * SIDE);
        a[r] = f_fma(f_mul(d, dx), f_cvt(dot), a[r]);
        if (s.has_min)
            a[r] = f_fma(f_mul(min, dx), f_cvt(v_set(xs[r])), a[r]);
    }
}

/* Sixteen rows of x by the n blocks of a chunk, which begins with block b. */
INLINE void many32(shape s, const chunk *c, size_t n, const qmat_x *x, size_t b, size_t i,
                   float *acc)
{
    _Alignas(64) int32_t sums[2][SUMS];
    const int8_t *q = qmat_at(x, b, i);
    F a[SIDE];
    UNROLL_16
    for (int r = 0; r < SIDE; r++)
        a[r] = f_load(acc + r * SIDE);
    product32(false, q, c->w, sums[0]);
    for (size_t j = 0; j < n; j++) {
        if (j + 1 < n)
            product32(j % 2 == 0, q + 32 * x->m * (j + 1), c->w + 8 * (j + 1),
                      sums[(j + 1) % 2]);
        scale32(s, c->d[j], c->min[j], sums[j % 2], x, b + j, i, a);
    }
    UNROLL_16
    for (int r = 0; r < SIDE; r++)
        f_store(acc + r * SIDE, a[r]);
}

INLINE void store_many(const float *acc, size_t rows, float *y, size_t ldy)
{
    for (size_t i = 0; i < rows; i++)
        f_store(y + i * ldy, f_load(acc + i * SIDE));
}

INLINE void chunk_many(shape s, int8_t zero, chunk *c, size_t n, const qmat_x *x, size_t b,
                       float *acc)
{
    take_zero(c->w, 8 * n, zero);
    written();
    for (size_t i = 0; i < x->m; i += SIDE)
        many32(s, c, n, x, b, i, acc + i * SIDE);
}

INLINE void strip32_many(shape s, int8_t zero, expand32 *expand, const uint8_t *w,
                         size_t stride, const qmat_x *x, float *y, size_t ldy)
{
    _Alignas(64) float acc[QMAT_MANY * SIDE];
    size_t b = 0, blocks = x->k / 32;
    chunk c;
    memset(acc, 0, x->m * SIDE * sizeof(float));
    begin(32);
    for (; b + CHUNK <= blocks; b += CHUNK, w += CHUNK * s.bytes) {
        expand_chunk(s, expand, w, stride, stride, b, CHUNK, &c);
        chunk_many(s, zero, &c, CHUNK, x, b, acc);
    }
    if (b < blocks) {
        uint8_t tail[LANES * TAIL_STRIDE];
        copy_tail(w, stride, (blocks - b) * s.bytes, tail);
        expand_chunk(s, expand, tail, TAIL_STRIDE, 0, b, blocks - b, &c);
        chunk_many(s, zero, &c, blocks - b, x, b, acc);
    }
    _tile_release();
    store_many(acc, x->rows, y, ldy);
}

/* ---- blocks of 256 ------------------------------------------------------------------- */

/* A block of sixteen rows with the groups' scales multiplied in: unit u holds elements
 * 4 u .. 4 u + 3 of each row. */
typedef struct {
    V low[QK / 4], high[QK / 4];
    V mn[8]; /* minima of groups 2 j (low halves) and 2 j + 1 */
    F d, dmin;
} panel;

INLINE V both_halves(V a) { return v_or(v_and(a, v_set(0xffff)), v_sll(a, 16)); }

/* Four signed bytes a lane times the lane's scale (twice, in 16 bits). */
INLINE void split_unit(V w, V scale, V *low, V *high)
{
    const V seven = _mm512_set1_epi16(127), byte = _mm512_set1_epi16(255);
    V even = _mm512_srai_epi16(_mm512_slli_epi16(w, 8), 8), odd = _mm512_srai_epi16(w, 8);
    even = _mm512_mullo_epi16(even, scale);
    odd = _mm512_mullo_epi16(odd, scale);
    *low = v_or(v_and(even, seven), _mm512_slli_epi16(v_and(odd, seven), 8));
    even = v_and(_mm512_srai_epi16(even, 7), byte);
    *high = v_or(even, _mm512_slli_epi16(_mm512_srai_epi16(odd, 7), 8));
}

INLINE void make_panel(shape s, int8_t zero, open256 *open, part256 *part, const uint8_t *w,
                       size_t stride, panel *o)
{
    super head;
    open(w, stride, &head);
    o->d = head.d;
    if (s.has_min)
        o->dmin = head.dmin;
    for (int j = 0; s.has_min && j < (s.by16 ? 8 : 4); j++)
        o->mn[j] = v_or(head.mn[2 * j], v_sll(head.mn[2 * j + 1], 16));
    for (int p = 0; p < PARTS; p++) {
        V wp[UNITS];
        part(w, stride, &head, p, wp);
        take_zero(wp, UNITS, zero);
        for (int u = 0; u < UNITS; u++) {
            size_t g = s.by16 ? group_of(p, u / 4) : (size_t)(2 * p + u / 8);
            size_t at = s.by16 ? 4 * g + (size_t)u % 4 : (size_t)(UNITS * p + u);
            split_unit(wp[u], both_halves(head.sc[g]), &o->low[at], &o->high[at]);
        }
    }
}

/* 16 rows of x by a panel; q: the first of four pieces of 64, `step` bytes apart. */
INLINE void product256(const int8_t *q, size_t step, const panel *w, int32_t sums[2][SUMS])
{
    _tile_zero(0);
    _tile_zero(1);
    for (int t = 0; t < 4; t += 2, q += 2 * step) {
        _tile_loadd(2, q, 64);
        _tile_loadd(3, w->low + UNITS * t, 64);
        _tile_loadd(4, w->high + UNITS * t, 64);
        _tile_dpbssd(0, 2, 3);
        _tile_dpbssd(1, 2, 4);
        _tile_loadd(5, q + step, 64);
        _tile_loadd(6, w->low + UNITS * (t + 1), 64);
        _tile_loadd(7, w->high + UNITS * (t + 1), 64);
        _tile_dpbssd(0, 5, 6);
        _tile_dpbssd(1, 5, 7);
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
}

/* Sums of x over groups 2 j and 2 j + 1 of block b, as 16-bit pairs; a row a lane. */
INLINE void pair_sums(size_t pairs, const qmat_x *x, size_t b, size_t i,
                      int32_t out[8][SIDE])
{
    for (size_t j = 0; j < pairs; j++) {
        const int32_t *at = x->sum + (2 * pairs * b + 2 * j) * x->m + i;
        V even = _mm512_loadu_si512(at), odd = _mm512_loadu_si512(at + x->m);
        even = v_or(v_and(even, v_set(0xffff)), v_sll(odd, 16));
        _mm512_store_si512(out[j], even);
    }
}

/* The sums of block b by its scales, sixteen rows from row i of x on. */
INLINE void scale256(shape s, const panel *w, int32_t sums[2][SUMS], const qmat_x *x,
                     size_t b, size_t i, float *acc)
{
    _Alignas(64) int32_t pairs[8][SIDE];
    const float *xd = x->d + b * x->m + i;
    int n = s.by16 ? 8 : 4;
    if (s.has_min)
        pair_sums((size_t)n, x, b, i, pairs);
    for (int r = 0; r < SIDE; r++) {
        F dx = f_set(xd[r]), a = f_load(acc + r * SIDE);
        V low = _mm512_load_si512(sums[0] + r * SIDE);
        V high = _mm512_load_si512(sums[1] + r * SIDE);
        a = f_fma(f_mul(w->d, dx), f_cvt(v_add(low, v_sll(high, 7))), a);
        if (s.has_min) {
            V msum = v_set(0);
            for (int j = 0; j < n; j++)
                msum = _mm512_dpwssd_epi32(msum, w->mn[j], v_set(pairs[j][r]));
            a = f_fma(f_neg(f_mul(w->dmin, dx)), f_cvt(msum), a);
        }
        f_store(acc + r * SIDE, a);
    }
}

/* All rows of x by a block; the tiles are one step ahead of the scaling. */
INLINE void block_many(shape s, const panel *w, const qmat_x *x, size_t b, float *acc)
{
    _Alignas(64) int32_t sums[2][2][SUMS];
    size_t step = 64 * x->m, turn = 0;
    written();
    product256(qmat_at(x, 8 * b, 0), step, w, sums[0]);
    for (size_t i = 0; i < x->m; i += SIDE, turn = 1 - turn) {
        if (i + SIDE < x->m)
            product256(qmat_at(x, 8 * b, i + SIDE), step, w, sums[1 - turn]);
        scale256(s, w, sums[turn], x, b, i, acc + i * SIDE);
    }
}

INLINE void strip256_many(shape s, int8_t zero, open256 *open, part256 *part,
                          const uint8_t *w, size_t stride, const qmat_x *x, float *y,
                          size_t ldy)
{
    _Alignas(64) float acc[QMAT_MANY * SIDE];
    memset(acc, 0, x->m * SIDE * sizeof(float));
    begin(64);
    for (size_t b = 0; b < x->k / QK; b++, w += s.bytes) {
        panel o;
        fetch_ahead(w, stride, b, 0, s.bytes);
        make_panel(s, zero, open, part, w, stride, &o);
        block_many(s, &o, x, b, acc);
    }
    _tile_release();
    store_many(acc, x->rows, y, ldy);
}

/* ---- the rows ------------------------------------------------------------------------ */

#define MANY32(t, zero, has_min)                                                         \
    static void strip_##t(const uint8_t *w, size_t stride, const qmat_x *x, float *y,    \
                          size_t ldy)                                                    \
    {                                                                                    \
        strip32_many((shape){sizeof(block_##t), true, false, has_min, false}, zero,      \
                     expand_##t, w, stride, x, y, ldy);                                  \
    }
#define MANY256(t, zero, has_min, by16)                                                  \
    static void strip_##t(const uint8_t *w, size_t stride, const qmat_x *x, float *y,    \
                          size_t ldy)                                                    \
    {                                                                                    \
        strip256_many((shape){sizeof(block_##t), true, false, has_min, by16}, zero,      \
                      open_##t, part_##t, w, stride, x, y, ldy);                         \
    }
/*              zero min    by16 */
MANY32(q4_0,    8,   false)
MANY32(q4_1,    0,   true)
MANY32(q5_0,    16,  false)
MANY32(q5_1,    0,   true)
MANY32(q8_0,    0,   false)
MANY32(iq4_nl,  0,   false)
MANY256(q2_k,   0,   true,  true)
MANY256(q3_k,   4,   false, true)
MANY256(q4_k,   0,   true,  false)
MANY256(q5_k,   0,   true,  false)
MANY256(q6_k,   32,  false, true)
MANY256(iq4_xs, 0,   false, false)

const qmat_many_row qmat_amx_many[DTYPE_COUNT] = {
    [DTYPE_Q4_0] = {strip_q4_0, 32}, [DTYPE_Q4_1] = {strip_q4_1, 32},
    [DTYPE_Q5_0] = {strip_q5_0, 32}, [DTYPE_Q5_1] = {strip_q5_1, 32},
    [DTYPE_Q8_0] = {strip_q8_0, 32}, [DTYPE_IQ4_NL] = {strip_iq4_nl, 32},
    [DTYPE_Q2_K] = {strip_q2_k, 64}, [DTYPE_Q3_K] = {strip_q3_k, 64},
    [DTYPE_Q4_K] = {strip_q4_k, 64}, [DTYPE_Q5_K] = {strip_q5_k, 64},
    [DTYPE_Q6_K] = {strip_q6_k, 64}, [DTYPE_IQ4_XS] = {strip_iq4_xs, 64},
};
