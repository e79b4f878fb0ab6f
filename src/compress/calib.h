/* calib.h - what flows into every linear layer of a model, on a sample of text.
 *
 * One pass, block by block: the residual stream of all the text, (rows, dim), is kept and
 * moved through one block at a time, so memory holds a block, its inputs' second moments
 * and the stream, never the model.  Per input of a layer with x_t its rows:
 *
 *     diag_j = sum_t x_tj^2          (the importance matrix)
 *     h_ij   = sum_t x_ti x_tj       (the Hessian of |X (W - V)^T|^2, up to a factor)
 *
 * Layers that share an input (q, k, v; gate, up) share its moments.  Sums have the same
 * bits for any number of threads. */
#ifndef COMPRESS_CALIB_H
#define COMPRESS_CALIB_H

#include "llm/model.h"

enum { CALIB_LINEARS = 8, CALIB_LEAST_TOKENS = 256 };

typedef struct {
    const nn_weight *w[CALIB_LINEARS]; /* (n_w) the layers that read it */
    uint32_t n_w, cols;
    uint64_t rows; /* seen */
    float *diag;   /* (cols) */
    float *h;      /* (cols, cols), or NULL */
} calib_input;

typedef struct {
    const int32_t *ids; /* tokens of the text, kept by pointer */
    size_t n;
    uint32_t window;  /* tokens that see each other; 0: the context, at most 512 */
    size_t max_bytes; /* of the residual stream; 0: 256 MB */
    const kern *k;
    pool *pool;
    const om_cancel *cancel;
    om_progress_fn *progress;
    void *ctx;
} calib_args;

typedef struct calib calib;

/* m is borrowed; its weights' data may change between calls.  OM_EARG under
 * CALIB_LEAST_TOKENS tokens. */
om_status calib_open(llm_model *m, const calib_args *a, calib **out, om_err *err);
void calib_close(calib *c);
uint64_t calib_rows(const calib *c);
uint32_t calib_window(const calib *c);

/* Back to the embedding. */
om_status calib_rewind(calib *c, om_err *err);
/* Moments of every linear layer of block `layer` (n_layer: of the output matrix), full or
 * diagonal; the stream must stand before that block.  `advance` moves it behind. */
om_status calib_collect(calib *c, uint32_t layer, bool full, bool advance, om_err *err);
/* Move the stream through block `layer` with the model's weights as they are now. */
om_status calib_advance(calib *c, uint32_t layer, om_err *err);
/* (rows, dim) the residual stream where it stands. */
const float *calib_stream(const calib *c);
/* What w reads, from the last collect; NULL: not seen. */
const calib_input *calib_of(const calib *c, const nn_weight *w);

#endif
