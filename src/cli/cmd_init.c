/* cmd_init.c - write the commented configuration of a new run.
 *
 * Options are spelled as in the product's articles; what is not there yet is refused by
 * name and with what exists (config_set does that), never ignored. */
#include "cli/cli.h"
#include "cli/config.h"

#include <stdio.h>

/* Option -> key, for options that are one key each. */
static const char *const keys[][2] = {
    {"kind", "model.kind"},
    {"model", "model.path"},
    {"data", "data.path"},
    {"format", "data.format"},
    {"algorithm", "algorithm.name"},
    {"codec", "codec.name"},
    {"partition", "partition.name"},
    {"quantization", "quantization"},
    {"pruning", "pruning"},
    {"compression", "compression"},
    {"distillation", "distillation"},
    {"privacy", "privacy"},
    {"rounds", "rounds"},
    {"clients", "clients"},
    {"seed", "seed"},
};

/* "rank=16" or "rank=16,alpha=32,target_modules=q_proj+v_proj" */
static om_status set_lora(config *c, str list, om_err *err)
{
    TRY(config_set(c, STR("model.adaptation"), STR("lora"), err));
    while (list.n) {
        const char *comma = memchr(list.p, ',', list.n);
        str one = {list.p, comma ? (size_t)(comma - list.p) : list.n}, value;
        const char *eq = memchr(one.p, '=', one.n);
        char key[64], joined[CONFIG_TEXT_BYTES];
        if (!eq || one.n >= sizeof(joined))
            return fail(err, OM_EARG,
                        "--lora takes rank=N, alpha=X or target_modules=A+B, "
                        "found '%.*s'",
                        (int)size_min(one.n, 40), one.p);
        int n = snprintf(key, sizeof(key), "model.lora.%.*s",
                         (int)size_min((size_t)(eq - one.p), 40), one.p);
        value = (str){joined, one.n - (size_t)(eq - one.p) - 1};
        for (size_t i = 0; i < value.n; i++)
            joined[i] = eq[1 + i] == '+' ? ',' : eq[1 + i];
        TRY(config_set(c, (str){key, (size_t)n}, value, err));
        list = comma ? (str){comma + 1, list.n - one.n - 1} : (str){NULL, 0};
    }
    return OM_OK;
}

/* Kinds that are no language model need other data and a simulated population. */
static om_status suit_kind(cli *c, config *conf, om_err *err)
{
    static const char *const format[] = {
        [CONFIG_LLM] = "text",       [CONFIG_LOGISTIC] = "libsvm",
        [CONFIG_SOFTMAX] = "libsvm", [CONFIG_MLP] = "idx",
        [CONFIG_CNN] = "idx",        [CONFIG_QUADRATIC] = "synthetic"};
    if (conf->model.kind == CONFIG_LLM)
        return OM_OK;
    if (!cli_given(c, "format"))
        TRY(config_set(conf, STR("data.format"), str_of(format[conf->model.kind]), err));
    if (!cli_given(c, "clients")) {
        TRY(config_set(conf, STR("clients"), STR("100"), err));
        TRY(config_set(conf, STR("cohort.size"), STR("10"), err));
    }
    return OM_OK;
}

static om_status fill(cli *c, config *conf, om_err *err)
{
    config_defaults(conf);
    TRY(config_set(conf, STR("project"), str_of(c->operand[0]), err));
    for (size_t i = 0; i < countof(keys); i++)
        if (cli_given(c, keys[i][0]))
            TRY(config_set(conf, str_of(keys[i][1]), str_of(cli_str(c, keys[i][0])), err));
    if (cli_given(c, "lora"))
        TRY(set_lora(conf, str_of(cli_str(c, "lora")), err));
    TRY(suit_kind(c, conf, err));
    for (size_t i = 0; i < cli_count(c, "set"); i++) {
        str one = str_of(cli_nth(c, "set", i));
        const char *eq = memchr(one.p, '=', one.n);
        if (!eq)
            return fail(err, OM_EARG, "--set takes KEY=VALUE, found '%s'", one.p);
        TRY(config_set(conf, (str){one.p, (size_t)(eq - one.p)}, str_of(eq + 1), err));
    }
    return OM_OK;
}

