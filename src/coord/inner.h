/* inner.h - what the files of the coordinator share: the worker (coord.c) and the routes
 * (api.c). */
#ifndef COORD_INNER_H
#define COORD_INNER_H

#include "coord/coord.h"
#include "coord/devices.h"
#include "coord/fold.h"
#include "net/http_server.h"

typedef struct waiting { /* a check-in whose answer is held until there is work */
    struct waiting *next;
    http_request *request;
    uint32_t device;
    uint64_t until_ms;
} waiting;

/* Where an update is looked at: each thread that does so has one. */
typedef struct {
    os_state zeros; /* (dim) floats for server_check */
    bool taken;
} desk;

struct coord {
    coord_config cfg;
    fl_recipe recipe;
    blobs blobs;
    inbox *inbox;
    store *store;
    devices *devices;
    folder fold; /* the worker's */
    fl_env env;  /* for all threads: copy it, set .round */
    http_server *http;
    int lock_fd;
    uint8_t bootstrap_hash[32];
    pool *syncers; /* wait for the disk side by side: it likes many requests at once */
    desk *desks;   /* (n_desks), one for every server thread and one for the worker */
    int n_desks;
    bool check_at_door; /* small models: the thread that took the last byte checks */

    os_mutex *lock; /* guards what follows */
    os_event *bell; /* the worker has something to do */
    round_state round;
    uint8_t *flags, *next_flags; /* (n_clients), of `round` and of the state to come */
    void *scratch;
    size_t scratch_n, up_bound;
    int64_t run;
    store_version version; /* the newest */
    uint64_t bytes_down;   /* of model messages sent in this round */
    upload *queue;         /* sealed, newest first */
    waiting *waiting;
    uint32_t n_waiting;
    bool stopping;
};

/* Under the lock: one event; what it asks for is remembered for the worker. */
round_action coord_event(coord *c, round_event_kind kind, uint32_t device, uint32_t round,
                         uint32_t attempt);
/* Under the lock: the answer to a check-in of that device. */
void coord_checkin(coord *c, uint32_t device, wire_answer *out);
/* Decode it once into nothing; WIRE_OK, or why not.  From any thread. */
wire_reason coord_check(coord *c, const upload *u, om_err *err);
/* Under the lock: that device has registered. */
om_status coord_join(coord *c, uint32_t device, om_err *err);

extern const http_route api_routes[];
bool api_authorise(void *app, http_request *r, int level);
void api_error(void *app, http_request *r, unsigned status);
void api_answer_work(http_request *r, const wire_answer *a);
void api_answer_result(http_request *r, wire_reason reason, const char *details,
                       const upload *u, uint64_t offset, const coord *c);

enum { AUTH_NONE, AUTH_BOOTSTRAP, AUTH_DEVICE };

#endif
