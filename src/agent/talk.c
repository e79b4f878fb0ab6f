/* talk.c - the agent's side of the protocol: calls that are tried again until there is
 * an answer, transfers that go on where they broke.
 *
 * BACK-OFF doubles from 200 ms to 30 s with jitter, so that ten thousand devices that
 * lost the same coordinator do not come back in the same second.  What the coordinator
 * says (its retry window) is used instead as soon as it speaks. */
#include "agent/inner.h"

#include <stdio.h>

enum { WAIT_MS = 20000, NAP_MS = 50 };

static uint64_t now_ms(void) { return os_now_ns() / 1000000; }

/* ---- waiting ---------------------------------------------------------------------------
 */

static om_status nap(const agent *a, uint64_t ms, om_err *err)
{
    for (uint64_t end = now_ms() + ms, now; (now = now_ms()) < end;) {
        if (is_cancelled(a->cfg.cancel))
            break;
        os_sleep_ms(end - now < NAP_MS ? end - now : NAP_MS);
    }
    return is_cancelled(a->cfg.cancel)
               ? fail(err, OM_ECANCEL, "agent: stopped")
               : OM_OK;
}

om_status talk_wait(agent *a, uint32_t min_ms, uint32_t max_ms, om_err *err)
{
    uint32_t spread = max_ms > min_ms ? max_ms - min_ms : 0;
    uint32_t limit = a->cfg.backoff_max_ms ? a->cfg.backoff_max_ms * 20 : 600000;
    uint64_t ms = (uint64_t)min_ms + (spread ? rng_below(&a->jitter, spread) : 0);
    return nap(a, ms < limit ? ms : limit, err); /* nobody can send us to sleep for ever */
}

om_status talk_back_off(agent *a, om_err *err)
{
    uint64_t base = a->cfg.backoff_ms ? a->cfg.backoff_ms : 200;
    uint64_t most = a->cfg.backoff_max_ms ? a->cfg.backoff_max_ms : 30000;
    uint32_t doublings = a->failures < 16 ? a->failures : 16;
    uint64_t ms = base << doublings;
    ms = ms < most ? ms : most;
    a->failures++;
    if (a->cfg.give_up_ms && now_ms() - a->heard_ms > a->cfg.give_up_ms)
        return fail_in(err, OM_ENET, "agent: giving up");
    return nap(a, ms / 2 + rng_below(&a->jitter, (uint32_t)(ms / 2) + 1), err);
}

om_status talk_call(agent *a, const http_call *call, unsigned *status, om_err *err)
{
    om_status st = http_do(a->http, call, status, &a->answer, err);
    if (st == OM_OK || *status) {
        a->heard_ms = now_ms();
        a->failures = 0;
    }
    return st;
}

/* Call until there is an answer. */
static om_status insist(agent *a, const http_call *call, unsigned *status, om_err *err)
{
    for (;;) {
        om_status st = talk_call(a, call, status, err);
        if (st != OM_ENET)
            return st;
        log_to(&a->cfg.log, LOG_INFO, "%s; trying again", err->msg);
        TRY(talk_back_off(a, err));
    }
}

/* An answer that is no success: what the coordinator says about it. */
static void read_refusal(const agent *a, unsigned status, wire_result *out)
{
    if (wire_get_result(out, a->answer.data, a->answer.len, NULL) == OM_OK)
        return;
    *out = (wire_result){.reason = status >= 500 ? WIRE_BUSY : WIRE_INTERNAL};
    snprintf(out->message, sizeof(out->message), "HTTP status %u", status);
}

/* ---- registration, check-in --------------------------------------------------------- */

static om_status register_once(agent *a, const buf *body, bool *again, om_err *err)
{
    http_call call = {.method = "POST",
                      .path = "/api/v1/devices/register",
                      .type = "application/json",
                      .body = body->data,
                      .body_n = body->len};
    unsigned status;
    wire_registered made;
    wire_result no;
    *again = false;
    TRY(http_client_token(a->http, a->cfg.bootstrap, err));
    TRY(insist(a, &call, &status, err));
    if (status == 200) {
        TRY(wire_get_registered(&made, a->answer.data, a->answer.len, err));
        memcpy(a->token, made.token, sizeof(a->token));
        TRY(keep_token(a, err));
        return http_client_token(a->http, a->token, err);
    }
    read_refusal(a, status, &no);
    *again = wire_reason_again(no.reason);
    return *again ? talk_wait(a, no.retry_min_ms + 100, no.retry_max_ms + 500, err)
                  : fail(err, OM_EREFUSED, "agent: '%s' was not registered: %s",
                         a->cfg.name, no.message);
}

