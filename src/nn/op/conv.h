/* conv.h - inside nn/op: the geometry of a window sliding over CHW images. */
#ifndef NN_OP_CONV_H
#define NN_OP_CONV_H

#include "nn/op.h"

/* Places of the window each way. */
static inline uint32_t conv_out_h(const nn_conv_args *a)
{
    return (a->h + 2 * a->pad - a->kh) / a->stride + 1;
}
static inline uint32_t conv_out_w(const nn_conv_args *a)
{
    return (a->w + 2 * a->pad - a->kw) / a->stride + 1;
}
/* False after failing when the geometry does not fit x's rows. */
bool conv_fits(nn *c, const nn_tensor *x, const nn_conv_args *a);

#endif
