/* wire.c - JSON of the messages in wire.h.
 *
 * 64-bit seeds and counts are JSON integers; our reader keeps a number's text, so none
 * is rounded.  A member that is missing, of another type or out of range fails the
 * whole message: a coordinator that half understands an update is worse than one that
 * refuses it. */
#include "proto/wire.h"

#include <math.h>

typedef struct {
    const char *name, *text;
    unsigned http;
    bool again;
} reason_row;

static const reason_row reasons[WIRE_REASONS] = {
#define X(NAME, name, http, again, text) [WIRE_##NAME] = {#name, text, http, again},
    WIRE_REASON_MAP(X)
#undef X
};

const char *wire_reason_name(wire_reason r) { return reasons[r].name; }
const char *wire_reason_text(wire_reason r) { return reasons[r].text; }
unsigned wire_reason_http(wire_reason r) { return reasons[r].http; }
bool wire_reason_again(wire_reason r) { return reasons[r].again; }

wire_reason wire_reason_find(str name)
{
    for (int i = 0; i < WIRE_REASONS; i++)
        if (str_is(name, reasons[i].name))
            return (wire_reason)i;
    return WIRE_INTERNAL;
}

bool wire_name_ok(str name)
{
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        bool ok = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                  (c >= 'A' && c <= 'Z') || (c && strchr("._:-", c));
        if (!ok)
            return false;
    }
    return name.n >= 1 && name.n < WIRE_NAME && name.p[0] != '.';
}

/* ---- reading ------------------------------------------------------------------------ */

/* The first missing or wrong member is remembered; later reads give zero. */
typedef struct {
    json_doc doc;
    const char *what;
    om_err *err;
    om_status status;
} reader;

static reader open_message(const char *what, const void *p, size_t n, om_err *err)
{
    reader r = {.what = what, .err = err, .status = OM_OK};
    if (n > WIRE_MESSAGE_MAX) {
        r.status = fail(err, OM_ELIMIT, "wire: a %s message of %zu bytes; at most %d", what,
                        n, WIRE_MESSAGE_MAX);
        return r;
    }
    r.status = json_parse(p, n, 256, &r.doc, err);
    if (r.status == OM_OK && r.doc.root->type != JSON_OBJECT)
        r.status = fail(err, OM_EFORMAT, "wire: a %s message must be a JSON object", what);
    if (r.status != OM_OK)
        return r;
    uint64_t protocol = json_u64(json_get(r.doc.root, "protocol"), 0);
    if (protocol != WIRE_PROTOCOL)
        r.status = fail(err, OM_EUNSUPPORTED,
                        "wire: a %s message of protocol %llu; this side "
                        "speaks %d",
                        what, (unsigned long long)protocol, WIRE_PROTOCOL);
    return r;
}

static om_status shut_message(reader *r)
{
    json_close(&r->doc);
    return r->status;
}

static void dislike(reader *r, const char *key, const char *why)
{
    if (r->status == OM_OK)
        r->status = fail(r->err, OM_EFORMAT, "wire: %s: \"%s\" %s", r->what, key, why);
}

static const json *member(reader *r, const char *key, json_type type)
{
    const json *j = r->status == OM_OK ? json_get(r->doc.root, key) : NULL;
    if (!j)
        dislike(r, key, "is missing");
    else if (j->type != type)
        dislike(r, key, "has the wrong type");
    return r->status == OM_OK ? j : NULL;
}

static uint64_t get_u64(reader *r, const char *key, uint64_t max)
{
    const json *j = member(r, key, JSON_NUMBER);
    uint64_t v = 0;
    if (j && (!str_u64(j->text, &v) || v > max))
        dislike(r, key, "is not an integer in range");
    return r->status == OM_OK ? v : 0;
}

static uint32_t get_u32(reader *r, const char *key)
{
    return (uint32_t)get_u64(r, key, UINT32_MAX);
}

static void get_text(reader *r, const char *key, char *out, size_t cap)
{
    const json *j = member(r, key, JSON_STRING);
    out[0] = '\0';
    if (!j)
        return;
    if (j->text.n >= cap || memchr(j->text.p, '\0', j->text.n)) {
        dislike(r, key, "is too long or holds a NUL");
        return;
    }
    memcpy(out, j->text.p, j->text.n);
    out[j->text.n] = '\0';
}

