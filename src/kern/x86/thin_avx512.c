/* thin_avx512.c - the thin layers on 512-bit registers; see thin_body.h. */
#include <immintrin.h>

#define ROWS 10
enum { W = 16 };
typedef __m512 V;

static inline __mmask16 first(unsigned long n) { return (__mmask16)((1u << n) - 1); }
static inline V v_set(float a) { return _mm512_set1_ps(a); }
static inline V v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, V v) { _mm512_storeu_ps(p, v); }
static inline V v_load_part(const float *p, unsigned long n)
{
    return _mm512_maskz_loadu_ps(first(n), p);
}
static inline void v_store_part(float *p, V v, unsigned long n)
{
    _mm512_mask_storeu_ps(p, first(n), v);
}
static inline V v_fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
static inline float v_sum(V v) { return _mm512_reduce_add_ps(v); }

#include "kern/thin_body.h"

const thin_kernels thin_avx512 = {forward, back, update};
