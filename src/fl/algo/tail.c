/* tail.c - the worst part instead of the mean: CVaR and KL-DRO, over all examples or over
 * clients (a client is then a group, and the objective is fairness between groups).
 *
 *     cvar      min over c of  c + mean (l - c)_+ / alpha     the mean of the worst alpha
 *               weight of l:  1[l > c] / alpha;   c -= tail_lr (1 - mean weight)
 *     kl-dro    lam log mean exp(l / lam)
 *               weight of l:  exp(l / lam) / u;   u = (1 - gamma) u + gamma mean exp(l/lam)
 *
 * l is an example's loss, or (over=clients) the mean loss f_i of a client at the round's
 * model.  The server keeps the one number (c, or log u), clients send the mean weight that
 * they saw beside their update.  alpha = 1 and lam to infinity give the mean; alpha to 0
 * and lam to 0 the largest.
 *
 *     over=examples   a step's gradient is the mean over the minibatch of weight * grad l
 *     over=clients    fedavg's local training, counted by weight times what the client
 *                     counts for; clients of weight 0 need not train
 *
 * In the first round every weight is 1 and c and u are as the clients find them.
 * Source: Rockafellar & Uryasev 2000; Qi et al., NeurIPS 2021; Laguel et al. 2021. */
#include "codec/wire.h"
#include "fl/grad.h"
#include "fl/rows.h"

#include <math.h>

enum { OVER = LOCAL_PARAMS, PART, SPEED };
enum { NUMBER, STARTED, NUMBERS };       /* down: c or log u; has it been set? */
enum { WEIGHT, LEVEL, UP_NUMBERS };      /* up: mean weight; mean of l or log mean exp */
enum { MOST_EXPONENT = 30 };             /* of a weight: one example is not everything */

#define LAYOUT FL_LOCAL_PARAMS, [OVER] = {"over", 0, 0, 1, "what has a tail",               \
                                          "examples|clients"}
