/* agent.h - a device: asks for work, trains on its own data, uploads, survives.
 *
 * WHAT IS ON DISK, in the agent's folder:
 *     token          who it is to this coordinator
 *     .cache/SHA     models received, whole and verified; SHA.part while they arrive
 *     RUN/state      the algorithm's state of this client, as of its last accepted update
 *     RUN/pending    an update that was computed and whose fate is not known: message,
 *                    next state and head in one file, written before the first byte
 *                    is sent
 *
 * CRASHES.  Killed before `pending` is there, the round is computed again, from the same
 * state and seed, to the same bytes.  Killed later, `pending` is sent (again); the
 * coordinator knows an update by run, round, device and SHA-256 and says "accepted"
 * however often it is asked.  `state` moves on only when it says so. */
#ifndef AGENT_AGENT_H
#define AGENT_AGENT_H

#include "agent/task.h"

typedef struct {
    uint32_t round;
    double loss;
    uint64_t bytes_up, bytes_down; /* moved by this agent so far, headers included */
    bool accepted;
    const char *reason; /* why not */
} agent_news;

typedef struct {
    const char *server; /* "http://127.0.0.1:8000" */
    const char *name, *dir;
    const char *bootstrap;               /* token for registration, or NULL */
    const char *data, *model, *ca_file;  /* may be NULL */
    uint32_t backoff_ms, backoff_max_ms; /* 0: 200 ms, 30 s */
    uint32_t give_up_ms; /* 0: never; else stop after so long without an answer */
    const kern *k;
    pool *pool;
    log_sink log;
    const om_cancel *cancel;
    void (*on_news)(void *ctx, const agent_news *n); /* may be NULL */
    void *news_ctx;
} agent_config;

typedef struct {
    uint32_t accepted, refused;
    bool finished; /* the run came to its end; false: it was abandoned */
} agent_outcome;

/* Until the run is over (OM_OK), cancelled, or refused for good. */
om_status agent_run(const agent_config *c, agent_outcome *out, om_err *err);

#endif
