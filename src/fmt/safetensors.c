/* safetensors.c - reading and writing the Hugging Face tensor file.
 *
 *     u64 H  |  H bytes of JSON, padded with spaces  |  data
 *
 * data_offsets count from the start of the data.  As in the reference implementation a
 * file whose tensors do not account for every byte of the data is refused: it was cut
 * short, or carries something the header does not speak of.  Tensors of types that no
 * model here uses (U8 and BOOL masks, 8-bit floats) are counted and left out.
 *
 * Source: the format section of huggingface/safetensors' README. */
#include "fmt/safetensors.h"

#include "base/json.h"
#include "fmt/names.h"

enum { MAX_NODES = 2000000 };

static const struct {
    const char *name;
    uint32_t type; /* DTYPE_COUNT: known, not used here */
    uint32_t bytes;
} types[] = {
    {"F32", DTYPE_F32, 4}, {"F16", DTYPE_F16, 2}, {"BF16", DTYPE_BF16, 2},
    {"F64", DTYPE_F64, 8}, {"I64", DTYPE_I64, 8}, {"I32", DTYPE_I32, 4},
    {"I16", DTYPE_I16, 2}, {"I8", DTYPE_I8, 1},
};

typedef struct {
    json_doc doc; /* the names live in it */
    void *copies; /* of misaligned tensors */
} block;

typedef struct {
    safetensors *out;
    tensor *tensors;
    str *meta; /* keys, then values */
    const uint8_t *data;
    size_t data_bytes;
    uint64_t accounted; /* bytes of data that a tensor owns */
    om_err *err;
} parser;

/* ---- one tensor ---------------------------------------------------------------------- */

static om_status bad_entry(parser *p, const json *j, const char *what)
{
    return fail_at(p->err, OM_EFORMAT, 8 + (uint64_t)j->pos,
                   "safetensors: tensor '%.*s' %s", (int)size_min(j->key.n, 100), j->key.p,
                   what);
}

static om_status take_range(parser *p, const json *j, uint64_t *beg, uint64_t *end)
{
    const json *range = json_get(j, "data_offsets");
    *beg = json_u64(json_at(range, 0), UINT64_MAX);
    *end = json_u64(json_at(range, 1), UINT64_MAX);
    if (!range || range->count != 2 || *beg > *end || *end > p->data_bytes)
        return bad_entry(p, j, "has no data_offsets within the file; is it complete?");
    return OM_OK;
}

/* n_dims may come out above TENSOR_DIMS. */
static om_status take_shape(parser *p, const json *j, tensor *t)
{
    const json *shape = json_get(j, "shape");
    if (!shape || shape->type != JSON_ARRAY)
        return bad_entry(p, j, "has no shape");
    t->n_dims = shape->count;
    for (uint32_t d = 0; d < TENSOR_DIMS; d++)
        t->dim[d] = 1;
    uint32_t d = 0;
    for (const json *dim = shape->child; dim; dim = dim->next, d++) {
        uint64_t v = json_u64(dim, UINT64_MAX);
        if (v == UINT64_MAX)
            return bad_entry(p, j, "has a dimension that is no whole number");
        if (d < TENSOR_DIMS)
            t->dim[d] = v;
    }
    return OM_OK;
}

static om_status take_tensor(parser *p, const json *j)
{
    tensor t = {.name = j->key};
    uint64_t beg = 0, end = 0;
    if (!name_is_sane(j->key, SAFETENSORS_MAX_NAME))
        return fail_at(p->err, OM_EFORMAT, 8 + (uint64_t)j->pos,
                       "safetensors: a tensor's name is empty, longer than %d bytes or not "
                       "printable",
                       SAFETENSORS_MAX_NAME);
    TRY(take_range(p, j, &beg, &end));
    TRY(take_shape(p, j, &t));
    p->accounted += end - beg; /* overflow needs 2^64 bytes of header */
    str type = json_str(json_get(j, "dtype"), "");
    size_t row = 0;
    while (row < countof(types) && !str_is(type, types[row].name))
        row++;
    if (row == countof(types) || t.n_dims > TENSOR_DIMS) {
        p->out->n_skipped++;
        return OM_OK;
    }
    t.type = (dtype)types[row].type;
    if (!tensor_measure(t.type, t.dim, t.n_dims, &t.bytes) || t.bytes != end - beg)
        return bad_entry(p, j, "has a shape that does not fit its data_offsets");
    t.data = p->data + beg;
    p->tensors[p->out->n_tensors++] = t;
    return OM_OK;
}

