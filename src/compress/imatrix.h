/* imatrix.h - the importance matrix: per input column of a linear layer, the mean of its
 * square over a sample of text.  Read and written in llama.cpp's layouts.
 *
 * GGUF: general.type "imatrix", imatrix.chunk_count, .chunk_size, .datasets; per matrix
 * two F32 tensors, NAME.in_sum2 (sums of squares) and NAME.counts (1: rows summed).
 * The older .dat is read too: i32 n; n times { i32 length, name, i32 calls, i32 columns,
 * f32 mean times calls }. */
#ifndef COMPRESS_IMATRIX_H
#define COMPRESS_IMATRIX_H

#include "llm/model.h"

typedef struct {
    const llm_model *m; /* whose weights it speaks of */
    float **mean;       /* (m->n_weight), NULL where nothing is known; (cols) each */
    double *rows;       /* (m->n_weight) rows each was summed over */
    uint32_t n_known;
    uint32_t window, n_windows;
} imatrix;

om_status imatrix_new(const llm_model *m, imatrix *out, om_err *err);
void imatrix_close(imatrix *im);
/* sum (cols): sums of squares over `rows` rows. */
om_status imatrix_set(imatrix *im, const nn_weight *w, const float *sum, double rows,
                      om_err *err);
const float *imatrix_of(const imatrix *im, const nn_weight *w); /* NULL: not known */

/* Entries of other models' matrices are passed over; one that knows no matrix of m, or a
 * wrong number of columns, or a value that is negative or not finite, is refused. */
om_status imatrix_read(const llm_model *m, const char *path, imatrix *out, om_err *err);
/* Replaces `path` at once.  `dataset` names the text. */
om_status imatrix_write(const imatrix *im, const char *path, const char *dataset,
                        om_err *err);

#endif
