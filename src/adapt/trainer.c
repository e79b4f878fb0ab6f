/* trainer.c - local training of a language model on one text.
 *
 * One step: `accumulate` micro-batches of `batch` windows go through the model's forward
 * with a tape; the mean gradient lands in the trainable's flat vector, is clipped, and
 * the optimizer moves the flat values.  When the plan of a step does not fit the memory
 * budget, as few blocks as will do are recomputed in the backward instead of remembered.
 *
 * Order of data: an epoch is a seeded permutation of the non-overlapping windows of the
 * text, shifted by a seeded offset; step s therefore sees the same windows whether the
 * run was interrupted or not, and a checkpoint needs only the step number.
 *
 * Checkpoint: "OMCK" u32 version, u64 step, u64 n, u64 state bytes, values, optimizer
 * state, SHA-256 of all before it; little-endian. */
#include "adapt/adapt.h"

#include <math.h>

struct trainer {
    trainable *t;
    train_config c;
    double optimizer_p[16];
    const nn_optim *optim;
    void *state;
    size_t state_bytes;
    nn *net;
    uint64_t step;
    uint32_t lead; /* tokens of a trained prompt before each window */
    uint32_t recompute; /* blocks */
    bool measured;
    int32_t *ids, *target, *pos;
    nn_seq *seq;
    uint32_t *order;       /* permutation of the epoch's windows */
    uint32_t order_n;
    uint64_t order_epoch;
};

/* ---- open ------------------------------------------------------------------------- */

static om_status check_config(const train_config *c, const llm_model *m, om_err *err)
{
    uint32_t most = m->h.context - llm_prompt_tokens(m);
    if (c->seq_len < 2 || c->seq_len > most)
        return fail(err, OM_EARG, "training: seq_len is %u; this model takes 2 to %u",
                    c->seq_len, most);
    if (c->batch < 1 || c->batch > 4096 || c->accumulate < 1 || c->accumulate > 65536)
        return fail(err, OM_EARG, "training: batch %u or accumulate %u is out of range "
                                  "(1..4096, 1..65536)", c->batch, c->accumulate);
    if (!(c->lr > 0) || !isfinite(c->lr))
        return fail(err, OM_EARG, "training: lr is %g; it must be positive", c->lr);
    return OM_OK;
}

static om_status open_parts(trainer *t, om_err *err)
{
    const train_config *c = &t->c;
    uint32_t span = c->seq_len + t->lead;
    size_t rows = (size_t)c->batch * span;
    nn_config nc = {.k = c->k, .pool = c->pool, .max_bytes = 0};
    t->state_bytes = t->optim->state_bytes(t->optimizer_p, t->t->n);
    t->state = mem_alloc(t->state_bytes);
    t->ids = mem_array(rows, sizeof(*t->ids));
    t->target = mem_array(rows, sizeof(*t->target));
    t->pos = mem_array(rows, sizeof(*t->pos));
    t->seq = mem_array(c->batch, sizeof(*t->seq));
    if (!t->state || !t->ids || !t->target || !t->pos || !t->seq)
        return fail(err, OM_ENOMEM, "training: no memory for the optimizer's %zu bytes",
                    t->state_bytes);
    for (size_t i = 0; i < rows; i++)
        t->pos[i] = (int32_t)(i % span);
    for (uint32_t i = 0; i < c->batch; i++)
        t->seq[i] = (nn_seq){.row = i * span, .n_rows = span};
    TRY(nn_open(&nc, &t->net, err));
    t->net->cancel = c->cancel;
    t->net->precision = GEMM_FAST; /* its error is far below a gradient's noise */
    t->net->quantized = GEMM_BF16; /* and this one's below the quantized weights' own */
    return OM_OK;
}

