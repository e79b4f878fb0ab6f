/* cmd_server.c - `octomil server`: the coordinator of a federated run. */
#include "agent/task.h"
#include "cli/cli.h"
#include "cli/config.h"
#include "cli/federated.h"
#include "coord/coord.h"
#include "proto/wire.h"

#include <math.h>
#include <stdio.h>

typedef struct {
    cli *c;
    config cfg;
    const task_kind *kind;
    task_env task;
    buf algo_params, codec_params, aggregator_params, task_text;
    char host[128];
    uint16_t port;
    uint64_t rounds;
    uint8_t base_sha[32];
    federated_meter meter;
    coord *coord;
    float *x; /* (dim) the newest model, when it is measured */
} server;

/* ---- what the configuration says ---------------------------------------------------- */

/* "lr=0.1,weights=samples": parameters as the devices will read them back, bit by bit. */
static om_status params_text(const param *table, const double *p, buf *out)
{
    for (size_t i = 0; table && table[i].name; i++) {
        const char *comma = i ? "," : "", *choice = table[i].choices;
        for (double skip = p[i]; choice && skip > 0.5; skip -= 1)
            choice = strchr(choice, '|') + 1;
        if (choice)
            TRY(buf_fmt(out, "%s%s=%.*s", comma, table[i].name, (int)strcspn(choice, "|"),
                        choice));
        else
            TRY(buf_fmt(out, "%s%s=%.17g", comma, table[i].name, p[i]));
    }
    return buf_u8(out, 0);
}

static om_status task_from_config(server *s, const char **kind, om_err *err)
{
    const config *k = &s->cfg;
    json_out o = json_to(&s->task_text);
    json_open_object(&o, NULL);
    if (k->model.kind == CONFIG_QUADRATIC) {
        *kind = "quadratic";
        json_put_u64(&o, "dim", k->model.dim);
        json_put_f64(&o, "heterogeneity", k->model.heterogeneity);
        json_put_f64(&o, "smooth", k->model.condition);
    } else if (k->model.kind == CONFIG_LOGISTIC) {
        *kind = "logistic";
        json_put_u64(&o, "features", k->model.dim);
        json_put_f64(&o, "l2", k->model.l2);
    } else if (k->model.kind == CONFIG_LLM) {
        *kind = "llm";
        TRY(federated_llm_task(k, &o, s->base_sha, err));
    } else {
        return fail(err, OM_EUNSUPPORTED,
                    "server: this kind of model is not trained over the network yet; llm, "
                    "quadratic and logistic are");
    }
    json_shut(&o, '}');
    return o.status;
}

static om_status read_task(server *s, json_doc *spec, om_err *err)
{
    const cli *c = s->c;
    const char *kind = cli_str(c, "kind"), *text = cli_str(c, "task");
    if (kind)
        TRY(buf_str(&s->task_text, text ? str_of(text) : STR("{}")));
    else
        TRY(task_from_config(s, &kind, err));
    TRY(buf_u8(&s->task_text, 0));
    TRY(task_need(str_of(kind), &s->kind, err));
    TRY(json_parse(s->task_text.data, s->task_text.len - 1, 1000, spec, err));
    s->task = (task_env){.spec = spec->root,
                         .n_clients = (uint32_t)s->cfg.clients,
                         .seed = s->cfg.seed,
                         .model = s->cfg.model.path[0] ? s->cfg.model.path : NULL,
                         .k = &c->kernels,
                         .pool = c->pool,
                         .cancel = c->cancel};
    return s->kind->size(&s->task, &s->task.dim, err);
}

static om_status apply_flags(server *s, om_err *err)
{
    static const char *const direct[][2] = {
        {"rounds", "rounds"},  {"clients", "clients"},          {"cohort", "cohort.size"},
        {"min", "cohort.min"}, {"deadline", "cohort.deadline"}, {"seed", "seed"}};
    const cli *c = s->c;
    config_defaults(&s->cfg);
    if (cli_str(c, "config"))
        TRY(config_read(cli_str(c, "config"), &s->cfg, err));
    for (size_t i = 0; i < cli_count(c, "set"); i++) {
        const char *text = cli_nth(c, "set", i), *eq = strchr(text, '=');
        if (!eq)
            return fail(err, OM_EARG, "server: --set %s: write KEY=VALUE", text);
        TRY(config_set(&s->cfg, (str){text, (size_t)(eq - text)}, str_of(eq + 1), err));
    }
    for (size_t i = 0; i < countof(direct); i++)
        if (cli_given(c, direct[i][0]))
            TRY(config_set(&s->cfg, str_of(direct[i][1]), str_of(cli_str(c, direct[i][0])),
                           err));
    return OM_OK;
}

