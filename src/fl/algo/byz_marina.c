/* byz_marina.c - Byz-VR-MARINA: variance-reduced differences and a robust rule for the mean.
 *
 * A coin c that all parties share falls with probability p:
 *
 *     c:      client i sends grad f_i(x+);                      g  = ARAgg(what came)
 *     not c:  client i sends Q(sg_i(x+) - sg_i(x)), the same    g += ARAgg(clip(what came))
 *             minibatch at both points;
 *     x -= lr g
 *
 * Where all data are alike, what honest clients send without c shrinks with the steps, and
 * so does the room a hostile one hides in: with a robust rule the method goes to the
 * optimum, where SGD under any rule stops at the noise of its minibatches.
 *
 *     byz-vr-marina      every client in every round; it remembers the last x
 *     byz-vr-marina-pp   a cohort a round, each of it answering with probability
 *                        `participation` without c (a coin the server can check); the
 *                        server tells both points.  A cohort may have a hostile majority
 *                        now and then, so differences are cut to clip |x+ - x| (theory:
 *                        clip = 2 L), which bounds what one bad round can do
 *
 * p = 0 means 1 / (1 + omega), times `participation`.  With the mean for a rule (and no
 * clip) byz-vr-marina is vr-marina.  Server state: x, the sum, g, the last x. */
#include "codec/wire.h"
#include "fl/grad.h"

#include <math.h>

enum { P = GRAD_PARAMS, CLIP, PARTICIPATION };
enum { LAST_X };                        /* client vector */
enum { SERVER_G = 2, SERVER_LAST = 3 }; /* server vectors */
enum { COIN = 9, COIN_PP = 10 };

#define BYZ_PARAMS                                                                         \
    [GRAD_LR] = {"lr", 0.1, 0, 1e6, "step along the estimate of the gradient", NULL},      \
    [GRAD_BATCH] = {"batch", 32, 0, 1e9, "samples of a difference; 0: all of them", NULL}, \
    [P] = {"p", 0, 0, 1, "of a round of whole gradients; 0: by the codec's omega", NULL}

