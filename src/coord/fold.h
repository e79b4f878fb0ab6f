/* fold.h - a round's close: accepted updates, in ascending client id, through the
 * algorithm's server_recv, into the next version of the model.
 *
 * Memory: the server state lies in a mapped file and is given back to the page cache
 * between phases; one update is mapped at a time.  So what is resident is at most the
 * state, or the part of it in use plus one message: a multiple of the model, whatever
 * the number of clients.
 *
 * A fold depends on nothing but the base version, the accepted set and the round: run
 * again after a crash it gives the same bytes. */
#ifndef COORD_FOLD_H
#define COORD_FOLD_H

#include "coord/blobs.h"
#include "coord/inbox.h"
#include "coord/store.h"
#include "fl/algo.h"

typedef struct {
    const fl_algo *algo;
    fl_env env; /* .round is set per call */
    const blobs *blobs;
    inbox *inbox;
    store *store;
    char work[1024]; /* folder for temporary files */
} folder;

/* Version 0 from x0 (dim). */
om_status fold_start(folder *f, const float *x0, store_version *out, om_err *err);

typedef struct {
    uint64_t bytes_up, samples;
    double loss; /* by samples; NaN when no device told one */
    uint32_t n;
    bool unchanged; /* the algorithm refused the mean: the old model stands; see `why` */
    om_err why;
} fold_result;

om_status fold_round(folder *f, int64_t run, uint32_t round, const store_version *base,
                     store_version *next, fold_result *result, om_err *err);
/* The model (dim) of a version. */
om_status fold_model(const folder *f, const store_version *v, float *x, om_err *err);

#endif
