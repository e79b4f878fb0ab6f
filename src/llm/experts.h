/* experts.h - inside llm/: the experts of a model that is larger than memory.
 *
 * An entry of the cache is one expert of one layer: its three matrices, read from the file
 * past the system's own cache.  Experts that a layer wants and that are missing are read by
 * threads of the store while those that are there are computed; what the next layer will
 * probably want is read behind them.  An entry in use is never evicted; of the others goes
 * the one that was used least of late (a clock with counts).  What is computed does not
 * depend on the cache. */
#ifndef LLM_EXPERTS_H
#define LLM_EXPERTS_H

#include "llm/model.h"

typedef struct expert_store expert_store;

/* Bytes of all experts as they lie in the file; 0: the model has none. */
uint64_t experts_bytes(const llm_model *m);
/* The least a cache can be: what a token uses of a layer, twice. */
uint64_t experts_least(const llm_model *m);
/* A cache of at most `budget` bytes, room for reads included; OM_EUNSUPPORTED where the
 * weights are not views of one file. */
om_status experts_open(const llm_model *m, uint64_t budget, expert_store **out, om_err *err);
void experts_close(expert_store *s); /* NULL is allowed */
nn_expert_store *experts_face(expert_store *s); /* for nn_experts */
llm_expert_stats experts_now(const expert_store *s);

#endif
