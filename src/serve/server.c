/* server.c - routes, keys, figures, and the life of a request between two threads.
 *
 * An HTTP thread reads a request and makes its jobs; the engine's thread says what they
 * say.  `lock` ties both together: who holds it may answer, and knows whether the client
 * is still there (http not NULL).  A request ends when HTTP has let go of it and no job
 * of it runs.  When the client goes away its jobs are cancelled; since nobody reads from
 * a connection that waits, the engine asks now and then whether it is closed. */
#include "serve/server.h"

#include <stdio.h>

enum { OPEN_ROUTE, KEY_ROUTE };
enum { METRICS_MAX = 1 << 16 };

static const char *const route_names[] = {
    [ASK_CHAT] = "chat", [ASK_COMPLETION] = "completions", [ASK_EMBEDDING] = "embeddings"};

/* ---- requests ------------------------------------------------------------------------------ */

static request *request_new(server *s, http_request *r, ask_kind kind)
{
    request *q = mem_alloc(sizeof(*q));
    uint8_t random[12];
    char hex[25];
    om_err err;
    if (!q)
        return NULL;
    *q = (request){.s = s, .http = r, .kind = kind, .body = buf_growing(SERVE_BODY_MAX + 1),
                   .created = os_wall_ms() / 1000};
    if (os_entropy(random, sizeof(random), &err) != OM_OK)
        memset(random, 0, sizeof(random));
    hex_encode(random, sizeof(random), hex);
    snprintf(q->id, sizeof(q->id), "%s-%s", kind == ASK_CHAT ? "chatcmpl" : "cmpl", hex);
    return q;
}

static void request_free(request *q)
{
    for (uint32_t i = 0; q->choice && i < q->prompts * q->n; i++)
        job_free(q->choice[i].job);
    for (uint32_t i = 0; q->echoed && i < q->prompts; i++)
        buf_free(&q->echoed[i]);
    mem_free(q->choice);
    mem_free(q->echoed);
    json_close(&q->doc);
    buf_free(&q->body);
    q->s->open--;
    mem_free(q);
}

static void cancel_jobs(request *q)
{
    for (uint32_t i = 0; q->choice && i < q->prompts * q->n; i++)
        if (q->choice[i].job && !q->choice[i].done)
            job_cancel(q->choice[i].job);
}

/* ---- from the engine's thread ------------------------------------------------------------- */

static void on_text(void *ctx, job *j)
{
    choice *c = ctx;
    request *q = c->req;
    (void)j;
    os_lock(q->s->lock);
    if (q->http && !q->answered)
        answer_text(q, c);
    os_unlock(q->s->lock);
}

static om_status failure_of(const request *q, job_reason why, const job *j, om_err *err)
{
    if (why == JOB_TIMEOUT)
        return fail(err, OM_ECANCEL, "the request took longer than %u seconds",
                    (unsigned)q->s->c.timeout_s);
    if (why == JOB_SHUTDOWN)
        return fail(err, OM_EAGAIN, "the server is shutting down");
    if (why == JOB_CANCELLED)
        return fail(err, OM_ECANCEL, "the request was cancelled");
    return fail(err, OM_EIO, "%s", job_error(j));
}

static void on_done(void *ctx, job *j)
{
    choice *c = ctx;
    request *q = c->req;
    server *s = q->s;
    job_reason why = job_why(j);
    om_err err;
    os_lock(s->lock);
    c->done = true;
    q->pending--;
    if (q->http && !q->answered) {
        if (why != JOB_END && why != JOB_LENGTH) {
            answer_failure(q, failure_of(q, why, j, &err), &err);
            cancel_jobs(q);
        } else {
            answer_choice_end(q, c);
            if (q->pending == 0) {
                q->answered = true;
                answer_all(q);
            }
        }
    }
    if (q->pending == 0 && !q->http)
        request_free(q);
    os_unlock(s->lock);
}

static bool is_gone(void *ctx, job *j)
{
    choice *c = ctx;
    request *q = c->req;
    (void)j;
    os_lock(q->s->lock);
    bool gone = !q->http || http_gone(q->http);
    os_unlock(q->s->lock);
    return gone;
}

/* ---- from HTTP's threads ------------------------------------------------------------------ */

