/* data_array.c - numbers: IDX arrays, LIBSVM rows, CSV tables.
 *
 *     IDX      two zero bytes, type, number of dimensions, u32 dimensions, elements, all
 *              big-endian (yann.lecun.com/exdb/mnist)
 *     LIBSVM   label index:value index:value ..   [# comment]    indices from 1, ascending
 *     CSV      RFC 4180 without line breaks in quotes; 'single' quotes as in ARFF
 *
 * The text readers count first (lines, colons, cells), allocate once, then fill. */
#include "fmt/data.h"
#include "fmt/lines.h"

#include <math.h>

/* ---- IDX ------------------------------------------------------------------------------
 */

static size_t idx_width(uint8_t type)
{
    static const uint8_t width[] = {[IDX_U8] = 1,  [IDX_I8] = 1,  [IDX_I16] = 2,
                                    [IDX_I32] = 4, [IDX_F32] = 4, [IDX_F64] = 8};
    return type < countof(width) ? width[type] : 0;
}

static uint64_t big_endian(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++)
        v = v << 8 | p[i];
    return v;
}

om_status data_idx_open(const void *p, size_t n, data_idx *out, om_err *err)
{
    cursor c = cursor_of(p, n);
    const uint8_t *head = cursor_take(&c, 4);
    *out = (data_idx){.dim = {1, 1, 1, 1}, .count = 1};
    if (!head || head[0] || head[1] || !idx_width(head[2]))
        return fail(err, OM_EFORMAT, "idx: the file does not begin with an IDX type");
    if (head[3] < 1 || head[3] > 4)
        return fail(err, OM_EUNSUPPORTED, "idx: %u dimensions; 1 to 4 are read", head[3]);
    out->type = head[2];
    out->n_dims = head[3];
    size_t bytes = idx_width(out->type);
    for (uint32_t d = 0; d < out->n_dims; d++) {
        const uint8_t *dim = cursor_take(&c, 4);
        out->dim[d] = dim ? (uint32_t)big_endian(dim, 4) : 0;
        if (!size_mul(out->count, out->dim[d], &out->count) ||
            !size_mul(bytes, out->dim[d], &bytes))
            c.ok = false;
    }
    if (!c.ok || bytes != n - c.pos)
        return fail_at(err, OM_EFORMAT, c.pos,
                       "idx: %u x %u x %u x %u elements do not fit a file of %zu bytes",
                       out->dim[0], out->dim[1], out->dim[2], out->dim[3], n);
    out->raw = (const uint8_t *)p + c.pos;
    return OM_OK;
}

static float idx_value(uint8_t type, uint64_t bits)
{
    float f;
    double d;
    uint32_t low = (uint32_t)bits;
    switch (type) {
    case IDX_U8:
        return (float)(uint8_t)bits;
    case IDX_I8:
        return (float)(int8_t)bits;
    case IDX_I16:
        return (float)(int16_t)bits;
    case IDX_I32:
        return (float)(int32_t)low;
    case IDX_F32:
        memcpy(&f, &low, 4);
        return f;
    default:
        memcpy(&d, &bits, 8);
        return (float)d;
    }
}

void data_idx_f32(const data_idx *d, size_t beg, size_t n, float *out)
{
    BUG_IF(beg > d->count || n > d->count - beg);
    size_t width = idx_width(d->type);
    for (size_t i = 0; i < n; i++)
        out[i] = idx_value(d->type, big_endian(d->raw + (beg + i) * width, width));
}

/* ---- LIBSVM ----------------------------------------------------------------------------
 */

/* The next run of non-space bytes; empty at the end. */
static str take_word(str *s)
{
    str w = lines_trim(*s);
    size_t n = 0;
    while (n < w.n && w.p[n] != ' ' && w.p[n] != '\t')
        n++;
    *s = (str){w.p + n, w.n - n};
    return (str){w.p, n};
}

static str without_comment(str line)
{
    const char *hash = line.n ? memchr(line.p, '#', line.n) : NULL;
    return lines_trim(hash ? (str){line.p, (size_t)(hash - line.p)} : line);
}

typedef struct {
    data_sparse *out;
    float *label;
    size_t *row;
    uint32_t *col;
    float *value;
    size_t n_values;
    om_err *err;
} sparse_parser;

