/* fold.c - see fold.h. */
#include "coord/fold.h"

#include <math.h>

static om_status temp_path(const folder *f, const char *name, char out[BLOB_PATH],
                           om_err *err)
{
    om_status st = os_join(out, BLOB_PATH, f->work, name);
    return st == OM_OK ? st : fail(err, st, "coord: path too long");
}

/* The down message of `round`, from a private view of the state: server_begin may change
 * the state, and a stored version must not change. */
static om_status put_down(folder *f, uint32_t round, store_version *v, om_err *err)
{
    os_map m;
    char path[BLOB_PATH];
    f->env.round = round;
    size_t bound = f->algo->down_bound(&f->env);
    TRY(blobs_path(f->blobs, v->state_sha, path, err));
    TRY(os_map_open_private(path, &m, err));
    buf down = buf_growing(bound + 1);
    om_status st = buf_reserve(&down, bound);
    if (st != OM_OK)
        fail(err, st, "coord: no memory for a down message of %zu bytes", bound);
    if (st == OM_OK)
        st = f->algo->server_begin(&f->env, (void *)(uintptr_t)m.p, &down, err);
    os_map_close(&m); /* the state leaves memory before the hash goes over the message */
    if (st == OM_OK)
        st = blobs_put(f->blobs, down.data, down.len, v->down_sha, err);
    v->down_bytes = down.len;
    buf_free(&down);
    return st;
}

static om_status hash_file(const os_state *s, const char *path, uint8_t sha[32],
                           om_err *err)
{
    uint8_t piece[16384]; /* read, not mapped: hashing must not make the state resident */
    sha256_ctx h;
    sha256_init(&h);
    for (size_t at = 0; at < s->n;) {
        size_t n = size_min(sizeof(piece), s->n - at);
        TRY(os_pread(s->fd_, at, piece, n, path, err));
        sha256_update(&h, piece, n);
        at += n;
    }
    sha256_final(&h, sha);
    return OM_OK;
}

/* The finished state becomes a blob. Closes it. */
static om_status keep_state(folder *f, os_state *s, const char *path, store_version *v,
                            om_err *err)
{
    om_status st = os_state_sync(s, err);
    v->state_bytes = s->n;
    if (st == OM_OK) {
        os_state_release(s);
        st = hash_file(s, path, v->state_sha, err);
    }
    os_state_close(s);
    return st == OM_OK ? blobs_adopt(f->blobs, path, v->state_sha, err) : st;
}

static void release_part(void *ctx, const void *p, size_t n)
{
    os_state_release_part(ctx, p, n);
}

om_status fold_start(folder *f, const float *x0, store_version *out, om_err *err)
{
    char path[BLOB_PATH];
    os_state s;
    fl_env env = f->env;
    env.round = 0;
    TRY(temp_path(f, "state", path, err));
    TRY(os_state_create(path, f->algo->server_bytes(&f->env), &s, err));
    env.release = release_part;
    env.release_ctx = &s;
    om_status st = f->algo->server_open(&env, s.p, x0, err);
    if (st != OM_OK) {
        os_state_close(&s);
        return st;
    }
    TRY(keep_state(f, &s, path, out, err));
    return put_down(f, 0, out, err);
}

/* ---- a round ------------------------------------------------------------------------ */

typedef struct {
    folder *f;
    int64_t run;
    uint32_t round;
    void *server;
    arena scratch;
    segment_reader reader;
    fold_result *r;
    double loss_sum, loss_weight;
} folding;

static om_status recv_bytes(folding *g, const store_update *u, const uint8_t *p,
                            om_err *err)
{
    om_status st = g->f->algo->server_recv(&g->f->env, g->server, u->device, u->samples, p,
                                           (size_t)u->bytes, g->scratch, err);
    return st == OM_OK ? st : fail_in(err, st, "coord: an accepted update");
}

static om_status recv_file(folding *g, const store_update *u, om_err *err)
{
    os_map m;
    TRY(inbox_map_file(g->f->inbox, g->run, g->round, u->device, u->digest, &m, err));
    om_status st = m.n == u->bytes
                       ? recv_bytes(g, u, m.p, err)
                       : fail(err, OM_EFORMAT,
                              "coord: the accepted update of device %u has %zu bytes, "
                              "expected %llu",
                              (unsigned)u->device, m.n, (unsigned long long)u->bytes);
    os_map_close(&m);
    return st;
}

static om_status recv_slot(folding *g, const store_update *u, om_err *err)
{
    os_map m;
    TRY(segment_map(inbox_segments(g->f->inbox), &g->reader, g->run, g->round, u->segment,
                    u->at, (size_t)u->bytes, &m, err));
    om_status st = recv_bytes(g, u, m.p, err);
    os_map_close(&m);
    return st;
}

static om_status recv_update(void *ctx, const store_update *u, om_err *err)
{
    folding *g = ctx;
    TRY(u->payload      ? recv_bytes(g, u, u->payload, err)
        : u->in_segment ? recv_slot(g, u, err)
                        : recv_file(g, u, err));
    g->r->n++;
    g->r->bytes_up += u->bytes;
    g->r->samples += u->samples;
    if (isfinite(u->loss)) {
        g->loss_sum += u->loss * (double)u->samples;
        g->loss_weight += (double)u->samples;
    }
    return OM_OK;
}

