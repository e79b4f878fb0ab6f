/* cohort_avx2.c - the cohort kernels on 256-bit registers; see cohort_body.h. */
#include <immintrin.h>
#include <stddef.h>

enum { W = 8 };
typedef __m256 V;
static inline V v_set(float a) { return _mm256_set1_ps(a); }
static inline V v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, V v) { _mm256_storeu_ps(p, v); }
static inline V v_add(V a, V b) { return _mm256_add_ps(a, b); }
static inline V v_mul(V a, V b) { return _mm256_mul_ps(a, b); }
static inline V v_min(V a, V b) { return _mm256_min_ps(a, b); }
static inline V v_max(V a, V b) { return _mm256_max_ps(a, b); }

#define COHORT_OWN_SCAN
#include "kern/cohort_body.h"

/* One bit a float: its magnitude bits, as signed integers, are at least t. */
static inline unsigned kept(const float *x, __m256i under)
{
    __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)x);
    v = _mm256_and_si256(v, _mm256_set1_epi32(0x7fffffff));
    return (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(v, under)));
}

static inline uint32_t magnitude_of(float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    return u & 0x7fffffffu;
}

static size_t count_from(const float *x, size_t n, uint32_t t)
{
    __m256i under = _mm256_set1_epi32((int)t - 1);
    size_t count = 0, i = 0;
    for (; i + W <= n; i += W)
        count += (size_t)__builtin_popcount(kept(x + i, under));
    for (; i < n; i++)
        count += magnitude_of(x[i]) >= t;
    return count;
}

/* Few are kept: most registers give no bit at all and are passed with one test. */
static size_t pack_from(const float *x, size_t n, uint32_t t, uint32_t base,
                        uint32_t *index)
{
    __m256i under = _mm256_set1_epi32((int)t - 1);
    size_t out = 0, i = 0;
    for (; i + W <= n; i += W)
        for (unsigned m = kept(x + i, under); m; m &= m - 1)
            index[out++] = base + (uint32_t)i + (uint32_t)__builtin_ctz(m);
    for (; i < n; i++)
        if (magnitude_of(x[i]) >= t)
            index[out++] = base + (uint32_t)i;
    return out;
}

const cohort_kernels cohort_avx2 = {network, mean, count_from, pack_from};
