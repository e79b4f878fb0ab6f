/* gguf.c - reading GGUF.
 *
 *     "GGUF" u32 version  u64 n_tensors  u64 n_kv
 *     n_kv times:      string key, u32 type, value
 *     n_tensors times: string name, u32 n_dims, u64 dims innermost first, u32 dtype,
 *                      u64 offset from the start of the data
 *     zeros to a multiple of general.alignment (32 unless given), then data
 *     string = u64 length, bytes; array = u32 element type, u64 count, elements
 *
 * Source: the GGUF specification in ggml's docs (v3; v2 has the same layout).  Version 1
 * with its 32-bit counts and big-endian files are refused.  Counts are checked against
 * the bytes that are left before anything is allocated by them, so memory is bounded by
 * a small multiple of the header. */
#include "fmt/gguf.h"

#include "fmt/names.h"

#include <math.h>

typedef struct {
    cursor c;
    uint64_t file_bytes;
    gguf *out;
    gguf_kv *kv;
    tensor *tensors;
    om_err *err;
} parser;

static const struct {
    uint8_t bytes; /* 0: string or array */
    const char *name;
} types[GGUF_TYPE_COUNT] = {
    [GGUF_U8] = {1, "u8"},       [GGUF_I8] = {1, "i8"},     [GGUF_U16] = {2, "u16"},
    [GGUF_I16] = {2, "i16"},     [GGUF_U32] = {4, "u32"},   [GGUF_I32] = {4, "i32"},
    [GGUF_F32] = {4, "f32"},     [GGUF_BOOL] = {1, "bool"}, [GGUF_STRING] = {0, "string"},
    [GGUF_ARRAY] = {0, "array"}, [GGUF_U64] = {8, "u64"},   [GGUF_I64] = {8, "i64"},
    [GGUF_F64] = {8, "f64"},
};

const char *gguf_type_name(gguf_type t)
{
    return (unsigned)t < GGUF_TYPE_COUNT ? types[t].name : "unknown";
}

size_t gguf_type_bytes(gguf_type t)
{
    return (unsigned)t < GGUF_TYPE_COUNT ? types[t].bytes : 0;
}

static om_status cut_short(parser *g, const char *where)
{
    return fail_at(g->err, OM_EFORMAT, g->c.pos, "gguf: byte %zu: the file ends inside %s",
                   g->c.pos, where);
}

/* ---- key-values -------------------------------------------------------------------- */

static bool take_string(cursor *c, str *out)
{
    uint64_t n = cursor_u64(c);
    if (n > c->n - c->pos)
        c->ok = false;
    const uint8_t *p = cursor_take(c, (size_t)n);
    *out = (str){(const char *)p, p ? (size_t)n : 0};
    return c->ok;
}

static bool bools_are_sane(const gguf_kv *kv)
{
    if (kv->elem == GGUF_BOOL)
        for (size_t i = 0; i < kv->raw_bytes; i++)
            if (kv->raw[i] > 1)
                return false;
    return true;
}

static om_status take_elements(parser *g, gguf_kv *kv)
{
    size_t bytes, width = types[kv->elem].bytes;
    size_t beg = g->c.pos;
    if (width) {
        if (kv->count > SIZE_MAX || !size_mul((size_t)kv->count, width, &bytes) ||
            !cursor_take(&g->c, bytes))
            return cut_short(g, "an array");
    } else { /* every string has at least its length */
        if (kv->count > (g->c.n - g->c.pos) / 8)
            return cut_short(g, "an array of strings");
        str s;
        for (uint64_t i = 0; i < kv->count; i++)
            if (!take_string(&g->c, &s))
                return cut_short(g, "an array of strings");
    }
    kv->raw = g->c.p + beg;
    kv->raw_bytes = g->c.pos - beg;
    return OM_OK;
}

