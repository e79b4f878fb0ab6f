/* trainable.c - gathers what is trainable in a model into one flat vector.
 *
 * LoRA (Hu et al. 2021, arXiv:2106.09685): the frozen layer W gets y += s (x A^T) B^T,
 * s = alpha/rank, A uniform in +-1/sqrt(in) (the Kaiming rule with a = sqrt(5), as PEFT
 * does), B = 0, so the adapted model starts equal to the base.
 * Full: every weight is copied to f32 in the flat vector and the model's view is turned
 * to it; trainable_close turns it back.
 *
 * Matrices: the same for the weights of the target modules alone.
 * Prompt (Lester et al. 2021, arXiv:2104.08691): rows behind the embedding's last.
 *
 * Invariants: parts lie one after another without gaps, in layer order; x and grad have
 * the same layout; while a trainable is open the model's views point into it. */
#include "adapt/modules.h"

#include <math.h>
#include <stdio.h>

typedef struct {
    nn_lowrank *lora;   /* TRAIN_LORA: one per adapted layer */
    nn_weight *saved;   /* TRAIN_FULL, TRAIN_MATRICES: the model's weights before */
    nn_extra_rows more; /* TRAIN_PROMPT */
    char *names;
    char *targets;
    float *vectors;     /* x then grad */
} owned;

/* ---- which layers ----------------------------------------------------------------- */

enum { N_TARGETS = 7 };
static const char *const target_names[N_TARGETS] = {
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};

static nn_weight *target_weight(const llm_layer *l, int target)
{
    nn_weight *const w[N_TARGETS] = {l->q, l->k, l->v, l->o, l->gate, l->up, l->down};
    return w[target];
}

const char *adapt_module_name(const llm_model *m, const nn_weight *w, uint32_t *layer)
{
    for (uint32_t i = 0; i < m->h.n_layer; i++)
        for (int j = 0; j < N_TARGETS; j++)
            if (target_weight(&m->layer[i], j) == w) {
                *layer = i;
                return target_names[j];
            }
    return NULL;
}

nn_weight *adapt_module_weight(const llm_model *m, uint32_t layer, str module)
{
    for (int j = 0; j < N_TARGETS && layer < m->h.n_layer; j++)
        if (str_is(module, target_names[j]))
            return target_weight(&m->layer[layer], j);
    return NULL;
}

static om_status parse_targets(const char *list, unsigned *mask, om_err *err)
{
    const char *const *names = target_names;
    *mask = 0;
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ", ");
        str one = {p, n};
        int at = -1;
        for (int j = 0; j < N_TARGETS; j++)
            if (str_is(one, names[j]))
                at = j;
        if (str_is(one, "all"))
            *mask |= (1u << N_TARGETS) - 1;
        else if (at >= 0)
            *mask |= 1u << at;
        else if (n)
            return fail(err, OM_EARG,
                        "lora: target module '%.*s' is not known; choose from q_proj, k_proj, "
                        "v_proj, o_proj, gate_proj, up_proj, down_proj, or all",
                        (int)size_min(n, 40), p);
        p += n + (p[n] != '\0');
    }
    return *mask ? OM_OK : fail(err, OM_EARG, "lora: no target modules given");
}

/* ---- one allocation for everything ------------------------------------------------ */

static om_status reserve(trainable *t, uint32_t n_part, uint32_t n_lora, uint32_t n_saved,
                         om_err *err)
{
    owned *o = mem_alloc(sizeof(*o));
    t->owned_ = o;
    t->part = mem_array(n_part, sizeof(*t->part));
    if (o) {
        o->lora = mem_array(n_lora, sizeof(*o->lora));
        o->saved = mem_array(n_saved, sizeof(*o->saved));
        o->names = mem_array(n_part, 96);
        o->vectors = mem_array(t->n, 2 * sizeof(float));
    }
    if (!o || !t->part || !o->lora || !o->saved || !o->names || !o->vectors) {
        trainable_close(t);
        return fail(err, OM_ENOMEM, "training: no memory for %zu trainable numbers", t->n);
    }
    t->x = o->vectors;
    t->grad = o->vectors + t->n;
    return OM_OK;
}

static void add_part(trainable *t, size_t *at, nn_weight *w, uint32_t rows, uint32_t cols,
                     const char *suffix)
{
    char *name = ((owned *)t->owned_)->names + 96 * (size_t)t->n_part;
    int n = snprintf(name, 96, "%.80s%s", w->name, suffix);
    t->part[t->n_part++] = (trainable_part){{name, (size_t)n}, w, *at, rows, cols};
    *at += (size_t)rows * cols;
}

