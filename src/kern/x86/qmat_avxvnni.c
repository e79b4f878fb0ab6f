/* qmat_avxvnni.c - the quantized product with AVX-VNNI, the 256-bit byte products of
 * client processors.  As in qmat_vnni.c, signed weights are moved up by 128. */
#include "kern/x86/qmat_ymm.h"

enum { SIGNED_BIAS = 128 };

static inline V v_signed(V a) { return _mm256_xor_si256(a, v_set((int32_t)0x80808080)); }

/* iq4_table + 128 */
static inline V v_iq4(V a)
{
    const __m128i table = _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, -127, -115, -103,
                                        -90, -75, -59, -39, -15);
    return v_lookup(table, a);
}

static inline V v_mla_small(V acc, V a, V b) { return _mm256_dpwssd_avx_epi32(acc, a, b); }

static inline V v_dot_u(V acc, const V w[4], const int8_t *x)
{
    for (int j = 0; j < 4; j++)
        acc = _mm256_dpbusd_avx_epi32(acc, w[j], four_bytes(x + 4 * j));
    return acc;
}

static inline V v_dot_s(V acc, const V w[4], const int8_t *x) { return v_dot_u(acc, w, x); }

#include "kern/qmat_strip.h"

QMAT_KERNELS(qmat_avxvnni, "avxvnni", NULL);
