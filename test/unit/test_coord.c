/* test_coord.c - the coordinator in this process: allocations that fail, a stopped run
 * that goes on, a second coordinator in the same folder. */
#include "agent/agent.h"
#include "coord/coord.h"
#include "test.h"

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
    s->cancel.requested = st != OM_OK;
    for (int i = 0; i < CLIENTS; i++) {
        os_thread_join(thread[i]);
        CHECK_INT(t, s->agent_said[i], OM_OK);
    }
    CHECK_OK(t, coord_model(c, model, &err), err);
    coord_close(c);
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

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"out_of_memory_at_start", "every allocation of coord_open fails once",
         out_of_memory_at_start},
        {"out_of_memory_at_work", "the worker's fail once: same model", out_of_memory_at_work},
        {"one_at_a_time", "a locked folder, another configuration", one_at_a_time},
        {"stopped_and_status", "cancelled in good order; status is JSON", stopped_and_status},
        {0}};
    return test_main(argc, argv, cases);
}
