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
    uint8_t *to = out->data + out->len;
    uint64_t coins = 0;
    size_t i = 0;
    for (; i + 8 <= d; i += 8, to += WIDTH) {
        uint64_t low = 0, last = 0;
        for (unsigned k = 0; k < 8; k++) {
            coins = k % 2 ? coins >> 32 : rng_u64(&r); /* one draw serves two numbers */
            last = code_of(x[i + k], (uint32_t)coins);
            low |= last << WIDTH * k;
        }
        wire_store(to, (uint32_t)low);
        wire_store(to + 4, (uint32_t)(low >> 32));
        to[8] = (uint8_t)(last >> 1);
    }
    bits_out codes = {.p = to};
    for (; i < d; i++) {
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

/* Eight codes are nine bytes. */
static inline void eight_codes(const uint8_t *in, uint32_t code[8])
{
    uint64_t low = (uint64_t)wire_load(in) | (uint64_t)wire_load(in + 4) << 32;
    for (unsigned k = 0; k < 7; k++)
        code[k] = (uint32_t)(low >> WIDTH * k) & 0x1ff;
    code[7] = (uint32_t)(low >> 63) | (uint32_t)in[8] << 1;
}

/* The first code of an infinity or NaN, which no message has, or d; is the filling zero? */
static size_t first_bad(const uint8_t *in, size_t n, size_t d, bool *done)
{
    size_t i = 0;
    uint32_t code[8], bad = 0;
    for (; i + 8 <= d && !bad; i += 8) {
        eight_codes(in + i / 8 * WIDTH, code);
        for (unsigned k = 0; k < 8; k++)
            bad |= (uint32_t)((code[k] & 0xff) > LAST);
    }
    i = bad ? i - 8 : i;
    bits_in rest = bits_of(in + i / 8 * WIDTH, n - i / 8 * WIDTH);
    while (i < d && (bits_get(&rest, WIDTH) & 0xff) <= LAST)
        i++;
    *done = bits_done(&rest);
    return i;
}

static om_status decode(const double *p, const uint8_t *in, size_t n, float weight,
                        float *y, size_t d, om_err *err)
{
    bool done;
    size_t i = 0;
    uint32_t code[8];
    if (n != bound(p, d))
        return fail(err, OM_EFORMAT,
                    "natural: the message has %zu bytes, expected %zu for %zu numbers", n,
                    bound(p, d), d);
    size_t bad = first_bad(in, n, d, &done);
    if (bad < d)
        return fail(err, OM_EFORMAT, "natural: number %zu is not finite", bad);
    if (!done)
        return fail(err, OM_EFORMAT, "natural: the last byte is not filled with zeros");
    for (; i + 8 <= d; i += 8) {
        eight_codes(in + i / 8 * WIDTH, code);
        for (unsigned k = 0; k < 8; k++)
            y[i + k] += weight * value_of(code[k]);
    }
    bits_in rest = bits_of(in + i / 8 * WIDTH, n - i / 8 * WIDTH);
    for (; i < d; i++)
        y[i] += weight * value_of(bits_get(&rest, WIDTH));
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
