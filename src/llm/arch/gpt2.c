/* gpt2.c - GPT-2: LayerNorm with bias, learned positions added to the embedding, one
 * q-k-v matrix, GELU (tanh form), biases everywhere, output tied to the embedding.
 * Radford et al. 2019.
 *
 * Published Hugging Face files store every matrix (in, out); such a one is transposed
 * into memory once at open.  GGUF files hold (out, in) and are used in place. */
#include "llm/arch/block.h"
#include "llm/arch/names.h"

static nn_tensor *block(nn *c, void *ctx, nn_tensor *x)
{
    const llm_step *s = ctx;
    const llm_layer *l = s->l;
    float eps = s->m->h.norm_eps;
    nn_tensor *n = nn_layernorm(c, x, l->attn_norm, l->attn_norm_b, eps);
    nn_tensor *q = nn_linear(c, n, l->q, l->q_b);
    nn_tensor *k = nn_linear(c, n, l->k, l->k_b);
    nn_tensor *v = nn_linear(c, n, l->v, l->v_b);
    nn_tensor *a = llm_attend(c, s, q, k, v);
    x = nn_add(c, x, nn_linear(c, a, l->o, l->o_b));
    n = nn_layernorm(c, x, l->ffn_norm, l->ffn_norm_b, eps);
    n = nn_gelu(c, nn_linear(c, n, l->up, l->up_b));
    return nn_add(c, x, nn_linear(c, n, l->down, l->down_b));
}

static nn_tensor *forward(nn *c, const llm_model *m, const llm_batch *b)
{
    nn_tensor *x = nn_embed(c, m->embed, b->ids, b->rows);
    x = nn_add(c, x, nn_embed(c, m->pos_embed, b->pos, b->rows));
    x = llm_blocks(c, m, b, block, x);
    return nn_layernorm(c, x, m->out_norm, m->out_norm_b, m->h.norm_eps);
}

#define QKV(m, p, rows)                                                                 \
    {"blk.#.attn_" #m ".weight", "h.#.attn.c_attn.weight", "blk.#.attn_qkv.weight", p,  \
     rows, SIZE_DIM, NAME_IN_OUT, IN_LAYER(m)},                                         \
    {"blk.#.attn_" #m ".bias", "h.#.attn.c_attn.bias", "blk.#.attn_qkv.bias", p,        \
     SIZE_ONE, rows, 0, IN_LAYER(m##_b)}
#define NORM(m, gguf, hf_name)                                                          \
    {"blk.#." gguf ".weight", "h.#." hf_name ".weight", NULL, 0, SIZE_ONE, SIZE_DIM, 0, \
     IN_LAYER(m)},                                                                      \
    {"blk.#." gguf ".bias", "h.#." hf_name ".bias", NULL, 0, SIZE_ONE, SIZE_DIM, 0,     \
     IN_LAYER(m##_b)}
#define LINEAR(m, gguf, hf_name, out, in)                                               \
    {"blk.#." gguf ".weight", "h.#." hf_name ".weight", NULL, 0, out, in, NAME_IN_OUT,  \
     IN_LAYER(m)},                                                                      \
    {"blk.#." gguf ".bias", "h.#." hf_name ".bias", NULL, 0, SIZE_ONE, out, 0,          \
     IN_LAYER(m##_b)}

static const llm_name names[] = {
    {"token_embd.weight", "wte.weight", NULL, 0, SIZE_VOCAB, SIZE_DIM, 0, IN_MODEL(embed)},
    {"position_embd.weight", "wpe.weight", NULL, 0, SIZE_CONTEXT, SIZE_DIM, 0,
     IN_MODEL(pos_embed)},
    NORM(attn_norm, "attn_norm", "ln_1"),
    QKV(q, 0, SIZE_Q),
    QKV(k, 1, SIZE_KV),
    QKV(v, 2, SIZE_KV),
    LINEAR(o, "attn_output", "attn.c_proj", SIZE_DIM, SIZE_Q),
    NORM(ffn_norm, "ffn_norm", "ln_2"),
    LINEAR(up, "ffn_up", "mlp.c_fc", SIZE_FFN, SIZE_DIM),
    LINEAR(down, "ffn_down", "mlp.c_proj", SIZE_DIM, SIZE_FFN),
    {"output_norm.weight", "ln_f.weight", NULL, 0, SIZE_ONE, SIZE_DIM, 0, IN_MODEL(out_norm)},
    {"output_norm.bias", "ln_f.bias", NULL, 0, SIZE_ONE, SIZE_DIM, 0, IN_MODEL(out_norm_b)},
    {"output.weight", "lm_head.weight", NULL, 0, SIZE_VOCAB, SIZE_DIM, NAME_OUTPUT,
     IN_MODEL(output)},
    {0},
};

const llm_arch arch_gpt2 = {
    .name = "gpt2", .hf_names = "gpt2",
    .summary = "GPT-2: LayerNorm, learned positions, GELU",
    .source = "Radford et al. 2019, Language Models are Unsupervised Multitask Learners",
    .forward = forward, .names = names, .rope_neox = true,
};
