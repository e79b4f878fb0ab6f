/* mixtral.c - Mixtral: Llama's block with a mixture of experts for its feed-forward.  A GGUF
 * file of it says "llama" and counts experts.  Jiang et al. 2024, arXiv:2401.04088. */
#include "llm/arch/block.h"
#include "llm/arch/names.h"

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
    NAME_NORM(ffn_norm, "ffn_norm", "post_attention_layernorm", SIZE_DIM),
    NAME_MATRIX(router, "ffn_gate_inp", "block_sparse_moe.gate", SIZE_EXPERTS, SIZE_DIM,
                NAME_EXACT),
    NAME_STACKS("block_sparse_moe.experts.@.w1", "block_sparse_moe.experts.@.w3",
                "block_sparse_moe.experts.@.w2"),
    NAME_HEAD,
    {0},
};

const llm_arch arch_mixtral = {
    .name = "llama", .hf_names = "mixtral",
    .summary = "Mixtral: Llama's block with a mixture of experts",
    .source = "Jiang et al. 2024, arXiv:2401.04088",
    .hf_permuted_qk = true, .expert_norm = true,
    .forward = forward, .names = names,
};
