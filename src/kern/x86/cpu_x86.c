/* cpu_x86.c - what an x86 CPU and its kernel offer.
 *
 * A set needs its CPUID bits and, in XCR0, the kernel's promise to save its registers.
 * AMX needs one thing more: Linux gives a process the 8 KB of tile state only when it
 * asks (arch_prctl ARCH_REQ_XCOMP_PERM, Linux 5.16); asking again is harmless, and the
 * answer holds for threads started later.  Bits are from Intel's Software Developer's
 * Manual, volume 2, CPUID leaf 7. */
#define _GNU_SOURCE
#include "kern/kern.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };

static bool has(unsigned word, unsigned bits) { return (word & bits) == bits; }
static unsigned bit(int i) { return 1u << i; }

static unsigned xcr0(void)
{
    unsigned lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo;
}

static bool tiles_granted(void)
{
#if defined(__linux__)
    return syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA) == 0;
#else
    return false;
#endif
}

unsigned kern_cpu_flags(void)
{
    unsigned a, b, c, d, c1, b7, c7, d7, a71 = 0, flags = 0;
    if (!__get_cpuid(1, &a, &b, &c1, &d) || !has(c1, bit(27) | bit(28)))
        return 0; /* no XSAVE or no AVX */
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7))
        return 0;
    if (a >= 1)
        __get_cpuid_count(7, 1, &a71, &b, &c, &d);
    unsigned os = xcr0();
    bool ymm = has(os, 6), zmm = ymm && has(os, 0xe0), tmm = zmm && has(os, 3u << 17);
    if (ymm && has(c1, bit(12) | bit(29)) &&
        has(b7, bit(5) | bit(8))) /* FMA F16C AVX2 BMI2 */
        flags |= CPU_AVX2;
    if (ymm && has(a71, bit(4)))
        flags |= CPU_AVXVNNI;
    if (zmm && has(b7, bit(16) | bit(17) | bit(28) | bit(30) | bit(31))) /* F DQ CD BW VL */
        flags |= CPU_AVX512;
    if (zmm && has(c7, bit(1) | bit(6) | bit(11))) /* VBMI VBMI2 VNNI */
        flags |= CPU_VNNI;
    if (tmm && has(d7, bit(22) | bit(24) | bit(25)) && has(a71, bit(5)) && tiles_granted())
        flags |= CPU_AMX; /* AMX-BF16 TILE INT8, AVX512-BF16 */
    return flags;
}
