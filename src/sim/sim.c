/* sim.c - see sim.h. */
#include "sim/state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { USE_DROPOUT = 0x64726f70, USE_ARRIVAL = 0x61727269 };
/* A thread's clients in a wave: more when their messages are short, as threads meet at the
 * end of each. */
enum { WAVE_PER_THREAD = 4, WAVE_MOST = 64, WAVE_BYTES = 4 << 20 };
static const double unknown = (double)NAN;

static const fl_algo *algo(const sim *s) { return s->conf.recipe.algo; }

static arena scratch_of(const sim *s, int worker)
{
    return arena_of(s->scratch + (size_t)worker * s->scratch_bytes, s->scratch_bytes);
}

/* ---- open ---- */

static bool in_turns(const sim_config *c)
{
    const privacy_rule *p = &c->recipe.privacy;
    return p->on && (int)p->p[PRIVACY_SAMPLING] == SAMPLING_CYCLE;
}

static om_status check(const sim_config *c, om_err *err)
{
    if (c->dim == 0 || c->n_clients == 0 || c->cohort == 0)
        return fail(err, OM_EARG,
                    "simulate: a federation needs clients, a cohort and a model");
    if (c->cohort > c->n_clients || c->asked > c->n_clients)
        return fail(err, OM_EARG,
                    "simulate: a cohort of %u, asking %u, cannot be chosen from "
                    "%u clients",
                    (unsigned)c->cohort, (unsigned)c->asked, (unsigned)c->n_clients);
    if (c->asked && c->asked < c->cohort)
        return fail(err, OM_EARG, "simulate: %u are asked for %u updates",
                    (unsigned)c->asked, (unsigned)c->cohort);
    if (!(c->dropout >= 0 && c->dropout < 1))
        return fail(err, OM_EARG, "simulate: dropout is %g, expected 0 to below 1",
                    c->dropout);
    if (!(c->deadline >= 0))
        return fail(err, OM_EARG, "simulate: a deadline of %g seconds", c->deadline);
    TRY(aggregate_check(&c->recipe.robust, c->cohort, err));
    if (in_turns(c) && c->asked > c->cohort)
        return fail(err, OM_EARG, "simulate: clients that take turns cannot be asked in "
                                  "excess; set cohort.over_selection to 1");
    return fl_recipe_check(&c->recipe, err);
}

/* Do clients join by coins of their own? */
static bool by_coins(const sim *s)
{
    const privacy_rule *p = &s->conf.recipe.privacy;
    return p->on && (int)p->p[PRIVACY_SAMPLING] == SAMPLING_POISSON;
}

/* Ranks agree on it, so that they make the same waves. */
static om_status choose_wave(sim *s, size_t bound, om_err *err)
{
    const sim_ranks *r = s->conf.ranks;
    size_t fit = WAVE_BYTES / (bound + 1), per = size_max(WAVE_PER_THREAD, fit);
    per = size_min(per, WAVE_MOST);
    uint64_t threads = (uint64_t)pool_threads(s->conf.pool), most = 0;
    if (!r) {
        s->wave = (uint32_t)size_min(s->conf.asked, threads * per);
    } else {
        uint64_t *all = mem_array((size_t)r->size, sizeof(*all));
        size_t *n_of = mem_array((size_t)r->size, sizeof(*n_of));
        om_status st = all && n_of ? OM_OK : fail(err, OM_ENOMEM, "simulate: no memory");
        for (int i = 0; n_of && i < r->size; i++)
            n_of[i] = sizeof(*all);
        if (st == OM_OK)
            st = r->all_gather(r->ctx, &threads, all, n_of, err);
        for (int i = 0; st == OM_OK && i < r->size; i++)
            most = all[i] > most ? all[i] : most;
        mem_free(all);
        mem_free(n_of);
        TRY(st);
        s->wave = (uint32_t)size_min(s->conf.asked,
                                     most * per * (uint64_t)r->size);
    }
    if (s->conf.attack.row || s->races)
        s->wave = s->conf.asked;
    return OM_OK;
}

