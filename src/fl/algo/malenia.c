/* malenia.c - Malenia SGD: fresh gradients of every client, as many as each has time for.
 *
 *     client i, B_i gradients at x so far, of mean h_i:
 *             sends C(d),  d = (g_i(x) - h_i) / B_i,  so that sum of d = the new h_i
 *     server: takes gradients of age 0 alone, until every client has come and
 *             n / sum_i (1 / B_i) >= S / n,  S = buffer_size:   x -= lr (1/n) sum_i h_i
 *
 * The mean of means is an unbiased gradient of f = (1/n) sum f_i however unequal the
 * speeds, of variance sigma^2 / n^2 sum 1 / B_i: optimal in time for unlike data,
 * S = max(ceil(sigma^2 / eps), n).  As clients send what their mean changed by, the server
 * has one sum and the numbers B_i, never clients x model.  One gradient each (S <= n) is
 * minibatch SGD.
 *
 * Down message: the version as u64, then x.  Client state: the version it counts for plus
 * 1, B_i, then h_i. */
#include "codec/wire.h"
#include "fl/grad.h"
#include "fl/stop.h"

enum { BUFFER = GRAD_PARAMS, RESTART };
enum { OWN_VERSION, OWN_COUNT }; /* of client_head.own */
enum { NOTE_MISSING, NOTE_INVERSES }; /* clients not yet heard; sum of 1 / B_i, a double */

static const param params[] = {
    FL_GRAD_PARAMS,
    [BUFFER] = {"buffer_size", 10, 1, 1e9,
                "gradients a version has, were every client as fast", NULL},
    FL_STOP_PARAM(RESTART, 1),
    {NULL, 0, 0, 0, NULL, NULL},
};

/* After the vectors: B_i (n_clients). */
static size_t server_bytes(const fl_env *e)
{
    return average_bytes(e, 0) + (size_t)e->n_clients * sizeof(uint32_t);
}

static uint32_t *counts(const fl_env *e, const void *server)
{
    return (uint32_t *)(void *)((char *)(uintptr_t)server + average_bytes(e, 0));
}

static size_t client_bytes(const fl_env *e) { return client_bytes_of(e, 1); }

static size_t down_bound(const fl_env *e) { return 8 + average_down_bound(e); }

static om_status server_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    memset(counts(e, server), 0, (size_t)e->n_clients * sizeof(uint32_t));
    *average_note(server, NOTE_MISSING) = e->cohort;
    *average_note(server, NOTE_INVERSES) = 0;
    if (buf_u64(down, e->round) != OM_OK)
        return fail(err, OM_ENOMEM, "no room for a model of %zu numbers", e->dim);
    return average_begin(e, server, down, err);
}

static om_status rule(grad_step *s)
{
    client_head *h = grad_head(s);
    float *mean = grad_vector(s, 0);
    TRY(grad_at(s, s->x, 0, s->g));
    h->own[OWN_COUNT]++;
    float part = (float)(1.0 / (double)h->own[OWN_COUNT]);
    for (size_t i = 0; i < s->e->dim; i++) {
        s->t[i] = part * (s->g[i] - mean[i]);
        mean[i] += s->t[i];
    }
    return up_coded(s, s->t, 1, NULL);
}

static om_status client_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                             const uint8_t *down, size_t down_n, buf *up, double *loss,
                             arena scratch, om_err *err)
{
    client_head *h = client;
    if (down_n < 8)
        return fail(err, OM_EFORMAT, "the model message has %zu bytes, expected %zu", down_n,
                    8 + 4 * e->dim);
    uint64_t version = wire_load(down) | (uint64_t)wire_load(down + 4) << 32;
    if (h->own[OWN_VERSION] != version + 1) {
        h->own[OWN_VERSION] = version + 1;
        h->own[OWN_COUNT] = 0;
        memset(client_vector(e, client, 0), 0, e->dim * sizeof(float));
    }
    return grad_client(e, id, client, f, down + 8, down_n - 8, up, loss, scratch, rule, err);
}

static uint32_t oldest(const fl_env *e)
{
    (void)e;
    return 0;
}

static bool stops(const fl_env *e) { return e->p[RESTART] > 0.5; }

static double inverses(const void *server)
{
    double v;
    memcpy(&v, average_note((void *)(uintptr_t)server, NOTE_INVERSES), sizeof(v));
    return v;
}

static om_status take(const fl_env *e, void *server, const fl_arrival *a, arena scratch,
                      om_err *err)
{
    (void)scratch;
    TRY(grad_take(e, server, a, 1, err));
    uint32_t *n = &counts(e, server)[a->id];
    double sum = inverses(server) - (*n ? 1.0 / *n : 0);
    *average_note(server, NOTE_MISSING) -= *n == 0;
    ++*n;
    sum += 1.0 / *n;
    memcpy(average_note(server, NOTE_INVERSES), &sum, sizeof(sum));
    return OM_OK;
}

static bool full(const fl_env *e, const void *server)
{
    const double n = e->cohort, slack = 1e-9; /* of a running sum */
    if (*average_note((void *)(uintptr_t)server, NOTE_MISSING) > 0)
        return false;
    return n * n * (1 + slack) >= e->p[BUFFER] * inverses(server);
}

/* By rounds everybody has come once. */
static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    float *g;
    uint64_t missing = *average_note(server, NOTE_MISSING);
    double came = missing < e->cohort ? (double)(e->cohort - missing)
                                      : (double)average_received(server);
    TRY(average_sum(e, server, came, &g, err));
    return g ? grad_move(e, server, g, e->p[GRAD_LR], scratch, err) : OM_OK;
}

static const fl_async async = {
    .oldest = oldest, .stops = stops, .work = grad_work, .take = take, .full = full};

const fl_algo fl_malenia = {
    .name = "malenia",
    .summary = "fresh gradients of every client, as many as each has time for",
    .source = "Tyurin, Richtarik, NeurIPS 2023, arXiv 2305.12387",
    .flags = FL_CLIENT_STATE | FL_NEEDS_UNBIASED | FL_EVERY_CLIENT,
    .params = params,
    .async = &async,
    .server_bytes = server_bytes,
    .client_bytes = client_bytes,
    .scratch_bytes = grad_scratch_bytes,
    .up_bound = up_bound_of,
    .down_bound = down_bound,
    .server_open = average_open,
    .server_begin = server_begin,
    .client_step = client_step,
    .server_recv = grad_recv,
    .server_check = grad_check,
    .server_close = server_close,
    .model = average_model,
};
