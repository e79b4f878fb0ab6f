/* store.c - see store.h.
 *
 * Statements are prepared once; their texts stand in one list.  The little binder below
 * takes a type string: i integer, r real, t text, b bytes (pointer, length).
 *
 * The schema's version is SQLite's user_version; migrations are a list, each raising it
 * by one inside a transaction, so an old file opens with a new program. */
#include "coord/store.h"

#include <math.h>
#include <sqlite3.h>
#include <stdio.h>

static const char *const migrations[] = {
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "INSERT INTO meta VALUES ('epoch', 0);"
    "CREATE TABLE runs (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    " config TEXT NOT NULL, snapshot BLOB NOT NULL, round INTEGER NOT NULL);"
    "CREATE TABLE versions (run INTEGER NOT NULL, version INTEGER NOT NULL,"
    " state BLOB NOT NULL, state_bytes INTEGER NOT NULL,"
    " down BLOB NOT NULL, down_bytes INTEGER NOT NULL, PRIMARY KEY (run, version))"
    " WITHOUT ROWID;"
    "CREATE TABLE rounds (run INTEGER NOT NULL, round INTEGER NOT NULL,"
    " attempts INTEGER NOT NULL, selected INTEGER NOT NULL, accepted INTEGER NOT NULL,"
    " opened_ms INTEGER NOT NULL, closed_ms INTEGER NOT NULL, bytes_up INTEGER NOT NULL,"
    " bytes_down INTEGER NOT NULL, loss REAL, PRIMARY KEY (run, round)) WITHOUT ROWID;"
    "CREATE TABLE devices (idx INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    " platform TEXT NOT NULL, token_hash BLOB NOT NULL, seen_ms INTEGER NOT NULL);"
    "CREATE TABLE updates (run INTEGER NOT NULL, round INTEGER NOT NULL,"
    " device INTEGER NOT NULL, attempt INTEGER NOT NULL, sha BLOB NOT NULL,"
    " bytes INTEGER NOT NULL, samples INTEGER NOT NULL, loss REAL, payload BLOB,"
    " UNIQUE (run, round, device));"
    "CREATE TABLE blobs (sha BLOB PRIMARY KEY, bytes INTEGER NOT NULL, refs INTEGER NOT "
    "NULL)"
    " WITHOUT ROWID;",
    "ALTER TABLE updates ADD COLUMN segment INTEGER;"
    "ALTER TABLE updates ADD COLUMN at INTEGER;",
};

#define SQL_LIST(X)                                                                        \
    X(BEGIN, "BEGIN IMMEDIATE")                                                            \
    X(COMMIT, "COMMIT")                                                                    \
    X(ROLLBACK, "ROLLBACK")                                                                \
    X(FULL, "PRAGMA synchronous=FULL")                                                     \
    X(NORMAL, "PRAGMA synchronous=NORMAL")                                                 \
    X(EPOCH, "SELECT value FROM meta WHERE key='epoch'")                                   \
    X(RAISE, "UPDATE meta SET value=value+1 WHERE key='epoch'")                            \
    X(RUN_FIND, "SELECT id, round, config, snapshot, state, state_bytes, down, down_bytes" \
                " FROM runs JOIN versions ON run=id AND version=round WHERE name=?")       \
    X(RUN_NEW, "INSERT INTO runs (name, config, snapshot, round) VALUES (?,?,?,0)")        \
    X(RUN_SAVE, "UPDATE runs SET snapshot=? WHERE id=?")                                   \
    X(RUN_NEXT, "UPDATE runs SET snapshot=?, round=round+1 WHERE id=? AND round=?")        \
    X(VERSION_NEW, "INSERT INTO versions VALUES (?,?,?,?,?,?)")                            \
    X(VERSION_OLD, "SELECT version, state, down FROM versions WHERE run=? AND version<=?"  \
                   " ORDER BY version LIMIT 1")                                            \
    X(VERSION_DROP, "DELETE FROM versions WHERE run=? AND version=?")                      \
    X(ROUND_NEW, "INSERT INTO rounds VALUES (?,?,?,?,?,?,?,?,?,?)")                        \
    X(ROUNDS, "SELECT * FROM rounds WHERE run=? ORDER BY round")                           \
    X(DEVICE_PUT, "INSERT INTO devices VALUES (?,?,?,?,?) ON CONFLICT (name) DO UPDATE"    \
                  " SET token_hash=excluded.token_hash, platform=excluded.platform")       \
    X(DEVICES,                                                                             \
      "SELECT idx, name, platform, token_hash, seen_ms FROM devices ORDER BY idx")         \
    X(SEEN, "UPDATE devices SET seen_ms=? WHERE idx=?")                                    \
    X(ACCEPT, "INSERT INTO updates VALUES (?,?,?,?,?,?,?,?,?,?,?)")                            \
    X(ACCEPTED, "SELECT sha FROM updates WHERE run=? AND round=? AND device=?")            \
    X(UPDATES, "SELECT device, attempt, sha, bytes, samples, loss, payload, segment, at"   \
               " FROM updates WHERE run=? AND round=? AND device>=? ORDER BY device"       \
               " LIMIT 1")                                                                 \
    X(PAYLOAD_DROP, "UPDATE updates SET payload=NULL WHERE run=? AND round=?"              \
                    " AND payload IS NOT NULL")                                            \
    X(REF, "INSERT INTO blobs VALUES (?,?,1) ON CONFLICT (sha) DO UPDATE SET refs=refs+1") \
    X(UNREF, "UPDATE blobs SET refs=refs-1 WHERE sha=?")                                   \
    X(WANTED, "SELECT refs FROM blobs WHERE sha=? AND refs>0")                             \
    X(UNWANTED, "SELECT sha FROM blobs WHERE refs<=0 LIMIT 1")                             \
    X(FORGET, "DELETE FROM blobs WHERE sha=? AND refs<=0")