om_status talk_register(agent *a, om_err *err)
{
    wire_register m = {.platform = "edge"};
    bool again = true;
    if (!wire_name_ok(str_of(a->cfg.name)))
        return fail(err, OM_EARG,
                    "agent: '%s' is not a device name: letters, digits and "
                    ". _ : - only",
                    a->cfg.name);
    snprintf(m.device_id, sizeof(m.device_id), "%s", a->cfg.name);
    buf b = buf_growing(WIRE_MESSAGE_MAX);
    om_status st = wire_put_register(&m, &b);
    while (st == OM_OK && again)
        st = register_once(a, &b, &again, err);
    buf_free(&b);
    return st;
}

om_status talk_check_in(agent *a, wire_answer *out, om_err *err)
{
    char path[64];
    snprintf(path, sizeof(path), "/api/v1/federation/checkin?wait_ms=%d", WAIT_MS);
    http_call call = {.method = "POST", .path = path, .wait_ms = WAIT_MS};
    for (;;) {
        unsigned status;
        wire_result no;
        TRY(insist(a, &call, &status, err));
        if (status == 200)
            return wire_get_answer(out, a->answer.data, a->answer.len, err);
        read_refusal(a, status, &no);
        if (no.reason == WIRE_UNAUTHORIZED) { /* a coordinator that does not know us */
            TRY(talk_register(a, err));
            continue;
        }
        if (!wire_reason_again(no.reason))
            return fail(err, OM_EREFUSED, "agent: check-in refused: %s", no.message);
        TRY(talk_wait(a, no.retry_min_ms + 50, no.retry_max_ms + 200, err));
    }
}

/* ---- download ----------------------------------------------------------------------- */

typedef struct {
    int fd;
    uint64_t at, bytes; /* so far; expected */
    const char *path;
    bool first; /* no byte of this call yet */
} sink;

static om_status sink_bytes(void *ctx, unsigned status, const void *p, size_t n,
                            om_err *err)
{
    sink *s = ctx;
    if (s->first && status == 200) /* the whole, whatever range was asked for */
        s->at = 0;
    s->first = false;
    if (n > s->bytes - s->at)
        return fail(err, OM_EFORMAT, "agent: the model has more bytes than announced");
    TRY(os_pwrite(s->fd, s->at, p, n, s->path, err));
    s->at += n;
    return OM_OK;
}

static om_status hash_file(int fd, uint64_t n, const char *path, uint8_t sha[32],
                           om_err *err)
{
    uint8_t piece[8192];
    sha256_ctx h;
    sha256_init(&h);
    for (uint64_t at = 0; at < n;) {
        size_t k = size_min(sizeof(piece), (size_t)(n - at));
        TRY(os_pread(fd, at, piece, k, path, err));
        sha256_update(&h, piece, k);
        at += k;
    }
    sha256_final(&h, sha);
    return OM_OK;
}

/* Bytes until all are there; each broken transfer goes on where it broke. */
static om_status fetch(agent *a, const char *hex, sink *s, om_err *err)
{
    char path[128];
    snprintf(path, sizeof(path), "/api/v1/blobs/%s", hex);
    while (s->at < s->bytes) {
        unsigned status = 0;
        wire_result no;
        http_call call = {.method = "GET",
                          .path = path,
                          .range_from = s->at,
                          .sink = sink_bytes,
                          .ctx = s};
        s->first = true;
        om_status st = talk_call(a, &call, &status, err);
        if (st != OM_OK && st != OM_ENET)
            return st;
        if (st == OM_OK && status != 200 && status != 206) {
            read_refusal(a, status, &no);
            if (!wire_reason_again(no.reason))
                return fail(err, OM_ENOTFOUND, "agent: %s", no.message);
        }
        if (s->at < s->bytes)
            TRY(talk_back_off(a, err));
    }
    return OM_OK;
}

static om_status fetch_file(agent *a, const uint8_t want[32], uint64_t bytes,
                            const char *part, om_err *err)
{
    uint8_t sha[32];
    char hex[65];
    uint64_t have;
    sink s = {.bytes = bytes, .path = part};
    hex_encode(want, 32, hex);
    TRY(os_open_rw(part, &s.fd, &have, err));
    s.at = have <= s.bytes ? have : 0;
    om_status st = fetch(a, hex, &s, err);
    if (st == OM_OK)
        st = hash_file(s.fd, s.bytes, part, sha, err);
    if (st == OM_OK && memcmp(sha, want, 32) != 0) {
        os_remove(part, NULL);
        st = fail(err, OM_EAGAIN, "agent: the model arrived damaged");
    }
    if (st == OM_OK)
        st = os_sync(s.fd, part, err);
    os_close(s.fd);
    return st;
}

