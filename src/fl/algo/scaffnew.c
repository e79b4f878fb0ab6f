/* scaffnew.c - local training that is provably worth it: proxskip (Scaffnew), its
 * compressed form and tamuna.
 *
 * All parties throw a coin of probability p until it falls; so many steps does a client
 * make in a round:
 *
 *     client i:  x_i = x;  x_i -= lr (grad f_i(x_i) - h_i) for each throw;  sends part of
 * x_i server:    x[k] = mean of x_i[k] over the clients that sent coordinate k client i:
 * h_i[k] += (eta / lr) (x[k] - x_i[k]) for the k it sent
 *
 *     proxskip             everybody sends everything, eta = p:  O(sqrt(L/mu)) rounds
 *     compressed-scaffnew  each coordinate is sent by s of the n clients, drawn anew each
 *                          round:  eta = p n (s-1) / (s (n-1));  about s d / n floats up
 *     tamuna               the same within a random cohort of c clients; who is not chosen
 *                          rests, h_i and all
 *
 * The sum of the h_i is zero, coordinate by coordinate, and h_i tends to grad f_i(x*).
 * Row k of the mask has ones at columns (k s + j) mod n, j < s; a client's column is drawn
 * by a permutation of the round, so every client's share differs by at most one number.
 * theory: lr < 2 / L, p = 1 / sqrt(kappa), or min(1, sqrt(n / (s kappa))) when compressed.
 * s = n makes compressed-scaffnew proxskip, bit for bit.
 *
 * Up message: x_i[k] - x[k] for the client's k in order, as floats, nothing else: both
 * sides know the mask.  The last line of a round is done at the beginning of the next, when
 * the client learns x (tamuna: at its end, as it may be away for long). */
#include "codec/wire.h"
#include "fl/grad.h"

enum { P = GRAD_PARAMS, S, ETA };
enum { H, X_HAT };        /* client vectors */
enum { PENDING, COLUMN }; /* client_head.own */
enum { COIN = 7, USE_MASK = 0x36000000 };

#define P_ROW                                                                              \
    {                                                                                      \
        "p", 0.1, 1e-6, 1, "of communication; 1 / p local steps a round on average", NULL  \
    }
#define ETA_ROW                                                                            \
    {                                                                                      \
        "eta", 0, 0, 1, "speed of h; 0: the largest that theory allows", NULL              \
    }

static const param params[] = {FL_GRAD_PARAMS, [P] = P_ROW, {NULL, 0, 0, 0, NULL, NULL}};
static const param params_s[] = {
    FL_GRAD_PARAMS,
    [P] = P_ROW,
    [S] = {"s", 2, 2, 4294967295.0, "clients that send each number", NULL},
    [ETA] = ETA_ROW,
    {NULL, 0, 0, 0, NULL, NULL},
};

static om_status check(const fl_recipe *r, om_err *err)
{
    if (strcmp(r->up->name, "identity") == 0)
        return OM_OK;
    return fail(err, OM_EARG,
                "%s decides itself what is sent, so its codec is identity; with %s choose "
                "locodl",
                r->algo->name, r->up->name);
}

/* ---- who sends what ---- */

typedef struct {
    uint64_t n, s; /* columns; ones in a row */
    double eta;
} mask;

static mask mask_of(const fl_env *e, uint64_t s, double eta)
{
    mask m = {.n = e->cohort, .s = s < e->cohort ? s : e->cohort, .eta = eta};
    if (eta <= 0)
        m.eta = m.n < 2 ? e->p[P]
                        : e->p[P] * (double)(m.n * (m.s - 1)) / (double)(m.s * (m.n - 1));
    return m;
}

/* Does column c send coordinate k? */
static bool sends(const mask *m, uint64_t c, uint64_t k)
{
    return (c + m->n - k % m->n * m->s % m->n) % m->n < m->s;
}

static uint64_t column(const fl_env *e, const mask *m, uint64_t seat)
{
    return rng_pick(rng_for(e->seed, e->round, 0, USE_MASK).key, m->n, seat);
}

static size_t count_of(const fl_env *e, const mask *m, uint64_t c)
{
    size_t n = 0;
    for (size_t k = 0; k < e->dim; k++)
        n += sends(m, c, k);
    return n;
}

