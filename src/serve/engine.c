/* engine.c - see engine.h: the scheduler.
 *
 * Everything below belongs to the engine's thread, except the list of newcomers and the
 * figures, which `lock` guards.
 *
 * MEMORY.  A job is admitted when the pages it may come to need fit beside what the
 * running ones were promised, so that a sequence that was begun can be finished; kept
 * sequences give way, the least recently used first. */
#include "serve/job.h"

#include "kern/attn.h"

enum { KEPT = 64, LANES = 64, SLOTS = 256, LOOK_MS = 200, PREFIX_LEAST = 4 };

typedef struct {
    llm_session *s;
    uint64_t used; /* a clock of uses */
} kept;

typedef struct {
    llm_model *m;
    const char *name;
    llm_kv *kv;
    vocab_tree *vocab;
    uint32_t context;
    job *running[SLOTS];
    uint32_t n_running;
    kept keep[KEPT];
    uint32_t n_keep;
    uint64_t reserved;
} lane;

struct engine {
    engine_config c;
    lane *lane; /* (LANES) */
    uint32_t n_lane, n_running;
    os_mutex *lock;
    os_event *bell;
    os_thread *thread;
    job *newcomers, **newcomers_end; /* under lock */
    job *waiting, **waiting_end;
    uint32_t n_waiting;              /* both lists, under lock */
    bool closing, stop;              /* under lock */
    uint64_t stop_ns, looked_ns, clock;
    llm_turn turn[SLOTS];
    job *turn_job[SLOTS];
    engine_stats stats; /* under lock */
};

/* ---- open and close ------------------------------------------------------------------------ */

om_status engine_open(const engine_config *c, engine **out, om_err *err)
{
    engine *e = mem_alloc(sizeof(*e));
    *out = NULL;
    if (!e)
        return fail(err, OM_ENOMEM, "serve: no memory");
    e->c = *c;
    e->c.slots = (uint32_t)size_min(c->slots ? c->slots : 8, SLOTS);
    e->c.chunk = c->chunk ? c->chunk : 256;
    e->newcomers_end = &e->newcomers;
    e->waiting_end = &e->waiting;
    e->lane = mem_array(LANES, sizeof(*e->lane));
    om_status s = e->lane ? os_mutex_open(&e->lock, err)
                          : fail(err, OM_ENOMEM, "serve: no memory");
    if (s == OM_OK)
        s = os_event_open(&e->bell, err);
    if (s != OM_OK)
        engine_close(e);
    else
        *out = e;
    return s;
}

om_status engine_add_lane(engine *e, llm_model *view, const char *name, om_err *err)
{
    if (e->n_lane == LANES)
        return fail(err, OM_ELIMIT, "serve: at most %d models and adapters", LANES);
    TRY(llm_need_tokenizer(view, err));
    lane *l = &e->lane[e->n_lane++];
    uint32_t most = e->c.context ? e->c.context : 8192;
    l->m = view;
    l->name = name;
    l->context = (uint32_t)size_min(most, view->h.context);
    llm_session_args a = {.kv_type = DTYPE_F16, .k = e->c.k, .pool = e->c.pool,
                          .batch = e->c.chunk + e->c.slots, .budget = e->c.kv_bytes};
    TRY(llm_kv_open(view, &a, &l->kv, err));
    return vocab_tree_open(view->tok, &l->vocab, err);
}

static void forget_all(lane *l)
{
    while (l->n_keep)
        llm_session_close(l->keep[--l->n_keep].s);
}

void engine_close(engine *e)
{
    if (!e)
        return;
    engine_stop(e, 0);
    for (uint32_t i = 0; i < e->n_lane; i++) {
        forget_all(&e->lane[i]);
        llm_kv_close(e->lane[i].kv);
        vocab_tree_close(e->lane[i].vocab);
    }
    os_event_close(e->bell);
    os_mutex_close(e->lock);
    mem_free(e->lane);
    mem_free(e);
}

uint32_t engine_lanes(const engine *e) { return e->n_lane; }
const char *engine_lane_name(const engine *e, uint32_t i) { return e->lane[i].name; }
const llm_model *engine_lane_model(const engine *e, uint32_t i) { return e->lane[i].m; }
uint32_t engine_lane_context(const engine *e, uint32_t i) { return e->lane[i].context; }
const vocab_tree *engine_lane_vocab(const engine *e, uint32_t i) { return e->lane[i].vocab; }

