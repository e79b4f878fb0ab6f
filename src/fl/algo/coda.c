/* coda.c - AUC as a min-max problem, and local steps on it: CODA and CODASCA.
 *
 * With h the score, a and b the means it is to have on positives and negatives, and al the
 * dual variable of their distance (margin m):
 *
 *     min over w, a, b, max over al >= 0 of
 *     F = E+ (h - a)^2 + E- (h - b)^2 + 2 al (m + E- h - E+ h) - al^2
 *
 * which is the square surrogate of AUC without pairs, so that a client needs nobody else's
 * examples (Ying et al. 2016; Liu et al. 2020).  E+ over a minibatch of n is the sum over
 * its positives divided by n p, p the positives' share of the federation: an unbiased
 * estimate whatever the minibatch and the client hold, even no positive at all.  Hence F is
 * 1/(p (1-p)) times the form with p inside.
 *
 *     client:  K steps of descent in (w, a, b), of ascent in al, al kept in [0, 999];
 *              lam/2 |v - v_ref|^2 is added for v = (w, a, b) (proximal, PESG)
 *     server:  the mean of (w, a, b, al)
 *     stages:  every `stage` rounds lr /= stage_decay and v_ref = the model then; before,
 *              v_ref is the starting model
 *     codasca: each step adds c - c_i to the gradient of (w, a, b, al) alike, al's with the
 *              sign of a descent; c_i and c move as in scaffold.c, c = mean of all c_i
 *
 * Share 0 means it is not known: the first round counts labels and trains nothing, later
 * ones refine the mean of what was counted.  Source: Guo et al., ICML 2020; Yuan et al.,
 * ICML 2021. */
#include "codec/wire.h"
#include "fl/grad.h"
#include "fl/rows.h"

#include <math.h>

enum { MARGIN = LOCAL_PARAMS, SHARE, SCORE, PROX, STAGE, STAGE_DECAY };
enum { A, B, AL, NUMBERS, P = NUMBERS, REF_A, STEPS = REF_A, REF_B, COUNTED };
enum { MOST_STEPS = 1 << 24 }; /* STEPS: sent up by codasca, exact in a float */
enum { REF = 2, C, CHANGES }; /* server vectors; the last two codasca's */
_Static_assert((int)COUNTED < (int)BESIDE_MOST, "they fit");

#define OWN_PARAMS                                                                         \
    [MARGIN] = {"margin", 1, 0, 100, "wanted distance of the mean scores", NULL},          \
    [SHARE] = {"positive_share", 0, 0, 0.999, "of all examples; 0: counted", NULL},        \
    [SCORE] = {"score", 0, 0, 1, "what is ranked by", "sigmoid|linear"},                   \
    [PROX] = {"prox", 0, 0, 1e6, "pull towards the model of the last stage", NULL},        \
    [STAGE] = {"stage", 0, 0, 1e9, "rounds of a stage; 0: all", NULL},                     \
    [STAGE_DECAY] = {"stage_decay", 10, 1, 1e6, "lr is divided by it after a stage", NULL}

static const param params_coda[] = {
    FL_LOCAL_PARAMS,
    OWN_PARAMS,
    {NULL, 0, 0, 0, NULL, NULL},
};
static const param params_codasca[] = {
    FL_LOCAL_PARAMS_WEIGHING(1),
    OWN_PARAMS,
    {NULL, 0, 0, 0, NULL, NULL},
};

typedef struct {
    const fl_env *e;
    double v[NUMBERS], ref[2], shift[NUMBERS];
    double share, lr;
    bool moves;
} minmax;

static double slopes(rows_task *t, uint32_t n)
{
    minmax *m = t->ctx;
    const double *p = t->e->p;
    double weight[2] = {1 / ((1 - m->share) * n), 1 / (m->share * n)};
    double d[NUMBERS] = {0}, value = 0, apart = p[MARGIN], al = m->v[AL];
    for (uint32_t j = 0; j < n && m->moves; j++) {
        bool pos = t->at.sign[j] > 0;
        double h = (double)t->at.score[j], by = 1, w = weight[pos];
        if (p[SCORE] < 0.5) {
            h = 1 / (1 + exp(-h));
            by = h * (1 - h);
        }
        double off = h - m->v[pos ? A : B];
        t->dscore[j] = (float)(w * by * 2 * (off + (pos ? -al : al)));
        d[pos ? A : B] -= 2 * w * off;
        apart += pos ? -w * h : w * h;
        value += w * off * off;
    }
    if (!m->moves)
        return 0;
    d[AL] = -2 * (apart - al); /* as a descent */
    for (int i = 0; i < NUMBERS; i++) {
        double pull = i < AL ? p[PROX] * (m->v[i] - m->ref[i]) : 0;
        m->v[i] -= m->lr * (d[i] + pull + m->shift[i]);
    }
    m->v[AL] = fmin(fmax(m->v[AL], 0), 999);
    return value + 2 * al * apart - al * al;
}

