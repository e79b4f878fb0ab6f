/* prune.h - methods of pruning: which weights, channels, heads or blocks go, and how what
 * is left makes up for them.
 *
 * A method is one file prune/<name>.c ending in one const row, and one X(name) line in
 * prune_list.h.  A method of single weights gives every weight of a matrix a score, or
 * sweeps over the matrix itself; structures of whole units sum the squared scores of the
 * weights that read a unit: a channel's column of ffn_down, a head's of attn_output.  A
 * method may instead look at the whole model first and say what stays (`survey`).
 *
 * What is written:
 *   unstructured, N:M   zeros in the matrices' own types: the file keeps its size
 *   channel, head       smaller matrices, the same in every block, as files of all
 *                       families have one width; a head goes with all queries of its group
 *   layer               fewer blocks
 * Embedding, output matrix and norms stay.
 *
 * Streams as quantize.h does: block after block is measured on what the pruned blocks
 * before it give out; the file appears whole or not at all. */
#ifndef COMPRESS_PRUNE_H
#define COMPRESS_PRUNE_H

#include "compress/calib.h"
#include "compress/obs.h"

typedef enum {
    PRUNE_UNSTRUCTURED,
    PRUNE_NM, /* of every M neighbours in a row N stay at most */
    PRUNE_CHANNEL,
    PRUNE_HEAD,
    PRUNE_CHANNEL_HEAD, /* both, in equal shares as far as whole heads allow */
    PRUNE_LAYER,
    PRUNE_STRUCTURES
} prune_structure;

extern const char *const prune_structure_names[]; /* "2:4" stands for every N:M */

#define PRUNE_WEIGHTS (1u << PRUNE_UNSTRUCTURED | 1u << PRUNE_NM)
#define PRUNE_UNITS (1u << PRUNE_CHANNEL | 1u << PRUNE_HEAD | 1u << PRUNE_CHANNEL_HEAD)

/* Rows that read one input.  Sums run over the same tokens. */
typedef struct {
    float *w; /* (rows, cols), changed in place */
    size_t rows, cols;
    const float *x2;   /* (cols) sums of squares of the inputs; NULL: not known */
    const float *h;    /* (cols, cols) sums of products of the inputs; NULL: not known */
    const float *y2;   /* (rows) sums of squares of the outputs; NULL: not known */
    double sparsity;   /* share of the weights to go */
    uint32_t stay, of; /* N:M; of 0: unstructured */
    size_t block;      /* columns treated at once */
    bool reconstruct;  /* the others make up for what goes */
    const kern *k;
    pool *pool;
} prune_matrix;

typedef enum { PRUNE_NOTHING, PRUNE_DIAGONAL, PRUNE_FULL } prune_wants;

/* Which units of every block stay: ffn (n_layer, ffn), head (n_layer, n_kv_head), layer
 * (n_layer); an array is NULL where its units are not pruned. */
typedef struct {
    uint32_t n_ffn, n_head, n_layer; /* that stay, in every block; of blocks */
    uint8_t *ffn, *head, *layer;
} prune_plan;

typedef struct {
    uint32_t masks, seed;
    double step; /* of the model's weights that go before importance is measured again */
} prune_search;

typedef struct {
    const char *name, *summary, *source;
    unsigned structures; /* 1 << prune_structure each */
    prune_wants wants;   /* of every input; x2 comes with either */
    bool outputs;        /* wants y2 (and so h) */
    bool by_row;         /* every row loses the same share; else scores compete in the
                            matrix */
    bool reconstructs;   /* by default */
    /* Scores (rows, cols) into s; the largest stay. */
    void (*score)(const prune_matrix *j, float *s);
    /* Prunes j itself, single weights; NULL: by score. */
    om_status (*sweep)(const prune_matrix *j, om_err *err);
    /* Fills the plan's arrays, all ones before; text is there. */
    om_status (*survey)(llm_model *m, const calib_args *text, const prune_search *how,
                        prune_structure s, prune_plan *plan, om_err *err);
} prune_method;

extern const prune_method *const prune_methods[]; /* ends with NULL */
const prune_method *prune_method_find(str name);  /* NULL: none */

/* ---- for methods (prune_mask.c) ----------------------------------------------------- */

void prune_score_magnitude(const prune_matrix *j, float *s); /* |w| */
void prune_score_wanda(const prune_matrix *j, float *s);     /* |w| |x| */
/* The n lowest of score (count, stride apart in rows of `cols`) get 0 in keep, the others
 * are left; equal scores go in their order. */
om_status prune_lowest(const float *score, size_t count, size_t n, uint8_t *keep,
                       om_err *err);
/* Of every j->of neighbours j->of - j->stay go.  score, keep (cols). */
void prune_pattern(const prune_matrix *j, const float *score, uint8_t *keep);
/* By score, with or without reconstruction. */
om_status prune_by_score(const prune_method *how, const prune_matrix *j, om_err *err);
/* Removes what keep (rows, cols) says, a block of columns at a time. */
om_status prune_reconstruct(const prune_matrix *j, const uint8_t *keep, om_err *err);

enum { PRUNE_BLOCK = 128, PRUNE_BLOCK_MOST = 4096 };
#define PRUNE_DAMP 0.01

/* ---- a whole model (prune.c) --------------------------------------------------------- */

typedef struct {
    const prune_method *method;
    prune_structure structure;
    uint32_t stay, of;     /* N:M */
    double sparsity;       /* weights: of every matrix of the blocks; units: of the model */
    const double *balance; /* (m->n_weight) instead of sparsity; NULL: the same of all */
    size_t block;          /* 0: PRUNE_BLOCK; SIZE_MAX: all columns */
    bool reconstruct;
    prune_search search;
    const calib_args *text; /* text and machine; n == 0: no text */
} prune_args;

typedef struct {
    uint64_t weights,
        gone; /* of the matrices of the blocks, or of the model: see sparsity */
    uint32_t ffn, n_head, n_kv_head, n_layer; /* of the file */
} prune_report;

/* OM_EARG: the method needs a text, cannot do the structure, or the target cannot be
 * reached (how far one can go is said); OM_EFORMAT: a weight is not a finite number. */
om_status prune_model(llm_model *m, const char *path, const prune_args *a,
                      prune_report *out, om_err *err);
/* Sparsity of every matrix so that `sparsity` of all weights go and, by the linearity
 * theorem (allocate.h), least is lost. */
om_status prune_balance(llm_model *m, const calib_args *text, double sparsity,
                        double *balance, om_err *err);

#endif
