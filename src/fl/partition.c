/* partition.c - see partition.h. */
#include "fl/partition.h"
#include "fl/algo.h"

#include <math.h>

enum { USE_PARTITION = 0x70617274 };

/* What a rule may take from scratch, whatever it is. */
static size_t scratch_bytes(const partition_data *d, uint32_t n_clients)
{
    return 2 * arena_bytes(uint32_t, d->n) +
           2 * arena_bytes(size_t, (size_t)n_clients + 1) +
           2 * arena_bytes(double, n_clients) +
           arena_bytes(size_t, (size_t)d->n_classes + 1);
}

/* Fisher-Yates. */
static void shuffle(uint32_t *v, size_t n, rng *r)
{
    for (size_t i = n; i > 1; i--) {
        size_t j = rng_below(r, (uint32_t)i);
        uint32_t t = v[i - 1];
        v[i - 1] = v[j];
        v[j] = t;
    }
}

static uint32_t *shuffled(size_t n, rng *r, arena *a)
{
    uint32_t *v = arena_new(a, uint32_t, n);
    for (size_t i = 0; i < n; i++)
        v[i] = (uint32_t)i;
    shuffle(v, n, r);
    return v;
}

/* Whole numbers that add up to n and are near w_c / sum(w) n: by largest remainder in
 * the cumulative sum, so every prefix is right to within one. */
static void cut(const double *w, uint32_t n_clients, size_t n, size_t *count)
{
    double total = 0, so_far = 0;
    size_t given = 0;
    for (uint32_t c = 0; c < n_clients; c++)
        total += w[c];
    for (uint32_t c = 0; c < n_clients; c++) {
        so_far += w[c];
        size_t upto = c + 1 == n_clients ? n : (size_t)(so_far / total * (double)n + 0.5);
        upto = upto < given ? given : upto > n ? n : upto;
        count[c] = upto - given;
        given = upto;
    }
}

static om_status iid(const double *p, const partition_data *d, uint32_t n_clients, rng r,
                     uint32_t *owner, arena scratch, om_err *err)
{
    (void)p, (void)err;
    uint32_t *v = shuffled(d->n, &r, &scratch);
    for (size_t i = 0; i < d->n; i++)
        owner[v[i]] = (uint32_t)(i * n_clients / d->n);
    return OM_OK;
}

/* Gamma(a, 1) by Marsaglia and Tsang, ACM TOMS 2000; for a < 1 with a uniform's power. */
static double gamma_of(double a, rng *r)
{
    double boost = a < 1 ? pow(1 - rng_unit(r), 1 / a) : 1;
    double d = (a < 1 ? a + 1 : a) - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = rng_normal(r), v = 1 + c * x;
        v = v * v * v;
        if (v > 0 && log(1 - rng_unit(r)) < 0.5 * x * x + d - d * v + d * log(v))
            return d * v * boost;
    }
}

/* Sample numbers grouped by class, each class shuffled; start (n_classes + 1). */
static uint32_t *by_class(const partition_data *d, rng *r, size_t *start, arena *a)
{
    uint32_t *v = shuffled(d->n, r, a), *out = arena_new(a, uint32_t, d->n);
    for (size_t i = 0; i < d->n; i++)
        start[d->label ? d->label[i] : 0]++;
    for (size_t k = d->n_classes, end = d->n; k-- > 0;) /* counts to group ends */
        end -= start[k], start[k] = end + start[k];
    for (size_t i = d->n; i-- > 0;)
        out[--start[d->label ? d->label[v[i]] : 0]] = v[i];
    start[d->n_classes] = d->n;
    return out;
}

/* A client left empty takes a sample from whoever has most (the lowest such client);
 * n >= n_clients is known. */
static void feed_the_empty(uint32_t *owner, size_t n, uint32_t n_clients, size_t *count)
{
    memset(count, 0, n_clients * sizeof(*count));
    for (size_t i = 0; i < n; i++)
        count[owner[i]]++;
    for (uint32_t c = 0; c < n_clients; c++) {
        uint32_t rich = 0;
        if (count[c])
            continue;
        for (uint32_t k = 1; k < n_clients; k++)
            rich = count[k] > count[rich] ? k : rich;
        for (size_t i = 0; i < n && !count[c]; i++) {
            if (owner[i] != rich)
                continue;
            owner[i] = c;
            count[c]++, count[rich]--;
        }
    }
}

