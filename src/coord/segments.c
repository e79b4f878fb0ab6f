/* segments.c - see segments.h.  `lock` guards the lists; bytes move outside it. */
#include "coord/segments.h"

#include <stdio.h>

enum {
    SEGMENT_BYTES = 64 << 20, /* of one file, about */
    PAGE = 4096,
    SPARES = 8, /* files kept for the next round */
    LANES = 4,
    SYNC_MAX = 64, /* files synced at a time */
};

struct segment {
    segment *next;
    int64_t run;
    uint32_t round, number, lane;
    uint32_t used, held; /* slots given out ever, and not let go yet */
    bool past;           /* its round is folded */
    int fd;
    char path[1200];
};

struct segments {
    char dir[1024];
    size_t slot_bytes;
    uint32_t slots; /* of a segment */
    os_mutex *lock;
    segment *first; /* of open rounds, or held */
    segment *spare;
    uint32_t n_spare;
    slot *hole; /* free slots below `used` */
    size_t n_holes, hole_cap;
    bool unnamed; /* a file has got its name since the folder was last synced */
};

/* ---- open --------------------------------------------------------------------------- */

om_status segments_open(const char *dir, size_t slot_bytes, segments **out, om_err *err)
{
    segments *s = mem_alloc(sizeof(*s));
    *out = NULL;
    BUG_IF(slot_bytes == 0 || slot_bytes > SEGMENT_SLOT_MAX);
    if (!s)
        return fail(err, OM_ENOMEM, "segments: no memory");
    s->slot_bytes = size_align(slot_bytes, PAGE);
    s->slots = (uint32_t)(SEGMENT_BYTES / s->slot_bytes);
    om_status st = os_join(s->dir, sizeof(s->dir), dir, "segments");
    st = st == OM_OK ? os_mkdirs(s->dir, err) : fail(err, st, "segments: path too long");
    if (st == OM_OK)
        st = os_mutex_open(&s->lock, err);
    if (st != OM_OK) {
        mem_free(s);
        return st;
    }
    *out = s;
    return OM_OK;
}

static void free_list(segment *g)
{
    for (segment *next; g; g = next) {
        next = g->next;
        os_close(g->fd);
        mem_free(g);
    }
}

void segments_close(segments *s)
{
    if (!s)
        return;
    free_list(s->first);
    free_list(s->spare);
    mem_free(s->hole);
    os_mutex_close(s->lock);
    mem_free(s);
}

static om_status path_of(const segments *s, int64_t run, uint32_t round, uint32_t number,
                         char out[1200], om_err *err)
{
    char name[64];
    snprintf(name, sizeof(name), "%lld.%u.%u", (long long)run, (unsigned)round,
             (unsigned)number);
    om_status st = os_join(out, 1200, s->dir, name);
    return st == OM_OK ? st : fail(err, st, "segments: path too long");
}

/* ---- slots -------------------------------------------------------------------------- */

/* A number that no file of the round has: an earlier process may have left some. */
static om_status new_name(const segments *s, segment *g, om_err *err)
{
    for (g->number = 0;; g->number++) {
        TRY(path_of(s, g->run, g->round, g->number, g->path, err));
        if (!os_exists(g->path))
            return OM_OK;
    }
}

/* From a spare file, or a new one; under the lock. */
static om_status new_segment(segments *s, int64_t run, uint32_t round, uint32_t lane,
                             segment **out, om_err *err)
{
    char old[1200];
    uint64_t size;
    segment *g = s->spare;
    if (!g && !(g = mem_alloc(sizeof(*g))))
        return fail(err, OM_ENOMEM, "segments: no memory");
    memcpy(old, g->path, sizeof(old));
    bool spare = g == s->spare;
    g->run = run;
    g->round = round;
    om_status st = new_name(s, g, err);
    if (st == OM_OK)
        st = spare ? os_rename(old, g->path, err)
                   : os_open_rw(g->path, &g->fd, &size, err);
    if (st != OM_OK) {
        memcpy(g->path, old, sizeof(old)); /* a spare stays what it was */
        if (!spare)
            mem_free(g);
        return st;
    }
    if (spare) {
        s->spare = g->next;
        s->n_spare--;
    }
    g->lane = lane;
    g->used = 0;
    g->past = false;
    g->next = s->first;
    s->first = g;
    s->unnamed = true;
    *out = g;
    return OM_OK;
}

