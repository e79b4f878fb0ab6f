/* cpu_arm.c - what an Arm CPU and its kernel offer, from the auxiliary vector.
 * Bit numbers are those of the kernel's Documentation/arm64/elf_hwcaps.rst. */
#include "kern/kern.h"

#include <sys/auxv.h>

unsigned kern_cpu_flags(void)
{
    unsigned flags = CPU_NEON; /* part of every 64-bit Arm */
    if (getauxval(AT_HWCAP) >> 20 & 1)
        flags |= CPU_DOTPROD;
    if (getauxval(AT_HWCAP2) >> 13 & 1)
        flags |= CPU_I8MM;
    return flags;
}