static om_status bad_word(const sparse_parser *p, uint32_t line, str w, const char *wanted)
{
    return fail(p->err, OM_EFORMAT, "libsvm: line %u: '%.*s' is not %s", line,
                (int)size_min(w.n, 40), w.p, wanted);
}

static om_status take_pair(sparse_parser *p, str w, uint32_t line, uint64_t *last)
{
    const char *colon = memchr(w.p, ':', w.n);
    uint64_t index = 0;
    double v = 0;
    if (!colon || !str_u64((str){w.p, (size_t)(colon - w.p)}, &index) || index == 0 ||
        index > LIBSVM_MAX_INDEX)
        return bad_word(p, line, w, "index:value with an index from 1 to 2^27");
    if (index <= *last)
        return bad_word(p, line, w, "in ascending order");
    if (!str_f64((str){colon + 1, (size_t)(w.p + w.n - colon - 1)}, &v))
        return bad_word(p, line, w, "index:value with a finite number");
    *last = index;
    p->col[p->n_values] = (uint32_t)(index - 1);
    p->value[p->n_values++] = (float)v;
    if (index > p->out->n_cols)
        p->out->n_cols = (uint32_t)index;
    return OM_OK;
}

static om_status take_row(sparse_parser *p, str line, uint32_t number)
{
    str rest = line, w = take_word(&rest);
    double label = 0;
    uint64_t last = 0;
    if (!str_f64(w, &label))
        return bad_word(p, number, w, "a label");
    p->label[p->out->n_rows] = (float)label;
    p->row[p->out->n_rows++] = p->n_values;
    while ((w = take_word(&rest)).n)
        TRY(take_pair(p, w, number, &last));
    p->row[p->out->n_rows] = p->n_values;
    return OM_OK;
}

static om_status sparse_allocate(sparse_parser *p, size_t rows, size_t values)
{
    size_t a, b, bytes;
    if (rows > UINT32_MAX - 1)
        return fail(p->err, OM_ELIMIT, "libsvm: %zu lines are too many", rows);
    bool fits = size_mul(rows + 1, sizeof(size_t) + sizeof(float), &a) &&
                size_mul(values, sizeof(uint32_t) + sizeof(float), &b) &&
                size_add(a, b, &bytes);
    char *block = fits ? mem_alloc(bytes) : NULL;
    if (!block)
        return fail(p->err, OM_ENOMEM, "libsvm: no memory for %zu rows", rows);
    p->out->block_ = block;
    p->out->row = p->row = (size_t *)(void *)block;
    p->out->label = p->label = (float *)(p->row + rows + 1);
    p->out->col = p->col = (uint32_t *)(void *)(p->label + rows + 1);
    p->out->value = p->value = (float *)(void *)(p->col + values);
    return OM_OK;
}

om_status data_libsvm(const void *p, size_t n, data_sparse *out, om_err *err)
{
    lines l = lines_of(p, n);
    const char *c = p;
    size_t colons = 0;
    str line;
    *out = (data_sparse){0};
    sparse_parser g = {.out = out, .err = err};
    for (size_t i = 0; i < n; i++)
        colons += c[i] == ':';
    TRY(sparse_allocate(&g, lines_count(p, n), colons));
    om_status s = OM_OK;
    while (s == OM_OK && lines_next(&l, &line)) {
        line = without_comment(line);
        if (line.n)
            s = take_row(&g, line, l.number);
    }
    if (s != OM_OK)
        data_sparse_close(out);
    return s;
}

void data_sparse_close(data_sparse *s)
{
    mem_free(s->block_);
    *s = (data_sparse){0};
}

/* ---- CSV
 * ---------------------------------------------------------------------------------- */

/* The next cell, quotes and spaces off; false at the end of the line.  *bad: a quote
 * that is not shut. */
static bool take_cell(str *rest, char comma, str *cell, bool *bad)
{
    if (!rest->p)
        return false;
    size_t i = 0;
    while (i < rest->n && rest->p[i] == ' ')
        i++;
    char quote =
        i < rest->n && (rest->p[i] == '"' || rest->p[i] == '\'') ? rest->p[i] : '\0';
    size_t beg = quote ? i + 1 : i, end;
    if (quote) {
        for (end = beg; end < rest->n && rest->p[end] != quote; end++)
            ;
        *bad |= end == rest->n;
        for (i = end + (end < rest->n); i < rest->n && rest->p[i] == ' '; i++)
            ;
        *bad |= i < rest->n && rest->p[i] != comma;
    } else {
        while (i < rest->n && rest->p[i] != comma)
            i++;
        end = i;
    }
    *cell = lines_trim((str){rest->p + beg, end - beg});
    *rest = i < rest->n ? (str){rest->p + i + 1, rest->n - i - 1} : (str){NULL, 0};
    return true;
}

