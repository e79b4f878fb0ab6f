/* attn_neon.c - attention products on 128-bit Arm registers; see attn_body.h.  A table of
 * sixteen bytes turns the low byte of each lane into its level. */
#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kern/attn.h"

enum { W = 4, FEW_V = 4, MANY_Q = 8, MANY_V = 2 };
typedef float32x4_t V;
typedef uint32x4_t U;

static inline V v_set(float a) { return vdupq_n_f32(a); }
static inline V v_load(const float *p) { return vld1q_f32(p); }
static inline void v_store(float *p, V v) { vst1q_f32(p, v); }
static inline V v_fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
static inline V v_f16(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
static inline V widen_s8(int8x8_t x) /* its first four */
{
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(x))));
}
static inline V v_i8(const int8_t *p)
{
    int32_t four;
    memcpy(&four, p, sizeof(four));
    return widen_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
}
static inline U u_q4(const uint8_t *p) { return vreinterpretq_u32_u8(vld1q_u8(p)); }
static inline U byte_plane(const uint8_t *p)
{
    uint32_t four;
    memcpy(&four, p, sizeof(four));
    return vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)))));
}
static inline U u_q3(const uint8_t *p, size_t lanes)
{
    U b = byte_plane(p), c = vshlq_n_u32(byte_plane(p + lanes), 8);
    return vorrq_u32(vorrq_u32(b, c), vshlq_n_u32(byte_plane(p + 2 * lanes), 16));
}
/* Level of the code at the bottom of each lane: looked up as a byte, moved to the top and
 * back to spread its sign. */
static inline V looked_up(int8x16_t table, U code)
{
    int8x16_t b = vqtbl1q_s8(table, vreinterpretq_u8_u32(code));
    int32x4_t top = vshlq_n_s32(vreinterpretq_s32_s8(b), 24);
    return vcvtq_f32_s32(vshrq_n_s32(top, 24));
}
static inline V v_q4(U w, int j)
{
    U code = vandq_u32(vshlq_u32(w, vdupq_n_s32(-4 * j)), vdupq_n_u32(15));
    return looked_up(vld1q_s8(kv_level4), code);
}
static inline V v_q3(U w, int j)
{
    U code = vandq_u32(vshlq_u32(w, vdupq_n_s32(-3 * j)), vdupq_n_u32(7));
    int8x8_t half = vld1_s8(kv_level3);
    return looked_up(vcombine_s8(half, half), code);
}

#include "kern/attn_body.h"

const attn_kernels attn_neon = {"neon", ATTN_PRODUCTS};