om_status trainer_open(trainable *t, const train_config *c, trainer **out, om_err *err)
{
    *out = NULL;
    TRY(check_config(c, t->model, err));
    str name = str_of(c->optimizer ? c->optimizer : "adamw");
    const nn_optim *optim = nn_optim_find(name);
    if (!optim)
        return fail(err, OM_EARG, "training: no optimizer '%.*s'", (int)name.n, name.p);
    trainer *tr = mem_alloc(sizeof(*tr));
    if (!tr)
        return fail(err, OM_ENOMEM, "training: no memory");
    *tr = (trainer){.t = t, .c = *c, .optim = optim, .order_epoch = UINT64_MAX,
                    .lead = llm_prompt_tokens(t->model)};
    size_t n_p = param_count(optim->params);
    BUG_IF(n_p > countof(tr->optimizer_p));
    param_defaults(optim->params, tr->optimizer_p);
    if (c->optimizer_p)
        memcpy(tr->optimizer_p, c->optimizer_p, n_p * sizeof(double));
    om_status s = open_parts(tr, err);
    if (s != OM_OK) {
        trainer_close(tr);
        return s;
    }
    *out = tr;
    return OM_OK;
}

void trainer_close(trainer *t)
{
    if (!t)
        return;
    nn_close(t->net);
    mem_free(t->state);
    mem_free(t->ids);
    mem_free(t->target);
    mem_free(t->pos);
    mem_free(t->seq);
    mem_free(t->order);
    mem_free(t);
}

/* ---- data ------------------------------------------------------------------------- */

static om_status epoch_order(trainer *t, uint64_t epoch, uint32_t n, om_err *err)
{
    if (t->order && t->order_epoch == epoch && t->order_n == n)
        return OM_OK;
    if (t->order_n != n || !t->order) {
        mem_free(t->order);
        t->order = mem_array(n, sizeof(*t->order));
        t->order_n = n;
        if (!t->order)
            return fail(err, OM_ENOMEM, "training: no memory to shuffle %u windows", n);
    }
    rng r = rng_for(t->c.seed, (uint32_t)epoch, (uint32_t)(epoch >> 32), 0x0e7);
    for (uint32_t i = 0; i < n; i++)
        t->order[i] = i;
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = rng_below(&r, i), kept = t->order[i - 1];
        t->order[i - 1] = t->order[j];
        t->order[j] = kept;
    }
    t->order_epoch = epoch;
    return OM_OK;
}

/* Window at token `at` into slot b of the batch; the last target of a text is ignored. */
static void fill_window(trainer *t, const token_data *d, size_t at, uint32_t b)
{
    uint32_t len = t->c.seq_len;
    size_t first = (size_t)b * (len + t->lead);
    for (uint32_t i = 0; i < t->lead; i++) {
        t->ids[first + i] = (int32_t)(t->t->model->h.vocab + i);
        t->target[first + i] = -1;
    }
    first += t->lead;
    for (uint32_t i = 0; i < len; i++) {
        size_t row = first + i;
        bool inside = at + i < d->n, next = at + i + 1 < d->n;
        t->ids[row] = inside ? d->ids[at + i] : d->ids[d->n - 1];
        t->target[row] = next ? d->ids[at + i + 1] : -1;
    }
}

static om_status fill_batch(trainer *t, const token_data *d, uint64_t micro, om_err *err)
{
    uint32_t len = t->c.seq_len;
    size_t windows = d->n > len ? (d->n - 1) / len : 1;
    if (d->n < 2)
        return fail(err, OM_EARG, "training: the text has %zu tokens; at least 2 are needed",
                    d->n);
    if (windows > UINT32_MAX)
        return fail(err, OM_ELIMIT, "training: the text is too long");
    for (uint32_t b = 0; b < t->c.batch; b++) {
        uint64_t k = micro * t->c.batch + b, epoch = k / windows;
        TRY(epoch_order(t, epoch, (uint32_t)windows, err));
        rng r = rng_for(t->c.seed, (uint32_t)epoch, 0, 0x0ff5e7);
        size_t slack = d->n - 1 - size_min(d->n - 1, windows * len);
        size_t shift = slack ? rng_below(&r, (uint32_t)(slack + 1)) : 0;
        fill_window(t, d, shift + (size_t)t->order[k % windows] * len, b);
    }
    return OM_OK;
}

/* ---- one pass --------------------------------------------------------------------- */

typedef struct {
    trainer *t;
    float grad_scale;
    nn_loss loss;
} pass;

static om_status forward_backward(nn *c, void *ctx)
{
    pass *p = ctx;
    trainer *t = p->t;
    const llm_model *m = t->t->model;
    llm_batch b = {.ids = t->ids, .pos = t->pos, .rows = t->c.batch * (t->c.seq_len + t->lead),
                   .seq = t->seq, .n_seq = t->c.batch, .recompute = t->recompute};
    nn_tensor *h = m->arch->forward(c, m, &b);
    nn_linear_cross_entropy(c, h, m->output, t->target, p->grad_scale, &p->loss);
    nn_backward(c);
    return c->status;
}

