/* unpack_avx512.c - the common packed types to f32, sixteen weights at a time.
 *
 * The bits are those of dtype_unpack.c: integers become floats exactly, a block's scale is
 * one exact product, and a weight is one product (and one difference) rounded as there.
 * Layouts are in blocks.h. */
#include "kern/dtype.h"
#include "kern/gemm.h"

#include <immintrin.h>

static inline __m512 bytes_i8(const void *p) /* sixteen of them */
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p)));
}

static inline __m512 quarter(__m512i nibbles, int zero)
{
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(nibbles, _mm512_set1_epi32(zero)));
}

static inline __m512i low(__m512i bytes)
{
    return _mm512_and_si512(bytes, _mm512_set1_epi32(15));
}

static inline __m512i sixteen(const void *p) /* unsigned bytes */
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(p));
}

static void q8_0(const void *src, float *dst, size_t n)
{
    const block_q8_0 *b = src;
    for (size_t i = 0; i < n / QK_32; i++, b++, dst += QK_32) {
        __m512 d = _mm512_set1_ps(_cvtsh_ss(b->d));
        _mm512_storeu_ps(dst, _mm512_mul_ps(d, bytes_i8(b->qs)));
        _mm512_storeu_ps(dst + 16, _mm512_mul_ps(d, bytes_i8(b->qs + 16)));
    }
}

static void q4_0(const void *src, float *dst, size_t n)
{
    const block_q4_0 *b = src;
    for (size_t i = 0; i < n / QK_32; i++, b++, dst += QK_32) {
        __m512 d = _mm512_set1_ps(_cvtsh_ss(b->d));
        __m512i q = sixteen(b->qs);
        _mm512_storeu_ps(dst, _mm512_mul_ps(d, quarter(low(q), 8)));
        _mm512_storeu_ps(dst + 16,
                         _mm512_mul_ps(d, quarter(_mm512_srli_epi32(q, 4), 8)));
    }
}

/* 32 bytes of nibbles: the low ones of all, then the high ones. */
static void q4_k(const void *src, float *dst, size_t n)
{
    const block_q4_k *b = src;
    for (size_t i = 0; i < n / QK; i++, b++)
        for (int j = 0; j < 8; j++, dst += 32) {
            uint8_t sc, mn;
            scale_min_k4(b->scales, j, &sc, &mn);
            __m512 d = _mm512_set1_ps(_cvtsh_ss(b->d) * (float)sc);
            __m512 min = _mm512_set1_ps(_cvtsh_ss(b->dmin) * (float)mn);
            for (int h = 0; h < 32; h += 16) {
                __m512i q = sixteen(b->qs + j / 2 * 32 + h);
                q = j % 2 ? _mm512_srli_epi32(q, 4) : low(q);
                _mm512_storeu_ps(dst + h,
                                 _mm512_sub_ps(_mm512_mul_ps(d, quarter(q, 0)), min));
            }
        }
}

/* Elements 32 s + l of a half of 128: nibble s / 2 of ql[32 (s % 2) + l], bits 2 s of
 * qh[l] above it, less 32; a scale for every sixteen. */
static void q6_k(const void *src, float *dst, size_t n)
{
    const block_q6_k *b = src;
    for (size_t i = 0; i < n / QK; i++, b++)
        for (unsigned g = 0; g < 16; g++, dst += 16) {
            unsigned half = g / 8, s = g % 8 / 2, l = g % 2 * 16;
            __m512i ql = sixteen(b->ql + 64 * half + 32 * (s & 1) + l);
            __m512i qh = sixteen(b->qh + 32 * half + l);
            qh = _mm512_and_si512(_mm512_srli_epi32(qh, 2 * s), _mm512_set1_epi32(3));
            ql = low(_mm512_srli_epi32(ql, s < 2 ? 0 : 4));
            __m512 q = quarter(_mm512_or_si512(ql, _mm512_slli_epi32(qh, 4)), 32);
            __m512 d = _mm512_set1_ps(_cvtsh_ss(b->d) * (float)b->scales[g]);
            _mm512_storeu_ps(dst, _mm512_mul_ps(d, q));
        }
}

gemm_unpack *gemm_unpack_avx512(dtype t)
{
    return t == DTYPE_Q8_0   ? q8_0
           : t == DTYPE_Q4_0 ? q4_0
           : t == DTYPE_Q4_K ? q4_k
           : t == DTYPE_Q6_K ? q6_k
                             : NULL;
}
