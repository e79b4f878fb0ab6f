/* round.c - see round.h for the drawing and the invariants.
 *
 * SELECTION.  Attempt 0 of a round takes fl_cohort(seed, round) over the joined devices
 * in index order: when everybody has joined it is exactly the simulator's choice.  A
 * later attempt keeps everyone already selected (they may still deliver, and what was
 * accepted stays accepted) and adds as many as are missing, chosen the same way under a
 * seed of the attempt, among the devices that asked for work during the failed attempt:
 * a device that did not call is not likely to call now.
 *
 * PACE.  A device with nothing to do is told a window in which to come back; it draws
 * its own time in it.  The window grows with the population so that idle devices cost
 * at most CHECKINS_PER_SECOND. */
#include "proto/round.h"

#include "fl/algo.h"

enum { CHECKINS_PER_SECOND = 5000, SNAPSHOT_VERSION = 1, MAX_CLIENTS = 10000000 };

static const char *const phase_names[ROUND_PHASES] = {
    [ROUND_WAITING] = "waiting",     [ROUND_OPEN] = "open",
    [ROUND_CLOSING] = "closing",     [ROUND_FINISHED] = "finished",
    [ROUND_ABANDONED] = "abandoned",
};

const char *round_phase_name(round_phase p) { return phase_names[p]; }

om_status round_plan_check(const round_plan *p, om_err *err)
{
    if (p->n_clients < 1 || p->n_clients > MAX_CLIENTS)
        return fail(err, OM_EARG, "round: clients is %u; it must lie in 1..%d",
                    p->n_clients, MAX_CLIENTS);
    if (p->cohort < 1 || p->cohort > p->n_clients)
        return fail(err, OM_EARG, "round: cohort is %u of %u clients", p->cohort,
                    p->n_clients);
    if (p->over > p->n_clients)
        return fail(err, OM_EARG, "round: over-selection is %u of %u clients", p->over,
                    p->n_clients);
    if (p->start_devices < p->cohort || p->start_devices > p->n_clients)
        return fail(err, OM_EARG,
                    "round: start_devices is %u; it must lie in cohort..clients "
                    "(%u..%u)",
                    p->start_devices, p->cohort, p->n_clients);
    if (p->min_accepted < 1 || p->min_accepted > p->cohort)
        return fail(err, OM_EARG,
                    "round: min_accepted is %u; it must lie in 1..cohort (%u)",
                    p->min_accepted, p->cohort);
    if (p->n_rounds < 1 || p->max_attempts < 1)
        return fail(err, OM_EARG, "round: rounds and max_attempts must be at least 1");
    if (p->deadline_ms < 1 || p->deadline_ms > UINT64_C(30) * 24 * 3600 * 1000)
        return fail(err, OM_EARG,
                    "round: a deadline of %llu ms is not within 1 ms..30 days",
                    (unsigned long long)p->deadline_ms);
    if (p->retry_min_ms > p->retry_max_ms)
        return fail(err, OM_EARG, "round: retry window %u..%u ms is empty", p->retry_min_ms,
                    p->retry_max_ms);
    return OM_OK;
}

void round_init(round_state *s, const round_plan *plan, uint8_t *device)
{
    *s = (round_state){.plan = *plan, .device = device};
    memset(device, 0, plan->n_clients);
}

void round_copy(round_state *to, const round_state *from, uint8_t *device)
{
    *to = *from;
    to->device = device;
    memcpy(device, from->device, from->plan.n_clients);
}

size_t round_scratch_bytes(const round_plan *p)
{
    return 2 * arena_bytes(uint32_t, p->n_clients) + fl_cohort_bytes(p->n_clients);
}

/* ---- selection ---------------------------------------------------------------------- */

static void select_devices(round_state *s, unsigned need, unsigned avoid, uint32_t want,
                           uint64_t seed, arena scratch)
{
    uint32_t *candidate = arena_new(&scratch, uint32_t, s->plan.n_clients);
    uint32_t *chosen = arena_new(&scratch, uint32_t, s->plan.n_clients);
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->plan.n_clients; i++)
        if ((s->device[i] & (need | avoid)) == need)
            candidate[n++] = i;
    want = want < n ? want : n;
    if (want == 0)
        return;
    fl_cohort(seed, s->round, n, want, chosen, scratch);
    for (uint32_t i = 0; i < want; i++)
        s->device[candidate[chosen[i]]] |= ROUND_SELECTED;
    s->selected += want;
}

