/* inbox.c - see inbox.h.
 *
 * `lock` guards the table and every upload's fields; bytes are written and hashed
 * outside it, with `writing` set, so that a slow disk stops one device, not all.
 *
 * RECYCLING.  The files of a folded round become those of the next: a file that has its
 * blocks and its pages already takes half the time to write and to sync, and removing it
 * costs as much again.  What such a file holds until it is written over is stale, and
 * after a crash its size says nothing: the hash over all of it decides, as always, and
 * the device sends it again.  Larger files are not recycled, for their sake resuming
 * after a crash is worth more. */
#include "coord/inbox.h"

#include <stdio.h>

enum { SPARE_BYTES = 4 << 20, SPARES = 128 };

struct inbox {
    char dir[1024];
    os_mutex *lock;
    upload *first;
    uint32_t spare[SPARES], n_spares, next_spare; /* numbers in the names of spare files */
};

om_status inbox_open(const char *dir, inbox **out, om_err *err)
{
    inbox *b = mem_alloc(sizeof(*b));
    *out = NULL;
    if (!b)
        return fail(err, OM_ENOMEM, "inbox: no memory");
    om_status st = os_join(b->dir, sizeof(b->dir), dir, "inbox");
    st = st == OM_OK ? os_mkdirs(b->dir, err) : fail(err, st, "inbox: path too long");
    if (st == OM_OK)
        st = os_mutex_open(&b->lock, err);
    if (st != OM_OK) {
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
    os_mutex_close(b->lock);
    mem_free(b);
}

void inbox_name(int64_t run, uint32_t round, uint32_t device, const uint8_t sha[32],
                char out[INBOX_NAME])
{
    char hex[17];
    hex_encode(sha, 8, hex);
    snprintf(out, INBOX_NAME, "%lld.%u.%u.%s", (long long)run, (unsigned)round,
             (unsigned)device, hex);
}

static om_status path_of(const inbox *b, const char *name, char out[1200], om_err *err)
{
    om_status st = os_join(out, 1200, b->dir, name);
    return st == OM_OK ? st : fail(err, st, "inbox: path too long");
}

static bool is_small(const upload *u) { return u->head.bytes <= INBOX_SMALL; }

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

/* What an earlier process of ours received is hashed again. */
static om_status rehash(upload *u, const char *path, uint64_t size, om_err *err)
{
    uint8_t piece[4096];
    sha256_init(&u->sha);
    u->offset = 0;
    if (size > u->head.bytes)
        size = 0;
    while (u->offset < size) {
        size_t n = size_min(sizeof(piece), (size_t)(size - u->offset));
        TRY(os_pread(u->fd, u->offset, piece, n, path, err));
        sha256_update(&u->sha, piece, n);
        u->offset += n;
    }
    return OM_OK;
}

static om_status spare_path(const inbox *b, uint32_t number, char out[1200], om_err *err)
{
    char name[INBOX_NAME];
    snprintf(name, sizeof(name), "spare.%u", (unsigned)number);
    return path_of(b, name, out, err);
}

/* A spare file takes the name of a new upload that has none yet. */
static bool use_spare(inbox *b, const upload *u, const char *path)
{
    char from[1200];
    if (!b->n_spares || u->head.bytes > SPARE_BYTES || os_exists(path))
        return false;
    b->n_spares--;
    return spare_path(b, b->spare[b->n_spares], from, NULL) == OM_OK &&
           os_rename(from, path, NULL) == OM_OK;
}

static om_status open_storage(inbox *b, upload *u, bool known, om_err *err)
{
    char path[1200];
    uint64_t size;
    bool spare;
    if (is_small(u)) {
        if (!u->small)
            u->small = mem_alloc(u->head.bytes);
        return u->small ? OM_OK : fail(err, OM_ENOMEM, "inbox: no memory for an update");
    }
    if (u->fd >= 0)
        return OM_OK;
    TRY(path_of(b, u->name, path, err));
    spare = !known && use_spare(b, u, path);
    TRY(os_open_rw(path, &u->fd, &size, err));
    if (spare && size > u->head.bytes)
        TRY(os_truncate(u->fd, u->head.bytes, path, err));
    return known || spare ? OM_OK : rehash(u, path, size, err);
}

static om_status enter(inbox *b, upload *u, bool known, uint32_t *owner, wire_reason *why,
                       om_err *err)
{
    if (u->writing || u->queued_for_commit) {
        *why = WIRE_IN_PROGRESS;
        return fail(err, OM_EREFUSED, "%s", wire_reason_text(*why));
    }
    TRY(open_storage(b, u, known, err));
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
    sha256_init(&u->sha);
    return u;
}

/* A device has one upload per round: what it announced before is forgotten, so that
 * announcing can fill neither memory nor disk.  A connection that still holds the old one
 * finds it gone: its answer may be on the way while the device asks again. */
static bool replace_older(inbox *b, uint32_t device)
{
    char path[1200];
    for (upload *u = b->first, *next; u; u = next) {
        next = u->next;
        if (u->device != device)
            continue;
        if (u->writing || u->queued_for_commit)
            return false;
        if (!is_small(u) && path_of(b, u->name, path, NULL) == OM_OK)
            os_remove(path, NULL);
        unlink_upload(b, u);
    }
    return true;
}

om_status inbox_enter(inbox *b, int64_t run, uint32_t device, const wire_update *head,
                      upload **out, uint32_t *owner, wire_reason *why, om_err *err)
{
    char name[INBOX_NAME];
    inbox_name(run, head->round, device, head->sha, name);
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
        st = enter(b, u, known, owner, why, err);
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
            ? enter(b, u, true, owner, why, err)
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

om_status inbox_append(inbox *b, upload *u, uint32_t owner, const void *p, size_t n,
                       om_err *err)
{
    char path[1200];
    TRY(path_of(b, u->name, path, err));
    TRY(start_writing(b, u, owner, n, err));
    om_status st = OM_OK;
    if (is_small(u))
        memcpy(u->small + u->offset, p, n);
    else
        st = os_pwrite(u->fd, u->offset, p, n, path, err);
    if (st == OM_OK)
        sha256_update(&u->sha, p, n);
    os_lock(b->lock);
    if (st == OM_OK)
        u->offset += n;
    u->writing = false;
    os_unlock(b->lock);
    return st;
}

om_status inbox_seal(inbox *b, upload *u, uint32_t owner, wire_reason *why, om_err *err)
{
    uint8_t got[32];
    *why = WIRE_OK;
    os_lock(b->lock);
    om_status st = OM_OK;
    if (u->owner != owner || u->gone || u->queued_for_commit) {
        *why = WIRE_IN_PROGRESS;
        st = fail(err, OM_EREFUSED, "another connection goes on with this upload");
    } else {
        sha256_final(&u->sha, got);
        if (memcmp(got, u->head.sha, 32) == 0) {
            u->queued_for_commit = true;
            if (u->fd >= 0)
                os_sync_start(u->fd);
        } else {
            u->offset = 0;
            sha256_init(&u->sha);
            *why = WIRE_CHECKSUM;
            st = fail(err, OM_EREFUSED, "%s; send it again", wire_reason_text(*why));
        }
    }
    os_unlock(b->lock);
    return st;
}

om_status inbox_sync(inbox *b, upload *u, om_err *err)
{
    char path[1200];
    if (is_small(u))
        return OM_OK;
    TRY(path_of(b, u->name, path, err));
    return os_sync(u->fd, path, err);
}

om_status inbox_sync_folder(inbox *b, om_err *err) { return os_fsync_dir(b->dir, err); }

om_status inbox_map(inbox *b, const upload *u, os_map *out, om_err *err)
{
    if (is_small(u)) {
        *out = (os_map){u->small, u->head.bytes, -1};
        return OM_OK;
    }
    return inbox_map_file(b, u->name, out, err);
}

void inbox_unmap(const upload *u, os_map *m)
{
    if (!is_small(u))
        os_map_close(m);
}

/* ---- ends --------------------------------------------------------------------------- */

void inbox_return(inbox *b, upload *u)
{
    os_lock(b->lock);
    u->queued_for_commit = false;
    u->offset = 0; /* the hash is spent: the device sends it again */
    sha256_init(&u->sha);
    if (u->users == 0) {
        os_close(u->fd);
        u->fd = -1;
    }
    os_unlock(b->lock);
}

void inbox_drop(inbox *b, upload *u, bool keep_file)
{
    char path[1200];
    if (!keep_file && !is_small(u) && path_of(b, u->name, path, NULL) == OM_OK)
        os_remove(path, NULL);
    os_lock(b->lock);
    unlink_upload(b, u);
    os_unlock(b->lock);
}

om_status inbox_map_file(inbox *b, const char *name, os_map *out, om_err *err)
{
    char path[1200];
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

static bool is_past(const horizon *h, const char *name)
{
    str s = str_of(name);
    const char *dot = memchr(s.p, '.', s.n);
    const char *dot2 = dot ? strchr(dot + 1, '.') : NULL;
    uint64_t run, round;
    if (!dot2 || !str_u64((str){s.p, (size_t)(dot - s.p)}, &run) ||
        !str_u64((str){dot + 1, (size_t)(dot2 - dot - 1)}, &round))
        return true; /* nothing of ours */
    return run == (uint64_t)h->run && round < h->round;
}

/* ... and not one that an earlier process left. */
static bool is_spare(inbox *b, const char *name)
{
    uint64_t number;
    str s = str_of(name);
    bool yes = false;
    if (!str_starts(s, "spare.") || !str_u64((str){s.p + 6, s.n - 6}, &number))
        return false;
    os_lock(b->lock);
    for (uint32_t i = 0; i < b->n_spares && !yes; i++)
        yes = b->spare[i] == number;
    os_unlock(b->lock);
    return yes;
}

static bool keep_spare(inbox *b, const char *path)
{
    char to[1200];
    uint64_t size;
    if (os_file_size(path, &size, NULL) != OM_OK || size > SPARE_BYTES)
        return false;
    os_lock(b->lock);
    bool kept = b->n_spares < SPARES &&
                spare_path(b, b->next_spare, to, NULL) == OM_OK &&
                os_rename(path, to, NULL) == OM_OK;
    if (kept)
        b->spare[b->n_spares++] = b->next_spare++;
    os_unlock(b->lock);
    return kept;
}

static om_status forget_file(void *ctx, const char *name, om_err *err)
{
    const horizon *h = ctx;
    char path[1200];
    if (!is_past(h, name) || is_spare(h->b, name))
        return OM_OK;
    TRY(path_of(h->b, name, path, err));
    return keep_spare(h->b, path) ? OM_OK : os_remove(path, err);
}

om_status inbox_forget(inbox *b, int64_t run, uint32_t round, om_err *err)
{
    horizon h = {b, run, round};
    os_lock(b->lock);
    for (upload *u = b->first, *next; u; u = next) {
        next = u->next;
        if (is_past(&h, u->name) && !u->queued_for_commit && !u->writing)
            unlink_upload(b, u);
    }
    os_unlock(b->lock);
    return os_list_dir(b->dir, forget_file, &h, err);
}
