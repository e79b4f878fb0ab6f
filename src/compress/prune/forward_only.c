/* forward_only.c - units by what the loss says when many of them are left out at random;
 * no backward pass, memory of inference.
 *
 * In rounds, until as many units are gone as shall: a forward gives every unit a prior,
 * the mean |w| of the weights that read it times the root mean square of its values.  In
 * every block the 2r lowest are candidates, r being the units that go in this round.
 * Masks, in pairs of complements, leave out half of a block's candidates, the lower the
 * likelier; -loss of the text without them is fitted by the units (perturb.h), and
 * the r of least worth go.  The paper pools the units of all blocks; here every block
 * loses the same number, as files have one width.
 *
 * Whole blocks: every block that is left is tried; the one that is missed least goes. */
#include "compress/perturb.h"
#include "compress/unit.h"
#include "llm/perplexity.h"

#include <math.h>

enum { SAMPLE_TOKENS = 2048, SAMPLE_WINDOW = 256 };

typedef struct {
    llm_model *m;
    const calib_args *text;
    const prune_search *how;
    nn *c;
    uint32_t window, n_seq;
    int32_t *ids, *pos, *target; /* (rows) */
    nn_seq *seq;
    nn_loss loss;
    /* units of one kind: n of them a block, `wide` input columns each */
    uint32_t n, wide, n_layer;
    bool heads;
    uint8_t *alive; /* (n_layer, n) the plan's */
    uint8_t *on;    /* (n_layer, n) of the forward in hand */
    double *energy; /* (n_layer, n) sums of squares; NULL: not asked for */
    float *size;    /* (n_layer, n) mean |w| */
} search;

/* ---- losses ------------------------------------------------------------------------ */

/* The layer whose units w reads, or n_layer. */
static uint32_t reads(const search *s, const nn_weight *w)
{
    uint32_t i = 0;
    while (i < s->n_layer && w != (s->heads ? s->m->layer[i].o : s->m->layer[i].down))
        i++;
    return i;
}

static void leave_out(void *ctx, const nn_weight *w, float *x, uint32_t rows)
{
    search *s = ctx;
    uint32_t layer = reads(s, w);
    if (layer == s->n_layer)
        return;
    const uint8_t *on = s->on + (size_t)layer * s->n;
    double *energy = s->energy ? s->energy + (size_t)layer * s->n : NULL;
    for (uint32_t r = 0; r < rows; r++, x += w->cols)
        for (uint32_t u = 0; u < s->n; u++)
            for (uint32_t c = u * s->wide; c < (u + 1) * s->wide; c++) {
                x[c] = on[u] ? x[c] : 0;
                if (energy)
                    energy[u] += (double)x[c] * (double)x[c];
            }
}

static om_status forward(nn *c, void *ctx)
{
    search *s = ctx;
    llm_batch b = {.ids = s->ids,
                   .pos = s->pos,
                   .rows = s->n_seq * s->window,
                   .seq = s->seq,
                   .n_seq = s->n_seq};
    nn_linear_cross_entropy(c, s->m->arch->forward(c, s->m, &b), s->m->output, s->target, 1,
                            &s->loss);
    return c->status;
}

static om_status measure(search *s, double *y, om_err *err)
{
    TRY(nn_run(s->c, 1, false, forward, s, err));
    *y = -s->loss.sum / (double)s->loss.rows;
    return OM_OK;
}

