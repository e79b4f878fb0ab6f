/* gguf_write.c - writing GGUF v3.
 *
 * Key-values and tensor infos gather in two growing bufs.  gguf_begin_data lays the
 * tensors out one after another, each on a multiple of the alignment, patches their
 * offsets into the infos, and reads its own header back before anything is written.
 * Then data streams; the writer pads every tensor, the last one too, as ggml does. */
#include "fmt/gguf.h"

enum { HEADER_LIMIT = 1 << 30 };

typedef struct {
    uint64_t bytes;
    uint64_t offset_at; /* where in the infos its offset is to be patched */
} laid;

struct gguf_writer {
    os_put file;
    buf *sink;              /* instead of the file */
    buf kv, infos, tensors; /* tensors: an array of laid */
    uint64_t n_kv, n_tensors;
    uint32_t alignment;
    bool data_begun;
    uint64_t at_tensor, done_bytes; /* progress of the data */
    om_status status;               /* first failure */
};

/* ---- collecting ---------------------------------------------------------------------- */

static void keep(gguf_writer *w, om_status s)
{
    if (w->status == OM_OK)
        w->status = s;
}

static void put_string(gguf_writer *w, buf *b, str s)
{
    keep(w, buf_u64(b, s.n));
    keep(w, buf_str(b, s));
}

static void put_key(gguf_writer *w, str key, gguf_type type)
{
    BUG_IF(w->data_begun);
    put_string(w, &w->kv, key);
    keep(w, buf_u32(&w->kv, type));
    w->n_kv++;
}

void gguf_put_u32(gguf_writer *w, const char *key, uint32_t v)
{
    if (strcmp(key, "general.alignment") == 0)
        w->alignment = v;
    put_key(w, str_of(key), GGUF_U32);
    keep(w, buf_u32(&w->kv, v));
}

void gguf_put_u64(gguf_writer *w, const char *key, uint64_t v)
{
    put_key(w, str_of(key), GGUF_U64);
    keep(w, buf_u64(&w->kv, v));
}

void gguf_put_f32(gguf_writer *w, const char *key, float v)
{
    put_key(w, str_of(key), GGUF_F32);
    keep(w, buf_f32(&w->kv, v));
}

void gguf_put_bool(gguf_writer *w, const char *key, bool v)
{
    put_key(w, str_of(key), GGUF_BOOL);
    keep(w, buf_u8(&w->kv, v));
}

void gguf_put_str(gguf_writer *w, const char *key, str v)
{
    put_key(w, str_of(key), GGUF_STRING);
    put_string(w, &w->kv, v);
}

void gguf_put_kv(gguf_writer *w, const gguf_kv *kv)
{
    if (kv->type == GGUF_U32 && str_is(kv->key, "general.alignment"))
        w->alignment = (uint32_t)gguf_at_i64(kv, 0);
    put_key(w, kv->key, kv->type);
    if (kv->type == GGUF_ARRAY) {
        keep(w, buf_u32(&w->kv, kv->elem));
        keep(w, buf_u64(&w->kv, kv->count));
    } else if (kv->type == GGUF_STRING) {
        keep(w, buf_u64(&w->kv, kv->raw_bytes));
    }
    keep(w, buf_put(&w->kv, kv->raw, kv->raw_bytes));
}

void gguf_put_strings(gguf_writer *w, const char *key, const str *v, uint64_t n)
{
    put_key(w, str_of(key), GGUF_ARRAY);
    keep(w, buf_u32(&w->kv, GGUF_STRING));
    keep(w, buf_u64(&w->kv, n));
    for (uint64_t i = 0; i < n; i++)
        put_string(w, &w->kv, v[i]);
}

void gguf_put_array(gguf_writer *w, const char *key, gguf_type elem, const void *v,
                    uint64_t n)
{
    size_t bytes = 0, width = gguf_type_bytes(elem);
    BUG_IF(width == 0);
    put_key(w, str_of(key), GGUF_ARRAY);
    keep(w, buf_u32(&w->kv, elem));
    keep(w, buf_u64(&w->kv, n));
    keep(w, n <= SIZE_MAX && size_mul((size_t)n, width, &bytes) ? OM_OK : OM_ELIMIT);
    keep(w, buf_put(&w->kv, v, bytes));
}

void gguf_put_tensor_info(gguf_writer *w, const tensor *t)
{
    BUG_IF(w->data_begun);
    uint32_t n_dims = t->n_dims ? t->n_dims : 1; /* a scalar is a vector of one */
    size_t bytes = 0;
    bool sane = n_dims <= TENSOR_DIMS && tensor_measure(t->type, t->dim, n_dims, &bytes);
    keep(w, sane ? OM_OK : OM_EARG);
    put_string(w, &w->infos, t->name);
    keep(w, buf_u32(&w->infos, n_dims));
    for (uint32_t d = n_dims; sane && d-- > 0;)
        keep(w, buf_u64(&w->infos, t->dim[d]));
    keep(w, buf_u32(&w->infos, t->type));
    laid l = {bytes, w->infos.len};
    keep(w, buf_u64(&w->infos, 0));
    keep(w, buf_put(&w->tensors, &l, sizeof(l)));
    w->n_tensors++;
}

/* ---- data ------------------------------------------------------------------------------
 */

static laid *layout(const gguf_writer *w) { return (laid *)(void *)w->tensors.data; }

static uint64_t padded(const gguf_writer *w, uint64_t n)
{
    return (n + w->alignment - 1) & ~((uint64_t)w->alignment - 1);
}

