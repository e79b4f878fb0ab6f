/* qmat_ymm.h - the operations of qmat_strip.h on 256-bit vectors, eight rows a strip;
 * shared by qmat_avx2.c and qmat_avxvnni.c, which add the byte products. */
#ifndef KERN_X86_QMAT_YMM_H
#define KERN_X86_QMAT_YMM_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef __m256i V;
typedef __m256 F;
enum { LANES = 8, BATCH = 4, PLAIN_ROWS = 2, PLAIN_BATCH = 2 };

static inline V v_set(int32_t a) { return _mm256_set1_epi32(a); }
static inline V v_and(V a, V b) { return _mm256_and_si256(a, b); }
static inline V v_or(V a, V b) { return _mm256_or_si256(a, b); }
static inline V v_add(V a, V b) { return _mm256_add_epi32(a, b); }
static inline V v_sub(V a, V b) { return _mm256_sub_epi32(a, b); }
static inline V v_mul(V a, V b) { return _mm256_mullo_epi32(a, b); }
static inline V v_srl(V a, int n) { return _mm256_srli_epi32(a, n); }
static inline V v_sra(V a, int n) { return _mm256_srai_epi32(a, n); }
static inline V v_sll(V a, int n) { return _mm256_slli_epi32(a, n); }

/* (a >> 16) | (b << 16) */
static inline V v_join(V a, V b)
{
    return _mm256_blend_epi16(v_srl(a, 16), v_sll(b, 16), 0xaa);
}

static inline F f_set(float a) { return _mm256_set1_ps(a); }
static inline F f_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void f_store(float *p, F a) { _mm256_storeu_ps(p, a); }
static inline F f_mul(F a, F b) { return _mm256_mul_ps(a, b); }
static inline F f_fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
static inline F f_cvt(V a) { return _mm256_cvtepi32_ps(a); }
static inline V v_bits(F a) { return _mm256_castps_si256(a); }
static inline V v_round(F a) { return _mm256_cvtps_epi32(a); }
static inline V v_max(V a, V b) { return _mm256_max_epi32(a, b); }

static inline int32_t v_highest(V a)
{
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return _mm_cvtsi128_si32(m);
}

static inline int32_t v_sum(V a)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

static inline void v_store8(int8_t *p, V a)
{
    __m128i h = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((void *)p, _mm_packs_epi16(h, h));
}

static inline F f_neg(F a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }

static inline F f_load_f32(const uint8_t *p) { return _mm256_loadu_ps((const void *)p); }
static inline F f_load_f16(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}
static inline F f_load_bf16(const uint8_t *p)
{
    V wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

static inline F f_half(V a)
{
    V low = v_and(a, v_set(0xffff));
    __m128i half = _mm_packus_epi32(_mm256_castsi256_si128(low),
                                    _mm256_extracti128_si256(low, 1));
    return _mm256_cvtph_ps(half);
}

static inline F f_half_at(const uint8_t *p, size_t stride)
{
    uint16_t h[8];
    for (size_t r = 0; r < 8; r++)
        memcpy(&h[r], p + r * stride, 2);
    return f_load_f16((const uint8_t *)h);
}

static inline V v_load1(const uint8_t *p, size_t stride)
{
    uint32_t u[8];
    for (size_t r = 0; r < 8; r++)
        memcpy(&u[r], p + r * stride, 4);
    return _mm256_loadu_si256((const void *)u);
}

/* 16 bytes of rows 0 and 4 after p. */
static inline V two_rows(const uint8_t *p, size_t stride)
{
    V v = _mm256_castsi128_si256(_mm_loadu_si128((const void *)p));
    return _mm256_inserti128_si256(v, _mm_loadu_si128((const void *)(p + 4 * stride)), 1);
}

static inline void v_load4(V out[4], const uint8_t *p, size_t stride)
{
    V a = two_rows(p, stride), b = two_rows(p + stride, stride);
    V c = two_rows(p + 2 * stride, stride), d = two_rows(p + 3 * stride, stride);
    V ab = _mm256_unpacklo_epi32(a, b), cd = _mm256_unpacklo_epi32(c, d);
    V ab2 = _mm256_unpackhi_epi32(a, b), cd2 = _mm256_unpackhi_epi32(c, d);
    out[0] = _mm256_unpacklo_epi64(ab, cd);
    out[1] = _mm256_unpackhi_epi64(ab, cd);
    out[2] = _mm256_unpacklo_epi64(ab2, cd2);
    out[3] = _mm256_unpackhi_epi64(ab2, cd2);
}

static inline V four_bytes(const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, 4);
    return v_set(four);
}

/* table[a] for indices in [0, 15] */
static inline V v_lookup(__m128i table, V a)
{
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), a);
}

#endif
