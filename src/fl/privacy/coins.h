/* coins.h - random numbers for privacy: unpredictable, and exact.
 *
 * Noise that hides a person must not be guessed, so its bits come from ChaCha20 (RFC 8439)
 * under a secret key, never from the counters that everyone knows.  And its distribution
 * must be what the proof says: floating-point samplers give some values never and others
 * too often, which betrays what was added (Mironov, CCS 2012).  All samplers here work on
 * integers, with coins of rational bias, and are exact (Canonne, Kamath, Steinke, NeurIPS
 * 2020, arXiv 2004.00010). */
#ifndef FL_PRIVACY_COINS_H
#define FL_PRIVACY_COINS_H

#include "base/base.h"

typedef struct {
    uint32_t key[8], nonce[3], counter;
    uint32_t word[16];
    unsigned used; /* words of `word` */
    uint64_t bits; /* single coins */
    unsigned n_bits;
} coins;

/* The stream of (secret, use, round): SHA-256 of the three is the key. */
coins coins_of(const uint8_t secret[32], uint64_t seed, uint32_t round, uint32_t use);
void coins_block(const uint32_t key[8], uint32_t counter, const uint32_t nonce[3],
                 uint32_t out[16]);
uint64_t coins_u64(coins *c);
uint64_t coins_below(coins *c, uint64_t n); /* uniform in [0, n), n > 0 */

/* True with chance exp(-num/den). */
bool coins_exp(coins *c, uint64_t num, uint64_t den);
/* P(y) ~ exp(-|y| / t) over the integers, t >= 1 whole. */
int64_t coins_laplace(coins *c, uint64_t t);
/* P(y) ~ exp(-y^2 / (2 var)) over the integers, var = num / den with num <= 2^42 and den <=
 * 1024: discrete Gaussian. */
int64_t coins_gaussian(coins *c, uint64_t num, uint64_t den);
/* P(y) = e^-mean mean^y / y!; mean below 2^31.  Some 5 sqrt(mean) coins. */
uint64_t coins_poisson(coins *c, uint64_t mean);
/* The difference of two Poisson numbers of mean var / 2 each; var even. */
int64_t coins_skellam(coins *c, uint64_t var);

#endif
