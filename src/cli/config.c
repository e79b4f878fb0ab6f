/* config.c - see config.h.  The only file that includes libyaml.
 *
 * libyaml builds a document of nodes with line numbers; walk() visits its mappings,
 * joining keys with dots, and hands each leaf to set_key(), the same door config_set()
 * uses.  Nesting is bounded by the table, so a cyclic alias cannot run away. */
#include "cli/config.h"
#include "os/os.h"

#include <stdio.h>
#include <yaml.h>

enum { MOST_BYTES = 1 << 20, MOST_DEPTH = 4, MOST_KEYS = 200 };

#define AT(member) offsetof(config, member), sizeof(((config *)0)->member)
#define TEXT(key, member, def, help)                                                       \
    {                                                                                      \
        key, CONFIG_IS_TEXT, AT(member), def, 0, 0, NULL, help                             \
    }
#define PATH(key, member, def, help)                                                       \
    {                                                                                      \
        key, CONFIG_IS_PATH, AT(member), def, 0, 0, NULL, help                             \
    }
#define LIST(key, member, def, help)                                                       \
    {                                                                                      \
        key, CONFIG_IS_LIST, AT(member), def, 0, 0, NULL, help                             \
    }
#define COUNT(key, member, def, lo, hi, help)                                              \
    {                                                                                      \
        key, CONFIG_IS_COUNT, AT(member), def, lo, hi, NULL, help                          \
    }
#define NUMBER(key, member, def, lo, hi, help)                                             \
    {                                                                                      \
        key, CONFIG_IS_NUMBER, AT(member), def, lo, hi, NULL, help                         \
    }
#define CHOICE(key, member, def, choices, help)                                            \
    {                                                                                      \
        key, CONFIG_IS_CHOICE, AT(member), def, 0, 0, choices, help                        \
    }
#define ABSENT(key, exists)                                                                \
    {                                                                                      \
        key, CONFIG_IS_ABSENT, 0, 0, "none", 0, 0, exists, NULL                            \
    }

