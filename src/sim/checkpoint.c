/* checkpoint.c - a simulation on disk.
 *
 *     "OMSIM\0\0\2"  fingerprint (32)  round u64  total down u64  total up u64  clock f64
 *     server bytes   client bytes      (asynchronous: who is at what, async.c)
 *     SHA-256 of all before (32)
 *
 * The states are the algorithm's flat bytes as they lie in memory: a checkpoint is for
 * machines of the same byte order. */
#include "sim/state.h"

static const uint8_t magic[8] = {'O', 'M', 'S', 'I', 'M', 0, 0, 2};
enum { HEAD_BYTES = 8 + 32 + 4 * 8, SUM_BYTES = 32 };

/* What must be equal for a saved state to mean the same. */
static void fingerprint(const sim *s, uint8_t out[32])
{
    const sim_config *c = &s->conf;
    const fl_recipe *r = &c->recipe;
    uint64_t n[] = {c->dim, c->n_clients, c->cohort, c->asked, c->min, c->seed};
    sha256_ctx h;
    sha256_init(&h);
    sha256_update(&h, r->algo->name, strlen(r->algo->name) + 1);
    sha256_update(&h, r->p, param_count(r->algo->params) * sizeof(double));
    sha256_update(&h, r->up->name, strlen(r->up->name) + 1);
    sha256_update(&h, r->up_p, param_count(r->up->params) * sizeof(double));
    if (!aggregate_is_mean(&r->robust)) {
        const aggregator *a = r->robust.row;
        sha256_update(&h, a->name, strlen(a->name) + 1);
        sha256_update(&h, r->robust.p, param_count(a->params) * sizeof(double));
    }
    if (r->privacy.on)
        sha256_update(&h, r->privacy.p, PRIVACY_PARAMS * sizeof(double));
    if (c->attack.row) {
        sha256_update(&h, c->attack.row->name, strlen(c->attack.row->name) + 1);
        sha256_update(&h, c->attack.p, param_count(c->attack.row->params) * sizeof(double));
    }
    if (c->shape && (r->algo->flags & (FL_PAIRS | FL_MATRICES)))
        sha256_update(&h, c->shape->ranks, c->shape->n_ranks * sizeof(uint32_t));
    sha256_update(&h, n, sizeof(n));
    sha256_update(&h, &c->dropout, sizeof(c->dropout));
    sha256_update(&h, &c->deadline, sizeof(c->deadline));
    const sim_pace *p = &c->pace;
    double speeds[] = {p->compute,        p->speed,   p->spread,   p->jitter,
                       p->jitter_size,    p->period,  p->swing,    p->uplink,
                       p->downlink,       p->latency, p->network_spread};
    sha256_update(&h, speeds, sizeof(speeds));
    sha256_final(&h, out);
}

static size_t server_bytes(const sim *s)
{
    return s->conf.recipe.algo->server_bytes(&s->env);
}

static om_status put(os_put *f, sha256_ctx *h, const void *p, size_t n, om_err *err)
{
    sha256_update(h, p, n);
    return os_put_write(f, p, n, err);
}

/* Piece by piece: states in a mapped file leave memory behind the hash. */
static om_status put_states(const sim *s, os_put *f, sha256_ctx *h, om_err *err)
{
    enum { PIECE = 16 << 20 };
    os_state states = s->clients;
    size_t all = s->client_bytes * s->conf.n_clients;
    for (size_t at = 0; at < all; at += PIECE) {
        size_t n = size_min(PIECE, all - at);
        TRY(put(f, h, states.p + at, n, err));
        if (states.fd_ >= 0)
            os_state_release_part(&states, states.p + at, n);
    }
    return OM_OK;
}

typedef struct {
    os_put *f;
    sha256_ctx *h;
} sink;

static om_status put_to(void *ctx, const void *p, size_t n, om_err *err)
{
    sink *to = ctx;
    return put(to->f, to->h, p, n, err);
}

static om_status write_all(sim *s, os_put *f, om_err *err)
{
    uint64_t clock;
    uint8_t head[HEAD_BYTES], sum[SUM_BYTES];
    buf b = buf_fixed(head, sizeof(head));
    sha256_ctx h;
    memcpy(&clock, &s->clock, sizeof(clock));
    sha256_init(&h);
    fingerprint(s, sum);
    TRY(buf_put(&b, magic, sizeof(magic)));
    TRY(buf_put(&b, sum, sizeof(sum)));
    TRY(buf_u64(&b, s->env.round));
    TRY(buf_u64(&b, s->total_down_bytes));
    TRY(buf_u64(&b, s->total_up_bytes));
    TRY(buf_u64(&b, clock));
    TRY(put(f, &h, head, sizeof(head), err));
    TRY(put(f, &h, s->server, server_bytes(s), err));
    TRY(put_states(s, f, &h, err));
    if (s->async)
        TRY(async_put(s, put_to, &(sink){f, &h}, err));
    sha256_final(&h, sum);
    return os_put_write(f, sum, sizeof(sum), err);
}

om_status sim_save(sim *s, const char *path, om_err *err)
{
    os_put f;
    if (s->async)
        TRY(async_settle(s, err));
    TRY(os_put_open(path, &f, err));
    om_status st = write_all(s, &f, err);
    if (st != OM_OK) {
        os_put_abort(&f);
        return st;
    }
    return os_put_commit(&f, err);
}

static om_status restore(sim *s, const os_map *m, const char *path, om_err *err)
{
    size_t server = server_bytes(s), clients = s->client_bytes * s->conf.n_clients;
    uint8_t sum[SUM_BYTES];
    cursor c = cursor_of(m->p, m->n);
    const uint8_t *tag = cursor_take(&c, sizeof(magic)), *mark = cursor_take(&c, 32);
    fingerprint(s, sum);
    if (!mark || memcmp(tag, magic, sizeof(magic)) != 0)
        return fail(err, OM_EFORMAT, "'%s' is not a checkpoint of a simulation", path);
    if (memcmp(mark, sum, sizeof(sum)) != 0)
        return fail(err, OM_EARG,
                    "'%s' was saved with another configuration; resume with the "
                    "one it was started with",
                    path);
    uint64_t round = cursor_u64(&c), down = cursor_u64(&c), up = cursor_u64(&c);
    uint64_t clock = cursor_u64(&c);
    const uint8_t *sp = cursor_take(&c, server), *cp = cursor_take(&c, clients);
    cursor rest = c;
    bool fits = !s->async || async_get(s, &c, false);
    const uint8_t *end = cursor_take(&c, SUM_BYTES);
    if (!end || !fits || c.pos != m->n || round > UINT32_MAX)
        return fail(err, OM_EFORMAT, "'%s' is cut or too long: %zu bytes", path, m->n);
    sha256(m->p, m->n - SUM_BYTES, sum);
    if (memcmp(end, sum, sizeof(sum)) != 0)
        return fail(err, OM_EFORMAT, "'%s' is damaged: its checksum does not fit", path);
    memcpy(s->server, sp, server);
    if (clients)
        memcpy(s->clients.p, cp, clients);
    if (s->clients.fd_ >= 0)
        os_state_release(&s->clients);
    if (s->async)
        async_get(s, &rest, true);
    memcpy(&s->clock, &clock, sizeof(clock));
    s->env.round = (uint32_t)round;
    s->total_down_bytes = down;
    s->total_up_bytes = up;
    return OM_OK;
}

om_status sim_load(sim *s, const char *path, om_err *err)
{
    os_map m;
    TRY(os_map_open(path, &m, err));
    om_status st = restore(s, &m, path, err);
    os_map_close(&m);
    return st;
}
