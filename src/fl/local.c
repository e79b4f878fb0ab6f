/* local.c - see local.h.
 *
 *     y = x;  repeat: y -= lr * (g_i(y) + mu (y - x));   D = y - x;   send C(D)
 *
 * With error feedback (Seide et al. 2014; Karimireddy et al. 2019) what the codec cut
 * off is the client's state e, and enters its next message:
 *     send c = C(D + e);  e = D + e - c
 * It is what makes a biased codec sound, and is wrong for an unbiased one, whose error
 * may be longer than the vector itself. */
#include "fl/local.h"
#include "codec/wire.h"
#include "fl/average.h"

#include <math.h>

enum { USE_SHUFFLE = 0x10000000 };
enum { FEEDBACK_AUTO, FEEDBACK_OFF, FEEDBACK_ON };

static bool feedback(const double *p, const codec *up)
{
    int mode = (int)p[LOCAL_FEEDBACK];
    return mode == FEEDBACK_ON || (mode == FEEDBACK_AUTO && !(up->flags & CODEC_UNBIASED));
}

om_status local_check(const fl_recipe *r, om_err *err)
{
    if ((int)r->p[LOCAL_FEEDBACK] == FEEDBACK_ON && !(r->up->flags & CODEC_CONTRACTIVE))
        return fail(err, OM_EARG,
                    "%s: error_feedback=on needs a contractive codec and %s is "
                    "not one; leave it at auto",
                    r->algo->name, r->up->name);
    if (r->p[LOCAL_EPOCHS] < 1 && r->p[LOCAL_STEPS] < 1)
        return fail(err, OM_EARG,
                    "%s: local_epochs and local_steps are both 0, so no client "
                    "would train",
                    r->algo->name);
    return OM_OK;
}

size_t local_client_bytes(const fl_env *e)
{
    return feedback(e->p, e->up) ? e->dim * sizeof(float) : 0;
}

/* The row of nn's table that local_optimizer names, and its parameters: those that a
 * client may set are carried over by name, the rest keep their defaults. */
static const nn_optim *optimizer(const double *p, double own[16])
{
    static const struct {
        const char *name;
        int from;
    } carried[] = {{"momentum", LOCAL_MOMENTUM}, {"weight_decay", LOCAL_DECAY}};
    const char *name = LOCAL_OPTIMIZERS;
    for (int i = (int)p[LOCAL_OPTIMIZER]; i > 0; i--)
        name = strchr(name, '|') + 1;
    const nn_optim *o = nn_optim_find((str){name, strcspn(name, "|")});
    BUG_IF(!o || param_count(o->params) > 16);
    param_defaults(o->params, own);
    for (size_t i = 0; o->params && o->params[i].name; i++)
        for (size_t j = 0; j < countof(carried); j++)
            if (strcmp(o->params[i].name, carried[j].name) == 0)
                own[i] = p[carried[j].from];
    return o;
}

static size_t optimizer_bytes(const fl_env *e)
{
    double own[16];
    return optimizer(e->p, own)->state_bytes(own, e->dim) + 64;
}

size_t local_scratch_bytes(const fl_env *e)
{
    size_t noisy = privacy_at_clients(e->privacy) ? privacy_bytes(e->dim) + 64 : 0;
    return 3 * (e->dim * sizeof(float) + 64) + optimizer_bytes(e) + noisy +
           e->up->scratch_bytes(e->up_p, e->dim);
}

/* Passes are counted in steps that see every example once on average. */
uint32_t local_private_steps(const double *p, double rate)
{
    double steps = p[LOCAL_STEPS] >= 1 ? p[LOCAL_STEPS] : p[LOCAL_EPOCHS] * ceil(1 / rate);
    return steps < 1e9 ? (uint32_t)steps : 1000000000;
}

size_t local_up_bound(const fl_env *e) { return e->up->bound(e->up_p, e->dim); }

typedef struct {
    uint64_t steps, per_epoch;
    uint32_t batch; /* 0: the full gradient */
} schedule;