const config_row config_rows[] = {
    TEXT("project", project, "octomil", "name of the run"),
    COUNT("seed", seed, "1", 0, 9007199254740992.0, "same seed, same result, bit for bit"),
    COUNT("rounds", rounds, "20", 1, 1e9, "rounds of the federation"),
    COUNT("clients", clients, "8", 1, 16777216, "simulate: how many clients there are"),
    CHOICE("async_mode", async_mode, "auto", CONFIG_ASYNC_MODES,
           "simulate: versions instead of rounds; true: fedavg becomes fedbuff; auto: as the "
           "algorithm is"),
    COUNT("buffer_size", buffer_size, "0", 0, 1e9,
          "async_mode: updates that close a version; 0: the algorithm's own"),
    NUMBER("staleness_bound", staleness_bound, "-1", -1, 1e9,
           "async_mode: versions an update may be behind; -1: the algorithm's own"),
    PATH("out", out, "", "folder for results"),
    CHOICE("model.kind", model.kind, "llm", CONFIG_KINDS, "what is trained"),
    PATH("model.path", model.path, "",
         "llm: GGUF file, Hugging Face folder or llama2.c file"),
    CHOICE("model.adaptation", model.adaptation, "lora", CONFIG_ADAPTATIONS,
           "llm: train adapters, every weight, the target modules' own weights (for methods "
           "that merge), or a prompt"),
    COUNT("model.lora.rank", model.lora_rank, "8", 1, 4096, "rank of the adapters"),
    NUMBER("model.lora.alpha", model.lora_alpha, "16", 1e-6, 1e6, "scale is alpha / rank"),
    LIST("model.lora.ranks", model.lora_ranks, "",
         "ranks of the clients in turn, in place of rank: 8,4,2 for three tiers; for fedit, "
         "ffa-lora, hetlora, flexlora, flora, rac-lora"),
    CHOICE("model.lora.rslora", model.rslora, "no", "no|yes",
           "rank-stabilised: scale is alpha / sqrt(rank)"),
    LIST("model.lora.target_modules", model.target_modules, "q_proj,v_proj",
         "layers with adapters: q_proj k_proj v_proj o_proj gate_proj up_proj down_proj, "
         "all"),
    COUNT("model.prompt.tokens", model.prompt_tokens, "16", 1, 4096,
          "prompt: trained tokens before every text"),
    LIST("model.hidden", model.hidden, "200", "mlp: widths of the hidden layers"),
    NUMBER("model.l2", model.l2, "0", 0, 1e6, "logistic, softmax: (l2/2) |x|^2"),
    COUNT("model.dim", model.dim, "100", 1, 1e9, "quadratic: how many numbers"),
    NUMBER("model.heterogeneity", model.heterogeneity, "0.5", 0, 1e3,
           "quadratic: how unlike the clients are"),
    NUMBER("model.condition", model.condition, "100", 1, 1e9,
           "quadratic: largest over least curvature"),
    CHOICE("data.format", data.format, "text", CONFIG_FORMATS, "what the files hold"),
    PATH("data.path", data.path, "", "file, or folder with one text file a client"),
    PATH("data.labels", data.labels, "", "idx: the labels of path"),
    PATH("data.test_path", data.test_path, "", "what is evaluated on"),
    PATH("data.test_labels", data.test_labels, "", "idx: the labels of test_path"),
    COUNT("data.limit", data.limit, "0", 0, 4294967295.0, "samples read; 0: all"),
    COUNT("data.seq_len", data.seq_len, "64", 2, 1048576, "text: tokens of a sequence"),
    COUNT("cohort.size", cohort.size, "8", 1, 16777216, "updates that close a round"),
    COUNT("cohort.min", cohort.min, "1", 1, 16777216,
          "fewest that close it at the deadline"),
    NUMBER("cohort.over_selection", cohort.over_selection, "1", 1, 100,
           "devices asked for each update wanted"),
    NUMBER("cohort.deadline", cohort.deadline_seconds, "600", 0.1, 1e9,
           "seconds a round may take"),
    NUMBER("cohort.dropout", cohort.dropout, "0", 0, 0.999,
           "simulate: part of the asked that never answers"),
    NUMBER("cohort.max_update_norm", cohort.max_update_norm, "0", 0, 1e30,
           "server: refuse updates of a larger L2 norm; 0: any"),
    NUMBER("devices.compute", pace.compute, "0", 0, 1e9,
           "simulate: seconds of a device for the gradient of one sample"),
    CHOICE("devices.speed", pace.speed, "equal", PACE_SPEEDS,
           "simulate: law of the devices' times; ladder: (i + 1)^spread"),
    NUMBER("devices.spread", pace.spread, "1", 0, 20,
           "simulate: lognormal: deviation of the log; power: 1 / shape"),
    CHOICE("devices.jitter", pace.jitter, "none", PACE_JITTERS,
           "simulate: law of each piece of work on top of it"),
    NUMBER("devices.jitter_size", pace.jitter_size, "0.5", 0, 20,
           "simulate: as spread, for jitter"),
    NUMBER("devices.period", pace.period, "0", 0, 1e12,
           "simulate: seconds of a device's day; 0: no days"),
    NUMBER("devices.swing", pace.swing, "0.5", 0, 0.999,
           "simulate: how much faster and slower it is by day and night"),
    NUMBER("network.uplink", pace.uplink, "10", 0, 1e9,
           "simulate: Mbit/s of a device; 0: no time"),
    NUMBER("network.downlink", pace.downlink, "50", 0, 1e9,
           "simulate: Mbit/s of a device; 0: no time"),
    NUMBER("network.latency", pace.latency, "0", 0, 1e6,
           "simulate: seconds of each message on top"),
    NUMBER("network.spread", pace.network_spread, "0", 0, 20,
           "simulate: deviation of the log of a device's rates"),
    TEXT("server.address", server.address, "127.0.0.1", "where the server listens"),
    COUNT("server.port", server.port, "8080", 0, 65535, "its port; 0: any that is free"),
    PATH("server.dir", server.dir, "octomil-server", "its database and blobs"),
    COUNT("evaluate.every", evaluate_every, "1", 0, 1e9, "rounds between; 0: at the end"),
    ABSENT("quantization",
           "none; for a 4-bit or 8-bit base convert the model first "
           "(octomil convert MODEL OUT --type q4_0) and point model.path to it"),
    ABSENT("pruning", "none"),
    ABSENT("distillation", "none"),
    ABSENT("compression", "none; updates are compressed by codec: (identity, topk, randk, "
                          "qsgd)"),
    ABSENT("device_tiers", "none"),
    ABSENT("secure_aggregation", "none"),
    ABSENT("aggregation", "none; what stands in for the mean is aggregator: (mean, median, "
                          "trimmed_mean, krum, geometric_median, ...)"),
    ABSENT("personalization", "none"),
    {NULL, CONFIG_IS_TEXT, 0, 0, NULL, 0, 0, NULL, NULL},
};

