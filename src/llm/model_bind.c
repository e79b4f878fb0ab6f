/* model_bind.c - from a lookup of tensors to weights with roles.
 *
 * Every row of the family's name table is looked up, its shape compared with what the
 * hyper-parameters say, and a view made.  A weight is copied only where a view cannot
 * serve: vectors that are not F32 (norms and biases are read as F32 by every kernel),
 * matrices stored (in, out), and data that is not aligned for its type. */
#include "llm/model_impl.h"

#include <stdio.h>

void llm_name_put(char out[LLM_NAME_BYTES], const char *pattern, uint32_t layer)
{
    const char *at = strchr(pattern, '#');
    int n = at ? snprintf(out, LLM_NAME_BYTES, "%.*s%u%s", (int)(at - pattern), pattern,
                          layer, at + 1)
               : snprintf(out, LLM_NAME_BYTES, "%s", pattern);
    BUG_IF(n < 0 || n >= LLM_NAME_BYTES);
}

typedef struct {
    llm_model *m;
    const llm_source *src;
    uint32_t n; /* weights made so far */
} binder;

static om_status wrong_shape(const char *name, const tensor *t, uint64_t rows, uint64_t cols,
                             om_err *err)
{
    return fail(err, OM_EFORMAT,
                "model: %s is %llu x %llu, expected %llu x %llu from the hyper-parameters",
                name, (unsigned long long)tensor_rows(t), (unsigned long long)tensor_cols(t),
                (unsigned long long)rows, (unsigned long long)cols);
}

/* Memory for a weight that cannot be a view; owned by the model. */
static void *copy_of(llm_model *m, size_t bytes)
{
    llm_owned *o = owned_by(m);
    void *p = mem_alloc(bytes);
    if (p)
        o->copy[o->n_copies++] = p;
    return p;
}

/* out (rows, cols) from rows [at, at+rows) of the transpose of t, plain types only. */
static void transpose(const tensor *t, size_t elem, uint64_t at, uint32_t rows,
                      uint32_t cols, uint8_t *out)
{
    const uint8_t *in = t->data;
    uint64_t stride = tensor_cols(t);
    for (uint32_t c = 0; c < cols; c++)
        for (uint32_t r = 0; r < rows; r++)
            memcpy(out + ((size_t)r * cols + c) * elem,
                   in + ((size_t)c * stride + at + r) * elem, elem);
}

static om_status take_transposed(binder *b, const tensor *t, uint64_t at, nn_weight *w,
                                 om_err *err)
{
    const dtype_traits *d = dtype_of(t->type);
    size_t bytes;
    if (!d || d->block != 1)
        return fail(err, OM_EUNSUPPORTED, "model: %s is stored transposed in a packed type",
                    w->name);
    if (!size_mul((size_t)w->rows * w->cols, d->bytes, &bytes))
        return fail(err, OM_EFORMAT, "model: %s is too large", w->name);
    uint8_t *p = copy_of(b->m, bytes);
    if (!p)
        return fail(err, OM_ENOMEM, "model: no memory for %s (%zu bytes)", w->name, bytes);
    transpose(t, d->bytes, at, w->rows, w->cols, p);
    w->data = p;
    return OM_OK;
}

/* A vector as F32: elements [at, at+cols) of t. */
static om_status take_vector(binder *b, const tensor *t, uint64_t at, nn_weight *w,
                             om_err *err)
{
    w->type = DTYPE_F32;
    if (t->type == DTYPE_F32 && (uintptr_t)t->data % 4 == 0) {
        w->data = (const float *)t->data + at;
        return OM_OK;
    }
    float *p = copy_of(b->m, (size_t)w->cols * sizeof(float));
    if (!p)
        return fail(err, OM_ENOMEM, "model: no memory for %s", w->name);
    w->data = p;
    return tensor_to_f32(t, at, w->cols, p, err);
}

