/* qmat_zmm.h - the operations of qmat_expand.h on 512-bit vectors, sixteen rows a strip;
 * shared by qmat_vnni.c and qmat_amx.c. */
#ifndef KERN_X86_QMAT_ZMM_H
#define KERN_X86_QMAT_ZMM_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef __m512i V;
typedef __m512 F;
enum { LANES = 16 };

static inline V v_set(int32_t a) { return _mm512_set1_epi32(a); }
static inline V v_and(V a, V b) { return _mm512_and_si512(a, b); }
static inline V v_or(V a, V b) { return _mm512_or_si512(a, b); }
static inline V v_add(V a, V b) { return _mm512_add_epi32(a, b); }
static inline V v_sub(V a, V b) { return _mm512_sub_epi32(a, b); }
static inline V v_mul(V a, V b) { return _mm512_mullo_epi32(a, b); }
static inline V v_srl(V a, int n) { return _mm512_srli_epi32(a, (unsigned)n); }
static inline V v_sra(V a, int n) { return _mm512_srai_epi32(a, (unsigned)n); }
static inline V v_sll(V a, int n) { return _mm512_slli_epi32(a, (unsigned)n); }
static inline V v_mla_small(V acc, V a, V b) { return _mm512_dpwssd_epi32(acc, a, b); }

/* (a >> 16) | (b << 16) */
static inline V v_join(V a, V b) { return _mm512_shrdi_epi32(a, b, 16); }

static inline F f_set(float a) { return _mm512_set1_ps(a); }
static inline F f_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void f_store(float *p, F a) { _mm512_storeu_ps(p, a); }
static inline F f_mul(F a, F b) { return _mm512_mul_ps(a, b); }
static inline F f_fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
static inline F f_cvt(V a) { return _mm512_cvtepi32_ps(a); }
static inline V v_bits(F a) { return _mm512_castps_si512(a); }
static inline V v_round(F a) { return _mm512_cvtps_epi32(a); }
static inline V v_max(V a, V b) { return _mm512_max_epi32(a, b); }
static inline int32_t v_highest(V a) { return _mm512_reduce_max_epi32(a); }
static inline int32_t v_sum(V a) { return _mm512_reduce_add_epi32(a); }
static inline void v_store8(int8_t *p, V a)
{
    _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8(a));
}
static inline F f_neg(F a)
{
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}
static inline F f_half(V a) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)); }

static inline F f_load_f32(const uint8_t *p) { return _mm512_loadu_ps(p); }
static inline F f_load_f16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}
static inline F f_load_bf16(const uint8_t *p)
{
    V wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static inline F f_half_at(const uint8_t *p, size_t stride)
{
    uint16_t h[16];
    for (size_t r = 0; r < 16; r++)
        memcpy(&h[r], p + r * stride, 2);
    return f_load_f16((const uint8_t *)h);
}

static inline V v_load1(const uint8_t *p, size_t stride)
{
    uint32_t u[16];
    for (size_t r = 0; r < 16; r++)
        memcpy(&u[r], p + r * stride, 4);
    return _mm512_loadu_si512(u);
}

static inline __m128i load16(const uint8_t *p) { return _mm_loadu_si128((const void *)p); }

/* 16 bytes of rows 0, 4, 8, 12 after p. */
static inline V every_fourth(const uint8_t *p, size_t stride)
{
    V v = _mm512_castsi128_si512(load16(p));
    v = _mm512_inserti32x4(v, load16(p + 4 * stride), 1);
    v = _mm512_inserti32x4(v, load16(p + 8 * stride), 2);
    return _mm512_inserti32x4(v, load16(p + 12 * stride), 3);
}

static inline void v_load4(V out[4], const uint8_t *p, size_t stride)
{
    V a = every_fourth(p, stride), b = every_fourth(p + stride, stride);
    V c = every_fourth(p + 2 * stride, stride), d = every_fourth(p + 3 * stride, stride);
    V ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d);
    V ab2 = _mm512_unpackhi_epi32(a, b), cd2 = _mm512_unpackhi_epi32(c, d);
    out[0] = _mm512_unpacklo_epi64(ab, cd);
    out[1] = _mm512_unpackhi_epi64(ab, cd);
    out[2] = _mm512_unpacklo_epi64(ab2, cd2);
    out[3] = _mm512_unpackhi_epi64(ab2, cd2);
}

/* table[a] for indices in [0, 15] */
static inline V v_lookup(__m128i table, V a)
{
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), a);
}

#endif
