/* blocks.h - the packed tensor types of GGUF files, as they lie on disk, and the
 * ids the format gives them.  These are facts of a public format (ggml's GGUF
 * specification); the layouts are ours to read, not to change. */
#ifndef KERN_BLOCKS_H
#define KERN_BLOCKS_H

#include "base/base.h"

#include <assert.h>

/* Value = GGUF's type id. */
typedef enum {
    DTYPE_F32 = 0, DTYPE_F16 = 1, DTYPE_Q4_0 = 2, DTYPE_Q4_1 = 3, DTYPE_Q5_0 = 6,
    DTYPE_Q5_1 = 7, DTYPE_Q8_0 = 8, DTYPE_Q8_1 = 9, DTYPE_Q2_K = 10, DTYPE_Q3_K = 11,
    DTYPE_Q4_K = 12, DTYPE_Q5_K = 13, DTYPE_Q6_K = 14, DTYPE_Q8_K = 15,
    DTYPE_IQ2_XXS = 16, DTYPE_IQ2_XS = 17, DTYPE_IQ3_XXS = 18, DTYPE_IQ1_S = 19,
    DTYPE_IQ4_NL = 20, DTYPE_IQ3_S = 21, DTYPE_IQ2_S = 22, DTYPE_IQ4_XS = 23,
    DTYPE_I8 = 24, DTYPE_I16 = 25, DTYPE_I32 = 26, DTYPE_I64 = 27, DTYPE_F64 = 28,
    DTYPE_IQ1_M = 29, DTYPE_BF16 = 30,
    /* Ours alone, from the top of a byte's range down: rotated types, kern/higgs.h. */
    DTYPE_H2_P4 = 240, DTYPE_H3_P2 = 241, DTYPE_H4_P2 = 242, DTYPE_H8_P1 = 243,
    DTYPE_HT2 = 244, DTYPE_HT3 = 245, DTYPE_HT4 = 246, DTYPE_HT5 = 247,
    DTYPE_COUNT = 256
} dtype;

/* ---- blocks, little-endian, as stored -------------------------------------------------
 *
 * w is the value of element i.  Nibbles of the 32-element types: byte j holds element j
 * (low) and j + 16 (high); a fifth bit of element i is bit i of qh.  The K types have
 * blocks of 256 in groups of 16 or 32 with small integer scales of their own. */
enum { QK = 256, QK_32 = 32 };

/* Packed: a tensor may begin at any byte of a file. */
#define BLOCK __attribute__((packed))

typedef struct { uint16_t d; uint8_t qs[16]; } BLOCK block_q4_0; /* w = d (q - 8) */
typedef struct { uint16_t d, m; uint8_t qs[16]; } BLOCK block_q4_1; /* w = d q + m */
typedef struct { uint16_t d; uint8_t qh[4], qs[16]; } BLOCK block_q5_0; /* w = d (q - 16) */
typedef struct { uint16_t d, m; uint8_t qh[4], qs[16]; } BLOCK block_q5_1; /* w = d q + m */
typedef struct { uint16_t d; int8_t qs[32]; } BLOCK block_q8_0; /* w = d q */
typedef struct { uint16_t d; uint8_t qs[16]; } BLOCK block_iq4_nl; /* w = d table[q] */
/* Groups of 16: scale in the low nibble, min in the high one. w = d sc q - dmin mn. */
typedef struct { uint8_t scales[16], qs[64]; uint16_t d, dmin; } BLOCK block_q2_k;
/* Groups of 16, sixteen 6-bit scales less 32; q is 2 bits and 4 less where hmask is 0. */
typedef struct { uint8_t hmask[32], qs[64], scales[12]; uint16_t d; } BLOCK block_q3_k;
/* Groups of 32, eight 6-bit scales and eight 6-bit mins in scales[]. */
typedef struct { uint16_t d, dmin; uint8_t scales[12], qs[128]; } BLOCK block_q4_k;
typedef struct { uint16_t d, dmin; uint8_t scales[12], qh[32], qs[128]; } BLOCK block_q5_k;
/* Groups of 16, 8-bit scales; w = d sc (q - 32). */
typedef struct { uint8_t ql[128], qh[64]; int8_t scales[16]; uint16_t d; } BLOCK block_q6_k;
/* Groups of 32, 6-bit scales less 32; w = d sc table[q]. */
typedef struct { uint16_t d, scales_h; uint8_t scales_l[4], qs[128]; } BLOCK block_iq4_xs;
/* Code books (kern/iq.h): indices, signs, scales of four bits or three, in one word or
 * apart. */
typedef struct { uint16_t d; uint8_t qs[64]; } BLOCK block_iq2_xxs;
typedef struct { uint16_t d; uint8_t qs[64], scales[8]; } BLOCK block_iq2_xs;
typedef struct { uint16_t d; uint8_t qs[32], signs[32], qh[8], scales[8]; } BLOCK block_iq2_s;
typedef struct { uint16_t d; uint8_t qs[64], signs[32]; } BLOCK block_iq3_xxs;
typedef struct { uint16_t d; uint8_t qs[64], qh[8], signs[32], scales[4]; } BLOCK block_iq3_s;
typedef struct { uint16_t d; uint8_t qs[32], qh[16]; } BLOCK block_iq1_s;
typedef struct { uint8_t qs[32], qh[16], scales[8]; } BLOCK block_iq1_m;

static_assert(sizeof(block_q4_0) == 18, "Q4_0");
static_assert(sizeof(block_q4_1) == 20, "Q4_1");
static_assert(sizeof(block_q5_0) == 22, "Q5_0");
static_assert(sizeof(block_q5_1) == 24, "Q5_1");
static_assert(sizeof(block_q8_0) == 34, "Q8_0");
static_assert(sizeof(block_iq4_nl) == 18, "IQ4_NL");
static_assert(sizeof(block_q2_k) == 84, "Q2_K");
static_assert(sizeof(block_q3_k) == 110, "Q3_K");
static_assert(sizeof(block_q4_k) == 144, "Q4_K");
static_assert(sizeof(block_q5_k) == 176, "Q5_K");
static_assert(sizeof(block_q6_k) == 210, "Q6_K");
static_assert(sizeof(block_iq4_xs) == 136, "IQ4_XS");
static_assert(sizeof(block_iq2_xxs) == 66, "IQ2_XXS");
static_assert(sizeof(block_iq2_xs) == 74, "IQ2_XS");
static_assert(sizeof(block_iq2_s) == 82, "IQ2_S");
static_assert(sizeof(block_iq3_xxs) == 98, "IQ3_XXS");
static_assert(sizeof(block_iq3_s) == 110, "IQ3_S");
static_assert(sizeof(block_iq1_s) == 50, "IQ1_S");
static_assert(sizeof(block_iq1_m) == 56, "IQ1_M");

#undef BLOCK

extern const int8_t iq4_table[16]; /* the sixteen levels of IQ4_NL and IQ4_XS */

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