static om_status make_plan(server *s, round_plan *p, om_err *err)
{
    const config *k = &s->cfg;
    uint64_t most = UINT32_MAX,
             size = k->cohort.size < k->clients ? k->cohort.size : k->clients;
    uint64_t start = k->clients, retry;
    if (k->clients > most || k->rounds > most)
        return fail(err, OM_EARG, "server: more than %llu clients or rounds",
                    (unsigned long long)most);
    if (cli_given(s->c, "wait-for"))
        TRY(cli_u64(s->c, "wait-for", 1, most, &start, err));
    TRY(cli_u64(s->c, "retry", 1, 3600000, &retry, err));
    double asked = ceil((double)size * k->cohort.over_selection);
    uint64_t min = k->cohort.min ? k->cohort.min : size;
    *p = (round_plan){.n_clients = (uint32_t)k->clients,
                      .start_devices = (uint32_t)start,
                      .cohort = (uint32_t)size,
                      .over = asked > (double)size ? (uint32_t)(asked - (double)size) : 0,
                      .min_accepted = (uint32_t)(min < size ? min : size),
                      .max_attempts = 100,
                      .n_rounds = (uint32_t)k->rounds,
                      .retry_min_ms = (uint32_t)retry,
                      .retry_max_ms = (uint32_t)(2 * retry),
                      .deadline_ms = (uint64_t)(k->cohort.deadline_seconds * 1000),
                      .seed = k->seed};
    return OM_OK;
}

static om_status read_address(server *s, om_err *err)
{
    const char *text = cli_str(s->c, "listen");
    uint64_t port = s->cfg.server.port;
    snprintf(s->host, sizeof(s->host), "%s", s->cfg.server.address);
    if (text) {
        const char *colon = strrchr(text, ':');
        if (!colon || (size_t)(colon - text) >= sizeof(s->host) ||
            !str_u64(str_of(colon + 1), &port))
            return fail(err, OM_EARG, "server: --listen %s: write ADDRESS:PORT", text);
        memcpy(s->host, text, (size_t)(colon - text));
        s->host[colon - text] = '\0';
    }
    if (port > 65535)
        return fail(err, OM_EARG, "server: there is no port %llu",
                    (unsigned long long)port);
    s->port = (uint16_t)port;
    bool local = str_starts(str_of(s->host), "127.") || strcmp(s->host, "localhost") == 0 ||
                 strcmp(s->host, "::1") == 0;
    if (!local && !cli_str(s->c, "token"))
        return fail(err, OM_EARG,
                    "server: %s can be reached by others: give --token, which "
                    "devices need to register",
                    s->host);
    return OM_OK;
}

/* ---- progress ----------------------------------------------------------------------- */

/* Perplexity of the newest model on the held-out text; NaN when it is not measured. */
static double measure(server *s, uint64_t round)
{
    double ppl = (double)NAN;
    uint64_t every = s->cfg.evaluate_every;
    bool due = round + 1 == s->rounds || (every && (round + 1) % every == 0);
    om_err err = {0};
    if (!s->meter.base || !due)
        return ppl;
    om_status st = coord_model(s->coord, s->x, &err);
    if (st == OM_OK)
        st = federated_perplexity(&s->meter, s->x, &ppl, &err);
    if (st != OM_OK)
        cli_note(s->c, "the round could not be measured: %s", err.msg);
    return ppl;
}

