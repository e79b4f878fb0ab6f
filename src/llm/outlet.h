/* outlet.h - text on its way out: shown in whole characters, and never the beginning of a
 * stop string that may still become one. */
#ifndef LLM_OUTLET_H
#define LLM_OUTLET_H

#include "base/base.h"

typedef struct {
    buf text;        /* everything said so far; growing, the owner's to free */
    size_t ready;    /* bytes of it that may be shown; never shrinks */
    const str *stop; /* (n_stop) none empty */
    uint32_t n_stop;
    bool stopped;    /* a stop string came: the text ends before it */
} outlet;

om_status outlet_put(outlet *o, str piece);
void outlet_end(outlet *o); /* nothing follows: all of it may be shown */

#endif
