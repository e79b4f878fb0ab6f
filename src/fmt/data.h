/* data.h - training data: text, JSON lines, IDX, LIBSVM, numeric CSV.  Bytes in,
 * structs out; memory is bounded by a small multiple of the input.  Errors name the line
 * and what was found.  All return OM_OK, OM_EFORMAT, OM_ELIMIT (2^32 items) or OM_ENOMEM;
 * on failure out is empty. */
#ifndef FMT_DATA_H
#define FMT_DATA_H

#include "base/base.h"

/* ---- texts ------------------------------------------------------------------------ */

typedef struct {
    uint32_t n;
    const str *item;
    void *block_;
} data_texts;

/* The pieces of a text between separators ("\n", "\n\n", "<|endoftext|>"), without white
 * space around them; empty ones are left out.  Views of p. */
om_status data_split(const void *p, size_t n, const char *separator, data_texts *out,
                     om_err *err);
/* One JSON value per line; `path` picks the string in each: "text", "messages.0.content",
 * "" when the line is the string itself.  Copies; empty lines and strings are left out. */
om_status data_jsonl(const void *p, size_t n, const char *path, data_texts *out,
                     om_err *err);
void data_texts_close(data_texts *t);

/* ---- IDX: MNIST's arrays ------------------------------------------------------------ */

enum { IDX_U8 = 8, IDX_I8 = 9, IDX_I16 = 11, IDX_I32 = 12, IDX_F32 = 13, IDX_F64 = 14 };

typedef struct {
    uint8_t type;
    uint32_t n_dims, dim[4]; /* outermost first; unused ones are 1 */
    size_t count;            /* elements */
    const uint8_t *raw;      /* a view; big-endian */
} data_idx;

om_status data_idx_open(const void *p, size_t n, data_idx *out, om_err *err);
/* Elements [beg, beg+n) as f32, n within count. */
void data_idx_f32(const data_idx *d, size_t beg, size_t n, float *out);

/* ---- LIBSVM: sparse rows --------------------------------------------------------------
 */

enum { LIBSVM_MAX_INDEX = 1 << 27 };

typedef struct {
    uint32_t n_rows, n_cols; /* n_cols: the largest index met */
    const float *label;      /* (n_rows) as written */
    const size_t *row;       /* (n_rows + 1): row i has values [row[i], row[i+1]) */
    const uint32_t *col;     /* 0-based, ascending within a row */
    const float *value;
    void *block_;
} data_sparse;

om_status data_libsvm(const void *p, size_t n, data_sparse *out, om_err *err);
void data_sparse_close(data_sparse *s);

/* ---- CSV with numeric columns ----------------------------------------------------------
 */

typedef struct {
    uint32_t n_rows, n_cols;
    const str *name;    /* (n_cols) views of the first line, NULL when that is numbers */
    const float *value; /* (n_rows, n_cols); missing (empty, ?, NA, nan) is NaN */
    void *block_;
} data_table;

/* `comma` is ',', ';' or '\t'.  Cells may be quoted; text in a cell is refused. */
om_status data_csv(const void *p, size_t n, char comma, data_table *out, om_err *err);
void data_table_close(data_table *t);
uint32_t data_column(const data_table *t, const char *name); /* n_cols when absent */

#endif
