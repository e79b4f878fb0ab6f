/* iq.h - inside kern/: the types IQ1_S to IQ3_S taken apart eight weights at a time.
 *
 * A weight is d/8, d/4 or d, times an odd scale of its group, times a small integer; eight
 * of them (or four) are an entry of a code book (iq_grid.c), with signs apart:
 *
 *     IQ2_XXS IQ2_XS IQ2_S    d/8 (2 s + 1) (+-) {8, 25, 43}
 *     IQ3_XXS                 d/4 (2 s + 1) (+-) {4, 12, .. 52, 62}
 *     IQ3_S                   d   (2 s + 1) (+-) {1, 3, .. 15}
 *     IQ1_S IQ1_M             d/8 (2 s + 1) (8 {-1, 0, 1} +- 1)
 *
 * which is dtype.h's d sc q.  Per type: t_eight, weights [8 e, 8 e + 8) of a block as
 * signed bytes; t_scale, of group g of 16; t_half, the f16 d. */
#ifndef KERN_IQ_H
#define KERN_IQ_H

#include "kern/blocks.h"

extern const uint64_t iq2_xxs_grid[256], iq2_xs_grid[512], iq2_s_grid[1024];
extern const uint64_t iq1_grid[2048];
extern const uint32_t iq3_xxs_grid[256], iq3_s_grid[512];

/* type, what d is multiplied by, scales per group of 16 (else of 32) */
#define IQ_TYPES(X)                                                                        \
    X(iq2_xxs, 0.125f, false)                                                              \
    X(iq2_xs, 0.125f, true)                                                                \
    X(iq2_s, 0.125f, true)                                                                 \
    X(iq3_xxs, 0.25f, false)                                                               \
    X(iq3_s, 1.0f, false)                                                                  \
    X(iq1_s, 0.125f, false)                                                                \
    X(iq1_m, 0.125f, true)

#define IQ_BYTES(byte) (UINT64_C(0x0101010101010101) * (byte))

static inline uint16_t iq_u16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

static inline uint32_t iq_u32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* Bytes of g in [1, 127], negated where `signs` has a bit. */
static inline uint64_t iq_sign(uint64_t g, unsigned signs)
{
    uint64_t m = IQ_BYTES(signs) & UINT64_C(0x8040201008040201);
    uint64_t one = (m | (m + IQ_BYTES(0x7f))) >> 7 & IQ_BYTES(1);
    return (g ^ one * 255) + one;
}

/* Seven signs are stored; the eighth makes their number even. */
static inline unsigned iq_eighth(unsigned seven)
{
    return seven | (unsigned)__builtin_parity(seven) << 7;
}

static inline int iq_nibble(const uint8_t *p, size_t i) { return p[i / 2] >> 4 * (i % 2) & 15; }

static inline uint64_t iq2_xxs_eight(const void *block, size_t e)
{
    const block_iq2_xxs *b = block;
    const uint8_t *group = b->qs + e / 4 * 8;
    unsigned signs = iq_u32(group + 4) >> 7 * (e % 4) & 127;
    return iq_sign(iq2_xxs_grid[group[e % 4]], iq_eighth(signs));
}

static inline int iq2_xxs_scale(const void *block, size_t g)
{
    const block_iq2_xxs *b = block;
    return (int)(iq_u32(b->qs + g / 2 * 8 + 4) >> 28) * 2 + 1;
}

static inline uint64_t iq2_xs_eight(const void *block, size_t e)
{
    const block_iq2_xs *b = block;
    unsigned v = iq_u16(b->qs + 2 * e);
    return iq_sign(iq2_xs_grid[v & 511], iq_eighth(v >> 9));
}

static inline int iq2_xs_scale(const void *block, size_t g)
{
    return 2 * iq_nibble(((const block_iq2_xs *)block)->scales, g) + 1;
}

