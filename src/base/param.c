/* param.c - parameter tables: defaults, setting by name, and helpful refusals. */
#include "base/base.h"

#include <stdio.h>

size_t param_count(const param *table)
{
    size_t n = 0;
    while (table && table[n].name)
        n++;
    return n;
}

void param_defaults(const param *table, double *p)
{
    for (size_t i = 0; table && table[i].name; i++)
        p[i] = table[i].def;
}

static int choice_index(const char *choices, str value)
{
    int at = 0;
    for (const char *c = choices; c; at++) {
        const char *bar = strchr(c, '|');
        size_t n = bar ? (size_t)(bar - c) : strlen(c);
        if (str_eq((str){c, n}, value))
            return at;
        c = bar ? bar + 1 : NULL;
    }
    return -1;
}

/* Levenshtein distance, both strings cut at 31 characters. */
static size_t distance(str a, str b)
{
    size_t row[32], an = size_min(a.n, 31), bn = size_min(b.n, 31);
    for (size_t j = 0; j <= bn; j++)
        row[j] = j;
    for (size_t i = 1; i <= an; i++) {
        size_t diag = row[0];
        row[0] = i;
        for (size_t j = 1; j <= bn; j++) {
            size_t swap = diag + (a.p[i - 1] != b.p[j - 1]);
            diag = row[j];
            row[j] = size_min(swap, 1 + size_min(row[j], row[j - 1]));
        }
    }
    return row[bn];
}

/* The choice nearest to a wrong one, into out. */
static const char *nearest_choice(const char *choices, str wrong, char out[32])
{
    size_t least = SIZE_MAX;
    for (const char *c = choices; c;) {
        const char *bar = strchr(c, '|');
        str one = {c, bar ? (size_t)(bar - c) : strlen(c)};
        size_t d = distance(one, wrong);
        if (d < least) {
            least = d;
            snprintf(out, 32, "%.*s", (int)size_min(one.n, 31), one.p);
        }
        c = bar ? bar + 1 : NULL;
    }
    return out;
}

static om_status set_one(const param *row, const char *owner, double *p, str value,
                         om_err *err)
{
    char near[32];
    if (row->choices) {
        int at = choice_index(row->choices, value);
        if (at < 0)
            return fail(err, OM_EARG,
                        "%s: %s is '%.*s'; choose one of %s; did you mean '%s'?", owner,
                        row->name, (int)size_min(value.n, 40), value.p, row->choices,
                        nearest_choice(row->choices, value, near));
        *p = at;
        return OM_OK;
    }
    double v;
    if (str_is(value, "true") || str_is(value, "yes"))
        v = 1.0;
    else if (str_is(value, "false") || str_is(value, "no"))
        v = 0.0;
    else if (!str_f64(value, &v))
        return fail(err, OM_EARG, "%s: %s is '%.*s', which is not a number", owner, row->name,
                    (int)size_min(value.n, 40), value.p);
    if (!(v >= row->min && v <= row->max))
        return fail(err, OM_EARG, "%s: %s is %g; it must lie between %g and %g; the "
                                  "nearest is %g",
                    owner, row->name, v, row->min, row->max, v > row->max ? row->max : row->min);
    *p = v;
    return OM_OK;
}

om_status param_set(const param *table, const char *owner, double *p, str name, str value,
                    om_err *err)
{
    const char *names[64] = {NULL};
    for (size_t i = 0; table && table[i].name; i++) {
        if (str_is(name, table[i].name))
            return set_one(&table[i], owner, &p[i], value, err);
        if (i < countof(names) - 1)
            names[i] = table[i].name;
    }
    if (!names[0])
        return fail(err, OM_EARG, "%s takes no parameters, so '%.*s' cannot be set", owner,
                    (int)size_min(name.n, 40), name.p);
    return fail(err, OM_EARG, "%s has no parameter '%.*s'; did you mean '%s'?", owner,
                (int)size_min(name.n, 40), name.p, nearest_name(names, name));
}

const char *nearest_name(const char *const *names, str wrong)
{
    const char *best = NULL;
    size_t least = SIZE_MAX;
    for (size_t i = 0; names[i]; i++) {
        size_t d = distance(str_of(names[i]), wrong);
        if (d < least) {
            least = d;
            best = names[i];
        }
    }
    return best;
}
