/* scaffold.c - SCAFFOLD: local training whose drift is taken off by control variates.
 *
 *     client i:  y = x;  K steps y -= lr (g_i(y) - c_i + c);   D_i = y - x
 *                c_i+ = c_i - c - D_i / (K lr)
 *     server:    x += server_lr mean_S D_i;   c += (1/n) sum_S (c_i+ - c_i)
 *
 * c is the mean of all n c_i, always.  At the optimum, with c_i = grad f_i(x*), every local
 * step stands still, however unlike the clients are: no floor beside x* as FedAvg has.
 *
 * The change of c_i follows from c, D_i and K, which the server knows, so it does not
 * travel: the way up is D_i and K alone, where the paper's has both.  With a codec both
 * sides use what was decoded.  Way down: x and c.  Clients count alike.
 * theory: lr <= 1 / (81 L K server_lr). */
#include "codec/wire.h"
#include "fl/grad.h"
#include "fl/local.h"

enum { SERVER_LR = LOCAL_PARAMS };
enum { SUM = 1, C, CHANGES }; /* server vectors; CHANGES: sum_S D_i / (K_i lr) */
enum { MOST_STEPS = 1000000000 };

static const param params[] = {
    FL_LOCAL_PARAMS_WEIGHING(1),
    [SERVER_LR] = {"server_lr", 1, 0, 1e6, "step along the mean update", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static om_status check(const fl_recipe *r, om_err *err)
{
    TRY(local_check(r, err));
    if (r->p[LOCAL_WEIGHTS] < 0.5)
        return fail(err, OM_EARG, "scaffold: clients count alike; set weights to equal");
    if (r->p[LOCAL_OPTIMIZER] > 0.5 || r->p[LOCAL_CLIP] > 0)
        return fail(err, OM_EARG,
                    "scaffold: its control variates are means of plain gradients; leave "
                    "local_optimizer at sgd and clip at 0");
    return OM_OK;
}

static size_t server_bytes(const fl_env *e) { return average_bytes(e, 2); }
static size_t client_bytes(const fl_env *e) { return client_bytes_of(e, 1); }
static size_t down_bound(const fl_env *e) { return 8 * e->dim; }
static size_t up_bound(const fl_env *e) { return 4 + local_up_bound(e); }

static size_t scratch_bytes(const fl_env *e)
{
    return local_scratch_bytes(e) + 2 * arena_bytes(float, e->dim) + 64;
}

static om_status server_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    const float *c = average_vector(e, server, C);
    if (average_received(server))
        memset(average_vector(e, server, CHANGES), 0, e->dim * sizeof(float));
    TRY(average_begin(e, server, down, err));
    if (buf_reserve(down, 4 * e->dim) != OM_OK)
        return fail(err, OM_ENOMEM, "no room for %zu control variates", e->dim);
    for (size_t i = 0; i < e->dim; i++, down->len += 4)
        wire_store_f32(down->data + down->len, c[i]);
    return OM_OK;
}

static om_status client_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                             const uint8_t *down, size_t n, buf *up, double *loss,
                             arena scratch, om_err *err)
{
    float *own = client_vector(e, client, 0), *x = arena_new(&scratch, float, e->dim);
    float *c = arena_new(&scratch, float, e->dim), *y = arena_new(&scratch, float, e->dim);
    float *g = arena_new(&scratch, float, e->dim),
          *shift = arena_new(&scratch, float, e->dim);
    double mean_loss;
    uint64_t steps;
    if (n != 8 * e->dim || f->dim != e->dim || f->n_samples == 0)
        return fail(err, OM_EFORMAT,
                    "scaffold: %zu bytes of model and control variates for %zu numbers", n,
                    e->dim);
    TRY(average_read(e, down, 4 * e->dim, x, err));
    TRY(average_read(e, down + 4 * e->dim, 4 * e->dim, c, err));
    memcpy(y, x, e->dim * sizeof(float));
    for (size_t i = 0; i < e->dim; i++)
        shift[i] = c[i] - own[i];
    TRY(local_train(e, id, f, 0, shift, x, y, g, &mean_loss, &steps, scratch, err));
    for (size_t i = 0; i < e->dim; i++)
        y[i] -= x[i];
    if (steps > MOST_STEPS || buf_u32(up, (uint32_t)steps) != OM_OK)
        return fail(err, OM_ELIMIT, "scaffold: %llu local steps",
                    (unsigned long long)steps);
    size_t from = up->len;
    TRY(local_send(e, id, client, y, up, scratch, err));
    for (size_t i = 0; i < e->dim; i++)
        own[i] -= c[i];
    if (loss)
        *loss = mean_loss;
    return e->up->decode(e->up_p, up->data + from, up->len - from,
                         -(float)(1 / ((double)steps * e->p[LOCAL_LR])), own, e->dim, err);
}

static om_status server_check(const fl_env *e, uint32_t id, uint64_t samples,
                              const uint8_t *up, size_t n, float *zeros, om_err *err)
{
    TRY(average_check_head(e, id, samples, err));
    if (n < 4 || wire_load(up) == 0 || wire_load(up) > MOST_STEPS)
        return fail(err, OM_EFORMAT, "scaffold: an update of %zu bytes and %u steps", n,
                    n < 4 ? 0 : (unsigned)wire_load(up));
    return e->up->decode(e->up_p, up + 4, n - 4, 0, zeros, e->dim, err);
}

static om_status server_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                             const uint8_t *up, size_t n, arena scratch, om_err *err)
{
    float *sum = average_vector(e, server, SUM),
          *changes = average_vector(e, server, CHANGES);
    (void)scratch;
    TRY(average_admit(e, server, id, samples, err));
    TRY(server_check(e, id, samples, up, n, sum, err));
    float part = (float)(1 / ((double)wire_load(up) * e->p[LOCAL_LR]));
    TRY(e->up->decode(e->up_p, up + 4, n - 4, 1, sum, e->dim, err));
    TRY(e->up->decode(e->up_p, up + 4, n - 4, part, changes, e->dim, err));
    average_count(server, id, 1);
    return OM_OK;
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    float *d, *c = average_vector(e, server, C),
              *changes = average_vector(e, server, CHANGES);
    double part = 1.0 / e->n_clients, share = part * (double)average_received(server);
    TRY(average_mean(e, server, &d, err));
    if (!d)
        return OM_OK;
    TRY(grad_move(e, server, d, -e->p[SERVER_LR], scratch, err));
    for (size_t i = 0; i < e->dim; i++)
        c[i] -= (float)(share * (double)c[i] + part * (double)changes[i]);
    memset(changes, 0, e->dim * sizeof(float));
    return OM_OK;
}

const fl_algo fl_scaffold = {
    .name = "scaffold",
    .summary = "local training with control variates against drift",
    .source = "Karimireddy et al., ICML 2020, arXiv 1910.06378",
    .flags = FL_CLIENT_STATE | FL_NEEDS_UNBIASED,
    .params = params,
    .check = check,
    .server_bytes = server_bytes,
    .client_bytes = client_bytes,
    .scratch_bytes = scratch_bytes,
    .up_bound = up_bound,
    .down_bound = down_bound,
    .server_open = average_open,
    .server_begin = server_begin,
    .client_step = client_step,
    .server_recv = server_recv,
    .server_check = server_check,
    .server_close = server_close,
    .model = average_model,
};
