/* dtype_put.c - codes and scales into the places where the packed types keep them: the
 * inverse of the decoders in dtype_unpack.c.  Nothing is chosen here, so every encoder,
 * round-to-nearest or not, ends in these functions. */
#include "kern/dtype.h"

/* ---- blocks of 32 ------------------------------------------------------------------ */

static void put_nibbles(const uint8_t *l, uint8_t *qs)
{
    for (int j = 0; j < 16; j++)
        qs[j] = (uint8_t)((l[j] & 15) | (l[j + 16] & 15) << 4);
}

static void put_fifth(const uint8_t *l, uint8_t *qh)
{
    uint32_t high = 0;
    for (int j = 0; j < 32; j++)
        high |= (uint32_t)(l[j] >> 4) << j;
    memcpy(qh, &high, 4);
}

static void q4_0(const dtype_codes *c, void *block)
{
    block_q4_0 *b = block;
    b->d = c->d;
    put_nibbles(c->l, b->qs);
}

static void q4_1(const dtype_codes *c, void *block)
{
    block_q4_1 *b = block;
    b->d = c->d;
    b->m = c->dmin;
    put_nibbles(c->l, b->qs);
}

static void q5_0(const dtype_codes *c, void *block)
{
    block_q5_0 *b = block;
    b->d = c->d;
    put_nibbles(c->l, b->qs);
    put_fifth(c->l, b->qh);
}

static void q5_1(const dtype_codes *c, void *block)
{
    block_q5_1 *b = block;
    b->d = c->d;
    b->m = c->dmin;
    put_nibbles(c->l, b->qs);
    put_fifth(c->l, b->qh);
}

static void iq4_nl(const dtype_codes *c, void *block)
{
    block_iq4_nl *b = block;
    b->d = c->d;
    put_nibbles(c->l, b->qs);
}

/* ---- blocks of 256 ----------------------------------------------------------------- */

/* Two bits of every code: 32 bytes hold 128 codes, 32 apart. */
static void put_pairs(const uint8_t *l, uint8_t qs[64])
{
    memset(qs, 0, 64);
    for (int e = 0; e < QK; e++)
        qs[32 * (e / 128) + e % 32] |= (uint8_t)((l[e] & 3) << 2 * (e % 128 / 32));
}

static void q2_k(const dtype_codes *c, void *block)
{
    block_q2_k *b = block;
    b->d = c->d;
    b->dmin = c->dmin;
    for (int g = 0; g < 16; g++)
        b->scales[g] = (uint8_t)(c->sc[g] | c->mn[g] << 4);
    put_pairs(c->l, b->qs);
}

static void q3_k(const dtype_codes *c, void *block)
{
    block_q3_k *b = block;
    memset(b, 0, sizeof(*b));
    b->d = c->d;
    for (int g = 0; g < 16; g++) {
        int sc = c->sc[g] + 32;
        b->scales[g & 7] |= (uint8_t)((sc & 15) << (g < 8 ? 0 : 4));
        b->scales[8 + (g & 3)] |= (uint8_t)(sc >> 4 << 2 * (g >> 2));
    }
    put_pairs(c->l, b->qs);
    for (int e = 0; e < QK; e++)
        b->hmask[e % 32] |= (uint8_t)(c->l[e] >> 2 << e / 32);
}

static void put_scales_k4(const dtype_codes *c, uint8_t *scales)
{
    for (int j = 0; j < 4; j++) {
        scales[j] = (uint8_t)(c->sc[j] | c->sc[j + 4] >> 4 << 6);
        scales[j + 4] = (uint8_t)(c->mn[j] | c->mn[j + 4] >> 4 << 6);
        scales[j + 8] = (uint8_t)((c->sc[j + 4] & 15) | (c->mn[j + 4] & 15) << 4);
    }
}

static void put_nibbles_k4(const uint8_t *l, uint8_t *qs)
{
    for (int j = 0; j < 4; j++)
        for (int e = 0; e < 32; e++)
            qs[32 * j + e] =
                (uint8_t)((l[64 * j + e] & 15) | (l[64 * j + 32 + e] & 15) << 4);
}

static void q4_k(const dtype_codes *c, void *block)
{
    block_q4_k *b = block;
    b->d = c->d;
    b->dmin = c->dmin;
    put_scales_k4(c, b->scales);
    put_nibbles_k4(c->l, b->qs);
}

static void q5_k(const dtype_codes *c, void *block)
{
    block_q5_k *b = block;
    b->d = c->d;
    b->dmin = c->dmin;
    put_scales_k4(c, b->scales);
    put_nibbles_k4(c->l, b->qs);
    memset(b->qh, 0, sizeof(b->qh));
    for (int e = 0; e < QK; e++)
        b->qh[e % 32] |= (uint8_t)(c->l[e] >> 4 << e / 32);
}

static void q6_k(const dtype_codes *c, void *block)
{
    block_q6_k *b = block;
    memset(b, 0, sizeof(*b));
    b->d = c->d;
    for (int g = 0; g < 16; g++)
        b->scales[g] = (int8_t)c->sc[g];
    for (int e = 0; e < QK; e++) {
        int h = e / 128, s = e % 128 / 32, l = e % 32;
        b->ql[64 * h + 32 * (s & 1) + l] |= (uint8_t)((c->l[e] & 15) << (s < 2 ? 0 : 4));
        b->qh[32 * h + l] |= (uint8_t)(c->l[e] >> 4 << 2 * s);
    }
}

static void iq4_xs(const dtype_codes *c, void *block)
{
    block_iq4_xs *b = block;
    memset(b, 0, sizeof(*b));
    b->d = c->d;
    for (int g = 0; g < 8; g++) {
        int sc = c->sc[g] + 32;
        b->scales_l[g / 2] |= (uint8_t)((sc & 15) << 4 * (g & 1));
        b->scales_h = (uint16_t)(b->scales_h | (sc >> 4) << 2 * g);
        put_nibbles(c->l + 32 * g, b->qs + 16 * g);
    }
}

dtype_put_fn *dtype_put_of(dtype t)
{
    static dtype_put_fn *const put[DTYPE_COUNT] = {
        [DTYPE_Q4_0] = q4_0, [DTYPE_Q4_1] = q4_1,     [DTYPE_Q5_0] = q5_0,
        [DTYPE_Q5_1] = q5_1, [DTYPE_IQ4_NL] = iq4_nl, [DTYPE_Q2_K] = q2_k,
        [DTYPE_Q3_K] = q3_k, [DTYPE_Q4_K] = q4_k,     [DTYPE_Q5_K] = q5_k,
        [DTYPE_Q6_K] = q6_k, [DTYPE_IQ4_XS] = iq4_xs,
    };
    return (unsigned)t < DTYPE_COUNT ? put[t] : NULL;
}
