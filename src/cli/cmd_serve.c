/* cmd_serve.c - `octomil serve`: models over HTTP, in the shapes OpenAI's clients speak. */
#include "adapt/adapt.h"
#include "cli/cli.h"
#include "serve/serve.h"

#include <stdio.h>

enum { MODELS = 16, ADAPTERS = 32, NAME = 128 };

typedef struct {
    llm_model *model, *view; /* view: with the adapter, of an adapter's lane */
    trainable adapter;
    bool has_adapter;
    char name[NAME];
} served;

typedef struct {
    cli *c;
    served item[MODELS + ADAPTERS]; /* models first */
    uint32_t n_models, n;
    engine *engine;
    server *server;
    char host[128];
    uint16_t port;
    serve_config config;
} shop;

/* ---- what is served ------------------------------------------------------------------------ */

/* "NAME=PATH", or a path whose last part without its ending is the name. */
static om_status split_name(const char *arg, char *name, const char **path, om_err *err)
{
    const char *eq = strchr(arg, '='), *slash = strrchr(arg, '/');
    str s = eq ? (str){arg, (size_t)(eq - arg)} : str_of(slash && slash[1] ? slash + 1 : arg);
    if (!eq && str_ends(s, ".gguf"))
        s.n -= 5;
    else if (!eq && str_ends(s, ".bin"))
        s.n -= 4;
    if (s.n == 0 || s.n >= NAME)
        return fail(err, OM_EARG, "serve: '%s': write NAME=PATH with a name of at most %d bytes",
                    arg, NAME - 1);
    memcpy(name, s.p, s.n);
    name[s.n] = '\0';
    *path = eq ? eq + 1 : arg;
    return OM_OK;
}

static om_status check_name(const shop *s, const char *name, om_err *err)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (strcmp(s->item[i].name, name) == 0)
            return fail(err, OM_EARG, "serve: two models are called '%s'; write NAME=PATH", name);
    return OM_OK;
}

static om_status open_model(shop *s, const char *arg, om_err *err)
{
    served *m = &s->item[s->n];
    const char *path;
    char name[NAME];
    if (s->n == MODELS)
        return fail(err, OM_ELIMIT, "serve: at most %d models", MODELS);
    TRY(split_name(arg, name, &path, err));
    TRY(check_name(s, name, err));
    memcpy(m->name, name, NAME);
    s->n++;
    TRY(llm_open_with(path, cli_str(s->c, "tokenizer"), &m->model, err));
    m->view = m->model;
    return engine_add_lane(s->engine, m->view, m->name, err);
}

/* Adapters hang on the first model: a second view of its weights each. */
static om_status open_adapter(shop *s, const char *arg, om_err *err)
{
    served *m = &s->item[s->n];
    const char *path;
    char name[NAME];
    if (s->n - s->n_models == ADAPTERS)
        return fail(err, OM_ELIMIT, "serve: at most %d adapters", ADAPTERS);
    TRY(split_name(arg, name, &path, err));
    TRY(check_name(s, name, err));
    memcpy(m->name, name, NAME);
    s->n++;
    TRY(llm_fork(s->item[0].model, &m->view, err));
    TRY(adapter_load(m->view, path, &m->adapter, err));
    m->has_adapter = true;
    return engine_add_lane(s->engine, m->view, m->name, err);
}

static void close_all(shop *s)
{
    serve_close(s->server, 0);
    engine_close(s->engine);
    for (uint32_t i = s->n; i-- > 0;) {
        served *m = &s->item[i];
        if (m->has_adapter)
            trainable_close(&m->adapter);
        if (m->view != m->model)
            llm_fork_close(m->view);
        llm_close(m->model);
    }
}

/* ---- options ------------------------------------------------------------------------------- */

static om_status read_address(shop *s, om_err *err)
{
    const char *text = cli_str(s->c, "listen"), *colon = strrchr(text, ':');
    uint64_t port = 0;
    size_t n = colon ? (size_t)(colon - text) : 0;
    if (!colon || n >= sizeof(s->host) || !str_u64(str_of(colon + 1), &port) || port > 65535)
        return fail(err, OM_EARG, "serve: --listen %s: write ADDRESS:PORT", text);
    memcpy(s->host, text, n);
    s->port = (uint16_t)port;
    bool local = str_starts(str_of(s->host), "127.") || strcmp(s->host, "localhost") == 0 ||
                 strcmp(s->host, "::1") == 0;
    return local || cli_count(s->c, "api-key")
               ? OM_OK
               : fail(err, OM_EARG, "serve: %s can be reached by others: give --api-key", s->host);
}

static om_status read_keys(shop *s, om_err *err)
{
    size_t n = cli_count(s->c, "api-key");
    if (n > SERVE_KEYS)
        return fail(err, OM_ELIMIT, "serve: at most %d keys", SERVE_KEYS);
    for (size_t i = 0; i < n; i++)
        s->config.key[s->config.n_keys++] = cli_nth(s->c, "api-key", i);
    return OM_OK;
}

