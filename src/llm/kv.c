/* kv.c - pages of keys and values, counted by reference, in a budget.
 *
 * A page begins plain, is packed when it is old, or when the budget is used up, and then
 * moves to a file.  What happens to a page happens for all who hold it: whole pages are
 * never written again.  The budget counts bytes of pages in memory; it is kept before a
 * page is added, so it is never exceeded but by the page being packed. */
#include "llm/kv.h"

enum { MAX_BATCH = 1 << 16, DEFAULT_RECENT = 128 };

/* ---- the budget ------------------------------------------------------------------- */

static bool fits(const llm_kv *kv, size_t more)
{
    return !kv->budget || kv->now.memory + more <= kv->budget;
}

/* One page of the session fewer in memory, or a smaller one; *done: it was. */
static om_status reclaim_from(llm_kv *kv, llm_session *s, bool pack, bool *done,
                              om_err *err)
{
    bool last = !pack && !s->busy; /* one that is not full may go, too, but not be packed */
    uint32_t pages = last ? kv_pages_of(s->computed) : s->computed / KV_TOKENS;
    for (uint32_t i = 0; i < pages; i++) {
        kv_page *p = s->page[i];
        if (!p || p->segment || (pack && p->form != &kv->plain))
            continue;
        *done = true;
        return pack ? kv_page_pack(kv, p, err) : kv_page_spill(kv, p, err);
    }
    return OM_OK;
}

/* First everything is packed that may be, then spilled; who was used last comes last. */
static om_status reclaim(llm_kv *kv, size_t more, om_err *err)
{
    llm_session *last = kv->sessions;
    while (last && last->next)
        last = last->next;
    for (int pack = kv->packed.bytes > 0; pack >= 0; pack--) {
        if (!pack && !kv->spill)
            break;
        for (llm_session *s = last; s; s = s->prev)
            for (bool done = true; done && !fits(kv, more);) {
                done = false;
                TRY(reclaim_from(kv, s, pack, &done, err));
            }
    }
    return OM_OK;
}

/* ---- pages ------------------------------------------------------------------------ */

om_status kv_page_new(llm_kv *kv, const kv_form *form, kv_page **out, om_err *err)
{
    size_t bytes = form->bytes;
    if (!fits(kv, bytes))
        TRY(reclaim(kv, bytes, err));
    if (!fits(kv, bytes))
        return fail(err, OM_ELIMIT,
                    "session: the cache is full: %llu of %llu bytes are used, a page takes "
                    "%zu; give it a larger budget or a shorter context",
                    (unsigned long long)kv->now.memory, (unsigned long long)kv->budget,
                    bytes);
    kv_page *p = mem_alloc(sizeof(*p));
    uint8_t *data = mem_alloc(bytes);
    if (!p || !data) {
        mem_free(p);
        mem_free(data);
        return fail(err, OM_ENOMEM,
                    "session: no memory for a page of %d tokens (%zu bytes)", KV_TOKENS,
                    bytes);
    }
    *p = (kv_page){.refs = 1, .form = form, .data = data};
    kv->now.memory += bytes;
    kv->now.pages++;
    kv->now.packed += form == &kv->packed;
    *out = p;
    return OM_OK;
}

void kv_page_drop(llm_kv *kv, kv_page *p)
{
    if (!p || --p->refs)
        return;
    kv->now.pages--;
    kv->now.packed -= p->form == &kv->packed;
    if (p->segment) {
        kv->now.spilled -= p->form->bytes;
        kv_spill_leave(p);
    } else {
        kv->now.memory -= p->form->bytes;
        mem_free(p->data);
    }
    mem_free(p);
}

/* ---- from one form to another ----------------------------------------------------- */

typedef struct {
    const llm_kv *kv;
    const kv_page *from;
    uint8_t *to;
    const kv_form *form;
} conversion;