static bool take_hole(segments *s, int64_t run, uint32_t round, slot *out)
{
    for (size_t i = s->n_holes; i-- > 0;)
        if (s->hole[i].in->run == run && s->hole[i].in->round == round) {
            *out = s->hole[i];
            s->hole[i] = s->hole[--s->n_holes];
            return true;
        }
    return false;
}

static om_status take_locked(segments *s, int64_t run, uint32_t round, uint32_t lane,
                             slot *out, om_err *err)
{
    if (take_hole(s, run, round, out))
        return OM_OK;
    segment *g = s->first;
    while (g && !(g->run == run && g->round == round && g->lane == lane && !g->past &&
                  g->used < s->slots))
        g = g->next;
    if (!g)
        TRY(new_segment(s, run, round, lane, &g, err));
    *out = (slot){g, (uint64_t)g->used++ * s->slot_bytes};
    return OM_OK;
}

om_status slot_take(segments *s, int64_t run, uint32_t round, uint32_t lane, slot *out,
                    om_err *err)
{
    os_lock(s->lock);
    om_status st = take_locked(s, run, round, lane % LANES, out, err);
    if (st == OM_OK)
        out->in->held++;
    os_unlock(s->lock);
    return st;
}

/* A free place is remembered, or, without memory, lost until the round is folded. */
static void add_hole(segments *s, slot t)
{
    if (s->n_holes == s->hole_cap) {
        size_t cap = 2 * s->hole_cap + 16;
        slot *more = mem_grow(s->hole, s->hole_cap * sizeof(slot), cap * sizeof(slot));
        if (!more)
            return;
        s->hole = more;
        s->hole_cap = cap;
    }
    s->hole[s->n_holes++] = t;
}

/* Of a folded round and held by nobody: its file is for the next. */
static void retire(segments *s, segment *g)
{
    for (segment **at = &s->first; *at; at = &(*at)->next)
        if (*at == g) {
            *at = g->next;
            break;
        }
    for (size_t i = s->n_holes; i-- > 0;)
        if (s->hole[i].in == g)
            s->hole[i] = s->hole[--s->n_holes];
    if (s->n_spare < SPARES) {
        g->next = s->spare;
        s->spare = g;
        s->n_spare++;
        return;
    }
    os_close(g->fd);
    os_remove(g->path, NULL); /* else the next start sweeps it */
    mem_free(g);
}

void slot_let_go(segments *s, slot t, bool keep)
{
    if (!t.in)
        return;
    os_lock(s->lock);
    t.in->held--;
    if (t.in->past && t.in->held == 0)
        retire(s, t.in);
    else if (!t.in->past && !keep)
        add_hole(s, t);
    os_unlock(s->lock);
}

om_status slot_write(slot t, uint64_t offset, const void *p, size_t n, om_err *err)
{
    return os_pwrite(t.in->fd, t.at + offset, p, n, t.in->path, err);
}

om_status slot_map(slot t, size_t n, os_map *out, om_err *err)
{
    TRY(os_map_part(t.in->fd, t.at, n, t.in->path, out, err));
    os_map_fill(out);
    return OM_OK;
}

void slot_sync_start(slot t, size_t n) { os_sync_start(t.in->fd, t.at, n); }

uint32_t slot_segment(slot t) { return t.in->number; }

/* ---- durability --------------------------------------------------------------------- */

typedef struct {
    segment *file[SYNC_MAX];
    om_status status[SYNC_MAX];
    om_err err[SYNC_MAX];
    size_t n;
} sync_job;

static void sync_some(void *ctx, size_t beg, size_t end, int worker)
{
    sync_job *j = ctx;
    (void)worker;
    for (size_t i = beg; i < end; i++)
        j->status[i] = os_sync(j->file[i]->fd, j->file[i]->path, &j->err[i]);
}

static om_status sync_files(sync_job *j, pool *p, om_err *err)
{
    pool_run(p, j->n, 1, sync_some, j);
    for (size_t i = 0; i < j->n; i++)
        if (j->status[i] != OM_OK) {
            if (err)
                *err = j->err[i];
            return j->status[i];
        }
    j->n = 0;
    return OM_OK;
}

