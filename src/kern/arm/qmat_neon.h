/* qmat_neon.h - the operations of qmat_strip.h on NEON vectors, four rows a strip;
 * shared by qmat_neon.c and qmat_dotprod.c, which add the byte products. */
#ifndef KERN_ARM_QMAT_NEON_H
#define KERN_ARM_QMAT_NEON_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef int32x4_t V;
typedef float32x4_t F;
enum { LANES = 4, SIGNED_BIAS = 0, BATCH = 4, PLAIN_ROWS = 2, PLAIN_BATCH = 2 };

static inline V v_set(int32_t a) { return vdupq_n_s32(a); }
static inline V v_and(V a, V b) { return vandq_s32(a, b); }
static inline V v_or(V a, V b) { return vorrq_s32(a, b); }
static inline V v_add(V a, V b) { return vaddq_s32(a, b); }
static inline V v_sub(V a, V b) { return vsubq_s32(a, b); }
static inline V v_mul(V a, V b) { return vmulq_s32(a, b); }
static inline V v_srl(V a, int n)
{
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-n)));
}
static inline V v_sra(V a, int n) { return vshlq_s32(a, vdupq_n_s32(-n)); }
static inline V v_sll(V a, int n) { return vshlq_s32(a, vdupq_n_s32(n)); }
/* (a >> 16) | (b << 16) */
static inline V v_join(V a, V b)
{
    uint32x4_t low = vshrq_n_u32(vreinterpretq_u32_s32(a), 16);
    return vsliq_n_s32(vreinterpretq_s32_u32(low), b, 16);
}
static inline V v_mla_small(V acc, V a, V b) { return vmlaq_s32(acc, a, b); }
static inline V v_signed(V a) { return a; }

static inline V v_iq4(V a)
{
    static const int8_t table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};
    return vreinterpretq_s32_s8(vqtbl1q_s8(vld1q_s8(table), vreinterpretq_u8_s32(a)));
}

static inline F f_set(float a) { return vdupq_n_f32(a); }
static inline F f_load(const float *p) { return vld1q_f32(p); }
static inline void f_store(float *p, F a) { vst1q_f32(p, a); }
static inline F f_mul(F a, F b) { return vmulq_f32(a, b); }
static inline F f_fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
static inline F f_cvt(V a) { return vcvtq_f32_s32(a); }
static inline V v_bits(F a) { return vreinterpretq_s32_f32(a); }
static inline V v_round(F a) { return vcvtnq_s32_f32(a); }
static inline V v_max(V a, V b) { return vmaxq_s32(a, b); }
static inline int32_t v_highest(V a) { return vmaxvq_s32(a); }
static inline int32_t v_sum(V a) { return vaddvq_s32(a); }
static inline void v_store8(int8_t *p, V a)
{
    int16x4_t h = vmovn_s32(a);
    int8x8_t b = vmovn_s16(vcombine_s16(h, h));
    memcpy(p, &b, 4);
}
static inline F f_neg(F a) { return vnegq_f32(a); }

static inline F f_from_halves(uint16x4_t h)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(h));
}
static inline F f_half(V a) { return f_from_halves(vmovn_u32(vreinterpretq_u32_s32(a))); }

static inline F f_load_f32(const uint8_t *p)
{
    return vreinterpretq_f32_u8(vld1q_u8(p));
}
static inline F f_load_f16(const uint8_t *p)
{
    return f_from_halves(vreinterpret_u16_u8(vld1_u8(p)));
}
static inline F f_load_bf16(const uint8_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
}

static inline F f_half_at(const uint8_t *p, size_t stride)
{
    uint16_t h[4];
    for (size_t r = 0; r < 4; r++)
        memcpy(&h[r], p + r * stride, 2);
    return f_from_halves(vld1_u16(h));
}

static inline V v_load1(const uint8_t *p, size_t stride)
{
    int32_t u[4];
    for (size_t r = 0; r < 4; r++)
        memcpy(&u[r], p + r * stride, 4);
    return vld1q_s32(u);
}

static inline V load16(const uint8_t *p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }

static inline V first_pairs(V a, V b) /* a0 a1 b0 b1 of 64-bit halves: a's and b's low */
{
    return vreinterpretq_s32_s64(vtrn1q_s64(vreinterpretq_s64_s32(a),
                                            vreinterpretq_s64_s32(b)));
}

static inline V second_pairs(V a, V b)
{
    return vreinterpretq_s32_s64(vtrn2q_s64(vreinterpretq_s64_s32(a),
                                            vreinterpretq_s64_s32(b)));
}

static inline void v_load4(V out[4], const uint8_t *p, size_t stride)
{
    V a = load16(p), b = load16(p + stride), c = load16(p + 2 * stride);
    V d = load16(p + 3 * stride);
    V ab = vtrn1q_s32(a, b), ab2 = vtrn2q_s32(a, b); /* units 0 2, units 1 3 */
    V cd = vtrn1q_s32(c, d), cd2 = vtrn2q_s32(c, d);
    out[0] = first_pairs(ab, cd);
    out[1] = first_pairs(ab2, cd2);
    out[2] = second_pairs(ab, cd);
    out[3] = second_pairs(ab2, cd2);
}

#endif
