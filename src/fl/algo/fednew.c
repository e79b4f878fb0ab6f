/* fednew.c - FedNew: Newton's direction by one step of ADMM a round; no Hessian leaves.
 *
 *     client   l_i += rho (y_i - ybar), of the round before;
 *              y_i = (hess f_i(x~) + (alpha + rho) I)^-1 (grad f_i(x) - l_i + rho ybar)
 *     server   ybar = mean_i y_i;   x -= ybar
 *
 * x~ = x every `renew` rounds, 0: the first alone (one Cholesky factor then serves).
 * Quantised: what travels is C(y_i - what of y_i was sent so far), with any codec up; as
 * identity it is y_i to a float's precision, and what was lost follows.  Both sides add
 * what was sent in double, so ybar is the mean of the y_i and the l_i add up to 0.
 *
 * Down message: x, ybar as doubles.  Up message: the codec's. */
#include "fl/second.h"

#include <math.h>

enum { ALPHA, RHO, RENEW };
enum { L_I, Y_I }; /* client vectors; then the factor, (dim, dim) doubles */
enum { YBAR };     /* server vector */
enum { FACTORED }; /* head.own */

static const param params[] = {
    [ALPHA] = {"alpha", 0.03, 0, 1e9, "added to the Hessians, with rho", NULL},
    [RHO] = {"rho", 0.3, 1e-12, 1e9, "penalty that makes the directions agree", NULL},
    [RENEW] = {"renew", 1, 0, 1e9, "rounds between Hessians; 0: one, at the start", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

/* Four packed triangles of floats hold the factor. */
static second_shape shape(const fl_env *e)
{
    (void)e;
    return (second_shape){
        .server_vectors = 1, .client_vectors = 2, .client_tris = 4, .no_matrix = true};
}

static size_t server_bytes(const fl_env *e)
{
    second_shape s = shape(e);
    return second_server_bytes(e, &s);
}

static size_t client_bytes(const fl_env *e)
{
    second_shape s = shape(e);
    return second_client_bytes(e, &s);
}

static size_t scratch_bytes(const fl_env *e)
{
    size_t d = e->dim;
    return 5 * arena_bytes(double, d) + 2 * arena_bytes(float, d) +
           arena_bytes(float, tri_size(d)) + e->up->scratch_bytes(e->up_p, d) + 64;
}

static size_t up_bound(const fl_env *e) { return e->up->bound(e->up_p, e->dim); }
static size_t down_bound(const fl_env *e) { return 16 * e->dim; }

static om_status server_open(const fl_env *e, void *server, const float *x0, om_err *err)
{
    second_shape s = shape(e);
    return second_open(e, &s, server, x0, err);
}

static om_status server_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    second_shape s = shape(e);
    second_server v = second_server_of(e, &s, server);
    TRY(second_begin(e, &s, server, down, err));
    return second_put_doubles(down, second_own(e, &v, YBAR), e->dim, err);
}

/* sum += what the message says of each number, in double. */
static om_status add(const fl_env *e, const uint8_t *in, size_t n, double *sum,
                     arena scratch, om_err *err)
{
    float *v = arena_new(&scratch, float, e->dim);
    float scale = (float)codec_scale(e->up, e->up_p, e->dim);
    TRY(e->up->decode(e->up_p, in, n, scale, v, e->dim, err));
    for (size_t i = 0; i < e->dim; i++)
        sum[i] += (double)v[i];
    return OM_OK;
}

/* a (dim, dim) = the factor of hess f_i(x) + (alpha + rho) I; g = grad f_i(x). */
static om_status factor(const fl_env *e, const fl_oracle *f, const double *x, double *loss,
                        double *g, double *a, arena scratch, om_err *err)
{
    size_t d = e->dim;
    float *h = arena_new(&scratch, float, tri_size(d));
    TRY(f->jet(f->ctx, x, loss, g, h, err));
    for (size_t i = 0; i < d; i++) {
        for (size_t j = i; j < d; j++)
            a[i * d + j] = (double)h[tri_row(d, i) + j];
        a[i * d + i] += e->p[ALPHA] + e->p[RHO];
    }
    return cholesky(a, d, NULL) ? OM_OK
                                : fail(err, OM_EARG,
                                       "fednew: the Hessian and alpha + rho = %g are not "
                                       "positive definite; raise alpha",
                                       e->p[ALPHA] + e->p[RHO]);
}

static om_status client_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                             const uint8_t *down, size_t down_n, buf *up, double *loss,
                             arena scratch, om_err *err)
{
    second_shape s = shape(e);
    client_head *head = client;
    size_t d = e->dim, from = up->len;
    double value, rho = e->p[RHO], renew = e->p[RENEW];
    double *x = arena_new(&scratch, double, 2 * d), *ybar = x + d;
    double *g = arena_new(&scratch, double, d);
    double *li = second_vector(e, client, L_I), *yi = second_vector(e, client, Y_I);
    double *a = (double *)(void *)second_tri(e, &s, client, 0);
    float *change = arena_new(&scratch, float, d);
    if (!f->jet)
        return fail(err, OM_EUNSUPPORTED,
                    "fednew needs second derivatives: model.kind quadratic, logistic or "
                    "multinomial");
    if (down_n != 16 * d)
        return fail(err, OM_EFORMAT, "the model message has %zu bytes, expected %zu",
                    down_n, 16 * d);
    TRY(second_read(down, 2 * d, x, err));
    bool due = !head->own[FACTORED] || (renew >= 1 && fmod(e->round, renew) < 0.5);
    if (due)
        TRY(factor(e, f, x, &value, g, a, scratch, err));
    else
        TRY(f->jet(f->ctx, x, &value, g, NULL, err));
    head->own[FACTORED] = 1;
    for (size_t i = 0; i < d; i++) {
        li[i] += head->answers ? rho * (yi[i] - ybar[i]) : 0;
        g[i] += rho * ybar[i] - li[i];
    }
    cholesky_solve(a, d, g);
    for (size_t i = 0; i < d; i++)
        change[i] = (float)(g[i] - yi[i]);
    if (e->up->encode(e->up_p, change, d, fl_codec_rng(e, id), scratch, up) != OM_OK)
        return fail(err, OM_EARG, "client %u: %s could not encode the direction",
                    (unsigned)id, e->up->name);
    TRY(add(e, up->data + from, up->len - from, yi, scratch, err));
    head->answers++;
    if (loss)
        *loss = value;
    return OM_OK;
}

