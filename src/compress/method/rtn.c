/* rtn.c - round to nearest: every block on its own, all errors weighing the same.  The
 * scales are those that minimise the squared error (kern/dtype_pack.c). */
#include "compress/method.h"

const quant_method quant_rtn = {
    .name = "rtn",
    .summary = "round to nearest: no data, standard types",
    .source = "ggml's block types",
    .wants = QUANT_NOTHING,
    .of_bits = QUANT_STANDARD_BITS,
    .candidates = quant_standard,
    .encode = quant_encode_plain,
};
