/* modules.h - private to adapt/: PEFT's module names ("q_proj") and the weights they
 * stand for, and the row order of q and k. */
#ifndef ADAPT_MODULES_H
#define ADAPT_MODULES_H

#include "adapt/adapt.h"

/* Module name of a layer's weight and its layer; NULL when it is not a target. */
const char *adapt_module_name(const llm_model *m, const nn_weight *w, uint32_t *layer);
nn_weight *adapt_module_weight(const llm_model *m, uint32_t layer, str module);
/* A copy of `text` (a target list) that lives as long as t; NULL without memory. */
const char *adapt_keep_text(trainable *t, const char *text);

/* Rows of q and k lie in two orders: halves (Hugging Face) and adjacent pairs (GGUF files
 * of the llama family).  True when the model holds `w` in the pair order while the other
 * side wants halves, or the other way round. */
typedef enum { ROWS_HALVES, ROWS_PAIRS } row_order;
bool adapt_reorders(const llm_model *m, const nn_weight *w, row_order wanted);
/* Copy (rows, cols) with each head's rows put from pairs into halves, or back. */
void adapt_reorder_rows(const llm_model *m, const nn_weight *w, row_order to,
                        const float *src, float *dst, uint32_t cols);

#endif