/* ---- coming and going ------------------------------------------------------------------------ */

/* Bytes of pages for so many tokens; one page more where two sequences part. */
static uint64_t pages_for(const lane *l, uint64_t tokens)
{
    return ((tokens + KV_TOKENS - 1) / KV_TOKENS + 1) * llm_kv_page_bytes(l->kv);
}

static om_status check_size(const engine *e, const lane *l, job *j, om_err *err)
{
    uint64_t most = (uint64_t)j->a.n + (j->a.max_tokens ? j->a.max_tokens : l->context);
    if (j->a.embed)
        most = j->a.n;
    if (most > l->context)
        most = l->context;
    if (j->a.n == 0 || (j->a.n >= l->context && !(j->a.embed && j->a.n == l->context)))
        return fail(err, OM_ELIMIT, "the prompt has %u tokens, the context holds %u", j->a.n,
                    l->context);
    j->reserved = pages_for(l, most);
    if (e->c.kv_bytes && j->reserved > e->c.kv_bytes)
        return fail(err, OM_ELIMIT, "%llu tokens need more memory than the cache has; give "
                    "max_tokens, or the server more --cache-mb", (unsigned long long)most);
    return OM_OK;
}

om_status engine_submit(engine *e, job *j, om_err *err)
{
    om_status s = check_size(e, &e->lane[j->a.lane], j, err);
    j->submitted_ns = os_now_ns();
    os_lock(e->lock);
    uint64_t room = e->c.queue + e->c.slots - e->stats.running;
    if (s == OM_OK && (e->closing || e->n_waiting >= room))
        s = fail(err, OM_EAGAIN, e->closing ? "the server is shutting down"
                                            : "too many requests are waiting; try again");
    if (s == OM_OK) {
        *e->newcomers_end = j;
        e->newcomers_end = &j->next;
        e->n_waiting++;
        e->stats.jobs++;
    } else {
        e->stats.refused++;
    }
    os_unlock(e->lock);
    os_event_ring(e->bell);
    return s;
}

static void take_newcomers(engine *e)
{
    os_lock(e->lock);
    if (e->newcomers) {
        *e->waiting_end = e->newcomers;
        e->waiting_end = e->newcomers_end;
        e->newcomers = NULL;
        e->newcomers_end = &e->newcomers;
    }
    os_unlock(e->lock);
}

static void count_end(engine *e, const job *j)
{
    os_lock(e->lock);
    e->stats.cancelled += j->why == JOB_CANCELLED;
    e->stats.failed += j->why == JOB_FAILED || j->why == JOB_TIMEOUT;
    os_unlock(e->lock);
}

/* The job may be gone after this. */
static void hand_back(engine *e, job *j)
{
    count_end(e, j);
    job_close(j);
    j->a.on_done(j->a.ctx, j);
}

static void drop_kept(lane *l, uint32_t i)
{
    llm_session_close(l->keep[i].s);
    l->keep[i] = l->keep[--l->n_keep];
}

static void drop_oldest(lane *l)
{
    uint32_t oldest = 0;
    for (uint32_t i = 1; i < l->n_keep; i++)
        if (l->keep[i].used < l->keep[oldest].used)
            oldest = i;
    if (l->n_keep)
        drop_kept(l, oldest);
}

/* Room for `bytes` more beside what lies in pages now. */
static void make_room(const engine *e, lane *l, uint64_t bytes)
{
    while (e->c.kv_bytes && l->n_keep && llm_kv_bytes(l->kv) + bytes > e->c.kv_bytes)
        drop_oldest(l);
}

static void keep_session(engine *e, lane *l, job *j)
{
    if (!j->s)
        return;
    if (j->a.embed || j->why == JOB_FAILED || !j->prompt_read) {
        llm_session_close(j->s);
    } else {
        if (l->n_keep == KEPT)
            drop_oldest(l);
        l->keep[l->n_keep++] = (kept){j->s, ++e->clock};
    }
    j->s = NULL;
}

static void leave(engine *e, lane *l, uint32_t i)
{
    job *j = l->running[i];
    for (l->n_running--; i < l->n_running; i++)
        l->running[i] = l->running[i + 1];
    e->n_running--;
    l->reserved -= j->reserved;
    keep_session(e, l, j);
    hand_back(e, j);
}

