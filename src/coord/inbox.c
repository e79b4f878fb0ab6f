/* inbox.c - see inbox.h.
 *
 * `lock` guards the table and every upload's fields; bytes are written and digested
 * outside it, with `writing` set, so that a slow disk stops one device, not all. */
#include "coord/inbox.h"

#include <stdio.h>

struct inbox {
    char dir[1024];
    os_mutex *lock;
    segments *segments;
    upload *first;
};

om_status inbox_open(const char *dir, size_t up_bound, inbox **out, om_err *err)
{
    inbox *b = mem_alloc(sizeof(*b));
    *out = NULL;
    if (!b)
        return fail(err, OM_ENOMEM, "inbox: no memory");
    om_status st = os_join(b->dir, sizeof(b->dir), dir, "inbox");
    st = st == OM_OK ? os_mkdirs(b->dir, err) : fail(err, st, "inbox: path too long");
    if (st == OM_OK)
        st = segments_open(dir, size_max(1, size_min(up_bound, SEGMENT_SLOT_MAX)),
                           &b->segments, err);
    if (st == OM_OK)
        st = os_mutex_open(&b->lock, err);
    if (st != OM_OK) {
        segments_close(b->segments);
        mem_free(b);
        return st;
    }
    *out = b;
    return OM_OK;
}

static void free_upload(upload *u)
{
    os_close(u->fd);
    mem_free(u->small);
    mem_free(u);
}

void inbox_close(inbox *b)
{
    if (!b)
        return;
    for (upload *u = b->first, *next; u; u = next) {
        next = u->next;
        free_upload(u);
    }
    segments_close(b->segments);
    os_mutex_close(b->lock);
    mem_free(b);
}

const segments *inbox_segments(const inbox *b) { return b->segments; }

static void name_of(int64_t run, uint32_t round, uint32_t device,
                    const uint8_t digest[WIRE_DIGEST], char out[INBOX_NAME])
{
    char hex[17];
    hex_encode(digest, 8, hex);
    snprintf(out, INBOX_NAME, "%lld.%u.%u.%s", (long long)run, (unsigned)round,
             (unsigned)device, hex);
}

static om_status path_of(const inbox *b, const char *name, char out[1200], om_err *err)
{
    om_status st = os_join(out, 1200, b->dir, name);
    return st == OM_OK ? st : fail(err, st, "inbox: path too long");
}

static bool is_small(const upload *u) { return u->head.bytes <= INBOX_SMALL; }

static bool is_large(const upload *u) { return u->head.bytes > SEGMENT_SLOT_MAX; }

/* Its bytes are nothing any more: the slot is free, the file goes. */
static void forget_bytes(inbox *b, upload *u)
{
    char path[1200];
    slot_let_go(b->segments, u->slot, false);
    u->slot = (slot){0};
    if (is_large(u) && path_of(b, u->name, path, NULL) == OM_OK)
        os_remove(path, NULL);
}

static void unlink_upload(inbox *b, upload *u)
{
    for (upload **at = &b->first; *at; at = &(*at)->next)
        if (*at == u) {
            *at = u->next;
            break;
        }
    u->gone = true;
    if (u->users == 0)
        free_upload(u);
}

/* ---- entering ----------------------------------------------------------------------- */

static upload *find(inbox *b, str name)
{
    for (upload *u = b->first; u; u = u->next)
        if (str_is(name, u->name))
            return u;
    return NULL;
}

/* What an earlier process of ours received is digested again. */
static om_status rehash(upload *u, const char *path, uint64_t size, om_err *err)
{
    uint8_t piece[4096];
    wire_digest_start(&u->digest, u->head.digest);
    u->offset = 0;
    if (size > u->head.bytes)
        size = 0;
    while (u->offset < size) {
        size_t n = size_min(sizeof(piece), (size_t)(size - u->offset));
        TRY(os_pread(u->fd, u->offset, piece, n, path, err));
        wire_digest_add(&u->digest, piece, n);
        u->offset += n;
    }
    return OM_OK;
}

