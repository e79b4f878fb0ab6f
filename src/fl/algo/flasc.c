/* flasc.c - FLASC: adapters trained whole, sent sparse both ways.
 *
 *     down:   P with all but its floor(density_down N) largest magnitudes zero
 *     client: trains all of y from what came (what was cut off may grow again);
 *             sends TopK(y - P_down), K = floor(density_up N)
 *     server: Adam along the mean of what came:  m, v as in fedadam
 *
 * With `tiers` T the clients are dealt to tiers by id; tier t has both densities times
 * 4^-(T-1-t), tier T - 1 the densities as given.  The K of a tier lie among those of the
 * next, so the down message is T parts, of which a client reads its first t + 1.
 *
 * The published method keeps no error; error_feedback=on does (e = what TopK cut off, added
 * to the next update).  A codec other than identity takes the place of TopK on the way up.
 * Densities 1 are fedadam, bit for bit.  The vector may be anything: adapters, a prompt, or
 * all weights.
 *
 * Down message: a part is a u32, its bytes, then a message of topk.
 *
 * Kuo, Raje, Rajesh, Smith 2024, arXiv 2406.05233. */
#include "codec/wire.h"
#include "fl/fedopt.h"
#include "fl/side.h"

#include <math.h>

enum { DENSITY_DOWN = FEDOPT_V0 + 1, DENSITY_UP, TIERS };
enum { USE_UP = 0x37000000, MOST_TIERS = 8 };

