/* test_round.c - the round machine under ten thousand simulated devices.
 *
 * A virtual clock and a heap of pending happenings drive round_step: devices join, poll
 * in their windows, lose their task, deliver late, deliver twice, deliver to the wrong
 * round; the store fails now and then; the coordinator "crashes" at random moments,
 * which throws away everything but the saved snapshot and the stored updates.  After
 * every event the invariants of round.h are proved again, and the world keeps its own
 * books of what was accepted to compare with. */
#include "proto/round.h"
#include "test.h"

static const round_plan small = {.n_clients = 10,
                                 .start_devices = 10,
                                 .cohort = 4,
                                 .over = 2,
                                 .min_accepted = 3,
                                 .max_attempts = 3,
                                 .n_rounds = 2,
                                 .retry_min_ms = 10,
                                 .retry_max_ms = 20,
                                 .deadline_ms = 1000,
                                 .seed = 7};

typedef struct {
    round_state s;
    uint8_t device[16];
    char scratch[8192];
} tiny;

static round_action step(tiny *w, round_event_kind kind, uint32_t device, uint64_t now)
{
    round_event e = {kind, device, w->s.round, w->s.attempt};
    return round_step(&w->s, e, now, arena_of(w->scratch, sizeof(w->scratch)));
}

static void tiny_open(tiny *w, const round_plan *p)
{
    *w = (tiny){0};
    round_init(&w->s, p, w->device);
    for (uint32_t i = 0; i < p->n_clients; i++)
        step(w, EV_JOINED, i, 0);
}

/* The k-th device that may deliver. */
static uint32_t selected(const tiny *w, uint32_t k)
{
    for (uint32_t i = 0; i < w->s.plan.n_clients; i++)
        if ((w->device[i] & (ROUND_SELECTED | ROUND_ACCEPTED | ROUND_PENDING)) ==
                ROUND_SELECTED &&
            k-- == 0)
            return i;
    return UINT32_MAX;
}

static round_action deliver(tiny *w, uint32_t d)
{
    round_action a = step(w, EV_OFFER, d, 5);
    return a.answer == ROUND_TAKE ? step(w, EV_STORED, d, 5) : a;
}

static void undisturbed(test *t)
{
    tiny w;
    tiny_open(&w, &small);
    CHECK_INT(t, w.s.phase, ROUND_OPEN);
    CHECK_INT(t, w.s.selected, 6);
    uint32_t idle = 0;
    while (w.device[idle] & ROUND_SELECTED)
        idle++;
    CHECK_INT(t, step(&w, EV_CHECKIN, idle, 1).answer, ROUND_GIVE_WAIT);
    CHECK_INT(t, step(&w, EV_CHECKIN, selected(&w, 0), 1).answer, ROUND_GIVE_TASK);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 3; i++)
            CHECK_INT(t, deliver(&w, selected(&w, 0)).todo, 0);
        CHECK_INT(t, deliver(&w, selected(&w, 0)).todo, ROUND_DO_CLOSE);
        CHECK_INT(t, w.s.phase, ROUND_CLOSING);
        CHECK_INT(t, step(&w, EV_CHECKIN, 0, 6).answer, ROUND_GIVE_WAIT);
        unsigned todo = step(&w, EV_COMMITTED, 0, 7).todo;
        CHECK_INT(t, todo, round ? ROUND_DO_SAVE | ROUND_DO_END : ROUND_DO_SAVE);
    }
    CHECK_INT(t, w.s.phase, ROUND_FINISHED);
    CHECK_INT(t, step(&w, EV_CHECKIN, 3, 9).answer, ROUND_GIVE_END);
    CHECK(t, round_check(&w.s) == NULL);
}