static void on_round(void *ctx, const store_round *r, const round_state *state)
{
    server *s = ctx;
    char up[24], down[24], took[24], quality[48] = "";
    (void)state;
    double ppl = measure(s, r->round);
    if (isfinite(ppl))
        snprintf(quality, sizeof(quality), ", perplexity %.4g", ppl);
    if (s->c->json) {
        json_out o = json_to(&s->c->out);
        json_open_object(&o, NULL);
        json_put_u64(&o, "round", r->round);
        json_put_u64(&o, "updates", r->accepted);
        json_put_u64(&o, "attempts", r->attempts);
        json_put_f64(&o, "loss", r->loss);
        if (s->meter.base)
            json_put_f64(&o, "perplexity", ppl);
        json_put_u64(&o, "bytes_up", r->bytes_up);
        json_put_u64(&o, "bytes_down", r->bytes_down);
        json_put_u64(&o, "ms", r->closed_ms - r->opened_ms);
        json_shut(&o, '}');
        cli_write(s->c, STR("\n"));
        cli_flush(s->c);
    }
    cli_note(s->c, "round %u/%llu: %u updates, loss %.6g%s, %s up, %s down, %s",
             (unsigned)r->round + 1, (unsigned long long)s->rounds, (unsigned)r->accepted,
             r->loss, quality, cli_bytes(up, r->bytes_up), cli_bytes(down, r->bytes_down),
             cli_duration(took, (double)(r->closed_ms - r->opened_ms) / 1000));
}

static void on_log(void *ctx, log_level level, const char *msg)
{
    (void)level;
    cli_note(ctx, "%s", msg);
}

static om_status start_model(void *ctx, float *x0, om_err *err)
{
    server *s = ctx;
    return s->kind->start(&s->task, x0, err);
}

/* ---- the command -------------------------------------------------------------------- */

static om_status write_model(server *s, coord *k, om_err *err)
{
    const char *path = cli_str(s->c, "out");
    if (!path)
        return OM_OK;
    size_t n = s->task.dim * sizeof(float);
    float *x = mem_alloc(n);
    if (!x)
        return fail(err, OM_ENOMEM, "server: no memory for the model");
    om_status st = coord_model(k, x, err);
    if (st == OM_OK)
        st = s->cfg.model.kind == CONFIG_LLM && strcmp(s->kind->name, "llm") == 0
                 ? federated_llm_save(s->c, &s->cfg, x, path, err)
                 : os_write_file_atomic(path, x, n, err);
    mem_free(x);
    return st;
}

static om_status serve(server *s, coord *k, om_err *err)
{
    uint16_t port;
    uint64_t linger;
    TRY(cli_u64(s->c, "linger", 0, 3600000, &linger, err));
    TRY(coord_listen(k, s->host, s->port, &port, err));
    if (s->c->json)
        cli_print(s->c, "{\"listening\":\"http://%s:%u\"}\n", s->host, (unsigned)port);
    else
        cli_print(s->c, "listening on http://%s:%u\n", s->host, (unsigned)port);
    cli_flush(s->c);
    TRY(coord_run(k, linger, err));
    TRY(write_model(s, k, err));
    if (s->c->json) {
        TRY(coord_status(k, &s->c->out, err));
        cli_write(s->c, STR("\n"));
    } else {
        cli_print(s->c, "finished: %llu rounds\n", (unsigned long long)s->rounds);
    }
    return OM_OK;
}

static bool hash_known(const server *s)
{
    static const uint8_t none[32] = {0};
    return memcmp(s->base_sha, none, 32) != 0;
}

static om_status set_up(server *s, json_doc *spec, coord_config *k, om_err *err)
{
    cli *c = s->c;
    TRY(apply_flags(s, err));
    TRY(read_task(s, spec, err));
    TRY(read_address(s, err));
    TRY(config_recipe(&s->cfg, &s->cfg.recipe, err));
    const fl_recipe *r = &s->cfg.recipe;
    TRY(params_text(r->algo->params, r->p, &s->algo_params));
    TRY(params_text(r->up->params, r->up_p, &s->codec_params));
    TRY(params_text(r->robust.row->params, r->robust.p, &s->aggregator_params));
    s->rounds = s->cfg.rounds;
    privacy_rule privacy = r->privacy;
    if (privacy.on)
        TRY(privacy_settle(&privacy, (uint32_t)s->cfg.cohort.size,
                           (uint32_t)s->cfg.clients, (uint32_t)s->rounds, err));
    *k = (coord_config){.dir = cli_str(c, "dir") ? cli_str(c, "dir") : s->cfg.server.dir,
                        .run = cli_str(c, "run"),
                        .bootstrap = cli_str(c, "token"),
                        .algorithm = r->algo->name,
                        .algorithm_params = (const char *)s->algo_params.data,
                        .codec = r->up->name,
                        .codec_params = (const char *)s->codec_params.data,
                        .privacy = privacy,
                        .aggregator = r->robust.row->name,
                        .aggregator_params = (const char *)s->aggregator_params.data,
                        .kind = s->kind->name,
                        .task = (const char *)s->task_text.data,
                        .base_path = hash_known(s) ? s->cfg.model.path : NULL,
                        .dim = s->task.dim,
                        .start = start_model,
                        .start_ctx = s,
                        .max_update_norm = s->cfg.cohort.max_update_norm,
                        .keep_versions = 3,
                        .k = &c->kernels,
                        .log = {on_log, c, LOG_INFO},
                        .on_round = on_round,
                        .on_round_ctx = s,
                        .cancel = c->cancel};
    memcpy(k->base_sha, s->base_sha, 32);
    TRY(federated_meter_open(c, &s->cfg, &s->meter, err));
    s->x = mem_array(s->task.dim, sizeof(float));
    if (!s->x)
        return fail(err, OM_ENOMEM, "server: no memory for the model");
    return make_plan(s, &k->plan, err);
}

