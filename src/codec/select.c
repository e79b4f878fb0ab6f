/* select.c - the K largest magnitudes of a vector, exactly.
 *
 * O(d) and no copy of x: the bits of |x| order like unsigned integers, so three counting
 * passes over 11, 10 and 10 bits find the exact K-th largest magnitude. */
#include "codec/sparse.h"

enum { TOP_BINS = 2048, LOW_BINS = 1024, BANKS = 4, MANY = 16384 };
_Static_assert(SELECT_BYTES >= arena_bytes(size_t, TOP_BINS *BANKS), "the counters fit");

/* The bin, from the top, where the running count reaches *want; *want becomes what is
 * still to be found inside it. */
static uint32_t bin_of(const size_t *count, uint32_t bins, size_t *want)
{
    uint32_t b = bins - 1;
    while (count[b] < *want)
        *want -= count[b--];
    return b;
}

/* Among the magnitudes that start with `prefix` above bit `shift` + 10, which ten bits
 * come next in the threshold? */
static uint32_t narrow(const float *x, size_t d, uint32_t prefix, unsigned shift,
                       size_t *count, size_t *want)
{
    memset(count, 0, LOW_BINS * sizeof(*count));
    for (size_t i = 0; i < d; i++) {
        uint32_t m = select_magnitude(x[i]);
        if (m >> (shift + 10) == prefix)
            count[m >> shift & (LOW_BINS - 1)]++;
    }
    return prefix << 10 | bin_of(count, LOW_BINS, want);
}

bool select_threshold(const float *x, size_t d, size_t k, arena scratch, uint32_t *t,
                      size_t *ties)
{
    /* Neighbours often fall in one bin (zeros do): a bank each, so that an addition does
     * not wait for the one before. */
    size_t banks = d < MANY ? 1 : BANKS, i = 0;
    size_t *count = arena_new(&scratch, size_t, TOP_BINS * banks);
    for (; banks > 1 && i + BANKS <= d; i += BANKS)
        for (size_t b = 0; b < BANKS; b++)
            count[b * TOP_BINS + (select_magnitude(x[i + b]) >> 20)]++;
    for (; i < d; i++)
        count[select_magnitude(x[i]) >> 20]++;
    for (size_t b = 0; b < TOP_BINS; b++)
        for (size_t n = 1; n < banks; n++)
            count[b] += count[n * TOP_BINS + b];
    for (size_t b = 0x7f8; b < TOP_BINS; b++) /* exponent 255 */
        if (count[b])
            return false;
    *ties = k;
    uint32_t prefix = bin_of(count, TOP_BINS, ties);
    prefix = narrow(x, d, prefix, 10, count, ties);
    *t = narrow(x, d, prefix, 0, count, ties);
    return true;
}