static const param params[] = {
    BYZ_PARAMS,
    [CLIP] = {"clip", 0, 0, 1e9, "longest difference, in lengths of the step; 0: any",
              NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};
static const param params_pp[] = {
    BYZ_PARAMS,
    [CLIP] = {"clip", 2, 0, 1e9,
              "longest difference, in lengths of the step (theory: 2 L); 0: any", NULL},
    [PARTICIPATION] = {"participation", 1, 1e-6, 1,
                       "probability that a client of the cohort answers without the coin",
                       NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static size_t server_bytes(const fl_env *e) { return average_bytes(e, 2); }
static size_t client_bytes(const fl_env *e) { return client_bytes_of(e, 1); }
static size_t client_bytes_pp(const fl_env *e) { return client_bytes_of(e, 0); }

static bool whole(const fl_env *e, double share)
{
    double p = e->p[P] > 0 ? e->p[P] : share / (1 + grad_omega(e));
    return e->round == 0 || grad_shared_coin(e, p, COIN);
}

/* Sends the whole gradient, or the difference to that at `last`. */
static om_status send(grad_step *s, bool c, const float *last)
{
    if (c) {
        TRY(grad_full(s, s->x, s->g));
        return up_dense(s, s->g);
    }
    TRY(grad_at(s, last, 0, s->t));
    TRY(grad_at(s, s->x, 0, s->g));
    for (size_t i = 0; i < s->e->dim; i++)
        s->t[i] = s->g[i] - s->t[i];
    return up_coded(s, s->t, 1, NULL);
}

static om_status rule(grad_step *s)
{
    float *last = grad_vector(s, LAST_X);
    TRY(send(s, whole(s->e, 1) || grad_first(s), last));
    memcpy(last, s->x, s->e->dim * sizeof(float));
    return OM_OK;
}
GRAD_CLIENT(step, rule)

/* ---- partial participation: x and the last x come down ---- */

/* The client's copy of the last x, behind the scratch that every rule has. */
static size_t scratch_bytes(const fl_env *e)
{
    return grad_scratch_bytes(e) + arena_bytes(float, e->dim);
}

static size_t down_bound_pp(const fl_env *e) { return 8 * e->dim; }

static om_status begin_pp(const fl_env *e, void *server, buf *down, om_err *err)
{
    const float *last = average_vector(e, server, SERVER_LAST);
    TRY(average_begin(e, server, down, err));
    if (buf_reserve(down, 4 * e->dim) != OM_OK)
        return fail(err, OM_ENOMEM, "no room for a model of %zu numbers", e->dim);
    for (size_t i = 0; i < e->dim; i++, down->len += 4)
        wire_store_f32(down->data + down->len, last[i]);
    return OM_OK;
}

static bool drawn(const fl_env *e, uint32_t id)
{
    return whole(e, e->p[PARTICIPATION]) ||
           grad_own_coin(e, id, e->p[PARTICIPATION], COIN_PP);
}

static om_status step_pp(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                         const uint8_t *down, size_t down_n, buf *up, double *loss,
                         arena scratch, om_err *err)
{
    grad_step s = {.e = e, .id = id, .client = client, .f = f, .up = up, .err = err};
    size_t d = e->dim;
    float *x = arena_new(&scratch, float, d), *last = arena_new(&scratch, float, d);
    if (f->dim != d || f->n_samples == 0)
        return fail(err, OM_EARG,
                    "client %u has %llu samples of a problem of %zu numbers, expected some "
                    "of %zu",
                    (unsigned)id, (unsigned long long)f->n_samples, f->dim, d);
    if (down_n != 8 * d)
        return fail(err, OM_EFORMAT, "the model message has %zu bytes, expected %zu", down_n,
                    8 * d);
    TRY(average_read(e, down, 4 * d, x, err));
    TRY(average_read(e, down + 4 * d, 4 * d, last, err));
    s.x = x;
    s.g = arena_new(&scratch, float, d);
    s.t = arena_new(&scratch, float, d);
    s.scratch = scratch;
    TRY(drawn(e, id) ? send(&s, whole(e, e->p[PARTICIPATION]), last) : up_nothing(&s));
    grad_head(&s)->answers++;
    if (loss)
        *loss = s.loss;
    return OM_OK;
}

/* ---- the server ---- */

static om_status recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                      const uint8_t *up, size_t up_n, arena scratch, om_err *err)
{
    const float *x = average_model(e, server), *last = average_vector(e, server, SERVER_LAST);
    double square = 0, clip = 0;
    for (size_t i = 0; e->p[CLIP] > 0 && i < e->dim; i++)
        square += ((double)x[i] - (double)last[i]) * ((double)x[i] - (double)last[i]);
    if (square > 0)
        clip = e->p[CLIP] * sqrt(square);
    return grad_recv_kept(e, server, id, samples, up, up_n, false, clip, scratch, err);
}

/* Who was not drawn is not heard. */
static om_status recv_pp(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                         const uint8_t *up, size_t up_n, arena scratch, om_err *err)
{
    const uint8_t nothing = UP_NOTHING;
    if (!drawn(e, id))
        return recv(e, server, id, samples, &nothing, 1, scratch, err);
    return recv(e, server, id, samples, up, up_n, scratch, err);
}

static om_status close_round(const fl_env *e, void *server, bool c, arena scratch,
                             om_err *err)
{
    float *mean, *g = average_vector(e, server, SERVER_G);
    float *now = arena_new(&scratch, float, e->dim), *x = arena_new(&scratch, float, e->dim);
    size_t bytes = e->dim * sizeof(float);
    TRY(average_mean(e, server, &mean, err));
    if (!mean)
        return OM_OK;
    for (size_t i = 0; i < e->dim; i++)
        now[i] = (c ? 0 : g[i]) + mean[i];
    memcpy(x, average_model(e, server), bytes);
    TRY(grad_move(e, server, now, e->p[GRAD_LR], scratch, err));
    memcpy(average_vector(e, server, SERVER_LAST), x, bytes);
    memcpy(g, now, bytes);
    return OM_OK;
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    return close_round(e, server, whole(e, 1), scratch, err);
}

static om_status close_pp(const fl_env *e, void *server, arena scratch, om_err *err)
{
    return close_round(e, server, whole(e, e->p[PARTICIPATION]), scratch, err);
}

const fl_algo fl_byz_vr_marina = {
    .name = "byz-vr-marina",
    .summary = "VR-MARINA under a robust aggregator",
    .source = "Gorbunov, Horvath, Richtarik, Gidel, ICLR 2023, arXiv 2206.00529",
    .flags = FL_CLIENT_STATE | FL_NEEDS_UNBIASED | FL_EVERY_CLIENT | FL_ROBUST,
    .params = params,
    .server_bytes = server_bytes,
    .client_bytes = client_bytes,
    .scratch_bytes = scratch_bytes,
    .up_bound = up_bound_of,
    .down_bound = average_down_bound,
    .server_open = average_open,
    .server_begin = average_begin,
    .client_step = step,
    .server_recv = recv,
    .server_check = grad_check,
    .server_close = server_close,
    .model = average_model,
    .up_read = grad_up_read,
    .up_write = grad_up_write,
};

const fl_algo fl_byz_vr_marina_pp = {
    .name = "byz-vr-marina-pp",
    .summary = "the same with absent clients, differences clipped",
    .source = "Malinovsky, Gorbunov, Horvath, Richtarik, NeurIPS 2024, arXiv 2311.14127",
    .flags = FL_CLIENT_STATE | FL_NEEDS_UNBIASED | FL_ROBUST,
    .params = params_pp,
    .server_bytes = server_bytes,
    .client_bytes = client_bytes_pp,
    .scratch_bytes = scratch_bytes,
    .up_bound = up_bound_of,
    .down_bound = down_bound_pp,
    .server_open = average_open,
    .server_begin = begin_pp,
    .client_step = step_pp,
    .server_recv = recv_pp,
    .server_check = grad_check,
    .server_close = close_pp,
    .model = average_model,
    .up_read = grad_up_read,
    .up_write = grad_up_write,
};