static om_status dirichlet(const double *p, const partition_data *d, uint32_t n_clients,
                           rng r, uint32_t *owner, arena scratch, om_err *err)
{
    (void)err;
    size_t *start = arena_new(&scratch, size_t, (size_t)d->n_classes + 1);
    size_t *count = arena_new(&scratch, size_t, n_clients);
    double *w = arena_new(&scratch, double, n_clients);
    uint32_t *v = by_class(d, &r, start, &scratch);
    for (uint32_t k = 0; k < d->n_classes; k++) {
        size_t at = start[k];
        for (uint32_t c = 0; c < n_clients; c++)
            w[c] = gamma_of(p[0], &r) + 1e-300; /* a tiny alpha may underflow everywhere */
        cut(w, n_clients, start[k + 1] - start[k], count);
        for (uint32_t c = 0; c < n_clients; c++)
            for (size_t j = 0; j < count[c]; j++)
                owner[v[at++]] = c;
    }
    feed_the_empty(owner, d->n, n_clients, count);
    return OM_OK;
}

static om_status shards(const double *p, const partition_data *d, uint32_t n_clients, rng r,
                        uint32_t *owner, arena scratch, om_err *err)
{
    size_t *start = arena_new(&scratch, size_t, (size_t)d->n_classes + 1);
    uint32_t *v = by_class(d, &r, start, &scratch);
    size_t each = (size_t)p[0], n_shards = each * n_clients;
    if (n_shards > d->n)
        return fail(err, OM_EARG,
                    "partition shards: %zu shards of %zu samples; lower "
                    "shards or clients",
                    n_shards, d->n);
    uint64_t key = rng_u64(&r);
    for (size_t i = 0; i < d->n;
         i++) /* a shard goes to a random seat; `each` seats a client */
        owner[v[i]] = (uint32_t)(fl_pick(key, n_shards, i * n_shards / d->n) / each);
    return OM_OK;
}

static om_status power(const double *p, const partition_data *d, uint32_t n_clients, rng r,
                       uint32_t *owner, arena scratch, om_err *err)
{
    (void)err;
    size_t *count = arena_new(&scratch, size_t, n_clients), at = 0;
    double *w = arena_new(&scratch, double, n_clients);
    uint32_t *v = shuffled(d->n, &r, &scratch);
    for (uint32_t c = 0; c < n_clients; c++)
        w[c] = pow(c + 1.0, -p[0]);
    cut(w, n_clients, d->n, count);
    for (uint32_t c = 0; c < n_clients; c++)
        for (size_t j = 0; j < count[c]; j++)
            owner[v[at++]] = c;
    feed_the_empty(owner, d->n, n_clients, count);
    return OM_OK;
}

static om_status natural(const double *p, const partition_data *d, uint32_t n_clients,
                         rng r, uint32_t *owner, arena scratch, om_err *err)
{
    (void)p, (void)r, (void)scratch;
    if (!d->key)
        return fail(err, OM_EARG,
                    "partition natural: this data has no key that says whose a "
                    "sample is; choose iid, dirichlet, shards or power");
    for (size_t i = 0; i < d->n; i++)
        owner[i] = d->key[i] % n_clients;
    return OM_OK;
}

