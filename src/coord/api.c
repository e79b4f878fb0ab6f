/* api.c - the coordinator's HTTP routes: docs/protocol.md in code.
 *
 * Nothing here waits for a disk except a registration: an update that is complete joins
 * the worker's queue and its request is held until the group commit; a check-in that
 * finds no work may be held until there is some (`wait_ms`).  What can be refused is
 * refused before the body travels.
 *
 * IDEMPOTENCE.  An update that was accepted is answered "accepted" for ever, by run,
 * round, device and digest: a device whose connection broke one byte before the answer
 * asks again and learns the truth. */
#include "coord/inner.h"

#include <stdio.h>

enum { WAITING_MAX = 2048, WAIT_MS_MAX = 30000 };

/* ---- answers ------------------------------------------------------------------------ */

static void answer_json(http_request *r, unsigned status, om_status made, const buf *b)
{
    if (made == OM_OK)
        http_answer(r, status, "application/json", (str){(const char *)b->data, b->len});
    else
        http_answer(r, 500, "application/json", STR("{\"error\":\"internal\"}"));
}

void api_answer_work(http_request *r, const wire_answer *a)
{
    buf b = buf_growing(WIRE_MESSAGE_MAX);
    answer_json(r, 200, wire_put_answer(a, &b), &b);
    buf_free(&b);
}

void api_answer_result(http_request *r, wire_reason reason, const char *details,
                       const upload *u, uint64_t offset, const coord *c)
{
    wire_result m = {.reason = reason,
                     .offset = offset,
                     .complete = reason == WIRE_OK && (!u || offset == u->head.bytes),
                     .retry_min_ms = c->cfg.plan.retry_min_ms,
                     .retry_max_ms = c->cfg.plan.retry_max_ms};
    buf b = buf_growing(WIRE_MESSAGE_MAX);
    if (u)
        memcpy(m.upload, u->name, sizeof(m.upload));
    snprintf(m.message, sizeof(m.message), "%s%s%s", wire_reason_text(reason),
             details && details[0] ? ": " : "", details ? details : "");
    answer_json(r, wire_reason_http(reason), wire_put_result(&m, &b), &b);
    buf_free(&b);
}

static void refuse(coord *c, http_request *r, wire_reason reason, const char *details)
{
    api_answer_result(r, reason, details, NULL, 0, c);
}

void api_error(void *app, http_request *r, unsigned status)
{
    wire_reason reason = status == 404   ? WIRE_NOT_FOUND
                         : status == 405 ? WIRE_BAD_METHOD
                         : status == 413 ? WIRE_TOO_LARGE
                         : status == 416 ? WIRE_BAD_RANGE
                         : status == 400 ? WIRE_BAD_MESSAGE
                                         : WIRE_BUSY;
    refuse(app, r, reason, NULL);
}

static wire_reason reason_of_parse(om_status st)
{
    return st == OM_EUNSUPPORTED ? WIRE_WRONG_PROTOCOL
           : st == OM_ENOMEM     ? WIRE_BUSY
                                 : WIRE_BAD_MESSAGE;
}

/* ---- who is calling ----------------------------------------------------------------- */

static bool bootstrap_ok(const coord *c, str token)
{
    uint8_t hash[32];
    if (!c->cfg.bootstrap)
        return true;
    sha256(token.p, token.n, hash);
    return secret_equal(hash, c->bootstrap_hash);
}

bool api_authorise(void *app, http_request *r, int level)
{
    coord *c = app;
    uint32_t device = 0;
    str token = http_header(r, "Authorization");
    bool bearer = str_starts(token, "Bearer ");
    token = bearer ? (str){token.p + 7, token.n - 7} : (str){"", 0};
    bool ok = level == AUTH_NONE || (level == AUTH_BOOTSTRAP && bootstrap_ok(c, token)) ||
              (level == AUTH_DEVICE &&
               devices_authenticate(c->devices, token, os_wall_ms(), &device));
    http_set_caller(r, device);
    if (!ok)
        refuse(c, r, WIRE_UNAUTHORIZED, NULL);
    return ok;
}

/* ---- registration, heartbeat -------------------------------------------------------- */

