/* export.c - a model, from whatever file it came, as one GGUF.
 *
 * The tensors are walked twice in the family's order: once to announce them, once to
 * stream their rows through a small buffer.  A row is copied bit for bit when its type
 * stays and nothing hangs on it; else it is unpacked, its adapter's row B_r A added, and
 * packed.  Rows of q and k that lie in Hugging Face order (rotated pairs half a head
 * apart) are written in the order GGUF readers of the family expect (pairs adjacent):
 * row 2i+j of a head is row j*n_rot/2 + i of ours. */
#include "llm/model_impl.h"

#include <math.h>
#include <stdio.h>

enum { PIECE = 1 << 16 }; /* values per piece of a tensor */

/* One tensor of the file: one weight, or the three of a fused q-k-v. */
typedef struct {
    char name[LLM_NAME_BYTES];
    const nn_weight *part[3];
    uint8_t flags[3];
    uint32_t n_parts;
    dtype type;
    uint64_t rows;
    uint32_t cols;
    bool vector;
    uint32_t stack; /* matrices one after the other; 1: a matrix */
} out_tensor;

typedef struct {
    const llm_model *m;
    gguf_writer *w;
    dtype type;
    const llm_encoder *encoder; /* NULL: every matrix of `type` */
    bool permute;
    om_progress_fn *progress;
    void *progress_ctx;
    uint64_t done, total;
    float *values;   /* (PIECE or one row) */
    uint8_t *packed;
    om_err *err;
} exporter;

typedef om_status tensor_fn(exporter *x, const out_tensor *t);

/* ---- the walk ------------------------------------------------------------------------ */

static const nn_weight *weight_at(const llm_model *m, const llm_name *n, uint32_t layer)
{
    const char *base = strchr(n->name, '#') ? (const char *)&m->layer[layer] : (const char *)m;
    const nn_weight *w;
    memcpy(&w, base + n->member, sizeof(w));
    return w;
}

static dtype fitting(dtype want, dtype own, uint32_t cols)
{
    dtype t = want == DTYPE_COUNT ? own : want;
    if (cols % dtype_of(t)->block == 0)
        return t;
    return cols % 32 == 0 ? DTYPE_Q8_0 : DTYPE_F16;
}

static dtype type_of(const exporter *x, const nn_weight *w)
{
    const llm_encoder *e = x->encoder;
    return fitting(e ? e->type_of(e->ctx, w) : x->type, w->type, w->cols);
}

static om_status visit(exporter *x, const llm_name *n, uint32_t layer, tensor_fn *fn)
{
    out_tensor t = {.n_parts = 0};
    const nn_weight *w = weight_at(x->m, n, layer);
    if (!w || (n->fused && n->part) || ((n->flags & NAME_OUTPUT) && w == x->m->embed))
        return OM_OK;
    llm_name_put(t.name, n->fused ? n->fused : n->name, layer);
    t.vector = n->rows == SIZE_ONE;
    t.stack = n->flags & NAME_STACK ? x->m->h.n_expert : 1;
    t.cols = w->cols;
    for (const llm_name *q = n; q->name && t.n_parts < 3; q++)
        if (q == n || (n->fused && q->fused && strcmp(q->fused, n->fused) == 0)) {
            t.flags[t.n_parts] = q->flags;
            t.part[t.n_parts] = weight_at(x->m, q, layer);
            t.rows += t.vector ? t.part[t.n_parts]->cols : t.part[t.n_parts]->rows;
            t.n_parts++;
        }
    bool exact = t.vector || w == x->m->pos_embed || (n->flags & NAME_EXACT);
    t.type = exact ? DTYPE_F32 : type_of(x, w);
    return fn(x, &t);
}

static om_status write_tensor(exporter *x, const out_tensor *t);

static om_status enter(exporter *x, uint32_t layer, tensor_fn *fn)
{
    const llm_encoder *e = x->encoder;
    return e && e->enter && fn == write_tensor ? e->enter(e->ctx, layer, x->err) : OM_OK;
}

static om_status walk(exporter *x, tensor_fn *fn)
{
    const llm_name *n = x->m->arch->names;
    for (; n->name && !strchr(n->name, '#'); n++)
        TRY(visit(x, n, 0, fn));
    for (uint32_t i = 0; i < x->m->h.n_layer; i++) {
        TRY(enter(x, i, fn));
        for (const llm_name *b = n; b->name && strchr(b->name, '#'); b++)
            TRY(visit(x, b, i, fn));
    }
    TRY(enter(x, x->m->h.n_layer, fn));
    for (; n->name; n++)
        if (!strchr(n->name, '#'))
            TRY(visit(x, n, 0, fn));
    return OM_OK;
}

