/* async.c - a federation without rounds, event by event.
 *
 * A client at work is a task: it fetches the newest model, computes, sends.  Each task has
 * one event ahead, the end of its work and then its arrival, in a heap ordered by (time,
 * client, version).  All events of one moment are served before anybody begins anew, so
 * clients of equal speed arrive like a cohort.  A client whose model is still the newest
 * fetches nothing.
 *
 * WORK IS DONE WHEN IT IS NEEDED.  How long a step takes is known without taking it
 * (fl_async.work), so steps wait until the first of them has to arrive, and then many are
 * taken together, in any number of threads: which, and when, changes no bit.  Until then the
 * model that they began with is kept, once a version; where there are too many versions all
 * that waits is computed.
 *
 * WHO.  cohort clients are at work at any time.  Where that is all of them, each begins again
 * when it is done; else a seeded choice among the idle does.  A dropout loses one task: its
 * time passes and nothing arrives.  A message refused for its age, or a client that is
 * stopped, leaves that client's state as it was before the step. */
#include "sim/state.h"

#include <math.h>
#include <stdio.h>

enum { USE_NEXT = 0x6e657874, USE_LOST = 0x6c6f7374 };
enum { AHEAD_PER_THREAD = 4 };

typedef enum { IDLE, COMPUTING, SENDING } stage;

typedef struct {
    stage stage;
    bool lost, computed;
    uint32_t client, draw, version;
    uint32_t model; /* of async.model, while it waits to be computed */
    double at;      /* of its event */
    double begins;  /* its work */
    uint64_t samples;
    double loss;
    buf up;
    om_status status;
    om_err err;
} task;

typedef struct {
    buf down;
    uint32_t waiting; /* tasks that will need it */
} model;

struct async {
    uint32_t n; /* tasks */
    task *task; /* (n) */
    uint32_t *heap, *place, n_heap; /* (n) tasks in heap order; where each is */
    model *model;
    uint32_t n_models, current;
    uint64_t begun; /* tasks, of everybody */
    uint32_t *draws; /* (n_clients) tasks begun by each */
    uint32_t *have;  /* (n_clients) version a client holds, plus 1 */
    uint8_t *busy;   /* (n_clients) */
    uint8_t *seen;   /* (n_clients) for reading a checkpoint */
    char *old;       /* (n, client_bytes) states from before a step */
    uint32_t *batch; /* (n) */
};

static const fl_algo *algo(const sim *s) { return s->conf.recipe.algo; }

static uint8_t *state_of(sim *s, uint32_t client)
{
    return s->clients.p + client * s->client_bytes;
}

/* ---- the heap ---- */

static bool before(const async *a, uint32_t i, uint32_t j)
{
    const task *t = &a->task[i], *u = &a->task[j];
    if (t->at < u->at || t->at > u->at)
        return t->at < u->at;
    return t->client != u->client ? t->client < u->client : t->version < u->version;
}

static void put_at(async *a, uint32_t at, uint32_t i)
{
    a->heap[at] = i;
    a->place[i] = at;
}

static void rise(async *a, uint32_t at)
{
    uint32_t i = a->heap[at];
    for (; at > 0 && before(a, i, a->heap[(at - 1) / 2]); at = (at - 1) / 2)
        put_at(a, at, a->heap[(at - 1) / 2]);
    put_at(a, at, i);
}

static void sink(async *a, uint32_t at)
{
    uint32_t i = a->heap[at];
    for (;;) {
        uint32_t kid = 2 * at + 1;
        if (kid >= a->n_heap)
            break;
        kid += kid + 1 < a->n_heap && before(a, a->heap[kid + 1], a->heap[kid]);
        if (!before(a, a->heap[kid], i))
            break;
        put_at(a, at, a->heap[kid]);
        at = kid;
    }
    put_at(a, at, i);
}

static void add(async *a, uint32_t i)
{
    put_at(a, a->n_heap++, i);
    rise(a, a->place[i]);
}

