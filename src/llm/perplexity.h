/* perplexity.h - how well a model predicts a text, and how far models are from a
 * reference on it. */
#ifndef LLM_PERPLEXITY_H
#define LLM_PERPLEXITY_H

#include "llm/model.h"

typedef struct {
    double perplexity, low, high;   /* 95 % interval, delta method over per-token nll */
    double nll;                     /* mean, nats */
    uint64_t tokens;                /* scored */
    double seconds;
} perplexity_report;

/* As a stride: disjoint windows, and of each only the second half is scored: the figure
 * that llama.cpp's llama-perplexity gives. */
#define PERPLEXITY_HALVES UINT32_MAX

/* Windows of `window` tokens, each starting `stride` after the one before; a token is
 * scored once, in the first window that holds it, so it has at least window - stride
 * tokens before it (but at the start of the text).  window 0: the model's context, at
 * most 512; stride 0: half a window.  A model whose tokenizer puts BOS in front gets it
 * in front of every window; a BOS at ids[0] is not scored.  n >= 2. */
om_status llm_perplexity(llm_model *m, const kern *k, pool *p, const int32_t *ids, size_t n,
                         uint32_t window, uint32_t stride, const om_cancel *cancel,
                         om_progress_fn *progress, void *ctx, perplexity_report *out,
                         om_err *err);

/* ---- several models against a reference (compare.c) -----------------------------------
 *
 * Per scored token, with p the reference's distribution and q the model's:
 *
 *     KL = sum_v p_v log(p_v / q_v)        agreement = [argmax p == argmax q]
 *
 * All intervals are 95 %.  That of the ratio of perplexities, exp(mean nll_q - nll_p), is
 * over the tokens' differences, so it is far narrower than those of the two figures. */
typedef struct {
    perplexity_report p;            /* seconds: this model's own share */
    double ratio, ratio_low, ratio_high;
    double kl, kl_low, kl_high;     /* mean, nats */
    double kl_99;                   /* 99 % of tokens are below */
    double same_top, same_top_low, same_top_high; /* share of tokens */
} comparison;

typedef struct {
    const kern *k;
    pool *pool;
    uint32_t window, stride;        /* as in llm_perplexity */
    const om_cancel *cancel;
    om_progress_fn *progress;
    void *ctx;
} compare_args;

/* Models that share the reference's vocabulary; `out` has one entry a model, `reference`
 * may be NULL. */
om_status llm_compare(llm_model *reference, llm_model *const *models, uint32_t n_models,
                      const int32_t *ids, size_t n, const compare_args *a,
                      perplexity_report *reference_out, comparison *out, om_err *err);

#endif