om_status talk_download(agent *a, const uint8_t sha[32], uint64_t bytes,
                        char path[AGENT_PATH], om_err *err)
{
    char hex[65], name[80], part[AGENT_PATH];
    hex_encode(sha, 32, hex);
    TRY(keep_path(a, ".cache", hex, path, err));
    if (os_exists(path))
        return OM_OK;
    snprintf(name, sizeof(name), "%s.part", hex);
    TRY(keep_path(a, ".cache", name, part, err));
    om_status st;
    while ((st = fetch_file(a, sha, bytes, part, err)) == OM_EAGAIN) {
        log_to(&a->cfg.log, LOG_WARN, "%s; fetching it again", err->msg);
        TRY(talk_back_off(a, err));
    }
    TRY(st);
    return os_rename(part, path, err);
}

/* ---- upload ------------------------------------------------------------------------- */

static om_status read_result(const agent *a, unsigned status, wire_result *out, om_err *err)
{
    om_err why = {0};
    if (wire_get_result(out, a->answer.data, a->answer.len, &why) == OM_OK)
        return OM_OK;
    if (status != 200) {
        read_refusal(a, status, out);
        return OM_OK;
    }
    return fail(err, OM_EFORMAT, "agent: an answer that is not understood: %s", why.msg);
}

static om_status send_whole(agent *a, const wire_update *head, const uint8_t *up,
                            wire_result *result, om_err *err)
{
    unsigned status;
    buf line = buf_growing(4096);
    om_status st = buf_str(&line, STR("X-Octomil-Update: "));
    if (st == OM_OK)
        st = wire_put_update(head, &line);
    if (st == OM_OK)
        st = buf_u8(&line, 0);
    http_call call = {.method = "PUT",
                      .path = "/api/v1/federation/updates",
                      .type = "application/octet-stream",
                      .header = (const char *)line.data,
                      .body = up,
                      .body_n = head->bytes,
                      .wait_ms = WAIT_MS};
    if (st == OM_OK)
        st = talk_call(a, &call, &status, err);
    buf_free(&line);
    return st == OM_OK ? read_result(a, status, result, err) : st;
}

om_status talk_fate(agent *a, const wire_update *head, wire_result *result, om_err *err)
{
    unsigned status;
    buf body = buf_growing(4096);
    om_status st = wire_put_update(head, &body);
    http_call call = {.method = "POST",
                      .path = "/api/v1/federation/updates/initiate",
                      .type = "application/json",
                      .body = body.data,
                      .body_n = body.len};
    if (st == OM_OK)
        st = insist(a, &call, &status, err);
    buf_free(&body);
    return st == OM_OK ? read_result(a, status, result, err) : st;
}

static om_status send_rest(agent *a, const wire_update *head, const uint8_t *up,
                           wire_result *result, om_err *err)
{
    char path[200];
    unsigned status;
    uint64_t at = result->offset;
    if (at > head->bytes || !wire_name_ok(str_of(result->upload)))
        return fail(err, OM_EFORMAT, "agent: the coordinator wants an offset past the end");
    snprintf(path, sizeof(path), "/api/v1/federation/updates/%s?offset=%llu",
             result->upload, (unsigned long long)at);
    http_call call = {.method = "PUT",
                      .path = path,
                      .type = "application/octet-stream",
                      .body = up + at,
                      .body_n = head->bytes - at,
                      .wait_ms = WAIT_MS};
    TRY(talk_call(a, &call, &status, err));
    return read_result(a, status, result, err);
}

/* The first try is the whole in one request; after anything unexpected the coordinator
 * is asked where it stands. */
om_status talk_upload(agent *a, const wire_update *head, const uint8_t *up,
                      wire_result *result, om_err *err)
{
    om_status st = send_whole(a, head, up, result, err);
    for (;;) {
        bool spoke = st == OM_OK;
        if (!spoke && st != OM_ENET)
            return st;
        if (spoke && result->complete)
            return OM_OK;
        if (spoke && result->reason == WIRE_UNAUTHORIZED) {
            TRY(talk_register(a, err));
        } else if (spoke && result->reason != WIRE_OK) {
            if (!wire_reason_again(result->reason) && result->reason != WIRE_NOT_FOUND)
                return OM_OK; /* refused for good: the caller reads why */
            if (result->reason != WIRE_WRONG_OFFSET)
                TRY(talk_wait(a, result->retry_min_ms + 20, result->retry_max_ms + 100,
                              err));
        } else if (!spoke) {
            log_to(&a->cfg.log, LOG_INFO, "%s; going on", err->msg);
            TRY(talk_back_off(a, err));
        }
        TRY(talk_fate(a, head, result, err));
        st = OM_OK;
        if (result->reason == WIRE_OK && !result->complete)
            st = send_rest(a, head, up, result, err);
    }
}
