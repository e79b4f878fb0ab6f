/* os.h - the only door to the system: files, maps, threads, clock, entropy, facts
 * about the machine.  Paths are NUL-terminated UTF-8.  Messages name the path. */
#ifndef OS_OS_H
#define OS_OS_H

#include "base/base.h"

/* ---- files -------------------------------------------------------------------- */

/* A read-only mapping of a whole file.  An empty file maps as {"", 0}. */
typedef struct {
    const uint8_t *p;
    size_t n;
    int fd_;
} os_map;

om_status os_map_open(const char *path, os_map *out, om_err *err);
/* The same, but the bytes may be written: changes stay in memory and never reach the file. */
om_status os_map_open_private(const char *path, os_map *out, om_err *err);
/* n bytes of an open file from `offset`, a multiple of 4096; the file may be closed. */
om_status os_map_part(int fd, uint64_t offset, size_t n, const char *path, os_map *out,
                      om_err *err);
/* A hint: all of it will be read now; one call instead of a fault for every few pages. */
void os_map_fill(const os_map *m);
/* A hint: these bytes of a read-only mapping are not needed soon; their memory may go. */
void os_map_forget(const void *p, size_t n);
void os_map_close(os_map *m);

/* Whole small file into a growing buf; OM_ELIMIT over max. Caller frees. */
om_status os_read_file(const char *path, size_t max, buf *out, om_err *err);

/* Replace `path` so that a crash leaves the old file or the new one, never a part:
 * temp file beside it, write, fsync, rename, fsync of the folder. */
om_status os_write_file_atomic(const char *path, const void *p, size_t n, om_err *err);

/* The same in pieces, for files too large for memory. os_put_commit or os_put_abort
 * ends it, also when it fails; what a crash leaves is a temp that os_put_open reuses. */
typedef struct {
    int fd;
    char *path, *temp;
} os_put;

om_status os_put_open(const char *path, os_put *f, om_err *err);
om_status os_put_write(os_put *f, const void *p, size_t n, om_err *err);
om_status os_put_at(os_put *f, uint64_t offset, const void *p, size_t n, om_err *err);
om_status os_put_commit(os_put *f, om_err *err);
void os_put_abort(os_put *f);

/* A file written in place, which keeps what an earlier process wrote: opened or made, with
 * its present size.  The path is for messages. */
om_status os_open_rw(const char *path, int *fd, uint64_t *size, om_err *err);
om_status os_pwrite(int fd, uint64_t offset, const void *p, size_t n, const char *path,
                    om_err *err);
om_status os_pread(int fd, uint64_t offset, void *p, size_t n, const char *path, om_err *err);
om_status os_truncate(int fd, uint64_t size, const char *path, om_err *err);
/* For files larger than memory: read past the system's cache where it allows that.  A read
 * of n bytes takes os_direct_room(n) bytes of room, 4096-aligned; *at is where they lie. */
om_status os_open_direct(const char *path, int *fd, om_err *err);
size_t os_direct_room(size_t n);
om_status os_read_direct(int fd, uint64_t offset, size_t n, uint8_t *room, const void **at,
                         const char *path, om_err *err);
void os_sync_start(int fd, uint64_t offset, uint64_t n);  /* a hint: start writing back */
om_status os_sync(int fd, const char *path, om_err *err); /* data and size durable */
void os_close(int fd);                                    /* -1 is allowed         */
/* Only one process at a time: OM_EEXIST when another holds it.  Ends with the process. */
om_status os_lock_file(const char *path, int *fd, om_err *err);

/* All or nothing where the disk is full; not synced. */
om_status os_append(const char *path, const void *p, size_t n, om_err *err);
om_status os_mkdirs(const char *path, om_err *err);     /* like mkdir -p */
om_status os_fsync_dir(const char *path, om_err *err);
om_status os_rename(const char *from, const char *to, om_err *err);
om_status os_remove(const char *path, om_err *err);     /* a missing file is OM_OK */
bool os_exists(const char *path);
bool os_is_dir(const char *path);
om_status os_file_size(const char *path, uint64_t *out, om_err *err);
/* Names (not paths) in a folder, sorted, without . and .. ; fn returning non-OK stops. */
om_status os_list_dir(const char *path,
                      om_status (*fn)(void *ctx, const char *name, om_err *err), void *ctx,
                      om_err *err);
