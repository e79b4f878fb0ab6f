/* grad.c - see grad.h. */
#include "fl/grad.h"
#include "codec/wire.h"

#include <math.h>

enum { USE_BATCH = 0x30000000, USE_COIN = 0x31000000 };

static size_t stride(const fl_env *e) { return size_align(e->dim * sizeof(float), 64); }

size_t client_bytes_of(const fl_env *e, uint32_t vectors)
{
    return sizeof(client_head) + vectors * stride(e);
}

float *client_vector(const fl_env *e, void *client, uint32_t i)
{
    return (float *)(void *)((char *)client + sizeof(client_head) + i * stride(e));
}

size_t grad_scratch_bytes(const fl_env *e)
{
    return 4 * arena_bytes(float, e->dim) + e->up->scratch_bytes(e->up_p, e->dim) + 64;
}

om_status grad_client_at(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                         const float *x, buf *up, double *loss, arena scratch,
                         grad_rule *rule, om_err *err)
{
    grad_step s = {
        .e = e, .id = id, .client = client, .f = f, .x = x, .up = up, .err = err};
    if (f->dim != e->dim || f->n_samples == 0)
        return fail(err, OM_EARG,
                    "client %u has %llu samples of a problem of %zu numbers, "
                    "expected some of %zu",
                    (unsigned)id, (unsigned long long)f->n_samples, f->dim, e->dim);
    s.g = arena_new(&scratch, float, e->dim);
    s.t = arena_new(&scratch, float, e->dim);
    s.scratch = scratch;
    TRY(rule(&s));
    grad_head(&s)->answers++;
    grad_head(&s)->last = (uint64_t)e->round + 1;
    if (loss)
        *loss = s.loss;
    return OM_OK;
}

om_status grad_client(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                      const uint8_t *down, size_t down_n, buf *up, double *loss,
                      arena scratch, grad_rule *rule, om_err *err)
{
    float *x = arena_new(&scratch, float, e->dim);
    TRY(average_read(e, down, down_n, x, err));
    return grad_client_at(e, id, client, f, x, up, loss, scratch, rule, err);
}

om_status grad_full(grad_step *s, const float *x, float *g)
{
    return s->f->grad(s->f->ctx, x, g, &s->loss, s->err);
}

om_status grad_at(grad_step *s, const float *x, uint32_t draw, float *g)
{
    double batch = s->e->p[GRAD_BATCH];
    if (batch < 1 || !s->f->sgrad || batch >= (double)s->f->n_samples)
        return grad_full(s, x, g);
    rng r = rng_for(s->e->seed, s->e->round, s->id, USE_BATCH + draw);
    return s->f->sgrad(s->f->ctx, x, (uint32_t)batch, r, g, &s->loss, s->err);
}

om_status grad_send_one(grad_step *s)
{
    TRY(grad_at(s, s->x, 0, s->g));
    return up_coded(s, s->g, 1, NULL);
}

uint64_t grad_work(const fl_env *e, uint64_t samples)
{
    double batch = e->p[GRAD_BATCH];
    return batch < 1 || batch >= (double)samples ? samples : (uint64_t)batch;
}

/* ---- up messages ---- */

size_t up_bound_of(const fl_env *e)
{
    return 1 + size_max(4 * e->dim, e->up->bound(e->up_p, e->dim));
}

static om_status need_finite(grad_step *s, const float *v)
{
    if (wire_first_bad(v, s->e->dim) == s->e->dim)
        return OM_OK;
    return fail(s->err, OM_ELIMIT,
                "client %u: the gradient is not finite; lower the learning rate",
                (unsigned)s->id);
}

static om_status no_room(grad_step *s)
{
    return fail(s->err, OM_ENOMEM, "no room for a message of %zu numbers", s->e->dim);
}

om_status up_nothing(grad_step *s)
{
    s->loss = (double)NAN;
    return buf_u8(s->up, UP_NOTHING) == OM_OK ? OM_OK : no_room(s);
}

