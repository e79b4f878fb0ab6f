/* depth.c - whole blocks by their influence: how far a block turns the residual stream,
 *
 *     BI_l = 1 - mean over tokens of cos(x_l, x_l+1).
 *
 * Those of least influence go, all at once. */
#include "compress/prune.h"

#include <math.h>

static double turn(const float *x, const float *y, size_t rows, size_t dim)
{
    double sum = 0;
    for (size_t r = 0; r < rows; r++) {
        double xy = 0, xx = 1e-30, yy = 1e-30;
        for (size_t i = r * dim; i < (r + 1) * dim; i++) {
            xy += (double)x[i] * (double)y[i];
            xx += (double)x[i] * (double)x[i];
            yy += (double)y[i] * (double)y[i];
        }
        sum += 1 - xy / sqrt(xx * yy);
    }
    return sum / (double)rows;
}

static om_status survey(llm_model *m, const calib_args *text, const prune_search *how,
                        prune_structure s, prune_plan *plan, om_err *err)
{
    calib *c;
    (void)how;
    (void)s;
    TRY(calib_open(m, text, &c, err));
    size_t rows = (size_t)calib_rows(c), dim = m->h.dim;
    float *before = mem_array(rows, dim * sizeof(float));
    float *influence = mem_array(m->h.n_layer, sizeof(float));
    om_status st = before && influence
                       ? OM_OK
                       : fail(err, OM_ENOMEM, "prune: no memory for %zu tokens", rows);
    for (uint32_t i = 0; st == OM_OK && i < m->h.n_layer; i++) {
        memcpy(before, calib_stream(c), rows * dim * sizeof(float));
        st = calib_advance(c, i, err);
        influence[i] = (float)turn(before, calib_stream(c), rows, dim);
        if (text->progress)
            text->progress(text->ctx, "measuring", "blocks", i + 1, m->h.n_layer);
    }
    if (st == OM_OK)
        st = prune_lowest(influence, m->h.n_layer, m->h.n_layer - plan->n_layer,
                          plan->layer, err);
    mem_free(before);
    mem_free(influence);
    calib_close(c);
    return st;
}

const prune_method prune_depth = {
    .name = "depth",
    .summary = "blocks that turn the stream least",
    .source = "Men et al. 2024 (ShortGPT), arXiv:2403.03853",
    .structures = 1u << PRUNE_LAYER,
    .survey = survey,
};
