/* coord.c - the coordinator's worker: see coord.h.
 *
 * DURABILITY, in the order things happen to an update:
 *   1. its bytes arrive in the inbox (no promise);
 *   2. it is decoded once (server_check), EV_OFFER reserves its place; it joins the queue,
 *      its device waits (large models: decoded by the worker, one at a time);
 *   3. the worker syncs what the queue wrote to, one sync per segment, and commits the
 *      rows in one transaction;
 *   4. EV_STORED; the device hears "accepted".
 * A crash before 3's commit loses nothing that was promised; after it, the row is
 * replayed as EV_STORED at the next start, and the device, asking again, is told that
 * this very update (by SHA-256) was accepted.
 *
 * A round's close writes blobs first, then commits version, snapshot and record in one
 * fenced transaction, then removes what is no longer needed.  Every crash between these
 * leaves either files nobody refers to (swept at the start) or work to repeat with the
 * same result. */
#include "coord/inner.h"

enum { BATCH = 256, SYNCERS = 8, TICK_MS = 100, SEEN_MS = 5000, RETRY_MS = 500 };

/* ---- the round state, durably ------------------------------------------------------- */

static arena scratch_of(const coord *c) { return arena_of(c->scratch, c->scratch_n); }

round_action coord_event(coord *c, round_event_kind kind, uint32_t device, uint32_t round,
                         uint32_t attempt)
{
    round_event e = {kind, device, round, attempt};
    return round_step(&c->round, e, os_wall_ms(), scratch_of(c));
}

static om_status snapshot_of(const round_state *s, buf *out, om_err *err)
{
    *out = buf_growing((size_t)s->plan.n_clients + 256);
    om_status st = round_save(s, out);
    return st == OM_OK ? st : fail(err, OM_ENOMEM, "coord: no memory for a snapshot");
}

static void swap_round(coord *c, const round_state *next)
{
    uint8_t *old = c->flags;
    c->round = *next;
    c->flags = next->device;
    c->next_flags = old;
}

/* Under the lock: step a copy, make it durable if the step asks for it, then show it. */
static om_status durable_event(coord *c, round_event e, om_err *err)
{
    round_state next;
    buf snapshot = {0};
    round_copy(&next, &c->round, c->next_flags);
    round_action a = round_step(&next, e, os_wall_ms(), scratch_of(c));
    om_status st = OM_OK;
    if (a.todo & ROUND_DO_SAVE) {
        st = snapshot_of(&next, &snapshot, err);
        if (st == OM_OK)
            st = store_run_save(c->store, c->run,
                                (str){(const char *)snapshot.data, snapshot.len}, err);
        buf_free(&snapshot);
    }
    if (st == OM_OK)
        swap_round(c, &next);
    return st;
}

om_status coord_join(coord *c, uint32_t device, om_err *err)
{
    return durable_event(c, (round_event){.kind = EV_JOINED, .device = device}, err);
}

static void say(const coord *c, log_level level, const char *what, const om_err *err)
{
    log_to(&c->cfg.log, level, "%s: %s", what, err->msg);
}

/* ---- accepting updates, in groups --------------------------------------------------- */

static wire_reason reason_of(om_status st)
{
    switch (st) {
    case OM_EFORMAT:
    case OM_EARG:
    case OM_ELIMIT:
        return WIRE_BAD_UPDATE;
    case OM_EIO:
        return WIRE_NO_STORAGE;
    case OM_ENOMEM:
        return WIRE_BUSY;
    default:
        return WIRE_INTERNAL;
    }
}

static desk *take_desk(coord *c)
{
    desk *d = NULL;
    os_lock(c->lock);
    for (int i = 0; i < c->n_desks && !d; i++)
        d = c->desks[i].taken ? NULL : &c->desks[i];
    BUG_IF(!d); /* as many as threads */
    d->taken = true;
    os_unlock(c->lock);
    return d;
}

static void leave_desk(coord *c, desk *d)
{
    if (!c->check_at_door) /* a large model: one scratch at a time, and not for long */
        os_state_release(&d->zeros);
    os_lock(c->lock);
    d->taken = false;
    os_unlock(c->lock);
}