static bool listed(const sync_job *j, const segment *g)
{
    for (size_t i = 0; i < j->n; i++)
        if (j->file[i] == g)
            return true;
    return false;
}

static om_status sync_names(segments *s, om_err *err)
{
    os_lock(s->lock);
    bool unnamed = s->unnamed;
    s->unnamed = false;
    os_unlock(s->lock);
    om_status st = unnamed ? os_fsync_dir(s->dir, err) : OM_OK;
    if (st != OM_OK) {
        os_lock(s->lock);
        s->unnamed = true;
        os_unlock(s->lock);
    }
    return st;
}

om_status slots_sync(segments *s, const slot *list, size_t n, pool *p, om_err *err)
{
    sync_job *j = mem_alloc(sizeof(*j));
    om_status st = OM_OK;
    if (!j)
        return fail(err, OM_ENOMEM, "segments: no memory to sync %zu updates", n);
    for (size_t i = 0; i < n && st == OM_OK; i++) {
        if (!list[i].in || listed(j, list[i].in))
            continue;
        j->file[j->n++] = list[i].in;
        if (j->n == SYNC_MAX)
            st = sync_files(j, p, err);
    }
    if (st == OM_OK)
        st = sync_files(j, p, err);
    mem_free(j);
    return st == OM_OK ? sync_names(s, err) : st;
}

/* ---- reading a round back ------------------------------------------------------------ */

void segment_reader_close(segment_reader *r)
{
    if (r->open)
        os_close(r->fd);
    r->open = false;
}

om_status segment_map(const segments *s, segment_reader *r, int64_t run, uint32_t round,
                      uint32_t number, uint64_t at, size_t n, os_map *out, om_err *err)
{
    uint64_t size;
    if (!r->open || r->number != number) {
        segment_reader_close(r);
        TRY(path_of(s, run, round, number, r->path, err));
        if (!os_exists(r->path))
            return fail(err, OM_EIO, "segments: '%s' is missing", r->path);
        TRY(os_open_rw(r->path, &r->fd, &size, err));
        r->open = true;
        r->number = number;
    }
    TRY(os_map_part(r->fd, at, n, r->path, out, err));
    os_map_fill(out);
    return OM_OK;
}

/* ---- folded rounds ------------------------------------------------------------------- */

bool segments_past_name(const char *name, int64_t run, uint32_t round)
{
    str s = str_of(name);
    const char *dot = memchr(s.p, '.', s.n);
    const char *dot2 = dot ? strchr(dot + 1, '.') : NULL;
    uint64_t its_run, its_round;
    if (!dot2 || !str_u64((str){s.p, (size_t)(dot - s.p)}, &its_run) ||
        !str_u64((str){dot + 1, (size_t)(dot2 - dot - 1)}, &its_round))
        return true;
    return its_run == (uint64_t)run && its_round < round;
}

typedef struct {
    segments *s;
    int64_t run;
    uint32_t round;
} horizon;

static bool has_path(const segment *g, const char *path)
{
    for (; g; g = g->next)
        if (strcmp(g->path, path) == 0)
            return true;
    return false;
}

/* Files of folded rounds that an earlier process left; under the lock. */
static om_status sweep_file(void *ctx, const char *name, om_err *err)
{
    const horizon *h = ctx;
    char path[1200];
    if (!segments_past_name(name, h->run, h->round))
        return OM_OK;
    TRY(os_join(path, sizeof(path), h->s->dir, name));
    bool ours = has_path(h->s->first, path) || has_path(h->s->spare, path);
    return ours ? OM_OK : os_remove(path, err);
}

om_status segments_forget(segments *s, int64_t run, uint32_t round, om_err *err)
{
    horizon h = {s, run, round};
    os_lock(s->lock);
    for (segment *g = s->first, *next; g; g = next) {
        next = g->next;
        g->past = g->past || (g->run == run && g->round < round);
        if (g->past && g->held == 0)
            retire(s, g);
    }
    om_status st = os_list_dir(s->dir, sweep_file, &h, err);
    os_unlock(s->lock);
    return st;
}
