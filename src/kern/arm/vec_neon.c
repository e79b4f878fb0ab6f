/* vec_neon.c - the vector kernels on 128-bit Arm registers; see vec_body.h. */
#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { W = 4 };
typedef float32x4_t V;
typedef struct {
    float64x2_t a, b;
} D;

static inline V v_set(float a) { return vdupq_n_f32(a); }
static inline V v_load(const float *p) { return vld1q_f32(p); }
static inline void v_store(float *p, V v) { vst1q_f32(p, v); }
static inline V v_load_part(const float *p, size_t n)
{
    float in[W] = {0};
    memcpy(in, p, n * sizeof(*p));
    return vld1q_f32(in);
}
static inline void v_store_part(float *p, V v, size_t n)
{
    float out[W];
    vst1q_f32(out, v);
    memcpy(p, out, n * sizeof(*p));
}
static inline V v_add(V a, V b) { return vaddq_f32(a, b); }
static inline V v_sub(V a, V b) { return vsubq_f32(a, b); }
static inline V v_mul(V a, V b) { return vmulq_f32(a, b); }
static inline V v_div(V a, V b) { return vdivq_f32(a, b); }
static inline V v_sqrt(V a) { return vsqrtq_f32(a); }
static inline V v_fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
static inline V v_fnma(V a, V b, V c) { return vfmsq_f32(c, a, b); }
static inline V v_max(V a, V b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
static inline V v_min(V a, V b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
static inline V v_round(V a) { return vrndnq_f32(a); }
/* In two halves, since 2^-150 has no normal float; the first multiplication is exact. */
static inline V v_scale(V x, V n)
{
    int32x4_t whole = vcvtnq_s32_f32(n), half = vshrq_n_s32(whole, 1);
    int32x4_t rest = vsubq_s32(whole, half), bias = vdupq_n_s32(127);
    int32x4_t p = vshlq_n_s32(vaddq_s32(half, bias), 23);
    int32x4_t q = vshlq_n_s32(vaddq_s32(rest, bias), 23);
    return v_mul(v_mul(x, vreinterpretq_f32_s32(p)), vreinterpretq_f32_s32(q));
}
static inline float64x2_t low(V v) { return vcvt_f64_f32(vget_low_f32(v)); }
static inline float64x2_t high(V v) { return vcvt_high_f64_f32(v); }
static inline D d_zero(void) { return (D){vdupq_n_f64(0), vdupq_n_f64(0)}; }
static inline D d_add(D d, V v)
{
    return (D){vaddq_f64(d.a, low(v)), vaddq_f64(d.b, high(v))};
}
static inline D d_addsq(D d, V v)
{
    float64x2_t l = low(v), h = high(v);
    return (D){vfmaq_f64(d.a, l, l), vfmaq_f64(d.b, h, h)};
}
static inline double d_sum(D d) { return vaddvq_f64(vaddq_f64(d.a, d.b)); }
static inline V v_from_f16(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
static inline void v_to_f16(uint16_t *p, V v)
{
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v)));
}

#include "kern/vec_body.h"

void vec_neon(kern *k) { install(k); }