static void take_out(async *a, uint32_t i)
{
    uint32_t at = a->place[i], last = a->heap[--a->n_heap];
    if (last == i)
        return;
    put_at(a, at, last);
    rise(a, at);
    sink(a, a->place[last]);
}

/* ---- open ---- */

static om_status take_arrays(sim *s, async *a)
{
    size_t n = a->n, clients = s->conf.n_clients;
    a->task = mem_array(n, sizeof(*a->task));
    a->heap = mem_array(n, sizeof(*a->heap));
    a->place = mem_array(n, sizeof(*a->place));
    a->batch = mem_array(n, sizeof(*a->batch));
    a->model = mem_array(a->n_models, sizeof(*a->model));
    a->draws = mem_array(clients, sizeof(*a->draws));
    a->have = mem_array(clients, sizeof(*a->have));
    a->busy = mem_alloc(clients);
    a->seen = mem_alloc(clients);
    a->old = s->client_bytes ? mem_array(n, s->client_bytes) : NULL;
    bool ok = a->task && a->heap && a->place && a->batch && a->model && a->draws &&
              a->have && a->busy && a->seen && (a->old || !s->client_bytes);
    for (uint32_t i = 0; ok && i < a->n_models; i++) {
        a->model[i].down = buf_growing(algo(s)->down_bound(&s->env) + 1);
        ok = buf_reserve(&a->model[i].down, algo(s)->down_bound(&s->env)) == OM_OK;
    }
    for (uint32_t i = 0; ok && i < a->n; i++) {
        a->task[i].client = i;
        a->task[i].up = buf_growing(algo(s)->up_bound(&s->env) + 1);
    }
    return ok ? OM_OK : OM_ENOMEM;
}

om_status async_open(sim *s, om_err *err)
{
    const sim_config *c = &s->conf;
    if (c->asked != c->cohort)
        return fail(err, OM_EARG,
                    "simulate: %s waits for nobody, so asking %u clients for %u updates makes "
                    "no sense; set cohort.over_selection to 1",
                    algo(s)->name, (unsigned)c->asked, (unsigned)c->cohort);
    if (c->ranks)
        return fail(err, OM_EUNSUPPORTED,
                    "simulate: %s is simulated by one process, event after event; run it "
                    "with octomil --threads",
                    algo(s)->name);
    async *a = s->async = mem_alloc(sizeof(*a));
    if (!a)
        return fail(err, OM_ENOMEM, "simulate: no memory");
    a->n = c->cohort;
    a->n_models = (uint32_t)size_min(a->n, (size_t)pool_threads(c->pool) * AHEAD_PER_THREAD) + 1;
    om_status st = take_arrays(s, a);
    return st == OM_OK ? st
                       : fail(err, st, "simulate: no memory for %u clients at work, with "
                                       "models of %zu numbers",
                              (unsigned)a->n, c->dim);
}

void async_close(sim *s)
{
    async *a = s->async;
    if (!a)
        return;
    for (uint32_t i = 0; a->task && i < a->n; i++)
        buf_free(&a->task[i].up);
    for (uint32_t i = 0; a->model && i < a->n_models; i++)
        buf_free(&a->model[i].down);
    mem_free(a->task), mem_free(a->heap), mem_free(a->place), mem_free(a->batch);
    mem_free(a->model), mem_free(a->draws), mem_free(a->have), mem_free(a->busy);
    mem_free(a->old), mem_free(a->seen);
    mem_free(a);
    s->async = NULL;
}

/* ---- computing ---- */

