/* test_coord.c - the coordinator in this process: allocations that fail, a stopped run
 * that goes on, a second coordinator in the same folder. */
#include "agent/inner.h"
#include "coord/inner.h"
#include "test.h"

extern const task_kind task_llm;

enum { DIM = 4000, ROUNDS = 3, CLIENTS = 2 }; /* 16 kB: updates become files */

static om_status start_at_zero(void *ctx, float *x0, om_err *err)
{
    (void)ctx, (void)err;
    memset(x0, 0, DIM * sizeof(float));
    return OM_OK;
}

typedef struct {
    char dir[300];
    kern k;
    coord_config cfg;
    agent_config agent[CLIENTS];
    char agent_dir[CLIENTS][310], url[64];
    om_cancel cancel;
    om_status agent_said[CLIENTS];
} scene;

static void scene_open(scene *s, const char *name)
{
    static const char *const names[CLIENTS] = {"a", "b"};
    *s = (scene){0};
    kern_init(&s->k, 0);
    snprintf(s->dir, sizeof(s->dir), "%s/%s", test_temp_dir(), name);
    s->cfg = (coord_config){.dir = s->dir,
                            .run = "r",
                            .plan = {.n_clients = CLIENTS, .start_devices = CLIENTS,
                                     .cohort = CLIENTS, .min_accepted = CLIENTS,
                                     .max_attempts = 100, .n_rounds = ROUNDS,
                                     .retry_min_ms = 5, .retry_max_ms = 10,
                                     .deadline_ms = 60000, .seed = 5},
                            .algorithm = "fedavg",
                            .algorithm_params = "local_steps=2,lr=0.05",
                            .codec = "identity",
                            .codec_params = "",
                            .kind = "quadratic",
                            .task = "{\"dim\":4000}",
                            .dim = DIM,
                            .start = start_at_zero,
                            .names = names,
                            .n_names = CLIENTS,
                            .keep_versions = 2,
                            .k = &s->k};
    for (int i = 0; i < CLIENTS; i++) {
        snprintf(s->agent_dir[i], sizeof(s->agent_dir[i]), "%s/%s-%s", test_temp_dir(), name,
                 names[i]);
        s->agent[i] = (agent_config){.server = s->url, .name = names[i],
                                     .dir = s->agent_dir[i], .k = &s->k, .backoff_ms = 10,
                                     .backoff_max_ms = 100, .cancel = &s->cancel};
    }
}

typedef struct {
    scene *s;
    int i;
} device;

static void be_device(void *ctx)
{
    device *d = ctx;
    agent_outcome o;
    om_err err = {0};
    d->s->agent_said[d->i] = agent_run(&d->s->agent[d->i], &o, &err);
}

static void be_coordinator(void *ctx)
{
    om_err err = {0};
    coord_run(ctx, 300, &err);
}

/* A whole run in this process; `fault`: the n-th allocation of the worker fails. */
static void whole_run(test *t, scene *s, long fault, float *model)
{
    om_err err = {0};
    coord *c = NULL;
    uint16_t port = 0;
    os_thread *thread[CLIENTS];
    device d[CLIENTS];
    CHECK_OK(t, coord_open(&s->cfg, &c, &err), err);
    CHECK_OK(t, coord_listen(c, "127.0.0.1", 0, &port, &err), err);
    snprintf(s->url, sizeof(s->url), "http://127.0.0.1:%u", (unsigned)port);
    for (int i = 0; i < CLIENTS; i++) {
        d[i] = (device){s, i};
        CHECK_OK(t, os_thread_start(&thread[i], be_device, &d[i], &err), err);
    }
#ifdef OM_FAULTS
    mem_fail_at(fault);
#else
    (void)fault;
#endif
    om_status st = coord_run(c, 300, &err);
#ifdef OM_FAULTS
    mem_fail_at(0);
#endif
    CHECK_OK(t, st, err);
    if (st != OM_OK)
        cancel_now(&s->cancel);
    for (int i = 0; i < CLIENTS; i++) {
        os_thread_join(thread[i]);
        CHECK_INT(t, s->agent_said[i], OM_OK);
    }
    CHECK_OK(t, coord_model(c, model, &err), err);
    coord_close(c);
}

