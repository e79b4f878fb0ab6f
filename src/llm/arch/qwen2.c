/* qwen2.c - Qwen2 and Qwen2.5: Llama's block with biases on q, k and v, and RoPE in
 * halves in every file format.  Yang et al. 2024, arXiv:2407.10671. */
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
    return nn_add(c, x, llm_swiglu(c, l, n));
}

static nn_tensor *forward(nn *c, const llm_model *m, const llm_batch *b)
{
    nn_tensor *x = nn_embed(c, m->embed, b->ids, b->rows);
    x = llm_blocks(c, m, b, block, x);
    return nn_rmsnorm(c, x, m->out_norm, m->h.norm_eps);
}

static const llm_name names[] = {NAME_EMBED, NAME_ATTENTION, NAME_SWIGLU, NAME_HEAD, {0}};

const llm_arch arch_qwen2 = {
    .name = "qwen2", .hf_names = "qwen2",
    .summary = "Qwen2, Qwen2.5: Llama's block with biases on q, k, v",
    .source = "Yang et al. 2024, arXiv:2407.10671",
    .forward = forward, .names = names, .rope_neox = true,
};