enum {
#define X(name, sql) SQL_##name,
    SQL_LIST(X)
#undef X
        SQL_COUNT
};

static const char *const sql_text[SQL_COUNT] = {
#define X(name, sql) [SQL_##name] = sql,
    SQL_LIST(X)
#undef X
};

struct store {
    sqlite3 *db;
    sqlite3_stmt *q[SQL_COUNT];
    os_mutex *lock;
    int64_t epoch;
};

/* ---- SQLite in our terms ------------------------------------------------------------ */

static om_status sql_fail(store *s, const char *what, om_err *err)
{
    int code = s->db ? sqlite3_errcode(s->db) : SQLITE_NOMEM;
    om_status st = code == SQLITE_NOMEM                              ? OM_ENOMEM
                   : code == SQLITE_CONSTRAINT                       ? OM_EEXIST
                   : code == SQLITE_NOTADB || code == SQLITE_CORRUPT ? OM_EFORMAT
                                                                     : OM_EIO;
    const char *hint = code == SQLITE_FULL ? "; free some space on its disk" : "";
    return fail(err, st, "store: %s: %s%s", what,
                s->db ? sqlite3_errmsg(s->db) : "no memory", hint);
}

static void bind_values(sqlite3_stmt *q, const char *types, va_list ap)
{
    for (int i = 0; types[i]; i++) {
        if (types[i] == 'i') {
            sqlite3_bind_int64(q, i + 1, va_arg(ap, int64_t));
        } else if (types[i] == 'r') {
            sqlite3_bind_double(q, i + 1, va_arg(ap, double)); /* NaN becomes NULL */
        } else {
            const char *p = va_arg(ap, const char *);
            uint64_t n = va_arg(ap, size_t);
            if (types[i] == 't')
                sqlite3_bind_text64(q, i + 1, p, n, SQLITE_STATIC, SQLITE_UTF8);
            else
                sqlite3_bind_blob64(q, i + 1, p, n, SQLITE_STATIC);
        }
    }
}

/* One step; *row tells whether there is a row to read, in which case the caller must
 * call done() before the statement is used again. */
static om_status step(store *s, int id, bool *row, om_err *err, const char *types, ...)
{
    va_list ap;
    va_start(ap, types);
    bind_values(s->q[id], types, ap);
    va_end(ap);
    int rc = sqlite3_step(s->q[id]);
    if (row)
        *row = rc == SQLITE_ROW;
    om_status st =
        rc == SQLITE_ROW || rc == SQLITE_DONE ? OM_OK : sql_fail(s, sql_text[id], err);
    if (rc != SQLITE_ROW || !row) {
        sqlite3_reset(s->q[id]);
        sqlite3_clear_bindings(s->q[id]);
    }
    return st;
}

