/* cmd_reference.c - the reference documentation as Markdown, from the tables themselves:
 * what a table holds is documented, and nothing else.  `make docs` keeps the answer as
 * docs/reference.md; a test fails when the two differ.
 *
 * INVARIANT.  The text depends on the tables alone, never on the machine or its files. */
#include "cli/cli.h"

#include "agent/task.h"
#include "cli/config.h"
#include "cli/parse.h"
#include "coord/coord.h"
#include "llm/model.h"
#include "nn/nn.h"

/* ---- Markdown ---------------------------------------------------------------------- */

/* The inside of a table cell: a bar would end it. */
static void text(cli *c, const char *s)
{
    for (; s && *s; s++) {
        if (*s == '|')
            cli_write(c, STR("\\"));
        cli_write(c, (str){s, 1});
    }
}

/* A row of a table; cells end with NULL. */
static void row(cli *c, const char *const *cells)
{
    cli_print(c, "|");
    for (; *cells; cells++) {
        cli_print(c, " ");
        text(c, *cells);
        cli_print(c, " |");
    }
    cli_print(c, "\n");
}
#define ROW(c, ...) row(c, (const char *const[]){__VA_ARGS__, NULL})

static void table(cli *c, const char *const *heads)
{
    cli_print(c, "\n");
    row(c, heads);
    cli_print(c, "|");
    for (; *heads; heads++)
        cli_print(c, "---|");
    cli_print(c, "\n");
}
#define TABLE(c, ...) table(c, (const char *const[]){__VA_ARGS__, NULL})

enum { CELL_BYTES = 80 };

/* Ends what was put into a cell. */
static const char *cell(buf *b, om_status s)
{
    BUG_IF(s != OM_OK || buf_u8(b, '\0') != OM_OK);
    return (const char *)b->data;
}

static const char *number(char out[CELL_BYTES], double v)
{
    buf b = buf_fixed(out, CELL_BYTES);
    return cell(&b, config_put_number(&b, v));
}

static const char *default_of(char out[CELL_BYTES], const param *p)
{
    buf b = buf_fixed(out, CELL_BYTES);
    return cell(&b, p->choices ? config_put_choice(&b, p->choices, (int)p->def)
                               : config_put_number(&b, p->def));
}

/* "0 to 1", or the choices. */
static const char *range(char out[CELL_BYTES], const char *choices, double min, double max)
{
    buf b = buf_fixed(out, CELL_BYTES);
    if (choices)
        return choices;
    om_status s = config_put_number(&b, min);
    s = s == OM_OK ? buf_str(&b, STR(" to ")) : s;
    return cell(&b, s == OM_OK ? config_put_number(&b, max) : s);
}

static void param_table(cli *c, const param *p)
{
    char def[CELL_BYTES], span[CELL_BYTES];
    if (!p || !p->name)
        return;
    TABLE(c, "parameter", "default", "values", "meaning");
    for (; p->name; p++)
        ROW(c, p->name, default_of(def, p), range(span, p->choices, p->min, p->max),
            p->help);
}

/* A member of a family that has parameters. */
static void member(cli *c, const char *name, const char *summary, const char *note,
                   const char *source, const param *p)
{
    cli_print(c, "\n### %s\n\n%s%s.", name, summary, note);
    if (source && strcmp(source, "-") != 0)
        cli_print(c, " Source: %s.", source);
    cli_print(c, "\n");
    param_table(c, p);
}

/* ---- commands ---------------------------------------------------------------------- */

static void option_table(cli *c, const cli_option *o)
{
    if (!o || !o->name)
        return;
    TABLE(c, "option", "default", "meaning");
    for (; o->name; o++) {
        char name[CELL_BYTES];
        buf b = buf_fixed(name, CELL_BYTES);
        om_status s = buf_fmt(&b, "`--%s%s%s`", o->name, o->value ? " " : "",
                              o->value ? o->value : "");
        if (s == OM_OK && o->letter)
            s = buf_fmt(&b, ", `-%c`", o->letter);
        ROW(c, cell(&b, s), o->value && o->def ? o->def : "", o->help);
    }
}

