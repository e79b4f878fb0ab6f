/* cmd_demo.c - a coordinator and a handful of devices, each a process of its own, improve
 * a small language model together on this machine.
 *
 * Every device gets one text file; its last tenth is held out and never trained on.  The
 * command starts `octomil server` and the agents, shows the rounds as they close, then
 * measures every device before and after, completes one prompt twice, and writes a page. */
#include "cli/cli.h"
#include "cli/config.h"
#include "cli/demo_page.h"
#include "cli/text_data.h"
#include "llm/perplexity.h"
#include "octomil/run.h"
#include "octomil/train.h"

#include <math.h>
#include <stdio.h>

enum { PATH = 2048 };

typedef struct {
    cli *c;
    const char *model, *data, *out;
    char exe[PATH], url[128];
    char source[DEMO_DEVICES][PATH]; /* what the user gave */
    uint64_t rounds, devices;
    os_child server, agent[DEMO_DEVICES];
    demo_results r;
} demo;

static om_status path_in(const demo *d, char out[PATH], const char *name, om_err *err)
{
    return os_join(out, PATH, d->out, name) == OM_OK
               ? OM_OK
               : fail(err, OM_EARG, "the folder '%.80s' has too long a name", d->out);
}

static om_status device_path(const demo *d, char out[PATH], uint32_t i, const char *suffix,
                             om_err *err)
{
    char name[64]; /* two digits: their order by name is their order by number */
    snprintf(name, sizeof(name), "devices/%02u%s", (unsigned)i, suffix);
    return path_in(d, out, name, err);
}

static om_status text_path(const demo *d, char out[PATH], uint32_t i, const char *folder,
                           om_err *err)
{
    char name[64];
    snprintf(name, sizeof(name), "%s/%02u.txt", folder, (unsigned)i);
    return path_in(d, out, name, err);
}

/* ---- the devices' texts -------------------------------------------------------------- */

static om_status add_source(void *ctx, const char *name, om_err *err)
{
    demo *d = ctx;
    (void)err;
    bool text = str_ends(str_of(name), ".txt") && !str_ends(str_of(name), ".heldout.txt");
    if (!text || d->r.devices >= d->devices)
        return OM_OK;
    uint32_t i = d->r.devices++;
    snprintf(d->source[i], PATH, "%.1500s/%.255s", d->data, name);
    snprintf(d->r.name[i], sizeof(d->r.name[i]), "%.*s", (int)size_min(strlen(name) - 4, 60),
             name);
    return OM_OK;
}

/* The last tenth, from the start of a line. */
static size_t held_out_from(const buf *text)
{
    size_t at = text->len - text->len / 10;
    while (at < text->len && text->data[at - 1] != '\n')
        at++;
    return at < text->len ? at : text->len - text->len / 10;
}

static om_status split_text(demo *d, uint32_t i, buf *all_held_out, om_err *err)
{
    buf text;
    char path[PATH];
    TRY(os_read_file(d->source[i], 1u << 28, &text, err));
    if (text.len < 1000) {
        buf_free(&text);
        return fail(err, OM_EARG, "'%s' has under 1,000 bytes: too little to learn from",
                    d->source[i]);
    }
    size_t at = held_out_from(&text);
    om_status s = text_path(d, path, i, "texts", err);
    if (s == OM_OK)
        s = os_write_file_atomic(path, text.data, at, err);
    if (s == OM_OK)
        s = text_path(d, path, i, "heldout", err);
    if (s == OM_OK)
        s = os_write_file_atomic(path, text.data + at, text.len - at, err);
    if (s == OM_OK && buf_put(all_held_out, text.data + at, text.len - at) != OM_OK)
        s = fail(err, OM_ENOMEM, "no memory for the held-out texts");
    buf_free(&text);
    return s;
}

static om_status split_texts(demo *d, om_err *err)
{
    char path[PATH];
    buf held_out = buf_growing(1u << 30);
    TRY(os_list_dir(d->data, add_source, d, err));
    if (d->r.devices < 2)
        return fail(err, OM_EARG, "'%s' needs at least two files *.txt, one a device", d->data);
    om_status s = OM_OK;
    for (uint32_t i = 0; i < d->r.devices && s == OM_OK; i++)
        s = split_text(d, i, &held_out, err);
    if (s == OM_OK)
        s = path_in(d, path, "heldout.txt", err);
    if (s == OM_OK)
        s = os_write_file_atomic(path, held_out.data, held_out.len, err);
    buf_free(&held_out);
    return s;
}

