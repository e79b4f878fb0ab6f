/* permk.c - Perm-K: the clients share one random permutation, and each sends its own part.
 *
 *     d >= n:  C_i(x)_j = n x_j for j in client i's of n near-equal blocks of the permuted
 *              coordinates, else 0                                       omega = n - 1
 *     d <  n:  each client sends one coordinate, dealt round; a coordinate that m clients
 *              send is scaled by n / m          omega = n E[1/m] - 1  (d - 1 when d | n)
 *
 * Which block is whose is permuted too, so that each coordinate is client i's with
 * probability exactly 1/n even if d is not a multiple of n.  Each message alone is no
 * better than Rand-K; but together they tile: if all clients hold the same x, the mean of
 * the messages is x, exactly.  That is where MARINA gains from it.
 *
 * The rng's key is the round's, equal for all; its counter is the client's id
 * (CODEC_JOINT). Message: the key, the client as u32, then the numbers of its block,
 * unscaled: 12 + about 4 d/n bytes. */
#include "codec/codec.h"
#include "codec/wire.h"

enum { CLIENTS };
enum { HEAD = 12 };

static const param params[] = {
    [CLIENTS] = {"clients", 0, 0, 4294967295.0, "n; 0: as many as the federation has",
                 NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static uint64_t n_of(const double *p) { return p[CLIENTS] >= 1 ? (uint64_t)p[CLIENTS] : 1; }

static double omega(const double *p, size_t d)
{
    uint64_t n = n_of(p);
    if (d == 0 || d >= n)
        return (double)n - 1;
    double q = (double)(n / d), more = (double)(n % d); /* `more` coordinates have q + 1 */
    return (double)n * (((double)d - more) / q + more / (q + 1)) / (double)d - 1;
}

static size_t bound(const double *p, size_t d)
{
    return HEAD + 4 * ((d + n_of(p) - 1) / n_of(p));
}

static size_t scratch_bytes(const double *p, size_t d)
{
    (void)p, (void)d;
    return 0;
}

/* Places [from, from + count) of the permuted coordinates belong to the client; what is
 * sent is scaled by `scale`. */
typedef struct {
    uint64_t key, from, count;
    float scale;
} part;

static part part_of(uint64_t key, uint64_t n, size_t d, uint64_t client)
{
    uint64_t seat = rng_pick(~key, n, client);
    part a = {.key = key, .scale = (float)n};
    if (d >= n) { /* the first d % n blocks have one more */
        uint64_t q = d / n, more = d % n;
        a.from = seat * q + (seat < more ? seat : more);
        a.count = q + (seat < more);
        return a;
    }
    if (d == 0)
        return a;
    a.from = seat % d;
    a.count = 1;
    a.scale = (float)((double)n / (double)(n / d + (a.from < n % d)));
    return a;
}

static om_status encode(const double *p, const float *x, size_t d, rng r, arena scratch,
                        buf *out)
{
    (void)scratch;
    uint64_t n = n_of(p), client = r.ctr;
    if (wire_first_bad(x, d) < d || client >= n)
        return OM_EARG;
    part a = part_of(rng_at(&r, 0), n, d, client);
    TRY(buf_reserve(out, bound(p, d)));
    TRY(buf_u64(out, a.key));
    TRY(buf_u32(out, (uint32_t)client));
    for (uint64_t j = 0; j < a.count; j++, out->len += 4)
        wire_store_f32(out->data + out->len, x[rng_pick(a.key, d, a.from + j)]);
    return OM_OK;
}

static om_status decode(const double *p, const uint8_t *in, size_t n, float weight,
                        float *y, size_t d, om_err *err)
{
    uint64_t key, client;
    if (n < HEAD || n > bound(p, d))
        return fail(err, OM_EFORMAT,
                    "permk: the message has %zu bytes, expected %d to %zu for %zu numbers",
                    n, HEAD, bound(p, d), d);
    key = (uint64_t)wire_load(in) | (uint64_t)wire_load(in + 4) << 32;
    client = wire_load(in + 8);
    if (client >= n_of(p))
        return fail(err, OM_EFORMAT, "permk: client %llu of %llu",
                    (unsigned long long)client, (unsigned long long)n_of(p));
    part a = part_of(key, n_of(p), d, client);
    bool ok = n == HEAD + 4 * a.count;
    for (uint64_t j = 0; ok && j < a.count; j++)
        ok = wire_finite(wire_bits(a.scale * wire_load_f32(in + HEAD + 4 * j)));
    if (!ok)
        return fail(err, OM_EFORMAT,
                    "permk: not %llu finite numbers after the head, in %zu bytes",
                    (unsigned long long)a.count, n);
    for (uint64_t j = 0; j < a.count; j++)
        y[rng_pick(key, d, a.from + j)] +=
            weight * (a.scale * wire_load_f32(in + HEAD + 4 * j));
    return OM_OK;
}

const codec codec_permk = {
    .name = "permk",
    .summary = "clients share the coordinates out by one random permutation",
    .source = "Szlendak, Tyurin, Richtarik, ICLR 2022, arXiv 2110.03300",
    .flags = CODEC_UNBIASED | CODEC_JOINT,
    .params = params,
    .omega = omega,
    .bound = bound,
    .scratch_bytes = scratch_bytes,
    .encode = encode,
    .decode = decode,
};
