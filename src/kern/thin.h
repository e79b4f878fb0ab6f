/* thin.h - layers of a handful of rows: what one step on a small minibatch is made of.
 *
 * A general matrix product packs its operands so that long sums run from cache.  With ten
 * rows there is nothing to save by packing: the weights are read once a product whatever
 * is done, so these kernels take them as they lie, two rows of W at a time against all
 * rows of x in registers.  A small network (784-200-10 has 640 KB) then stays in the
 * second-level cache from step to step, and a step costs its arithmetic.
 *
 * All matrices row-major and dense.  One thread; the sums have one order for given
 * sizes and instruction set. */
#ifndef KERN_THIN_H
#define KERN_THIN_H

#include "base/base.h"

enum { THIN_ROWS = 32 }; /* beyond, gemm is the better way */

typedef struct {
    /* y (m,n) = b (n) + x (m,k) w (n,k)^T */
    void (*forward)(float *y, const float *x, const float *w, const float *b, size_t m,
                    size_t n, size_t k);
    /* dx (m,k) = d (m,n) w (n,k) */
    void (*back)(float *dx, const float *d, const float *w, size_t m, size_t n, size_t k);
    /* w (n,k) += d (m,n)^T x (m,k), and b (n) += the sum of d's rows */
    void (*update)(float *w, float *b, const float *d, const float *x, size_t m, size_t n,
                   size_t k);
} thin_kernels;

/* For these CPU flags of a kern. */
const thin_kernels *thin_kernels_for(unsigned flags);

extern const thin_kernels thin_c, thin_avx2, thin_avx512;

#endif
