/* randk.c - Rand-K: a random set of K numbers, scaled to be unbiased.
 *
 *     C(x)_i = (d/K) x_i for i in a uniform K-subset, else 0       omega = d/K - 1
 *
 * The set is drawn by selection sampling (Knuth, TAOCP 2, 3.4.2, algorithm S) from a
 * counter-based key, so only the key travels and neither side needs memory: coordinate
 * i is taken with probability (still wanted) / (still to come).
 *
 * Message: the 64-bit key, then K floats x_i in index order, unscaled (the decoder
 * multiplies).  8 + 4 K bytes exactly. */
#include "codec/codec.h"
#include "codec/sparse.h"

enum { RATIO, COUNT };

static const param params[] = {SPARSE_PARAMS, {NULL, 0, 0, 0, NULL, NULL}};

static size_t k_of(const double *p, size_t d) { return sparse_k(p[RATIO], p[COUNT], d); }

static double omega(const double *p, size_t d)
{
    return d ? (double)d / (double)k_of(p, d) - 1 : 0;
}

static size_t bound(const double *p, size_t d) { return 8 + 4 * k_of(p, d); }

static size_t scratch_bytes(const double *p, size_t d)
{
    (void)p, (void)d;
    return 0;
}

/* Is coordinate i taken, with `want` of the `left` coordinates from i on to be taken? */
static bool taken(rng *r, size_t want, size_t left)
{
    return want == left || (want && rng_unit(r) * (double)left < (double)want);
}

static om_status encode(const double *p, const float *x, size_t d, rng r, arena scratch,
                        buf *out)
{
    (void)scratch;
    size_t want = k_of(p, d);
    rng coin = {.key = rng_u64(&r)};
    if (wire_first_bad(x, d) < d)
        return OM_EARG;
    TRY(buf_reserve(out, bound(p, d)));
    TRY(buf_u64(out, coin.key));
    for (size_t i = 0; want; i++) {
        if (!taken(&coin, want, d - i))
            continue;
        wire_store_f32(out->data + out->len, x[i]);
        out->len += 4;
        want--;
    }
    return OM_OK;
}

static om_status decode(const double *p, const uint8_t *in, size_t n, float weight,
                        float *y, size_t d, om_err *err)
{
    size_t k = k_of(p, d);
    if (n != bound(p, d))
        return fail(err, OM_EFORMAT,
                    "randk: the message has %zu bytes, expected %zu for "
                    "%zu of %zu numbers",
                    n, bound(p, d), k, d);
    float scale = k ? (float)((double)d / (double)k) : 0;
    bool finite = true;
    for (size_t j = 0; j < k; j++)
        finite &= wire_finite(wire_bits(scale * wire_load_f32(in + 8 + 4 * j)));
    if (!finite)
        return fail(err, OM_EFORMAT, "randk: the message holds a NaN or an infinity");
    rng coin = {.key = (uint64_t)wire_load(in) | (uint64_t)wire_load(in + 4) << 32};
    const uint8_t *value = in + 8;
    for (size_t i = 0; k; i++) {
        if (!taken(&coin, k, d - i))
            continue;
        y[i] += weight * (scale * wire_load_f32(value));
        value += 4;
        k--;
    }
    return OM_OK;
}

const codec codec_randk = {
    .name = "randk",
    .summary = "K random numbers, scaled by d/K",
    .source = "Wangni, Wang, Liu, Zhang, NeurIPS 2018, arXiv 1710.09854",
    .flags = CODEC_UNBIASED,
    .params = params,
    .omega = omega,
    .bound = bound,
    .scratch_bytes = scratch_bytes,
    .encode = encode,
    .decode = decode,
};
