/* metric.c - see metric.h.  All is sums over groups of equal scores, from the highest. */
#include "fl/metric.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    float score;
    bool positive;
} scored;

/* Ranks so far: counts of both classes above the next group. */
typedef struct {
    double p, n, tp, fp, beta; /* totals; met */
    metric_ranks sum;
} walk;

/* A group of equal scores: a straight piece of the curve. */
static void group(walk *w, double pos, double neg)
{
    double left = w->fp / w->n, right = (w->fp + neg) / w->n;
    double low = w->tp / w->p, high = (w->tp + pos) / w->p;
    w->sum.auc += (right - left) * (low + high) / 2;
    double end = fmin(right, w->beta);
    if (end > left) {
        double there = low + (high - low) * (end - left) / (right - left);
        w->sum.pauc += (end - left) * (low + there) / 2;
    }
    w->tp += pos, w->fp += neg;
    if (pos > 0)
        w->sum.ap += (high - low) * w->tp / (w->tp + w->fp);
}

static metric_ranks finish(const walk *w)
{
    if (w->p <= 0 || w->n <= 0)
        return (metric_ranks){(double)NAN, (double)NAN, (double)NAN};
    return (metric_ranks){w->sum.auc, w->sum.pauc / w->beta, w->sum.ap};
}

static int descending(const void *a, const void *b)
{
    float x = ((const scored *)a)->score, y = ((const scored *)b)->score;
    return (x < y) - (x > y);
}

om_status metric_of_scores(const float *score, const float *sign, size_t n, double beta,
                           metric_ranks *out, om_err *err)
{
    walk w = {.beta = beta};
    scored *s = mem_array(n + 1, sizeof(*s));
    if (!s)
        return fail(err, OM_ENOMEM, "no memory to rank %zu scores", n);
    for (size_t i = 0; i < n; i++) {
        if (isnan(score[i])) {
            mem_free(s);
            return fail(err, OM_EARG, "score %zu is not a number", i);
        }
        s[i] = (scored){score[i], sign[i] > 0};
        w.p += s[i].positive;
        w.n += !s[i].positive;
    }
    qsort(s, n, sizeof(*s), descending);
    for (size_t i = 0; i < n && w.p > 0 && w.n > 0;) {
        double pos = 0, neg = 0;
        for (float v = s[i].score; i < n && !(s[i].score < v); i++) {
            pos += s[i].positive;
            neg += !s[i].positive;
        }
        group(&w, pos, neg);
    }
    mem_free(s);
    *out = finish(&w);
    return OM_OK;
}

void metric_count(metric_bins *b, const float *score, const float *sign, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double at = METRIC_BINS / (1 + exp(-(double)score[i]));
        size_t bin = at >= METRIC_BINS - 1 ? METRIC_BINS - 1 : at > 0 ? (size_t)at : 0;
        uint64_t *side = sign[i] > 0 ? b->positive : b->negative;
        side[bin]++;
    }
}

void metric_add(metric_bins *b, const metric_bins *more)
{
    for (size_t i = 0; i < METRIC_BINS; i++) {
        b->positive[i] += more->positive[i];
        b->negative[i] += more->negative[i];
    }
}

metric_ranks metric_of_bins(const metric_bins *b, double beta, double *slack)
{
    walk w = {.beta = beta};
    double ties = 0;
    for (size_t i = 0; i < METRIC_BINS; i++) {
        w.p += (double)b->positive[i];
        w.n += (double)b->negative[i];
        ties += (double)b->positive[i] * (double)b->negative[i];
    }
    *slack = ties / (2 * w.p * w.n);
    for (size_t i = METRIC_BINS; i-- > 0 && w.p > 0 && w.n > 0;)
        if (b->positive[i] + b->negative[i])
            group(&w, (double)b->positive[i], (double)b->negative[i]);
    return finish(&w);
}
