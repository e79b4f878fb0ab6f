/* agent.c - the device's loop: see agent.h. */
#include "agent/inner.h"

static void tell(agent *a, const wire_update *head, const wire_result *r)
{
    agent_news n = {.round = head->round,
                    .loss = head->loss,
                    .accepted = r->complete,
                    .reason = r->complete ? NULL : r->message};
    http_client_traffic(a->http, &n.bytes_up, &n.bytes_down);
    if (r->complete)
        a->outcome.accepted++;
    else
        a->outcome.refused++;
    if (!r->complete)
        log_to(&a->cfg.log, LOG_WARN, "round %u: the update was refused: %s",
               (unsigned)head->round, r->message);
    if (a->cfg.on_news)
        a->cfg.on_news(a->cfg.news_ctx, &n);
}

static om_status settle(agent *a, pending *p, const wire_result *r, om_err *err)
{
    wire_update head = p->head;
    TRY(keep_settle(a, p, r->complete, err));
    tell(a, &head, r);
    return OM_OK;
}

/* An update of an earlier life: for the open round it is sent; of an older one, was it
 * accepted?  *done: this round has its update. */
static om_status clear_pending(agent *a, const wire_task *t, bool *done, om_err *err)
{
    pending p;
    wire_result r;
    *done = false;
    om_status st = keep_load_pending(a, t->run, &p, err);
    if (st == OM_ENOTFOUND)
        return OM_OK;
    TRY(st);
    *done = p.head.round == t->round;
    st = *done ? talk_upload(a, &p.head, p.up, &r, err) : talk_fate(a, &p.head, &r, err);
    if (st == OM_OK)
        return settle(a, &p, &r, err);
    keep_close_pending(&p);
    return st;
}

static om_status do_task(agent *a, const wire_task *t, om_err *err)
{
    bool done;
    char model[AGENT_PATH];
    TRY(clear_pending(a, t, &done, err));
    if (done)
        return OM_OK;
    om_status st = talk_download(a, t->down_sha, t->down_bytes, model, err);
    if (st == OM_ENOTFOUND) { /* the round closed meanwhile: there will be another */
        log_to(&a->cfg.log, LOG_INFO, "%s", err->msg);
        return talk_wait(a, 50, 200, err);
    }
    TRY(st);
    TRY(train_round(a, t, model, err));
    TRY(clear_pending(a, t, &done, err));
    return keep_only(a, t->down_sha, err);
}

static om_status loop(agent *a, om_err *err)
{
    if (keep_load_token(a))
        TRY(http_client_token(a->http, a->token, err));
    else
        TRY(talk_register(a, err));
    for (;;) {
        wire_answer w;
        if (is_cancelled(a->cfg.cancel))
            return fail(err, OM_ECANCEL, "agent: stopped");
        TRY(talk_check_in(a, &w, err));
        if (w.work == WIRE_TASK) {
            TRY(do_task(a, &w.task, err));
        } else if (w.work == WIRE_WAIT) {
            TRY(talk_wait(a, w.retry_min_ms, w.retry_max_ms, err));
        } else {
            a->outcome.finished = strcmp(w.outcome, "finished") == 0;
            return OM_OK;
        }
    }
}

static om_status open_agent(agent *a, om_err *err)
{
    char path[AGENT_PATH];
    uint64_t seed;
    http_client_config h = {
        .url = a->cfg.server, .ca_file = a->cfg.ca_file, .cancel = a->cfg.cancel};
    TRY(os_mkdirs(a->cfg.dir, err));
    TRY(keep_path(a, ".", "lock", path, err));
    TRY(os_lock_file(path, &a->lock_fd, err));
    TRY(os_entropy(&seed, sizeof(seed), err));
    a->jitter = (rng){.key = seed};
    a->heard_ms = os_now_ns() / 1000000;
    return http_client_open(&h, &a->http, err);
}

om_status agent_run(const agent_config *c, agent_outcome *out, om_err *err)
{
    agent *a = mem_alloc(sizeof(*a));
    if (!a)
        return fail(err, OM_ENOMEM, "agent: no memory");
    *a = (agent){.cfg = *c, .lock_fd = -1, .answer = buf_growing(WIRE_MESSAGE_MAX)};
    om_status st = open_agent(a, err);
    if (st == OM_OK)
        st = loop(a, err);
    *out = a->outcome;
    train_close(a);
    http_client_close(a->http);
    buf_free(&a->answer);
    os_close(a->lock_fd);
    mem_free(a);
    return st;
}
