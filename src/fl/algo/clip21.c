/* clip21.c - Clip21: error feedback for clipping, so that clipping leaves no bias.
 *
 *     client i:  v_i = (1 - eta) v_i + eta sg_i(x);  c_i = clip(v_i - g_i, tau);
 *                g_i += c_i;  sends c_i
 *     server:    g += D,  D = (1/n) sum c_i, noised where there is privacy;  x -= lr g
 *
 * Clipping the gradients themselves stops where the clipped ones cancel; here what is cut
 * off comes with the next messages, each g_i catches up with its gradient in finitely many
 * rounds, and clipping is then idle.  Private, the noise goes over the mean of the c_i,
 * whose length is tau at most: max_grad_norm stands for tau, and the accounting is that of
 * any clipped sum.  The noise adds up in g, so `rounds` should be few or eta small.
 *
 * g is the mean of the g_i while everyone takes part, which it demands. Server state: x,
 * the sum, g. */
#include "codec/wire.h"
#include "fl/grad.h"

#include <math.h>

enum { TAU = GRAD_PARAMS, ETA };
enum { G, V };         /* client vectors */
enum { SERVER_G = 2 }; /* server vector */

static const param params[] = {
    FL_GRAD_PARAMS,
    [TAU] = {"tau", 1, 1e-12, 1e12, "longest message; with privacy max_grad_norm", NULL},
    [ETA] = {"eta", 1, 1e-6, 1, "new part of the client's momentum", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static size_t client_bytes(const fl_env *e) { return client_bytes_of(e, 2); }
static size_t server_bytes(const fl_env *e) { return average_bytes(e, 1); }
static size_t up_bound(const fl_env *e) { return e->up->bound(e->up_p, e->dim); }

static double tau_of(const fl_env *e)
{
    return privacy_at_server(e->privacy) ? e->privacy->p[PRIVACY_CLIP] : e->p[TAU];
}

static om_status check(const fl_recipe *r, om_err *err)
{
    if (!(r->up->flags & CODEC_UNBIASED))
        return fail(err, OM_EARG, "clip21: a codec that keeps a part would be cut twice; "
                                  "choose identity, natural or qsgd");
    if (privacy_at_clients(&r->privacy))
        return fail(err, OM_EARG, "clip21: privacy.unit example needs local training; "
                                  "nearest: fedavg");
    if (r->privacy.on && r->privacy.p[PRIVACY_QUANTILE] > 0)
        return fail(err, OM_EARG, "clip21: its clients clip by a length that stays; set "
                                  "privacy.clip_quantile to 0");
    return OM_OK;
}

static om_status rule(grad_step *s)
{
    const fl_env *e = s->e;
    float *g = grad_vector(s, G), *v = grad_vector(s, V), eta = (float)e->p[ETA];
    double square = 0, tau = tau_of(e);
    size_t from = s->up->len;
    TRY(grad_at(s, s->x, 0, s->g));
    if (wire_first_bad(s->g, e->dim) < e->dim)
        return fail(s->err, OM_ELIMIT, "client %u: the gradient is not finite; lower lr",
                    (unsigned)s->id);
    for (size_t i = 0; i < e->dim; i++) {
        v[i] = grad_first(s) ? s->g[i] : (1 - eta) * v[i] + eta * s->g[i];
        s->t[i] = v[i] - g[i];
        square += (double)s->t[i] * (double)s->t[i];
    }
    double norm = sqrt(square);
    for (size_t i = 0; norm > tau && i < e->dim; i++)
        s->t[i] = (float)((double)s->t[i] * (tau / norm));
    om_status st =
        e->up->encode(e->up_p, s->t, e->dim, fl_codec_rng(e, s->id), s->scratch, s->up);
    if (st != OM_OK)
        return fail(s->err, st, "client %u: %s could not encode the update",
                    (unsigned)s->id, e->up->name);
    grad_head(s)->sent++;
    return e->up->decode(e->up_p, s->up->data + from, s->up->len - from, 1, g, e->dim,
                         s->err);
}
GRAD_CLIENT(client_step, rule)

static om_status recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                      const uint8_t *up, size_t up_n, arena scratch, om_err *err)
{
    (void)scratch;
    return average_recv(e, server, id, samples, false, up, up_n, err);
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    float *mean, *g = average_vector(e, server, SERVER_G);
    float *now = arena_new(&scratch, float, e->dim);
    TRY(average_mean(e, server, &mean, err));
    if (!mean)
        return OM_OK;
    for (size_t i = 0; i < e->dim; i++)
        now[i] = g[i] + mean[i];
    TRY(grad_move(e, server, now, e->p[GRAD_LR], scratch, err));
    memcpy(g, now, e->dim * sizeof(float));
    return OM_OK;
}

const fl_algo fl_clip21 = {
    .name = "clip21",
    .summary = "error feedback for clipping, private or not",
    .source = "Khirirat, Gorbunov, Horvath, Islamov, Karray, Richtarik 2023, arXiv 2305.18929",
    .flags = FL_CLIENT_STATE | FL_EVERY_CLIENT | FL_PRIVATE,
    .params = params,
    .check = check,
    .server_bytes = server_bytes,
    .client_bytes = client_bytes,
    .scratch_bytes = grad_scratch_bytes,
    .up_bound = up_bound,
    .down_bound = average_down_bound,
    .server_open = average_open,
    .server_begin = average_begin,
    .client_step = client_step,
    .server_recv = recv,
    .server_check = average_check,
    .server_norm = average_norm,
    .server_close = server_close,
    .model = average_model,
};