static void done(store *s, int id)
{
    sqlite3_reset(s->q[id]);
    sqlite3_clear_bindings(s->q[id]);
}

static uint64_t col_u64(store *s, int id, int c) /* written by us, never negative */
{
    return (uint64_t)sqlite3_column_int64(s->q[id], c);
}

static bool col_sha(store *s, int id, int c, uint8_t sha[32])
{
    const void *p = sqlite3_column_blob(s->q[id], c);
    if (!p || sqlite3_column_bytes(s->q[id], c) != 32)
        return false;
    memcpy(sha, p, 32);
    return true;
}

static double col_f64(store *s, int id, int c)
{
    bool null = sqlite3_column_type(s->q[id], c) == SQLITE_NULL;
    return null ? (double)NAN : sqlite3_column_double(s->q[id], c);
}

static bool col_buf(store *s, int id, int c, buf *out)
{
    const void *p = sqlite3_column_blob(s->q[id], c);
    size_t n = (size_t)sqlite3_column_bytes(s->q[id], c);
    *out = buf_growing(n + 1);
    return buf_put(out, p, n) == OM_OK;
}

/* ---- transactions ------------------------------------------------------------------- */

static om_status check_fence(store *s, om_err *err)
{
    bool row;
    TRY(step(s, SQL_EPOCH, &row, err, ""));
    int64_t epoch = row ? sqlite3_column_int64(s->q[SQL_EPOCH], 0) : -1;
    done(s, SQL_EPOCH);
    return epoch == s->epoch ? OM_OK
                             : fail(err, OM_EREFUSED,
                                    "store: another coordinator has taken over this folder "
                                    "(epoch %lld, ours is %lld)",
                                    (long long)epoch, (long long)s->epoch);
}

/* Under the lock. */
static om_status begin_locked(store *s, om_err *err)
{
    TRY(step(s, SQL_BEGIN, NULL, err, ""));
    om_status st = check_fence(s, err);
    if (st != OM_OK)
        step(s, SQL_ROLLBACK, NULL, NULL, "");
    return st;
}

/* Commit when all went well, else leave no trace. */
static om_status finish_locked(store *s, om_status st, om_err *err)
{
    if (st == OM_OK)
        st = step(s, SQL_COMMIT, NULL, err, "");
    if (st != OM_OK && !sqlite3_get_autocommit(s->db))
        step(s, SQL_ROLLBACK, NULL, NULL, "");
    return st;
}

static om_status begin(store *s, om_err *err)
{
    os_lock(s->lock);
    om_status st = begin_locked(s, err);
    if (st != OM_OK)
        os_unlock(s->lock);
    return st;
}

static om_status finish(store *s, om_status st, om_err *err)
{
    st = finish_locked(s, st, err);
    os_unlock(s->lock);
    return st;
}

/* ---- open --------------------------------------------------------------------------- */

static om_status exec(store *s, const char *sql, om_err *err)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? OM_OK
                                                                   : sql_fail(s, sql, err);
}

static om_status user_version(store *s, int *out, om_err *err)
{
    sqlite3_stmt *q;
    if (sqlite3_prepare_v2(s->db, "PRAGMA user_version", -1, &q, NULL) != SQLITE_OK)
        return sql_fail(s, "cannot read the file", err);
    bool row = sqlite3_step(q) == SQLITE_ROW;
    *out = row ? sqlite3_column_int(q, 0) : 0;
    sqlite3_finalize(q);
    return row ? OM_OK : sql_fail(s, "cannot read the file", err);
}

static om_status migrate(store *s, om_err *err)
{
    int at, newest = (int)countof(migrations);
    TRY(user_version(s, &at, err));
    if (at > newest)
        return fail(err, OM_EUNSUPPORTED,
                    "store: the file is of schema %d; this program knows "
                    "up to %d: use a newer one",
                    at, newest);
    for (; at < newest; at++) {
        char pragma[48];
        snprintf(pragma, sizeof(pragma), "PRAGMA user_version=%d", at + 1);
        TRY(exec(s, "BEGIN EXCLUSIVE", err));
        om_status st = exec(s, migrations[at], err);
        if (st == OM_OK)
            st = exec(s, pragma, err);
        if (st == OM_OK)
            st = exec(s, "COMMIT", err);
        if (st != OM_OK) {
            exec(s, "ROLLBACK", NULL);
            return st;
        }
    }
    return OM_OK;
}