static const param params[] = {
    FEDOPT_PARAMS(0.9, 0.99),
    [DENSITY_DOWN] = {"density_down", 0.25, 1e-6, 1, "part of the numbers sent down", NULL},
    [DENSITY_UP] = {"density_up", 0.25, 1e-6, 1, "part of the update sent up", NULL},
    [TIERS] = {"tiers", 1, 1, MOST_TIERS, "of clients, each of a quarter the density", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static uint32_t tiers(const fl_env *e) { return (uint32_t)e->p[TIERS]; }

static double part_of(const fl_env *e, uint32_t tier, double density)
{
    return density * pow(0.25, tiers(e) - 1 - tier);
}

/* How many numbers that is: at least one. */
static size_t count_of(const fl_env *e, uint32_t tier, double density)
{
    double k = floor(part_of(e, tier, density) * (double)e->dim * (1 + 1e-12));
    return k < 1 ? 1 : k > (double)e->dim ? e->dim : (size_t)k;
}

/* TopK of k numbers, or all of them without places. */
static side_codec top(const fl_env *e, size_t k)
{
    side_codec c = side_of(k < e->dim ? SIDE_TOPK : SIDE_IDENTITY, 1);
    if (k < e->dim)
        c.p[1] = (double)k;
    return c;
}

/* Numbers of part t of the down message: what its tier has over the one before. */
static size_t part_count(const fl_env *e, uint32_t t)
{
    size_t k = count_of(e, t, e->p[DENSITY_DOWN]);
    return t ? k - count_of(e, t - 1, e->p[DENSITY_DOWN]) : k;
}

/* ---- up: this file's TopK, or the recipe's codec ---- */

static bool own_codec(const fl_env *e) { return strcmp(e->up->name, "identity") == 0; }

static side_codec up_codec(const fl_env *e, uint32_t id)
{
    if (own_codec(e))
        return top(e, count_of(e, id % tiers(e), e->p[DENSITY_UP]));
    side_codec c = {.c = e->up};
    memcpy(c.p, e->up_p, param_count(e->up->params) * sizeof(double));
    return c;
}

static bool feeds_back(const fl_env *e)
{
    return (int)e->p[LOCAL_FEEDBACK] == 2 && e->p[DENSITY_UP] < 1;
}

static om_status check(const fl_recipe *r, om_err *err)
{
    bool own = strcmp(r->up->name, "identity") == 0;
    if ((r->up->flags & CODEC_JOINT) && !own)
        return fail(err, OM_EARG, "flasc sends each client's largest numbers, and %s deals "
                                  "places to clients; nearest: topk", r->up->name);
    return local_check(r, err);
}

static size_t client_bytes(const fl_env *e)
{
    return feeds_back(e) ? e->dim * sizeof(float) : 0;
}

static size_t topk_scratch(const fl_env *e)
{
    size_t most = e->up->scratch_bytes(e->up_p, e->dim);
    side_codec c = top(e, e->dim / 2 ? e->dim / 2 : 1);
    return size_max(most, c.c->scratch_bytes(c.p, e->dim)) + 64;
}

static size_t scratch_bytes(const fl_env *e) { return local_scratch_bytes(e) + topk_scratch(e); }

static size_t up_bound(const fl_env *e)
{
    size_t most = 0;
    for (uint32_t t = 0; t < tiers(e); t++) {
        side_codec c = up_codec(e, t);
        most = size_max(most, c.c->bound(c.p, e->dim));
    }
    return most;
}

/* ---- down ---- */

static size_t down_bound(const fl_env *e)
{
    size_t sum = 0;
    for (uint32_t t = 0; t < tiers(e); t++) {
        side_codec c = top(e, part_count(e, t));
        sum += 4 + c.c->bound(c.p, e->dim);
    }
    return sum;
}

/* Puts the largest k of rest on the message and takes them out of it. */
static om_status put_part(const fl_env *e, size_t k, float *rest, float *sent, buf *down,
                          arena scratch, om_err *err)
{
    side_codec c = top(e, k);
    size_t at = down->len;
    if (k == 0)
        return buf_u32(down, 0) == OM_OK ? OM_OK : fail(err, OM_ENOMEM, "no room");
    om_status s = buf_u32(down, 0);
    if (s == OM_OK)
        s = c.c->encode(c.p, rest, e->dim, rng_for(e->seed, e->round, 0, USE_UP), scratch,
                        down);
    if (s != OM_OK)
        return fail(err, s, "flasc: the model could not be written");
    wire_store(down->data + at, (uint32_t)(down->len - at - 4));
    memset(sent, 0, e->dim * sizeof(float));
    TRY(c.c->decode(c.p, down->data + at + 4, down->len - at - 4, 1.0f, sent, e->dim, err));
    for (size_t i = 0; i < e->dim; i++)
        rest[i] = wire_bits(sent[i]) << 1 ? 0 : rest[i];
    return OM_OK;
}

static om_status server_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    size_t n = topk_scratch(e);
    float *rest = mem_array(2 * e->dim, sizeof(float));
    void *scratch = mem_alloc(n);
    om_status s = rest && scratch ? OM_OK : fail(err, OM_ENOMEM, "flasc: no memory");
    average_fresh(e, server);
    if (s == OM_OK)
        memcpy(rest, average_model(e, server), e->dim * sizeof(float));
    for (uint32_t t = 0; s == OM_OK && t < tiers(e); t++)
        s = put_part(e, part_count(e, t), rest, rest + e->dim, down, arena_of(scratch, n),
                     err);
    mem_free(rest);
    mem_free(scratch);
    return s;
}

/* Bytes of the first t + 1 parts; 0: they are not there. */
static size_t first_parts(const uint8_t *down, size_t n, uint32_t t)
{
    size_t at = 0;
    for (uint32_t i = 0; i <= t; i++) {
        if (n - at < 4 || wire_load(down + at) > n - at - 4)
            return 0;
        at += 4 + wire_load(down + at);
    }
    return at;
}

static size_t down_part(const fl_env *e, uint32_t id, const uint8_t *down, size_t n)
{
    return first_parts(down, n, id % tiers(e));
}

static om_status read_down(const fl_env *e, uint32_t id, const uint8_t *down, size_t n,
                           float *x, om_err *err)
{
    uint32_t mine = id % tiers(e);
    size_t end = first_parts(down, n, mine), at = 0;
    if (end == 0 || (end != n && mine == tiers(e) - 1))
        return fail(err, OM_EFORMAT, "the model message of %zu bytes is cut or too long", n);
    memset(x, 0, e->dim * sizeof(float));
    for (uint32_t t = 0; t <= mine; t++) {
        size_t len = wire_load(down + at), k = part_count(e, t);
        side_codec c = top(e, k);
        if (k)
            TRY(c.c->decode(c.p, down + at + 4, len, 1.0f, x, e->dim, err));
        at += 4 + len;
    }
    return OM_OK;
}

/* ---- a round ---- */

static om_status client_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                             const uint8_t *down, size_t down_n, buf *up, double *loss,
                             arena scratch, om_err *err)
{
    float *x = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    float *y = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    float *g = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    side_codec c = up_codec(e, id);
    double mean = 0;
    uint64_t steps;
    if (f->dim != e->dim || f->n_samples == 0)
        return fail(err, OM_EARG, "client %u has no samples of a problem of %zu numbers",
                    (unsigned)id, e->dim);
    TRY(read_down(e, id, down, down_n, x, err));
    memcpy(y, x, e->dim * sizeof(float));
    TRY(local_train(e, id, f, 0, NULL, x, y, g, &mean, &steps, scratch, err));
    for (size_t i = 0; i < e->dim; i++)
        y[i] -= x[i];
    if (wire_first_bad(y, e->dim) < e->dim)
        return fail(err, OM_ELIMIT, "client %u: local training left the finite numbers; "
                                    "lower lr or set clip", (unsigned)id);
    rng r = own_codec(e) ? rng_for(e->seed, e->round, id, USE_UP) : fl_codec_rng(e, id);
    if (loss)
        *loss = mean;
    if (feeds_back(e))
        return codec_feedback(c.c, c.p, y, client, e->dim, r, scratch, up, err);
    om_status s = c.c->encode(c.p, y, e->dim, r, scratch, up);
    return s == OM_OK ? s : fail(err, s, "client %u: the update could not be encoded",
                                 (unsigned)id);
}