const char *adapt_keep_text(trainable *t, const char *text)
{
    owned *o = t->owned_;
    mem_free(o->targets);
    return o->targets = mem_strdup(str_of(text));
}

/* ---- LoRA ------------------------------------------------------------------------- */

typedef struct {
    const llm_model *m;
    unsigned mask;
} targets;

static nn_weight *nth_target(const targets *g, size_t i)
{
    nn_weight *w = target_weight(&g->m->layer[i / N_TARGETS], (int)(i % N_TARGETS));
    return g->mask >> (i % N_TARGETS) & 1 ? w : NULL;
}

static void hang_adapter(trainable *t, size_t *at, nn_weight *w, nn_lowrank *l)
{
    uint32_t r = t->lora.rank;
    float by = t->lora.rslora ? sqrtf((float)r) : (float)r;
    *l = (nn_lowrank){.rank = r, .scale = t->lora.alpha / by};
    l->a = t->x + *at;
    l->a_grad = t->grad + *at;
    add_part(t, at, w, r, w->cols, ".lora_a");
    l->b = t->x + *at;
    l->b_grad = t->grad + *at;
    add_part(t, at, w, w->rows, r, ".lora_b");
    w->lora = l;
}

static void start_values(trainable *t)
{
    for (uint32_t i = 0; i < t->n_part; i += 2) { /* B stays zero */
        const trainable_part *a = &t->part[i];
        rng r = rng_for(t->lora.seed, 0, i, 0x10a4);
        double bound = 1.0 / sqrt((double)a->cols);
        for (size_t j = 0; j < (size_t)a->rows * a->cols; j++)
            t->x[a->offset + j] = (float)((2.0 * rng_unit(&r) - 1.0) * bound);
    }
}

om_status trainable_lora(llm_model *m, const lora_config *c, trainable *out, om_err *err)
{
    *out = (trainable){.model = m, .mode = TRAIN_LORA, .lora = *c};
    lora_config *k = &out->lora;
    k->rank = k->rank ? k->rank : 8;
    k->alpha = k->alpha > 0 ? k->alpha : 2.0f * (float)k->rank;
    k->target_modules = k->target_modules ? k->target_modules : "q_proj,v_proj";
    if (k->rank > 1024)
        return fail(err, OM_EARG, "lora: rank is %u; it must lie between 1 and 1024", k->rank);
    targets g = {m, 0};
    TRY(parse_targets(k->target_modules, &g.mask, err));
    uint32_t n_lora = 0;
    size_t slots = (size_t)m->h.n_layer * N_TARGETS;
    for (size_t i = 0; i < slots; i++) {
        nn_weight *w = nth_target(&g, i);
        if (!w)
            continue;
        if (w->lora)
            return fail(err, OM_EEXIST, "lora: '%s' has an adapter already", w->name);
        out->n += (size_t)k->rank * ((size_t)w->rows + w->cols);
        n_lora++;
    }
    if (n_lora == 0)
        return fail(err, OM_EARG, "lora: the model has none of the modules '%s'",
                    k->target_modules);
    TRY(reserve(out, 2 * n_lora, n_lora, 0, err));
    k->target_modules = adapt_keep_text(out, k->target_modules);
    if (!k->target_modules) {
        trainable_close(out);
        return fail(err, OM_ENOMEM, "lora: no memory");
    }
    size_t at = 0, used = 0;
    for (size_t i = 0; i < slots; i++) {
        nn_weight *w = nth_target(&g, i);
        if (w)
            hang_adapter(out, &at, w, &((owned *)out->owned_)->lora[used++]);
    }
    start_values(out);
    return OM_OK;
}

/* ---- full ------------------------------------------------------------------------- */

static om_status turn_weight(trainable *t, size_t *at, nn_weight *w, om_err *err)
{
    size_t n = (size_t)w->rows * w->cols;
    tensor view = {.name = str_of(w->name), .type = w->type, .n_dims = 2,
                   .dim = {w->rows, w->cols, 1, 1}, .data = w->data};
    TRY(tensor_to_f32(&view, 0, n, t->x + *at, err));
    w->data = t->x + *at;
    w->grad = t->grad + *at;
    w->type = DTYPE_F32;
    add_part(t, at, w, w->rows, w->cols, "");
    return OM_OK;
}

