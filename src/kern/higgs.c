/* higgs.c - see higgs.h. */
#include "kern/higgs.h"

#include "kern/higgs_table.h"

static const higgs_type types[] = {
    {DTYPE_H2_P4, 2, 4, 256, higgs_p4_256, HIGGS_P4_256_UNIT, HIGGS_P4_256_ERROR},
    {DTYPE_H3_P2, 3, 2, 64, higgs_p2_64, HIGGS_P2_64_UNIT, HIGGS_P2_64_ERROR},
    {DTYPE_H4_P2, 4, 2, 256, higgs_p2_256, HIGGS_P2_256_UNIT, HIGGS_P2_256_ERROR},
    {DTYPE_H8_P1, 8, 1, 256, higgs_p1_256, HIGGS_P1_256_UNIT, HIGGS_P1_256_ERROR},
    {DTYPE_HT2, 2, 0, 256, higgs_t2, HIGGS_T2_UNIT, HIGGS_T2_ERROR},
    {DTYPE_HT3, 3, 0, 256, higgs_t3, HIGGS_T3_UNIT, HIGGS_T3_ERROR},
    {DTYPE_HT4, 4, 0, 256, higgs_t4, HIGGS_T4_UNIT, HIGGS_T4_ERROR},
    {DTYPE_HT5, 5, 0, 256, higgs_t5, HIGGS_T5_UNIT, HIGGS_T5_ERROR},
};

const higgs_type *higgs_of(dtype t)
{
    for (size_t i = 0; i < countof(types); i++)
        if (types[i].type == t)
            return &types[i];
    return NULL;
}

size_t higgs_column(const higgs_type *h, size_t i)
{
    return h->p ? i / h->p + i % h->p * (QK / h->p) : 4 * (i % 64) + i / 64;
}

/* ---- rotation ---------------------------------------------------------------------- */

/* Signs: bits of the first four words of splitmix64
 * seeded with the letters "octomil", the first lowest. */
static const uint64_t sign_words[4] = {0x45b2d4e124aa9e32, 0x03bebf165d40b2c3,
                                       0xedc211da6f826dcc, 0xdd9d8f2f54d90f81};

static float sign(size_t i) { return sign_words[i / 64] >> i % 64 & 1 ? -1.0f : 1.0f; }

/* Orthonormal Hadamard transform of 256 values: its own inverse. */
static void hadamard(float *x)
{
    for (size_t half = 1; half < 4; half *= 2)
        for (size_t i = 0; i < QK; i += 2 * half)
            for (size_t j = i; j < i + half; j++) {
                float a = x[j], b = x[j + half];
                x[j] = a + b;
                x[j + half] = a - b;
            }
    for (size_t half = 4; half < QK; half *= 2)
        for (size_t i = 0; i < QK; i += 2 * half)
            for (size_t j = i; j < i + half; j += 4) /* four by four: vectors */
                for (size_t l = j; l < j + 4; l++) {
                    float a = x[l], b = x[l + half];
                    x[l] = a + b;
                    x[l + half] = a - b;
                }
    for (size_t i = 0; i < QK; i++)
        x[i] *= 0.0625f;
}

void higgs_rotate(float *x, size_t n)
{
    for (size_t at = 0; at < n; at += QK) {
        for (size_t i = 0; i < QK; i++)
            x[at + i] *= sign(i);
        hadamard(x + at);
    }
}

void higgs_unrotate(float *x, size_t n)
{
    for (size_t at = 0; at < n; at += QK) {
        hadamard(x + at);
        for (size_t i = 0; i < QK; i++)
            x[at + i] *= sign(i);
    }
}

/* ---- codes in their places --------------------------------------------------------- */

typedef struct {
    uint16_t d;
    uint8_t qs[];
} __attribute__((packed)) block;

static uint8_t *ring_byte(const higgs_type *h, uint8_t *qs, size_t b)
{
    size_t quarter = 8u * h->bits;
    return &qs[4 * (b % quarter) + b / quarter];
}