/* Who comes too late is known after the step: is there anybody who could? */
static om_status choose_clock(sim *s, om_err *err)
{
    const sim_config *c = &s->conf;
    const sim_pace *p = &c->pace;
    double least = pace_up(p, 0, algo(s)->up_bound(&s->env)) +
                   pace_down(p, 0, algo(s)->down_bound(&s->env));
    bool whole = (algo(s)->flags & (FL_EVERY_CLIENT | FL_WHOLE_COHORT)) != 0;
    s->races = !s->async_row && pace_varies(p) && c->asked > c->cohort && !by_coins(s);
    if (c->deadline > 0 && !(p->network_spread > 0) && least > c->deadline && !s->async_row)
        return fail(err, OM_EARG,
                    "simulate: a model's way to a client and back takes up to %.4g s, and the "
                    "round %.4g; raise cohort.deadline, network.uplink or network.downlink",
                    least, c->deadline);
    s->can_be_late =
        s->races || (c->deadline > 0 && !whole && (p->compute > 0 || p->network_spread > 0));
    return OM_OK;
}

static om_status take_states(sim *s, om_err *err)
{
    size_t n;
    s->client_bytes = size_align(algo(s)->client_bytes(&s->env), 64);
    if (!size_mul(s->conf.n_clients, s->client_bytes, &n))
        return fail(err, OM_ENOMEM, "simulate: states of %zu bytes for %u clients",
                    s->client_bytes, (unsigned)s->conf.n_clients);
    const char *path = n > SIM_STATES_IN_MEMORY ? s->conf.states_path : NULL;
    return os_state_create(path, n, &s->clients, err);
}

static om_status take_memory(sim *s, om_err *err)
{
    const fl_env *e = &s->env;
    size_t threads = (size_t)pool_threads(s->conf.pool), asked = s->conf.asked;
    size_t bound = algo(s)->up_bound(e);
    TRY(choose_clock(s, err));
    TRY(choose_wave(s, bound, err));
    TRY(take_states(s, err));
    s->scratch_bytes = size_align(algo(s)->scratch_bytes(e), 64) + 64;
    s->server = mem_alloc(algo(s)->server_bytes(e));
    s->meter = mem_array(threads, sizeof(*s->meter));
    bool keeps = s->can_be_late && s->client_bytes;
    s->old = keeps ? mem_array(s->wave, s->client_bytes) : NULL;
    s->scratch = mem_array(threads, s->scratch_bytes);
    s->seat = mem_array(s->wave, sizeof(seat));
    s->chosen = mem_array(by_coins(s) ? s->conf.n_clients : asked, sizeof(*s->chosen));
    s->cohort_scratch = mem_alloc(fl_cohort_bytes(s->conf.n_clients));
    s->down = buf_growing(algo(s)->down_bound(e) + 1);
    bool ok = s->server && s->meter && (s->old || !keeps) && s->scratch && s->seat && s->chosen &&
              s->cohort_scratch && buf_reserve(&s->down, algo(s)->down_bound(e)) == OM_OK;
    size_t round = fl_round_bytes(e);
    ok = ok && (round == 0 || os_state_create(NULL, round, &s->round, err) == OM_OK);
    s->env.kept = s->round.p;
    for (uint32_t i = 0; ok && i < s->wave; i++) {
        s->seat[i].up = buf_growing(bound + 1);
        ok = buf_reserve(&s->seat[i].up, bound) == OM_OK;
    }
    return ok ? OM_OK
              : fail(err, OM_ENOMEM,
                     "simulate: no memory for %u clients of %zu bytes and a "
                     "model of %zu numbers",
                     (unsigned)s->conf.n_clients, s->client_bytes, s->conf.dim);
}

/* ---- what an algorithm may know of the clients ---- */

static double batch_of(const sim *s, uint32_t id, uint32_t batch)
{
    double n = (double)s->samples[id];
    return batch < 1 || batch >= n ? n : batch;
}