static om_status run(cli *c, om_err *err)
{
    const char *names[1024];
    server s = {.c = c,
                .algo_params = buf_growing(WIRE_PARAMS),
                .aggregator_params = buf_growing(WIRE_PARAMS),
                .codec_params = buf_growing(WIRE_PARAMS),
                .task_text = buf_growing(WIRE_PARAMS)};
    json_doc spec = {0};
    coord_config k;
    coord *co = NULL;
    om_status st = set_up(&s, &spec, &k, err);
    size_t n = cli_count(c, "device");
    if (st == OM_OK && n > countof(names))
        st = fail(err, OM_ELIMIT, "server: at most %zu devices by name", countof(names));
    for (size_t i = 0; i < n && st == OM_OK; i++)
        names[i] = cli_nth(c, "device", i);
    k.names = names;
    k.n_names = n;
    if (st == OM_OK)
        st = coord_open(&k, &co, err);
    s.coord = co;
    if (st == OM_OK)
        st = serve(&s, co, err);
    coord_close(co);
    json_close(&spec);
    buf_free(&s.algo_params);
    buf_free(&s.aggregator_params);
    buf_free(&s.codec_params);
    buf_free(&s.task_text);
    federated_meter_close(&s.meter);
    mem_free(s.x);
    return st;
}

static const cli_option options[] = {
    {"config", 'c', "FILE", NULL, "configuration (octomil init writes one)", false},
    {"set", 's', "KEY=VALUE", NULL, "one value over the configuration", true},
    {"dir", 'd', "FOLDER", NULL, "where everything durable lives", false},
    {"listen", 'l', "ADDRESS:PORT", NULL, "port 0 takes a free one", false},
    {"run", 0, "NAME", "run", "name of the run; a known one goes on", false},
    {"token", 't', "TOKEN", NULL, "what a device needs to register", false},
    {"device", 0, "NAME", NULL, "only these devices, in client order", true},
    {"kind", 0, "KIND", NULL, "task kind, instead of the configuration's model", false},
    {"task", 0, "JSON", NULL, "the task, for --kind", false},
    {"rounds", 'r', "N", NULL, "rounds", false},
    {"clients", 'n', "N", NULL, "devices of the run", false},
    {"cohort", 0, "N", NULL, "updates that close a round", false},
    {"min", 0, "N", NULL, "fewest that close it at the deadline", false},
    {"deadline", 0, "SECONDS", NULL, "of a round's attempt", false},
    {"seed", 0, "N", NULL, "of everything random", false},
    {"wait-for", 0, "N", NULL, "devices that start the first round (default: all)", false},
    {"retry", 0, "MS", "500", "idle devices come back after this to twice this", false},
    {"linger", 0, "MS", "2000", "how long the end is told to devices", false},
    {"out", 'o', "PATH", NULL, "the final model: an adapter folder, or raw f32 numbers", false},
    {NULL, 0, NULL, NULL, NULL, false},
};

const command command_server = {
    .name = "server",
    .summary = "coordinate a federated run",
    .operands = "",
    .options = options,
    .details =
        "Waits for devices (octomil agent), hands them rounds, folds their updates into "
        "the\nmodel.  It may be killed at any moment: started again with the same "
        "folder it goes on\nwhere it was, and the final model is the same.\n\n"
        "  octomil server --config keyboard.yaml --dir run1 --listen 127.0.0.1:8000\n",
    .run = run,
};
