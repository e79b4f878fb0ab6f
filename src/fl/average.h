/* average.h - the server's half that fedavg and its relatives share: a model, and the
 * weighted mean of the updates of a round, folded in as they come.
 *
 * State, flat: a 64-byte head, what correlated noise remembers (privacy.h), then vectors
 * of dim floats at 64-byte steps:
 *     vector 0  x, the model         vector 1  the running sum of weight * update
 *     vector 2  on: the algorithm's own (server momentum, second moments)
 * The memory is that of the model, never clients x model. */
#ifndef FL_AVERAGE_H
#define FL_AVERAGE_H

#include "fl/algo.h"

/* The most samples a client may claim: its word is not checked, so its weight is. */
#define AVERAGE_MOST_SAMPLES (UINT64_C(1) << 32)

size_t average_bytes(const fl_env *e, uint32_t own_vectors);
float *average_vector(const fl_env *e, void *server, uint32_t i); /* (dim) */
const float *average_model(const fl_env *e, const void *server);  /* (dim) */

om_status average_open(const fl_env *e, void *server, const float *x0, om_err *err);
size_t average_down_bound(const fl_env *e);
/* Down message: x as dim little-endian floats. */
om_status average_begin(const fl_env *e, void *server, buf *down, om_err *err);
/* The down message as x (dim): refuses a wrong length, NaN and infinity. */
om_status average_read(const fl_env *e, const uint8_t *down, size_t n, float *x,
                       om_err *err);
om_status average_check(const fl_env *e, uint32_t id, uint64_t samples, const uint8_t *up,
                        size_t up_n, float *zeros, om_err *err);
om_status average_norm(const fl_env *e, const uint8_t *up, size_t up_n, float *zeros,
                       double *norm, om_err *err);
/* weighted: by samples, else every client counts the same. */
om_status average_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                       bool weighted, const uint8_t *up, size_t up_n, om_err *err);
/* The mean D (dim) of the round, in place of the sum; NULL: nothing was received.
 * Fails, with the state untouched, when a number of it is above 1e15 or not finite: no
 * training is that far off, and its square must fit a float. */
om_status average_mean(const fl_env *e, void *server, float **mean, om_err *err);
/* The same with a divisor of the caller's choice; *sum NULL: nothing was received. */
om_status average_sum(const fl_env *e, void *server, double divisor, float **sum,
                      om_err *err);
/* The parts of average_recv, for messages of another form: is the client known, its weight
 * believable (check_head), and its turn (admit); count it, once its message was taken. */
om_status average_check_head(const fl_env *e, uint32_t id, uint64_t samples, om_err *err);
om_status average_admit(const fl_env *e, const void *server, uint32_t id, uint64_t samples,
                        om_err *err);
void average_count(void *server, uint32_t id, double weight);
double average_weight(const void *server);     /* of them all */
uint64_t average_received(const void *server); /* messages taken in this round */
/* With a robust rule updates are not added up but kept as rows in the driver's memory:
 * the row (dim, zeros) that the next one is decoded into; count it, unless a number of it
 * is absurd (its sender is hostile or broken, squares of it would not fit a float, and
 * the round goes on without it); and number i of those that were counted. */
bool average_is_robust(const fl_env *e);
om_status average_row(const fl_env *e, const void *server, float **row, om_err *err);
void average_count_row(const fl_env *e, void *server, uint32_t id);
const float *average_kept(const fl_env *e, uint64_t i, uint32_t *id);
/* A number the algorithm keeps in the head, i below 4; 0 at first. */
uint64_t *average_note(void *server, uint32_t i);
/* x = next, unless next (dim) is not finite. */
om_status average_accept(const fl_env *e, void *server, const float *next, om_err *err);
/* m = momentum m + D (vector 2, which is not there when momentum is 0); x += lr m.
 * Nothing received: nothing changes. */
om_status average_step(const fl_env *e, void *server, double lr, double momentum,
                       om_err *err);

#endif