static om_status copy_base(folder *f, const store_version *base, const char *path,
                           os_state *s, om_err *err)
{
    uint8_t piece[16384];
    char from[BLOB_PATH];
    uint64_t size;
    int fd;
    TRY(blobs_path(f->blobs, base->state_sha, from, err));
    TRY(os_open_rw(from, &fd, &size, err));
    om_status st = size == f->algo->server_bytes(&f->env)
                       ? os_state_create(path, size, s, err)
                       : fail(err, OM_EFORMAT,
                              "coord: the server state has %llu bytes, expected "
                              "%zu; was the configuration changed?",
                              (unsigned long long)size, f->algo->server_bytes(&f->env));
    if (st != OM_OK) {
        os_close(fd);
        return st;
    }
    for (uint64_t at = 0; at < size && st == OM_OK;) {
        size_t n = size_min(sizeof(piece), (size_t)(size - at));
        st = os_pread(fd, at, piece, n, from, err);
        if (st == OM_OK)
            st = os_pwrite(s->fd_, at, piece, n, path, err);
        at += n;
    }
    os_close(fd);
    if (st != OM_OK)
        os_state_close(s);
    return st;
}

/* server_begin again: what it does to the state must have happened before server_recv.
 * The message itself is known already. */
static om_status begin_again(folder *f, os_state *s, om_err *err)
{
    size_t bound = f->algo->down_bound(&f->env);
    buf down = buf_growing(bound + 1);
    om_status st = buf_reserve(&down, bound);
    if (st != OM_OK)
        fail(err, st, "coord: no memory for a down message of %zu bytes", bound);
    if (st == OM_OK)
        st = f->algo->server_begin(&f->env, s->p, &down, err);
    buf_free(&down);
    os_state_release(s);
    return st;
}

/* A robust rule wants the round's updates side by side: a file of that size, mapped, of
 * which no more than a phase touches stays in memory. */
static om_status open_kept(folder *f, os_state *kept, om_err *err)
{
    char path[BLOB_PATH];
    size_t n = fl_round_bytes(&f->env);
    *kept = (os_state){.fd_ = -1};
    if (n == 0)
        return OM_OK;
    TRY(temp_path(f, "cohort", path, err));
    TRY(os_state_create(path, n, kept, err));
    f->env.kept = kept->p;
    return OM_OK;
}

static void close_kept(folder *f, os_state *kept)
{
    char path[BLOB_PATH];
    if (!f->env.kept)
        return;
    f->env.kept = NULL;
    os_state_close(kept);
    if (temp_path(f, "cohort", path, NULL) == OM_OK)
        os_remove(path, NULL);
}

static om_status fold_into(folding *g, os_state *s, om_err *err)
{
    folder *f = g->f;
    TRY(begin_again(f, s, err));
    g->server = s->p;
    om_status st = store_updates(f->store, g->run, g->round, recv_update, g, err);
    segment_reader_close(&g->reader);
    TRY(st);
    g->r->loss = g->loss_weight > 0 ? g->loss_sum / g->loss_weight : (double)NAN;
    fl_env env = f->env;
    env.release = release_part;
    env.release_ctx = s;
    st = f->algo->server_close(&env, s->p, g->scratch, &g->r->why);
    g->r->unchanged = st == OM_ELIMIT; /* by contract the old model stands */
    return st == OM_OK || g->r->unchanged ? OM_OK : fail(err, st, "%s", g->r->why.msg);
}

om_status fold_round(folder *f, int64_t run, uint32_t round, const store_version *base,
                     store_version *next, fold_result *result, om_err *err)
{
    char path[BLOB_PATH];
    os_state s;
    *result = (fold_result){0};
    f->env.round = round;
    TRY(temp_path(f, "state", path, err));
    TRY(copy_base(f, base, path, &s, err));
    folding g = {.f = f, .run = run, .round = round, .r = result};
    os_state kept, scratch; /* sized for a client's step too: untouched bytes are free */
    om_status st = open_kept(f, &kept, err);
    if (st == OM_OK)
        st = os_state_create(NULL, f->algo->scratch_bytes(&f->env), &scratch, err);
    if (st == OM_OK) {
        g.scratch = arena_of(scratch.p, scratch.n);
        st = fold_into(&g, &s, err);
        os_state_close(&scratch);
    }
    close_kept(f, &kept);
    if (st != OM_OK) {
        os_state_close(&s);
        return st;
    }
    TRY(keep_state(f, &s, path, next, err));
    return put_down(f, round + 1, next, err);
}

om_status fold_model(const folder *f, const store_version *v, float *x, om_err *err)
{
    os_map m;
    TRY(blobs_map(f->blobs, v->state_sha, &m, err));
    om_status st =
        m.n == f->algo->server_bytes(&f->env)
            ? OM_OK
            : fail(err, OM_EFORMAT, "coord: the server state has %zu bytes", m.n);
    if (st == OM_OK)
        memcpy(x, f->algo->model(&f->env, m.p), f->env.dim * sizeof(float));
    os_map_close(&m);
    return st;
}
