/* shadowheart.c - Shadowheart SGD: compressed gradients, as many gradients and messages of
 * each client as pay in the time of a round.
 *
 *     h_i seconds a gradient, q_i seconds a message, omega of the codec, r = sigma^2 / eps;
 *     clients sorted by max(h, q):
 *         s_j = the root of  s = 1 / sum_{i <= j} 1 / (2 q_i omega + 4 q_i h_i omega r / s
 *                                                      + 2 h_i r)
 *         t = min_j max(s_j, max(h_j, q_j));   b_i = floor(t / h_i),  m_i = floor(t / q_i)
 *     client i: v_i = sum of b_i gradients at x;  sends m_i independent C(v_i), nothing when
 *               b_i or m_i is 0
 *     server:   w_i = 1 / (b_i omega + omega r + m_i r)
 *               x -= lr sum_i w_i sum_l C_l(v_i) / sum_i w_i m_i b_i
 *
 * Unbiased for any b and m; optimal in time for equal data.  Without compression (omega 0)
 * one message says all, and it is Rennala's batch.  Times come from fl_env.pace, the median
 * ones.  Down message: x, then t as a double.  Up message: u32 m, then m times u32 length
 * and the codec's message. */
#include "codec/wire.h"
#include "fl/grad.h"

#include <math.h>

enum { RATIO = GRAD_PARAMS, MOST };

static const param params[] = {
    FL_GRAD_PARAMS,
    [RATIO] = {"noise_ratio", 10, 0, 1e9, "sigma^2 / eps: variance over the accuracy wanted",
               NULL},
    [MOST] = {"most", 16, 1, 1000, "gradients and messages of a client in a round", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

typedef struct {
    double gradient, message; /* seconds */
} times;

static times times_of(const fl_env *e, uint32_t id)
{
    const fl_pace *p = e->pace;
    return (times){p->gradient(p->ctx, id, (uint32_t)e->p[GRAD_BATCH], 0.5),
                   p->message(p->ctx, id, 4 + e->up->bound(e->up_p, e->dim))};
}

static double longer(times t) { return t.gradient > t.message ? t.gradient : t.message; }

/* s (sum_i 1 / (..)) - 1 over the clients no slower than `slowest`; grows with s. */
static double excess(const fl_env *e, double s, double slowest)
{
    double omega = grad_omega(e), r = e->p[RATIO], sum = 0;
    for (uint32_t i = 0; i < e->n_clients; i++) {
        times t = times_of(e, i);
        if (longer(t) <= slowest)
            sum += 1 / (2 * t.message * omega + 4 * t.message * t.gradient * omega * r / s +
                        2 * t.gradient * r);
    }
    return s * sum - 1;
}

static double root(const fl_env *e, double slowest)
{
    double lo = 1e-12, hi = 1e12;
    for (int i = 0; i < 200 && hi / lo > 1 + 1e-12; i++) {
        double mid = sqrt(lo * hi);
        if (excess(e, mid, slowest) < 0)
            lo = mid;
        else
            hi = mid;
    }
    return hi;
}

/* t: max(s_j, slowest_j) falls, then grows with j, so clients are tried from the fastest. */
static double plan(const fl_env *e)
{
    double best = (double)INFINITY, slowest = -1;
    for (;;) {
        double next = (double)INFINITY;
        for (uint32_t i = 0; i < e->n_clients; i++) {
            double l = longer(times_of(e, i));
            if (l > slowest && l < next)
                next = l;
        }
        if (next >= best || isinf(next))
            return best;
        slowest = next;
        double s = root(e, slowest), t = s > slowest ? s : slowest;
        best = t < best ? t : best;
    }
}

static uint32_t within(double t, double each, double most)
{
    double n = each > 0 ? floor(t / each * (1 + 1e-12)) : most;
    return (uint32_t)(n < most ? n : most);
}

typedef struct {
    uint32_t gradients, messages;
} share;

static share share_of(const fl_env *e, uint32_t id, double t)
{
    times of = times_of(e, id);
    double most = e->p[MOST], omega = grad_omega(e);
    share s = {within(t, of.gradient, most), within(t, of.message, omega > 0 ? most : 1)};
    return s.gradients && s.messages ? s : (share){0, 0};
}

static size_t server_bytes(const fl_env *e) { return average_bytes(e, 0); }

static size_t client_bytes(const fl_env *e) { return client_bytes_of(e, 0); }

static size_t up_bound(const fl_env *e)
{
    return 4 + (size_t)e->p[MOST] * (4 + e->up->bound(e->up_p, e->dim));
}

static size_t down_bound(const fl_env *e) { return 8 + average_down_bound(e); }

/* Note 0: t.  Note 1: sum of w_i m_i b_i, of those that came. */
static double note(const void *server, uint32_t i)
{
    double v;
    memcpy(&v, average_note((void *)(uintptr_t)server, i), sizeof(v));
    return v;
}

static void set_note(void *server, uint32_t i, double v)
{
    memcpy(average_note(server, i), &v, sizeof(v));
}

static om_status server_open(const fl_env *e, void *server, const float *x0, om_err *err)
{
    TRY(average_open(e, server, x0, err));
    set_note(server, 0, plan(e));
    return OM_OK;
}

static om_status server_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    set_note(server, 1, 0);
    TRY(average_begin(e, server, down, err));
    if (buf_u64(down, *average_note(server, 0)) != OM_OK)
        return fail(err, OM_ENOMEM, "no room for a model of %zu numbers", e->dim);
    return OM_OK;
}

enum { USE_COPY = 0x33000000 };

static om_status send_copies(grad_step *s, uint32_t messages)
{
    const fl_env *e = s->e;
    om_status st = buf_u32(s->up, messages);
    for (uint32_t l = 0; l < messages && st == OM_OK; l++) {
        size_t at = s->up->len;
        rng r = rng_for(e->seed, e->round, s->id, USE_COPY + l);
        st = buf_u32(s->up, 0);
        if (st == OM_OK)
            st = e->up->encode(e->up_p, s->t, e->dim, r, s->scratch, s->up);
        if (st == OM_OK)
            wire_store(s->up->data + at, (uint32_t)(s->up->len - at - 4));
    }
    if (st == OM_OK)
        return OM_OK;
    return fail(s->err, st, "client %u: %s could not encode the update", (unsigned)s->id,
                e->up->name);
}

static om_status work(grad_step *s, share mine)
{
    double loss = 0;
    memset(s->t, 0, s->e->dim * sizeof(float));
    for (uint32_t j = 0; j < mine.gradients; j++) {
        TRY(grad_at(s, s->x, j, s->g));
        for (size_t i = 0; i < s->e->dim; i++)
            s->t[i] += s->g[i];
        loss += s->loss;
    }
    s->loss = mine.gradients ? loss / mine.gradients : (double)NAN;
    return send_copies(s, mine.messages);
}

/* Its t, as the down message had it. */
static double t_of(const grad_step *s)
{
    double t;
    memcpy(&t, &grad_head(s)->own[0], sizeof(t));
    return t;
}

static om_status rule(grad_step *s) { return work(s, share_of(s->e, s->id, t_of(s))); }

static om_status client_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                             const uint8_t *down, size_t down_n, buf *up, double *loss,
                             arena scratch, om_err *err)
{
    client_head *h = client;
    if (down_n != 8 + 4 * e->dim)
        return fail(err, OM_EFORMAT, "the model message has %zu bytes, expected %zu", down_n,
                    8 + 4 * e->dim);
    const uint8_t *t = down + 4 * e->dim;
    h->own[0] = wire_load(t) | (uint64_t)wire_load(t + 4) << 32;
    return grad_client(e, id, client, f, down, down_n - 8, up, loss, scratch, rule, err);
}

