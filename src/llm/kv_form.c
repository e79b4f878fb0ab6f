/* kv_form.c - which type every layer's keys and values have in a page.
 *
 * Errors in keys move attention from token to token, errors in values only blur what is
 * attended to, and the first and last layers bear least (KIVI, Liu et al. 2024; KVQuant,
 * Hooper et al. 2024): so a packed form gives what its bits leave over to keys, from the
 * outermost layers inwards. */
#include "llm/kv.h"

static size_t layer_bytes(const llm_hparams *h, kv_type type, bool values)
{
    return h->n_kv_head * kv_block_bytes(type, values, h->head_dim);
}

static void place(const llm_hparams *h, kv_form *f)
{
    f->bytes = 0;
    for (uint32_t i = 0; i < h->n_layer; i++) {
        nn_kv_part *l = &f->layer[i];
        l->k_at = f->bytes;
        l->v_at = l->k_at + layer_bytes(h, l->k, false);
        f->bytes = l->v_at + layer_bytes(h, l->v, true);
    }
}

double kv_form_bits(const llm_hparams *h, const kv_form *f)
{
    double numbers = 2.0 * KV_TOKENS * h->n_layer * h->n_kv_head * h->head_dim;
    return 8.0 * (double)f->bytes / numbers;
}

om_status kv_form_plain(const llm_hparams *h, kv_type type, kv_form *f, om_err *err)
{
    f->layer = mem_array(h->n_layer, sizeof(*f->layer));
    if (!f->layer)
        return fail(err, OM_ENOMEM, "session: no memory");
    for (uint32_t i = 0; i < h->n_layer; i++)
        f->layer[i].k = f->layer[i].v = type;
    place(h, f);
    return OM_OK;
}

/* Layers from the outside in: 0, n-1, 1, n-2, ... */
static uint32_t outer(uint32_t n, uint32_t i) { return i % 2 ? n - 1 - i / 2 : i / 2; }

static bool try_type(const llm_hparams *h, kv_form *f, kv_type *place_of, kv_type t,
                     float bits)
{
    kv_type was = *place_of;
    *place_of = t;
    place(h, f);
    if (kv_form_bits(h, f) <= (double)bits + 1e-6)
        return true;
    *place_of = was;
    place(h, f);
    return false;
}

om_status kv_form_packed(const llm_hparams *h, float bits, kv_form *f, om_err *err)
{
    static const kv_type wide[] = {KV_Q8, KV_Q4, KV_Q3}, wider[] = {KV_Q8, KV_Q8, KV_Q4};
    for (size_t t = 0; t < countof(wide); t++) {
        TRY(kv_form_plain(h, wide[t], f, err));
        if (kv_form_bits(h, f) > (double)bits + 1e-6) {
            kv_form_close(f);
            continue;
        }
        for (uint32_t i = 0; i < h->n_layer; i++)
            if (!try_type(h, f, &f->layer[outer(h->n_layer, i)].k, wider[t], bits))
                break;
        return OM_OK;
    }
    TRY(kv_form_plain(h, KV_Q3, f, err));
    double least = kv_form_bits(h, f);
    kv_form_close(f);
    return fail(err, OM_EARG,
                "session: %.2f bits per number of the cache; this model needs "
                "%.2f at least",
                (double)bits, least);
}

void kv_form_close(kv_form *f)
{
    mem_free(f->layer);
    *f = (kv_form){0};
}
