/* coord.h - the coordinator of a federated run: rounds, devices, durable updates.
 *
 * Threads: the HTTP server's threads parse requests and write arriving bytes; ONE worker
 * (the thread that calls coord_run) checks updates, commits them in groups, watches the
 * clock and closes rounds.  They meet in the round machine and a queue, under one lock
 * that is held for microseconds, except while a new round state is made durable. */
#ifndef COORD_COORD_H
#define COORD_COORD_H

#include "coord/store.h"
#include "fl/algo.h"
#include "proto/round.h"

typedef struct {
    const char *dir;       /* everything durable lives here */
    const char *run;       /* its name */
    const char *bootstrap; /* token a device needs to register; NULL: any device may */
    round_plan plan;
    const char *algorithm, *algorithm_params, *codec, *codec_params; /* "", not NULL */
    const char *aggregator, *aggregator_params; /* NULL: the mean */
    privacy_rule privacy; /* settled; its secret is the coordinator's own affair */
    const char *kind, *task; /* handed to the devices as they are */
    const char *base_path;    /* file of the base model, offered to devices as the blob */
    uint8_t base_sha[32];     /* of this name; NULL: none */
    size_t dim;
    /* x0 (dim) of a new run; not called when the run goes on. */
    om_status (*start)(void *ctx, float *x0, om_err *err);
    void *start_ctx;
    const char *const *names; /* devices by name, in client order; NULL: any */
    size_t n_names;
    double max_update_norm; /* updates of a larger L2 norm are refused; 0: no bound */
    uint32_t keep_versions; /* newest model versions kept; 0: all */
    const kern *k;
    log_sink log;
    /* After each commit, on the worker: e.g. a progress line. May be NULL. */
    void (*on_round)(void *ctx, const store_round *r, const round_state *s);
    void *on_round_ctx;
    const om_cancel *cancel;
} coord_config;

typedef struct coord coord;

/* Opens or makes the run.  Strings must outlive it.  OM_EEXIST: another process has the
 * folder. OM_EARG: the run there has another configuration. */
om_status coord_open(const coord_config *c, coord **out, om_err *err);
void coord_close(coord *c);

/* Start to listen; 0 takes any port, *port tells which. */
om_status coord_listen(coord *c, const char *host, uint16_t port, uint16_t *got,
                       om_err *err);
/* Work until the run is over, and then `linger_ms` more so that devices hear of it.
 * OM_ECANCEL when asked to stop: everything accepted stays; OM_EREFUSED when the run was
 * abandoned. */
om_status coord_run(coord *c, uint64_t linger_ms, om_err *err);

om_status coord_model(coord *c, float *x, om_err *err); /* (dim), newest version */
/* A JSON object: phase, round, participants, history. */
om_status coord_status(coord *c, buf *out, om_err *err);

/* The i-th HTTP route, for the reference; false past the last. */
typedef struct {
    const char *method, *path, *token, *summary;
} coord_route;
bool coord_route_at(size_t i, coord_route *out);

#endif