static void register_device(void *app, http_request *r)
{
    coord *c = app;
    wire_register m;
    wire_registered made;
    wire_reason why;
    om_err err = {0};
    str body = http_body(r);
    om_status st = wire_get_register(&m, body.p, body.n, &err);
    if (st != OM_OK) {
        refuse(c, r, reason_of_parse(st), err.msg);
        return;
    }
    st = devices_register(c->devices, &m, os_wall_ms(), &made, &why, &err);
    if (st == OM_OK) {
        os_lock(c->lock);
        st = coord_join(c, made.index, &err);
        os_unlock(c->lock);
        os_event_ring(c->bell);
    }
    if (st != OM_OK) {
        refuse(c, r,
               st == OM_EREFUSED && why ? why
               : st == OM_EIO           ? WIRE_NO_STORAGE
                                        : WIRE_BUSY,
               err.msg);
        return;
    }
    buf b = buf_growing(WIRE_MESSAGE_MAX);
    answer_json(r, 200, wire_put_registered(&made, &b), &b);
    buf_free(&b);
}

/* The token has said who it is and authorise() has noted the time. */
static void heartbeat(void *app, http_request *r)
{
    (void)app;
    http_answer(r, 200, "application/json", STR("{\"status\":\"ok\"}"));
}

/* ---- check-in ----------------------------------------------------------------------- */

static void fill_task(const coord *c, uint32_t device, wire_task *t)
{
    const coord_config *k = &c->cfg;
    uint64_t now = os_wall_ms(), deadline = c->round.deadline_ms;
    *t = (wire_task){.round = c->round.round,
                     .attempt = c->round.attempt,
                     .client = device,
                     .n_clients = k->plan.n_clients,
                     .cohort = k->plan.cohort,
                     .seed = k->plan.seed,
                     .dim = k->dim,
                     .deadline_ms = deadline > now ? deadline - now : 0,
                     .down_bytes = c->version.down_bytes,
                     .up_bound = c->up_bound};
    snprintf(t->run, sizeof(t->run), "%s", k->run);
    snprintf(t->algorithm, sizeof(t->algorithm), "%s", k->algorithm);
    snprintf(t->codec, sizeof(t->codec), "%s", k->codec);
    snprintf(t->kind, sizeof(t->kind), "%s", k->kind);
    snprintf(t->algorithm_params, sizeof(t->algorithm_params), "%s", k->algorithm_params);
    snprintf(t->codec_params, sizeof(t->codec_params), "%s", k->codec_params);
    snprintf(t->task, sizeof(t->task), "%s", k->task);
    memcpy(t->down_sha, c->version.down_sha, 32);
}

void coord_checkin(coord *c, uint32_t device, wire_answer *out)
{
    round_action a = coord_event(c, EV_CHECKIN, device, 0, 0);
    *out = (wire_answer){
        .work = WIRE_WAIT, .retry_min_ms = a.retry_min_ms, .retry_max_ms = a.retry_max_ms};
    if (a.answer == ROUND_GIVE_TASK) {
        out->work = WIRE_TASK;
        fill_task(c, device, &out->task);
    } else if (a.answer == ROUND_GIVE_END) {
        out->work = WIRE_END;
        snprintf(out->outcome, sizeof(out->outcome), "%s",
                 round_phase_name(c->round.phase));
    }
}

static uint64_t query_u64(http_request *r, const char *name, uint64_t def)
{
    uint64_t v = def;
    str text = http_query(r, name);
    return text.p && str_u64(text, &v) ? v : def;
}

/* Under the lock. False: no room to wait, answer now. */
static bool start_waiting(coord *c, http_request *r, uint64_t wait_ms)
{
    waiting *w = NULL;
    if (wait_ms && !c->stopping && c->n_waiting < WAITING_MAX)
        w = mem_alloc(sizeof(*w));
    if (!w)
        return false;
    *w = (waiting){.next = c->waiting,
                   .request = r,
                   .device = http_caller(r),
                   .until_ms = os_now_ns() / 1000000 + wait_ms};
    c->waiting = w;
    c->n_waiting++;
    return true;
}

