/* devices.c - see devices.h. */
#include "coord/devices.h"

typedef struct {
    uint64_t name_hash;
    uint64_t seen_ms;
    char *name; /* NULL: this index is free */
    uint8_t token_hash[32];
    bool seen_changed;
} row;

struct devices {
    store *s;
    os_mutex *lock;
    row *row; /* (n_clients) */
    uint32_t n_clients, count;
    bool fixed_names;
};

bool secret_equal(const uint8_t a[32], const uint8_t b[32])
{
    unsigned differ = 0;
    for (int i = 0; i < 32; i++)
        differ |= (unsigned)(a[i] ^ b[i]);
    return differ == 0;
}

static bool put_name(row *r, str name)
{
    r->name = mem_strdup(name);
    r->name_hash = hash64(name.p, name.n);
    return r->name != NULL;
}

static om_status load(void *ctx, const store_device *from)
{
    devices *d = ctx;
    if (from->index >= d->n_clients)
        return OM_OK; /* of a larger population once configured: not ours to serve */
    row *r = &d->row[from->index];
    if (r->name && strcmp(r->name, from->name) != 0)
        return OM_EEXIST;
    if (!r->name && !put_name(r, str_of(from->name)))
        return OM_ENOMEM;
    memcpy(r->token_hash, from->token_hash, 32);
    r->seen_ms = from->seen_ms;
    d->count++;
    return OM_OK;
}

om_status devices_open(store *s, uint32_t n_clients, const char *const *names,
                       size_t n_names, devices **out, om_err *err)
{
    *out = NULL;
    if (n_names > n_clients)
        return fail(err, OM_EARG, "coord: %zu device names for %u clients", n_names,
                    (unsigned)n_clients);
    devices *d = mem_alloc(sizeof(*d));
    if (d)
        *d = (devices){.s = s, .n_clients = n_clients, .fixed_names = n_names > 0};
    if (d)
        d->row = mem_array(n_clients, sizeof(*d->row));
    om_status st = d && d->row ? os_mutex_open(&d->lock, err) : OM_ENOMEM;
    for (size_t i = 0; i < n_names && st == OM_OK; i++)
        if (!wire_name_ok(str_of(names[i])))
            st = fail(err, OM_EARG, "coord: '%s' is not a device name", names[i]);
        else if (!put_name(&d->row[i], str_of(names[i])))
            st = OM_ENOMEM;
    if (st == OM_OK)
        st = store_devices(s, load, d, err);
    if (st == OM_EEXIST)
        fail(err, st,
             "coord: the devices registered here have other names or another order; "
             "use a new folder");
    if (st != OM_OK) {
        devices_close(d);
        return st == OM_ENOMEM
                   ? fail(err, st, "coord: no memory for %u devices", (unsigned)n_clients)
                   : st;
    }
    *out = d;
    return OM_OK;
}

void devices_close(devices *d)
{
    if (!d)
        return;
    for (uint32_t i = 0; d->row && i < d->n_clients; i++)
        mem_free(d->row[i].name);
    os_mutex_close(d->lock);
    mem_free(d->row);
    mem_free(d);
}

static bool has_token(const row *r)
{
    static const uint8_t none[32];
    return memcmp(r->token_hash, none, 32) != 0;
}

uint32_t devices_count(devices *d)
{
    os_lock(d->lock);
    uint32_t n = d->count;
    os_unlock(d->lock);
    return n;
}

bool devices_known(devices *d, uint32_t index)
{
    os_lock(d->lock);
    bool known = index < d->n_clients && has_token(&d->row[index]);
    os_unlock(d->lock);
    return known;
}

/* ---- registration ------------------------------------------------------------------- */

/* The row of that name, else the first free one, else NULL. */
static row *place_for(devices *d, str name)
{
    uint64_t h = hash64(name.p, name.n);
    row *free_row = NULL;
    for (uint32_t i = 0; i < d->n_clients; i++) {
        row *r = &d->row[i];
        if (r->name && r->name_hash == h && str_is(name, r->name))
            return r;
        if (!r->name && !free_row)
            free_row = r;
    }
    return d->fixed_names ? NULL : free_row;
}

