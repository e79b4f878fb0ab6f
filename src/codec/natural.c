/* natural.c - natural compression: random rounding to the two nearest powers of two.
 *
 *     C(x) = sign(x) 2^e            with e = floor(log2 |x|), or
 *            sign(x) 2^(e+1)        with probability |x| / 2^e - 1       omega = 1/8
 *
 * The mantissa is that probability, so no logarithm is taken: 23 random bits below it
 * round the exponent up.  Subnormal numbers round to 0 or 2^-126 by the same rule.  From
 * 2^127 up there is nothing to round up to: such numbers become 2^127, which is the only
 * place where the mean is missed.
 *
 * Message: sign and exponent, 9 bits each, packed. */
#include "codec/codec.h"
#include "codec/wire.h"

enum { WIDTH = 9, MANTISSA = 23, LAST = 254 };

static double omega(const double *p, size_t d)
{
    (void)p, (void)d;
    return 0.125;
}

static size_t bound(const double *p, size_t d)
{
    (void)p;
    return (d * WIDTH + 7) / 8;
}

static size_t scratch_bytes(const double *p, size_t d)
{
    (void)p, (void)d;
    return 0;
}

static uint32_t code_of(float x, uint32_t coin)
{
    uint32_t u = wire_bits(x), e = u >> MANTISSA & 0xff, m = u & ((1u << MANTISSA) - 1);
    e += (coin >> 9) < m && e < LAST;
    return u >> 31 << 8 | e;
}

static om_status encode(const double *p, const float *x, size_t d, rng r, arena scratch,
                        buf *out)
{
    (void)scratch;
    if (wire_first_bad(x, d) < d)
        return OM_EARG;
    TRY(buf_reserve(out, bound(p, d)));
    bits_out codes = {.p = out->data + out->len};
    uint64_t coins = 0;
    for (size_t i = 0; i < d; i++) {
        coins = i % 2 ? coins >> 32 : rng_u64(&r); /* one draw serves two numbers */
        bits_put(&codes, code_of(x[i], (uint32_t)coins), WIDTH);
    }
    bits_end(&codes);
    out->len += bound(p, d);
    return OM_OK;
}

static float value_of(uint32_t code)
{
    uint32_t u = (code >> 8) << 31 | (code & 0xff) << MANTISSA;
    float v;
    memcpy(&v, &u, 4);
    return v;
}

static om_status decode(const double *p, const uint8_t *in, size_t n, float weight,
                        float *y, size_t d, om_err *err)
{
    if (n != bound(p, d))
        return fail(err, OM_EFORMAT,
                    "natural: the message has %zu bytes, expected %zu for %zu numbers", n,
                    bound(p, d), d);
    bits_in codes = bits_of(in, n);
    for (size_t i = 0; i < d; i++)
        if ((bits_get(&codes, WIDTH) & 0xff) > LAST)
            return fail(err, OM_EFORMAT, "natural: number %zu is not finite", i);
    if (!bits_done(&codes))
        return fail(err, OM_EFORMAT, "natural: the last byte is not filled with zeros");
    codes = bits_of(in, n);
    for (size_t i = 0; i < d; i++)
        y[i] += weight * value_of(bits_get(&codes, WIDTH));
    return OM_OK;
}

const codec codec_natural = {
    .name = "natural",
    .summary = "random rounding to powers of two, 9 bits a number",
    .source = "Horvath et al., MSML 2022, arXiv 1905.10988",
    .flags = CODEC_UNBIASED,
    .omega = omega,
    .bound = bound,
    .scratch_bytes = scratch_bytes,
    .encode = encode,
    .decode = decode,
};