static void start_clock(round_state *s, uint64_t now)
{
    s->opened_ms = now;
    s->deadline_ms = now + s->plan.deadline_ms;
}

static void open_round(round_state *s, uint64_t now, arena scratch)
{
    for (uint32_t i = 0; i < s->plan.n_clients; i++)
        s->device[i] &= ROUND_JOINED;
    s->phase = ROUND_OPEN;
    s->attempt = s->selected = s->accepted = s->pending = 0;
    start_clock(s, now);
    select_devices(s, ROUND_JOINED, 0, s->plan.cohort + s->plan.over, s->plan.seed,
                   scratch);
}

static void retry_round(round_state *s, uint64_t now, arena scratch)
{
    uint32_t missing = s->plan.cohort - s->accepted;
    s->attempt++;
    start_clock(s, now);
    select_devices(s, ROUND_JOINED | ROUND_PRESENT, ROUND_SELECTED, missing + s->plan.over,
                   s->plan.seed ^ (s->attempt * UINT64_C(0x9e3779b97f4a7c15)), scratch);
    for (uint32_t i = 0; i < s->plan.n_clients; i++)
        s->device[i] &= (uint8_t)~ROUND_PRESENT;
}

/* ---- answers ------------------------------------------------------------------------ */

static round_action act(round_answer answer, unsigned todo)
{
    return (round_action){.answer = answer, .todo = todo};
}

static round_action with_window(const round_state *s, round_action a)
{
    uint32_t spread = s->plan.n_clients / CHECKINS_PER_SECOND * 1000;
    a.retry_min_ms = s->plan.retry_min_ms;
    a.retry_max_ms = s->plan.retry_max_ms > spread ? s->plan.retry_max_ms : spread;
    return a;
}

static round_action refuse(const round_state *s, wire_reason reason)
{
    round_action a = act(ROUND_REFUSE, 0);
    a.reason = reason;
    return with_window(s, a);
}

static bool over(const round_state *s)
{
    return s->phase == ROUND_FINISHED || s->phase == ROUND_ABANDONED;
}

/* ---- events ------------------------------------------------------------------------- */

static round_action joined(round_state *s, uint32_t d, uint64_t now, arena scratch)
{
    if (!(s->device[d] & ROUND_JOINED)) {
        s->device[d] |= ROUND_JOINED;
        s->joined++;
    }
    if (s->phase != ROUND_WAITING || s->joined < s->plan.start_devices)
        return act(ROUND_NOTHING, 0);
    open_round(s, now, scratch);
    return act(ROUND_NOTHING, ROUND_DO_SAVE);
}

static round_action checkin(round_state *s, uint32_t d)
{
    if (over(s))
        return act(ROUND_GIVE_END, 0);
    if (!(s->device[d] & ROUND_JOINED))
        return refuse(s, WIRE_UNKNOWN_DEVICE);
    s->device[d] |= ROUND_PRESENT;
    unsigned has = s->device[d] & (ROUND_SELECTED | ROUND_PENDING | ROUND_ACCEPTED);
    if (s->phase != ROUND_OPEN || has != ROUND_SELECTED)
        return with_window(s, act(ROUND_GIVE_WAIT, 0));
    if (s->accepted + s->pending >= s->plan.cohort) /* no place left: spare the work */
        return with_window(s, act(ROUND_GIVE_WAIT, 0));
    s->device[d] |= ROUND_TASKED;
    return act(ROUND_GIVE_TASK, 0);
}

wire_reason round_judge(const round_state *s, uint32_t device, uint32_t round,
                        uint32_t attempt)
{
    if (device >= s->plan.n_clients)
        return WIRE_UNKNOWN_DEVICE;
    unsigned d = s->device[device];
    if (over(s))
        return WIRE_RUN_OVER;
    if (round > s->round || (round == s->round && s->phase == ROUND_WAITING))
        return WIRE_WRONG_ROUND;
    if (round < s->round)
        return WIRE_LATE;
    if (!(d & ROUND_SELECTED))
        return WIRE_NOT_SELECTED;
    if (d & ROUND_ACCEPTED)
        return WIRE_REPLAY;
    if (s->phase != ROUND_OPEN)
        return WIRE_LATE;
    if (d & ROUND_PENDING)
        return WIRE_IN_PROGRESS;
    if (attempt > s->attempt)
        return WIRE_WRONG_ROUND;
    if (s->accepted + s->pending >= s->plan.cohort)
        return WIRE_ROUND_FULL;
    return WIRE_OK;
}

