/* unit.c - see unit.h. */
#include "compress/unit.h"

#include <math.h>

const char *const prune_structure_names[] = {"unstructured", "2:4",   "channel", "head",
                                             "channel+head", "layer", NULL};

enum { CHANNEL_STEP = 32 };

static uint64_t weights_in(const nn_weight *w)
{
    return w ? (uint64_t)w->rows * w->cols : 0;
}

static uint64_t of_block(const llm_layer *l)
{
    const nn_weight *slot[sizeof(*l) / sizeof(nn_weight *)];
    uint64_t sum = 0;
    memcpy(slot, l, sizeof(slot));
    for (size_t i = 0; i < countof(slot); i++)
        sum += weights_in(slot[i]);
    return sum;
}

static uint64_t of_all(const llm_model *m)
{
    uint64_t sum = weights_in(m->embed) + weights_in(m->pos_embed) +
                   weights_in(m->out_norm) + weights_in(m->out_norm_b);
    if (m->output != m->embed)
        sum += weights_in(m->output);
    for (uint32_t i = 0; i < m->h.n_layer; i++)
        sum += of_block(&m->layer[i]);
    return sum;
}

/* Of one channel in every block, or one head. */
static uint64_t of_channel(const llm_model *m)
{
    const llm_layer *l = &m->layer[0];
    uint64_t in_block = weights_in(l->gate) + weights_in(l->up) + weights_in(l->down) +
                        weights_in(l->gate_b) + weights_in(l->up_b);
    return in_block / m->h.ffn * m->h.n_layer;
}

static uint64_t of_head(const llm_model *m)
{
    const llm_layer *l = &m->layer[0];
    uint64_t in_block = weights_in(l->q) + weights_in(l->k) + weights_in(l->v) +
                        weights_in(l->o) + weights_in(l->q_b) + weights_in(l->k_b) +
                        weights_in(l->v_b);
    return in_block / m->h.n_kv_head * m->h.n_layer;
}

uint64_t unit_weights(const llm_model *m, prune_structure s)
{
    switch (s) {
    case PRUNE_CHANNEL:
        return of_channel(m);
    case PRUNE_HEAD:
        return of_head(m);
    case PRUNE_LAYER:
        return of_block(&m->layer[0]);
    default:
        return of_all(m);
    }
}

static uint32_t channel_step(const llm_model *m)
{
    uint32_t step = 1;
    while (step < CHANNEL_STEP && m->h.ffn % (2 * step) == 0)
        step *= 2;
    return step;
}

/* ---- how many stay ----------------------------------------------------------------- */

static om_status too_far(const llm_model *m, prune_structure s, double sparsity,
                         uint64_t most, om_err *err)
{
    return fail(err, OM_EARG,
                "prune: %g of the model's weights cannot go as %ss: these hold %.3f of it "
                "and one has to stay%s",
                sparsity, prune_structure_names[s], (double)most / (double)of_all(m),
                s == PRUNE_CHANNEL || s == PRUNE_HEAD ? "; channel+head reaches further"
                                                      : "");
}

/* Of n units of `each` weights, the number nearest to go weights; at least one. */
static uint32_t nearest(uint32_t n, uint64_t each, double go)
{
    double units = floor(go / (double)each + 0.5);
    return units > n ? n : units < 1 ? 1 : (uint32_t)units;
}

static om_status channels(const llm_model *m, double sparsity, double go, prune_plan *plan,
                          om_err *err)
{
    uint32_t step = channel_step(m);
    double out = ceil(go / (double)of_channel(m) - 1e-9);
    if (!(out <= (double)(m->h.ffn - step)))
        return too_far(
            m, plan->head ? PRUNE_CHANNEL_HEAD : PRUNE_CHANNEL, sparsity,
            of_channel(m) * m->h.ffn + (plan->head ? of_head(m) * m->h.n_kv_head : 0), err);
    plan->n_ffn = (uint32_t)((double)m->h.ffn - fmax(out, 0)) / step * step;
    return OM_OK;
}

