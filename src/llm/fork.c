/* fork.c - a second view of an open model: its own array of weights over the same
 * bytes, so that two threads can hang different adapters on one base.
 *
 * A fork borrows everything but the views: the first model must outlive it. */
#include "llm/model.h"

enum { LAYER_SLOTS = sizeof(llm_layer) / sizeof(nn_weight *) };

static nn_weight *rebase(const llm_model *from, nn_weight *to, nn_weight *w)
{
    return w ? to + (w - from->weight) : NULL;
}

om_status llm_fork(const llm_model *m, llm_model **out, om_err *err)
{
    llm_model *f = mem_alloc(sizeof(*f));
    *out = NULL;
    if (f) {
        *f = *m;
        f->weight = mem_array(m->n_weight, sizeof(*f->weight));
        f->layer = mem_array(m->h.n_layer, sizeof(*f->layer));
    }
    if (!f || !f->weight || !f->layer) {
        llm_fork_close(f);
        return fail(err, OM_ENOMEM, "model: no memory for a second view");
    }
    memcpy(f->weight, m->weight, m->n_weight * sizeof(*f->weight));
    for (uint32_t i = 0; i < m->n_weight; i++)
        f->weight[i].lora = NULL, f->weight[i].more = NULL;
    f->embed = rebase(m, f->weight, m->embed);
    f->pos_embed = rebase(m, f->weight, m->pos_embed);
    f->out_norm = rebase(m, f->weight, m->out_norm);
    f->out_norm_b = rebase(m, f->weight, m->out_norm_b);
    f->output = rebase(m, f->weight, m->output);
    for (uint32_t i = 0; i < m->h.n_layer; i++) {
        nn_weight *slot[LAYER_SLOTS]; /* llm_layer is nothing but weight pointers */
        memcpy(slot, &m->layer[i], sizeof(slot));
        for (size_t j = 0; j < LAYER_SLOTS; j++)
            slot[j] = rebase(m, f->weight, slot[j]);
        memcpy(&f->layer[i], slot, sizeof(slot));
    }
    f->owned_ = NULL;
    *out = f;
    return OM_OK;
}

void llm_fork_close(llm_model *f)
{
    if (!f)
        return;
    mem_free(f->weight);
    mem_free(f->layer);
    mem_free(f);
}