static round_action offer(round_state *s, round_event e)
{
    wire_reason no = round_judge(s, e.device, e.round, e.attempt);
    if (no != WIRE_OK)
        return refuse(s, no);
    s->device[e.device] |= ROUND_PENDING;
    s->pending++;
    return act(ROUND_TAKE, 0);
}

static round_action close_round(round_state *s, unsigned todo)
{
    s->phase = ROUND_CLOSING;
    return act(ROUND_NOTHING, todo | ROUND_DO_CLOSE);
}

static round_action tick(round_state *s, uint64_t now, arena scratch)
{
    if (s->phase != ROUND_OPEN || now < s->deadline_ms || s->pending > 0)
        return act(ROUND_NOTHING, 0);
    if (s->accepted >= s->plan.min_accepted) /* saved: a restart must not reopen it */
        return close_round(s, ROUND_DO_SAVE);
    if (s->attempt + 1 < s->plan.max_attempts) {
        retry_round(s, now, scratch);
        return act(ROUND_NOTHING, ROUND_DO_SAVE);
    }
    s->phase = ROUND_ABANDONED;
    return act(ROUND_NOTHING, ROUND_DO_SAVE | ROUND_DO_END);
}

/* Also replays a stored update after a restart, when nothing is pending. */
static round_action stored(round_state *s, round_event e, bool kept)
{
    uint8_t *d = &s->device[e.device];
    if (s->phase != ROUND_OPEN || (*d & ROUND_ACCEPTED) || !(*d & ROUND_SELECTED))
        return act(ROUND_NOTHING, 0);
    if (*d & ROUND_PENDING) {
        *d &= (uint8_t)~ROUND_PENDING;
        s->pending--;
    }
    if (!kept || s->accepted + s->pending >= s->plan.cohort)
        return act(ROUND_NOTHING, 0);
    *d |= ROUND_ACCEPTED;
    s->accepted++;
    return s->accepted == s->plan.cohort ? close_round(s, 0) : act(ROUND_NOTHING, 0);
}

static round_action committed(round_state *s, uint32_t round, uint64_t now, arena scratch)
{
    if (s->phase != ROUND_CLOSING || round != s->round)
        return act(ROUND_NOTHING, 0);
    s->round++;
    if (s->round < s->plan.n_rounds) {
        open_round(s, now, scratch);
        return act(ROUND_NOTHING, ROUND_DO_SAVE);
    }
    for (uint32_t i = 0; i < s->plan.n_clients; i++)
        s->device[i] &= ROUND_JOINED;
    s->attempt = s->selected = s->accepted = 0;
    s->phase = ROUND_FINISHED;
    return act(ROUND_NOTHING, ROUND_DO_SAVE | ROUND_DO_END);
}

static round_action stop(round_state *s)
{
    if (over(s))
        return act(ROUND_NOTHING, 0);
    for (uint32_t i = 0; i < s->plan.n_clients; i++)
        s->device[i] &= (uint8_t)~ROUND_PENDING;
    s->pending = 0;
    s->phase = ROUND_ABANDONED;
    return act(ROUND_NOTHING, ROUND_DO_SAVE | ROUND_DO_END);
}

round_action round_step(round_state *s, round_event e, uint64_t now, arena scratch)
{
    bool about_device = e.kind <= EV_UNSTORED;
    if (about_device && e.device >= s->plan.n_clients)
        return refuse(s, WIRE_UNKNOWN_DEVICE);
    switch (e.kind) {
    case EV_JOINED:
        return joined(s, e.device, now, scratch);
    case EV_CHECKIN:
        return checkin(s, e.device);
    case EV_OFFER:
        return offer(s, e);
    case EV_STORED:
        return stored(s, e, true);
    case EV_UNSTORED:
        return stored(s, e, false);
    case EV_TICK:
        return tick(s, now, scratch);
    case EV_COMMITTED:
        return committed(s, e.round, now, scratch);
    case EV_RESUMED:
        if (s->phase == ROUND_OPEN)
            start_clock(s, now);
        return act(ROUND_NOTHING, s->phase == ROUND_CLOSING ? ROUND_DO_CLOSE : 0);
    case EV_STOP:
        return stop(s);
    }
    return act(ROUND_NOTHING, 0);
}

