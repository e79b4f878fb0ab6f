/* llama2c.h - checkpoints of karpathy/llama2.c: legacy f32 (no magic), version 1 (f32)
 * and version 2 (groups of int8 with an f32 scale).  Bytes in; hyper-parameters and
 * tensors named as in a GGUF file of architecture "llama" out. */
#ifndef FMT_LLAMA2C_H
#define FMT_LLAMA2C_H

#include "tensor/tensor.h"

typedef struct {
    uint32_t version; /* 0, 1, 2 */
    uint32_t dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len;
    uint32_t group_size; /* of version 2, else 0 */
    bool tied;           /* no output.weight: token_embd.weight serves */
    uint32_t n_tensors;
    const tensor *tensors; /* F32; names NUL-terminated, in the block */
    void *block_;
} llama2c;

/* The caller keeps p, 8-byte aligned.  Versions 0 and 1 are views; version 2 is unpacked
 * to f32 once (exact: int8 times scale; 4 times the file in memory), because its groups
 * of any size with f32 scales are no GGUF type.  Rotary pairs lie side by side (0,1),
 * (2,3).. as GGUF's llama has them: q and k need no permutation.  The file's size must
 * be what its header makes it; the legacy format has no other mark.
 * OM_EFORMAT, OM_EUNSUPPORTED (a later version), OM_EARG (alignment) or OM_ENOMEM. */
om_status llama2c_open(const void *p, size_t n, llama2c *out, om_err *err);
void llama2c_close(llama2c *m);
const tensor *llama2c_find(const llama2c *m, const char *name); /* NULL when absent */

#endif
