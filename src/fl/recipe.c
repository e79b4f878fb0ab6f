/* recipe.c - from names and numbers as typed to an algorithm, a codec and their
 * parameters; and the seeded choices every driver makes alike (cohorts, shuffles). */
#include "fl/algo.h"

#define X(name) extern const fl_algo fl_##name;
#include "fl/algo/list.h"
#undef X

const fl_algo *const fl_algos[] = {
#define X(name) &fl_##name,
#include "fl/algo/list.h"
#undef X
    NULL};

const fl_algo *fl_algo_find(str name)
{
    for (size_t i = 0; fl_algos[i]; i++)
        if (str_is(name, fl_algos[i]->name))
            return fl_algos[i];
    return NULL;
}

static om_status algo_need(str name, const fl_algo **out, om_err *err)
{
    const char *names[countof(fl_algos)];
    *out = fl_algo_find(name);
    if (*out)
        return OM_OK;
    for (size_t i = 0; i < countof(fl_algos); i++)
        names[i] = fl_algos[i] ? fl_algos[i]->name : NULL;
    return fail(err, OM_ENOTFOUND, "there is no algorithm '%.*s'; did you mean '%s'?",
                (int)size_min(name.n, 40), name.p, nearest_name(names, name));
}

static str trim(str s)
{
    while (s.n && (s.p[0] == ' ' || s.p[0] == '\t'))
        s.p++, s.n--;
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s;
}

/* "a=1, b=2" over p. */
static om_status set_all(const param *table, const char *owner, double *p, str list,
                         om_err *err)
{
    while (list.n) {
        const char *comma = memchr(list.p, ',', list.n);
        str one = {list.p, comma ? (size_t)(comma - list.p) : list.n};
        const char *eq = memchr(one.p, '=', one.n);
        list = comma ? (str){comma + 1, list.n - one.n - 1} : (str){NULL, 0};
        if (trim(one).n == 0)
            continue;
        if (!eq)
            return fail(err, OM_EARG, "%s: '%.*s' should be name=value", owner,
                        (int)size_min(one.n, 40), one.p);
        str name = {one.p, (size_t)(eq - one.p)}, value = {eq + 1, one.n - name.n - 1};
        TRY(param_set(table, owner, p, trim(name), trim(value), err));
    }
    return OM_OK;
}

om_status fl_recipe_check(const fl_recipe *r, om_err *err)
{
    if ((r->algo->flags & FL_NEEDS_UNBIASED) && !(r->up->flags & CODEC_UNBIASED))
        return fail(err, OM_EARG,
                    "%s needs an unbiased codec and %s is not one; choose "
                    "identity, randk or qsgd",
                    r->algo->name, r->up->name);
    return r->algo->check ? r->algo->check(r, err) : OM_OK;
}

om_status fl_recipe_of(str algo, str algo_params, str codec_name, str codec_params,
                       fl_recipe *out, om_err *err)
{
    fl_recipe r = {0};
    TRY(algo_need(algo, &r.algo, err));
    TRY(codec_need(codec_name, &r.up, err));
    BUG_IF(param_count(r.algo->params) > countof(r.p));
    BUG_IF(param_count(r.up->params) > countof(r.up_p));
    param_defaults(r.algo->params, r.p);
    param_defaults(r.up->params, r.up_p);
    TRY(set_all(r.algo->params, r.algo->name, r.p, algo_params, err));
    TRY(set_all(r.up->params, r.up->name, r.up_p, codec_params, err));
    TRY(fl_recipe_check(&r, err));
    *out = r;
    return OM_OK;
}

/* ---- seeded choices ---- */

enum { USE_COHORT = 0x636f686f }; /* "coho": keeps the cohort's coins apart from others */

size_t fl_cohort_bytes(uint32_t n) { return arena_bytes(uint64_t, (size_t)n / 64 + 1); }

/* Floyd's sampling (Bentley and Floyd, CACM 1987): for j = n-want .. n-1 take a random
 * t <= j, or j itself when t is in already.  A bitmap gives membership and order. */
void fl_cohort(uint64_t seed, uint32_t round, uint32_t n, uint32_t want, uint32_t *out,
               arena scratch)
{
    BUG_IF(want > n);
    size_t words = (size_t)n / 64 + 1;
    uint64_t *in = arena_new(&scratch, uint64_t, words);
    rng r = rng_for(seed, round, 0, USE_COHORT);
    for (uint32_t j = n - want; j < n; j++) {
        uint32_t t = rng_below(&r, j + 1);
        if (in[t / 64] >> t % 64 & 1)
            t = j;
        in[t / 64] |= UINT64_C(1) << t % 64;
    }
    for (size_t w = 0; w < words; w++)
        for (uint64_t bits = in[w]; bits; bits &= bits - 1)
            *out++ = (uint32_t)(w * 64 + (size_t)__builtin_ctzll(bits));
}

static uint32_t half(uint64_t key, uint32_t round, uint32_t v, uint32_t mask)
{
    rng r = {.key = key + round, .ctr = 0};
    return (uint32_t)(rng_at(&r, v) >> 32) & mask;
}

/* A Feistel network over the smallest even number of bits that holds n - 1, walked until
 * the value falls below n (Black and Rogaway, CT-RSA 2002).  Seven rounds: with four, a
 * chi-square test over keys still sees the walk for n below 20. */
uint64_t fl_pick(uint64_t key, uint64_t n, uint64_t i)
{
    BUG_IF(i >= n || n > UINT64_C(1) << 62);
    unsigned w = 1;
    while ((n - 1) >> 2 * w)
        w++;
    uint32_t mask = (uint32_t)((UINT64_C(1) << w) - 1);
    do {
        uint32_t left = (uint32_t)(i >> w) & mask, right = (uint32_t)i & mask;
        for (uint32_t round = 0; round < 7; round++) {
            uint32_t next = left ^ half(key, round, right, mask);
            left = right;
            right = next;
        }
        i = (uint64_t)left << w | right;
    } while (i >= n);
    return i;
}
