/* threepc.c - 3PC: three-point compressors, one method for lazy and compressed gradients.
 *
 *     x -= lr mean_i g_i;     g_i = C_{h,y}(z)   with h the g_i of before, y and z the
 *                                               gradients of f_i at the last x and at x
 *
 *     lag      z if |z - h|^2 > zeta |z - y|^2, else h             (whole gradients,
 * lazily) clag     h + C(z - h) if |z - h|^2 > zeta |z - y|^2, else h 3pc-v1   y + C(z - y)
 * (y has to travel too: whole vectors, for comparison) 3pc-v2   b + C(z - b),   b = h + Q(z
 * - y)                     Q: `second`, unbiased 3pc-v3   b + C(z - b),   b = the clag
 * above with C2            C2: `second` 3pc-v4   b + C(z - b),   b = h + C2(z - h) C2:
 * `second` 3pc-v5   z with probability p, by a coin that all share, else h + C(z - y)
 *
 * C is the codec up.  Every C_{h,y} keeps E|C_{h,y}(z) - z|^2 <= (1 - A) |h - y|^2 +
 * B |z - y|^2, which is all that theory asks: lr = 1 / (L + L~ sqrt(B / A)).  First
 * messages are whole gradients.  A client that decides for h sends one byte.
 *
 * Up message of v2 to v4: byte 3, length of the second codec's message as u32, that
 * message, then the codec's. */
#include "fl/side.h"
#include "codec/wire.h"

enum { ZETA = GRAD_PARAMS, P, SECOND, SECOND_RATIO };
enum { G, Y }; /* client vectors */
enum { COIN = 2, USE_SECOND = 0x33000000, UP_TWO = UP_CODED + 1 };

#define THREEPC_PARAMS(second)                                                             \
    {                                                                                      \
        FL_GRAD_PARAMS, [ZETA] = {"zeta", 1, 0, 1e9, "trigger of lag, clag and v3", NULL}, \
                        [P] = {"p", 0.1, 1e-6, 1, "of v5's whole gradients", NULL},        \
                        [SECOND] =                                                         \
                            {"second",   second, 0, 5, "the other codec of v2 to v4",      \
                             SIDE_CODECS},                                                 \
                        [SECOND_RATIO] =                                                   \
                            {"second_ratio", 0.1, 1e-9, 1, "its ratio", NULL},             \
                        {NULL, 0, 0, 0, NULL, NULL},                                       \
    }

static const param params[] = THREEPC_PARAMS(SIDE_TOPK);
static const param params_v2[] = THREEPC_PARAMS(SIDE_RANDK);

static side_codec second(const fl_env *e)
{
    return side_of(e->p[SECOND], e->p[SECOND_RATIO]);
}

static size_t client_bytes(const fl_env *e) { return client_bytes_of(e, 2); }
static size_t server_bytes(const fl_env *e) { return average_bytes(e, 1); }

static size_t up_bound(const fl_env *e)
{
    side_codec c = second(e);
    return up_bound_of(e) + 4 + c.c->bound(c.p, e->dim);
}

static size_t scratch_bytes(const fl_env *e)
{
    side_codec c = second(e);
    return grad_scratch_bytes(e) + 2 * arena_bytes(float, e->dim) +
           c.c->scratch_bytes(c.p, e->dim);
}

static double apart(const float *a, const float *b, size_t d)
{
    double s = 0;
    for (size_t i = 0; i < d; i++)
        s += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return s;
}

static float scale_of(const fl_env *e)
{
    return (float)codec_scale(e->up, e->up_p, e->dim);
}

/* t = a - b */
static const float *minus(grad_step *s, const float *a, const float *b)
{
    for (size_t i = 0; i < s->e->dim; i++)
        s->t[i] = a[i] - b[i];
    return s->t;
}

/* The gradient at x into g.  True when the step is done: the first message is sent. */
static om_status begin(grad_step *s, bool *done)
{
    size_t bytes = s->e->dim * sizeof(float);
    TRY(grad_at(s, s->x, 0, s->g));
    *done = grad_first(s);
    if (!*done)
        return OM_OK;
    memcpy(grad_vector(s, G), s->g, bytes);
    memcpy(grad_vector(s, Y), s->g, bytes);
    return up_dense(s, s->g);
}

/* The last line of every rule: this gradient is the next round's y. */
static om_status end(grad_step *s, om_status st)
{
    memcpy(grad_vector(s, Y), s->g, s->e->dim * sizeof(float));
    return st;
}

static bool trigger(grad_step *s)
{
    size_t d = s->e->dim;
    return apart(s->g, grad_vector(s, G), d) >
           s->e->p[ZETA] * apart(s->g, grad_vector(s, Y), d);
}