/* Rows [at, at+rows) of t as they lie; copied when the type needs better alignment. */
static om_status take_rows(binder *b, const tensor *t, uint64_t at, nn_weight *w,
                           om_err *err)
{
    size_t row, bytes;
    if (!dtype_row_bytes(t->type, w->cols, &row) || !size_mul(row, w->rows, &bytes))
        return fail(err, OM_EFORMAT, "model: %s has rows that are no whole blocks", w->name);
    const uint8_t *p = (const uint8_t *)t->data + at * row;
    w->data = p;
    size_t align = t->type == DTYPE_F32 ? 4 : 2;
    if ((uintptr_t)p % align == 0)
        return OM_OK;
    uint8_t *q = copy_of(b->m, bytes);
    if (!q)
        return fail(err, OM_ENOMEM, "model: no memory for %s (%zu bytes)", w->name, bytes);
    memcpy(q, p, bytes);
    w->data = q;
    return OM_OK;
}

/* Where part `part` of a fused q-k-v starts, in output rows. */
static uint64_t part_offset(const llm_hparams *h, uint8_t part)
{
    uint64_t q = llm_size_of(h, SIZE_Q), kv = llm_size_of(h, SIZE_KV);
    return part == 0 ? 0 : part == 1 ? q : q + kv;
}

static om_status take(binder *b, const llm_name *n, const char *file_name, const tensor *t,
                      nn_weight *w, om_err *err)
{
    const llm_hparams *h = &b->m->h;
    const dtype_traits *d = dtype_of(t->type);
    bool vector = n->rows == SIZE_ONE, turned = b->src->hf && (n->flags & NAME_IN_OUT);
    uint64_t all = (uint64_t)llm_size_of(h, SIZE_Q) + 2ull * llm_size_of(h, SIZE_KV);
    uint64_t out = n->fused ? all : vector ? w->cols : w->rows;
    uint64_t at = n->fused ? part_offset(h, n->part) : 0;
    uint64_t rows = vector ? 1 : turned ? w->cols : out;
    uint64_t cols = vector || turned ? out : w->cols;
    if (tensor_rows(t) != rows || tensor_cols(t) != cols)
        return wrong_shape(file_name, t, rows, cols, err);
    if (!d || !d->unpack)
        return fail(err, OM_EUNSUPPORTED, "model: %s has type %d, which cannot be read yet",
                    file_name, (int)t->type);
    w->type = t->type;
    if (vector)
        return take_vector(b, t, at, w, err);
    return turned ? take_transposed(b, t, at, w, err) : take_rows(b, t, at, w, err);
}

/* "...experts.@..." with the expert's number put in. */
static void put_expert(char out[LLM_NAME_BYTES], const char *pattern, uint32_t expert)
{
    const char *at = strchr(pattern, '@');
    int n = snprintf(out, LLM_NAME_BYTES, "%.*s%u%s", (int)(at - pattern), pattern, expert,
                     at + 1);
    BUG_IF(n < 0 || n >= LLM_NAME_BYTES);
}

/* A folder keeps every expert's matrix by itself, and not next to each other: copied into
 * one stack. */
static om_status gather(binder *b, const llm_name *n, uint32_t layer, nn_weight *w, om_err *err)
{
    char pattern[LLM_NAME_BYTES], file_name[LLM_NAME_BYTES];
    uint32_t count = b->m->h.n_expert;
    size_t row, bytes;
    uint8_t *all = NULL;
    llm_name_put(pattern, n->hf, layer);
    for (uint32_t i = 0; i < count; i++) {
        put_expert(file_name, pattern, i);
        const tensor *t = b->src->find(b->src->ctx, file_name);
        if (!t)
            return fail(err, OM_EFORMAT,
                        "model: the folder has no tensor '%s', which a %s needs", file_name,
                        b->m->arch->hf_names);
        if (tensor_rows(t) != w->rows / count || tensor_cols(t) != w->cols)
            return wrong_shape(file_name, t, w->rows / count, w->cols, err);
        if (!all) {
            w->type = t->type;
            bool sizes = dtype_of(t->type) && dtype_of(t->type)->unpack &&
                         dtype_row_bytes(t->type, w->cols, &row) &&
                         size_mul(row, w->rows, &bytes);
            if (!sizes)
                return fail(err, OM_EUNSUPPORTED, "model: %s has type %d, which cannot be read",
                            file_name, (int)t->type);
            w->data = all = copy_of(b->m, bytes);
            if (!all)
                return fail(err, OM_ENOMEM, "model: no memory for %s (%zu bytes)", w->name,
                            bytes);
        }
        if (t->type != w->type)
            return fail(err, OM_EUNSUPPORTED, "model: %s has another type than expert 0",
                        file_name);
        memcpy(all + i * (w->rows / count) * row, t->data, w->rows / count * row);
    }
    return OM_OK;
}

