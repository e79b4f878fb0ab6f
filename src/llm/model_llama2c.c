/* model_llama2c.c - a model from a checkpoint of karpathy/llama2.c.
 *
 * The format has no metadata: epsilon 1e-5 and rope base 10000 are llama2.c's constants.
 * Its tokenizer is a file of its own; tokenizer.bin and tok<vocabulary>.bin are looked for
 * beside the checkpoint. */
#include "llm/model_impl.h"

#include <stdio.h>

static const tensor *find(void *ctx, const char *name) { return llama2c_find(ctx, name); }

static llm_hparams hparams(const llama2c *c)
{
    uint32_t width = c->n_heads ? c->dim / c->n_heads : 0;
    return (llm_hparams){
        .vocab = c->vocab_size, .dim = c->dim, .n_layer = c->n_layers, .n_head = c->n_heads,
        .n_kv_head = c->n_kv_heads, .head_dim = width, .ffn = c->hidden_dim,
        .context = c->seq_len, .norm_eps = 1e-5f, .tied = c->tied,
        .rope = {.head_dim = width, .n_rot = width, .base = 10000, .scale = 1},
    };
}

/* "<folder of path>/<name>", when there is such a file. */
static bool beside(const char *path, const char *name, char *out, size_t cap)
{
    const char *slash = strrchr(path, '/');
    int dir = slash ? (int)(slash - path) + 1 : 0;
    int n = snprintf(out, cap, "%.*s%s", dir, path, name);
    return n > 0 && (size_t)n < cap && os_exists(out);
}

om_status llm_open_llama2c(llm_model *m, const char *path, bool own_tok, om_err *err)
{
    llm_owned *o = owned_by(m);
    char tok[4096], name[32];
    o->map = mem_alloc(sizeof(os_map));
    if (!o->map)
        return fail(err, OM_ENOMEM, "model: no memory to open %s", path);
    TRY(os_map_open(path, &o->map[0], err));
    o->n_maps = 1;
    om_status s = llama2c_open(o->map[0].p, o->map[0].n, &o->l2c, err);
    if (s != OM_OK)
        return fail_in(err, s, path);
    o->has_l2c = true;
    m->arch = llm_arch_find(STR("llama"));
    m->h = hparams(&o->l2c);
    TRY(llm_bind(m, &(llm_source){find, &o->l2c, false}, err));
    snprintf(name, sizeof(name), "tok%u.bin", m->h.vocab);
    if (own_tok && (beside(path, "tokenizer.bin", tok, sizeof(tok)) ||
                    beside(path, name, tok, sizeof(tok))))
        TRY(llm_take_tokenizer(m, tok, err));
    return OM_OK;
}