static void put_states(const higgs_type *h, const uint8_t *state, uint8_t *qs)
{
    memset(qs, 0, 32u * h->bits);
    for (size_t i = 0; i < QK; i++)
        for (size_t b = 0; b < h->bits; b++) {
            size_t at = h->bits * i + b;
            unsigned bit = state[i] >> (8 - h->bits + b) & 1u;
            *ring_byte(h, qs, at / 8) |= (uint8_t)(bit << at % 8);
        }
}

static void get_states(const higgs_type *h, const uint8_t *qs, uint8_t *state)
{
    size_t ring = QK * h->bits / 8;
    uint8_t *all = (uint8_t *)(uintptr_t)qs;
    for (size_t i = 0; i < QK; i++) {
        size_t end = h->bits * (i + 1), from = (end + 8 * ring - 8) % (8 * ring);
        unsigned two = *ring_byte(h, all, from / 8);
        two |= (unsigned)*ring_byte(h, all, (from / 8 + 1) % ring) << 8;
        state[i] = (uint8_t)(two >> from % 8);
    }
}

static void put_sixes(const uint8_t *code, uint8_t *qs)
{
    memset(qs, 0, 96);
    for (size_t j = 0; j < 128; j++) {
        qs[j % 64] |= (uint8_t)((code[j] & 15) << 4 * (j / 64));
        qs[64 + j % 32] |= (uint8_t)(code[j] >> 4 << 2 * (j / 32));
    }
}

static void get_sixes(const uint8_t *qs, uint8_t *code)
{
    for (size_t j = 0; j < 128; j++)
        code[j] = (uint8_t)((qs[j % 64] >> 4 * (j / 64) & 15) |
                            (qs[64 + j % 32] >> 2 * (j / 32) & 3) << 4);
}

void higgs_put(const higgs_type *h, float d, const uint8_t *code, void *to)
{
    block *b = to;
    b->d = f32_to_f16(d);
    if (!h->p)
        put_states(h, code, b->qs);
    else if (h->n == 64)
        put_sixes(code, b->qs);
    else
        memcpy(b->qs, code, QK / h->p);
}

float higgs_get(const higgs_type *h, const void *from, uint8_t *code)
{
    const block *b = from;
    if (!h->p)
        get_states(h, b->qs, code);
    else if (h->n == 64)
        get_sixes(b->qs, code);
    else
        memcpy(code, b->qs, QK / h->p);
    return f16_to_f32(b->d);
}

void higgs_values(const higgs_type *h, const void *from, float v[QK])
{
    uint8_t code[QK];
    float d = higgs_get(h, from, code);
    size_t p = h->p ? h->p : 1;
    for (size_t i = 0; i < QK; i++)
        v[i] = d * (float)h->value[i % p * h->n + code[i / p]];
}

/* ---- back to weights --------------------------------------------------------------- */

static void unpack(dtype t, const void *src, float *dst, size_t n)
{
    const higgs_type *h = higgs_of(t);
    size_t bytes = HIGGS_BYTES(h->bits);
    for (size_t at = 0; at < n; at += QK) {
        float v[QK];
        higgs_values(h, (const uint8_t *)src + at / QK * bytes, v);
        for (size_t i = 0; i < QK; i++)
            dst[at + higgs_column(h, i)] = v[i];
        higgs_unrotate(dst + at, QK);
    }
}

#define UNPACK(t, T)                                                                       \
    void unpack_##t(const void *src, float *dst, size_t n)                                 \
    {                                                                                      \
        unpack(DTYPE_##T, src, dst, n);                                                    \
    }
UNPACK(h2_p4, H2_P4)
UNPACK(h3_p2, H3_P2)
UNPACK(h4_p2, H4_P2)
UNPACK(h8_p1, H8_P1)
UNPACK(ht2, HT2)
UNPACK(ht3, HT3)
UNPACK(ht4, HT4)
UNPACK(ht5, HT5)
