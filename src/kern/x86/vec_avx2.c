/* vec_avx2.c - the vector kernels on 256-bit registers with FMA; see vec_body.h. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

enum { W = 8 };
typedef __m256 V;
typedef struct {
    __m256d a, b;
} D;

static inline __m256i first(size_t n)
{
    __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lanes);
}
static inline V v_set(float a) { return _mm256_set1_ps(a); }
static inline V v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, V v) { _mm256_storeu_ps(p, v); }
static inline V v_load_part(const float *p, size_t n)
{
    return _mm256_maskload_ps(p, first(n));
}
static inline void v_store_part(float *p, V v, size_t n)
{
    _mm256_maskstore_ps(p, first(n), v);
}
static inline V v_add(V a, V b) { return _mm256_add_ps(a, b); }
static inline V v_sub(V a, V b) { return _mm256_sub_ps(a, b); }
static inline V v_mul(V a, V b) { return _mm256_mul_ps(a, b); }
static inline V v_div(V a, V b) { return _mm256_div_ps(a, b); }
static inline V v_sqrt(V a) { return _mm256_sqrt_ps(a); }
static inline V v_fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
static inline V v_fnma(V a, V b, V c) { return _mm256_fnmadd_ps(a, b, c); }
static inline V v_max(V a, V b) { return _mm256_max_ps(a, b); }
static inline V v_min(V a, V b) { return _mm256_min_ps(a, b); }
static inline V v_round(V a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* In two halves, since 2^-150 has no normal float; the first multiplication is exact. */
static inline V v_scale(V x, V n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    __m256i rest = _mm256_sub_epi32(whole, half), bias = _mm256_set1_epi32(127);
    __m256i p = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i q = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
    return v_mul(v_mul(x, _mm256_castsi256_ps(p)), _mm256_castsi256_ps(q));
}
static inline __m256d low(V v) { return _mm256_cvtps_pd(_mm256_castps256_ps128(v)); }
static inline __m256d high(V v) { return _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)); }
static inline D d_zero(void) { return (D){_mm256_setzero_pd(), _mm256_setzero_pd()}; }
static inline D d_add(D d, V v)
{
    return (D){_mm256_add_pd(d.a, low(v)), _mm256_add_pd(d.b, high(v))};
}
static inline D d_addsq(D d, V v)
{
    __m256d l = low(v), h = high(v);
    return (D){_mm256_fmadd_pd(l, l, d.a), _mm256_fmadd_pd(h, h, d.b)};
}
static inline double d_sum(D d)
{
    double s[4];
    _mm256_storeu_pd(s, _mm256_add_pd(d.a, d.b));
    return (s[0] + s[2]) + (s[1] + s[3]);
}
static inline V v_from_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline void v_to_f16(uint16_t *p, V v)
{
    __m128i h = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128((__m128i *)(void *)p, h);
}

#include "kern/vec_body.h"

void vec_avx2(kern *k) { install(k); }
