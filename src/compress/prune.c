/* prune.c - see prune.h.  Two forks of the model: in `r.work` a block has its own shape
 * while its inputs are measured and the new one when the text goes on; `out`, which is
 * written, has the new shapes from the start. */
#include "compress/prune.h"

#include "compress/rewrite.h"
#include "compress/unit.h"

enum { CHECK_VALUES = 1 << 20 };

typedef struct {
    llm_model *m;
    const prune_args *a;
    prune_plan plan;
    rewrite r;
    llm_model *out;
    uint32_t layer;  /* in hand */
    float *down, *o; /* (rows, columns that stay) of the block, others folded in */
    uint64_t gone;
} pruner;

static bool in_block(const llm_model *m, const nn_weight *w)
{
    return w->rows > 1 && w != m->embed && w != m->output && w != m->pos_embed;
}

static bool by_units(const prune_args *a)
{
    return (1u << a->structure & PRUNE_UNITS) != 0;
}

static float *unpacked(const nn_weight *w, om_err *err)
{
    size_t n, bytes;
    bool fits = size_mul(w->rows, w->cols, &n) && size_mul(n, sizeof(float), &bytes);
    float *v = fits ? mem_alloc(bytes) : NULL;
    if (v)
        dtype_of(w->type)->unpack(w->data, v, n);
    else
        fail(err, OM_ENOMEM, "prune: no memory for %s", w->name);
    return v;
}

/* ---- one matrix -------------------------------------------------------------------- */

/* |Y_i|^2 = w_i H w_i^T */
static om_status outputs_of(prune_matrix *j, float *y2, om_err *err)
{
    size_t bytes = gemm_bytes(j->k, j->rows, j->cols, j->cols, j->pool);
    void *scratch = mem_alloc(bytes);
    float *t = mem_array(j->rows, j->cols * sizeof(float));
    bool there = scratch && t;
    gemm_args g = {.m = j->rows,
                   .n = j->cols,
                   .k = j->cols,
                   .a = j->w,
                   .lda = j->cols,
                   .b = j->h,
                   .ldb = j->cols,
                   .c = t,
                   .ldc = j->cols,
                   .alpha = 1};
    if (there)
        gemm(j->k, j->pool, &g, arena_of(scratch, bytes));
    for (size_t r = 0; there && r < j->rows; r++) {
        double sum = 0;
        for (size_t c = 0; c < j->cols; c++)
            sum += (double)t[r * j->cols + c] * (double)j->w[r * j->cols + c];
        y2[r] = (float)(sum > 0 ? sum : 0);
    }
    mem_free(scratch);
    mem_free(t);
    j->y2 = y2;
    return there ? OM_OK : fail(err, OM_ENOMEM, "prune: no memory for %zu rows", j->rows);
}

/* v (w's shape) with all that is known of its input; y2 has room for (rows). */
static om_status matrix_of(pruner *p, const nn_weight *w, float *v, float *y2,
                           prune_matrix *j, om_err *err)
{
    const prune_args *a = p->a;
    const calib_input *in = p->r.text ? calib_of(p->r.text, w) : NULL;
    size_t block = a->block ? a->block : PRUNE_BLOCK;
    *j = (prune_matrix){.w = v,
                        .rows = w->rows,
                        .cols = w->cols,
                        .x2 = in ? in->diag : NULL,
                        .h = in ? in->h : NULL,
                        .sparsity = a->sparsity,
                        .stay = a->stay,
                        .of = a->structure == PRUNE_NM ? a->of : 0,
                        .block = block,
                        .reconstruct = a->reconstruct,
                        .k = a->text->k,
                        .pool = a->text->pool};
    if (a->balance)
        j->sparsity = a->balance[w - p->r.work->weight];
    return a->method->outputs ? outputs_of(j, y2, err) : OM_OK;
}

