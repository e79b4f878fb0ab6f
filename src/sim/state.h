/* state.h - private to sim/: what a simulation consists of. */
#ifndef SIM_STATE_H
#define SIM_STATE_H

#include "sim/meter.h"
#include "sim/sim.h"

/* One client of a wave: its message, and how its step ended. */
typedef struct {
    uint32_t client;
    buf up;
    uint64_t samples;
    double loss;
    double seconds; /* from the round's start to its message at the server */
    bool late;
    om_status status;
    om_err err;
} seat;

typedef struct async async;

struct sim {
    sim_config conf;
    fl_env env;
    fl_shape shape; /* with conf.shape: start is a copy */
    float *start;
    void *server;
    os_state clients; /* n_clients x client_bytes */
    size_t client_bytes, scratch_bytes;
    char *scratch; /* one a thread */
    buf down;
    uint8_t *hostile; /* (n_clients), or NULL: nobody is */
    attack_seat *victims; /* (asked) */
    uint8_t forged_kind;  /* of this round's messages, where they have kinds */
    char *attack_room;
    size_t attack_bytes;
    os_state round; /* fl_env.kept */
    seat *seat; /* (wave) */
    uint32_t wave;
    uint32_t *chosen; /* (asked) ids of the round, ascending */
    void *cohort_scratch;
    uint64_t total_down_bytes, total_up_bytes;
    double clock, lasts; /* seconds: simulated so far; of the round under way */
    bool async_row;      /* the algorithm has no rounds */
    bool races;          /* more are asked than wanted, and some are faster */
    meter *meter; /* one a thread */
    /* Updates can be late: `old` (wave, client_bytes) has what their senders go back to. */
    bool can_be_late;
    char *old;
    uint64_t *samples; /* (n_clients), where an algorithm plans; else NULL */
    fl_pace known;
    async *async; /* NULL: by rounds */
    /* with conf.ranks: */
    int *rank_of;         /* (wave) whose client it is */
    uint64_t *rank_load;  /* (ranks) */
    size_t *rank_bytes;   /* (ranks) */
    buf out, in;
};

/* Under conf.ranks: whose the n seats are; then, once their owners have computed them,
 * everybody gets to know them. */
om_status ranks_open(sim *s, om_err *err);
void ranks_close(sim *s);
void ranks_deal(sim *s, size_t n);
om_status ranks_exchange(sim *s, size_t n, om_err *err);

/* Opened once the states are there; a round of it is a version.  async_settle: everything
 * handed out is computed, so that what is left are messages. */
om_status async_open(sim *s, om_err *err);
void async_close(sim *s);
om_status async_round(sim *s, sim_row *row, om_err *err);
om_status async_settle(sim *s, om_err *err);
/* What a checkpoint has of it: piece by piece; and back, unless it does not fit. */
om_status async_put(sim *s, om_status (*put)(void *ctx, const void *p, size_t n,
                                             om_err *err),
                    void *ctx, om_err *err);
/* apply false: looks whether it fits, and changes nothing. */
bool async_get(sim *s, cursor *c, bool apply);

om_status hostile_open(sim *s, om_err *err);
void hostile_close(sim *s);
/* The first n seats have honest messages; those of attackers become what they send. */
om_status hostile_wave(sim *s, size_t n, om_err *err);

#endif