static wire_reason judge_bytes(const coord *c, const upload *u, const os_map *v,
                               float *zeros, om_err *err)
{
    const fl_algo *a = c->recipe.algo;
    fl_env e = c->env;
    double norm, most = c->cfg.max_update_norm;
    e.round = u->head.round;
    om_status st = a->server_check(&e, u->device, u->head.samples, v->p, v->n, zeros, err);
    if (st == OM_OK && most > 0) {
        st = a->server_norm(&e, v->p, v->n, zeros, &norm, err);
        if (st == OM_OK && !(norm <= most)) {
            fail(err, OM_ELIMIT, "its L2 norm is %.4g; this run takes up to %.4g", norm, most);
            return WIRE_NORM;
        }
    }
    return st == OM_OK ? WIRE_OK : reason_of(st);
}

wire_reason coord_check(coord *c, const upload *u, om_err *err)
{
    os_map v;
    desk *d = take_desk(c);
    om_status st = inbox_map(c->inbox, u, &v, err);
    wire_reason why = reason_of(st);
    if (st == OM_OK) {
        why = judge_bytes(c, u, &v, (float *)(void *)d->zeros.p, err);
        os_map_close(&v);
    }
    leave_desk(c, d);
    return why;
}

static store_update record_of(const upload *u)
{
    store_update r = {.round = u->head.round,
                      .device = u->device,
                      .attempt = u->head.attempt,
                      .bytes = u->head.bytes,
                      .samples = u->head.samples,
                      .loss = u->head.loss,
                      .payload = u->small,
                      .in_segment = u->slot.in != NULL};
    if (r.in_segment) {
        r.segment = slot_segment(u->slot);
        r.at = u->slot.at;
    }
    memcpy(r.digest, u->head.digest, sizeof(r.digest));
    return r;
}

/* The machine and the inbox hear how it went, then the device does, so that it may ask
 * again at once.  Until then the held request keeps `u` alive. */
static void settle(coord *c, upload *u, const om_err *why)
{
    http_request *r = u->request;
    wire_reason verdict = u->verdict;
    bool kept = verdict == WIRE_OK, again = wire_reason_again(verdict);
    os_lock(c->lock);
    coord_event(c, kept ? EV_STORED : EV_UNSTORED, u->device, 0, 0);
    os_unlock(c->lock);
    u->request = NULL;
    if (kept || !again)
        inbox_drop(c->inbox, u, kept);
    else
        inbox_return(c->inbox, u);
    api_answer_result(r, verdict, kept ? NULL : why->msg, u, u->offset, c);
}

/* Those of list[0..n) that pass become one transaction. */
static void accept_batch(coord *c, upload **list, size_t n)
{
    store_update rows[BATCH];
    upload *good[BATCH];
    size_t n_good = 0;
    om_err err = {0};
    for (size_t i = 0; i < n; i++) {
        list[i]->verdict = c->check_at_door ? WIRE_OK : coord_check(c, list[i], &err);
        if (list[i]->verdict != WIRE_OK) {
            settle(c, list[i], &err);
            continue;
        }
        rows[n_good] = record_of(list[i]);
        good[n_good++] = list[i];
    }
    om_status st = n_good ? inbox_sync(c->inbox, good, n_good, c->syncers, &err) : OM_OK;
    if (st == OM_OK && n_good)
        st = store_accept(c->store, c->run, rows, n_good, &err);
    if (st != OM_OK)
        say(c, LOG_ERROR, "updates could not be stored", &err);
    for (size_t i = 0; i < n_good; i++) {
        good[i]->verdict = st == OM_OK    ? WIRE_OK
                           : st == OM_EIO ? WIRE_NO_STORAGE
                                          : WIRE_BUSY;
        settle(c, good[i], &err);
    }
}

static size_t take_queue(coord *c, upload **list, size_t max)
{
    size_t n = 0;
    os_lock(c->lock);
    while (c->queue && n < max) {
        list[n++] = c->queue;
        c->queue = c->queue->queued;
    }
    os_unlock(c->lock);
    return n;
}

static void accept_all(coord *c)
{
    upload *list[BATCH];
    for (size_t n; (n = take_queue(c, list, BATCH)) > 0;)
        accept_batch(c, list, n);
}

