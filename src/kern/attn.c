/* attn.c - blocks of keys and values written, packed and read; the plain products.
 *
 * The head of attn.h says how a block lies.  A packed token is written in two steps: its
 * root mean square gives a first scale and with it the codes.  The scale stored is then,
 * for values, the one of least squared error for those codes, <x, level> / <level, level>.
 * It makes a token a little shorter than it was; in keys that would flatten every softmax,
 * so theirs keeps the length: |x| / |level|.
 *
 * Rotation (as in QuaRot, Ashkboos et al. 2024): a Hadamard matrix H spreads what is
 * large in a few coordinates over all of them, so one scale fits a whole token.
 * (H q) . (H k) = q . k, and H (sum p v) = sum p (H v): keys and values are stored
 * rotated, queries are rotated, outputs rotated back. */
#include "kern/attn.h"

#include <math.h>

/* Lloyd-Max levels of a normal variable times 46.47 (four bits) and 59.0 (three). */
const int8_t kv_level4[16] = {6,  18,  31,  44,  58,  75,  96,  127,
                              -6, -18, -31, -44, -58, -75, -96, -127};
const int8_t kv_level3[8] = {14, 45, 79, 127, -14, -45, -79, -127};

static const float unit4 = 46.47f, unit3 = 59.0f;

const char *kv_type_name(kv_type t)
{
    static const char *const name[] = {"f32", "f16", "q8", "q4", "q3"};
    return name[t];
}

size_t kv_code_bytes(kv_type t, size_t rows, size_t lanes)
{
    static const unsigned bits[] = {32, 16, 8, 4, 3};
    return size_align(rows * lanes * bits[t] / 8, 64);
}

static size_t rows_of(bool values, size_t d) { return values ? KV_TOKENS : kv_rows(d); }
static size_t lanes_of(bool values, size_t d) { return values ? kv_lanes(d) : KV_TOKENS; }

static size_t codes_of(kv_type t, bool values, size_t d)
{
    return kv_code_bytes(t, rows_of(values, d), lanes_of(values, d));
}

size_t kv_block_bytes(kv_type t, bool values, size_t d)
{
    return codes_of(t, values, d) + (kv_packed(t) ? KV_TOKENS * sizeof(uint16_t) : 0);
}

/* ---- plain blocks ----------------------------------------------------------------- */

void kv_put(const kern *k, kv_type type, bool values, void *block, size_t d, size_t t,
            const float *x)
{
    uint16_t half[256];
    size_t lanes = lanes_of(values, d);
    BUG_IF(kv_packed(type));
    if (type == KV_F32) {
        float *w = block;
        for (size_t i = 0; i < d; i++)
            w[values ? t * lanes + i : i * lanes + t] = x[i];
        return;
    }
    for (size_t at = 0; at < d; at += countof(half)) {
        size_t n = size_min(d - at, countof(half));
        uint16_t *w = block;
        k->f32_to_f16(half, x + at, n);
        if (values)
            memcpy(w + t * lanes + at, half, n * sizeof(*half));
        for (size_t i = 0; !values && i < n; i++)
            w[(at + i) * lanes + t] = half[i];
    }
}

/* ---- codes ------------------------------------------------------------------------ */

/* A word of eight codes: `bits` each, of lane l, rows [8 r, 8 r + 8). */
static uint32_t word_get(kv_type t, const uint8_t *w, size_t lanes, size_t r, size_t l)
{
    if (t == KV_Q4) {
        const uint8_t *p = w + (r * lanes + l) * 4;
        return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    }
    const uint8_t *p = w + r * 3 * lanes + l;
    return p[0] | (uint32_t)p[lanes] << 8 | (uint32_t)p[2 * lanes] << 16;
}

static void word_put(kv_type t, uint8_t *w, size_t lanes, size_t r, size_t l, uint32_t v)
{
    size_t step = t == KV_Q4 ? 1 : lanes, n = t == KV_Q4 ? 4 : 3;
    uint8_t *p = t == KV_Q4 ? w + (r * lanes + l) * 4 : w + r * 3 * lanes + l;
    for (size_t i = 0; i < n; i++)
        p[i * step] = (uint8_t)(v >> 8 * i);
}

static float level_at(kv_type t, const uint8_t *w, size_t lanes, size_t r, size_t l)
{
    switch (t) {
    case KV_F32:
        return ((const float *)(const void *)w)[r * lanes + l];
    case KV_F16:
        return f16_to_f32(((const uint16_t *)(const void *)w)[r * lanes + l]);
    case KV_Q8:
        return (float)(int8_t)w[r * lanes + l];
    case KV_Q4:
        return kv_level4[word_get(t, w, lanes, r / 8, l) >> 4 * (r % 8) & 15];
    default:
        return kv_level3[word_get(t, w, lanes, r / 8, l) >> 3 * (r % 8) & 7];
    }
}

void kv_scales(const kern *k, kv_type type, bool values, const void *block, size_t d,
               float *scale)
{
    const uint8_t *p = block;
    const void *at = p + codes_of(type, values, d);
    k->f16_to_f32(scale, at, KV_TOKENS);
}

void kv_unpack(kv_type type, bool values, const void *block, size_t d, float *x)
{
    size_t lanes = lanes_of(values, d);
    const uint8_t *w = block;
    const uint16_t *scale = (const void *)(w + codes_of(type, values, d));
    for (size_t t = 0; t < KV_TOKENS; t++) {
        float s = kv_packed(type) ? f16_to_f32(scale[t]) : 1.0f;
        for (size_t i = 0; i < d; i++)
            x[t * d + i] = s * level_at(type, w, lanes, values ? t : i, values ? i : t);
    }
}

