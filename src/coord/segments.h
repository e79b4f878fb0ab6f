/* segments.h - the bytes of middling updates, many to a file.
 *
 *     DIR/segments/RUN.ROUND.NUMBER     slots of one size, one update each
 *
 * A file per update would be opened, synced, named durably and removed per update; here
 * a whole group shares one sync, and the files of a folded round are written over by the
 * next: a file that has its blocks and its pages takes half the time to write and sync.
 *
 * A slot holds the largest update the run can send and starts on a page, so no write
 * touches a page on which somebody else's promised bytes lie.  Which slot is whose is
 * written in the store's row; a slot that no row names holds nothing, whatever its
 * bytes.  Slots given back (refused, replaced) are used again, so the space of a round
 * is bounded by devices that are under way or accepted, not by what they announce.
 *
 * RECYCLING.  A segment changes its round only when that round is folded AND no upload
 * holds a slot of it: a late writer can never reach a page of the next round. */
#ifndef COORD_SEGMENTS_H
#define COORD_SEGMENTS_H

#include "os/os.h"

enum { SEGMENT_SLOT_MAX = 4 << 20 }; /* larger updates have files of their own */

typedef struct segments segments;
typedef struct segment segment;

typedef struct {
    segment *in; /* NULL: no slot */
    uint64_t at; /* offset of its first byte */
} slot;

/* slot_bytes: 1..SEGMENT_SLOT_MAX, the most that is written to one. */
om_status segments_open(const char *dir, size_t slot_bytes, segments **out, om_err *err);
void segments_close(segments *s);

/* A slot in a segment of that round, held until it is let go.  `lane`: slots of different
 * lanes lie in different files as long as possible, for writers side by side. */
om_status slot_take(segments *s, int64_t run, uint32_t round, uint32_t lane, slot *out,
                    om_err *err);
/* keep: a row names it now.  Else it is free again. */
void slot_let_go(segments *s, slot t, bool keep);
om_status slot_write(slot t, uint64_t offset, const void *p, size_t n, om_err *err);
om_status slot_map(slot t, size_t n, os_map *out, om_err *err);
void slot_sync_start(slot t, size_t n); /* a hint */
uint32_t slot_segment(slot t);          /* the NUMBER of its file */

/* What was written to these slots is durable, and the files' names: each file is synced
 * once, side by side on `p`. */
om_status slots_sync(segments *s, const slot *list, size_t n, pool *p, om_err *err);

/* For the fold: the file of (run, round, number), open until another is asked for. */
typedef struct {
    bool open;
    uint32_t number;
    int fd;
    char path[1200];
} segment_reader;

om_status segment_map(const segments *s, segment_reader *r, int64_t run, uint32_t round,
                      uint32_t number, uint64_t at, size_t n, os_map *out, om_err *err);
void segment_reader_close(segment_reader *r);

/* Rounds of the run before `round` are folded. */
om_status segments_forget(segments *s, int64_t run, uint32_t round, om_err *err);

/* Is RUN.ROUND.* in `name` of a folded round, or nothing of ours? */
bool segments_past_name(const char *name, int64_t run, uint32_t round);

#endif