/* ---- the invariants, executable ----------------------------------------------------- */

static uint32_t count(const round_state *s, unsigned flag)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->plan.n_clients; i++)
        n += (s->device[i] & flag) != 0;
    return n;
}

static const char *check_devices(const round_state *s)
{
    for (uint32_t i = 0; i < s->plan.n_clients; i++) {
        unsigned d = s->device[i], taken = d & (ROUND_PENDING | ROUND_ACCEPTED);
        if (taken == (ROUND_PENDING | ROUND_ACCEPTED))
            return "3: a device is both pending and accepted";
        if (taken && !(d & ROUND_SELECTED))
            return "2: an update of a device that was not selected";
        if ((d & ROUND_SELECTED) && !(d & ROUND_JOINED))
            return "2: a device was selected that never joined";
    }
    return NULL;
}

const char *round_check(const round_state *s)
{
    const round_plan *p = &s->plan;
    if (s->joined != count(s, ROUND_JOINED) || s->selected != count(s, ROUND_SELECTED) ||
        s->accepted != count(s, ROUND_ACCEPTED) || s->pending != count(s, ROUND_PENDING))
        return "1: a counter differs from the flags";
    const char *broken = check_devices(s);
    if (broken)
        return broken;
    if (s->accepted > p->cohort || s->pending > p->cohort - s->accepted)
        return "4: more updates taken than the cohort";
    if (s->phase == ROUND_OPEN && s->accepted >= p->cohort)
        return "5: open though the cohort is complete";
    if (s->phase == ROUND_CLOSING && s->accepted < p->min_accepted)
        return "5: closing with too few updates";
    if (s->phase != ROUND_OPEN && s->pending)
        return "6: pending outside an open round";
    if (s->phase >= ROUND_PHASES || s->round > p->n_rounds || s->attempt >= p->max_attempts)
        return "7: round, attempt or phase out of range";
    if ((s->round == p->n_rounds) != (s->phase == ROUND_FINISHED))
        return "7: finished and the last round disagree";
    return NULL;
}

/* ---- durable form ---------------------------------------------------------------------
 */

om_status round_save(const round_state *s, buf *out)
{
    const uint32_t head[] = {SNAPSHOT_VERSION, s->plan.n_clients, (uint32_t)s->phase,
                             s->round, s->attempt};
    TRY(buf_reserve(out, sizeof(head) + 16 + s->plan.n_clients));
    for (size_t i = 0; i < countof(head); i++)
        TRY(buf_u32(out, head[i]));
    TRY(buf_u64(out, s->opened_ms));
    TRY(buf_u64(out, s->deadline_ms));
    for (uint32_t i = 0; i < s->plan.n_clients; i++) {
        unsigned kept = ROUND_JOINED | ROUND_SELECTED | ROUND_ACCEPTED;
        TRY(buf_u8(out, (uint8_t)(s->device[i] & kept)));
    }
    return OM_OK;
}

om_status round_load(round_state *s, const round_plan *plan, uint8_t *device, const void *p,
                     size_t n, om_err *err)
{
    cursor c = cursor_of(p, n);
    round_init(s, plan, device);
    uint32_t version = cursor_u32(&c), clients = cursor_u32(&c), phase = cursor_u32(&c);
    s->round = cursor_u32(&c);
    s->attempt = cursor_u32(&c);
    s->opened_ms = cursor_u64(&c);
    s->deadline_ms = cursor_u64(&c);
    const uint8_t *flags = c.ok ? cursor_take(&c, plan->n_clients) : NULL;
    if (!flags || c.pos != n || version != SNAPSHOT_VERSION || clients != plan->n_clients ||
        phase >= ROUND_PHASES)
        return fail(err, OM_EFORMAT,
                    "round: the saved state is of version %u for %u clients in "
                    "%zu bytes; expected version %d for %u clients",
                    version, clients, n, SNAPSHOT_VERSION, plan->n_clients);
    s->phase = (round_phase)phase;
    memcpy(device, flags, plan->n_clients);
    s->joined = count(s, ROUND_JOINED);
    s->selected = count(s, ROUND_SELECTED);
    s->accepted = count(s, ROUND_ACCEPTED);
    s->pending = count(s, ROUND_PENDING);
    const char *broken = round_check(s);
    return broken
               ? fail(err, OM_EFORMAT, "round: the saved state breaks invariant %s", broken)
               : OM_OK;
}