/* ---- one key ---- */

static void *field(config *c, const config_row *row) { return (char *)c + row->offset; }

static om_status set_text(const config_row *row, char *out, str v, om_err *err)
{
    if (v.n >= row->bytes)
        return fail(err, OM_ELIMIT, "%s is longer than %zu bytes", row->key,
                    row->bytes - 1);
    if (memchr(v.p, '\0', v.n))
        return fail(err, OM_EARG, "%s holds a zero byte", row->key);
    memset(out, 0, row->bytes);
    if (v.n)
        memcpy(out, v.p, v.n);
    return OM_OK;
}

static om_status set_number(const config_row *row, void *out, str v, om_err *err)
{
    double x;
    uint64_t u = 0;
    bool whole = row->type == CONFIG_IS_COUNT;
    if (whole ? !str_u64(v, &u) : !str_f64(v, &x))
        return fail(err, OM_EARG, "%s is '%.*s', expected a %snumber", row->key,
                    (int)size_min(v.n, 40), v.p, whole ? "whole " : "");
    if (whole)
        x = (double)u;
    if (!(x >= row->min && x <= row->max))
        return fail(err, OM_EARG, "%s is %g; it must lie between %.16g and %.16g", row->key,
                    x, row->min, row->max);
    if (whole)
        *(uint64_t *)out = u;
    else
        *(double *)out = x;
    return OM_OK;
}

static om_status set_choice(const config_row *row, int *out, str v, om_err *err)
{
    int at = 0;
    for (const char *s = row->choices; s; at++) {
        const char *bar = strchr(s, '|');
        if (str_eq((str){s, bar ? (size_t)(bar - s) : strlen(s)}, v)) {
            *out = at;
            return OM_OK;
        }
        s = bar ? bar + 1 : NULL;
    }
    return fail(err, OM_EARG, "%s is '%.*s'; choose one of %s", row->key,
                (int)size_min(v.n, 40), v.p, row->choices);
}

static om_status set_row(config *c, const config_row *row, str v, om_err *err)
{
    switch (row->type) {
    case CONFIG_IS_TEXT:
    case CONFIG_IS_PATH:
    case CONFIG_IS_LIST:
        return set_text(row, field(c, row), v, err);
    case CONFIG_IS_COUNT:
    case CONFIG_IS_NUMBER:
        return set_number(row, field(c, row), v, err);
    case CONFIG_IS_CHOICE:
        return set_choice(row, field(c, row), v, err);
    case CONFIG_IS_ABSENT:
        break;
    }
    if (str_is(v, "none") || str_is(v, "false"))
        return OM_OK;
    return fail(err, OM_EUNSUPPORTED,
                "%s '%.*s' is not available in this version; what "
                "exists: %s",
                row->key, (int)size_min(v.n, 40), v.p, row->choices);
}