static void work(void *ctx, size_t beg, size_t end, int worker)
{
    sim *s = ctx;
    async *a = s->async;
    for (size_t k = beg; k < end; k++) {
        task *t = &a->task[a->batch[k]];
        fl_env e = s->env;
        fl_oracle f;
        arena scratch = arena_of(s->scratch + (size_t)worker * s->scratch_bytes,
                                 s->scratch_bytes);
        e.round = t->draw;
        t->up.len = 0;
        t->loss = (double)NAN;
        t->err = (om_err){0};
        t->status = is_cancelled(s->conf.cancel)
                        ? fail(&t->err, OM_ECANCEL, "simulate: cancelled")
                        : s->conf.make_oracle(s->conf.ctx, t->client, worker, &f, &t->err);
        if (t->status != OM_OK)
            continue;
        t->samples = f.n_samples;
        if (a->old)
            memcpy(a->old + a->batch[k] * s->client_bytes, state_of(s, t->client),
                   s->client_bytes);
        const buf *down = &a->model[t->model].down;
        t->status = algo(s)->client_step(&e, t->client, state_of(s, t->client), &f,
                                         down->data, down->len, &t->up, &t->loss, scratch,
                                         &t->err);
    }
}

/* Computes those that wait, the `most` of them that are due first. */
static void compute(sim *s, uint32_t most)
{
    async *a = s->async;
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->n; i++)
        if (a->task[i].stage == COMPUTING && !a->task[i].computed && !a->task[i].lost)
            a->batch[n++] = i;
    for (uint32_t k = 0; most < n && k < most; k++)
        for (uint32_t i = k + 1; i < n; i++)
            if (before(a, a->batch[i], a->batch[k])) {
                uint32_t swap = a->batch[i];
                a->batch[i] = a->batch[k];
                a->batch[k] = swap;
            }
    n = most < n ? most : n;
    pool_run(s->conf.pool, n, 1, work, s);
    for (uint32_t k = 0; k < n; k++) {
        task *t = &a->task[a->batch[k]];
        t->computed = true;
        a->model[t->model].waiting--;
    }
}

static om_status check_task(const task *t, om_err *err)
{
    char who[60];
    if (t->status == OM_OK)
        return OM_OK;
    snprintf(who, sizeof(who), "version %u, client %u", (unsigned)t->version,
             (unsigned)t->client);
    if (err)
        *err = t->err;
    return fail_in(err, t->status, who);
}

om_status async_settle(sim *s, om_err *err)
{
    compute(s, s->async->n);
    for (uint32_t i = 0; i < s->async->n; i++)
        if (s->async->task[i].stage != IDLE && s->async->task[i].computed)
            TRY(check_task(&s->async->task[i], err));
    return OM_OK;
}

/* A place for the newest model. */
static uint32_t free_model(sim *s)
{
    async *a = s->async;
    for (int again = 0;; again++) {
        for (uint32_t i = 0; i < a->n_models; i++)
            if (a->model[i].waiting == 0)
                return i;
        BUG_IF(again);
        compute(s, a->n);
    }
}

/* ---- the life of a task ---- */

static uint32_t next_client(sim *s, const task *t)
{
    async *a = s->async;
    if (a->n == s->conf.n_clients)
        return t->client;
    rng r = rng_for(s->conf.seed, (uint32_t)a->begun, (uint32_t)(a->begun >> 32), USE_NEXT);
    for (;;) {
        uint32_t i = rng_below(&r, s->conf.n_clients);
        if (!a->busy[i])
            return i;
    }
}

static void begin(sim *s, uint32_t i, sim_row *row)
{
    async *a = s->async;
    task *t = &a->task[i];
    const sim_pace *p = &s->conf.pace;
    t->client = next_client(s, t);
    t->draw = a->draws[t->client]++;
    t->version = s->env.round;
    t->stage = COMPUTING;
    t->computed = false;
    a->busy[t->client] = 1;
    a->begun++;
    rng coin = rng_for(s->conf.seed, t->draw, t->client, USE_LOST);
    t->lost = s->conf.dropout > 0 && rng_unit(&coin) < s->conf.dropout;
    t->begins = s->clock;
    const buf *down = &a->model[a->current].down;
    if (a->have[t->client] != t->version + 1) {
        t->begins += pace_down(p, t->client, down->len);
        row->down_bytes += down->len;
        a->have[t->client] = t->version + 1;
    }
    t->at = t->begins + pace_work(p, t->client, t->draw, 0,
                                  (double)algo(s)->async->work(&s->env,
                                                               s->samples[t->client]),
                                  t->begins);
    t->model = a->current;
    a->model[a->current].waiting += !t->lost;
    row->asked++;
    add(a, i);
}

