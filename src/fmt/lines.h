/* lines.h - walking text line by line, for the data readers. */
#ifndef FMT_LINES_H
#define FMT_LINES_H

#include "base/base.h"

typedef struct {
    str rest;
    uint32_t number; /* of the line just returned, from 1 */
} lines;

lines lines_of(const void *p, size_t n);     /* a byte order mark is skipped */
bool lines_next(lines *l, str *line);        /* without its line end         */
size_t lines_count(const void *p, size_t n); /* an upper bound               */
str lines_skip_bom(str s);
str lines_trim(str s);                                   /* spaces, tabs, line ends      */
void lines_name(char *out, size_t cap, uint32_t number); /* "data: line 7" */

#endif
