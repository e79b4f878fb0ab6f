/* gemm_avx2.c - f32 products on 256-bit registers: tiles of 6 x 16, so 12 registers of
 * sums, two of B and a broadcast of A fill the sixteen there are.  See gemm_body.h. */
#include <immintrin.h>
#include <stddef.h>

enum { W = 8, MR = 6, NV = 2 };
typedef __m256 V;

static inline V v_set(float a) { return _mm256_set1_ps(a); }
static inline V v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, V v) { _mm256_storeu_ps(p, v); }
static inline V v_fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
static inline V v_load_part(const float *p, size_t n)
{
    __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lanes));
}
static inline float v_sum(V v)
{
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}

#include "kern/gemm_body.h"

const gemm_kernels gemm_avx2 = {.f32 = &core, .dots = dots, .outer = outer};
