/* test_config.c - the configuration file: reading, refusing, writing. */
#include "cli/config.h"
#include "os/os.h"
#include "test.h"

static om_status parse(const char *text, config *c, om_err *err)
{
    *err = (om_err){0};
    return config_parse("run.yaml", text, strlen(text), c, err);
}

static void defaults(test *t)
{
    config c;
    om_err err;
    config_defaults(&c);
    CHECK_STR(t, c.project, "octomil");
    CHECK_STR(t, c.recipe.algo->name, "fedavg");
    CHECK_INT(t, c.model.lora_rank, 8);
    CHECK_OK(t, parse("rounds: 3\n", &c, &err), err);
    CHECK_INT(t, c.rounds, 3);
    CHECK_INT(t, c.cohort.size, 8);
}

static void reads_everything(test *t)
{
    static const char text[] =
        "project: \"my phone\"\nseed: 7\nrounds: 12\n"
        "model:\n  kind: mlp\n  hidden: [200, 100]\n  path: m.gguf\n"
        "  lora: {rank: 16, alpha: 32, target_modules: [q_proj, o_proj]}\n"
        "data: {format: idx, path: a, labels: b, limit: 600}\n"
        "algorithm:\n  lr: 0.25   # before its name\n  name: fedadam\n  beta_2: 0.9\n"
        "codec:\n  name: topk\n  ratio: 0.1\n"
        "partition: {name: dirichlet, alpha: 0.3}\n"
        "clients: 100\ncohort:\n  size: 10\n  min: 4\n  over_selection: 1.3\n"
        "  deadline: 60\nserver: {address: 0.0.0.0, port: 9000, dir: /var/lib/om}\n"
        "quantization: none\nprivacy: none\n";
    config c;
    om_err err;
    CHECK_OK(t, parse(text, &c, &err), err);
    CHECK_STR(t, c.project, "my phone");
    CHECK_INT(t, c.model.kind, CONFIG_MLP);
    CHECK_STR(t, c.model.hidden, "200,100");
    CHECK_STR(t, c.model.target_modules, "q_proj,o_proj");
    CHECK_INT(t, c.model.lora_rank, 16);
    CHECK_NEAR(t, c.model.lora_alpha, 32, 0);
    CHECK_INT(t, c.data.format, CONFIG_IDX);
    CHECK_INT(t, c.data.limit, 600);
    CHECK_STR(t, c.recipe.algo->name, "fedadam");
    CHECK_STR(t, c.recipe.up->name, "topk");
    CHECK_NEAR(t, c.recipe.up_p[0], 0.1, 0);
    CHECK_STR(t, c.partition->name, "dirichlet");
    CHECK_NEAR(t, c.partition_p[0], 0.3, 0);
    CHECK_INT(t, c.cohort.min, 4);
    CHECK_NEAR(t, c.cohort.over_selection, 1.3, 0);
    CHECK_INT(t, c.server.port, 9000);
    bool lr = false, beta = false;
    for (size_t i = 0; c.recipe.algo->params[i].name; i++) {
        lr |= strcmp(c.recipe.algo->params[i].name, "lr") == 0 && c.recipe.p[i] == 0.25;
        beta |=
            strcmp(c.recipe.algo->params[i].name, "beta_2") == 0 && c.recipe.p[i] == 0.9;
    }
    CHECK(t, lr && beta);
}

