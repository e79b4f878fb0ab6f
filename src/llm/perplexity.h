/* perplexity.h - how well a model predicts a text. */
#ifndef LLM_PERPLEXITY_H
#define LLM_PERPLEXITY_H

#include "llm/model.h"

typedef struct {
    double perplexity, low, high;   /* 95 % interval, delta method over per-token nll */
    double nll;                     /* mean, nats */
    uint64_t tokens;                /* scored */
    double seconds;
} perplexity_report;

/* Windows of `window` tokens, each starting `stride` after the one before; a token is
 * scored once, in the first window that holds it, so it has at least window - stride
 * tokens before it (but at the start of the text).  window 0: the model's context, at
 * most 512; stride 0: half a window.  A model whose tokenizer puts BOS in front gets it
 * in front of every window; a BOS at ids[0] is not scored.  n >= 2. */
om_status llm_perplexity(llm_model *m, const kern *k, pool *p, const int32_t *ids, size_t n,
                         uint32_t window, uint32_t stride, const om_cancel *cancel,
                         om_progress_fn *progress, void *ctx, perplexity_report *out,
                         om_err *err);

#endif
