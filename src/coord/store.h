/* store.h - every durable fact of the coordinator but the blobs, in one SQLite file.
 *
 * WAL with synchronous=FULL for what was promised to somebody: an accepted update, a
 * registration, a round's commit.  NORMAL for what may be forgotten: when a device was
 * last seen.  Many accepted updates share one transaction, so the price of a promise is
 * a fraction of one fsync.
 *
 * FENCE.  Opening the store raises its epoch.  Every transaction that promises something
 * first checks that the epoch is still its own: a coordinator that was thought dead and
 * comes back writes nothing.
 *
 * REFERENCES.  A model version refers to two blobs (server state, down message); their
 * counts change in the transaction that adds or drops the version.
 *
 * Every call is one transaction and may come from any thread. */
#ifndef COORD_STORE_H
#define COORD_STORE_H

#include "os/os.h"

typedef struct store store;

om_status store_open(const char *path, store **out, om_err *err);
void store_close(store *s);

/* ---- runs and their versions ------------------------------------------------------------
 */

typedef struct {
    uint8_t state_sha[32], down_sha[32];
    uint64_t state_bytes, down_bytes;
} store_version;

typedef struct {
    int64_t id;
    uint32_t round;        /* rounds committed = number of the newest version */
    store_version version; /* the newest */
    buf config, snapshot;  /* owned: store_run_clear */
} store_run;

/* OM_ENOTFOUND when there is no run of that name. */
om_status store_run_find(store *s, const char *name, store_run *out, om_err *err);
om_status store_run_create(store *s, const char *name, str config, str snapshot,
                           const store_version *v0, store_run *out, om_err *err);
om_status store_run_save(store *s, int64_t run, str snapshot, om_err *err);
void store_run_clear(store_run *r);

typedef struct {
    uint32_t round, attempts, selected, accepted;
    uint64_t opened_ms, closed_ms, bytes_up, bytes_down;
    double loss; /* mean of what the devices reported, by samples; NaN: nothing */
} store_round;

/* Commit `r->round` of the run: version round+1, the next snapshot, the round's record,
 * in one fenced transaction; the updates' payloads kept in rows are dropped, and all but
 * the newest `keep` versions too (0 keeps all).  OM_EEXIST when that round is committed
 * already. */
om_status store_commit(store *s, int64_t run, const store_round *r,
                       const store_version *next, str snapshot, uint32_t keep, om_err *err);
om_status store_rounds(store *s, int64_t run,
                       om_status (*fn)(void *ctx, const store_round *r), void *ctx,
                       om_err *err);

/* ---- devices ------------------------------------------------------------------------ */

typedef struct {
    uint32_t index;
    char name[256], platform[32];
    uint8_t token_hash[32];
    uint64_t seen_ms;
} store_device;

/* Adds the device or gives the one of that name a new token. */
om_status store_device_put(store *s, const store_device *d, om_err *err);
om_status store_devices(store *s, om_status (*fn)(void *ctx, const store_device *d),
                        void *ctx, om_err *err);
om_status store_seen(store *s, const uint32_t *index, const uint64_t *seen_ms, size_t n,
                     om_err *err);

/* ---- updates ------------------------------------------------------------------------ */

typedef struct {
    uint32_t round, device, attempt;
    uint64_t bytes, samples;
    double loss;
    uint8_t digest[32];
    const void *payload; /* (bytes) when it lives in the row; else in a segment of the */
    bool in_segment;     /* inbox at this place, or in a file of its own */
    uint32_t segment;
    uint64_t at;
} store_update;

/* All or none, one transaction. A second update of the same (run, round, device) is an
 * OM_EEXIST: the round machine lets none come this far. */
om_status store_accept(store *s, int64_t run, const store_update *u, size_t n, om_err *err);
/* OM_ENOTFOUND when none was accepted. Works for rounds long closed. */
om_status store_accepted(store *s, int64_t run, uint32_t round, uint32_t device,
                         uint8_t digest[32], om_err *err);
/* In ascending device order; the payload is valid during fn. */
om_status store_updates(store *s, int64_t run, uint32_t round,
                        om_status (*fn)(void *ctx, const store_update *u, om_err *err),
                        void *ctx, om_err *err);

/* ---- blobs -------------------------------------------------------------------------- */

bool store_blob_wanted(store *s, const uint8_t sha[32]);
/* Blobs that no version refers to any more: fn removes the file, then the row goes. */
om_status store_drop_blobs(store *s,
                           om_status (*fn)(void *ctx, const uint8_t sha[32], om_err *err),
                           void *ctx, om_err *err);

#endif
