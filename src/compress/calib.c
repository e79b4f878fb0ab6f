/* calib.c - see calib.h.  The blocks run by the family's own forward over a stretch of one
 * block; moments are gathered where nn_linear shows its input. */
#include "compress/calib.h"

enum {
    INPUTS = 8,
    BATCH_ROWS = 1024,
    WINDOW = 512,
    STREAM_BYTES = 256 << 20,
    DIAG_COLUMNS = 64
};

struct calib {
    llm_model *m;
    calib_args a;
    nn *c;
    uint32_t window, n_windows, per_batch;
    int32_t *ids, *pos; /* (rows) of the whole text; (per_batch * window) */
    nn_seq *seq;        /* (per_batch) */
    float *x;           /* (rows, dim) the residual stream */
    float *last;        /* (rows of a batch, dim) what the output matrix reads */
    calib_input in[INPUTS];
    uint32_t n_in;
    bool full;
    const float *seen; /* the last input shown, and its first row */
    float *seen_row;
    uint32_t seen_cols;
    void *scratch;
    size_t scratch_bytes;
    llm_stretch part; /* of the run in hand */
    uint32_t first_window, now_windows;
    bool to_head;
    om_status status; /* of the hook */
    om_err err;
};

/* ---- moments ----------------------------------------------------------------------- */

typedef struct {
    const float *x;
    uint32_t rows, cols;
    float *diag;
} diag_job;

static void diag_columns(void *ctx, size_t beg, size_t end, int worker)
{
    const diag_job *j = ctx;
    (void)worker;
    double sum[DIAG_COLUMNS] = {0};
    for (uint32_t t = 0; t < j->rows; t++)
        for (size_t i = beg; i < end; i++) {
            double v = (double)j->x[(size_t)t * j->cols + i];
            sum[i - beg] += v * v;
        }
    for (size_t i = beg; i < end; i++)
        j->diag[i] += (float)sum[i - beg];
}

static om_status add_full(calib *c, calib_input *in, const float *x, uint32_t rows)
{
    size_t n = in->cols, bytes = gemm_bytes(c->a.k, n, n, rows, c->a.pool);
    if (bytes > c->scratch_bytes) {
        mem_free(c->scratch);
        c->scratch = mem_alloc(bytes);
        c->scratch_bytes = c->scratch ? bytes : 0;
        if (!c->scratch)
            return fail(&c->err, OM_ENOMEM, "calibration: no memory for a product");
    }
    gemm_args g = {.m = n,
                   .n = n,
                   .k = rows,
                   .a = x,
                   .lda = n,
                   .a_t = true,
                   .b = x,
                   .ldb = n,
                   .c = in->h,
                   .ldc = n,
                   .alpha = 1,
                   .beta = 1};
    gemm(c->a.k, c->a.pool, &g, arena_of(c->scratch, bytes));
    return OM_OK;
}

static om_status new_input(calib *c, const nn_weight *w, calib_input **out)
{
    if (c->n_in == INPUTS)
        return fail(&c->err, OM_ELIMIT, "calibration: a block with over %d inputs", INPUTS);
    calib_input *in = &c->in[c->n_in++];
    size_t full;
    *in = (calib_input){.cols = w->cols};
    in->diag = mem_array(w->cols, sizeof(float));
    if (c->full && size_mul(w->cols, w->cols, &full))
        in->h = mem_array(full, sizeof(float));
    if (!in->diag || (c->full && !in->h))
        return fail(&c->err, OM_ENOMEM, "calibration: no memory for the %u inputs of %s",
                    w->cols, w->name);
    *out = in;
    return OM_OK;
}

static calib_input *input_of(calib *c, const nn_weight *w)
{
    for (uint32_t i = 0; i < c->n_in; i++)
        for (uint32_t j = 0; j < c->in[i].n_w; j++)
            if (c->in[i].w[j] == w)
                return &c->in[i];
    return NULL;
}

/* Is x what the layer before was shown?  Its memory may have been given to another
 * activation, so the values decide. */
static bool same_input(const calib *c, const float *x, uint32_t cols)
{
    return x == c->seen && cols == c->seen_cols && c->n_in &&
           memcmp(x, c->seen_row, cols * sizeof(float)) == 0;
}