static void get_name(reader *r, const char *key, char *out, size_t cap)
{
    get_text(r, key, out, cap);
    if (r->status == OM_OK && !wire_name_ok(str_of(out)))
        dislike(r, key, "is not a name: letters, digits and . _ : - only");
}

static void get_sha(reader *r, const char *key, uint8_t out[32])
{
    const json *j = member(r, key, JSON_STRING);
    if (j && (j->text.n != 64 || !hex_decode(j->text, out, 32)))
        dislike(r, key, "is not a SHA-256 in hexadecimal");
}

static const uint8_t no_tail[WIRE_DIGEST - 8];

static bool is_crc(const uint8_t digest[WIRE_DIGEST])
{
    return memcmp(digest + 8, no_tail, sizeof(no_tail)) == 0;
}

/* "update_sha256", or "update_crc64nvme" when that is missing. */
static void get_digest(reader *r, uint8_t out[WIRE_DIGEST])
{
    const char *key = "update_crc64nvme";
    memset(out, 0, WIRE_DIGEST);
    if (r->status != OM_OK || !json_get(r->doc.root, key) ||
        json_get(r->doc.root, "update_sha256")) {
        get_sha(r, "update_sha256", out);
        return;
    }
    const json *j = member(r, key, JSON_STRING);
    if (j && (j->text.n != 16 || !hex_decode(j->text, out, 8)))
        dislike(r, key, "is not a CRC-64 in hexadecimal");
}

/* ---- writing ------------------------------------------------------------------------ */

static json_out begin(buf *out)
{
    json_out o = json_to(out);
    json_open_object(&o, NULL);
    json_put_u64(&o, "protocol", WIRE_PROTOCOL);
    return o;
}

static om_status end(json_out *o)
{
    json_shut(o, '}');
    return o->status;
}

static void put_sha(json_out *o, const char *key, const uint8_t sha[32])
{
    char hex[65];
    hex_encode(sha, 32, hex);
    json_put_str(o, key, str_of(hex));
}

/* ---- registration ------------------------------------------------------------------- */

om_status wire_put_register(const wire_register *m, buf *out)
{
    json_out o = begin(out);
    json_put_str(&o, "device_id", str_of(m->device_id));
    json_put_str(&o, "platform", str_of(m->platform));
    return end(&o);
}

om_status wire_get_register(wire_register *m, const void *p, size_t n, om_err *err)
{
    reader r = open_message("registration", p, n, err);
    get_name(&r, "device_id", m->device_id, sizeof(m->device_id));
    get_text(&r, "platform", m->platform, sizeof(m->platform));
    return shut_message(&r);
}

om_status wire_put_registered(const wire_registered *m, buf *out)
{
    json_out o = begin(out);
    json_put_str(&o, "device_id", str_of(m->device_id));
    json_put_str(&o, "token", str_of(m->token));
    json_put_u64(&o, "index", m->index);
    return end(&o);
}

om_status wire_get_registered(wire_registered *m, const void *p, size_t n, om_err *err)
{
    reader r = open_message("registered", p, n, err);
    get_name(&r, "device_id", m->device_id, sizeof(m->device_id));
    get_text(&r, "token", m->token, sizeof(m->token));
    m->index = get_u32(&r, "index");
    return shut_message(&r);
}

/* ---- the answer to a check-in ---------------------------------------------------------
 */

static const char *const work_names[] = {
    [WIRE_WAIT] = "wait", [WIRE_TASK] = "task", [WIRE_END] = "end"};