/* ---- prefixes ------------------------------------------------------------------------------ */

static uint32_t common(const llm_session *s, const job *j)
{
    const int32_t *ids = llm_tokens(s);
    uint32_t n = llm_past(s), same = 0;
    if (n > j->a.n - 1) /* the last token is computed: its logits are wanted */
        n = j->a.n - 1;
    while (same < n && ids[same] == j->a.ids[same])
        same++;
    return same;
}

/* Start from the session that has the most of the prompt: one that ended is taken over
 * when the prompt goes on behind most of it, else forked like one that runs. */
static om_status start_from_prefix(engine *e, lane *l, job *j, om_err *err)
{
    uint32_t best = PREFIX_LEAST - 1, at = KEPT;
    const llm_session *from = NULL;
    for (uint32_t i = 0; i < l->n_keep; i++)
        if (common(l->keep[i].s, j) > best) {
            best = common(l->keep[i].s, j);
            from = l->keep[i].s;
            at = i;
        }
    for (uint32_t i = 0; i < l->n_running; i++)
        if (l->running[i]->s && !l->running[i]->a.embed && common(l->running[i]->s, j) > best) {
            best = common(l->running[i]->s, j);
            from = l->running[i]->s;
            at = KEPT;
        }
    if (!from)
        return OM_OK;
    if (at < KEPT && best + KV_TOKENS >= llm_past(from)) {
        j->s = l->keep[at].s;
        l->keep[at] = l->keep[--l->n_keep];
    } else {
        if (at < KEPT)
            l->keep[at].used = ++e->clock;
        TRY(llm_session_fork(from, &j->s, err));
    }
    j->read = j->reused = best;
    return llm_rewind(j->s, llm_past(j->s) - best, err);
}

static om_status begin(engine *e, lane *l, job *j, om_err *err)
{
    TRY(job_open(j, l->m, l->vocab, err));
    if (!j->a.embed)
        TRY(start_from_prefix(e, l, j, err));
    if (!j->s) {
        llm_session_args a = {.context = l->context, .kv = l->kv};
        TRY(llm_session_open(l->m, &a, &j->s, err));
    }
    os_lock(e->lock);
    e->stats.prompt_tokens += j->a.n;
    e->stats.prefix_queries += !j->a.embed;
    e->stats.prefix_hits += j->reused > 0;
    e->stats.prefix_tokens += j->reused;
    os_unlock(e->lock);
    return OM_OK;
}

/* ---- admission ----------------------------------------------------------------------------- */

static bool over(const engine *e, job *j)
{
    if (atomic_load(&j->cancelled))
        j->why = JOB_CANCELLED;
    else if (j->a.deadline_ns && os_now_ns() > j->a.deadline_ns)
        j->why = JOB_TIMEOUT;
    else if (e->stop && e->stop_ns <= os_now_ns())
        j->why = JOB_SHUTDOWN;
    return j->why != JOB_RUNNING;
}

static bool may_start(const engine *e, const lane *l, const job *j)
{
    const job *leader = j->a.leader;
    return e->n_running < e->c.slots && (!leader || leader->prompt_read || leader->why) &&
           (!e->c.kv_bytes || l->reserved + j->reserved <= e->c.kv_bytes);
}

static void start(engine *e, lane *l, job *j)
{
    om_err err = {0};
    l->running[l->n_running++] = j;
    e->n_running++;
    l->reserved += j->reserved;
    j->state = JOB_READS;
    make_room(e, l, j->reserved);
    if (begin(e, l, j, &err) != OM_OK) {
        j->err = err;
        j->why = JOB_FAILED;
        leave(e, l, l->n_running - 1);
    }
}

static void unlink_waiting(engine *e, job **at)
{
    job *j = *at;
    *at = j->next;
    if (e->waiting_end == &j->next)
        e->waiting_end = at;
    j->next = NULL;
    os_lock(e->lock);
    e->n_waiting--;
    os_unlock(e->lock);
}

