/* vec_body.h - the vector kernels over a few register operations; compiled once per
 * instruction set by x86/vec_avx2.c, x86/vec_avx512.c and arm/vec_neon.c, which define:
 *
 *     V of W floats; v_set v_load v_store v_add v_sub v_mul v_div v_sqrt
 *     v_load_part(p,n), v_store_part(p,v,n)   the first n < W floats; 0 in the others
 *     v_fma(a,b,c) = a b + c, v_fnma(a,b,c) = c - a b
 *     v_max(a,b), v_min(a,b)                  b when either is NaN
 *     v_round(x)                              nearest integer, as a float
 *     v_scale(x,n) = x 2^n                    n whole in [-150, 130]; rounds once
 *     D: W doubles; d_zero d_add(d,v) = d + v, d_addsq(d,v) = d + v v, d_sum(d)
 *
 * No byte outside the arrays is touched: the last, partial register goes through the part
 * operations.
 *
 * exp: n = round(x / ln 2); r = x - n ln 2, with ln 2 in two pieces so that n times the
 * first is exact; Taylor's polynomial of degree 7, whose remainder at |r| <= 0.3466 is
 * below 2^-27; then 2^n (Cody and Waite 1980).  x is first held inside [-104, 88.8]:
 * beyond, the answer is 0 or infinity anyway. */
#include "kern/vec.h"

#include <math.h>

#define INLINE static inline __attribute__((always_inline))

INLINE V get(const float *p, size_t n) { return n >= W ? v_load(p) : v_load_part(p, n); }
INLINE void put(float *p, V v, size_t n)
{
    if (n >= W)
        v_store(p, v);
    else
        v_store_part(p, v, n);
}

INLINE V v_exp(V x)
{
    x = v_min(v_set(88.8f), v_max(v_set(-104.0f), x));
    V n = v_round(v_mul(x, v_set(1.44269504f)));
    V r = v_fnma(n, v_set(0.693359375f), x);
    r = v_fnma(n, v_set(-2.12194440e-4f), r);
    V q = v_fma(v_set(1.0f / 5040), r, v_set(1.0f / 720));
    q = v_fma(q, r, v_set(1.0f / 120));
    q = v_fma(q, r, v_set(1.0f / 24));
    q = v_fma(q, r, v_set(1.0f / 6));
    q = v_fma(q, r, v_set(0.5f));
    q = v_fma(q, v_mul(r, r), r);
    return v_scale(v_add(q, v_set(1.0f)), n);
}

/* 1 + exp(-x): the denominator of a sigmoid */
INLINE V v_under(V x) { return v_add(v_set(1.0f), v_exp(v_sub(v_set(0.0f), x))); }

static float dot(const float *x, const float *y, size_t n)
{
    V a = v_set(0), b = a, c = a, d = a;
    size_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W) {
        a = v_fma(v_load(x + i), v_load(y + i), a);
        b = v_fma(v_load(x + i + W), v_load(y + i + W), b);
        c = v_fma(v_load(x + i + 2 * W), v_load(y + i + 2 * W), c);
        d = v_fma(v_load(x + i + 3 * W), v_load(y + i + 3 * W), d);
    }
    for (; i < n; i += W)
        a = v_fma(get(x + i, n - i), get(y + i, n - i), a);
    return (float)d_sum(d_add(d_add(d_zero(), v_add(a, b)), v_add(c, d)));
}

static void axpy(float *y, float a, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i += W)
        put(y + i, v_fma(v_set(a), get(x + i, n - i), get(y + i, n - i)), n - i);
}

static void axpy8(float *y, const float *a, const float *x, size_t ld, size_t n)
{
    V by[8];
    for (size_t k = 0; k < 8; k++)
        by[k] = v_set(a[k]);
    for (size_t i = 0; i < n; i += W) {
        size_t m = n - i;
        V s = v_mul(by[0], get(x + i, m)), r = v_mul(by[1], get(x + ld + i, m));
        for (size_t k = 2; k < 8; k += 2) {
            s = v_fma(by[k], get(x + k * ld + i, m), s);
            r = v_fma(by[k + 1], get(x + (k + 1) * ld + i, m), r);
        }
        put(y + i, v_add(get(y + i, m), v_add(s, r)), m);
    }
}

