/* octomil/base.h - what every other public header rests on: status codes, the
 * error report, the allocation-free queries on them, and nothing else.
 *
 * Thread safety: every function here is pure.  Nothing allocates. */
#ifndef OCTOMIL_BASE_H
#define OCTOMIL_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define OM_API __attribute__((visibility("default")))
#else
#define OM_API
#endif

#define OM_VERSION "0.1.0"

/* One list; the enum, the names and the sentences all come from it. */
#define OM_STATUS_MAP(X)                                              \
    X(OK, 0, "success")                                               \
    X(ENOMEM, -1, "out of memory")                                    \
    X(EIO, -2, "input/output error")                                  \
    X(EFORMAT, -3, "malformed input")                                 \
    X(EARG, -4, "argument out of its documented range")               \
    X(EAGAIN, -5, "not ready yet, call again")                        \
    X(ECANCEL, -6, "cancelled by the caller")                         \
    X(ENOTFOUND, -7, "no such thing")                                 \
    X(EEXIST, -8, "exists already")                                   \
    X(ELIMIT, -9, "over a stated limit")                              \
    X(ENET, -10, "the other side could not be reached or hung up")    \
    X(EREFUSED, -11, "refused by the other side")                     \
    X(EUNSUPPORTED, -12, "well formed, but not supported")

typedef enum {
#define X(name, value, text) OM_##name = (value),
    OM_STATUS_MAP(X)
#undef X
} om_status;

/* A report the caller owns; every function takes NULL for it too.  `msg` names
 * module, thing, what was found and what to do about it; `pos` is the byte offset
 * in the input where a parser stopped, or 0. */
typedef struct {
    om_status code;
    uint64_t pos;
    char msg[300];
} om_err;

OM_API const char *om_version(void);              /* "0.1.0"             */
OM_API const char *om_status_name(om_status s);   /* "EFORMAT"           */
OM_API const char *om_status_text(om_status s);   /* "malformed input"   */

/* Cancellation: the caller owns an om_cancel, hands its address to a long call and
 * may set it from any thread or a signal handler.  The call returns OM_ECANCEL at
 * its next safe point and leaves nothing half done. */
typedef struct {
#if defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L && !defined(__STDC_NO_ATOMICS__)
    _Atomic int requested;
#else /* C++ and old C: the same bytes */
    volatile int requested;
#endif
} om_cancel;

/* Progress of a long call.  Called from the calling thread only; `total` is 0 when
 * it is not known. `unit` is a plural noun ("tokens").  NULL means silent. */
typedef void om_progress_fn(void *ctx, const char *what, const char *unit,
                            uint64_t done, uint64_t total);

#ifdef __cplusplus
}
#endif
#endif