static om_status take_meta(parser *p, const json *j)
{
    if (j->type != JSON_OBJECT || p->out->n_meta)
        return bad_entry(p, j, "is no object of strings, or is there twice");
    p->out->n_meta = j->count;
    p->out->meta_key = p->meta;
    p->out->meta_value = p->meta + j->count;
    for (const json *pair = j->child; pair; pair = pair->next) {
        if (pair->type != JSON_STRING)
            return bad_entry(p, j, "is no object of strings, or is there twice");
        p->meta[j->count] = pair->text;
        *p->meta++ = pair->key;
    }
    return OM_OK;
}

/* ---- the whole file
 * ------------------------------------------------------------------------ */

static bool is_meta(const json *j) { return str_is(j->key, "__metadata__"); }

static om_status allocate(parser *p, const json *root, json_doc *doc)
{
    size_t n_meta = 0, n = root->count; /* both at most MAX_NODES */
    for (const json *j = root->child; j; j = j->next)
        n_meta += is_meta(j) ? j->count : 0;
    size_t bytes =
        sizeof(block) + 64 + n * sizeof(tensor) + 2 * n_meta * sizeof(str) + n * 4;
    char *at = mem_alloc(bytes);
    if (!at)
        return fail(p->err, OM_ENOMEM, "safetensors: no memory for %zu tensors", n);
    p->out->block_ = at;
    ((block *)p->out->block_)->doc = *doc;
    doc->block_ = NULL;
    at += size_align(sizeof(block), 64);
    p->tensors = (tensor *)(void *)at;
    p->out->tensors = p->tensors;
    at += n * sizeof(tensor);
    p->meta = (str *)(void *)at;
    p->out->index_ = at + 2 * n_meta * sizeof(str);
    return OM_OK;
}

static names name_table(const safetensors *s)
{
    return (names){s->tensors, sizeof(*s->tensors), s->n_tensors, s->index_};
}

static om_status check_names(parser *p)
{
    names t = name_table(p->out);
    names_sort(&t);
    uint32_t i = names_first_double(&t);
    if (i == t.n)
        return OM_OK;
    return fail(p->err, OM_EFORMAT, "safetensors: the tensor '%.*s' is there twice",
                (int)p->tensors[i].name.n, p->tensors[i].name.p);
}

static bool misaligned(const tensor *t)
{
    return (uintptr_t)t->data % dtype_of(t->type)->bytes != 0;
}

static om_status copy_misaligned(parser *p)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < p->out->n_tensors; i++)
        if (misaligned(&p->tensors[i]) &&
            !size_add(bytes, size_align(p->tensors[i].bytes, 64), &bytes))
            bytes = SIZE_MAX;
    if (bytes == 0)
        return OM_OK;
    char *at = mem_alloc(bytes);
    if (!at)
        return fail(p->err, OM_ENOMEM, "safetensors: no memory to align %zu bytes", bytes);
    ((block *)p->out->block_)->copies = at;
    for (uint32_t i = 0; i < p->out->n_tensors; i++) {
        tensor *t = &p->tensors[i];
        if (!misaligned(t))
            continue;
        memcpy(at, t->data, t->bytes);
        t->data = at;
        at += size_align(t->bytes, 64);
    }
    return OM_OK;
}

static om_status take_all(parser *p, const json *root)
{
    for (const json *j = root->child; j; j = j->next)
        TRY(is_meta(j) ? take_meta(p, j) : take_tensor(p, j));
    TRY(check_names(p));
    if (p->accounted != p->data_bytes)
        return fail(p->err, OM_EFORMAT,
                    "safetensors: tensors cover %llu of %zu bytes of data; is the file "
                    "complete?",
                    (unsigned long long)p->accounted, p->data_bytes);
    return copy_misaligned(p);
}

