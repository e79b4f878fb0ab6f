/* names.h - where a family's weights are found and what shape they must have.
 *
 * One row per weight, in the canonical order (embedding, blocks, final norm, output).
 * A '#' in a pattern is the block number, an '@' the expert's.  The macros hold what the
 * Llama-like families share, because their files share it. */
#ifndef LLM_ARCH_NAMES_H
#define LLM_ARCH_NAMES_H

#include "llm/model.h"

/* Sizes a weight's rows and columns are stated in. */
typedef enum {
    SIZE_ONE, SIZE_DIM, SIZE_Q, SIZE_KV, SIZE_HEAD, SIZE_FFN, SIZE_VOCAB, SIZE_CONTEXT,
    SIZE_EXPERTS, SIZE_EXPERT_FFN, SIZE_SHARED_FFN,
    SIZE_ALL_FFN, SIZE_ALL_DIM /* rows of all experts, one after the other */
} llm_size;

enum {
    NAME_OPTIONAL = 1u << 0, /* may be absent: the pointer stays NULL          */
    NAME_IN_OUT = 1u << 1,   /* Hugging Face stores it (in, out): transposed   */
    NAME_Q = 1u << 2,        /* rows are query heads: rope layout applies      */
    NAME_K = 1u << 3,        /* rows are key heads                             */
    NAME_OUTPUT = 1u << 4,   /* absent when the embedding is tied              */
    NAME_EXACT = 1u << 6,    /* written as F32: a choice hangs on its last bits */
    NAME_STACK = 1u << 5,    /* a matrix per expert: '@' in the HF pattern is its number */
};

typedef struct llm_name {
    const char *name;    /* canonical: "blk.#.attn_q.weight"; NULL ends a table */
    const char *hf;      /* "model.layers.#.self_attn.q_proj.weight"            */
    const char *fused;   /* the GGUF tensor whose rows are q, k, v; NULL: own   */
    uint8_t part;        /* which of the three, when fused                      */
    uint8_t rows, cols;  /* llm_size                                            */
    uint8_t flags;
    uint16_t member;     /* offset of the pointer in llm_layer (a '#') or llm_model */
} llm_name;

uint32_t llm_size_of(const llm_hparams *h, llm_size s);

#define IN_MODEL(m) (uint16_t) offsetof(struct om_model, m)
#define IN_LAYER(m) (uint16_t) offsetof(llm_layer, m)

/* The rows that Llama, Qwen2 and Qwen3 have in common. */
#define NAME_MATRIX(m, gguf, hf_name, r, c, f)                                      \
    {"blk.#." gguf ".weight", "model.layers.#." hf_name ".weight", NULL, 0, r, c, f, \
     IN_LAYER(m)}
#define NAME_BIAS(m, gguf, hf_name, c, f)                                       \
    {"blk.#." gguf ".bias", "model.layers.#." hf_name ".bias", NULL, 0, SIZE_ONE, c, \
     (f) | NAME_OPTIONAL, IN_LAYER(m)}
#define NAME_NORM(m, gguf, hf_name, c)                                               \
    {"blk.#." gguf ".weight", "model.layers.#." hf_name ".weight", NULL, 0, SIZE_ONE, c, 0, \
     IN_LAYER(m)}
#define NAME_EMBED                                                                    \
    {"token_embd.weight", "model.embed_tokens.weight", NULL, 0, SIZE_VOCAB, SIZE_DIM, 0, \
     IN_MODEL(embed)}
#define NAME_HEAD                                                                     \
    {"output_norm.weight", "model.norm.weight", NULL, 0, SIZE_ONE, SIZE_DIM, 0,       \
     IN_MODEL(out_norm)},                                                             \
    {"output.weight", "lm_head.weight", NULL, 0, SIZE_VOCAB, SIZE_DIM, NAME_OUTPUT,   \
     IN_MODEL(output)}
#define NAME_ATTENTION                                                          \
    NAME_NORM(attn_norm, "attn_norm", "input_layernorm", SIZE_DIM),             \
    NAME_MATRIX(q, "attn_q", "self_attn.q_proj", SIZE_Q, SIZE_DIM, NAME_Q),     \
    NAME_BIAS(q_b, "attn_q", "self_attn.q_proj", SIZE_Q, NAME_Q),               \
    NAME_MATRIX(k, "attn_k", "self_attn.k_proj", SIZE_KV, SIZE_DIM, NAME_K),    \
    NAME_BIAS(k_b, "attn_k", "self_attn.k_proj", SIZE_KV, NAME_K),              \
    NAME_MATRIX(v, "attn_v", "self_attn.v_proj", SIZE_KV, SIZE_DIM, 0),         \
    NAME_BIAS(v_b, "attn_v", "self_attn.v_proj", SIZE_KV, 0),                   \
    NAME_MATRIX(o, "attn_output", "self_attn.o_proj", SIZE_DIM, SIZE_Q, 0),     \
    NAME_BIAS(o_b, "attn_output", "self_attn.o_proj", SIZE_DIM, 0)
#define NAME_SWIGLU                                                             \
    NAME_NORM(ffn_norm, "ffn_norm", "post_attention_layernorm", SIZE_DIM),      \
    NAME_MATRIX(gate, "ffn_gate", "mlp.gate_proj", SIZE_FFN, SIZE_DIM, 0),      \
    NAME_BIAS(gate_b, "ffn_gate", "mlp.gate_proj", SIZE_FFN, 0),                \
    NAME_MATRIX(up, "ffn_up", "mlp.up_proj", SIZE_FFN, SIZE_DIM, 0),            \
    NAME_BIAS(up_b, "ffn_up", "mlp.up_proj", SIZE_FFN, 0),                      \
    NAME_MATRIX(down, "ffn_down", "mlp.down_proj", SIZE_DIM, SIZE_FFN, 0),      \
    NAME_BIAS(down_b, "ffn_down", "mlp.down_proj", SIZE_DIM, 0)
#define NAME_STACKS(hf_gate, hf_up, hf_down)                                              \
    NAME_MATRIX(expert_gate, "ffn_gate_exps", hf_gate, SIZE_ALL_FFN, SIZE_DIM, NAME_STACK), \
    NAME_MATRIX(expert_up, "ffn_up_exps", hf_up, SIZE_ALL_FFN, SIZE_DIM, NAME_STACK),     \
    NAME_MATRIX(expert_down, "ffn_down_exps", hf_down, SIZE_ALL_DIM, SIZE_EXPERT_FFN,     \
                NAME_STACK)
/* As Qwen and OLMoE name their experts. */
#define NAME_EXPERTS                                                                      \
    NAME_NORM(ffn_norm, "ffn_norm", "post_attention_layernorm", SIZE_DIM),                \
    NAME_MATRIX(router, "ffn_gate_inp", "mlp.gate", SIZE_EXPERTS, SIZE_DIM, NAME_EXACT),           \
    NAME_STACKS("mlp.experts.@.gate_proj", "mlp.experts.@.up_proj",                       \
                "mlp.experts.@.down_proj")

#endif
