/* session_file.c - a session on disk: its tokens and pages, to go on from another day.
 *
 * Little-endian: "OMKV", version, a fingerprint of the model, the types of every layer's
 * keys and values plain and packed, n, shift, n tokens, then per page one byte (1: packed)
 * and its bytes as they lie in memory, and the SHA-256 of all that.  A page is only valid
 * for the weights it was computed with, so the fingerprint samples every weight and
 * adapter; it tells models apart, it is no defence against forgery.  A file that does not
 * fit is refused and the session keeps its timeline. */
#include "llm/kv.h"

static const char magic[4] = {'O', 'M', 'K', 'V'};
enum { VERSION = 1, SHA = 32, SAMPLE = 64 };

/* ---- what the pages belong to ----------------------------------------------------- */

static void hash_u64(sha256_ctx *h, uint64_t v)
{
    uint8_t b[8];
    for (int i = 0; i < 8; i++)
        b[i] = (uint8_t)(v >> 8 * i);
    sha256_update(h, b, sizeof(b));
}

static void hash_sample(sha256_ctx *h, const void *p, size_t n)
{
    const uint8_t *b = p;
    size_t k = size_min(n, SAMPLE);
    sha256_update(h, b, k);
    sha256_update(h, b + n - k, k);
}

static void hash_weight(sha256_ctx *h, const nn_weight *w)
{
    const nn_lowrank *l = w->lora;
    size_t row = 0;
    sha256_update(h, w->name, strlen(w->name) + 1);
    hash_u64(h, (uint64_t)w->type << 32 | w->rows);
    hash_u64(h, (uint64_t)(l ? l->rank : 0) << 32 | w->cols);
    if (dtype_row_bytes(w->type, w->cols, &row))
        hash_sample(h, w->data, row * w->rows);
    if (w->more)
        hash_sample(h, w->more->data, (size_t)w->more->rows * w->cols * sizeof(float));
    if (!l)
        return;
    sha256_update(h, &l->scale, sizeof(l->scale));
    hash_sample(h, l->a, (size_t)l->rank * w->cols * sizeof(*l->a));
    hash_sample(h, l->b, (size_t)l->rank * w->rows * sizeof(*l->b));
}

static void fingerprint(const llm_kv *kv, uint8_t out[SHA])
{
    const llm_model *m = kv->m;
    sha256_ctx h;
    sha256_init(&h);
    sha256_update(&h, m->arch->name, strlen(m->arch->name) + 1);
    hash_u64(&h, (uint64_t)m->h.n_layer << 32 | m->h.n_kv_head);
    hash_u64(&h, (uint64_t)m->h.head_dim << 32 | m->h.window);
    for (uint32_t i = 0; i < m->n_weight; i++)
        hash_weight(&h, &m->weight[i]);
    const kv_form *form[] = {&kv->plain, &kv->packed};
    for (size_t f = 0; f < countof(form); f++)
        for (uint32_t i = 0; form[f]->bytes && i < m->h.n_layer; i++)
            hash_u64(&h,
                     (uint64_t)form[f]->layer[i].k << 8 | form[f]->layer[i].v | 1u << 16);
    sha256_final(&h, out);
}

/* ---- saving ----------------------------------------------------------------------- */

typedef struct {
    os_put f;
    sha256_ctx h;
} writer;

static om_status put(writer *w, const void *p, size_t n, om_err *err)
{
    sha256_update(&w->h, p, n);
    return os_put_write(&w->f, p, n, err);
}