om_status safetensors_open(const void *p, size_t n, safetensors *out, om_err *err)
{
    *out = (safetensors){0};
    if ((uintptr_t)p & 7)
        return fail(err, OM_EARG, "safetensors: the bytes must lie 8-byte aligned");
    cursor c = cursor_of(p, n);
    uint64_t header = cursor_u64(&c);
    if (!c.ok || header > n - 8 || header > SAFETENSORS_MAX_HEADER)
        return fail(err, OM_EFORMAT,
                    "safetensors: a file of %zu bytes says its header has %llu", n,
                    (unsigned long long)header);
    const uint8_t *text = cursor_take(&c, (size_t)header);
    json_doc doc;
    om_status s = json_parse(text, (size_t)header, MAX_NODES, &doc, err);
    if (s != OM_OK)
        return fail_in(err, s, "safetensors: the header");
    parser g = {.out = out, .data = text + header, .data_bytes = n - c.pos, .err = err};
    if (doc.root->type != JSON_OBJECT)
        s = fail_at(err, OM_EFORMAT, 8, "safetensors: the header is no JSON object");
    if (s == OM_OK)
        s = allocate(&g, doc.root, &doc);
    if (s == OM_OK)
        s = take_all(&g, ((block *)out->block_)->doc.root);
    json_close(&doc);
    if (s != OM_OK)
        safetensors_close(out);
    return s;
}

void safetensors_close(safetensors *s)
{
    block *b = s->block_;
    if (b) {
        json_close(&b->doc);
        mem_free(b->copies);
        mem_free(b);
    }
    *s = (safetensors){0};
}

const tensor *safetensors_find(const safetensors *s, const char *name)
{
    names t = name_table(s);
    uint32_t i = names_find(&t, str_of(name));
    return i < t.n ? &s->tensors[i] : NULL;
}

/* ---- writing
 * ------------------------------------------------------------------------------- */

static size_t type_row(dtype t)
{
    size_t row = 0;
    while (row < countof(types) && types[row].type != (uint32_t)t)
        row++;
    return row;
}

/* The name as a C string; false when it is not sane. */
static bool name_z(str name, char out[SAFETENSORS_MAX_NAME + 1])
{
    if (!name_is_sane(name, SAFETENSORS_MAX_NAME))
        return false;
    memcpy(out, name.p, name.n);
    out[name.n] = '\0';
    return true;
}

static om_status put_entry(json_out *o, const tensor *t, uint64_t at, om_err *err)
{
    char name[SAFETENSORS_MAX_NAME + 1];
    size_t row = type_row(t->type), bytes;
    if (row == countof(types) || !tensor_measure(t->type, t->dim, t->n_dims, &bytes) ||
        bytes != t->bytes || !name_z(t->name, name))
        return fail(err, OM_EARG,
                    "safetensors: tensor '%.*s' cannot be written: a plain type, a sane "
                    "name and a matching size are needed",
                    (int)size_min(t->name.n, 100), t->name.p);
    json_open_object(o, name);
    json_put_str(o, "dtype", str_of(types[row].name));
    json_open_array(o, "shape");
    for (uint32_t d = 0; d < t->n_dims; d++)
        json_put_u64(o, NULL, t->dim[d]);
    json_shut(o, ']');
    json_open_array(o, "data_offsets");
    json_put_u64(o, NULL, at);
    json_put_u64(o, NULL, at + t->bytes);
    json_shut(o, ']');
    json_shut(o, '}');
    return OM_OK;
}

static om_status put_meta(json_out *o, const str *key, const str *value, uint32_t n,
                          om_err *err)
{
    char name[SAFETENSORS_MAX_NAME + 1];
    if (n == 0)
        return OM_OK;
    json_open_object(o, "__metadata__");
    for (uint32_t i = 0; i < n; i++) {
        if (!name_z(key[i], name))
            return fail(err, OM_EARG, "safetensors: metadata key %u is not sane", i);
        json_put_str(o, name, value[i]);
    }
    json_shut(o, '}');
    return OM_OK;
}

/* Calls fn for the tensors in file order: elements of 8 bytes first, then 4, 2, 1. */
typedef om_status each_fn(void *ctx, const tensor *t, om_err *err);

static om_status each_in_order(const tensor *t, uint32_t n, each_fn *fn, void *ctx,
                               om_err *err)
{
    for (uint32_t width = 8; width > 0; width /= 2)
        for (uint32_t i = 0; i < n; i++) {
            size_t row = type_row(t[i].type);
            uint32_t bytes = row < countof(types) ? types[row].bytes : 1;
            if (bytes == width)
                TRY(fn(ctx, &t[i], err));
        }
    return OM_OK;
}

typedef struct {
    json_out json;
    uint64_t at;
} head;

static om_status head_entry(void *ctx, const tensor *t, om_err *err)
{
    head *h = ctx;
    TRY(put_entry(&h->json, t, h->at, err));
    h->at += t->bytes;
    return OM_OK;
}

static om_status write_entry(void *ctx, const tensor *t, om_err *err)
{
    return os_put_write(ctx, t->data, t->bytes, err);
}