static om_status take_array(parser *g, gguf_kv *kv)
{
    uint32_t elem = cursor_u32(&g->c);
    kv->count = cursor_u64(&g->c);
    if (!g->c.ok)
        return cut_short(g, "an array's head");
    if (elem == GGUF_ARRAY)
        return fail_at(g->err, OM_EUNSUPPORTED, g->c.pos,
                       "gguf: key '%.*s' is an array of arrays, which is not supported",
                       (int)size_min(kv->key.n, 80), kv->key.p);
    if (elem >= GGUF_TYPE_COUNT)
        return fail_at(g->err, OM_EFORMAT, g->c.pos,
                       "gguf: key '%.*s' is an array of type %u; types end at %d",
                       (int)size_min(kv->key.n, 80), kv->key.p, elem, GGUF_TYPE_COUNT - 1);
    kv->elem = (gguf_type)elem;
    return take_elements(g, kv);
}

static om_status take_value(parser *g, gguf_kv *kv)
{
    str s;
    kv->count = 1;
    kv->elem = kv->type;
    if (kv->type == GGUF_ARRAY) {
        TRY(take_array(g, kv));
    } else if (kv->type == GGUF_STRING) {
        if (!take_string(&g->c, &s))
            return cut_short(g, "a string");
        kv->raw = (const uint8_t *)s.p;
        kv->raw_bytes = s.n;
    } else {
        kv->raw_bytes = types[kv->type].bytes;
        kv->raw = cursor_take(&g->c, kv->raw_bytes);
        if (!kv->raw)
            return cut_short(g, "a value");
    }
    if (!bools_are_sane(kv))
        return fail_at(g->err, OM_EFORMAT, g->c.pos,
                       "gguf: key '%.*s' holds a bool above 1",
                       (int)size_min(kv->key.n, 80), kv->key.p);
    return OM_OK;
}

static om_status take_kv(parser *g, uint32_t i)
{
    gguf_kv *kv = &g->kv[i];
    size_t at = g->c.pos;
    if (!take_string(&g->c, &kv->key))
        return cut_short(g, "a key");
    if (!name_is_sane(kv->key, GGUF_MAX_KEY))
        return fail_at(g->err, OM_EFORMAT, at,
                       "gguf: key %u of %u is empty, too long or not printable UTF-8", i,
                       g->out->n_kv);
    uint32_t type = cursor_u32(&g->c);
    if (!g->c.ok)
        return cut_short(g, "a key's type");
    if (type >= GGUF_TYPE_COUNT)
        return fail_at(g->err, OM_EFORMAT, g->c.pos,
                       "gguf: key '%.*s' has type %u; types end at %d",
                       (int)size_min(kv->key.n, 80), kv->key.p, type, GGUF_TYPE_COUNT - 1);
    kv->type = (gguf_type)type;
    return take_value(g, kv);
}

/* ---- tensors ------------------------------------------------------------------------- */

static om_status take_dims(parser *g, tensor *t)
{
    uint64_t innermost_first[TENSOR_DIMS] = {1, 1, 1, 1};
    t->n_dims = cursor_u32(&g->c);
    if (g->c.ok && (t->n_dims < 1 || t->n_dims > TENSOR_DIMS))
        return fail_at(g->err, OM_EFORMAT, g->c.pos,
                       "gguf: tensor '%.*s' has %u dimensions; expected 1 to %d",
                       (int)t->name.n, t->name.p, t->n_dims, TENSOR_DIMS);
    for (uint32_t d = 0; g->c.ok && d < t->n_dims; d++)
        innermost_first[d] = cursor_u64(&g->c);
    for (uint32_t d = 0; d < TENSOR_DIMS; d++)
        t->dim[d] = d < t->n_dims ? innermost_first[t->n_dims - 1 - d] : 1;
    return OM_OK;
}