static void check_in(void *app, http_request *r)
{
    coord *c = app;
    wire_answer a;
    uint64_t wait_ms = query_u64(r, "wait_ms", 0);
    wait_ms = wait_ms < WAIT_MS_MAX ? wait_ms : WAIT_MS_MAX;
    os_lock(c->lock);
    coord_checkin(c, http_caller(r), &a);
    bool hold = a.work == WIRE_WAIT && start_waiting(c, r, wait_ms);
    os_unlock(c->lock);
    if (hold)
        http_hold(r); /* harmless when the worker has answered meanwhile */
    else
        api_answer_work(r, &a);
}

/* ---- the model ---------------------------------------------------------------------- */

static bool offer_base(coord *c, http_request *r, const uint8_t sha[32], const char *hex)
{
    return c->cfg.base_path && memcmp(sha, c->cfg.base_sha, 32) == 0 &&
           http_answer_file(r, c->cfg.base_path, hex);
}

/* Only what a device needs now: a server state is nobody's business. */
static void get_blob(void *app, http_request *r)
{
    coord *c = app;
    uint8_t sha[32] = {0};
    char path[BLOB_PATH], hex[65];
    bool known = hex_decode(http_tail(r), sha, 32);
    hex_encode(sha, 32, hex);
    if (known && offer_base(c, r, sha, hex))
        return;
    os_lock(c->lock);
    known = known && memcmp(sha, c->version.down_sha, 32) == 0;
    if (known && !http_header(r, "Range").p)
        c->bytes_down += c->version.down_bytes;
    os_unlock(c->lock);
    if (!known || blobs_path(&c->blobs, sha, path, NULL) != OM_OK)
        refuse(c, r, WIRE_NOT_FOUND, "this is not the model of the open round");
    else if (!http_answer_file(r, path, hex))
        refuse(c, r, WIRE_NOT_FOUND, "the blob cannot be opened");
}

/* ---- updates ------------------------------------------------------------------------ */

typedef struct { /* of one request */
    upload *u;
    uint32_t owner;
    uint64_t expected; /* the offset the body must end at, or 0: unknown */
} transfer;

/* Was this very update accepted before? */
static bool was_accepted(coord *c, uint32_t device, const wire_update *m)
{
    uint8_t digest[WIRE_DIGEST];
    return store_accepted(c->store, c->run, m->round, device, digest, NULL) == OM_OK &&
           memcmp(digest, m->digest, WIRE_DIGEST) == 0;
}

static wire_reason judge(coord *c, uint32_t device, const wire_update *m)
{
    if (strcmp(m->run, c->cfg.run) != 0)
        return WIRE_NO_RUN;
    if (m->samples == 0 || m->samples > WIRE_SAMPLES_MAX)
        return WIRE_ABSURD_SAMPLES;
    if (m->bytes == 0 || m->bytes > c->up_bound)
        return WIRE_WRONG_LENGTH;
    os_lock(c->lock);
    wire_reason no =
        c->stopping ? WIRE_BUSY : round_judge(&c->round, device, m->round, m->attempt);
    os_unlock(c->lock);
    return no;
}

/* True: go on.  False: answered; perhaps "accepted", when it had been before. */
static bool admit(coord *c, http_request *r, const wire_update *m)
{
    char details[160] = "";
    wire_reason no = judge(c, http_caller(r), m);
    if (no == WIRE_OK)
        return true;
    bool maybe = no == WIRE_REPLAY || no == WIRE_LATE || no == WIRE_RUN_OVER;
    if (maybe && was_accepted(c, http_caller(r), m)) {
        api_answer_result(r, WIRE_OK, NULL, NULL, m->bytes, c);
        return false;
    }
    if (no == WIRE_WRONG_LENGTH)
        snprintf(details, sizeof(details),
                 "%llu bytes; at most %zu fit this model and codec",
                 (unsigned long long)m->bytes, c->up_bound);
    if (no == WIRE_ABSURD_SAMPLES)
        snprintf(details, sizeof(details), "%llu; 1 to %llu are believed",
                 (unsigned long long)m->samples, (unsigned long long)WIRE_SAMPLES_MAX);
    refuse(c, r, no, details);
    return false;
}

