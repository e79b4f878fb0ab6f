/* rewrite.h - a model rewritten block by block, with a calibration text going through the
 * blocks as they are written: what quantization and pruning share.
 *
 * `work` is a fork whose weights become the new ones while their block is in hand, so
 * that the text's residual stream leaves the block as readers of the file will have it;
 * then they are views of the original again.  Memory holds one block. */
#ifndef COMPRESS_REWRITE_H
#define COMPRESS_REWRITE_H

#include "compress/calib.h"

enum { REWRITE_WEIGHTS = 24 };
#define REWRITE_NONE UINT32_MAX

typedef struct {
    llm_model *work;
    calib *text;    /* NULL: none */
    uint32_t layer; /* whose inputs are at hand, or REWRITE_NONE */
    struct {
        nn_weight *w, was;
        void *data;
    } done[REWRITE_WEIGHTS]; /* of the block in hand */
    uint32_t n_done;
} rewrite;

/* text NULL or empty: none goes along.  m must outlive it. */
om_status rewrite_open(llm_model *m, const calib_args *text, rewrite *out, om_err *err);
void rewrite_close(rewrite *r);
/* The text through the block in hand as it is now; then the originals again. */
om_status rewrite_leave(rewrite *r, om_err *err);
/* Moments before block `layer`; n_layer: before the output matrix. */
om_status rewrite_collect(rewrite *r, uint32_t layer, bool full, om_err *err);
/* In `work` w reads as `as` until the block is left.  as.data is freed then, or at once on
 * failure. */
om_status rewrite_install(rewrite *r, nn_weight *w, nn_weight as, om_err *err);
void rewrite_drop(rewrite *r); /* the originals again */

/* OM_EFORMAT with the place, when of rows [first, first + rows) one is not finite. */
om_status rewrite_check(const char *who, const nn_weight *w, const float *v, size_t rows,
                        size_t first, om_err *err);

#endif
