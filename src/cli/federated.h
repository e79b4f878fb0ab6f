/* federated.h - a language model under a coordinator: what its configuration means as a
 * task, how a round is measured, and what is written at the end. */
#ifndef CLI_FEDERATED_H
#define CLI_FEDERATED_H

#include "cli/cli.h"
#include "cli/config.h"
#include "fl/oracle/llm.h"

/* Windows that go through the model at once: the same in every driver, for equal bits. */
uint32_t federated_batch(const config *k);
/* The clients' problem, but for kernels and threads; *lora is filled too, and pointed to. */
oracle_llm_config federated_oracle(const config *k, const llm_model *base, lora_config *lora);
/* The task's JSON members for kind "llm", the base's hash among them. */
om_status federated_llm_task(const config *k, json_out *o, uint8_t sha[32], om_err *err);

/* Measures models (dim numbers) on the configuration's test text. */
typedef struct {
    llm_model *base;
    lora_config lora;
    oracle_llm *oracle;
    int32_t *ids;
    size_t n;
    uint32_t window;
    const kern *k;
    pool *pool;
} federated_meter;

/* Opens to nothing (base NULL) when the configuration has no test text. */
om_status federated_meter_open(const cli *c, const config *k, federated_meter *out,
                               om_err *err);
void federated_meter_close(federated_meter *m);
om_status federated_perplexity(federated_meter *m, const float *x, double *out, om_err *err);
/* The model x as an adapter folder (PEFT and adapter.gguf), or model.gguf when full. */
om_status federated_llm_save(const cli *c, const config *k, const float *x, const char *dir,
                             om_err *err);

#endif