static void convert_block(const conversion *c, uint32_t layer, uint32_t head, bool values,
                          float *x)
{
    const llm_hparams *h = &c->kv->m->h;
    const nn_kv_part *a = &c->from->form->layer[layer], *b = &c->form->layer[layer];
    kv_type ta = values ? a->v : a->k, tb = values ? b->v : b->k;
    size_t d = h->head_dim;
    const uint8_t *from =
        c->from->data + (values ? a->v_at : a->k_at) + head * kv_block_bytes(ta, values, d);
    uint8_t *to =
        c->to + (values ? b->v_at : b->k_at) + head * kv_block_bytes(tb, values, d);
    kv_unpack(ta, values, from, d, x);
    if (kv_packed(tb))
        kv_pack(tb, values, to, d, x);
    else
        for (size_t t = 0; t < KV_TOKENS; t++)
            kv_put(c->kv->c->k, tb, values, to, d, t, x + t * d);
}

static void convert_heads(void *ctx, size_t beg, size_t end, int worker)
{
    const conversion *c = ctx;
    uint32_t heads = c->kv->m->h.n_kv_head;
    float x[KV_TOKENS * KV_MAX_DIM];
    (void)worker;
    for (size_t i = beg; i < end; i++) {
        convert_block(c, (uint32_t)(i / heads), (uint32_t)(i % heads), false, x);
        convert_block(c, (uint32_t)(i / heads), (uint32_t)(i % heads), true, x);
    }
}

static void convert(const llm_kv *kv, const kv_page *from, const kv_form *form, uint8_t *to)
{
    const llm_hparams *h = &kv->m->h;
    conversion c = {kv, from, to, form};
    pool_run(kv->c->pool, (size_t)h->n_layer * h->n_kv_head, 1, convert_heads, &c);
}

om_status kv_page_pack(llm_kv *kv, kv_page *p, om_err *err)
{
    uint8_t *data = mem_alloc(kv->packed.bytes);
    if (!data)
        return fail(err, OM_ENOMEM, "session: no memory for a page of %zu bytes",
                    kv->packed.bytes);
    convert(kv, p, &kv->packed, data);
    if (p->segment) {
        kv->now.spilled -= p->form->bytes;
        kv_spill_leave(p);
    } else {
        kv->now.memory -= p->form->bytes;
        mem_free(p->data);
    }
    p->data = data;
    p->form = &kv->packed;
    kv->now.memory += kv->packed.bytes;
    kv->now.packed++;
    return OM_OK;
}

om_status kv_page_own(llm_kv *kv, kv_page **p, om_err *err)
{
    kv_page *copy = NULL;
    if ((*p)->refs == 1 && (*p)->form == &kv->plain && !(*p)->segment)
        return OM_OK;
    TRY(kv_page_new(kv, &kv->plain, &copy, err));
    if ((*p)->form == &kv->plain)
        memcpy(copy->data, (*p)->data, copy->form->bytes);
    else
        convert(kv, *p, &kv->plain, copy->data);
    kv_page_drop(kv, *p);
    *p = copy;
    return OM_OK;
}

/* ---- positions -------------------------------------------------------------------- */

typedef struct {
    const llm_kv *kv;
    kv_page *page;
    int32_t by;
} turning;

static void turn_heads(void *ctx, size_t beg, size_t end, int worker)
{
    const turning *j = ctx;
    const llm_hparams *h = &j->kv->m->h;
    size_t d = h->head_dim;
    float x[KV_TOKENS * KV_MAX_DIM];
    bool rotated = j->kv->layer[0].rotate;
    (void)worker;
    for (size_t i = beg; i < end; i++) {
        const nn_kv_part *l = &j->page->form->layer[i / h->n_kv_head];
        uint8_t *block =
            j->page->data + l->k_at + i % h->n_kv_head * kv_block_bytes(l->k, false, d);
        kv_unpack(l->k, false, block, d, x);
        for (size_t t = 0; t < KV_TOKENS; t++) {
            if (rotated)
                kv_rotate(x + t * d, d);
            nn_rope_turn(&h->rope, x + t * d, j->by);
            if (rotated)
                kv_rotate(x + t * d, d);
            kv_put(j->kv->c->k, l->k, false, block, d, t, x + t * d);
        }
    }
}

void kv_page_turn(const llm_kv *kv, kv_page *p, int32_t by)
{
    const llm_hparams *h = &kv->m->h;
    turning j = {kv, p, by};
    BUG_IF(p->refs != 1 || p->form != &kv->plain);
    pool_run(kv->c->pool, (size_t)h->n_layer * h->n_kv_head, 1, turn_heads, &j);
}

