/* meter.h - private to sim/: a client's problem with a clock on it.  Every gradient, value
 * and product that an algorithm asks for is counted in samples, and the count is time; so
 * a method pays for what it computes, whatever it is. */
#ifndef SIM_METER_H
#define SIM_METER_H

#include "fl/algo.h"
#include "sim/pace.h"

typedef struct {
    fl_oracle f; /* what is measured */
    const sim_pace *pace;
    uint32_t client, draw, trials;
    double now;     /* when the work begins */
    double samples; /* evaluated, attempts apart */
    double spent;   /* seconds in attempts */
} meter;

/* *out measures f in m, which it points to. */
void meter_begin(meter *m, const fl_oracle *f, fl_oracle *out);
double meter_seconds(const meter *m);

#endif