static bool begin(void *app, http_request *r, ask_kind kind)
{
    server *s = app;
    request *q = request_new(s, r, kind);
    os_lock(s->lock);
    s->requests[kind]++;
    s->open += q != NULL;
    if (!q)
        answer_error(s, r, 503, "server_error", NULL, "no memory for a request");
    os_unlock(s->lock);
    if (q)
        http_keep(r, q);
    return q != NULL;
}

static bool begin_chat(void *app, http_request *r) { return begin(app, r, ASK_CHAT); }
static bool begin_completion(void *app, http_request *r)
{
    return begin(app, r, ASK_COMPLETION);
}
static bool begin_embedding(void *app, http_request *r) { return begin(app, r, ASK_EMBEDDING); }

static bool take_body(void *app, http_request *r, const void *p, size_t n)
{
    server *s = app;
    request *q = http_kept(r);
    if (buf_put(&q->body, p, n) == OM_OK)
        return true;
    os_lock(s->lock);
    q->answered = true;
    answer_error(s, r, 413, "invalid_request_error", NULL, "the body is too large");
    os_unlock(s->lock);
    return false;
}

/* With the lock held, so that no job speaks before the answer has begun. */
static void submit_all(request *q)
{
    server *s = q->s;
    om_err err = {0};
    om_status st = OM_OK;
    for (uint32_t i = 0; i < q->prompts * q->n && st == OM_OK; i++) {
        q->choice[i].done = false;
        st = engine_submit(s->c.engine, q->choice[i].job, &err);
        q->pending += st == OM_OK;
        q->choice[i].done = st != OM_OK;
    }
    if (st != OM_OK) {
        cancel_jobs(q);
        answer_failure(q, st, &err);
    } else if (q->stream) {
        q->started = true;
        http_stream(q->http, 200, "text/event-stream");
    } else {
        http_hold(q->http);
    }
}

static void handle_ask(void *app, http_request *r)
{
    server *s = app;
    request *q = http_kept(r);
    om_err err = {0};
    om_status st = ask_read(q, &err);
    os_lock(s->lock);
    for (uint32_t i = 0; q->choice && i < q->prompts * q->n; i++)
        q->choice[i].done = true; /* until it is submitted */
    if (st != OM_OK)
        answer_failure(q, st, &err);
    else
        submit_all(q);
    os_unlock(s->lock);
}

static void end(void *app, http_request *r)
{
    server *s = app;
    request *q = http_kept(r);
    if (!q)
        return;
    os_lock(s->lock);
    q->http = NULL;
    cancel_jobs(q);
    if (q->pending == 0)
        request_free(q);
    os_unlock(s->lock);
}

void ask_callbacks(job_args *a)
{
    a->on_text = on_text;
    a->on_done = on_done;
    a->is_gone = is_gone;
}

/* ---- other routes -------------------------------------------------------------------------- */

static void handle_page(void *app, http_request *r)
{
    (void)app;
    http_answer(r, 200, "text/html; charset=utf-8", str_of(serve_page));
}

static void handle_health(void *app, http_request *r)
{
    (void)app;
    http_answer(r, 200, "application/json", STR("{\"status\":\"ok\"}"));
}

static void handle_models(void *app, http_request *r)
{
    server *s = app;
    buf b = buf_growing(1 << 20);
    json_out o = json_to(&b);
    json_open_object(&o, NULL);
    json_put_str(&o, "object", STR("list"));
    json_open_array(&o, "data");
    for (uint32_t i = 0; i < engine_lanes(s->c.engine); i++) {
        json_open_object(&o, NULL);
        json_put_str(&o, "id", str_of(engine_lane_name(s->c.engine, i)));
        json_put_str(&o, "object", STR("model"));
        json_put_u64(&o, "created", s->started_s);
        json_put_str(&o, "owned_by", STR("octomil"));
        json_put_u64(&o, "context_length", engine_lane_context(s->c.engine, i));
        json_shut(&o, '}');
    }
    json_shut(&o, ']');
    json_shut(&o, '}');
    http_answer(r, 200, "application/json", (str){(char *)b.data, b.len});
    buf_free(&b);
}

