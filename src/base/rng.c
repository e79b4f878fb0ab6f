/* rng.c - counter-based random numbers.
 *
 * value(i) = mix(key + i * golden), with mix the splitmix64 finaliser of Steele, Lea
 * and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.  The key
 * is itself mixed from (seed, round, client, use), so streams do not overlap and no
 * state is shared between threads. */
#include "base/base.h"

#include <math.h>

#define GOLDEN UINT64_C(0x9e3779b97f4a7c15)

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

rng rng_for(uint64_t seed, uint32_t round, uint32_t client, uint32_t use)
{
    uint64_t k = mix(seed + GOLDEN);
    k = mix(k ^ ((uint64_t)round << 32 | client));
    return (rng){.key = mix(k + GOLDEN * (1 + (uint64_t)use)), .ctr = 0};
}

uint64_t rng_at(const rng *r, uint64_t i) { return mix(r->key + GOLDEN * (i + 1)); }

uint64_t rng_u64(rng *r) { return rng_at(r, r->ctr++); }

uint32_t rng_below(rng *r, uint32_t n)
{
    BUG_IF(n == 0);
    uint32_t floor = -n % n; /* 2^32 mod n: low products below it are the biased ones */
    for (;;) {
        uint64_t m = (rng_u64(r) >> 32) * n;
        if ((uint32_t)m >= floor)
            return (uint32_t)(m >> 32);
    }
}

double rng_unit(rng *r) { return (double)(rng_u64(r) >> 11) * 0x1p-53; }

double rng_normal(rng *r)
{
    double u = 1.0 - rng_unit(r); /* (0,1]: the logarithm stays finite */
    double v = rng_unit(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586477 * v);
}

static uint32_t half(uint64_t key, uint32_t round, uint32_t v, uint32_t mask)
{
    rng r = {.key = key + round, .ctr = 0};
    return (uint32_t)(rng_at(&r, v) >> 32) & mask;
}

/* A Feistel network over the smallest even number of bits that holds n - 1, walked until
 * the value falls below n (Black and Rogaway, CT-RSA 2002).  Seven rounds: with four, a
 * chi-square test over keys still sees the walk for n below 20. */
uint64_t rng_pick(uint64_t key, uint64_t n, uint64_t i)
{
    BUG_IF(i >= n || n > UINT64_C(1) << 62);
    unsigned w = 1;
    while ((n - 1) >> 2 * w)
        w++;
    uint32_t mask = (uint32_t)((UINT64_C(1) << w) - 1);
    do {
        uint32_t left = (uint32_t)(i >> w) & mask, right = (uint32_t)i & mask;
        for (uint32_t round = 0; round < 7; round++) {
            uint32_t next = left ^ half(key, round, right, mask);
            left = right;
            right = next;
        }
        i = (uint64_t)left << w | right;
    } while (i >= n);
    return i;
}
