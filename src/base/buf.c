/* buf.c - bytes out (buf) and bytes in (cursor). */
#include "base/base.h"

#include <stdio.h>

void buf_free(buf *b)
{
    if (b->limit)
        mem_free(b->data);
    *b = (buf){.limit = b->limit};
}

om_status buf_reserve(buf *b, size_t more)
{
    if (more <= b->cap - b->len)
        return OM_OK;
    if (b->limit == 0 || more > b->limit - size_min(b->limit, b->len))
        return OM_ELIMIT;
    size_t need = b->len + more;
    size_t want = size_max(need, size_min(b->cap * 2 + 256, b->limit));
    uint8_t *p = mem_grow(b->data, b->len, want);
    if (!p)
        return OM_ENOMEM;
    b->data = p;
    b->cap = want;
    return OM_OK;
}

om_status buf_put(buf *b, const void *src, size_t n)
{
    TRY(buf_reserve(b, n));
    if (n)
        memcpy(b->data + b->len, src, n);
    b->len += n;
    return OM_OK;
}

static om_status put_le(buf *b, uint64_t v, size_t n)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)(v >> (8 * i));
    return buf_put(b, bytes, n);
}

om_status buf_u8(buf *b, uint8_t v) { return put_le(b, v, 1); }
om_status buf_u16(buf *b, uint16_t v) { return put_le(b, v, 2); }
om_status buf_u32(buf *b, uint32_t v) { return put_le(b, v, 4); }
om_status buf_u64(buf *b, uint64_t v) { return put_le(b, v, 8); }

om_status buf_f32(buf *b, float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    return buf_u32(b, u);
}

om_status buf_str(buf *b, str s) { return buf_put(b, s.p, s.n); }

om_status buf_fmt(buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        return OM_EARG;
    TRY(buf_reserve(b, (size_t)n + 1)); /* vsnprintf writes a NUL; len skips it */
    va_start(ap, fmt);
    vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
    return OM_OK;
}

const uint8_t *cursor_take(cursor *c, size_t n)
{
    if (!c->ok || n > c->n - c->pos) {
        c->ok = false;
        return NULL;
    }
    const uint8_t *p = c->p + c->pos;
    c->pos += n;
    return p;
}

static uint64_t take_le(cursor *c, size_t n)
{
    const uint8_t *p = cursor_take(c, n);
    uint64_t v = 0;
    for (size_t i = 0; p && i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

uint8_t cursor_u8(cursor *c) { return (uint8_t)take_le(c, 1); }
uint16_t cursor_u16(cursor *c) { return (uint16_t)take_le(c, 2); }
uint32_t cursor_u32(cursor *c) { return (uint32_t)take_le(c, 4); }
uint64_t cursor_u64(cursor *c) { return take_le(c, 8); }

float cursor_f32(cursor *c)
{
    uint32_t u = cursor_u32(c);
    float v;
    memcpy(&v, &u, 4);
    return v;
}
