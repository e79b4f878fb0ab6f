/* sim.c - see sim.h. */
#include "sim/state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { USE_DROPOUT = 0x64726f70, USE_ARRIVAL = 0x61727269 };
enum { WAVE_PER_THREAD = 4 };
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
static om_status choose_wave(sim *s, om_err *err)
{
    const sim_ranks *r = s->conf.ranks;
    uint64_t threads = (uint64_t)pool_threads(s->conf.pool), most = 0;
    if (!r) {
        s->wave = (uint32_t)size_min(s->conf.asked, threads * WAVE_PER_THREAD);
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
                                     most * WAVE_PER_THREAD * (uint64_t)r->size);
    }
    if (s->conf.attack.row)
        s->wave = s->conf.asked;
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
    TRY(choose_wave(s, err));
    TRY(take_states(s, err));
    s->scratch_bytes = size_align(algo(s)->scratch_bytes(e), 64) + 64;
    s->server = mem_alloc(algo(s)->server_bytes(e));
    s->scratch = mem_array(threads, s->scratch_bytes);
    s->seat = mem_array(s->wave, sizeof(seat));
    s->chosen = mem_array(by_coins(s) ? s->conf.n_clients : asked, sizeof(*s->chosen));
    s->cohort_scratch = mem_alloc(fl_cohort_bytes(s->conf.n_clients));
    s->down = buf_growing(algo(s)->down_bound(e) + 1);
    bool ok = s->server && s->scratch && s->seat && s->chosen &&
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

om_status sim_open(const sim_config *c, const float *x0, sim **out, om_err *err)
{
    TRY(check(c, err));
    sim *s = mem_alloc(sizeof(*s));
    if (!s)
        return fail(err, OM_ENOMEM, "simulate: no memory");
    s->conf = *c;
    s->conf.asked = c->asked ? c->asked : c->cohort;
    fl_drive drive = {.n_clients = c->n_clients,
                      .asked = s->conf.asked,
                      .cohort = c->cohort,
                      .least = c->dropout > 0 ? c->min : c->cohort,
                      .ends = true};
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
    if (st == OM_OK)
        st = take_memory(s, err);
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
    os_state_close(&s->clients);
    mem_free(s->server);
    mem_free(s->scratch);
    mem_free(s->seat);
    mem_free(s->chosen);
    mem_free(s->cohort_scratch);
    mem_free(s);
}

/* ---- a round ---- */

/* Who answers: the chosen that do not drop out; of more than a cohort, those that come
 * first, any set of them being as likely.  Ids stay ascending. */
static uint32_t answering(sim *s)
{
    const sim_config *c = &s->conf;
    rng coin = rng_for(c->seed, s->env.round, 0, USE_DROPOUT);
    rng arrival = rng_for(c->seed, s->env.round, 0, USE_ARRIVAL);
    uint32_t kept = 0, first = 0;
    for (uint32_t i = 0; i < c->asked; i++)
        if (c->dropout <= 0 || rng_unit(&coin) >= c->dropout)
            s->chosen[kept++] = s->chosen[i];
    if (kept <= c->cohort)
        return kept;
    for (uint32_t i = 0; first < c->cohort; i++)
        if (rng_below(&arrival, kept - i) < c->cohort - first)
            s->chosen[first++] = s->chosen[i];
    return first;
}

static void client_work(void *ctx, size_t beg, size_t end, int worker)
{
    sim *s = ctx;
    for (size_t i = beg; i < end; i++) {
        seat *c = &s->seat[i];
        fl_oracle f;
        c->up.len = 0;
        c->loss = unknown;
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
        c->status = algo(s)->client_step(
            &s->env, c->client, s->clients.p + c->client * s->client_bytes, &f, s->down.data,
            s->down.len, &c->up, &c->loss, scratch_of(s, worker), &c->err);
    }
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
        TRY(receive(s, m, row, &samples, err));
    }
    row->train_loss /= samples;
    return OM_OK;
}

/* Those that answered are told the new model, which costs another way down. */
static void end_clients(sim *s, uint32_t n, sim_row *row)
{
    for (uint32_t i = 0; i < n; i++)
        algo(s)->client_end(&s->env, s->chosen[i],
                            s->clients.p + s->chosen[i] * s->client_bytes, sim_model(s));
    row->down_bytes += (uint64_t)s->down.len * n;
}

enum { USE_JOIN = 0x6a6f696e };

static int ascending(const void *a, const void *b)
{
    uint32_t x, y;
    memcpy(&x, a, sizeof(x)), memcpy(&y, b, sizeof(y));
    return (x > y) - (x < y);
}

/* Who answers, into chosen: a cohort's choice and its dropouts, or everyone's own coin,
 * any number of them. */
static uint32_t choose(sim *s)
{
    const sim_config *c = &s->conf;
    uint32_t n = 0;
    rng coin = rng_for(c->seed, s->env.round, 0, USE_JOIN);
    if (in_turns(c)) {
        for (uint32_t i = 0; i < c->cohort; i++)
            s->chosen[i] = privacy_in_turn(c->seed, s->env.round, c->cohort, c->n_clients, i);
        qsort(s->chosen, c->cohort, sizeof(*s->chosen), ascending);
        return answering(s);
    }
    if (!by_coins(s)) {
        fl_cohort(c->seed, s->env.round, c->n_clients, c->asked, s->chosen,
                  arena_of(s->cohort_scratch, fl_cohort_bytes(c->n_clients)));
        return answering(s);
    }
    for (uint32_t i = 0; i < c->n_clients; i++)
        if (rng_unit(&coin) * c->n_clients < c->cohort)
            s->chosen[n++] = i;
    return n;
}

om_status sim_round(sim *s, sim_row *out, om_err *err)
{
    const sim_config *c = &s->conf;
    uint64_t from_ns = os_now_ns();
    sim_row row = {.round = s->env.round,
                   .asked = c->asked,
                   .score = {unknown, unknown, unknown}};
    uint32_t n = choose(s);
    s->down.len = 0;
    if (by_coins(s))
        row.asked = n;
    TRY(algo(s)->server_begin(&s->env, s->server, &s->down, err));
    row.down_bytes = (uint64_t)s->down.len * row.asked;
    if ((n > 0 && n >= c->min) || c->recipe.privacy.on) {
        TRY(waves(s, n, &row, err));
        om_status st = algo(s)->server_close(&s->env, s->server, scratch_of(s, 0), err);
        row.unchanged = s->hostile && st == OM_ELIMIT; /* by contract the model stands */
        if (!row.unchanged)
            TRY(st);
        if (algo(s)->client_end && !row.unchanged)
            end_clients(s, n, &row);
    } else {
        row.train_loss = unknown;
    }
    if (s->clients.fd_ >= 0)
        os_state_release(&s->clients);
    s->env.round++;
    row.total_down_bytes = s->total_down_bytes += row.down_bytes;
    row.total_up_bytes = s->total_up_bytes += row.up_bytes;
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
    *out = (sim_score){unknown, unknown, unknown};
    return s->conf.evaluate ? s->conf.evaluate(s->conf.ctx, sim_model(s), out, err) : OM_OK;
}