static size_t fixed_bytes(const trainer *t)
{
    return 2 * t->t->n * sizeof(float) + t->state_bytes;
}

static om_status step_bytes(trainer *t, uint32_t recompute, size_t *bytes, om_err *err)
{
    pass p = {.t = t, .grad_scale = 1};
    t->recompute = recompute;
    TRY(nn_measure(t->net, true, forward_backward, &p, bytes, err));
    *bytes += fixed_bytes(t);
    return OM_OK;
}

static om_status refuse_budget(const trainer *t, size_t need, om_err *err)
{
    return fail(err, OM_ELIMIT,
                "training needs %.1f MB beside the base model (%.1f MB of it for weights and "
                "optimizer), the budget is %.1f MB; a smaller batch, seq_len or rank would "
                "help",
                (double)need / 1e6, (double)fixed_bytes(t) / 1e6,
                (double)t->c.memory_bytes / 1e6);
}

/* The fewest blocks whose recomputation makes the step fit the budget: the first ones,
 * whose backward runs when the others' activations are gone.  Refuses when even all do not
 * help. */
static om_status choose_recompute(trainer *t, om_err *err)
{
    uint32_t few = 0, many = t->t->model->h.n_layer;
    size_t need = 0;
    if (t->measured || t->c.memory_bytes == 0)
        return OM_OK;
    TRY(step_bytes(t, many, &need, err));
    if (need > t->c.memory_bytes)
        return refuse_budget(t, need, err);
    while (few < many) { /* `many` fits */
        uint32_t mid = few + (many - few) / 2;
        TRY(step_bytes(t, mid, &need, err));
        if (need <= t->c.memory_bytes)
            many = mid;
        else
            few = mid + 1;
    }
    t->recompute = many;
    t->measured = true;
    return OM_OK;
}

static om_status run_pass(trainer *t, float grad_scale, double *loss, om_err *err)
{
    pass p = {.t = t, .grad_scale = grad_scale};
    TRY(choose_recompute(t, err));
    TRY(nn_run(t->net, 1 + (uint64_t)t->recompute, true, forward_backward, &p, err));
    *loss = p.loss.rows ? p.loss.sum / (double)p.loss.rows : 0;
    if (!isfinite(*loss))
        return fail(err, OM_EARG, "training: the loss is not finite at step %llu; a smaller "
                                  "learning rate or a clip norm would help",
                    (unsigned long long)t->step);
    return OM_OK;
}

om_status trainer_step(trainer *t, const token_data *d, train_report *out, om_err *err)
{
    uint64_t start = os_now_ns();
    double total = 0;
    const train_config *c = &t->c;
    memset(t->t->grad, 0, t->t->n * sizeof(float));
    for (uint32_t a = 0; a < c->accumulate; a++) {
        double loss = 0;
        TRY(fill_batch(t, d, t->step * c->accumulate + a, err));
        TRY(run_pass(t, 1.0f / (float)c->accumulate, &loss, err));
        total += loss / c->accumulate;
    }
    double limit = c->clip_norm > 0 ? c->clip_norm : (double)INFINITY;
    double norm = nn_clip_norm(c->k, c->pool, t->t->grad, t->t->n, limit);
    double lr = nn_schedule(c->schedule, c->lr, t->step, c->warmup, c->steps, c->min_ratio);
    t->step++;
    t->optim->step(c->k, c->pool, t->optimizer_p, t->state, t->t->x, t->t->grad, t->t->n, lr,
                   t->step);
    double seconds = (double)(os_now_ns() - start) * 1e-9;
    double tokens = (double)c->batch * c->seq_len * c->accumulate;
    *out = (train_report){t->step, total, lr, norm, seconds > 0 ? tokens / seconds : 0};
    return OM_OK;
}

