/* sign.c - one bit a number: sign, and scaled-sign.
 *
 *     sign:         C(x)_i = +-1; a zero is a fair coin, so that E C(0) = 0
 *     scaled-sign:  C(x)_i = (|x|_1 / b) sign(x_i) over each bucket of b numbers
 *
 * sign bounds no error: |C(x) - x| is what it is.  It is for the methods that ask for
 * directions (signSGD and its majority vote).  scaled-sign is contractive:
 * |C(x)-x|^2 = |x|^2 - |x|_1^2 / b, hence alpha = |x|_1^2 / (b |x|^2) >= 1 / b.
 *
 * Message of sign: a bit a number, set for negative.  Of scaled-sign, for each bucket:
 * |x|_1 / b as f32, then the bits. */
#include "codec/codec.h"
#include "codec/bucket.h"

/* ---- sign ---- */

static size_t sign_bound(const double *p, size_t d)
{
    (void)p;
    return (d + 7) / 8;
}

static size_t scratch_bytes(const double *p, size_t d)
{
    (void)p, (void)d;
    return 0;
}

static om_status sign_encode(const double *p, const float *x, size_t d, rng r,
                             arena scratch, buf *out)
{
    (void)scratch;
    if (wire_first_bad(x, d) < d)
        return OM_EARG;
    TRY(buf_reserve(out, sign_bound(p, d)));
    bits_out bits = {.p = out->data + out->len};
    for (size_t i = 0; i < d; i++)
        bits_put(&bits, x[i] < 0 || (x[i] == 0 && rng_u64(&r) >> 63), 1);
    bits_end(&bits);
    out->len += sign_bound(p, d);
    return OM_OK;
}

/* The bits that fill the last byte. */
static bool filling_ok(const uint8_t *in, size_t n)
{
    return !(n % 8 && in[n / 8] >> n % 8);
}

static void add_signs(const uint8_t *in, size_t n, float v, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] += in[i / 8] >> i % 8 & 1 ? -v : v;
}

static om_status sign_decode(const double *p, const uint8_t *in, size_t n, float weight,
                             float *y, size_t d, om_err *err)
{
    if (n != sign_bound(p, d))
        return fail(err, OM_EFORMAT,
                    "sign: the message has %zu bytes, expected %zu for %zu numbers", n,
                    sign_bound(p, d), d);
    if (!filling_ok(in, d))
        return fail(err, OM_EFORMAT, "sign: the last byte is not filled with zeros");
    if (weight == 0.0f) /* only checked */
        return OM_OK;
    add_signs(in, d, weight, y);
    return OM_OK;
}

const codec codec_sign = {
    .name = "sign",
    .summary = "signs alone, one bit a number",
    .source = "Bernstein et al., ICML 2018, arXiv 1802.04434",
    .flags = CODEC_DIRECTION,
    .bound = sign_bound,
    .scratch_bytes = scratch_bytes,
    .encode = sign_encode,
    .decode = sign_decode,
};

/* ---- scaled-sign ---- */

enum { BUCKET };

static const param params[] = {[BUCKET] = BUCKET_PARAM, {NULL, 0, 0, 0, NULL, NULL}};

static double alpha(const double *p, size_t d)
{
    return 1 / (double)size_max(1, size_min((size_t)p[BUCKET], d));
}

static size_t bucket_bytes(size_t n) { return 4 + (n + 7) / 8; }

static size_t bound(const double *p, size_t d)
{
    size_t b = (size_t)p[BUCKET];
    return bucket_total(d, b, bucket_bytes(b), bucket_bytes(d % b));
}

static om_status encode(const double *p, const float *x, size_t d, rng r, arena scratch,
                        buf *out)
{
    (void)r, (void)scratch;
    size_t b = (size_t)p[BUCKET];
    if (wire_first_bad(x, d) < d)
        return OM_EARG;
    TRY(buf_reserve(out, bound(p, d)));
    uint8_t *to = out->data + out->len;
    for (size_t from = 0; from < d; from += b, to += bucket_bytes(b)) {
        size_t n = size_min(b, d - from);
        double sum = 0;
        bits_out bits = {.p = to + 4};
        for (size_t i = from; i < from + n; i++) {
            sum += fabs((double)x[i]);
            bits_put(&bits, x[i] < 0, 1);
        }
        bits_end(&bits);
        wire_store_f32(to, (float)(sum / (double)n));
    }
    out->len += bound(p, d);
    return OM_OK;
}

static om_status decode(const double *p, const uint8_t *in, size_t n, float weight,
                        float *y, size_t d, om_err *err)
{
    size_t b = (size_t)p[BUCKET], full = bucket_bytes(b);
    if (n != bound(p, d))
        return fail(err, OM_EFORMAT,
                    "scaled-sign: the message has %zu bytes, expected %zu for %zu numbers",
                    n, bound(p, d), d);
    for (size_t i = 0; i < d; i += b) {
        const uint8_t *at = in + i / b * full;
        if (!bucket_norm_ok(wire_load(at)) || !filling_ok(at + 4, size_min(b, d - i)))
            return fail(err, OM_EFORMAT,
                        "scaled-sign: a scale is NaN, infinite or negative, or a last "
                        "byte is not filled with zeros");
    }
    for (size_t i = 0; i < d; i += b, in += full)
        add_signs(in + 4, size_min(b, d - i), weight * wire_load_f32(in), y + i);
    return OM_OK;
}

const codec codec_scaled_sign = {
    .name = "scaled-sign",
    .summary = "signs times the mean magnitude, one bit a number",
    .source = "Karimireddy et al., ICML 2019, arXiv 1901.09847",
    .flags = CODEC_CONTRACTIVE,
    .params = params,
    .alpha = alpha,
    .bound = bound,
    .scratch_bytes = scratch_bytes,
    .encode = encode,
    .decode = decode,
};