/* Its client is free again; undo: as if it had not stepped. */
static void end(sim *s, uint32_t i, bool undo)
{
    async *a = s->async;
    task *t = &a->task[i];
    if (t->stage == COMPUTING && !t->computed && !t->lost)
        a->model[t->model].waiting--;
    if (undo && a->old && t->computed)
        memcpy(state_of(s, t->client), a->old + i * s->client_bytes, s->client_bytes);
    take_out(a, i);
    t->stage = IDLE;
    t->computed = false;
    a->busy[t->client] = 0;
}

/* The work is done: its message sets out. */
static om_status set_out(sim *s, uint32_t i, om_err *err)
{
    async *a = s->async;
    task *t = &a->task[i];
    const fl_async *how = algo(s)->async;
    uint32_t threads = (uint32_t)pool_threads(s->conf.pool);
    bool wasteful = how->stops && how->stops(&s->env); /* to compute what may be stopped */
    if (t->lost) {
        end(s, i, false);
        return OM_OK;
    }
    if (!t->computed)
        compute(s, wasteful ? threads : threads * AHEAD_PER_THREAD);
    TRY(check_task(t, err));
    t->stage = SENDING;
    t->at += pace_up(&s->conf.pace, t->client, t->up.len);
    sink(a, a->place[i]);
    return OM_OK;
}

static om_status arrive(sim *s, uint32_t i, sim_row *row, double *samples, om_err *err)
{
    const task *t = &s->async->task[i];
    fl_arrival m = {t->client, s->env.round - t->version, t->samples, t->up.data, t->up.len};
    row->up_bytes += t->up.len;
    if (m.age > algo(s)->async->oldest(&s->env)) {
        row->stale++;
        end(s, i, true);
        return OM_OK;
    }
    arena scratch = arena_of(s->scratch, s->scratch_bytes);
    TRY(algo(s)->async->take(&s->env, s->server, &m, scratch, err));
    row->received++;
    if (!isnan(t->loss)) {
        row->train_loss += t->loss * (double)t->samples;
        *samples += (double)t->samples;
    }
    end(s, i, false);
    return OM_OK;
}

/* Who works on what nobody will take begins anew. */
static void stop_old(sim *s, sim_row *row)
{
    const fl_async *how = algo(s)->async;
    async *a = s->async;
    if (!how->stops || !how->stops(&s->env))
        return;
    for (uint32_t i = 0; i < a->n; i++)
        if (a->task[i].stage != IDLE &&
            s->env.round - a->task[i].version > how->oldest(&s->env)) {
            row->stale++;
            end(s, i, true);
        }
}

om_status async_round(sim *s, sim_row *row, om_err *err)
{
    async *a = s->async;
    double samples = 0;
    a->current = free_model(s);
    a->model[a->current].down.len = 0;
    TRY(algo(s)->server_begin(&s->env, s->server, &a->model[a->current].down, err));
    while (!algo(s)->async->full(&s->env, s->server)) {
        if (is_cancelled(s->conf.cancel))
            return fail(err, OM_ECANCEL, "simulate: cancelled");
        if (a->n_heap == 0 || a->task[a->heap[0]].at > s->clock) {
            for (uint32_t i = 0; i < a->n; i++)
                if (a->task[i].stage == IDLE)
                    begin(s, i, row);
            s->clock = a->task[a->heap[0]].at;
        }
        uint32_t i = a->heap[0];
        if (a->task[i].stage == COMPUTING)
            TRY(set_out(s, i, err));
        else
            TRY(arrive(s, i, row, &samples, err));
    }
    TRY(algo(s)->server_close(&s->env, s->server, arena_of(s->scratch, s->scratch_bytes),
                              err));
    s->env.round++;
    stop_old(s, row);
    row->train_loss /= samples;
    return OM_OK;
}

/* ---- on disk: numbers as u64, then message and old state of what is computed ---- */

enum { TASK_NUMBERS = 9 };

