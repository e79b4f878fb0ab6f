/* cohort_avx512.c - the cohort kernels on 512-bit registers; see cohort_body.h. */
#include <immintrin.h>
#include <stddef.h>

enum { W = 16 };
typedef __m512 V;
static inline V v_set(float a) { return _mm512_set1_ps(a); }
static inline V v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, V v) { _mm512_storeu_ps(p, v); }
static inline V v_add(V a, V b) { return _mm512_add_ps(a, b); }
static inline V v_mul(V a, V b) { return _mm512_mul_ps(a, b); }
static inline V v_min(V a, V b) { return _mm512_min_ps(a, b); }
static inline V v_max(V a, V b) { return _mm512_max_ps(a, b); }

#define COHORT_OWN_SCAN
#include "kern/cohort_body.h"

static inline __mmask16 kept(const float *x, __mmask16 valid, __m512i t)
{
    __m512i v = _mm512_maskz_loadu_epi32(valid, x);
    v = _mm512_and_si512(v, _mm512_set1_epi32(0x7fffffff));
    return _mm512_mask_cmpge_epu32_mask(valid, v, t);
}

static inline __mmask16 first(size_t n)
{
    return (__mmask16)(n >= W ? 0xffffu : (1u << n) - 1);
}

static size_t count_from(const float *x, size_t n, uint32_t t)
{
    __m512i least = _mm512_set1_epi32((int)t);
    size_t count = 0;
    for (size_t i = 0; i < n; i += W)
        count += (size_t)__builtin_popcount(kept(x + i, first(n - i), least));
    return count;
}

static size_t pack_from(const float *x, size_t n, uint32_t t, uint32_t base,
                        uint32_t *index)
{
    __m512i least = _mm512_set1_epi32((int)t), lane = _mm512_set_epi32(
        15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    size_t out = 0;
    for (size_t i = 0; i < n; i += W) {
        __mmask16 m = kept(x + i, first(n - i), least);
        if (!m)
            continue;
        __m512i at = _mm512_add_epi32(lane, _mm512_set1_epi32((int)(base + (uint32_t)i)));
        unsigned some = (unsigned)__builtin_popcount(m);
        _mm512_mask_storeu_epi32(index + out, (__mmask16)((1u << some) - 1),
                                 _mm512_maskz_compress_epi32(m, at));
        out += some;
    }
    return out;
}

const cohort_kernels cohort_avx512 = {network, mean, count_from, pack_from};