/* y += weight times each of 0 to `most` messages, at least `least`. */
static om_status copies(const fl_env *e, uint32_t id, uint32_t least, uint32_t most,
                        const uint8_t *up, size_t n, float weight, float *y, om_err *err)
{
    cursor c = cursor_of(up, n);
    uint32_t m = cursor_u32(&c);
    if (n < 4 || m < least || m > most)
        return fail(err, OM_EFORMAT, "client %u sends %u messages, expected %u to %u",
                    (unsigned)id, (unsigned)m, (unsigned)least, (unsigned)most);
    for (uint32_t l = 0; l < m; l++) {
        size_t bytes = cursor_u32(&c);
        const uint8_t *p = cursor_take(&c, bytes);
        if (!p)
            return fail(err, OM_EFORMAT, "client %u: message %u is cut", (unsigned)id,
                        (unsigned)l);
        TRY(e->up->decode(e->up_p, p, bytes, weight, y, e->dim, err));
    }
    return c.pos == n ? OM_OK
                      : fail(err, OM_EFORMAT, "client %u: %zu bytes after its messages",
                             (unsigned)id, n - c.pos);
}

/* Looked through before the first message is added: a refusal changes nothing. */
static om_status server_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                             const uint8_t *up, size_t up_n, arena scratch, om_err *err)
{
    float *sum = average_vector(e, server, 1);
    double omega = grad_omega(e), r = e->p[RATIO];
    (void)scratch;
    TRY(average_admit(e, server, id, samples, err));
    share s = share_of(e, id, note(server, 0));
    double w = s.gradients * omega + omega * r + s.messages * r;
    w = w > 0 ? 1 / w : 1;
    TRY(copies(e, id, s.messages, s.messages, up, up_n, 0, sum, err));
    TRY(copies(e, id, s.messages, s.messages, up, up_n, (float)w, sum, err));
    average_count(server, id, 1);
    set_note(server, 1, note(server, 1) + w * s.messages * s.gradients);
    return OM_OK;
}

static om_status server_check(const fl_env *e, uint32_t id, uint64_t samples,
                              const uint8_t *up, size_t up_n, float *zeros, om_err *err)
{
    TRY(average_check_head(e, id, samples, err));
    return copies(e, id, 0, (uint32_t)e->p[MOST], up, up_n, 0, zeros, err);
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    float *g;
    if (!(note(server, 1) > 0)) /* nobody with time for a gradient was asked */
        return OM_OK;
    TRY(average_sum(e, server, note(server, 1), &g, err));
    return g ? grad_move(e, server, g, e->p[GRAD_LR], scratch, err) : OM_OK;
}

const fl_algo fl_shadowheart = {
    .name = "shadowheart",
    .summary = "gradients and compressed messages as each client has time for",
    .source = "Tyurin, Pozzi, Ilin, Richtarik, NeurIPS 2024, arXiv 2402.04785",
    .flags = FL_CLIENT_STATE | FL_NEEDS_UNBIASED | FL_KNOWS_PACE,
    .params = params,
    .server_bytes = server_bytes,
    .client_bytes = client_bytes,
    .scratch_bytes = grad_scratch_bytes,
    .up_bound = up_bound,
    .down_bound = down_bound,
    .server_open = server_open,
    .server_begin = server_begin,
    .client_step = client_step,
    .server_recv = server_recv,
    .server_check = server_check,
    .server_close = server_close,
    .model = average_model,
};