/* Each refusal names the line and what is wrong. */
static void refuses(test *t)
{
    static const char *const bad[][3] = {
        {"rounds: 3\nruonds: 4\n", "run.yaml:2", "'rounds'"},
        {"model:\n  lora:\n    rnak: 4\n", "run.yaml:3", "model.lora.rank"},
        {"algoritm: {name: fedavg}\n", "run.yaml:1", "'algorithm'"},
        {"algorithm: {name: fedavgg}\n", "run.yaml:1", "fedavg"},
        {"algorithm: {name: fedavg, mu: 1}\n", "run.yaml:1", "no parameter 'mu'"},
        {"algorithm: fedavg\n", "run.yaml:1", "section"},
        {"codec:\n  name: topk\n  ratio: 7\n", "run.yaml:3", "between"},
        {"rounds: many\n", "run.yaml:1", "whole number"},
        {"rounds: -1\n", "run.yaml:1", "whole number"},
        {"rounds: 1.5\n", "run.yaml:1", "whole number"},
        {"rounds: 0\n", "run.yaml:1", "between"},
        {"rounds: [1, 2]\n", "run.yaml:1", "one value"},
        {"rounds: {a: 1}\n", "run.yaml:1", "one value"},
        {"model: {kind: llama}\n", "run.yaml:1", "llm|logistic"},
        {"rounds: 1\nrounds: 2\n", "run.yaml:2", "twice"},
        {"\n\nquantization: 4bit\n", "run.yaml:3", "'4bit' is not available"},
        {"pruning: [wanda]\n", "run.yaml:1", "'wanda' is not available"},
        {"pruning: {part: 0.5}\n", "run.yaml:1", "not available"},
        {"privacy: {epsilon: -2}\n", "run.yaml:1", "must lie"},
        {"secure_aggregation: true\n", "run.yaml:1", "not available"},
        {"cohort: {size: 2, min: 3}\n", "run.yaml", "cohort.min"},
        {"rounds: 3\n  x: 4\n", "run.yaml:2", ""},
        {"- a\n- b\n", "run.yaml", "key: value"},
        {"", "run.yaml", "empty"},
        {"a: &a [*a]\n", "run.yaml:1", ""},
        {"model: &a\n  model: *a\n", "run.yaml:", ""},
        {"project: \"a\\0b\"\n", "run.yaml:1", "zero byte"},
        {"? [a]\n: 1\n", "run.yaml", "plain"},
        {"algorithm: {error_feedback: 'on'}\ncodec: {name: randk}\n", "run.yaml",
         "contractive"},
    };
    for (size_t i = 0; i < countof(bad); i++) {
        config c;
        om_err err;
        memset(&c, 0x5a, sizeof(c));
        CHECK(t, parse(bad[i][0], &c, &err) != OM_OK);
        CHECK(t, c.project[0] == 0x5a); /* nothing is half set */
        if (!strstr(err.msg, bad[i][1]) || !strstr(err.msg, bad[i][2]))
            test_fail(t, __FILE__, __LINE__, "%s\nsays '%s', expected '%s' and '%s'",
                      bad[i][0], err.msg, bad[i][1], bad[i][2]);
    }
}

/* What is printed is read back to the same configuration. */
static void prints(test *t)
{
    config c, d;
    om_err err;
    buf out = buf_growing(1 << 20), again = buf_growing(1 << 20);
    config_defaults(&c);
    CHECK_OK(t, config_set(&c, STR("algorithm.name"), STR("fedprox"), &err), err);
    CHECK_OK(t, config_set(&c, STR("algorithm.mu"), STR("0.123456789"), &err), err);
    CHECK_OK(t, config_set(&c, STR("codec.name"), STR("qsgd"), &err), err);
    CHECK_OK(t, config_set(&c, STR("codec.norm"), STR("l2"), &err), err);
    CHECK_OK(t, config_set(&c, STR("project"), STR("a \"quoted\" \\ name: #1"), &err), err);
    CHECK_OK(t, config_set(&c, STR("model.lora.rank"), STR("16"), &err), err);
    CHECK_INT(t, config_print(&c, &out), OM_OK);
    CHECK_OK(t, config_parse("printed", out.data, out.len, &d, &err), err);
    CHECK(t, memcmp(&c, &d, sizeof(c)) == 0);
    CHECK_INT(t, config_print(&d, &again), OM_OK);
    CHECK(t, out.len == again.len && memcmp(out.data, again.data, out.len) == 0);
    for (const config_row *row = config_rows; row->key; row++) { /* commented throughout */
        const char *about = row->type == CONFIG_IS_ABSENT ? row->choices : row->help;
        CHECK(t, about && buf_u8(&out, 0) == OM_OK && strstr((char *)out.data, about));
        out.len--;
    }
    buf_free(&out), buf_free(&again);
}

static void sets(test *t)
{
    config c;
    om_err err = {0};
    config_defaults(&c);
    CHECK(t, config_set(&c, STR("model.lora.rnak"), STR("1"), &err) == OM_EARG);
    CHECK(t, strstr(err.msg, "model.lora.rank"));
    CHECK(t, config_set(&c, STR("quantization"), STR("4bit"), &err) == OM_EUNSUPPORTED);
    CHECK(t, strstr(err.msg, "q4_0"));
    CHECK(t, config_set(&c, STR("rounds"), STR("0"), &err) == OM_EARG && c.rounds == 20);
    CHECK_OK(t, config_set(&c, STR("codec.name"), STR("topk"), &err), err);
    CHECK(t, config_set(&c, STR("codec.bits"), STR("8"), &err) == OM_EARG);
}

