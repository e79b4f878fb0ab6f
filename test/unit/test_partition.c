/* test_partition.c - every way of dealing samples to clients. */
#include "fl/partition.h"
#include "test.h"

enum { SAMPLES = 3000, CLASSES = 10, CLIENTS = 30 };

static uint32_t label[SAMPLES], key[SAMPLES];

static partition_data data_of(void)
{
    rng r = rng_for(3, 0, 0, 0);
    for (size_t i = 0; i < SAMPLES; i++) {
        label[i] = rng_below(&r, CLASSES);
        key[i] = rng_below(&r, 41);
    }
    return (partition_data){SAMPLES, label, CLASSES, key};
}

static partition open_by(test *t, const char *name, double p0, uint32_t clients)
{
    partition_data d = data_of();
    const partition_rule *rule;
    partition out;
    om_err err = {0};
    double p[8] = {0};
    CHECK_OK(t, partition_need(str_of(name), &rule, &err), err);
    param_defaults(rule->params, p);
    if (p0 > 0)
        p[0] = p0;
    CHECK_OK(t, partition_open(rule, p, &d, clients, 9, &out, &err), err);
    return out;
}

/* Every sample has one owner, nobody is empty, the same seed deals the same. */
static void every_rule(test *t)
{
    for (size_t k = 0; partition_rules[k]; k++) {
        partition a = open_by(t, partition_rules[k]->name, 0, CLIENTS);
        partition b = open_by(t, partition_rules[k]->name, 0, CLIENTS);
        bool seen[SAMPLES] = {false};
        CHECK_INT(t, a.first[0], 0);
        CHECK_INT(t, a.first[CLIENTS], SAMPLES);
        for (uint32_t c = 0; c < CLIENTS; c++) {
            CHECK(t, a.first[c] < a.first[c + 1] && a.first[c] == b.first[c]);
            for (size_t j = a.first[c]; j < a.first[c + 1]; j++) {
                CHECK(t, a.index[j] < SAMPLES && !seen[a.index[j]]);
                CHECK(t, j == a.first[c] || a.index[j] > a.index[j - 1]);
                seen[a.index[j]] = true;
            }
        }
        CHECK(t, memcmp(a.index, b.index, sizeof(uint32_t) * SAMPLES) == 0);
        partition_close(&a), partition_close(&b);
    }
}

/* Mean over clients of the largest class's part of a client's samples: 1 = one class. */
static double skew(const partition *p)
{
    double sum = 0;
    for (uint32_t c = 0; c < p->n_clients; c++) {
        size_t count[CLASSES] = {0}, most = 0;
        for (size_t j = p->first[c]; j < p->first[c + 1]; j++)
            if (++count[label[p->index[j]]] > most)
                most = count[label[p->index[j]]];
        sum += (double)most / (double)(p->first[c + 1] - p->first[c]);
    }
    return sum / p->n_clients;
}

static void skews(test *t)
{
    partition p = open_by(t, "iid", 0, CLIENTS);
    CHECK_NEAR(t, skew(&p), 0.16, 0.04);
    for (uint32_t c = 0; c < CLIENTS; c++)
        CHECK_INT(t, p.first[c + 1] - p.first[c], SAMPLES / CLIENTS);
    partition_close(&p);
    double last = 1.1;
    static const double alpha[] = {0.01, 0.3, 3, 1000};
    for (int i = 0; i < 4; i++) {
        p = open_by(t, "dirichlet", alpha[i], CLIENTS);
        CHECK(t, skew(&p) < last);
        last = skew(&p);
        partition_close(&p);
        if (i == 0)
            CHECK(t, last > 0.8);
    }
    CHECK_NEAR(t, last, 0.11, 0.02); /* a large alpha: every class in equal parts */
}

static void shards(test *t)
{
    partition p = open_by(t, "shards", 2, CLIENTS);
    size_t classes_seen = 0, same_as_next = 0;
    for (uint32_t c = 0; c < CLIENTS; c++) {
        bool has[CLASSES] = {false};
        size_t classes = 0;
        CHECK_INT(t, p.first[c + 1] - p.first[c], SAMPLES / CLIENTS);
        for (size_t j = p.first[c]; j < p.first[c + 1]; j++)
            has[label[p.index[j]]] = true;
        for (int k = 0; k < CLASSES; k++)
            classes += has[k];
        CHECK(t, classes <= 4); /* two shards, each may straddle a class border */
        classes_seen += classes;
        same_as_next +=
            c + 1 < CLIENTS && label[p.index[p.first[c]]] == label[p.index[p.first[c + 1]]];
    }
    CHECK(t, classes_seen < 3 * CLIENTS);
    CHECK(t, same_as_next < CLIENTS / 2); /* shards are dealt at random, not in a row */
    partition_close(&p);
}

static void power_sizes(test *t)
{
    partition p = open_by(t, "power", 1, CLIENTS);
    double h = 0;
    for (int c = 1; c <= CLIENTS; c++)
        h += 1.0 / c;
    for (uint32_t c = 0; c < CLIENTS; c++)
        CHECK_NEAR(t, p.first[c + 1] - p.first[c], SAMPLES / h / (c + 1), 1.01);
    partition_close(&p);
    p = open_by(t, "power", 8, CLIENTS); /* most would get nothing: each is fed one */
    for (uint32_t c = 5; c < CLIENTS; c++)
        CHECK_INT(t, p.first[c + 1] - p.first[c], 1);
    partition_close(&p);
}

static void natural_keys(test *t)
{
    partition p = open_by(t, "natural", 0, 41);
    for (uint32_t c = 0; c < 41; c++)
        for (size_t j = p.first[c]; j < p.first[c + 1]; j++)
            CHECK_INT(t, key[p.index[j]], c);
    partition_close(&p);
}

static void refusals(test *t)
{
    partition_data d = data_of();
    partition out;
    om_err err = {0};
    double p[8] = {0.5};
    const partition_rule *rule;
    CHECK(t, partition_need(STR("dirichle"), &rule, &err) && strstr(err.msg, "dirichlet"));
    for (size_t k = 0; partition_rules[k]; k++) {
        param_defaults(partition_rules[k]->params, p);
        CHECK(t, partition_open(partition_rules[k], p, &d, SAMPLES + 1, 1, &out, &err));
        CHECK(t, partition_open(partition_rules[k], p, &d, 0, 1, &out, &err));
    }
    CHECK_INT(t, partition_need(STR("natural"), &rule, &err), OM_OK);
    CHECK(t, partition_open(rule, p, &d, 50, 1, &out, &err) == OM_EARG &&
                 strstr(err.msg, "set clients to 41")); /* only 41 keys */
    d.key = NULL;
    CHECK(t, partition_open(rule, p, &d, 5, 1, &out, &err) == OM_EARG);
    CHECK(t, out.first == NULL && out.index == NULL);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"every_rule", "disjoint, complete, nobody empty, seeded", every_rule},
        {"skews", "iid and Dirichlet: how classes concentrate", skews},
        {"shards", "few classes a client", shards},
        {"power_sizes", "sizes by a power law", power_sizes},
        {"natural_keys", "a client is a key", natural_keys},
        {"refusals", "what cannot be dealt", refusals},
        {0}};
    return test_main(argc, argv, cases);
}