typedef struct {
    const tensor *t;
    uint32_t n;
    const str *meta_key, *meta_value;
    uint32_t n_meta;
} job;

static om_status build_header(const job *j, buf *b, om_err *err)
{
    head h = {.json = json_to(b)};
    json_open_object(&h.json, NULL);
    TRY(put_meta(&h.json, j->meta_key, j->meta_value, j->n_meta, err));
    TRY(each_in_order(j->t, j->n, head_entry, &h, err));
    json_shut(&h.json, '}');
    while (h.json.status == OM_OK && b->len % 8)
        h.json.status = buf_u8(b, ' ');
    if (h.json.status != OM_OK)
        return fail(err, h.json.status, "safetensors: no room for the header of %u tensors",
                    j->n);
    return OM_OK;
}

static om_status write_pieces(os_put *f, const job *j, const buf *header, om_err *err)
{
    uint8_t raw[8];
    buf length = buf_fixed(raw, sizeof(raw));
    TRY(buf_u64(&length, header->len));
    TRY(os_put_write(f, raw, sizeof(raw), err));
    TRY(os_put_write(f, header->data, header->len, err));
    return each_in_order(j->t, j->n, write_entry, f, err);
}

om_status safetensors_write(const char *path, const tensor *t, uint32_t n,
                            const str *meta_key, const str *meta_value, uint32_t n_meta,
                            om_err *err)
{
    job j = {t, n, meta_key, meta_value, n_meta};
    buf header = buf_growing(SAFETENSORS_MAX_HEADER);
    os_put f;
    om_status s = build_header(&j, &header, err);
    if (s == OM_OK)
        s = os_put_open(path, &f, err);
    if (s == OM_OK) {
        s = write_pieces(&f, &j, &header, err);
        if (s == OM_OK)
            s = os_put_commit(&f, err);
        else
            os_put_abort(&f);
    }
    buf_free(&header);
    return s;
}

/* ---- shards
 * ----------------------------------------------------------------------------------- */

static bool plain_file_name(str s)
{
    return name_is_sane(s, 255) && s.p[0] != '.' && !memchr(s.p, '/', s.n) &&
           !memchr(s.p, '\\', s.n);
}

typedef struct {
    json_doc doc; /* the names live in it */
    str file[];
} shard_block;

static om_status collect_shards(const json *map, json_doc *doc, safetensors_shards *out,
                                om_err *err)
{
    size_t n = map->count; /* at most MAX_NODES */
    shard_block *b = mem_alloc(sizeof(*b) + 2 * n * sizeof(str) + n * 4);
    if (!b)
        return fail(err, OM_ENOMEM, "safetensors index: no memory for %zu names", n);
    out->block_ = b;
    b->doc = *doc;
    doc->block_ = NULL;
    str *all = b->file + n;
    names t = {all, sizeof(str), map->count, (uint32_t *)(void *)(all + n)};
    for (const json *j = map->child; j; j = j->next) {
        if (j->type != JSON_STRING || !plain_file_name(j->text))
            return fail_at(err, OM_EFORMAT, j->pos,
                           "safetensors index: '%.*s' lies in no plain file of this folder",
                           (int)size_min(j->key.n, 100), j->key.p);
        *all++ = j->text;
    }
    names_sort(&t);
    all = b->file + n;
    for (uint32_t i = 0; i < t.n; i++)
        if (out->n == 0 || !str_eq(b->file[out->n - 1], all[t.order[i]]))
            b->file[out->n++] = all[t.order[i]];
    out->file = b->file;
    return OM_OK;
}

om_status safetensors_shards_open(const void *json_text, size_t n, safetensors_shards *out,
                                  om_err *err)
{
    json_doc doc;
    *out = (safetensors_shards){0};
    om_status s = json_parse(json_text, n, MAX_NODES, &doc, err);
    if (s != OM_OK)
        return fail_in(err, s, "safetensors index");
    const json *map = json_get(doc.root, "weight_map");
    if (!map || map->type != JSON_OBJECT || map->count == 0)
        s = fail(err, OM_EFORMAT, "safetensors index: there is no weight_map");
    else
        s = collect_shards(map, &doc, out, err);
    json_close(&doc);
    if (s != OM_OK)
        safetensors_shards_close(out);
    return s;
}

void safetensors_shards_close(safetensors_shards *s)
{
    shard_block *b = s->block_;
    if (b) {
        json_close(&b->doc);
        mem_free(b);
    }
    *s = (safetensors_shards){0};
}