/* The data's start is not known yet, so the offset is handed back. */
static om_status take_tensor(parser *g, uint32_t i, uint64_t *offset)
{
    tensor *t = &g->tensors[i];
    size_t at = g->c.pos;
    if (!take_string(&g->c, &t->name))
        return cut_short(g, "a tensor's name");
    if (!name_is_sane(t->name, GGUF_MAX_NAME))
        return fail_at(
            g->err, OM_EFORMAT, at,
            "gguf: the name of tensor %u of %u is empty, longer than %d bytes or "
            "not printable UTF-8",
            i, g->out->n_tensors, GGUF_MAX_NAME);
    TRY(take_dims(g, t));
    uint32_t type = cursor_u32(&g->c);
    *offset = cursor_u64(&g->c);
    if (!g->c.ok)
        return cut_short(g, "a tensor's description");
    if (type >= DTYPE_COUNT || !dtype_of((dtype)type))
        return fail_at(g->err, OM_EUNSUPPORTED, g->c.pos,
                       "gguf: tensor '%.*s' has type %u, which is not known here",
                       (int)t->name.n, t->name.p, type);
    t->type = (dtype)type;
    if (!tensor_measure(t->type, t->dim, t->n_dims, &t->bytes) || t->bytes == 0)
        return fail_at(g->err, OM_EFORMAT, g->c.pos,
                       "gguf: tensor '%.*s' of type %s has an empty, ragged or "
                       "overflowing shape",
                       (int)t->name.n, t->name.p, dtype_of(t->type)->name);
    return OM_OK;
}

static om_status place_tensor(parser *g, tensor *t, uint64_t offset)
{
    uint64_t data_at = g->out->data_at;
    uint64_t room = g->file_bytes > data_at ? g->file_bytes - data_at : 0;
    if (offset % g->out->alignment)
        return fail(
            g->err, OM_EFORMAT, "gguf: tensor '%.*s' starts at %llu, not a multiple of %u",
            (int)t->name.n, t->name.p, (unsigned long long)offset, g->out->alignment);
    if (offset > room || t->bytes > room - offset)
        return fail_at(
            g->err, OM_EFORMAT, g->file_bytes,
            "gguf: tensor '%.*s' of %zu bytes ends behind the file's %llu bytes; "
            "is the file complete?",
            (int)t->name.n, t->name.p, t->bytes, (unsigned long long)g->file_bytes);
    if (data_at + offset + t->bytes <= g->c.n)
        t->data = g->c.p + data_at + offset;
    return OM_OK;
}

static om_status take_tensors(parser *g)
{
    gguf *out = g->out;
    uint64_t *offset = mem_array(out->n_tensors, sizeof(*offset));
    if (!offset)
        return fail(g->err, OM_ENOMEM, "gguf: no memory for %u tensors", out->n_tensors);
    om_status s = OM_OK;
    for (uint32_t i = 0; s == OM_OK && i < out->n_tensors; i++)
        s = take_tensor(g, i, &offset[i]);
    out->data_at = size_align(g->c.pos, out->alignment);
    for (uint32_t i = 0; s == OM_OK && i < out->n_tensors; i++)
        s = place_tensor(g, &g->tensors[i], offset[i]);
    mem_free(offset);
    return s;
}

/* ---- the whole header ------------------------------------------------------------------
 */

static names kv_names(const gguf *g)
{
    return (names){g->kv, sizeof(*g->kv), g->n_kv, g->index_};
}
static names tensor_names(const gguf *g)
{
    uint32_t *order = g->index_;
    return (names){g->tensors, sizeof(*g->tensors), g->n_tensors,
                   order ? order + g->n_kv : NULL};
}

static om_status take_head(parser *g)
{
    const uint8_t *magic = cursor_take(&g->c, 4);
    if (!magic || memcmp(magic, "GGUF", 4) != 0)
        return fail(g->err, OM_EFORMAT, "gguf: the file does not begin with 'GGUF'");
    uint32_t version = cursor_u32(&g->c);
    uint64_t n_tensors = cursor_u64(&g->c), n_kv = cursor_u64(&g->c);
    if (!g->c.ok)
        return cut_short(g, "the head");
    if (version != 2 && version != 3)
        return fail(g->err, OM_EUNSUPPORTED, "gguf: version %u; 2 and 3 are read%s",
                    version, version & 0xffff0000 ? " (big-endian files are not)" : "");
    size_t left = g->c.n - g->c.pos; /* the least a key-value and a tensor info take */
    if (n_kv > left / 14 || n_tensors > left / 33)
        return fail_at(g->err, OM_EFORMAT, 8,
                       "gguf: %llu keys and %llu tensors cannot fit in %zu bytes",
                       (unsigned long long)n_kv, (unsigned long long)n_tensors, g->c.n);
    if (n_kv > GGUF_MAX_KV || n_tensors > GGUF_MAX_TENSORS)
        return fail_at(g->err, OM_ELIMIT, 8,
                       "gguf: %llu keys and %llu tensors; at most %d and %d are read",
                       (unsigned long long)n_kv, (unsigned long long)n_tensors, GGUF_MAX_KV,
                       GGUF_MAX_TENSORS);
    g->out->version = version;
    g->out->n_kv = (uint32_t)n_kv;
    g->out->n_tensors = (uint32_t)n_tensors;
    return OM_OK;
}