static void answer_waiting(coord *c, uint64_t now, bool all)
{
    os_lock(c->lock);
    waiting *list = c->waiting, *next;
    c->waiting = NULL;
    c->n_waiting = 0;
    for (waiting *w = list; w; w = next) {
        wire_answer a;
        next = w->next;
        coord_checkin(c, w->device, &a);
        if (all || a.work != WIRE_WAIT || now >= w->until_ms) {
            api_answer_work(w->request, &a);
            mem_free(w);
        } else {
            w->next = c->waiting;
            c->waiting = w;
            c->n_waiting++;
        }
    }
    os_unlock(c->lock);
}

/* ---- closing a round ---------------------------------------------------------------- */

static om_status remove_blob(void *ctx, const uint8_t sha[32], om_err *err)
{
    return blobs_remove(ctx, sha, err);
}

static om_status clean_up(coord *c, om_err *err)
{
    TRY(inbox_forget(c->inbox, c->run, c->round.round, err));
    return store_drop_blobs(c->store, remove_blob, &c->blobs, err);
}

/* Under the lock: the next state and the version become durable together. */
static om_status commit_locked(coord *c, const store_round *r, const store_version *next,
                               om_err *err)
{
    round_state s;
    buf snapshot = {0};
    round_copy(&s, &c->round, c->next_flags);
    round_step(&s, (round_event){.kind = EV_COMMITTED, .round = r->round}, os_wall_ms(),
               scratch_of(c));
    om_status st = snapshot_of(&s, &snapshot, err);
    if (st == OM_OK)
        st = store_commit(c->store, c->run, r, next,
                          (str){(const char *)snapshot.data, snapshot.len},
                          c->cfg.keep_versions, err);
    buf_free(&snapshot);
    if (st == OM_OK) {
        swap_round(c, &s);
        c->version = *next;
        c->bytes_down = 0;
    }
    return st;
}

static om_status close_round(coord *c, om_err *err)
{
    store_version next;
    fold_result f;
    round_state s = c->round; /* CLOSING: nobody changes what is read here */
    TRY(fold_round(&c->fold, c->run, s.round, &c->version, &next, &f, err));
    if (f.unchanged)
        say(c, LOG_WARN, "the round leaves the model as it was", &f.why);
    store_round r = {.round = s.round,
                     .attempts = s.attempt + 1,
                     .selected = s.selected,
                     .accepted = f.n,
                     .opened_ms = s.opened_ms,
                     .closed_ms = os_wall_ms(),
                     .bytes_up = f.bytes_up,
                     .loss = f.loss};
    os_lock(c->lock);
    r.bytes_down = c->bytes_down;
    om_status st = commit_locked(c, &r, &next, err);
    os_unlock(c->lock);
    if (st != OM_OK)
        return st;
    answer_waiting(c, os_now_ns() / 1000000, false); /* they train while we tidy up */
    om_err late = {0};
    if (clean_up(c, &late) != OM_OK) /* the next start sweeps it */
        say(c, LOG_WARN, "old files remain", &late);
    if (c->cfg.on_round)
        c->cfg.on_round(c->cfg.on_round_ctx, &r, &c->round);
    return OM_OK;
}

/* ---- the worker's loop -------------------------------------------------------------- */

static om_status tick(coord *c, om_err *err)
{
    om_status st = OM_OK;
    os_lock(c->lock);
    const round_state *s = &c->round;
    if (s->phase == ROUND_OPEN && os_wall_ms() >= s->deadline_ms) {
        uint32_t attempt = s->attempt;
        st = durable_event(c, (round_event){.kind = EV_TICK}, err);
        if (c->round.attempt != attempt)
            log_to(&c->cfg.log, LOG_WARN,
                   "round %u: %u of %u updates at the deadline; attempt "
                   "%u",
                   (unsigned)s->round, (unsigned)s->accepted,
                   (unsigned)s->plan.min_accepted, (unsigned)s->attempt + 1);
    }
    os_unlock(c->lock);
    return st;
}

static bool is_over(coord *c)
{
    os_lock(c->lock);
    bool over = c->round.phase == ROUND_FINISHED || c->round.phase == ROUND_ABANDONED;
    os_unlock(c->lock);
    return over;
}