om_status trainer_gradient(trainer *t, const token_data *d, const uint64_t *window, uint32_t n,
                           double *loss, om_err *err)
{
    uint32_t batches = (n + t->c.batch - 1) / t->c.batch;
    size_t windows = d->n > t->c.seq_len ? (d->n - 1) / t->c.seq_len : 1;
    *loss = 0;
    if (d->n < 2 || n == 0)
        return fail(err, OM_EARG, "training: no data for a gradient");
    memset(t->t->grad, 0, t->t->n * sizeof(float));
    for (uint32_t b = 0; b < batches; b++) {
        double one = 0;
        for (uint32_t i = 0; i < t->c.batch; i++) { /* a short last batch repeats */
            uint64_t w = window[(b * t->c.batch + i) % n];
            if (w >= windows)
                return fail(err, OM_EARG, "training: window %llu of %zu",
                            (unsigned long long)w, windows);
            fill_window(t, d, (size_t)w * t->c.seq_len, i);
        }
        TRY(run_pass(t, 1.0f / (float)batches, &one, err));
        *loss += one / batches;
    }
    return OM_OK;
}

/* ---- checkpoint ------------------------------------------------------------------- */

enum { CHECKPOINT_VERSION = 1, CHECKPOINT_HEAD = 32 };

static om_status put_hashed(os_put *f, sha256_ctx *h, const void *p, size_t n, om_err *err)
{
    sha256_update(h, p, n);
    return os_put_write(f, p, n, err);
}

static om_status write_all(const trainer *t, os_put *f, om_err *err)
{
    uint8_t head[CHECKPOINT_HEAD], digest[32];
    buf b = buf_fixed(head, sizeof(head));
    sha256_ctx h;
    sha256_init(&h);
    TRY(buf_put(&b, "OMCK", 4));
    TRY(buf_u32(&b, CHECKPOINT_VERSION));
    TRY(buf_u64(&b, t->step));
    TRY(buf_u64(&b, t->t->n));
    TRY(buf_u64(&b, t->state_bytes));
    TRY(put_hashed(f, &h, head, b.len, err));
    TRY(put_hashed(f, &h, t->t->x, t->t->n * sizeof(float), err));
    TRY(put_hashed(f, &h, t->state, t->state_bytes, err));
    sha256_final(&h, digest);
    return os_put_write(f, digest, sizeof(digest), err);
}

om_status trainer_save(const trainer *t, const char *path, om_err *err)
{
    os_put f;
    TRY(os_put_open(path, &f, err));
    om_status s = write_all(t, &f, err);
    if (s == OM_OK)
        return os_put_commit(&f, err);
    os_put_abort(&f);
    return s;
}

static om_status take_all(trainer *t, const os_map *map, om_err *err)
{
    uint8_t digest[32];
    size_t values = t->t->n * sizeof(float), want = CHECKPOINT_HEAD + values + t->state_bytes;
    cursor c = cursor_of(map->p, map->n);
    const uint8_t *magic = cursor_take(&c, 4);
    uint32_t version = cursor_u32(&c);
    uint64_t step = cursor_u64(&c), n = cursor_u64(&c), state_bytes = cursor_u64(&c);
    if (!c.ok || memcmp(magic, "OMCK", 4) != 0 || version != CHECKPOINT_VERSION)
        return fail(err, OM_EFORMAT, "not a training checkpoint of version %d",
                    CHECKPOINT_VERSION);
    if (n != t->t->n || state_bytes != t->state_bytes || map->n != want + 32)
        return fail(err, OM_EARG, "the checkpoint is of another run: it has %llu trainable "
                                  "numbers and %llu bytes of optimizer state, this run %zu "
                                  "and %zu", (unsigned long long)n,
                    (unsigned long long)state_bytes, t->t->n, t->state_bytes);
    sha256(map->p, want, digest);
    if (memcmp(digest, map->p + want, 32) != 0)
        return fail(err, OM_EFORMAT, "the checkpoint is damaged: its SHA-256 does not agree");
    memcpy(t->t->x, map->p + CHECKPOINT_HEAD, values);
    memcpy(t->state, map->p + CHECKPOINT_HEAD + values, t->state_bytes);
    t->step = step;
    return OM_OK;
}

om_status trainer_load(trainer *t, const char *path, om_err *err)
{
    os_map map;
    TRY(os_map_open(path, &map, err));
    om_status s = take_all(t, &map, err);
    os_map_close(&map);
    return s == OM_OK ? s : fail_in(err, s, path);
}