static uint64_t bits(double v)
{
    uint64_t u;
    memcpy(&u, &v, sizeof(u));
    return u;
}

static double number(uint64_t u)
{
    double v;
    memcpy(&v, &u, sizeof(v));
    return v;
}

om_status async_put(sim *s, om_status (*put)(void *ctx, const void *p, size_t n,
                                             om_err *err),
                    void *ctx, om_err *err)
{
    async *a = s->async;
    size_t clients = s->conf.n_clients;
    TRY(put(ctx, &a->begun, sizeof(a->begun), err));
    TRY(put(ctx, a->draws, clients * sizeof(*a->draws), err));
    TRY(put(ctx, a->have, clients * sizeof(*a->have), err));
    for (uint32_t i = 0; i < a->n; i++) {
        const task *t = &a->task[i];
        bool full = t->stage != IDLE && t->computed;
        uint64_t v[TASK_NUMBERS] = {(uint64_t)t->stage, t->lost,    t->computed,
                                    t->client,          t->draw,    t->version,
                                    bits(t->at),        t->samples, bits(t->loss)};
        uint64_t n = full ? t->up.len : 0;
        TRY(put(ctx, v, sizeof(v), err));
        TRY(put(ctx, &n, sizeof(n), err));
        if (n)
            TRY(put(ctx, t->up.data, n, err));
        if (full && a->old)
            TRY(put(ctx, a->old + i * s->client_bytes, s->client_bytes, err));
    }
    return OM_OK;
}

static bool get_task(sim *s, uint32_t i, cursor *c, bool apply)
{
    async *a = s->async;
    task now = a->task[i];
    uint64_t v[TASK_NUMBERS];
    for (size_t k = 0; k < TASK_NUMBERS; k++)
        v[k] = cursor_u64(c);
    size_t n = cursor_u64(c);
    const uint8_t *up = cursor_take(c, n);
    bool full = v[0] != IDLE && v[2];
    const uint8_t *old = full && a->old ? cursor_take(c, s->client_bytes) : up;
    if (!up || !old || v[0] > SENDING || v[3] >= s->conf.n_clients ||
        (v[0] != IDLE && !v[1] && !v[2]) || n > algo(s)->up_bound(&s->env) ||
        (a->n == s->conf.n_clients && v[3] != i))
        return false;
    if (v[0] != IDLE && a->seen[v[3]]++) /* one client at two things */
        return false;
    if (!apply) /* the memory now, so that the second pass cannot fail */
        return buf_reserve(&a->task[i].up, n) == OM_OK;
    now.stage = (stage)v[0], now.lost = v[1] != 0, now.computed = v[2] != 0;
    now.client = (uint32_t)v[3], now.draw = (uint32_t)v[4], now.version = (uint32_t)v[5];
    now.at = number(v[6]), now.samples = v[7], now.loss = number(v[8]);
    now.status = OM_OK;
    now.up.len = 0;
    BUG_IF(buf_put(&now.up, up, n) != OM_OK);
    if (full && a->old)
        memcpy(a->old + i * s->client_bytes, old, s->client_bytes);
    a->task[i] = now;
    if (now.stage != IDLE) {
        a->busy[now.client] = 1;
        add(a, i);
    }
    return true;
}

bool async_get(sim *s, cursor *c, bool apply)
{
    async *a = s->async;
    size_t clients = s->conf.n_clients, bytes = clients * sizeof(uint32_t);
    uint64_t begun = cursor_u64(c);
    const uint8_t *draws = cursor_take(c, bytes), *have = cursor_take(c, bytes);
    if (!have)
        return false;
    memset(a->seen, 0, clients);
    if (apply) {
        a->begun = begun;
        a->n_heap = 0;
        memcpy(a->draws, draws, bytes);
        memcpy(a->have, have, bytes);
        memset(a->busy, 0, clients);
        for (uint32_t i = 0; i < a->n_models; i++)
            a->model[i].waiting = 0;
    }
    for (uint32_t i = 0; i < a->n; i++)
        if (!get_task(s, i, c, apply))
            return false;
    return true;
}
