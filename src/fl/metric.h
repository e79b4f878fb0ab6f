/* metric.h - how well scores rank: of pooled scores exactly, or of histograms, when clients
 * may add up counts but not hand out scores.
 *
 *     auc    P(s+ > s-) + P(s+ = s-) / 2                     (Mann-Whitney)
 *     pauc   the area under the ROC curve left of FPR = beta, divided by beta
 *     ap     sum over thresholds of (recall step) * precision, ties as one threshold
 *
 * NaN where a class is missing. */
#ifndef FL_METRIC_H
#define FL_METRIC_H

#include "base/base.h"

typedef struct {
    double auc, pauc, ap;
} metric_ranks;

/* score, sign (n): sign above 0 is positive.  OM_ENOMEM; OM_EARG: a score is NaN. */
om_status metric_of_scores(const float *score, const float *sign, size_t n, double beta,
                           metric_ranks *out, om_err *err);

/* Counts over equal bins of [0, 1], where the sigmoid of a score lies.  Histograms of
 * clients add up, and the sum is that of the pooled scores. */
enum { METRIC_BINS = 1024 };
typedef struct {
    uint64_t positive[METRIC_BINS], negative[METRIC_BINS];
} metric_bins;

void metric_count(metric_bins *b, const float *score, const float *sign, size_t n);
void metric_add(metric_bins *b, const metric_bins *more);
/* The same figures with all scores of a bin taken as ties.  *slack: the AUC of the scores
 * themselves is at most that far off: sum over bins of pos neg / (2 P N). */
metric_ranks metric_of_bins(const metric_bins *b, double beta, double *slack);

#endif