static om_status server_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                             const uint8_t *up, size_t up_n, arena scratch, om_err *err)
{
    second_shape s = shape(e);
    second_server v = second_server_of(e, &s, server);
    TRY(average_admit(e, server, id, samples, err));
    TRY(add(e, up, up_n, v.g, scratch, err));
    average_count(server, id, 1);
    return OM_OK;
}

static om_status server_check(const fl_env *e, uint32_t id, uint64_t samples,
                              const uint8_t *up, size_t up_n, float *zeros, om_err *err)
{
    return average_check(e, id, samples, up, up_n, zeros, err);
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    second_shape s = shape(e);
    second_server v = second_server_of(e, &s, server);
    uint64_t n = average_received(server);
    double *ybar = second_own(e, &v, YBAR), *next = arena_new(&scratch, double, e->dim);
    double *x = arena_new(&scratch, double, e->dim);
    for (size_t i = 0; n && i < e->dim; i++) {
        next[i] = ybar[i] + v.g[i] / e->n_clients;
        x[i] = v.x[i] - next[i];
        if (!(fabs(next[i]) <= 1e15))
            return fail(err, OM_ELIMIT,
                        "the mean direction is %g at number %zu; the model "
                        "is kept",
                        next[i], i);
    }
    if (n == 0)
        return OM_OK;
    TRY(second_accept(e, &v, server, x, err));
    memcpy(ybar, next, e->dim * sizeof(double));
    return OM_OK;
}

const fl_algo fl_fednew = {
    .name = "fednew",
    .summary = "Newton's direction by ADMM; no Hessian leaves a client",
    .source =
        "Elgabli, Issaid, Bedi, Rajawat, Bennis, Aggarwal, ICML 2022, arXiv 2206.08829",
    .flags = FL_CLIENT_STATE | FL_EVERY_CLIENT,
    .params = params,
    .server_bytes = server_bytes,
    .client_bytes = client_bytes,
    .scratch_bytes = scratch_bytes,
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
