/* rewrite.c - see rewrite.h. */
#include "compress/rewrite.h"

#include <math.h>

om_status rewrite_open(llm_model *m, const calib_args *text, rewrite *out, om_err *err)
{
    *out = (rewrite){.layer = REWRITE_NONE};
    om_status s = llm_fork(m, &out->work, err);
    if (s == OM_OK) {
        out->work->owned_ = m->owned_; /* for what the source file says of itself */
        if (text && text->n)
            s = calib_open(out->work, text, &out->text, err);
    }
    if (s != OM_OK)
        rewrite_close(out);
    return s;
}

void rewrite_close(rewrite *r)
{
    if (r->work)
        rewrite_drop(r);
    calib_close(r->text);
    llm_fork_close(r->work);
    *r = (rewrite){.layer = REWRITE_NONE};
}

void rewrite_drop(rewrite *r)
{
    for (uint32_t i = 0; i < r->n_done; i++) {
        *r->done[i].w = r->done[i].was;
        mem_free(r->done[i].data);
    }
    r->n_done = 0;
}

om_status rewrite_leave(rewrite *r, om_err *err)
{
    om_status s = OM_OK;
    if (r->text && r->layer != REWRITE_NONE)
        s = calib_advance(r->text, r->layer, err);
    for (uint32_t i = 0; i < r->n_done; i++) {
        const nn_weight *was = &r->done[i].was;
        size_t row = 0;
        dtype_row_bytes(was->type, was->cols, &row);
        os_map_forget(was->data, row * was->rows);
    }
    rewrite_drop(r);
    r->layer = REWRITE_NONE;
    return s;
}

om_status rewrite_collect(rewrite *r, uint32_t layer, bool full, om_err *err)
{
    TRY(calib_collect(r->text, layer, full, false, err));
    if (layer < r->work->h.n_layer)
        r->layer = layer;
    return OM_OK;
}

om_status rewrite_install(rewrite *r, nn_weight *w, nn_weight as, om_err *err)
{
    if (r->n_done == REWRITE_WEIGHTS) {
        mem_free((void *)as.data);
        return fail(err, OM_ELIMIT, "%s: a block with over %d weights", w->name,
                    REWRITE_WEIGHTS);
    }
    r->done[r->n_done].w = w;
    r->done[r->n_done].was = *w;
    r->done[r->n_done++].data = (void *)as.data;
    *w = as;
    return OM_OK;
}

om_status rewrite_check(const char *who, const nn_weight *w, const float *v, size_t rows,
                        size_t first, om_err *err)
{
    for (size_t i = 0; i < rows * w->cols; i++)
        if (!isfinite(v[i]))
            return fail(err, OM_EFORMAT,
                        "%s: %s has %g in row %zu, column %zu; the "
                        "model is damaged",
                        who, w->name, (double)v[i], first + i / w->cols, i % w->cols);
    return OM_OK;
}
