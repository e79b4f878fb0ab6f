/* tensor.c - sizes of named views, and reading a stretch of one as f32. */
#include "tensor/tensor.h"

uint64_t tensor_count(const tensor *t)
{
    return tensor_rows(t) * tensor_cols(t);
}

uint64_t tensor_rows(const tensor *t)
{
    uint64_t rows = 1;
    for (uint32_t i = 0; i + 1 < t->n_dims; i++)
        rows *= t->dim[i];
    return rows;
}

uint64_t tensor_cols(const tensor *t)
{
    return t->n_dims ? t->dim[t->n_dims - 1] : 1;
}

om_status tensor_to_f32(const tensor *t, uint64_t beg, uint64_t n, float *out, om_err *err)
{
    const dtype_traits *d = dtype_of(t->type);
    int len = (int)size_min(t->name.n, 100);
    if (!d || !d->unpack)
        return fail(err, OM_EUNSUPPORTED, "tensor %.*s: type %s has no conversion to F32",
                    len, t->name.p, d ? d->name : "unknown");
    uint64_t count = tensor_count(t);
    if (beg > count || n > count - beg || beg % d->block || n % d->block)
        return fail(err, OM_EARG,
                    "tensor %.*s: elements %llu+%llu are not blocks of %u within %llu",
                    len, t->name.p, (unsigned long long)beg, (unsigned long long)n,
                    (unsigned)d->block, (unsigned long long)count);
    d->unpack((const uint8_t *)t->data + beg / d->block * d->bytes, out, (size_t)n);
    return OM_OK;
}

bool tensor_measure(dtype t, const uint64_t *dim, uint32_t n_dims, size_t *bytes)
{
    uint64_t cols = n_dims ? dim[n_dims - 1] : 1;
    size_t size;
    if (n_dims > TENSOR_DIMS || !dtype_row_bytes(t, cols, &size))
        return false;
    size_t elements = (size_t)cols; /* the count must fit too */
    for (uint32_t i = 0; i + 1 < n_dims; i++)
        if (dim[i] > SIZE_MAX || !size_mul(size, (size_t)dim[i], &size) ||
            !size_mul(elements, (size_t)dim[i], &elements))
            return false;
    *bytes = size;
    return true;
}
