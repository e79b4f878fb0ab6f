/* locodl.c - LoCoDL: local training and any unbiased compression at once; and bicolor, the
 * same with the way down compressed too.
 *
 * Minimises (1/n) sum_i f_i + g with g(x) = (strong / 2) |x|^2, taken out of the clients'
 * functions: they use grad f_i(x) - strong x.  Everybody knows y and v; client i has x_i
 * and u_i.  A round is as many steps as throws of a shared coin of probability p:
 *
 *     x_i -= lr (grad f_i(x_i) - strong x_i - u_i);     y -= lr (strong y - v)
 *     then   client i sends d_i = Q(x_i - y);   the server answers d = (1 / 2n) sum_i d_i
 *     x_i = (1 - r) x_i + r (y + d);   y += r d;   u_i += k (d - d_i);   v += k d
 *     r = 1 / (1 + omega / n),   k = p r / (lr (1 + 2 omega))
 *
 * (1/n) sum u_i + v = 0 always.  What is compressed is a difference to y, which all know,
 * and it tends to zero.  theory: lr < 2 / (L + mu), p = sqrt((1 + omega/n)(1 + 2 omega) /
 * kappa): doubly accelerated, by local training and by compression.
 *
 * Down message: x_0 in round 0, then d.  The model is y.
 *
 * bicolor sends C_down(d + e) with e = d + e - C_down(d + e), the server's memory of what
 * it held back, and that takes the place of d in every line: then (1/n) sum u_i + v is a
 * multiple of e, which vanishes with d, so the fixed point is still the optimum; without
 * the memory it would not be.  It is in the style of BiCoLoR (Condat, Maranjyan, Richtarik
 * 2026, arXiv 2601.12400), which proves acceleration for unbiased codecs both ways; the
 * memory is this program's way to the same end, and its rate is measured, not proven. */
#include "codec/wire.h"
#include "fl/side.h"

enum { P = GRAD_PARAMS, STRONG, DOWN, DOWN_RATIO };
enum { X, Y, U, V, SENT };                    /* client vectors; SENT: d_i */
enum { SUM = 1, SERVER_V, D, HELD, NOTHING }; /* HELD: d + e of bicolor; NOTHING: zeros */
enum { COIN = 8 };

#define LOCODL_PARAMS                                                                      \
    FL_GRAD_PARAMS, [P] = {"p",                                                            \
                           0.1,                                                            \
                           1e-6,                                                           \
                           1,                                                              \
                           "of communication; 1 / p local steps a round on average",       \
                           NULL},                                                          \
                    [STRONG] = {"strong",                                                  \
                                0,                                                         \
                                0,                                                         \
                                1e6,                                                       \
                                "part of the l2 term that all know; below its weight",     \
                                NULL}