static double known_gradient(void *ctx, uint32_t id, uint32_t batch, double part)
{
    const sim *s = ctx;
    return pace_quantile(&s->conf.pace, id, batch_of(s, id, batch), part);
}

static double known_finished(void *ctx, uint32_t id, uint32_t batch, double seconds)
{
    const sim *s = ctx;
    return pace_done(&s->conf.pace, id, batch_of(s, id, batch), seconds);
}

static double known_message(void *ctx, uint32_t id, size_t bytes)
{
    const sim *s = ctx;
    return pace_up(&s->conf.pace, id, bytes);
}

/* For rows that plan: how many samples each client has. */
static om_status ask_samples(sim *s, om_err *err)
{
    const sim_config *c = &s->conf;
    if (!s->async_row && !(algo(s)->flags & FL_KNOWS_PACE))
        return OM_OK;
    s->samples = mem_array(c->n_clients, sizeof(*s->samples));
    if (!s->samples)
        return fail(err, OM_ENOMEM, "simulate: no memory for %u clients",
                    (unsigned)c->n_clients);
    for (uint32_t i = 0; i < c->n_clients; i++) {
        fl_oracle f = {0};
        if (!c->samples)
            TRY(c->make_oracle(c->ctx, i, 0, &f, err));
        s->samples[i] = c->samples ? c->samples(c->ctx, i) : f.n_samples;
    }
    s->known = (fl_pace){s, known_gradient, known_finished, known_message};
    s->env.pace = &s->known;
    return OM_OK;
}

static om_status take_shape(sim *s, const float *x0, om_err *err)
{
    s->start = mem_array(s->conf.dim, sizeof(float));
    if (!s->start)
        return fail(err, OM_ENOMEM, "simulate: no memory for %zu numbers", s->conf.dim);
    memcpy(s->start, x0, s->conf.dim * sizeof(float));
    s->shape = *s->conf.shape;
    s->shape.start = s->start;
    s->env.shape = &s->shape;
    return OM_OK;
}

om_status sim_open(const sim_config *c, const float *x0, sim **out, om_err *err)
{
    TRY(check(c, err));
    sim *s = mem_alloc(sizeof(*s));
    if (!s)
        return fail(err, OM_ENOMEM, "simulate: no memory");
    s->conf = *c;
    s->conf.asked = c->asked ? c->asked : c->cohort;
    s->conf.pace.seed = c->seed;
    s->async_row = algo(s)->async != NULL;
    fl_drive drive = {.n_clients = c->n_clients,
                      .asked = s->conf.asked,
                      .cohort = c->cohort,
                      .least = c->dropout > 0 && !s->async_row ? c->min : c->cohort,
                      .ends = true,
                      .arrivals = true,
                      .paced = true,
                      .shape = c->shape};
    om_status st = fl_recipe_drive(&s->conf.recipe, &drive, err);
    s->env = (fl_env){.dim = c->dim,
                      .n_clients = c->n_clients,
                      .cohort = c->cohort,
                      .seed = c->seed,
                      .p = s->conf.recipe.p,
                      .up = s->conf.recipe.up,
                      .up_p = s->conf.recipe.up_p,
                      .k = c->k,
                      .robust = &s->conf.recipe.robust,
                      .privacy = &s->conf.recipe.privacy,
                      .pool = c->pool};
    if (st == OM_OK && c->shape)
        st = take_shape(s, x0, err);
    if (st == OM_OK)
        st = ask_samples(s, err);
    if (st == OM_OK)
        st = take_memory(s, err);
    if (st == OM_OK && s->async_row)
        st = async_open(s, err);
    if (st == OM_OK && c->ranks)
        st = ranks_open(s, err);
    if (st == OM_OK)
        st = hostile_open(s, err);
    if (st == OM_OK)
        st = algo(s)->server_open(&s->env, s->server, x0, err);
    if (st != OM_OK) {
        sim_close(s);
        return st;
    }
    *out = s;
    return OM_OK;
}

