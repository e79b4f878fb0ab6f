/* attn_avx2.c - attention products on 256-bit registers with FMA; see attn_body.h.
 * vpermps looks at the low three bits of an index: the magnitude of a four-bit code, whose
 * sign bit is then shifted to the top and set by xor. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

enum { W = 8, FEW_V = 2, MANY_Q = 6, MANY_V = 2 };
typedef __m256 V;
typedef __m256i U;

static inline V v_set(float a) { return _mm256_set1_ps(a); }
static inline V v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, V v) { _mm256_storeu_ps(p, v); }
static inline V v_fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
static inline V v_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}
static inline V v_i8(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)));
}
static inline U u_q4(const uint8_t *p) { return _mm256_loadu_si256((const void *)p); }
static inline U byte_plane(const uint8_t *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p));
}
static inline U u_q3(const uint8_t *p, size_t lanes)
{
    U b = byte_plane(p), c = _mm256_slli_epi32(byte_plane(p + lanes), 8);
    return _mm256_or_si256(_mm256_or_si256(b, c),
                           _mm256_slli_epi32(byte_plane(p + 2 * lanes), 16));
}
/* The levels of kern/attn.c. */
static inline V v_q4(U w, int j)
{
    const V t = _mm256_setr_ps(6, 18, 31, 44, 58, 75, 96, 127);
    U code = _mm256_srli_epi32(w, 4 * j);
    U sign = _mm256_and_si256(_mm256_slli_epi32(code, 28), _mm256_set1_epi32(INT32_MIN));
    return _mm256_xor_ps(_mm256_permutevar8x32_ps(t, code), _mm256_castsi256_ps(sign));
}
static inline V v_q3(U w, int j)
{
    const V t = _mm256_setr_ps(14, 45, 79, 127, -14, -45, -79, -127);
    return _mm256_permutevar8x32_ps(t, _mm256_srli_epi32(w, 3 * j));
}

#include "kern/attn_body.h"

const attn_kernels attn_avx2 = {"avx2", ATTN_PRODUCTS};