static om_status fits_block(const pruner *p, const nn_weight *w, om_err *err)
{
    const prune_args *a = p->a;
    if (a->structure == PRUNE_NM && w->cols % a->of)
        return fail(err, OM_EARG,
                    "prune: rows of %s have %u columns, no multiple of %u; "
                    "choose another N:M or unstructured",
                    w->name, w->cols, a->of);
    if (a->reconstruct && a->block == SIZE_MAX && w->cols > PRUNE_BLOCK_MOST &&
        !by_units(a))
        return fail(err, OM_EARG,
                    "prune: %s has %u columns, over the %d that one block may have; "
                    "say --block-size %d or less",
                    w->name, w->cols, PRUNE_BLOCK_MOST, PRUNE_BLOCK_MOST);
    return OM_OK;
}

/* ---- single weights: the encoder's callback ---------------------------------------- */

static void count_zeros(pruner *p, const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p->gone += v[i] >= 0 && v[i] <= 0;
}

static om_status prune_values(pruner *p, const nn_weight *w, float *v, om_err *err)
{
    prune_matrix j;
    const prune_method *how = p->a->method;
    float *y2 = mem_array(w->rows, sizeof(float));
    om_status s = y2 ? matrix_of(p, w, v, y2, &j, err)
                     : fail(err, OM_ENOMEM, "prune: no memory for %s", w->name);
    if (s == OM_OK)
        s = how->sweep ? how->sweep(&j, err) : prune_by_score(how, &j, err);
    mem_free(y2);
    return s;
}

static void pack_rows(const nn_weight *as, const float *v, uint8_t *out)
{
    size_t row = 0;
    dtype_row_bytes(as->type, as->cols, &row);
    for (size_t r = 0; r < as->rows; r++)
        dtype_of(as->type)->pack(v + r * as->cols, out + r * row, as->cols);
}

/* ---- units: what stays in a block -------------------------------------------------- */

/* Marks the units that stay by the squared scores of the weights that read them. */
static om_status choose(pruner *p, const prune_matrix *j, uint32_t n_units, uint32_t n_stay,
                        uint8_t *keep, om_err *err)
{
    uint32_t wide = (uint32_t)(j->cols / n_units);
    float *s = mem_array(j->rows, j->cols * sizeof(float));
    float *unit = mem_array(n_units, sizeof(float));
    om_status st = s && unit ? OM_OK : fail(err, OM_ENOMEM, "prune: no memory for scores");
    if (st == OM_OK) {
        p->a->method->score(j, s);
        for (uint32_t u = 0; u < n_units; u++) {
            double sum = 0;
            for (size_t r = 0; r < j->rows; r++)
                for (uint32_t c = u * wide; c < (u + 1) * wide; c++)
                    sum += (double)s[r * j->cols + c] * (double)s[r * j->cols + c];
            unit[u] = (float)sum;
        }
        memset(keep, 1, n_units);
        st = prune_lowest(unit, n_units, n_units - n_stay, keep, err);
    }
    mem_free(s);
    mem_free(unit);
    return st;
}

/* The columns of w, whose n_units go as keep says; *out is w's new columns, (rows, stay).
 */
static om_status cut_columns(pruner *p, const nn_weight *w, uint32_t n_units,
                             uint32_t n_stay, uint8_t *keep, float **out, om_err *err)
{
    prune_matrix j;
    float *v = unpacked(w, err), *y2 = mem_array(w->rows, sizeof(float));
    uint8_t *column = mem_array(w->cols, 1);
    om_status s = v && y2 && column
                      ? OM_OK
                      : fail(err, OM_ENOMEM, "prune: no memory for %s", w->name);
    if (s == OM_OK)
        s = matrix_of(p, w, v, y2, &j, err);
    if (s == OM_OK && p->a->method->score)
        s = choose(p, &j, n_units, n_stay, keep, err);
    for (uint32_t c = 0; s == OM_OK && c < w->cols; c++)
        column[c] = keep[c / (w->cols / n_units)];
    if (s == OM_OK && j.reconstruct)
        s = obs_drop(j.h, j.cols, PRUNE_DAMP, column, v, j.rows, j.k, j.pool, err);
    size_t at = 0;
    for (size_t i = 0; s == OM_OK && i < (size_t)w->rows * w->cols; i++)
        if (column[i % w->cols])
            v[at++] = v[i];
    mem_free(y2);
    mem_free(column);
    if (s == OM_OK)
        *out = v;
    else
        mem_free(v);
    return s;
}

