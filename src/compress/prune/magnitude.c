/* magnitude.c - the smallest weights of a matrix go: S = |W|.  No data. */
#include "compress/prune.h"

const prune_method prune_magnitude = {
    .name = "magnitude",
    .summary = "the smallest weights; no data",
    .source = "Han et al. 2015, arXiv:1506.02626",
    .structures = PRUNE_WEIGHTS | PRUNE_UNITS,
    .wants = PRUNE_NOTHING,
    .score = prune_score_magnitude,
};
