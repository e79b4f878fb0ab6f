/* thin_c.c - the reference of thin.h, and which variant serves which CPU. */
#include "kern/kern.h"
#include "kern/thin.h"

static void forward(float *y, const float *x, const float *w, const float *b, size_t m,
                    size_t n, size_t k)
{
    for (size_t r = 0; r < m; r++)
        for (size_t o = 0; o < n; o++) {
            float sum = b[o];
            for (size_t i = 0; i < k; i++)
                sum += x[r * k + i] * w[o * k + i];
            y[r * n + o] = sum;
        }
}

static void back(float *dx, const float *d, const float *w, size_t m, size_t n, size_t k)
{
    memset(dx, 0, m * k * sizeof(float));
    for (size_t r = 0; r < m; r++)
        for (size_t o = 0; o < n; o++)
            for (size_t i = 0; i < k; i++)
                dx[r * k + i] += d[r * n + o] * w[o * k + i];
}

static void update(float *w, float *b, const float *d, const float *x, size_t m, size_t n,
                   size_t k)
{
    for (size_t o = 0; o < n; o++)
        for (size_t r = 0; r < m; r++) {
            b[o] += d[r * n + o];
            for (size_t i = 0; i < k; i++)
                w[o * k + i] += d[r * n + o] * x[r * k + i];
        }
}

const thin_kernels thin_c = {forward, back, update};

const thin_kernels *thin_kernels_for(unsigned flags)
{
#if defined(__x86_64__)
    if (flags & CPU_AVX512)
        return &thin_avx512;
    if (flags & CPU_AVX2)
        return &thin_avx2;
#endif
    (void)flags;
    return &thin_c;
}