static om_status make_token(uint32_t index, char out[WIRE_TOKEN], uint8_t hash[32],
                            om_err *err)
{
    uint8_t secret[32];
    char hex[65];
    buf b = buf_fixed(out, WIRE_TOKEN);
    TRY(os_entropy(secret, sizeof(secret), err));
    hex_encode(secret, 32, hex);
    TRY(buf_fmt(&b, "oct_dev_%u_%s", (unsigned)index, hex));
    TRY(buf_u8(&b, 0));
    sha256(out, strlen(out), hash);
    return OM_OK;
}

static om_status take_place(devices *d, row *r, const wire_register *m, uint64_t now_ms,
                            wire_registered *out, om_err *err)
{
    store_device w = {.index = (uint32_t)(r - d->row), .seen_ms = now_ms};
    char *name = r->name ? r->name : mem_strdup(str_of(m->device_id));
    if (!name)
        return fail(err, OM_ENOMEM, "coord: no memory for a device");
    memcpy(w.name, m->device_id, sizeof(w.name));
    memcpy(w.platform, m->platform, sizeof(w.platform));
    om_status st = make_token(w.index, out->token, w.token_hash, err);
    if (st == OM_OK)
        st = store_device_put(d->s, &w, err);
    if (st != OM_OK) {
        if (name != r->name)
            mem_free(name);
        return st;
    }
    d->count += !has_token(r);
    r->name = name;
    r->name_hash = hash64(name, strlen(name));
    r->seen_ms = now_ms;
    memcpy(r->token_hash, w.token_hash, 32);
    memcpy(out->device_id, m->device_id, sizeof(out->device_id));
    out->index = w.index;
    return OM_OK;
}

om_status devices_register(devices *d, const wire_register *m, uint64_t now_ms,
                           wire_registered *out, wire_reason *why, om_err *err)
{
    *out = (wire_registered){0};
    *why = WIRE_OK;
    os_lock(d->lock);
    row *r = place_for(d, str_of(m->device_id));
    om_status st;
    if (r) {
        st = take_place(d, r, m, now_ms, out, err);
    } else {
        *why = d->fixed_names ? WIRE_UNKNOWN_DEVICE : WIRE_POPULATION_FULL;
        st = fail(err, OM_EREFUSED, "'%s': %s", m->device_id, wire_reason_text(*why));
    }
    os_unlock(d->lock);
    return st;
}

/* ---- tokens ------------------------------------------------------------------------- */

static bool token_index(str token, uint64_t *index)
{
    static const char head[] = "oct_dev_";
    size_t n = sizeof(head) - 1;
    if (!str_starts(token, head) || token.n >= WIRE_TOKEN)
        return false;
    const char *end = memchr(token.p + n, '_', token.n - n);
    return end && str_u64((str){token.p + n, (size_t)(end - token.p) - n}, index);
}

bool devices_authenticate(devices *d, str token, uint64_t now_ms, uint32_t *index)
{
    uint64_t i;
    uint8_t hash[32];
    if (!token_index(token, &i) || i >= d->n_clients)
        return false;
    sha256(token.p, token.n, hash);
    os_lock(d->lock);
    row *r = &d->row[i];
    bool ok = has_token(r) && secret_equal(hash, r->token_hash);
    if (ok) {
        r->seen_ms = now_ms;
        r->seen_changed = true;
    }
    os_unlock(d->lock);
    *index = (uint32_t)i;
    return ok;
}

om_status devices_flush(devices *d, om_err *err)
{
    enum { BATCH = 512 };
    uint32_t index[BATCH];
    uint64_t seen[BATCH];
    for (uint32_t i = 0; i < d->n_clients;) {
        size_t n = 0;
        os_lock(d->lock);
        for (; i < d->n_clients && n < BATCH; i++) {
            if (!d->row[i].seen_changed)
                continue;
            d->row[i].seen_changed = false;
            index[n] = i;
            seen[n++] = d->row[i].seen_ms;
        }
        os_unlock(d->lock);
        if (n)
            TRY(store_seen(d->s, index, seen, n, err));
    }
    return OM_OK;
}
