/* modules.c - the row order of q and k (see modules.h).
 *
 * Of the r rotated rows of a head, row 2i + j of the pair order is row j r/2 + i of the
 * halves order, j in {0,1}: the rotation acts on (i, j=0) and (i, j=1) in both. */
#include "adapt/modules.h"

bool adapt_reorders(const llm_model *m, const nn_weight *w, row_order wanted)
{
    uint32_t layer;
    const char *name = adapt_module_name(m, w, &layer);
    bool rotated = name && (strcmp(name, "q_proj") == 0 || strcmp(name, "k_proj") == 0);
    row_order held = m->h.rope.neox ? ROWS_HALVES : ROWS_PAIRS;
    return rotated && m->arch->hf_permuted_qk && held != wanted;
}

void adapt_reorder_rows(const llm_model *m, const nn_weight *w, row_order to,
                        const float *src, float *dst, uint32_t cols)
{
    uint32_t d = m->h.head_dim, rot = m->h.rope.n_rot;
    for (uint32_t row = 0; row < w->rows; row++) {
        uint32_t head = row / d * d, in = row % d; /* row in pair order */
        uint32_t halves = in < rot ? head + in % 2 * (rot / 2) + in / 2 : row;
        uint32_t from = to == ROWS_HALVES ? row : halves;
        uint32_t into = to == ROWS_HALVES ? halves : row;
        memcpy(dst + (size_t)into * cols, src + (size_t)from * cols, cols * sizeof(float));
    }
}
