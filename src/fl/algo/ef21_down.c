/* ef21_down.c - EF21 with the way down compressed too.
 *
 *     ef21-p    the server holds x, everybody holds w:
 *               x -= lr g;   w += C_down(x - w);   clients follow grad f_i(w) as in EF21
 *     ef21-bc   everybody holds x and an estimate b of g:
 *               b += C_down(g - b);   x -= lr b;   clients follow grad f_i(x)
 *
 * In both the clients' side is EF21's (ef21.c), with codec up; `down` and `down_ratio` say
 * what goes down (side.h: whole vectors in round 0 and after a round that somebody missed).
 * With down=identity both are EF21.  theory for ef21-p with exact gradients: lr of the
 * order alpha / (16 L). */
#include "fl/side.h"
#include "codec/wire.h"

enum { DOWN = GRAD_PARAMS, DOWN_RATIO };
enum { SUM = 1, G, MIRROR, BEFORE };   /* server vectors */
enum { CLIENT_G, CLIENT_W, CLIENT_B }; /* client vectors */

static const param params[] = {
    FL_GRAD_PARAMS,
    [DOWN] = {"down", SIDE_TOPK, 0, 5, "codec of the way down", SIDE_CODECS},
    [DOWN_RATIO] = {"down_ratio", 0.1, 1e-9, 1, "its ratio, where it has one", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static side_codec down_codec(const fl_env *e)
{
    return side_of(e->p[DOWN], e->p[DOWN_RATIO]);
}

static size_t scratch_bytes(const fl_env *e)
{
    side_codec c = down_codec(e);
    return grad_scratch_bytes(e) + arena_bytes(float, e->dim) +
           c.c->scratch_bytes(c.p, e->dim);
}

static om_status begin_round(const fl_env *e, void *server, buf *down, om_err *err)
{
    buf skipped = buf_growing(4 * e->dim + 1); /* average.c writes x, which is not sent */
    om_status s = average_begin(e, server, &skipped, err);
    buf_free(&skipped);
    if (s != OM_OK)
        return s;
    return buf_u8(down, side_in_step(e, server) ? DOWN_PART : DOWN_WHOLE) == OM_OK
               ? OM_OK
               : fail(err, OM_ENOMEM, "no room for a down message");
}

/* The kind of a down message that this client can use. */
static om_status kind_of(const fl_env *e, const client_head *c, const uint8_t *down,
                         size_t n, size_t whole, om_err *err)
{
    if (n == 0 || down[0] > DOWN_PART || (down[0] == DOWN_WHOLE && n != 1 + whole))
        return fail(err, OM_EFORMAT,
                    "a down message of %zu bytes; expected %zu with whole vectors, or a "
                    "difference",
                    n, 1 + whole);
    if (down[0] == DOWN_PART && c->last != e->round)
        return fail(err, OM_EFORMAT,
                    "a difference to round %u, and the last one seen here is %llu",
                    (unsigned)e->round, (unsigned long long)c->last);
    if (down[0] == DOWN_WHOLE && !wire_all_finite(down + 1, whole / 4))
        return fail(err, OM_EFORMAT, "the down message holds a NaN or an infinity");
    return OM_OK;
}

static void load(const uint8_t *in, size_t n, float *v)
{
    for (size_t i = 0; i < n; i++)
        v[i] = wire_load_f32(in + 4 * i);
}

/* EF21's client at the point s->x. */
static om_status follow(grad_step *s)
{
    float *gi = grad_vector(s, CLIENT_G);
    TRY(grad_at(s, s->x, 0, s->g));
    if (grad_first(s)) {
        memcpy(gi, s->g, s->e->dim * sizeof(float));
        return up_dense(s, gi);
    }
    for (size_t i = 0; i < s->e->dim; i++)
        s->t[i] = s->g[i] - gi[i];
    return up_coded(s, s->t, (float)codec_scale(s->e->up, s->e->up_p, s->e->dim), gi);
}

/* ---- ef21-p ---- */

static size_t p_server_bytes(const fl_env *e) { return average_bytes(e, 2); }
static size_t p_client_bytes(const fl_env *e) { return client_bytes_of(e, 2); }

static size_t p_down_bound(const fl_env *e)
{
    side_codec c = down_codec(e);
    return side_down_bound(e, &c, 1);
}

static om_status p_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    side_codec c = down_codec(e);
    const float *x = average_model(e, server);
    float *w = average_vector(e, server, MIRROR), *sum = average_vector(e, server, SUM);
    TRY(begin_round(e, server, down, err));
    if (!side_in_step(e, server)) {
        memcpy(w, x, e->dim * sizeof(float));
        return side_put_whole(e, w, down, err);
    }
    size_t from = down->len;
    om_status s = side_put(e, &c, e->round, x, w, sum, down, err);
    memset(sum, 0, e->dim * sizeof(float));
    side_closed(e, server, false); /* until this round is closed, with everyone */
    return s == OM_OK ? side_add(e, &c, down->data + from, down->len - from, w, err) : s;
}

static om_status p_client(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                          const uint8_t *down, size_t n, buf *up, double *loss,
                          arena scratch, om_err *err)
{
    side_codec c = down_codec(e);
    float *w = client_vector(e, client, CLIENT_W);
    TRY(kind_of(e, client, down, n, 4 * e->dim, err));
    if (down[0] == DOWN_WHOLE)
        load(down + 1, e->dim, w);
    else
        TRY(side_add(e, &c, down + 1, n - 1, w, err));
    return grad_client_at(e, id, client, f, w, up, loss, scratch, follow, err);
}

static om_status p_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    bool everyone = average_received(server) == e->n_clients;
    TRY(grad_track(e, server, e->n_clients, e->p[GRAD_LR], scratch, err));
    side_closed(e, server, everyone);
    return OM_OK;
}