static om_status open_engine(shop *s, om_err *err)
{
    cli *c = s->c;
    uint64_t slots, queue, context, cache, lanes = (uint64_t)c->n_operands +
                                                   cli_count(c, "adapter");
    TRY(cli_u64(c, "slots", 1, 256, &slots, err));
    TRY(cli_u64(c, "queue", 0, 1 << 20, &queue, err));
    TRY(cli_u64(c, "context", 0, 1 << 24, &context, err));
    TRY(cli_u64(c, "cache-mb", 0, 1 << 30, &cache, err));
    uint64_t bytes = cache ? cache << 20 : os_available_bytes() / 2;
    engine_config k = {.k = &c->kernels, .pool = c->pool, .slots = (uint32_t)slots,
                       .queue = (uint32_t)queue, .context = (uint32_t)context,
                       .kv_bytes = bytes / lanes};
    return engine_open(&k, &s->engine, err);
}

static om_status set_up(shop *s, om_err *err)
{
    cli *c = s->c;
    uint64_t timeout;
    const char *chat = cli_str(c, "chat-template");
    TRY(read_address(s, err));
    TRY(read_keys(s, err));
    TRY(cli_u64(c, "timeout", 0, 1 << 24, &timeout, err));
    TRY(open_engine(s, err));
    for (int i = 0; i < c->n_operands; i++)
        TRY(open_model(s, c->operand[i], err));
    s->n_models = s->n;
    for (size_t i = 0; i < cli_count(c, "adapter"); i++)
        TRY(open_adapter(s, cli_nth(c, "adapter", i), err));
    s->config.chat = chat ? chat_template_find(str_of(chat)) : NULL;
    if (chat && !s->config.chat)
        return fail(err, OM_EARG, "serve: no chat template is called '%s'; chatml, llama3, "
                    "mistral and vicuna are common", chat);
    s->config.host = s->host;
    s->config.port = s->port;
    s->config.engine = s->engine;
    s->config.timeout_s = (uint32_t)timeout;
    return serve_open(&s->config, &s->server, err);
}

static void announce(shop *s)
{
    unsigned port = serve_port(s->server);
    if (s->c->json)
        cli_print(s->c, "{\"listening\":\"http://%s:%u\"}\n", s->host, port);
    else
        cli_print(s->c, "listening on http://%s:%u\n", s->host, port);
    cli_flush(s->c);
    for (uint32_t i = 0; i < s->n; i++)
        cli_note(s->c, "serving %s%s, context %u", s->item[i].name,
                 i < s->n_models ? "" : " (adapter)", engine_lane_context(s->engine, i));
}

static om_status run(cli *c, om_err *err)
{
    shop *s = mem_alloc(sizeof(*s));
    if (!s)
        return fail(err, OM_ENOMEM, "serve: no memory");
    s->c = c;
    om_status st = set_up(s, err);
    if (st == OM_OK) {
        announce(s);
        while (!is_cancelled(c->cancel))
            os_sleep_ms(50);
        cli_note(c, "shutting down: requests that run have 5 seconds");
        serve_close(s->server, 5000);
        s->server = NULL;
    }
    close_all(s);
    mem_free(s);
    return st;
}

static const cli_option options[] = {
    {"listen", 'l', "ADDRESS:PORT", "127.0.0.1:8080", "port 0 takes a free one", false},
    {"api-key", 'k', "KEY", NULL, "clients must give one of these keys", true},
    {"adapter", 'a', "NAME=PATH", NULL, "a LoRA adapter of the first model, asked for by its name",
     true},
    {"context", 'c', "N", "0", "tokens of one conversation; 0: the model's, at most 8192", false},
    {"slots", 0, "N", "8", "conversations computed at once", false},
    {"queue", 0, "N", "256", "requests that may wait", false},
    {"timeout", 0, "SECONDS", "600", "longest time of one request; 0: none", false},
    {"cache-mb", 0, "N", "0", "memory for conversations; 0: half of what is free", false},
    {"chat-template", 0, "NAME", NULL, "for models that bring none: chatml, llama3, vicuna, ...",
     false},
    {"tokenizer", 0, "FILE", NULL, "tokenizer of a model that has none", false},
    {0},
};

const command command_serve = {
    .name = "serve", .summary = "serve models over HTTP to OpenAI clients and a chat page",
    .operands = "MODEL...", .min_operands = 1, .max_operands = 16, .options = options,
    .run = run,
    .details =
        "Answers /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models, /health\n"
        "and /metrics, and shows a chat page at /.  Requests are computed together, and a\n"
        "prompt that begins like an earlier one is not read again.  MODEL may be NAME=PATH.\n"
        "Ctrl-C lets requests that run end.\n\n"
        "  octomil serve model.gguf\n"
        "  octomil serve small.gguf big.gguf --listen 0.0.0.0:8080 --api-key KEY\n",
};