static void same_again(test *t)
{
    static float first[DIM], second[DIM];
    scene s;
    scene_open(&s, "first");
    whole_run(t, &s, 0, first);
    scene_open(&s, "second");
    whole_run(t, &s, 0, second);
    CHECK(t, first[0] != 0 && memcmp(first, second, sizeof(first)) == 0);
}

static void out_of_memory_at_start(test *t)
{
#ifdef OM_FAULTS
    for (long n = 1; n < 1000; n++) {
        scene s;
        coord *c = NULL;
        om_err err = {0};
        char name[32];
        snprintf(name, sizeof(name), "start-%ld", n);
        scene_open(&s, name);
        mem_fail_at(n);
        om_status st = coord_open(&s.cfg, &c, &err);
        bool fired = mem_count() >= n;
        mem_fail_at(0);
        CHECK(t, st == OM_OK || (st == OM_ENOMEM && err.msg[0] && !c));
        coord_close(c);
        CHECK_OK(t, coord_open(&s.cfg, &c, &err), err); /* nothing is left in the way */
        coord_close(c);
        if (!fired)
            return;
    }
    CHECK(t, false);
#else
    test_skip(t, "built without OM_FAULTS");
#endif
}

static void out_of_memory_at_work(test *t)
{
    static float calm[DIM], got[DIM];
#ifdef OM_FAULTS
    static const long faults[] = {1, 2, 3, 5, 9, 14};
#else
    static const long faults[] = {0}; /* that two runs agree can be said without */
#endif
    scene s;
    scene_open(&s, "calm");
    whole_run(t, &s, 0, calm);
    for (size_t i = 0; i < countof(faults); i++) {
        char name[32];
        snprintf(name, sizeof(name), "work-%zu", i);
        scene_open(&s, name);
        whole_run(t, &s, faults[i], got);
        CHECK(t, memcmp(calm, got, sizeof(calm)) == 0);
    }
}

static void one_at_a_time(test *t)
{
    scene s;
    om_err err = {0};
    coord *c = NULL, *second = NULL;
    scene_open(&s, "one");
    CHECK_OK(t, coord_open(&s.cfg, &c, &err), err);
    CHECK_INT(t, coord_open(&s.cfg, &second, &err), OM_EEXIST);
    coord_close(c);
    s.cfg.algorithm_params = "lr=0.2";
    CHECK_INT(t, coord_open(&s.cfg, &second, &err), OM_EARG); /* another configuration */
    CHECK(t, strstr(err.msg, "another configuration") != NULL);
}

static void stopped_and_status(test *t)
{
    scene s;
    om_err err = {0};
    coord *c = NULL;
    om_cancel stop = {1};
    scene_open(&s, "stop");
    s.cfg.cancel = &stop;
    CHECK_OK(t, coord_open(&s.cfg, &c, &err), err);
    CHECK_INT(t, coord_run(c, 0, &err), OM_ECANCEL);
    buf b = buf_growing(1 << 16);
    json_doc doc = {0};
    CHECK_OK(t, coord_status(c, &b, &err), err);
    CHECK_OK(t, json_parse(b.data, b.len, 0, &doc, &err), err);
    CHECK(t, str_is(json_str(json_get(doc.root, "status"), ""), "pending"));
    CHECK_INT(t, json_u64(json_get(doc.root, "target_devices"), 0), CLIENTS);
    json_close(&doc);
    buf_free(&b);
    coord_close(c);
}

/* ---- the documents ------------------------------------------------------------------- */

/* "/a/{id}/b" and "/a/SHA256/b" as the route table writes them: "/a/" "*" "/b". */
static void route_like(str path, char out[128])
{
    size_t n = 0;
    for (size_t i = 0; i < path.n && n < 126; i++) {
        bool name = path.p[i] == '{' || (path.p[i] >= 'A' && path.p[i] <= 'Z');
        out[n++] = name ? '*' : path.p[i];
        while (name && i + 1 < path.n && path.p[i + 1] != '/')
            i++;
    }
    out[n] = '\0';
}

