/* names.c - see names.h.  Heap sort: no memory, no bad input. */
#include "fmt/names.h"

static str name_at(const names *t, uint32_t position)
{
    const char *record = (const char *)t->base + (size_t)position * t->stride;
    return *(const str *)(const void *)record;
}

static int compare(str a, str b)
{
    size_t n = size_min(a.n, b.n);
    int c = n ? memcmp(a.p, b.p, n) : 0;
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

static void sift_down(const names *t, size_t at, size_t n)
{
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= n)
            return;
        if (child + 1 < n &&
            compare(name_at(t, t->order[child]), name_at(t, t->order[child + 1])) < 0)
            child++;
        if (compare(name_at(t, t->order[at]), name_at(t, t->order[child])) >= 0)
            return;
        uint32_t swap = t->order[at];
        t->order[at] = t->order[child];
        t->order[child] = swap;
        at = child;
    }
}

void names_sort(const names *t)
{
    for (uint32_t i = 0; i < t->n; i++)
        t->order[i] = i;
    for (size_t i = t->n / 2; i-- > 0;)
        sift_down(t, i, t->n);
    for (size_t n = t->n; n > 1; n--) {
        uint32_t largest = t->order[0];
        t->order[0] = t->order[n - 1];
        t->order[n - 1] = largest;
        sift_down(t, 0, n - 1);
    }
}

uint32_t names_find(const names *t, str name)
{
    uint32_t beg = 0, end = t->n;
    while (beg < end) {
        uint32_t mid = beg + (end - beg) / 2;
        int c = compare(name_at(t, t->order[mid]), name);
        if (c == 0)
            return t->order[mid];
        if (c < 0)
            beg = mid + 1;
        else
            end = mid;
    }
    return t->n;
}

uint32_t names_first_double(const names *t)
{
    for (uint32_t i = 1; i < t->n; i++)
        if (str_eq(name_at(t, t->order[i - 1]), name_at(t, t->order[i])))
            return t->order[i];
    return t->n;
}

bool name_is_sane(str name, size_t most)
{
    if (name.n == 0 || name.n > most)
        return false;
    while (name.n) {
        uint32_t code = 0;
        size_t len = utf8_take(name, &code);
        if (len == 0 || code < 0x20 || code == 0x7f)
            return false;
        name = (str){name.p + len, name.n - len};
    }
    return true;
}
