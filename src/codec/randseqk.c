/* randseqk.c - Rand-Seq-K: K numbers in a row from a random place, round the end.
 *
 *     C(x)_i = (d/K) x_i for i in {s, s+1, ..., s+K-1 mod d}, s uniform, else 0
 *
 * Every number is in the window with probability K/d, so it is unbiased with Rand-K's
 * omega = d/K - 1; but memory is read in order and one number names the set.
 *
 * Message: s as u64, then K floats, unscaled.  8 + 4 K bytes exactly. */
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

static om_status encode(const double *p, const float *x, size_t d, rng r, arena scratch,
                        buf *out)
{
    (void)scratch;
    uint64_t start = d ? rng_pick(rng_u64(&r), d, 0) : 0;
    if (wire_first_bad(x, d) < d)
        return OM_EARG;
    TRY(buf_reserve(out, bound(p, d)));
    TRY(buf_u64(out, start));
    for (size_t j = 0; j < k_of(p, d); j++, out->len += 4)
        wire_store_f32(out->data + out->len, x[(start + j) % d]);
    return OM_OK;
}

static om_status decode(const double *p, const uint8_t *in, size_t n, float weight,
                        float *y, size_t d, om_err *err)
{
    size_t k = k_of(p, d);
    if (n != bound(p, d))
        return fail(err, OM_EFORMAT,
                    "randseqk: the message has %zu bytes, expected %zu for %zu of %zu "
                    "numbers",
                    n, bound(p, d), k, d);
    float scale = k ? (float)((double)d / (double)k) : 0;
    uint64_t start = (uint64_t)wire_load(in) | (uint64_t)wire_load(in + 4) << 32;
    bool ok = start < d || (d == 0 && start == 0);
    for (size_t j = 0; j < k; j++)
        ok &= wire_finite(wire_bits(scale * wire_load_f32(in + 8 + 4 * j)));
    if (!ok)
        return fail(err, OM_EFORMAT,
                    "randseqk: the start is past %zu numbers, or one is not finite", d);
    for (size_t j = 0; j < k; j++)
        y[(start + j) % d] += weight * (scale * wire_load_f32(in + 8 + 4 * j));
    return OM_OK;
}

const codec codec_randseqk = {
    .name = "randseqk",
    .summary = "K numbers in a row from a random place, scaled by d/K",
    .source = "Burlachenko, Richtarik 2024, arXiv 2410.08760",
    .flags = CODEC_UNBIASED,
    .params = params,
    .omega = omega,
    .bound = bound,
    .scratch_bytes = scratch_bytes,
    .encode = encode,
    .decode = decode,
};