/* ---- both ---- */

static om_status check_coda(const fl_recipe *r, om_err *err)
{
    TRY(rows_check(r, err));
    if (r->p[SHARE] > 0 && r->p[SHARE] < 1e-6)
        return fail(err, OM_EARG, "%s: positive_share is %g; 0 has it counted",
                    r->algo->name, r->p[SHARE]);
    return OM_OK;
}

static om_status check_codasca(const fl_recipe *r, om_err *err)
{
    TRY(check_coda(r, err));
    if (r->p[LOCAL_OPTIMIZER] > 0.5 || r->p[LOCAL_CLIP] > 0 || r->p[LOCAL_WEIGHTS] < 0.5)
        return fail(err, OM_EARG,
                    "codasca: its control variates are plain means of plain gradients; set "
                    "weights to equal, local_optimizer to sgd and clip to 0");
    return OM_OK;
}

static double lr_of(const fl_env *e)
{
    double stages = e->p[STAGE] >= 1 ? floor(e->round / e->p[STAGE]) : 0;
    return e->p[LOCAL_LR] / pow(e->p[STAGE_DECAY], stages);
}

/* Down: x, the reference if there is a pull, codasca's c; a, b, al, share, refs of a, b. */
enum { DOWN_NUMBERS = COUNTED };

static uint32_t down_vectors(const fl_env *e, bool sca)
{
    return 1 + (e->p[PROX] > 0) + (uint32_t)sca;
}

static size_t bytes_down(const fl_env *e, bool sca)
{
    return 4 * (e->dim * down_vectors(e, sca) + DOWN_NUMBERS + (sca ? NUMBERS : 0));
}

static uint32_t up_numbers(bool sca) { return sca ? STEPS + 1 : P + 1; }
static uint32_t own_vectors(bool sca) { return sca ? 3 : 1; }

/* codasca's c and changes for a, b and al: behind the rest, as a beside of their own. */
static beside *controls(const fl_env *e, void *server)
{
    return beside_of(e, server, own_vectors(true)) + 1;
}

static size_t server_size(const fl_env *e, bool sca)
{
    return beside_bytes(e, own_vectors(sca)) + (sca ? size_align(sizeof(beside), 64) : 0);
}

static om_status open_as(const fl_env *e, void *server, const float *x0, bool sca,
                         om_err *err)
{
    TRY(average_open(e, server, x0, err));
    memcpy(average_vector(e, server, REF), x0, e->dim * sizeof(float));
    beside_of(e, server, own_vectors(sca))->value[P] = (float)e->p[SHARE];
    return OM_OK;
}

static om_status begin_as(const fl_env *e, void *server, buf *down, bool sca, om_err *err)
{
    beside *b = beside_of(e, server, own_vectors(sca));
    uint32_t dim = (uint32_t)e->dim;
    if (sca && average_received(server))
        memset(average_vector(e, server, CHANGES), 0, e->dim * sizeof(float));
    memset(b->sum, 0, sizeof(b->sum));
    TRY(average_begin(e, server, down, err));
    if (e->p[PROX] > 0)
        TRY(beside_put(down, average_vector(e, server, REF), dim, err));
    if (sca)
        TRY(beside_put(down, average_vector(e, server, C), dim, err));
    TRY(beside_put(down, b->value, DOWN_NUMBERS, err));
    if (!sca)
        return OM_OK;
    memset(controls(e, server)->sum, 0, sizeof(b->sum));
    return beside_put(down, controls(e, server)->value, NUMBERS, err);
}

static size_t scratch_of(const fl_env *e)
{
    return local_scratch_bytes(e) + rows_scratch_bytes(e) +
           5 * (e->dim * sizeof(float) + 64) + 64;
}

typedef struct {
    float *x, *ref, *c;      /* (dim) */
    float number[DOWN_NUMBERS], control[NUMBERS];
} told;

