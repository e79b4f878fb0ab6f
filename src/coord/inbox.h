/* inbox.h - updates on their way in: resumable, hashed while they arrive, durable before
 * anybody is told so.
 *
 * An upload is named RUN.ROUND.DEVICE.SHA (run id, numbers, 16 hexadecimal digits), so
 * that a device that comes back after any interruption, its own or ours, finds what it
 * has already sent.  Up to INBOX_SMALL bytes live in memory and later in the store's
 * row; more goes to the file DIR/inbox/NAME.  A file in the folder is no promise: only a
 * row in the store's updates makes it one.
 *
 * One connection writes an upload at a time.  When a device reconnects before the old
 * connection is known to be dead, the new one takes over: it gets a new `owner` number
 * and the old one's next piece is refused. */
#ifndef COORD_INBOX_H
#define COORD_INBOX_H

#include "os/os.h"
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
    sha256_ctx sha;
    int fd;         /* -1: small, or nobody is connected */
    uint8_t *small; /* (head.bytes), or NULL */
    bool writing, queued_for_commit, gone;
    void *request;       /* the connection to answer; the coordinator's */
    wire_reason verdict; /* the coordinator's */
} upload;

om_status inbox_open(const char *dir, inbox **out, om_err *err);
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
om_status inbox_sync(inbox *b, upload *u, om_err *err); /* its bytes, durably  */
om_status inbox_sync_folder(inbox *b, om_err *err);     /* and their names     */
/* The sealed bytes, mapped or in memory; inbox_unmap when done. */
om_status inbox_map(inbox *b, const upload *u, os_map *out, om_err *err);
void inbox_unmap(const upload *u, os_map *m);
/* Not accepted for a reason of ours: it may be tried again as it is. */
void inbox_return(inbox *b, upload *u);
/* Accepted (keep_file) or refused: forget it. */
void inbox_drop(inbox *b, upload *u, bool keep_file);

/* ---- files of accepted updates ------------------------------------------------------ */
void inbox_name(int64_t run, uint32_t round, uint32_t device, const uint8_t sha[32],
                char out[INBOX_NAME]);
om_status inbox_map_file(inbox *b, const char *name, os_map *out, om_err *err);
/* Remove files and uploads of rounds before `round` of the run; some files are kept for
 * uploads to come. */
om_status inbox_forget(inbox *b, int64_t run, uint32_t round, om_err *err);

#endif
