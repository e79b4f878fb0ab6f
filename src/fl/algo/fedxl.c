/* fedxl.c - FeDXL: objectives over pairs of examples that lie on different clients.
 *
 *     auc    mean over positives i of  mean over negatives j of  l(h_i - h_j)
 *     pauc   mean_i lam log mean_j exp(l(h_i - h_j) / lam): one-way partial AUC, since large
 *            weights go to the negatives that score highest; lam to infinity is auc
 *     ap     mean_i -(mean_j 1[j positive] l_ij) / (mean_j l_ij): average precision
 *
 * l(d) = (m - d)_+^2 or log(1 + exp(-d)).  A pair needs two scores, not two examples: a
 * client's minibatch is compared with a pool of scores that all clients made in the round
 * before, so the gradient is G1 (own i, pool's j) + G2 (pool's i, own j), each with its own
 * score's gradient alone:
 *
 *     down:   x, the positives' share p, the pool (scores of positives, of negatives)
 *     client: K steps on G1 + G2;  sends its update, its share and the scores it met
 *     server: mean of the updates; the next pool is what came, in order of client, as much
 *             of each client as fits
 *
 * Where the paper compares with a few drawn scores and keeps moving averages u_i of the
 * inner means, the whole pool is compared with here and u_i is its mean: nothing to
 * remember for an example, and an error of one over the pool's size.  The first round fills
 * the pool and trains nothing.  Scores leave the device: not for runs that are to be
 * private.  Source: Guo et al., ICML 2023 (FeDXL); Qi et al., NeurIPS 2021 (SOAP); Zhu et
 * al., ICML 2022 (partial AUC). */
#include "codec/wire.h"
#include "fl/grad.h"
#include "fl/rows.h"

#include <math.h>

enum { GOAL = LOCAL_PARAMS, SURROGATE, MARGIN, SCORE, LAMBDA, POOL };
enum { AUC, PAUC, AP };
enum { SHARE, ROUNDS, NUMBERS = 1 }; /* beside the model; ROUNDS stays with the server */
enum { SIDES = 2 };                  /* negatives, positives */

