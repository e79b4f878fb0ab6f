/* experts.c - see experts.h. */
#include "llm/experts.h"

#include "llm/model_impl.h"

enum { READERS = 4, MATRICES = 3, COUNT_MOST = 3 };

typedef enum { EMPTY, QUEUED, READING, READY } state;

typedef struct {
    state state;
    uint8_t count;     /* of uses, halting the clock's hand so often */
    bool pinned;       /* handed out */
    bool missed;       /* somebody waited for it */
    uint32_t key;      /* layer * n_expert + expert */
    uint8_t *room;     /* slot_bytes */
    const void *at[MATRICES];
} slot;

typedef struct {
    uint32_t slot, key;
} request;

typedef struct {
    request *ring; /* (cap) */
    uint32_t cap, first, n;
} queue;

struct expert_store {
    nn_expert_store face; /* first */
    const llm_model *m;
    const char *path;
    int fd;
    uint32_t n_slots, hand;
    slot *slot;      /* (n_slots) */
    uint32_t *where; /* (n_layer * n_expert): slot + 1, 0: not there */
    size_t slot_bytes;
    uint8_t *block;
    queue wanted, likely;
    os_mutex *lock;
    os_event *work[READERS], *ready;
    os_thread *reader[READERS];
    uint32_t n_readers;
    bool stop;
    om_status failed;
    om_err why;
    llm_expert_stats now;
};

/* ---- where experts lie ------------------------------------------------------------- */

static const nn_weight *matrix(const llm_model *m, uint32_t layer, int i)
{
    const llm_layer *l = &m->layer[layer];
    return i == 0 ? l->expert_gate : i == 1 ? l->expert_up : l->expert_down;
}

static size_t matrix_bytes(const llm_model *m, uint32_t layer, int i)
{
    const nn_weight *w = matrix(m, layer, i);
    size_t row = 0;
    bool whole = dtype_row_bytes(w->type, w->cols, &row);
    BUG_IF(!whole); /* checked when the model was opened */
    return row * (w->rows / m->h.n_expert);
}

uint64_t experts_bytes(const llm_model *m)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < m->h.n_layer && m->h.n_expert; i++)
        for (int j = 0; j < MATRICES; j++)
            sum += (uint64_t)matrix_bytes(m, i, j) * m->h.n_expert;
    return sum;
}

/* The largest layer's, each matrix with room for what a direct read takes more. */
static size_t slot_bytes_of(const llm_model *m)
{
    size_t most = 0;
    for (uint32_t i = 0; i < m->h.n_layer; i++) {
        size_t sum = 0;
        for (int j = 0; j < MATRICES; j++)
            sum += os_direct_room(matrix_bytes(m, i, j));
        most = size_max(most, sum);
    }
    return most;
}

uint64_t experts_least(const llm_model *m)
{
    return m->h.n_expert ? (2ull * m->h.n_expert_used + 2) * slot_bytes_of(m) : 0;
}

/* ---- queues (under the lock) --------------------------------------------------------- */

static void push(queue *q, request r)
{
    q->ring[(q->first + q->n++) % q->cap] = r;
}

static bool pop(queue *q, request *r)
{
    if (!q->n)
        return false;
    *r = q->ring[q->first];
    q->first = (q->first + 1) % q->cap;
    q->n--;
    return true;
}

/* A request is stale when its slot was given to another or is being read already. */
static bool next_request(expert_store *s, request *r)
{
    while (pop(&s->wanted, r) || pop(&s->likely, r))
        if (s->slot[r->slot].key == r->key && s->slot[r->slot].state == QUEUED)
            return true;
    return false;
}

/* ---- readers ----------------------------------------------------------------------- */

static om_status read_slot(const expert_store *s, slot *e, om_err *err)
{
    const llm_model *m = s->m;
    uint32_t layer = e->key / m->h.n_expert, expert = e->key % m->h.n_expert;
    const uint8_t *file = owned_by(m)->map[0].p;
    uint8_t *room = e->room;
    for (int i = 0; i < MATRICES; i++) {
        size_t bytes = matrix_bytes(m, layer, i);
        uint64_t offset = (uint64_t)((const uint8_t *)matrix(m, layer, i)->data - file);
        TRY(os_read_direct(s->fd, offset + (uint64_t)expert * bytes, bytes, room, &e->at[i],
                           s->path, err));
        room += os_direct_room(bytes);
    }
    return OM_OK;
}

typedef struct {
    expert_store *s;
    uint32_t number;
} reader_args;

static void read_all(expert_store *s)
{
    request r;
    os_lock(s->lock);
    while (!s->stop && next_request(s, &r)) {
        slot *e = &s->slot[r.slot];
        om_err err = {0};
        e->state = READING;
        os_unlock(s->lock);
        om_status st = read_slot(s, e, &err);
        os_lock(s->lock);
        e->state = READY;
        s->now.read_bytes += s->slot_bytes;
        if (st != OM_OK && s->failed == OM_OK) {
            s->failed = st;
            s->why = err;
        }
        os_event_ring(s->ready);
    }
    os_unlock(s->lock);
}

