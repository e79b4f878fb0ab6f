/* qwen2moe.c - Qwen1.5-MoE and Qwen2-MoE: Qwen2's block with a mixture of experts, and one
 * shared expert that every token takes in a measure of its own.  Yang et al. 2024,
 * arXiv:2407.10671. */
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
    NAME_EXPERTS,
    NAME_NORM(shared_router, "ffn_gate_inp_shexp", "mlp.shared_expert_gate", SIZE_DIM),
    NAME_MATRIX(shared_gate, "ffn_gate_shexp", "mlp.shared_expert.gate_proj", SIZE_SHARED_FFN,
                SIZE_DIM, 0),
    NAME_MATRIX(shared_up, "ffn_up_shexp", "mlp.shared_expert.up_proj", SIZE_SHARED_FFN,
                SIZE_DIM, 0),
    NAME_MATRIX(shared_down, "ffn_down_shexp", "mlp.shared_expert.down_proj", SIZE_DIM,
                SIZE_SHARED_FFN, 0),
    NAME_HEAD,
    {0},
};

const llm_arch arch_qwen2moe = {
    .name = "qwen2moe", .hf_names = "qwen2_moe",
    .summary = "Qwen2-MoE: Qwen2's block with experts, one of them shared",
    .source = "Yang et al. 2024, arXiv:2407.10671",
    .rope_neox = true,
    .forward = forward, .names = names,
};