/* g_i += v, sent as it is. */
static om_status send_whole(grad_step *s, const float *v)
{
    float *g = grad_vector(s, G);
    for (size_t i = 0; i < s->e->dim; i++)
        g[i] += v[i];
    return up_dense(s, v);
}

/* g_i becomes b + C(z - b) with b = g_i + C2(v); v NULL: b = g_i. */
static om_status send_two(grad_step *s, const float *v)
{
    const fl_env *e = s->e;
    side_codec c = second(e);
    float *g = grad_vector(s, G);
    size_t at = s->up->len + 1;
    rng r = rng_for(e->seed, e->round, s->id, USE_SECOND);
    if (wire_first_bad(s->g, e->dim) < e->dim)
        return fail(s->err, OM_ELIMIT, "client %u: the gradient is not finite",
                    (unsigned)s->id);
    TRY(buf_u8(s->up, UP_TWO));
    TRY(buf_u32(s->up, 0));
    if (v) {
        TRY(c.c->encode(c.p, v, e->dim, r, s->scratch, s->up));
        TRY(side_add(e, &c, s->up->data + at + 4, s->up->len - at - 4, g, s->err));
        wire_store(s->up->data + at, (uint32_t)(s->up->len - at - 4));
    }
    size_t from = s->up->len;
    TRY(e->up->encode(e->up_p, minus(s, s->g, g), e->dim, fl_codec_rng(e, s->id),
                      s->scratch, s->up));
    grad_head(s)->sent++;
    return e->up->decode(e->up_p, s->up->data + from, s->up->len - from, scale_of(e), g,
                         e->dim, s->err);
}

/* ---- the rules ---- */

static om_status rule_lag(grad_step *s)
{
    bool done;
    TRY(begin(s, &done));
    if (done)
        return OM_OK;
    return end(s, trigger(s) ? send_whole(s, minus(s, s->g, grad_vector(s, G)))
                             : up_nothing(s));
}

static om_status rule_clag(grad_step *s)
{
    bool done;
    float *g = grad_vector(s, G);
    TRY(begin(s, &done));
    if (done)
        return OM_OK;
    return end(s, trigger(s) ? up_coded(s, minus(s, s->g, g), scale_of(s->e), g)
                             : up_nothing(s));
}

static om_status rule_v1(grad_step *s)
{
    const fl_env *e = s->e;
    bool done;
    float *g = grad_vector(s, G), *next = arena_new(&s->scratch, float, e->dim);
    buf skipped = buf_growing(up_bound_of(e) + 1), *up = s->up;
    TRY(begin(s, &done));
    if (done)
        return OM_OK;
    memcpy(next, grad_vector(s, Y), e->dim * sizeof(float));
    s->up = &skipped; /* C's message does not travel: its result does */
    om_status st = up_coded(s, minus(s, s->g, next), scale_of(e), next);
    s->up = up;
    buf_free(&skipped);
    TRY(st);
    return end(s, send_whole(s, minus(s, next, g)));
}

static om_status rule_v2(grad_step *s)
{
    bool done;
    TRY(begin(s, &done));
    return done ? OM_OK : end(s, send_two(s, minus(s, s->g, grad_vector(s, Y))));
}

static om_status rule_v3(grad_step *s)
{
    bool done;
    TRY(begin(s, &done));
    if (done)
        return OM_OK;
    return end(s, send_two(s, trigger(s) ? minus(s, s->g, grad_vector(s, G)) : NULL));
}

static om_status rule_v4(grad_step *s)
{
    bool done;
    TRY(begin(s, &done));
    return done ? OM_OK : end(s, send_two(s, minus(s, s->g, grad_vector(s, G))));
}

static om_status rule_v5(grad_step *s)
{
    bool done;
    float *g = grad_vector(s, G);
    TRY(begin(s, &done));
    if (done)
        return OM_OK;
    if (grad_shared_coin(s->e, s->e->p[P], COIN))
        return end(s, send_whole(s, minus(s, s->g, g)));
    return end(s, up_coded(s, minus(s, s->g, grad_vector(s, Y)), scale_of(s->e), g));
}

GRAD_CLIENT(step_lag, rule_lag)
GRAD_CLIENT(step_clag, rule_clag)
GRAD_CLIENT(step_v1, rule_v1)
GRAD_CLIENT(step_v2, rule_v2)
GRAD_CLIENT(step_v3, rule_v3)
GRAD_CLIENT(step_v4, rule_v4)
GRAD_CLIENT(step_v5, rule_v5)

/* ---- the server ---- */

