/* base.h - ground floor: errors, checked sizes, string views, arenas, the one
 * allocation door, byte buffers and cursors, counter-based random numbers, and the
 * parameter tables that every registry row carries.  Includes nothing of ours but
 * the public octomil/base.h.
 *
 * Names: `om_` is for public symbols only.  Inside, a symbol shared between files
 * carries its module's name (buf_put, rng_u64); statics have short plain names. */
#ifndef BASE_BASE_H
#define BASE_BASE_H

#include "octomil/base.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>

#define countof(a) (sizeof(a) / sizeof((a)[0]))

/* ---- errors ---------------------------------------------------------------- */

/* Fill *err (if given) and return `code`, so that a failure is one line:
 *     return fail(err, OM_EFORMAT, "gguf: magic is %08x, expected 'GGUF'", magic);
 * A message says module, thing, found, expected, what to do. */
om_status fail(om_err *err, om_status code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
om_status fail_at(om_err *err, om_status code, uint64_t pos, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Put "what: " before the message already in *err, keeping code and pos. */
om_status fail_in(om_err *err, om_status code, const char *what);

/* Was a stop asked for?  NULL: never.  Another thread may be asking right now. */
static inline bool is_cancelled(const om_cancel *c)
{
    return c && atomic_load_explicit(&c->requested, memory_order_relaxed);
}
static inline void cancel_now(om_cancel *c)
{
    atomic_store_explicit(&c->requested, 1, memory_order_relaxed);
}

#define TRY(expr)                     \
    do {                              \
        om_status try_s_ = (expr);    \
        if (try_s_ != OM_OK)          \
            return try_s_;            \
    } while (0)

/* Our own bug, never the world's fault: stop here, with the debugger. */
#define BUG_IF(cond)          \
    do {                      \
        if (cond)             \
            __builtin_trap(); \
    } while (0)

/* ---- sizes ------------------------------------------------------------------ */

/* False when the result would not fit; *out is then untouched. */
static inline bool size_add(size_t a, size_t b, size_t *out)
{
    if (b > SIZE_MAX - a)
        return false;
    *out = a + b;
    return true;
}
static inline bool size_mul(size_t a, size_t b, size_t *out)
{
    if (a && b > SIZE_MAX / a)
        return false;
    *out = a * b;
    return true;
}
static inline size_t size_align(size_t n, size_t align) /* align: power of two */
{
    return (n + align - 1) & ~(align - 1);
}
static inline size_t size_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t size_max(size_t a, size_t b) { return a > b ? a : b; }

/* ---- string views (not NUL-terminated) -------------------------------------- */

typedef struct {
    const char *p;
    size_t n;
} str;

#define STR(lit) ((str){(lit), sizeof(lit) - 1})
static inline str str_of(const char *z) { return (str){z, z ? strlen(z) : 0}; }
static inline bool str_eq(str a, str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
static inline bool str_is(str a, const char *z) { return str_eq(a, str_of(z)); }
bool str_starts(str s, const char *prefix);
bool str_ends(str s, const char *suffix);
bool str_u64(str s, uint64_t *out);    /* whole string, decimal, no overflow  */
bool str_f64(str s, double *out);      /* whole string, decimal, finite, any locale */

/* The first character of s: its byte length (1 to 4) and code point; 0 when s is empty
 * or starts with bytes that are not UTF-8 (overlong, surrogate, above U+10FFFF). */
size_t utf8_take(str s, uint32_t *code);
size_t utf8_encode(uint32_t code, char out[4]); /* length; 0: not a character */

/* ---- memory ----------------------------------------------------------------- */

/* The only allocation door.  Zeroed, 64-byte aligned, NULL when out of memory.
 * Builds with OM_FAULTS can make the n-th allocation of a thread fail. */
void *mem_alloc(size_t n);
void *mem_array(size_t count, size_t size);            /* overflow gives NULL */
void *mem_grow(void *p, size_t old_n, size_t new_n);   /* keeps, zeroes the rest; NULL leaves p */
void mem_free(void *p);
char *mem_strdup(str s);                               /* NUL-terminated copy */
#ifdef OM_FAULTS
void mem_fail_at(long nth); /* this thread: nth (1 = next) allocation fails; 0 = off */
long mem_count(void);       /* this thread: allocations since mem_fail_at       */
#endif

/* An arena is two pointers.  Pass `arena *` for memory that outlives the call;
 * pass `arena` by value for scratch, which is freed by returning.  The owner sized
 * it from a *_bytes() function, so running out is a bug: trap.  Zeroed memory. */
typedef struct {
    char *beg, *end;
} arena;

void *arena_alloc(arena *a, size_t size, size_t align, size_t count);
#define arena_new(a, T, n) ((T *)arena_alloc((a), sizeof(T), _Alignof(T), (n)))
static inline arena arena_of(void *p, size_t n) { return (arena){p, (char *)p + n}; }
/* Bytes arena_new(T, n) may take, worst alignment included. */
#define arena_bytes(T, n) (sizeof(T) * (size_t)(n) + _Alignof(T))

/* ---- bytes out and in -------------------------------------------------------- */

/* Output bytes.  With limit == 0 the storage is fixed: put fails OM_ELIMIT at cap.
 * With limit > 0 it grows through mem_grow up to `limit` bytes and the owner calls
 * buf_free.  Nothing is written by a put that fails. */
typedef struct {
    uint8_t *data;
    size_t len, cap, limit;
} buf;

static inline buf buf_fixed(void *p, size_t cap) { return (buf){p, 0, cap, 0}; }
static inline buf buf_growing(size_t limit) { return (buf){NULL, 0, 0, limit}; }
void buf_free(buf *b);
om_status buf_reserve(buf *b, size_t more); /* room for `more` bytes after len */
om_status buf_put(buf *b, const void *src, size_t n);
om_status buf_u8(buf *b, uint8_t v);
om_status buf_u16(buf *b, uint16_t v); /* all little-endian */
om_status buf_u32(buf *b, uint32_t v);
om_status buf_u64(buf *b, uint64_t v);
om_status buf_f32(buf *b, float v);
om_status buf_str(buf *b, str s);                 /* the bytes, no terminator */
om_status buf_fmt(buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Bounded reader of hostile bytes.  The first failure sticks (ok = false) and every
 * later read gives zero, so a parser may read a header and check once. */
typedef struct {
    const uint8_t *p;
    size_t n, pos;
    bool ok;
} cursor;

static inline cursor cursor_of(const void *p, size_t n) { return (cursor){p, n, 0, true}; }
const uint8_t *cursor_take(cursor *c, size_t n); /* NULL when fewer are left */
uint8_t cursor_u8(cursor *c);
uint16_t cursor_u16(cursor *c);
uint32_t cursor_u32(cursor *c);
uint64_t cursor_u64(cursor *c);
float cursor_f32(cursor *c);

/* ---- hash -------------------------------------------------------------------- */

typedef struct {
    uint32_t h[8];
    uint64_t bytes;
    uint8_t block[64];
} sha256_ctx;

void sha256_init(sha256_ctx *s); /* FIPS 180-4 */
void sha256_update(sha256_ctx *s, const void *p, size_t n);
void sha256_final(sha256_ctx *s, uint8_t out[32]);
void sha256(const void *p, size_t n, uint8_t out[32]);
void hex_encode(const uint8_t *p, size_t n, char *out); /* 2n chars and NUL */
bool hex_decode(str s, uint8_t *out, size_t n);
uint64_t hash64(const void *p, size_t n); /* for tables; not for security */
/* CRC-64/NVME of what `crc` is the checksum of, followed by n bytes; of nothing it is 0.
 * Against accidents, not against an enemy; many times faster than SHA-256. */
uint64_t crc64(uint64_t crc, const void *p, size_t n);
uint64_t crc64_portable(uint64_t crc, const void *p, size_t n); /* the same, in plain C */

/* ---- random numbers ---------------------------------------------------------- */

/* Counter-based: the value depends on the key and the counter alone, so client 7
 * draws the same numbers in round 12 whatever thread or machine runs it.
 * splitmix64 (Steele, Lea, Flood 2014) over a mixed key. */
typedef struct {
    uint64_t key, ctr;
} rng;

rng rng_for(uint64_t seed, uint32_t round, uint32_t client, uint32_t use);
uint64_t rng_at(const rng *r, uint64_t i); /* the i-th value, counter untouched */
uint64_t rng_u64(rng *r);
uint32_t rng_below(rng *r, uint32_t n);    /* uniform in [0,n), unbiased       */
double rng_unit(rng *r);                   /* in [0,1), 53 bits                */
double rng_normal(rng *r);                 /* Box-Muller, two draws each       */
/* Where the permutation of n things named by key sends i: no table, no memory. */
uint64_t rng_pick(uint64_t key, uint64_t n, uint64_t i);

/* ---- parameters --------------------------------------------------------------- */

/* One hyper-parameter of a registry row: what the command line, the configuration
 * file, the generated reference and the web form all know about it.  A choice is
 * stored as its index; a flag as 0 or 1. */
typedef struct {
    const char *name; /* as typed: "lr"; NULL ends a table */
    double def, min, max;
    const char *help;
    const char *choices; /* "sgd|adamw" or NULL for a number */
} param;

/* Defaults into p[0..n). */
void param_defaults(const param *table, double *p);
size_t param_count(const param *table);
/* Set by name from text; the error names the table's nearest choices and range. */
om_status param_set(const param *table, const char *owner, double *p, str name, str value,
                    om_err *err);
/* The name in `names` (NULL-ended) nearest to `wrong` by edit distance, for "did you
 * mean"; never NULL when the list is not empty. */
const char *nearest_name(const char *const *names, str wrong);

/* ---- log ----------------------------------------------------------------------- */

typedef enum { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR } log_level;

/* Where messages go; the library never prints.  fn may be NULL (silent). */
typedef struct {
    void (*fn)(void *ctx, log_level level, const char *msg);
    void *ctx;
    log_level least;
} log_sink;

void log_to(const log_sink *s, log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
