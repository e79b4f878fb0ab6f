/* gguf.h - GGUF v2/v3 (little-endian), the single-file model format.
 *
 * Reading: gguf_open parses the header of bytes that the caller mapped and must keep;
 * tensors are views into them.  Everything is checked: counts, lengths, types,
 * offsets, alignment, the end of the file, names (sane and unique).  Strings are views
 * too.  Tensors may share bytes.
 * Writing: gguf_writer collects key-values and tensor infos, then streams the data, so
 * a model larger than memory can be written.  Before a byte of data goes out the header
 * is read back by the reader: what it would refuse is never written. */
#ifndef FMT_GGUF_H
#define FMT_GGUF_H

#include "os/os.h"
#include "tensor/tensor.h"

typedef enum {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT
} gguf_type;

const char *gguf_type_name(gguf_type t); /* "u32" */
size_t gguf_type_bytes(gguf_type t);     /* 0 for a string or an array */

typedef struct {
    str key;
    gguf_type type;     /* GGUF_ARRAY: see elem and count */
    gguf_type elem;     /* of an array; else equal to type */
    uint64_t count;     /* elements of an array; 1 otherwise */
    const uint8_t *raw; /* the value's bytes in the file (unaligned, little-endian): of */
    size_t raw_bytes;   /* a string its characters, of an array its elements one by one */
} gguf_kv;

enum {
    GGUF_MAX_KV = 1 << 16,
    GGUF_MAX_TENSORS = 1 << 18,
    GGUF_MAX_KEY = 65535, /* bytes, from the specification */
    GGUF_MAX_NAME = 255
};

typedef struct {
    uint32_t version, alignment;
    uint32_t n_kv, n_tensors;
    const gguf_kv *kv;
    const tensor *tensors;
    size_t data_at; /* where the first tensor's bytes may start */
    void *block_;
    void *index_; /* name -> position, for both */
} gguf;

/* p is 8-byte aligned (a mapping is).  OM_EFORMAT, OM_EUNSUPPORTED (version, tensor
 * type, array in an array), OM_ELIMIT or OM_ENOMEM with the byte in err->pos. */
om_status gguf_open(const void *p, size_t n, gguf *out, om_err *err);
/* The first n bytes of a file of file_bytes: the header must be whole; a tensor whose
 * bytes are not all there has data NULL. */
om_status gguf_open_part(const void *p, size_t n, uint64_t file_bytes, gguf *out,
                         om_err *err);
void gguf_close(gguf *g);

const tensor *gguf_tensor(const gguf *g, const char *name); /* NULL when absent */
const gguf_kv *gguf_find(const gguf *g, const char *key);   /* NULL when absent */
/* Scalars convert between number types when the value fits; else the default. */
uint64_t gguf_u64(const gguf *g, const char *key, uint64_t def);
int64_t gguf_i64(const gguf *g, const char *key, int64_t def);
double gguf_f64(const gguf *g, const char *key, double def);
bool gguf_bool(const gguf *g, const char *key, bool def);
str gguf_str(const gguf *g, const char *key, const char *def);
/* Element i < kv->count of an array or scalar of numbers; 0 when it does not fit or is
 * no number.  gguf_strings fills out[0..count) of an array of strings. */
double gguf_at_f64(const gguf_kv *kv, uint64_t i);
int64_t gguf_at_i64(const gguf_kv *kv, uint64_t i);
om_status gguf_strings(const gguf_kv *kv, str *out, om_err *err);

/* ---- writing: failures of put stick and come out of gguf_begin_data --------------- */

typedef struct gguf_writer gguf_writer;
/* Into a file, atomically, or into a growing buf of the caller's. */
om_status gguf_writer_open(const char *path, gguf_writer **out, om_err *err);
om_status gguf_writer_open_buf(buf *bytes, gguf_writer **out, om_err *err);
void gguf_put_u32(gguf_writer *w, const char *key, uint32_t v);
void gguf_put_u64(gguf_writer *w, const char *key, uint64_t v);
void gguf_put_f32(gguf_writer *w, const char *key, float v);
void gguf_put_bool(gguf_writer *w, const char *key, bool v);
void gguf_put_str(gguf_writer *w, const char *key, str v);
void gguf_put_kv(gguf_writer *w, const gguf_kv *kv); /* copy from another file */
void gguf_put_strings(gguf_writer *w, const char *key, const str *v, uint64_t n);
/* n elements of a number type, in the machine's order (little-endian). */
void gguf_put_array(gguf_writer *w, const char *key, gguf_type elem, const void *v,
                    uint64_t n);
/* Announce a tensor (data ignored); order of announcing = order of data. */
void gguf_put_tensor_info(gguf_writer *w, const tensor *t);
/* After all announcements: the header goes out, then data tensor by tensor, in pieces
 * of any size that do not cross from one tensor into the next. */
om_status gguf_begin_data(gguf_writer *w, om_err *err);
om_status gguf_write_data(gguf_writer *w, const void *p, size_t n, om_err *err);
/* Both end the writer; commit fails when data is missing and then leaves no file. */
om_status gguf_writer_commit(gguf_writer *w, om_err *err);
void gguf_writer_abort(gguf_writer *w);

#endif
