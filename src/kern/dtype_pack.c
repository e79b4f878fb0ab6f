/* dtype_pack.c - f32 to the packed types, choosing scales that minimise the squared
 * error.
 *
 * Two fits do all the work.  fit_signed: x ~ s l, l in [-n, n - 1]; fit_affine:
 * x ~ s l + m, l in [0, n].  Both try a ladder of roundings around the range of the group,
 * solve the least-squares problem for the codes of each, and keep the best.  The types
 * with blocks of 256 then round the groups' scales to small integers and round the codes once more
 * with the scales as they will be read.
 *
 * The idea of a ladder with a least-squares scale is that of the published k-quant
 * encoders (I. Kawrakow, llama.cpp, 2023); the code and the uniform weighting are ours.
 * Q8_0 is plain round-to-nearest, the same bytes as everybody's.
 *
 * Non-finite input gives some block, never undefined behaviour. */
#include "kern/dtype.h"

#include <math.h>

/* Nearest integer in [lo, hi]; exact for |v| < 2^22, clamped in any case. */
static inline int nearest(float v, int lo, int hi)
{
    float top = (float)hi, bottom = (float)lo;
    v = v < top ? v : top; /* NaN becomes hi */
    v = v > bottom ? v : bottom;
    v += 12582912.0f;
    int32_t u;
    memcpy(&u, &v, 4);
    return u - 0x4b400000;
}

static float inverse(float s) { return s != 0 ? 1.0f / s : 0.0f; }

/* ---- x ~ s l, l in [-n, n - 1] ------------------------------------------------------- */

static float extreme(const float *x, size_t count) /* largest in magnitude, signed */
{
    float e = 0;
    for (size_t i = 0; i < count; i++)
        if (fabsf(x[i]) > fabsf(e))
            e = x[i];
    return e;
}

/* Best scale for the codes that `inv` gives, and in *gain how much of |x|^2 they
 * explain: (sum x l)^2 / sum l^2. */
static float signed_scale(const float *x, size_t count, int n, float inv, float *gain)
{
    float xl = 0, ll = 0;
    for (size_t i = 0; i < count; i++) {
        float l = (float)nearest(x[i] * inv, -n, n - 1);
        xl += x[i] * l;
        ll += l * l;
    }
    *gain = ll > 0 ? xl * xl / ll : 0;
    return ll > 0 ? xl / ll : 0;
}

static float fit_signed(const float *x, size_t count, int n)
{
    float e = extreme(x, count), best = 0, scale = 0;
    if (fabsf(e) < 1e-30f)
        return 0;
    for (int step = -9; step <= 9; step++) {
        float inv = -((float)n + 0.1f * (float)step) / e, gain;
        float s = signed_scale(x, count, n, inv, &gain);
        if (gain > best) {
            best = gain;
            scale = s;
        }
    }
    for (int pass = 0; pass < 3; pass++) { /* round with the best scale, fit again */
        float gain, s = signed_scale(x, count, n, inverse(scale), &gain);
        if (!(gain > best))
            break;
        best = gain;
        scale = s;
    }
    return scale;
}

/* ---- x ~ s l + m, l in [0, n] -------------------------------------------------------- */

typedef struct {
    float s, m;
} affine;

/* Least squares for the codes round((x - m) / s); free: m may be positive. */
static affine affine_fit(const float *x, size_t count, int n, affine from, bool any_min)
{
    float inv = inverse(from.s), sl = 0, sll = 0, sx = 0, sxl = 0, c = (float)count;
    for (size_t i = 0; i < count; i++) {
        float l = (float)nearest((x[i] - from.m) * inv, 0, n);
        sl += l;
        sll += l * l;
        sx += x[i];
        sxl += x[i] * l;
    }
    float det = c * sll - sl * sl;
    if (!(det > 0))
        return from;
    affine f = {(c * sxl - sx * sl) / det, (sll * sx - sl * sxl) / det};
    if (f.m > 0 && !any_min)
        f = (affine){sxl / sll, 0};
    return f;
}

static float affine_error(const float *x, size_t count, int n, affine f)
{
    float inv = inverse(f.s), e = 0;
    for (size_t i = 0; i < count; i++) {
        float l = (float)nearest((x[i] - f.m) * inv, 0, n);
        float d = f.s * l + f.m - x[i];
        e += d * d;
    }
    return e;
}