/* A bias of n_units stretches: those that stay, in both forks, until the block is left. */
static om_status cut_vector(pruner *p, nn_weight *out, uint32_t n_units,
                            const uint8_t *keep, om_err *err)
{
    if (!out)
        return OM_OK;
    nn_weight *work = p->r.work->weight + (out - p->out->weight), as = *out;
    const float *from = work->data;
    uint32_t wide = work->cols / n_units, at = 0;
    float *v = mem_array(out->cols, sizeof(float));
    if (!v)
        return fail(err, OM_ENOMEM, "prune: no memory for %s", out->name);
    for (uint32_t c = 0; c < work->cols; c++)
        if (keep[c / wide])
            v[at++] = from[c];
    out->data = as.data = v;
    return rewrite_install(&p->r, work, as, err);
}

static om_status cut_block(pruner *p, uint32_t i, om_err *err)
{
    const llm_hparams *h = &p->m->h;
    const llm_layer *l = &p->r.work->layer[i], *o = &p->out->layer[i];
    prune_plan *plan = &p->plan;
    if (plan->ffn) {
        uint8_t *keep = plan->ffn + (size_t)i * h->ffn;
        TRY(cut_columns(p, l->down, h->ffn, plan->n_ffn, keep, &p->down, err));
        TRY(cut_vector(p, o->gate_b, h->ffn, keep, err));
        TRY(cut_vector(p, o->up_b, h->ffn, keep, err));
    }
    if (plan->head) {
        uint32_t n = h->n_kv_head;
        uint8_t *keep = plan->head + (size_t)i * n;
        TRY(cut_columns(p, l->o, n, plan->n_head, keep, &p->o, err));
        TRY(cut_vector(p, o->q_b, n, keep, err));
        TRY(cut_vector(p, o->k_b, n, keep, err));
        TRY(cut_vector(p, o->v_b, n, keep, err));
    }
    return OM_OK;
}

/* ---- the file's callbacks ---------------------------------------------------------- */

/* Which units the rows of w are, or NULL. */
static const uint8_t *rows_of(const pruner *p, const nn_weight *w, uint32_t *n_units)
{
    const llm_hparams *h = &p->m->h;
    const llm_layer *l = &p->out->layer[p->layer];
    bool ffn = w == l->gate || w == l->up, head = w == l->q || w == l->k || w == l->v;
    *n_units = ffn ? h->ffn : h->n_kv_head;
    if (ffn && p->plan.ffn)
        return p->plan.ffn + (size_t)p->layer * h->ffn;
    return head && p->plan.head ? p->plan.head + (size_t)p->layer * h->n_kv_head : NULL;
}

/* Does the cutting of units change w, in whatever block it is? */
static bool is_cut(const pruner *p, const nn_weight *w)
{
    const nn_weight *was = p->m->weight + (w - p->out->weight);
    return w->rows != was->rows || w->cols != was->cols;
}

static dtype type_of(void *ctx, const nn_weight *w)
{
    const pruner *p = ctx;
    bool changes = by_units(p->a) ? is_cut(p, w) : in_block(p->out, w);
    return changes ? w->type : DTYPE_COUNT;
}

static void drop_block(pruner *p)
{
    mem_free(p->down);
    mem_free(p->o);
    p->down = p->o = NULL;
}

