/* kv.c - pages of keys and values, counted by reference, in a budget. */
#include "llm/kv.h"

enum { DEFAULT_BATCH = 256, MAX_BATCH = 1 << 16 };

/* ---- forms --------------------------------------------------------------------------- */

static om_status form_open(llm_kv *kv, kv_type type, kv_form *f, om_err *err)
{
    const llm_hparams *h = &kv->m->h;
    f->layer = mem_array(h->n_layer, sizeof(*f->layer));
    if (!f->layer)
        return fail(err, OM_ENOMEM, "session: no memory");
    for (uint32_t i = 0; i < h->n_layer; i++) {
        nn_kv_part *l = &f->layer[i];
        l->k = l->v = type;
        l->k_at = f->bytes;
        l->v_at = l->k_at + h->n_kv_head * kv_block_bytes(l->k, false, h->head_dim);
        f->bytes = l->v_at + h->n_kv_head * kv_block_bytes(l->v, true, h->head_dim);
    }
    return OM_OK;
}

/* ---- pages --------------------------------------------------------------------------- */

om_status kv_page_new(llm_kv *kv, kv_page **out, om_err *err)
{
    size_t bytes = kv->plain.bytes;
    if (kv->budget && kv->used + bytes > kv->budget)
        return fail(err, OM_ELIMIT,
                    "session: the cache is full: %llu of %llu bytes are used, a page takes "
                    "%zu; give it a larger budget or a shorter context",
                    (unsigned long long)kv->used, (unsigned long long)kv->budget, bytes);
    kv_page *p = mem_alloc(sizeof(*p));
    uint8_t *data = mem_alloc(bytes);
    if (!p || !data) {
        mem_free(p);
        mem_free(data);
        return fail(err, OM_ENOMEM,
                    "session: no memory for a page of %d tokens (%zu bytes)", KV_TOKENS,
                    bytes);
    }
    *p = (kv_page){.refs = 1, .form = &kv->plain, .data = data};
    kv->used += bytes;
    *out = p;
    return OM_OK;
}

void kv_page_drop(llm_kv *kv, kv_page *p)
{
    if (!p || --p->refs)
        return;
    kv->used -= p->form->bytes;
    mem_free(p->data);
    mem_free(p);
}

om_status kv_page_own(llm_kv *kv, kv_page **p, om_err *err)
{
    kv_page *copy = NULL;
    if ((*p)->refs == 1)
        return OM_OK;
    TRY(kv_page_new(kv, &copy, err));
    memcpy(copy->data, (*p)->data, copy->form->bytes);
    kv_page_drop(kv, *p);
    *p = copy;
    return OM_OK;
}

/* ---- open and close ------------------------------------------------------------------ */

static om_status fill(llm_kv *kv, const llm_session_args *a, om_err *err)
{
    const llm_hparams *h = &kv->m->h;
    if (a->kv_type != DTYPE_F32 && a->kv_type != DTYPE_F16)
        return fail(err, OM_EARG, "session: the cache can be F32 or F16, not type %d",
                    (int)a->kv_type);
    kv->budget = a->budget;
    kv->batch = (uint32_t)size_min(a->batch ? a->batch : DEFAULT_BATCH, MAX_BATCH);
    TRY(form_open(kv, a->kv_type == DTYPE_F16 ? KV_F16 : KV_F32, &kv->plain, err));
    kv->layer = mem_array(h->n_layer, sizeof(*kv->layer));
    kv->ids = mem_array(kv->batch, sizeof(*kv->ids));
    kv->pos = mem_array(kv->batch, sizeof(*kv->pos));
    kv->seq = mem_array(kv->batch, sizeof(*kv->seq));
    kv->out_row = mem_array(kv->batch, sizeof(*kv->out_row));
    if (!kv->layer || !kv->ids || !kv->pos || !kv->seq || !kv->out_row)
        return fail(err, OM_ENOMEM, "session: no memory for batches of %u tokens", kv->batch);
    for (uint32_t i = 0; i < h->n_layer; i++)
        kv->layer[i].layer = i;
    TRY(nn_open(&(nn_config){.k = a->k, .pool = a->pool}, &kv->c, err));
    kv->c->exact = a->exact;
    return OM_OK;
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
    mem_free(kv->plain.layer);
    mem_free(kv->layer);
    mem_free(kv->ids);
    mem_free(kv->pos);
    mem_free(kv->seq);
    mem_free(kv->out_row);
    mem_free(kv->logits);
    mem_free(kv);
}

uint64_t llm_kv_bytes(const llm_kv *kv) { return kv->used; }
uint64_t llm_kv_page_bytes(const llm_kv *kv) { return kv->plain.bytes; }
