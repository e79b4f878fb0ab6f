/* topk.c - Top-K: keep the K numbers of largest magnitude, exactly.
 *
 *     C(x)_i = x_i if |x_i| is among the K largest, else 0       alpha = K/d
 *
 * Ties go to the lower index, so the choice is a function of x alone.  Contractive,
 * not unbiased: an algorithm that uses it needs error feedback.
 *
 * Selection is O(d) and touches no copy of x: the bits of |x| order like unsigned
 * integers, so three counting passes over 11, 10 and 10 bits find the exact K-th
 * largest magnitude T; one more pass takes everything above T and, in index order, as
 * many equal to T as are left.
 *
 * Message: K floats in index order, then the K gaps between indices (index minus the
 * one before minus 1) as Rice codes, g >> b zeros, a one, then the low b bits of g,
 * with b = floor(log2((d-K)/K)) (0 when that is negative), known to both sides.  The
 * gaps add up to at most d - K, hence at most K (1+b) + floor((d-K) / 2^b) bits: about
 * log2(d/K) + 2 an index where a plain index takes log2(d).
 * (Rice 1979; Stich, Cordonnier, Jaggi 2018, "Sparsified SGD with memory".) */
#include "codec/codec.h"
#include "codec/wire.h"

enum { RATIO, COUNT };

static const param params[] = {
    [RATIO] = {"ratio", 0.01, 1e-9, 1, "part of the numbers that is sent", NULL},
    [COUNT] = {"k", 0, 0, 4294967295.0, "how many are sent; 0: by ratio", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static size_t k_of(const double *p, size_t d)
{
    double k = p[COUNT] >= 1 ? p[COUNT] : p[RATIO] * (double)d + 0.5;
    if (d == 0)
        return 0;
    return k < 1 ? 1 : k >= (double)d ? d : (size_t)k;
}

static unsigned rice_of(size_t k, size_t d)
{
    unsigned b = 0;
    while (k && b < 32 && (d - k) / k >> (b + 1))
        b++;
    return b;
}

static double alpha(const double *p, size_t d)
{
    return d ? (double)k_of(p, d) / (double)d : 1;
}

static size_t bound(const double *p, size_t d)
{
    size_t k = k_of(p, d);
    unsigned b = rice_of(k, d);
    return 4 * k + (k * (1 + b) + ((d - k) >> b) + 7) / 8;
}

enum { TOP_BINS = 2048, LOW_BINS = 1024 };

static size_t scratch_bytes(const double *p, size_t d)
{
    (void)p, (void)d;
    return arena_bytes(size_t, TOP_BINS);
}

static uint32_t magnitude(float v) { return wire_bits(v) & 0x7fffffffu; }

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
static uint32_t narrow(const float *x, size_t d, uint32_t prefix, unsigned shift,
                       size_t *count, size_t *want)
{
    memset(count, 0, LOW_BINS * sizeof(*count));
    for (size_t i = 0; i < d; i++) {
        uint32_t m = magnitude(x[i]);
        if (m >> (shift + 10) == prefix)
            count[m >> shift & (LOW_BINS - 1)]++;
    }
    return prefix << 10 | bin_of(count, LOW_BINS, want);
}

/* The k-th largest magnitude of x, and how many equal to it belong to the top k.
 * False when x holds a NaN or an infinity. */
static bool threshold(const float *x, size_t d, size_t k, arena scratch, uint32_t *t,
                      size_t *ties)
{
    size_t *count = arena_new(&scratch, size_t, TOP_BINS);
    for (size_t i = 0; i < d; i++)
        count[magnitude(x[i]) >> 20]++;
    for (size_t b = 0x7f8; b < TOP_BINS; b++) /* exponent 255 */
        if (count[b])
            return false;
    *ties = k;
    uint32_t prefix = bin_of(count, TOP_BINS, ties);
    prefix = narrow(x, d, prefix, 10, count, ties);
    *t = narrow(x, d, prefix, 0, count, ties);
    return true;
}

static om_status encode(const double *p, const float *x, size_t d, rng r, arena scratch,
                        buf *out)
{
    (void)r;
    uint32_t t;
    size_t k = k_of(p, d), ties, from = 0;
    unsigned b = rice_of(k, d);
    if (k == 0)
        return OM_OK;
    if (!threshold(x, d, k, scratch, &t, &ties))
        return OM_EARG;
    TRY(buf_reserve(out, bound(p, d)));
    uint8_t *value = out->data + out->len;
    bits_out gaps = {.p = value + 4 * k};
    for (size_t i = 0; i < d; i++) {
        uint32_t m = magnitude(x[i]);
        if (m < t || (m == t && ties == 0))
            continue;
        ties -= m == t;
        wire_store_f32(value, x[i]);
        value += 4;
        size_t gap = i - from;
        bits_zeros(&gaps, gap >> b);
        bits_put(&gaps, 1, 1);
        bits_put(&gaps, (uint32_t)(gap & ((UINT64_C(1) << b) - 1)), b);
        from = i + 1;
    }
    bits_end(&gaps);
    out->len = (size_t)(gaps.p - out->data);
    return OM_OK;
}

/* Walk the k indices; add to y if given.  False: a code runs past d or past the end. */
static bool walk(const uint8_t *in, size_t n, size_t k, size_t d, float weight, float *y)
{
    unsigned b = rice_of(k, d);
    bits_in gaps = bits_of(in + 4 * k, n - 4 * k);
    size_t next = 0;
    for (size_t j = 0; j < k; j++) {
        size_t high = bits_unary(&gaps);
        size_t low = bits_get(&gaps, b);
        if (!gaps.ok || high > d >> b || (high << b | low) >= d - next)
            return false;
        next += high << b | low;
        if (y)
            y[next] += weight * wire_load_f32(in + 4 * j);
        next++;
    }
    return bits_done(&gaps);
}

static om_status decode(const double *p, const uint8_t *in, size_t n, float weight,
                        float *y, size_t d, om_err *err)
{
    size_t k = k_of(p, d);
    if (n < 4 * k || n > bound(p, d))
        return fail(err, OM_EFORMAT,
                    "topk: the message has %zu bytes, expected %zu to %zu "
                    "for %zu of %zu numbers",
                    n, 4 * k, bound(p, d), k, d);
    if (!wire_all_finite(in, k))
        return fail(err, OM_EFORMAT, "topk: the message holds a NaN or an infinity");
    if (!walk(in, n, k, d, 0, NULL))
        return fail(err, OM_EFORMAT,
                    "topk: the indices are not %zu ascending numbers below "
                    "%zu that end with the message",
                    k, d);
    walk(in, n, k, d, weight, y);
    return OM_OK;
}

const codec codec_topk = {
    .name = "topk",
    .summary = "the K numbers of largest magnitude",
    .source = "Stich, Cordonnier, Jaggi, NeurIPS 2018, arXiv 1809.07599",
    .flags = CODEC_CONTRACTIVE,
    .params = params,
    .alpha = alpha,
    .bound = bound,
    .scratch_bytes = scratch_bytes,
    .encode = encode,
    .decode = decode,
};