/* `known`: we have its first bytes already. */
static om_status open_storage(inbox *b, int64_t run, upload *u, bool known, om_err *err)
{
    char path[1200];
    uint64_t size;
    if (is_small(u)) {
        if (!u->small)
            u->small = mem_alloc(u->head.bytes);
        return u->small ? OM_OK : fail(err, OM_ENOMEM, "inbox: no memory for an update");
    }
    if (!is_large(u))
        return u->slot.in ? OM_OK
                          : slot_take(b->segments, run, u->head.round, u->device, &u->slot,
                                      err);
    if (u->fd >= 0)
        return OM_OK;
    TRY(path_of(b, u->name, path, err));
    TRY(os_open_rw(path, &u->fd, &size, err));
    return known ? OM_OK : rehash(u, path, size, err);
}

static om_status enter(inbox *b, int64_t run, upload *u, bool known, uint32_t *owner,
                       wire_reason *why, om_err *err)
{
    if (u->writing || u->queued_for_commit) {
        *why = WIRE_IN_PROGRESS;
        return fail(err, OM_EREFUSED, "%s", wire_reason_text(*why));
    }
    TRY(open_storage(b, run, u, known, err));
    *owner = ++u->owner;
    u->users++;
    return OM_OK;
}

static upload *new_upload(const wire_update *head, uint32_t device, const char *name)
{
    upload *u = mem_alloc(sizeof(*u));
    if (!u)
        return NULL;
    *u = (upload){.head = *head, .device = device, .fd = -1};
    memcpy(u->name, name, sizeof(u->name));
    wire_digest_start(&u->digest, head->digest);
    return u;
}

/* A device has one upload per round: what it announced before is forgotten, so that
 * announcing can fill neither memory nor disk.  A connection that still holds the old one
 * finds it gone: its answer may be on the way while the device asks again. */
static bool replace_older(inbox *b, uint32_t device)
{
    for (upload *u = b->first, *next; u; u = next) {
        next = u->next;
        if (u->device != device)
            continue;
        if (u->writing || u->queued_for_commit)
            return false;
        forget_bytes(b, u);
        unlink_upload(b, u);
    }
    return true;
}

om_status inbox_enter(inbox *b, int64_t run, uint32_t device, const wire_update *head,
                      upload **out, uint32_t *owner, wire_reason *why, om_err *err)
{
    char name[INBOX_NAME];
    name_of(run, head->round, device, head->digest, name);
    *why = WIRE_OK;
    os_lock(b->lock);
    upload *u = find(b, str_of(name));
    bool known = u != NULL;
    om_status st = OM_OK;
    if (!known && !replace_older(b, device)) {
        *why = WIRE_IN_PROGRESS;
        st = fail(err, OM_EREFUSED, "another upload of this device is under way");
    } else if (!known) {
        u = new_upload(head, device, name);
        if (!u)
            st = fail(err, OM_ENOMEM, "inbox: no memory for an upload");
    } else if (u->head.bytes != head->bytes) {
        *why = WIRE_WRONG_LENGTH;
        st = fail(err, OM_EREFUSED, "the upload was announced with %llu bytes before",
                  (unsigned long long)u->head.bytes);
    } else if (!u->queued_for_commit) {
        u->head = *head; /* the attempt may be a newer one */
    }
    if (st == OM_OK)
        st = enter(b, run, u, known, owner, why, err);
    if (st == OM_OK && !known) {
        u->next = b->first;
        b->first = u;
    } else if (st != OM_OK && !known && u) {
        free_upload(u);
    }
    os_unlock(b->lock);
    *out = st == OM_OK ? u : NULL;
    return st;
}

om_status inbox_find(inbox *b, str name, uint32_t device, upload **out, uint32_t *owner,
                     wire_reason *why, om_err *err)
{
    *why = WIRE_OK;
    os_lock(b->lock);
    upload *u = find(b, name);
    om_status st =
        u && u->device == device
            ? enter(b, 0, u, true, owner, why, err) /* it has its place */
            : fail(err, OM_ENOTFOUND, "there is no upload of that name; initiate it");
    os_unlock(b->lock);
    *out = st == OM_OK ? u : NULL;
    return st;
}