om_status up_dense(grad_step *s, const float *v)
{
    TRY(need_finite(s, v));
    if (buf_reserve(s->up, 1 + 4 * s->e->dim) != OM_OK)
        return no_room(s);
    grad_head(s)->sent++;
    s->up->data[s->up->len++] = UP_DENSE;
    for (size_t i = 0; i < s->e->dim; i++, s->up->len += 4)
        wire_store_f32(s->up->data + s->up->len, v[i]);
    return OM_OK;
}

om_status up_coded(grad_step *s, const float *v, float scale, float *mirror)
{
    const fl_env *e = s->e;
    size_t from = s->up->len + 1;
    TRY(need_finite(s, v));
    if (buf_u8(s->up, UP_CODED) != OM_OK)
        return no_room(s);
    om_status st =
        e->up->encode(e->up_p, v, e->dim, fl_codec_rng(e, s->id), s->scratch, s->up);
    if (st != OM_OK)
        return fail(s->err, st, "client %u: %s could not encode the update",
                    (unsigned)s->id, e->up->name);
    grad_head(s)->sent++;
    if (!mirror)
        return OM_OK;
    return e->up->decode(e->up_p, s->up->data + from, s->up->len - from, scale, mirror,
                         e->dim, s->err);
}

/* y += weight v, or weight scale C(v). */
static om_status up_add(const fl_env *e, const uint8_t *up, size_t n, float weight,
                        float scale, float *y, om_err *err)
{
    if (n == 0 || up[0] > UP_CODED || (up[0] == UP_NOTHING && n != 1) ||
        (up[0] == UP_DENSE && n != 1 + 4 * e->dim))
        return fail(err, OM_EFORMAT,
                    "an update of %zu bytes begins with %d; expected 0 alone, 1 and %zu "
                    "floats, or 2 and the codec's message",
                    n, n ? up[0] : -1, e->dim);
    if (up[0] == UP_CODED)
        return e->up->decode(e->up_p, up + 1, n - 1, weight * scale, y, e->dim, err);
    if (up[0] == UP_DENSE && !wire_all_finite(up + 1, e->dim))
        return fail(err, OM_EFORMAT, "the update holds a NaN or an infinity");
    for (size_t i = 0; up[0] == UP_DENSE && weight != 0 && i < e->dim; i++)
        y[i] += weight * wire_load_f32(up + 1 + 4 * i);
    return OM_OK;
}

/* ---- the server's side ---- */

static om_status take(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                      const uint8_t *up, size_t up_n, float scale, om_err *err)
{
    TRY(average_admit(e, server, id, samples, err));
    TRY(up_add(e, up, up_n, 1.0f, scale, average_vector(e, server, 1), err));
    average_count(server, id, 1);
    return OM_OK;
}

om_status grad_take(const fl_env *e, void *server, const fl_arrival *a, float weight,
                    om_err *err)
{
    TRY(average_check_head(e, a->id, a->samples, err));
    TRY(up_add(e, a->up, a->up_n, weight, 1, average_vector(e, server, 1), err));
    average_count(server, a->id, 1);
    return OM_OK;
}

om_status grad_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                    const uint8_t *up, size_t up_n, arena scratch, om_err *err)
{
    (void)scratch;
    return take(e, server, id, samples, up, up_n, 1, err);
}

om_status grad_recv_scaled(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                           const uint8_t *up, size_t up_n, arena scratch, om_err *err)
{
    (void)scratch;
    return take(e, server, id, samples, up, up_n,
                (float)codec_scale(e->up, e->up_p, e->dim), err);
}

om_status grad_up_read(const fl_env *e, const uint8_t *up, size_t up_n, float *y,
                       om_err *err)
{
    return up_add(e, up, up_n, 1, 1, y, err);
}

