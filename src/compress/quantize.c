/* quantize.c - see quantize.h. */
#include "compress/quantize.h"

#include "compress/rewrite.h"
#include "kern/higgs.h"

enum { CHUNK_VALUES = 4 << 20 };

typedef struct {
    const quantize_args *a;
    rewrite r;             /* its text: NULL without feedback */
    const calib_input *of; /* whose factor f is, and in which order of columns */
    unsigned order;
    ldl f;
    calib_input head; /* moments of the output matrix's input */
    const imatrix *im;
    uint8_t *embed; /* the embedding, packed */
} quantizer;

/* ---- importance -------------------------------------------------------------------- */

static om_status keep_diagonals(imatrix *im, const calib *c, om_err *err)
{
    for (uint32_t i = 0; i < im->m->n_weight; i++) {
        const nn_weight *w = &im->m->weight[i];
        const calib_input *in = calib_of(c, w);
        if (in)
            TRY(imatrix_set(im, w, in->diag, (double)in->rows, err));
    }
    return OM_OK;
}

static om_status measure_blocks(llm_model *m, calib *c, const calib_args *a, imatrix *im,
                                om_err *err)
{
    for (uint32_t i = 0; i <= m->h.n_layer; i++) {
        TRY(calib_collect(c, i, false, true, err));
        TRY(keep_diagonals(im, c, err));
        if (a->progress)
            a->progress(a->ctx, "calibrating", "blocks", i + 1, m->h.n_layer + 1);
    }
    im->window = calib_window(c);
    im->n_windows = (uint32_t)(calib_rows(c) / im->window);
    return OM_OK;
}

om_status imatrix_measure(llm_model *m, const calib_args *a, imatrix *out, om_err *err)
{
    calib *c;
    TRY(imatrix_new(m, out, err));
    om_status s = calib_open(m, a, &c, err);
    if (s == OM_OK) {
        s = measure_blocks(m, c, a, out, err);
        calib_close(c);
    }
    if (s != OM_OK)
        imatrix_close(out);
    return s;
}

/* ---- the file's callbacks ---------------------------------------------------------- */

static dtype type_of(void *ctx, const nn_weight *w)
{
    const quantizer *q = ctx;
    dtype t = q->a->types[w - q->r.work->weight];
    return t == w->type ? DTYPE_COUNT : t; /* already as asked: copied bit for bit */
}

static om_status enter(void *ctx, uint32_t layer, om_err *err)
{
    quantizer *q = ctx;
    TRY(rewrite_leave(&q->r, err));
    ldl_free(&q->f);
    q->of = NULL;
    return q->r.text ? rewrite_collect(&q->r, layer, true, err) : OM_OK;
}

/* H of rotated inputs in coding order: rows, then, H being symmetric, columns. */
static void rotate_moments(float *h, size_t n, const higgs_type *type)
{
    for (int side = 0; side < 2; side++) {
        for (size_t r = 0; r < n; r++)
            for (size_t at = 0; at < n; at += QK) {
                float x[QK], *row = h + r * n + at;
                memcpy(x, row, sizeof(x));
                higgs_rotate(x, QK);
                for (size_t i = 0; i < QK; i++)
                    row[i] = x[higgs_column(type, i)];
            }
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < i; j++) {
                float kept = h[i * n + j];
                h[i * n + j] = h[j * n + i];
                h[j * n + i] = kept;
            }
    }
}

static om_status factor(quantizer *q, const calib_input *in, const higgs_type *type,
                        om_err *err)
{
    size_t n = in->cols;
    const calib_args *a = q->a->text;
    if (!type)
        return ldl_factor(in->h, n, 0.01, a->k, a->pool, &q->f, err);
    float *h = mem_array(n, n * sizeof(float));
    if (!h)
        return fail(err, OM_ENOMEM, "quantize: no memory for %zu rotated columns", n);
    memcpy(h, in->h, n * n * sizeof(float));
    rotate_moments(h, n, type);
    om_status s = ldl_factor(h, n, 0.01, a->k, a->pool, &q->f, err);
    mem_free(h);
    return s;
}

/* The factor of what w reads, for its type; NULL where that is not known. */
static om_status factor_of(quantizer *q, const nn_weight *w, dtype t, const ldl **out,
                           om_err *err)
{
    const higgs_type *type = higgs_of(t);
    unsigned order = type ? 1u + type->p : 0;
    const calib_input *in = q->r.text ? calib_of(q->r.text, w) : NULL;
    if (!in && w == q->r.work->output && q->head.h)
        in = &q->head;
    *out = NULL;
    if (!in)
        return OM_OK;
    if (in != q->of || order != q->order) {
        ldl_free(&q->f);
        q->of = NULL;
        TRY(factor(q, in, type, err));
        q->of = in;
        q->order = order;
    }
    *out = &q->f;
    return OM_OK;
}

