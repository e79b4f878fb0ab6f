/* qwen3moe.c - Qwen3-MoE: Qwen3's block (normalised query and key heads) with a mixture of
 * experts.  Yang et al. 2025, arXiv:2505.09388. */
#include "llm/arch/block.h"
#include "llm/arch/names.h"

static nn_tensor *block(nn *c, void *ctx, nn_tensor *x)
{
    const llm_step *s = ctx;
    const llm_hparams *h = &s->m->h;
    const llm_layer *l = s->l;
    nn_tensor *n = nn_rmsnorm(c, x, l->attn_norm, h->norm_eps);
    nn_tensor *q = nn_linear(c, n, l->q, l->q_b);
    nn_tensor *k = nn_linear(c, n, l->k, l->k_b);
    nn_tensor *v = nn_linear(c, n, l->v, l->v_b);
    q = nn_rope(c, nn_rmsnorm_heads(c, q, l->q_norm, h->norm_eps), s->b->pos, &h->rope);
    k = nn_rope(c, nn_rmsnorm_heads(c, k, l->k_norm, h->norm_eps), s->b->pos, &h->rope);
    nn_tensor *a = llm_attend(c, s, q, k, v);
    x = nn_add(c, x, nn_linear(c, a, l->o, l->o_b));
    n = nn_rmsnorm(c, x, l->ffn_norm, h->norm_eps);
    return nn_add(c, x, llm_experts(c, s, n));
}

static nn_tensor *forward(nn *c, const llm_model *m, const llm_batch *b)
{
    nn_tensor *x = nn_embed(c, m->embed, b->ids, b->rows);
    x = llm_blocks(c, m, b, block, x);
    return nn_rmsnorm(c, x, m->out_norm, m->h.norm_eps);
}

static const llm_name names[] = {
    NAME_EMBED,
    NAME_ATTENTION,
    NAME_NORM(q_norm, "attn_q_norm", "self_attn.q_norm", SIZE_HEAD),
    NAME_NORM(k_norm, "attn_k_norm", "self_attn.k_norm", SIZE_HEAD),
    NAME_EXPERTS,
    NAME_HEAD,
    {0},
};

const llm_arch arch_qwen3moe = {
    .name = "qwen3moe", .hf_names = "qwen3_moe",
    .summary = "Qwen3-MoE: Qwen3's block with a mixture of experts",
    .source = "Yang et al. 2025, arXiv:2505.09388",
    .rope_neox = true, .expert_norm = true,
    .forward = forward, .names = names,
};