static void refusals(test *t)
{
    tiny w;
    tiny_open(&w, &small);
    arena a = arena_of(w.scratch, sizeof(w.scratch));
    uint32_t in = selected(&w, 0), out = 0;
    while (w.device[out] & ROUND_SELECTED)
        out++;
    CHECK_INT(t, step(&w, EV_OFFER, out, 1).reason, WIRE_NOT_SELECTED);
    CHECK_INT(t, round_step(&w.s, (round_event){EV_OFFER, in, 1, 0}, 1, a).reason,
              WIRE_WRONG_ROUND);
    CHECK_INT(t, round_step(&w.s, (round_event){EV_OFFER, in, 0, 1}, 1, a).reason,
              WIRE_WRONG_ROUND);
    CHECK_INT(t, round_step(&w.s, (round_event){EV_OFFER, 10, 0, 0}, 1, a).reason,
              WIRE_UNKNOWN_DEVICE);
    CHECK_INT(t, step(&w, EV_OFFER, in, 1).answer, ROUND_TAKE);
    CHECK_INT(t, step(&w, EV_OFFER, in, 1).reason, WIRE_IN_PROGRESS);
    step(&w, EV_UNSTORED, in, 1);
    CHECK_INT(t, w.s.pending, 0);
    deliver(&w, in);
    CHECK_INT(t, step(&w, EV_OFFER, in, 1).reason, WIRE_REPLAY);
    /* four places, one taken: three pending fill it */
    for (int i = 0; i < 3; i++)
        CHECK_INT(t, step(&w, EV_OFFER, selected(&w, 0), 1).answer, ROUND_TAKE);
    CHECK_INT(t, step(&w, EV_OFFER, selected(&w, 0), 1).reason, WIRE_ROUND_FULL);
    CHECK_INT(t, step(&w, EV_TICK, 0, 5000).todo, 0); /* never closes over a pending one */
    for (uint32_t d = 0; d < 10; d++)
        if (w.device[d] & ROUND_PENDING)
            step(&w, EV_STORED, d, 1);
    CHECK_INT(t, deliver(&w, selected(&w, 0)).reason, WIRE_LATE);
    step(&w, EV_COMMITTED, 0, 2);
    CHECK_INT(t, round_step(&w.s, (round_event){EV_OFFER, in, 0, 0}, 1, a).reason,
              WIRE_LATE);
    step(&w, EV_STOP, 0, 3);
    CHECK_INT(t, w.s.phase, ROUND_ABANDONED);
    CHECK_INT(t, step(&w, EV_OFFER, in, 1).reason, WIRE_RUN_OVER);
    CHECK(t, round_check(&w.s) == NULL);
}

static void deadline(test *t)
{
    tiny w;
    tiny_open(&w, &small);
    uint32_t kept = selected(&w, 1);
    deliver(&w, kept);
    for (uint32_t d = 0; d < 10; d++)
        step(&w, EV_CHECKIN, d, 10);
    CHECK_INT(t, step(&w, EV_TICK, 0, 999).todo, 0);
    CHECK_INT(t, step(&w, EV_TICK, 0, 1000).todo, ROUND_DO_SAVE);
    CHECK_INT(t, w.s.attempt, 1);
    CHECK_INT(t, w.s.deadline_ms, 2000);
    CHECK_INT(t, w.s.accepted, 1); /* what was accepted stays */
    CHECK(t, (w.device[kept] & ROUND_ACCEPTED) != 0);
    CHECK_INT(t, w.s.selected, 10); /* 6 and the 4 others that called */
    deliver(&w, selected(&w, 0));
    deliver(&w, selected(&w, 0));
    CHECK_INT(t, step(&w, EV_TICK, 0, 2000).todo, ROUND_DO_CLOSE | ROUND_DO_SAVE);
    tiny_open(&w, &small);
    for (int i = 0; i < 3; i++)
        step(&w, EV_TICK, 0, (uint64_t)(1000 * (i + 1)));
    CHECK_INT(t, w.s.phase, ROUND_ABANDONED);
    CHECK(t, round_check(&w.s) == NULL);
}

