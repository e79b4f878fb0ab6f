/* llama.c - Llama 1, 2, 3 and what is built the same way: Mistral (sliding window),
 * SmolLM and SmolLM2 (tied embeddings).
 *
 *     h = x + o(attention(rope(q n), rope(k n), v n)),   n = rmsnorm(x)
 *     y = h + down(silu(gate n) * up n),                 n = rmsnorm(h)
 *
 * Touvron et al. 2023 (Llama, Llama 2), Dubey et al. 2024 (Llama 3, whose published
 * rope frequency factors come with the file), Jiang et al. 2023 (Mistral). */
#include "llm/arch/block.h"
#include "llm/arch/names.h"

extern const llm_arch arch_mixtral;

static nn_tensor *block(nn *c, void *ctx, nn_tensor *x)
{
    const llm_step *s = ctx;
    const llm_hparams *h = &s->m->h;
    const llm_layer *l = s->l;
    nn_tensor *n = nn_rmsnorm(c, x, l->attn_norm, h->norm_eps);
    nn_tensor *q = nn_rope(c, nn_linear(c, n, l->q, l->q_b), s->b->pos, &h->rope);
    nn_tensor *k = nn_rope(c, nn_linear(c, n, l->k, l->k_b), s->b->pos, &h->rope);
    nn_tensor *v = nn_linear(c, n, l->v, l->v_b);
    nn_tensor *a = llm_attend(c, s, q, k, v);
    x = nn_add(c, x, nn_linear(c, a, l->o, l->o_b));
    n = nn_rmsnorm(c, x, l->ffn_norm, h->norm_eps);
    return nn_add(c, x, llm_swiglu(c, l, n));
}

static nn_tensor *forward(nn *c, const llm_model *m, const llm_batch *b)
{
    nn_tensor *x = nn_embed(c, m->embed, b->ids, b->rows);
    x = llm_blocks(c, m, b, block, x);
    return nn_rmsnorm(c, x, m->out_norm, m->h.norm_eps);
}

static const llm_name names[] = {NAME_EMBED, NAME_ATTENTION, NAME_SWIGLU, NAME_HEAD, {0}};

const llm_arch arch_llama = {
    .name = "llama", .hf_names = "llama|mistral",
    .summary = "Llama 1-3, Mistral, SmolLM: RMSNorm, RoPE, grouped queries, SwiGLU",
    .source = "Touvron et al. 2023, arXiv:2302.13971 and 2307.09288",
    .forward = forward, .names = names, .hf_permuted_qk = true,
    .experts = &arch_mixtral,
};