static const http_route *route_named(const char *method, const char *path)
{
    static const char *const names[] = {
        [HTTP_GET] = "get", [HTTP_POST] = "post", [HTTP_PUT] = "put", [HTTP_DELETE] = "delete"};
    for (const http_route *r = api_routes; r->path; r++)
        if (strcmp(r->path, path) == 0 && (!method || strcmp(names[r->method], method) == 0))
            return r;
    return NULL;
}

static buf document(test *t, const char *name)
{
    buf b = {0};
    om_err err = {0};
    CHECK_OK(t, os_read_file(name, 1 << 20, &b, &err), err);
    return b;
}

/* Every operation of openapi.yaml is a route and the other way round. */
static void openapi_agrees(test *t)
{
    buf b = document(t, OM_SOURCE_DIR "/docs/openapi.yaml");
    char path[128] = "", line[256];
    size_t documented = 0, routes = 0;
    for (size_t at = 0; at < b.len;) {
        const uint8_t *end = memchr(b.data + at, '\n', b.len - at);
        size_t n = end ? (size_t)(end - b.data) - at : b.len - at;
        snprintf(line, sizeof(line), "%.*s", (int)size_min(n, 255), (char *)b.data + at);
        at += n + 1;
        size_t stop = strcspn(line + (n > 4 ? 4 : 0), ":") + 4;
        if (strncmp(line, "  /", 3) == 0) {
            route_like((str){line + 2, strcspn(line + 2, ":")}, path);
        } else if (path[0] && n > 5 && strncmp(line, "    ", 4) == 0 && line[4] != ' ' &&
                   stop < n) {
            line[stop] = '\0';
            if (!route_named(line + 4, path))
                test_fail(t, __FILE__, __LINE__, "no route %s %s", line + 4, path);
            documented++;
        }
    }
    for (const http_route *r = api_routes; r->path; r++)
        routes++;
    CHECK_INT(t, documented, routes); /* all different, so this is the other way round */
    buf_free(&b);
}

static void protocol_agrees(test *t)
{
    buf b = document(t, OM_SOURCE_DIR "/docs/protocol.md");
    char path[128];
    size_t seen = 0;
    CHECK(t, buf_u8(&b, 0) == OM_OK);
    for (const char *p = (char *)b.data; p && (p = strstr(p, "/api/v1/")); seen++) {
        size_t n = strcspn(p, "`? \n");
        route_like((str){p, n}, path);
        if (!route_named(NULL, path))
            test_fail(t, __FILE__, __LINE__, "protocol.md names %s, no route does", path);
        p += n;
    }
    CHECK(t, seen >= 4);
    buf_free(&b);
}

/* ---- a base model over the wire --------------------------------------------------------- */

static om_status start_llm(void *ctx, float *x0, om_err *err)
{
    const task_env *e = ctx;
    return task_llm.start(e, x0, err);
}

typedef struct {
    uint64_t down;
    uint32_t accepted, refused;
} tally;

static void note_news(void *ctx, const agent_news *n)
{
    tally *y = ctx;
    y->down = n->bytes_down;
    *(n->accepted ? &y->accepted : &y->refused) += 1;
}

/* Two rounds of one device over stories260K; `have`: what its cache holds already, `own`:
 * its --model.  Says what the device said. */