static om_status read_down(const fl_env *e, const uint8_t *down, size_t n, bool sca,
                           told *t, om_err *err)
{
    uint32_t dim = (uint32_t)e->dim;
    if (n != bytes_down(e, sca))
        return fail(err, OM_EFORMAT, "the model message has %zu bytes, expected %zu", n,
                    bytes_down(e, sca));
    TRY(beside_read(down, n, dim, t->x, err));
    down += 4 * e->dim;
    if (e->p[PROX] > 0) {
        TRY(beside_read(down, n, dim, t->ref, err));
        down += 4 * e->dim;
    }
    if (sca) {
        TRY(beside_read(down, n, dim, t->c, err));
        down += 4 * e->dim;
    }
    TRY(beside_read(down, n, DOWN_NUMBERS, t->number, err));
    return sca ? beside_read(down + 4 * DOWN_NUMBERS, n, NUMBERS, t->control, err) : OM_OK;
}

/* codasca: c_i += -c - D / (K lr), for the model by what was decoded, for a, b, al. */
static om_status move_control(const fl_env *e, float *own, float *few, const told *t,
                              const double *moved, uint64_t steps, const uint8_t *sent,
                              size_t n, om_err *err)
{
    double part = 1 / ((double)steps * lr_of(e));
    for (size_t i = 0; i < e->dim; i++)
        own[i] -= t->c[i];
    for (int i = 0; i < NUMBERS; i++)
        few[i] -= t->control[i] + (float)(part * (double)(float)moved[i]);
    return e->up->decode(e->up_p, sent, n, -(float)part, own, e->dim, err);
}

static om_status step_as(const fl_env *env, uint32_t id, void *client, const fl_oracle *f,
                         const uint8_t *down, size_t n, buf *up, double *loss,
                         arena scratch, bool sca, om_err *err)
{
    fl_env now = *env; /* the stage's lr */
    double p[STAGE_DECAY + 1], mean;
    memcpy(p, env->p, sizeof(p));
    p[LOCAL_LR] = lr_of(env);
    now.p = p;
    const fl_env *e = &now;
    told t = {.x = arena_new(&scratch, float, e->dim),
              .ref = arena_new(&scratch, float, e->dim),
              .c = arena_new(&scratch, float, e->dim)};
    float *y = arena_new(&scratch, float, e->dim), *g = arena_new(&scratch, float, e->dim);
    float *own = sca ? client_vector(e, client, 0) : NULL;
    float *few = sca ? client_vector(e, client, 1) : NULL;
    uint64_t steps;
    uint32_t sent = up_numbers(sca);
    if (f->dim != e->dim || f->n_samples == 0)
        return fail(err, OM_EARG, "client %u has a problem of %zu numbers, expected %zu",
                    (unsigned)id, f->dim, e->dim);
    TRY(read_down(env, down, n, sca, &t, err));
    minmax m = {.e = e,
                .v = {(double)t.number[A], (double)t.number[B], (double)t.number[AL]},
                .ref = {(double)t.number[REF_A], (double)t.number[REF_B]},
                .share = fmin(fmax((double)t.number[P], 1e-6), 1 - 1e-6),
                .lr = p[LOCAL_LR],
                .moves = t.number[P] > 0};
    fl_oracle seen;
    rows_task task = {.e = e, .f = f, .on_scores = true, .slopes = slopes, .ctx = &m};
    TRY(rows_open(&task, &scratch, &seen, err));
    memcpy(y, t.x, e->dim * sizeof(float));
    for (size_t i = 0; sca && i < e->dim; i++)
        t.c[i] -= own[i];
    for (int i = 0; sca && i < NUMBERS; i++)
        m.shift[i] = (double)t.control[i] - (double)few[i];
    TRY(local_train(e, id, &seen, p[PROX], sca ? t.c : NULL, t.ref, y, g, &mean, &steps,
                    scratch, err));
    float number[STEPS + 1] = {0};
    double moved[NUMBERS];
    for (int i = 0; i < NUMBERS; i++) {
        number[i] = m.moves ? (float)(m.v[i] - (double)t.number[i]) : 0;
        moved[i] = (double)number[i];
    }
    number[P] = (float)((double)f->positives(f->ctx) / (double)f->n_samples);
    number[STEPS] = (float)(steps < MOST_STEPS ? steps : MOST_STEPS);
    for (size_t i = 0; i < e->dim; i++)
        y[i] = m.moves ? y[i] - t.x[i] : 0;
    size_t head = up->len;
    TRY(beside_put(up, number, sent, err));
    size_t from = up->len;
    om_status s = local_send(e, id, sca ? NULL : client, y, up, scratch, err);
    if (s != OM_OK || wire_first_bad(number, sent) < sent) {
        up->len = head;
        return s != OM_OK ? s : fail(err, OM_ELIMIT, "client %u: a, b or alpha is not "
                                     "finite; lower lr", (unsigned)id);
    }
    if (loss && m.moves)
        *loss = mean;
    if (!sca || !m.moves)
        return OM_OK;
    for (size_t i = 0; i < e->dim; i++) /* c again */
        t.c[i] += own[i];
    return move_control(e, own, few, &t, moved, steps, up->data + from, up->len - from,
                        err);
}