static void put_task(json_out *o, const wire_task *t)
{
    json_put_str(o, "run_id", str_of(t->run));
    json_put_u64(o, "round_number", t->round);
    json_put_u64(o, "attempt", t->attempt);
    json_put_u64(o, "client", t->client);
    json_put_u64(o, "clients", t->n_clients);
    json_put_u64(o, "cohort", t->cohort);
    json_put_u64(o, "seed", t->seed);
    json_put_u64(o, "dim", t->dim);
    json_put_u64(o, "deadline_ms", t->deadline_ms);
    json_put_str(o, "algorithm", str_of(t->algorithm));
    json_put_str(o, "algorithm_params", str_of(t->algorithm_params));
    json_put_str(o, "codec", str_of(t->codec));
    json_put_str(o, "codec_params", str_of(t->codec_params));
    json_put_str(o, "kind", str_of(t->kind));
    json_put_str(o, "task", str_of(t->task));
    json_put_u64(o, "down_bytes", t->down_bytes);
    json_put_u64(o, "update_bytes_max", t->up_bound);
    put_sha(o, "down_sha256", t->down_sha);
}

om_status wire_put_answer(const wire_answer *m, buf *out)
{
    json_out o = begin(out);
    json_put_str(&o, "work", str_of(work_names[m->work]));
    if (m->work == WIRE_WAIT) {
        json_put_u64(&o, "retry_min_ms", m->retry_min_ms);
        json_put_u64(&o, "retry_max_ms", m->retry_max_ms);
    }
    if (m->work == WIRE_END)
        json_put_str(&o, "outcome", str_of(m->outcome));
    if (m->work == WIRE_TASK)
        put_task(&o, &m->task);
    return end(&o);
}

static void get_task(reader *r, wire_task *t)
{
    get_name(r, "run_id", t->run, sizeof(t->run));
    t->round = get_u32(r, "round_number");
    t->attempt = get_u32(r, "attempt");
    t->client = get_u32(r, "client");
    t->n_clients = get_u32(r, "clients");
    t->cohort = get_u32(r, "cohort");
    t->seed = get_u64(r, "seed", UINT64_MAX);
    t->dim = get_u64(r, "dim", WIRE_PAYLOAD_MAX);
    t->deadline_ms = get_u64(r, "deadline_ms", UINT64_MAX);
    get_text(r, "algorithm", t->algorithm, sizeof(t->algorithm));
    get_text(r, "algorithm_params", t->algorithm_params, sizeof(t->algorithm_params));
    get_text(r, "codec", t->codec, sizeof(t->codec));
    get_text(r, "codec_params", t->codec_params, sizeof(t->codec_params));
    get_text(r, "kind", t->kind, sizeof(t->kind));
    get_text(r, "task", t->task, sizeof(t->task));
    t->down_bytes = get_u64(r, "down_bytes", WIRE_PAYLOAD_MAX);
    t->up_bound = get_u64(r, "update_bytes_max", WIRE_PAYLOAD_MAX);
    get_sha(r, "down_sha256", t->down_sha);
    if (r->status == OM_OK && (t->client >= t->n_clients || t->dim == 0))
        dislike(r, "client", "or \"dim\" is out of range");
}

om_status wire_get_answer(wire_answer *m, const void *p, size_t n, om_err *err)
{
    char work[8];
    *m = (wire_answer){0};
    reader r = open_message("check-in answer", p, n, err);
    get_text(&r, "work", work, sizeof(work));
    if (strcmp(work, "task") == 0) {
        m->work = WIRE_TASK;
        get_task(&r, &m->task);
    } else if (strcmp(work, "end") == 0) {
        m->work = WIRE_END;
        get_text(&r, "outcome", m->outcome, sizeof(m->outcome));
    } else if (strcmp(work, "wait") == 0) {
        m->retry_min_ms = get_u32(&r, "retry_min_ms");
        m->retry_max_ms = get_u32(&r, "retry_max_ms");
    } else {
        dislike(&r, "work", "is not one of wait, task, end");
    }
    return shut_message(&r);
}

/* ---- an update's head ------------------------------------------------------------------
 */

om_status wire_put_update(const wire_update *m, buf *out)
{
    json_out o = begin(out);
    json_put_str(&o, "run_id", str_of(m->run));
    json_put_u64(&o, "round_number", m->round);
    json_put_u64(&o, "attempt", m->attempt);
    json_put_u64(&o, "update_bytes", m->bytes);
    if (is_crc(m->digest)) {
        char hex[17];
        hex_encode(m->digest, 8, hex);
        json_put_str(&o, "update_crc64nvme", str_of(hex));
    } else {
        put_sha(&o, "update_sha256", m->digest);
    }
    json_put_u64(&o, "sample_count", m->samples);
    json_put_f64(&o, "loss", m->loss);
    return end(&o);
}