/* ---- measuring ----------------------------------------------------------------------- */

static om_status perplexity_of(const demo *d, om_model *m, const char *path, double *out,
                               om_err *err)
{
    token_text t;
    perplexity_report r;
    TRY(token_text_read(m, path, &t, err));
    om_status s = llm_perplexity(m, &d->c->kernels, d->c->pool, t.ids, t.n, 64, 32,
                                 d->c->cancel, NULL, NULL, &r, err);
    token_text_free(&t);
    *out = s == OM_OK ? r.perplexity : (double)NAN;
    return s;
}

typedef struct {
    char *text;
    size_t n;
} sink;

static bool keep_text(void *ctx, const char *text, size_t n)
{
    sink *s = ctx;
    n = size_min(n, DEMO_TEXT - 1 - s->n);
    memcpy(s->text + s->n, text, n);
    s->n += n;
    s->text[s->n] = '\0';
    return !memchr(text, '\n', n) && s->n < DEMO_TEXT - 1;
}

static om_status complete(demo *d, om_model *m, char text[DEMO_TEXT], om_err *err)
{
    om_session *session;
    om_session_opts so = {.context = 256, .threads = (uint32_t)pool_threads(d->c->pool)};
    om_generate_opts how = {.greedy = true, .max_tokens = 60};
    sink s = {text, 0};
    TRY(om_session_open(m, &so, &session, err));
    om_status st = om_generate(session, d->r.prompt, &how, keep_text, &s, NULL, err);
    om_session_close(session);
    while (s.n && text[s.n - 1] == '\n')
        text[--s.n] = '\0';
    return st;
}

/* Perplexities and the completion, with the adapter in `adapter`, or without. */
static om_status measure(demo *d, const char *adapter, double *each, double *all,
                         char text[DEMO_TEXT], om_err *err)
{
    om_model *m;
    om_adapter *a = NULL;
    char path[PATH];
    TRY(om_model_open(d->model, NULL, &m, err));
    om_status s = adapter ? om_adapter_open(m, adapter, &a, err) : OM_OK;
    for (uint32_t i = 0; i < d->r.devices && s == OM_OK; i++) {
        s = text_path(d, path, i, "heldout", err);
        if (s == OM_OK)
            s = perplexity_of(d, m, path, &each[i], err);
    }
    if (s == OM_OK)
        s = path_in(d, path, "heldout.txt", err);
    if (s == OM_OK)
        s = perplexity_of(d, m, path, all, err);
    if (s == OM_OK)
        s = complete(d, m, text, err);
    om_adapter_close(a);
    om_model_close(m);
    return s;
}

/* ---- the processes ------------------------------------------------------------------- */

static om_status write_config(demo *d, char path[PATH], om_err *err)
{
    static const char *const passed[][2] = {
        {"rank", "model.lora.rank"},   {"algorithm", "algorithm.name"},
        {"codec", "codec.name"},       {"local-steps", "algorithm.local_steps"},
        {"lr", "algorithm.lr"},        {"batch", "algorithm.batch"},
        {"seed", "seed"},              {"rounds", "rounds"},
    };
    config k;
    char count[24], model[PATH];
    buf text = buf_growing(1 << 20);
    config_defaults(&k);
    TRY(os_absolute(d->model, model, sizeof(model), err));
    snprintf(count, sizeof(count), "%u", (unsigned)d->r.devices);
    for (size_t i = 0; i < countof(passed); i++)
        TRY(config_set(&k, str_of(passed[i][1]), str_of(cli_str(d->c, passed[i][0])), err));
    TRY(config_set(&k, STR("algorithm.local_optimizer"), STR("adamw"), err));
    TRY(config_set(&k, STR("model.lora.target_modules"), STR("all"), err));
    TRY(config_set(&k, STR("clients"), str_of(count), err));
    TRY(config_set(&k, STR("cohort.size"), str_of(count), err));
    TRY(config_set(&k, STR("model.path"), str_of(model), err));
    TRY(path_in(d, path, "heldout.txt", err));
    TRY(config_set(&k, STR("data.path"), STR("texts"), err));
    TRY(config_set(&k, STR("data.test_path"), STR("heldout.txt"), err));
    TRY(path_in(d, path, "run.yaml", err));
    om_status s = config_print(&k, &text);
    s = s == OM_OK ? os_write_file_atomic(path, text.data, text.len, err)
                   : fail(err, s, "the configuration cannot be written");
    buf_free(&text);
    return s;
}