void inbox_leave(inbox *b, upload *u, uint32_t owner)
{
    os_lock(b->lock);
    if (u->owner == owner)
        u->writing = false;
    u->users--;
    if (u->users == 0 && u->gone) {
        free_upload(u);
    } else if (u->users == 0 && !u->queued_for_commit) {
        os_close(u->fd);
        u->fd = -1;
    }
    os_unlock(b->lock);
}

/* ---- bytes -------------------------------------------------------------------------- */

static om_status start_writing(inbox *b, upload *u, uint32_t owner, size_t n, om_err *err)
{
    os_lock(b->lock);
    bool ours = u->owner == owner && !u->gone && !u->queued_for_commit;
    bool fits = n <= u->head.bytes - u->offset;
    u->writing = u->writing || (ours && fits);
    os_unlock(b->lock);
    if (!ours)
        return fail(err, OM_EREFUSED, "another connection goes on with this upload");
    return fits ? OM_OK
                : fail(err, OM_EREFUSED, "more bytes than the %llu announced",
                       (unsigned long long)u->head.bytes);
}

static om_status put_bytes(inbox *b, upload *u, const void *p, size_t n, om_err *err)
{
    char path[1200];
    if (is_small(u)) {
        memcpy(u->small + u->offset, p, n);
        return OM_OK;
    }
    if (u->slot.in)
        return slot_write(u->slot, u->offset, p, n, err);
    TRY(path_of(b, u->name, path, err));
    return os_pwrite(u->fd, u->offset, p, n, path, err);
}

om_status inbox_append(inbox *b, upload *u, uint32_t owner, const void *p, size_t n,
                       om_err *err)
{
    TRY(start_writing(b, u, owner, n, err));
    om_status st = put_bytes(b, u, p, n, err);
    if (st == OM_OK)
        wire_digest_add(&u->digest, p, n);
    os_lock(b->lock);
    if (st == OM_OK)
        u->offset += n;
    u->writing = false;
    os_unlock(b->lock);
    return st;
}

static void restart(upload *u)
{
    u->offset = 0;
    wire_digest_start(&u->digest, u->head.digest);
}

om_status inbox_seal(inbox *b, upload *u, uint32_t owner, wire_reason *why, om_err *err)
{
    uint8_t got[WIRE_DIGEST];
    *why = WIRE_OK;
    os_lock(b->lock);
    om_status st = OM_OK;
    if (u->owner != owner || u->gone || u->queued_for_commit) {
        *why = WIRE_IN_PROGRESS;
        st = fail(err, OM_EREFUSED, "another connection goes on with this upload");
    } else {
        wire_digest_end(&u->digest, got);
        if (memcmp(got, u->head.digest, WIRE_DIGEST) == 0) {
            u->queued_for_commit = true;
        } else {
            restart(u);
            *why = WIRE_CHECKSUM;
            st = fail(err, OM_EREFUSED, "%s; send it again", wire_reason_text(*why));
        }
    }
    os_unlock(b->lock);
    if (st == OM_OK && u->slot.in) /* it is ours now */
        slot_sync_start(u->slot, (size_t)u->head.bytes);
    else if (st == OM_OK && u->fd >= 0)
        os_sync_start(u->fd, 0, u->head.bytes);
    return st;
}

/* ---- durability --------------------------------------------------------------------- */

typedef struct {
    inbox *b;
    upload *const *list;
    om_status *status; /* (n) */
    om_err *err;       /* (n) */
} sync_job;

static void sync_some(void *ctx, size_t beg, size_t end, int worker)
{
    sync_job *j = ctx;
    char path[1200];
    (void)worker;
    for (size_t i = beg; i < end; i++) {
        const upload *u = j->list[i];
        if (!is_large(u))
            continue;
        j->status[i] = path_of(j->b, u->name, path, &j->err[i]);
        if (j->status[i] == OM_OK)
            j->status[i] = os_sync(u->fd, path, &j->err[i]);
    }
}