static void plans(test *t)
{
    om_err err = {0};
    CHECK_OK(t, round_plan_check(&small, &err), err);
    round_plan p = small;
    p.cohort = 11;
    CHECK_INT(t, round_plan_check(&p, &err), OM_EARG);
    p = small;
    p.min_accepted = 5;
    CHECK_INT(t, round_plan_check(&p, &err), OM_EARG);
    p = small;
    p.retry_min_ms = 21;
    CHECK_INT(t, round_plan_check(&p, &err), OM_EARG);
    p = small;
    p.over = UINT32_MAX;
    CHECK_INT(t, round_plan_check(&p, &err), OM_EARG);
}

static void snapshots(test *t)
{
    tiny w, back;
    om_err err = {0};
    uint8_t raw[256];
    tiny_open(&w, &small);
    deliver(&w, selected(&w, 0));
    buf b = buf_fixed(raw, sizeof(raw));
    CHECK_INT(t, round_save(&w.s, &b), OM_OK);
    CHECK_OK(t, round_load(&back.s, &small, back.device, raw, b.len, &err), err);
    CHECK(t, memcmp(back.device, w.device, 10) == 0);
    CHECK_INT(t, back.s.deadline_ms, w.s.deadline_ms);
    for (size_t n = 0; n < b.len; n++)
        CHECK_INT(t, round_load(&back.s, &small, back.device, raw, n, &err), OM_EFORMAT);
    raw[b.len - 1] = ROUND_ACCEPTED; /* accepted but never selected */
    CHECK_INT(t, round_load(&back.s, &small, back.device, raw, b.len, &err), OM_EFORMAT);
    CHECK(t, strstr(err.msg, "invariant 2") != NULL);
}

/* ---- the world ------------------------------------------------------------------------
 */

enum { DEVICES = 10000, ROUNDS = 12, COHORT = 1000 };

typedef enum { POLL, TRAINED, WRITTEN, LOST_WRITE, TIMER, FOLDED, CRASH } happening_kind;

typedef struct {
    uint64_t at, order; /* order breaks ties, so a run repeats exactly */
    happening_kind kind;
    uint32_t device, round, attempt;
} happening;

typedef struct {
    test *t;
    round_plan plan;
    round_state s;
    uint8_t *device, *stored; /* (DEVICES) flags; who is in the store for this round */
    uint8_t *delivered;       /* (ROUNDS x DEVICES) folded, for the final audit */
    buf snapshot;
    void *scratch;
    happening *heap;
    size_t n, cap;
    uint64_t now, order, events;
    rng r;
    uint32_t n_stored, round_seen, accepted_seen, crashes, retries, refused[WIRE_REASONS];
} world;

