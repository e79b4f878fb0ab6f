/* gguf.h - GGUF v2/v3 (little-endian), the single-file model format.
 *
 * Reading: gguf_open parses the header of bytes that the caller mapped and must keep;
 * tensors are views into them.  Everything is checked: counts, lengths, types,
 * offsets, alignment, overlap with the end of the file.  Strings are views too.
 * Writing: gguf_writer collects key-values and tensor infos, then streams the data, so
 * a model larger than memory can be written. */
#ifndef FMT_GGUF_H
#define FMT_GGUF_H

#include "os/os.h"
#include "tensor/tensor.h"

typedef enum {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL,
    GGUF_STRING, GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64, GGUF_TYPE_COUNT
} gguf_type;

typedef struct {
    str key;
    gguf_type type;      /* GGUF_ARRAY: see elem and count */
    gguf_type elem;
    uint64_t count;      /* elements of an array; 1 otherwise */
    const uint8_t *raw;  /* the value's bytes in the file (unaligned, little-endian) */
    size_t raw_bytes;
} gguf_kv;

typedef struct {
    uint32_t version, alignment;
    uint32_t n_kv, n_tensors;
    const gguf_kv *kv;
    const tensor *tensors;
    void *block_;
    void *index_;        /* name -> position, for both */
} gguf;

om_status gguf_open(const void *p, size_t n, gguf *out, om_err *err);
void gguf_close(gguf *g);

const tensor *gguf_tensor(const gguf *g, const char *name); /* NULL when absent */
const gguf_kv *gguf_find(const gguf *g, const char *key);   /* NULL when absent */
/* Scalars convert between number types when the value fits; else the default. */
uint64_t gguf_u64(const gguf *g, const char *key, uint64_t def);
int64_t gguf_i64(const gguf *g, const char *key, int64_t def);
double gguf_f64(const gguf *g, const char *key, double def);
bool gguf_bool(const gguf *g, const char *key, bool def);
str gguf_str(const gguf *g, const char *key, const char *def);
/* Array access, i < kv->count.  gguf_strings fills out[0..count). */
double gguf_at_f64(const gguf_kv *kv, uint64_t i);
int64_t gguf_at_i64(const gguf_kv *kv, uint64_t i);
om_status gguf_strings(const gguf_kv *kv, str *out, om_err *err);

typedef struct gguf_writer gguf_writer;
om_status gguf_writer_open(const char *path, gguf_writer **out, om_err *err);
void gguf_put_u32(gguf_writer *w, const char *key, uint32_t v);
void gguf_put_u64(gguf_writer *w, const char *key, uint64_t v);
void gguf_put_f32(gguf_writer *w, const char *key, float v);
void gguf_put_bool(gguf_writer *w, const char *key, bool v);
void gguf_put_str(gguf_writer *w, const char *key, str v);
void gguf_put_kv(gguf_writer *w, const gguf_kv *kv);   /* copy from another file */
void gguf_put_strings(gguf_writer *w, const char *key, const str *v, uint64_t n);
void gguf_put_array(gguf_writer *w, const char *key, gguf_type elem, const void *v, uint64_t n);
/* Announce a tensor (data ignored); order of announcing = order of data. */
void gguf_put_tensor_info(gguf_writer *w, const tensor *t);
/* After all announcements: the header goes out, then data tensor by tensor. */
om_status gguf_begin_data(gguf_writer *w, om_err *err);
om_status gguf_write_data(gguf_writer *w, const void *p, size_t n, om_err *err);
om_status gguf_writer_commit(gguf_writer *w, om_err *err); /* checks all came; atomic; frees w */
void gguf_writer_abort(gguf_writer *w);

#endif
