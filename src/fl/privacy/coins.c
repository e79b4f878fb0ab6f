/* coins.c - see coins.h. */
#include "fl/privacy/coins.h"

#include <math.h>

/* ---- ChaCha20 ---- */

static uint32_t rotate(uint32_t v, unsigned n) { return v << n | v >> (32 - n); }

static void quarter(uint32_t *x, int a, int b, int c, int d)
{
    x[a] += x[b], x[d] = rotate(x[d] ^ x[a], 16);
    x[c] += x[d], x[b] = rotate(x[b] ^ x[c], 12);
    x[a] += x[b], x[d] = rotate(x[d] ^ x[a], 8);
    x[c] += x[d], x[b] = rotate(x[b] ^ x[c], 7);
}

void coins_block(const uint32_t key[8], uint32_t counter, const uint32_t nonce[3],
                 uint32_t out[16])
{
    uint32_t start[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    memcpy(start + 4, key, 32);
    start[12] = counter;
    memcpy(start + 13, nonce, 12);
    memcpy(out, start, sizeof(start));
    for (int i = 0; i < 10; i++) {
        for (int j = 0; j < 4; j++)
            quarter(out, j, j + 4, j + 8, j + 12);
        for (int j = 0; j < 4; j++)
            quarter(out, j, 4 + (j + 1) % 4, 8 + (j + 2) % 4, 12 + (j + 3) % 4);
    }
    for (int i = 0; i < 16; i++)
        out[i] += start[i];
}

coins coins_of(const uint8_t secret[32], uint64_t seed, uint32_t round, uint32_t use)
{
    coins c = {.used = 16};
    uint8_t text[32 + 16], sum[32];
    buf b = buf_fixed(text, sizeof(text));
    BUG_IF(buf_put(&b, secret, 32) != OM_OK || buf_u64(&b, seed) != OM_OK ||
           buf_u32(&b, round) != OM_OK || buf_u32(&b, use) != OM_OK);
    sha256(text, sizeof(text), sum);
    cursor r = cursor_of(sum, sizeof(sum));
    for (int i = 0; i < 8; i++)
        c.key[i] = cursor_u32(&r);
    return c;
}

static uint32_t next_word(coins *c)
{
    if (c->used == 16) {
        coins_block(c->key, c->counter++, c->nonce, c->word);
        c->nonce[0] += c->counter == 0; /* 256 GB are not the end */
        c->used = 0;
    }
    return c->word[c->used++];
}

uint64_t coins_u64(coins *c)
{
    uint64_t low = next_word(c);
    return (uint64_t)next_word(c) << 32 | low;
}

static bool coin(coins *c)
{
    if (c->n_bits == 0) {
        c->bits = coins_u64(c);
        c->n_bits = 64;
    }
    bool b = c->bits & 1;
    c->bits >>= 1;
    c->n_bits--;
    return b;
}

/* Exponents of discrete Gaussians of large variance are ratios of 96-bit numbers. */
__extension__ typedef unsigned __int128 wide;

/* By rejection from the next power of two, 32 bits at a time where they do. */
uint64_t coins_below(coins *c, uint64_t n)
{
    if (n <= 1)
        return 0;
    uint64_t mask = UINT64_MAX >> __builtin_clzll(n - 1), v;
    do
        v = (mask >> 32 ? coins_u64(c) : next_word(c)) & mask;
    while (v >= n);
    return v;
}

static wide wide_below(coins *c, wide n)
{
    if (!(n >> 64))
        return coins_below(c, (uint64_t)n);
    uint64_t top = (uint64_t)((n - 1) >> 64), mask = UINT64_MAX >> __builtin_clzll(top);
    wide v;
    do
        v = (wide)(coins_u64(c) & mask) << 64 | coins_u64(c);
    while (v >= n);
    return v;
}

enum { POISSON_LARGE = 64 };

/* ---- exact coins ---- */

/* exp(-g) for g = num/den in [0, 1]: with A_k true with chance g/k, the first false one
 * has an odd place with chance exp(-g) (von Neumann 1951; Forsythe 1972). */
static bool exp_small(coins *c, wide num, wide den)
{
    uint64_t k = 1;
    while (wide_below(c, den) < num && (k == 1 || coins_below(c, k) == 0))
        k++;
    return k & 1;
}

static bool exp_any(coins *c, wide num, wide den)
{
    for (wide whole = num / den; whole; whole--)
        if (!exp_small(c, 1, 1))
            return false;
    return exp_small(c, num % den, den);
}

bool coins_exp(coins *c, uint64_t num, uint64_t den) { return exp_any(c, num, den); }

int64_t coins_laplace(coins *c, uint64_t t)
{
    for (;;) {
        uint64_t u = coins_below(c, t), v = 0;
        if (!exp_small(c, u, t))
            continue;
        while (exp_small(c, 1, 1))
            v++;
        uint64_t y = u + t * v;
        bool negative = coin(c);
        if (negative && y == 0)
            continue;
        return negative ? -(int64_t)y : (int64_t)y;
    }
}

/* A discrete Laplace number of scale t = floor(sigma) + 1 is kept with chance
 * exp(-(|y| - var/t)^2 / (2 var)); with var = num/den the exponent is
 * (|y| t den - num)^2 / (2 num den t^2).  The bounds keep all of it below 2^120. */
int64_t coins_gaussian(coins *c, uint64_t num, uint64_t den)
{
    BUG_IF(den == 0 || den > 1024 || num > UINT64_C(1) << 42);
    if (num == 0)
        return 0;
    uint64_t t = (uint64_t)sqrt((double)num / (double)den) + 1;
    for (;;) {
        int64_t y = coins_laplace(c, t);
        wide a = (wide)(uint64_t)(y < 0 ? -y : y) * t * den, b = num;
        wide diff = a > b ? a - b : b - a;
        if (exp_any(c, diff * diff, (wide)2 * num * den * t * t))
            return y;
    }
}

/* Duchon and Duvignau 2016: a growing random permutation, whose number of fixed points
 * has the limit law exactly at a finite time. */
static uint64_t poisson_one(coins *c)
{
    uint64_t result = 1, a = 1, b = 0;
    for (;;) {
        uint64_t j = coins_below(c, a + 1);
        if (j < a && j < b)
            return result;
        if (j == a) {
            result++;
        } else {
            result--;
            b = a + 1;
        }
        a++;
    }
}

/* ---- large means ---- */

/* Beside its two modes, n and n - 1, a Poisson number of mean n falls off as
 *
 *     P(n + m) = P(n) prod_{l=1}^{m} n / (n + l),   P(n-1-m) = P(n) prod_{l=1}^{m} (n-l) / n
 *
 * products of rational coins.  m = b t + u is proposed with u uniform in t steps and b with
 * chance ~ s^b, s = prod_{l=1}^{t} n / (n + l), and kept with what is missing: factor by
 * factor the block's product over s, which is at most 1, and the product within it. */
typedef struct {
    uint64_t n, t;
    bool down;
} poisson_side;

/* Factor l of the fall-off, at most 1. */
static bool falls(coins *c, const poisson_side *s, uint64_t l)
{
    if (!s->down)
        return coins_below(c, s->n + l) < s->n;
    return l < s->n && coins_below(c, s->n) < s->n - l;
}

/* That factor in block b over its like in the first block upwards. */
static bool falls_faster(coins *c, const poisson_side *s, uint64_t b, uint64_t l)
{
    uint64_t far = b * s->t + l, up = s->n + l;
    if (!s->down)
        return coins_below(c, s->n + far) < up;
    if (far >= s->n)
        return false;
    return wide_below(c, (wide)s->n * s->n) < (wide)(s->n - far) * up;
}

static bool keep_block(coins *c, const poisson_side *s, uint64_t b)
{
    for (uint64_t i = 0; i < b; i++)
        for (uint64_t l = 1; l <= s->t; l++)
            if (!falls_faster(c, s, i, l))
                return false;
    return true;
}

static uint64_t poisson_large(coins *c, uint64_t n)
{
    poisson_side up = {.n = n, .t = (uint64_t)sqrt((double)n) + 1};
    for (;;) {
        poisson_side s = up;
        uint64_t b = 0, l = 1;
        s.down = coin(c);
        while (l <= up.t && falls(c, &up, l))
            l = l == up.t ? (b++, 1) : l + 1;
        uint64_t m = b * s.t + coins_below(c, s.t);
        if (!keep_block(c, &s, b))
            continue;
        for (l = b * s.t + 1; l <= m && falls(c, &s, l); l++)
            ;
        if (l <= m || (s.down && m >= n))
            continue;
        return s.down ? n - 1 - m : n + m;
    }
}

uint64_t coins_poisson(coins *c, uint64_t mean)
{
    uint64_t sum = 0;
    if (mean >= POISSON_LARGE)
        return poisson_large(c, mean);
    for (uint64_t i = 0; i < mean; i++)
        sum += poisson_one(c);
    return sum;
}

int64_t coins_skellam(coins *c, uint64_t var)
{
    uint64_t up = coins_poisson(c, var / 2), down = coins_poisson(c, var / 2);
    return (int64_t)up - (int64_t)down;
}