static bool before(const happening *a, const happening *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void plan_for(world *w, uint64_t in_ms, happening_kind kind, uint32_t device)
{
    happening h = {w->now + in_ms, w->order++, kind, device, w->s.round, w->s.attempt};
    BUG_IF(w->n == w->cap);
    size_t i = w->n++;
    for (; i && before(&h, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = h;
}

static happening next_happening(world *w)
{
    happening first = w->heap[0], last = w->heap[--w->n];
    size_t i = 0, c;
    for (; (c = 2 * i + 1) < w->n; i = c) {
        if (c + 1 < w->n && before(&w->heap[c + 1], &w->heap[c]))
            c++;
        if (!before(&w->heap[c], &last))
            break;
        w->heap[i] = w->heap[c];
    }
    w->heap[i] = last;
    return first;
}

static void save(world *w)
{
    w->snapshot.len = 0;
    BUG_IF(round_save(&w->s, &w->snapshot) != OM_OK);
}

/* Every event goes through here: O(1) checks always, the full proof (O(devices)) after
 * every 64th event and at every change of phase. */
static round_action feed(world *w, round_event_kind kind, uint32_t device, uint32_t round,
                         uint32_t attempt)
{
    round_phase was = w->s.phase;
    uint32_t was_attempt = w->s.attempt;
    round_event e = {kind, device, round, attempt};
    round_action a =
        round_step(&w->s, e, w->now, arena_of(w->scratch, round_scratch_bytes(&w->plan)));
    CHECK(w->t, w->s.round >= w->round_seen); /* invariant 8 */
    if (w->s.round == w->round_seen)
        CHECK(w->t, w->s.accepted >= w->accepted_seen);
    w->round_seen = w->s.round;
    w->accepted_seen = w->s.accepted;
    if (++w->events % 64 == 0 || w->s.phase != was) {
        const char *broken = round_check(&w->s);
        if (broken)
            test_fail(w->t, __FILE__, __LINE__, "invariant %s", broken);
    }
    if (a.todo & ROUND_DO_SAVE)
        save(w);
    w->retries += w->s.attempt > was_attempt;
    if (a.todo & ROUND_DO_CLOSE)
        plan_for(w, 50, FOLDED, 0);
    if (a.answer == ROUND_REFUSE)
        w->refused[a.reason]++;
    return a;
}

static void poll(world *w, uint32_t d)
{
    round_action a = feed(w, EV_CHECKIN, d, 0, 0);
    if (a.answer == ROUND_GIVE_TASK) {
        uint32_t luck = rng_below(&w->r, 100);
        if (luck < 60) /* two fifths drop out; some are far slower than the deadline */
            plan_for(w, 100 + rng_below(&w->r, luck < 5 ? 20000 : 2500), TRAINED, d);
        if (luck < 8) /* the network repeats it */
            plan_for(w, 150 + rng_below(&w->r, 6000), TRAINED, d);
        plan_for(w, 4000, POLL, d);
    } else if (a.answer == ROUND_GIVE_WAIT) {
        plan_for(w, a.retry_min_ms + rng_below(&w->r, a.retry_max_ms - a.retry_min_ms + 1),
                 POLL, d);
    }
}

static void trained(world *w, happening h)
{
    uint32_t lie = rng_below(&w->r, 50) == 0; /* some name a round that is not open */
    round_action a = feed(w, EV_OFFER, h.device, h.round + lie, h.attempt);
    if (a.answer == ROUND_TAKE)
        plan_for(w, 1 + rng_below(&w->r, 30), rng_below(&w->r, 40) ? WRITTEN : LOST_WRITE,
                 h.device);
}

/* The store commits, then the machine is told; a crash may come between. */
static void written(world *w, happening h)
{
    if (h.round != w->s.round || !(w->device[h.device] & ROUND_PENDING))
        return; /* written for a coordinator that has crashed since */
    CHECK(w->t, !w->stored[h.device]);
    w->stored[h.device] = 1;
    w->n_stored++;
    if (rng_below(&w->r, 1000) == 0)
        plan_for(w, 0, CRASH, 1); /* between the commit and the answer */
    else
        feed(w, EV_STORED, h.device, 0, 0);
}

static void folded(world *w, happening h)
{
    if (w->s.phase != ROUND_CLOSING || h.round != w->s.round)
        return;
    CHECK_INT(w->t, w->n_stored, w->s.accepted); /* nothing lost, nothing twice */
    for (uint32_t d = 0; d < DEVICES; d++) {
        CHECK(w->t, w->stored[d] == ((w->device[d] & ROUND_ACCEPTED) != 0));
        w->delivered[(size_t)w->s.round * DEVICES + d] = w->stored[d];
    }
    memset(w->stored, 0, DEVICES);
    w->n_stored = 0;
    feed(w, EV_COMMITTED, 0, w->s.round, 0);
}

/* Only the snapshot and the store survive. */
static void crash(world *w)
{
    om_err err = {0};
    w->crashes++;
    memset(w->device, 0xff, DEVICES);
    CHECK_OK(
        w->t,
        round_load(&w->s, &w->plan, w->device, w->snapshot.data, w->snapshot.len, &err),
        err);
    w->accepted_seen = 0;
    for (uint32_t d = 0; d < DEVICES; d++)
        if (w->stored[d])
            feed(w, EV_STORED, d, 0, 0);
    feed(w, EV_RESUMED, 0, 0, 0);
    CHECK_INT(w->t, w->s.accepted, w->n_stored);
}

static void world_open(world *w, test *t, uint64_t seed)
{
    *w = (world){.t = t, .r = rng_for(seed, 0, 0, 0), .cap = DEVICES * 4};
    w->plan = (round_plan){.n_clients = DEVICES,
                           .start_devices = DEVICES - 500, /* some join while it runs */
                           .cohort = COHORT,
                           .over = 200,
                           .min_accepted = 950,
                           .max_attempts = 50,
                           .n_rounds = ROUNDS,
                           .retry_min_ms = 500,
                           .retry_max_ms = 3000,
                           .deadline_ms = 5000,
                           .seed = seed};
    w->device = mem_alloc(DEVICES);
    w->stored = mem_alloc(DEVICES);
    w->delivered = mem_array(DEVICES, ROUNDS);
    w->scratch = mem_alloc(round_scratch_bytes(&w->plan));
    w->heap = mem_array(w->cap, sizeof(*w->heap));
    w->snapshot = buf_growing(1 << 20);
    round_init(&w->s, &w->plan, w->device);
    save(w);
    for (uint32_t d = 0; d < DEVICES; d++)
        plan_for(w, rng_below(&w->r, 2000), POLL, d);
    plan_for(w, 100, TIMER, 0);
    plan_for(w, 4000, CRASH, 0);
}

static void world_close(world *w)
{
    mem_free(w->device);
    mem_free(w->stored);
    mem_free(w->delivered);
    mem_free(w->scratch);
    mem_free(w->heap);
    buf_free(&w->snapshot);
}

static void happen(world *w, happening h)
{
    switch (h.kind) {
    case POLL:
        if (!(w->device[h.device] & ROUND_JOINED)) {
            feed(w, EV_JOINED, h.device, 0, 0);
            save(w); /* a registration is durable */
        }
        poll(w, h.device);
        break;
    case TRAINED:
        trained(w, h);
        break;
    case WRITTEN:
        written(w, h);
        break;
    case LOST_WRITE:
        if (h.round == w->s.round && (w->device[h.device] & ROUND_PENDING))
            feed(w, EV_UNSTORED, h.device, 0, 0);
        break;
    case TIMER:
        feed(w, EV_TICK, 0, 0, 0);
        plan_for(w, 100, TIMER, 0);
        break;
    case FOLDED:
        folded(w, h);
        break;
    case CRASH:
        crash(w);
        if (h.device == 0)
            plan_for(w, 3000 + rng_below(&w->r, 15000), CRASH, 0);
        break;
    }
}

/* Saving at every registration copies 10 kB; the snapshot then holds accepted flags
 * too, and replaying the store over it must not count anything twice. */
static void ten_thousand(test *t)
{
    world w;
    world_open(&w, t, 20);
    while (w.s.phase != ROUND_FINISHED && w.s.phase != ROUND_ABANDONED &&
           w.events < 3000000) {
        happening h = next_happening(&w);
        w.now = h.at;
        happen(&w, h);
    }
    CHECK_INT(t, w.s.phase, ROUND_FINISHED);
    for (size_t round = 0; round < ROUNDS; round++) {
        uint32_t n = 0;
        for (size_t d = 0; d < DEVICES; d++)
            n += w.delivered[round * DEVICES + d];
        CHECK(t, n >= 950 && n <= COHORT);
    }
    /* the world really was hostile */
    CHECK(t, w.crashes > 5 && w.retries > 0);
    CHECK(t, w.refused[WIRE_WRONG_ROUND] && w.refused[WIRE_REPLAY] && w.refused[WIRE_LATE]);
    world_close(&w);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"undisturbed", "join, select, accept, close, commit, finish", undisturbed},
        {"refusals", "every reason to refuse an update", refusals},
        {"deadline", "retry keeps what was accepted; attempts run out", deadline},
        {"plans", "plans that cannot work are refused", plans},
        {"snapshots", "save and load; truncation; broken invariants", snapshots},
        {"ten_thousand", "10,000 devices, dropouts, repeats, crashes", ten_thousand},
        {0}};
    return test_main(argc, argv, cases);
}