/* ---- announcing ---------------------------------------------------------------------- */

static om_status announce(exporter *x, const out_tensor *t)
{
    tensor info = {.name = str_of(t->name), .type = t->type, .dim = {1, 1, 1, 1}};
    info.n_dims = t->vector ? 1 : t->stack > 1 ? 3 : 2;
    uint64_t *dim = info.dim;
    if (t->stack > 1)
        *dim++ = t->stack;
    *dim++ = t->rows / t->stack;
    if (!t->vector)
        *dim = t->cols;
    const dtype_traits *d = dtype_of(t->type);
    if (!d->pack && !x->encoder && t->part[0]->type != t->type)
        return fail(x->err, OM_EUNSUPPORTED, "export: %s cannot be written, only read",
                    d->name);
    gguf_put_tensor_info(x->w, &info);
    x->total++;
    return OM_OK;
}

/* ---- rows ---------------------------------------------------------------------------- */

/* Our row that becomes row r of the file. */
static uint64_t source_row(const exporter *x, uint8_t flags, uint64_t r)
{
    const nn_rope_args *a = &x->m->h.rope;
    uint64_t in_head = r % a->head_dim;
    if (!x->permute || !(flags & (NAME_Q | NAME_K)) || in_head >= a->n_rot)
        return r;
    return r - in_head + in_head % 2 * (a->n_rot / 2) + in_head / 2;
}

/* out += scale * B_r A */
static void add_adapter(const nn_weight *w, uint64_t r, float *out)
{
    const nn_lowrank *l = w->lora;
    for (uint32_t k = 0; l && k < l->rank; k++) {
        float b = l->scale * l->b[r * l->rank + k];
        const float *a = l->a + (size_t)k * w->cols;
        for (uint32_t c = 0; c < w->cols; c++)
            out[c] += b * a[c];
    }
}

static om_status write_vector(exporter *x, const nn_weight *w, uint8_t flags)
{
    const float *v = w->data; /* vectors are always F32 */
    for (uint32_t i = 0; i < w->cols;) {
        uint32_t n = 0;
        for (; n < PIECE && i < w->cols; n++, i++)
            x->values[n] = v[source_row(x, flags, i)];
        TRY(gguf_write_data(x->w, x->values, n * sizeof(float), x->err));
    }
    return OM_OK;
}

static om_status write_rows(exporter *x, const nn_weight *w, uint8_t flags, dtype type)
{
    size_t in_row, out_row;
    const dtype_traits *from = dtype_of(w->type), *to = dtype_of(type);
    bool sizes = dtype_row_bytes(w->type, w->cols, &in_row) &&
                 dtype_row_bytes(type, w->cols, &out_row);
    BUG_IF(!sizes); /* the shape was checked at open, the type chosen to fit */
    bool as_is = type == w->type && !w->lora;
    uint32_t most = (uint32_t)size_max(1, PIECE / w->cols);
    for (uint32_t r = 0; r < w->rows;) {
        uint32_t n = (uint32_t)size_min(most, w->rows - r);
        for (uint32_t i = 0; i < n; i++) {
            uint64_t at = source_row(x, flags, r + i);
            const uint8_t *src = (const uint8_t *)w->data + at * in_row;
            uint8_t *dst = x->packed + i * out_row;
            if (as_is) {
                memcpy(dst, src, in_row);
                continue;
            }
            from->unpack(src, x->values, w->cols);
            add_adapter(w, at, x->values);
            to->pack(x->values, dst, w->cols);
        }
        TRY(gguf_write_data(x->w, x->packed, n * out_row, x->err));
        r += n;
    }
    return OM_OK;
}

/* All of w packed by the encoder, then written row by row. */
static om_status write_encoded(exporter *x, const nn_weight *w, uint8_t flags, dtype type)
{
    size_t row, bytes;
    bool sizes = dtype_row_bytes(type, w->cols, &row) && size_mul(row, w->rows, &bytes);
    uint8_t *all = sizes ? mem_alloc(bytes) : NULL;
    if (!all)
        return fail(x->err, OM_ENOMEM, "export: no memory for %s packed", w->name);
    om_status s = x->encoder->encode(x->encoder->ctx, w, type, all, x->err);
    for (uint32_t r = 0; s == OM_OK && r < w->rows; r++)
        s = gguf_write_data(x->w, all + source_row(x, flags, r) * row, row, x->err);
    mem_free(all);
    return s;
}

