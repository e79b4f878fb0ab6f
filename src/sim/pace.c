/* pace.c - see pace.h. */
#include "sim/pace.h"

#include <math.h>

enum { USE_SPEED = 0x73706565, USE_JITTER = 0x6a697474, USE_RATE = 0x72617465,
       USE_PHASE = 0x70686173 };

static const double two_pi = 6.283185307179586;

bool pace_varies(const sim_pace *p)
{
    bool computes = p->compute > 0, sends = p->uplink > 0 || p->downlink > 0;
    return (computes && p->speed != PACE_EQUAL && p->spread > 0) ||
           (computes && p->jitter != PACE_STEADY && p->jitter_size > 0) ||
           (computes && p->period > 0 && p->swing > 0) || (sends && p->network_spread > 0);
}

/* U in (0, 1]. */
static double open_unit(rng *r) { return 1 - rng_unit(r); }

static double speed(const sim_pace *p, uint32_t client)
{
    rng r = rng_for(p->seed, 0, client, USE_SPEED);
    switch (p->speed) {
    case PACE_LADDER:
        return pow(1.0 + client, p->spread);
    case PACE_LOGNORMAL:
        return exp(p->spread * rng_normal(&r));
    case PACE_POWER:
        return pow(open_unit(&r), -p->spread);
    default:
        return 1;
    }
}

static double jitter(const sim_pace *p, uint32_t client, uint32_t draw, uint32_t part)
{
    rng r = rng_for(p->seed, draw, client, USE_JITTER + part);
    switch (p->jitter) {
    case PACE_JITTER_LOGNORMAL:
        return exp(p->jitter_size * rng_normal(&r));
    case PACE_JITTER_POWER:
        return pow(open_unit(&r), -p->jitter_size);
    default:
        return 1;
    }
}

static double swing(const sim_pace *p, uint32_t client, double now)
{
    if (!(p->period > 0))
        return 1;
    rng r = rng_for(p->seed, 0, client, USE_PHASE);
    return 1 + p->swing * sin(two_pi * (now / p->period + rng_unit(&r)));
}

double pace_work(const sim_pace *p, uint32_t client, uint32_t draw, uint32_t part,
                 double samples, double now)
{
    if (!(p->compute > 0))
        return 0;
    return p->compute * samples * speed(p, client) * jitter(p, client, draw, part) /
           swing(p, client, now);
}

static double transfer(const sim_pace *p, uint32_t client, double mbit, size_t bytes)
{
    double seconds = p->latency;
    if (mbit > 0 && p->network_spread > 0) {
        rng r = rng_for(p->seed, 0, client, USE_RATE);
        mbit *= exp(p->network_spread * rng_normal(&r));
    }
    return mbit > 0 ? seconds + 8e-6 * (double)bytes / mbit : seconds;
}

double pace_up(const sim_pace *p, uint32_t client, size_t bytes)
{
    return transfer(p, client, p->uplink, bytes);
}

double pace_down(const sim_pace *p, uint32_t client, size_t bytes)
{
    return transfer(p, client, p->downlink, bytes);
}

static double normal_cdf(double z) { return 0.5 * erfc(-z * 0.7071067811865476); }

static double normal_quantile(double part)
{
    double lo = -40, hi = 40;
    for (int i = 0; i < 80; i++) {
        double mid = 0.5 * (lo + hi);
        if (normal_cdf(mid) < part)
            lo = mid;
        else
            hi = mid;
    }
    return 0.5 * (lo + hi);
}

double pace_quantile(const sim_pace *p, uint32_t client, double samples, double part)
{
    double base = p->compute * samples * speed(p, client);
    if (p->jitter == PACE_JITTER_LOGNORMAL)
        return base * exp(p->jitter_size * normal_quantile(part));
    if (p->jitter == PACE_JITTER_POWER)
        return base * pow(1 - part, -p->jitter_size);
    return base;
}

double pace_done(const sim_pace *p, uint32_t client, double samples, double seconds)
{
    double base = p->compute * samples * speed(p, client);
    double x = base > 0 ? seconds / base : (double)INFINITY;
    if (p->jitter == PACE_JITTER_LOGNORMAL && p->jitter_size > 0)
        return normal_cdf(log(x) / p->jitter_size);
    if (p->jitter == PACE_JITTER_POWER && p->jitter_size > 0)
        return x >= 1 ? 1 - pow(x, -1 / p->jitter_size) : 0;
    return x >= 1 ? 1 : 0;
}
