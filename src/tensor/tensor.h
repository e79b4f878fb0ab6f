/* tensor.h - a named view of weights in somebody else's memory. */
#ifndef TENSOR_TENSOR_H
#define TENSOR_TENSOR_H

#include "kern/blocks.h"

enum { TENSOR_DIMS = 4 };

/* Shapes are row-major, outermost first: a linear layer's weight is {out, in}.  (GGUF
 * stores the same dimensions innermost first; fmt/ turns them round.)  Rows are
 * contiguous; data is NOT owned. */
typedef struct {
    str name;
    dtype type;
    uint32_t n_dims;
    uint64_t dim[TENSOR_DIMS]; /* unused ones are 1 */
    const void *data;
    size_t bytes;
} tensor;

uint64_t tensor_count(const tensor *t); /* elements */
uint64_t tensor_rows(const tensor *t);  /* product of all but the last dimension */
uint64_t tensor_cols(const tensor *t);
/* Elements [beg, beg+n) of the flattened tensor as f32; beg and n on block borders. */
om_status tensor_to_f32(const tensor *t, uint64_t beg, uint64_t n, float *out, om_err *err);
/* Checked element count and byte size of dims; false on overflow or a ragged row. */
bool tensor_measure(dtype t, const uint64_t *dim, uint32_t n_dims, size_t *bytes);

#endif
