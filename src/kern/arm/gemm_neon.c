/* gemm_neon.c - f32 products on 128-bit Arm registers: tiles of 8 x 8, sixteen of the 32
 * registers for sums.  See gemm_body.h. */
#include <arm_neon.h>
#include <stddef.h>
#include <string.h>

enum { W = 4, MR = 8, NV = 2 };
typedef float32x4_t V;

static inline V v_set(float a) { return vdupq_n_f32(a); }
static inline V v_load(const float *p) { return vld1q_f32(p); }
static inline void v_store(float *p, V v) { vst1q_f32(p, v); }
static inline V v_fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
static inline V v_load_part(const float *p, size_t n)
{
    float in[W] = {0};
    memcpy(in, p, n * sizeof(*p));
    return vld1q_f32(in);
}
static inline float v_sum(V v) { return vaddvq_f32(v); }

#include "kern/gemm_body.h"

const gemm_kernels gemm_neon = {.f32 = &core, .dots = dots, .outer = outer};
