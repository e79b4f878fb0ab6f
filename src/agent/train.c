/* train.c - a round's work: model in, update out.
 *
 * Everything the result depends on comes from the task (seed, round, client, recipe),
 * the model and the client's state: computed again after a crash it is the same. */
#include "agent/inner.h"

#include <math.h>

void train_close(agent *a)
{
    if (a->work)
        a->kind->close(a->work);
    a->work = NULL;
}

/* The base model that the task names by "model_sha256": the device's own file when it is
 * that very model, else fetched once into the cache. */
static om_status need_base(agent *a, const json *spec, om_err *err)
{
    str hex = json_str(json_get(spec, "model_sha256"), "");
    uint64_t bytes = json_u64(json_get(spec, "model_bytes"), 0);
    uint8_t sha[32];
    os_map own;
    a->base[0] = '\0';
    if (a->cfg.model)
        memcpy(a->base, a->cfg.model, size_min(strlen(a->cfg.model) + 1, AGENT_PATH - 1));
    if (hex.n == 0)
        return OM_OK;
    if (!hex_decode(hex, a->base_sha, 32) || bytes == 0)
        return fail(err, OM_EFORMAT, "agent: the task names its base model badly");
    if (!a->cfg.model)
        return talk_download(a, a->base_sha, bytes, a->base, err);
    TRY(os_map_open(a->cfg.model, &own, err));
    sha256(own.p, own.n, sha);
    os_map_close(&own);
    if (memcmp(sha, a->base_sha, 32) == 0)
        return OM_OK;
    return fail(err, OM_EARG, "agent: '%s' is not the federation's base model; without --model "
                "it is fetched", a->cfg.model);
}

/* The problem stays open between rounds. */
static om_status open_work(agent *a, const wire_task *t, om_err *err)
{
    const wire_task *w = &a->work_is;
    bool same = a->work && strcmp(w->kind, t->kind) == 0 && strcmp(w->task, t->task) == 0 &&
                w->client == t->client && w->seed == t->seed && w->dim == t->dim;
    if (same)
        return OM_OK;
    json_doc spec;
    train_close(a);
    TRY(task_need(str_of(t->kind), &a->kind, err));
    TRY(json_parse(t->task, strlen(t->task), 1000, &spec, err));
    om_status st = need_base(a, spec.root, err);
    task_env e = {.spec = spec.root,
                  .client = t->client,
                  .n_clients = t->n_clients,
                  .seed = t->seed,
                  .dim = (size_t)t->dim,
                  .data = a->cfg.data,
                  .model = a->base[0] ? a->base : NULL,
                  .k = a->cfg.k,
                  .pool = a->cfg.pool,
                  .cancel = a->cfg.cancel};
    if (st == OM_OK)
        st = a->kind->open(&e, &a->work, err);
    json_close(&spec);
    a->work_is = *t;
    return st;
}

typedef struct {
    fl_recipe recipe;
    fl_env env;
    void *state, *scratch;
    size_t state_n, scratch_n;
    buf up;
    double loss;
} step;

static void close_step(step *s)
{
    mem_free(s->state);
    mem_free(s->scratch);
    buf_free(&s->up);
}

static om_status open_step(const wire_task *t, const kern *k, step *s, om_err *err)
{
    *s = (step){.loss = (double)NAN};
    TRY(fl_recipe_of(str_of(t->algorithm), str_of(t->algorithm_params), str_of(t->codec),
                     str_of(t->codec_params), &s->recipe, err));
    fl_drive drive = {t->n_clients, t->n_clients, t->n_clients, t->n_clients, true, NULL};
    TRY(fl_recipe_drive(&s->recipe, &drive, err)); /* the coordinator has judged the rest */
    s->env = (fl_env){.dim = (size_t)t->dim,
                      .n_clients = t->n_clients,
                      .cohort = t->cohort,
                      .round = t->round,
                      .seed = t->seed,
                      .p = s->recipe.p,
                      .up = s->recipe.up,
                      .up_p = s->recipe.up_p,
                      .k = k};
    const fl_algo *algo = s->recipe.algo;
    s->state_n = algo->client_bytes(&s->env);
    s->scratch_n = algo->scratch_bytes(&s->env);
    s->state = mem_alloc(s->state_n);
    s->scratch = mem_alloc(s->scratch_n);
    s->up = buf_growing(algo->up_bound(&s->env) + 1);
    if (s->state && s->scratch)
        return OM_OK;
    close_step(s);
    return fail(err, OM_ENOMEM, "agent: no memory for a model of %llu numbers",
                (unsigned long long)t->dim);
}

static om_status compute(agent *a, const wire_task *t, const os_map *down, step *s,
                         wire_update *head, om_err *err)
{
    fl_oracle f = {0};
    TRY(keep_load_state(a, t->run, s->state, s->state_n, err));
    a->kind->oracle(a->work, &f);
    if (f.dim != t->dim)
        return fail(err, OM_EFORMAT, "agent: the task has %zu numbers, the model %llu",
                    f.dim, (unsigned long long)t->dim);
    TRY(s->recipe.algo->client_step(&s->env, t->client, s->state, &f, down->p, down->n,
                                    &s->up, &s->loss, arena_of(s->scratch, s->scratch_n),
                                    err));
    *head = (wire_update){.round = t->round,
                          .attempt = t->attempt,
                          .bytes = s->up.len,
                          .samples = f.n_samples,
                          .loss = s->loss};
    memcpy(head->run, t->run, sizeof(head->run));
    wire_crc_digest(s->up.data, s->up.len, head->digest);
    return OM_OK;
}

om_status train_round(agent *a, const wire_task *t, const char *model_path, om_err *err)
{
    os_map down;
    step s;
    wire_update head;
    TRY(open_work(a, t, err));
    TRY(open_step(t, a->cfg.k, &s, err));
    om_status st = os_map_open(model_path, &down, err);
    if (st != OM_OK) {
        close_step(&s);
        return st;
    }
    st = compute(a, t, &down, &s, &head, err);
    os_map_close(&down);
    if (st == OM_OK)
        st = keep_pending(a, &head, s.state, s.state_n, s.up.data, err);
    close_step(&s);
    return st;
}