static om_status enter(void *ctx, uint32_t layer, om_err *err)
{
    pruner *p = ctx;
    uint32_t n_head = p->r.work->h.n_head, n_kv = p->r.work->h.n_kv_head;
    p->r.work->h.n_head = p->out->h.n_head;
    p->r.work->h.n_kv_head = p->out->h.n_kv_head;
    om_status s = rewrite_leave(&p->r, err);
    p->r.work->h.n_head = n_head;
    p->r.work->h.n_kv_head = n_kv;
    drop_block(p);
    p->layer = layer;
    if (s != OM_OK || layer == p->m->h.n_layer)
        return s;
    bool full = p->a->method->wants == PRUNE_FULL || p->a->reconstruct;
    if (p->r.text)
        TRY(rewrite_collect(&p->r, layer, full, err));
    return by_units(p->a) ? cut_block(p, layer, err) : OM_OK;
}

/* The rows of w that stay, bit for bit, or its new columns. */
static void encode_cut(const pruner *p, const nn_weight *w, uint8_t *out)
{
    const nn_weight *was = p->m->weight + (w - p->out->weight);
    const llm_layer *l = &p->out->layer[p->layer];
    uint32_t n_units;
    const uint8_t *keep = rows_of(p, w, &n_units);
    size_t row = 0;
    if (!keep) {
        pack_rows(w, w == l->down ? p->down : p->o, out);
        return;
    }
    dtype_row_bytes(w->type, w->cols, &row);
    for (uint32_t r = 0; r < was->rows; r++)
        if (keep[r / (was->rows / n_units)]) {
            memcpy(out, (const uint8_t *)was->data + r * row, row);
            out += row;
        }
}

static om_status encode(void *ctx, const nn_weight *w, dtype type, uint8_t *out,
                        om_err *err)
{
    pruner *p = ctx;
    nn_weight *mine = p->r.work->weight + (w - p->out->weight), as = *mine;
    size_t row = 0;
    om_status s = OM_OK;
    BUG_IF(type != w->type);
    if (is_cancelled(p->a->text->cancel))
        return fail(err, OM_ECANCEL, "prune: cancelled");
    as.rows = w->rows;
    as.cols = w->cols;
    dtype_row_bytes(type, w->cols, &row);
    if (by_units(p->a)) {
        encode_cut(p, w, out);
    } else {
        float *v = unpacked(w, err);
        s = v ? prune_values(p, mine, v, err) : OM_ENOMEM;
        if (s == OM_OK) {
            count_zeros(p, v, (size_t)w->rows * w->cols);
            pack_rows(w, v, out);
        }
        mem_free(v);
    }
    if (s != OM_OK || !p->r.text)
        return s;
    void *copy = mem_alloc(row * w->rows);
    if (!copy)
        return fail(err, OM_ENOMEM, "prune: no memory for %s", w->name);
    memcpy(copy, out, row * w->rows);
    as.data = copy;
    return rewrite_install(&p->r, mine, as, err);
}

/* ---- the whole --------------------------------------------------------------------- */

/* Every weight is a finite number. */
static om_status check_weights(const llm_model *m, om_err *err)
{
    om_status s = OM_OK;
    for (uint32_t i = 0; s == OM_OK && i < m->n_weight; i++) {
        const nn_weight *w = &m->weight[i];
        size_t row = 0, most = size_max(CHECK_VALUES / w->cols, 1);
        dtype_row_bytes(w->type, w->cols, &row);
        float *v = mem_array(size_min(most, w->rows), w->cols * sizeof(float));
        if (!v)
            return fail(err, OM_ENOMEM, "prune: no memory for rows of %s", w->name);
        for (size_t r = 0; s == OM_OK && r < w->rows; r += most) {
            size_t n = size_min(most, w->rows - r);
            dtype_of(w->type)->unpack((const uint8_t *)w->data + r * row, v, n * w->cols);
            s = rewrite_check("prune", w, v, n, r, err);
        }
        mem_free(v);
    }
    return s;
}