om_status trainable_full(llm_model *m, trainable *out, om_err *err)
{
    *out = (trainable){.model = m, .mode = TRAIN_FULL};
    for (uint32_t i = 0; i < m->n_weight; i++)
        out->n += (size_t)m->weight[i].rows * m->weight[i].cols;
    TRY(reserve(out, m->n_weight, 0, m->n_weight, err));
    owned *o = out->owned_;
    memcpy(o->saved, m->weight, m->n_weight * sizeof(*m->weight));
    size_t at = 0;
    for (uint32_t i = 0; i < m->n_weight; i++) {
        om_status s = turn_weight(out, &at, &m->weight[i], err);
        if (s != OM_OK) {
            trainable_close(out);
            return s;
        }
    }
    return OM_OK;
}

om_status trainable_matrices(llm_model *m, const char *list, trainable *out, om_err *err)
{
    *out = (trainable){.model = m, .mode = TRAIN_MATRICES};
    targets g = {m, 0};
    uint32_t n = 0, used = 0;
    size_t slots = (size_t)m->h.n_layer * N_TARGETS, at = 0;
    TRY(parse_targets(list ? list : "q_proj,v_proj", &g.mask, err));
    for (size_t i = 0; i < slots; i++) {
        nn_weight *w = nth_target(&g, i);
        out->n += w ? (size_t)w->rows * w->cols : 0;
        n += w != NULL;
    }
    if (n == 0)
        return fail(err, OM_EARG, "training: the model has none of the modules '%s'", list);
    TRY(reserve(out, n, 0, m->n_weight, err));
    owned *o = out->owned_;
    memcpy(o->saved, m->weight, m->n_weight * sizeof(*m->weight));
    for (size_t i = 0; i < slots && used < n; i++) {
        nn_weight *w = nth_target(&g, i);
        om_status s = w ? turn_weight(out, &at, w, err) : OM_OK;
        if (s != OM_OK) {
            trainable_close(out);
            return s;
        }
        used += w != NULL;
    }
    return OM_OK;
}

/* ---- prompt ----------------------------------------------------------------------- */

om_status trainable_prompt(llm_model *m, uint32_t tokens, uint64_t seed, trainable *out,
                           om_err *err)
{
    const nn_weight *e = m->embed;
    *out = (trainable){.model = m, .mode = TRAIN_PROMPT};
    tokens = tokens ? tokens : 16;
    if (tokens + 2 > m->h.context)
        return fail(err, OM_EARG, "prompt: %u tokens; this model holds %u in all", tokens,
                    m->h.context);
    if (e->more)
        return fail(err, OM_EEXIST, "prompt: the model has one already");
    out->n = (size_t)tokens * e->cols;
    TRY(reserve(out, 1, 0, 0, err));
    owned *o = out->owned_;
    o->more = (nn_extra_rows){tokens, out->x, out->grad};
    out->part[out->n_part++] =
        (trainable_part){STR("prompt.weight"), m->embed, 0, tokens, e->cols};
    tensor view = {.name = str_of(e->name), .type = e->type, .n_dims = 2,
                   .dim = {e->rows, e->cols, 1, 1}, .data = e->data};
    rng r = rng_for(seed, 0, 0, 0x9407);
    for (uint32_t i = 0; i < tokens; i++) {
        size_t from = (size_t)rng_below(&r, e->rows) * e->cols;
        om_status s = tensor_to_f32(&view, from, e->cols, out->x + (size_t)i * e->cols, err);
        if (s != OM_OK) {
            trainable_close(out);
            return s;
        }
    }
    m->embed->more = &o->more;
    return OM_OK;
}

void trainable_close(trainable *t)
{
    owned *o = t->owned_;
    bool turned = t->mode == TRAIN_FULL || t->mode == TRAIN_MATRICES;
    if (o && turned && t->n_part > 0)
        memcpy(t->model->weight, o->saved, t->model->n_weight * sizeof(nn_weight));
    if (o && t->mode == TRAIN_PROMPT && t->model->embed->more == &o->more)
        t->model->embed->more = NULL;
    for (uint32_t i = 0; o && t->mode == TRAIN_LORA && i < t->n_part; i++)
        t->part[i].weight->lora = NULL;
    if (o) {
        mem_free(o->lora);
        mem_free(o->saved);
        mem_free(o->names);
        mem_free(o->targets);
        mem_free(o->vectors);
        mem_free(o);
    }
    mem_free(t->part);
    *t = (trainable){0};
}
