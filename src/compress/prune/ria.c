/* ria.c - relative importance and activations: a weight counts by its share of its row and
 * of its column, so that no channel is lost whole,
 *
 *     S_ij = (|W_ij| / sum_i |W_ij| + |W_ij| / sum_j |W_ij|) |X_j|^a,   a = 1/2.
 *
 * Scores compete in the whole matrix.  The paper's permutation of channels before N:M is
 * not done: it would have to be undone in the layer before. */
#include "compress/prune.h"

#include <math.h>

static void score(const prune_matrix *j, float *s)
{
    size_t cols = j->cols;
    float *column = s + (j->rows - 1) * cols; /* sums, in the last row until it comes */
    for (size_t c = 0; c < cols; c++) {
        double sum = 0;
        for (size_t r = 0; r < j->rows; r++)
            sum += fabs((double)j->w[r * cols + c]);
        column[c] = (float)sum;
    }
    for (size_t r = 0; r < j->rows; r++) {
        const float *w = j->w + r * cols;
        double row = 0;
        for (size_t c = 0; c < cols; c++)
            row += fabs((double)w[c]);
        for (size_t c = 0; c < cols; c++) {
            float share = column[c] > 0 ? fabsf(w[c]) / column[c] : 0;
            share += row > 0 ? fabsf(w[c]) / (float)row : 0;
            s[r * cols + c] = share * sqrtf(sqrtf(j->x2[c]));
        }
    }
}

const prune_method prune_ria = {
    .name = "ria",
    .summary = "shares of rows and columns times the inputs' root",
    .source = "Zhang et al. 2024, Plug-and-Play (ICLR)",
    .structures = PRUNE_WEIGHTS | PRUNE_UNITS,
    .wants = PRUNE_DIAGONAL,
    .score = score,
};
