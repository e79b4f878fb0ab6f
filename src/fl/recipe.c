/* recipe.c - from names and numbers as typed to an algorithm, a codec and their
 * parameters; and the seeded choices every driver makes alike (cohorts, shuffles). */
#include "fl/local.h"

#include <stdio.h>

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

/* An aggregator's name is also a strategy's: federated averaging with it for the mean. */
static om_status strategy(fl_recipe *r, str name, om_err *err)
{
    r->algo = &fl_fedavg;
    if (aggregator_need(name, &r->robust.row, NULL) != OM_OK || str_is(name, "mean")) {
        TRY(aggregator_need(STR("mean"), &r->robust.row, err));
        TRY(algo_need(name, &r->algo, err));
    }
    param_defaults(r->robust.row->params, r->robust.p);
    return OM_OK;
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

/* The codecs of a class, "randk, natural and qsgd", first the one nearest to `c`. */
static void fitting(const codec *c, unsigned flag, char *out, size_t cap)
{
    static const char *const near[][2] = {
        {"topk", "randk"},           {"toplek", "randk"},  {"randk", "topk"},
        {"randseqk", "topk"},        {"permk", "topk"},    {"scaled-sign", "terngrad"},
        {"sign", "scaled-sign"},     {"powersgd", "qsgd"}, {"rankr", "qsgd"},
        {"topk-quantized", "randk"}, {"qsgd", "topk"},     {"natural", "topk"}};
    size_t n = 0;
    const codec *first = NULL;
    for (size_t i = 0; i < countof(near) && !first; i++)
        if (strcmp(near[i][0], c->name) == 0)
            first = codec_find(str_of(near[i][1]));
    if (first && (first->flags & flag))
        n = (size_t)snprintf(out, cap, "%s", first->name);
    for (size_t i = 0; codecs[i] && n + 40 < cap; i++)
        if ((codecs[i]->flags & flag) && codecs[i] != first)
            n += (size_t)snprintf(out + n, cap - n, "%s%s", n ? ", " : "", codecs[i]->name);
}

/* Refuse a codec whose class the algorithm's theory does not allow. */
static om_status check_class(const fl_recipe *r, om_err *err)
{
    char names[200];
    if ((r->up->flags & CODEC_DIRECTION) && (r->algo->flags & FL_TAKES_SIGNS))
        return OM_OK;
    if (r->up->flags & CODEC_DIRECTION) {
        fitting(r->up, CODEC_CONTRACTIVE, names, sizeof(names));
        return fail(err, OM_EARG,
                    "%s needs a codec that bounds its error and %s keeps directions alone; "
                    "nearest first: %s",
                    r->algo->name, r->up->name, names);
    }
    if ((r->algo->flags & FL_NEEDS_UNBIASED) && !(r->up->flags & CODEC_UNBIASED)) {
        fitting(r->up, CODEC_UNBIASED, names, sizeof(names));
        return fail(err, OM_EARG,
                    "%s needs an unbiased codec (E C(x) = x) and %s is not one; nearest "
                    "first: %s",
                    r->algo->name, r->up->name, names);
    }
    return OM_OK;
}

/* The row whose rounds are most like the algorithm's and stand a robust rule. */
static const char *robust_kin(const char *name)
{
    static const char *const kin[][2] = {
        {"marina", "byz-vr-marina"}, {"vr-marina", "byz-vr-marina"},
        {"pp-marina", "byz-vr-marina-pp"}, {"ef21", "byz-ef21-sgdm"},
        {"ef21-sgdm", "byz-ef21-sgdm"}, {"ef21-hb", "byz-ef21-sgdm"},
        {"dasha", "byz-dasha"}, {"dasha-page", "byz-dasha-page"},
        {"dasha-mvr", "byz-dasha-page"}};
    for (size_t i = 0; i < countof(kin); i++)
        if (strcmp(kin[i][0], name) == 0)
            return kin[i][1];
    return "fedavg";
}

static om_status check_robust(const fl_recipe *r, om_err *err)
{
    if (r->privacy.on && !(r->algo->flags & FL_PRIVATE))
        return fail(err, OM_EARG, "%s has no private version; nearest: fedavg",
                    r->algo->name);
    if (privacy_at_server(&r->privacy) && !aggregate_is_mean(&r->robust))
        return fail(err, OM_EARG,
                    "the noise of privacy is measured for a mean, and aggregator %s is "
                    "none; choose one of the two",
                    r->robust.row->name);
    if (aggregate_is_mean(&r->robust) || (r->algo->flags & FL_ROBUST))
        return OM_OK;
    return fail(
        err, OM_EARG,
        "%s adds messages up as they come, so aggregator %s cannot stand in for its "
        "mean; nearest: %s",
        r->algo->name, r->robust.row->name, robust_kin(r->algo->name));
}

om_status fl_recipe_robust(fl_recipe *r, str name, str params, om_err *err)
{
    aggregate_rule a = {0};
    TRY(aggregator_need(name.n ? name : STR("mean"), &a.row, err));
    BUG_IF(param_count(a.row->params) > countof(a.p));
    param_defaults(a.row->params, a.p);
    TRY(set_all(a.row->params, a.row->name, a.p, params, err));
    r->robust = a;
    return check_robust(r, err);
}

om_status fl_recipe_private(fl_recipe *r, uint32_t wanted, uint32_t n_clients,
                            uint32_t rounds, om_err *err)
{
    if (!r->privacy.on)
        return OM_OK;
    if (privacy_at_clients(&r->privacy)) /* the rows that may be private train locally */
        r->privacy.steps = local_private_steps(r->p, r->privacy.p[PRIVACY_EXAMPLE_RATE]);
    return privacy_settle(&r->privacy, wanted, n_clients, rounds, err);
}

om_status fl_recipe_check(const fl_recipe *r, om_err *err)
{
    TRY(check_class(r, err));
    TRY(check_robust(r, err));
    return r->algo->check ? r->algo->check(r, err) : OM_OK;
}

om_status fl_recipe_drive(fl_recipe *r, const fl_drive *d, om_err *err)
{
    const fl_algo *a = r->algo;
    if ((a->flags & FL_EVERY_CLIENT) &&
        (d->asked < d->n_clients || d->least < d->n_clients))
        return fail(err, OM_EARG,
                    "%s needs every client in every round: set cohort.size and cohort.min "
                    "to %u and dropout to 0, or choose diana, dasha-pp or tamuna",
                    a->name, (unsigned)d->n_clients);
    if ((a->flags & FL_WHOLE_COHORT) && (d->asked > d->cohort || d->least < d->cohort))
        return fail(err, OM_EARG,
                    "%s needs an answer from each of the %u clients it asks: set "
                    "over_selection to 1, dropout to 0 and cohort.min to the cohort's size",
                    a->name, (unsigned)d->asked);
    if (a->client_end && !d->ends)
        return fail(err, OM_EUNSUPPORTED,
                    "%s runs in the simulator alone: its clients end a round with the new "
                    "model, which the network brings only to the next cohort",
                    a->name);
    for (size_t i = 0; r->up->params && r->up->params[i].name; i++) {
        if (strcmp(r->up->params[i].name, "clients") != 0)
            continue;
        if (r->up_p[i] >= 1 && r->up_p[i] < d->n_clients)
            return fail(err, OM_EARG,
                        "%s: clients is %g and the federation has %u; leave it at 0",
                        r->up->name, r->up_p[i], (unsigned)d->n_clients);
        r->up_p[i] = r->up_p[i] >= 1 ? r->up_p[i] : d->n_clients;
    }
    return OM_OK;
}

om_status fl_recipe_of(str algo, str algo_params, str codec_name, str codec_params,
                       fl_recipe *out, om_err *err)
{
    fl_recipe r = {0};
    TRY(strategy(&r, algo, err));
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

enum { USE_CODEC = 0x20000000 };

rng fl_codec_rng(const fl_env *e, uint32_t id)
{
    if (!(e->up->flags & CODEC_JOINT))
        return rng_for(e->seed, e->round, id, USE_CODEC);
    rng r = rng_for(e->seed, e->round, 0, USE_CODEC + 1);
    r.ctr = id;
    return r;
}

uint64_t fl_pick(uint64_t key, uint64_t n, uint64_t i) { return rng_pick(key, n, i); }

om_status fl_hess_by_hvp(void *ctx,
                         om_status (*hvp)(void *ctx, const float *x, const float *v,
                                          float *hv, om_err *err),
                         size_t dim, const float *x, float *h, om_err *err)
{
    float *unit = mem_array(dim, sizeof(float));
    om_status s = unit ? OM_OK : fail(err, OM_ENOMEM, "no memory for %zu numbers", dim);
    for (size_t i = 0; s == OM_OK && i < dim; i++) {
        unit[i] = 1;
        s = hvp(ctx, x, unit, h + i * dim, err);
        unit[i] = 0;
    }
    mem_free(unit);
    return s;
}