static const param params[] = {LOCODL_PARAMS, {NULL, 0, 0, 0, NULL, NULL}};
static const param params_down[] = {
    LOCODL_PARAMS,
    [DOWN] = {"down", SIDE_TOPK, 0, 5, "codec of the way down", SIDE_CODECS},
    [DOWN_RATIO] = {"down_ratio", 0.1, 1e-9, 1, "its ratio, where it has one", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static size_t client_bytes(const fl_env *e) { return client_bytes_of(e, 5); }
static size_t server_bytes(const fl_env *e) { return average_bytes(e, 2); }
static size_t down_server_bytes(const fl_env *e) { return average_bytes(e, 4); }

static float mix(const fl_env *e)
{
    return (float)(1 / (1 + grad_omega(e) / e->n_clients));
}

static float speed(const fl_env *e)
{
    double w = grad_omega(e), r = 1 / (1 + w / e->n_clients);
    return (float)(e->p[P] * r / (e->p[GRAD_LR] * (1 + 2 * w)));
}

/* The steps of y, the same on both sides. */
static void steps_of_y(const fl_env *e, float *y, const float *v)
{
    float lr = (float)e->p[GRAD_LR], strong = (float)e->p[STRONG];
    for (uint32_t t = grad_throws(e, e->p[P], COIN); t > 0; t--)
        for (size_t i = 0; i < e->dim; i++)
            y[i] -= lr * (strong * y[i] - v[i]);
}

/* The end of the round before, which d closes; or the start from x_0. */
static void settle(const fl_env *e, void *client, const float *d)
{
    float *x = client_vector(e, client, X), *y = client_vector(e, client, Y);
    float *u = client_vector(e, client, U), *v = client_vector(e, client, V);
    const float *sent = client_vector(e, client, SENT);
    float r = mix(e), k = speed(e);
    if (e->round == 0) {
        memcpy(x, d, e->dim * sizeof(float));
        memcpy(y, d, e->dim * sizeof(float));
        return;
    }
    for (size_t i = 0; i < e->dim; i++) {
        x[i] = (1 - r) * x[i] + r * (y[i] + d[i]);
        y[i] += r * d[i];
        u[i] += k * (d[i] - sent[i]);
        v[i] += k * d[i];
    }
}

static om_status rule(grad_step *s)
{
    const fl_env *e = s->e;
    float *x = grad_vector(s, X), *y = grad_vector(s, Y), *u = grad_vector(s, U);
    float *sent = grad_vector(s, SENT);
    float lr = (float)e->p[GRAD_LR], strong = (float)e->p[STRONG];
    if (grad_head(s)->last != e->round)
        return fail(s->err, OM_EARG, "client %u has missed a round", (unsigned)s->id);
    settle(e, s->client, s->x);
    for (uint32_t t = 0, n = grad_throws(e, e->p[P], COIN); t < n; t++) {
        TRY(grad_at(s, x, t, s->g));
        for (size_t i = 0; i < e->dim; i++)
            x[i] -= lr * (s->g[i] - strong * x[i] - u[i]);
    }
    steps_of_y(e, y, grad_vector(s, V));
    for (size_t i = 0; i < e->dim; i++)
        s->t[i] = x[i] - y[i];
    memset(sent, 0, e->dim * sizeof(float));
    return up_coded(s, s->t, 1, sent);
}
GRAD_CLIENT(client_step, rule)

static om_status server_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    size_t from = down->len;
    const float *d = average_vector(e, server, D);
    TRY(average_begin(e, server, down, err));
    for (size_t i = 0; e->round > 0 && i < e->dim; i++)
        wire_store_f32(down->data + from + 4 * i, d[i]);
    return OM_OK;
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    float *d, *v = average_vector(e, server, SERVER_V), r = mix(e), k = speed(e);
    float *y = arena_new(&scratch, float, e->dim);
    TRY(average_sum(e, server, 2.0 * e->n_clients, &d, err));
    if (!d)
        return OM_OK;
    memcpy(y, average_model(e, server), e->dim * sizeof(float));
    steps_of_y(e, y, v);
    float *kept = arena_new(&scratch, float, e->dim);
    memcpy(kept, d, e->dim * sizeof(float)); /* accept clears the sum */
    for (size_t i = 0; i < e->dim; i++)
        y[i] += r * d[i];
    TRY(average_accept(e, server, y, err));
    memcpy(average_vector(e, server, D), kept, e->dim * sizeof(float));
    for (size_t i = 0; i < e->dim; i++)
        v[i] += k * kept[i];
    return OM_OK;
}

/* ---- bicolor ---- */

static side_codec down_codec(const fl_env *e)
{
    return side_of(e->p[DOWN], e->p[DOWN_RATIO]);
}

static size_t down_down_bound(const fl_env *e)
{
    side_codec c = down_codec(e);
    return side_down_bound(e, &c, 1);
}

/* After round 0 what goes down is C_down(HELD) of the round before, written out again. */
static om_status down_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    side_codec c = down_codec(e);
    float *sum = average_vector(e, server, SUM);
    if (e->round == 0)
        return average_begin(e, server, down, err);
    buf skipped = buf_growing(4 * e->dim + 1);
    om_status s = average_begin(e, server, &skipped, err);
    buf_free(&skipped);
    if (s == OM_OK)
        s = side_put(e, &c, e->round - 1, average_vector(e, server, HELD),
                     average_vector(e, server, NOTHING), sum, down, err);
    memset(sum, 0, e->dim * sizeof(float));
    return s;
}