/* Every truncation and many mutations: an answer or an error, never more. */
static void hostile(test *t)
{
    static const char odd[] = "\0:\n -[]{}&*#'\"\\x\xff!|>%@";
    config c, d;
    om_err err;
    buf out = buf_growing(1 << 20);
    config_defaults(&c);
    CHECK_INT(t, config_print(&c, &out), OM_OK);
    for (size_t n = 0; n < out.len; n += 7) {
        uint8_t *exact = mem_alloc(n);
        memcpy(exact, out.data, n);
        om_status s = config_parse("cut", exact, n, &d, &err);
        CHECK(t, s == OM_OK || s == err.code);
        mem_free(exact);
    }
    rng r = rng_for(5, 5, 5, 5);
    for (int k = 0; k < 400; k++) {
        uint8_t *bad = mem_alloc(out.len);
        memcpy(bad, out.data, out.len);
        for (int j = 0; j < 3; j++)
            bad[rng_below(&r, (uint32_t)out.len)] =
                (uint8_t)odd[rng_below(&r, (uint32_t)sizeof(odd) - 1)];
        om_status s = config_parse("bent", bad, out.len, &d, &err);
        CHECK(t, s == OM_OK || s == err.code);
        mem_free(bad);
    }
    buf_free(&out);
}

static void paths_follow_the_file(test *t)
{
    char path[300], want[300];
    config c;
    om_err err = {0};
    static const char text[] = "model: {path: m.gguf}\ndata: {path: /abs/d}\n";
    snprintf(path, sizeof(path), "%s/run.yaml", test_temp_dir());
    snprintf(want, sizeof(want), "%s/m.gguf", test_temp_dir());
    CHECK_OK(t, os_write_file_atomic(path, text, sizeof(text) - 1, &err), err);
    CHECK_OK(t, config_read(path, &c, &err), err);
    CHECK_STR(t, c.model.path, want);
    CHECK_STR(t, c.data.path, "/abs/d");
    CHECK_STR(t, c.data.labels, "");
    CHECK(t, config_read("/nowhere/x.yaml", &c, &err) == OM_EIO || err.code != OM_OK);
}

static double param_of(const fl_recipe *r, const char *name)
{
    for (size_t i = 0; r->algo->params[i].name; i++)
        if (strcmp(r->algo->params[i].name, name) == 0)
            return r->p[i];
    return -1;
}

/* async_mode turns fedavg into fedbuff, parameters kept; its keys are parameters. */
static void async_mode(test *t)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"buffer_size: 5\n", "async_mode to true"},
        {"async_mode: true\nalgorithm: {name: scaffold}\n", "choose fedbuff"},
        {"async_mode: false\nalgorithm: {name: fedbuff}\n", "choose fedavg"},
        {"buffer_size: 5\nalgorithm: {name: fedasync}\n", "nearest: fedbuff"},
        {"staleness_bound: 5\nalgorithm: {name: rennala}\n", "nearest: ringmaster"},
        {"async_mode: sometimes\n", "auto|false|true"},
        {"devices: {speed: fast}\n", "lognormal"},
    };
    config c;
    om_err err = {0};
    fl_recipe r;
    CHECK_OK(t,
             parse("async_mode: true\nbuffer_size: 50\nstaleness_bound: 10\n"
                   "algorithm: {name: fedavg, lr: 0.3, server_momentum: 0.5}\n",
                   &c, &err),
             err);
    CHECK_STR(t, c.recipe.algo->name, "fedavg");
    CHECK_OK(t, config_recipe(&c, &r, &err), err);
    CHECK_STR(t, r.algo->name, "fedbuff");
    CHECK(t, param_of(&r, "lr") == 0.3 && param_of(&r, "server_momentum") == 0.5);
    CHECK(t, param_of(&r, "buffer_size") == 50 && param_of(&r, "staleness_bound") == 10);
    CHECK_OK(t, config_set(&c, STR("async_mode"), STR("false"), &err), err);
    CHECK_OK(t, config_recipe(&c, &r, &err), err);
    CHECK_STR(t, r.algo->name, "fedavg");
    for (size_t i = 0; i < countof(bad); i++)
        if (parse(bad[i].text, &c, &err) == OM_OK || !strstr(err.msg, bad[i].says))
            test_fail(t, __FILE__, __LINE__, "'%s': %s", bad[i].text, err.msg);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"defaults", "an almost empty file", defaults},
        {"reads_everything", "every section, names after parameters", reads_everything},
        {"refuses", "unknown keys, types, ranges, absent features: with line", refuses},
        {"prints", "printed and read back", prints},
        {"sets", "single keys over what is there", sets},
        {"hostile", "cut and bent files", hostile},
        {"async_mode", "versions instead of rounds", async_mode},
        {"paths", "paths are relative to the file", paths_follow_the_file},
        {0}};
    return test_main(argc, argv, cases);
}