static om_status write_file(const config *conf, const char *path, om_err *err)
{
    buf text = buf_growing(1 << 20);
    om_status s = buf_fmt(&text,
                          "# A run of octomil.  Use it with\n"
                          "#     octomil simulate %s           everything in one process\n"
                          "#     octomil train --config %s     a federation of devices\n\n",
                          path, path);
    if (s == OM_OK)
        s = config_print(conf, &text);
    s = s == OM_OK ? os_write_file_atomic(path, text.data, text.len, err)
                   : fail(err, s, "init: no memory for the configuration");
    buf_free(&text);
    return s;
}

static om_status run(cli *c, om_err *err)
{
    char path[300];
    config *conf = mem_alloc(sizeof(*conf));
    const char *name = c->operand[0], *out = cli_str(c, "out");
    if (!conf)
        return fail(err, OM_ENOMEM, "init: no memory");
    om_status s = fill(c, conf, err);
    int n = snprintf(path, sizeof(path), out ? "%s" : "%s.yaml", out ? out : name);
    if (s == OM_OK && (n < 0 || (size_t)n >= sizeof(path) || !name[0]))
        s = fail(err, OM_EARG, "init: the name makes no file name of at most %zu bytes",
                 sizeof(path) - 1);
    if (s == OM_OK && os_exists(path) && !cli_flag(c, "force"))
        s = fail(err, OM_EEXIST, "'%s' is there already; --force writes it anew", path);
    if (s == OM_OK)
        s = write_file(conf, path, err);
    mem_free(conf);
    TRY(s);
    if (c->json) {
        json_out o = json_to(&c->out);
        json_open_object(&o, NULL);
        json_put_str(&o, "file", str_of(path));
        json_shut(&o, '}');
        cli_print(c, "\n");
    } else {
        cli_print(c, "wrote %s\n", path);
    }
    return OM_OK;
}

static const cli_option options[] = {
    {"kind", 'k', "KIND", NULL, "what is trained: " CONFIG_KINDS, false},
    {"model", 'm', "PATH", NULL, "the language model to adapt", false},
    {"data", 'd', "PATH", NULL, "what it learns from", false},
    {"format", 0, "FORMAT", NULL, "of the data: " CONFIG_FORMATS, false},
    {"lora", 0, "rank=N", NULL, "adapters: rank=16,alpha=32,target_modules=q_proj+v_proj",
     false},
    {"algorithm", 'a', "NAME", NULL, "fedavg, fedprox, fedadam, fedyogi, fedadagrad",
     false},
    {"codec", 0, "NAME", NULL, "identity, topk, randk, qsgd ... (docs/reference.md)", false},
    {"partition", 0, "NAME", NULL, "iid, dirichlet, shards, power, natural", false},
    {"quantization", 0, "METHOD", NULL, "of the base model; not there yet", false},
    {"pruning", 0, "METHOD", NULL, "not there yet", false},
    {"compression", 0, "METHOD", NULL, "adaptive; not there yet", false},
    {"distillation", 0, "METHOD", NULL, "not there yet", false},
    {"privacy", 0, "METHOD", NULL, "not there yet", false},
    {"rounds", 'r', "N", NULL, "rounds of the federation", false},
    {"clients", 0, "N", NULL, "simulate: how many there are", false},
    {"seed", 0, "N", NULL, "same seed, same result", false},
    {"set", 's', "KEY=VALUE", NULL, "any key, such as cohort.size=10", true},
    {"out", 'o', "FILE", NULL, "file to write; NAME.yaml when absent", false},
    {"force", 'f', NULL, NULL, "write over a file that is there", false},
    {0}};

const command command_init = {
    .name = "init",
    .summary = "write the commented configuration of a new run",
    .operands = "NAME",
    .min_operands = 1,
    .max_operands = 1,
    .options = options,
    .details = "    octomil init keyboard --model model.gguf --lora rank=16\n"
               "    octomil init digits --kind mlp --codec qsgd\n",
    .run = run,
};
