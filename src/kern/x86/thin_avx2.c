/* thin_avx2.c - the thin layers on 256-bit registers; see thin_body.h. */
#include <immintrin.h>

#define ROWS 5
enum { W = 8 };
typedef __m256 V;

/* The first n of eight lanes. */
static inline __m256i first(unsigned long n)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}
static inline V v_set(float a) { return _mm256_set1_ps(a); }
static inline V v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, V v) { _mm256_storeu_ps(p, v); }
static inline V v_load_part(const float *p, unsigned long n)
{
    return _mm256_maskload_ps(p, first(n));
}
static inline void v_store_part(float *p, V v, unsigned long n)
{
    _mm256_maskstore_ps(p, first(n), v);
}
static inline V v_fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
static inline float v_sum(V v)
{
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
}

#include "kern/thin_body.h"

const thin_kernels thin_avx2 = {forward, back, update};