static om_status raise_epoch(store *s, om_err *err)
{
    bool row;
    TRY(step(s, SQL_RAISE, NULL, err, ""));
    TRY(step(s, SQL_EPOCH, &row, err, ""));
    s->epoch = row ? sqlite3_column_int64(s->q[SQL_EPOCH], 0) : 0;
    done(s, SQL_EPOCH);
    return OM_OK;
}

static om_status open_db(store *s, const char *path, om_err *err)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(path, &s->db, flags, NULL) != SQLITE_OK)
        return sql_fail(s, path, err);
    sqlite3_extended_result_codes(s->db, 0);
    sqlite3_busy_timeout(s->db, 5000);
    TRY(exec(s, "PRAGMA journal_mode=WAL", err));
    TRY(exec(s, "PRAGMA synchronous=FULL", err));
    TRY(exec(s, "PRAGMA cache_size=-2000", err)); /* 2 MB: memory belongs to the model */
    TRY(exec(s, "PRAGMA secure_delete=OFF", err));
    TRY(migrate(s, err));
    for (int i = 0; i < SQL_COUNT; i++)
        if (sqlite3_prepare_v3(s->db, sql_text[i], -1, SQLITE_PREPARE_PERSISTENT, &s->q[i],
                               NULL) != SQLITE_OK)
            return sql_fail(s, sql_text[i], err);
    return raise_epoch(s, err);
}

om_status store_open(const char *path, store **out, om_err *err)
{
    store *s = mem_alloc(sizeof(*s));
    *out = NULL;
    if (!s)
        return fail(err, OM_ENOMEM, "store: no memory");
    om_status st = os_mutex_open(&s->lock, err);
    if (st == OM_OK)
        st = open_db(s, path, err);
    if (st != OM_OK) {
        store_close(s);
        return st;
    }
    *out = s;
    return OM_OK;
}

void store_close(store *s)
{
    if (!s)
        return;
    for (int i = 0; i < SQL_COUNT; i++)
        sqlite3_finalize(s->q[i]);
    sqlite3_close(s->db);
    os_mutex_close(s->lock);
    mem_free(s);
}

/* ---- runs --------------------------------------------------------------------------- */

void store_run_clear(store_run *r)
{
    buf_free(&r->config);
    buf_free(&r->snapshot);
    *r = (store_run){0};
}

static om_status read_run(store *s, const char *name, store_run *out, om_err *err)
{
    enum { Q = SQL_RUN_FIND };
    bool row;
    *out = (store_run){0};
    TRY(step(s, Q, &row, err, "t", name, strlen(name)));
    if (!row)
        return fail(err, OM_ENOTFOUND, "store: there is no run '%s'", name);
    out->id = sqlite3_column_int64(s->q[Q], 0);
    out->round = (uint32_t)sqlite3_column_int64(s->q[Q], 1);
    bool memory = col_buf(s, Q, 2, &out->config) && col_buf(s, Q, 3, &out->snapshot);
    bool shas =
        col_sha(s, Q, 4, out->version.state_sha) && col_sha(s, Q, 6, out->version.down_sha);
    out->version.state_bytes = col_u64(s, Q, 5);
    out->version.down_bytes = col_u64(s, Q, 7);
    done(s, Q);
    if (memory && shas)
        return OM_OK;
    store_run_clear(out);
    return memory ? fail(err, OM_EFORMAT, "store: the record of run '%s' is damaged", name)
                  : fail(err, OM_ENOMEM, "store: no memory for run '%s'", name);
}

om_status store_run_find(store *s, const char *name, store_run *out, om_err *err)
{
    os_lock(s->lock);
    om_status st = read_run(s, name, out, err);
    os_unlock(s->lock);
    return st;
}

static om_status add_version(store *s, int64_t run, uint32_t version,
                             const store_version *v, om_err *err)
{
    TRY(step(s, SQL_VERSION_NEW, NULL, err, "iibibi", run, (int64_t)version, v->state_sha,
             (size_t)32, (int64_t)v->state_bytes, v->down_sha, (size_t)32,
             (int64_t)v->down_bytes));
    TRY(step(s, SQL_REF, NULL, err, "bi", v->state_sha, (size_t)32,
             (int64_t)v->state_bytes));
    return step(s, SQL_REF, NULL, err, "bi", v->down_sha, (size_t)32,
                (int64_t)v->down_bytes);
}

