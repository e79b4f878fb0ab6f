/* agent_main.c - octomil-agent: the device program alone, without database, web server or
 * the other commands. */
#include "agent/agent.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

/* The one global: a signal handler can reach nothing else. */
static om_cancel interrupted;

static void on_signal(int sig)
{
    if (interrupted.requested)
        _exit(128 + sig);
    interrupted.requested = 1;
}

static const char usage[] =
    "usage: octomil-agent --server URL --name NAME --dir FOLDER [OPTION VALUE]...\n"
    "  --server URL     the coordinator: http://ADDRESS:PORT\n"
    "  --name NAME      this device's name\n"
    "  --dir FOLDER     its cache and state\n"
    "  --token TOKEN    for registration\n"
    "  --data FILE      its own data; it never leaves the device\n"
    "  --model FILE     base model, for tasks that need one\n"
    "  --ca-file FILE   trusted certificates\n"
    "  --threads N      default: one per CPU\n"
    "  --give-up N      stop when nobody answers for N seconds\n";

static void on_log(void *ctx, log_level level, const char *msg)
{
    (void)ctx, (void)level;
    fprintf(stderr, "octomil-agent: %s\n", msg);
}

static void on_news(void *ctx, const agent_news *n)
{
    (void)ctx;
    if (n->accepted)
        fprintf(stderr, "octomil-agent: round %u: accepted, loss %.6g\n",
                (unsigned)n->round + 1, n->loss);
}

typedef struct {
    const char *name, **value;
} option;

/* False: not understood. */
static bool parse(int argc, char **argv, const option *table)
{
    for (int i = 1; i < argc; i += 2) {
        const option *o = table;
        while (o->name && strcmp(argv[i], o->name) != 0)
            o++;
        if (!o->name || i + 1 == argc)
            return false;
        *o->value = argv[i + 1];
    }
    return true;
}

static int finish(om_status st, const om_err *err, const agent_outcome *o)
{
    if (st != OM_OK)
        fprintf(stderr, "octomil-agent: %s\n", err->msg);
    else
        printf("the run is %s: %u updates accepted, %u refused\n",
               o->finished ? "finished" : "abandoned", (unsigned)o->accepted,
               (unsigned)o->refused);
    return st == OM_OK ? 0 : st == OM_ECANCEL ? 130 : 1;
}

int main(int argc, char **argv)
{
    agent_config c = {
        .log = {on_log, NULL, LOG_INFO}, .cancel = &interrupted, .on_news = on_news};
    agent_outcome outcome = {0};
    om_err err = {0};
    kern k;
    const char *threads = "0", *give_up = "0";
    const option table[] = {{"--server", &c.server},   {"--name", &c.name},
                            {"--dir", &c.dir},         {"--token", &c.bootstrap},
                            {"--data", &c.data},       {"--model", &c.model},
                            {"--ca-file", &c.ca_file}, {"--threads", &threads},
                            {"--give-up", &give_up},   {NULL, NULL}};
    uint64_t n = 0, seconds = 0;
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("octomil-agent %s\n", om_version());
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    bool ok = parse(argc, argv, table) && c.server && c.name && c.dir &&
              str_u64(str_of(threads), &n) && n <= 1024 &&
              str_u64(str_of(give_up), &seconds) && seconds <= 86400;
    if (!ok) {
        fputs(usage, stderr);
        return 2;
    }
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    signal(SIGPIPE, SIG_IGN);
    kern_init(&k, 0);
    c.k = &k;
    c.give_up_ms = (uint32_t)seconds * 1000;
    om_status st = pool_open((int)n, &c.pool, &err);
    if (st == OM_OK)
        st = agent_run(&c, &outcome, &err);
    pool_close(c.pool);
    return finish(st, &err, &outcome);
}
