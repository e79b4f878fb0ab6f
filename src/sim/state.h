/* state.h - private to sim/: what a simulation consists of. */
#ifndef SIM_STATE_H
#define SIM_STATE_H

#include "sim/sim.h"

/* One client of a wave: its message, and how its step ended. */
typedef struct {
    uint32_t client;
    buf up;
    uint64_t samples;
    double loss;
    om_status status;
    om_err err;
} seat;

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
    char *attack_room;
    size_t attack_bytes;
    os_state round; /* fl_env.kept */
    seat *seat; /* (wave) */
    uint32_t wave;
    uint32_t *chosen; /* (asked) ids of the round, ascending */
    void *cohort_scratch;
    uint64_t total_down_bytes, total_up_bytes;
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

om_status hostile_open(sim *s, om_err *err);
void hostile_close(sim *s);
/* The first n seats have honest messages; those of attackers become what they send. */
om_status hostile_wave(sim *s, size_t n, om_err *err);

#endif
