/* dtype_unpack.c - the packed types taken apart: one decoder each (see dtype.h), and
 * unpack to f32 on top of it.
 *
 * Layouts: ggml's block formats, a public fact of GGUF files.  Every byte pattern
 * decodes to something (a NaN scale gives NaN weights), so hostile files are harmless. */
#include "kern/dtype.h"
#include "kern/iq.h"

const int8_t iq4_table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                              1,    13,   25,  38,  53,  69,  89,  113};

static void one_scale(qblock *o, uint16_t d, int mn, float dmin)
{
    o->d = f16_to_f32(d);
    o->dmin = dmin;
    o->sc[0] = o->sc[1] = 1;
    o->mn[0] = o->mn[1] = (int16_t)mn;
}

static void q4_0(const void *block, qblock *o)
{
    const block_q4_0 *b = block;
    one_scale(o, b->d, 0, 0);
    for (int j = 0; j < 16; j++) {
        o->q[j] = (int8_t)((b->qs[j] & 15) - 8);
        o->q[j + 16] = (int8_t)((b->qs[j] >> 4) - 8);
    }
}

static void q4_1(const void *block, qblock *o)
{
    const block_q4_1 *b = block;
    one_scale(o, b->d, 1, -f16_to_f32(b->m));
    for (int j = 0; j < 16; j++) {
        o->q[j] = b->qs[j] & 15;
        o->q[j + 16] = (int8_t)(b->qs[j] >> 4);
    }
}

static void five_bits(const uint8_t *qs, const uint8_t *qh, int zero, int8_t *q)
{
    uint32_t h;
    memcpy(&h, qh, 4);
    for (int j = 0; j < 16; j++) {
        q[j] = (int8_t)((int)((qs[j] & 15u) | (h >> j & 1) << 4) - zero);
        q[j + 16] = (int8_t)((int)((uint32_t)qs[j] >> 4 | (h >> (j + 16) & 1) << 4) - zero);
    }
}

static void q5_0(const void *block, qblock *o)
{
    const block_q5_0 *b = block;
    one_scale(o, b->d, 0, 0);
    five_bits(b->qs, b->qh, 16, o->q);
}

static void q5_1(const void *block, qblock *o)
{
    const block_q5_1 *b = block;
    one_scale(o, b->d, 1, -f16_to_f32(b->m));
    five_bits(b->qs, b->qh, 0, o->q);
}

static void q8_0(const void *block, qblock *o)
{
    const block_q8_0 *b = block;
    one_scale(o, b->d, 0, 0);
    memcpy(o->q, b->qs, 32);
}

static void iq4_nl(const void *block, qblock *o)
{
    const block_iq4_nl *b = block;
    one_scale(o, b->d, 0, 0);
    for (int j = 0; j < 16; j++) {
        o->q[j] = iq4_table[b->qs[j] & 15];
        o->q[j + 16] = iq4_table[b->qs[j] >> 4];
    }
}

/* ---- blocks of 256 ---------------------------------------------------------------------
 * Two bits a weight: byte l of the h-th half holds elements 128 h + 32 s + l, s = 0..3,
 * in bits 2 s and 2 s + 1. */

static void q2_k(const void *block, qblock *o)
{
    const block_q2_k *b = block;
    o->d = f16_to_f32(b->d);
    o->dmin = f16_to_f32(b->dmin);
    for (int g = 0; g < 16; g++) {
        o->sc[g] = b->scales[g] & 15;
        o->mn[g] = b->scales[g] >> 4;
    }
    for (int h = 0; h < 2; h++)
        for (int s = 0; s < 4; s++)
            for (int l = 0; l < 32; l++)
                o->q[128 * h + 32 * s + l] = b->qs[32 * h + l] >> 2 * s & 3;
}