static om_status start_server(demo *d, om_err *err)
{
    char config_path[PATH], dir[PATH], adapter[PATH], log[PATH], line[4096];
    json_doc doc;
    TRY(write_config(d, config_path, err));
    TRY(path_in(d, dir, "server", err));
    TRY(path_in(d, adapter, "adapter", err));
    TRY(path_in(d, log, "server.log", err));
    const char *argv[32 + 2 * DEMO_DEVICES] = {
        d->exe,  "server", "--config", config_path, "--dir",    dir,    "--listen",
        "127.0.0.1:0", "--out", adapter, "--retry", "50", "--linger", "1000", "--json",
        "--quiet"};
    size_t n = 16;
    for (uint32_t i = 0; i < d->r.devices; i++) { /* in order: client i has text i */
        argv[n++] = "--device";
        argv[n++] = d->r.name[i];
    }
    TRY(os_spawn(argv, log, &d->server, err));
    if (os_child_line(&d->server, line, sizeof(line), 20000, err) != OM_OK)
        return fail(err, OM_EIO, "the coordinator did not start; '%s' says why", log);
    TRY(json_parse(line, strlen(line), 100, &doc, err));
    str url = json_str(json_get(doc.root, "listening"), "");
    snprintf(d->url, sizeof(d->url), "%.*s", (int)url.n, url.p);
    json_close(&doc);
    return OM_OK;
}

static om_status start_agents(demo *d, om_err *err)
{
    for (uint32_t i = 0; i < d->r.devices; i++) {
        char data[PATH], dir[PATH], log[PATH];
        TRY(text_path(d, data, i, "texts", err));
        TRY(device_path(d, dir, i, ".cache", err));
        TRY(device_path(d, log, i, ".log", err));
        const char *argv[] = {d->exe, "agent", "--server", d->url, "--name", d->r.name[i],
                              "--data", data, "--dir", dir, "--threads", "1", "--quiet", NULL};
        TRY(os_spawn(argv, log, &d->agent[i], err));
    }
    return OM_OK;
}

/* ---- the rounds ------------------------------------------------------------------------ */

static void show_round(demo *d, const json *j)
{
    demo_results *r = &d->r;
    char up[24], down[24];
    uint32_t i = r->rounds;
    if (i >= DEMO_ROUNDS)
        return;
    r->rounds++;
    r->round[i] = (double)(i + 1);
    r->loss[i] = json_f64(json_get(j, "loss"), (double)NAN);
    r->perplexity[i] = json_f64(json_get(j, "perplexity"), (double)NAN);
    r->bytes_up[i] = json_u64(json_get(j, "bytes_up"), 0);
    r->bytes_down[i] = json_u64(json_get(j, "bytes_down"), 0);
    double full = 2.0 * (double)r->model_bytes * r->devices;
    double sent = (double)r->bytes_up[i] + (double)r->bytes_down[i] + 1;
    if (d->c->json)
        return;
    cli_print(d->c, "%5u/%-3llu %8llu %8.4f %11.3f %10s %10s %7.0fx\n", (unsigned)i + 1,
              (unsigned long long)d->rounds,
              (unsigned long long)json_u64(json_get(j, "updates"), 0), r->loss[i],
              r->perplexity[i], cli_bytes(up, r->bytes_up[i]),
              cli_bytes(down, r->bytes_down[i]), full / sent);
    cli_flush(d->c);
}

static om_status watch(demo *d, om_err *err)
{
    char line[8192];
    int status = -1;
    while (d->r.rounds < d->rounds) {
        if (is_cancelled(d->c->cancel))
            return OM_ECANCEL;
        om_status s = os_child_line(&d->server, line, sizeof(line), 200, err);
        if (s == OM_EAGAIN)
            continue;
        if (s != OM_OK)
            return fail(err, OM_EIO, "the coordinator stopped; %s/server.log says why", d->out);
        json_doc doc;
        TRY(json_parse(line, strlen(line), 10000, &doc, err));
        if (json_get(doc.root, "updates"))
            show_round(d, doc.root);
        json_close(&doc);
    }
    for (int i = 0; i < 600 && !os_child_ended(&d->server, &status); i++)
        if (os_child_line(&d->server, line, sizeof(line), 50, err) == OM_ENOTFOUND)
            os_sleep_ms(50); /* it has said its closing words and is about to end */
    return status == 0 ? OM_OK
                       : fail(err, OM_EIO, "the coordinator failed at the end; %s/server.log "
                                           "says why", d->out);
}

