/* dtype.c - the table of tensor types, their sizes, and the 16-bit float formats.
 *
 * IEEE 754 binary16 and bfloat16 are converted by integer arithmetic, so that the
 * result is the same on every machine; the vector versions must agree bit for bit
 * (except for which NaN). */
#include "kern/dtype.h"
#include "kern/higgs.h"

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline uint32_t pick(bool first, uint32_t a, uint32_t b)
{
    uint32_t mask = 0u - (uint32_t)first;
    return (a & mask) | (b & ~mask);
}

/* Normal numbers, subnormals, infinity and NaN (made quiet, as the hardware does) are all
 * computed and one is picked: no branch, so loops over this become vectors. */
static inline float half_value(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, mag = h & 0x7fff;
    uint32_t normal = (mag << 13) + (112u << 23);
    uint32_t small = bits_of((float)(int32_t)mag * 0x1p-24f); /* exact */
    uint32_t special = 0x7f800000 | mag << 13 | pick(mag > 0x7c00, 0x400000, 0);
    return float_of(sign | pick(mag >= 0x7c00, special, pick(mag < 0x400, small, normal)));
}

float f16_to_f32(uint16_t h) { return half_value(h); }

uint16_t f32_to_f16(float f)
{
    uint32_t u = bits_of(f), sign = u >> 16 & 0x8000, mag = u & 0x7fffffff;
    if (mag > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (mag >> 13 & 0x3ff));
    if (mag >= 0x477ff000) /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00);
    if (mag < 0x38800000) /* subnormal: adding 1/2 puts the unit at 2^-24, rounded */
        return (uint16_t)(sign | (bits_of(float_of(mag) + 0.5f) - 0x3f000000));
    mag += 0xfff + (mag >> 13 & 1);
    return (uint16_t)(sign | (mag - (112u << 23)) >> 13);
}

uint16_t f32_to_bf16(float f)
{
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* ---- plain types ------------------------------------------------------------------- */

static void copy_f32(const void *src, float *dst, size_t n) { memcpy(dst, src, n * 4); }
static void store_f32(const float *src, void *dst, size_t n) { memcpy(dst, src, n * 4); }

static uint16_t u16_at(const void *src, size_t i) /* the file may be unaligned */
{
    uint16_t h;
    memcpy(&h, (const uint8_t *)src + 2 * i, 2);
    return h;
}

static void unpack_f16(const void *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = half_value(u16_at(src, i));
}

static void unpack_bf16(const void *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = bf16_to_f32(u16_at(src, i));
}

static void pack_f16(const float *src, void *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h = f32_to_f16(src[i]);
        memcpy((uint8_t *)dst + 2 * i, &h, 2);
    }
}

static void pack_bf16(const float *src, void *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h = f32_to_bf16(src[i]);
        memcpy((uint8_t *)dst + 2 * i, &h, 2);
    }
}

/* ---- the table ----------------------------------------------------------------------- */

