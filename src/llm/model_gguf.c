/* model_gguf.c - a model from one GGUF file: keys "<arch>.<name>" to hyper-parameters,
 * tensors as views.  Key names: the GGUF specification (ggml-org). */
#include "llm/model_impl.h"

#include <math.h>
#include <stdio.h>

typedef struct {
    const gguf *g;
    const char *arch;
    char text[96];
} keys;

static const char *key(keys *k, const char *name)
{
    snprintf(k->text, sizeof(k->text), "%s.%s", k->arch, name);
    return k->text;
}

/* A count; what does not fit 32 bits becomes UINT32_MAX, which the limits refuse. */
static uint32_t count(keys *k, const char *name, uint64_t def)
{
    uint64_t v = gguf_u64(k->g, key(k, name), def);
    return v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
}

static float number(keys *k, const char *name, double def)
{
    return (float)gguf_f64(k->g, key(k, name), def);
}

static om_status read_factors(llm_model *m, const gguf *g, om_err *err)
{
    const tensor *t = gguf_tensor(g, "rope_freqs.weight");
    nn_rope_args *r = &m->h.rope;
    if (!t)
        return OM_OK;
    if (tensor_count(t) != r->n_rot / 2 || t->type != DTYPE_F32)
        return fail(err, OM_EFORMAT, "model: rope_freqs.weight has %llu values, expected %u",
                    (unsigned long long)tensor_count(t), r->n_rot / 2);
    float *f = owned_by(m)->factors = mem_array(r->n_rot / 2, sizeof(float));
    if (!f)
        return fail(err, OM_ENOMEM, "model: no memory for rope factors");
    memcpy(f, t->data, r->n_rot / 2 * sizeof(float));
    r->factors = f;
    return OM_OK;
}

static om_status read_scaling(llm_model *m, keys *k, om_err *err)
{
    nn_rope_args *r = &m->h.rope;
    str kind = gguf_str(k->g, key(k, "rope.scaling.type"), "");
    double factor = gguf_f64(k->g, key(k, "rope.scaling.factor"), 0);
    if (kind.n == 0) { /* files from before scaling.type existed */
        factor = gguf_f64(k->g, key(k, "rope.scale_linear"), factor);
        kind = factor > 0 ? STR("linear") : STR("none");
    }
    if (str_is(kind, "none"))
        return OM_OK;
    if (str_is(kind, "linear")) {
        r->scale = factor > 0 ? (float)(1 / factor) : 1;
        return OM_OK;
    }
    if (!str_is(kind, "yarn"))
        return fail(err, OM_EUNSUPPORTED,
                    "model: rope scaling '%.*s' is not supported; none, linear and yarn are",
                    (int)size_min(kind.n, 40), kind.p);
    r->yarn_factor = (float)factor;
    r->yarn_beta_fast = number(k, "rope.scaling.yarn_beta_fast", 32);
    r->yarn_beta_slow = number(k, "rope.scaling.yarn_beta_slow", 1);
    r->yarn_ctx_orig = count(k, "rope.scaling.original_context_length", m->h.context);
    r->yarn_mscale = number(k, "rope.scaling.attn_factor", 1);
    if (factor > 1)
        r->yarn_mscale *= (float)(0.1 * log(factor) + 1);
    return OM_OK;
}

static void read_experts(llm_model *m, keys *k)
{
    llm_hparams *h = &m->h;
    h->n_expert = count(k, "expert_count", 0);
    if (h->n_expert == 0)
        return;
    h->n_expert_used = count(k, "expert_used_count", 0);
    h->expert_ffn = count(k, "expert_feed_forward_length", h->ffn);
    h->shared_ffn = count(k, "expert_shared_feed_forward_length", 0);
    h->expert_norm = gguf_bool(k->g, key(k, "expert_weights_norm"), m->arch->expert_norm);
    h->ffn = h->ffn ? h->ffn : h->expert_ffn;
}