static void all_commands(cli *c)
{
    cli_print(c, "\n## Commands\n\nEvery command also takes:\n");
    option_table(c, cli_common_options);
    for (size_t i = 0; commands[i]; i++) {
        const command *cmd = commands[i];
        cli_print(c, "\n### octomil %s\n\n%s\n\nusage: `octomil %s [options]%s%s`\n",
                  cmd->name, cmd->summary, cmd->name, cmd->operands[0] ? " " : "",
                  cmd->operands);
        option_table(c, cmd->options);
        if (cmd->details) {
            cli_print(c, "\n```\n");
            cli_write(c, str_of(cmd->details));
            cli_print(c, "```\n");
        }
    }
}

/* ---- models ------------------------------------------------------------------------ */

static void all_families(cli *c)
{
    cli_print(c, "\n## Model families\n\nBy `general.architecture` of a GGUF file or "
                 "`model_type` of a Hugging Face folder.\n");
    TABLE(c, "family", "Hugging Face", "what", "source");
    for (size_t i = 0; llm_archs[i]; i++) {
        const llm_arch *a = llm_archs[i];
        ROW(c, a->name, a->hf_names, a->summary, a->source);
    }
}

static void all_types(cli *c)
{
    cli_print(c, "\n## Tensor types\n\n*read*: weights of this type are used as they lie; "
                 "*written*: `--type` takes it. The others are only listed, by "
                 "`octomil inspect`.\n");
    TABLE(c, "type", "bits per weight", "weights in a block", "read", "written");
    for (int t = 0; t < DTYPE_COUNT; t++) {
        const dtype_traits *d = dtype_of((dtype)t);
        char bits[CELL_BYTES], block[CELL_BYTES];
        if (d)
            ROW(c, d->name, number(bits, 8.0 * d->bytes / d->block),
                number(block, d->block), d->unpack ? "yes" : "no", d->pack ? "yes" : "no");
    }
}

static void all_optimizers(cli *c)
{
    cli_print(c, "\n## Optimizers\n\n`octomil train --optimizer`, and "
                 "`algorithm.local_optimizer` of a configuration.\n");
    for (size_t i = 0; nn_optims[i]; i++) {
        const nn_optim *o = nn_optims[i];
        member(c, o->name, o->summary, "", o->source, o->params);
    }
}

/* ---- federations ------------------------------------------------------------------- */

static void all_algorithms(cli *c)
{
    cli_print(c, "\n## Federated algorithms\n\n`algorithm.name` of a configuration; the "
                 "parameters stand beside it.\n");
    for (size_t i = 0; fl_algos[i]; i++) {
        const fl_algo *a = fl_algos[i];
        member(c, a->name, a->summary,
               a->flags & FL_NEEDS_UNBIASED ? "; needs an unbiased codec" : "", a->source,
               a->params);
    }
}

static void all_codecs(cli *c)
{
    cli_print(c, "\n## Codecs\n\n`codec.name` of a configuration: how an update is "
                 "compressed on its way up.\n");
    for (size_t i = 0; codecs[i]; i++) {
        const codec *o = codecs[i];
        bool unbiased = o->flags & CODEC_UNBIASED,
             contractive = o->flags & CODEC_CONTRACTIVE;
        member(c, o->name, o->summary,
               unbiased && contractive ? "; unbiased and contractive"
               : unbiased              ? "; unbiased"
               : contractive           ? "; contractive"
                                       : "; directions alone",
               o->source, o->params);
    }
}

static void all_aggregators(cli *c)
{
    cli_print(c, "\n## Aggregators\n\n`aggregator.name` of a configuration: what stands in "
                 "for the mean of a round's updates, in the simulator and on the server.  "
                 "Anything but a plain mean keeps the round's updates side by side: a matrix "
                 "of cohort x model.\n");
    for (size_t i = 0; aggregators[i]; i++) {
        const aggregator *a = aggregators[i];
        char also[64] = {0};
        buf b = buf_fixed(also, sizeof(also) - 1);
        if (a->alias)
            (void)buf_fmt(&b, "; also `%s`", a->alias);
        member(c, a->name, a->summary, also, a->source, a->params);
    }
}