static om_status put_u32(writer *w, uint32_t v, om_err *err)
{
    uint8_t b[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
    return put(w, b, sizeof(b), err);
}

static om_status write_all(const llm_session *s, writer *w, om_err *err)
{
    uint8_t sum[SHA];
    TRY(put(w, magic, sizeof(magic), err));
    TRY(put_u32(w, VERSION, err));
    fingerprint(s->kv, sum);
    TRY(put(w, sum, SHA, err));
    TRY(put_u32(w, s->n, err));
    TRY(put_u32(w, s->shift, err));
    for (uint32_t i = 0; i < s->n; i++)
        TRY(put_u32(w, (uint32_t)s->ids[i], err));
    for (uint32_t i = 0; i < kv_pages_of(s->n); i++) {
        const kv_page *p = s->page[i];
        uint8_t packed = p->form == &s->kv->packed;
        TRY(put(w, &packed, 1, err));
        TRY(put(w, p->data, p->form->bytes, err));
    }
    sha256_final(&w->h, sum);
    return os_put_write(&w->f, sum, SHA, err);
}

om_status llm_session_save(const llm_session *s, const char *path, om_err *err)
{
    writer w;
    sha256_init(&w.h);
    TRY(os_put_open(path, &w.f, err));
    om_status st = write_all(s, &w, err);
    if (st == OM_OK)
        return os_put_commit(&w.f, err);
    os_put_abort(&w.f);
    return st;
}

/* ---- loading ---------------------------------------------------------------------- */

static om_status check_file(const llm_session *s, const os_map *map, const char *path,
                            om_err *err)
{
    uint8_t sum[SHA], own[SHA];
    if (map->n < sizeof(magic) + 4 + 2 * SHA || memcmp(map->p, magic, sizeof(magic)) != 0)
        return fail(err, OM_EFORMAT, "session: '%s' is not a saved session", path);
    if (map->p[4] != VERSION || map->p[5] || map->p[6] || map->p[7])
        return fail(err, OM_EUNSUPPORTED, "session: '%s' has version %u, known is %d", path,
                    map->p[4], VERSION);
    fingerprint(s->kv, own);
    if (memcmp(map->p + 8, own, SHA) != 0)
        return fail(err, OM_EARG,
                    "session: '%s' was saved with another model, adapter or kind "
                    "of cache",
                    path);
    sha256(map->p, map->n - SHA, sum);
    if (memcmp(sum, map->p + map->n - SHA, SHA) != 0)
        return fail(err, OM_EFORMAT, "session: '%s' is damaged: its checksum differs",
                    path);
    return OM_OK;
}

static om_status read_pages(llm_session *to, cursor *c, const char *path, om_err *err)
{
    llm_kv *kv = to->kv;
    for (uint32_t i = 0; i < kv_pages_of(to->n); i++) {
        bool packed = cursor_u8(c) == 1;
        const kv_form *form = packed && kv->packed.bytes ? &kv->packed : &kv->plain;
        const uint8_t *data = cursor_take(c, form->bytes);
        if (!data)
            return fail(err, OM_EFORMAT, "session: '%s' ends in page %u", path, i);
        TRY(kv_page_new(kv, form, &to->page[i], err));
        memcpy(to->page[i]->data, data, form->bytes);
        to->computed = to->n;
    }
    if (c->n != c->pos)
        return fail(err, OM_EFORMAT, "session: '%s' goes on after its last page", path);
    return OM_OK;
}

static om_status read_all(llm_session *to, cursor *c, const char *path, om_err *err)
{
    uint32_t n = cursor_u32(c);
    to->shift = cursor_u32(c);
    if (n > to->context)
        return fail(err, OM_ELIMIT, "session: '%s' holds %u tokens, the context %u", path,
                    n, to->context);
    for (uint32_t i = 0; i < n; i++) {
        to->ids[i] = (int32_t)cursor_u32(c);
        if (to->ids[i] < 0 || (uint32_t)to->ids[i] >= to->kv->m->h.vocab)
            return fail(err, OM_EFORMAT, "session: '%s' has token %d", path, to->ids[i]);
    }
    if (to->shift > INT32_MAX - to->context || (to->shift && !to->endless))
        return fail(err, OM_EARG, "session: '%s' is of an endless session", path);
    to->n = n;
    return read_pages(to, c, path, err);
}

om_status llm_session_load(llm_session *s, const char *path, om_err *err)
{
    os_map map;
    llm_session *to = NULL;
    TRY(os_map_open(path, &map, err));
    om_status st = check_file(s, &map, path, err);
    llm_session_args a = {.context = s->context, .kv = s->kv, .endless = s->endless};
    if (st == OM_OK)
        st = llm_session_open(s->kv->m, &a, &to, err);
    if (st == OM_OK) {
        cursor c = cursor_of(map.p + 8 + SHA, map.n - 8 - 2 * SHA);
        st = read_all(to, &c, path, err);
    }
    if (st == OM_OK)
        kv_session_swap(s, to);
    llm_session_close(to);
    os_map_close(&map);
    return st;
}
