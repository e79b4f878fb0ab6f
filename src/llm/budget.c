/* budget.c - what a session will take before it takes it.
 *
 * Weights count as they lie in the file: a mapped model that is not resident is read again
 * for every token.  Activations are measured by a dry run of the forward a session will
 * make.  The reserve is for the rest of the program and for the system: a sixteenth of
 * the memory, within bounds. */
#include "llm/kv.h"

enum { RESERVE_LEAST = 64 << 20, RESERVE_MOST = 512 << 20 };

static uint64_t weight_bytes(const llm_model *m)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < m->n_weight; i++) {
        const nn_weight *w = &m->weight[i];
        size_t row = 0;
        bool shared = false; /* a tied output is the embedding's bytes */
        for (uint32_t j = 0; j < i && !shared; j++)
            shared = m->weight[j].data == w->data;
        if (!shared && dtype_row_bytes(w->type, w->cols, &row))
            sum += (uint64_t)row * w->rows;
    }
    return sum;
}

typedef struct {
    llm_kv *kv;
    uint32_t rows;
} rehearsal;

/* Rows of one prompt, the last of them through the head. */
static om_status rehearse(nn *c, void *ctx)
{
    const rehearsal *r = ctx;
    llm_model *m = r->kv->m;
    llm_batch b = {.ids = r->kv->ids,
                   .pos = r->kv->pos,
                   .rows = r->rows,
                   .seq = r->kv->seq,
                   .n_seq = 1,
                   .kv = r->kv->layer,
                   .experts = experts_face(r->kv->experts)};
    nn_tensor *x = nn_rows(c, m->arch->forward(c, m, &b), r->kv->out_row, 1);
    nn_linear(c, x, m->output, NULL);
    return c->status;
}

/* A whole batch, and the few rows for which attention is split over the context. */
static om_status measure(llm_kv *kv, uint32_t context, uint64_t *bytes, om_err *err)
{
    const uint32_t rows[] = {kv->batch, (uint32_t)size_min(kv->batch, NN_SPLIT_ROWS)};
    *bytes = 0;
    for (uint32_t i = 0; i < kv->m->h.n_layer; i++)
        kv->layer[i].capacity = context;
    for (size_t i = 0; i < countof(rows); i++) {
        rehearsal r = {kv, rows[i]};
        size_t n = 0;
        TRY(nn_measure(kv->c, false, rehearse, &r, &n, err));
        *bytes = n > *bytes ? n : *bytes;
    }
    return OM_OK;
}

uint64_t llm_plan_cache(const llm_plan *p, uint32_t context, bool packed)
{
    uint64_t pages = kv_pages_of(context), plain = pages;
    if (packed && p->packed_bytes) { /* the recent ones, and the one being packed */
        uint64_t recent = kv_pages_of(p->recent) + 1;
        plain = recent < pages ? recent : pages;
    }
    return plain * p->page_bytes + (pages - plain) * p->packed_bytes;
}

om_status llm_plan_of(llm_model *m, const llm_session_args *a, uint64_t available,
                      llm_plan *out, om_err *err)
{
    llm_session_args args = *a;
    llm_kv *kv;
    *out = (llm_plan){.context = llm_context_of(m, a->context),
                      .memory = os_memory_bytes(),
                      .available = available ? available : os_available_bytes()};
    if (available)
        out->memory = available;
    args.batch = (uint32_t)size_min(args.batch ? args.batch : LLM_BATCH, out->context);
    args.expert_cache = 0; /* the forward is the same with and without */
    TRY(llm_kv_open(m, &args, &kv, err));
    om_status s = measure(kv, out->context, &out->activations, err);
    out->batch = kv->batch;
    out->page_bytes = kv->plain.bytes;
    out->packed_bytes = kv->packed.bytes;
    out->recent = kv->recent;
    out->bits =
        llm_packs(a) ? kv_form_bits(&m->h, &kv->packed) : kv_form_bits(&m->h, &kv->plain);
    llm_kv_close(kv);
    uint64_t pages = kv_pages_of(out->context);
    out->weights = weight_bytes(m);
    if (a->expert_cache && m->h.n_expert) {
        out->experts = experts_bytes(m);
        out->weights -= out->experts;
        out->weights += a->expert_cache < out->experts ? a->expert_cache : out->experts;
    }
    out->tables = (uint64_t)m->h.vocab * sizeof(float) + out->context * sizeof(int32_t) +
                  pages * (sizeof(kv_page) + sizeof(kv_page *) + sizeof(nn_kv_page)) +
                  out->batch * (2 * sizeof(int32_t) + sizeof(nn_seq) + sizeof(uint32_t));
    out->cache = llm_plan_cache(out, out->context, llm_packs(a));
    uint64_t part = out->memory / 16;
    out->reserve = part < RESERVE_LEAST  ? RESERVE_LEAST
                   : part > RESERVE_MOST ? RESERVE_MOST
                                         : part;
    uint64_t fixed = out->weights + out->activations + out->tables + out->reserve;
    out->budget = out->available > fixed ? out->available - fixed : 0;
    out->fits = out->cache <= out->budget;
    return s;
}

/* Experts that do not fit beside the rest get a cache of what is left; no less than works. */
static void fit_experts(const llm_model *m, llm_session_args *a, const llm_plan *p)
{
    uint64_t experts = experts_bytes(m), least = experts_least(m);
    uint64_t rest = p->weights - experts + p->activations + p->tables + p->reserve + p->cache;
    if (!experts || a->expert_cache || !p->available || rest + experts <= p->available)
        return;
    a->expert_cache = p->available > rest + least ? p->available - rest : least;
}

om_status llm_session_fit(llm_model *m, llm_session_args *a, om_err *err)
{
    static const float fewer[] = {4.5f, 3.5f};
    llm_plan p, packed;
    om_err unfit;
    TRY(llm_plan_of(m, a, 0, &p, err));
    fit_experts(m, a, &p);
    if (a->expert_cache)
        TRY(llm_plan_of(m, a, 0, &p, err));
    for (size_t i = 0; i < countof(fewer) && a->bits <= 0 && !p.fits; i++) {
        llm_session_args b = *a;
        b.bits = fewer[i];
        if (llm_plan_of(m, &b, 0, &packed, &unfit) != OM_OK)
            break; /* heads too short: the plain cache in its budget */
        if (packed.fits || i + 1 == countof(fewer)) {
            a->bits = fewer[i];
            break;
        }
    }
    if (!a->budget && p.available) /* some pages in any case: the plan is careful */
        a->budget = p.budget > 4 * p.page_bytes ? p.budget : 4 * p.page_bytes;
    return OM_OK;
}

uint32_t llm_plan_longest(const llm_plan *p, bool packed)
{
    uint32_t lo = 0, hi = 1u << 24; /* tokens, whole pages */
    while (lo + KV_TOKENS < hi) {
        uint32_t mid = (lo + (hi - lo) / 2) / KV_TOKENS * KV_TOKENS;
        if (mid == lo)
            break;
        if (llm_plan_cache(p, mid, packed) <= p->budget)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}