static void scale(float *y, float a, size_t n)
{
    for (size_t i = 0; i < n; i += W)
        put(y + i, v_mul(get(y + i, n - i), v_set(a)), n - i);
}

static void add(float *y, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i += W)
        put(y + i, v_add(get(a + i, n - i), get(b + i, n - i)), n - i);
}

static void mul(float *y, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i += W)
        put(y + i, v_mul(get(a + i, n - i), get(b + i, n - i)), n - i);
}

static double sum(const float *x, size_t n)
{
    D s = d_zero(), t = d_zero();
    size_t i = 0;
    for (; i + 2 * W <= n; i += 2 * W) {
        s = d_add(s, v_load(x + i));
        t = d_add(t, v_load(x + i + W));
    }
    for (; i < n; i += W)
        s = d_add(s, get(x + i, n - i));
    return d_sum(s) + d_sum(t);
}

static double sumsq(const float *x, size_t n)
{
    D s = d_zero(), t = d_zero();
    size_t i = 0;
    for (; i + 2 * W <= n; i += 2 * W) {
        s = d_addsq(s, v_load(x + i));
        t = d_addsq(t, v_load(x + i + W));
    }
    for (; i < n; i += W)
        s = d_addsq(s, get(x + i, n - i));
    return d_sum(s) + d_sum(t);
}

static float max(const float *x, size_t n)
{
    V m = v_set(-INFINITY);
    float lane[W], best = -INFINITY;
    size_t i = 0;
    for (; i + W <= n; i += W)
        m = v_max(v_load(x + i), m);
    v_store(lane, m);
    for (size_t j = 0; j < W; j++)
        best = lane[j] > best ? lane[j] : best;
    for (; i < n; i++)
        best = x[i] > best ? x[i] : best;
    return best;
}

static double expsum(float *y, const float *x, float shift, size_t n)
{
    D s = d_zero();
    double rest = 0;
    size_t i = 0;
    for (; i + W <= n; i += W) {
        V e = v_exp(v_sub(v_load(x + i), v_set(shift)));
        v_store(y + i, e);
        s = d_add(s, e);
    }
    if (i < n)
        v_store_part(y + i, v_exp(v_sub(v_load_part(x + i, n - i), v_set(shift))), n - i);
    for (; i < n; i++)
        rest += (double)y[i];
    return d_sum(s) + rest;
}

static void silu_mul(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i += W) {
        V g = get(gate + i, n - i);
        put(y + i, v_mul(v_div(g, v_under(g)), get(up + i, n - i)), n - i);
    }
}

static void silu_mul_back(float *dgate, float *dup, const float *dy, const float *gate,
                          const float *up, size_t n)
{
    V one = v_set(1.0f);
    for (size_t i = 0; i < n; i += W) {
        size_t m = n - i;
        /* y = g s(g) up;  d(g s)/dg = s (1 + g (1 - s)) */
        V g = get(gate + i, m), d = get(dy + i, m), s = v_div(one, v_under(g));
        V slope = v_mul(s, v_fma(g, v_sub(one, s), one));
        V u = get(up + i, m);
        put(dgate + i, v_fma(v_mul(d, u), slope, get(dgate + i, m)), m);
        put(dup + i, v_fma(d, v_mul(g, s), get(dup + i, m)), m);
    }
}

#define GELU_A 1.5957691216057308f /* sqrt(8/pi): see vec.c */
#define GELU_B 0.044715f