static om_status llm_run(test *t, const char *name, const buf *base, size_t have,
                         const char *own, tally *y, om_err *said)
{
    char path[400], task[300], data[400], hex[65], part[500];
    scene s;
    om_err err = {0};
    json_doc spec;
    coord *c = NULL;
    uint16_t port = 0;
    agent_outcome o;
    os_thread *thread;
    scene_open(&s, name);
    snprintf(path, sizeof(path), "%s/%s-base.gguf", test_temp_dir(), name);
    snprintf(data, sizeof(data), "%s/%s.txt", test_temp_dir(), name);
    CHECK_OK(t, os_write_file_atomic(path, base->data, base->len, &err), err);
    static const char text[] = "Once upon a time there was a small dog. The dog liked the sun. "
                               "One day the dog saw a big red ball and ran to it with joy.";
    CHECK_OK(t, os_write_file_atomic(data, text, sizeof(text) - 1, &err), err);
    sha256(base->data, base->len, s.cfg.base_sha);
    hex_encode(s.cfg.base_sha, 32, hex);
    snprintf(task, sizeof(task), "{\"rank\":1,\"seq_len\":16,\"batch\":1,\"model_sha256\":"
             "\"%s\",\"model_bytes\":%zu}", hex, base->len);
    if (have) {
        snprintf(part, sizeof(part), "%s/.cache", s.agent_dir[0]);
        CHECK_OK(t, os_mkdirs(part, &err), err);
        snprintf(part, sizeof(part), "%s/.cache/%s.part", s.agent_dir[0], hex);
        CHECK_OK(t, os_write_file_atomic(part, base->data, have, &err), err);
    }
    CHECK_OK(t, json_parse(task, strlen(task), 100, &spec, &err), err);
    task_env e = {.spec = spec.root, .n_clients = 1, .seed = 5, .model = path, .k = &s.k};
    CHECK_OK(t, task_llm.size(&e, &e.dim, &err), err);
    s.cfg.plan.n_clients = s.cfg.plan.start_devices = s.cfg.plan.cohort =
        s.cfg.plan.min_accepted = 1;
    s.cfg.plan.n_rounds = 2;
    s.cfg.n_names = 1;
    s.cfg.algorithm_params = "local_steps=1,lr=0.01";
    s.cfg.kind = "llm";
    s.cfg.task = task;
    s.cfg.base_path = path;
    s.cfg.dim = e.dim;
    s.cfg.start = start_llm;
    s.cfg.start_ctx = &e;
    s.cfg.cancel = &s.cancel;
    CHECK_OK(t, coord_open(&s.cfg, &c, &err), err);
    CHECK_OK(t, coord_listen(c, "127.0.0.1", 0, &port, &err), err);
    snprintf(s.url, sizeof(s.url), "http://127.0.0.1:%u", (unsigned)port);
    CHECK_OK(t, os_thread_start(&thread, be_coordinator, c, &err), err);
    s.agent[0].data = data;
    s.agent[0].model = own;
    s.agent[0].cancel = NULL;
    s.agent[0].on_news = note_news;
    s.agent[0].news_ctx = y;
    om_status st = agent_run(&s.agent[0], &o, said);
    cancel_now(&s.cancel);
    os_thread_join(thread);
    coord_close(c);
    json_close(&spec);
    return st;
}

/* ---- a device that lies, through the agent itself ---------------------------------------- */

typedef struct {
    const char *what;
    uint32_t round;
    size_t numbers;
    uint64_t samples;
    float value;
    const char *says;
} lie;

typedef struct {
    char said[300];
    uint32_t accepted, refused;
} heard;

static void note_reason(void *ctx, const agent_news *n)
{
    heard *h = ctx;
    *(n->accepted ? &h->accepted : &h->refused) += 1;
    if (n->reason)
        snprintf(h->said, sizeof(h->said), "%s", n->reason);
}

/* What a manipulated device has in its `pending` file is what its agent sends. */
static void plant(test *t, const agent_config *c, const lie *l)
{
    static float x[DIM + 8];
    om_err err = {0};
    agent a = {.cfg = *c};
    wire_update head = {.round = l->round, .bytes = l->numbers * sizeof(float),
                        .samples = l->samples, .run = "r"};
    for (size_t i = 0; i < l->numbers; i++)
        x[i] = i == 77 ? l->value : 0.5f;
    wire_crc_digest(x, head.bytes, head.digest);
    CHECK_OK(t, os_mkdirs(c->dir, &err), err);
    CHECK_OK(t, keep_pending(&a, &head, "", 0, (uint8_t *)(void *)x, &err), err);
}

