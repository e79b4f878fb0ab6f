/* parse.c - the command line against a command's table; help from the same table. */
#include "cli/parse.h"

const cli_option cli_common_options[] = {
    {"json", 0, NULL, NULL, "answer as JSON on standard output", false},
    {"threads", 't', "N", "0", "threads; 0: every CPU this process may use", false},
    {"quiet", 'q', NULL, NULL, "no progress, no notes", false},
    {"help", 'h', NULL, NULL, "this text", false},
    {0},
};

static void gather(const cli_option *rows, parsed *p)
{
    for (; rows && rows->name; rows++) {
        BUG_IF(p->n == PARSE_OPTIONS);
        p->option[p->n++].row = rows;
    }
}

static parsed_option *by_name(parsed *p, str name)
{
    for (uint32_t i = 0; i < p->n; i++)
        if (str_is(name, p->option[i].row->name))
            return &p->option[i];
    return NULL;
}

static parsed_option *by_letter(parsed *p, char letter)
{
    for (uint32_t i = 0; i < p->n; i++)
        if (letter && p->option[i].row->letter == letter)
            return &p->option[i];
    return NULL;
}

static om_status unknown(const cli *c, const parsed *p, str name, om_err *err)
{
    const char *names[PARSE_OPTIONS + 1] = {NULL};
    for (uint32_t i = 0; i < p->n; i++)
        names[i] = p->option[i].row->name;
    return fail(err, OM_EARG,
                "%s has no option '%.*s'; did you mean --%s? See 'octomil %s --help'",
                c->cmd->name, (int)size_min(name.n, 40), name.p, nearest_name(names, name),
                c->cmd->name);
}

static om_status add_value(parsed_option *o, const char *value, om_err *err)
{
    if (!o->row->many)
        o->count = 0;
    if (o->count == PARSE_VALUES)
        return fail(err, OM_ELIMIT, "--%s was given more than %d times", o->row->name,
                    PARSE_VALUES);
    o->value[o->count++] = value;
    return OM_OK;
}

/* One argument that starts with '-'; *i is its index and moves past a value it takes. */
static om_status take_option(int argc, char **argv, int *i, cli *c, parsed *p, om_err *err)
{
    const char *arg = argv[*i], *value = NULL;
    parsed_option *o;
    str name;
    if (arg[1] == '-') {
        const char *eq = strchr(arg, '=');
        name = (str){arg + 2, eq ? (size_t)(eq - arg - 2) : strlen(arg + 2)};
        o = by_name(p, name);
        value = eq ? eq + 1 : NULL;
    } else {
        name = str_of(arg);
        o = arg[2] ? NULL : by_letter(p, arg[1]);
    }
    if (!o)
        return unknown(c, p, name, err);
    if (!o->row->value && value)
        return fail(err, OM_EARG, "--%s takes no value", o->row->name);
    if (o->row->value && !value) {
        if (*i + 1 >= argc)
            return fail(err, OM_EARG, "--%s needs a value: --%s %s", o->row->name,
                        o->row->name, o->row->value);
        value = argv[++*i];
    }
    return add_value(o, value ? value : "", err);
}

static om_status check_operands(const cli *c, om_err *err)
{
    const command *cmd = c->cmd;
    if (c->n_operands < cmd->min_operands)
        return fail(err, OM_EARG, "usage: octomil %s %s (see 'octomil %s --help')", cmd->name,
                    cmd->operands, cmd->name);
    return OM_OK;
}

om_status parse_args(int argc, char **argv, cli *c, parsed *p, om_err *err)
{
    bool only_operands = false;
    gather(c->cmd->options, p);
    gather(cli_common_options, p);
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        if (!only_operands && strcmp(arg, "--") == 0)
            only_operands = true;
        else if (!only_operands && arg[0] == '-' && arg[1])
            TRY(take_option(argc, argv, &i, c, p, err));
        else if (c->n_operands >= c->cmd->max_operands)
            return fail(err, OM_EARG, "'%s' is one operand too many: octomil %s %s", arg,
                        c->cmd->name, c->cmd->operands);
        else
            c->operand[c->n_operands++] = arg;
    }
    p->help = by_name(p, STR("help"))->count > 0;
    c->json = by_name(p, STR("json"))->count > 0;
    c->quiet = by_name(p, STR("quiet"))->count > 0;
    return p->help ? OM_OK : check_operands(c, err);
}

/* ---- help ------------------------------------------------------------------------- */

static void print_options(cli *c, const cli_option *o)
{
    for (; o && o->name; o++) {
        char left[64], letter[5] = "    ";
        if (o->letter) {
            letter[0] = '-';
            letter[1] = o->letter;
            letter[2] = ',';
        }
        buf b = buf_fixed(left, sizeof(left));
        om_status fits = buf_fmt(&b, "%s--%s%s%s", letter, o->name, o->value ? " " : "",
                                 o->value ? o->value : "");
        BUG_IF(fits != OM_OK);
        cli_print(c, "  %-28.*s %s", (int)b.len, left, o->help);
        if (o->value && o->def && o->def[0])
            cli_print(c, " (default %s)", o->def);
        cli_print(c, "\n");
    }
}

void print_command_help(cli *c, const command *cmd)
{
    cli_print(c, "octomil %s - %s\n\nusage: octomil %s [options] %s\n\n", cmd->name,
              cmd->summary, cmd->name, cmd->operands);
    print_options(c, cmd->options);
    print_options(c, cli_common_options);
    if (cmd->details) {
        cli_print(c, "\n");
        cli_write(c, str_of(cmd->details));
    }
}

void print_overview(cli *c)
{
    cli_print(c, "octomil %s - runs, shrinks and improves AI models on the devices people "
                 "own\n\nusage: octomil COMMAND [options]\n\n",
              om_version());
    for (size_t i = 0; commands[i]; i++)
        cli_print(c, "  %-12s %s\n", commands[i]->name, commands[i]->summary);
    cli_print(c, "\n'octomil COMMAND --help' tells more about one.\n");
}