/* Code of the level nearest to x, x in levels' units. */
static uint32_t nearest(kv_type t, float x)
{
    const int8_t *level = t == KV_Q4 ? kv_level4 : kv_level3;
    uint32_t half = t == KV_Q4 ? 8 : 4, c = 0;
    float a = fabsf(x);
    for (uint32_t i = 0; i + 1 < half; i++)
        c += 2.0f * a > (float)(level[i] + level[i + 1]);
    return c + (x < 0 ? half : 0);
}

typedef struct {
    uint8_t code[KV_MAX_DIM];
    float scale;
} packed_token;

/* Q8: the largest magnitude becomes 127. */
static void choose8(const float *x, size_t d, packed_token *out)
{
    float top = 0;
    for (size_t i = 0; i < d; i++)
        top = fmaxf(top, fabsf(x[i]));
    out->scale = f16_to_f32(f32_to_f16(top / 127));
    float inverse = out->scale > 0 ? 1 / out->scale : 0;
    for (size_t i = 0; i < d; i++) {
        float q = rintf(fminf(fmaxf(x[i] * inverse, -127.0f), 127.0f));
        out->code[i] = (uint8_t)(int8_t)q;
    }
}

static void choose(kv_type t, bool keys, const float *x, size_t d, packed_token *out)
{
    const int8_t *level = t == KV_Q4 ? kv_level4 : kv_level3;
    float square = 0, dot = 0, norm = 0;
    for (size_t i = 0; i < d; i++)
        square += x[i] * x[i];
    float rms = sqrtf(square / (float)d);
    float inverse = rms > 0 ? (t == KV_Q4 ? unit4 : unit3) / rms : 0;
    for (size_t i = 0; i < d; i++) {
        out->code[i] = (uint8_t)nearest(t, x[i] * inverse);
        float l = level[out->code[i]];
        dot += x[i] * l;
        norm += l * l;
    }
    out->scale = keys ? sqrtf(square / norm) : dot / norm;
}

void kv_pack(kv_type type, bool values, void *block, size_t d, const float *x)
{
    size_t lanes = lanes_of(values, d), codes = codes_of(type, values, d);
    uint8_t *w = block;
    BUG_IF(d > KV_MAX_DIM);
    memset(w, 0, kv_block_bytes(type, values, d));
    for (size_t t = 0; t < KV_TOKENS; t++) {
        packed_token p;
        if (type == KV_Q8)
            choose8(x + t * d, d, &p);
        else
            choose(type, !values, x + t * d, d, &p);
        uint16_t half = f32_to_f16(p.scale);
        memcpy(w + codes + 2 * t, &half, sizeof(half));
        for (size_t i = 0; i < d; i++) {
            size_t r = values ? t : i, l = values ? i : t, bits = type == KV_Q4 ? 4 : 3;
            if (type == KV_Q8)
                w[r * lanes + l] = p.code[i];
            else
                word_put(type, w, lanes, r / 8, l,
                         word_get(type, w, lanes, r / 8, l) | (uint32_t)p.code[i]
                                                                  << bits * (r % 8));
        }
    }
}

/* ---- rotation --------------------------------------------------------------------- */

/* Two stages at once: they are too narrow for vectors. */
static void butterfly4(float *x)
{
    float a = x[0] + x[1], b = x[0] - x[1], c = x[2] + x[3], d = x[2] - x[3];
    x[0] = a + c;
    x[1] = b + d;
    x[2] = a - c;
    x[3] = b - d;
}

static void butterfly(float *x, size_t n)
{
    for (size_t i = 0; n >= 4 && i < n; i += 4)
        butterfly4(x + i);
    for (size_t half = n >= 4 ? 4 : 1; half < n; half *= 2)
        for (size_t i = 0; i < n; i += 2 * half)
            for (size_t j = i; j < i + half; j++) {
                float a = x[j], b = x[j + half];
                x[j] = a + b;
                x[j + half] = a - b;
            }
}

void kv_rotate(float *x, size_t n)
{
    size_t block = n & (~n + 1);
    float norm = 1.0f / sqrtf((float)block);
    for (size_t i = 0; i < n; i += block)
        butterfly(x + i, block);
    for (size_t i = 0; i < n; i++)
        x[i] *= norm;
}

/* ---- the reference products ------------------------------------------------------- */

static void plain_product(kv_type t, const kv_product *p)
{
    for (size_t i = 0; i < p->n && !p->add; i++)
        memset(p->y + i * p->ldy, 0, p->lanes * sizeof(float));
    for (size_t r = 0; r < p->rows; r++)
        for (size_t l = 0; l < p->lanes; l++) {
            float w = level_at(t, p->w, p->lanes, r, l);
            for (size_t i = 0; i < p->n; i++)
                p->y[i * p->ldy + l] += p->a[i * p->lda + r] * w;
        }
}

#define PRODUCT(name, type)                                                                \
    static void name(const kv_product *p) { plain_product(type, p); }
PRODUCT(product_f32, KV_F32)
PRODUCT(product_f16, KV_F16)
PRODUCT(product_q8, KV_Q8)
PRODUCT(product_q4, KV_Q4)
PRODUCT(product_q3, KV_Q3)

const attn_kernels attn_c = {
    "c", {product_f32, product_f16, product_q8, product_q4, product_q3}};

const attn_kernels *attn_kernels_for(unsigned flags)
{
#if defined(__x86_64__)
    if (flags & CPU_AVX512)
        return &attn_avx512;
    if (flags & CPU_AVX2)
        return &attn_avx2;
#elif defined(__aarch64__)
    if (flags & CPU_NEON)
        return &attn_neon;
#endif
    (void)flags;
    return &attn_c;
}