static void refuse_upload(coord *c, http_request *r, om_status st, wire_reason why,
                          const om_err *err)
{
    if (why == WIRE_OK)
        why = st == OM_EIO         ? WIRE_NO_STORAGE
              : st == OM_ENOTFOUND ? WIRE_NOT_FOUND
                                   : WIRE_BUSY;
    refuse(c, r, why, err->msg);
}

static void initiate(void *app, http_request *r)
{
    coord *c = app;
    wire_update m;
    upload *u;
    uint32_t owner;
    wire_reason why;
    om_err err = {0};
    str body = http_body(r);
    om_status st = wire_get_update(&m, body.p, body.n, &err);
    if (st != OM_OK) {
        refuse(c, r, reason_of_parse(st), err.msg);
        return;
    }
    if (!admit(c, r, &m))
        return;
    st = inbox_enter(c->inbox, c->run, http_caller(r), &m, &u, &owner, &why, &err);
    if (st != OM_OK) {
        refuse_upload(c, r, st, why, &err);
        return;
    }
    wire_result answer = {.offset = u->offset};
    memcpy(answer.upload, u->name, sizeof(answer.upload));
    inbox_leave(c->inbox, u, owner);
    buf b = buf_growing(WIRE_MESSAGE_MAX);
    answer_json(r, 200, wire_put_result(&answer, &b), &b);
    buf_free(&b);
}

static bool keep_transfer(coord *c, http_request *r, upload *u, uint32_t owner)
{
    transfer *t = mem_alloc(sizeof(*t));
    if (!t) {
        inbox_leave(c->inbox, u, owner);
        refuse(c, r, WIRE_BUSY, NULL);
        return false;
    }
    *t = (transfer){.u = u, .owner = owner};
    http_keep(r, t);
    return true;
}

/* The body must start where the upload stands, and not be longer than what is missing. */
static bool fits(coord *c, http_request *r, const upload *u, uint64_t offset)
{
    bool here = offset == u->offset;
    if (here && http_length(r) <= u->head.bytes - offset)
        return true;
    api_answer_result(r, here ? WIRE_WRONG_LENGTH : WIRE_WRONG_OFFSET, NULL, u, u->offset,
                      c);
    return false;
}

/* A whole update in one request. */
static bool begin_whole(void *app, http_request *r)
{
    coord *c = app;
    wire_update m;
    upload *u;
    uint32_t owner;
    wire_reason why;
    om_err err = {0};
    str head = http_header(r, "X-Octomil-Update");
    om_status st = head.p
                       ? wire_get_update(&m, head.p, head.n, &err)
                       : fail(&err, OM_EFORMAT, "the header X-Octomil-Update is missing");
    if (st != OM_OK) {
        refuse(c, r, reason_of_parse(st), err.msg);
        return false;
    }
    if (!admit(c, r, &m))
        return false;
    st = inbox_enter(c->inbox, c->run, http_caller(r), &m, &u, &owner, &why, &err);
    if (st != OM_OK) {
        refuse_upload(c, r, st, why, &err);
        return false;
    }
    return keep_transfer(c, r, u, owner) && fits(c, r, u, 0);
}

/* The rest of an upload that was initiated. */
static bool begin_rest(void *app, http_request *r)
{
    coord *c = app;
    upload *u;
    uint32_t owner;
    wire_reason why;
    om_err err = {0};
    om_status st =
        inbox_find(c->inbox, http_tail(r), http_caller(r), &u, &owner, &why, &err);
    if (st != OM_OK) {
        refuse_upload(c, r, st, why, &err);
        return false;
    }
    if (!keep_transfer(c, r, u, owner))
        return false;
    wire_update m = u->head;
    return admit(c, r, &m) && fits(c, r, u, query_u64(r, "offset", 0));
}

static bool take_bytes(void *app, http_request *r, const void *p, size_t n)
{
    coord *c = app;
    transfer *t = http_kept(r);
    om_err err = {0};
    om_status st = inbox_append(c->inbox, t->u, t->owner, p, n, &err);
    if (st == OM_OK)
        return true;
    wire_reason why = st == OM_EREFUSED ? WIRE_IN_PROGRESS
                      : st == OM_EIO    ? WIRE_NO_STORAGE
                                        : WIRE_BUSY;
    api_answer_result(r, why, err.msg, t->u, t->u->offset, c);
    return false;
}