static om_status write_out(gguf_writer *w, const void *p, size_t n, om_err *err)
{
    if (!w->sink)
        return os_put_write(&w->file, p, n, err);
    om_status s = buf_put(w->sink, p, n);
    return s == OM_OK ? s : fail(err, s, "gguf: cannot keep %zu more bytes", n);
}

static om_status write_zeros(gguf_writer *w, uint64_t n, om_err *err)
{
    static const uint8_t zeros[4096];
    while (n) {
        size_t piece = (size_t)(n < sizeof(zeros) ? n : sizeof(zeros));
        TRY(write_out(w, zeros, piece, err));
        n -= piece;
    }
    return OM_OK;
}

/* Offsets into the infos; the total of the data. */
static uint64_t lay_out(gguf_writer *w)
{
    uint64_t offset = 0;
    for (uint64_t i = 0; i < w->n_tensors; i++) {
        uint8_t *patch = w->infos.data + layout(w)[i].offset_at;
        for (int b = 0; b < 8; b++)
            patch[b] = (uint8_t)(offset >> (8 * b));
        offset += padded(w, layout(w)[i].bytes);
    }
    return offset;
}

static om_status assemble(gguf_writer *w, buf *head)
{
    TRY(buf_put(head, "GGUF", 4));
    TRY(buf_u32(head, 3));
    TRY(buf_u64(head, w->n_tensors));
    TRY(buf_u64(head, w->n_kv));
    TRY(buf_put(head, w->kv.data, w->kv.len));
    return buf_put(head, w->infos.data, w->infos.len);
}

static om_status check_and_write(gguf_writer *w, buf *head, uint64_t data, om_err *err)
{
    gguf back;
    om_status s = assemble(w, head);
    if (s != OM_OK)
        return fail(err, s, "gguf: no room for a header of %zu bytes",
                    w->kv.len + w->infos.len);
    uint64_t start = padded(w, head->len);
    s = gguf_open_part(head->data, head->len, start + data, &back, err);
    gguf_close(&back);
    if (s != OM_OK)
        return fail_in(err, s == OM_EFORMAT ? OM_EARG : s, "the header to be written");
    TRY(write_out(w, head->data, head->len, err));
    return write_zeros(w, start - head->len, err);
}

om_status gguf_begin_data(gguf_writer *w, om_err *err)
{
    BUG_IF(w->data_begun);
    if (w->status != OM_OK)
        return fail(err, w->status, "gguf: cannot collect the header: %s",
                    om_status_text(w->status));
    if (w->alignment == 0 || (w->alignment & (w->alignment - 1)))
        return fail(err, OM_EARG, "gguf: alignment %u is no power of two", w->alignment);
    buf head = buf_growing(2 * (size_t)HEADER_LIMIT + 64);
    w->status = check_and_write(w, &head, lay_out(w), err);
    buf_free(&head);
    w->data_begun = true;
    return w->status;
}

om_status gguf_write_data(gguf_writer *w, const void *p, size_t n, om_err *err)
{
    BUG_IF(!w->data_begun);
    if (w->status != OM_OK)
        return fail(err, w->status, "gguf: a write failed before");
    uint64_t whole = w->at_tensor < w->n_tensors ? layout(w)[w->at_tensor].bytes : 0;
    if (n > whole - w->done_bytes)
        return fail(err, OM_EARG, "gguf: %zu bytes for tensor %llu, which lacks only %llu",
                    n, (unsigned long long)w->at_tensor,
                    (unsigned long long)(whole - w->done_bytes));
    w->status = write_out(w, p, n, err);
    w->done_bytes += n;
    if (w->status == OM_OK && whole && w->done_bytes == whole) {
        w->status = write_zeros(w, padded(w, whole) - whole, err);
        w->at_tensor++;
        w->done_bytes = 0;
    }
    return w->status;
}

/* ---- beginning and end
 * -------------------------------------------------------------------- */

static om_status open_writer(gguf_writer **out, om_err *err)
{
    gguf_writer *w = mem_alloc(sizeof(*w));
    *out = w;
    if (!w)
        return fail(err, OM_ENOMEM, "gguf: no memory for a writer");
    w->file.fd = -1;
    w->alignment = 32;
    w->kv = buf_growing(HEADER_LIMIT);
    w->infos = buf_growing(HEADER_LIMIT);
    w->tensors = buf_growing(HEADER_LIMIT);
    return OM_OK;
}

om_status gguf_writer_open(const char *path, gguf_writer **out, om_err *err)
{
    TRY(open_writer(out, err));
    om_status s = os_put_open(path, &(*out)->file, err);
    if (s != OM_OK) {
        gguf_writer_abort(*out);
        *out = NULL;
    }
    return s;
}

om_status gguf_writer_open_buf(buf *bytes, gguf_writer **out, om_err *err)
{
    TRY(open_writer(out, err));
    (*out)->sink = bytes;
    return OM_OK;
}

om_status gguf_writer_commit(gguf_writer *w, om_err *err)
{
    om_status s = w->status;
    if (s != OM_OK)
        fail(err, s, "gguf: a write failed before");
    else if (!w->data_begun || w->at_tensor < w->n_tensors)
        s = fail(err, OM_EARG, "gguf: data of %llu of %llu tensors came",
                 (unsigned long long)w->at_tensor, (unsigned long long)w->n_tensors);
    else if (!w->sink)
        s = os_put_commit(&w->file, err);
    gguf_writer_abort(w);
    return s;
}

void gguf_writer_abort(gguf_writer *w)
{
    if (!w)
        return;
    if (!w->sink)
        os_put_abort(&w->file);
    buf_free(&w->kv);
    buf_free(&w->infos);
    buf_free(&w->tensors);
    mem_free(w);
}
