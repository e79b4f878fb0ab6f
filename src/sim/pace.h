/* pace.h - how fast simulated devices and their network are: every time a simulation knows.
 *
 *     a client's work on m samples   compute * speed_i * X / swing_i(t) * m   seconds
 *     b bytes up (down)              latency + 8e-6 b / (uplink * rate_i)     seconds
 *
 *     speed_i   equal 1;  ladder (i + 1)^spread;  lognormal exp(spread N_i);
 *               power U_i^-spread, a Pareto law of shape 1 / spread   (once a client)
 *     X         none 1;  lognormal exp(size N);  power U^-size  (each piece of work anew)
 *     swing_i   1 + swing sin(2 pi (t / period + phase_i)), at the time the work begins
 *     rate_i    exp(network.spread N_i)
 *
 * With spread, size, swing and network.spread 0 all clients are alike.  Times are a function
 * of the seed and of what they are for, never of the order in which they are asked. */
#ifndef SIM_PACE_H
#define SIM_PACE_H

#include "base/base.h"

enum { PACE_EQUAL, PACE_LADDER, PACE_LOGNORMAL, PACE_POWER };
#define PACE_SPEEDS "equal|ladder|lognormal|power"
enum { PACE_STEADY, PACE_JITTER_LOGNORMAL, PACE_JITTER_POWER };
#define PACE_JITTERS "none|lognormal|power"

typedef struct {
    double compute; /* seconds of the median device for one sample's gradient */
    int speed;      /* PACE_EQUAL .. */
    double spread;
    int jitter; /* PACE_STEADY .. */
    double jitter_size;
    double period, swing;              /* seconds (0: none), 0 to below 1 */
    double uplink, downlink;           /* Mbit/s; 0: no time at all */
    double latency, network_spread;
    uint64_t seed;
} sim_pace;

/* Could two clients differ, or one client from day to day? */
bool pace_varies(const sim_pace *p);
/* Seconds for so many samples, begun at `now`: draw and part name the piece of work. */
double pace_work(const sim_pace *p, uint32_t client, uint32_t draw, uint32_t part,
                 double samples, double now);
double pace_up(const sim_pace *p, uint32_t client, size_t bytes);
double pace_down(const sim_pace *p, uint32_t client, size_t bytes);
/* Of X, the swing apart: seconds within which `part` of such works is done; the part that
 * is done within these seconds. */
double pace_quantile(const sim_pace *p, uint32_t client, double samples, double part);
double pace_done(const sim_pace *p, uint32_t client, double samples, double seconds);

#endif