static om_status sync_files(inbox *b, upload *const *list, size_t n, pool *p, om_err *err)
{
    sync_job j = {b, list, mem_array(n, sizeof(om_status)), mem_array(n, sizeof(om_err))};
    om_status st = j.status && j.err
                       ? OM_OK
                       : fail(err, OM_ENOMEM, "inbox: no memory to sync %zu updates", n);
    if (st == OM_OK)
        pool_run(p, n, 1, sync_some, &j);
    for (size_t i = 0; i < n && st == OM_OK; i++)
        if ((st = j.status[i]) != OM_OK && err)
            *err = j.err[i];
    mem_free(j.status);
    mem_free(j.err);
    return st == OM_OK ? os_fsync_dir(b->dir, err) : st;
}

om_status inbox_sync(inbox *b, upload *const *list, size_t n, pool *p, om_err *err)
{
    size_t n_slots = 0, n_files = 0;
    slot *slots = mem_array(n, sizeof(*slots));
    if (!slots)
        return fail(err, OM_ENOMEM, "inbox: no memory to sync %zu updates", n);
    for (size_t i = 0; i < n; i++) {
        n_files += is_large(list[i]);
        if (list[i]->slot.in)
            slots[n_slots++] = list[i]->slot;
    }
    om_status st = n_slots ? slots_sync(b->segments, slots, n_slots, p, err) : OM_OK;
    mem_free(slots);
    return st == OM_OK && n_files ? sync_files(b, list, n, p, err) : st;
}

/* ---- looking at what arrived --------------------------------------------------------- */

om_status inbox_map(inbox *b, const upload *u, os_map *out, om_err *err)
{
    char path[1200];
    *out = (os_map){u->small, (size_t)u->head.bytes, -1};
    if (is_small(u))
        return OM_OK;
    if (u->slot.in)
        return slot_map(u->slot, out->n, out, err);
    TRY(path_of(b, u->name, path, err));
    TRY(os_map_open(path, out, err));
    os_map_fill(out);
    return OM_OK;
}

/* ---- ends --------------------------------------------------------------------------- */

void inbox_return(inbox *b, upload *u)
{
    os_lock(b->lock);
    u->queued_for_commit = false;
    restart(u); /* the digest is spent: the device sends it again */
    if (u->users == 0) {
        os_close(u->fd);
        u->fd = -1;
    }
    os_unlock(b->lock);
}

void inbox_drop(inbox *b, upload *u, bool keep)
{
    os_lock(b->lock);
    if (!keep)
        forget_bytes(b, u);
    slot_let_go(b->segments, u->slot, keep);
    u->slot = (slot){0};
    unlink_upload(b, u);
    os_unlock(b->lock);
}

om_status inbox_map_file(inbox *b, int64_t run, uint32_t round, uint32_t device,
                         const uint8_t digest[WIRE_DIGEST], os_map *out, om_err *err)
{
    char name[INBOX_NAME], path[1200];
    name_of(run, round, device, digest, name);
    TRY(path_of(b, name, path, err));
    TRY(os_map_open(path, out, err));
    os_map_fill(out);
    return OM_OK;
}

typedef struct {
    inbox *b;
    int64_t run;
    uint32_t round;
} horizon;

static om_status forget_file(void *ctx, const char *name, om_err *err)
{
    const horizon *h = ctx;
    char path[1200];
    if (!segments_past_name(name, h->run, h->round))
        return OM_OK;
    TRY(path_of(h->b, name, path, err));
    return os_remove(path, err);
}

om_status inbox_forget(inbox *b, int64_t run, uint32_t round, om_err *err)
{
    horizon h = {b, run, round};
    os_lock(b->lock);
    for (upload *u = b->first, *next; u; u = next) {
        next = u->next;
        if (!segments_past_name(u->name, run, round) || u->queued_for_commit || u->writing)
            continue;
        slot_let_go(b->segments, u->slot, false);
        u->slot = (slot){0};
        unlink_upload(b, u);
    }
    os_unlock(b->lock);
    TRY(segments_forget(b->segments, run, round, err));
    return os_list_dir(b->dir, forget_file, &h, err);
}
