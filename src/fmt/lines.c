/* lines.c - see lines.h. */
#include "fmt/lines.h"

#include <stdio.h>

str lines_skip_bom(str s)
{
    return str_starts(s, "\xef\xbb\xbf") ? (str){s.p + 3, s.n - 3} : s;
}

lines lines_of(const void *p, size_t n) { return (lines){lines_skip_bom((str){p, n}), 0}; }

bool lines_next(lines *l, str *line)
{
    if (l->rest.n == 0)
        return false;
    const char *end = memchr(l->rest.p, '\n', l->rest.n);
    size_t n = end ? (size_t)(end - l->rest.p) : l->rest.n;
    size_t used = n + (end != NULL);
    *line = (str){l->rest.p, n};
    if (n && line->p[n - 1] == '\r')
        line->n--;
    l->rest = (str){l->rest.p + used, l->rest.n - used};
    l->number++;
    return true;
}

size_t lines_count(const void *p, size_t n)
{
    const char *c = p;
    size_t count = 1;
    for (size_t i = 0; i < n; i++)
        count += c[i] == '\n';
    return count;
}

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

str lines_trim(str s)
{
    while (s.n && is_space(s.p[s.n - 1]))
        s.n--;
    while (s.n && is_space(s.p[0]))
        s = (str){s.p + 1, s.n - 1};
    return s;
}

void lines_name(char *out, size_t cap, uint32_t number)
{
    snprintf(out, cap, "data: line %u", number);
}
