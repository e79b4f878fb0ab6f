/* mem.c - the one allocation door, and arenas.
 *
 * Blocks are zeroed and 64-byte aligned, so that a vector load never straddles a
 * cache line at the start of a tensor.  Under OM_FAULTS a thread can ask for its
 * n-th allocation to fail: the tests walk n until nothing fails any more. */
#include "base/base.h"

#include <stdlib.h>

#ifdef OM_FAULTS
static _Thread_local long fail_in_n, made;

void mem_fail_at(long nth)
{
    fail_in_n = nth;
    made = 0;
}

long mem_count(void) { return made; }

static bool refuse(void)
{
    made++;
    return fail_in_n > 0 && --fail_in_n == 0;
}
#else
static bool refuse(void) { return false; }
#endif

void *mem_alloc(size_t n)
{
    size_t rounded;
    if (refuse() || !size_add(n ? n : 1, 63, &rounded))
        return NULL;
    rounded &= ~(size_t)63;
    /* The memset also commits the pages now: running out later would be a crash. */
    void *p = NULL;
    if (posix_memalign(&p, 64, rounded) != 0)
        return NULL;
    return memset(p, 0, rounded);
}

void *mem_array(size_t count, size_t size)
{
    size_t n;
    return size_mul(count, size, &n) ? mem_alloc(n) : NULL;
}

void *mem_grow(void *p, size_t old_n, size_t new_n)
{
    void *q = mem_alloc(new_n);
    if (!q)
        return NULL;
    if (p)
        memcpy(q, p, size_min(old_n, new_n));
    mem_free(p);
    return q;
}

void mem_free(void *p) { free(p); }

char *mem_strdup(str s)
{
    size_t n;
    char *z = size_add(s.n, 1, &n) ? mem_alloc(n) : NULL;
    if (z && s.n)
        memcpy(z, s.p, s.n);
    return z;
}

void *arena_alloc(arena *a, size_t size, size_t align, size_t count)
{
    size_t pad = -(uintptr_t)a->beg & (align - 1);
    size_t left = (size_t)(a->end - a->beg);
    BUG_IF(pad > left || (size && count > (left - pad) / size));
    char *p = a->beg + pad;
    a->beg = p + count * size;
    return memset(p, 0, count * size);
}