om_status store_run_create(store *s, const char *name, str config, str snapshot,
                           const store_version *v0, store_run *out, om_err *err)
{
    TRY(begin(s, err));
    om_status st = step(s, SQL_RUN_NEW, NULL, err, "ttb", name, strlen(name), config.p,
                        config.n, snapshot.p, snapshot.n);
    if (st == OM_OK)
        st = add_version(s, sqlite3_last_insert_rowid(s->db), 0, v0, err);
    TRY(finish(s, st, err));
    return store_run_find(s, name, out, err);
}

om_status store_run_save(store *s, int64_t run, str snapshot, om_err *err)
{
    TRY(begin(s, err));
    om_status st = step(s, SQL_RUN_SAVE, NULL, err, "bi", snapshot.p, snapshot.n, run);
    return finish(s, st, err);
}

/* ---- a round's commit --------------------------------------------------------------- */

static om_status drop_versions(store *s, int64_t run, int64_t up_to, om_err *err)
{
    for (;;) {
        bool row;
        uint8_t state[32], down[32];
        TRY(step(s, SQL_VERSION_OLD, &row, err, "ii", run, up_to));
        if (!row)
            return OM_OK;
        int64_t version = sqlite3_column_int64(s->q[SQL_VERSION_OLD], 0);
        bool ok =
            col_sha(s, SQL_VERSION_OLD, 1, state) && col_sha(s, SQL_VERSION_OLD, 2, down);
        done(s, SQL_VERSION_OLD);
        if (!ok)
            return fail(err, OM_EFORMAT, "store: version %lld is damaged",
                        (long long)version);
        TRY(step(s, SQL_UNREF, NULL, err, "b", state, (size_t)32));
        TRY(step(s, SQL_UNREF, NULL, err, "b", down, (size_t)32));
        TRY(step(s, SQL_VERSION_DROP, NULL, err, "ii", run, version));
    }
}

static om_status commit_round(store *s, int64_t run, const store_round *r,
                              const store_version *next, str snapshot, uint32_t keep,
                              om_err *err)
{
    int64_t round = (int64_t)r->round;
    TRY(step(s, SQL_RUN_NEXT, NULL, err, "bii", snapshot.p, snapshot.n, run, round));
    if (sqlite3_changes(s->db) != 1)
        return fail(err, OM_EEXIST, "store: round %u of the run is committed already",
                    (unsigned)r->round);
    TRY(add_version(s, run, r->round + 1, next, err));
    TRY(step(s, SQL_ROUND_NEW, NULL, err, "iiiiiiiiir", run, round, (int64_t)r->attempts,
             (int64_t)r->selected, (int64_t)r->accepted, (int64_t)r->opened_ms,
             (int64_t)r->closed_ms, (int64_t)r->bytes_up, (int64_t)r->bytes_down, r->loss));
    TRY(step(s, SQL_PAYLOAD_DROP, NULL, err, "ii", run, round));
    return keep ? drop_versions(s, run, round + 1 - (int64_t)keep, err) : OM_OK;
}

om_status store_commit(store *s, int64_t run, const store_round *r,
                       const store_version *next, str snapshot, uint32_t keep, om_err *err)
{
    TRY(begin(s, err));
    return finish(s, commit_round(s, run, r, next, snapshot, keep, err), err);
}

static om_status list_rounds(store *s, int64_t run,
                             om_status (*fn)(void *ctx, const store_round *r), void *ctx,
                             om_err *err)
{
    enum { Q = SQL_ROUNDS };
    bool row;
    TRY(step(s, Q, &row, err, "i", run));
    om_status st = OM_OK;
    for (; row && st == OM_OK; row = sqlite3_step(s->q[Q]) == SQLITE_ROW) {
        store_round r = {.round = (uint32_t)col_u64(s, Q, 1),
                         .attempts = (uint32_t)col_u64(s, Q, 2),
                         .selected = (uint32_t)col_u64(s, Q, 3),
                         .accepted = (uint32_t)col_u64(s, Q, 4),
                         .opened_ms = col_u64(s, Q, 5),
                         .closed_ms = col_u64(s, Q, 6),
                         .bytes_up = col_u64(s, Q, 7),
                         .bytes_down = col_u64(s, Q, 8),
                         .loss = col_f64(s, Q, 9)};
        st = fn(ctx, &r);
    }
    done(s, Q);
    return st;
}

