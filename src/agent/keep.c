/* keep.c - the agent's files: see agent.h. */
#include "agent/inner.h"

enum { PENDING_MAGIC = 0x31504d4f }; /* "OMP1" */

om_status keep_path(const agent *a, const char *folder, const char *name,
                    char out[AGENT_PATH], om_err *err)
{
    char dir[AGENT_PATH];
    om_status st = os_join(dir, sizeof(dir), a->cfg.dir, folder);
    if (st == OM_OK && !os_is_dir(dir))
        TRY(os_mkdirs(dir, err));
    if (st == OM_OK)
        st = os_join(out, AGENT_PATH, dir, name);
    return st == OM_OK
               ? st
               : fail(err, st, "agent: the path '%.80s...' is too long", a->cfg.dir);
}

om_status keep_token(const agent *a, om_err *err)
{
    char path[AGENT_PATH];
    TRY(keep_path(a, ".", "token", path, err));
    return os_write_file_atomic(path, a->token, strlen(a->token), err);
}

bool keep_load_token(agent *a)
{
    char path[AGENT_PATH];
    buf b;
    if (keep_path(a, ".", "token", path, NULL) != OM_OK ||
        os_read_file(path, sizeof(a->token) - 1, &b, NULL) != OM_OK)
        return false;
    bool ok = b.len > 0 && !memchr(b.data, '\0', b.len) && !memchr(b.data, '\n', b.len);
    if (ok) {
        memcpy(a->token, b.data, b.len);
        a->token[b.len] = '\0';
    }
    buf_free(&b);
    return ok;
}

/* ---- pending ------------------------------------------------------------------------- */

static om_status put_head(buf *b, const wire_update *h, size_t state_n)
{
    TRY(buf_u32(b, PENDING_MAGIC));
    TRY(buf_u32(b, h->round));
    TRY(buf_u32(b, h->attempt));
    TRY(buf_u32(b, 0));
    TRY(buf_u64(b, h->bytes));
    TRY(buf_u64(b, h->samples));
    uint64_t loss;
    memcpy(&loss, &h->loss, 8);
    TRY(buf_u64(b, loss));
    TRY(buf_u64(b, state_n));
    TRY(buf_put(b, h->digest, 32));
    return buf_put(b, h->run, sizeof(h->run));
}

om_status keep_pending(const agent *a, const wire_update *head, const void *state,
                       size_t state_n, const uint8_t *up, om_err *err)
{
    uint8_t raw[256];
    char path[AGENT_PATH];
    os_put f;
    buf b = buf_fixed(raw, sizeof(raw));
    BUG_IF(put_head(&b, head, state_n) != OM_OK);
    TRY(keep_path(a, head->run, "pending", path, err));
    TRY(os_put_open(path, &f, err));
    om_status st = os_put_write(&f, raw, b.len, err);
    if (st == OM_OK)
        st = os_put_write(&f, state, state_n, err);
    if (st == OM_OK)
        st = os_put_write(&f, up, (size_t)head->bytes, err);
    if (st == OM_OK)
        return os_put_commit(&f, err);
    os_put_abort(&f);
    return st;
}

static bool read_head(cursor *c, pending *p)
{
    wire_update *h = &p->head;
    uint32_t magic = cursor_u32(c);
    h->round = cursor_u32(c);
    h->attempt = cursor_u32(c);
    cursor_u32(c);
    h->bytes = cursor_u64(c);
    h->samples = cursor_u64(c);
    uint64_t loss = cursor_u64(c), state_n = cursor_u64(c);
    memcpy(&h->loss, &loss, 8);
    const uint8_t *digest = cursor_take(c, 32), *run = cursor_take(c, sizeof(h->run));
    if (!run || magic != PENDING_MAGIC || state_n > c->n - c->pos)
        return false;
    memcpy(h->digest, digest, 32);
    memcpy(h->run, run, sizeof(h->run));
    p->state_n = (size_t)state_n;
    p->state = cursor_take(c, p->state_n);
    if (h->run[sizeof(h->run) - 1] || h->bytes != c->n - c->pos)
        return false;
    p->up = cursor_take(c, (size_t)h->bytes);
    return c->ok;
}

om_status keep_load_pending(const agent *a, const char *run, pending *out, om_err *err)
{
    char path[AGENT_PATH];
    *out = (pending){0};
    TRY(keep_path(a, run, "pending", path, err));
    TRY(os_map_open(path, &out->map, err));
    cursor c = cursor_of(out->map.p, out->map.n);
    if (read_head(&c, out))
        return OM_OK;
    os_map_close(&out->map);
    return fail(err, OM_EFORMAT, "agent: '%s' is damaged; remove it", path);
}

void keep_close_pending(pending *p) { os_map_close(&p->map); }

om_status keep_settle(const agent *a, pending *p, bool accepted, om_err *err)
{
    char path[AGENT_PATH];
    if (accepted && p->state_n) {
        TRY(keep_path(a, p->head.run, "state", path, err));
        TRY(os_write_file_atomic(path, p->state, p->state_n, err));
    }
    TRY(keep_path(a, p->head.run, "pending", path, err));
    keep_close_pending(p);
    return os_remove(path, err);
}

om_status keep_load_state(const agent *a, const char *run, void *state, size_t n,
                          om_err *err)
{
    char path[AGENT_PATH];
    os_map m;
    memset(state, 0, n);
    TRY(keep_path(a, run, "state", path, err));
    if (n == 0 || !os_exists(path))
        return OM_OK;
    TRY(os_map_open(path, &m, err));
    om_status st = m.n == n ? OM_OK
                            : fail(err, OM_EFORMAT,
                                   "agent: '%s' has %zu bytes, expected %zu; "
                                   "remove it to start anew",
                                   path, m.n, n);
    if (st == OM_OK)
        memcpy(state, m.p, n);
    os_map_close(&m);
    return st;
}

/* ---- the cache ------------------------------------------------------------------------
 */

typedef struct {
    const agent *a;
    char hex[65], base[65];
} keeper;

static om_status drop_other(void *ctx, const char *name, om_err *err)
{
    const keeper *k = ctx;
    char path[AGENT_PATH];
    if (strncmp(name, k->hex, 64) == 0 || strncmp(name, k->base, 64) == 0)
        return OM_OK;
    TRY(keep_path(k->a, ".cache", name, path, err));
    return os_remove(path, err);
}

om_status keep_only(const agent *a, const uint8_t sha[32], om_err *err)
{
    keeper k = {.a = a};
    char dir[AGENT_PATH];
    hex_encode(sha, 32, k.hex);
    hex_encode(a->base_sha, 32, k.base);
    TRY(keep_path(a, ".cache", ".", dir, err));
    return os_list_dir(dir, drop_other, &k, err);
}
