/* unit.h - channels, heads and blocks of a model: how many may stay, what a model without
 * the others looks like.
 *
 * A head is a key-value head with all queries of its group.  Widths are the same in every
 * block: files of most families have one number for all.  Channels stay in multiples of
 * the largest power of two up to 32 that divides their number, so that tensor types
 * with blocks of 32 keep fitting. */
#ifndef COMPRESS_UNIT_H
#define COMPRESS_UNIT_H

#include "compress/prune.h"

/* How many stay so that `sparsity` of the model's weights go: channels at least that, heads
 * and blocks to the nearest whole number; arrays of ones.  OM_EARG when it cannot be, with
 * how far one can go. */
om_status unit_plan(const llm_model *m, prune_structure s, double sparsity,
                    prune_plan *plan, om_err *err);
void unit_plan_free(prune_plan *plan);
/* The fork f in the plan's widths: shapes and hyper-parameters, data as it was. */
void unit_shapes(llm_model *f, const prune_plan *plan);
/* f, a fork of m, with those blocks of m alone that keep (m->h.n_layer) marks. */
void unit_keep_layers(llm_model *f, const llm_model *m, const uint8_t *keep);
/* Numbers in the model; in one channel or head of all blocks together; in a block. */
uint64_t unit_weights(const llm_model *m, prune_structure s);

#endif
