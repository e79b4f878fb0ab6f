/* cmd_completion.c - a bash completion script, from the command table. */
#include "cli/cli.h"

#include "cli/parse.h"

static void words(cli *c, const cli_option *o)
{
    for (; o && o->name; o++)
        cli_print(c, " --%s", o->name);
}

static om_status run(cli *c, om_err *err)
{
    (void)err;
    cli_print(c, "_octomil()\n{\n    local cur=${COMP_WORDS[COMP_CWORD]} words\n"
                 "    case ${COMP_WORDS[1]} in\n");
    for (size_t i = 0; commands[i]; i++) {
        cli_print(c, "    %s) words=\"", commands[i]->name);
        words(c, commands[i]->options);
        words(c, cli_common_options);
        cli_print(c, "\" ;;\n");
    }
    cli_print(c, "    *) words=\"");
    for (size_t i = 0; commands[i]; i++)
        cli_print(c, " %s", commands[i]->name);
    cli_print(c, "\" ;;\n    esac\n    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\") "
                 "$(compgen -f -- \"$cur\"))\n}\ncomplete -o filenames -F _octomil octomil\n");
    return OM_OK;
}

const command command_completion = {
    .name = "completion", .summary = "print a bash completion script", .operands = "",
    .run = run,
    .details = "Use it with: eval \"$(octomil completion)\"\n",
};
