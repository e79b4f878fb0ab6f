/* wanda.c - weights by what they add to the output: S_ij = |W_ij| |X_j|, X_j being all
 * values of input j.  Every row loses the same share, floor(s n).  A unit's sum of S^2 is
 * the squared output that goes with it, were its channels not correlated. */
#include "compress/prune.h"

const prune_method prune_wanda = {
    .name = "wanda",
    .summary = "weights times the size of their inputs",
    .source = "Sun et al. 2023, arXiv:2306.11695",
    .structures = PRUNE_WEIGHTS | PRUNE_UNITS,
    .wants = PRUNE_DIAGONAL,
    .by_row = true,
    .score = prune_score_wanda,
};