static const param dirichlet_params[] = {
    {"alpha", 0.5, 1e-6, 1e6, "small: few classes a client; large: like iid", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};
static const param shards_params[] = {
    {"shards", 2, 1, 10000, "runs of one class that a client gets", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};
static const param power_params[] = {
    {"exponent", 1, 0, 10, "sizes fall like (client + 1)^-exponent", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static const partition_rule rule_iid = {"iid", "at random, equal sizes", "-", NULL, iid};
static const partition_rule rule_dirichlet = {
    "dirichlet", "each class divided by a Dirichlet draw",
    "Hsu, Qi, Brown 2019, arXiv 1909.06335", dirichlet_params, dirichlet};
static const partition_rule rule_shards = {
    "shards", "sorted by class, cut in shards, a few to each client",
    "McMahan et al., AISTATS 2017, arXiv 1602.05629", shards_params, shards};
static const partition_rule rule_power = {"power", "at random, sizes by a power law", "-",
                                          power_params, power};
static const partition_rule rule_natural = {
    "natural", "by the data's own key (writer, hospital, file)",
    "Caldas et al. 2018, arXiv 1812.01097", NULL, natural};

const partition_rule *const partition_rules[] = {&rule_iid,   &rule_dirichlet, &rule_shards,
                                                 &rule_power, &rule_natural,   NULL};

om_status partition_need(str name, const partition_rule **out, om_err *err)
{
    const char *names[countof(partition_rules)] = {NULL};
    for (size_t i = 0; partition_rules[i]; i++) {
        names[i] = partition_rules[i]->name;
        *out = partition_rules[i];
        if (str_is(name, names[i]))
            return OM_OK;
    }
    return fail(err, OM_ENOTFOUND, "there is no partition '%.*s'; did you mean '%s'?",
                (int)size_min(name.n, 40), name.p, nearest_name(names, name));
}

/* From owners to one list a client, by counting. */
static om_status group(const uint32_t *owner, size_t n, const char *rule, partition *out,
                       om_err *err)
{
    for (size_t i = 0; i < n; i++)
        out->first[owner[i] + 1]++;
    for (uint32_t c = 0; c < out->n_clients; c++) {
        if (out->first[c + 1] == 0)
            return fail(err, OM_EARG,
                        "partition %s leaves client %u of %u without samples; "
                        "set clients to %u or deal by iid",
                        rule, (unsigned)c, (unsigned)out->n_clients,
                        (unsigned)(c > 0 ? c : 1));
        out->first[c + 1] += out->first[c];
    }
    for (size_t i = n;
         i-- > 0;) /* backwards: first[c + 1] walks down to client c's start */
        out->index[--out->first[owner[i] + 1]] = (uint32_t)i;
    memmove(out->first, out->first + 1, out->n_clients * sizeof(*out->first));
    out->first[out->n_clients] = n;
    return OM_OK;
}

static om_status deal(const partition_rule *rule, const double *p, const partition_data *d,
                      uint64_t seed, void *memory, partition *out, om_err *err)
{
    uint32_t *owner = memory;
    size_t owners = size_align(d->n * sizeof(*owner), 64);
    arena scratch = arena_of((char *)memory + owners, scratch_bytes(d, out->n_clients));
    TRY(rule->assign(p, d, out->n_clients, rng_for(seed, 0, 0, USE_PARTITION), owner,
                     scratch, err));
    return group(owner, d->n, rule->name, out, err);
}

om_status partition_open(const partition_rule *rule, const double *p,
                         const partition_data *d, uint32_t n_clients, uint64_t seed,
                         partition *out, om_err *err)
{
    *out = (partition){.n_clients = n_clients};
    if (n_clients == 0 || n_clients > d->n || d->n > UINT32_MAX || d->n_classes == 0)
        return fail(err, OM_EARG, "partition: %zu samples cannot be dealt to %u clients; "
                                  "the most is one client a sample, %zu",
                    d->n, (unsigned)n_clients, d->n);
    void *memory = mem_alloc(size_align(d->n * 4, 64) + scratch_bytes(d, n_clients));
    out->first = mem_array((size_t)n_clients + 1, sizeof(*out->first));
    out->index = mem_array(d->n, sizeof(*out->index));
    om_status s = memory && out->first && out->index
                      ? deal(rule, p, d, seed, memory, out, err)
                      : fail(err, OM_ENOMEM, "partition: no memory for %zu samples", d->n);
    mem_free(memory);
    if (s != OM_OK)
        partition_close(out);
    return s;
}

void partition_close(partition *p)
{
    mem_free(p->first);
    mem_free(p->index);
    *p = (partition){0};
}