/* Where the two parts of a message of two codecs are. */
static om_status cut(const uint8_t *up, size_t n, size_t *first, om_err *err)
{
    if (n < 5 || wire_load(up + 1) > n - 5)
        return fail(err, OM_EFORMAT, "an update of %zu bytes does not hold its first part",
                    n);
    *first = wire_load(up + 1);
    return OM_OK;
}

static om_status server_check(const fl_env *e, uint32_t id, uint64_t samples,
                              const uint8_t *up, size_t n, float *zeros, om_err *err)
{
    side_codec c = second(e);
    size_t first = 0;
    if (n == 0 || up[0] != UP_TWO)
        return grad_check(e, id, samples, up, n, zeros, err);
    TRY(average_check_head(e, id, samples, err));
    TRY(cut(up, n, &first, err));
    if (first)
        TRY(c.c->decode(c.p, up + 5, first, 0, zeros, e->dim, err));
    return e->up->decode(e->up_p, up + 5 + first, n - 5 - first, 0, zeros, e->dim, err);
}

static om_status server_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                             const uint8_t *up, size_t n, arena scratch, om_err *err)
{
    side_codec c = second(e);
    float *sum = average_vector(e, server, 1);
    size_t first = 0;
    if (n == 0 || up[0] != UP_TWO)
        return grad_recv_scaled(e, server, id, samples, up, n, scratch, err);
    TRY(average_admit(e, server, id, samples, err));
    TRY(server_check(e, id, samples, up, n, sum, err)); /* both parts, before adding one */
    TRY(cut(up, n, &first, err));
    if (first)
        TRY(side_add(e, &c, up + 5, first, sum, err));
    TRY(e->up->decode(e->up_p, up + 5 + first, n - 5 - first, scale_of(e), sum, e->dim,
                      err));
    average_count(server, id, 1);
    return OM_OK;
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    return grad_track(e, server, e->n_clients, e->p[GRAD_LR], scratch, err);
}

static om_status check_lag(const fl_recipe *r, om_err *err)
{
    if (strcmp(r->up->name, "identity") == 0)
        return OM_OK;
    return fail(err, OM_EARG,
                "lag sends whole gradients, so its codec is identity; with %s choose clag",
                r->up->name);
}

static om_status check_v2(const fl_recipe *r, om_err *err)
{
    side_codec c = side_of(r->p[SECOND], r->p[SECOND_RATIO]);
    if (c.c->flags & CODEC_UNBIASED)
        return OM_OK;
    return fail(err, OM_EARG,
                "3pc-v2 needs an unbiased second codec and %s is not one; choose second = "
                "randk, natural or qsgd, or 3pc-v4",
                c.c->name);
}

#define THREEPC_ROW(symbol, name_, summary_, params_, check_, step_)                       \
    const fl_algo symbol = {                                                               \
        .name = name_,                                                                     \
        .summary = summary_,                                                               \
        .source = "Richtarik, Sokolov, Fatkhullin, Gasanov, ICML 2022, arXiv 2202.00998",  \
        .flags = FL_CLIENT_STATE,                                                          \
        .params = params_,                                                                 \
        .check = check_,                                                                   \
        .server_bytes = server_bytes,                                                      \
        .client_bytes = client_bytes,                                                      \
        .scratch_bytes = scratch_bytes,                                                    \
        .up_bound = up_bound,                                                              \
        .down_bound = average_down_bound,                                                  \
        .server_open = average_open,                                                       \
        .server_begin = average_begin,                                                     \
        .client_step = step_,                                                              \
        .server_recv = server_recv,                                                        \
        .server_check = server_check,                                                      \
        .server_close = server_close,                                                      \
        .model = average_model,                                                            \
    }

THREEPC_ROW(fl_lag, "lag", "whole gradients, only when they changed enough", params,
            check_lag, step_lag);
THREEPC_ROW(fl_clag, "clag", "EF21, only when the gradient changed enough", params, NULL,
            step_clag);
THREEPC_ROW(fl_3pc_v1, "3pc-v1", "compressed differences to the last gradient", params,
            NULL, step_v1);
THREEPC_ROW(fl_3pc_v2, "3pc-v2", "an unbiased codec, then a contractive one", params_v2,
            check_v2, step_v2);
THREEPC_ROW(fl_3pc_v3, "3pc-v3", "a lazy codec, then another", params, NULL, step_v3);
THREEPC_ROW(fl_3pc_v4, "3pc-v4", "two contractive codecs, one after the other", params,
            NULL, step_v4);
THREEPC_ROW(fl_3pc_v5, "3pc-v5", "MARINA's coin with a contractive codec", params, NULL,
            step_v5);