/* Full disk and no memory may pass: what was accepted stays, and the work is repeated. */
static om_status pass_or_fail(coord *c, om_status st, om_err *err)
{
    if (st != OM_EIO && st != OM_ENOMEM)
        return st;
    say(c, LOG_ERROR, "will be tried again", err);
    os_sleep_ms(RETRY_MS);
    return OM_OK;
}

static om_status work_once(coord *c, om_err *err)
{
    accept_all(c);
    TRY(pass_or_fail(c, tick(c, err), err));
    os_lock(c->lock);
    bool closing = c->round.phase == ROUND_CLOSING;
    os_unlock(c->lock);
    if (closing)
        TRY(pass_or_fail(c, close_round(c, err), err));
    answer_waiting(c, os_now_ns() / 1000000, false);
    return OM_OK;
}

static void stop_serving(coord *c)
{
    om_err why = {0};
    fail(&why, OM_EAGAIN, "the coordinator is going down; it keeps what it accepted");
    os_lock(c->lock);
    c->stopping = true;
    upload *list = c->queue;
    c->queue = NULL;
    os_unlock(c->lock);
    for (upload *u = list, *next; u; u = next) {
        next = u->queued;
        u->verdict = WIRE_BUSY;
        settle(c, u, &why);
    }
    answer_waiting(c, 0, true);
}

om_status coord_run(coord *c, uint64_t linger_ms, om_err *err)
{
    uint64_t over_ms = 0, seen_ms = os_now_ns() / 1000000;
    om_status st = OM_OK;
    while (st == OM_OK) {
        uint64_t now = os_now_ns() / 1000000;
        if (is_cancelled(c->cfg.cancel)) {
            st =
                fail(err, OM_ECANCEL, "coord: stopped; the run goes on when started again");
            break;
        }
        if (is_over(c) && !over_ms)
            over_ms = now + linger_ms + 1;
        if (over_ms && now >= over_ms)
            break;
        if (now - seen_ms >= SEEN_MS) {
            om_err late = {0};
            if (devices_flush(c->devices, &late) != OM_OK)
                say(c, LOG_WARN, "last contacts not written", &late);
            seen_ms = now;
        }
        st = work_once(c, err);
        if (st == OM_OK && !is_over(c))
            os_event_wait(c->bell, TICK_MS);
        else if (st == OM_OK)
            os_event_wait(c->bell, linger_ms < TICK_MS ? linger_ms : TICK_MS);
    }
    stop_serving(c);
    if (st == OM_OK && c->round.phase == ROUND_ABANDONED)
        st = fail(err, OM_EREFUSED,
                  "coord: round %u got too few updates in %u attempts; the "
                  "run is abandoned",
                  (unsigned)c->round.round, (unsigned)c->round.plan.max_attempts);
    return st;
}

/* ---- open --------------------------------------------------------------------------- */

static om_status config_text(const coord *c, buf *out, om_err *err)
{
    const coord_config *k = &c->cfg;
    *out = buf_growing(4 * WIRE_MESSAGE_MAX);
    json_out o = json_to(out);
    json_open_object(&o, NULL);
    json_put_str(&o, "algorithm", str_of(k->algorithm));
    json_put_str(&o, "algorithm_params", str_of(k->algorithm_params));
    json_put_str(&o, "codec", str_of(k->codec));
    json_put_str(&o, "codec_params", str_of(k->codec_params));
    if (!aggregate_is_mean(&c->recipe.robust)) { /* else as runs without it wrote it */
        json_put_str(&o, "aggregator", str_of(k->aggregator));
        json_put_str(&o, "aggregator_params", str_of(k->aggregator_params));
    }
    if (k->privacy.on) {
        json_put_f64(&o, "epsilon", k->privacy.p[PRIVACY_EPSILON]);
        json_put_f64(&o, "delta", k->privacy.p[PRIVACY_DELTA]);
        json_put_f64(&o, "noise_multiplier", k->privacy.p[PRIVACY_NOISE]);
        json_put_f64(&o, "max_grad_norm", k->privacy.p[PRIVACY_CLIP]);
        json_put_f64(&o, "clip_quantile", k->privacy.p[PRIVACY_QUANTILE]);
        if (k->privacy.p[PRIVACY_MECHANISM] > 0.5) /* else as runs before it wrote it */
            json_put_f64(&o, "mechanism", k->privacy.p[PRIVACY_MECHANISM]);
    }
    json_put_str(&o, "kind", str_of(k->kind));
    json_put_str(&o, "task", str_of(k->task));
    json_put_u64(&o, "dim", k->dim);
    json_put_u64(&o, "seed", k->plan.seed);
    json_put_u64(&o, "clients", k->plan.n_clients);
    json_put_u64(&o, "cohort", k->plan.cohort);
    json_put_u64(&o, "rounds", k->plan.n_rounds);
    json_shut(&o, '}');
    return o.status == OM_OK ? OM_OK
                             : fail(err, o.status, "coord: the configuration is too long");
}