/* The sections whose keys are the parameters of a named row. */
static om_status set_named(config *c, str section, str key, str v, bool *known, om_err *err)
{
    bool name = str_is(key, "name");
    fl_recipe *r = &c->recipe;
    *known = true;
    if (str_is(section, "algorithm")) {
        if (!name)
            return param_set(r->algo->params, r->algo->name, r->p, key, v, err);
        fl_recipe fresh;
        TRY(fl_recipe_of(v, (str){NULL, 0}, STR("identity"), (str){NULL, 0}, &fresh, err));
        r->algo = fresh.algo;
        memcpy(r->p, fresh.p, sizeof(r->p));
        if (!aggregate_is_mean(&fresh.robust)) /* "krum": fedavg with it */
            r->robust = fresh.robust;
        return OM_OK;
    }
    if (str_is(section, "aggregator")) {
        if (!name)
            return param_set(r->robust.row->params, r->robust.row->name, r->robust.p, key,
                             v, err);
        return fl_recipe_robust(r, v, (str){NULL, 0}, err);
    }
    if (str_is(section, "codec")) {
        if (!name)
            return param_set(r->up->params, r->up->name, r->up_p, key, v, err);
        TRY(codec_need(v, &r->up, err));
        param_defaults(r->up->params, r->up_p);
        return OM_OK;
    }
    if (str_is(section, "privacy")) {
        if (!r->privacy.on)
            param_defaults(privacy_params, r->privacy.p);
        if (!name) { /* who asks for an epsilon asks for privacy */
            TRY(param_set(privacy_params, "privacy", r->privacy.p, key, v, err));
            r->privacy.on = true;
            return OM_OK;
        }
        r->privacy.on = str_is(v, "gaussian");
        return r->privacy.on || str_is(v, "none")
                   ? OM_OK
                   : fail(err, OM_EARG, "privacy.name is '%.*s'; choose gaussian or none",
                          (int)size_min(v.n, 40), v.p);
    }
    if (str_is(section, "attack")) {
        if (!name && c->attack.row)
            return param_set(c->attack.row->params, c->attack.row->name, c->attack.p, key,
                             v, err);
        if (!name)
            return fail(err, OM_EARG, "attack.%.*s: attack.name is not set", (int)key.n,
                        key.p);
        c->attack.row = NULL;
        if (str_is(v, "none"))
            return OM_OK;
        TRY(attack_need(v, &c->attack.row, err));
        param_defaults(c->attack.row->params, c->attack.p);
        return OM_OK;
    }
    if (str_is(section, "partition")) {
        if (!name)
            return param_set(c->partition->params, c->partition->name, c->partition_p, key,
                             v, err);
        TRY(partition_need(v, &c->partition, err));
        param_defaults(c->partition->params, c->partition_p);
        return OM_OK;
    }
    *known = false;
    return OM_OK;
}

static const char *const named_sections[] = {"algorithm", "codec", "aggregator",
                                             "privacy", "attack", "partition", NULL};

/* Is there a row "key" or "key.something"? */
static bool is_row(str key, bool section)
{
    for (const config_row *row = config_rows; row->key; row++)
        if (strncmp(row->key, key.p, key.n) == 0 &&
            row->key[key.n] == (section ? '.' : '\0'))
            return true;
    for (size_t i = 0; section && named_sections[i]; i++)
        if (str_is(key, named_sections[i]))
            return true;
    return false;
}

