/* safetensors.h - the Hugging Face tensor file: 8-byte header length, JSON header
 * {name: {dtype, shape, data_offsets}}, then data.  Bytes in, views out. */
#ifndef FMT_SAFETENSORS_H
#define FMT_SAFETENSORS_H

#include "os/os.h"
#include "tensor/tensor.h"

typedef struct {
    uint32_t n_tensors;
    const tensor *tensors;
    uint32_t n_meta;         /* __metadata__ : string pairs */
    const str *meta_key, *meta_value;
    void *block_;
} safetensors;

om_status safetensors_open(const void *p, size_t n, safetensors *out, om_err *err);
void safetensors_close(safetensors *s);
const tensor *safetensors_find(const safetensors *s, const char *name);
/* Write F32/F16/BF16 tensors (data given), atomically.  meta pairs may be NULL. */
om_status safetensors_write(const char *path, const tensor *t, uint32_t n, const str *meta_key,
                            const str *meta_value, uint32_t n_meta, om_err *err);

#endif