void sim_close(sim *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; s->seat && i < s->wave; i++)
        buf_free(&s->seat[i].up);
    buf_free(&s->down);
    os_state_close(&s->round);
    hostile_close(s);
    ranks_close(s);
    async_close(s);
    os_state_close(&s->clients);
    mem_free(s->meter);
    mem_free(s->old);
    mem_free(s->samples);
    mem_free(s->server);
    mem_free(s->start);
    mem_free(s->scratch);
    mem_free(s->seat);
    mem_free(s->chosen);
    mem_free(s->cohort_scratch);
    mem_free(s);
}

/* ---- a round ---- */

/* Who answers: the chosen that do not drop out; of more than a cohort, those that come
 * first, which where all are alike is any set of them.  Ids stay ascending. */
static uint32_t answering(sim *s)
{
    const sim_config *c = &s->conf;
    rng coin = rng_for(c->seed, s->env.round, 0, USE_DROPOUT);
    rng arrival = rng_for(c->seed, s->env.round, 0, USE_ARRIVAL);
    uint32_t kept = 0, first = 0;
    for (uint32_t i = 0; i < c->asked; i++)
        if (c->dropout <= 0 || rng_unit(&coin) >= c->dropout)
            s->chosen[kept++] = s->chosen[i];
    if (kept <= c->cohort || s->races)
        return kept;
    for (uint32_t i = 0; first < c->cohort; i++)
        if (rng_below(&arrival, kept - i) < c->cohort - first)
            s->chosen[first++] = s->chosen[i];
    return first;
}

static uint8_t *state_of(sim *s, uint32_t client)
{
    return s->clients.p + client * s->client_bytes;
}

static void client_work(void *ctx, size_t beg, size_t end, int worker)
{
    sim *s = ctx;
    const sim_pace *p = &s->conf.pace;
    for (size_t i = beg; i < end; i++) {
        seat *c = &s->seat[i];
        fl_oracle f;
        c->up.len = 0;
        c->loss = unknown;
        c->seconds = 0;
        c->late = false;
        c->err = (om_err){0};
        if (s->conf.ranks && s->rank_of[i] != s->conf.ranks->rank)
            continue;
        if (is_cancelled(s->conf.cancel))
            c->status = fail(&c->err, OM_ECANCEL, "simulate: cancelled");
        else
            c->status = s->conf.make_oracle(s->conf.ctx, c->client, worker, &f, &c->err);
        if (c->status != OM_OK)
            continue;
        c->samples = f.n_samples;
        if (s->old)
            memcpy(s->old + i * s->client_bytes, state_of(s, c->client), s->client_bytes);
        meter *m = &s->meter[worker];
        double fetched = pace_down(p, c->client, s->down.len);
        *m = (meter){.pace = p,
                     .client = c->client,
                     .draw = s->env.round,
                     .now = s->clock + fetched};
        fl_oracle plain = f;
        meter_begin(m, &plain, &f);
        c->status = algo(s)->client_step(&s->env, c->client, state_of(s, c->client), &f,
                                         s->down.data, s->down.len, &c->up, &c->loss,
                                         scratch_of(s, worker), &c->err);
        c->seconds = fetched + meter_seconds(m) + pace_up(p, c->client, c->up.len);
    }
}

/* Of n seats, those that do not count: after the deadline, or, where clients race, after a
 * cohort had come; ties go to the lower id. */
static void find_late(sim *s, size_t n)
{
    double deadline = s->conf.deadline;
    for (size_t i = 0; i < n; i++)
        s->seat[i].late = deadline > 0 && s->seat[i].seconds > deadline;
    for (size_t i = 0; s->races && i < n; i++) {
        uint32_t ahead = 0;
        for (size_t j = 0; j < n; j++)
            ahead += s->seat[j].seconds < s->seat[i].seconds ||
                     (j < i && s->seat[j].seconds <= s->seat[i].seconds);
        s->seat[i].late |= ahead >= s->conf.cohort;
    }
}

