/* kquant.c - scales and codes of the standard types searched under importance weights:
 * an error of weight j counts mean_j sqrt(sigma^2 + w^2) times, mean_j being the mean
 * square of input column j and sigma^2 twice the block's mean square.
 *
 * I. Kawrakow's k-quants with importance matrix (llama.cpp, 2023-24); grid.c says where
 * the search goes further. */
#include "compress/method.h"

const quant_method quant_kquant = {
    .name = "kquant",
    .summary = "searched scales under importance weights, standard types",
    .source = "I. Kawrakow, llama.cpp pull requests 1684 (2023) and 4861 (2024)",
    .wants = QUANT_DIAGONAL,
    .of_bits = QUANT_STANDARD_BITS,
    .candidates = quant_standard,
    .encode = quant_encode_grid,
};
