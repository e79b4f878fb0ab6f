/* cascade.h - a cascade of models: the first tier that is sure enough answers, the others
 * are not asked.  The question is the next token of a text, the answer a token.
 *
 * A tier is one model or several that vote.  Two rules say how sure it is:
 *
 *     agree    share of the votes for the majority's token; for a tier of one model the
 *              probability of its token, which is the share that samples of it tend to
 *              (agreement-based cascading, Kolawole et al. 2024, arXiv 2407.02348)
 *     learned  a logistic regression of "the answer is right" on share, probability, margin
 *              and entropy, fitted on the calibration text (as FrugalGPT scores answers,
 *              Chen, Zaharia, Zou 2023, arXiv 2305.05176)
 *
 * Tier t answers when score >= threshold_t; the last tier always.  Everything here is a
 * function of its arguments; nothing depends on threads. */
#ifndef LLM_CASCADE_H
#define LLM_CASCADE_H

#include "llm/model.h"

enum { CASCADE_TIERS = 4, CASCADE_FEATURES = 5 };

/* What a model says of one position. */
typedef struct {
    int32_t token;
    float p, second, entropy; /* of its token, of the runner-up; nats */
} cascade_guess;

/* Guesses for the tokens of a text that llm_perplexity would score, and what they are, in
 * blocks of their own (mem_free), *count long. */
om_status cascade_guesses(llm_model *m, const kern *k, pool *p, const int32_t *ids, size_t n,
                          uint32_t window, const om_cancel *cancel, cascade_guess **out,
                          int32_t **target, size_t *count, om_err *err);

typedef struct {
    int32_t answer;
    double feature[CASCADE_FEATURES]; /* 1, share, p, margin, entropy */
    double score;
} cascade_reply;

/* The tier's reply from its models' guesses; ties of votes go to the likelier token.
 * score: the share. */
void cascade_vote(const cascade_guess *const *guess, uint32_t n_models, size_t i,
                  cascade_reply *out);

typedef struct {
    uint32_t n; /* tiers */
    size_t count;
    cascade_reply *reply[CASCADE_TIERS]; /* (count) */
    const int32_t *target;               /* (count) */
    double cost[CASCADE_TIERS];          /* of asking that tier once */
} cascade_data;

typedef struct {
    double accuracy, cost;               /* means over the examples */
    double answered[CASCADE_TIERS];      /* part of them */
} cascade_result;

/* threshold (n - 1). */
void cascade_run(const cascade_data *d, const double *threshold, cascade_result *out);

/* w (n, CASCADE_FEATURES): for each tier the fit to its right and wrong answers. */
void cascade_fit(const cascade_data *d, double (*w)[CASCADE_FEATURES]);
void cascade_score(const cascade_data *d, double (*w)[CASCADE_FEATURES]);

/* Agreement: for each tier the lowest threshold at which, among the examples that reach and
 * pass it, its errors exceed the last tier's by at most epsilon of them. */
om_status cascade_agree(const cascade_data *d, double epsilon, double *threshold,
                        om_err *err);
/* The best thresholds among quantiles of the scores: budget > 0: the most accurate of mean
 * cost at most that (or of least cost, when none is); else the cheapest that is less
 * accurate than the last tier by at most epsilon. */
om_status cascade_search(const cascade_data *d, double budget, double epsilon,
                         double *threshold, om_err *err);

#endif