/* The refs of a stage that has ended: the model and the means that it ended with. */
static void next_stage(const fl_env *e, void *server, beside *b)
{
    if (e->p[STAGE] < 1 || (e->round + 1) % (uint32_t)e->p[STAGE])
        return;
    memcpy(average_vector(e, server, REF), average_model(e, server),
           e->dim * sizeof(float));
    b->value[REF_A] = b->value[A];
    b->value[REF_B] = b->value[B];
}

static om_status close_as(const fl_env *e, void *server, arena scratch, bool sca,
                          om_err *err)
{
    beside *b = beside_of(e, server, own_vectors(sca)), next = *b;
    bool moves = b->value[P] > 0;
    double weight = average_weight(server), received = (double)average_received(server);
    float *d;
    TRY(average_mean(e, server, &d, err));
    if (!d)
        return OM_OK;
    for (int i = 0; i < NUMBERS; i++)
        next.value[i] += (float)(b->sum[i] / weight);
    next.value[AL] = fminf(fmaxf(next.value[AL], 0), 999);
    if (e->p[SHARE] <= 0) {
        double k = (double)b->value[COUNTED], was = (double)b->value[P];
        next.value[P] = (float)((was * k + b->sum[P] / weight) / (k + 1));
        next.value[COUNTED] = (float)(k + 1);
        if (next.value[P] <= 0)
            next.value[COUNTED] = 0;
    }
    TRY(grad_move(e, server, d, -1, scratch, err));
    *b = next;
    if (sca && moves) {
        float *c = average_vector(e, server, C), *ch = average_vector(e, server, CHANGES);
        beside *few = controls(e, server);
        double part = 1.0 / e->n_clients, share = part * received;
        for (size_t i = 0; i < e->dim; i++)
            c[i] -= (float)(share * (double)c[i] + part * (double)ch[i]);
        for (int i = 0; i < NUMBERS; i++)
            few->value[i] -=
                (float)(share * (double)few->value[i] + part * few->sum[i]);
    }
    if (sca)
        memset(average_vector(e, server, CHANGES), 0, e->dim * sizeof(float));
    next_stage(e, server, b);
    return OM_OK;
}

/* ---- the rows ---- */

#define AS(suffix, sca)                                                                    \
    static size_t server_bytes_##suffix(const fl_env *e) { return server_size(e, sca); }   \
    static size_t down_bound_##suffix(const fl_env *e) { return bytes_down(e, sca); }      \
    static om_status open_##suffix(const fl_env *e, void *s, const float *x0, om_err *err) \
    {                                                                                      \
        return open_as(e, s, x0, sca, err);                                                \
    }                                                                                      \
    static om_status begin_##suffix(const fl_env *e, void *s, buf *down, om_err *err)      \
    {                                                                                      \
        return begin_as(e, s, down, sca, err);                                             \
    }                                                                                      \
    static om_status step_##suffix(const fl_env *e, uint32_t id, void *client,             \
                                   const fl_oracle *f, const uint8_t *down, size_t n,      \
                                   buf *up, double *loss, arena scratch, om_err *err)      \
    {                                                                                      \
        return step_as(e, id, client, f, down, n, up, loss, scratch, sca, err);            \
    }                                                                                      \
    static om_status close_##suffix(const fl_env *e, void *s, arena scratch, om_err *err)  \
    {                                                                                      \
        return close_as(e, s, scratch, sca, err);                                          \
    }
AS(coda, false)
AS(codasca, true)