/* ---- open and close --------------------------------------------------------------- */

static om_status fill(llm_kv *kv, const llm_session_args *a, om_err *err)
{
    const llm_hparams *h = &kv->m->h;
    if (a->kv_type != DTYPE_F32 && a->kv_type != DTYPE_F16)
        return fail(err, OM_EARG, "session: the cache can be F32 or F16, not type %d",
                    (int)a->kv_type);
    if (h->head_dim > KV_MAX_DIM)
        return fail(err, OM_EUNSUPPORTED,
                    "session: heads of %u numbers; the cache takes %d", h->head_dim,
                    KV_MAX_DIM);
    kv->budget = a->budget;
    kv->recent = a->recent == UINT32_MAX ? 0 : a->recent ? a->recent : DEFAULT_RECENT;
    kv->pack_late = a->pack_late;
    if (a->spill && !(kv->spill = mem_strdup(str_of(a->spill))))
        return fail(err, OM_ENOMEM, "session: no memory");
    kv->batch = (uint32_t)size_min(a->batch ? a->batch : LLM_BATCH, MAX_BATCH);
    TRY(kv_form_plain(h, a->kv_type == DTYPE_F16 ? KV_F16 : KV_F32, &kv->plain, err));
    if (llm_packs(a))
        TRY(kv_form_packed(h, a->bits, &kv->packed, err));
    kv->now.page_bytes = kv->plain.bytes;
    kv->now.packed_bytes = kv->packed.bytes;
    kv->layer = mem_array(h->n_layer, sizeof(*kv->layer));
    kv->ids = mem_array(kv->batch, sizeof(*kv->ids));
    kv->pos = mem_array(kv->batch, sizeof(*kv->pos));
    kv->seq = mem_array(kv->batch, sizeof(*kv->seq));
    kv->out_row = mem_array(kv->batch, sizeof(*kv->out_row));
    if (!kv->layer || !kv->ids || !kv->pos || !kv->seq || !kv->out_row)
        return fail(err, OM_ENOMEM, "session: no memory for batches of %u tokens",
                    kv->batch);
    for (uint32_t i = 0; i < h->n_layer; i++)
        kv->layer[i] = (nn_kv_layer){.layer = i, .rotate = llm_packs(a)};
    TRY(nn_open(&(nn_config){.k = a->k, .pool = a->pool}, &kv->c, err));
    kv->c->exact = a->exact;
    return a->expert_cache && h->n_expert
               ? experts_open(kv->m, a->expert_cache, &kv->experts, err)
               : OM_OK;
}

om_status llm_kv_open(llm_model *m, const llm_session_args *a, llm_kv **out, om_err *err)
{
    llm_kv *kv = mem_alloc(sizeof(*kv));
    *out = NULL;
    if (!kv)
        return fail(err, OM_ENOMEM, "session: no memory");
    kv->m = m;
    kv->refs = 1;
    om_status s = fill(kv, a, err);
    if (s != OM_OK) {
        llm_kv_close(kv);
        return s;
    }
    *out = kv;
    return OM_OK;
}

void llm_kv_close(llm_kv *kv)
{
    if (!kv || --kv->refs)
        return;
    nn_close(kv->c);
    experts_close(kv->experts);
    kv_spill_close(kv);
    kv_form_close(&kv->plain);
    kv_form_close(&kv->packed);
    mem_free(kv->spill);
    mem_free(kv->layer);
    mem_free(kv->ids);
    mem_free(kv->pos);
    mem_free(kv->seq);
    mem_free(kv->out_row);
    mem_free(kv->logits);
    mem_free(kv);
}

llm_kv_stats llm_kv_now(const llm_kv *kv) { return kv->now; }

llm_expert_stats llm_experts_now(const llm_kv *kv)
{
    return kv->experts ? experts_now(kv->experts) : (llm_expert_stats){0};
}

uint64_t llm_kv_bytes(const llm_kv *kv) { return kv->now.memory; }
uint64_t llm_kv_page_bytes(const llm_kv *kv) { return kv->now.page_bytes; }