static const dtype_traits table[DTYPE_COUNT] = {
    [DTYPE_F32] = {"F32", 1, 4, copy_f32, store_f32},
    [DTYPE_F16] = {"F16", 1, 2, unpack_f16, pack_f16},
    [DTYPE_BF16] = {"BF16", 1, 2, unpack_bf16, pack_bf16},
    [DTYPE_Q4_0] = {"Q4_0", QK_32, sizeof(block_q4_0), unpack_q4_0, pack_q4_0},
    [DTYPE_Q4_1] = {"Q4_1", QK_32, sizeof(block_q4_1), unpack_q4_1, pack_q4_1},
    [DTYPE_Q5_0] = {"Q5_0", QK_32, sizeof(block_q5_0), unpack_q5_0, pack_q5_0},
    [DTYPE_Q5_1] = {"Q5_1", QK_32, sizeof(block_q5_1), unpack_q5_1, pack_q5_1},
    [DTYPE_Q8_0] = {"Q8_0", QK_32, sizeof(block_q8_0), unpack_q8_0, pack_q8_0},
    [DTYPE_Q2_K] = {"Q2_K", QK, sizeof(block_q2_k), unpack_q2_k, pack_q2_k},
    [DTYPE_Q3_K] = {"Q3_K", QK, sizeof(block_q3_k), unpack_q3_k, pack_q3_k},
    [DTYPE_Q4_K] = {"Q4_K", QK, sizeof(block_q4_k), unpack_q4_k, pack_q4_k},
    [DTYPE_Q5_K] = {"Q5_K", QK, sizeof(block_q5_k), unpack_q5_k, pack_q5_k},
    [DTYPE_Q6_K] = {"Q6_K", QK, sizeof(block_q6_k), unpack_q6_k, pack_q6_k},
    [DTYPE_IQ4_NL] = {"IQ4_NL", QK_32, sizeof(block_iq4_nl), unpack_iq4_nl, pack_iq4_nl},
    [DTYPE_IQ4_XS] = {"IQ4_XS", QK, sizeof(block_iq4_xs), unpack_iq4_xs, pack_iq4_xs},
    [DTYPE_IQ1_S] = {"IQ1_S", QK, sizeof(block_iq1_s), unpack_iq1_s, NULL},
    [DTYPE_IQ1_M] = {"IQ1_M", QK, sizeof(block_iq1_m), unpack_iq1_m, NULL},
    [DTYPE_IQ2_XXS] = {"IQ2_XXS", QK, sizeof(block_iq2_xxs), unpack_iq2_xxs, NULL},
    [DTYPE_IQ2_XS] = {"IQ2_XS", QK, sizeof(block_iq2_xs), unpack_iq2_xs, NULL},
    [DTYPE_IQ2_S] = {"IQ2_S", QK, sizeof(block_iq2_s), unpack_iq2_s, NULL},
    [DTYPE_IQ3_XXS] = {"IQ3_XXS", QK, sizeof(block_iq3_xxs), unpack_iq3_xxs, NULL},
    [DTYPE_IQ3_S] = {"IQ3_S", QK, sizeof(block_iq3_s), unpack_iq3_s, NULL},
    [DTYPE_H2_P4] = {"H2_P4", QK, HIGGS_BYTES(2), unpack_h2_p4, NULL},
    [DTYPE_H3_P2] = {"H3_P2", QK, HIGGS_BYTES(3), unpack_h3_p2, NULL},
    [DTYPE_H4_P2] = {"H4_P2", QK, HIGGS_BYTES(4), unpack_h4_p2, NULL},
    [DTYPE_H8_P1] = {"H8_P1", QK, HIGGS_BYTES(8), unpack_h8_p1, NULL},
    [DTYPE_HT2] = {"HT2", QK, HIGGS_BYTES(2), unpack_ht2, NULL},
    [DTYPE_HT3] = {"HT3", QK, HIGGS_BYTES(3), unpack_ht3, NULL},
    [DTYPE_HT4] = {"HT4", QK, HIGGS_BYTES(4), unpack_ht4, NULL},
    [DTYPE_HT5] = {"HT5", QK, HIGGS_BYTES(5), unpack_ht5, NULL},
    [DTYPE_I8] = {"I8", 1, 1, NULL, NULL},
    [DTYPE_I16] = {"I16", 1, 2, NULL, NULL},
    [DTYPE_I32] = {"I32", 1, 4, NULL, NULL},
    [DTYPE_I64] = {"I64", 1, 8, NULL, NULL},
    [DTYPE_F64] = {"F64", 1, 8, NULL, NULL},
};

const dtype_traits *dtype_of(dtype t)
{
    return (unsigned)t < DTYPE_COUNT && table[t].name ? &table[t] : NULL;
}

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }

static bool same_name(str a, str b)
{
    if (a.n != b.n)
        return false;
    for (size_t i = 0; i < a.n; i++)
        if (lower(a.p[i]) != lower(b.p[i]))
            return false;
    return true;
}

dtype dtype_find(str name)
{
    for (int t = 0; t < DTYPE_COUNT; t++)
        if (table[t].name && same_name(name, str_of(table[t].name)))
            return (dtype)t;
    return DTYPE_COUNT;
}

bool dtype_row_bytes(dtype t, uint64_t cols, size_t *out)
{
    const dtype_traits *d = dtype_of(t);
    if (!d || cols % d->block || cols > SIZE_MAX)
        return false;
    return size_mul((size_t)(cols / d->block), d->bytes, out);
}