static om_status open_text(search *s, om_err *err)
{
    const calib_args *a = s->text;
    size_t n = size_min(a->n, SAMPLE_TOKENS);
    if (n < CALIB_LEAST_TOKENS)
        return fail(err, OM_EARG,
                    "prune: the text has %zu tokens, at least %d are needed; give a "
                    "longer text",
                    a->n, CALIB_LEAST_TOKENS);
    s->window = (uint32_t)size_min(SAMPLE_WINDOW, s->m->h.context);
    s->n_seq = (uint32_t)(n / s->window);
    size_t rows = (size_t)s->n_seq * s->window;
    s->ids = mem_array(rows, sizeof(*s->ids));
    s->pos = mem_array(rows, sizeof(*s->pos));
    s->target = mem_array(rows, sizeof(*s->target));
    s->seq = mem_array(s->n_seq, sizeof(*s->seq));
    if (!s->ids || !s->pos || !s->target || !s->seq)
        return fail(err, OM_ENOMEM, "prune: no memory for %zu tokens", rows);
    for (size_t i = 0; i < rows; i++) {
        s->ids[i] = a->ids[i];
        s->pos[i] = (int32_t)(i % s->window);
        s->target[i] = (i + 1) % s->window ? a->ids[i + 1] : -1;
    }
    for (uint32_t i = 0; i < s->n_seq; i++)
        s->seq[i] = (nn_seq){.row = i * s->window, .n_rows = s->window};
    TRY(nn_open(&(nn_config){.k = a->k, .pool = a->pool}, &s->c, err));
    s->c->cancel = a->cancel;
    s->c->on_linear = leave_out;
    s->c->on_linear_ctx = s;
    return OM_OK;
}

/* ---- a round ----------------------------------------------------------------------- */

static om_status sizes(search *s, om_err *err)
{
    for (uint32_t i = 0; i < s->n_layer; i++) {
        const nn_weight *w = s->heads ? s->m->layer[i].o : s->m->layer[i].down;
        size_t row = 0;
        float *v = mem_array(w->cols, sizeof(*v));
        if (!v)
            return fail(err, OM_ENOMEM, "prune: no memory for a row of %s", w->name);
        dtype_row_bytes(w->type, w->cols, &row);
        for (uint32_t r = 0; r < w->rows; r++) {
            dtype_of(w->type)->unpack((const uint8_t *)w->data + r * row, v, w->cols);
            for (uint32_t c = 0; c < w->cols; c++)
                s->size[i * s->n + c / s->wide] += fabsf(v[c]) / (float)(w->rows * s->wide);
        }
        mem_free(v);
    }
    return OM_OK;
}

/* One round's room: candidates (n_layer, n_cand), their masks and losses. */
typedef struct {
    uint32_t n_cand, n_go, n_masks, n_units;
    uint32_t *cand;
    float *prior, *beta, *key;
    int8_t *z;
    double *y;
} round_room;

static void close_round(round_room *r)
{
    mem_free(r->cand);
    mem_free(r->prior);
    mem_free(r->beta);
    mem_free(r->key);
    mem_free(r->z);
    mem_free(r->y);
}

static om_status open_round(const search *s, round_room *r, om_err *err)
{
    r->n_units = s->n_layer * r->n_cand;
    r->n_masks = s->how->masks & ~1u;
    r->cand = mem_array(r->n_units, sizeof(*r->cand));
    r->prior = mem_array(r->n_units, sizeof(float));
    r->beta = mem_array(r->n_units, sizeof(float));
    r->key = mem_array(s->n, sizeof(float));
    r->z = mem_array(r->n_masks, size_max(r->n_units, s->n));
    r->y = mem_array(r->n_masks, sizeof(double));
    return r->cand && r->prior && r->beta && r->key && r->z && r->y
               ? OM_OK
               : fail(err, OM_ENOMEM, "prune: no memory for %u masks", r->n_masks);
}

/* The alive units of each block with the lowest priors. */
static om_status candidates(search *s, round_room *r, om_err *err)
{
    double y;
    size_t all = (size_t)s->n_layer * s->n;
    memset(s->energy, 0, all * sizeof(*s->energy));
    memcpy(s->on, s->alive, all);
    TRY(measure(s, &y, err));
    for (uint32_t i = 0; i < s->n_layer; i++) {
        const uint8_t *alive = s->alive + (size_t)i * s->n;
        uint32_t *cand = r->cand + (size_t)i * r->n_cand;
        for (uint32_t u = 0; u < s->n; u++) {
            double act = sqrt(s->energy[i * s->n + u]);
            r->key[u] = s->size[i * s->n + u] * (float)act;
        }
        uint8_t *high = (uint8_t *)r->z; /* not in use yet */
        for (uint32_t u = 0; u < s->n; u++)
            r->key[u] = alive[u] ? r->key[u] : INFINITY;
        memset(high, 1, s->n);
        TRY(prune_lowest(r->key, s->n, r->n_cand, high, err));
        for (uint32_t u = 0, k = 0; u < s->n; u++)
            if (!high[u]) {
                cand[k] = u;
                r->prior[i * r->n_cand + k++] = r->key[u];
            }
    }
    return OM_OK;
}