/* The place of client id among the chosen of the round; m->n: not among them. */
static uint64_t seat_of(const fl_env *e, const mask *m, uint32_t id, arena scratch)
{
    if (m->n == e->n_clients)
        return id;
    uint32_t *chosen = arena_new(&scratch, uint32_t, e->cohort), seat = 0;
    fl_cohort(e->seed, e->round, e->n_clients, e->cohort, chosen, scratch);
    while (seat < e->cohort && chosen[seat] != id)
        seat++;
    return seat;
}

/* ---- the client ---- */

/* h_i += (eta / lr) (x - x_i) where it was sent. */
static void settle(const fl_env *e, const mask *m, void *client, const float *x)
{
    client_head *c = client;
    float *h = client_vector(e, client, H), *hat = client_vector(e, client, X_HAT);
    float step = (float)(m->eta / e->p[GRAD_LR]);
    for (size_t k = 0; c->own[PENDING] && k < e->dim; k++)
        if (sends(m, c->own[COLUMN], k))
            h[k] += step * (x[k] - hat[k]);
    c->own[PENDING] = 0;
}

static om_status work(grad_step *s, const mask *m)
{
    const fl_env *e = s->e;
    float *h = grad_vector(s, H), *y = grad_vector(s, X_HAT), lr = (float)e->p[GRAD_LR];
    uint32_t steps = grad_throws(e, e->p[P], COIN);
    uint64_t c = column(e, m, seat_of(e, m, s->id, s->scratch));
    if (grad_head(s)->last == e->round) /* else the round it belonged to is long past */
        settle(e, m, s->client, s->x);
    memcpy(y, s->x, e->dim * sizeof(float));
    for (uint32_t t = 0; t < steps; t++) {
        TRY(grad_at(s, y, t, s->g));
        for (size_t i = 0; i < e->dim; i++)
            y[i] -= lr * (s->g[i] - h[i]);
    }
    if (wire_first_bad(y, e->dim) < e->dim)
        return fail(s->err, OM_ELIMIT,
                    "client %u: local training left the finite numbers; lower lr",
                    (unsigned)s->id);
    if (buf_reserve(s->up, 4 * count_of(e, m, c)) != OM_OK)
        return fail(s->err, OM_ENOMEM, "no room for an update");
    for (size_t k = 0; k < e->dim; k++)
        if (sends(m, c, k)) {
            wire_store_f32(s->up->data + s->up->len, y[k] - s->x[k]);
            s->up->len += 4;
        }
    grad_head(s)->own[PENDING] = 1;
    grad_head(s)->own[COLUMN] = c;
    return OM_OK;
}

static mask mask_all(const fl_env *e) { return mask_of(e, e->cohort, 0); }
static mask mask_some(const fl_env *e) { return mask_of(e, (uint64_t)e->p[S], e->p[ETA]); }

static om_status rule(grad_step *s)
{
    mask m = mask_all(s->e);
    return work(s, &m);
}

static om_status rule_some(grad_step *s)
{
    mask m = mask_some(s->e);
    return work(s, &m);
}

GRAD_CLIENT(step, rule)
GRAD_CLIENT(step_some, rule_some)

static void tamuna_end(const fl_env *e, uint32_t id, void *client, const float *model)
{
    mask m = mask_some(e);
    (void)id;
    settle(e, &m, client, model);
}

/* ---- the server ---- */

static size_t client_bytes(const fl_env *e) { return client_bytes_of(e, 2); }
static size_t server_bytes(const fl_env *e) { return average_bytes(e, 0); }
static size_t up_bound(const fl_env *e) { return 4 * e->dim; }

static size_t scratch_bytes(const fl_env *e)
{
    return grad_scratch_bytes(e) + fl_cohort_bytes(e->n_clients) +
           arena_bytes(uint32_t, e->cohort);
}

/* Floats, finite; how many is the mask's affair, which needs the cohort: see receive. */
static om_status server_check(const fl_env *e, uint32_t id, uint64_t samples,
                              const uint8_t *up, size_t n, float *zeros, om_err *err)
{
    (void)zeros;
    TRY(average_check_head(e, id, samples, err));
    if (n % 4 || n / 4 > e->dim || (n == 0 && e->dim))
        return fail(err, OM_EFORMAT, "an update of %zu bytes for %zu numbers", n, e->dim);
    if (!wire_all_finite(up, n / 4))
        return fail(err, OM_EFORMAT, "the update holds a NaN or an infinity");
    return OM_OK;
}

