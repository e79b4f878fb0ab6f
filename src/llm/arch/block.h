/* block.h - what the families share: the loop over blocks, and the two halves of a
 * pre-norm block that most of them are made of. */
#ifndef LLM_ARCH_BLOCK_H
#define LLM_ARCH_BLOCK_H

#include "llm/model.h"

/* One block of one forward; copied into the tape when recomputing. */
typedef struct {
    const llm_model *m;
    const llm_batch *b;
    const llm_layer *l;
    const nn_kv_layer *kv; /* this layer's cache or NULL */
} llm_step;

/* x through `block` for every layer; block's ctx is an llm_step.  Of the first
 * b->recompute blocks only the inputs are kept for the backward. */
nn_tensor *llm_blocks(nn *c, const llm_model *m, const llm_batch *b, nn_block_fn *block,
                      nn_tensor *x);
/* Attention over q (rows, n_head*d), k and v (rows, n_kv_head*d), already rotated. */
nn_tensor *llm_attend(nn *c, const llm_step *s, nn_tensor *q, nn_tensor *k, nn_tensor *v);
/* down(silu(gate x) * (up x)): the SwiGLU feed-forward (Shazeer 2020). */
nn_tensor *llm_swiglu(nn *c, const llm_layer *l, nn_tensor *x);
/* The same by a mixture of experts (nn_experts), a shared one with it where there is one. */
nn_tensor *llm_experts(nn *c, const llm_step *s, nn_tensor *x);

#endif