/* In order of arrival, but nobody waits behind one that its lane has no memory for. */
static void admit(engine *e)
{
    for (job **at = &e->waiting; *at;) {
        job *j = *at;
        lane *l = &e->lane[j->a.lane];
        if (over(e, j)) {
            unlink_waiting(e, at);
            hand_back(e, j);
        } else if (may_start(e, l, j)) {
            unlink_waiting(e, at);
            if (j->a.is_gone && j->a.is_gone(j->a.ctx, j)) { /* do not begin for nobody */
                j->why = JOB_CANCELLED;
                hand_back(e, j);
            } else {
                start(e, l, j);
            }
        } else {
            at = &j->next;
        }
    }
}

static void look_for_gone(engine *e)
{
    uint64_t now = os_now_ns();
    if (now - e->looked_ns < (uint64_t)LOOK_MS * 1000000)
        return;
    e->looked_ns = now;
    for (job *j = e->waiting; j; j = j->next)
        if (j->a.is_gone && j->a.is_gone(j->a.ctx, j))
            job_cancel(j);
    for (uint32_t i = 0; i < e->n_lane; i++)
        for (uint32_t k = 0; k < e->lane[i].n_running; k++) {
            job *j = e->lane[i].running[k];
            if (j->a.is_gone && j->a.is_gone(j->a.ctx, j))
                job_cancel(j);
        }
}

static void end_those_over(engine *e)
{
    for (uint32_t i = 0; i < e->n_lane; i++)
        for (uint32_t k = e->lane[i].n_running; k-- > 0;)
            if (over(e, e->lane[i].running[k]))
                leave(e, &e->lane[i], k);
}

/* ---- a step -------------------------------------------------------------------------------- */

/* One row of every sequence that writes, and prompts in turn up to the chunk. */
static uint32_t gather(engine *e, lane *l, uint32_t *rows)
{
    uint32_t n = 0, room = e->c.chunk;
    *rows = 0;
    for (uint32_t i = 0; i < l->n_running; i++) {
        job *j = l->running[i];
        if (j->a.embed || (j->state == JOB_READS && room == 0))
            continue;
        llm_turn *t = &e->turn[n];
        if (j->state == JOB_READS) {
            uint32_t take = (uint32_t)size_min(j->a.n - j->read, room);
            *t = (llm_turn){.s = j->s, .ids = j->a.ids + j->read, .n = take,
                            .want = j->read + take == j->a.n};
            room -= take;
        } else {
            *t = (llm_turn){.s = j->s, .ids = &j->last, .n = 1, .want = 1};
        }
        *rows += t->n;
        e->turn_job[n++] = j;
    }
    return n;
}

static void sample_one(void *ctx, size_t beg, size_t end, int worker)
{
    engine *e = ctx;
    (void)worker;
    for (size_t i = beg; i < end; i++)
        if (e->turn[i].want)
            job_sample(e->turn_job[i], e->turn[i].logits);
}

static void note_first_token(engine *e, const job *j)
{
    os_lock(e->lock);
    e->stats.first_tokens++;
    e->stats.first_token_seconds += (double)(os_now_ns() - j->submitted_ns) * 1e-9;
    os_unlock(e->lock);
}

/* What a row of the forward was for. */
static void after_turn(engine *e, lane *l, uint32_t i)
{
    job *j = e->turn_job[i];
    if (j->state == JOB_READS) {
        j->read += e->turn[i].n;
        if (!e->turn[i].want)
            return;
        j->state = JOB_WRITES;
        j->prompt_read = true;
        note_first_token(e, j);
    }
    job_take(j, l->context);
    if (j->out.ready > j->shown && j->why == JOB_RUNNING) {
        j->shown = j->out.ready;
        j->a.on_text(j->a.ctx, j);
    }
}

static void fail_all(engine *e, uint32_t n, const om_err *err)
{
    for (uint32_t i = 0; i < n; i++) {
        e->turn_job[i]->err = *err;
        e->turn_job[i]->why = JOB_FAILED;
    }
}