static om_status allocate(parser *g)
{
    gguf *out = g->out; /* counts are capped: no overflow */
    size_t kv_bytes = size_align(out->n_kv * sizeof(gguf_kv), 64);
    size_t tensor_bytes = size_align(out->n_tensors * sizeof(tensor), 64);
    char *block =
        mem_alloc(kv_bytes + tensor_bytes + 4 * ((size_t)out->n_kv + out->n_tensors));
    if (!block)
        return fail(g->err, OM_ENOMEM, "gguf: no memory for %u keys and %u tensors",
                    out->n_kv, out->n_tensors);
    out->block_ = block;
    out->kv = g->kv = (gguf_kv *)(void *)block;
    out->tensors = g->tensors = (tensor *)(void *)(block + kv_bytes);
    out->index_ = block + kv_bytes + tensor_bytes;
    return OM_OK;
}

static om_status refuse_double(parser *g, names t, const char *what)
{
    names_sort(&t);
    uint32_t i = names_first_double(&t);
    if (i == t.n)
        return OM_OK;
    const char *record = (const char *)t.base + i * t.stride;
    str name = *(const str *)(const void *)record;
    return fail(g->err, OM_EFORMAT, "gguf: the %s '%.*s' is there twice", what,
                (int)size_min(name.n, 80), name.p);
}

static om_status take_alignment(parser *g)
{
    uint64_t a = gguf_u64(g->out, "general.alignment", 32);
    const gguf_kv *kv = gguf_find(g->out, "general.alignment");
    if ((kv && kv->type != GGUF_U32) || a < 8 || a > 1 << 20 || (a & (a - 1)))
        return fail(
            g->err, OM_EFORMAT,
            "gguf: general.alignment is %llu; expected a u32 power of two of 8 or more",
            (unsigned long long)a);
    g->out->alignment = (uint32_t)a;
    return OM_OK;
}

static om_status parse(parser *g)
{
    TRY(take_head(g));
    TRY(allocate(g));
    for (uint32_t i = 0; i < g->out->n_kv; i++)
        TRY(take_kv(g, i));
    TRY(refuse_double(g, kv_names(g->out), "key"));
    TRY(take_alignment(g));
    TRY(take_tensors(g));
    return refuse_double(g, tensor_names(g->out), "tensor");
}

om_status gguf_open_part(const void *p, size_t n, uint64_t file_bytes, gguf *out,
                         om_err *err)
{
    *out = (gguf){0};
    if ((uintptr_t)p & 7)
        return fail(err, OM_EARG, "gguf: the bytes must lie 8-byte aligned");
    parser g = {.c = cursor_of(p, n), .file_bytes = file_bytes, .out = out, .err = err};
    om_status s = parse(&g);
    if (s != OM_OK)
        gguf_close(out);
    return s;
}

om_status gguf_open(const void *p, size_t n, gguf *out, om_err *err)
{
    return gguf_open_part(p, n, n, out, err);
}

void gguf_close(gguf *g)
{
    mem_free(g->block_);
    *g = (gguf){0};
}

/* ---- looking things up ------------------------------------------------------------------
 */

const tensor *gguf_tensor(const gguf *g, const char *name)
{
    names t = tensor_names(g);
    uint32_t i = names_find(&t, str_of(name));
    return i < t.n ? &g->tensors[i] : NULL;
}