/* In every block n_cand / 2 candidates left out, the lower the prior the likelier
 * (Efraimidis and Spirakis: the largest u^(1/w)); the next mask is its complement. */
static om_status draw(const search *s, round_room *r, uint32_t k, uint32_t round,
                      om_err *err)
{
    rng g = rng_for(s->how->seed, round, k, s->heads ? 0x6ead : 0xc4a7);
    int8_t *z = r->z + (size_t)k * r->n_units;
    memset(z, 1, r->n_units);
    for (uint32_t i = 0; i < s->n_layer; i++) {
        const float *prior = r->prior + (size_t)i * r->n_cand;
        double top = 0;
        for (uint32_t c = 0; c < r->n_cand; c++)
            top = fmax(top, (double)prior[c]);
        for (uint32_t c = 0; c < r->n_cand; c++)
            r->key[c] = (float)(-log(rng_unit(&g) + 1e-12) /
                                (1.05 * top - (double)prior[c] + 1e-20));
        TRY(prune_lowest(r->key, r->n_cand, (r->n_cand + 1) / 2,
                         (uint8_t *)z + (size_t)i * r->n_cand, err));
    }
    for (uint32_t u = 0; u < r->n_units; u++) {
        z[u] = z[u] ? 1 : -1;
        z[r->n_units + u] = (int8_t)-z[u];
    }
    return OM_OK;
}

static om_status try_masks(search *s, round_room *r, uint32_t round, om_err *err)
{
    size_t all = (size_t)s->n_layer * s->n;
    double *energy = s->energy;
    s->energy = NULL;
    om_status st = OM_OK;
    for (uint32_t k = 0; st == OM_OK && k < r->n_masks; k++) {
        if (k % 2 == 0)
            st = draw(s, r, k, round, err);
        if (st != OM_OK)
            break;
        memcpy(s->on, s->alive, all);
        for (uint32_t u = 0; u < r->n_units; u++)
            if (r->z[(size_t)k * r->n_units + u] < 0)
                s->on[(size_t)(u / r->n_cand) * s->n + r->cand[u]] = 0;
        st = measure(s, &r->y[k], err);
        if (s->text->progress)
            s->text->progress(s->text->ctx, "leaving out", "masks", k + 1, r->n_masks);
    }
    s->energy = energy;
    return st;
}

static om_status one_round(search *s, uint32_t n_alive, uint32_t n_go, uint32_t round,
                           om_err *err)
{
    round_room r = {.n_cand = (uint32_t)size_min(2 * (size_t)n_go, n_alive), .n_go = n_go};
    om_status st = open_round(s, &r, err);
    if (st == OM_OK)
        st = candidates(s, &r, err);
    if (st == OM_OK)
        st = try_masks(s, &r, round, err);
    if (st == OM_OK)
        st = perturb_fit(r.z, r.y, r.n_masks, r.n_units, r.prior, r.beta, err);
    for (uint32_t i = 0; st == OM_OK && i < s->n_layer; i++) {
        uint8_t *stays = (uint8_t *)r.z; /* done with */
        memset(stays, 1, r.n_cand);
        st = prune_lowest(r.beta + (size_t)i * r.n_cand, r.n_cand, n_go, stays, err);
        for (uint32_t c = 0; st == OM_OK && c < r.n_cand; c++)
            if (!stays[c])
                s->alive[(size_t)i * s->n + r.cand[(size_t)i * r.n_cand + c]] = 0;
    }
    close_round(&r);
    return st;
}

/* ---- kinds of units ---------------------------------------------------------------- */