/* The key of the noise, made once a run: a fold that is repeated after a crash must add
 * the same noise, and nobody outside may know it. */
static om_status noise_secret(coord *c, om_err *err)
{
    char path[1024];
    buf b = {0};
    privacy_rule *p = &c->recipe.privacy;
    om_status st = os_join(path, sizeof(path), c->cfg.dir, "noise.key");
    if (st != OM_OK)
        return fail(err, st, "coord: '%s' is too long a path", c->cfg.dir);
    if (p->p[PRIVACY_SAMPLING] > 0.5)
        return fail(err, OM_EUNSUPPORTED,
                    "coord: devices come when they can, not by coins or in turns; set "
                    "privacy.sampling to everyone");
    if (privacy_at_clients(p))
        return fail(err, OM_EUNSUPPORTED,
                    "coord: privacy.unit example runs in octomil simulate alone; set it to "
                    "client");
    if (!os_exists(path)) {
        TRY(os_mkdirs(c->cfg.dir, err));
        TRY(os_entropy(p->secret, sizeof(p->secret), err));
        return os_write_file_atomic(path, p->secret, sizeof(p->secret), err);
    }
    TRY(os_read_file(path, sizeof(p->secret), &b, err));
    if (b.len == sizeof(p->secret))
        memcpy(p->secret, b.data, b.len);
    else
        st = fail(err, OM_EFORMAT, "coord: '%s' is damaged", path);
    buf_free(&b);
    return st;
}

static om_status fill_env(coord *c, om_err *err)
{
    const coord_config *k = &c->cfg;
    TRY(round_plan_check(&k->plan, err));
    if (k->dim == 0 || k->dim > SIZE_MAX / 64)
        return fail(err, OM_EARG, "coord: a model of %zu numbers", k->dim);
    if (!wire_name_ok(str_of(k->run)) || strlen(k->run) >= 64)
        return fail(err, OM_EARG, "coord: '%s' is not a name for a run", k->run);
    TRY(fl_recipe_of(str_of(k->algorithm), str_of(k->algorithm_params), str_of(k->codec),
                     str_of(k->codec_params), &c->recipe, err));
    fl_drive drive = {.n_clients = k->plan.n_clients,
                      .asked = k->plan.cohort,
                      .cohort = k->plan.cohort,
                      .least = k->plan.min_accepted};
    TRY(fl_recipe_drive(&c->recipe, &drive, err));
    if (k->aggregator)
        TRY(fl_recipe_robust(&c->recipe, str_of(k->aggregator),
                             str_of(k->aggregator_params), err));
    TRY(aggregate_check(&c->recipe.robust, k->plan.cohort, err));
    c->recipe.privacy = k->privacy;
    if (k->privacy.on)
        TRY(noise_secret(c, err));
    TRY(fl_recipe_check(&c->recipe, err));
    c->fold.algo = c->recipe.algo;
    c->fold.env = (fl_env){.dim = k->dim,
                           .n_clients = k->plan.n_clients,
                           .cohort = k->plan.cohort,
                           .seed = k->plan.seed,
                           .p = c->recipe.p,
                           .up = c->recipe.up,
                           .up_p = c->recipe.up_p,
                           .k = k->k,
                           .robust = &c->recipe.robust,
                           .privacy = &c->recipe.privacy};
    c->env = c->fold.env;
    c->up_bound = c->recipe.algo->up_bound(&c->env);
    if (k->max_update_norm > 0 && !c->recipe.algo->server_norm)
        return fail(err, OM_EUNSUPPORTED,
                    "coord: the updates of '%s' have no norm to bound; leave "
                    "max_update_norm out",
                    k->algorithm);
    wire_answer a = {.work = WIRE_TASK}; /* will a device be able to read its task? */
    if (strlen(k->task) >= WIRE_PARAMS || strlen(k->algorithm_params) >= WIRE_PARAMS ||
        strlen(k->codec_params) >= WIRE_PARAMS || strlen(k->kind) >= sizeof(a.task.kind))
        return fail(err, OM_EARG, "coord: the task's description is too long");
    return OM_OK;
}