/* Its sender never learns of it but at the next round, and is as before this one. */
static om_status turn_away(sim *s, size_t i, sim_row *row, om_err *err)
{
    const seat *c = &s->seat[i];
    if (algo(s)->flags & (FL_EVERY_CLIENT | FL_WHOLE_COHORT))
        return fail(err, OM_EARG,
                    "round %u: client %u takes %.4g s, the deadline is %.4g, and %s needs "
                    "every answer; raise cohort.deadline, or choose diana",
                    (unsigned)s->env.round, (unsigned)c->client, c->seconds,
                    s->conf.deadline, algo(s)->name);
    if (s->old)
        memcpy(state_of(s, c->client), s->old + i * s->client_bytes, s->client_bytes);
    row->late++;
    return OM_OK;
}

/* Receive a wave in order; the first client that failed ends the round. */
static om_status receive(sim *s, size_t n, sim_row *row, double *samples, om_err *err)
{
    for (size_t i = 0; i < n; i++) {
        seat *c = &s->seat[i];
        if (c->status != OM_OK) {
            char who[40];
            snprintf(who, sizeof(who), "round %u, client %u", (unsigned)s->env.round,
                     (unsigned)c->client);
            if (err)
                *err = c->err;
            return fail_in(err, c->status, who);
        }
        if (c->late) {
            TRY(turn_away(s, i, row, err));
            continue;
        }
        om_status st =
            algo(s)->server_recv(&s->env, s->server, c->client, c->samples, c->up.data,
                                 c->up.len, scratch_of(s, 0), err);
        if (st != OM_OK && s->hostile && s->hostile[c->client]) {
            row->refused++;
            continue;
        }
        TRY(st);
        row->up_bytes += c->up.len;
        row->received++;
        s->lasts = c->seconds > s->lasts ? c->seconds : s->lasts;
        if (isnan(c->loss)) /* a client that had nothing to say */
            continue;
        row->train_loss += c->loss * (double)c->samples;
        *samples += (double)c->samples;
    }
    return OM_OK;
}

static om_status waves(sim *s, uint32_t n, sim_row *row, om_err *err)
{
    double samples = 0;
    for (uint32_t from = 0; from < n; from += s->wave) {
        size_t m = size_min(s->wave, n - from);
        for (size_t i = 0; i < m; i++)
            s->seat[i].client = s->chosen[from + i];
        if (s->conf.ranks)
            ranks_deal(s, m);
        pool_run(s->conf.pool, m, 1, client_work, s);
        if (s->conf.ranks)
            TRY(ranks_exchange(s, m, err));
        if (s->hostile)
            TRY(hostile_wave(s, m, err));
        find_late(s, m);
        TRY(receive(s, m, row, &samples, err));
    }
    row->train_loss /= samples;
    return OM_OK;
}

static om_status close_round(sim *s, sim_row *row, om_err *err)
{
    om_status st = algo(s)->server_close(&s->env, s->server, scratch_of(s, 0), err);
    row->unchanged = s->hostile && st == OM_ELIMIT; /* by contract the model stands */
    return row->unchanged ? OM_OK : st;
}

/* Those that answered are told the new model, which costs another way down. */
static void end_clients(sim *s, uint32_t n, sim_row *row)
{
    double slowest = 0;
    for (uint32_t i = 0; i < n; i++)
        slowest = fmax(slowest, pace_down(&s->conf.pace, s->chosen[i], s->down.len));
    for (uint32_t i = 0; i < n; i++)
        algo(s)->client_end(&s->env, s->chosen[i],
                            s->clients.p + s->chosen[i] * s->client_bytes, sim_model(s));
    row->down_bytes += (uint64_t)s->down.len * n;
    s->lasts += slowest;
}

enum { USE_JOIN = 0x6a6f696e };

static int ascending(const void *a, const void *b)
{
    uint32_t x, y;
    memcpy(&x, a, sizeof(x)), memcpy(&y, b, sizeof(y));
    return (x > y) - (x < y);
}