static bool is_missing(str s)
{
    return s.n == 0 || str_is(s, "?") || str_is(s, "NA") || str_is(s, "nan") ||
           str_is(s, "NaN");
}

/* How many cells a line has, and whether one of them is neither number nor missing. */
static size_t survey(str line, char comma, bool *has_text)
{
    str cell;
    size_t n = 0;
    bool bad = false;
    double v;
    *has_text = false;
    for (; take_cell(&line, comma, &cell, &bad); n++)
        *has_text |= !is_missing(cell) && !str_f64(cell, &v);
    return n;
}

static om_status table_allocate(data_table *t, size_t rows, size_t cols, size_t n,
                                bool named, om_err *err)
{
    size_t cells, bytes;
    /* every cell ends at a comma or a line end: more cells than bytes are a lie */
    if (!size_mul(rows, cols, &cells) || cells > n + 1)
        return fail(err, OM_EFORMAT, "csv: %zu lines do not all have %zu cells", rows,
                    cols);
    if (rows > UINT32_MAX || cols > UINT32_MAX)
        return fail(err, OM_ELIMIT, "csv: %zu rows of %zu cells are too many", rows, cols);
    size_t names = named ? cols * sizeof(str) : 0; /* at most 16 n */
    if (!size_add(cells * sizeof(float), names, &bytes) || !(t->block_ = mem_alloc(bytes)))
        return fail(err, OM_ENOMEM, "csv: no memory for %zu cells", cells);
    t->n_cols = (uint32_t)cols;
    t->name = named ? t->block_ : NULL;
    t->value = (const float *)(const void *)((const char *)t->block_ + names);
    return OM_OK;
}

static om_status take_line(data_table *t, str line, uint32_t number, char comma,
                           om_err *err)
{
    float *value = (float *)(uintptr_t)t->value + (size_t)t->n_rows * t->n_cols;
    str cell, rest = line;
    uint32_t at = 0;
    bool bad = false;
    for (; at <= t->n_cols && take_cell(&rest, comma, &cell, &bad); at++) {
        double v = (double)NAN;
        if (at == t->n_cols)
            continue;
        if (bad || (!is_missing(cell) && !str_f64(cell, &v)))
            return fail(err, OM_EFORMAT, "csv: line %u, column %u: '%.*s' is no number",
                        number, at + 1, (int)size_min(cell.n, 40), cell.p);
        value[at] = (float)v;
    }
    if (at != t->n_cols)
        return fail(err, OM_EFORMAT, "csv: line %u has %s than the %u cells of the first",
                    number, at < t->n_cols ? "fewer" : "more", t->n_cols);
    t->n_rows++;
    return OM_OK;
}

static void take_names(data_table *t, str line, char comma)
{
    str *name = (str *)(uintptr_t)t->name;
    bool bad = false;
    for (uint32_t i = 0; i < t->n_cols; i++)
        take_cell(&line, comma, &name[i], &bad);
}

om_status data_csv(const void *p, size_t n, char comma, data_table *out, om_err *err)
{
    lines l = lines_of(p, n);
    str line;
    size_t rows = 0, cols = 0;
    bool named = false;
    *out = (data_table){0};
    while (lines_next(&l, &line)) {
        if (lines_trim(line).n == 0)
            continue;
        if (rows++ == 0)
            cols = survey(line, comma, &named);
    }
    TRY(table_allocate(out, rows, cols, n, named, err));
    om_status s = OM_OK;
    bool first = true;
    for (l = lines_of(p, n); s == OM_OK && lines_next(&l, &line);) {
        if (lines_trim(line).n == 0)
            continue;
        if (first && named)
            take_names(out, line, comma);
        else
            s = take_line(out, line, l.number, comma, err);
        first = false;
    }
    if (s != OM_OK)
        data_table_close(out);
    return s;
}

void data_table_close(data_table *t)
{
    mem_free(t->block_);
    *t = (data_table){0};
}

uint32_t data_column(const data_table *t, const char *name)
{
    uint32_t i = 0;
    while (i < t->n_cols && !(t->name && str_is(t->name[i], name)))
        i++;
    return i;
}
