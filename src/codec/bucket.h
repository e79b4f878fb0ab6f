/* bucket.h - what the codecs that divide by a norm share: a vector is cut in buckets, each
 * written as its norm and codes of a fixed width, filled up with zero bits. */
#ifndef CODEC_BUCKET_H
#define CODEC_BUCKET_H

#include "codec/wire.h"

#include <math.h>

#define BUCKET_PARAM                                                                       \
    {                                                                                      \
        "bucket", 512, 1, 1048576, "numbers that share one norm", NULL                     \
    }
#define BUCKET_NORM_PARAM                                                                  \
    {                                                                                      \
        "norm", 0, 0, 1, "what a bucket is divided by", "max|l2"                           \
    }

/* Bytes of d numbers in buckets of b: a full one takes `full`, the last one `rest`. */
static inline size_t bucket_total(size_t d, size_t b, size_t full, size_t rest)
{
    return d / b * full + (d % b ? rest : 0);
}

/* Largest magnitude or 2-norm; never below the true one, so that no ratio exceeds 1. */
static inline float bucket_norm(bool l2, const float *x, size_t n)
{
    double sum = 0;
    float most = 0;
    for (size_t i = 0; !l2 && i < n; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    if (!l2)
        return most;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    float norm = (float)sqrt(sum);
    return (double)norm < sqrt(sum) ? nextafterf(norm, INFINITY) : norm;
}

static inline bool bucket_norm_ok(uint32_t bits)
{
    return wire_finite(bits) && !(bits >> 31);
}

#endif