static om_status encode_chunks(quantizer *q, quant_rows *j, const nn_weight *w,
                               float *values, uint8_t *out, om_err *err)
{
    size_t in_row = 0, most = size_max(CHUNK_VALUES / w->cols, 1);
    j->w = values;
    dtype_row_bytes(w->type, w->cols, &in_row);
    for (size_t r = 0; r < w->rows; r += j->rows) {
        j->rows = size_min(most, w->rows - r);
        j->out = out + r * j->row_bytes;
        dtype_of(w->type)->unpack((const uint8_t *)w->data + r * in_row, values,
                                  j->rows * w->cols);
        TRY(rewrite_check("quantize", w, values, j->rows, r, err));
        if (is_cancelled(q->a->text->cancel))
            return fail(err, OM_ECANCEL, "quantize: cancelled");
        TRY(q->a->method->encode(j, err));
    }
    return OM_OK;
}

/* In its fork's place w shall read as packed. */
static om_status install(quantizer *q, const nn_weight *w, dtype type,
                         const uint8_t *packed, size_t bytes, om_err *err)
{
    nn_weight *mine = q->r.work->weight + (w - q->r.work->weight), as = *mine;
    uint8_t *copy = mem_alloc(bytes);
    if (!copy)
        return fail(err, OM_ENOMEM, "quantize: no memory for the packed %s", w->name);
    memcpy(copy, packed, bytes);
    as.data = copy;
    as.type = type;
    return rewrite_install(&q->r, mine, as, err);
}

/* The text starts again from the embedding as it will be read. */
static om_status restart(quantizer *q, dtype type, const uint8_t *packed, size_t bytes,
                         om_err *err)
{
    q->embed = mem_alloc(bytes);
    if (!q->embed)
        return fail(err, OM_ENOMEM, "quantize: no memory for the packed embedding");
    memcpy(q->embed, packed, bytes);
    q->r.work->embed->data = q->embed;
    q->r.work->embed->type = type;
    return calib_rewind(q->r.text, err);
}

static om_status encode(void *ctx, const nn_weight *w, dtype type, uint8_t *out,
                        om_err *err)
{
    quantizer *q = ctx;
    quant_rows j = {
        .cols = w->cols, .type = type, .k = q->a->text->k, .pool = q->a->text->pool};
    size_t at = (size_t)(w - q->r.work->weight), chunk;
    j.mean = q->im ? q->im->mean[at] : NULL;
    TRY(factor_of(q, w, type, &j.f, err));
    bool fits = dtype_row_bytes(type, w->cols, &j.row_bytes) &&
                size_mul(size_min(size_max(CHUNK_VALUES / w->cols, 1), w->rows),
                         w->cols * sizeof(float), &chunk);
    float *values = fits ? mem_alloc(chunk) : NULL;
    if (!values)
        return fail(err, OM_ENOMEM, "quantize: no memory for rows of %s", w->name);
    om_status s = encode_chunks(q, &j, w, values, out, err);
    mem_free(values);
    if (s == OM_OK && q->r.text && w == q->r.work->embed)
        s = restart(q, type, out, j.row_bytes * w->rows, err);
    else if (s == OM_OK && q->r.layer != REWRITE_NONE)
        s = install(q, w, type, out, j.row_bytes * w->rows, err);
    return s;
}

/* ---- the whole --------------------------------------------------------------------- */

/* Moments of the head's input, before any weight is packed: a tied embedding is written
 * first and read last. */
static om_status measure_head(quantizer *q, om_err *err)
{
    llm_model *m = q->r.work;
    for (uint32_t i = 0; i < m->h.n_layer; i++)
        TRY(calib_advance(q->r.text, i, err));
    TRY(calib_collect(q->r.text, m->h.n_layer, true, false, err));
    const calib_input *in = calib_of(q->r.text, m->output);
    BUG_IF(!in);
    size_t bytes = (size_t)in->cols * in->cols * sizeof(float);
    q->head = *in;
    q->head.diag = NULL;
    q->head.h = mem_alloc(bytes);
    if (!q->head.h)
        return fail(err, OM_ENOMEM, "quantize: no memory for the head's moments");
    memcpy(q->head.h, in->h, bytes);
    return calib_rewind(q->r.text, err);
}

static om_status write(quantizer *q, const char *path, om_err *err)
{
    const calib_args *text = q->a->text;
    llm_encoder e = {.type_of = type_of, .enter = enter, .encode = encode, .ctx = q};
    if (q->r.text)
        TRY(measure_head(q, err));
    return llm_encode_gguf(q->r.work, path, q->a->file_type, &e, text->progress, text->ctx,
                           err);
}

om_status quantize_model(llm_model *m, const char *path, const quantize_args *a,
                         om_err *err)
{
    quantizer q = {.a = a, .im = a->im};
    imatrix measured = {0};
    const quant_method *how = a->method;
    bool known = how->wants == QUANT_FULL ? a->text->n > 0 : a->text->n > 0 || a->im;
    if (how->needs && !known)
        return fail(err, OM_EARG, "quantize: %s needs %s", how->name,
                    how->wants == QUANT_FULL
                        ? "a calibration text"
                        : "a calibration text or an importance matrix");
    if (how->wants == QUANT_DIAGONAL && !a->im && a->text->n) {
        TRY(imatrix_measure(m, a->text, &measured, err));
        q.im = &measured;
    }
    om_status s = rewrite_open(m, how->wants == QUANT_FULL ? a->text : NULL, &q.r, err);
    if (s == OM_OK)
        s = write(&q, path, err);
    rewrite_close(&q.r);
    ldl_free(&q.f);
    mem_free(q.head.h);
    mem_free(q.embed);
    imatrix_close(&measured);
    return s;
}
