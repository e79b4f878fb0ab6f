/* inner.h - what the files of the agent share: agent.c (the loop), talk.c (calls that
 * retry), keep.c (its files), train.c (a round's work). */
#ifndef AGENT_INNER_H
#define AGENT_INNER_H

#include "agent/agent.h"
#include "net/http_client.h"
#include "proto/wire.h"

enum { AGENT_PATH = 1200 };

typedef struct {
    agent_config cfg;
    http_client *http;
    rng jitter;
    int lock_fd;
    char token[WIRE_TOKEN];
    buf answer;        /* of the last call */
    uint64_t heard_ms; /* when the coordinator last answered */
    uint32_t failures; /* calls in a row that got no answer */
    void *work;        /* open task; kind, text and client it is for */
    const task_kind *kind;
    wire_task work_is;
    uint8_t base_sha[32]; /* of the base model the task is about; zeros: none */
    char base[AGENT_PATH];
    agent_outcome outcome;
} agent;

/* ---- talk.c ---- */

/* One call with the agent's token.  OM_ENET when there was no answer. */
om_status talk_call(agent *a, const http_call *call, unsigned *status, om_err *err);
/* Sleep before the next try: longer after each failure in a row, with jitter.  OM_ECANCEL,
 * or OM_ENET when the agent was told to give up. */
om_status talk_back_off(agent *a, om_err *err);
om_status talk_wait(agent *a, uint32_t min_ms, uint32_t max_ms, om_err *err);
om_status talk_register(agent *a, om_err *err);
om_status talk_check_in(agent *a, wire_answer *out, om_err *err);
/* A blob into its file in the cache, resumed and verified.  OM_ENOTFOUND: the coordinator
 * does not offer it, for example because the round has moved on. */
om_status talk_download(agent *a, const uint8_t sha[32], uint64_t bytes,
                        char path[AGENT_PATH], om_err *err);
/* Until there is a verdict: *result. */
om_status talk_upload(agent *a, const wire_update *head, const uint8_t *up,
                      wire_result *result, om_err *err);
/* Ask what became of an update without sending it. */
om_status talk_fate(agent *a, const wire_update *head, wire_result *result, om_err *err);

/* ---- keep.c ---- */

om_status keep_path(const agent *a, const char *folder, const char *name,
                    char out[AGENT_PATH], om_err *err);
om_status keep_token(const agent *a, om_err *err);
bool keep_load_token(agent *a);

typedef struct { /* pending, mapped */
    os_map map;
    wire_update head;
    const uint8_t *state, *up;
    size_t state_n;
} pending;

om_status keep_pending(const agent *a, const wire_update *head, const void *state,
                       size_t state_n, const uint8_t *up, om_err *err);
/* OM_ENOTFOUND when there is none. */
om_status keep_load_pending(const agent *a, const char *run, pending *out, om_err *err);
void keep_close_pending(pending *p);
/* The pending update was accepted: its state is the state now.  Or it was not. */
om_status keep_settle(const agent *a, pending *p, bool accepted, om_err *err);
/* Zeros when there is none. */
om_status keep_load_state(const agent *a, const char *run, void *state, size_t n,
                          om_err *err);
/* Blobs other than `sha` and the base model leave the cache. */
om_status keep_only(const agent *a, const uint8_t sha[32], om_err *err);

/* ---- train.c ---- */

/* One round: compute (unless pending already holds it) and write `pending`. */
om_status train_round(agent *a, const wire_task *t, const char *model_path, om_err *err);
void train_close(agent *a);

#endif