om_status grad_up_write(const fl_env *e, uint8_t kind, const float *x, rng r, buf *up,
                        arena scratch, om_err *err)
{
    if (buf_reserve(up, up_bound_of(e)) != OM_OK)
        return fail(err, OM_ENOMEM, "no room for a message of %zu numbers", e->dim);
    up->data[up->len++] = kind;
    for (size_t i = 0; kind == UP_DENSE && i < e->dim; i++, up->len += 4)
        wire_store_f32(up->data + up->len, x[i]);
    om_status st = OM_OK;
    if (kind == UP_CODED)
        st = e->up->encode(e->up_p, x, e->dim, r, scratch, up);
    return st == OM_OK ? st : fail(err, st, "a forged update would not encode");
}

static void cut_to(const fl_env *e, float *v, double most)
{
    double square = 0;
    for (size_t i = 0; i < e->dim; i++)
        square += (double)v[i] * (double)v[i];
    double norm = sqrt(square);
    for (size_t i = 0; norm > most && i < e->dim; i++)
        v[i] = (float)((double)v[i] * (most / norm));
}

om_status grad_recv_kept(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                         const uint8_t *up, size_t up_n, bool scaled, double clip,
                         arena scratch, om_err *err)
{
    bool robust = average_is_robust(e);
    float scale = scaled ? (float)codec_scale(e->up, e->up_p, e->dim) : 1;
    float *row = NULL, *sum = average_vector(e, server, 1);
    TRY(average_admit(e, server, id, samples, err));
    if (robust)
        TRY(average_row(e, server, &row, err));
    else
        row = arena_new(&scratch, float, e->dim);
    TRY(up_add(e, up, up_n, 1, scale, row, err));
    if (up[0] == UP_NOTHING)
        return OM_OK;
    if (clip > 0 && up[0] == UP_CODED)
        cut_to(e, row, clip);
    for (size_t i = 0; !robust && i < e->dim; i++)
        sum[i] += row[i];
    if (robust)
        average_count_row(e, server, id);
    else
        average_count(server, id, 1);
    return OM_OK;
}

om_status grad_check(const fl_env *e, uint32_t id, uint64_t samples, const uint8_t *up,
                     size_t up_n, float *zeros, om_err *err)
{
    TRY(average_check_head(e, id, samples, err));
    return up_add(e, up, up_n, 0, 1, zeros, err);
}

om_status grad_move(const fl_env *e, void *server, const float *g, double lr, arena scratch,
                    om_err *err)
{
    const float *x = average_model(e, server);
    float *next = arena_new(&scratch, float, e->dim), step = (float)lr;
    for (size_t i = 0; i < e->dim; i++)
        next[i] = x[i] - step * g[i];
    return average_accept(e, server, next, err);
}

om_status grad_track(const fl_env *e, void *server, double divisor, double lr,
                     arena scratch, om_err *err)
{
    float *sum, *g = average_vector(e, server, 2);
    float *now = arena_new(&scratch, float, e->dim);
    TRY(average_sum(e, server, divisor, &sum, err));
    if (!sum)
        return OM_OK;
    for (size_t i = 0; i < e->dim; i++)
        now[i] = g[i] + sum[i];
    TRY(grad_move(e, server, now, lr, scratch, err));
    memcpy(g, now, e->dim * sizeof(float));
    return OM_OK;
}

/* ---- coins ---- */

bool grad_shared_coin(const fl_env *e, double p, uint32_t use)
{
    rng r = rng_for(e->seed, e->round, 0, USE_COIN + use);
    return rng_unit(&r) < p;
}

bool grad_own_coin(const fl_env *e, uint32_t id, double p, uint32_t use)
{
    rng r = rng_for(e->seed, e->round, id, USE_COIN + 0x100 + use);
    return rng_unit(&r) < p;
}

uint32_t grad_throws(const fl_env *e, double p, uint32_t use)
{
    rng r = rng_for(e->seed, e->round, 0, USE_COIN + use);
    double n = p >= 1 ? 0 : floor(log(1 - rng_unit(&r)) / log1p(-p));
    return 1 + (uint32_t)(n < 1e6 ? n : 1e6);
}

double grad_omega(const fl_env *e) { return e->up->omega(e->up_p, e->dim); }