/* Each device starts with a lie, hears why it is refused, and then does honest work: the
 * run ends as if nothing had been. */
static void lies_through_the_agent(test *t)
{
    static const lie lies[] = {
        {"NaN", 0, DIM, 10, (float)NAN, "NaN"},
        {"infinity", 0, DIM, 10, INFINITY, "infinity"},
        {"one number short", 0, DIM - 1, 10, 0, "15996 bytes, expected 16000"},
        {"too long", 0, DIM + 4, 10, 0, "16016 bytes; at most 16000"},
        {"another round", 2, DIM, 10, 0, "round"},
        {"2^63 samples", 0, DIM, UINT64_C(1) << 63, 0, "9223372036854775808; 1 to"},
        {"no samples", 0, DIM, 0, 0, "0; 1 to"},
        {"finite, but huge", 0, DIM, 10, 1e20f, "norm is 1e+20; this run takes up to 1e+06"},
    };
    static float honest[DIM], got[DIM];
    scene s;
    scene_open(&s, "honest");
    whole_run(t, &s, 0, honest);
    for (size_t i = 0; i < countof(lies); i++) {
        char name[32];
        heard h = {0};
        snprintf(name, sizeof(name), "lie-%zu", i);
        scene_open(&s, name);
        s.cfg.max_update_norm = 1e6;
        s.agent[1].on_news = note_reason;
        s.agent[1].news_ctx = &h;
        plant(t, &s.agent[1], &lies[i]);
        whole_run(t, &s, 0, got);
        CHECK_INT(t, h.refused, 1);
        CHECK_INT(t, h.accepted, ROUNDS);
        if (!strstr(h.said, lies[i].says))
            test_fail(t, __FILE__, __LINE__, "%s: the agent says '%s', not '%s'", lies[i].what,
                      h.said, lies[i].says);
        CHECK(t, memcmp(honest, got, sizeof(got)) == 0);
    }
}

static void base_model_fetched(test *t)
{
    buf base = test_data_file("models/stories260K.gguf");
    if (!base.len) {
        test_skip(t, "no shared test data");
        return;
    }
    char other[400];
    om_err err = {0};
    tally y = {0};
    CHECK_OK(t, llm_run(t, "fetch", &base, 0, NULL, &y, &err), err);
    CHECK_INT(t, y.accepted, 2);
    CHECK(t, y.down > base.len && y.down < base.len + base.len / 2); /* once for two rounds */
    y = (tally){0};
    size_t have = base.len / 4 * 3; /* a download that was cut off goes on */
    CHECK_OK(t, llm_run(t, "resume", &base, have, NULL, &y, &err), err);
    CHECK_INT(t, y.accepted, 2);
    CHECK(t, y.down > base.len - have && y.down < base.len - have + base.len / 2);
    snprintf(other, sizeof(other), "%s/other.gguf", test_temp_dir());
    CHECK_OK(t, os_write_file_atomic(other, base.data, base.len - 1, &err), err);
    CHECK_INT(t, llm_run(t, "other", &base, 0, other, &y, &err), OM_EARG);
    CHECK(t, strstr(err.msg, "is not the federation's base model") != NULL);
    buf_free(&base);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"same_again", "two runs with threads for devices end in the same bits", same_again},
        {"out_of_memory_at_start", "every allocation of coord_open fails once",
         out_of_memory_at_start},
        {"out_of_memory_at_work", "the worker's fail once: same model", out_of_memory_at_work},
        {"one_at_a_time", "a locked folder, another configuration", one_at_a_time},
        {"stopped_and_status", "cancelled in good order; status is JSON", stopped_and_status},
        {"openapi_agrees", "docs/openapi.yaml has the route table's operations", openapi_agrees},
        {"protocol_agrees", "docs/protocol.md names routes that exist", protocol_agrees},
        {"lies_through_the_agent", "each is refused, the reason shown, the model unharmed",
         lies_through_the_agent},
        {"base_model_fetched", "once, resumed when cut; another one is refused",
         base_model_fetched},
        {0}};
    return test_main(argc, argv, cases);
}