/* Scale g: low nibbles in bytes 0..7 (g and g + 8), top two bits in bytes 8..11. */
static void q3_k(const void *block, qblock *o)
{
    const block_q3_k *b = block;
    o->d = f16_to_f32(b->d);
    o->dmin = 0;
    for (int g = 0; g < 16; g++) {
        int low = b->scales[g & 7] >> (g < 8 ? 0 : 4) & 15;
        int high = b->scales[8 + (g & 3)] >> 2 * (g >> 2) & 3;
        o->sc[g] = (int16_t)((low | high << 4) - 32);
        o->mn[g] = 0;
    }
    for (int h = 0; h < 2; h++)
        for (int s = 0; s < 4; s++)
            for (int l = 0; l < 32; l++) {
                int q = b->qs[32 * h + l] >> 2 * s & 3;
                bool high = b->hmask[l] >> (4 * h + s) & 1;
                o->q[128 * h + 32 * s + l] = (int8_t)(high ? q : q - 4);
            }
}

static void scales_k4(const uint8_t *scales, qblock *o)
{
    for (int j = 0; j < 8; j++) {
        uint8_t sc, mn;
        scale_min_k4(scales, j, &sc, &mn);
        o->sc[2 * j] = o->sc[2 * j + 1] = sc;
        o->mn[2 * j] = o->mn[2 * j + 1] = mn;
    }
}

static void q4_k(const void *block, qblock *o)
{
    const block_q4_k *b = block;
    o->d = f16_to_f32(b->d);
    o->dmin = f16_to_f32(b->dmin);
    scales_k4(b->scales, o);
    for (int j = 0; j < 4; j++)
        for (int l = 0; l < 32; l++) {
            o->q[64 * j + l] = b->qs[32 * j + l] & 15;
            o->q[64 * j + 32 + l] = (int8_t)(b->qs[32 * j + l] >> 4);
        }
}

static void q5_k(const void *block, qblock *o)
{
    const block_q5_k *b = block;
    o->d = f16_to_f32(b->d);
    o->dmin = f16_to_f32(b->dmin);
    scales_k4(b->scales, o);
    for (int j = 0; j < 4; j++)
        for (int l = 0; l < 32; l++) {
            int h = b->qh[l] >> 2 * j;
            o->q[64 * j + l] = (int8_t)((b->qs[32 * j + l] & 15) | (h & 1) << 4);
            o->q[64 * j + 32 + l] = (int8_t)(b->qs[32 * j + l] >> 4 | (h & 2) << 3);
        }
}

static void q6_k(const void *block, qblock *o)
{
    const block_q6_k *b = block;
    o->d = f16_to_f32(b->d);
    o->dmin = 0;
    for (int g = 0; g < 16; g++) {
        o->sc[g] = b->scales[g];
        o->mn[g] = 0;
    }
    for (int h = 0; h < 2; h++)
        for (int s = 0; s < 4; s++)
            for (int l = 0; l < 32; l++) {
                int low = b->ql[64 * h + 32 * (s & 1) + l] >> (s < 2 ? 0 : 4) & 15;
                int high = b->qh[32 * h + l] >> 2 * s & 3;
                o->q[128 * h + 32 * s + l] = (int8_t)((low | high << 4) - 32);
            }
}

static void iq4_xs(const void *block, qblock *o)
{
    const block_iq4_xs *b = block;
    o->d = f16_to_f32(b->d);
    o->dmin = 0;
    for (int j = 0; j < 8; j++) {
        int low = b->scales_l[j / 2] >> 4 * (j & 1) & 15, high = b->scales_h >> 2 * j & 3;
        o->sc[2 * j] = o->sc[2 * j + 1] = (int16_t)((low | high << 4) - 32);
        o->mn[2 * j] = o->mn[2 * j + 1] = 0;
        for (int l = 0; l < 16; l++) {
            o->q[32 * j + l] = iq4_table[b->qs[16 * j + l] & 15];
            o->q[32 * j + 16 + l] = iq4_table[b->qs[16 * j + l] >> 4];
        }
    }
}

