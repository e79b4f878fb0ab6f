/* outlet.c - see outlet.h. */
#include "llm/outlet.h"

/* Bytes at the end of p[0..n) that begin a character but do not finish it. */
static size_t unfinished(const uint8_t *p, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        uint8_t c = p[n - back];
        if ((c & 0xc0) == 0x80)
            continue;
        size_t whole = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        return whole > back ? back : 0;
    }
    return 0;
}

/* Where the earliest stop string begins at or after `from`; SIZE_MAX: nowhere. */
static size_t find_stop(const outlet *o, size_t from)
{
    for (size_t at = from; at < o->text.len; at++)
        for (uint32_t i = 0; i < o->n_stop; i++) {
            str s = o->stop[i];
            if (o->text.len - at >= s.n && memcmp(o->text.data + at, s.p, s.n) == 0)
                return at;
        }
    return SIZE_MAX;
}

/* The longest end of the text that a stop string begins with. */
static size_t held_back(const outlet *o)
{
    size_t held = unfinished(o->text.data, o->text.len);
    for (uint32_t i = 0; i < o->n_stop; i++) {
        str s = o->stop[i];
        for (size_t n = size_min(s.n - 1, o->text.len); n > held; n--)
            if (memcmp(o->text.data + o->text.len - n, s.p, n) == 0) {
                held = n;
                break;
            }
    }
    return held;
}

om_status outlet_put(outlet *o, str piece)
{
    size_t before = o->text.len, longest = 0;
    TRY(buf_put(&o->text, piece.p, piece.n));
    for (uint32_t i = 0; i < o->n_stop; i++)
        longest = size_max(longest, o->stop[i].n);
    size_t stop = find_stop(o, before > longest ? before - longest : 0);
    if (stop != SIZE_MAX) {
        o->text.len = stop;
        o->stopped = true;
        outlet_end(o);
    } else {
        o->ready = size_max(o->ready, o->text.len - held_back(o));
    }
    return OM_OK;
}

void outlet_end(outlet *o) { o->ready = o->text.len; }