static om_status write_tensor(exporter *x, const out_tensor *t)
{
    for (uint32_t i = 0; i < t->n_parts; i++) {
        const nn_weight *w = t->part[i];
        bool keep = !x->encoder || (t->flags[i] & NAME_EXACT) ||
                    x->encoder->type_of(x->encoder->ctx, w) == DTYPE_COUNT;
        if (t->vector)
            TRY(write_vector(x, t->part[i], t->flags[i]));
        else if (!keep)
            TRY(write_encoded(x, w, t->flags[i], t->type));
        else
            TRY(write_rows(x, t->part[i], t->flags[i], t->type));
    }
    x->done++;
    if (x->progress)
        x->progress(x->progress_ctx, "writing", "tensors", x->done, x->total);
    return OM_OK;
}

/* ---- metadata ------------------------------------------------------------------------ */

/* Values of general.file_type: ggml's published list of mostly-this-type files. */
static uint32_t file_type(dtype t)
{
    static const struct {
        dtype type;
        uint32_t id;
    } row[] = {
        {DTYPE_F32, 0},   {DTYPE_F16, 1},   {DTYPE_Q4_0, 2},    {DTYPE_Q4_1, 3},
        {DTYPE_Q8_0, 7},  {DTYPE_Q5_0, 8},  {DTYPE_Q5_1, 9},    {DTYPE_Q2_K, 10},
        {DTYPE_Q3_K, 12}, {DTYPE_Q4_K, 15}, {DTYPE_Q5_K, 17},   {DTYPE_Q6_K, 18},
        {DTYPE_BF16, 32}, {DTYPE_IQ4_NL, 25}, {DTYPE_IQ4_XS, 30},
    };
    for (size_t i = 0; i < countof(row); i++)
        if (row[i].type == t)
            return row[i].id;
    return 0;
}

typedef struct {
    gguf_writer *w;
    const char *arch;
    char text[96];
} keys;

static const char *key(keys *k, const char *name)
{
    snprintf(k->text, sizeof(k->text), "%s.%s", k->arch, name);
    return k->text;
}

static void put_scaling(keys *k, const nn_rope_args *r)
{
    if (r->yarn_factor > 0) {
        double usual = r->yarn_factor > 1 ? 0.1 * log((double)r->yarn_factor) + 1 : 1;
        gguf_put_str(k->w, key(k, "rope.scaling.type"), STR("yarn"));
        gguf_put_f32(k->w, key(k, "rope.scaling.factor"), r->yarn_factor);
        gguf_put_u32(k->w, key(k, "rope.scaling.original_context_length"), r->yarn_ctx_orig);
        gguf_put_f32(k->w, key(k, "rope.scaling.yarn_beta_fast"), r->yarn_beta_fast);
        gguf_put_f32(k->w, key(k, "rope.scaling.yarn_beta_slow"), r->yarn_beta_slow);
        gguf_put_f32(k->w, key(k, "rope.scaling.attn_factor"),
                     (float)((double)r->yarn_mscale / usual));
    } else if (r->scale != 1) {
        gguf_put_str(k->w, key(k, "rope.scaling.type"), STR("linear"));
        gguf_put_f32(k->w, key(k, "rope.scaling.factor"), 1 / r->scale);
    }
}

static void put_hparams(gguf_writer *w, const llm_model *m)
{
    const llm_hparams *h = &m->h;
    keys k = {.w = w, .arch = m->arch->name};
    gguf_put_u32(w, key(&k, "vocab_size"), h->vocab);
    gguf_put_u32(w, key(&k, "context_length"), h->context);
    gguf_put_u32(w, key(&k, "embedding_length"), h->dim);
    gguf_put_u32(w, key(&k, "block_count"), h->n_layer);
    gguf_put_u32(w, key(&k, "feed_forward_length"), h->ffn);
    gguf_put_u32(w, key(&k, "attention.head_count"), h->n_head);
    gguf_put_u32(w, key(&k, "attention.head_count_kv"), h->n_kv_head);
    if ((uint64_t)h->head_dim * h->n_head != h->dim) {
        gguf_put_u32(w, key(&k, "attention.key_length"), h->head_dim);
        gguf_put_u32(w, key(&k, "attention.value_length"), h->head_dim);
    }
    gguf_put_f32(w, key(&k, m->out_norm_b ? "attention.layer_norm_epsilon"
                                          : "attention.layer_norm_rms_epsilon"),
                 h->norm_eps);
    if (h->n_expert) {
        gguf_put_u32(w, key(&k, "expert_count"), h->n_expert);
        gguf_put_u32(w, key(&k, "expert_used_count"), h->n_expert_used);
        gguf_put_u32(w, key(&k, "expert_feed_forward_length"), h->expert_ffn);
        if (h->shared_ffn)
            gguf_put_u32(w, key(&k, "expert_shared_feed_forward_length"), h->shared_ffn);
        gguf_put_bool(w, key(&k, "expert_weights_norm"), h->expert_norm);
    }
    if (h->window)
        gguf_put_u32(w, key(&k, "attention.sliding_window"), h->window);
    if (h->attn_scale > 0)
        gguf_put_f32(w, key(&k, "attention.scale"), h->attn_scale);
    if (m->pos_embed)
        return;
    gguf_put_u32(w, key(&k, "rope.dimension_count"), h->rope.n_rot);
    gguf_put_f32(w, key(&k, "rope.freq_base"), h->rope.base);
    put_scaling(&k, &h->rope);
}

