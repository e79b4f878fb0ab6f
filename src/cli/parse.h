/* parse.h - private to cli/: a parsed command line. */
#ifndef CLI_PARSE_H
#define CLI_PARSE_H

#include "cli/cli.h"

enum { PARSE_OPTIONS = 48, PARSE_VALUES = 64 };

typedef struct {
    const cli_option *row;
    const char *value[PARSE_VALUES];
    size_t count;
} parsed_option;

typedef struct {
    uint64_t start_ns, shown_ns, last_done;
    bool open;
} meter;

typedef struct {
    parsed_option option[PARSE_OPTIONS];
    uint32_t n;
    bool help;
    meter meter;
} parsed;

extern const cli_option cli_common_options[]; /* --json, --threads, --quiet, --help */
/* argv past the command's name, into c and p. */
om_status parse_args(int argc, char **argv, cli *c, parsed *p, om_err *err);
void print_command_help(cli *c, const command *cmd);
void print_overview(cli *c);

#endif