static const param params[] = {
    FL_LOCAL_PARAMS,
    [GOAL] = {"objective", 0, 0, 2, "what is to be small", "auc|pauc|ap"},
    [SURROGATE] = {"surrogate", 0, 0, 1, "l of a pair", "squared-hinge|logistic"},
    [MARGIN] = {"margin", 1, 0, 100, "of the squared hinge", NULL},
    [SCORE] = {"score", 0, 0, 1, "what is ranked by", "sigmoid|linear"},
    [LAMBDA] = {"lambda", 1, 1e-3, 1e12, "pauc: small looks at the first ranks", NULL},
    [POOL] = {"pool", 512, 16, 65536, "scores of each class kept for a round", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

typedef struct {
    uint32_t n[SIDES];
} pool_head;

typedef struct {
    const fl_env *e;
    uint32_t n[SIDES];
    float *pool[SIDES]; /* scores */
    float *u, *u_all;   /* (n[1]) inner means of the pool's positives; pauc: u is the log */
    float *own[SIDES];  /* (share) ring of scores met */
    uint64_t met[SIDES];
    uint32_t room;      /* of a ring */
    double share;
    bool moves;
} pairs;

/* l(d) and its slope. */
static double pair(const double *p, double d, double *slope)
{
    if (p[SURROGATE] > 0.5) {
        double e = exp(-fabs(d));
        *slope = -(d > 0 ? e : 1) / (1 + e);
        return log1p(e) + (d > 0 ? 0 : -d);
    }
    double short_by = p[MARGIN] - d;
    *slope = short_by > 0 ? -2 * short_by : 0;
    return short_by > 0 ? short_by * short_by : 0;
}

/* What positive score h finds among the pool: u, u_all, and its own slope. */
static double inner(const pairs *q, double h, double *u, double *u_all, double *slope)
{
    const double *p = q->e->p;
    double sum[SIDES] = {0}, turn[SIDES] = {0}, s, most = 0;
    for (int side = 0; side < SIDES && (side == 0 || p[GOAL] > 1.5); side++)
        for (uint32_t j = 0; j < q->n[side]; j++) {
            double l = pair(p, h - (double)q->pool[side][j], &s), w = 1;
            if ((int)p[GOAL] == PAUC) {
                double z = l / p[LAMBDA];
                if (j == 0 || z > most) {
                    double down = j ? exp(most - z) : 0;
                    sum[0] *= down, turn[0] *= down;
                    most = z;
                }
                w = exp(z - most);
                l = 1;
            }
            sum[side] += w * l;
            turn[side] += w * s;
        }
    double neg = q->n[0] ? 1.0 / q->n[0] : 0, pos = q->n[1] ? 1.0 / q->n[1] : 0;
    if ((int)p[GOAL] == PAUC) {
        *slope = sum[0] > 0 ? turn[0] / sum[0] : 0;
        *u = sum[0] > 0 ? most + log(sum[0] * neg) : 0;
        return p[LAMBDA] * *u;
    }
    if ((int)p[GOAL] == AUC) {
        *u = sum[0] * neg;
        *slope = turn[0] * neg;
        return *u;
    }
    double part[SIDES] = {(1 - q->share) * neg, q->share * pos};
    *u = part[1] * sum[1];
    *u_all = *u + part[0] * sum[0] + 1e-12;
    double d_pos = (*u - *u_all) / (*u_all * *u_all), d_neg = *u / (*u_all * *u_all);
    *slope = part[1] * d_pos * turn[1] + part[0] * d_neg * turn[0];
    return -*u / *u_all;
}

/* The slope of an own score h of class `side` as the second of a pair. */
static double outer(const pairs *q, double h, int side)
{
    const double *p = q->e->p;
    double sum = 0, s;
    for (uint32_t i = 0; i < q->n[1]; i++) {
        double l = pair(p, (double)q->pool[1][i] - h, &s), w = 1;
        double u = (double)q->u[i], all = (double)q->u_all[i];
        if ((int)p[GOAL] == PAUC)
            w = exp(fmin(l / p[LAMBDA] - u, 30));
        if ((int)p[GOAL] == AP)
            w = (side ? q->share * (u - all) : (1 - q->share) * u) / (all * all);
        sum -= w * s;
    }
    return q->n[1] ? sum / q->n[1] : 0;
}

static double slopes(rows_task *t, uint32_t n)
{
    pairs *q = t->ctx;
    const double *p = q->e->p;
    double value = 0, u, all = 0, own;
    for (uint32_t j = 0; j < n; j++) {
        int side = t->at.sign[j] > 0;
        double h = (double)t->at.score[j], by = 1, d = 0;
        if (p[SCORE] < 0.5) {
            h = 1 / (1 + exp(-h));
            by = h * (1 - h);
        }
        q->own[side][q->met[side]++ % q->room] = (float)h;
        if (!q->moves)
            continue;
        double w = 1 / (q->share * n);
        if (side) {
            value += w * inner(q, h, &u, &all, &own);
            d = w * own;
        }
        /* as a second, weighed by its own class: for a positive that is the same w */
        if (!side)
            d += outer(q, h, 0) / ((1 - q->share) * n);
        else if ((int)p[GOAL] == AP)
            d += outer(q, h, 1) * w;
        t->dscore[j] = (float)(d * by);
    }
    return value;
}

/* ---- state and messages ---- */

static size_t pool_size(const fl_env *e) { return (size_t)e->p[POOL]; }

/* One client's part of the pool. */
static uint32_t part_of(const fl_env *e)
{
    uint32_t n = (uint32_t)pool_size(e) / (e->cohort ? e->cohort : 1);
    return n < 4 ? 4 : n;
}

static size_t pool_bytes(const fl_env *e)
{
    return size_align(sizeof(pool_head) + SIDES * pool_size(e) * sizeof(float), 64);
}

static pool_head *pool_of(const fl_env *e, void *server, int next)
{
    char *p = (char *)server + beside_bytes(e, 0) + (size_t)next * pool_bytes(e);
    return (pool_head *)(void *)p;
}

static float *scores_of(const fl_env *e, pool_head *h, int side)
{
    return (float *)(void *)(h + 1) + (size_t)side * pool_size(e);
}

static size_t server_bytes(const fl_env *e) { return beside_bytes(e, 0) + 2 * pool_bytes(e); }

static size_t down_bound(const fl_env *e)
{
    return 4 * (e->dim + NUMBERS + SIDES + SIDES * pool_size(e));
}

static size_t up_bound(const fl_env *e)
{
    return 4 * (NUMBERS + SIDES + SIDES * (size_t)part_of(e)) + local_up_bound(e);
}

static size_t scratch_bytes(const fl_env *e)
{
    return local_scratch_bytes(e) + rows_scratch_bytes(e) +
           3 * (e->dim * sizeof(float) + 64) + 4 * arena_bytes(float, pool_size(e)) +
           2 * arena_bytes(float, part_of(e)) + 64;
}

static om_status put_lists(buf *out, const uint32_t *n, float *const *list, om_err *err)
{
    for (int side = 0; side < SIDES; side++) {
        if (buf_u32(out, n[side]) != OM_OK)
            return fail(err, OM_ENOMEM, "no room for the scores");
        TRY(beside_put(out, list[side], n[side], err));
    }
    return OM_OK;
}

/* Lists of at most `most` scores at p; *used: bytes they take.  list NULL: checks alone. */
static om_status read_lists(const uint8_t *p, size_t bytes, size_t most, uint32_t *n,
                            float *const *list, size_t *used, om_err *err)
{
    size_t at = 0;
    for (int side = 0; side < SIDES; side++) {
        if (bytes - at < 4 || wire_load(p + at) > most ||
            bytes - at - 4 < 4 * (size_t)wire_load(p + at))
            return fail(err, OM_EFORMAT, "fedxl: a list of scores is cut or too long");
        n[side] = wire_load(p + at);
        at += 4;
        if (!wire_all_finite(p + at, n[side]))
            return fail(err, OM_EFORMAT, "fedxl: a score is NaN or infinite");
        for (uint32_t i = 0; list && i < n[side]; i++)
            list[side][i] = wire_load_f32(p + at + 4 * (size_t)i);
        at += 4 * (size_t)n[side];
    }
    *used = at;
    return OM_OK;
}

static om_status server_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    beside *b = beside_of(e, server, 0);
    pool_head *now = pool_of(e, server, 0);
    float *list[SIDES] = {scores_of(e, now, 0), scores_of(e, now, 1)};
    memset(b->sum, 0, sizeof(b->sum));
    memset(pool_of(e, server, 1), 0, pool_bytes(e));
    TRY(average_begin(e, server, down, err));
    TRY(beside_put(down, b->value, NUMBERS, err));
    return put_lists(down, now->n, list, err);
}

/* ---- the client ---- */

static om_status read_down(const fl_env *e, const uint8_t *down, size_t n, float *x,
                           pairs *q, om_err *err)
{
    size_t head = 4 * (e->dim + NUMBERS), used = 0;
    float share;
    if (n < head)
        return fail(err, OM_EFORMAT, "the model message has %zu bytes, expected %zu or more",
                    n, head);
    TRY(average_read(e, down, 4 * e->dim, x, err));
    TRY(beside_read(down + 4 * e->dim, n - 4 * e->dim, NUMBERS, &share, err));
    TRY(read_lists(down + head, n - head, pool_size(e), q->n, q->pool, &used, err));
    if (used != n - head)
        return fail(err, OM_EFORMAT, "the model message has %zu bytes too many",
                    n - head - used);
    q->moves = q->n[0] > 0 && q->n[1] > 0 && share > 0;
    q->share = fmin(fmax((double)share, 1e-6), 1 - 1e-6);
    return OM_OK;
}

static void pool_means(pairs *q)
{
    for (uint32_t i = 0; i < q->n[1]; i++) {
        double u = 0, all = 0, slope;
        inner(q, (double)q->pool[1][i], &u, &all, &slope);
        q->u[i] = (float)u;
        q->u_all[i] = (float)all;
    }
}

static om_status client_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                             const uint8_t *down, size_t n, buf *up, double *loss,
                             arena scratch, om_err *err)
{
    float *x = arena_new(&scratch, float, e->dim), *y = arena_new(&scratch, float, e->dim);
    float *g = arena_new(&scratch, float, e->dim);
    pairs q = {.e = e, .room = part_of(e)};
    double mean;
    uint64_t steps;
    fl_oracle seen;
    for (int side = 0; side < SIDES; side++) {
        q.pool[side] = arena_new(&scratch, float, pool_size(e));
        q.own[side] = arena_new(&scratch, float, q.room);
    }
    q.u = arena_new(&scratch, float, pool_size(e));
    q.u_all = arena_new(&scratch, float, pool_size(e));
    if (f->dim != e->dim || f->n_samples == 0)
        return fail(err, OM_EARG, "client %u has a problem of %zu numbers, expected %zu",
                    (unsigned)id, f->dim, e->dim);
    TRY(read_down(e, down, n, x, &q, err));
    if (q.moves)
        pool_means(&q);
    rows_task task = {.e = e, .f = f, .on_scores = true, .slopes = slopes, .ctx = &q};
    TRY(rows_open(&task, &scratch, &seen, err));
    memcpy(y, x, e->dim * sizeof(float));
    TRY(local_train(e, id, &seen, 0, NULL, x, y, g, &mean, &steps, scratch, err));
    for (size_t i = 0; i < e->dim; i++)
        y[i] = q.moves ? y[i] - x[i] : 0;
    float share = (float)((double)f->positives(f->ctx) / (double)f->n_samples);
    uint32_t count[SIDES];
    for (int side = 0; side < SIDES; side++) {
        count[side] = (uint32_t)(q.met[side] < q.room ? q.met[side] : q.room);
        if (wire_first_bad(q.own[side], count[side]) < count[side])
            return fail(err, OM_ELIMIT, "client %u: a score is not finite; lower lr",
                        (unsigned)id);
    }
    size_t head = up->len;
    TRY(beside_put(up, &share, NUMBERS, err));
    TRY(put_lists(up, count, q.own, err));
    om_status s = local_send(e, id, client, y, up, scratch, err);
    if (s != OM_OK)
        up->len = head;
    if (loss)
        *loss = q.moves ? mean : (double)NAN;
    return s;
}

