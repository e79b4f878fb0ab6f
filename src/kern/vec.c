/* vec.c - the vector kernels in plain C: the reference every variant is compared with,
 * and what runs on a CPU without a variant.
 *
 * Sums are kept in double, so the reference is the more exact side of a comparison.
 * silu and gelu share one form, x / (1 + exp(-2u)), with 2u = x for silu and
 * 2u = sqrt(8/pi) (x + 0.044715 x^3) for gelu: since (1 + tanh u) / 2 = 1 / (1 + exp(-2u)),
 * the negative tail loses no digits (Hendrycks and Gimpel 2016, arXiv:1606.08415). */
#include "kern/vec.h"

#include <math.h>

#define GELU_A 1.5957691216057308f /* sqrt(8/pi) */
#define GELU_B 0.044715f

static float dot(const float *x, const float *y, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)x[i] * (double)y[i];
    return (float)s;
}

static void axpy(float *y, float a, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

static void axpy8(float *y, const float *a, const float *x, size_t ld, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float s = 0;
        for (size_t k = 0; k < 8; k++)
            s += a[k] * x[k * ld + i];
        y[i] += s;
    }
}

static void scale(float *y, float a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] *= a;
}

static void add(float *y, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

static void mul(float *y, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = a[i] * b[i];
}

static double sum(const float *x, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)x[i];
    return s;
}

static double sumsq(const float *x, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)x[i] * (double)x[i];
    return s;
}

static float max(const float *x, size_t n)
{
    float m = -INFINITY;
    for (size_t i = 0; i < n; i++)
        m = x[i] > m ? x[i] : m;
    return m;
}

static double expsum(float *y, const float *x, float shift, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) {
        y[i] = expf(x[i] - shift);
        s += (double)y[i];
    }
    return s;
}

static float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

static void silu_mul(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

static void silu_mul_back(float *dgate, float *dup, const float *dy, const float *gate,
                          const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        /* y = g s(g) up;  d(g s)/dg = s (1 + g (1 - s)) */
        float g = gate[i], s = sigmoid(g), d = dy[i];
        dgate[i] += d * up[i] * (s * (1.0f + g * (1.0f - s)));
        dup[i] += d * (g * s);
    }
}

static void gelu(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float u2 = GELU_A * x[i] * (1.0f + GELU_B * x[i] * x[i]);
        y[i] = x[i] / (1.0f + expf(-u2));
    }
}

static void gelu_back(float *dx, const float *dy, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        /* y = x s(2u);  dy/dx = s + x s (1 - s) d(2u)/dx */
        float v = x[i], q = v * v;
        float s = sigmoid(GELU_A * v * (1.0f + GELU_B * q));
        float du2 = GELU_A * (1.0f + 3.0f * GELU_B * q);
        dx[i] += dy[i] * (s + v * s * (1.0f - s) * du2);
    }
}

static float rmsnorm(float *y, const float *x, const float *w, float eps, size_t n)
{
    float r = (float)(1.0 / sqrt(sumsq(x, n) / (double)(n ? n : 1) + (double)eps));
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * r * w[i];
    return r;
}

static void adamw(float *p, float *m, float *v, const float *g, size_t n, float lr,
                  float b1, float b2, float eps, float weight_decay, float c1, float c2)
{
    float keep = 1.0f - lr * weight_decay, step = lr / c1, root = 1.0f / sqrtf(c2);
    for (size_t i = 0; i < n; i++) {
        m[i] = b1 * m[i] + (1.0f - b1) * g[i];
        v[i] = b2 * v[i] + (1.0f - b2) * g[i] * g[i];
        p[i] = keep * p[i] - step * m[i] / (sqrtf(v[i]) * root + eps);
    }
}

static void from_f16(float *y, const uint16_t *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = f16_to_f32(x[i]);
}

static void to_f16(uint16_t *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = f32_to_f16(x[i]);
}

void vec_c(kern *k)
{
    *k = (kern){
        .flags = k->flags,
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
