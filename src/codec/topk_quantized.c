/* topk_quantized.c - Top-K, then random rounding of what is left: the composition.
 *
 *     C(x) = Q(TopK(x)) / (1 + w),   w the variance of the rounding Q
 *     alpha = (K/d) / (1 + w)
 *
 * Q is unbiased, so dividing by 1 + w makes Q / (1 + w) contractive with alpha 1 / (1 + w),
 * and applied after Top-K the two alphas multiply.  Q is natural compression (w = 1/8, 9
 * bits) or QSGD with s = 2^(bits-1) - 1 levels of the largest kept magnitude (w <=
 * min(K / (4 s^2), sqrt(K) / s)).  At 1 % of a million a number costs 9 + 8.2 bits instead
 * of 32 + 8.2.
 *
 * Message: QSGD's norm as f32; the codes of the K numbers in index order, packed; then
 * their places (sparse.h). */
#include "codec/codec.h"
#include "codec/sparse.h"

#include <math.h>

enum { RATIO, COUNT, VALUES };
enum { NATURAL, EIGHT, FOUR };

static const param params[] = {
    SPARSE_PARAMS,
    [VALUES] = {"values", 0, 0, 2, "how the kept numbers are rounded",
                "natural|8bit|4bit"},
    {NULL, 0, 0, 0, NULL, NULL},
};

static size_t k_of(const double *p, size_t d) { return sparse_k(p[RATIO], p[COUNT], d); }

static unsigned width(const double *p)
{
    static const unsigned bits[] = {[NATURAL] = 9, [EIGHT] = 8, [FOUR] = 4};
    return bits[(int)p[VALUES]];
}

static unsigned levels(const double *p) { return (1u << (width(p) - 1)) - 1; }
static size_t head(const double *p) { return (int)p[VALUES] == NATURAL ? 0 : 4; }

static double w_of(const double *p, size_t d)
{
    double k = (double)k_of(p, d), s = levels(p);
    return (int)p[VALUES] == NATURAL ? 0.125 : fmin(k / (4 * s * s), sqrt(k) / s);
}

static double alpha(const double *p, size_t d)
{
    return d ? (double)k_of(p, d) / (double)d / (1 + w_of(p, d)) : 1;
}

static size_t value_bytes(const double *p, size_t d)
{
    return (k_of(p, d) * width(p) + 7) / 8;
}

static size_t bound(const double *p, size_t d)
{
    size_t k = k_of(p, d);
    return k ? head(p) + value_bytes(p, d) + sparse_gap_bytes(k, d) : 0;
}

static size_t scratch_bytes(const double *p, size_t d)
{
    (void)p, (void)d;
    return SELECT_BYTES;
}

static uint32_t code_of(const double *p, float x, float norm, rng *r)
{
    uint32_t u = wire_bits(x), e = u >> 23 & 0xff, m = u & 0x7fffffu;
    if ((int)p[VALUES] == NATURAL)
        return u >> 31 << 8 | (e + ((rng_u64(r) >> 41) < m && e < 254));
    unsigned s = levels(p);
    double t = norm > 0 ? s * fabs((double)x) / (double)norm : 0;
    unsigned l = (unsigned)(t + rng_unit(r));
    l = l > s ? s : l;
    return x < 0 ? s - l : s + l;
}

static float value_of(const double *p, uint32_t code, float norm)
{
    uint32_t u = (code >> 8) << 31 | (code & 0xff) << 23;
    float v;
    memcpy(&v, &u, 4);
    if ((int)p[VALUES] == NATURAL)
        return v;
    return norm * ((float)((int)code - (int)levels(p)) / (float)levels(p));
}

/* A code that no number has. */
static bool bad_code(const double *p, uint32_t code, float norm)
{
    if ((int)p[VALUES] == NATURAL)
        return (code & 0xff) > 254;
    return code > 2 * levels(p) || (norm == 0 && code != levels(p));
}

static om_status encode(const double *p, const float *x, size_t d, rng r, arena scratch,
                        buf *out)
{
    uint32_t t, most = 0;
    size_t k = k_of(p, d), ties, from = 0;
    float norm;
    if (k == 0)
        return OM_OK;
    if (!select_threshold(x, d, k, scratch, &t, &ties))
        return OM_EARG;
    TRY(buf_reserve(out, bound(p, d)));
    for (size_t i = 0; i < d; i++)
        most = select_magnitude(x[i]) > most ? select_magnitude(x[i]) : most;
    memcpy(&norm, &most, 4);
    uint8_t *to = out->data + out->len;
    if (head(p))
        wire_store_f32(to, norm);
    bits_out codes = {.p = to + head(p)}, gaps = {.p = to + head(p) + value_bytes(p, d)};
    for (size_t i = 0; i < d; i++) {
        uint32_t m = select_magnitude(x[i]);
        if (m < t || (m == t && ties == 0))
            continue;
        ties -= m == t;
        bits_put(&codes, code_of(p, x[i], norm, &r), width(p));
        sparse_put_gap(&gaps, i - from, sparse_rice(k, d));
        from = i + 1;
    }
    bits_end(&codes), bits_end(&gaps);
    out->len = (size_t)(gaps.p - out->data);
    return OM_OK;
}

/* Walk the numbers; add to y if given.  False: something that encode does not write. */
static bool walk(const double *p, const uint8_t *in, size_t n, size_t d, float weight,
                 float *y)
{
    size_t k = k_of(p, d), gaps = head(p) + value_bytes(p, d);
    float norm = head(p) ? wire_load_f32(in) : 0, scale = (float)(1 / (1 + w_of(p, d)));
    bits_in codes = bits_of(in + head(p), value_bytes(p, d));
    sparse_in at = sparse_of(in + gaps, n - gaps, k, d);
    for (size_t j = 0, i; j < k; j++) {
        uint32_t code = bits_get(&codes, width(p));
        if (!sparse_next(&at, &i) || bad_code(p, code, norm))
            return false;
        if (y)
            y[i] += weight * (scale * value_of(p, code, norm));
    }
    return bits_done(&codes) && bits_done(&at.bits);
}

static om_status decode(const double *p, const uint8_t *in, size_t n, float weight,
                        float *y, size_t d, om_err *err)
{
    size_t least = k_of(p, d) ? head(p) + value_bytes(p, d) : 0;
    if (n < least || n > bound(p, d))
        return fail(err, OM_EFORMAT,
                    "topk-quantized: the message has %zu bytes, expected %zu to %zu for "
                    "%zu of %zu numbers",
                    n, least, bound(p, d), k_of(p, d), d);
    if (k_of(p, d) == 0)
        return OM_OK;
    uint32_t norm = head(p) ? wire_load(in) : 0;
    if (!wire_finite(norm) || norm >> 31 || !walk(p, in, n, d, 0, NULL))
        return fail(err, OM_EFORMAT,
                    "topk-quantized: not a finite norm, %zu codes and as many ascending "
                    "places below %zu",
                    k_of(p, d), d);
    walk(p, in, n, d, weight, y);
    return OM_OK;
}

const codec codec_topk_quantized = {
    .name = "topk-quantized",
    .summary = "the K largest, rounded at random to few bits",
    .source = "Safaryan, Islamov, Qian, Richtarik, ICML 2022, arXiv 2106.02969",
    .flags = CODEC_CONTRACTIVE,
    .params = params,
    .alpha = alpha,
    .bound = bound,
    .scratch_bytes = scratch_bytes,
    .encode = encode,
    .decode = decode,
};
