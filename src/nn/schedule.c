/* schedule.c - the learning rate at a step, steps counted from 0.
 *
 * Warm-up rises linearly so that step `warmup` has the full rate and step 0 already a
 * little; then constant, linear or half a cosine down to min_ratio lr at `total`. */
#include "nn/nn.h"

#include <math.h>

double nn_schedule(nn_schedule_kind kind, double lr, uint64_t step, uint64_t warmup,
                   uint64_t total, double min_ratio)
{
    if (step < warmup)
        return lr * (double)(step + 1) / (double)(warmup + 1);
    if (kind == NN_SCHEDULE_CONSTANT || total <= warmup)
        return lr;
    double done = fmin((double)(step - warmup) / (double)(total - warmup), 1.0);
    double left = kind == NN_SCHEDULE_LINEAR
                      ? 1.0 - done
                      : 0.5 * (1.0 + cos(3.14159265358979323846 * done));
    return lr * (min_ratio + (1.0 - min_ratio) * left);
}
