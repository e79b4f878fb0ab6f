/* toplek.c - TopLEK: just so many of the largest numbers that Top-K's promise is kept.
 *
 * Top-K promises |C(x)-x|^2 <= (1 - K/d) |x|^2 and usually does far better.  TopLEK sends
 * less until the promise is tight: with R(c) = what is lost when the c largest are sent,
 * and j the smallest count with R(j) <= T = (1 - K/d) |x|^2, it sends j - 1 of them with
 * probability (T - R(j)) / (R(j-1) - R(j)), else j.  Then E|C(x)-x|^2 = T exactly, and
 * never more than K numbers travel.  (A public implementation adds a tenth of |x|^2 to T;
 * that breaks the equality and is not done here.)
 *
 * Message: the count as u32, the floats in index order, their places (sparse.h). */
#include "codec/codec.h"
#include "codec/sparse.h"

#include <math.h>
#include <stdlib.h>

enum { RATIO, COUNT };

static const param params[] = {SPARSE_PARAMS, {NULL, 0, 0, 0, NULL, NULL}};

static size_t k_of(const double *p, size_t d) { return sparse_k(p[RATIO], p[COUNT], d); }

static double alpha(const double *p, size_t d)
{
    return d ? (double)k_of(p, d) / (double)d : 1;
}

static size_t bytes_of(size_t count, size_t d)
{
    return 4 + 4 * count + sparse_gap_bytes(count, d);
}

/* The places of c numbers may take more bytes than those of c + 1: try them all. */
static size_t bound(const double *p, size_t d)
{
    size_t most = 4;
    for (size_t c = k_of(p, d), i = 0; i <= c; i++)
        most = size_max(most, bytes_of(i, d));
    return most;
}

typedef struct {
    uint32_t magnitude, index;
} item;

static size_t scratch_bytes(const double *p, size_t d)
{
    return SELECT_BYTES + arena_bytes(item, k_of(p, d));
}

static inline int larger_first(const item *x, const item *y)
{
    if (x->magnitude != y->magnitude)
        return x->magnitude < y->magnitude ? 1 : -1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static int index_first(const void *a, const void *b)
{
    const item *x = a, *y = b;
    return x->index < y->index ? -1 : x->index > y->index;
}

static double square(float v) { return (double)v * (double)v; }

static void sink(item *heap, size_t n, size_t at)
{
    for (;;) {
        size_t child = 2 * at + 1;
        if (child + 1 < n && larger_first(&heap[child], &heap[child + 1]) > 0)
            child++;
        if (child >= n || larger_first(&heap[at], &heap[child]) <= 0)
            return;
        item v = heap[at];
        heap[at] = heap[child], heap[child] = v;
        at = child;
    }
}

/* How many of the k largest to send; they end up last in top, largest first from the end.
 * A heap, as few of the k are wanted in order. */
static size_t how_many(const float *x, size_t d, item *top, size_t k, double u)
{
    double total = 0, lost, before = 0;
    for (size_t i = 0; i < d; i++)
        total += square(x[i]);
    double target = (1 - (double)k / (double)d) * total;
    lost = total;
    for (size_t i = k / 2; i-- > 0;)
        sink(top, k, i);
    size_t j = 0;
    while (j < k && lost > target) {
        item v = top[0];
        before = lost;
        lost -= square(x[v.index]);
        top[0] = top[k - 1 - j], top[k - 1 - j] = v;
        sink(top, k - ++j, 0);
    }
    if (j == 0 || j == d)
        return j;
    return u * (before - lost) < target - lost ? j - 1 : j;
}

/* The k largest, in index order. */
static void collect(const float *x, size_t d, uint32_t t, size_t ties, item *top)
{
    for (size_t i = 0; i < d; i++) {
        uint32_t m = select_magnitude(x[i]);
        if (m < t || (m == t && ties == 0))
            continue;
        ties -= m == t;
        *top++ = (item){m, (uint32_t)i};
    }
}

static om_status encode(const double *p, const float *x, size_t d, rng r, arena scratch,
                        buf *out)
{
    uint32_t t;
    size_t k = k_of(p, d), ties, count = 0, from = 0;
    item *top = arena_new(&scratch, item, k);
    if (k && !select_threshold(x, d, k, scratch, &t, &ties))
        return OM_EARG;
    if (d > UINT32_MAX)
        return OM_EARG;
    TRY(buf_reserve(out, bound(p, d)));
    if (k) {
        collect(x, d, t, ties, top);
        count = how_many(x, d, top, k, rng_unit(&r));
        top += k - count;
        qsort(top, count, sizeof(*top), index_first);
    }
    uint8_t *to = out->data + out->len;
    bits_out gaps = {.p = to + 4 + 4 * count};
    wire_store(to, (uint32_t)count);
    for (size_t j = 0; j < count; j++) {
        wire_store_f32(to + 4 + 4 * j, x[top[j].index]);
        sparse_put_gap(&gaps, top[j].index - from, sparse_rice(count, d));
        from = (size_t)top[j].index + 1;
    }
    bits_end(&gaps);
    out->len = (size_t)(gaps.p - out->data);
    return OM_OK;
}

/* Walk the indices; add to y if given.  False: a code runs past d or past the end. */
static bool walk(const uint8_t *in, size_t n, size_t count, size_t d, float weight,
                 float *y)
{
    sparse_in at = sparse_of(in + 4 * count, n - 4 * count, count, d);
    for (size_t j = 0, i; j < count; j++) {
        if (!sparse_next(&at, &i))
            return false;
        if (y)
            y[i] += weight * wire_load_f32(in + 4 * j);
    }
    return bits_done(&at.bits);
}

static om_status decode(const double *p, const uint8_t *in, size_t n, float weight,
                        float *y, size_t d, om_err *err)
{
    size_t count = n >= 4 ? wire_load(in) : 0;
    if (n < 4 || count > k_of(p, d) || n < 4 + 4 * count || n > bytes_of(count, d))
        return fail(err, OM_EFORMAT,
                    "toplek: a message of %zu bytes announces %zu numbers; at most %zu of "
                    "%zu are possible",
                    n, count, k_of(p, d), d);
    in += 4, n -= 4;
    if (!wire_all_finite(in, count))
        return fail(err, OM_EFORMAT, "toplek: the message holds a NaN or an infinity");
    if (!walk(in, n, count, d, 0, NULL))
        return fail(err, OM_EFORMAT,
                    "toplek: the indices are not %zu ascending numbers below %zu that end "
                    "with the message",
                    count, d);
    walk(in, n, count, d, weight, y);
    return OM_OK;
}

const codec codec_toplek = {
    .name = "toplek",
    .summary = "as few of the largest as keep Top-K's promise",
    .source = "Burlachenko, Richtarik 2024, arXiv 2410.08760",
    .flags = CODEC_CONTRACTIVE,
    .params = params,
    .alpha = alpha,
    .bound = bound,
    .scratch_bytes = scratch_bytes,
    .encode = encode,
    .decode = decode,
};
