/* main.c - the program: find the command, parse, run, print, exit.
 *
 * The one global is the cancel flag, because a signal handler can reach nothing else. */
#include "cli/cli.h"
#include "cli/list.h"
#include "cli/parse.h"
#include "cli/ranks.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define X(name) extern const command command_##name;
COMMAND_LIST(X)
#undef X

const command *const commands[] = {
#define X(name) &command_##name,
    COMMAND_LIST(X)
#undef X
    NULL,
};

static om_cancel interrupted;

static void on_signal(int sig)
{
    if (interrupted.requested)
        _exit(128 + sig); /* asked twice: do not wait for the safe point */
    interrupted.requested = 1;
}

const command *command_find(const char *name)
{
    for (size_t i = 0; commands[i]; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static int say_error(const cli *c, const om_err *err, om_status s)
{
    if (s == OM_ECANCEL) {
        fprintf(stderr, "octomil: interrupted\n");
        return 130;
    }
    if (c->json) {
        buf b = buf_growing(8192);
        json_out o = json_to(&b);
        json_open_object(&o, NULL);
        json_put_str(&o, "error", str_of(om_status_name(s)));
        json_put_str(&o, "message", str_of(err->msg));
        json_shut(&o, '}');
        printf("%.*s\n", (int)b.len, (const char *)b.data);
        buf_free(&b);
    }
    fprintf(stderr, "octomil: %s\n", err->msg[0] ? err->msg : om_status_text(s));
    return s == OM_EARG ? 2 : 1;
}

static om_status run_command(int argc, char **argv, cli *c, parsed *p, om_err *err)
{
    TRY(parse_args(argc, argv, c, p, err));
    if (p->help) {
        print_command_help(c, c->cmd);
        return OM_OK;
    }
    uint64_t threads;
    TRY(cli_u64(c, "threads", 0, 1024, &threads, err));
    TRY(pool_open((int)threads, &c->pool, err));
    kern_init(&c->kernels, 0);
    return c->cmd->run(c, err);
}

static int unknown_command(const char *name)
{
    const char *names[64] = {NULL};
    for (size_t i = 0; commands[i] && i < countof(names) - 1; i++)
        names[i] = commands[i]->name;
    fprintf(stderr, "octomil: no command '%s'; did you mean '%s'? 'octomil --help' lists "
                    "them\n",
            name, nearest_name(names, str_of(name)));
    return 2;
}

int main(int argc, char **argv)
{
    sim_ranks *ranks = ranks_start(&argc, &argv);
    const char *verb = argc > 1 ? argv[1] : "--help";
    parsed *p = mem_alloc(sizeof(*p));
    cli c = {.impl_ = p, .cancel = &interrupted, .tty = isatty(2),
             .out = buf_growing(1 << 20), .ranks = ranks};
    if (!p) {
        fprintf(stderr, "octomil: out of memory\n");
        return 1;
    }
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    signal(SIGPIPE, SIG_IGN);
    int status = 0;
    if (strcmp(verb, "--version") == 0 || strcmp(verb, "-V") == 0) {
        cli_print(&c, "octomil %s\n", om_version());
    } else if (strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0 ||
               strcmp(verb, "help") == 0) {
        print_overview(&c);
    } else if ((c.cmd = command_find(verb)) == NULL) {
        status = unknown_command(verb);
    } else {
        om_err err = {0};
        om_status s = run_command(argc - 2, argv + 2, &c, p, &err);
        cli_progress_end(&c);
        if (s != OM_OK) {
            cli_flush(&c);
            status = say_error(&c, &err, s);
        }
    }
    cli_flush(&c);
    if (ferror(stdout) && status == 0) {
        fprintf(stderr, "octomil: standard output cannot be written; is its disk full?\n");
        status = 1;
    }
    pool_close(c.pool);
    buf_free(&c.out);
    mem_free(p);
    ranks_end(status);
    mem_free(ranks);
    return status;
}