static bool stopped(expert_store *s)
{
    os_lock(s->lock);
    bool stop = s->stop;
    os_unlock(s->lock);
    return stop;
}

static void reader(void *ctx)
{
    reader_args *a = ctx;
    expert_store *s = a->s;
    os_event *bell = s->work[a->number];
    mem_free(a);
    while (!stopped(s)) {
        read_all(s);
        os_event_wait(bell, 1000);
    }
}

/* ---- slots (under the lock) ------------------------------------------------------------ */

/* The slot of least use that nobody holds, waits for or reads; NULL: none. */
static slot *victim(expert_store *s)
{
    for (uint32_t i = 0; i < (COUNT_MOST + 2) * s->n_slots; i++) {
        slot *e = &s->slot[s->hand];
        s->hand = (s->hand + 1) % s->n_slots;
        if (e->pinned || e->missed || e->state == READING)
            continue;
        if (e->state != EMPTY && e->count) {
            e->count--;
            continue;
        }
        return e;
    }
    return NULL;
}

static slot *slot_for(expert_store *s, uint32_t key)
{
    slot *e = victim(s);
    if (!e)
        return NULL;
    if (e->state != EMPTY)
        s->where[e->key] = 0;
    e->state = QUEUED;
    e->count = 1;
    e->key = key;
    s->where[key] = (uint32_t)(e - s->slot) + 1;
    return e;
}

static void ask(expert_store *s, queue *q, const slot *e)
{
    if (q->n < q->cap)
        push(q, (request){(uint32_t)(e - s->slot), e->key});
}

static void wake(expert_store *s)
{
    for (uint32_t i = 0; i < s->n_readers; i++)
        os_event_ring(s->work[i]);
}

/* Take what is there to the front, ask for what is not. */
static uint32_t sort_out(expert_store *s, uint32_t layer, uint32_t *expert, uint32_t n,
                         const void **m)
{
    uint32_t got = 0, most = s->n_slots / 2;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t key = layer * s->m->h.n_expert + expert[i], at = s->where[key];
        slot *e = at ? &s->slot[at - 1] : NULL;
        if (!e || e->state != READY || got == most)
            continue;
        e->pinned = true;
        e->count = e->count < COUNT_MOST ? e->count + 1 : COUNT_MOST;
        s->now.requests++;
        s->now.misses += e->missed;
        e->missed = false;
        memcpy(m + MATRICES * got, e->at, sizeof(e->at));
        uint32_t t = expert[got];
        expert[got++] = expert[i];
        expert[i] = t;
    }
    for (uint32_t i = got; i < n; i++) {
        uint32_t key = layer * s->m->h.n_expert + expert[i], at = s->where[key];
        slot *e = at ? &s->slot[at - 1] : slot_for(s, key);
        if (!e)
            break;
        if (e->state != READY && !e->missed) {
            e->missed = true;
            if (e->state == QUEUED)
                ask(s, &s->wanted, e);
        }
    }
    return got;
}

static uint32_t take(nn_expert_store *face, uint32_t layer, uint32_t *expert, uint32_t n,
                     const void **m, om_err *err)
{
    expert_store *s = (expert_store *)(void *)face;
    for (;;) {
        os_lock(s->lock);
        uint32_t got = sort_out(s, layer, expert, n, m);
        om_status failed = s->failed;
        bool busy = s->wanted.n > 0;
        os_unlock(s->lock);
        if (busy)
            wake(s);
        if (failed != OM_OK) {
            *err = s->why;
            return 0;
        }
        if (got)
            return got;
        uint64_t from = os_now_ns();
        os_event_wait(s->ready, 1000);
        os_lock(s->lock);
        s->now.waited_ns += os_now_ns() - from;
        os_unlock(s->lock);
    }
}

static void release(nn_expert_store *face)
{
    expert_store *s = (expert_store *)(void *)face;
    os_lock(s->lock);
    for (uint32_t i = 0; i < s->n_slots; i++)
        s->slot[i].pinned = false;
    os_unlock(s->lock);
}

static void hint(nn_expert_store *face, uint32_t layer, const uint32_t *expert, uint32_t n)
{
    expert_store *s = (expert_store *)(void *)face;
    bool any = false;
    os_lock(s->lock);
    for (uint32_t i = 0; i < n && i < s->n_slots / 4; i++) {
        uint32_t key = layer * s->m->h.n_expert + expert[i];
        slot *e = s->where[key] ? NULL : slot_for(s, key);
        if (e) {
            ask(s, &s->likely, e);
            any = true;
        }
    }
    os_unlock(s->lock);
    if (any)
        wake(s);
}

