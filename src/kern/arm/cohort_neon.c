/* cohort_neon.c - the cohort kernels on 128-bit Arm registers; see cohort_body.h. */
#include <arm_neon.h>
#include <stddef.h>

enum { W = 4 };
typedef float32x4_t V;
static inline V v_set(float a) { return vdupq_n_f32(a); }
static inline V v_load(const float *p) { return vld1q_f32(p); }
static inline void v_store(float *p, V v) { vst1q_f32(p, v); }
static inline V v_add(V a, V b) { return vaddq_f32(a, b); }
static inline V v_mul(V a, V b) { return vmulq_f32(a, b); }
static inline V v_min(V a, V b) { return vminq_f32(a, b); }
static inline V v_max(V a, V b) { return vmaxq_f32(a, b); }

#include "kern/cohort_body.h"

const cohort_kernels cohort_neon = {network, mean, count_from, pack_from};