static om_status put_metric(buf *b, const char *name, const char *type, const char *help,
                            double value)
{
    return buf_fmt(b, "# HELP octomil_%s %s\n# TYPE octomil_%s %s\noctomil_%s %.15g\n", name, help,
                   name, type, name, value);
}

static void put_metrics(buf *b, const engine_stats *e, uint64_t errors, uint32_t open)
{
    const struct {
        const char *name, *type, *help;
        double value;
    } row[] = {
        {"jobs_total", "counter", "Generations and embeddings asked for", (double)e->jobs},
        {"jobs_cancelled_total", "counter", "Given up by the client", (double)e->cancelled},
        {"jobs_failed_total", "counter", "Ended by an error or a time limit", (double)e->failed},
        {"jobs_refused_total", "counter", "Too long, or too many waiting", (double)e->refused},
        {"errors_total", "counter", "Answers that are errors", (double)errors},
        {"prompt_tokens_total", "counter", "Tokens of prompts", (double)e->prompt_tokens},
        {"generated_tokens_total", "counter", "Tokens sampled", (double)e->generated_tokens},
        {"prefix_queries_total", "counter", "Prompts looked up in the prefix cache",
         (double)e->prefix_queries},
        {"prefix_hits_total", "counter", "Prompts that began like a kept one",
         (double)e->prefix_hits},
        {"prefix_tokens_total", "counter", "Prompt tokens not computed again",
         (double)e->prefix_tokens},
        {"steps_total", "counter", "Forward passes", (double)e->steps},
        {"rows_total", "counter", "Tokens in them", (double)e->rows},
        {"busy_seconds_total", "counter", "Time in forward passes", e->busy_seconds},
        {"first_token_seconds_sum", "counter", "Time from request to first token, added up",
         e->first_token_seconds},
        {"first_token_seconds_count", "counter", "First tokens", (double)e->first_tokens},
        {"jobs_running", "gauge", "Sequences in the batch", (double)e->running},
        {"jobs_waiting", "gauge", "Jobs in the queue", (double)e->waiting},
        {"requests_open", "gauge", "Requests not yet answered", (double)open},
        {"sequences_kept", "gauge", "Ended sequences kept for their prefixes", (double)e->cached},
        {"kv_bytes", "gauge", "Bytes of key-value pages", (double)e->kv_bytes},
        {"resident_peak_bytes", "gauge", "Most memory the process had",
         (double)os_peak_rss_bytes()},
    };
    for (size_t i = 0; i < countof(row); i++)
        if (put_metric(b, row[i].name, row[i].type, row[i].help, row[i].value) != OM_OK)
            return;
}

static void handle_metrics(void *app, http_request *r)
{
    server *s = app;
    engine_stats e;
    uint64_t asked[3];
    buf b = buf_growing(METRICS_MAX);
    engine_read_stats(s->c.engine, &e);
    os_lock(s->lock);
    uint64_t errors = atomic_load(&s->errors);
    uint32_t open = s->open;
    memcpy(asked, s->requests, sizeof(asked));
    os_unlock(s->lock);
    put_metrics(&b, &e, errors, open);
    om_status st = buf_str(&b, STR("# HELP octomil_requests_total Requests by route\n"
                                   "# TYPE octomil_requests_total counter\n"));
    for (size_t i = 0; i < countof(asked) && st == OM_OK; i++)
        st = buf_fmt(&b, "octomil_requests_total{route=\"%s\"} %llu\n", route_names[i],
                     (unsigned long long)asked[i]);
    http_answer(r, 200, "text/plain; version=0.0.4; charset=utf-8",
                (str){(char *)b.data, b.len});
    buf_free(&b);
}

/* ---- who may ask --------------------------------------------------------------------------- */

/* Equal, in time that does not tell how much of it is. */
static bool same_secret(str a, str b)
{
    uint8_t x[32], y[32];
    unsigned differ = 0;
    sha256(a.p, a.n, x);
    sha256(b.p, b.n, y);
    for (size_t i = 0; i < sizeof(x); i++)
        differ |= (unsigned)(x[i] ^ y[i]);
    return differ == 0;
}