static void stop_all(demo *d)
{
    for (uint32_t i = 0; i < d->r.devices; i++)
        os_child_close(&d->agent[i], 3000);
    os_child_close(&d->server, 3000);
}

static om_status federate(demo *d, om_err *err)
{
    uint64_t start = os_now_ns();
    om_status s = start_server(d, err);
    if (s == OM_OK)
        s = start_agents(d, err);
    if (s == OM_OK && !d->c->json)
        cli_print(d->c, "\n%9s %8s %8s %11s %10s %10s %8s\n", "round", "devices", "loss",
                  "perplexity", "up", "down", "saved");
    cli_flush(d->c);
    if (s == OM_OK)
        s = watch(d, err);
    stop_all(d);
    d->r.seconds = (double)(os_now_ns() - start) * 1e-9;
    return s;
}

/* ---- results ------------------------------------------------------------------------- */

static void print_results(demo *d)
{
    demo_results *r = &d->r;
    cli *c = d->c;
    cli_print(c, "\n%-20s %18s %10s\n", "perplexity of", "before", "after");
    for (uint32_t i = 0; i < r->devices; i++)
        cli_print(c, "%-20s %18.2f %10.2f\n", r->name[i], r->before[i], r->after[i]);
    cli_print(c, "%-20s %18.2f %10.2f\n", "all", r->all_before, r->all_after);
    cli_print(c, "\nbefore: %s|%s\nafter:  %s|%s\n", r->prompt, r->text_before, r->prompt,
              r->text_after);
    cli_print(c, "\n%u rounds with %u devices in %.0f seconds; the curves are in "
                 "%s/index.html\n", r->rounds, r->devices, r->seconds, d->out);
}

static uint64_t sum(const uint64_t *x, uint32_t n)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < n; i++)
        total += x[i];
    return total;
}

static void print_json(demo *d)
{
    demo_results *r = &d->r;
    json_out o = json_to(&d->c->out);
    json_open_object(&o, NULL);
    json_put_u64(&o, "devices", r->devices);
    json_put_u64(&o, "rounds", r->rounds);
    json_put_f64(&o, "seconds", r->seconds);
    json_put_f64(&o, "perplexity_before", r->all_before);
    json_put_f64(&o, "perplexity_after", r->all_after);
    json_put_u64(&o, "bytes_up", sum(r->bytes_up, r->rounds));
    json_put_u64(&o, "bytes_down", sum(r->bytes_down, r->rounds));
    json_open_array(&o, "device");
    for (uint32_t i = 0; i < r->devices; i++) {
        json_open_object(&o, NULL);
        json_put_str(&o, "name", str_of(r->name[i]));
        json_put_f64(&o, "before", r->before[i]);
        json_put_f64(&o, "after", r->after[i]);
        json_shut(&o, '}');
    }
    json_shut(&o, ']');
    json_put_str(&o, "text_before", str_of(r->text_before));
    json_put_str(&o, "text_after", str_of(r->text_after));
    json_shut(&o, '}');
    cli_print(d->c, "\n");
}

static om_status write_page(demo *d, om_err *err)
{
    char path[PATH];
    buf page = buf_growing(1 << 24);
    om_status s = demo_page(&d->r, &page);
    if (s == OM_OK)
        s = path_in(d, path, "index.html", err);
    if (s == OM_OK)
        s = os_write_file_atomic(path, page.data, page.len, err);
    buf_free(&page);
    return s;
}

/* ---- the command --------------------------------------------------------------------- */

