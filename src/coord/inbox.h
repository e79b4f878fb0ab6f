/* inbox.h - updates on their way in: resumable, hashed while they arrive, durable before
 * anybody is told so.
 *
 * An upload is named RUN.ROUND.DEVICE.DIGEST (run id, numbers, 16 hexadecimal digits), so
 * that a device that comes back after an interruption finds what it has already sent.
 * Up to INBOX_SMALL bytes live in memory and later in the store's row; up to
 * SEGMENT_SLOT_MAX in a slot of a segment, which they share with others; more goes to the
 * file DIR/inbox/NAME, where also a later process of ours goes on.  Bytes on the disk are
 * no promise: only a row in the store's updates makes them one.
 *
 * One connection writes an upload at a time.  When a device reconnects before the old
 * connection is known to be dead, the new one takes over: it gets a new `owner` number
 * and the old one's next piece is refused. */
#ifndef COORD_INBOX_H
#define COORD_INBOX_H

#include "coord/segments.h"
#include "proto/wire.h"

enum { INBOX_SMALL = 12 * 1024, INBOX_NAME = 80 };

typedef struct inbox inbox;

typedef struct upload {
    struct upload *next;   /* in the inbox's table */
    struct upload *queued; /* in the coordinator's queue */
    char name[INBOX_NAME];
    wire_update head;
    uint32_t device, owner, users;
    uint64_t offset; /* bytes arrived */
    wire_digester digest;
    uint8_t *small; /* (head.bytes), or NULL */
    slot slot;      /* of a middling one */
    int fd;         /* of a large one; -1: nobody is connected */
    bool writing, queued_for_commit, gone;
    void *request;       /* the connection to answer; the coordinator's */
    wire_reason verdict; /* the coordinator's */
} upload;

/* up_bound: the most bytes of an update of this run. */
om_status inbox_open(const char *dir, size_t up_bound, inbox **out, om_err *err);
void inbox_close(inbox *b);

/* The upload of (run, device, head), made or found again, with this caller as its owner.
 * OM_EREFUSED with *why when somebody is writing at this very moment, or it waits for
 * its commit already. */
om_status inbox_enter(inbox *b, int64_t run, uint32_t device, const wire_update *head,
                      upload **out, uint32_t *owner, wire_reason *why, om_err *err);
/* The same by name; OM_ENOTFOUND. */
om_status inbox_find(inbox *b, str name, uint32_t device, upload **out, uint32_t *owner,
                     wire_reason *why, om_err *err);
void inbox_leave(inbox *b, upload *u, uint32_t owner);

/* OM_EREFUSED: taken over, or more than announced. */
om_status inbox_append(inbox *b, upload *u, uint32_t owner, const void *p, size_t n,
                       om_err *err);
/* All bytes are there: is it what was announced?  If not it starts again at 0. Marks it
 * as queued: nobody can enter it until inbox_drop or inbox_return. */
om_status inbox_seal(inbox *b, upload *u, uint32_t owner, wire_reason *why, om_err *err);
/* All of their bytes are durable, and their files' names; waits side by side on `p`. */
om_status inbox_sync(inbox *b, upload *const *list, size_t n, pool *p, om_err *err);
/* The sealed bytes, mapped or in memory; os_map_close when done. */
om_status inbox_map(inbox *b, const upload *u, os_map *out, om_err *err);
/* Not accepted for a reason of ours: it may be tried again as it is. */
void inbox_return(inbox *b, upload *u);
/* Accepted (keep) or refused: forget it. */
void inbox_drop(inbox *b, upload *u, bool keep);

/* ---- accepted updates --------------------------------------------------------------- */

/* Of a large one: its file. */
om_status inbox_map_file(inbox *b, int64_t run, uint32_t round, uint32_t device,
                         const uint8_t digest[WIRE_DIGEST], os_map *out, om_err *err);
const segments *inbox_segments(const inbox *b);
/* Rounds before `round` of the run are folded: let go of their files and uploads. */
om_status inbox_forget(inbox *b, int64_t run, uint32_t round, om_err *err);

#endif