om_status store_rounds(store *s, int64_t run,
                       om_status (*fn)(void *ctx, const store_round *r), void *ctx,
                       om_err *err)
{
    os_lock(s->lock);
    om_status st = list_rounds(s, run, fn, ctx, err);
    os_unlock(s->lock);
    return st;
}

/* ---- devices ------------------------------------------------------------------------ */

om_status store_device_put(store *s, const store_device *d, om_err *err)
{
    TRY(begin(s, err));
    om_status st = step(s, SQL_DEVICE_PUT, NULL, err, "ittbi", (int64_t)d->index, d->name,
                        strlen(d->name), d->platform, strlen(d->platform), d->token_hash,
                        (size_t)32, (int64_t)d->seen_ms);
    return finish(s, st, err);
}

static void col_text(store *s, int id, int c, char *out, size_t cap)
{
    const unsigned char *p = sqlite3_column_text(s->q[id], c);
    snprintf(out, cap, "%s", p ? (const char *)p : "");
}

static om_status list_devices(store *s, om_status (*fn)(void *ctx, const store_device *d),
                              void *ctx, om_err *err)
{
    enum { Q = SQL_DEVICES };
    bool row;
    TRY(step(s, Q, &row, err, ""));
    om_status st = OM_OK;
    for (; row && st == OM_OK; row = sqlite3_step(s->q[Q]) == SQLITE_ROW) {
        store_device d = {.index = (uint32_t)col_u64(s, Q, 0), .seen_ms = col_u64(s, Q, 4)};
        col_text(s, Q, 1, d.name, sizeof(d.name));
        col_text(s, Q, 2, d.platform, sizeof(d.platform));
        st = col_sha(s, Q, 3, d.token_hash)
                 ? fn(ctx, &d)
                 : fail(err, OM_EFORMAT, "store: device %u is damaged", (unsigned)d.index);
    }
    done(s, Q);
    return st;
}

om_status store_devices(store *s, om_status (*fn)(void *ctx, const store_device *d),
                        void *ctx, om_err *err)
{
    os_lock(s->lock);
    om_status st = list_devices(s, fn, ctx, err);
    os_unlock(s->lock);
    return st;
}

om_status store_seen(store *s, const uint32_t *index, const uint64_t *seen_ms, size_t n,
                     om_err *err)
{
    os_lock(s->lock); /* nobody else may commit while synchronous is NORMAL */
    om_status st = step(s, SQL_NORMAL, NULL, err, "");
    if (st == OM_OK)
        st = begin_locked(s, err);
    if (st == OM_OK) {
        for (size_t i = 0; i < n && st == OM_OK; i++)
            st = step(s, SQL_SEEN, NULL, err, "ii", (int64_t)seen_ms[i], (int64_t)index[i]);
        st = finish_locked(s, st, err);
    }
    om_status back = step(s, SQL_FULL, NULL, err, "");
    os_unlock(s->lock);
    return st != OM_OK ? st : back;
}

/* ---- updates ------------------------------------------------------------------------ */

om_status store_accept(store *s, int64_t run, const store_update *u, size_t n, om_err *err)
{
    TRY(begin(s, err));
    om_status st = OM_OK;
    for (size_t i = 0; i < n && st == OM_OK; i++, u++)
        st = step(s, SQL_ACCEPT, NULL, err, "iiiibiirbii", run, (int64_t)u->round,
                  (int64_t)u->device, (int64_t)u->attempt, u->digest, (size_t)32,
                  (int64_t)u->bytes, (int64_t)u->samples, u->loss, u->payload,
                  u->payload ? (size_t)u->bytes : (size_t)0,
                  u->in_segment ? (int64_t)u->segment : (int64_t)-1, (int64_t)u->at);
    return finish(s, st, err);
}