static om_status unknown(str key, om_err *err)
{
    const char *names[countof(config_rows) + countof(named_sections)] = {NULL};
    char tops[countof(config_rows)][32];
    size_t n = 0, dots = 0;
    for (size_t i = 0; i < key.n; i++)
        dots += key.p[i] == '.';
    for (const config_row *row = config_rows; row->key;
         row++) { /* siblings at this depth */
        const char *end = row->key + strlen(row->key);
        size_t depth = 0;
        for (const char *s = row->key; s < end; s++)
            if (*s == '.' && depth++ == dots)
                end = s;
        if (depth < dots)
            continue;
        snprintf(tops[n], sizeof(tops[n]), "%.*s", (int)(end - row->key), row->key);
        names[n] = tops[n];
        n++;
    }
    for (size_t i = 0; dots == 0 && named_sections[i]; i++)
        names[n++] = named_sections[i];
    const char *near = nearest_name(names, key);
    return fail(err, OM_EARG, "there is no key '%.*s'%s%s%s", (int)size_min(key.n, 60),
                key.p, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static om_status set_key(config *c, str key, str v, om_err *err)
{
    bool known = false;
    const char *dot = memchr(key.p, '.', key.n);
    if (dot) {
        str section = {key.p, (size_t)(dot - key.p)},
            rest = {dot + 1, key.n - section.n - 1};
        TRY(set_named(c, section, rest, v, &known, err));
        if (known)
            return OM_OK;
    }
    if (str_is(key, "privacy") && (str_is(v, "none") || str_is(v, "gaussian")))
        return set_named(c, key, STR("name"), v, &known, err); /* short for privacy.name */
    for (const config_row *row = config_rows; row->key; row++)
        if (str_is(key, row->key))
            return set_row(c, row, v, err);
    if (dot && !is_row((str){key.p, (size_t)(dot - key.p)}, true))
        return unknown((str){key.p, (size_t)(dot - key.p)}, err);
    if (is_row(key, true))
        return fail(err, OM_EARG, "%.*s is a section; write its keys indented below it",
                    (int)size_min(key.n, 60), key.p);
    return unknown(key, err);
}

/* A key that stands for a parameter of the algorithm. */
static om_status put_param(fl_recipe *r, const char *name, double v, om_err *err)
{
    const param *table = r->algo->params;
    for (size_t i = 0; table[i].name; i++)
        if (strcmp(table[i].name, name) == 0) {
            if (!(v >= table[i].min && v <= table[i].max))
                return fail(err, OM_EARG, "%s is %g; it must lie between %.16g and %.16g",
                            name, v, table[i].min, table[i].max);
            r->p[i] = v;
            return OM_OK;
        }
    if (!r->algo->async)
        return fail(err, OM_EARG,
                    "%s is for asynchronous methods and %s goes by rounds; set async_mode to "
                    "true (fedavg becomes fedbuff), or choose fedbuff",
                    name, r->algo->name);
    return fail(err, OM_EARG, "%s has no %s; nearest: %s", r->algo->name, name,
                strcmp(name, "buffer_size") == 0 ? "fedbuff" : "ringmaster");
}

om_status config_recipe(const config *c, fl_recipe *out, om_err *err)
{
    fl_recipe r = c->recipe;
    if (c->async_mode == CONFIG_ASYNC_TRUE)
        TRY(fl_recipe_async(&r, err));
    if (c->async_mode == CONFIG_ASYNC_FALSE && r.algo->async)
        return fail(err, OM_EARG,
                    "async_mode is false and %s has no rounds; set it to auto or true, or "
                    "choose fedavg",
                    r.algo->name);
    if (c->async_mode != CONFIG_ASYNC_FALSE) { /* switched off, its keys wait */
        if (c->buffer_size)
            TRY(put_param(&r, "buffer_size", (double)c->buffer_size, err));
        if (c->staleness_bound >= 0)
            TRY(put_param(&r, "staleness_bound", c->staleness_bound, err));
    }
    *out = r;
    return OM_OK;
}

uint32_t config_ranks(const config *c, uint32_t ranks[CONFIG_MOST_RANKS])
{
    uint32_t n = 0;
    for (const char *p = c->model.lora_ranks; *p && n < CONFIG_MOST_RANKS;) {
        size_t len = strcspn(p, ", ");
        uint64_t v = 0;
        if (len && str_u64((str){p, len}, &v) && v >= 1 && v <= 1024)
            ranks[n++] = (uint32_t)v;
        else if (len)
            return 0;
        p += len + (p[len] != '\0');
    }
    return n;
}

uint32_t config_rank(const config *c)
{
    uint32_t ranks[CONFIG_MOST_RANKS], n = config_ranks(c, ranks), most = 0;
    for (uint32_t i = 0; i < n; i++)
        most = ranks[i] > most ? ranks[i] : most;
    return n ? most : (uint32_t)c->model.lora_rank;
}

static om_status check_ranks(const config *c, om_err *err)
{
    uint32_t ranks[CONFIG_MOST_RANKS];
    if (!c->model.lora_ranks[0])
        return OM_OK;
    if (config_ranks(c, ranks) == 0)
        return fail(err, OM_EARG,
                    "model.lora.ranks is '%s'; it takes up to %d ranks of 1 to 1024, such as "
                    "[8, 4, 2]", c->model.lora_ranks, CONFIG_MOST_RANKS);
    return OM_OK;
}

static om_status check(const config *c, om_err *err)
{
    fl_recipe r;
    TRY(check_ranks(c, err));
    if (c->cohort.min > c->cohort.size)
        return fail(err, OM_EARG, "cohort.min is %llu, above cohort.size, which is %llu",
                    (unsigned long long)c->cohort.min, (unsigned long long)c->cohort.size);
    TRY(fl_recipe_check(&c->recipe, err));
    return config_recipe(c, &r, err);
}

om_status config_set(config *c, str key, str value, om_err *err)
{
    config next = *c;
    TRY(set_key(&next, key, value, err));
    TRY(check(&next, err));
    *c = next;
    return OM_OK;
}

void config_defaults(config *c)
{
    memset(c, 0, sizeof(*c));
    om_status s = OM_OK;
    for (const config_row *row = config_rows; row->key && s == OM_OK; row++)
        s = set_row(c, row, str_of(row->def), NULL);
    if (s == OM_OK)
        s = fl_recipe_of(STR("fedavg"), STR(""), STR("identity"), STR(""), &c->recipe,
                         NULL);
    if (s == OM_OK)
        s = partition_need(STR("iid"), &c->partition, NULL);
    BUG_IF(s != OM_OK || check(c, NULL) != OM_OK);
}

/* ---- the document ---- */

typedef struct {
    config *c;
    yaml_document_t *doc;
    om_err *err;
} reader;

/* "FILE:LINE: " before the message. */
static om_status at_line(reader *r, const char *name, const yaml_node_t *node, om_status s)
{
    char where[160];
    snprintf(where, sizeof(where), "%.140s:%zu", name, node->start_mark.line + 1);
    return fail_in(r->err, s, where);
}

static str scalar(const yaml_node_t *node)
{
    return (str){(const char *)node->data.scalar.value, node->data.scalar.length};
}

/* A sequence of scalars as "a,b,c". */
static om_status join(reader *r, const yaml_node_t *list, buf *out)
{
    yaml_node_item_t *item = list->data.sequence.items.start;
    for (; item < list->data.sequence.items.top; item++) {
        yaml_node_t *node = yaml_document_get_node(r->doc, *item);
        if (!node || node->type != YAML_SCALAR_NODE)
            return fail(r->err, OM_EARG, "a list may hold plain values only");
        if (item > list->data.sequence.items.start && buf_u8(out, ',') != OM_OK)
            return fail(r->err, OM_ELIMIT, "the list is too long");
        if (buf_str(out, scalar(node)) != OM_OK)
            return fail(r->err, OM_ELIMIT, "the list is too long");
    }
    return OM_OK;
}

static bool takes_list(str key)
{
    for (const config_row *row = config_rows; row->key; row++)
        if (str_is(key, row->key))
            return row->type == CONFIG_IS_LIST || row->type == CONFIG_IS_ABSENT;
    return false;
}

static om_status leaf(reader *r, str key, const yaml_node_t *value)
{
    char list[256];
    buf joined = buf_fixed(list, sizeof(list));
    if (value->type == YAML_SCALAR_NODE)
        return set_key(r->c, key, scalar(value), r->err);
    if (!is_row(key, false))
        return unknown(key, r->err);
    if (!takes_list(key))
        return fail(r->err, OM_EARG, "%.*s takes one value", (int)key.n, key.p);
    if (value->type == YAML_SEQUENCE_NODE)
        TRY(join(r, value, &joined));
    else
        TRY(buf_str(&joined, STR("{...}"))); /* a mapping under an absent feature */
    return set_key(r->c, key, (str){list, joined.len}, r->err);
}

static om_status walk(reader *r, const char *name, const yaml_node_t *map, str prefix,
                      int depth);

static om_status entry(reader *r, const char *name, const yaml_node_pair_t *pair,
                       str prefix, int depth)
{
    yaml_node_t *k = yaml_document_get_node(r->doc, pair->key);
    yaml_node_t *v = yaml_document_get_node(r->doc, pair->value);
    char joined[160];
    if (!k || !v || k->type != YAML_SCALAR_NODE)
        return fail(r->err, OM_EARG, "%s: a key is not plain text", name);
    str last = scalar(k);
    int n = snprintf(joined, sizeof(joined), "%.*s%s%.*s", (int)prefix.n, prefix.p,
                     prefix.n ? "." : "", (int)size_min(last.n, 60), last.p);
    str key = {joined, size_min((size_t)n, sizeof(joined) - 1)};
    if (v->type == YAML_MAPPING_NODE && is_row(key, true))
        return walk(r, name, v, key, depth + 1);
    om_status s = leaf(r, key, v);
    return s == OM_OK ? s : at_line(r, name, k, s);
}

static bool is_name(yaml_document_t *doc, const yaml_node_pair_t *pair)
{
    yaml_node_t *k = yaml_document_get_node(doc, pair->key);
    return k && k->type == YAML_SCALAR_NODE && str_is(scalar(k), "name");
}

/* A key given twice is a slip that YAML forbids. */
static om_status no_repeats(reader *r, const char *name, const yaml_node_t *map)
{
    const yaml_node_pair_t *first = map->data.mapping.pairs.start;
    const yaml_node_pair_t *end = map->data.mapping.pairs.top;
    if (end - first > MOST_KEYS)
        return fail(r->err, OM_ELIMIT, "%s: a section has more than %d keys", name,
                    MOST_KEYS);
    for (const yaml_node_pair_t *a = first; a < end; a++) {
        const yaml_node_t *k = yaml_document_get_node(r->doc, a->key);
        for (const yaml_node_pair_t *b = first; b < a; b++) {
            const yaml_node_t *j = yaml_document_get_node(r->doc, b->key);
            if (!k || !j || k->type != YAML_SCALAR_NODE || j->type != YAML_SCALAR_NODE ||
                !str_eq(scalar(k), scalar(j)))
                continue;
            fail(r->err, OM_EARG, "'%.*s' is there twice", (int)size_min(scalar(k).n, 60),
                 scalar(k).p);
            return at_line(r, name, k, OM_EARG);
        }
    }
    return OM_OK;
}

/* Names first: they decide which parameters their section knows. */
static om_status walk(reader *r, const char *name, const yaml_node_t *map, str prefix,
                      int depth)
{
    if (depth > MOST_DEPTH)
        return fail(r->err, OM_ELIMIT, "%s: sections are nested too deep", name);
    TRY(no_repeats(r, name, map));
    for (int pass = 0; pass < 2; pass++) {
        yaml_node_pair_t *pair = map->data.mapping.pairs.start;
        for (; pair < map->data.mapping.pairs.top; pair++)
            if (is_name(r->doc, pair) == (pass == 0))
                TRY(entry(r, name, pair, prefix, depth));
    }
    return OM_OK;
}

static om_status read_document(const char *name, yaml_document_t *doc, config *c,
                               om_err *err)
{
    reader r = {.c = c, .doc = doc, .err = err};
    yaml_node_t *root = yaml_document_get_root_node(doc);
    if (!root)
        return fail(err, OM_EFORMAT, "%s: the configuration is empty", name);
    if (root->type != YAML_MAPPING_NODE)
        return fail(err, OM_EFORMAT, "%s: the configuration is not a list of key: value",
                    name);
    TRY(walk(&r, name, root, (str){NULL, 0}, 0));
    om_status s = check(c, err);
    return s == OM_OK ? s : fail_in(err, s, name);
}

om_status config_parse(const char *name, const void *p, size_t n, config *out, om_err *err)
{
    yaml_parser_t parser;
    yaml_document_t doc;
    config c;
    config_defaults(&c);
    if (n > MOST_BYTES)
        return fail(err, OM_ELIMIT, "%s: %zu bytes; a configuration has at most %d", name,
                    n, MOST_BYTES);
    if (!yaml_parser_initialize(&parser))
        return fail(err, OM_ENOMEM, "%s: no memory for the YAML reader", name);
    yaml_parser_set_input_string(&parser, p, n);
    om_status s;
    if (!yaml_parser_load(&parser, &doc)) {
        s = fail_at(err, OM_EFORMAT, parser.problem_offset, "%s:%zu: %s", name,
                    parser.problem_mark.line + 1,
                    parser.problem ? parser.problem : "malformed YAML");
    } else {
        s = read_document(name, &doc, &c, err);
        yaml_document_delete(&doc);
    }
    yaml_parser_delete(&parser);
    if (s == OM_OK)
        *out = c;
    return s;
}

/* A relative path is meant from the folder the file is in. */
static om_status relate(config *c, const char *path, om_err *err)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return OM_OK;
    for (const config_row *row = config_rows; row->key; row++) {
        char joined[CONFIG_PATH_BYTES];
        char *p = row->type == CONFIG_IS_PATH ? field(c, row) : NULL;
        if (!p || !p[0] || p[0] == '/')
            continue;
        int n = snprintf(joined, sizeof(joined), "%.*s/%s", (int)(slash - path), path, p);
        if (n < 0 || (size_t)n >= sizeof(joined))
            return fail(err, OM_ELIMIT, "%s: %s is too long a path", path, row->key);
        memcpy(p, joined, (size_t)n + 1);
    }
    return OM_OK;
}

om_status config_read(const char *path, config *out, om_err *err)
{
    buf text = {0};
    TRY(os_read_file(path, MOST_BYTES, &text, err));
    om_status s = config_parse(path, text.data, text.len, out, err);
    buf_free(&text);
    return s == OM_OK ? relate(out, path, err) : s;
}
