/* qmat_vnni.c - the quantized product with AVX-512 VNNI: sixteen rows a strip.
 *
 * vpdpbusd multiplies unsigned by signed bytes, so signed weights are moved up by 128 and
 * 128 times the sum of x is taken off beforehand (SIGNED_BIAS). */
#include "kern/x86/qmat_zmm.h"

enum { SIGNED_BIAS = 128, BATCH = 8, PLAIN_ROWS = 4, PLAIN_BATCH = 4 };

static inline V v_signed(V a) { return _mm512_xor_si512(a, v_set((int32_t)0x80808080)); }

/* iq4_table + 128 */
static inline V v_iq4(V a)
{
    const __m128i table = _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, -127, -115, -103,
                                        -90, -75, -59, -39, -15);
    return v_lookup(table, a);
}

static inline V v_dot_u(V acc, const V w[4], const int8_t *x)
{
    for (int j = 0; j < 4; j++) {
        int32_t four;
        memcpy(&four, x + 4 * j, 4);
        acc = _mm512_dpbusd_epi32(acc, w[j], v_set(four));
    }
    return acc;
}

static inline V v_dot_s(V acc, const V w[4], const int8_t *x) { return v_dot_u(acc, w, x); }

#include "kern/qmat_strip.h"

QMAT_KERNELS(qmat_vnni, "vnni", NULL);
QMAT_KERNELS(qmat_amx, "amx", qmat_amx_many);
