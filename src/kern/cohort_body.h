/* cohort_body.h - the cohort kernels over a few register operations; compiled once per
 * instruction set by kern/cohort_c.c, x86/cohort_avx2.c, x86/cohort_avx512.c and
 * arm/cohort_neon.c, which define V of W floats, v_set, v_load, v_store, v_add, v_mul,
 * v_min and v_max, and may define COHORT_OWN_SCAN to bring their own count and pack. */
#include "kern/cohort.h"

#define INLINE static inline __attribute__((always_inline))

/* The lesser and the greater of two registers of coordinates. */
INLINE void exchange(float *a, float *b)
{
    V x = v_load(a), y = v_load(b);
    v_store(a, v_min(x, y));
    v_store(b, v_max(x, y));
}

static void network(const cohort_step *step, size_t n, float *tile)
{
    for (size_t s = 0; s < n; s++) {
        float *a = tile + (size_t)step[s].a * COHORT_STRIDE;
        float *b = tile + (size_t)step[s].b * COHORT_STRIDE;
        for (size_t l = 0; l < COHORT_LANES; l += W)
            exchange(a + l, b + l);
    }
}

static void mean(const float *tile, size_t from, size_t to, float *out)
{
    V scale = v_set(1.0f / (float)(to - from));
    for (size_t l = 0; l < COHORT_LANES; l += W) {
        V sum = v_load(tile + from * COHORT_STRIDE + l);
        for (size_t i = from + 1; i < to; i++)
            sum = v_add(sum, v_load(tile + i * COHORT_STRIDE + l));
        v_store(out + l, v_mul(sum, scale));
    }
}

#ifndef COHORT_OWN_SCAN
INLINE uint32_t magnitude_of(float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    return u & 0x7fffffffu;
}

static size_t count_from(const float *x, size_t n, uint32_t t)
{
    uint32_t count = 0; /* n stays below 2^32: a piece of the vector */
    for (size_t i = 0; i < n; i++)
        count += magnitude_of(x[i]) >= t;
    return count;
}

/* Without a branch: an index that is not kept is overwritten by the next.  The last write
 * may lie one past what is kept, so a full array is left alone. */
static size_t pack_from(const float *x, size_t n, uint32_t t, uint32_t base,
                        uint32_t *index)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (magnitude_of(x[i]) >= t)
            index[kept++] = base + (uint32_t)i;
    return kept;
}
#endif
