/* gptq.c - rounding column by column, each column making up for the errors of those
 * before it, as far as the inputs' second moments let it (ldl.h).  Scales of a block are
 * searched on what is to be rounded, an error in column k counting d_k times. */
#include "compress/method.h"

const quant_method quant_gptq = {
    .name = "gptq",
    .summary = "error feedback from calibration, standard types",
    .source = "Frantar et al. 2022, arXiv:2210.17323; Chee et al. 2023, arXiv:2307.13304",
    .wants = QUANT_FULL,
    .needs = true,
    .of_bits = QUANT_STANDARD_BITS,
    .candidates = quant_standard,
    .encode = quant_encode_grid,
};