static void privacy(cli *c)
{
    cli_print(c, "\n## Privacy\n\n`privacy.name` of a configuration.\n");
    member(c, "gaussian", "each client's update is clipped, exact Gaussian noise hides it in "
                          "the sum, and a run whose budget is spent is refused",
           "", "McMahan et al., ICLR 2018, arXiv 1710.06963", privacy_params);
}

static void all_attacks(cli *c)
{
    cli_print(c, "\n## Attacks\n\n`attack.name` of a configuration: what hostile clients do "
                 "in `octomil simulate`.  Devices and servers hold nothing of this.\n");
    for (size_t i = 0; attacks[i]; i++)
        member(c, attacks[i]->name, attacks[i]->summary, "", attacks[i]->source,
               attacks[i]->params);
}

static void all_partitions(cli *c)
{
    cli_print(c, "\n## Partitions\n\n`partition.name` of a configuration: how `octomil "
                 "simulate` deals one data set to clients.\n");
    for (size_t i = 0; partition_rules[i]; i++) {
        const partition_rule *r = partition_rules[i];
        member(c, r->name, r->summary, "", r->source, r->params);
    }
}

static void all_tasks(cli *c)
{
    cli_print(c,
              "\n## Task kinds\n\nWhat a device can be asked to work on, and the members "
              "of the task that `octomil server --kind KIND --task JSON` hands out.\n");
    TABLE(c, "kind", "what", "members");
    for (size_t i = 0; task_kinds[i]; i++)
        ROW(c, task_kinds[i]->name, task_kinds[i]->summary, task_kinds[i]->keys);
}

static const char *key_values(const config_row *r, char span[CELL_BYTES])
{
    static const char *const name[] = {
        [CONFIG_IS_TEXT] = "text", [CONFIG_IS_PATH] = "path", [CONFIG_IS_LIST] = "list"};
    return (size_t)r->type < countof(name) ? name[r->type]
                                           : range(span, r->choices, r->min, r->max);
}

static void all_keys(cli *c)
{
    char span[CELL_BYTES];
    cli_print(c,
              "\n## Configuration\n\nThe keys of the YAML file that `octomil init` writes. "
              "Unknown keys are refused. Relative paths are meant from the folder of the "
              "file.\n");
    TABLE(c, "key", "default", "values", "meaning");
    for (const config_row *r = config_rows; r->key; r++)
        if (r->type != CONFIG_IS_ABSENT)
            ROW(c, r->key, r->def, key_values(r, span), r->help);
    cli_print(c, "\nKnown, not there yet, and refused unless `none`:\n");
    TABLE(c, "key", "what exists");
    for (const config_row *r = config_rows; r->key; r++)
        if (r->type == CONFIG_IS_ABSENT)
            ROW(c, r->key, r->choices);
}

static void all_routes(cli *c)
{
    coord_route r;
    cli_print(c,
              "\n## HTTP routes of the coordinator\n\n[protocol.md](protocol.md) says what "
              "travels. `*` stands for one name.\n");
    TABLE(c, "method", "path", "token", "what");
    for (size_t i = 0; coord_route_at(i, &r); i++)
        ROW(c, r.method, r.path, r.token, r.summary);
}

static om_status run(cli *c, om_err *err)
{
    static void (*const sections[])(cli *) = {
        all_commands,   all_families, all_types,      all_optimizers, all_keys,
        all_algorithms, all_codecs,   all_aggregators, privacy, all_attacks,
        all_partitions, all_tasks,      all_routes};
    (void)err;
    cli_print(c, "# Reference\n\nGenerated by `octomil reference`; do not edit.\n");
    for (size_t i = 0; i < countof(sections); i++)
        sections[i](c);
    return OM_OK;
}

const command command_reference = {
    .name = "reference",
    .summary = "print the reference documentation as Markdown",
    .operands = "",
    .run = run,
};
