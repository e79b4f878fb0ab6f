/* cli.h - what a command is, and what every command needs: options, answers as text or
 * JSON, progress, cancellation.
 *
 * A command is one file cmd_<verb>.c ending in one const row, and one X(verb) line in
 * list.h.  Parsing, --help, completion and the generated reference iterate the table.
 * Only this floor prints or exits.  Answers go to standard output, progress and errors
 * to standard error.  Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "base/json.h"
#include "kern/kern.h"
#include "os/os.h"

/* One option, typed as --name VALUE or --name=VALUE; -x where letter is set.  An option
 * given twice keeps the last, unless `many`. */
typedef struct {
    const char *name;
    char letter;       /* 0: none */
    const char *value; /* "FILE", "N"; NULL: a flag */
    const char *def;   /* shown in help and returned when absent; NULL: none */
    const char *help;
    bool many;
} cli_option;

typedef struct cli cli;
struct sim_ranks;

typedef struct {
    const char *name, *summary;
    const char *operands;       /* "MODEL [PROMPT]" */
    int min_operands, max_operands;
    const cli_option *options;  /* ends with a NULL name; --json, --threads, --quiet and
                                   --help are there for every command */
    const char *details;        /* paragraphs under --help: examples, notes; may be NULL */
    om_status (*run)(cli *c, om_err *err);
} command;

extern const command *const commands[]; /* ends with NULL */
const command *command_find(const char *name); /* NULL: none */

struct cli {
    const command *cmd;
    const char *operand[16];
    int n_operands;
    bool json, quiet;
    bool tty;                /* standard error is a terminal */
    om_cancel *cancel;       /* set by Ctrl-C and SIGTERM; a chat may clear it again */
    kern kernels;            /* ready to use */
    struct sim_ranks *ranks; /* octomil-mpi: its fellows; else NULL */
    pool *pool;              /* --threads, default: the CPUs this process may run on */
    buf out;                 /* the answer: printed when run() returns OK */
    void *impl_;
};

/* Option values; the name must be in the command's table (else: our bug, trap). */
const char *cli_str(const cli *c, const char *name); /* NULL when absent, no default */
bool cli_flag(const cli *c, const char *name);
bool cli_given(const cli *c, const char *name);
om_status cli_u64(const cli *c, const char *name, uint64_t min, uint64_t max, uint64_t *out,
                  om_err *err);
om_status cli_f64(const cli *c, const char *name, double min, double max, double *out,
                  om_err *err);
size_t cli_count(const cli *c, const char *name);               /* times a `many` was given */
const char *cli_nth(const cli *c, const char *name, size_t i);
/* "a|b|c" -> index of the value, or an error that lists them. */
om_status cli_choice(const cli *c, const char *name, const char *choices, int *out,
                     om_err *err);

/* Text to the answer.  cli_flush prints what is there now (streaming). */
void cli_print(cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void cli_write(cli *c, str s);
void cli_flush(cli *c);
/* One line on standard error unless --quiet. */
void cli_note(cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* JSON answer: json_to(&c->out), then finish with a newline by cli_flush. */

/* An om_progress_fn whose ctx is the cli: on a terminal one line with bar, rate and ETA;
 * elsewhere a plain line at most every few seconds.  cli_progress_end closes it. */
void cli_progress(void *ctx, const char *what, const char *unit, uint64_t done,
                  uint64_t total);
void cli_progress_end(cli *c);

/* Run another command with these arguments, as if it had been typed. */
om_status cli_delegate(cli *c, const command *cmd, int argc, char **argv, om_err *err);

/* An option's "512M" or "1.5G" in bytes; K, M, G, T of 1000 each as everywhere in our
 * output; 0 when it is not given. */
om_status cli_size(const cli *c, const char *option, uint64_t *out, om_err *err);

/* "1.2 GB", "350 ms", "12.3 k" into out (at least 24 bytes); returns out. */
const char *cli_bytes(char *out, uint64_t bytes);
const char *cli_duration(char *out, double seconds);

#endif