static size_t up_bound_coda(const fl_env *e)
{
    return 4 * up_numbers(false) + local_up_bound(e);
}
static size_t up_bound_codasca(const fl_env *e)
{
    return 4 * up_numbers(true) + local_up_bound(e);
}
static size_t client_bytes_codasca(const fl_env *e) { return client_bytes_of(e, 1) + 64; }

/* Far-off numbers of one client would be everybody's. */
static om_status plausible(const uint8_t *up, size_t n, om_err *err)
{
    float v[P + 1];
    TRY(beside_read(up, n, P + 1, v, err));
    for (int i = 0; i < NUMBERS; i++)
        if (!(fabsf(v[i]) <= 1e6f))
            return fail(err, OM_EFORMAT, "a, b or alpha moved by %g; lower lr",
                        (double)v[i]);
    if (!(v[P] >= 0 && v[P] <= 1))
        return fail(err, OM_EFORMAT, "coda: a share of positives of %g", (double)v[P]);
    return OM_OK;
}

static om_status check_coda_message(const fl_env *e, uint32_t id, uint64_t samples,
                                    const uint8_t *up, size_t n, float *zeros, om_err *err)
{
    TRY(plausible(up, n, err));
    return beside_check(e, id, samples, up, n, up_numbers(false), zeros, err);
}

static om_status recv_coda(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                           const uint8_t *up, size_t n, arena scratch, om_err *err)
{
    (void)scratch;
    TRY(plausible(up, n, err));
    return beside_recv(e, server, own_vectors(false), up_numbers(false), id, samples, up, n,
                       err);
}

static om_status check_codasca_message(const fl_env *e, uint32_t id, uint64_t samples,
                                       const uint8_t *up, size_t n, float *zeros,
                                       om_err *err)
{
    float v[STEPS + 1];
    TRY(average_check_head(e, id, samples, err));
    TRY(plausible(up, n, err));
    TRY(beside_read(up, n, STEPS + 1, v, err));
    if (!(v[STEPS] >= 1 && v[STEPS] <= MOST_STEPS))
        return fail(err, OM_EFORMAT, "codasca: an update of %g steps", (double)v[STEPS]);
    return beside_check(e, id, samples, up, n, up_numbers(true), zeros, err);
}

static om_status recv_codasca(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                              const uint8_t *up, size_t n, arena scratch, om_err *err)
{
    float v[STEPS + 1], *changes = average_vector(e, server, CHANGES);
    size_t head = 4 * up_numbers(true);
    (void)scratch;
    TRY(average_admit(e, server, id, samples, err));
    TRY(check_codasca_message(e, id, samples, up, n, changes, err));
    TRY(beside_read(up, n, STEPS + 1, v, err));
    TRY(beside_recv(e, server, own_vectors(true), up_numbers(true), id, samples, up, n,
                    err));
    double part = 1 / ((double)v[STEPS] * lr_of(e));
    for (int i = 0; i < NUMBERS; i++)
        controls(e, server)->sum[i] += part * (double)v[i];
    return e->up->decode(e->up_p, up + head, n - head, (float)part, changes, e->dim, err);
}

#define ROW(suffix, text, more, bytes_of_client, from)                                     \
    const fl_algo fl_##suffix = {                                                          \
        .name = #suffix,                                                                   \
        .summary = text,                                                                   \
        .source = from,                                                                    \
        .flags = FL_CLIENT_STATE | FL_SCORES | (more),                                     \
        .params = params_##suffix,                                                         \
        .check = check_##suffix,                                                           \
        .server_bytes = server_bytes_##suffix,                                             \
        .client_bytes = bytes_of_client,                                                   \
        .scratch_bytes = scratch_of,                                                       \
        .up_bound = up_bound_##suffix,                                                     \
        .down_bound = down_bound_##suffix,                                                 \
        .server_open = open_##suffix,                                                      \
        .server_begin = begin_##suffix,                                                    \
        .client_step = step_##suffix,                                                      \
        .server_recv = recv_##suffix,                                                      \
        .server_check = check_##suffix##_message,                                          \
        .server_close = close_##suffix,                                                    \
        .model = average_model,                                                            \
    }

ROW(coda, "AUC: min-max by local steps on model, means and dual", 0, local_client_bytes,
    "Guo et al., ICML 2020 (CODA)");
ROW(codasca, "coda with control variates against drift", 0, client_bytes_codasca,
    "Yuan et al., ICML 2021 (CODASCA)");