static void gelu(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i += W) {
        V v = get(x + i, n - i), one = v_set(1.0f);
        V u2 = v_mul(v_mul(v_set(GELU_A), v), v_fma(v_set(GELU_B), v_mul(v, v), one));
        put(y + i, v_div(v, v_under(u2)), n - i);
    }
}

static void gelu_back(float *dx, const float *dy, const float *x, size_t n)
{
    V one = v_set(1.0f);
    for (size_t i = 0; i < n; i += W) {
        /* y = x s(2u);  dy/dx = s + x s (1 - s) d(2u)/dx */
        V v = get(x + i, n - i), q = v_mul(v, v);
        V u2 = v_mul(v_mul(v_set(GELU_A), v), v_fma(v_set(GELU_B), q, one));
        V s = v_div(one, v_under(u2));
        V du2 = v_mul(v_set(GELU_A), v_fma(v_set(3.0f * GELU_B), q, one));
        V slope = v_fma(v_mul(v, s), v_mul(v_sub(one, s), du2), s);
        put(dx + i, v_fma(get(dy + i, n - i), slope, get(dx + i, n - i)), n - i);
    }
}

static float rmsnorm(float *y, const float *x, const float *w, float eps, size_t n)
{
    float r = (float)(1.0 / sqrt(sumsq(x, n) / (double)(n ? n : 1) + (double)eps));
    for (size_t i = 0; i < n; i += W)
        put(y + i, v_mul(v_mul(get(x + i, n - i), v_set(r)), get(w + i, n - i)), n - i);
    return r;
}

static void adamw(float *p, float *m, float *v, const float *g, size_t n, float lr,
                  float b1, float b2, float eps, float weight_decay, float c1, float c2)
{
    V keep = v_set(1.0f - lr * weight_decay), step = v_set(lr / c1);
    V root = v_set(1.0f / sqrtf(c2)), small = v_set(eps);
    for (size_t i = 0; i < n; i += W) {
        size_t k = n - i;
        V d = get(g + i, k);
        V m1 = v_fma(v_set(b1), get(m + i, k), v_mul(v_set(1.0f - b1), d));
        V v1 = v_fma(v_set(b2), get(v + i, k), v_mul(v_mul(v_set(1.0f - b2), d), d));
        V move = v_div(v_mul(step, m1), v_fma(v_sqrt(v1), root, small));
        put(m + i, m1, k);
        put(v + i, v1, k);
        put(p + i, v_sub(v_mul(keep, get(p + i, k)), move), k);
    }
}

/* 16-bit floats: full registers here, the rest through a copy. */
static void from_f16(float *y, const uint16_t *x, size_t n)
{
    size_t i = 0;
    uint16_t in[W] = {0};
    for (; i + W <= n; i += W)
        v_store(y + i, v_from_f16(x + i));
    if (i < n) {
        memcpy(in, x + i, (n - i) * sizeof(*x));
        v_store_part(y + i, v_from_f16(in), n - i);
    }
}

static void to_f16(uint16_t *y, const float *x, size_t n)
{
    size_t i = 0;
    uint16_t out[W];
    for (; i + W <= n; i += W)
        v_to_f16(y + i, v_load(x + i));
    if (i < n) {
        v_to_f16(out, v_load_part(x + i, n - i));
        memcpy(y + i, out, (n - i) * sizeof(*y));
    }
}

static void install(kern *k)
{
    unsigned flags = k->flags;
    *k = (kern){
        .flags = flags,
        .dot = dot,
        .axpy = axpy,
        .axpy8 = axpy8,
        .scale = scale,
        .add = add,
        .mul = mul,
        .sum = sum,
        .sumsq = sumsq,
        .max = max,
        .expsum = expsum,
        .silu_mul = silu_mul,
        .silu_mul_back = silu_mul_back,
        .gelu = gelu,
        .gelu_back = gelu_back,
        .rmsnorm = rmsnorm,
        .adamw = adamw,
        .f16_to_f32 = from_f16,
        .f32_to_f16 = to_f16,
    };
}