static om_status read_hparams(llm_model *m, keys *k, om_err *err)
{
    llm_hparams *h = &m->h;
    const tensor *embed = gguf_tensor(k->g, "token_embd.weight");
    uint64_t rows = embed ? tensor_rows(embed) : 0;
    h->vocab = rows > UINT32_MAX ? UINT32_MAX : (uint32_t)rows;
    h->dim = count(k, "embedding_length", 0);
    h->n_layer = count(k, "block_count", 0);
    h->n_head = count(k, "attention.head_count", 0);
    h->n_kv_head = count(k, "attention.head_count_kv", h->n_head);
    h->ffn = count(k, "feed_forward_length", 0);
    read_experts(m, k);
    h->context = count(k, "context_length", 0);
    h->window = count(k, "attention.sliding_window", 0);
    uint32_t width = h->n_head ? h->dim / h->n_head : 0;
    h->head_dim = count(k, "attention.key_length", width);
    if (count(k, "attention.value_length", h->head_dim) != h->head_dim)
        return fail(err, OM_EUNSUPPORTED, "model: keys and values of different width");
    if (h->head_dim == width && h->n_head && h->dim % h->n_head)
        return fail(err, OM_EFORMAT, "model: embedding width %u is no multiple of %u heads",
                    h->dim, h->n_head);
    h->norm_eps = number(k, "attention.layer_norm_rms_epsilon",
                         (double)number(k, "attention.layer_norm_epsilon", 1e-5));
    h->attn_scale = number(k, "attention.scale", 0);
    h->rope = (nn_rope_args){.head_dim = h->head_dim, .neox = m->arch->rope_neox, .scale = 1};
    h->rope.n_rot = count(k, "rope.dimension_count", h->head_dim);
    h->rope.base = number(k, "rope.freq_base", 10000);
    TRY(read_scaling(m, k, err));
    TRY(llm_check_hparams(h, err));
    return read_factors(m, k->g, err);
}

static om_status refuse_arch(str arch, om_err *err)
{
    const char *names[64] = {NULL};
    for (size_t i = 0; llm_archs[i] && i < countof(names) - 1; i++)
        names[i] = llm_archs[i]->name;
    return fail(err, OM_EUNSUPPORTED,
                "model: architecture '%.*s' is not supported; the nearest that is: %s",
                (int)size_min(arch.n, 40), arch.p, nearest_name(names, arch));
}

static const tensor *find(void *ctx, const char *name) { return gguf_tensor(ctx, name); }

om_status llm_open_gguf(llm_model *m, const char *path, bool own_tok, om_err *err)
{
    llm_owned *o = owned_by(m);
    o->map = mem_alloc(sizeof(os_map));
    o->path = mem_strdup(str_of(path));
    if (!o->map || !o->path)
        return fail(err, OM_ENOMEM, "model: no memory to open %s", path);
    TRY(os_map_open(path, &o->map[0], err));
    o->n_maps = 1;
    om_status s = gguf_open(o->map[0].p, o->map[0].n, &o->g, err);
    if (s != OM_OK)
        return fail_in(err, s, path);
    o->has_gguf = true;
    str arch = gguf_str(&o->g, "general.architecture", "");
    m->arch = llm_arch_find(arch);
    if (!m->arch)
        return refuse_arch(arch, err);
    keys k = {.g = &o->g, .arch = m->arch->name};
    if (m->arch->experts && gguf_u64(&o->g, key(&k, "expert_count"), 0))
        m->arch = m->arch->experts;
    TRY(read_hparams(m, &k, err));
    TRY(llm_bind(m, &(llm_source){find, &o->g, false}, err));
    m->name = gguf_str(&o->g, "general.name", "");
    m->chat_jinja = gguf_str(&o->g, "tokenizer.chat_template", "");
    if (own_tok && gguf_find(&o->g, "tokenizer.ggml.model"))
        TRY(tokenizer_from_gguf(&o->g, &m->tok, err));
    return OM_OK;
}
