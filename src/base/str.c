/* str.c - string views: prefixes, numbers, UTF-8.
 *
 * Decimal text becomes the nearest double whatever the process's locale says about
 * decimal points: up to 15 digits and small powers of ten are exact in one operation
 * (Clinger 1990); all else goes to strtod as whole digits with an exponent, a form
 * without a point.  768 digits decide every double; those beyond only tell "more". */
#include "base/base.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

bool str_starts(str s, const char *prefix)
{
    size_t n = strlen(prefix);
    return s.n >= n && memcmp(s.p, prefix, n) == 0;
}

bool str_ends(str s, const char *suffix)
{
    size_t n = strlen(suffix);
    return s.n >= n && memcmp(s.p + s.n - n, suffix, n) == 0;
}

bool str_u64(str s, uint64_t *out)
{
    uint64_t v = 0;
    if (s.n == 0)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        uint64_t digit = (uint64_t)(s.p[i] - '0');
        if (v > (UINT64_MAX - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    *out = v;
    return true;
}

enum { DIGITS = 768 };

typedef struct {
    char text[DIGITS + 24]; /* digits, then room for 'e' and the exponent */
    size_t n;               /* digits kept, leading zeros dropped         */
    long exp;               /* value = digits * 10^exp                    */
    bool any, more;         /* a digit was seen; a nonzero one was cut    */
} decimal;

static void add_digit(decimal *d, char c, bool fraction)
{
    d->any = true;
    if (d->n < DIGITS && (d->n || c != '0'))
        d->text[d->n++] = c;
    else if (d->n) {
        d->exp++;
        d->more |= c != '0';
    }
    d->exp -= fraction;
}

/* digits [. digits] [e [sign] digits], all of s. */
static bool parse_decimal(str s, decimal *d)
{
    size_t i = 0;
    for (; i < s.n && s.p[i] >= '0' && s.p[i] <= '9'; i++)
        add_digit(d, s.p[i], false);
    if (i < s.n && s.p[i] == '.')
        for (i++; i < s.n && s.p[i] >= '0' && s.p[i] <= '9'; i++)
            add_digit(d, s.p[i], true);
    if (!d->any || i == s.n || (s.p[i] | 32) != 'e')
        return d->any && i == s.n;
    i++;
    bool minus = i < s.n && s.p[i] == '-';
    i += i < s.n && (s.p[i] == '-' || s.p[i] == '+');
    long e = 0;
    if (i == s.n)
        return false;
    for (; i < s.n && s.p[i] >= '0' && s.p[i] <= '9'; i++)
        e = e < 100000000 ? e * 10 + (s.p[i] - '0') : e;
    d->exp += minus ? -e : e;
    return i == s.n;
}

static double decimal_value(decimal *d)
{
    static const double ten[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                 1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    if (d->n <= 15 && d->exp >= -22 && d->exp <= 22) {
        uint64_t m = 0;
        for (size_t i = 0; i < d->n; i++)
            m = m * 10 + (uint64_t)(d->text[i] - '0');
        return d->exp < 0 ? (double)m / ten[-d->exp] : (double)m * ten[d->exp];
    }
    if (d->n == 0)
        return 0.0;
    if (d->more) { /* a last 1 keeps the value off a tie */
        d->text[d->n++] = '1';
        d->exp--;
    }
    snprintf(d->text + d->n, sizeof(d->text) - d->n, "e%ld", d->exp);
    return strtod(d->text, NULL);
}

bool str_f64(str s, double *out)
{
    decimal d;
    d.n = 0;
    d.exp = 0;
    d.any = d.more = false;
    bool minus = s.n && s.p[0] == '-';
    size_t sign = s.n && (s.p[0] == '-' || s.p[0] == '+');
    if (!parse_decimal((str){s.p + sign, s.n - sign}, &d))
        return false;
    double v = decimal_value(&d);
    if (!isfinite(v))
        return false;
    *out = minus ? -v : v;
    return true;
}

/* ---- UTF-8 (RFC 3629) ---------------------------------------------------------- */

size_t utf8_take(str s, uint32_t *code)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (s.n == 0)
        return 0;
    uint8_t lead = (uint8_t)s.p[0];
    if (lead < 0x80) {
        *code = lead;
        return 1;
    }
    size_t len = lead >= 0xf8   ? 0
                 : lead >= 0xf0 ? 4
                 : lead >= 0xe0 ? 3
                 : lead >= 0xc0 ? 2
                                : 0;
    if (len == 0 || len > s.n)
        return 0;
    uint32_t c = lead & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        uint8_t b = (uint8_t)s.p[i];
        if ((b & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (b & 0x3f);
    }
    if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        return 0;
    *code = c;
    return len;
}

size_t utf8_encode(uint32_t code, char out[4])
{
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        return 0;
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t len = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = len - 1; i > 0; i--, code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3f));
    out[0] = (char)((0xf00u >> len & 0xf0) | code);
    return len;
}
