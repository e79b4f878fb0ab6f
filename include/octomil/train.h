/* octomil/train.h - make a model better on this device: adapters and training.
 *
 *     om_err err;
 *     om_train_opts opts = {.rank = 8, .steps = 200};
 *     om_train_result r;
 *     om_train(model, text, strlen(text), &opts, "my-adapter", &r, &err);
 *
 * Training works on a model nobody is generating from: it changes the model's views while
 * it runs and puts them back.  All-zero options mean the defaults named below. */
#ifndef OCTOMIL_TRAIN_H
#define OCTOMIL_TRAIN_H

#include "octomil/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- adapters (LoRA: Hu et al. 2021) ----------------------------------------------- */

/* A LoRA adapter hung on a model: every session of the model uses it until it is closed.
 * Path: a PEFT folder (adapter_config.json, adapter_model.safetensors) or a GGUF adapter.
 * OM_EEXIST when a layer has one already. */
typedef struct om_adapter om_adapter;
OM_API om_status om_adapter_open(om_model *m, const char *path, om_adapter **out, om_err *err);
OM_API void om_adapter_close(om_adapter *a); /* NULL is allowed; before the model's close */
/* W + scale B A as a new GGUF file, matrices of `type` ("F16" when NULL). */
OM_API om_status om_adapter_merge(const om_adapter *a, const char *path, const char *type,
                                  om_err *err);

/* ---- training ------------------------------------------------------------------------ */

typedef struct {
    bool full;                  /* every weight instead of an adapter              */
    uint32_t rank;              /* 8                                               */
    float alpha;                /* twice the rank; the adapter's scale is alpha/rank */
    const char *target_modules; /* "q_proj,v_proj"; or k_proj o_proj gate_proj up_proj
                                   down_proj, or "all"                              */
    const char *optimizer;      /* "adamw"; "sgd", "momentum"                      */
    double lr;                  /* 1e-3, warmed up over 10 steps, cosine to a tenth */
    uint64_t steps;             /* 100                                             */
    uint32_t batch;             /* 4 windows                                       */
    uint32_t seq_len;           /* 128 tokens a window, at most the model's context */
    double clip_norm;           /* 1; below 0: off                                 */
    uint64_t memory_bytes;      /* budget beside the weights; 0: none.  Activations are
                                   recomputed when that is needed to keep it; OM_ELIMIT
                                   when even that does not fit                      */
    uint64_t seed;              /* for initial values and the order of the text    */
    uint32_t threads;           /* 0: every CPU this process may use               */
    const om_cancel *cancel;
    om_progress_fn *progress;
    void *progress_ctx;
} om_train_opts;

typedef struct {
    uint64_t steps, trainable;  /* done; numbers that were trained */
    double first_loss, last_loss; /* nats per token */
} om_train_result;

/* Train on a text and write the result into the folder `out`: an adapter in PEFT's layout
 * and as adapter.gguf, or model.gguf (F16) when full. */
OM_API om_status om_train(om_model *m, const char *text, size_t text_bytes,
                          const om_train_opts *opts, const char *out, om_train_result *result,
                          om_err *err);

#ifdef __cplusplus
}
#endif
#endif