static om_status gather(calib *c, const nn_weight *w, const float *x, uint32_t rows)
{
    calib_input *in = input_of(c, w);
    if (!in) {
        in = same_input(c, x, w->cols) ? &c->in[c->n_in - 1] : NULL;
        if (!in)
            TRY(new_input(c, w, &in));
        BUG_IF(in->n_w == CALIB_LINEARS);
        in->w[in->n_w++] = w;
    }
    if (w != in->w[0])
        return OM_OK;
    c->seen = x;
    c->seen_cols = w->cols;
    memcpy(c->seen_row, x, w->cols * sizeof(float));
    in->rows += rows;
    diag_job j = {x, rows, in->cols, in->diag};
    pool_run(c->a.pool, in->cols, DIAG_COLUMNS, diag_columns, &j);
    return in->h ? add_full(c, in, x, rows) : OM_OK;
}

static void on_linear(void *ctx, const nn_weight *w, float *x, uint32_t rows)
{
    calib *c = ctx;
    if (c->status == OM_OK)
        c->status = gather(c, w, x, rows);
}

/* ---- the walk ---------------------------------------------------------------------- */

static om_status forward(nn *net, void *ctx)
{
    calib *c = ctx;
    uint32_t rows = c->now_windows * c->window;
    llm_batch b = {.ids = c->ids + (size_t)c->first_window * c->window,
                   .pos = c->pos,
                   .rows = rows,
                   .seq = c->seq,
                   .n_seq = c->now_windows,
                   .stretch = &c->part};
    nn_tensor *x = c->m->arch->forward(net, c->m, &b);
    if (c->to_head)
        nn_output(net, x, c->last);
    return net->status;
}

/* Every batch of windows through c->part.  The key tells plans apart: types may differ
 * from block to block, and from one visit of a block to the next. */
static om_status run(calib *c, bool in, bool out, uint32_t stage, om_err *err)
{
    size_t dim = c->m->h.dim;
    for (c->first_window = 0; c->first_window < c->n_windows;
         c->first_window += c->now_windows) {
        float *at = c->x + (size_t)c->first_window * c->window * dim;
        c->now_windows = (uint32_t)size_min(c->per_batch, c->n_windows - c->first_window);
        c->part.in = in ? at : NULL;
        c->part.out = out ? at : NULL;
        uint64_t key = (uint64_t)stage << 26 | (uint64_t)in << 25 | (uint64_t)out << 24;
        key |= c->now_windows;
        TRY(nn_run(c->c, key, false, forward, c, err));
        if (c->to_head && c->status == OM_OK)
            c->status = gather(c, c->m->output, c->last, c->now_windows * c->window);
        if (c->status != OM_OK) {
            *err = c->err;
            return c->status;
        }
    }
    return OM_OK;
}

static void forget(calib *c)
{
    for (uint32_t i = 0; i < c->n_in; i++) {
        mem_free(c->in[i].diag);
        mem_free(c->in[i].h);
    }
    c->n_in = 0;
    c->seen = NULL;
}

om_status calib_rewind(calib *c, om_err *err)
{
    c->part = (llm_stretch){0};
    return run(c, false, true, 0, err); /* an embedding takes no scratch: one plan */
}

om_status calib_collect(calib *c, uint32_t layer, bool full, bool advance, om_err *err)
{
    bool head = layer == c->m->h.n_layer;
    forget(c);
    c->full = full;
    c->part = (llm_stretch){.first = head ? 0 : layer, .n = !head};
    c->to_head = head;
    c->c->on_linear = head ? NULL : on_linear;
    om_status s = run(c, true, advance && !head, 2 * layer + 1, err);
    c->c->on_linear = NULL;
    c->to_head = false;
    return s;
}

om_status calib_advance(calib *c, uint32_t layer, om_err *err)
{
    c->part = (llm_stretch){.first = layer, .n = 1};
    return run(c, true, true, 2 * layer + 2, err);
}

const calib_input *calib_of(const calib *c, const nn_weight *w)
{
    calib_input *in = input_of((calib *)c, w);
    return in;
}

uint64_t calib_rows(const calib *c) { return (uint64_t)c->n_windows * c->window; }
uint32_t calib_window(const calib *c) { return c->window; }
const float *calib_stream(const calib *c) { return c->x; }

/* ---- open -------------------------------------------------------------------------- */

