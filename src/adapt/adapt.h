/* adapt.h - what is trainable in a model, adapters on disk, and local training.
 *
 * A `trainable` gathers every trainable number into one flat f32 vector (values, and
 * gradients beside it): optimizers, federated algorithms and checkpoints see only that
 * vector.  Full fine-tuning makes f32 copies of the chosen weights there; LoRA hangs
 * (A, B) pairs on the frozen linear layers; a prompt is tokens of its own, trained as rows
 * behind the embedding, that go before every text. */
#ifndef ADAPT_ADAPT_H
#define ADAPT_ADAPT_H

#include "llm/model.h"
#include "llm/perplexity.h"

/* MATRICES: full, but of the target modules alone. */
typedef enum { TRAIN_LORA, TRAIN_FULL, TRAIN_MATRICES, TRAIN_PROMPT } train_mode;

typedef struct {
    uint32_t rank;              /* 8 */
    float alpha;                /* 16: scale = alpha / rank */
    const char *target_modules; /* "q_proj,v_proj": q k v o gate up down _proj, or "all" */
    uint64_t seed;              /* A ~ Kaiming uniform (as PEFT), B = 0 */
    bool rslora;                /* scale = alpha / sqrt(rank) (Kalajdzievski 2023) */
} lora_config;

typedef struct {
    str name;                   /* "blk.0.attn_q.weight.lora_a" or the weight's name */
    nn_weight *weight;          /* the layer it belongs to */
    size_t offset;              /* in the flat vector */
    uint32_t rows, cols;
} trainable_part;

typedef struct {
    llm_model *model;
    train_mode mode;
    lora_config lora;
    size_t n;                   /* numbers */
    float *x, *grad;            /* (n) values and gradients */
    trainable_part *part;
    uint32_t n_part;
    void *owned_;
} trainable;

om_status trainable_lora(llm_model *m, const lora_config *c, trainable *out, om_err *err);
om_status trainable_full(llm_model *m, trainable *out, om_err *err);
/* The weights of the target modules themselves: lora_config.target_modules' list. */
om_status trainable_matrices(llm_model *m, const char *targets, trainable *out, om_err *err);
/* `tokens` (16 when 0) trained tokens before every text (Lester et al. 2021), which begin as
 * the embeddings of tokens drawn by the seed. */
om_status trainable_prompt(llm_model *m, uint32_t tokens, uint64_t seed, trainable *out,
                           om_err *err);
void trainable_close(trainable *t); /* unhooks the model */

/* PEFT layout: folder with adapter_model.safetensors and adapter_config.json. */
om_status peft_save(const trainable *t, const char *dir, const char *base_name, om_err *err);
om_status peft_load(llm_model *m, const char *dir, trainable *out, om_err *err);
/* GGUF adapter (general.type = adapter). */
om_status lora_save_gguf(const trainable *t, const char *path, om_err *err);
om_status lora_load_gguf(llm_model *m, const char *path, trainable *out, om_err *err);
/* A prompt as GGUF adapter: adapter.type = prompt, one tensor prompt.weight (tokens, dim). */
om_status prompt_save_gguf(const trainable *t, const char *path, om_err *err);
om_status prompt_load_gguf(llm_model *m, const char *path, trainable *out, om_err *err);
/* Any kind, by what lies at the path. */
om_status adapter_load(llm_model *m, const char *path, trainable *out, om_err *err);
/* What a run leaves behind in a folder: an adapter (PEFT's layout and adapter.gguf), a
 * prompt (adapter.gguf), or the model with its trained weights (model.gguf, of `type`). */
om_status trainable_save(const trainable *t, const char *dir, const char *base_name,
                         dtype type, om_err *err);
/* W + scale B A into a new file of `type`; the model in memory is untouched. */
om_status lora_merge(const trainable *t, const char *path, dtype type, om_err *err);

/* ---- local training (trainer.c) --------------------------------------------------- */

/* Token windows drawn from one text: window i of epoch e is a seeded permutation, so a
 * resumed run sees the same order. */
typedef struct {
    const int32_t *ids;
    size_t n;
    uint32_t seq_len;
} token_data;

typedef struct {
    const char *optimizer;      /* "adamw" */
    const double *optimizer_p;  /* its parameters, or NULL for defaults */
    double lr;
    nn_schedule_kind schedule;
    uint64_t warmup, steps;
    double min_ratio;
    double clip_norm;           /* 0: off */
    uint32_t batch, seq_len, accumulate;
    size_t memory_bytes;        /* 0: no budget; else recompute when it is needed */
    uint64_t seed;
    const kern *k;
    pool *pool;
    const om_cancel *cancel;
} train_config;

typedef struct trainer trainer;
om_status trainer_open(trainable *t, const train_config *c, trainer **out, om_err *err);
void trainer_close(trainer *t);
typedef struct {
    uint64_t step;
    double loss, lr, grad_norm, tokens_per_second;
} train_report;
om_status trainer_step(trainer *t, const token_data *d, train_report *out, om_err *err);
/* Everything but the base model: resumes to the same bits. */
om_status trainer_save(const trainer *t, const char *path, om_err *err);
om_status trainer_load(trainer *t, const char *path, om_err *err);
/* Loss and gradient at the current x over given windows (federated oracle, tests). */
om_status trainer_gradient(trainer *t, const token_data *d, const uint64_t *window, uint32_t n,
                           double *loss, om_err *err);

#endif
