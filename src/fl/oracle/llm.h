/* llm.h - a language model as a federated client's problem: the one bridge between the
 * federated algorithms and the models (see llm.c). */
#ifndef FL_ORACLE_LLM_H
#define FL_ORACLE_LLM_H

#include "adapt/adapt.h"
#include "fl/algo.h"

typedef struct {
    const llm_model *base;   /* shared, read-only */
    /* What x is.  LORA: lora, or with lora NULL every weight; MATRICES: the weights of
     * lora's target modules; PROMPT: prompt_tokens and the seed of lora. */
    train_mode mode;
    const lora_config *lora;
    uint32_t prompt_tokens;
    uint32_t seq_len, batch;
    size_t memory_bytes;     /* budget of one client's training, 0: none */
    const kern *k;
    pool *pool;              /* may be NULL: one thread */
    const om_cancel *cancel;
} oracle_llm_config;

typedef struct oracle_llm oracle_llm; /* one worker's model view, scratch and adapter */
om_status oracle_llm_open(const oracle_llm_config *c, oracle_llm **out, om_err *err);
void oracle_llm_close(oracle_llm *o);
size_t oracle_llm_dim(const oracle_llm *o);
const float *oracle_llm_start(const oracle_llm *o); /* x0, (dim): the same on every device */
trainable *oracle_llm_trainable(oracle_llm *o);

/* The problem of a client that holds these tokens.  Valid until the next call. */
fl_oracle oracle_llm_client(oracle_llm *o, const token_data *d);

#endif
