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
    GEMM_ALIGN = 64,    /* of panels                                           */
    GEMM_KC_UNIT = 256, /* kc divides or equals it: blocks of packed types stay whole */
};

typedef struct gemm_core gemm_core;
struct gemm_core {
    const char *name;
    size_t mr, nr, k_unit, kc;
    size_t a_unit, b_unit; /* bytes per element packed */
    /* Pack rows <= mr rows (of A; columns of B) by k; element (r,p) is at
     * src[r*rs + p*cs], one of rs and cs being 1.  Returns false when an element is
     * infinite or NaN and the core could not carry it (see `exact`). */
    bool (*pack_a)(void *dst, const float *src, size_t rs, size_t cs, size_t rows, size_t k);
    bool (*pack_b)(void *dst, const float *src, size_t rs, size_t cs, size_t rows, size_t k);
    /* C (m,n) = beta C + alpha A B for one block of k; m <= mr, n <= nr. */
    void (*tile)(size_t k, const void *a, const void *b, float *c, size_t ldc, size_t m,
                 size_t n, float alpha, float beta);
    void (*begin)(void), (*end)(void); /* around a thread's tiles; may be NULL */
    const gemm_core *exact;            /* for what pack refuses; NULL: never refuses */
};

/* Direct paths for thin shapes, on operands as they lie.  NULL where a set has none.
 * All write C (m,n) = beta C + alpha op(A) op(B). */
typedef struct gemm_kernels {
    const gemm_core *f32;
} gemm_kernels;

const gemm_kernels *gemm_kernels_for(unsigned flags);

extern const gemm_core gemm_core_c;

#endif