static const param params_cvar[] = {
    LAYOUT,
    [PART] = {"alpha", 0.1, 1e-6, 1, "the worst part that counts; 1: all", NULL},
    [SPEED] = {"tail_lr", 0.05, 0, 1e6, "step of the threshold", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};
static const param params_kl_dro[] = {
    LAYOUT,
    [PART] = {"lambda", 1, 1e-6, 1e12, "temperature; large: the mean", NULL},
    [SPEED] = {"gamma", 0.5, 0, 1, "new part of the normaliser in each round", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

typedef struct {
    const double *p;
    bool kl, started;
    double number;          /* c or log u */
    double sum, level, most; /* of weights; of l, or of exp(l / lam - most) */
    uint64_t seen;
} tail;

static double weigh(const tail *t, double l)
{
    if (!t->started)
        return 1;
    if (!t->kl)
        return t->p[PART] >= 1 || l > t->number ? 1 / t->p[PART] : 0;
    return exp(fmin(l / t->p[PART] - t->number, MOST_EXPONENT));
}

/* Notes l and gives its weight. */
static double meet(tail *t, double l)
{
    double w = weigh(t, l), z = l / t->p[PART];
    t->sum += w;
    if (!t->kl)
        t->level += l;
    else if (t->seen == 0 || z > t->most) {
        t->level = (t->seen ? t->level * exp(t->most - z) : 0) + 1;
        t->most = z;
    } else
        t->level += exp(z - t->most);
    t->seen++;
    return w;
}

static double slopes(rows_task *r, uint32_t n)
{
    tail *t = r->ctx;
    double value = 0;
    for (uint32_t j = 0; j < n; j++) {
        double w = meet(t, (double)r->at.loss[j]);
        r->dloss[j] = (float)(w / n);
        value += w * (double)r->at.loss[j] / n;
    }
    return value;
}

/* ---- both rows ---- */

static om_status check(const fl_recipe *r, om_err *err)
{
    return r->p[OVER] < 0.5 ? rows_check(r, err) : local_check(r, err);
}

static size_t server_bytes(const fl_env *e) { return beside_bytes(e, 0); }
static size_t down_bound(const fl_env *e) { return 4 * (e->dim + NUMBERS); }
static size_t up_bound(const fl_env *e) { return 4 * UP_NUMBERS + local_up_bound(e); }

static size_t scratch_bytes(const fl_env *e)
{
    size_t rows = e->p[OVER] < 0.5 ? rows_scratch_bytes(e) : 0;
    return local_scratch_bytes(e) + rows + 3 * (e->dim * sizeof(float) + 64) + 64;
}

static om_status server_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    beside *b = beside_of(e, server, 0);
    memset(b->sum, 0, sizeof(b->sum));
    TRY(average_begin(e, server, down, err));
    return beside_put(down, b->value, NUMBERS, err);
}

/* The local training of a round from x to y, as the objective has it. */
static om_status train(const fl_env *e, uint32_t id, const fl_oracle *f, tail *t,
                       const float *x, float *y, float *g, double *mean, arena scratch,
                       om_err *err)
{
    uint64_t steps;
    fl_oracle seen;
    rows_task task = {.e = e, .f = f, .slopes = slopes, .ctx = t};
    if (e->p[OVER] < 0.5) {
        TRY(rows_open(&task, &scratch, &seen, err));
        return local_train(e, id, &seen, 0, NULL, x, y, g, mean, &steps, scratch, err);
    }
    om_status s = f->value ? f->value(f->ctx, x, mean, err)
                           : f->grad(f->ctx, x, g, mean, err);
    if (s == OM_OK && meet(t, *mean) > 0)
        s = local_train(e, id, f, 0, NULL, x, y, g, mean, &steps, scratch, err);
    return s;
}

static om_status step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                      const uint8_t *down, size_t n, buf *up, double *loss, arena scratch,
                      bool kl, om_err *err)
{
    float *x = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    float *y = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    float *g = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    float told[NUMBERS], number[UP_NUMBERS];
    double mean;
    if (n != down_bound(e) || f->dim != e->dim || f->n_samples == 0)
        return fail(err, OM_EFORMAT, "a model message of %zu bytes for %zu numbers", n,
                    f->dim);
    TRY(average_read(e, down, 4 * e->dim, x, err));
    TRY(beside_read(down + 4 * e->dim, n - 4 * e->dim, NUMBERS, told, err));
    tail t = {.p = e->p,
              .kl = kl,
              .started = told[STARTED] > 0,
              .number = (double)told[NUMBER]};
    memcpy(y, x, e->dim * sizeof(float));
    TRY(train(e, id, f, &t, x, y, g, &mean, scratch, err));
    double seen = (double)t.seen;
    number[WEIGHT] = (float)(t.sum / seen);
    number[LEVEL] = (float)(kl ? t.most + log(t.level / seen) : t.level / seen);
    for (size_t i = 0; i < e->dim; i++)
        y[i] -= x[i];
    if (wire_first_bad(number, UP_NUMBERS) < UP_NUMBERS)
        return fail(err, OM_ELIMIT, "client %u: its losses are not finite; lower lr",
                    (unsigned)id);
    size_t head = up->len;
    TRY(beside_put(up, number, UP_NUMBERS, err));
    om_status s = local_send(e, id, client, y, up, scratch, err);
    if (s != OM_OK)
        up->len = head;
    if (loss)
        *loss = mean;
    return s;
}

static om_status server_check(const fl_env *e, uint32_t id, uint64_t samples,
                              const uint8_t *up, size_t n, float *zeros, om_err *err)
{
    float v[UP_NUMBERS];
    TRY(average_check_head(e, id, samples, err));
    TRY(beside_read(up, n, UP_NUMBERS, v, err));
    if (!(v[WEIGHT] >= 0 && v[WEIGHT] <= 1e14f))
        return fail(err, OM_EFORMAT, "an update of weight %g", (double)v[WEIGHT]);
    return beside_check(e, id, samples, up, n, UP_NUMBERS, zeros, err);
}

/* Sums: of what a client counts for times its mean weight, its level (kl-dro: exp of it,
 * against the first one's), and, over=clients, its update with both factors. */
static om_status recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                      const uint8_t *up, size_t n, bool kl, om_err *err)
{
    beside *b = beside_of(e, server, 0);
    float v[UP_NUMBERS], *sum = average_vector(e, server, 1);
    double counts = e->p[LOCAL_WEIGHTS] < 0.5 ? (double)samples : 1;
    TRY(average_admit(e, server, id, samples, err));
    TRY(server_check(e, id, samples, up, n, sum, err));
    TRY(beside_read(up, n, UP_NUMBERS, v, err));
    double factor = e->p[OVER] < 0.5 ? 1 : (double)v[WEIGHT];
    TRY(e->up->decode(e->up_p, up + 4 * UP_NUMBERS, n - 4 * UP_NUMBERS,
                      (float)(counts * factor), sum, e->dim, err));
    double level = (double)v[LEVEL];
    if (kl && average_received(server) == 0)
        b->sum[LEVEL + 1] = level;
    if (kl)
        level = exp(fmin(level - b->sum[LEVEL + 1], 600));
    b->sum[WEIGHT] += counts * (double)v[WEIGHT];
    b->sum[LEVEL] += counts * level;
    average_count(server, id, counts);
    return OM_OK;
}

