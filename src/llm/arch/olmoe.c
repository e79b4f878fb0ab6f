/* olmoe.c - OLMoE: Llama's block with queries and keys normalised over all heads at once,
 * and a mixture of many small experts.  Muennighoff et al. 2024, arXiv:2409.02060. */
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
    q = nn_rope(c, nn_rmsnorm(c, q, l->q_norm, h->norm_eps), s->b->pos, &h->rope);
    k = nn_rope(c, nn_rmsnorm(c, k, l->k_norm, h->norm_eps), s->b->pos, &h->rope);
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
    NAME_NORM(q_norm, "attn_q_norm", "self_attn.q_norm", SIZE_Q),
    NAME_NORM(k_norm, "attn_k_norm", "self_attn.k_norm", SIZE_KV),
    NAME_EXPERTS,
    NAME_HEAD,
    {0},
};

const llm_arch arch_olmoe = {
    .name = "olmoe", .hf_names = "olmoe",
    .summary = "OLMoE: many small experts, queries and keys normalised over all heads",
    .source = "Muennighoff et al. 2024, arXiv:2409.02060",
    .rope_neox = true,
    .forward = forward, .names = names,
};
