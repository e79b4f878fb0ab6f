/* hf.c - a model from a Hugging Face folder: config.json, one model.safetensors or the
 * shards that model.safetensors.index.json names, tokenizer.json when there.
 *
 * Weights stay views.  Rows of q and k are in the layout of Hugging Face (a rotated pair
 * is (i, i + d/2)), so such a model runs with rope.neox = true whatever its family's
 * GGUF files do.  Only file names without a '/' are opened: an index cannot reach out
 * of its folder. */
#include "llm/model_impl.h"

#include <math.h>
#include <stdio.h>

enum { MAX_PATH = 4096, MAX_CONFIG = 16 << 20, MAX_SHARDS = 1024 };

static om_status join(char out[MAX_PATH], const char *dir, const char *name, om_err *err)
{
    if (os_join(out, MAX_PATH, dir, name) != OM_OK)
        return fail(err, OM_ELIMIT, "model: the path %s/%s is too long", dir, name);
    return OM_OK;
}

/* A JSON file of the folder.  Close doc and free text after use. */
static om_status read_json(const char *dir, const char *name, buf *text, json_doc *doc,
                           om_err *err)
{
    char path[MAX_PATH];
    TRY(join(path, dir, name, err));
    TRY(os_read_file(path, MAX_CONFIG, text, err));
    om_status s = json_parse(text->data, text->len, 0, doc, err);
    return s == OM_OK ? s : fail_in(err, s, path);
}

static bool has_file(const char *dir, const char *name)
{
    char path[MAX_PATH];
    return os_join(path, sizeof(path), dir, name) == OM_OK && os_exists(path);
}

/* ---- config.json --------------------------------------------------------------------- */

/* The first of two names that is there: GPT-2's file has its own vocabulary. */
static const json *either(const json *c, const char *a, const char *b)
{
    const json *j = json_get(c, a);
    return j ? j : json_get(c, b);
}

static uint32_t count(const json *j, uint64_t def)
{
    uint64_t v = json_u64(j, def);
    return v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
}

static om_status read_llama3(llm_model *m, const json *s, om_err *err)
{
    nn_rope_args *r = &m->h.rope;
    llama3_scaling l = {
        .factor = json_f64(json_get(s, "factor"), 8),
        .low_freq = json_f64(json_get(s, "low_freq_factor"), 1),
        .high_freq = json_f64(json_get(s, "high_freq_factor"), 4),
        .ctx_orig = json_f64(json_get(s, "original_max_position_embeddings"), 8192),
    };
    if (!(l.factor > 0) || !(l.high_freq > l.low_freq) || !(l.ctx_orig > 0))
        return fail(err, OM_EFORMAT, "model: malformed llama3 rope scaling in config.json");
    r->factors = owned_by(m)->factors = mem_array(r->n_rot / 2, sizeof(float));
    if (!r->factors)
        return fail(err, OM_ENOMEM, "model: no memory for rope factors");
    llm_llama3_factors(r, &l, owned_by(m)->factors);
    return OM_OK;
}

static void read_yarn(llm_hparams *h, const json *s, double factor)
{
    nn_rope_args *r = &h->rope;
    double mscale = factor > 1 ? 0.1 * log(factor) + 1 : 1;
    r->yarn_factor = (float)factor;
    r->yarn_beta_fast = (float)json_f64(json_get(s, "beta_fast"), 32);
    r->yarn_beta_slow = (float)json_f64(json_get(s, "beta_slow"), 1);
    r->yarn_ctx_orig = count(json_get(s, "original_max_position_embeddings"), h->context);
    r->yarn_mscale = (float)json_f64(json_get(s, "attention_factor"), mscale);
}

static om_status read_scaling(llm_model *m, const json *s, om_err *err)
{
    str kind = json_str(either(s, "rope_type", "type"), "default");
    double factor = json_f64(json_get(s, "factor"), 1);
    if (str_is(kind, "default"))
        return OM_OK;
    if (str_is(kind, "linear") && factor > 0)
        m->h.rope.scale = (float)(1 / factor);
    else if (str_is(kind, "llama3"))
        return read_llama3(m, s, err);
    else if (str_is(kind, "yarn"))
        read_yarn(&m->h, s, factor);
    else
        return fail(err, OM_EUNSUPPORTED,
                    "model: rope scaling '%.*s' in config.json is not supported; linear, "
                    "llama3 and yarn are", (int)size_min(kind.n, 40), kind.p);
    return OM_OK;
}

/* Qwen's files state a window they do not use; a window on some layers only is refused. */
static om_status read_window(llm_hparams *h, const json *c, om_err *err)
{
    uint32_t window = count(json_get(c, "sliding_window"), 0);
    uint32_t from = count(json_get(c, "max_window_layers"), 0);
    const json *use = json_get(c, "use_sliding_window");
    if (window == 0 || (use && !json_bool(use, true)) || (use && from >= h->n_layer))
        return OM_OK;
    if (use && from > 0)
        return fail(err, OM_EUNSUPPORTED,
                    "model: a sliding window from layer %u on is not supported", from);
    h->window = window;
    return OM_OK;
}