/* A page of another site may not use a visitor's server. */
static bool foreign_origin(const http_request *r)
{
    str origin = http_header(r, "Origin"), host = http_header(r, "Host");
    const char *slashes = origin.p ? strstr(origin.p, "://") : NULL;
    return origin.p && (!slashes || !host.p || strcmp(slashes + 3, host.p) != 0);
}

static bool authorise(void *app, http_request *r, int level)
{
    server *s = app;
    str given = http_header(r, "Authorization");
    bool ok = level == OPEN_ROUTE || s->c.n_keys == 0;
    if (level != OPEN_ROUTE && foreign_origin(r)) {
        answer_error(s, r, 403, "invalid_request_error", "foreign_origin",
                     "pages of other sites may not use this server");
        return false;
    }
    for (uint32_t i = 0; i < s->c.n_keys && !ok && str_starts(given, "Bearer "); i++)
        ok = same_secret((str){given.p + 7, given.n - 7}, str_of(s->c.key[i]));
    if (!ok)
        answer_error(s, r, 401, "invalid_request_error", "invalid_api_key",
                     "give one of the server's keys as 'Authorization: Bearer KEY'");
    return ok;
}

static void on_error(void *app, http_request *r, unsigned status)
{
    answer_error(app, r, status, "invalid_request_error", NULL,
                 status == 404   ? "no such route; / tells which there are"
                 : status == 405 ? "this route takes another method"
                 : status == 413 ? "the body is too large"
                                 : "the request cannot be read");
}

const http_route serve_routes[] = {
    {.method = HTTP_GET, .path = "/", .auth = OPEN_ROUTE, .summary = "a chat page",
     .handle = handle_page},
    {.method = HTTP_GET, .path = "/health", .auth = OPEN_ROUTE, .summary = "is it alive",
     .handle = handle_health},
    {.method = HTTP_GET, .path = "/metrics", .auth = KEY_ROUTE,
     .summary = "figures for Prometheus", .handle = handle_metrics},
    {.method = HTTP_GET, .path = "/v1/models", .auth = KEY_ROUTE,
     .summary = "models and adapters", .handle = handle_models},
    {.method = HTTP_POST, .path = "/v1/chat/completions", .auth = KEY_ROUTE,
     .body_max = SERVE_BODY_MAX, .summary = "the next message of a conversation",
     .begin = begin_chat, .body = take_body, .handle = handle_ask, .end = end},
    {.method = HTTP_POST, .path = "/v1/completions", .auth = KEY_ROUTE,
     .body_max = SERVE_BODY_MAX, .summary = "a text continued", .begin = begin_completion,
     .body = take_body, .handle = handle_ask, .end = end},
    {.method = HTTP_POST, .path = "/v1/embeddings", .auth = KEY_ROUTE,
     .body_max = SERVE_BODY_MAX, .summary = "texts as vectors", .begin = begin_embedding,
     .body = take_body, .handle = handle_ask, .end = end},
    {.path = NULL},
};

/* ---- the server ---------------------------------------------------------------------------- */

static om_status fill(server *s, om_err *err)
{
    TRY(os_mutex_open(&s->lock, err));
    TRY(engine_start(s->c.engine, err));
    http_config h = {.host = s->c.host, .port = s->c.port, .threads = 2,
                     .max_connections = s->c.max_connections ? s->c.max_connections : 4096,
                     .idle_seconds = 30, .routes = serve_routes, .app = s,
                     .authorise = authorise, .error = on_error};
    return http_server_open(&h, &s->http, err);
}

om_status serve_open(const serve_config *c, server **out, om_err *err)
{
    server *s = mem_alloc(sizeof(*s));
    *out = NULL;
    if (!s)
        return fail(err, OM_ENOMEM, "serve: no memory");
    s->c = *c;
    s->started_s = os_wall_ms() / 1000;
    om_status st = fill(s, err);
    if (st != OM_OK)
        serve_close(s, 0);
    else
        *out = s;
    return st;
}

uint16_t serve_port(const server *s) { return http_server_port(s->http); }

void serve_close(server *s, uint64_t patience_ms)
{
    if (!s)
        return;
    engine_stop(s->c.engine, patience_ms); /* answers everything that is held */
    http_server_close(s->http);
    os_mutex_close(s->lock);
    mem_free(s);
}