static affine fit_affine(const float *x, size_t count, int n, bool any_min)
{
    float lo = x[0], hi = x[0];
    for (size_t i = 1; i < count; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    if (!any_min && lo > 0)
        lo = 0;
    if (!(hi - lo > 1e-30f))
        return (affine){0, any_min || lo < 0 ? lo : 0};
    affine best = {(hi - lo) / (float)n, lo};
    float least = affine_error(x, count, n, best);
    for (int step = -9; step <= 9; step++) {
        affine f = {(hi - lo) / ((float)n + 0.1f * (float)step), lo};
        for (int pass = 0; pass < 2; pass++) {
            f = affine_fit(x, count, n, f, any_min);
            float e = affine_error(x, count, n, f);
            if (e < least) {
                least = e;
                best = f;
            }
        }
    }
    return best;
}

/* ---- blocks of 32 ------------------------------------------------------------------- */

void pack_q8_0(const float *src, void *dst, size_t n)
{
    block_q8_0 *b = dst;
    for (size_t i = 0; i < n / 32; i++, src += 32) {
        float d = fabsf(extreme(src, 32)) / 127.0f, inv = inverse(d);
        b[i].d = f32_to_f16(d);
        for (int j = 0; j < 32; j++) {
            float v = roundf(src[j] * inv);
            v = v < 127 ? v : 127;
            b[i].qs[j] = (int8_t)(v > -127 ? v : -127);
        }
    }
}

/* Codes of one block, nibbles and fifth bits in their places. */
static void put_codes(const uint8_t l[32], uint8_t *qs, uint8_t *qh)
{
    uint32_t high = 0;
    for (int j = 0; j < 16; j++) {
        qs[j] = (uint8_t)((l[j] & 15) | (l[j + 16] & 15) << 4);
        high |= (uint32_t)(l[j] >> 4) << j | (uint32_t)(l[j + 16] >> 4) << (j + 16);
    }
    if (qh)
        memcpy(qh, &high, 4);
}

static void codes_signed(const float *x, size_t count, int n, float s, uint8_t *l)
{
    float inv = inverse(s);
    for (size_t i = 0; i < count; i++)
        l[i] = (uint8_t)(nearest(x[i] * inv, -n, n - 1) + n);
}

static void codes_affine(const float *x, size_t count, int n, affine f, uint8_t *l)
{
    float inv = inverse(f.s);
    for (size_t i = 0; i < count; i++)
        l[i] = (uint8_t)nearest((x[i] - f.m) * inv, 0, n);
}

static uint16_t pack_signed32(const float *x, int n, uint8_t *qs, uint8_t *qh)
{
    uint8_t l[32];
    uint16_t d = f32_to_f16(fit_signed(x, 32, n));
    codes_signed(x, 32, n, f16_to_f32(d), l);
    put_codes(l, qs, qh);
    return d;
}

typedef struct {
    uint16_t d, m;
} halves;

static halves pack_affine32(const float *x, int n, uint8_t *qs, uint8_t *qh)
{
    uint8_t l[32];
    affine f = fit_affine(x, 32, n, true);
    halves h = {f32_to_f16(f.s), f32_to_f16(f.m)};
    codes_affine(x, 32, n, (affine){f16_to_f32(h.d), f16_to_f32(h.m)}, l);
    put_codes(l, qs, qh);
    return h;
}

void pack_q4_0(const float *src, void *dst, size_t n)
{
    block_q4_0 *b = dst;
    for (size_t i = 0; i < n / 32; i++)
        b[i].d = pack_signed32(src + 32 * i, 8, b[i].qs, NULL);
}

void pack_q5_0(const float *src, void *dst, size_t n)
{
    block_q5_0 *b = dst;
    for (size_t i = 0; i < n / 32; i++)
        b[i].d = pack_signed32(src + 32 * i, 16, b[i].qs, b[i].qh);
}

void pack_q4_1(const float *src, void *dst, size_t n)
{
    block_q4_1 *b = dst;
    for (size_t i = 0; i < n / 32; i++) {
        halves h = pack_affine32(src + 32 * i, 15, b[i].qs, NULL);
        b[i].d = h.d;
        b[i].m = h.m;
    }
}

void pack_q5_1(const float *src, void *dst, size_t n)
{
    block_q5_1 *b = dst;
    for (size_t i = 0; i < n / 32; i++) {
        halves h = pack_affine32(src + 32 * i, 31, b[i].qs, b[i].qh);
        b[i].d = h.d;
        b[i].m = h.m;
    }
}

/* ---- blocks of 256 ------------------------------------------------------------------ */

typedef struct {
    uint16_t d, dmin;
    int8_t sc[16];
    uint8_t mn[16], l[QK]; /* l: codes without sign */
} super;

/* Groups x ~ d sc l - dmin mn with sc, mn in [0, top]. */
static void pack_super_affine(const float *x, size_t group, int n, int top, super *o)
{
    affine f[16];
    float most_s = 0, most_m = 0;
    for (size_t g = 0; g < QK / group; g++) {
        f[g] = fit_affine(x + g * group, group, n, false);
        most_s = f[g].s > most_s ? f[g].s : most_s;
        most_m = -f[g].m > most_m ? -f[g].m : most_m;
    }
    o->d = f32_to_f16(most_s / (float)top);
    o->dmin = f32_to_f16(most_m / (float)top);
    float d = f16_to_f32(o->d), dmin = f16_to_f32(o->dmin);
    for (size_t g = 0; g < QK / group; g++) {
        o->sc[g] = (int8_t)nearest(f[g].s * inverse(d), 0, top);
        o->mn[g] = (uint8_t)nearest(-f[g].m * inverse(dmin), 0, top);
        affine read = {d * (float)o->sc[g], -dmin * (float)o->mn[g]};
        codes_affine(x + g * group, group, n, read, o->l + g * group);
    }
}

/* Groups of 16, x ~ d sc (l - n) with sc in [-top, top - 1]. */
static void pack_super_signed(const float *x, int n, int top, super *o)
{
    float s[16];
    for (size_t g = 0; g < 16; g++)
        s[g] = fit_signed(x + 16 * g, 16, n);
    o->d = f32_to_f16(extreme(s, 16) / (float)-top);
    float d = f16_to_f32(o->d);
    for (size_t g = 0; g < 16; g++) {
        o->sc[g] = (int8_t)nearest(s[g] * inverse(d), -top, top - 1);
        codes_signed(x + 16 * g, 16, n, d * (float)o->sc[g], o->l + 16 * g);
    }
}

void pack_q2_k(const float *src, void *dst, size_t n)
{
    block_q2_k *b = dst;
    for (size_t i = 0; i < n / QK; i++) {
        super o;
        pack_super_affine(src + i * QK, 16, 3, 15, &o);
        b[i].d = o.d;
        b[i].dmin = o.dmin;
        for (int g = 0; g < 16; g++)
            b[i].scales[g] = (uint8_t)(o.sc[g] | o.mn[g] << 4);
        memset(b[i].qs, 0, sizeof(b[i].qs));
        for (int e = 0; e < QK; e++)
            b[i].qs[32 * (e / 128) + e % 32] |= (uint8_t)(o.l[e] << 2 * (e % 128 / 32));
    }
}

void pack_q3_k(const float *src, void *dst, size_t n)
{
    block_q3_k *b = dst;
    for (size_t i = 0; i < n / QK; i++) {
        super o;
        pack_super_signed(src + i * QK, 4, 32, &o);
        memset(&b[i], 0, sizeof(b[i]));
        b[i].d = o.d;
        for (int g = 0; g < 16; g++) {
            int sc = o.sc[g] + 32;
            b[i].scales[g & 7] |= (uint8_t)((sc & 15) << (g < 8 ? 0 : 4));
            b[i].scales[8 + (g & 3)] |= (uint8_t)(sc >> 4 << 2 * (g >> 2));
        }
        for (int e = 0; e < QK; e++) {
            b[i].qs[32 * (e / 128) + e % 32] |=
                (uint8_t)((o.l[e] & 3) << 2 * (e % 128 / 32));
            b[i].hmask[e % 32] |= (uint8_t)(o.l[e] >> 2 << e / 32);
        }
    }
}

static void put_scales_k4(const super *o, uint8_t *scales)
{
    for (int j = 0; j < 4; j++) {
        scales[j] = (uint8_t)(o->sc[j] | o->sc[j + 4] >> 4 << 6);
        scales[j + 4] = (uint8_t)(o->mn[j] | o->mn[j + 4] >> 4 << 6);
        scales[j + 8] = (uint8_t)((o->sc[j + 4] & 15) | (o->mn[j + 4] & 15) << 4);
    }
}

static void put_nibbles_k4(const uint8_t *l, uint8_t *qs)
{
    for (int j = 0; j < 4; j++)
        for (int e = 0; e < 32; e++)
            qs[32 * j + e] =
                (uint8_t)((l[64 * j + e] & 15) | (l[64 * j + 32 + e] & 15) << 4);
}

void pack_q4_k(const float *src, void *dst, size_t n)
{
    block_q4_k *b = dst;
    for (size_t i = 0; i < n / QK; i++) {
        super o;
        pack_super_affine(src + i * QK, 32, 15, 63, &o);
        b[i].d = o.d;
        b[i].dmin = o.dmin;
        put_scales_k4(&o, b[i].scales);
        put_nibbles_k4(o.l, b[i].qs);
    }
}

void pack_q5_k(const float *src, void *dst, size_t n)
{
    block_q5_k *b = dst;
    for (size_t i = 0; i < n / QK; i++) {
        super o;
        pack_super_affine(src + i * QK, 32, 31, 63, &o);
        b[i].d = o.d;
        b[i].dmin = o.dmin;
        put_scales_k4(&o, b[i].scales);
        put_nibbles_k4(o.l, b[i].qs);
        memset(b[i].qh, 0, sizeof(b[i].qh));
        for (int e = 0; e < QK; e++)
            b[i].qh[e % 32] |= (uint8_t)(o.l[e] >> 4 << e / 32);
    }
}

void pack_q6_k(const float *src, void *dst, size_t n)
{
    block_q6_k *b = dst;
    for (size_t i = 0; i < n / QK; i++) {
        super o;
        pack_super_signed(src + i * QK, 32, 128, &o);
        memset(&b[i], 0, sizeof(b[i]));
        b[i].d = o.d;
        memcpy(b[i].scales, o.sc, 16);
        for (int e = 0; e < QK; e++) {
            int h = e / 128, s = e % 128 / 32, l = e % 32;
            b[i].ql[64 * h + 32 * (s & 1) + l] |=
                (uint8_t)((o.l[e] & 15) << (s < 2 ? 0 : 4));
            b[i].qh[32 * h + l] |= (uint8_t)(o.l[e] >> 4 << 2 * s);
        }
    }
}
