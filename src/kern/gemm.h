/* gemm.h - what an instruction set supplies to the f32 matrix product of gemm.c.
 *
 * A core multiplies packed panels.  A panel of A is mr rows of op(A), a panel of B is nr
 * columns of op(B), both cut along k into blocks of kc and padded with zeros to whole
 * panels and to k_unit.  How a core lays out a panel is its own affair, as long as
 * consecutive k_unit steps follow one another, each mr * k_unit * a_unit (B: nr * k_unit *
 * b_unit) bytes long. */
#ifndef KERN_GEMM_H
#define KERN_GEMM_H

#include "kern/kern.h"

enum {
    GEMM_ALIGN = 64, /* of panels                                           */
    GEMM_KC_UNIT =
        256, /* kc divides it or is a multiple: blocks of packed types stay whole */
};

/* What a tile may bring near while it computes: cache lines of a panel that a later tile
 * reads, and the rows of C of the next tile. */
typedef struct {
    const char *panel;
    size_t lines;
    const float *c;
} gemm_soon;

/* A tile of C (m,n) over operands as they lie: a(i,p) = a[i*ars + p*acs], b(p,j) =
 * b[p*ldb + j]. */
typedef struct {
    size_t m, n, k;
    const float *a;
    size_t ars, acs;
    const float *b;
    size_t ldb;
    float *c;
    size_t ldc;
    float alpha, beta;
} gemm_block;

typedef struct gemm_core gemm_core;
struct gemm_core {
    const char *name;
    size_t mr, nr, k_unit, kc;
    size_t a_unit, b_unit; /* bytes per element packed */
    /* Pack rows <= mr rows (of A; columns of B) by k; element (r,p) is at
     * src[r*rs + p*cs], one of rs and cs being 1.  Returns false when an element is
     * infinite or NaN and the core cannot carry it; such a block goes to the f32 core. */
    bool (*pack_a)(void *dst, const float *src, size_t rs, size_t cs, size_t rows,
                   size_t k);
    bool (*pack_b)(void *dst, const float *src, size_t rs, size_t cs, size_t rows,
                   size_t k);
    /* C (m,n) = beta C + alpha A B for one block of k; m <= mr, n <= nr. */
    void (*tile)(size_t k, const void *a, const void *b, float *c, size_t ldc, size_t m,
                 size_t n, float alpha, float beta, const gemm_soon *soon);
    /* The same on f32 operands as they lie, the bits of `tile`.  NULL: none. */
    void (*direct)(const gemm_block *g, const gemm_soon *soon);
    void (*begin)(void), (*end)(void); /* around a thread's tiles; may be NULL */
};

/* A thin product, on operands as they lie: c[i*crs + j*ccs] gets beta times itself plus
 * alpha times the sum over p of x(i,p) y(j,p). */
typedef struct {
    size_t m, n, k;
    const float *x, *y;
    size_t ldx, ldy;
    float *c;
    size_t crs, ccs;
    float alpha, beta;
} gemm_thin;

static inline void gemm_put(const gemm_thin *g, size_t i, size_t j, float sum)
{
    float *c = &g->c[i * g->crs + j * g->ccs];
    *c = g->alpha * sum + (g->beta == 0.0f ? 0.0f : g->beta * *c);
}

/* n packed weights to f32, the bits that dtype_traits.unpack gives. */
typedef void gemm_unpack(const void *src, float *dst, size_t n);

typedef struct gemm_kernels {
    const gemm_core *f32;
    gemm_unpack *(*unpack)(dtype t); /* faster ones; NULL, or answers NULL: none */
    /* x(i,p) = x[i*ldx + p], y likewise: best with m or n <= 16.  NULL: none. */
    void (*dots)(const gemm_thin *g);
    /* x(i,p) = x[p*ldx + i], y likewise: m <= 16 rows of sums stay in registers. */
    void (*outer)(const gemm_thin *g);
} gemm_kernels;

/* Cores that split f32 into bf16 parts (x86/gemm_amx.c). */
typedef struct {
    const gemm_core *one, *two, *three, *two_bf16, *three_bf16; /* _bf16: B is bf16 */
} gemm_splits;

const gemm_kernels *gemm_kernels_for(unsigned flags);
gemm_unpack *gemm_unpack_avx512(dtype t);

/* gemm_direct.c: true when the product suits it and is done.  `temp`: for each thread
 * temp_floats >= kc nr floats. */
bool gemm_direct(const gemm_core *c, pool *p, const gemm_args *g, float *temp,
                 size_t temp_floats);

extern const gemm_kernels gemm_c, gemm_avx2, gemm_avx512, gemm_neon;
extern const gemm_splits gemm_amx;

#endif
