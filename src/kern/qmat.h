/* qmat.h - inside kern/: what an instruction set supplies to the quantized product.
 *
 * THE DEFINITION.  A row x of X is cut into the blocks of the weight type (32 or 256
 * elements); block b becomes dx_b = max|x| / 127 and integers q = round(x 127/max|x|).
 * With a weight row's blocks as in dtype.h (w = d sc q - dmin mn),
 *
 *     y = 0;  for b in order:
 *         y = fma(d_b dx_b, float(sum_i sc_i qw_i qx_i), y)
 *         y = fma(-(dmin_b dx_b), float(sum_i mn_i qx_i), y)      types with a minimum
 *
 * where the sums over a block are exact in int32.  Every variant gives these bits: any
 * instruction set, any number of threads, any m (a row of a batch = the row alone); only
 * which NaN a NaN is, is left open.
 *
 * For plain types (F32, F16, BF16): sixteen sums, element p into sum p mod 16 by fma in
 * order of p, then sums l and l + 8 are added, then l and l + 4, 2, 1.
 *
 * THE SHAPE.  A vector kernel computes a strip: `lanes` rows of W, one per lane, against
 * a tile of up to QMAT_TILE rows of X.  The weights of a block are transposed in
 * registers, so that a lane holds four consecutive weights of its row, and multiplied by
 * four broadcast bytes of x; nothing is reduced across lanes and W is not repacked.  With
 * matrix instructions a strip is multiplied by sixteen rows of x at a time (`many`). */
#ifndef KERN_QMAT_H
#define KERN_QMAT_H

#include "kern/kern.h"

enum { QMAT_TILE = 64, QMAT_MANY = 256, QMAT_MAX_LANES = 16, QMAT_MANY_FROM = 16 };

/* A tile of quantized x. */
typedef struct {
    size_t m, k;       /* rows held; elements a row                                */
    size_t rows;       /* rows to be multiplied: m, or for `many` up to 15 fewer   */
    size_t piece;      /* elements of a row that lie together: 32, for `many` or 64 */
    size_t block;      /* elements that share a scale: 32 or 256                   */
    size_t group;      /* elements that share an entry of sum: 16 or 32            */
    int32_t sum_scale; /* sum holds sum_scale * (sum of q over a group)            */
    int8_t *q;         /* (k/piece, m, piece)                                      */
    float *d;          /* (k/block, m)                                             */
    int32_t *sum;      /* (k/group, m)                                             */
} qmat_x;

/* Elements [32 s, 32 s + 32) of row i. */
static inline int8_t *qmat_at(const qmat_x *x, size_t s, size_t i)
{
    size_t at = 32 * s;
    return x->q + (at / x->piece * x->m + i) * x->piece + at % x->piece;
}

/* y[i * ldy + r] for r in [0, lanes), i in [0, x->rows); W's rows `stride` bytes apart. */
typedef void qmat_strip(const uint8_t *w, size_t stride, const qmat_x *x, float *y,
                        size_t ldy);
/* Row `x` (k) into row i of the tile. */
typedef void qmat_quantize(const float *x, qmat_x *tile, size_t i);
/* Plain types: any number of rows of W and X; ldx, ldy in elements. */
typedef void qmat_plain(const uint8_t *w, size_t stride, size_t rows, const float *x,
                        size_t ldx, size_t m, size_t k, float *y, size_t ldy);

typedef struct {
    qmat_strip *strip;
    int32_t sum_scale; /* what it wants in qmat_x.sum, 0: nothing */
    uint32_t group;
} qmat_row;

/* What takes over from `strip` for a tile of QMAT_MANY_FROM to QMAT_MANY rows; x->m is a
 * multiple of 16. */
typedef struct {
    qmat_strip *strip; /* NULL: nothing does */
    size_t piece;
} qmat_many_row;

struct qmat_kernels {
    const char *name;
    size_t lanes;
    qmat_quantize *quantize;
    const qmat_many_row *many; /* (DTYPE_COUNT), NULL: none */
    qmat_row packed[DTYPE_COUNT];
    qmat_plain *plain[DTYPE_COUNT];
};

extern const struct qmat_kernels qmat_reference; /* one lane, plain C, every type */

extern const struct qmat_kernels qmat_avx2, qmat_avxvnni;              /* x86-64  */
extern const struct qmat_kernels qmat_vnni, qmat_amx;
extern const qmat_many_row qmat_amx_many[DTYPE_COUNT];
extern const struct qmat_kernels qmat_neon, qmat_dotprod;              /* aarch64 */

/* The best set for these CPU flags; never NULL. */
const struct qmat_kernels *qmat_kernels_for(unsigned flags);

#endif
