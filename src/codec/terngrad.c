/* terngrad.c - three values a number: -M, 0, M with M the bucket's largest magnitude.
 *
 *     C(x)_i = sign(x_i) M  with probability |x_i| / M, else 0
 *
 * Unbiased.  E|C(x)-x|^2 = sum |x_i| (M - |x_i|), which for b numbers is at most
 * (sqrt(b) - 1) / 2 |x|^2, reached when all but one are M / (1 + sqrt(b)): that is omega.
 *
 * Message, for each bucket: M as f32, then five numbers a byte in base 3 (0: zero, 1: M,
 * 2: -M; the first is the lowest digit), 1.6 bits each. */
#include "codec/codec.h"
#include "codec/bucket.h"

enum { BUCKET };
enum { PER_BYTE = 5, BYTE_VALUES = 243 };

static const param params[] = {[BUCKET] = BUCKET_PARAM, {NULL, 0, 0, 0, NULL, NULL}};

static double omega(const double *p, size_t d)
{
    return d ? (sqrt((double)size_min((size_t)p[BUCKET], d)) - 1) / 2 : 0;
}

static size_t bucket_bytes(size_t n) { return 4 + (n + PER_BYTE - 1) / PER_BYTE; }

static size_t bound(const double *p, size_t d)
{
    size_t b = (size_t)p[BUCKET];
    return bucket_total(d, b, bucket_bytes(b), bucket_bytes(d % b));
}

static size_t scratch_bytes(const double *p, size_t d)
{
    (void)p, (void)d;
    return 0;
}

static void encode_bucket(const float *x, size_t n, float most, rng *r, uint8_t *to)
{
    wire_store_f32(to, most);
    to += 4;
    for (size_t i = 0; i < n; i += PER_BYTE, to++) {
        unsigned byte = 0;
        for (size_t j = size_min(n, i + PER_BYTE); j-- > i;) {
            bool set = rng_unit(r) * (double)most < fabs((double)x[j]);
            byte = 3 * byte + (set ? x[j] < 0 ? 2u : 1u : 0u);
        }
        *to = (uint8_t)byte;
    }
}

static om_status encode(const double *p, const float *x, size_t d, rng r, arena scratch,
                        buf *out)
{
    (void)scratch;
    size_t b = (size_t)p[BUCKET];
    if (wire_first_bad(x, d) < d)
        return OM_EARG;
    TRY(buf_reserve(out, bound(p, d)));
    uint8_t *to = out->data + out->len;
    for (size_t i = 0; i < d; i += b, to += bucket_bytes(b)) {
        size_t n = size_min(b, d - i);
        encode_bucket(x + i, n, bucket_norm(false, x + i, n), &r, to);
    }
    out->len += bound(p, d);
    return OM_OK;
}

/* A byte below 3^(numbers in it); and with M = 0 nothing but zeros. */
static om_status check_bucket(const uint8_t *in, size_t n, om_err *err)
{
    uint32_t most = wire_load(in);
    if (!bucket_norm_ok(most))
        return fail(err, OM_EFORMAT,
                    "terngrad: a bucket's scale is NaN, infinite or negative");
    in += 4;
    for (size_t i = 0; i < n; i += PER_BYTE, in++) {
        unsigned values = BYTE_VALUES;
        for (size_t j = n; j < i + PER_BYTE; j++)
            values /= 3;
        if (*in >= values || (most == 0 && *in))
            return fail(err, OM_EFORMAT,
                        "terngrad: byte %u where at most %u is possible", *in,
                        most ? values - 1 : 0);
    }
    return OM_OK;
}

static void add_bucket(const uint8_t *in, size_t n, float weight, float *y)
{
    float most = wire_load_f32(in), value[3] = {0, weight * most, weight * -most};
    in += 4;
    for (size_t i = 0; i < n; i += PER_BYTE, in++) {
        unsigned byte = *in;
        for (size_t j = i; j < size_min(n, i + PER_BYTE); j++, byte /= 3)
            y[j] += value[byte % 3];
    }
}

static om_status decode(const double *p, const uint8_t *in, size_t n, float weight,
                        float *y, size_t d, om_err *err)
{
    size_t b = (size_t)p[BUCKET], full = bucket_bytes(b);
    if (n != bound(p, d))
        return fail(err, OM_EFORMAT,
                    "terngrad: the message has %zu bytes, expected %zu for %zu numbers", n,
                    bound(p, d), d);
    for (size_t i = 0; i < d; i += b)
        TRY(check_bucket(in + i / b * full, size_min(b, d - i), err));
    for (size_t i = 0; i < d; i += b)
        add_bucket(in + i / b * full, size_min(b, d - i), weight, y + i);
    return OM_OK;
}

const codec codec_terngrad = {
    .name = "terngrad",
    .summary = "minus, zero or plus the largest magnitude, 1.6 bits a number",
    .source = "Wen et al., NeurIPS 2017, arXiv 1705.07878",
    .flags = CODEC_UNBIASED,
    .params = params,
    .omega = omega,
    .bound = bound,
    .scratch_bytes = scratch_bytes,
    .encode = encode,
    .decode = decode,
};