static om_status search_units(search *s, uint32_t n_stay, uint64_t each, om_err *err)
{
    size_t all = (size_t)s->n_layer * s->n;
    uint64_t model = unit_weights(s->m, PRUNE_UNSTRUCTURED);
    double step = s->how->step * (double)model / (double)each;
    uint32_t left = s->n, most = step < 1 ? 1 : (uint32_t)step;
    s->on = mem_array(all, 1);
    s->energy = mem_array(all, sizeof(double));
    s->size = mem_array(all, sizeof(float));
    om_status st = s->on && s->energy && s->size
                       ? sizes(s, err)
                       : fail(err, OM_ENOMEM, "prune: no memory for %zu units", all);
    for (uint32_t round = 0; st == OM_OK && left > n_stay; round++) {
        uint32_t go = (uint32_t)size_min(most, left - n_stay);
        st = one_round(s, left, go, round, err);
        left -= go;
    }
    mem_free(s->on);
    mem_free(s->energy);
    mem_free(s->size);
    return st;
}

static om_status without(search *s, llm_model *f, uint8_t *keep, uint32_t layer,
                         double *nll, om_err *err)
{
    perplexity_report p;
    const calib_args *a = s->text;
    keep[layer] = 0;
    unit_keep_layers(f, s->m, keep);
    om_status st = llm_perplexity(f, a->k, a->pool, a->ids, size_min(a->n, SAMPLE_TOKENS),
                                  (uint32_t)size_min(SAMPLE_WINDOW, s->m->h.context),
                                  PERPLEXITY_HALVES, a->cancel, NULL, NULL, &p, err);
    keep[layer] = 1;
    *nll = st == OM_OK ? p.nll : (double)INFINITY;
    return st;
}

static om_status search_layers(search *s, uint8_t *keep, uint32_t n_stay, om_err *err)
{
    llm_model *f;
    om_status st = llm_fork(s->m, &f, err);
    for (uint32_t left = s->n_layer; st == OM_OK && left > n_stay; left--) {
        double least = (double)INFINITY;
        uint32_t best = s->n_layer;
        for (uint32_t i = 0; st == OM_OK && i < s->n_layer; i++) {
            double nll = (double)INFINITY;
            if (keep[i])
                st = without(s, f, keep, i, &nll, err);
            if (nll < least) {
                least = nll;
                best = i;
            }
        }
        if (st == OM_OK && best == s->n_layer)
            st = fail(err, OM_EFORMAT, "prune: the model's loss is not a finite number");
        else if (st == OM_OK)
            keep[best] = 0;
        if (s->text->progress)
            s->text->progress(s->text->ctx, "leaving out", "blocks", s->n_layer - left + 1,
                              s->n_layer - n_stay);
    }
    llm_fork_close(f);
    return st;
}

static om_status survey(llm_model *m, const calib_args *text, const prune_search *how,
                        prune_structure kind, prune_plan *plan, om_err *err)
{
    search s = {.m = m, .text = text, .how = how, .n_layer = m->h.n_layer};
    om_status st = open_text(&s, err);
    if (st == OM_OK && plan->head) {
        s.heads = true;
        s.n = m->h.n_kv_head;
        s.wide = m->layer[0].o->cols / s.n;
        s.alive = plan->head;
        st = search_units(&s, plan->n_head, unit_weights(m, PRUNE_HEAD), err);
    }
    if (st == OM_OK && plan->ffn) {
        s.heads = false;
        s.n = m->h.ffn;
        s.wide = 1;
        s.alive = plan->ffn;
        st = search_units(&s, plan->n_ffn, unit_weights(m, PRUNE_CHANNEL), err);
    }
    if (st == OM_OK && kind == PRUNE_LAYER)
        st = search_layers(&s, plan->layer, plan->n_layer, err);
    nn_close(s.c);
    mem_free(s.ids);
    mem_free(s.pos);
    mem_free(s.target);
    mem_free(s.seq);
    return st;
}

const prune_method prune_forward_only = {
    .name = "forward-only",
    .summary = "units by the loss without many of them; no backward pass",
    .source = "Dery et al. 2024 (Bonsai), arXiv:2402.05406",
    .structures = PRUNE_UNITS | 1u << PRUNE_LAYER,
    .wants = PRUNE_NOTHING,
    .survey = survey,
};