static om_status receive(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                         const mask *m, const uint8_t *up, size_t n, arena scratch,
                         om_err *err)
{
    float *sum = average_vector(e, server, 1);
    TRY(average_admit(e, server, id, samples, err));
    uint64_t seat = seat_of(e, m, id, scratch);
    if (seat == m->n)
        return fail(err, OM_EARG, "client %u was not chosen", (unsigned)id);
    uint64_t c = column(e, m, seat);
    if (n != 4 * count_of(e, m, c))
        return fail(err, OM_EFORMAT, "an update of %zu bytes, expected %zu", n,
                    4 * count_of(e, m, c));
    if (!wire_all_finite(up, n / 4))
        return fail(err, OM_EFORMAT, "the update holds a NaN or an infinity");
    for (size_t k = 0; k < e->dim; k++)
        if (sends(m, c, k)) {
            sum[k] += wire_load_f32(up);
            up += 4;
        }
    average_count(server, id, 1);
    return OM_OK;
}

static om_status close_round(const fl_env *e, void *server, const mask *m, arena scratch,
                             om_err *err)
{
    float *d;
    if (average_received(server) && average_received(server) != m->n)
        return fail(err, OM_ELIMIT,
                    "%llu of %llu clients answered: some numbers were not sent by all "
                    "that should; the model is kept",
                    (unsigned long long)average_received(server), (unsigned long long)m->n);
    TRY(average_sum(e, server, (double)m->s, &d, err));
    return d ? grad_move(e, server, d, -1, scratch, err) : OM_OK;
}

static om_status recv_all(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                          const uint8_t *up, size_t n, arena scratch, om_err *err)
{
    mask m = mask_all(e);
    return receive(e, server, id, samples, &m, up, n, scratch, err);
}

static om_status recv_some(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                           const uint8_t *up, size_t n, arena scratch, om_err *err)
{
    mask m = mask_some(e);
    return receive(e, server, id, samples, &m, up, n, scratch, err);
}

static om_status close_all(const fl_env *e, void *server, arena scratch, om_err *err)
{
    mask m = mask_all(e);
    return close_round(e, server, &m, scratch, err);
}

static om_status close_some(const fl_env *e, void *server, arena scratch, om_err *err)
{
    mask m = mask_some(e);
    return close_round(e, server, &m, scratch, err);
}

#define SCAFFNEW_ROW(symbol, name_, summary_, source_, flag_, params_, step_, recv_,       \
                     close_, end_)                                                         \
    const fl_algo symbol = {                                                               \
        .name = name_,                                                                     \
        .summary = summary_,                                                               \
        .source = source_,                                                                 \
        .flags = FL_CLIENT_STATE | FL_WHOLE_COHORT | flag_,                                \
        .params = params_,                                                                 \
        .check = check,                                                                    \
        .server_bytes = server_bytes,                                                      \
        .client_bytes = client_bytes,                                                      \
        .scratch_bytes = scratch_bytes,                                                    \
        .up_bound = up_bound,                                                              \
        .down_bound = average_down_bound,                                                  \
        .server_open = average_open,                                                       \
        .server_begin = average_begin,                                                     \
        .client_step = step_,                                                              \
        .server_recv = recv_,                                                              \
        .server_check = server_check,                                                      \
        .server_close = close_,                                                            \
        .model = average_model,                                                            \
        .client_end = end_,                                                                \
    }

SCAFFNEW_ROW(fl_proxskip, "proxskip", "local training by a shared coin (Scaffnew)",
             "Mishchenko, Malinovsky, Stich, Richtarik, ICML 2022, arXiv 2202.09357",
             FL_EVERY_CLIENT, params, step, recv_all, close_all, NULL);
SCAFFNEW_ROW(fl_compressed_scaffnew, "compressed-scaffnew",
             "Scaffnew, each number sent by a few of the clients",
             "Condat, Agarsky, Richtarik 2022, arXiv 2210.13277", FL_EVERY_CLIENT, params_s,
             step_some, recv_some, close_some, NULL);
SCAFFNEW_ROW(fl_tamuna, "tamuna", "compressed Scaffnew within a random cohort",
             "Condat, Agarsky, Malinovsky, Richtarik 2023, arXiv 2302.09832", 0u, params_s,
             step_some, recv_some, close_some, tamuna_end);