static schedule schedule_of(const fl_env *e, const fl_oracle *f)
{
    schedule s = {.per_epoch = 1};
    if (privacy_at_clients(e->privacy)) {
        s.steps = local_private_steps(e->p, e->privacy->p[PRIVACY_EXAMPLE_RATE]);
        return s;
    }
    if (e->p[LOCAL_BATCH] >= 1 && f->sgrad) {
        s.batch = (uint32_t)e->p[LOCAL_BATCH];
        s.per_epoch = (f->n_samples + s.batch - 1) / s.batch;
    }
    s.steps = e->p[LOCAL_STEPS] >= 1 ? (uint64_t)e->p[LOCAL_STEPS]
                                     : (uint64_t)e->p[LOCAL_EPOCHS] * s.per_epoch;
    return s;
}

/* Names the minibatch of step t; every epoch has a shuffle of its own. */
static rng minibatch(const fl_env *e, uint32_t id, const schedule *s, uint64_t t)
{
    rng r = rng_for(e->seed, e->round, id, USE_SHUFFLE + (uint32_t)(t / s->per_epoch));
    r.ctr = t % s->per_epoch;
    return r;
}

/* May the step be left to the oracle, which saves a gradient vector's way to memory? */
static bool fused(const fl_env *e, const fl_oracle *f, const schedule *s, double mu)
{
    return f->sgd && s->batch && s->batch <= f->fused_batch && mu <= 0 &&
           e->p[LOCAL_OPTIMIZER] < 0.5 && e->p[LOCAL_CLIP] <= 0 && e->p[LOCAL_DECAY] <= 0;
}

/* g = the noisy mean of a step of DP-SGD: every example is drawn by a coin of its own, and
 * its gradient clipped alone.  The sum is divided by the number that is expected, for the
 * one that came is a secret; nobody drawn leaves noise. */
static om_status noisy_gradient(const fl_env *e, uint32_t id, const fl_oracle *f, uint64_t t,
                                const float *y, void *room, float *g, double *loss,
                                om_err *err)
{
    const privacy_rule *p = e->privacy;
    const privacy_ledger fixed = {.released = t}; /* the clipping length stays */
    privacy_step s = privacy_step_of(p, e->seed, e->round, id, t);
    float *one = privacy_update(room, e->dim);
    double sum = 0, came = 0, expected = p->p[PRIVACY_EXAMPLE_RATE] * (double)f->n_samples;
    privacy_begin(room, e->dim);
    for (uint64_t i = 0; i < f->n_samples; i++) {
        double l = 0;
        if (!privacy_drawn(p, &s))
            continue;
        rng example = rng_for(e->seed, e->round, id, USE_SHUFFLE);
        example.ctr = i;
        TRY(f->sgrad(f->ctx, y, 1, example, one, &l, err));
        privacy_add(p, &fixed, room, e->dim);
        sum += l, came++;
    }
    *loss = came > 0 ? sum / came : 0;
    return privacy_step_mean(p, &s, room, e->dim, expected, g, err);
}

static om_status gradient(const fl_env *e, uint32_t id, const fl_oracle *f,
                          const schedule *s, uint64_t t, const float *y, float *g,
                          double *loss, om_err *err)
{
    if (s->batch == 0)
        return f->grad(f->ctx, y, g, loss, err);
    return f->sgrad(f->ctx, y, s->batch, minibatch(e, id, s, t), g, loss, err);
}