const fl_algo fl_ef21_p = {
    .name = "ef21-p",
    .summary = "EF21 both ways: the model goes down as compressed differences",
    .source = "Gruntkowska, Tyurin, Richtarik, ICML 2023, arXiv 2209.15218",
    .flags = FL_CLIENT_STATE,
    .params = params,
    .server_bytes = p_server_bytes,
    .client_bytes = p_client_bytes,
    .scratch_bytes = scratch_bytes,
    .up_bound = up_bound_of,
    .down_bound = p_down_bound,
    .server_open = average_open,
    .server_begin = p_begin,
    .client_step = p_client,
    .server_recv = grad_recv_scaled,
    .server_check = grad_check,
    .server_close = p_close,
    .model = average_model,
};

/* ---- ef21-bc ---- */

static size_t bc_server_bytes(const fl_env *e) { return average_bytes(e, 3); }
static size_t bc_client_bytes(const fl_env *e) { return client_bytes_of(e, 3); }

static size_t bc_down_bound(const fl_env *e)
{
    side_codec c = down_codec(e);
    return side_down_bound(e, &c, 2);
}

/* The difference that moved b at the close of the round before, written out again. */
static om_status bc_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    side_codec c = down_codec(e);
    float *sum = average_vector(e, server, SUM);
    TRY(begin_round(e, server, down, err));
    if (!side_in_step(e, server)) {
        TRY(side_put_whole(e, average_model(e, server), down, err));
        return side_put_whole(e, average_vector(e, server, MIRROR), down, err);
    }
    om_status s = side_put(e, &c, e->round - 1, average_vector(e, server, G),
                           average_vector(e, server, BEFORE), sum, down, err);
    memset(sum, 0, e->dim * sizeof(float));
    side_closed(e, server, false);
    return s;
}

static om_status bc_client(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                           const uint8_t *down, size_t n, buf *up, double *loss,
                           arena scratch, om_err *err)
{
    side_codec c = down_codec(e);
    float *x = client_vector(e, client, CLIENT_W), *b = client_vector(e, client, CLIENT_B);
    float lr = (float)e->p[GRAD_LR];
    TRY(kind_of(e, client, down, n, 8 * e->dim, err));
    if (down[0] == DOWN_WHOLE) {
        load(down + 1, e->dim, x);
        load(down + 1 + 4 * e->dim, e->dim, b);
    } else {
        TRY(side_add(e, &c, down + 1, n - 1, b, err));
        for (size_t i = 0; i < e->dim; i++)
            x[i] = x[i] - lr * b[i];
    }
    return grad_client_at(e, id, client, f, x, up, loss, scratch, follow, err);
}

static om_status bc_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    side_codec c = down_codec(e);
    bool everyone = average_received(server) == e->n_clients;
    float *g = average_vector(e, server, G), *b = average_vector(e, server, MIRROR);
    float *now = arena_new(&scratch, float, e->dim),
          *next = arena_new(&scratch, float, e->dim);
    float *delta = arena_new(&scratch, float, e->dim), *sum;
    TRY(average_sum(e, server, e->n_clients, &sum, err));
    if (!sum)
        return OM_OK;
    for (size_t i = 0; i < e->dim; i++)
        now[i] = g[i] + sum[i];
    memcpy(next, b, e->dim * sizeof(float));
    buf part = buf_growing(c.c->bound(c.p, e->dim) + 1);
    om_status s = side_put(e, &c, e->round, now, b, delta, &part, err);
    if (s == OM_OK)
        s = side_add(e, &c, part.data, part.len, next, err);
    buf_free(&part);
    TRY(s);
    TRY(grad_move(e, server, next, e->p[GRAD_LR], scratch, err));
    memcpy(g, now, e->dim * sizeof(float));
    memcpy(average_vector(e, server, BEFORE), b, e->dim * sizeof(float));
    memcpy(b, next, e->dim * sizeof(float));
    side_closed(e, server, everyone);
    return OM_OK;
}

const fl_algo fl_ef21_bc = {
    .name = "ef21-bc",
    .summary = "EF21 both ways: the gradient's estimate goes down compressed",
    .source = "Fatkhullin et al. 2021, arXiv 2110.03294",
    .flags = FL_CLIENT_STATE,
    .params = params,
    .server_bytes = bc_server_bytes,
    .client_bytes = bc_client_bytes,
    .scratch_bytes = scratch_bytes,
    .up_bound = up_bound_of,
    .down_bound = bc_down_bound,
    .server_open = average_open,
    .server_begin = bc_begin,
    .client_step = bc_client,
    .server_recv = grad_recv_scaled,
    .server_check = grad_check,
    .server_close = bc_close,
    .model = average_model,
};