/* ---- the server ---- */

/* Where the coded update begins, of a message whose head is well formed. */
static om_status read_up(const fl_env *e, const uint8_t *up, size_t n, float *share,
                         uint32_t *count, float *const *list, size_t *from, om_err *err)
{
    size_t used = 0;
    TRY(beside_read(up, n, NUMBERS, share, err));
    if (!(*share >= 0 && *share <= 1))
        return fail(err, OM_EFORMAT, "fedxl: a share of positives of %g", (double)*share);
    TRY(read_lists(up + 4 * NUMBERS, n - 4 * NUMBERS, part_of(e), count, list, &used, err));
    *from = 4 * NUMBERS + used;
    return OM_OK;
}

static om_status server_check(const fl_env *e, uint32_t id, uint64_t samples,
                              const uint8_t *up, size_t n, float *zeros, om_err *err)
{
    float share;
    uint32_t count[SIDES];
    size_t from = 0;
    TRY(average_check_head(e, id, samples, err));
    TRY(read_up(e, up, n, &share, count, NULL, &from, err));
    return e->up->decode(e->up_p, up + from, n - from, 0, zeros, e->dim, err);
}

static om_status server_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                             const uint8_t *up, size_t n, arena scratch, om_err *err)
{
    beside *b = beside_of(e, server, 0);
    pool_head *next = pool_of(e, server, 1);
    float share, *sum = average_vector(e, server, 1), *list[SIDES];
    float weight = e->p[LOCAL_WEIGHTS] < 0.5 ? (float)samples : 1.0f;
    uint32_t count[SIDES];
    size_t from = 0;
    TRY(average_admit(e, server, id, samples, err));
    for (int side = 0; side < SIDES; side++)
        list[side] = arena_new(&scratch, float, part_of(e));
    TRY(read_up(e, up, n, &share, count, list, &from, err));
    TRY(e->up->decode(e->up_p, up + from, n - from, weight, sum, e->dim, err));
    for (int side = 0; side < SIDES; side++) {
        size_t fits = size_min(count[side], pool_size(e) - next->n[side]);
        memcpy(scores_of(e, next, side) + next->n[side], list[side], fits * sizeof(float));
        next->n[side] += (uint32_t)fits;
    }
    b->sum[SHARE] += (double)weight * (double)share;
    average_count(server, id, (double)weight);
    return OM_OK;
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    beside *b = beside_of(e, server, 0);
    double mean = b->sum[SHARE] / average_weight(server), k = (double)b->value[ROUNDS];
    float *d;
    TRY(average_mean(e, server, &d, err));
    if (!d)
        return OM_OK;
    TRY(grad_move(e, server, d, -1, scratch, err));
    b->value[SHARE] = (float)(((double)b->value[SHARE] * k + mean) / (k + 1));
    b->value[ROUNDS] += 1;
    pool_head *now = pool_of(e, server, 0), *next = pool_of(e, server, 1);
    for (int side = 0; side < SIDES; side++) { /* a side nobody filled stays as it was */
        if (next->n[side] == 0)
            continue;
        memcpy(scores_of(e, now, side), scores_of(e, next, side),
               pool_size(e) * sizeof(float));
        now->n[side] = next->n[side];
    }
    return OM_OK;
}

const fl_algo fl_fedxl = {
    .name = "fedxl",
    .summary = "AUC, partial AUC or average precision over pairs across clients",
    .source = "Guo et al., ICML 2023 (FeDXL)",
    .flags = FL_CLIENT_STATE | FL_SCORES,
    .params = params,
    .check = rows_check,
    .server_bytes = server_bytes,
    .client_bytes = local_client_bytes,
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
