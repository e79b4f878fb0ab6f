/* method.h - the methods of quantization: what each knows about a layer's inputs, and how
 * a matrix becomes codes.
 *
 * A method is one file method/<name>.c ending in one const row, and one X(name) line in
 * list.h.  A method says what it wants measured and how a run of rows is packed; which
 * types exist, their grids and their bytes are the business of grid.h and kern/. */
#ifndef COMPRESS_METHOD_H
#define COMPRESS_METHOD_H

#include "compress/calib.h"
#include "compress/ldl.h"

/* Rows of one matrix to be packed. */
typedef struct {
    const float *w; /* (rows, cols) */
    size_t rows, cols, row_bytes;
    dtype type;
    const float *mean; /* (cols) mean square of each input column; NULL: not known */
    const ldl *f;      /* of the inputs (rotated where the type is); NULL: not known */
    const kern *k;
    pool *pool;
    uint8_t *out; /* (rows, row_bytes) */
} quant_rows;

typedef enum {
    QUANT_NOTHING,  /* data-free                                           */
    QUANT_DIAGONAL, /* an importance matrix or a calibration text          */
    QUANT_FULL,     /* a calibration text: second moments, block by block  */
} quant_wants;

typedef struct {
    const char *name, *summary, *source;
    quant_wants wants;       /* at most; see `needs` */
    bool needs;              /* refuses to work without; else does what it can */
    bool folds;              /* AWQ: scales moved between layers first */
    dtype of_bits[9];        /* the type that --bits N means; DTYPE_F32: none */
    const dtype *candidates; /* what a mix of types chooses from; ends with DTYPE_F32 */
    om_status (*encode)(const quant_rows *j, om_err *err);
} quant_method;

extern const dtype quant_standard[]; /* the candidates of the standard types */

extern const quant_method *const quant_methods[]; /* ends with NULL */
const quant_method *quant_method_find(str name);  /* NULL: none */

/* The grids of standard types by weighted search, with the feedback of j->f between
 * columns when there is one (code.c).  Types without a grid are packed as they are. */
om_status quant_encode_grid(const quant_rows *j, om_err *err);
/* Plain packing of every row. */
om_status quant_encode_plain(const quant_rows *j, om_err *err);

#define QUANT_STANDARD_BITS                                                                \
    {                                                                                      \
        [2] = DTYPE_Q2_K, [3] = DTYPE_Q3_K, [4] = DTYPE_Q4_K, [5] = DTYPE_Q5_K,            \
        [6] = DTYPE_Q6_K, [8] = DTYPE_Q8_0                                                 \
    }

#endif
