/* rows.h - local training on objectives that are not the mean of the examples' losses: the
 * minibatch's scores and losses come first, the objective says how much each counts, and
 * only then is there a gradient.  To local_train it looks like any other oracle.
 *
 * Such objectives have numbers beside the model (thresholds, a dual variable) that are
 * averaged with it; they travel as floats in front of the message. */
#ifndef FL_ROWS_H
#define FL_ROWS_H

#include "fl/average.h"
#include "fl/local.h"

enum { ROWS_MOST_BATCH = 65536 };

typedef struct rows_task rows_task;
struct rows_task {
    const fl_env *e;
    const fl_oracle *f;
    fl_rows at;             /* of the minibatch, (batch) each */
    float *dscore, *dloss;  /* (batch), zero before each call of slopes */
    bool on_scores;         /* fills dscore; else dloss */
    /* Fills the slopes of n rows; may move numbers of its own.  The objective's estimate. */
    double (*slopes)(rows_task *t, uint32_t n);
    void *ctx;
};

/* local_check, and a batch that memory can be planned for. */
om_status rows_check(const fl_recipe *r, om_err *err);
size_t rows_scratch_bytes(const fl_env *e); /* of rows_open */
/* e, f, on_scores, slopes and ctx are set; *out is good while *t is.  OM_EARG: this problem
 * has no labelled examples, or not two classes. */
om_status rows_open(rows_task *t, arena *scratch, fl_oracle *out, om_err *err);

/* ---- numbers beside the model ---- */

enum { BESIDE_MOST = 8 };
typedef struct {
    float value[BESIDE_MOST];
    double sum[BESIDE_MOST]; /* of weight * what the clients of the round said */
} beside;

/* Server state: average_bytes(e, own_vectors), then a beside. */
size_t beside_bytes(const fl_env *e, uint32_t own_vectors);
beside *beside_of(const fl_env *e, void *server, uint32_t own_vectors);
/* n numbers as floats; reading refuses NaN and infinity. */
om_status beside_put(buf *out, const float *v, uint32_t n, om_err *err);
om_status beside_read(const uint8_t *in, size_t bytes, uint32_t n, float *v, om_err *err);
/* fl_algo.server_check and server_recv of n numbers and C(delta). */
om_status beside_check(const fl_env *e, uint32_t id, uint64_t samples, const uint8_t *up,
                       size_t bytes, uint32_t n, float *zeros, om_err *err);
om_status beside_recv(const fl_env *e, void *server, uint32_t own_vectors, uint32_t n,
                      uint32_t id, uint64_t samples, const uint8_t *up, size_t bytes,
                      om_err *err);
double beside_mean(const beside *b, const void *server, uint32_t i);

#endif
