/* vec_avx512.c - the vector kernels on 512-bit registers; see vec_body.h. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

enum { W = 16 };
typedef __m512 V;
typedef struct {
    __m512d a, b;
} D;

static inline __mmask16 first(size_t n) { return (__mmask16)((1u << n) - 1); }
static inline V v_set(float a) { return _mm512_set1_ps(a); }
static inline V v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, V v) { _mm512_storeu_ps(p, v); }
static inline V v_load_part(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(first(n), p);
}
static inline void v_store_part(float *p, V v, size_t n)
{
    _mm512_mask_storeu_ps(p, first(n), v);
}
static inline V v_add(V a, V b) { return _mm512_add_ps(a, b); }
static inline V v_sub(V a, V b) { return _mm512_sub_ps(a, b); }
static inline V v_mul(V a, V b) { return _mm512_mul_ps(a, b); }
static inline V v_div(V a, V b) { return _mm512_div_ps(a, b); }
static inline V v_sqrt(V a) { return _mm512_sqrt_ps(a); }
static inline V v_fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
static inline V v_fnma(V a, V b, V c) { return _mm512_fnmadd_ps(a, b, c); }
static inline V v_max(V a, V b) { return _mm512_max_ps(a, b); }
static inline V v_min(V a, V b) { return _mm512_min_ps(a, b); }
static inline V v_round(V a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline V v_scale(V x, V n) { return _mm512_scalef_ps(x, n); }
static inline __m512d low(V v) { return _mm512_cvtps_pd(_mm512_castps512_ps256(v)); }
static inline __m512d high(V v) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)); }
static inline D d_zero(void) { return (D){_mm512_setzero_pd(), _mm512_setzero_pd()}; }
static inline D d_add(D d, V v)
{
    return (D){_mm512_add_pd(d.a, low(v)), _mm512_add_pd(d.b, high(v))};
}
static inline D d_addsq(D d, V v)
{
    __m512d l = low(v), h = high(v);
    return (D){_mm512_fmadd_pd(l, l, d.a), _mm512_fmadd_pd(h, h, d.b)};
}
static inline double d_sum(D d) { return _mm512_reduce_add_pd(_mm512_add_pd(d.a, d.b)); }
static inline V v_from_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline void v_to_f16(uint16_t *p, V v)
{
    __m256i h = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256((__m256i *)(void *)p, h);
}

#include "kern/vec_body.h"

void vec_avx512(kern *k) { install(k); }