/* At the door: looked at by the thread that has its bytes in the cache.  False:
 * answered. */
static bool passes(coord *c, http_request *r, upload *u)
{
    om_err err = {0};
    wire_reason why = c->check_at_door ? coord_check(c, u, &err) : WIRE_OK;
    if (why == WIRE_OK)
        return true;
    api_answer_result(r, why, err.msg, u, u->offset, c);
    if (wire_reason_again(why))
        inbox_return(c->inbox, u);
    else
        inbox_drop(c->inbox, u, false);
    return false;
}

/* All bytes are there: reserve the place and queue for the group commit. */
static void finish_upload(void *app, http_request *r)
{
    coord *c = app;
    transfer *t = http_kept(r);
    upload *u = t->u;
    wire_reason why;
    om_err err = {0};
    if (u->offset < u->head.bytes) {
        api_answer_result(r, WIRE_OK, NULL, u, u->offset, c);
        return;
    }
    if (inbox_seal(c->inbox, u, t->owner, &why, &err) != OM_OK) {
        api_answer_result(r, why, err.msg, u, 0, c);
        return;
    }
    if (!passes(c, r, u))
        return;
    os_lock(c->lock);
    round_action a = {.answer = ROUND_REFUSE, .reason = WIRE_BUSY};
    if (!c->stopping)
        a = coord_event(c, EV_OFFER, u->device, u->head.round, u->head.attempt);
    if (a.answer == ROUND_TAKE) {
        u->request = r;
        u->queued = c->queue;
        c->queue = u;
    }
    os_unlock(c->lock);
    if (a.answer == ROUND_TAKE) {
        os_event_ring(c->bell);
        http_hold(r);
        return;
    }
    wire_update m = u->head;
    inbox_return(c->inbox, u);
    if (was_accepted(c, u->device, &m))
        api_answer_result(r, WIRE_OK, NULL, NULL, m.bytes, c);
    else
        refuse(c, r, a.reason, NULL);
}

static void end_upload(void *app, http_request *r)
{
    coord *c = app;
    transfer *t = http_kept(r);
    if (!t)
        return;
    inbox_leave(c->inbox, t->u, t->owner);
    mem_free(t);
}

/* ---- status ------------------------------------------------------------------------- */

static void health(void *app, http_request *r)
{
    (void)app;
    http_answer(r, 200, "application/json", STR("{\"status\":\"ok\"}"));
}

static void put_current(coord *c, json_out *o)
{
    static const char *const status[ROUND_PHASES] = {[ROUND_WAITING] = "pending",
                                                     [ROUND_OPEN] = "active",
                                                     [ROUND_CLOSING] = "aggregating",
                                                     [ROUND_FINISHED] = "completed",
                                                     [ROUND_ABANDONED] = "failed"};
    uint32_t registered = devices_count(c->devices);
    os_lock(c->lock);
    const round_state *s = &c->round;
    json_put_str(o, "id", str_of(c->cfg.run));
    json_put_u64(o, "round_number", s->round);
    json_put_u64(o, "rounds", s->plan.n_rounds);
    json_put_str(o, "status", str_of(status[s->phase]));
    json_put_u64(o, "attempt", s->attempt);
    json_put_u64(o, "devices", registered);
    json_put_u64(o, "target_devices", s->plan.cohort);
    json_put_u64(o, "min_devices", s->plan.min_accepted);
    json_put_u64(o, "selected_devices", s->selected);
    json_put_u64(o, "completed_devices", s->accepted);
    json_put_u64(o, "started_at", s->opened_ms);
    json_put_u64(o, "timeout_at", s->deadline_ms);
    os_unlock(c->lock);
}

static void current_round(void *app, http_request *r)
{
    buf b = buf_growing(4096);
    json_out o = json_to(&b);
    json_open_object(&o, NULL);
    put_current(app, &o);
    json_shut(&o, '}');
    answer_json(r, 200, o.status, &b);
    buf_free(&b);
}

