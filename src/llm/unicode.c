/* unicode.c - see unicode.h.  The class of a character is found by binary search among
 * the places where the class changes; ASCII, most of most texts, comes from a table. */
#include "llm/unicode.h"

#define O UNI_OTHER
#define C UNI_CASED
#define N UNI_NUMBER
#define P UNI_PUNCT
#define S UNI_SYMBOL
#define W UNI_SPACE
static const uint8_t ascii[128] = {
    O, O, O, O, O, O, O, O, O, W, W, W, W, W, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O,
    W, P, P, P, S, P, P, P, P, P, P, S, P, P, P, P, N, N, N, N, N, N, N, N, N, N, P, P, S, S, S, P,
    P, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, P, P, P, S, P,
    S, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, C, P, S, P, S, O};
#undef O
#undef C
#undef N
#undef P
#undef S
#undef W

unicode_class unicode_class_of(uint32_t cp)
{
    if (cp < 128)
        return (unicode_class)ascii[cp];
    if (cp >= 0x110000)
        return UNI_OTHER;
    uint32_t lo = 0, hi = unicode_run_count; /* runs[lo] begins at or before cp */
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (unicode_runs[mid] >> 3 <= cp)
            lo = mid;
        else
            hi = mid;
    }
    return (unicode_class)(unicode_runs[lo] & 7);
}

static bool tail(const uint8_t *p, uint32_t n, uint32_t *cp)
{
    for (uint32_t i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return false;
        *cp = *cp << 6 | (p[i] & 0x3F);
    }
    return true;
}

uint32_t unicode_at(const uint8_t *p, const uint8_t *end, uint32_t *len)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    uint8_t b = p[0];
    *len = 1;
    if (b < 0x80)
        return b;
    uint32_t n = b >= 0xF0 ? 4 : b >= 0xE0 ? 3 : 2;
    uint32_t cp = b & (0x7Fu >> n);
    if (b < 0xC2 || b > 0xF4 || (size_t)(end - p) < n || !tail(p, n, &cp))
        return UNICODE_BAD + b;
    if (cp < least[n] || cp >= 0x110000 || (cp >= 0xD800 && cp < 0xE000))
        return UNICODE_BAD + b;
    *len = n;
    return cp;
}

uint32_t unicode_put(uint32_t cp, uint8_t out[4])
{
    if (cp < 0x80) {
        out[0] = (uint8_t)cp;
        return 1;
    }
    uint32_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    static const uint8_t lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (uint32_t i = n - 1; i > 0; i--, cp >>= 6)
        out[i] = (uint8_t)(0x80 | (cp & 0x3F));
    out[0] = (uint8_t)(lead[n] | cp);
    return n;
}
