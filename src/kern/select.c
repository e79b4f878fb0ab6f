/* select.c - the k largest magnitudes of a vector; see kern/cohort.h.
 *
 * The bits of |x| order like unsigned integers, and NaN and infinity lie above them all,
 * so whatever threshold is tried, a number that is not finite shows up above it. */
#include "kern/cohort.h"

enum {
    PIECE = 1 << 18,
    SAMPLE = 1 << 16,
    TOP_BINS = 2048,
    LOW_BINS = 1024,
    NOT_FINITE = 0x7f800000,
};

static uint32_t magnitude(float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    return u & 0x7fffffffu;
}

/* ---- exact, by radix: x[index[i]], or x[i] when index is NULL ---- */

static uint32_t at(const float *x, const uint32_t *index, size_t i)
{
    return magnitude(index ? x[index[i]] : x[i]);
}

/* The bin, from the top, where the running count reaches *want; *want becomes what is
 * still to be found inside it. */
static uint32_t bin_of(const size_t *count, uint32_t bins, size_t *want)
{
    uint32_t b = bins - 1;
    while (count[b] < *want)
        *want -= count[b--];
    return b;
}

/* Among the magnitudes that start with `prefix` above bit `shift` + 10, which ten bits
 * come next in the threshold? */
static uint32_t narrow(const float *x, const uint32_t *index, size_t n, uint32_t prefix,
                       unsigned shift, size_t *count, size_t *want)
{
    memset(count, 0, LOW_BINS * sizeof(*count));
    for (size_t i = 0; i < n; i++) {
        uint32_t m = at(x, index, i);
        if (m >> (shift + 10) == prefix)
            count[m >> shift & (LOW_BINS - 1)]++;
    }
    return prefix << 10 | bin_of(count, LOW_BINS, want);
}

/* The top-th largest magnitude, and how many equal to it belong to the top.  False when
 * one is not finite. */
static bool threshold(const float *x, const uint32_t *index, size_t n, size_t top,
                      size_t *count, uint32_t *t, size_t *ties)
{
    memset(count, 0, TOP_BINS * sizeof(*count));
    for (size_t i = 0; i < n; i++)
        count[at(x, index, i) >> 20]++;
    for (size_t b = NOT_FINITE >> 20; b < TOP_BINS; b++)
        if (count[b])
            return false;
    size_t want = top;
    uint32_t prefix = bin_of(count, TOP_BINS, &want);
    prefix = narrow(x, index, n, prefix, 10, count, &want);
    *t = narrow(x, index, n, prefix, 0, count, &want);
    *ties = want;
    return true;
}

static bool cut_exactly(const float *x, const uint32_t *from, size_t n, size_t top,
                        size_t *count, uint32_t *index)
{
    uint32_t t;
    size_t ties, kept = 0;
    if (!threshold(x, from, n, top, count, &t, &ties))
        return false;
    for (size_t i = 0; i < n && kept < top; i++) {
        uint32_t m = at(x, from, i);
        if (m < t || (m == t && ties == 0))
            continue;
        ties -= m == t;
        index[kept++] = from ? from[i] : (uint32_t)i;
    }
    return true;
}

/* ---- the scan ---- */

typedef struct {
    const cohort_kernels *of;
    const float *x;
    size_t d;
    uint32_t t;
    size_t *first;     /* (pieces + 1) */
    uint32_t *packed;  /* NULL: only count */
} scan;

static void scan_work(void *ctx, size_t beg, size_t end, int worker)
{
    const scan *s = ctx;
    (void)worker;
    for (size_t q = beg; q < end; q++) {
        size_t from = q * PIECE, n = size_min(PIECE, s->d - from);
        if (s->packed)
            s->of->pack_from(s->x + from, n, s->t, (uint32_t)from, s->packed + s->first[q]);
        else
            s->first[q + 1] = s->of->count_from(s->x + from, n, s->t);
    }
}

static size_t pieces_of(size_t d) { return (d + PIECE - 1) / PIECE; }
static size_t room_of(size_t top) { return top + top / 2 + SAMPLE; }

/* A magnitude that a little more than `top` numbers reach, as far as the sample tells:
 * five standard deviations on the safe side.  Places are spread by a fixed stride plus a
 * hashed part of it, so that no layout of layers hides from them. */
static uint32_t guess(const float *x, size_t d, size_t top, size_t *count, float *sample)
{
    size_t stride = d / SAMPLE, ties;
    rng r = {.key = d, .ctr = 0};
    for (size_t i = 0; i < SAMPLE; i++)
        sample[i] = x[i * stride + (size_t)(rng_at(&r, i) % stride)];
    double want = (double)SAMPLE * (double)top / (double)d;
    size_t rank = (size_t)(want * 1.02 + 10);
    while ((double)(rank - (size_t)want) * (double)(rank - (size_t)want) < 25 * want)
        rank++;
    uint32_t t;
    return rank < SAMPLE && threshold(sample, NULL, SAMPLE, rank, count, &t, &ties) ? t : 0;
}

size_t select_top_bytes(size_t d, size_t top)
{
    return arena_bytes(size_t, TOP_BINS) + arena_bytes(float, SAMPLE) +
           arena_bytes(size_t, pieces_of(d) + 1) + arena_bytes(uint32_t, room_of(top));
}

bool select_top(const kern *k, pool *p, const float *x, size_t d, size_t top,
                uint32_t *index, arena scratch)
{
    size_t *count = arena_new(&scratch, size_t, TOP_BINS), pieces = pieces_of(d);
    BUG_IF(top > d || d > UINT32_MAX);
    if (d == 0 || top == 0)
        return true;
    if (d < 2 * SAMPLE || room_of(top) > d)
        return cut_exactly(x, NULL, d, top, count, index);
    float *sample = arena_new(&scratch, float, SAMPLE);
    scan s = {.of = cohort_kernels_for(k->flags), .x = x, .d = d};
    s.t = guess(x, d, top, count, sample);
    s.first = arena_new(&scratch, size_t, pieces + 1);
    pool_run(p, pieces, 1, scan_work, &s);
    for (size_t q = 0; q < pieces; q++)
        s.first[q + 1] += s.first[q];
    size_t n = s.first[pieces];
    if (n < top || n > room_of(top)) /* the sample was fooled */
        return cut_exactly(x, NULL, d, top, count, index);
    s.packed = arena_new(&scratch, uint32_t, room_of(top));
    pool_run(p, pieces, 1, scan_work, &s);
    return cut_exactly(x, s.packed, n, top, count, index);
}