/* What the source says of itself (author, licence, ...) is kept. */
static void put_general(gguf_writer *w, const llm_model *m, dtype type)
{
    const llm_owned *o = owned_by(m);
    gguf_put_str(w, "general.architecture", str_of(m->arch->name));
    gguf_put_str(w, "general.name", m->name);
    if (type != DTYPE_COUNT) {
        gguf_put_u32(w, "general.file_type", file_type(type));
        gguf_put_u32(w, "general.quantization_version", 2);
    }
    static const char *const ours[] = {"general.architecture", "general.name",
                                       "general.file_type", "general.quantization_version",
                                       "general.alignment"};
    for (uint32_t i = 0; o && o->has_gguf && i < o->g.n_kv; i++) {
        const gguf_kv *kv = &o->g.kv[i];
        bool skip = !str_starts(kv->key, "general.");
        for (size_t j = 0; j < countof(ours); j++)
            skip = skip || (str_is(kv->key, ours[j]) && (j != 2 || type != DTYPE_COUNT));
        if (!skip)
            gguf_put_kv(w, kv);
    }
}

static om_status put_all(exporter *x)
{
    const nn_rope_args *r = &x->m->h.rope;
    tensor freqs = {.name = STR("rope_freqs.weight"), .n_dims = 1,
                    .dim = {r->n_rot / 2, 1, 1, 1}};
    put_general(x->w, x->m, x->type);
    put_hparams(x->w, x->m);
    if (x->m->tok)
        tokenizer_to_gguf(x->m->tok, x->w);
    if (x->m->chat_jinja.n)
        gguf_put_str(x->w, "tokenizer.chat_template", x->m->chat_jinja);
    if (r->factors)
        gguf_put_tensor_info(x->w, &freqs);
    TRY(walk(x, announce));
    TRY(gguf_begin_data(x->w, x->err));
    if (r->factors)
        TRY(gguf_write_data(x->w, r->factors, r->n_rot / 2 * sizeof(float), x->err));
    return walk(x, write_tensor);
}

static om_status export(exporter *x, const char *path)
{
    size_t widest = PIECE;
    for (uint32_t i = 0; i < x->m->n_weight; i++)
        widest = size_max(widest, x->m->weight[i].cols);
    x->permute = x->m->arch->hf_permuted_qk && x->m->h.rope.neox;
    x->values = mem_array(widest, sizeof(float));
    x->packed = mem_array(widest, sizeof(double)); /* no type is wider than F64 */
    om_status s = x->values && x->packed ? gguf_writer_open(path, &x->w, x->err)
                                         : fail(x->err, OM_ENOMEM, "export: no memory");
    if (s == OM_OK) {
        s = put_all(x);
        if (s == OM_OK)
            s = gguf_writer_commit(x->w, x->err);
        else
            gguf_writer_abort(x->w);
    }
    mem_free(x->values);
    mem_free(x->packed);
    return s;
}

om_status llm_write_gguf(const llm_model *m, const char *path, dtype type,
                         om_progress_fn *progress, void *ctx, om_err *err)
{
    exporter x = {.m = m, .type = type, .progress = progress, .progress_ctx = ctx,
                  .err = err};
    const dtype_traits *d = type == DTYPE_COUNT ? NULL : dtype_of(type);
    if (type != DTYPE_COUNT && (!d || !d->pack))
        return fail(err, OM_EUNSUPPORTED, "export: type %d cannot be written", (int)type);
    return export(&x, path);
}

om_status llm_encode_gguf(const llm_model *m, const char *path, dtype file_type,
                          const llm_encoder *e, om_progress_fn *progress, void *ctx,
                          om_err *err)
{
    exporter x = {.m = m, .type = file_type, .encoder = e, .progress = progress,
                  .progress_ctx = ctx, .err = err};
    return export(&x, path);
}