static om_status put_round(void *ctx, const store_round *r)
{
    json_out *o = ctx;
    json_open_object(o, NULL);
    json_put_u64(o, "round_number", r->round);
    json_put_u64(o, "attempts", r->attempts);
    json_put_u64(o, "selected_devices", r->selected);
    json_put_u64(o, "completed_devices", r->accepted);
    json_put_u64(o, "started_at", r->opened_ms);
    json_put_u64(o, "completed_at", r->closed_ms);
    json_put_u64(o, "bytes_up", r->bytes_up);
    json_put_u64(o, "bytes_down", r->bytes_down);
    json_put_f64(o, "loss", r->loss);
    json_shut(o, '}');
    return o->status;
}

om_status coord_status(coord *c, buf *out, om_err *err)
{
    json_out o = json_to(out);
    json_open_object(&o, NULL);
    put_current(c, &o);
    json_put_str(&o, "algorithm", str_of(c->cfg.algorithm));
    json_put_str(&o, "codec", str_of(c->cfg.codec));
    json_put_u64(&o, "peak_rss_bytes", os_peak_rss_bytes());
    json_open_array(&o, "history");
    om_status st = store_rounds(c->store, c->run, put_round, &o, err);
    json_shut(&o, ']');
    json_shut(&o, '}');
    if (st == OM_OK && o.status != OM_OK)
        st = fail(err, o.status, "coord: the status is too long");
    return st;
}

static void status(void *app, http_request *r)
{
    buf b = buf_growing(4 << 20);
    answer_json(r, 200, coord_status(app, &b, NULL), &b);
    buf_free(&b);
}

const http_route api_routes[] = {
    {HTTP_GET, "/health", AUTH_NONE, 0, "is the coordinator up?", health, NULL, NULL, NULL},
    {HTTP_GET, "/api/v1/status", AUTH_BOOTSTRAP, 0, "the run, its round and its history",
     status, NULL, NULL, NULL},
    {HTTP_GET, "/api/v1/training/rounds/current", AUTH_BOOTSTRAP, 0, "the round",
     current_round, NULL, NULL, NULL},
    {HTTP_POST, "/api/v1/devices/register", AUTH_BOOTSTRAP, WIRE_MESSAGE_MAX,
     "a device's name for a token", register_device, NULL, NULL, NULL},
    {HTTP_PUT, "/api/v1/devices/*/heartbeat", AUTH_DEVICE, WIRE_MESSAGE_MAX, "I am alive",
     heartbeat, NULL, NULL, NULL},
    {HTTP_POST, "/api/v1/federation/checkin", AUTH_DEVICE, WIRE_MESSAGE_MAX,
     "is there work? ?wait_ms= to wait for it", check_in, NULL, NULL, NULL},
    {HTTP_GET, "/api/v1/blobs/*", AUTH_DEVICE, 0, "the open round's model, or the base", get_blob,
     NULL, NULL, NULL},
    {HTTP_POST, "/api/v1/federation/updates/initiate", AUTH_DEVICE, WIRE_MESSAGE_MAX,
     "announce an update; where does it go on?", initiate, NULL, NULL, NULL},
    {HTTP_PUT, "/api/v1/federation/updates", AUTH_DEVICE, WIRE_PAYLOAD_MAX,
     "a whole update, its head in X-Octomil-Update", finish_upload, begin_whole, take_bytes,
     end_upload},
    {HTTP_PUT, "/api/v1/federation/updates/*", AUTH_DEVICE, WIRE_PAYLOAD_MAX,
     "the rest of an update, from ?offset=", finish_upload, begin_rest, take_bytes,
     end_upload},
    {HTTP_GET, NULL, 0, 0, NULL, NULL, NULL, NULL, NULL},
};

bool coord_route_at(size_t i, coord_route *out)
{
    static const char *const method[HTTP_METHODS] = {"GET", "POST", "PUT", "DELETE"};
    static const char *const token[] = {"none", "the run's", "the device's"};
    if (i + 1 >= countof(api_routes))
        return false;
    const http_route *r = &api_routes[i];
    *out = (coord_route){method[r->method], r->path, token[r->auth], r->summary};
    return true;
}
