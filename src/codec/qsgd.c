/* qsgd.c - QSGD: random rounding to s levels of a norm, bucket by bucket.
 *
 *     C(x)_i = sign(x_i) N l_i / s,   l_i = floor(s |x_i| / N + u_i),  u_i ~ U[0,1)
 *
 * with N the norm of the bucket that i lies in and s = 2^(bits-1) - 1.  Unbiased.  A
 * number's variance is (N/s)^2 q (1-q) with q the fractional part of s |x_i| / N, at
 * most (N/s)^2 / 4 and at most (N/s) |x_i|; N <= |x|_2 for either norm, so over a
 * bucket of b numbers omega <= min(b / (4 s^2), sqrt(b) / s).  The paper's norm is the
 * 2-norm; its experiments divide by the largest magnitude, which loses less for the
 * same bits and is the default here.
 *
 * Message, for each bucket: N as f32, then the codes l_i + s (negative numbers: s - l_i)
 * in `bits` bits each, packed, the last byte filled with zeros.  Its length depends on
 * d alone. */
#include "codec/codec.h"
#include "codec/bucket.h"

enum { BITS, BUCKET, NORM };

static const param params[] = {
    [BITS] = {"bits", 8, 2, 8, "bits for each number", NULL},
    [BUCKET] = BUCKET_PARAM,
    [NORM] = BUCKET_NORM_PARAM,
    {NULL, 0, 0, 0, NULL, NULL},
};

static unsigned bits_of_p(const double *p) { return (unsigned)p[BITS]; }
static unsigned levels(const double *p) { return (1u << (bits_of_p(p) - 1)) - 1; }

static double omega(const double *p, size_t d)
{
    double b = (double)size_min((size_t)p[BUCKET], d), s = levels(p);
    return fmin(b / (4 * s * s), sqrt(b) / s);
}

static size_t bucket_bytes(const double *p, size_t n)
{
    return 4 + (n * bits_of_p(p) + 7) / 8;
}

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

static void encode_bucket(const double *p, const float *x, size_t n, float norm, rng *r,
                          uint8_t *out)
{
    unsigned s = levels(p), width = bits_of_p(p);
    double inverse = norm > 0 ? s / (double)norm : 0;
    bits_out codes = {.p = out + 4};
    wire_store_f32(out, norm);
    uint64_t coins = 0;
    for (size_t i = 0; i < n; i++) {
        coins = i % 2 ? coins >> 32 : rng_u64(r); /* one draw serves two numbers */
        double u = (double)(uint32_t)coins * 0x1p-32;
        unsigned l = (unsigned)(fabs((double)x[i]) * inverse + u);
        l = l > s ? s : l;
        bits_put(&codes, x[i] < 0 ? s - l : s + l, width);
    }
    bits_end(&codes);
}

static om_status encode(const double *p, const float *x, size_t d, rng r, arena scratch,
                        buf *out)
{
    (void)scratch;
    size_t b = (size_t)p[BUCKET];
    if (wire_first_bad(x, d) < d)
        return OM_EARG;
    TRY(buf_reserve(out, bound(p, d)));
    for (size_t i = 0; i < d; i += b) {
        size_t n = size_min(b, d - i);
        float norm = bucket_norm(p[NORM] > 0.5, x + i, n);
        if (!isfinite(norm))
            return OM_EARG;
        encode_bucket(p, x + i, n, norm, &r, out->data + out->len);
        out->len += bucket_bytes(p, n);
    }
    return OM_OK;
}

static om_status check_bucket(const double *p, const uint8_t *in, size_t n, om_err *err)
{
    unsigned s = levels(p), width = bits_of_p(p);
    uint32_t norm = wire_load(in);
    if (!bucket_norm_ok(norm))
        return fail(err, OM_EFORMAT, "qsgd: a bucket's norm is NaN, infinite or negative");
    bits_in codes = bits_of(in + 4, bucket_bytes(p, n) - 4);
    for (size_t i = 0; i < n; i++) {
        uint32_t c = bits_get(&codes, width);
        if (c > 2 * s || (norm == 0 && c != s))
            return fail(err, OM_EFORMAT,
                        "qsgd: level %u is outside a bucket of %u levels%s", (unsigned)c,
                        2 * s + 1, norm ? "" : " and norm zero");
    }
    return bits_done(&codes) ? OM_OK
                             : fail(err, OM_EFORMAT,
                                    "qsgd: a bucket's last byte is not "
                                    "filled with zeros");
}

static void add_bucket(const double *p, const uint8_t *in, size_t n, float weight, float *y)
{
    unsigned s = levels(p), width = bits_of_p(p);
    float norm = wire_load_f32(in);
    bits_in codes = bits_of(in + 4, bucket_bytes(p, n) - 4);
    for (size_t i = 0; i < n; i++)
        y[i] +=
            weight * (norm * ((float)((int)bits_get(&codes, width) - (int)s) / (float)s));
}

static om_status decode(const double *p, const uint8_t *in, size_t n, float weight,
                        float *y, size_t d, om_err *err)
{
    size_t b = (size_t)p[BUCKET], full = bucket_bytes(p, b);
    if (n != bound(p, d))
        return fail(err, OM_EFORMAT,
                    "qsgd: the message has %zu bytes, expected %zu for %zu "
                    "numbers of %u bits",
                    n, bound(p, d), d, bits_of_p(p));
    for (size_t i = 0; i < d; i += b)
        TRY(check_bucket(p, in + i / b * full, size_min(b, d - i), err));
    for (size_t i = 0; i < d; i += b)
        add_bucket(p, in + i / b * full, size_min(b, d - i), weight, y + i);
    return OM_OK;
}

const codec codec_qsgd = {
    .name = "qsgd",
    .summary = "random rounding to a few bits",
    .source = "Alistarh, Grubic, Li, Tomioka, Vojnovic, NeurIPS 2017, arXiv 1610.02132",
    .flags = CODEC_UNBIASED,
    .params = params,
    .omega = omega,
    .bound = bound,
    .scratch_bytes = scratch_bytes,
    .encode = encode,
    .decode = decode,
};