static inline uint64_t iq2_s_eight(const void *block, size_t e)
{
    const block_iq2_s *b = block;
    unsigned high = b->qh[e / 4] >> 2 * (e % 4) & 3;
    return iq_sign(iq2_s_grid[b->qs[e] | high << 8], b->signs[e]);
}

static inline int iq2_s_scale(const void *block, size_t g)
{
    return 2 * iq_nibble(((const block_iq2_s *)block)->scales, g) + 1;
}

static inline uint64_t iq3_xxs_eight(const void *block, size_t e)
{
    const block_iq3_xxs *b = block;
    unsigned signs = iq_u32(b->signs + e / 4 * 4) >> 7 * (e % 4) & 127;
    uint64_t g = iq3_xxs_grid[b->qs[2 * e]] | (uint64_t)iq3_xxs_grid[b->qs[2 * e + 1]] << 32;
    return iq_sign(g, iq_eighth(signs));
}

static inline int iq3_xxs_scale(const void *block, size_t g)
{
    const block_iq3_xxs *b = block;
    return (int)(iq_u32(b->signs + g / 2 * 4) >> 28) * 2 + 1;
}

static inline uint64_t iq3_s_eight(const void *block, size_t e)
{
    const block_iq3_s *b = block;
    unsigned high = b->qh[e / 4] >> 2 * (e % 4);
    uint64_t low = iq3_s_grid[b->qs[2 * e] | (high & 1) << 8];
    return iq_sign(low | (uint64_t)iq3_s_grid[b->qs[2 * e + 1] | (high & 2) << 7] << 32,
                   b->signs[e]);
}

static inline int iq3_s_scale(const void *block, size_t g)
{
    return 2 * iq_nibble(((const block_iq3_s *)block)->scales, g / 2) + 1;
}

/* 8 v + 8 in each byte becomes 8 v + 1, or 8 v - 1. */
static inline uint64_t iq1_shift(uint64_t g, bool down)
{
    uint64_t take = IQ_BYTES(down ? 9u : 7u), top = IQ_BYTES(0x80);
    return ((g | top) - take) ^ top;
}

static inline uint64_t iq1_s_eight(const void *block, size_t e)
{
    const block_iq1_s *b = block;
    unsigned h = iq_u16(b->qh + e / 4 * 2), high = h >> 3 * (e % 4) & 7;
    return iq1_shift(iq1_grid[b->qs[e] | high << 8], h >> 15);
}

static inline int iq1_s_scale(const void *block, size_t g)
{
    return 2 * (iq_u16(((const block_iq1_s *)block)->qh + g / 2 * 2) >> 12 & 7) + 1;
}

static inline uint64_t iq1_m_eight(const void *block, size_t e)
{
    const block_iq1_m *b = block;
    unsigned h = (unsigned)iq_nibble(b->qh, e);
    return iq1_shift(iq1_grid[b->qs[e] | (h & 7) << 8], h >> 3);
}

static inline int iq1_m_scale(const void *block, size_t g)
{
    const block_iq1_m *b = block;
    return 2 * (iq_u16(b->scales + g / 4 * 2) >> 3 * (g % 4) & 7) + 1;
}

#define IQ_HALF(t)                                                                         \
    static inline uint16_t t##_half(const void *block)                                     \
    {                                                                                      \
        return ((const block_##t *)block)->d;                                              \
    }
IQ_HALF(iq2_xxs)
IQ_HALF(iq2_xs)
IQ_HALF(iq2_s)
IQ_HALF(iq3_xxs)
IQ_HALF(iq3_s)
IQ_HALF(iq1_s)

/* Four bits of it in each of the scales' words. */
static inline uint16_t iq1_m_half(const void *block)
{
    const uint8_t *s = ((const block_iq1_m *)block)->scales;
    return (uint16_t)(s[1] >> 4 | (s[3] & 0xf0) | (s[5] & 0xf0) << 4 | (s[7] & 0xf0) << 8);
}

#endif
