/* attack.h - hostile clients for the simulator: what they send instead of their update.
 *
 * They are omniscient and collude, as the literature has them: a forger sees the honest
 * updates of the round, decoded, and what its own honest work would have given.  Attacks
 * on data train honestly on poisoned rows, and forge nothing or only scale.  Nothing here
 * is part of a device or a server.
 *
 * To add one: attack/<name>.c ending in a row, X(name) in list.h. */
#ifndef FL_ATTACK_ATTACK_H
#define FL_ATTACK_ATTACK_H

#include "kern/cohort.h"

enum { ATTACK_PART, ATTACK_COMMON /* how many */ };
#define ATTACK_PARAMS                                                                      \
    [ATTACK_PART] = {"attackers", 0.3, 0, 0.9, "part of the clients that is hostile", NULL}

enum {
    ATTACK_LABELS = 1u << 0,  /* trains on wrong labels: c becomes classes - 1 - c */
    ATTACK_TRIGGER = 1u << 1, /* trains on rows with a trigger, labelled class 0 */
    ATTACK_BYTES = 1u << 2,   /* forges the message, not the vector in it */
};

/* A round as the attackers see it. */
typedef struct {
    cohort honest;          /* the honest updates */
    const float *mean, *dev; /* (d) of the honest: mean and standard deviation */
    size_t hostile;         /* attackers in the round */
    const float *own;       /* (d) this attacker's work */
    const float *first;     /* (d) that of the first attacker of the round */
    const double *p;
    rng r;      /* of this attacker and round */
    rng shared; /* of the round */
} attack_view;

typedef struct attack attack;
struct attack {
    const char *name, *summary, *source;
    unsigned flags;
    const param *params;
    /* out (d): what it sends. */
    void (*forge)(const attack_view *v, float *out);
    /* ATTACK_BYTES: the message (n bytes), in place. */
    void (*corrupt)(const attack_view *v, uint8_t *message, size_t n);
};

extern const attack *const attacks[]; /* ends with NULL */
om_status attack_need(str name, const attack **out, om_err *err);

typedef struct {
    const attack *row; /* NULL: nobody attacks */
    double p[8];
} attack_rule;

/* hostile[i] = 1 for floor(part n) clients, chosen by the seed. Returns how many. */
uint32_t attack_choose(const attack_rule *a, uint64_t seed, uint32_t n, uint8_t *hostile);

/* One round: messages of its n seats in order, hostile ones among them, are decoded, and
 * the hostile replaced.  room: attack_bytes. */
typedef struct {
    uint32_t client;
    buf *message;
} attack_seat;
typedef struct {
    size_t d;
    uint32_t round;
    uint64_t seed;
    const kern *k;
    const uint8_t *hostile; /* by client */
    om_status (*decode)(const void *ctx, const uint8_t *in, size_t n, float *y,
                        om_err *err);
    om_status (*encode)(const void *ctx, uint32_t client, const float *x, buf *out,
                        om_err *err);
    const void *ctx;
} attack_round;
size_t attack_bytes(size_t n, size_t d);
om_status attack_run(const attack_rule *a, const attack_round *r, attack_seat *seat,
                     size_t n, arena room, om_err *err);

/* ---- poisoned data ---- */

/* out (n) = classes - 1 - label. */
void poison_labels(const int32_t *label, size_t n, uint32_t classes, int32_t *out);
/* A 3 x 3 white corner on rows of height x width bytes, in place. */
void poison_trigger(uint8_t *rows, size_t n, uint32_t height, uint32_t width);

#endif
