/* sim.h - a whole federation in one process: the algorithm's own functions, driven by
 * threads over the clients of a cohort.
 *
 * Clients are worked on in waves: a wave's clients compute in parallel, each thread with
 * its own scratch, and their messages are then received in ascending client id.  So the
 * result has the same bits for any number of threads, and the memory is the model's plus
 * one wave of messages plus the clients' states in one flat block.  Bytes are counted on
 * the messages themselves; the network adds its envelope and nothing else.
 *
 * TIME.  Every client has a pace (pace.h): the way down, the work it was seen to do, the way
 * up.  A round lasts until the last update that closes it has come, or until the deadline
 * where somebody who was asked did not come.  An asynchronous algorithm runs event by event
 * instead (async.c), and a row of results is then one version of the model. */
#ifndef SIM_SIM_H
#define SIM_SIM_H

#include "fl/algo.h"
#include "fl/attack/attack.h"
#include "fl/metric.h"
#include "os/os.h"
#include "sim/pace.h"

#include <math.h>

typedef struct {
    double loss, accuracy; /* NAN: not known */
    double backdoor; /* part of triggered rows that go to the attackers' class */
    metric_ranks ranks; /* of two classes; pauc: false positives up to a tenth */
} sim_score;
#define SIM_PAUC_BETA 0.1
#define SIM_SCORE_UNKNOWN                                                                  \
    ((sim_score){(double)NAN, (double)NAN, (double)NAN,                                    \
                 {(double)NAN, (double)NAN, (double)NAN}})

/* Processes that simulate together; see ranks.c. */
typedef struct sim_ranks {
    int rank, size;
    bool by_size; /* deal clients by their samples; else in turn */
    /* n_of (size): bytes of each rank; `mine` has n_of[rank], `all` their sum.  Every rank
     * calls it the same number of times. */
    om_status (*all_gather)(void *ctx, const void *mine, void *all, const size_t *n_of,
                            om_err *err);
    void *ctx;
} sim_ranks;

typedef struct {
    fl_recipe recipe;
    size_t dim;
    uint32_t n_clients;
    uint32_t cohort; /* updates that close a round; asynchronous: clients at work */
    uint32_t asked;  /* clients told to train; 0: cohort */
    uint32_t min;    /* fewer answers: the round changes nothing */
    attack_rule attack; /* row NULL: nobody attacks */
    double dropout;  /* chance that a client that was asked never answers */
    double deadline; /* seconds of a round; 0: none */
    sim_pace pace;     /* its seed is set to that below */
    uint64_t seed;
    uint32_t evaluate_every; /* rounds; 0: only when sim_evaluate is called */
    const kern *k;
    pool *pool; /* NULL: one thread */
    const om_cancel *cancel;
    const sim_ranks *ranks; /* NULL: this process alone */
    /* File for the clients' states when they are more than SIM_STATES_IN_MEMORY: mapped,
     * so that memory holds those of a wave.  NULL: always memory. */
    const char *states_path;

    const fl_shape *shape; /* NULL: the vector has none; its start is taken from x0 */

    /* The problem.  Called from several threads at once with different workers; what
     * *out points to is used until the next call for that worker. */
    om_status (*make_oracle)(void *ctx, uint32_t client, int worker, fl_oracle *out,
                             om_err *err);
    /* Score of a model (dim), from the calling thread, pool idle; may be NULL. */
    om_status (*evaluate)(void *ctx, const float *x, sim_score *out, om_err *err);
    /* How many samples a client has, for dealing by size; NULL: not known beforehand. */
    uint64_t (*samples)(void *ctx, uint32_t client);
    void *ctx;
} sim_config;

#define SIM_STATES_IN_MEMORY ((size_t)256 << 20)

typedef struct {
    uint32_t round; /* from 0; the model after it is version round + 1 */
    uint32_t asked, received;
    uint32_t refused; /* hostile messages the server would not take */
    uint32_t late;    /* after the deadline, or after a cohort had come */
    uint32_t stale;   /* asynchronous: too old, refused or stopped */
    bool unchanged;   /* under attack: no update could be made of what came */
    uint64_t down_bytes, up_bytes; /* message bytes of this round */
    uint64_t total_down_bytes, total_up_bytes;
    double train_loss; /* mean over received clients by samples; NAN: none */
    double slope; /* |grad f| where the round began, from methods that know; else NAN */
    sim_score score;
    double clock;   /* simulated seconds from the start to the end of this round */
    double seconds; /* of this round, evaluation apart; not saved */
} sim_row;

typedef struct sim sim;

om_status sim_open(const sim_config *c, const float *x0, sim **out, om_err *err);
void sim_close(sim *s);
/* After an error the simulation is spent: close it, or sim_load a checkpoint. */
om_status sim_round(sim *s, sim_row *out, om_err *err);
uint32_t sim_rounds_done(const sim *s);
const float *sim_model(const sim *s); /* (dim) */
om_status sim_evaluate(sim *s, sim_score *out, om_err *err);

/* Everything but the problem.  Loading refuses a file of another recipe, seed or size,
 * and one that is cut or damaged; the simulation is then as it was. */
om_status sim_save(sim *s, const char *path, om_err *err);
om_status sim_load(sim *s, const char *path, om_err *err);

#endif