om_status store_accepted(store *s, int64_t run, uint32_t round, uint32_t device,
                         uint8_t digest[32], om_err *err)
{
    bool row;
    os_lock(s->lock);
    om_status st =
        step(s, SQL_ACCEPTED, &row, err, "iii", run, (int64_t)round, (int64_t)device);
    if (st == OM_OK && !row)
        st = OM_ENOTFOUND;
    if (st == OM_OK) {
        if (!col_sha(s, SQL_ACCEPTED, 0, digest))
            st = fail(err, OM_EFORMAT, "store: an update's record is damaged");
        done(s, SQL_ACCEPTED);
    }
    os_unlock(s->lock);
    return st;
}

/* The first update of a device >= from; its payload copied to `payload`. */
static om_status next_update(store *s, int64_t run, uint32_t round, int64_t from,
                             store_update *u, buf *payload, bool *row, om_err *err)
{
    enum { Q = SQL_UPDATES };
    TRY(step(s, Q, row, err, "iii", run, (int64_t)round, from));
    if (!*row)
        return OM_OK;
    *u = (store_update){.round = round,
                        .device = (uint32_t)col_u64(s, Q, 0),
                        .attempt = (uint32_t)col_u64(s, Q, 1),
                        .bytes = col_u64(s, Q, 3),
                        .samples = col_u64(s, Q, 4),
                        .loss = col_f64(s, Q, 5)};
    u->in_segment = sqlite3_column_type(s->q[Q], 7) == SQLITE_INTEGER &&
                    sqlite3_column_int64(s->q[Q], 7) >= 0;
    u->segment = u->in_segment ? (uint32_t)col_u64(s, Q, 7) : 0;
    u->at = u->in_segment ? col_u64(s, Q, 8) : 0;
    const void *p = sqlite3_column_blob(s->q[Q], 6);
    size_t n = (size_t)sqlite3_column_bytes(s->q[Q], 6);
    payload->len = 0;
    om_status st = OM_OK;
    if (!col_sha(s, Q, 2, u->digest) || (p && n != u->bytes))
        st = fail(err, OM_EFORMAT, "store: the update of device %u is damaged",
                  (unsigned)u->device);
    else if (p && buf_put(payload, p, n) != OM_OK)
        st = fail(err, OM_ENOMEM, "store: no memory for an update of %zu bytes", n);
    u->payload = p ? payload->data : NULL;
    done(s, Q);
    return st;
}

/* Row by row, the lock free while fn works: folding large updates takes long. */
om_status store_updates(store *s, int64_t run, uint32_t round,
                        om_status (*fn)(void *ctx, const store_update *u, om_err *err),
                        void *ctx, om_err *err)
{
    buf payload = buf_growing(1 << 20);
    om_status st = OM_OK;
    bool row = true;
    for (int64_t from = 0; row && st == OM_OK;) {
        store_update u = {0};
        os_lock(s->lock);
        st = next_update(s, run, round, from, &u, &payload, &row, err);
        os_unlock(s->lock);
        if (st == OM_OK && row)
            st = fn(ctx, &u, err);
        from = (int64_t)u.device + 1;
    }
    buf_free(&payload);
    return st;
}

/* ---- blobs -------------------------------------------------------------------------- */

bool store_blob_wanted(store *s, const uint8_t sha[32])
{
    bool row = false;
    os_lock(s->lock);
    om_status st = step(s, SQL_WANTED, &row, NULL, "b", sha, (size_t)32);
    if (row)
        done(s, SQL_WANTED);
    os_unlock(s->lock);
    return row || st != OM_OK; /* in doubt keep it */
}

om_status store_drop_blobs(store *s,
                           om_status (*fn)(void *ctx, const uint8_t sha[32], om_err *err),
                           void *ctx, om_err *err)
{
    for (;;) {
        uint8_t sha[32];
        bool row, ok = false;
        TRY(begin(s, err));
        om_status st = step(s, SQL_UNWANTED, &row, err, "");
        if (st == OM_OK && row) {
            ok = col_sha(s, SQL_UNWANTED, 0, sha);
            done(s, SQL_UNWANTED);
        }
        if (st == OM_OK && ok)
            st = fn(ctx, sha, err);
        if (st == OM_OK && ok)
            st = step(s, SQL_FORGET, NULL, err, "b", sha, (size_t)32);
        TRY(finish(s, st, err));
        if (!ok)
            return OM_OK;
    }
}
