/* config_print.c - a configuration as commented YAML, from the same tables that read it. */
#include "cli/config.h"

#include <stdio.h>

/* May this character stand in a YAML file as it is?  Not controls, nor what YAML 1.1
 * takes for a line break or a byte order mark. */
static bool plain(uint32_t c)
{
    return c >= 0x20 && c != '"' && c != '\\' && !(c >= 0x7f && c < 0xa0) && c != 0x2028 &&
           c != 0x2029 && c != 0xfeff && c != 0xfffe && c != 0xffff;
}

static om_status put_quoted(buf *out, str v)
{
    TRY(buf_u8(out, '"'));
    while (v.n) {
        uint32_t c = (unsigned char)v.p[0];
        size_t n = utf8_take(v, &c);
        n = n ? n : 1; /* a stray byte: by its number */
        TRY(plain(c) ? buf_put(out, v.p, n) : buf_fmt(out, "\\U%08x", (unsigned)c));
        v.p += n, v.n -= n;
    }
    return buf_u8(out, '"');
}

static om_status put_list(buf *out, const char *v)
{
    TRY(buf_u8(out, '['));
    for (bool first = true; v && *v; first = false) {
        size_t n = strcspn(v, ",");
        if (!first)
            TRY(buf_str(out, STR(", ")));
        TRY(put_quoted(out, (str){v, n}));
        if (v[n] == ',' && !v[n + 1])
            TRY(buf_str(out, STR(", \"\"")));
        v += n + (v[n] == ',');
    }
    return buf_u8(out, ']');
}

om_status config_put_number(buf *out, double v)
{
    char text[40];
    double back = 0;
    for (int digits = 6; digits <= 17; digits++) {
        int n = snprintf(text, sizeof(text), "%.*g", digits, v);
        if (str_f64((str){text, (size_t)n}, &back) && back == v)
            break;
    }
    return buf_str(out, str_of(text));
}

om_status config_put_choice(buf *out, const char *choices, int index)
{
    const char *s = choices;
    for (; index > 0; index--)
        s = strchr(s, '|') + 1;
    return buf_str(out, (str){s, strcspn(s, "|")});
}

static om_status put_value(const config *c, const config_row *row, buf *out)
{
    const void *v = (const char *)c + row->offset;
    switch (row->type) {
    case CONFIG_IS_TEXT:
    case CONFIG_IS_PATH:
        return put_quoted(out, str_of(v));
    case CONFIG_IS_LIST:
        return put_list(out, v);
    case CONFIG_IS_COUNT:
        return buf_fmt(out, "%llu", (unsigned long long)*(const uint64_t *)v);
    case CONFIG_IS_NUMBER:
        return config_put_number(out, *(const double *)v);
    case CONFIG_IS_CHOICE:
        return config_put_choice(out, row->choices, *(const int *)v);
    case CONFIG_IS_ABSENT:
        return buf_str(out, STR("none"));
    }
    return OM_EARG;
}

static om_status indent(buf *out, size_t depth)
{
    for (; depth; depth--)
        TRY(buf_str(out, STR("  ")));
    return OM_OK;
}

/* The headings between the key before and this one; *depth becomes this key's. */
static om_status put_headings(const char *before, const char *key, buf *out, size_t *depth)
{
    size_t level = 0;
    const char *at = key;
    for (const char *dot; (dot = strchr(at, '.')) != NULL; at = dot + 1, level++) {
        size_t n = (size_t)(dot - key) + 1;
        if (before && strncmp(before, key, n) == 0)
            continue;
        if (level == 0)
            TRY(buf_u8(out, '\n'));
        TRY(indent(out, level));
        TRY(buf_fmt(out, "%.*s:\n", (int)(dot - at), at));
    }
    *depth = level;
    return OM_OK;
}

static om_status put_row(const config *c, const char *before, const config_row *row,
                         buf *out)
{
    size_t depth;
    const char *last = strrchr(row->key, '.');
    TRY(put_headings(before, row->key, out, &depth));
    TRY(indent(out, depth));
    TRY(buf_fmt(out, "%s: ", last ? last + 1 : row->key));
    TRY(put_value(c, row, out));
    if (row->type == CONFIG_IS_CHOICE)
        return buf_fmt(out, "  # %s: %s\n", row->choices, row->help);
    return buf_fmt(out, "  # %s\n",
                   row->type == CONFIG_IS_ABSENT ? row->choices : row->help);
}

static om_status put_named(const char *section, const char *name, const char *summary,
                           const param *table, const double *p, buf *out)
{
    TRY(buf_fmt(out, "\n%s:\n  name: %s  # %s\n", section, name, summary));
    for (size_t i = 0; table && table[i].name; i++) {
        TRY(buf_fmt(out, "  %s: ", table[i].name));
        if (table[i].choices)
            TRY(config_put_choice(out, table[i].choices, (int)p[i]));
        else
            TRY(config_put_number(out, p[i]));
        TRY(buf_fmt(out, "  # %s%s%s\n", table[i].choices ? table[i].choices : "",
                    table[i].choices ? ": " : "", table[i].help));
    }
    return OM_OK;
}

om_status config_print(const config *c, buf *out)
{
    const fl_recipe *r = &c->recipe;
    const char *before = NULL;
    bool named = false, absent = false;
    for (const config_row *row = config_rows; row->key; row++) {
        if (!named && strncmp(row->key, "cohort.", 7) == 0) {
            named = true;
            TRY(put_named("algorithm", r->algo->name, r->algo->summary, r->algo->params,
                          r->p, out));
            TRY(put_named("codec", r->up->name, r->up->summary, r->up->params, r->up_p,
                          out));
            TRY(put_named("aggregator", r->robust.row->name, r->robust.row->summary,
                          r->robust.row->params, r->robust.p, out));
            if (r->privacy.on)
                TRY(put_named("privacy", "gaussian", "clipped updates and exact noise",
                              privacy_params, r->privacy.p, out));
            if (c->attack.row)
                TRY(put_named("attack", c->attack.row->name, c->attack.row->summary,
                              c->attack.row->params, c->attack.p, out));
            TRY(put_named("partition", c->partition->name, c->partition->summary,
                          c->partition->params, c->partition_p, out));
        }
        if (!absent && row->type == CONFIG_IS_ABSENT) {
            absent = true;
            TRY(buf_str(out, STR("\n# Not there yet: anything but none is refused.\n")));
        }
        TRY(put_row(c, before, row, out));
        before = row->key;
    }
    return OM_OK;
}