static om_status check_args(const llm_model *m, const prune_args *a, om_err *err)
{
    const prune_method *how = a->method;
    if (!(how->structures & 1u << a->structure))
        return fail(err, OM_EARG, "prune: %s cannot do %s", how->name,
                    prune_structure_names[a->structure]);
    if (!(a->sparsity > 0 && a->sparsity < 1))
        return fail(err, OM_EARG,
                    "prune: a share of %g cannot go; say more than 0 and "
                    "less than 1",
                    a->sparsity);
    bool needs = how->wants != PRUNE_NOTHING || how->survey || a->reconstruct;
    if (needs && !a->text->n)
        return fail(err, OM_EARG, "prune: %s%s needs a calibration text", how->name,
                    how->wants == PRUNE_NOTHING && !how->survey ? " with reconstruction"
                                                                : "");
    for (uint32_t i = 0; i < m->n_weight; i++)
        if (in_block(m, &m->weight[i]) && dtype_of(m->weight[i].type)->block > 1)
            return fail(err, OM_EARG,
                        "prune: %s is %s already; prune the original, then quantize",
                        m->weight[i].name, dtype_of(m->weight[i].type)->name);
    return OM_OK;
}

static om_status write_units(pruner *p, const char *path, om_err *err)
{
    const calib_args *text = p->a->text;
    bool walk = p->a->method->wants != PRUNE_NOTHING || p->a->reconstruct;
    llm_encoder e = {.type_of = type_of, .enter = enter, .encode = encode, .ctx = p};
    TRY(rewrite_open(p->m, walk ? text : NULL, &p->r, err));
    TRY(llm_fork(p->m, &p->out, err));
    p->out->owned_ = p->m->owned_;
    unit_shapes(p->out, &p->plan);
    for (uint32_t i = 0; !by_units(p->a) && i < p->m->n_weight; i++)
        if (in_block(p->m, &p->m->weight[i]))
            TRY(fits_block(p, &p->m->weight[i], err));
    return llm_encode_gguf(p->out, path, DTYPE_COUNT, &e, text->progress, text->ctx, err);
}

static om_status write_layers(pruner *p, const char *path, om_err *err)
{
    TRY(llm_fork(p->m, &p->out, err));
    p->out->owned_ = p->m->owned_;
    unit_keep_layers(p->out, p->m, p->plan.layer);
    return llm_write_gguf(p->out, path, DTYPE_COUNT, p->a->text->progress, p->a->text->ctx,
                          err);
}

static void report(const pruner *p, prune_report *out)
{
    const llm_model *m = p->m, *o = p->out;
    bool units = by_units(p->a) || p->a->structure == PRUNE_LAYER;
    *out = (prune_report){.gone = p->gone,
                          .ffn = o->h.ffn,
                          .n_head = o->h.n_head,
                          .n_kv_head = o->h.n_kv_head,
                          .n_layer = o->h.n_layer};
    for (uint32_t i = 0; i < m->n_weight; i++)
        if (units || in_block(m, &m->weight[i]))
            out->weights += (uint64_t)m->weight[i].rows * m->weight[i].cols;
    if (units)
        out->gone = out->weights - unit_weights(o, PRUNE_UNSTRUCTURED);
}

om_status prune_model(llm_model *m, const char *path, const prune_args *a,
                      prune_report *out, om_err *err)
{
    pruner p = {.m = m, .a = a, .r = {.layer = REWRITE_NONE}};
    bool units = by_units(a) || a->structure == PRUNE_LAYER;
    TRY(check_args(m, a, err));
    TRY(check_weights(m, err));
    om_status s = OM_OK;
    if (units)
        s = unit_plan(m, a->structure, a->sparsity, &p.plan, err);
    if (s == OM_OK && a->method->survey)
        s = a->method->survey(m, a->text, &a->search, a->structure, &p.plan, err);
    if (s == OM_OK)
        s = a->structure == PRUNE_LAYER ? write_layers(&p, path, err)
                                        : write_units(&p, path, err);
    if (s == OM_OK)
        report(&p, out);
    drop_block(&p);
    rewrite_close(&p.r);
    llm_fork_close(p.out);
    unit_plan_free(&p.plan);
    return s;
}