/* ---- code books --------------------------------------------------------------------- */

#define IQ(t, unit, by16)                                                                  \
    static void t(const void *block, qblock *o)                                            \
    {                                                                                      \
        o->d = f16_to_f32(t##_half(block)) * (unit);                                       \
        o->dmin = 0;                                                                       \
        for (size_t g = 0; g < QK / 16; g++) {                                             \
            o->sc[g] = (int16_t)t##_scale(block, g);                                       \
            o->mn[g] = 0;                                                                  \
        }                                                                                  \
        for (size_t e = 0; e < QK / 8; e++) {                                              \
            uint64_t eight = t##_eight(block, e);                                          \
            for (size_t i = 0; i < 8; i++)                                                 \
                o->q[8 * e + i] = (int8_t)(eight >> 8 * i);                                \
        }                                                                                  \
    }
IQ_TYPES(IQ)

/* ---- to f32 ------------------------------------------------------------------------- */

static void expand(const qblock *b, size_t n, float *dst)
{
    for (size_t g = 0; g < n / 16; g++) {
        float scale = b->d * (float)b->sc[g], min = b->dmin * (float)b->mn[g];
        for (size_t l = 0; l < 16; l++)
            dst[16 * g + l] = scale * (float)b->q[16 * g + l] - min;
    }
}

static inline void unpack_by(qblock_fn *decode, size_t block, size_t bytes, const void *src,
                             float *dst, size_t n)
{
    qblock b;
    for (size_t i = 0; i < n / block; i++) {
        decode((const uint8_t *)src + i * bytes, &b);
        expand(&b, block, dst + i * block);
    }
}

#define UNPACK(t, block)                                          \
    void unpack_##t(const void *src, float *dst, size_t n)        \
    {                                                             \
        unpack_by(t, block, sizeof(block_##t), src, dst, n);      \
    }
UNPACK(q4_0, QK_32)
UNPACK(q4_1, QK_32)
UNPACK(q5_0, QK_32)
UNPACK(q5_1, QK_32)
UNPACK(q8_0, QK_32)
UNPACK(iq4_nl, QK_32)
UNPACK(q2_k, QK)
UNPACK(q3_k, QK)
UNPACK(q4_k, QK)
UNPACK(q5_k, QK)
UNPACK(q6_k, QK)
UNPACK(iq4_xs, QK)
UNPACK(iq1_s, QK)
UNPACK(iq1_m, QK)
UNPACK(iq2_xxs, QK)
UNPACK(iq2_xs, QK)
UNPACK(iq2_s, QK)
UNPACK(iq3_xxs, QK)
UNPACK(iq3_s, QK)

qblock_fn *qblock_of(dtype t)
{
    static qblock_fn *const decode[DTYPE_COUNT] = {
        [DTYPE_Q4_0] = q4_0, [DTYPE_Q4_1] = q4_1, [DTYPE_Q5_0] = q5_0,
        [DTYPE_Q5_1] = q5_1, [DTYPE_Q8_0] = q8_0, [DTYPE_IQ4_NL] = iq4_nl,
        [DTYPE_Q2_K] = q2_k, [DTYPE_Q3_K] = q3_k, [DTYPE_Q4_K] = q4_k,
        [DTYPE_Q5_K] = q5_k, [DTYPE_Q6_K] = q6_k, [DTYPE_IQ4_XS] = iq4_xs,
        [DTYPE_IQ1_S] = iq1_s, [DTYPE_IQ1_M] = iq1_m, [DTYPE_IQ2_XXS] = iq2_xxs,
        [DTYPE_IQ2_XS] = iq2_xs, [DTYPE_IQ2_S] = iq2_s, [DTYPE_IQ3_XXS] = iq3_xxs,
        [DTYPE_IQ3_S] = iq3_s,
    };
    return (unsigned)t < DTYPE_COUNT ? decode[t] : NULL;
}