static om_status server_check(const fl_env *e, uint32_t id, uint64_t samples,
                              const uint8_t *up, size_t up_n, float *zeros, om_err *err)
{
    TRY(average_check_head(e, id, samples, err));
    side_codec c = up_codec(e, id);
    return c.c->decode(c.p, up, up_n, 0.0f, zeros, e->dim, err);
}

static om_status server_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                             const uint8_t *up, size_t up_n, arena scratch, om_err *err)
{
    (void)scratch;
    TRY(average_admit(e, server, id, samples, err));
    side_codec c = up_codec(e, id);
    float weight = e->p[LOCAL_WEIGHTS] < 0.5 ? (float)samples : 1.0f;
    TRY(c.c->decode(c.p, up, up_n, weight, average_vector(e, server, 1), e->dim, err));
    average_count(server, id, (double)weight);
    return OM_OK;
}

static float rule(float v, float d2, float b2) { return b2 * v + (1 - b2) * d2; }

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    (void)scratch;
    return fedopt_close(e, server, rule, err);
}

const fl_algo fl_flasc = {
    .name = "flasc",
    .summary = "trained whole, sent sparse both ways, Adam at the server",
    .source = "Kuo et al. 2024, arXiv 2406.05233",
    .flags = FL_CLIENT_STATE,
    .params = params,
    .check = check,
    .server_bytes = fedopt_server_bytes,
    .client_bytes = client_bytes,
    .scratch_bytes = scratch_bytes,
    .up_bound = up_bound,
    .down_bound = down_bound,
    .down_part = down_part,
    .server_open = fedopt_open,
    .server_begin = server_begin,
    .client_step = client_step,
    .server_recv = server_recv,
    .server_check = server_check,
    .server_close = server_close,
    .model = average_model,
};