static om_status read_activation(const llm_model *m, const json *c, om_err *err)
{
    const json *j = either(c, "hidden_act", "activation_function");
    str act = json_str(j, "");
    bool gpt2 = str_is(str_of(m->arch->name), "gpt2");
    if (act.n == 0 || (!gpt2 && (str_is(act, "silu") || str_is(act, "swish"))) ||
        (gpt2 && (str_is(act, "gelu_new") || str_is(act, "gelu_pytorch_tanh"))))
        return OM_OK;
    return fail(err, OM_EUNSUPPORTED, "model: activation '%.*s' in a %s is not supported",
                (int)size_min(act.n, 40), act.p, m->arch->name);
}

/* Names of Mixtral, of Qwen, of OLMoE (whose experts have the one width there is). */
static om_status read_experts(llm_model *m, const json *c, om_err *err)
{
    llm_hparams *h = &m->h;
    h->n_expert = count(either(c, "num_local_experts", "num_experts"), 0);
    if (h->n_expert == 0)
        return OM_OK;
    h->n_expert_used = count(json_get(c, "num_experts_per_tok"), 0);
    h->expert_ffn = count(json_get(c, "moe_intermediate_size"), h->ffn);
    h->shared_ffn = count(json_get(c, "shared_expert_intermediate_size"), 0);
    h->expert_norm = json_bool(json_get(c, "norm_topk_prob"), m->arch->expert_norm);
    const json *dense = json_get(c, "mlp_only_layers");
    if (count(json_get(c, "decoder_sparse_step"), 1) != 1 || (dense && dense->child))
        return fail(err, OM_EUNSUPPORTED,
                    "model: experts in some blocks and none in others are not supported");
    return OM_OK;
}

static om_status read_config(llm_model *m, const json *c, om_err *err)
{
    llm_hparams *h = &m->h;
    str type = json_str(json_get(c, "model_type"), "");
    m->arch = llm_arch_find(type);
    if (!m->arch)
        return fail(err, OM_EUNSUPPORTED,
                    "model: model_type '%.*s' in config.json is not supported",
                    (int)size_min(type.n, 40), type.p);
    h->vocab = count(json_get(c, "vocab_size"), 0);
    h->dim = count(either(c, "hidden_size", "n_embd"), 0);
    h->n_layer = count(either(c, "num_hidden_layers", "n_layer"), 0);
    h->n_head = count(either(c, "num_attention_heads", "n_head"), 0);
    h->n_kv_head = count(json_get(c, "num_key_value_heads"), h->n_head);
    h->ffn = count(either(c, "intermediate_size", "n_inner"), 4ull * h->dim);
    h->context = count(either(c, "max_position_embeddings", "n_positions"), 0);
    h->head_dim = count(json_get(c, "head_dim"), h->n_head ? h->dim / h->n_head : 0);
    h->norm_eps = (float)json_f64(either(c, "rms_norm_eps", "layer_norm_epsilon"), 1e-5);
    h->tied = json_bool(json_get(c, "tie_word_embeddings"), false);
    TRY(read_experts(m, c, err));
    TRY(read_window(h, c, err));
    TRY(read_activation(m, c, err));
    const json *rope = json_get(c, "rope_parameters"); /* transformers 5 and later */
    const json *scaling = rope ? rope : json_get(c, "rope_scaling");
    double part = json_f64(json_get(c, "partial_rotary_factor"), 1);
    double base = json_f64(either(rope, "rope_theta", "base"),
                           json_f64(json_get(c, "rope_theta"), 10000));
    if (!(part > 0 && part <= 1))
        return fail(err, OM_EFORMAT, "model: partial_rotary_factor is %g", part);
    h->rope = (nn_rope_args){.head_dim = h->head_dim, .neox = true, .scale = 1,
                             .base = (float)base,
                             .n_rot = (uint32_t)(h->head_dim * part)};
    TRY(llm_check_hparams(h, err));
    return scaling ? read_scaling(m, scaling, err) : OM_OK;
}

/* ---- weights ------------------------------------------------------------------------- */

static om_status add_shard(llm_owned *o, const char *dir, const char *name, om_err *err)
{
    char path[MAX_PATH];
    TRY(join(path, dir, name, err));
    TRY(os_map_open(path, &o->map[o->n_maps], err));
    os_map *map = &o->map[o->n_maps++];
    om_status s = safetensors_open(map->p, map->n, &o->st[o->n_st], err);
    if (s != OM_OK)
        return fail_in(err, s, path);
    o->n_st++;
    return OM_OK;
}

