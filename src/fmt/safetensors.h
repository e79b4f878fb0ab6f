/* safetensors.h - the Hugging Face tensor file: 8-byte header length, JSON header
 * {name: {dtype, shape, data_offsets}}, then data.  Bytes in, views out. */
#ifndef FMT_SAFETENSORS_H
#define FMT_SAFETENSORS_H

#include "os/os.h"
#include "tensor/tensor.h"

enum {
    SAFETENSORS_MAX_HEADER = 100000000, /* bytes; the reference implementation's cap */
    SAFETENSORS_MAX_NAME = 255
};

typedef struct {
    uint32_t n_tensors;
    const tensor *tensors; /* in the header's order */
    uint32_t n_meta;       /* __metadata__ : string pairs */
    const str *meta_key, *meta_value;
    uint32_t n_skipped; /* tensors left out: an element type or rank we have no use for */
    void *block_;
    void *index_;
} safetensors;

/* The caller keeps p, 8-byte aligned.  Tensors are views into it, except those that old
 * writers left misaligned for their type: these are copied.  Names are sane and unique,
 * shapes agree with ranges, all data bytes are accounted for.  A scalar has n_dims 0; a
 * dimension may be 0. */
om_status safetensors_open(const void *p, size_t n, safetensors *out, om_err *err);
void safetensors_close(safetensors *s);
const tensor *safetensors_find(const safetensors *s, const char *name);
/* Write tensors of plain types (F32, F16, BF16, F64, I8 to I64; data given), atomically;
 * wider elements first, so that all are aligned.  meta pairs may be NULL. */
om_status safetensors_write(const char *path, const tensor *t, uint32_t n,
                            const str *meta_key, const str *meta_value, uint32_t n_meta,
                            om_err *err);

/* The files a model.safetensors.index.json names: sorted, each once, plain names of the
 * same folder (a path is refused). */
typedef struct {
    uint32_t n;
    const str *file; /* NUL-terminated */
    void *block_;
} safetensors_shards;

om_status safetensors_shards_open(const void *json, size_t n, safetensors_shards *out,
                                  om_err *err);
void safetensors_shards_close(safetensors_shards *s);

#endif
