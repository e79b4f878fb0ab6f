/* dtype_pack.c - f32 to the packed types, choosing scales that minimise the squared
 * error.
 *
 * Three fits do all the work.  fit_signed: x ~ s l, l in [-n, n - 1]; fit_affine:
 * x ~ s l + m, l in [0, n]; fit_table: x ~ s table[l].  All try a ladder of roundings
 * around the range of the group, solve the least-squares problem for the codes of each,
 * and keep the best.  The types with blocks of 256 then round the groups' scales to small
 * integers and round the codes once more with the scales as they will be read.
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

/* ---- x ~ s l, l in [-n, n - 1] ----------------------------------------------------- */

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

/* ---- x ~ s l + m, l in [0, n] ------------------------------------------------------ */

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

/* ---- blocks of 32 ------------------------------------------------------------------ */

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

static void pack_signed32(const float *x, int n, dtype_codes *o)
{
    o->d = f32_to_f16(fit_signed(x, 32, n));
    codes_signed(x, 32, n, f16_to_f32(o->d), o->l);
}

static void pack_affine32(const float *x, int n, dtype_codes *o)
{
    affine f = fit_affine(x, 32, n, true);
    o->d = f32_to_f16(f.s);
    o->dmin = f32_to_f16(f.m);
    codes_affine(x, 32, n, (affine){f16_to_f32(o->d), f16_to_f32(o->dmin)}, o->l);
}

/* ---- x ~ s iq4_table[l] ------------------------------------------------------------ */

static void codes_table(const float *x, size_t count, float s, uint8_t *l)
{
    float inv = inverse(s);
    for (size_t i = 0; i < count; i++) {
        float v = x[i] * inv;
        int at = 0;
        for (int j = 0; j < 15; j++) /* ends at the table's nearest entry */
            at += v > 0.5f * (float)(iq4_table[j] + iq4_table[j + 1]);
        l[i] = (uint8_t)at;
    }
}

static float table_scale(const float *x, size_t count, float s, float *gain)
{
    uint8_t l[32];
    float xl = 0, ll = 0;
    codes_table(x, count, s, l);
    for (size_t i = 0; i < count; i++) {
        float v = (float)iq4_table[l[i]];
        xl += x[i] * v;
        ll += v * v;
    }
    *gain = xl * xl / ll;
    return xl / ll;
}

static float fit_table(const float *x, size_t count)
{
    float e = extreme(x, count), best = 0, scale = 0;
    if (fabsf(e) < 1e-30f)
        return 0;
    for (int step = -14; step <= 14; step++) { /* the extreme near either end */
        float off = 4.0f * (float)(step < 0 ? step + 7 : step - 7);
        float end = step < 0 ? -127.0f - off : 113.0f + off;
        float gain, s = table_scale(x, count, e / end, &gain);
        if (gain > best) {
            best = gain;
            scale = s;
        }
    }
    return scale;
}

static void pack_table32(const float *x, dtype_codes *o)
{
    o->d = f32_to_f16(fit_table(x, 32));
    codes_table(x, 32, f16_to_f32(o->d), o->l);
}

/* ---- blocks of 256 ----------------------------------------------------------------- */

/* Groups x ~ d sc l - dmin mn with sc, mn in [0, top]. */
static void pack_super_affine(const float *x, size_t group, int n, int top, dtype_codes *o)
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
        o->sc[g] = (int16_t)nearest(f[g].s * inverse(d), 0, top);
        o->mn[g] = (int16_t)nearest(-f[g].m * inverse(dmin), 0, top);
        affine read = {d * (float)o->sc[g], -dmin * (float)o->mn[g]};
        codes_affine(x + g * group, group, n, read, o->l + g * group);
    }
}

/* Groups of 16, x ~ d sc (l - n) with sc in [-top, top - 1]. */
static void pack_super_signed(const float *x, int n, int top, dtype_codes *o)
{
    float s[16];
    for (size_t g = 0; g < 16; g++)
        s[g] = fit_signed(x + 16 * g, 16, n);
    o->d = f32_to_f16(extreme(s, 16) / (float)-top);
    float d = f16_to_f32(o->d);
    for (size_t g = 0; g < 16; g++) {
        o->sc[g] = (int16_t)nearest(s[g] * inverse(d), -top, top - 1);
        codes_signed(x + 16 * g, 16, n, d * (float)o->sc[g], o->l + 16 * g);
    }
}

/* Groups of 32, x ~ d sc iq4_table[l] with sc in [-32, 31]. */
static void pack_super_table(const float *x, dtype_codes *o)
{
    float s[8];
    for (size_t g = 0; g < 8; g++)
        s[g] = fit_table(x + 32 * g, 32);
    o->d = f32_to_f16(extreme(s, 8) / -32.0f);
    float d = f16_to_f32(o->d);
    for (size_t g = 0; g < 8; g++) {
        o->sc[g] = (int16_t)nearest(s[g] * inverse(d), -32, 31);
        codes_table(x + 32 * g, 32, d * (float)o->sc[g], o->l + 32 * g);
    }
}

/* ---- the types --------------------------------------------------------------------- */

#define PACK(t, T, block, call)                                       \
    void pack_##t(const float *src, void *dst, size_t n)              \
    {                                                                 \
        dtype_put_fn *put = dtype_put_of(DTYPE_##T);                  \
        for (size_t i = 0; i < n / (block); i++) {                    \
            const float *x = src + i * (block);                       \
            dtype_codes o;                                            \
            call;                                                     \
            put(&o, (block_##t *)dst + i);                            \
        }                                                             \
    }
PACK(q4_0, Q4_0, QK_32, pack_signed32(x, 8, &o))
PACK(q5_0, Q5_0, QK_32, pack_signed32(x, 16, &o))
PACK(q4_1, Q4_1, QK_32, pack_affine32(x, 15, &o))
PACK(q5_1, Q5_1, QK_32, pack_affine32(x, 31, &o))
PACK(iq4_nl, IQ4_NL, QK_32, pack_table32(x, &o))
PACK(q2_k, Q2_K, QK, pack_super_affine(x, 16, 3, 15, &o))
PACK(q3_k, Q3_K, QK, pack_super_signed(x, 4, 32, &o))
PACK(q4_k, Q4_K, QK, pack_super_affine(x, 32, 15, 63, &o))
PACK(q5_k, Q5_K, QK, pack_super_affine(x, 32, 31, 63, &o))
PACK(q6_k, Q6_K, QK, pack_super_signed(x, 32, 128, &o))
PACK(iq4_xs, IQ4_XS, QK, pack_super_table(x, &o))
