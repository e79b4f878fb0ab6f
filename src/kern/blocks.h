/* blocks.h - the packed tensor types of GGUF files, as they lie on disk, and the
 * ids the format gives them.  These are facts of a public format (ggml's GGUF
 * specification); the layouts are ours to read, not to change. */
#ifndef KERN_BLOCKS_H
#define KERN_BLOCKS_H

#include "base/base.h"

/* Value = GGUF's type id. */
typedef enum {
    DTYPE_F32 = 0, DTYPE_F16 = 1, DTYPE_Q4_0 = 2, DTYPE_Q4_1 = 3, DTYPE_Q5_0 = 6,
    DTYPE_Q5_1 = 7, DTYPE_Q8_0 = 8, DTYPE_Q8_1 = 9, DTYPE_Q2_K = 10, DTYPE_Q3_K = 11,
    DTYPE_Q4_K = 12, DTYPE_Q5_K = 13, DTYPE_Q6_K = 14, DTYPE_Q8_K = 15,
    DTYPE_IQ2_XXS = 16, DTYPE_IQ2_XS = 17, DTYPE_IQ3_XXS = 18, DTYPE_IQ1_S = 19,
    DTYPE_IQ4_NL = 20, DTYPE_IQ3_S = 21, DTYPE_IQ2_S = 22, DTYPE_IQ4_XS = 23,
    DTYPE_I8 = 24, DTYPE_I16 = 25, DTYPE_I32 = 26, DTYPE_I64 = 27, DTYPE_F64 = 28,
    DTYPE_IQ1_M = 29, DTYPE_BF16 = 30, DTYPE_COUNT = 40
} dtype;

/* One row per type; a type without a row (name == NULL) cannot be read. */
typedef struct {
    const char *name;       /* "Q4_K", as `octomil inspect` prints it            */
    uint16_t block;         /* elements in a block; 1 for plain types            */
    uint16_t bytes;         /* bytes of a block                                  */
    /* n is a multiple of `block`.  NULL when that direction is not supported. */
    void (*unpack)(const void *src, float *dst, size_t n);
    void (*pack)(const float *src, void *dst, size_t n);
} dtype_traits;

const dtype_traits *dtype_of(dtype t);      /* NULL when unknown                 */
dtype dtype_find(str name);                 /* case-insensitive; DTYPE_COUNT: none */
/* Bytes of one row of `cols` elements; false on overflow or cols % block != 0. */
bool dtype_row_bytes(dtype t, uint64_t cols, size_t *out);

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);               /* round to nearest even             */
static inline float bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
uint16_t f32_to_bf16(float f);              /* nearest even, NaN stays NaN       */

#endif