/* ---- open and close ------------------------------------------------------------------ */

static om_status start_readers(expert_store *s, om_err *err)
{
    TRY(os_mutex_open(&s->lock, err));
    TRY(os_event_open(&s->ready, err));
    for (uint32_t i = 0; i < READERS; i++) {
        TRY(os_event_open(&s->work[i], err));
        reader_args *a = mem_alloc(sizeof(*a));
        if (!a)
            return fail(err, OM_ENOMEM, "experts: no memory for a reader");
        *a = (reader_args){s, i};
        om_status st = os_thread_start(&s->reader[i], reader, a, err);
        if (st != OM_OK) {
            mem_free(a);
            return st;
        }
        s->n_readers++;
    }
    return OM_OK;
}

static bool views_of_file(const llm_model *m)
{
    const llm_owned *o = owned_by(m);
    if (!o || !o->has_gguf || o->n_maps != 1)
        return false;
    for (uint32_t i = 0; i < m->h.n_layer; i++)
        for (int j = 0; j < MATRICES; j++) {
            const uint8_t *p = matrix(m, i, j)->data;
            if (p < o->map[0].p || p >= o->map[0].p + o->map[0].n)
                return false;
        }
    return true;
}

static om_status fill(expert_store *s, uint64_t budget, om_err *err)
{
    const llm_hparams *h = &s->m->h;
    size_t keys = (size_t)h->n_layer * h->n_expert;
    s->slot_bytes = slot_bytes_of(s->m);
    s->n_slots = (uint32_t)size_min(budget / s->slot_bytes, keys);
    if (s->n_slots * (uint64_t)s->slot_bytes < size_min(experts_least(s->m), keys * s->slot_bytes))
        return fail(err, OM_ELIMIT,
                    "experts: a cache of %llu bytes; this model needs %llu at least, for what "
                    "a token uses of a layer and of the next",
                    (unsigned long long)budget, (unsigned long long)experts_least(s->m));
    if (!views_of_file(s->m))
        return fail(err, OM_EUNSUPPORTED,
                    "experts: only those of a GGUF file can be read one by one; convert the "
                    "model to GGUF");
    s->path = owned_by(s->m)->path;
    TRY(os_open_direct(s->path, &s->fd, err));
    s->slot = mem_array(s->n_slots, sizeof(*s->slot));
    s->where = mem_array(keys, sizeof(*s->where));
    s->block = mem_array(s->n_slots + 1, s->slot_bytes); /* and what alignment takes */
    s->wanted.cap = s->likely.cap = 4 * s->n_slots;
    s->wanted.ring = mem_array(s->wanted.cap, sizeof(request));
    s->likely.ring = mem_array(s->likely.cap, sizeof(request));
    if (!s->slot || !s->where || !s->block || !s->wanted.ring || !s->likely.ring)
        return fail(err, OM_ENOMEM, "experts: no memory for a cache of %u experts",
                    s->n_slots);
    uint8_t *room = s->block + (-(uintptr_t)s->block & 4095);
    for (uint32_t i = 0; i < s->n_slots; i++)
        s->slot[i].room = room + i * s->slot_bytes;
    s->now.experts = (uint32_t)keys;
    s->now.slots = s->n_slots;
    s->now.cache_bytes = s->n_slots * (uint64_t)s->slot_bytes;
    return start_readers(s, err);
}

om_status experts_open(const llm_model *m, uint64_t budget, expert_store **out, om_err *err)
{
    expert_store *s = mem_alloc(sizeof(*s));
    *out = NULL;
    if (!s)
        return fail(err, OM_ENOMEM, "experts: no memory");
    s->face = (nn_expert_store){take, release, hint};
    s->m = m;
    s->fd = -1;
    om_status st = fill(s, budget, err);
    if (st != OM_OK) {
        experts_close(s);
        return st;
    }
    *out = s;
    return OM_OK;
}

void experts_close(expert_store *s)
{
    if (!s)
        return;
    if (s->lock) {
        os_lock(s->lock);
        s->stop = true;
        os_unlock(s->lock);
    }
    wake(s);
    for (uint32_t i = 0; i < s->n_readers; i++)
        os_thread_join(s->reader[i]);
    for (uint32_t i = 0; i < READERS; i++)
        os_event_close(s->work[i]);
    os_event_close(s->ready);
    os_mutex_close(s->lock);
    os_close(s->fd);
    mem_free(s->slot);
    mem_free(s->where);
    mem_free(s->block);
    mem_free(s->wanted.ring);
    mem_free(s->likely.ring);
    mem_free(s);
}

nn_expert_store *experts_face(expert_store *s) { return s ? &s->face : NULL; }

llm_expert_stats experts_now(const expert_store *s)
{
    os_lock(s->lock);
    llm_expert_stats now = s->now;
    os_unlock(s->lock);
    return now;
}
