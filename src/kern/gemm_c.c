/* gemm_c.c - the reference core: panels as k steps of mr (nr) floats, a tile of 8 by 8
 * sums that a compiler keeps in registers.  Also the packing other f32 cores start from. */
#include "kern/gemm.h"

enum { MR = 8, NR = 8, KC = 256 };

static bool pack(void *dst, const float *src, size_t rs, size_t cs, size_t rows, size_t k)
{
    float *d = dst; // (k,MR)
    for (size_t p = 0; p < k; p++)
        for (size_t r = 0; r < MR; r++)
            *d++ = r < rows ? src[r * rs + p * cs] : 0.0f;
    return true;
}

static void tile(size_t k, const void *a, const void *b, float *c, size_t ldc, size_t m,
                 size_t n, float alpha, float beta, const gemm_soon *soon)
{
    const float *ap = a, *bp = b; // (k,MR), (k,NR)
    (void)soon;
    float acc[MR][NR] = {{0}};
    for (size_t p = 0; p < k; p++, ap += MR, bp += NR)
        for (size_t i = 0; i < MR; i++)
            for (size_t j = 0; j < NR; j++)
                acc[i][j] += ap[i] * bp[j];
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            float *out = &c[i * ldc + j];
            *out = alpha * acc[i][j] + (beta == 0.0f ? 0.0f : beta * *out);
        }
}

static const gemm_core core = {
    .name = "c",
    .mr = MR,
    .nr = NR,
    .k_unit = 1,
    .kc = KC,
    .a_unit = 4,
    .b_unit = 4,
    .pack_a = pack,
    .pack_b = pack,
    .tile = tile,
};

const gemm_kernels gemm_c = {.f32 = &core};