/* Hidden states of one chunk of a text, added up. */
static void embed_step(engine *e, lane *l, job *j)
{
    uint32_t dim = l->m->h.dim, n = (uint32_t)size_min(j->a.n - j->read, e->c.chunk);
    float *h = mem_array((size_t)n * dim, sizeof(float));
    om_status s = h ? llm_hidden(j->s, j->a.ids + j->read, n, h, &j->err)
                    : fail(&j->err, OM_ENOMEM, "serve: no memory for an embedding");
    for (uint32_t i = 0; s == OM_OK && i < n; i++)
        for (uint32_t k = 0; k < dim; k++)
            j->sum[k] += h[(size_t)i * dim + k];
    mem_free(h);
    j->read += n;
    if (s != OM_OK)
        j->why = JOB_FAILED;
    else if (j->read == j->a.n)
        j->why = JOB_END;
    for (uint32_t k = 0; j->why == JOB_END && k < dim; k++)
        j->sum[k] /= (float)j->a.n;
}

static void note_step(engine *e, uint32_t rows, uint32_t n, uint64_t began)
{
    uint32_t said = 0;
    for (uint32_t i = 0; i < n; i++)
        said += e->turn[i].want;
    os_lock(e->lock);
    e->stats.steps++;
    e->stats.rows += rows;
    e->stats.generated_tokens += said;
    for (uint32_t i = 0; i < n; i++)
        if (e->turn_job[i]->state == JOB_READS)
            e->stats.computed_tokens += e->turn[i].n;
    e->stats.busy_seconds += (double)(os_now_ns() - began) * 1e-9;
    os_unlock(e->lock);
}

static void step_lane(engine *e, lane *l)
{
    uint32_t rows, n = gather(e, l, &rows);
    uint64_t began = os_now_ns();
    om_err err = {0};
    if (n) {
        make_room(e, l, pages_for(l, rows) * 2);
        om_status s = llm_eval_many(e->turn, n, &err);
        if (s == OM_ELIMIT && l->n_keep) { /* kept sequences share pages in ways we do not see */
            forget_all(l);
            s = llm_eval_many(e->turn, n, &err);
        }
        if (s == OM_OK) {
            pool_run(e->c.pool, n, 1, sample_one, e);
            note_step(e, rows, n, began);
            for (uint32_t i = 0; i < n; i++)
                after_turn(e, l, i);
        } else {
            fail_all(e, n, &err);
        }
    }
    for (uint32_t i = 0; i < l->n_running; i++)
        if (l->running[i]->a.embed && l->running[i]->why == JOB_RUNNING) {
            embed_step(e, l, l->running[i]);
            break; /* one text at a time, between the steps of the others */
        }
    for (uint32_t i = l->n_running; i-- > 0;)
        if (l->running[i]->why != JOB_RUNNING)
            leave(e, l, i);
}

static void publish(engine *e)
{
    uint64_t cached = 0, bytes = 0;
    for (uint32_t i = 0; i < e->n_lane; i++) {
        cached += e->lane[i].n_keep;
        bytes += llm_kv_bytes(e->lane[i].kv);
    }
    os_lock(e->lock);
    e->stats.running = e->n_running;
    e->stats.waiting = e->n_waiting;
    e->stats.cached = cached;
    e->stats.kv_bytes = bytes;
    e->stop = e->closing;
    os_unlock(e->lock);
}

/* Closing, and everybody has been answered; nobody can come after that. */
static bool finished(engine *e)
{
    os_lock(e->lock);
    bool yes = e->stop && !e->newcomers && !e->waiting && !e->n_running;
    os_unlock(e->lock);
    return yes;
}

static void work(void *ctx)
{
    engine *e = ctx;
    while (!finished(e)) {
        if (!e->n_running)
            os_event_wait(e->bell, e->waiting || e->stop ? 20 : LOOK_MS);
        take_newcomers(e);
        look_for_gone(e);
        end_those_over(e);
        admit(e);
        for (uint32_t i = 0; i < e->n_lane; i++)
            if (e->lane[i].n_running)
                step_lane(e, &e->lane[i]);
        publish(e);
    }
}

om_status engine_start(engine *e, om_err *err)
{
    return os_thread_start(&e->thread, work, e, err);
}

void engine_stop(engine *e, uint64_t patience_ms)
{
    if (!e->thread)
        return;
    os_lock(e->lock);
    e->stop_ns = os_now_ns() + patience_ms * 1000000;
    e->closing = true;
    os_unlock(e->lock);
    os_event_ring(e->bell);
    os_thread_join(e->thread);
    e->thread = NULL;
}

void engine_read_stats(engine *e, engine_stats *out)
{
    os_lock(e->lock);
    *out = e->stats;
    os_unlock(e->lock);
}
