/* topk.c - Top-K: keep the K numbers of largest magnitude, exactly.
 *
 *     C(x)_i = x_i if |x_i| is among the K largest, else 0       alpha = K/d
 *
 * Ties go to the lower index, so the choice is a function of x alone.  Contractive,
 * not unbiased: an algorithm that uses it needs error feedback.
 *
 * Message: K floats in index order, then their places in the codes of sparse.h: about
 * log2(d/K) + 2 bits each.
 * (Stich, Cordonnier, Jaggi 2018, "Sparsified SGD with memory".) */
#include "codec/codec.h"
#include "codec/sparse.h"

enum { RATIO, COUNT };

static const param params[] = {SPARSE_PARAMS, {NULL, 0, 0, 0, NULL, NULL}};

static size_t k_of(const double *p, size_t d) { return sparse_k(p[RATIO], p[COUNT], d); }

static double alpha(const double *p, size_t d)
{
    return d ? (double)k_of(p, d) / (double)d : 1;
}

static size_t bound(const double *p, size_t d)
{
    size_t k = k_of(p, d);
    return 4 * k + sparse_gap_bytes(k, d);
}

static size_t scratch_bytes(const double *p, size_t d)
{
    (void)p, (void)d;
    return SELECT_BYTES;
}

static om_status encode(const double *p, const float *x, size_t d, rng r, arena scratch,
                        buf *out)
{
    (void)r;
    uint32_t t;
    size_t k = k_of(p, d), ties, from = 0;
    unsigned b = sparse_rice(k, d);
    if (k == 0)
        return OM_OK;
    if (!select_threshold(x, d, k, scratch, &t, &ties))
        return OM_EARG;
    TRY(buf_reserve(out, bound(p, d)));
    uint8_t *value = out->data + out->len;
    bits_out gaps = {.p = value + 4 * k};
    for (size_t i = 0; i < d; i++) {
        uint32_t m = select_magnitude(x[i]);
        if (m < t || (m == t && ties == 0))
            continue;
        ties -= m == t;
        wire_store_f32(value, x[i]);
        value += 4;
        sparse_put_gap(&gaps, i - from, b);
        from = i + 1;
    }
    bits_end(&gaps);
    out->len = (size_t)(gaps.p - out->data);
    return OM_OK;
}

/* Walk the k indices; add to y if given.  False: a code runs past d or past the end. */
static bool walk(const uint8_t *in, size_t n, size_t k, size_t d, float weight, float *y)
{
    sparse_in at = sparse_of(in + 4 * k, n - 4 * k, k, d);
    for (size_t j = 0, i; j < k; j++) {
        if (!sparse_next(&at, &i))
            return false;
        if (y)
            y[i] += weight * wire_load_f32(in + 4 * j);
    }
    return bits_done(&at.bits);
}

static om_status decode(const double *p, const uint8_t *in, size_t n, float weight,
                        float *y, size_t d, om_err *err)
{
    size_t k = k_of(p, d);
    if (n < 4 * k || n > bound(p, d))
        return fail(err, OM_EFORMAT,
                    "topk: the message has %zu bytes, expected %zu to %zu "
                    "for %zu of %zu numbers",
                    n, 4 * k, bound(p, d), k, d);
    if (!wire_all_finite(in, k))
        return fail(err, OM_EFORMAT, "topk: the message holds a NaN or an infinity");
    if (!walk(in, n, k, d, 0, NULL))
        return fail(err, OM_EFORMAT,
                    "topk: the indices are not %zu ascending numbers below "
                    "%zu that end with the message",
                    k, d);
    walk(in, n, k, d, weight, y);
    return OM_OK;
}

const codec codec_topk = {
    .name = "topk",
    .summary = "the K numbers of largest magnitude",
    .source = "Stich, Cordonnier, Jaggi, NeurIPS 2018, arXiv 1809.07599",
    .flags = CODEC_CONTRACTIVE,
    .params = params,
    .alpha = alpha,
    .bound = bound,
    .scratch_bytes = scratch_bytes,
    .encode = encode,
    .decode = decode,
};
