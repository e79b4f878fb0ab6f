/* attn_avx512.c - attention products on 512-bit registers; see attn_body.h.  A level is
 * one permutation away from its code: vpermps looks at the low four bits of an index
 * alone, so a shifted word needs no mask. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

enum { W = 16, FEW_V = 4, MANY_Q = 8, MANY_V = 2 };
typedef __m512 V;
typedef __m512i U;

static inline V v_set(float a) { return _mm512_set1_ps(a); }
static inline V v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, V v) { _mm512_storeu_ps(p, v); }
static inline V v_fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
static inline V v_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}
static inline V v_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}
static inline U u_q4(const uint8_t *p) { return _mm512_loadu_si512(p); }
static inline U byte_plane(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p));
}
static inline U u_q3(const uint8_t *p, size_t lanes)
{
    U b = byte_plane(p), c = _mm512_slli_epi32(byte_plane(p + lanes), 8);
    return _mm512_or_si512(_mm512_or_si512(b, c),
                           _mm512_slli_epi32(byte_plane(p + 2 * lanes), 16));
}
/* The levels of kern/attn.c; those of Q3 twice, for the fourth bit is another code's. */
static inline V v_q4(U w, int j)
{
    const V t = _mm512_setr_ps(6, 18, 31, 44, 58, 75, 96, 127, -6, -18, -31, -44, -58, -75,
                               -96, -127);
    return _mm512_permutexvar_ps(_mm512_srli_epi32(w, (unsigned)(4 * j)), t);
}
static inline V v_q3(U w, int j)
{
    const V t = _mm512_setr_ps(14, 45, 79, 127, -14, -45, -79, -127, 14, 45, 79, 127, -14,
                               -45, -79, -127);
    return _mm512_permutexvar_ps(_mm512_srli_epi32(w, (unsigned)(3 * j)), t);
}

#include "kern/attn_body.h"

const attn_kernels attn_avx512 = {"avx512", ATTN_PRODUCTS};