static om_status open_desks(coord *c, om_err *err)
{
    size_t model = c->cfg.dim * sizeof(float);
    c->check_at_door = model <= SEGMENT_SLOT_MAX && c->up_bound <= SEGMENT_SLOT_MAX;
    c->n_desks = c->check_at_door ? os_cpu_count() + 1 : 1;
    c->desks = mem_array((size_t)c->n_desks, sizeof(*c->desks));
    if (!c->desks)
        return fail(err, OM_ENOMEM, "coord: no memory");
    for (int i = 0; i < c->n_desks; i++)
        TRY(os_state_create(NULL, model, &c->desks[i].zeros, err));
    return OM_OK;
}

static void close_desks(coord *c)
{
    for (int i = 0; c->desks && i < c->n_desks; i++)
        os_state_close(&c->desks[i].zeros);
    mem_free(c->desks);
}

static om_status open_memory(coord *c, om_err *err)
{
    uint32_t n = c->cfg.plan.n_clients;
    c->scratch_n = round_scratch_bytes(&c->cfg.plan);
    c->scratch = mem_alloc(c->scratch_n);
    c->flags = mem_alloc(n);
    c->next_flags = mem_alloc(n);
    if (!c->scratch || !c->flags || !c->next_flags)
        return fail(err, OM_ENOMEM, "coord: no memory for %u clients", (unsigned)n);
    TRY(open_desks(c, err));
    TRY(pool_open(SYNCERS, &c->syncers, err));
    pool_rest(c->syncers);
    TRY(os_mutex_open(&c->lock, err));
    return os_event_open(&c->bell, err);
}

static bool blob_wanted(void *ctx, const uint8_t sha[32])
{
    return store_blob_wanted(ctx, sha);
}

static om_status open_folder(coord *c, om_err *err)
{
    char path[BLOB_PATH];
    const char *dir = c->cfg.dir;
    TRY(os_mkdirs(dir, err));
    if (os_join(path, sizeof(path), dir, "lock") != OM_OK || strlen(dir) > 900)
        return fail(err, OM_EARG, "coord: the path '%.80s...' is too long", dir);
    TRY(os_lock_file(path, &c->lock_fd, err));
    TRY(os_join(c->fold.work, sizeof(c->fold.work), dir, "work"));
    TRY(os_mkdirs(c->fold.work, err));
    TRY(os_join(path, sizeof(path), dir, "octomil.db"));
    TRY(store_open(path, &c->store, err));
    TRY(blobs_open(dir, &c->blobs, err));
    TRY(blobs_sweep(&c->blobs, blob_wanted, c->store, err));
    TRY(inbox_open(dir, c->up_bound, &c->inbox, err));
    c->fold.blobs = &c->blobs;
    c->fold.inbox = c->inbox;
    c->fold.store = c->store;
    return devices_open(c->store, c->cfg.plan.n_clients, c->cfg.names, c->cfg.n_names,
                        &c->devices, err);
}