/* The absolute path of something that exists. */
om_status os_absolute(const char *path, char *out, size_t cap, om_err *err);
/* dir + "/" + name into out; OM_ELIMIT when it does not fit. */
om_status os_join(char *out, size_t cap, const char *dir, const char *name);

/* A file mapped for reading and writing: state that may be as large as the model and
 * need not stay in memory.  os_state_create makes it n bytes of zeros, all allocated on
 * disk beforehand, so that a later store cannot meet a full disk.  With a NULL path it is
 * memory that costs nothing until touched, and release makes it zeros again. */
typedef struct {
    uint8_t *p;
    size_t n;
    int fd_;
} os_state;

om_status os_state_create(const char *path, size_t n, os_state *out, om_err *err);
om_status os_state_sync(os_state *s, om_err *err); /* all of it durable            */
void os_state_release(os_state *s);                /* out of our memory; bytes stay */
void os_state_release_part(os_state *s, const void *p, size_t n); /* whole pages of it */
void os_state_close(os_state *s);

/* ---- time, entropy, facts -------------------------------------------------------- */

uint64_t os_now_ns(void);      /* monotonic */
uint64_t os_wall_ms(void);     /* Unix time, milliseconds */
void os_sleep_ms(uint64_t ms);
om_status os_entropy(void *p, size_t n, om_err *err);

uint64_t os_peak_rss_bytes(void);
uint64_t os_memory_bytes(void);    /* usable by us: the smaller of RAM and cgroup limit */
uint64_t os_available_bytes(void);
int os_cpu_count(void);            /* CPUs this process may run on */
const char *os_cpu_name(char *out, size_t cap);

/* ---- threads ----------------------------------------------------------------------- */

/* A pool of n_threads - 1 workers plus the caller.  Work is cut by size and grain,
 * never by the number of threads, so results cannot depend on it: fn receives
 * [beg, end) chunks of at most `grain` items; which thread runs a chunk is not
 * defined; `worker` in [0, n_threads) indexes per-thread scratch.  pool_run returns
 * when all chunks are done.  A NULL pool runs everything on the caller.  Not
 * re-entrant: one pool_run at a time, from one thread. */
typedef struct pool pool;

om_status pool_open(int n_threads, pool **out, om_err *err); /* 0: os_cpu_count() */
void pool_close(pool *p);
int pool_threads(const pool *p); /* 1 for NULL */
/* For jobs that wait for a disk: nobody spins, between jobs or for the end of one. */
void pool_rest(pool *p);
typedef void pool_fn(void *ctx, size_t beg, size_t end, int worker);
void pool_run(pool *p, size_t n_items, size_t grain, pool_fn *fn, void *ctx);

/* One thread and one lock, for servers. */
typedef struct os_thread os_thread;
om_status os_thread_start(os_thread **out, void (*fn)(void *), void *ctx, om_err *err);
void os_thread_join(os_thread *t);
typedef struct os_mutex os_mutex;
om_status os_mutex_open(os_mutex **out, om_err *err);
void os_mutex_close(os_mutex *m);
void os_lock(os_mutex *m);
void os_unlock(os_mutex *m);

/* A bell: os_event_wait returns true when it was rung since the last wait, false after
 * `timeout_ms`.  Rings do not add up. */
typedef struct os_event os_event;
om_status os_event_open(os_event **out, om_err *err);
void os_event_close(os_event *e);
void os_event_ring(os_event *e);
bool os_event_wait(os_event *e, uint64_t timeout_ms);

/* ---- other programs ------------------------------------------------------------------ */

typedef struct {
    long pid;           /* -1: none */
    int out;            /* its standard output */
    size_t n_pending;
    char pending[16384];
} os_child;

om_status os_exe_path(char *out, size_t cap, om_err *err); /* of this program */
/* argv[0] is a path; argv ends with NULL.  Standard error is appended to log_path.  The
 * child ends when we do. */
om_status os_spawn(const char *const *argv, const char *log_path, os_child *out, om_err *err);
/* The next line it printed, without the newline (cut to cap).  OM_EAGAIN: none within
 * wait_ms (-1: for ever); OM_ENOTFOUND: it has closed its output. */
om_status os_child_line(os_child *c, char *line, size_t cap, int wait_ms, om_err *err);
bool os_child_ended(os_child *c, int *status); /* exit status, or 128 + signal */
void os_child_close(os_child *c, uint64_t patience_ms); /* asks, waits, then kills */

#endif
