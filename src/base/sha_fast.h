/* sha_fast.h - between hash.c and sha_fast.c only. */
#ifndef BASE_SHA_FAST_H
#define BASE_SHA_FAST_H

#include "base/base.h"

/* n blocks of 64 bytes into h with the round constants k; false, h untouched, when this
 * CPU has no instructions for it. */
bool sha256_blocks_fast(uint32_t h[8], const uint8_t *p, size_t n, const uint32_t k[64]);

#endif
