/* attention.h - inside nn/op: what the forward and the backward of attention share. */
#ifndef NN_OP_ATTENTION_H
#define NN_OP_ATTENTION_H

#include "nn/op.h"

/* Tiles of the score matrix: queries by keys. */
enum { ATTN_Q = 64, ATTN_K = 128 };

typedef struct {
    nn_tensor *q, *k, *v, *y;
    nn_tensor *lse; /* (rows, n_head) log of the sum of exp(score); NULL without a tape */
    const nn_seq *seq;
    uint32_t n_seq;
    nn_attn_args a;
    const nn_kv_layer *kv;
} attn;

/* Keys of block [j0, j0 + n) that the query at position p may see: [lo, hi) in it. */
static inline void attn_visible(uint32_t window, uint64_t p, uint64_t j0, size_t n,
                                size_t *lo, size_t *hi)
{
    uint64_t end = p + 1, beg = window && end > window ? end - window : 0;
    *hi = end <= j0 ? 0 : size_min(n, (size_t)(end - j0));
    *lo = beg <= j0 ? 0 : size_min(*hi, (size_t)(beg - j0));
}

/* First key any query from position p on may see. */
static inline uint64_t attn_first(uint32_t window, uint64_t p)
{
    return window && p + 1 > window ? p + 1 - window : 0;
}

void attn_back(nn *c, void *saved); /* attention_back.c */

/* Over a cache (attention_cache.c): bytes of scratch, appending, and the result in s->y. */
size_t attn_cache_bytes(const nn *c, const attn *s);
void attn_cache(nn *c, const attn *s, void *scratch);

#endif