/* The distinct file names of an index; it lists them tensor by tensor. */
static om_status shard_names(const json *index, char name[][256], uint32_t *n, om_err *err)
{
    const json *map = json_get(index, "weight_map");
    for (const json *j = map ? map->child : NULL; j; j = j->next) {
        str s = json_str(j, "");
        uint32_t i = 0;
        if (s.n == 0 || s.n > 255 || memchr(s.p, '/', s.n) || memchr(s.p, '\0', s.n) ||
            !str_ends(s, ".safetensors"))
            return fail(err, OM_EFORMAT, "model: the index names a file '%.*s'",
                        (int)size_min(s.n, 80), s.p);
        while (i < *n && !str_is(s, name[i]))
            i++;
        if (i < *n)
            continue;
        if (*n == MAX_SHARDS)
            return fail(err, OM_ELIMIT, "model: over %d shards", MAX_SHARDS);
        memcpy(name[*n], s.p, s.n);
        name[(*n)++][s.n] = '\0';
    }
    return *n ? OM_OK : fail(err, OM_EFORMAT, "model: the index names no files");
}

static om_status room_for(llm_owned *o, uint32_t n, om_err *err)
{
    o->map = mem_array(n, sizeof(os_map));
    o->st = mem_array(n, sizeof(safetensors));
    return o->map && o->st ? OM_OK : fail(err, OM_ENOMEM, "model: no memory for %u files", n);
}

static om_status open_shards(llm_owned *o, const char *dir, om_err *err)
{
    static const char index_name[] = "model.safetensors.index.json";
    if (!has_file(dir, index_name)) {
        TRY(room_for(o, 1, err));
        return add_shard(o, dir, "model.safetensors", err);
    }
    buf text = {0};
    json_doc doc = {0};
    uint32_t n = 0;
    char(*name)[256] = mem_array(MAX_SHARDS, sizeof(*name));
    om_status s = name ? read_json(dir, index_name, &text, &doc, err)
                       : fail(err, OM_ENOMEM, "model: no memory for the index");
    if (s == OM_OK)
        s = shard_names(doc.root, name, &n, err);
    if (s == OM_OK)
        s = room_for(o, n, err);
    for (uint32_t i = 0; s == OM_OK && i < n; i++)
        s = add_shard(o, dir, name[i], err);
    json_close(&doc);
    buf_free(&text);
    mem_free(name);
    return s;
}

/* Some GPT-2 files put "transformer." before every name. */
static const tensor *find(void *ctx, const char *name)
{
    const llm_owned *o = ctx;
    char longer[LLM_NAME_BYTES + 16];
    snprintf(longer, sizeof(longer), "transformer.%s", name);
    for (uint32_t i = 0; i < o->n_st; i++) {
        const tensor *t = safetensors_find(&o->st[i], name);
        t = t ? t : safetensors_find(&o->st[i], longer);
        if (t)
            return t;
    }
    return NULL;
}

/* ---- tokenizer and chat template ----------------------------------------------------- */

static om_status keep_chat(llm_model *m, str text, om_err *err)
{
    char *z = owned_by(m)->chat_text = mem_strdup(text);
    if (!z)
        return fail(err, OM_ENOMEM, "model: no memory for the chat template");
    m->chat_jinja = str_of(z);
    return OM_OK;
}

/* tokenizer_config.json holds one template, or a list of named ones. */
static om_status read_chat_of(llm_model *m, const json *root, om_err *err)
{
    const json *t = json_get(root, "chat_template");
    if (t && t->type == JSON_ARRAY) {
        const json *pick = t->child;
        for (const json *j = t->child; j; j = j->next)
            if (str_is(json_str(json_get(j, "name"), ""), "default"))
                pick = j;
        t = json_get(pick, "template");
    }
    str text = json_str(t, "");
    return text.n ? keep_chat(m, text, err) : OM_OK;
}

static om_status read_chat(llm_model *m, const char *dir, om_err *err)
{
    char path[MAX_PATH];
    buf text = {0};
    json_doc doc = {0};
    om_status s = OM_OK;
    if (has_file(dir, "chat_template.jinja")) {
        TRY(join(path, dir, "chat_template.jinja", err));
        s = os_read_file(path, MAX_CONFIG, &text, err);
        if (s == OM_OK)
            s = keep_chat(m, (str){(const char *)text.data, text.len}, err);
    } else if (has_file(dir, "tokenizer_config.json")) {
        s = read_json(dir, "tokenizer_config.json", &text, &doc, err);
        if (s == OM_OK)
            s = read_chat_of(m, doc.root, err);
    }
    json_close(&doc);
    buf_free(&text);
    return s;
}

om_status llm_open_hf(llm_model *m, const char *dir, bool own_tok, om_err *err)
{
    llm_owned *o = owned_by(m);
    buf text = {0};
    json_doc doc = {0};
    om_status s = read_json(dir, "config.json", &text, &doc, err);
    if (s == OM_OK)
        s = read_config(m, doc.root, err);
    json_close(&doc);
    buf_free(&text);
    TRY(s);
    TRY(open_shards(o, dir, err));
    TRY(llm_bind(m, &(llm_source){find, o, true}, err));
    if (own_tok && has_file(dir, "tokenizer.json")) {
        char path[MAX_PATH];
        TRY(join(path, dir, "tokenizer.json", err));
        TRY(llm_take_tokenizer(m, path, err));
    }
    return read_chat(m, dir, err);
}
