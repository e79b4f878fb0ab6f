/* round.h - the life of a federated run as a pure state machine.
 *
 * (state, event, now) -> state', action.  No input or output, no clock, no memory after
 * round_init: the coordinator wraps it in HTTP and SQLite, a unit test drives ten
 * thousand simulated devices through it on a virtual clock.
 *
 *                    START_DEVICES joined
 *      WAITING ------------------------------> OPEN <-----------------------+
 *                                              |  ^                         |
 *                       deadline, accepted<min |  | attempts left:          |
 *                                              +--+ deadline renewed,       |
 *                                              |    replacements selected   |
 *        accepted == cohort, or                |                            |
 *        deadline with accepted >= min         |                            |
 *                 +----------------------------+                            |
 *                 v                            | no attempts left           |
 *              CLOSING --- COMMITTED, rounds left --------------------------+
 *                 |                            v
 *                 | COMMITTED, last         ABANDONED <--- STOP from anywhere
 *                 v
 *              FINISHED
 *
 * Accepting an update takes two events, because a promise to a device must be durable
 * first: OFFER asks whether it would be taken and reserves the place (PENDING), then
 * the coordinator writes it to disk, then STORED makes it count, or UNSTORED gives the
 * place back.
 *
 * INVARIANTS (round_check proves them; the test calls it after every event)
 *  1. accepted, pending, selected and joined equal the number of devices so flagged.
 *  2. An accepted or pending device is selected; a selected device has joined.
 *  3. No device is both pending and accepted: one update per (run, round, device).
 *  4. accepted + pending <= cohort: what is accepted is folded, never thrown away.
 *  5. OPEN has accepted < cohort; CLOSING has pending == 0 and accepted >= min_accepted.
 *  6. Outside OPEN nothing is pending.
 *  7. round <= n_rounds, and FINISHED exactly when round == n_rounds; attempt <
 *     max_attempts.
 *  8. Time only moves the phase forward: round never falls; inside a round accepted
 *     never falls (checked by the test, which sees both states). */
#ifndef PROTO_ROUND_H
#define PROTO_ROUND_H

#include "proto/wire.h"

typedef enum {
    ROUND_WAITING,
    ROUND_OPEN,
    ROUND_CLOSING,
    ROUND_FINISHED,
    ROUND_ABANDONED,
    ROUND_PHASES
} round_phase;

const char *round_phase_name(round_phase p); /* "waiting" ... */

typedef struct {
    uint32_t n_clients;     /* places in the population: client indices 0..n-1      */
    uint32_t start_devices; /* joined devices that open the first round             */
    uint32_t cohort;        /* accepted updates that close a round                  */
    uint32_t over;          /* selected beyond the cohort, against dropouts         */
    uint32_t min_accepted;  /* enough at the deadline; fewer and the round is retried */
    uint32_t max_attempts;  /* per round                                            */
    uint32_t n_rounds;
    uint32_t retry_min_ms, retry_max_ms; /* the window given to devices with no task */
    uint64_t deadline_ms; /* length of an attempt                                 */
    uint64_t seed;
} round_plan;

om_status round_plan_check(const round_plan *p, om_err *err);

enum {
    ROUND_JOINED = 1u << 0,
    ROUND_SELECTED = 1u << 1,
    ROUND_TASKED = 1u << 2,  /* took the task                    */
    ROUND_PENDING = 1u << 3, /* its update is being made durable */
    ROUND_ACCEPTED = 1u << 4,
    ROUND_PRESENT = 1u << 5, /* asked for work in this attempt   */
};

typedef struct {
    round_plan plan;
    round_phase phase;
    uint32_t round, attempt;
    uint32_t joined, selected, accepted, pending;
    uint64_t opened_ms, deadline_ms; /* of this attempt, on the caller's clock */
    uint8_t *device;                 /* (n_clients) flags above                */
} round_state;

typedef enum {
    EV_JOINED,    /* device                                               */
    EV_CHECKIN,   /* device asks for work                                 */
    EV_OFFER,     /* device, round, attempt: would this update be taken?  */
    EV_STORED,    /* device: the offered update is durable                */
    EV_UNSTORED,  /* device: it could not be stored or was found invalid  */
    EV_TICK,      /* time has passed                                      */
    EV_COMMITTED, /* round: its new model version is durable              */
    EV_RESUMED,   /* the coordinator was away: renew the attempt's time   */
    EV_STOP       /* the operator gives up the run                        */
} round_event_kind;

typedef struct {
    round_event_kind kind;
    uint32_t device, round, attempt;
} round_event;

enum {                           /* what the coordinator must do, in this order */
       ROUND_DO_SAVE = 1u << 0,  /* make the new state durable before answering */
       ROUND_DO_CLOSE = 1u << 1, /* fold the accepted updates, then COMMITTED   */
       ROUND_DO_END = 1u << 2,   /* the run is over: finished or abandoned      */
};

typedef enum {
    ROUND_NOTHING,
    ROUND_GIVE_TASK,
    ROUND_GIVE_WAIT,
    ROUND_GIVE_END,
    ROUND_TAKE,
    ROUND_REFUSE
} round_answer;

typedef struct {
    round_answer answer;
    wire_reason reason;                  /* for ROUND_REFUSE */
    uint32_t retry_min_ms, retry_max_ms; /* for ROUND_GIVE_WAIT and refusals */
    unsigned todo;                       /* ROUND_DO_* */
} round_action;

/* `device` has plan->n_clients bytes that live as long as the state. */
void round_init(round_state *s, const round_plan *plan, uint8_t *device);

/* Scratch for round_step: selection needs two index arrays. */
size_t round_scratch_bytes(const round_plan *p);
round_action round_step(round_state *s, round_event e, uint64_t now_ms, arena scratch);

/* Would EV_OFFER be taken now?  WIRE_OK, or the reason why not; changes nothing. */
wire_reason round_judge(const round_state *s, uint32_t device, uint32_t round,
                        uint32_t attempt);

/* Same state in other storage (device: n_clients bytes), so that a caller can step a
 * copy, make it durable and only then show it. */
void round_copy(round_state *to, const round_state *from, uint8_t *device);

/* Durable form.  PENDING, TASKED and PRESENT are not kept: after a crash a pending
 * update is either in the store, and the caller replays STORED for it, or it is not and
 * the device sends it again.  round_load refuses bytes that break an invariant. */
om_status round_save(const round_state *s, buf *out);
om_status round_load(round_state *s, const round_plan *plan, uint8_t *device, const void *p,
                     size_t n, om_err *err);

/* NULL, or the broken invariant in words. O(n_clients). */
const char *round_check(const round_state *s);

#endif
