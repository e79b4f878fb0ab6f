/* quantize.h - a model into a smaller file.
 *
 * Streams: a block of layers at a time is measured, packed and written, so that memory
 * holds a block, its inputs and the calibration text's activations, never the model.  The
 * file appears whole or not at all.
 *
 * With a calibration text and a method that feeds errors back, block after block is
 * measured on what the blocks before it, already packed, give out; so later blocks make
 * up for earlier ones. */
#ifndef COMPRESS_QUANTIZE_H
#define COMPRESS_QUANTIZE_H

#include "compress/imatrix.h"
#include "compress/method.h"

typedef struct {
    const quant_method *method;
    /* (m->n_weight) the type of every matrix; rows it does not fit become Q8_0 or F16 */
    const dtype *types;
    dtype file_type;        /* what the file says it mostly is */
    const calib_args *text; /* the calibration text and the machine; n == 0: none */
    const imatrix *im;      /* NULL: measured from the text where the method wants it */
} quantize_args;

/* OM_EARG: the method needs a text and there is none; OM_EFORMAT: a weight is not a
 * finite number (which one is said). */
om_status quantize_model(llm_model *m, const char *path, const quantize_args *a,
                         om_err *err);

/* Importance of every matrix, from one pass over the text. */
om_status imatrix_measure(llm_model *m, const calib_args *a, imatrix *out, om_err *err);

#endif