static om_status close_as(const fl_env *e, void *server, arena scratch, bool kl,
                          om_err *err)
{
    beside *b = beside_of(e, server, 0), next = *b;
    double counts = average_weight(server), weight = b->sum[WEIGHT] / counts;
    double level = b->sum[LEVEL] / counts;
    float *d;
    /* over=clients: weights sum to one among those that came */
    double divisor = e->p[OVER] < 0.5 ? counts : b->sum[WEIGHT];
    TRY(average_sum(e, server, divisor > 0 ? divisor : 1, &d, err));
    if (!d)
        return OM_OK;
    double found = kl ? log(level) + b->sum[LEVEL + 1] : level;
    if (b->value[STARTED] > 0) {
        double gamma = e->p[SPEED], was = (double)b->value[NUMBER];
        double far = fmin(fmax(found - was, -600), 600);
        found = kl ? was + log((1 - gamma) + gamma * exp(far))
                   : was - e->p[SPEED] * (1 - weight);
    }
    next.value[NUMBER] = (float)found;
    next.value[STARTED] = 1;
    TRY(grad_move(e, server, d, -1, scratch, err));
    *b = next;
    return OM_OK;
}

#define ROW(suffix, named, is_kl, text, from)                                              \
    static om_status step_##suffix(const fl_env *e, uint32_t id, void *client,             \
                                   const fl_oracle *f, const uint8_t *down, size_t n,      \
                                   buf *up, double *loss, arena scratch, om_err *err)      \
    {                                                                                      \
        return step(e, id, client, f, down, n, up, loss, scratch, is_kl, err);             \
    }                                                                                      \
    static om_status recv_##suffix(const fl_env *e, void *server, uint32_t id,             \
                                   uint64_t samples, const uint8_t *up, size_t n,          \
                                   arena scratch, om_err *err)                             \
    {                                                                                      \
        (void)scratch;                                                                     \
        return recv(e, server, id, samples, up, n, is_kl, err);                            \
    }                                                                                      \
    static om_status close_##suffix(const fl_env *e, void *server, arena scratch,          \
                                    om_err *err)                                           \
    {                                                                                      \
        return close_as(e, server, scratch, is_kl, err);                                   \
    }                                                                                      \
    const fl_algo fl_##suffix = {                                                          \
        .name = named,                                                                     \
        .summary = text,                                                                   \
        .source = from,                                                                    \
        .flags = FL_CLIENT_STATE,                                                          \
        .params = params_##suffix,                                                         \
        .check = check,                                                                    \
        .server_bytes = server_bytes,                                                      \
        .client_bytes = local_client_bytes,                                                \
        .scratch_bytes = scratch_bytes,                                                    \
        .up_bound = up_bound,                                                              \
        .down_bound = down_bound,                                                          \
        .server_open = average_open,                                                       \
        .server_begin = server_begin,                                                      \
        .client_step = step_##suffix,                                                      \
        .server_recv = recv_##suffix,                                                      \
        .server_check = server_check,                                                      \
        .server_close = close_##suffix,                                                    \
        .model = average_model,                                                            \
    }

ROW(cvar, "cvar", false, "the mean of the worst part, of examples or of clients",
    "Rockafellar & Uryasev 2000; Laguel et al. 2021");
ROW(kl_dro, "kl-dro", true, "soft worst case, of examples or of clients",
    "Qi et al., NeurIPS 2021");