static om_status prepare(demo *d, om_err *err)
{
    cli *c = d->c;
    char server[PATH];
    const char *prompt = cli_str(c, "prompt");
    TRY(cli_u64(c, "devices", 2, DEMO_DEVICES, &d->devices, err));
    TRY(cli_u64(c, "rounds", 1, DEMO_ROUNDS, &d->rounds, err));
    if (!d->model || !d->data)
        return fail(err, OM_EARG, "the demo needs --model FILE and --data FOLDER with one text "
                                  "file a device; 'make demo' brings its own");
    TRY(os_exe_path(d->exe, sizeof(d->exe), err));
    TRY(os_mkdirs(d->out, err));
    TRY(path_in(d, server, "server", err));
    if (os_exists(server))
        return fail(err, OM_EEXIST, "'%s' holds an earlier demo; give --out another folder or "
                                    "remove it", d->out);
    TRY(os_file_size(d->model, &d->r.model_bytes, err));
    static const char *const folders[] = {"texts", "heldout", "devices"};
    for (size_t i = 0; i < countof(folders); i++) {
        TRY(path_in(d, server, folders[i], err));
        TRY(os_mkdirs(server, err));
    }
    TRY(split_texts(d, err));
    d->r.model = d->model;
    snprintf(d->r.prompt, sizeof(d->r.prompt), "%s", prompt);
    return OM_OK;
}

static om_status count_trainable(demo *d, const char *adapter, om_err *err)
{
    char path[PATH];
    uint64_t bytes;
    if (os_join(path, sizeof(path), adapter, "adapter_model.safetensors") != OM_OK)
        return OM_ELIMIT;
    TRY(os_file_size(path, &bytes, err));
    d->r.trainable = bytes / sizeof(float); /* the header is small beside it */
    return OM_OK;
}

static om_status work(demo *d, om_err *err)
{
    char adapter[PATH];
    TRY(prepare(d, err));
    TRY(path_in(d, adapter, "adapter", err));
    cli_note(d->c, "%u devices, each with its own text; measuring the model as it is",
             (unsigned)d->r.devices);
    TRY(measure(d, NULL, d->r.before, &d->r.all_before, d->r.text_before, err));
    TRY(federate(d, err));
    TRY(measure(d, adapter, d->r.after, &d->r.all_after, d->r.text_after, err));
    TRY(count_trainable(d, adapter, err));
    TRY(write_page(d, err));
    if (d->c->json)
        print_json(d);
    else
        print_results(d);
    return OM_OK;
}

static om_status run(cli *c, om_err *err)
{
    demo *d = mem_alloc(sizeof(*d));
    if (!d)
        return fail(err, OM_ENOMEM, "no memory");
    d->c = c;
    d->model = cli_str(c, "model");
    d->data = cli_str(c, "data");
    d->out = cli_str(c, "out");
    d->server = (os_child){.pid = -1, .out = -1};
    for (size_t i = 0; i < DEMO_DEVICES; i++)
        d->agent[i] = (os_child){.pid = -1, .out = -1};
    om_status s = work(d, err);
    mem_free(d);
    return s;
}

static const cli_option options[] = {
    {"model", 'm', "FILE", NULL, "the model to improve", false},
    {"data", 'd', "FOLDER", NULL, "texts, one file *.txt a device", false},
    {"out", 'o', "FOLDER", "octomil-demo", "where everything goes", false},
    {"devices", 'n', "N", "8", "processes, at most one a text", false},
    {"rounds", 'r', "N", "10", "rounds", false},
    {"prompt", 'p', "TEXT", "hello", "completed before and after", false},
    {"algorithm", 0, "NAME", "fedavg", "federated algorithm", false},
    {"codec", 0, "NAME", "qsgd", "how updates are compressed", false},
    {"rank", 0, "N", "4", "LoRA rank", false},
    {"local-steps", 0, "N", "10", "steps of a device in a round", false},
    {"batch", 0, "N", "8", "windows of a step", false},
    {"lr", 0, "X", "0.005", "learning rate of a device", false},
    {"seed", 0, "N", "1", "same seed, same model", false},
    {0},
};

const command command_demo = {
    .name = "demo",
    .summary = "device processes improve a language model together, here and now",
    .operands = "", .options = options, .run = run,
    .details = "'make demo' runs it on the model and the texts that come with octomil.  With\n"
               "your own, one text file a device; then once more in one process, which gives\n"
               "the same bits:\n\n"
               "  octomil demo --model model.gguf --data texts --out my-demo\n"
               "  octomil simulate my-demo/run.yaml --out again\n",
};
