/* data_text.c - plain text in pieces, and strings picked from JSON lines. */
#include "base/json.h"
#include "fmt/data.h"
#include "fmt/lines.h"

static om_status no_memory(om_err *err, size_t bytes)
{
    return fail(err, OM_ENOMEM, "data: no memory for %zu bytes", bytes);
}

/* Where the next separator begins at or after `at`; s.n when there is none. */
static size_t find(str s, size_t at, str separator)
{
    while (at + separator.n <= s.n) {
        const char *c = memchr(s.p + at, separator.p[0], s.n - at - separator.n + 1);
        if (!c)
            break;
        if (memcmp(c, separator.p, separator.n) == 0)
            return (size_t)(c - s.p);
        at = (size_t)(c - s.p) + 1;
    }
    return s.n;
}

static size_t count_pieces(str s, str separator)
{
    size_t n = 1;
    for (size_t at = find(s, 0, separator); at < s.n; n++)
        at = find(s, at + separator.n, separator);
    return n;
}

om_status data_split(const void *p, size_t n, const char *separator, data_texts *out,
                     om_err *err)
{
    str text = lines_skip_bom((str){p, n}), sep = str_of(separator);
    *out = (data_texts){0};
    if (sep.n == 0)
        return fail(err, OM_EARG, "data: the separator is empty");
    size_t pieces = count_pieces(text, sep);
    if (pieces > UINT32_MAX)
        return fail(err, OM_ELIMIT, "data: %zu pieces of text are too many", pieces);
    str *item = mem_array(pieces, sizeof(*item));
    if (!item)
        return no_memory(err, pieces * sizeof(*item));
    out->item = out->block_ = item;
    for (size_t beg = 0; beg < text.n;) {
        size_t end = find(text, beg, sep);
        str piece = lines_trim((str){text.p + beg, end - beg});
        if (piece.n)
            item[out->n++] = piece;
        beg = end + sep.n;
    }
    return OM_OK;
}

void data_texts_close(data_texts *t)
{
    mem_free(t->block_);
    *t = (data_texts){0};
}

/* ---- JSON lines ---------------------------------------------------------------------- */

/* Follow a dotted path: a member's name or, in an array, a position. */
static const json *follow(const json *j, str path)
{
    while (j && path.n) {
        const char *dot = memchr(path.p, '.', path.n);
        str step = {path.p, dot ? (size_t)(dot - path.p) : path.n};
        uint64_t i;
        if (j->type == JSON_ARRAY)
            j = str_u64(step, &i) && i < j->count ? json_at(j, (uint32_t)i) : NULL;
        else if (j->type == JSON_OBJECT) {
            for (j = j->child; j && !str_eq(j->key, step); j = j->next)
                ;
        } else
            return NULL;
        size_t used = step.n + (dot != NULL);
        path = (str){path.p + used, path.n - used};
    }
    return j;
}

/* The picked string of one line, appended at *at. */
static om_status pick(str line, uint32_t number, const char *path, char **at, str *out,
                      om_err *err)
{
    json_doc doc;
    om_status s = json_parse(line.p, line.n, 0, &doc, err);
    char where[40];
    lines_name(where, sizeof(where), number);
    if (s != OM_OK)
        return fail_in(err, s, where);
    const json *j = follow(doc.root, str_of(path));
    if (j && j->type == JSON_STRING) {
        if (j->text.n)
            memcpy(*at, j->text.p, j->text.n);
        *out = (str){*at, j->text.n};
        *at += j->text.n;
    } else {
        s = fail(err, OM_EFORMAT, "data: line %u has no string at '%s'", number, path);
    }
    json_close(&doc);
    return s;
}

om_status data_jsonl(const void *p, size_t n, const char *path, data_texts *out,
                     om_err *err)
{
    lines l = lines_of(p, n);
    str line, s = {0};
    size_t count = lines_count(p, n), bytes;
    *out = (data_texts){0};
    if (count > UINT32_MAX)
        return fail(err, OM_ELIMIT, "data: %zu lines are too many", count);
    /* a string is never longer than the JSON it was written in */
    if (!size_mul(count, sizeof(str), &bytes) || !size_add(bytes, n, &bytes))
        return fail(err, OM_ENOMEM, "data: no memory for %zu lines", count);
    str *item = mem_alloc(bytes);
    if (!item)
        return no_memory(err, bytes);
    char *at = (char *)(item + count);
    out->item = out->block_ = item;
    while (lines_next(&l, &line)) {
        if (lines_trim(line).n == 0)
            continue;
        om_status status = pick(line, l.number, path, &at, &s, err);
        if (status != OM_OK) {
            data_texts_close(out);
            return status;
        }
        if (s.n)
            item[out->n++] = s;
    }
    return OM_OK;
}
