/* cohort_c.c - the cohort kernels in plain C: the reference the laws compare with. */
#include <stddef.h>

enum { W = 1 };
typedef float V;
static inline V v_set(float a) { return a; }
static inline V v_load(const float *p) { return *p; }
static inline void v_store(float *p, V v) { *p = v; }
static inline V v_add(V a, V b) { return a + b; }
static inline V v_mul(V a, V b) { return a * b; }
static inline V v_min(V a, V b) { return a < b ? a : b; }
static inline V v_max(V a, V b) { return a > b ? a : b; }

#include "kern/cohort_body.h"

const cohort_kernels cohort_c = {network, mean, count_from, pack_from};
