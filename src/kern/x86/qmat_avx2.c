/* qmat_avx2.c - the quantized product with AVX2.
 *
 * vpmaddubsw adds two products of unsigned and signed bytes in 16 bits, saturating.
 * Weights up to 63 stay far below that, and two such sums still fit; signed weights go
 * in as |w| times x with the sign of w, at most 2 128 127 = 32512. */
#include "kern/x86/qmat_ymm.h"

enum { SIGNED_BIAS = 0 };

static inline V v_signed(V a) { return a; }

static inline V v_iq4(V a)
{
    const __m128i table = _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25,
                                        38, 53, 69, 89, 113);
    return v_lookup(table, a);
}

static inline V v_mla_small(V acc, V a, V b) { return v_add(acc, _mm256_madd_epi16(a, b)); }

/* acc + neighbouring 16-bit sums added */
static inline V widen(V acc, V pairs)
{
    return v_add(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static inline V v_dot_u(V acc, const V w[4], const int8_t *x)
{
    V a = _mm256_maddubs_epi16(w[0], four_bytes(x));
    V b = _mm256_maddubs_epi16(w[1], four_bytes(x + 4));
    V c = _mm256_maddubs_epi16(w[2], four_bytes(x + 8));
    V d = _mm256_maddubs_epi16(w[3], four_bytes(x + 12));
    return widen(widen(acc, _mm256_add_epi16(a, b)), _mm256_add_epi16(c, d));
}

static inline V v_dot_s(V acc, const V w[4], const int8_t *x)
{
    for (int j = 0; j < 4; j++) {
        V signed_x = _mm256_sign_epi8(four_bytes(x + 4 * j), w[j]);
        acc = widen(acc, _mm256_maddubs_epi16(_mm256_abs_epi8(w[j]), signed_x));
    }
    return acc;
}

#include "kern/qmat_strip.h"

QMAT_KERNELS(qmat_avx2, "avx2", NULL);
