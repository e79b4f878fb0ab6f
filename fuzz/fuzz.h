/* fuzz.h - what every fuzz target includes.
 *
 * A target is one file fuzz/<name>.c with LLVMFuzzerTestOneInput and a folder
 * fuzz/corpus/<name>/ of small inputs (each below 4 KB).  Nothing else is to be listed:
 *     make fuzz      builds it with libFuzzer under address and undefined sanitizers
 *     make test      runs test_fuzz_<name>: the corpus, then mutations of it for a moment
 * A target fails by crashing: a sanitizer's report, or FUZZ_CHECK of a law that must hold
 * for any input (what was accepted is written and read back unchanged, and the like). */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

#include "base/base.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define FUZZ_CHECK(cond) BUG_IF(!(cond))

/* A heap block of exactly n bytes, aligned as malloc does, so that a sanitizer sees a
 * read beyond it.  free() it. */
static inline uint8_t *fuzz_copy(const uint8_t *data, size_t n)
{
    uint8_t *p = malloc(n ? n : 1);
    FUZZ_CHECK(p);
    if (n)
        memcpy(p, data, n);
    return p;
}

/* Read all bytes of p, so that a view that leads outside is noticed. */
static inline void fuzz_touch(const void *p, size_t n)
{
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum = (uint8_t)(sum + ((const uint8_t *)p)[i]);
    (void)sum;
}

#endif
