/* mindflayer.c - MindFlayer SGD: gradients that take too long are given up.
 *
 *     client i: B = trials times, a gradient at x, given up when it is not finished after
 *               t_i seconds;  sends C(sum of those that were)
 *     server:   x -= lr (1 / sum_i p_i B) sum of what came
 *
 * t_i is the time within which a part `within` of client i's gradients is finished, p_i the
 * part that is (1 where times are constant), both of fl_env.pace.  Whether a gradient is
 * finished does not depend on its value, so the sum is unbiased.  It goes by rounds, whose
 * length no tail of the times can stretch: B t_i at most.  p_i = 1 is SGD with batches of
 * n B gradients. */
#include "fl/grad.h"

enum { TRIALS = GRAD_PARAMS, WITHIN };

static const param params[] = {
    FL_GRAD_PARAMS,
    [TRIALS] = {"trials", 4, 1, 1e6, "gradients a client begins in a round", NULL},
    [WITHIN] = {"within", 0.5, 0.001, 0.999, "part of its gradients that a client waits for",
                NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

enum { USE_TRIAL = 0x32000000 };

static double patience(const fl_env *e, uint32_t id)
{
    return e->pace->gradient(e->pace->ctx, id, (uint32_t)e->p[GRAD_BATCH], e->p[WITHIN]);
}

static om_status trial(grad_step *s, uint32_t j, double seconds, bool *done)
{
    const fl_env *e = s->e;
    uint32_t batch = (uint32_t)e->p[GRAD_BATCH];
    rng r = rng_for(e->seed, e->round, s->id, USE_TRIAL + j);
    *done = true;
    if (s->f->attempt)
        return s->f->attempt(s->f->ctx, s->x, batch, r, seconds, s->g, done, &s->loss,
                             s->err);
    return grad_at(s, s->x, j, s->g);
}

static om_status rule(grad_step *s)
{
    double seconds = patience(s->e, s->id), loss = 0;
    uint32_t finished = 0;
    memset(s->t, 0, s->e->dim * sizeof(float));
    for (uint32_t j = 0; j < (uint32_t)s->e->p[TRIALS]; j++) {
        bool done;
        TRY(trial(s, j, seconds, &done));
        for (size_t i = 0; done && i < s->e->dim; i++)
            s->t[i] += s->g[i];
        loss += done ? s->loss : 0;
        finished += done;
    }
    s->loss = loss / finished;
    return finished ? up_coded(s, s->t, 1, NULL) : up_nothing(s);
}
GRAD_CLIENT(client_step, rule)

static size_t server_bytes(const fl_env *e) { return average_bytes(e, 0); }

static size_t client_bytes(const fl_env *e) { return client_bytes_of(e, 0); }

/* Expected gradients of those that answered, in note 0 as a double. */
static om_status server_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                             const uint8_t *up, size_t up_n, arena scratch, om_err *err)
{
    double sum = 0;
    bool first = average_received(server) == 0;
    TRY(grad_recv(e, server, id, samples, up, up_n, scratch, err));
    if (!first)
        memcpy(&sum, average_note(server, 0), sizeof(sum));
    sum += e->p[TRIALS] * e->pace->finished(e->pace->ctx, id, (uint32_t)e->p[GRAD_BATCH],
                                            patience(e, id));
    memcpy(average_note(server, 0), &sum, sizeof(sum));
    return OM_OK;
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    float *g;
    double expected;
    memcpy(&expected, average_note(server, 0), sizeof(expected));
    TRY(average_sum(e, server, expected, &g, err));
    return g ? grad_move(e, server, g, e->p[GRAD_LR], scratch, err) : OM_OK;
}

const fl_algo fl_mindflayer = {
    .name = "mindflayer",
    .summary = "gradients that take too long are given up",
    .source = "Maranjyan, Shaikh Omar, Richtarik 2024, arXiv 2410.04285",
    .flags = FL_CLIENT_STATE | FL_NEEDS_UNBIASED | FL_KNOWS_PACE,
    .params = params,
    .server_bytes = server_bytes,
    .client_bytes = client_bytes,
    .scratch_bytes = grad_scratch_bytes,
    .up_bound = up_bound_of,
    .down_bound = average_down_bound,
    .server_open = average_open,
    .server_begin = average_begin,
    .client_step = client_step,
    .server_recv = server_recv,
    .server_check = grad_check,
    .server_close = server_close,
    .model = average_model,
};
