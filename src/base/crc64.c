/* crc64.c - CRC-64/NVME: what tells an update that arrived whole from one that did not.
 *
 * The polynomial of the NVM Express command set, ad93d23594c93659, reflected, starting
 * from and finished with all ones; the check value of "123456789" is ae8b14860a799888
 * (the catalogue of Cook, and the vectors of the NVMe specification).  It finds every
 * burst of up to 64 bits and lets 2^-64 of all other damage pass.  It is no defence
 * against somebody who wants a collision: names of content are SHA-256.
 *
 * Three ways to the same number: a table of 16 entries, four bits at a time, is the
 * reference and serves short runs; eight tables made on the stack serve long ones
 * anywhere; on x86 the carry-less product folds 64 bytes at a time (Gopal and others,
 * "Fast CRC computation for generic polynomials using PCLMULQDQ", Intel 2009), some
 * fifteen times SHA-256 by the CPU's own instructions.
 *
 * FOLDING.  A message is a polynomial; of two halves a, b that stand D bits apart,
 * a x^D + b can be replaced by a (x^D mod P) + b without changing the remainder.  Four
 * accumulators of 128 bits are so carried over the message; each needs x^D mod P for its
 * two halves, which lie 64 bits apart.  In reflected bits a product comes out one place
 * low, hence the exponents less one: x^(D+63) and x^(D-1). */
#include "base/base.h"

static const uint64_t nibble[16] = {
    0x0000000000000000, 0x78e0ff3b88be6f81, 0xf1c1fe77117cdf02, 0x8921014c99c2b083,
    0xd75adabd7a6e2d6f, 0xafba2586f2d042ee, 0x269b24ca6b12f26d, 0x5e7bdbf1e3ac9dec,
    0x9a6c9329ac4bc9b5, 0xe28c6c1224f5a634, 0x6bad6d5ebd3716b7, 0x134d926535897936,
    0x4d364994d625e4da, 0x35d6b6af5e9b8b5b, 0xbcf7b7e3c7593bd8, 0xc41748d84fe75459,
};

static uint64_t one_byte(uint64_t r, uint8_t b)
{
    r ^= b;
    r = nibble[r & 15] ^ r >> 4;
    return nibble[r & 15] ^ r >> 4;
}

static uint64_t by_nibbles(uint64_t r, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        r = one_byte(r, p[i]);
    return r;
}

/* table[k][b]: the byte b followed by k zero bytes. */
static uint64_t by_slices(uint64_t r, const uint8_t *p, size_t n)
{
    uint64_t table[8][256];
    for (unsigned b = 0; b < 256; b++) {
        table[0][b] = one_byte(0, (uint8_t)b);
        for (int k = 1; k < 8; k++)
            table[k][b] = one_byte(table[k - 1][b], 0);
    }
    for (; n >= 8; p += 8, n -= 8) {
        for (int i = 0; i < 8; i++)
            r ^= (uint64_t)p[i] << 8 * i;
        uint64_t next = 0;
        for (int i = 0; i < 8; i++)
            next ^= table[7 - i][r >> 8 * i & 255];
        r = next;
    }
    return by_nibbles(r, p, n);
}

enum { SHORT = 1 << 12 }; /* below this, making the tables costs more than they save */

static uint64_t portable(uint64_t r, const uint8_t *p, size_t n)
{
    return n < SHORT ? by_nibbles(r, p, n) : by_slices(r, p, n);
}

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

/* A cache of a fact about the machine, as in sha_fast.c: asking costs microseconds under
 * a hypervisor.  Every thread would write the same value. */
static bool have_clmul(void)
{
    static atomic_int known; /* 0: not asked, 1: no, 2: yes */
    int k = atomic_load_explicit(&known, memory_order_relaxed);
    if (k == 0) {
        unsigned a, b, c = 0, d;
        k = __get_cpuid(1, &a, &b, &c, &d) && (c >> 1 & 1) ? 2 : 1;
        atomic_store_explicit(&known, k, memory_order_relaxed);
    }
    return k == 2;
}

#define TARGET __attribute__((target("pclmul")))

TARGET static inline __m128i load(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

/* a x^D + b; k holds x^(D+63) mod P below and x^(D-1) mod P above. */
TARGET static inline __m128i fold(__m128i a, __m128i k, __m128i b)
{
    __m128i low = _mm_clmulepi64_si128(a, k, 0x00), high = _mm_clmulepi64_si128(a, k, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), b);
}

/* n: a multiple of 64, at least 64. */
TARGET static uint64_t by_folding(uint64_t r, const uint8_t *p, size_t n)
{
    const __m128i k512 =
        _mm_set_epi64x(UINT64_C(0x62242240ace5045a), UINT64_C(0x0c32cdb31e18a84a));
    const __m128i k128 = _mm_set_epi64x(UINT64_C(0x21e9761e252621ac),
                                        (int64_t)UINT64_C(0xeadc41fd2ba3d420));
    uint8_t rest[16];
    __m128i a = _mm_xor_si128(load(p), _mm_cvtsi64_si128((int64_t)r)), b = load(p + 16);
    __m128i c = load(p + 32), d = load(p + 48);
    for (p += 64, n -= 64; n; p += 64, n -= 64) {
        a = fold(a, k512, load(p));
        b = fold(b, k512, load(p + 16));
        c = fold(c, k512, load(p + 32));
        d = fold(d, k512, load(p + 48));
    }
    d = fold(fold(fold(a, k128, b), k128, c), k128, d);
    _mm_storeu_si128((__m128i *)(void *)rest, d);
    return by_nibbles(0, rest, sizeof(rest));
}

static uint64_t long_run(uint64_t r, const uint8_t *p, size_t n)
{
    if (!have_clmul() || n < 64)
        return portable(r, p, n);
    size_t whole = n & ~(size_t)63;
    return by_nibbles(by_folding(r, p, whole), p + whole, n - whole);
}

#else

static uint64_t long_run(uint64_t r, const uint8_t *p, size_t n) { return portable(r, p, n); }

#endif

uint64_t crc64(uint64_t crc, const void *p, size_t n) { return ~long_run(~crc, p, n); }

uint64_t crc64_portable(uint64_t crc, const void *p, size_t n)
{
    return ~portable(~crc, p, n);
}
