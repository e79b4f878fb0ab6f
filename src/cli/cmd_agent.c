/* cmd_agent.c - `octomil agent`: this machine as a device of a federated run. */
#include "agent/agent.h"
#include "cli/cli.h"

static void on_log(void *ctx, log_level level, const char *msg)
{
    (void)level;
    cli_note(ctx, "%s", msg);
}

static void on_news(void *ctx, const agent_news *n)
{
    cli *c = ctx;
    char up[24], down[24];
    if (n->accepted)
        cli_note(c, "round %u: accepted, loss %.6g (%s up, %s down so far)",
                 (unsigned)n->round + 1, n->loss, cli_bytes(up, n->bytes_up),
                 cli_bytes(down, n->bytes_down));
}

static om_status run(cli *c, om_err *err)
{
    agent_outcome o = {0};
    uint64_t give_up;
    if (!cli_str(c, "server") || !cli_str(c, "name") || !cli_str(c, "dir"))
        return fail(err, OM_EARG, "agent: --server, --name and --dir are needed");
    TRY(cli_u64(c, "give-up", 0, 86400, &give_up, err));
    agent_config k = {.server = cli_str(c, "server"),
                      .name = cli_str(c, "name"),
                      .dir = cli_str(c, "dir"),
                      .bootstrap = cli_str(c, "token"),
                      .data = cli_str(c, "data"),
                      .model = cli_str(c, "model"),
                      .ca_file = cli_str(c, "ca-file"),
                      .give_up_ms = (uint32_t)(give_up * 1000),
                      .k = &c->kernels,
                      .pool = c->pool,
                      .log = {on_log, c, LOG_INFO},
                      .cancel = c->cancel,
                      .on_news = on_news,
                      .news_ctx = c};
    TRY(agent_run(&k, &o, err));
    if (c->json)
        cli_print(c, "{\"accepted\":%u,\"refused\":%u,\"finished\":%s}\n",
                  (unsigned)o.accepted, (unsigned)o.refused, o.finished ? "true" : "false");
    else
        cli_print(c, "the run is %s: %u updates accepted, %u refused\n",
                  o.finished ? "finished" : "abandoned", (unsigned)o.accepted,
                  (unsigned)o.refused);
    return OM_OK;
}

static const cli_option options[] = {
    {"server", 's', "URL", NULL, "the coordinator: http://ADDRESS:PORT", false},
    {"name", 'n', "NAME", NULL, "this device's name", false},
    {"dir", 'd', "FOLDER", NULL, "its cache and state", false},
    {"token", 't', "TOKEN", NULL, "for registration", false},
    {"data", 0, "FILE", NULL, "its own data; it never leaves the device", false},
    {"model", 'm', "FILE", NULL, "base model, for tasks that need one", false},
    {"ca-file", 0, "FILE", NULL, "trusted certificates", false},
    {"give-up", 0, "SECONDS", "0", "stop when nobody answers for so long; 0: never", false},
    {NULL, 0, NULL, NULL, NULL, false},
};

const command command_agent = {
    .name = "agent",
    .summary = "take part in a federated run as a device",
    .operands = "",
    .options = options,
    .details =
        "Asks the coordinator for work, trains on --data, sends the update.  Survives "
        "lost\n"
        "connections and being killed: started again with the same folder it goes on.\n\n"
        "  octomil agent --server http://127.0.0.1:8000 --name phone-1 --dir phone-1 \\\n"
        "      --data messages.txt\n",
    .run = run,
};
