/* attn.h - what attention over a cache asks of an instruction set, and how keys and
 * values lie in memory.
 *
 * THE BLOCK.  Keys (or values) of one head and KV_TOKENS consecutive tokens are one
 * matrix W (rows, lanes): keys are stored transposed, (head_dim, tokens), values as they
 * come, (tokens, head_dim).  So the scores of a query and the sum of values are the same
 * product, y = a W, whose lanes are independent sums: nothing is reduced across a
 * register, and every number loaded serves all query heads that share it.
 *
 *     scores (n, tokens) = q (n, head_dim) K      o (n, head_dim) += p (n, tokens) V
 *
 * rows is padded to KV_ROWS, lanes to KV_LANES; what the padding holds is finite and means
 * nothing: the caller's `a` is 0 in padded rows, and nobody reads padded lanes.
 *
 * THE TYPES.  F32 and F16 are plain.  The others are a code per number and a scale per
 * token (F16, behind the codes): x = scale * level[code].  Q8 levels are the int8 codes.
 * Q4 and Q3 levels are those of the least squared error for a normal distribution (Max
 * 1960, Lloyd 1982), which keys and values follow once they are rotated; the top bit of a
 * code is the sign.  Levels are small integers, exact in every representation.
 * Eight rows of a lane share a word: four bytes of Q4; three of Q3, one plane each.
 * The scale of a token is its lane of the keys and its row of the values, so a product
 * works on codes alone and the caller scales scores after, probabilities before.
 *
 * ARITHMETIC.  y[i][l] = fma chain over rows in order, from y or from 0: the same bits
 * for any n and however lanes are cut; the C reference rounds products apart. */
#ifndef KERN_ATTN_H
#define KERN_ATTN_H

#include "kern/kern.h"

enum { KV_TOKENS = 64, KV_ROWS = 8, KV_LANES = 16, KV_MAX_DIM = 512 };

typedef enum { KV_F32, KV_F16, KV_Q8, KV_Q4, KV_Q3, KV_TYPES } kv_type;

/* y (n, lanes) = a (n, rows) W, or y += when add.  rows % KV_ROWS == 0, lanes %
 * KV_LANES == 0. */
typedef struct {
    const void *w;
    size_t rows, lanes;
    const float *a;
    size_t lda, n;
    float *y;
    size_t ldy;
    bool add;
} kv_product;

typedef struct attn_kernels {
    const char *name;
    void (*product[KV_TYPES])(const kv_product *p);
} attn_kernels;

extern const attn_kernels attn_c, attn_avx2, attn_avx512, attn_neon;
const attn_kernels *attn_kernels_for(unsigned flags);

/* level[code] of Q4 and Q3. */
extern const int8_t kv_level4[16], kv_level3[8];

/* ---- blocks (attn.c) -------------------------------------------------------------- */

const char *kv_type_name(kv_type t);
static inline bool kv_packed(kv_type t) { return t >= KV_Q8; }
static inline size_t kv_rows(size_t n) { return size_align(n, KV_ROWS); }
static inline size_t kv_lanes(size_t n) { return size_align(n, KV_LANES); }
/* Bytes of W's codes; of a whole block of keys (values) of one head, scales included.
 * All are multiples of 64. */
size_t kv_code_bytes(kv_type t, size_t rows, size_t lanes);
size_t kv_block_bytes(kv_type t, bool values, size_t head_dim);
/* Token t of a plain block from x (head_dim). */
void kv_put(const kern *k, kv_type type, bool values, void *block, size_t head_dim,
            size_t t, const float *x);
/* All tokens of a block out to x (KV_TOKENS, head_dim), and in again; into a packed type
 * each token gets the scale of least squared error for its codes. */
void kv_unpack(kv_type type, bool values, const void *block, size_t head_dim, float *x);
void kv_pack(kv_type type, bool values, void *block, size_t head_dim, const float *x);
/* The scales of a packed block, (KV_TOKENS). */
void kv_scales(const kern *k, kv_type type, bool values, const void *block, size_t head_dim,
               float *scale);

/* x (n) becomes its normalised Walsh-Hadamard transform, in blocks of the largest power
 * of two that divides n.  Its own inverse; keeps scalar products. */
void kv_rotate(float *x, size_t n);

#endif
