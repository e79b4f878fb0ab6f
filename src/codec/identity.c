/* identity.c - send everything: d little-endian floats, 4 d bytes.  C(x) = x. */
#include "codec/codec.h"
#include "codec/wire.h"

static double omega(const double *p, size_t d)
{
    (void)p, (void)d;
    return 0.0;
}

static double alpha(const double *p, size_t d)
{
    (void)p, (void)d;
    return 1.0;
}

static size_t bound(const double *p, size_t d)
{
    (void)p;
    return 4 * d;
}

static size_t scratch_bytes(const double *p, size_t d)
{
    (void)p, (void)d;
    return 0;
}

static om_status encode(const double *p, const float *x, size_t d, rng r, arena scratch,
                        buf *out)
{
    (void)p, (void)r, (void)scratch;
    if (wire_first_bad(x, d) < d)
        return OM_EARG;
    TRY(buf_reserve(out, 4 * d));
    for (size_t i = 0; i < d; i++)
        wire_store_f32(out->data + out->len + 4 * i, x[i]);
    out->len += 4 * d;
    return OM_OK;
}

static om_status decode(const double *p, const uint8_t *in, size_t n, float weight,
                        float *y, size_t d, om_err *err)
{
    (void)p;
    if (n / 4 != d || n % 4)
        return fail(err, OM_EFORMAT,
                    "identity: the message has %zu bytes, expected %zu "
                    "(4 for each of %zu numbers)",
                    n, 4 * d, d);
    if (!wire_all_finite(in, d))
        return fail(err, OM_EFORMAT, "identity: the message holds a NaN or an infinity");
    if (weight == 0.0f) /* only checked */
        return OM_OK;
    for (size_t i = 0; i < d; i++)
        y[i] += weight * wire_load_f32(in + 4 * i);
    return OM_OK;
}

const codec codec_identity = {
    .name = "identity",
    .summary = "no compression: every number as f32",
    .source = "-",
    .flags = CODEC_UNBIASED | CODEC_CONTRACTIVE,
    .omega = omega,
    .alpha = alpha,
    .bound = bound,
    .scratch_bytes = scratch_bytes,
    .encode = encode,
    .decode = decode,
};