static om_status count(const llm_model *m, prune_structure s, double sparsity,
                       prune_plan *plan, om_err *err)
{
    const llm_hparams *h = &m->h;
    double go = sparsity * (double)of_all(m);
    plan->n_ffn = h->ffn;
    plan->n_head = h->n_kv_head;
    plan->n_layer = h->n_layer;
    if (s == PRUNE_LAYER) {
        uint32_t out = nearest(h->n_layer, of_block(&m->layer[0]), go);
        if (out == h->n_layer)
            return too_far(m, s, sparsity, of_block(&m->layer[0]) * h->n_layer, err);
        plan->n_layer -= out;
        return OM_OK;
    }
    if (s == PRUNE_CHANNEL)
        return channels(m, sparsity, go, plan, err);
    if (s == PRUNE_HEAD) {
        uint32_t out = nearest(h->n_kv_head, of_head(m), go);
        if (out == h->n_kv_head)
            return too_far(m, s, sparsity, of_head(m) * h->n_kv_head, err);
        plan->n_head -= out;
        return OM_OK;
    }
    uint64_t heads = of_head(m) * h->n_kv_head, both = heads + of_channel(m) * h->ffn;
    double share = go / (double)both;
    uint32_t out = (uint32_t)fmin(share * h->n_kv_head, h->n_kv_head - 1);
    plan->n_head -= out;
    return channels(m, sparsity, go - (double)out * (double)of_head(m), plan, err);
}

static uint8_t *ones(uint32_t rows, uint32_t cols)
{
    uint8_t *p = mem_array(rows, cols);
    if (p)
        memset(p, 1, (size_t)rows * cols);
    return p;
}

om_status unit_plan(const llm_model *m, prune_structure s, double sparsity,
                    prune_plan *plan, om_err *err)
{
    bool ffn = s == PRUNE_CHANNEL || s == PRUNE_CHANNEL_HEAD;
    bool head = s == PRUNE_HEAD || s == PRUNE_CHANNEL_HEAD;
    *plan = (prune_plan){0};
    plan->ffn = ffn ? ones(m->h.n_layer, m->h.ffn) : NULL;
    plan->head = head ? ones(m->h.n_layer, m->h.n_kv_head) : NULL;
    plan->layer = s == PRUNE_LAYER ? ones(m->h.n_layer, 1) : NULL;
    om_status st = OM_OK;
    if ((ffn && !plan->ffn) || (head && !plan->head) || (s == PRUNE_LAYER && !plan->layer))
        st = fail(err, OM_ENOMEM, "prune: no memory for a plan");
    if (st == OM_OK)
        st = count(m, s, sparsity, plan, err);
    if (st != OM_OK)
        unit_plan_free(plan);
    return st;
}

void unit_plan_free(prune_plan *plan)
{
    mem_free(plan->ffn);
    mem_free(plan->head);
    mem_free(plan->layer);
    *plan = (prune_plan){0};
}

/* ---- what it looks like ------------------------------------------------------------ */

static void resize(nn_weight *w, bool rows, uint32_t n, uint32_t of)
{
    if (w && rows && w->rows > 1)
        w->rows = w->rows / of * n;
    else if (w)
        w->cols = w->cols / of * n;
}

void unit_shapes(llm_model *f, const prune_plan *plan)
{
    const llm_hparams h = f->h;
    for (uint32_t i = 0; i < h.n_layer; i++) {
        llm_layer *l = &f->layer[i];
        nn_weight *ffn[] = {l->gate, l->gate_b, l->up, l->up_b};
        nn_weight *head[] = {l->q, l->q_b, l->k, l->k_b, l->v, l->v_b};
        for (size_t w = 0; plan->ffn && w < countof(ffn); w++)
            resize(ffn[w], true, plan->n_ffn, h.ffn);
        for (size_t w = 0; plan->head && w < countof(head); w++)
            resize(head[w], true, plan->n_head, h.n_kv_head);
        if (plan->ffn)
            resize(l->down, false, plan->n_ffn, h.ffn);
        if (plan->head)
            resize(l->o, false, plan->n_head, h.n_kv_head);
    }
    if (plan->ffn)
        f->h.ffn = plan->n_ffn;
    if (plan->head) {
        f->h.n_head = h.n_head / h.n_kv_head * plan->n_head;
        f->h.n_kv_head = plan->n_head;
    }
}

void unit_keep_layers(llm_model *f, const llm_model *m, const uint8_t *keep)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < m->h.n_layer; i++) {
        if (!keep[i])
            continue;
        nn_weight *slot[sizeof(llm_layer) / sizeof(nn_weight *)];
        memcpy(slot, &m->layer[i], sizeof(slot));
        for (size_t j = 0; j < countof(slot); j++)
            slot[j] = slot[j] ? f->weight + (slot[j] - m->weight) : NULL;
        memcpy(&f->layer[at++], slot, sizeof(slot));
    }
    f->h.n_layer = at;
}
