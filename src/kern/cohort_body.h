/* cohort_body.h - the cohort kernels over a few register operations; compiled once per
 * instruction set by kern/cohort_c.c, x86/cohort_avx2.c, x86/cohort_avx512.c and
 * arm/cohort_neon.c, which define V of W floats, v_set, v_load, v_store, v_add, v_mul,
 * v_min and v_max, and may define COHORT_OWN_SCAN to bring their own count and pack. */
#include "kern/cohort.h"

#define INLINE static inline __attribute__((always_inline))

/* Rows are taken into registers, put in order there, and written back once.  E(i, j): the
 * lesser of x[i] and x[j] into x[i], the greater into x[j]. */
#define E(i, j)                 \
    {                           \
        V lo = v_min(x[i], x[j]); \
        x[j] = v_max(x[i], x[j]); \
        x[i] = lo;              \
    }

INLINE void take(V *x, const float *const *row, size_t n, size_t l)
{
    for (size_t i = 0; i < n; i++)
        x[i] = v_load(row[i] + l);
}

INLINE void give(const V *x, float *const *row, size_t n, size_t l)
{
    for (size_t i = 0; i < n; i++)
        v_store(row[i] + l, x[i]);
}

/* Batcher's odd-even merge sort. */
INLINE void sort16(V *x)
{
    E(0, 1) E(2, 3) E(4, 5) E(6, 7) E(8, 9) E(10, 11) E(12, 13) E(14, 15) E(0, 2)
    E(1, 3) E(4, 6) E(5, 7) E(8, 10) E(9, 11) E(12, 14) E(13, 15) E(1, 2) E(5, 6)
    E(9, 10) E(13, 14) E(0, 4) E(1, 5) E(2, 6) E(3, 7) E(8, 12) E(9, 13) E(10, 14)
    E(11, 15) E(2, 4) E(3, 5) E(10, 12) E(11, 13) E(1, 2) E(3, 4) E(5, 6) E(9, 10)
    E(11, 12) E(13, 14) E(0, 8) E(1, 9) E(2, 10) E(3, 11) E(4, 12) E(5, 13) E(6, 14)
    E(7, 15) E(4, 8) E(5, 9) E(6, 10) E(7, 11) E(2, 4) E(3, 5) E(6, 8) E(7, 9)
    E(10, 12) E(11, 13) E(1, 2) E(3, 4) E(5, 6) E(7, 8) E(9, 10) E(11, 12) E(13, 14)
}

/* Sixteen rows that rise and then fall, or fall and rise. */
INLINE void clean16(V *x)
{
    E(0, 8) E(1, 9) E(2, 10) E(3, 11) E(4, 12) E(5, 13) E(6, 14) E(7, 15) E(0, 4)
    E(1, 5) E(2, 6) E(3, 7) E(8, 12) E(9, 13) E(10, 14) E(11, 15) E(0, 2) E(1, 3)
    E(4, 6) E(5, 7) E(8, 10) E(9, 11) E(12, 14) E(13, 15) E(0, 1) E(2, 3) E(4, 5)
    E(6, 7) E(8, 9) E(10, 11) E(12, 13) E(14, 15)
}

/* Two sorted runs, the second mirrored, until what is left is within 16 rows. */
INLINE void merge2(V *x) { E(0, 1) }
INLINE void merge4(V *x) { E(0, 3) E(1, 2) E(0, 1) E(2, 3) }
INLINE void merge8(V *x)
{
    E(0, 7) E(1, 6) E(2, 5) E(3, 4)
    E(0, 2) E(1, 3) E(4, 6) E(5, 7)
    E(0, 1) E(2, 3) E(4, 5) E(6, 7)
}

#define ON_ROWS(count, work)                                  \
    {                                                         \
        float *row[count];                                    \
        for (size_t i = 0; i < (count); i++)                  \
            row[i] = tile + (size_t)at[i] * COHORT_STRIDE;    \
        for (size_t l = 0; l < COHORT_LANES; l += W) {        \
            V x[count];                                       \
            take(x, (const float *const *)row, count, l);     \
            work(x);                                          \
            give(x, row, count, l);                           \
        }                                                     \
    }

#define ON_BLOCK(work)                                            \
    for (size_t l = 0; l < COHORT_LANES; l += W) {                \
        float *p = tile + (size_t)at[0] * COHORT_STRIDE + l;      \
        V x[16];                                                  \
        for (size_t i = 0; i < 16; i++)                           \
            x[i] = v_load(p + i * COHORT_STRIDE);                 \
        work(x);                                                  \
        for (size_t i = 0; i < 16; i++)                           \
            v_store(p + i * COHORT_STRIDE, x[i]);                 \
    }

static void network(const cohort_step *step, size_t n, float *tile)
{
    for (size_t s = 0; s < n; s++) {
        const uint16_t *at = step[s].row;
        switch (step[s].kind) {
        case COHORT_SORT16:
            ON_BLOCK(sort16)
            break;
        case COHORT_CLEAN16:
            ON_BLOCK(clean16)
            break;
        case COHORT_MERGE2:
            ON_ROWS(2, merge2)
            break;
        case COHORT_MERGE4:
            ON_ROWS(4, merge4)
            break;
        case COHORT_MERGE8:
            ON_ROWS(8, merge8)
            break;
        }
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
