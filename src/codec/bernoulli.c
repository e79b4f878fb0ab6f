/* bernoulli.c - send with probability p, and then scaled by 1/p.
 *
 *     by coordinate:  C(x)_i = x_i / p with probability p, else 0
 *     whole:          C(x) = x / p with probability p, else 0       omega = 1/p - 1
 *
 * Both losses are exactly omega |x|^2.  "whole" is the lazy client: most of its messages
 * are one byte.
 *
 * Message by coordinate: the 64-bit key of the coins, then x_i for each that fell, in index
 * order, unscaled; 8 + about 4 p d bytes.  Whole: 0; or 1, then x. */
#include "codec/codec.h"
#include "codec/wire.h"

enum { P, WHAT };

static const param params[] = {
    [P] = {"p", 0.1, 1e-6, 1, "probability of being sent", NULL},
    [WHAT] = {"what", 0, 0, 1, "whose coin it is", "number|vector"},
    {NULL, 0, 0, 0, NULL, NULL},
};

static bool whole(const double *p) { return p[WHAT] > 0.5; }

static double omega(const double *p, size_t d)
{
    (void)d;
    return 1 / p[P] - 1;
}

static size_t bound(const double *p, size_t d) { return (whole(p) ? 1 : 8) + 4 * d; }

static size_t scratch_bytes(const double *p, size_t d)
{
    (void)p, (void)d;
    return 0;
}

static om_status encode(const double *p, const float *x, size_t d, rng r, arena scratch,
                        buf *out)
{
    (void)scratch;
    rng coin = {.key = rng_u64(&r)};
    if (wire_first_bad(x, d) < d)
        return OM_EARG;
    TRY(buf_reserve(out, bound(p, d)));
    bool sent = rng_unit(&r) < p[P];
    TRY(whole(p) ? buf_u8(out, sent) : buf_u64(out, coin.key));
    for (size_t i = 0; i < d; i++) {
        if (whole(p) ? !sent : rng_unit(&coin) >= p[P])
            continue;
        wire_store_f32(out->data + out->len, x[i]);
        out->len += 4;
    }
    return OM_OK;
}

/* Do these floats, divided by p, stay finite? */
static bool finite(const uint8_t *in, size_t n, float scale)
{
    bool ok = true;
    for (size_t i = 0; i < n; i++)
        ok &= wire_finite(wire_bits(scale * wire_load_f32(in + 4 * i)));
    return ok;
}

static rng coins_of(const uint8_t *in)
{
    return (rng){.key = (uint64_t)wire_load(in) | (uint64_t)wire_load(in + 4) << 32};
}

/* Numbers that the head of the message announces. */
static size_t announced(const double *p, const uint8_t *in, size_t d)
{
    size_t count = 0;
    if (whole(p))
        return in[0] ? d : 0;
    rng coin = coins_of(in);
    for (size_t i = 0; i < d; i++)
        count += rng_unit(&coin) < p[P];
    return count;
}

static om_status decode(const double *p, const uint8_t *in, size_t n, float weight,
                        float *y, size_t d, om_err *err)
{
    size_t head = whole(p) ? 1 : 8, count;
    float scale = (float)(1 / p[P]);
    if (n < head || (whole(p) && in[0] > 1) ||
        n != head + 4 * (count = announced(p, in, d)))
        return fail(err, OM_EFORMAT,
                    "bernoulli: a message of %zu bytes does not hold what it announces for "
                    "%zu numbers",
                    n, d);
    if (!finite(in + head, count, scale))
        return fail(err, OM_EFORMAT, "bernoulli: the message holds a NaN or an infinity");
    rng coin = whole(p) ? (rng){0} : coins_of(in);
    in += head;
    for (size_t i = 0; count && i < d; i++) {
        if (!whole(p) && rng_unit(&coin) >= p[P])
            continue;
        y[i] += weight * (scale * wire_load_f32(in));
        in += 4;
    }
    return OM_OK;
}

const codec codec_bernoulli = {
    .name = "bernoulli",
    .summary = "each number, or the whole vector, by a coin",
    .source = "Khaled, Richtarik 2019, arXiv 1901.07367",
    .flags = CODEC_UNBIASED,
    .params = params,
    .omega = omega,
    .bound = bound,
    .scratch_bytes = scratch_bytes,
    .encode = encode,
    .decode = decode,
};