om_status wire_get_update(wire_update *m, const void *p, size_t n, om_err *err)
{
    *m = (wire_update){0};
    reader r = open_message("update", p, n, err);
    get_name(&r, "run_id", m->run, sizeof(m->run));
    m->round = get_u32(&r, "round_number");
    m->attempt = get_u32(&r, "attempt");
    m->bytes = get_u64(&r, "update_bytes", WIRE_PAYLOAD_MAX);
    get_digest(&r, m->digest);
    m->samples = get_u64(&r, "sample_count", UINT64_MAX); /* judged by the coordinator */
    m->loss = r.status == OM_OK ? json_f64(json_get(r.doc.root, "loss"), (double)NAN) : 0;
    return shut_message(&r);
}

/* ---- results and refusals ----------------------------------------------------------- */

om_status wire_put_result(const wire_result *m, buf *out)
{
    json_out o = begin(out);
    bool ok = m->reason == WIRE_OK;
    json_put_str(&o, "status",
                 ok ? m->complete ? STR("accepted") : STR("incomplete") : STR("refused"));
    if (!ok) {
        json_put_str(&o, "error", str_of(wire_reason_name(m->reason)));
        json_put_u64(&o, "status_code", wire_reason_http(m->reason));
    }
    json_put_str(&o, "message",
                 str_of(m->message[0] ? m->message : wire_reason_text(m->reason)));
    json_put_str(&o, "upload_id", str_of(m->upload));
    json_put_u64(&o, "offset", m->offset);
    json_put_u64(&o, "retry_min_ms", m->retry_min_ms);
    json_put_u64(&o, "retry_max_ms", m->retry_max_ms);
    return end(&o);
}

om_status wire_get_result(wire_result *m, const void *p, size_t n, om_err *err)
{
    char status[16], name[32] = "";
    *m = (wire_result){0};
    reader r = open_message("result", p, n, err);
    get_text(&r, "status", status, sizeof(status));
    m->complete = strcmp(status, "accepted") == 0;
    if (!m->complete && strcmp(status, "incomplete") != 0) {
        get_text(&r, "error", name, sizeof(name));
        m->reason = wire_reason_find(str_of(name));
        if (m->reason == WIRE_OK)
            m->reason = WIRE_INTERNAL;
    }
    get_text(&r, "message", m->message, sizeof(m->message));
    get_text(&r, "upload_id", m->upload, sizeof(m->upload));
    m->offset = get_u64(&r, "offset", WIRE_PAYLOAD_MAX);
    m->retry_min_ms = get_u32(&r, "retry_min_ms");
    m->retry_max_ms = get_u32(&r, "retry_max_ms");
    return shut_message(&r);
}

/* ---- digests ------------------------------------------------------------------------ */

void wire_digest_start(wire_digester *d, const uint8_t announced[WIRE_DIGEST])
{
    *d = (wire_digester){.is_crc = is_crc(announced)};
    if (!d->is_crc)
        sha256_init(&d->sha);
}

void wire_digest_add(wire_digester *d, const void *p, size_t n)
{
    if (d->is_crc)
        d->crc = crc64(d->crc, p, n);
    else
        sha256_update(&d->sha, p, n);
}

void wire_digest_end(wire_digester *d, uint8_t out[WIRE_DIGEST])
{
    memset(out, 0, WIRE_DIGEST);
    for (int i = 0; d->is_crc && i < 8; i++)
        out[i] = (uint8_t)(d->crc >> (56 - 8 * i));
    if (!d->is_crc)
        sha256_final(&d->sha, out);
}

void wire_crc_digest(const void *p, size_t n, uint8_t out[WIRE_DIGEST])
{
    wire_digester d = {.is_crc = true};
    wire_digest_add(&d, p, n);
    wire_digest_end(&d, out);
}
