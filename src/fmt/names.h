/* names.h - finding a record by name, for the tables read from files.
 *
 * An order array sorted by name and binary search, because a hash table of names that
 * an enemy chose can be made as slow as a list.  The records start with a `str`. */
#ifndef FMT_NAMES_H
#define FMT_NAMES_H

#include "base/base.h"

typedef struct {
    const void *base; /* n records of `stride` bytes, each beginning with its str name */
    size_t stride;
    uint32_t n;
    uint32_t *order; /* n positions, the caller's memory */
} names;

void names_sort(const names *t);               /* fills order; heap sort, n log n */
uint32_t names_find(const names *t, str name); /* position, or n when absent      */
uint32_t names_first_double(const names *t);   /* position of a name met twice, or n */
/* 1 to `most` bytes of UTF-8 without control characters. */
bool name_is_sane(str name, size_t most);

#endif