static om_status check(const calib *c, om_err *err)
{
    if (c->a.n < CALIB_LEAST_TOKENS)
        return fail(err, OM_EARG,
                    "calibration: the text has %zu tokens, at least %d are "
                    "needed; give a longer text",
                    c->a.n, CALIB_LEAST_TOKENS);
    for (size_t i = 0; i < c->a.n; i++)
        if (c->a.ids[i] < 0 || (uint32_t)c->a.ids[i] >= c->m->h.vocab)
            return fail(err, OM_EARG, "calibration: token %d; the vocabulary has %u",
                        c->a.ids[i], c->m->h.vocab);
    return OM_OK;
}

/* Windows of the text, each with BOS in front where the tokenizer wants it. */
static void cut(calib *c, int32_t bos)
{
    uint32_t content = c->window - (bos >= 0);
    const int32_t *from = c->a.ids;
    for (uint32_t w = 0; w < c->n_windows; w++, from += content) {
        int32_t *to = c->ids + (size_t)w * c->window;
        if (bos >= 0)
            *to++ = bos;
        memcpy(to, from, content * sizeof(*to));
    }
    for (uint32_t i = 0; i < c->per_batch * c->window; i++)
        c->pos[i] = (int32_t)(i % c->window);
    for (uint32_t i = 0; i < c->per_batch; i++)
        c->seq[i] = (nn_seq){.row = i * c->window, .n_rows = c->window};
}

static om_status room(calib *c, om_err *err)
{
    const tokenizer *tok = c->m->tok;
    int32_t bos = tok && tokenizer_adds_bos(tok) ? tokenizer_bos(tok) : -1;
    size_t dim = c->m->h.dim, most = c->a.max_bytes ? c->a.max_bytes : STREAM_BYTES;
    uint32_t widest = c->m->h.dim;
    for (uint32_t i = 0; i < c->m->n_weight; i++)
        widest = (uint32_t)size_max(widest, c->m->weight[i].cols);
    size_t window = size_min(c->a.window ? c->a.window : WINDOW, c->m->h.context);
    c->window = (uint32_t)size_min(window, CALIB_LEAST_TOKENS > c->a.n ? c->a.n : window);
    size_t content = c->window - (bos >= 0), rows = most / sizeof(float) / dim;
    c->n_windows = (uint32_t)size_max(size_min(c->a.n / content, rows / c->window), 1);
    c->per_batch = (uint32_t)size_max(BATCH_ROWS / c->window, 1);
    size_t batch = (size_t)c->per_batch * c->window, all = (size_t)c->n_windows * c->window;
    c->ids = mem_array(all, sizeof(*c->ids));
    c->pos = mem_array(batch, sizeof(*c->pos));
    c->seq = mem_array(c->per_batch, sizeof(*c->seq));
    c->x = mem_array(all, dim * sizeof(float));
    c->last = mem_array(batch, dim * sizeof(float));
    c->seen_row = mem_array(widest, sizeof(float));
    if (!c->ids || !c->pos || !c->seq || !c->x || !c->last || !c->seen_row)
        return fail(err, OM_ENOMEM, "calibration: no memory for %zu tokens", all);
    cut(c, bos);
    return OM_OK;
}

om_status calib_open(llm_model *m, const calib_args *a, calib **out, om_err *err)
{
    calib *c = mem_alloc(sizeof(*c));
    *out = NULL;
    if (!c)
        return fail(err, OM_ENOMEM, "calibration: no memory");
    c->m = m;
    c->a = *a;
    om_status s = check(c, err);
    if (s == OM_OK)
        s = room(c, err);
    if (s == OM_OK)
        s = nn_open(&(nn_config){.k = a->k, .pool = a->pool}, &c->c, err);
    if (s == OM_OK) {
        c->c->cancel = a->cancel;
        c->c->exact = true;
        c->c->on_linear_ctx = c;
        s = calib_rewind(c, err);
    }
    if (s != OM_OK) {
        calib_close(c);
        return s;
    }
    *out = c;
    return OM_OK;
}

void calib_close(calib *c)
{
    if (!c)
        return;
    forget(c);
    nn_close(c->c);
    mem_free(c->ids);
    mem_free(c->pos);
    mem_free(c->seq);
    mem_free(c->x);
    mem_free(c->last);
    mem_free(c->seen_row);
    mem_free(c->scratch);
    mem_free(c);
}