om_status local_train(const fl_env *e, uint32_t id, const fl_oracle *f, double mu,
                      const float *shift, const float *x, float *y, float *g, double *loss,
                      uint64_t *steps, arena scratch, om_err *err)
{
    schedule s = schedule_of(e, f);
    double own[16], sum = 0;
    const nn_optim *o = optimizer(e->p, own);
    void *state = arena_alloc(&scratch, 1, 64, o->state_bytes(own, e->dim));
    float pull = (float)mu;
    bool noisy = privacy_at_clients(e->privacy);
    void *room = noisy ? arena_alloc(&scratch, 1, 64, privacy_bytes(e->dim)) : NULL;
    if (noisy && !f->sgrad)
        return fail(err, OM_EUNSUPPORTED,
                    "client %u: privacy.unit example needs gradients of single examples, and "
                    "this problem has only whole ones; set unit to client", (unsigned)id);
    for (uint64_t t = 0; t < s.steps; t++) {
        double l = 0;
        if (!noisy && !shift && fused(e, f, &s, mu)) {
            TRY(f->sgd(f->ctx, y, s.batch, minibatch(e, id, &s, t), e->p[LOCAL_LR], &l,
                       err));
            sum += l;
            continue;
        }
        if (noisy)
            TRY(noisy_gradient(e, id, f, t, y, room, g, &l, err));
        else
            TRY(gradient(e, id, f, &s, t, y, g, &l, err));
        sum += l;
        if (mu > 0)
            for (size_t i = 0; i < e->dim; i++)
                g[i] += pull * (y[i] - x[i]);
        for (size_t i = 0; shift && i < e->dim; i++)
            g[i] += shift[i];
        if (e->p[LOCAL_CLIP] > 0)
            nn_clip_norm(e->k, NULL, g, e->dim, e->p[LOCAL_CLIP]);
        o->step(e->k, NULL, own, state, y, g, e->dim, e->p[LOCAL_LR], t + 1);
    }
    *loss = sum / (double)s.steps;
    *steps = s.steps;
    return OM_OK;
}

om_status local_send(const fl_env *e, uint32_t id, void *client, float *delta, buf *up,
                     arena scratch, om_err *err)
{
    float *error = feedback(e->p, e->up) ? client : NULL;
    rng r = fl_codec_rng(e, id);
    if (wire_first_bad(delta, e->dim) < e->dim)
        return fail(err, OM_ELIMIT,
                    "client %u: local training left the finite numbers; lower "
                    "lr or set clip",
                    (unsigned)id);
    if (error)
        return codec_feedback(e->up, e->up_p, delta, error, e->dim, r, scratch, up, err);
    om_status s = e->up->encode(e->up_p, delta, e->dim, r, scratch, up);
    return s == OM_OK ? s
                      : fail(err, s, "client %u: %s could not encode the update",
                             (unsigned)id, e->up->name);
}

om_status local_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                     double mu, const uint8_t *down, size_t down_n, buf *up, double *loss,
                     arena scratch, om_err *err)
{
    float *x =
        arena_alloc(&scratch, sizeof(float), 64, e->dim); /* wide registers like it */
    float *y = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    float *g = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    double mean_loss = 0;
    uint64_t steps;
    if (f->dim != e->dim || f->n_samples == 0)
        return fail(err, OM_EARG,
                    "client %u has %llu samples of a problem of %zu numbers, "
                    "expected some of %zu",
                    (unsigned)id, (unsigned long long)f->n_samples, f->dim, e->dim);
    TRY(average_read(e, down, down_n, x, err));
    memcpy(y, x, e->dim * sizeof(float));
    TRY(local_train(e, id, f, mu, NULL, x, y, g, &mean_loss, &steps, scratch, err));
    for (size_t i = 0; i < e->dim; i++)
        y[i] -= x[i];
    TRY(local_send(e, id, client, y, up, scratch, err));
    if (loss)
        *loss = mean_loss;
    return OM_OK;
}

om_status local_plain_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                           const uint8_t *down, size_t down_n, buf *up, double *loss,
                           arena scratch, om_err *err)
{
    return local_step(e, id, client, f, 0, down, down_n, up, loss, scratch, err);
}

om_status local_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                     const uint8_t *up, size_t up_n, arena scratch, om_err *err)
{
    (void)scratch;
    return average_recv(e, server, id, samples, e->p[LOCAL_WEIGHTS] < 0.5, up, up_n, err);
}
