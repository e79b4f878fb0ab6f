/* kern.c - fills the kernel table: references first, then a ladder of instruction sets.
 *
 * A set counts only when the CPU has it, the kernel saves its registers, and the sets it
 * builds on are in use too: masking avx2 masks everything above it, so each mask is a
 * machine that exists. */
#include "kern/kern.h"
#include "kern/attn.h"
#include "kern/gemm.h"
#include "kern/qmat.h"
#include "kern/vec.h"

#include <stdlib.h>

/* A rung, what it is called, and what it stands on. */
static const struct {
    unsigned flag, needs;
    const char *name;
} rungs[] = {
    {CPU_AVX2, 0, "avx2"},
    {CPU_AVXVNNI, CPU_AVX2, "avxvnni"},
    {CPU_AVX512, CPU_AVX2, "avx512"},
    {CPU_VNNI, CPU_AVX512, "vnni"},
    {CPU_AMX, CPU_AVX512 | CPU_VNNI, "amx"},
    {CPU_NEON, 0, "neon"},
    {CPU_DOTPROD, CPU_NEON, "dotprod"},
    {CPU_I8MM, CPU_DOTPROD, "i8mm"},
};

#if !defined(__x86_64__) && !defined(__aarch64__)
unsigned kern_cpu_flags(void) { return 0; }
#endif

/* Bits of the sets named in a list such as "avx512,amx"; unknown names are no sets. */
static unsigned flags_named(const char *list)
{
    unsigned flags = 0;
    while (list && *list) {
        size_t n = strcspn(list, ", ");
        for (size_t i = 0; i < countof(rungs); i++)
            if (str_is((str){list, n}, rungs[i].name))
                flags |= rungs[i].flag;
        list += n + (list[n] != 0);
    }
    return flags;
}

static unsigned usable(unsigned flags)
{
    for (size_t i = 0; i < countof(rungs); i++) /* bases come before what needs them */
        if ((flags & rungs[i].needs) != rungs[i].needs)
            flags &= ~rungs[i].flag;
    return flags;
}

static void climb(kern *k)
{
#if defined(__x86_64__)
    if (k->flags & CPU_AVX2)
        vec_avx2(k);
    if (k->flags & CPU_AVX512)
        vec_avx512(k);
#elif defined(__aarch64__)
    if (k->flags & CPU_NEON)
        vec_neon(k);
#else
    (void)k;
#endif
}

void kern_init(kern *k, unsigned mask)
{
    unsigned flags = kern_cpu_flags();
    k->flags =
        usable(mask ? flags & mask : flags & ~flags_named(getenv("OCTOMIL_CPU_MASK")));
    vec_c(k);
    climb(k);
    k->gemm = gemm_kernels_for(k->flags);
    k->qmat = qmat_kernels_for(k->flags);
    k->attn = attn_kernels_for(k->flags);
}

void kern_flag_names(unsigned flags, char *out, size_t cap)
{
    size_t used = 0;
    if (cap)
        out[0] = 0;
    for (size_t i = 0; i < countof(rungs); i++) {
        size_t n = strlen(rungs[i].name);
        if (!(flags & rungs[i].flag) || used + n + 2 > cap)
            continue;
        if (used)
            out[used++] = ' ';
        memcpy(out + used, rungs[i].name, n + 1);
        used += n;
    }
}
