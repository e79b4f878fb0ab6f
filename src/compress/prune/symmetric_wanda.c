/* symmetric_wanda.c - weights by what they are to both sides of their layer: removing W_ij
 * alone from |X (V - W)^T|^2 + |Y^T (V - W)|^2 costs S_ij^2,
 *
 *     S_ij = |W_ij| sqrt(|X_j|^2 + |Y_i|^2),
 *
 * X_j being all values of input j and Y_i those of output i, without bias; sums of both
 * are over the same tokens, and |Y_i|^2 = w_i H w_i^T.  With Y = 0 it is wanda. */
#include "compress/prune.h"

#include <math.h>

static void score(const prune_matrix *j, float *s)
{
    for (size_t r = 0; r < j->rows; r++) {
        float y2 = j->y2 ? j->y2[r] : 0;
        for (size_t c = 0; c < j->cols; c++)
            s[r * j->cols + c] = fabsf(j->w[r * j->cols + c]) * sqrtf(j->x2[c] + y2);
    }
}

const prune_method prune_symmetric_wanda = {
    .name = "symmetric-wanda",
    .summary = "weights times the size of their inputs and outputs",
    .source = "Yi and Richtarik 2025, arXiv:2501.18980",
    .structures = PRUNE_WEIGHTS | PRUNE_UNITS,
    .wants = PRUNE_FULL,
    .outputs = true,
    .by_row = true,
    .score = score,
};