static om_status bind_one(binder *b, const llm_name *n, uint32_t layer, nn_weight **slot,
                          om_err *err)
{
    llm_model *m = b->m;
    char file_name[LLM_NAME_BYTES];
    const char *pattern = b->src->hf ? n->hf : n->fused ? n->fused : n->name;
    llm_name_put(file_name, pattern, layer);
    if ((n->flags & NAME_OUTPUT) && m->h.tied)
        return OM_OK;
    bool stack = (n->flags & NAME_STACK) && b->src->hf;
    const tensor *t = stack ? NULL : b->src->find(b->src->ctx, file_name);
    if (!t && (n->flags & NAME_OUTPUT))
        m->h.tied = true;
    if (!t && (n->flags & (NAME_OPTIONAL | NAME_OUTPUT)))
        return OM_OK;
    if (!t && !stack)
        return fail(err, OM_EFORMAT, "model: the file has no tensor '%s', which a %s needs",
                    file_name, m->arch->name);
    nn_weight *w = &m->weight[b->n];
    char *name = owned_by(m)->names + (size_t)b->n * LLM_NAME_BYTES;
    llm_name_put(name, n->name, layer);
    *w = (nn_weight){.name = name, .rows = llm_size_of(&m->h, n->rows),
                     .cols = llm_size_of(&m->h, n->cols)};
    TRY(stack ? gather(b, n, layer, w, err) : take(b, n, file_name, t, w, err));
    b->n++;
    *slot = w;
    return OM_OK;
}

static om_status bind_globals(binder *b, const llm_name *from, const llm_name **stop,
                              om_err *err)
{
    const llm_name *n = from;
    for (; n->name && !strchr(n->name, '#'); n++)
        TRY(bind_one(b, n, 0, (nn_weight **)(void *)((char *)b->m + n->member), err));
    *stop = n;
    return OM_OK;
}

static om_status bind_blocks(binder *b, const llm_name *from, om_err *err)
{
    for (uint32_t i = 0; i < b->m->h.n_layer; i++)
        for (const llm_name *n = from; n->name && strchr(n->name, '#'); n++) {
            char *l = (char *)&b->m->layer[i];
            TRY(bind_one(b, n, i, (nn_weight **)(void *)(l + n->member), err));
        }
    return OM_OK;
}

/* Blocks for the most weights there can be.  The first block's first weight is looked up
 * before, so that a file claiming 4096 blocks must at least have the last one. */
static om_status make_room(llm_model *m, const llm_source *s, om_err *err)
{
    llm_owned *o = owned_by(m);
    size_t rows = 0;
    char last[LLM_NAME_BYTES];
    const llm_name *first = NULL;
    for (const llm_name *n = m->arch->names; n->name; n++) {
        bool in_block = strchr(n->name, '#') != NULL;
        rows += in_block ? m->h.n_layer : 1;
        if (in_block && !first)
            first = n;
    }
    llm_name_put(last, s->hf ? first->hf : first->name, m->h.n_layer - 1);
    if (!s->find(s->ctx, last))
        return fail(err, OM_EFORMAT, "model: %u blocks are claimed, but '%s' is missing",
                    m->h.n_layer, last);
    m->weight = o->weights = mem_array(rows, sizeof(nn_weight));
    m->layer = o->layers = mem_array(m->h.n_layer, sizeof(llm_layer));
    o->names = mem_array(rows, LLM_NAME_BYTES);
    o->copy = mem_array(rows, sizeof(void *));
    if (!o->weights || !o->layers || !o->names || !o->copy)
        return fail(err, OM_ENOMEM, "model: no memory for %zu weights", rows);
    return OM_OK;
}

om_status llm_bind(llm_model *m, const llm_source *s, om_err *err)
{
    binder b = {.m = m, .src = s};
    const llm_name *n = m->arch->names;
    TRY(llm_check_hparams(&m->h, err));
    TRY(make_room(m, s, err));
    TRY(bind_globals(&b, n, &n, err));
    TRY(bind_blocks(&b, n, err));
    while (n->name && strchr(n->name, '#'))
        n++;
    TRY(bind_globals(&b, n, &n, err));
    m->n_weight = b.n;
    if (!m->output)
        m->output = m->embed;
    return OM_OK;
}