const gguf_kv *gguf_find(const gguf *g, const char *key)
{
    names t = kv_names(g);
    uint32_t i = names_find(&t, str_of(key));
    return i < t.n ? &g->kv[i] : NULL;
}

/* A number of any type: the magnitude when it is whole, and as a double. */
typedef struct {
    bool is_number, is_whole, minus;
    uint64_t magnitude;
    double real;
} number;

static number from_signed(int64_t v)
{
    uint64_t m = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    return (number){true, true, v < 0, m, (double)v};
}

static number from_real(double v)
{
    number n = {.is_number = true, .real = v, .minus = v < 0};
    if (v == floor(v) && fabs(v) < 9007199254740992.0) {
        n.is_whole = true;
        n.magnitude = (uint64_t)fabs(v);
    }
    return n;
}

static number load(const gguf_kv *kv, uint64_t i)
{
    BUG_IF(i >= kv->count);
    size_t width = types[kv->elem].bytes;
    if (width == 0)
        return (number){0};
    cursor c = cursor_of(kv->raw + i * width, width);
    uint64_t v = 0;
    double f;
    for (size_t b = 0; b < width; b++)
        v |= (uint64_t)cursor_u8(&c) << (8 * b);
    switch (kv->elem) {
    case GGUF_I8:
        return from_signed((int8_t)v);
    case GGUF_I16:
        return from_signed((int16_t)v);
    case GGUF_I32:
        return from_signed((int32_t)v);
    case GGUF_I64:
        return from_signed((int64_t)v);
    case GGUF_F32:
        c.pos = 0;
        return from_real((double)cursor_f32(&c));
    case GGUF_F64:
        memcpy(&f, &v, 8);
        return from_real(f);
    default:
        return (number){true, true, false, v, (double)v};
    }
}

static number scalar(const gguf *g, const char *key)
{
    const gguf_kv *kv = gguf_find(g, key);
    return kv && kv->type != GGUF_ARRAY ? load(kv, 0) : (number){0};
}

static int64_t as_i64(number n, int64_t def)
{
    if (!n.is_whole || n.magnitude > (uint64_t)INT64_MAX + n.minus)
        return def;
    return n.minus ? (int64_t)(0 - n.magnitude) : (int64_t)n.magnitude;
}

uint64_t gguf_u64(const gguf *g, const char *key, uint64_t def)
{
    number n = scalar(g, key);
    return n.is_whole && (!n.minus || n.magnitude == 0) ? n.magnitude : def;
}

int64_t gguf_i64(const gguf *g, const char *key, int64_t def)
{
    return as_i64(scalar(g, key), def);
}

double gguf_f64(const gguf *g, const char *key, double def)
{
    number n = scalar(g, key);
    return n.is_number ? n.real : def;
}

bool gguf_bool(const gguf *g, const char *key, bool def)
{
    number n = scalar(g, key);
    return n.is_whole && !n.minus && n.magnitude <= 1 ? n.magnitude == 1 : def;
}

str gguf_str(const gguf *g, const char *key, const char *def)
{
    const gguf_kv *kv = gguf_find(g, key);
    return kv && kv->type == GGUF_STRING ? (str){(const char *)kv->raw, kv->raw_bytes}
                                         : str_of(def);
}

double gguf_at_f64(const gguf_kv *kv, uint64_t i) { return load(kv, i).real; }
int64_t gguf_at_i64(const gguf_kv *kv, uint64_t i) { return as_i64(load(kv, i), 0); }

om_status gguf_strings(const gguf_kv *kv, str *out, om_err *err)
{
    if (kv->type != GGUF_ARRAY || kv->elem != GGUF_STRING)
        return fail(err, OM_EFORMAT, "gguf: key '%.*s' is no array of strings",
                    (int)size_min(kv->key.n, 80), kv->key.p);
    cursor c = cursor_of(kv->raw, kv->raw_bytes);
    for (uint64_t i = 0; i < kv->count; i++)
        BUG_IF(!take_string(&c, &out[i])); /* checked when opened */
    return OM_OK;
}
