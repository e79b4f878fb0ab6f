/* natural_dithering.c - random rounding of |x_i| / N to the levels 0, 2^(1-s), ..., 1/2, 1.
 *
 *     C(x)_i = sign(x_i) N l,   l the level below or above |x_i| / N, so that the mean is
 *     right;   s = 2^(bits-1) - 1 levels besides 0
 *
 * N is the norm of the bucket that i lies in.  Levels that halve follow the many small
 * numbers of a gradient where the even steps of QSGD make them 0.  Between two powers of
 * two the loss is at most x^2 / 8; below the least level L = 2^(1-s) it is at most L N |x|
 * and L^2 N^2 / 4, and N <= |x|_2: over a bucket of b numbers
 * omega <= 1/8 + sqrt(b) L min(1, sqrt(b) L).
 *
 * Message, for each bucket: N as f32, then sign and level number (0: zero, k: 2^(k-s)) in
 * `bits` bits each.  A zero has a positive sign. */
#include "codec/codec.h"
#include "codec/bucket.h"

enum { BITS, BUCKET, NORM };

static const param params[] = {
    [BITS] = {"bits", 4, 2, 6, "bits for each number", NULL},
    [BUCKET] = BUCKET_PARAM,
    [NORM] = BUCKET_NORM_PARAM,
    {NULL, 0, 0, 0, NULL, NULL},
};

static unsigned width(const double *p) { return (unsigned)p[BITS]; }
static int levels(const double *p) { return (1 << (width(p) - 1)) - 1; }

static double omega(const double *p, size_t d)
{
    double b = (double)size_min((size_t)p[BUCKET], d);
    double least = ldexp(sqrt(b), 1 - levels(p));
    return 0.125 + least * fmin(1, least);
}

static size_t bucket_bytes(const double *p, size_t n) { return 4 + (n * width(p) + 7) / 8; }

static size_t bound(const double *p, size_t d)
{
    size_t b = (size_t)p[BUCKET];
    return bucket_total(d, b, bucket_bytes(p, b), bucket_bytes(p, d % b));
}

static size_t scratch_bytes(const double *p, size_t d)
{
    (void)p, (void)d;
    return 0;
}

/* The level of t in [0, 1] that the coin u in [0, 1) chooses. */
static unsigned level_of(double t, int s, double u)
{
    int e;
    double m = frexp(t, &e); /* t = m 2^e with m in [1/2, 1): between 2^(e-1) and 2^e */
    if (t < ldexp(1, 1 - s))
        return u < ldexp(t, s - 1);
    return (unsigned)(e - 1 + s + (u < 2 * m - 1));
}

static double level_value(unsigned level, int s)
{
    return level ? ldexp(1, (int)level - s) : 0;
}

static om_status encode(const double *p, const float *x, size_t d, rng r, arena scratch,
                        buf *out)
{
    (void)scratch;
    size_t b = (size_t)p[BUCKET];
    int s = levels(p);
    if (wire_first_bad(x, d) < d)
        return OM_EARG;
    TRY(buf_reserve(out, bound(p, d)));
    uint8_t *to = out->data + out->len;
    for (size_t from = 0; from < d; from += b) {
        size_t n = size_min(b, d - from);
        float norm = bucket_norm(p[NORM] > 0.5, x + from, n);
        if (!isfinite(norm))
            return OM_EARG;
        wire_store_f32(to, norm);
        bits_out codes = {.p = to + 4};
        for (size_t i = from; i < from + n; i++) {
            double t = norm > 0 ? fabs((double)x[i]) / (double)norm : 0;
            unsigned level = level_of(t, s, rng_unit(&r));
            bits_put(&codes, level << 1 | (level && x[i] < 0), width(p));
        }
        bits_end(&codes);
        to += bucket_bytes(p, n);
    }
    out->len += bound(p, d);
    return OM_OK;
}

static om_status check_bucket(const double *p, const uint8_t *in, size_t n, om_err *err)
{
    uint32_t norm = wire_load(in);
    if (!bucket_norm_ok(norm))
        return fail(err, OM_EFORMAT,
                    "natural-dithering: a bucket's norm is NaN, infinite or negative");
    bits_in codes = bits_of(in + 4, bucket_bytes(p, n) - 4);
    for (size_t i = 0; i < n; i++) {
        uint32_t c = bits_get(&codes, width(p));
        if (c == 1 || (norm == 0 && c))
            return fail(err, OM_EFORMAT,
                        "natural-dithering: a zero with a sign, or a number in a bucket "
                        "of norm zero");
    }
    return bits_done(&codes) ? OM_OK
                             : fail(err, OM_EFORMAT,
                                    "natural-dithering: a bucket's last byte is not "
                                    "filled with zeros");
}

static om_status decode(const double *p, const uint8_t *in, size_t n, float weight,
                        float *y, size_t d, om_err *err)
{
    size_t b = (size_t)p[BUCKET], full = bucket_bytes(p, b);
    if (n != bound(p, d))
        return fail(err, OM_EFORMAT,
                    "natural-dithering: the message has %zu bytes, expected %zu for %zu "
                    "numbers of %u bits",
                    n, bound(p, d), d, width(p));
    for (size_t i = 0; i < d; i += b)
        TRY(check_bucket(p, in + i / b * full, size_min(b, d - i), err));
    for (size_t from = 0; from < d; from += b, in += full) {
        size_t m = size_min(b, d - from);
        double norm = (double)wire_load_f32(in);
        bits_in codes = bits_of(in + 4, bucket_bytes(p, m) - 4);
        for (size_t i = from; i < from + m; i++) {
            uint32_t c = bits_get(&codes, width(p));
            double v = norm * level_value(c >> 1, levels(p));
            y[i] += weight * (float)(c & 1 ? -v : v);
        }
    }
    return OM_OK;
}

const codec codec_natural_dithering = {
    .name = "natural-dithering",
    .summary = "random rounding to a norm's halves, quarters, ...",
    .source = "Horvath et al., MSML 2022, arXiv 1905.10988",
    .flags = CODEC_UNBIASED,
    .params = params,
    .omega = omega,
    .bound = bound,
    .scratch_bytes = scratch_bytes,
    .encode = encode,
    .decode = decode,
};