static om_status new_run(coord *c, str config, store_run *out, om_err *err)
{
    store_version v0;
    buf snapshot = {0};
    os_state x0;
    TRY(os_state_create(NULL, c->cfg.dim * sizeof(float), &x0, err));
    om_status st = c->cfg.start(c->cfg.start_ctx, (float *)(void *)x0.p, err);
    if (st == OM_OK)
        st = fold_start(&c->fold, (const float *)(void *)x0.p, &v0, err);
    os_state_close(&x0);
    round_init(&c->round, &c->cfg.plan, c->flags);
    if (st == OM_OK)
        st = snapshot_of(&c->round, &snapshot, err);
    if (st == OM_OK)
        st = store_run_create(c->store, c->cfg.run, config,
                              (str){(const char *)snapshot.data, snapshot.len}, &v0, out,
                              err);
    buf_free(&snapshot);
    return st;
}

static om_status replay_update(void *ctx, const store_update *u, om_err *err)
{
    coord *c = ctx;
    (void)err;
    coord_event(c, EV_STORED, u->device, 0, 0);
    return OM_OK;
}

/* Where the run stood: the snapshot, who has joined, what was accepted since. */
static om_status resume(coord *c, const store_run *run, om_err *err)
{
    c->run = run->id;
    c->version = run->version;
    TRY(round_load(&c->round, &c->cfg.plan, c->flags, run->snapshot.data, run->snapshot.len,
                   err));
    TRY(store_updates(c->store, c->run, c->round.round, replay_update, c, err));
    coord_event(c, EV_RESUMED, 0, 0, 0);
    for (uint32_t i = 0; i < c->cfg.plan.n_clients; i++)
        if (devices_known(c->devices, i) && !(c->flags[i] & ROUND_JOINED))
            TRY(coord_join(c, i, err));
    return clean_up(c, err);
}

static om_status open_run(coord *c, om_err *err)
{
    store_run run = {0};
    buf config = {0};
    om_status st = config_text(c, &config, err);
    if (st == OM_OK)
        st = store_run_find(c->store, c->cfg.run, &run, err);
    str text = {(const char *)config.data, config.len};
    if (st == OM_ENOTFOUND)
        st = new_run(c, text, &run, err);
    else if (st == OM_OK &&
             !str_eq(text, (str){(const char *)run.config.data, run.config.len}))
        st = fail(err, OM_EARG,
                  "coord: run '%s' in '%s' was started with another "
                  "configuration; use it, or another run name",
                  c->cfg.run, c->cfg.dir);
    if (st == OM_OK)
        st = resume(c, &run, err);
    store_run_clear(&run);
    buf_free(&config);
    return st;
}

om_status coord_open(const coord_config *k, coord **out, om_err *err)
{
    *out = NULL;
    coord *c = mem_alloc(sizeof(*c));
    if (!c)
        return fail(err, OM_ENOMEM, "coord: no memory");
    c->cfg = *k;
    c->lock_fd = -1;
    if (k->bootstrap)
        sha256(k->bootstrap, strlen(k->bootstrap), c->bootstrap_hash);
    om_status st = fill_env(c, err);
    if (st == OM_OK)
        st = open_memory(c, err);
    if (st == OM_OK)
        st = open_folder(c, err);
    if (st == OM_OK)
        st = open_run(c, err);
    if (st != OM_OK) {
        coord_close(c);
        return st;
    }
    *out = c;
    return OM_OK;
}

void coord_close(coord *c)
{
    if (!c)
        return;
    http_server_close(c->http);
    if (c->devices)
        devices_flush(c->devices, NULL);
    devices_close(c->devices);
    inbox_close(c->inbox);
    store_close(c->store);
    pool_close(c->syncers);
    close_desks(c);
    os_event_close(c->bell);
    os_mutex_close(c->lock);
    mem_free(c->scratch);
    mem_free(c->flags);
    mem_free(c->next_flags);
    os_close(c->lock_fd);
    mem_free(c);
}

om_status coord_listen(coord *c, const char *host, uint16_t port, uint16_t *got,
                       om_err *err)
{
    http_config h = {.host = host,
                     .port = port,
                     .max_connections = 4096,
                     .idle_seconds = 60,
                     .routes = api_routes,
                     .app = c,
                     .authorise = api_authorise,
                     .error = api_error};
    TRY(http_server_open(&h, &c->http, err));
    *got = http_server_port(c->http);
    return OM_OK;
}

om_status coord_model(coord *c, float *x, om_err *err)
{
    return fold_model(&c->fold, &c->version, x, err);
}