/* What the n chosen download. */
static uint64_t down_bytes(const sim *s, uint32_t n)
{
    uint64_t sum = 0;
    if (!algo(s)->down_part)
        return (uint64_t)s->down.len * n;
    for (uint32_t i = 0; i < n; i++)
        sum += algo(s)->down_part(&s->env, s->chosen[i], s->down.data, s->down.len);
    return sum;
}

/* Who answers, into chosen: a cohort's choice and its dropouts, or everyone's own coin,
 * any number of them; and what all that were asked download. */
static uint32_t choose(sim *s, uint64_t *bytes)
{
    const sim_config *c = &s->conf;
    uint32_t n = 0;
    rng coin = rng_for(c->seed, s->env.round, 0, USE_JOIN);
    if (in_turns(c)) {
        for (uint32_t i = 0; i < c->cohort; i++)
            s->chosen[i] = privacy_in_turn(c->seed, s->env.round, c->cohort, c->n_clients, i);
        qsort(s->chosen, c->cohort, sizeof(*s->chosen), ascending);
        *bytes = down_bytes(s, c->cohort);
        return answering(s);
    }
    if (!by_coins(s)) {
        fl_cohort(c->seed, s->env.round, c->n_clients, c->asked, s->chosen,
                  arena_of(s->cohort_scratch, fl_cohort_bytes(c->n_clients)));
        *bytes = down_bytes(s, c->asked);
        return answering(s);
    }
    for (uint32_t i = 0; i < c->n_clients; i++)
        if (rng_unit(&coin) * c->n_clients < c->cohort)
            s->chosen[n++] = i;
    *bytes = down_bytes(s, n);
    return n;
}

/* One round, but for what is counted over all of them. */
static om_status by_round(sim *s, sim_row *row, om_err *err)
{
    const sim_config *c = &s->conf;
    s->down.len = 0;
    s->lasts = 0;
    TRY(algo(s)->server_begin(&s->env, s->server, &s->down, err));
    uint32_t n = choose(s, &row->down_bytes);
    row->asked = by_coins(s) ? n : c->asked;
    if ((n > 0 && n >= c->min) || c->recipe.privacy.on) {
        TRY(waves(s, n, row, err));
        if (row->received >= c->min || row->late == 0)
            TRY(close_round(s, row, err));
        if (algo(s)->client_end && !row->unchanged)
            end_clients(s, n, row);
    } else {
        row->train_loss = unknown;
    }
    if (s->clients.fd_ >= 0)
        os_state_release(&s->clients);
    if (algo(s)->slope)
        row->slope = algo(s)->slope(&s->env, s->server);
    bool waits = row->received < c->cohort && row->received < row->asked;
    s->clock += waits && c->deadline > 0 ? c->deadline : s->lasts;
    s->env.round++;
    return OM_OK;
}

om_status sim_round(sim *s, sim_row *out, om_err *err)
{
    const sim_config *c = &s->conf;
    uint64_t from_ns = os_now_ns();
    sim_row row = {.round = s->env.round,
                   .slope = unknown,
                   .score = SIM_SCORE_UNKNOWN};
    TRY(s->async ? async_round(s, &row, err) : by_round(s, &row, err));
    row.total_down_bytes = s->total_down_bytes += row.down_bytes;
    row.total_up_bytes = s->total_up_bytes += row.up_bytes;
    row.clock = s->clock;
    row.seconds = (double)(os_now_ns() - from_ns) * 1e-9;
    if (c->evaluate_every && s->env.round % c->evaluate_every == 0)
        TRY(sim_evaluate(s, &row.score, err));
    *out = row;
    return OM_OK;
}

uint32_t sim_rounds_done(const sim *s) { return s->env.round; }

const float *sim_model(const sim *s) { return algo(s)->model(&s->env, s->server); }

om_status sim_evaluate(sim *s, sim_score *out, om_err *err)
{
    *out = SIM_SCORE_UNKNOWN;
    return s->conf.evaluate ? s->conf.evaluate(s->conf.ctx, sim_model(s), out, err) : OM_OK;
}