static om_status down_client(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                             const uint8_t *down, size_t n, buf *up, double *loss,
                             arena scratch, om_err *err)
{
    side_codec c = down_codec(e);
    float *d = arena_new(&scratch, float, e->dim);
    if (e->round == 0)
        TRY(average_read(e, down, n, d, err));
    else
        TRY(side_add(e, &c, down, n, d, err));
    return grad_client_at(e, id, client, f, d, up, loss, scratch, rule, err);
}

static om_status down_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    side_codec c = down_codec(e);
    const float *model = average_model(e, server);
    float *v = average_vector(e, server, SERVER_V), *held = average_vector(e, server, HELD);
    float *last = average_vector(e, server, D), *sum, r = mix(e), k = speed(e);
    float *now = arena_new(&scratch, float, e->dim),
          *d = arena_new(&scratch, float, e->dim);
    float *y = arena_new(&scratch, float, e->dim);
    TRY(average_sum(e, server, 2.0 * e->n_clients, &sum, err));
    if (!sum)
        return OM_OK;
    for (size_t i = 0; i < e->dim; i++)
        now[i] = sum[i] + held[i] - last[i]; /* last is what of `held` went down */
    buf part = buf_growing(c.c->bound(c.p, e->dim) + 1);
    om_status s =
        side_put(e, &c, e->round, now, average_vector(e, server, NOTHING), sum, &part, err);
    if (s == OM_OK)
        s = side_add(e, &c, part.data, part.len, d, err);
    buf_free(&part);
    TRY(s);
    memcpy(y, model, e->dim * sizeof(float));
    steps_of_y(e, y, v);
    for (size_t i = 0; i < e->dim; i++)
        y[i] += r * d[i];
    TRY(average_accept(e, server, y, err));
    memcpy(held, now, e->dim * sizeof(float));
    memcpy(last, d, e->dim * sizeof(float));
    for (size_t i = 0; i < e->dim; i++)
        v[i] += k * d[i];
    return OM_OK;
}

static size_t down_scratch_bytes(const fl_env *e)
{
    return grad_scratch_bytes(e) + 2 * arena_bytes(float, e->dim);
}

const fl_algo fl_locodl = {
    .name = "locodl",
    .summary = "local training by a shared coin, with any unbiased codec",
    .source = "Condat, Maranjyan, Richtarik, ICLR 2025, arXiv 2403.04348",
    .flags = FL_CLIENT_STATE | FL_NEEDS_UNBIASED | FL_EVERY_CLIENT,
    .params = params,
    .server_bytes = server_bytes,
    .client_bytes = client_bytes,
    .scratch_bytes = grad_scratch_bytes,
    .up_bound = up_bound_of,
    .down_bound = average_down_bound,
    .server_open = average_open,
    .server_begin = server_begin,
    .client_step = client_step,
    .server_recv = grad_recv,
    .server_check = grad_check,
    .server_close = server_close,
    .model = average_model,
};

const fl_algo fl_bicolor = {
    .name = "bicolor",
    .summary = "LoCoDL both ways: the answer goes down compressed",
    .source = "after Condat, Maranjyan, Richtarik 2026, arXiv 2601.12400",
    .flags = FL_CLIENT_STATE | FL_NEEDS_UNBIASED | FL_EVERY_CLIENT,
    .params = params_down,
    .server_bytes = down_server_bytes,
    .client_bytes = client_bytes,
    .scratch_bytes = down_scratch_bytes,
    .up_bound = up_bound_of,
    .down_bound = down_down_bound,
    .server_open = average_open,
    .server_begin = down_begin,
    .client_step = down_client,
    .server_recv = grad_recv,
    .server_check = grad_check,
    .server_close = down_close,
    .model = average_model,
};
