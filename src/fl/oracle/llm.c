/* llm.c - f_i(x) = mean cross-entropy of the model with trainable numbers x on client i's
 * windows of text.
 *
 * x is the flat vector of adapt/trainable.c: LoRA factors, a prompt, or weights.  A minibatch is
 * `batch` windows in the order of the shuffle it is given; n_samples counts windows. */
#include "fl/oracle/llm.h"

struct oracle_llm {
    llm_model *view;
    trainable t;
    trainer *trainer;
    float *x0;
    token_data data;
    uint64_t *window;
    size_t window_cap;
    uint32_t batch;
};

static uint64_t window_count(const token_data *d)
{
    return d->n > d->seq_len ? (d->n - 1) / d->seq_len : d->n > 1;
}

static om_status need_windows(oracle_llm *o, size_t n, om_err *err)
{
    if (n <= o->window_cap)
        return OM_OK;
    mem_free(o->window);
    o->window = mem_array(n, sizeof(*o->window));
    o->window_cap = o->window ? n : 0;
    return o->window ? OM_OK : fail(err, OM_ENOMEM, "oracle: no memory for %zu windows", n);
}

static om_status gradient(oracle_llm *o, const float *x, uint32_t n, float *g, double *loss,
                          om_err *err)
{
    double mean;
    memcpy(o->t.x, x, o->t.n * sizeof(float));
    TRY(trainer_gradient(o->trainer, &o->data, o->window, n, &mean, err));
    memcpy(g, o->t.grad, o->t.n * sizeof(float));
    if (loss)
        *loss = mean;
    return OM_OK;
}

static om_status grad(void *ctx, const float *x, float *g, double *loss, om_err *err)
{
    oracle_llm *o = ctx;
    uint64_t n = window_count(&o->data);
    TRY(need_windows(o, n, err));
    for (uint64_t i = 0; i < n; i++)
        o->window[i] = i;
    return gradient(o, x, (uint32_t)n, g, loss, err);
}

static om_status sgrad(void *ctx, const float *x, uint32_t batch, rng r, float *g,
                       double *loss, om_err *err)
{
    oracle_llm *o = ctx;
    uint64_t n = window_count(&o->data), from = r.ctr * (batch = batch ? batch : o->batch);
    if (from >= n)
        return fail(err, OM_EARG, "oracle: minibatch %llu of %u is past the %llu windows",
                    (unsigned long long)r.ctr, batch, (unsigned long long)n);
    uint32_t m = (uint32_t)(n - from < batch ? n - from : batch);
    TRY(need_windows(o, m, err));
    for (uint32_t i = 0; i < m; i++)
        o->window[i] = fl_pick(r.key, n, from + i);
    return gradient(o, x, m, g, loss, err);
}

static om_status make_trainable(const oracle_llm_config *c, oracle_llm *o, om_err *err)
{
    const lora_config *l = c->lora;
    if (!l || c->mode == TRAIN_FULL)
        return trainable_full(o->view, &o->t, err);
    if (c->mode == TRAIN_MATRICES)
        return trainable_matrices(o->view, l->target_modules, &o->t, err);
    if (c->mode == TRAIN_PROMPT)
        return trainable_prompt(o->view, c->prompt_tokens, l->seed, &o->t, err);
    return trainable_lora(o->view, l, &o->t, err);
}

om_status oracle_llm_open(const oracle_llm_config *c, oracle_llm **out, om_err *err)
{
    oracle_llm *o = mem_alloc(sizeof(*o));
    train_config tc = {.lr = 1, .batch = c->batch, .seq_len = c->seq_len, .accumulate = 1,
                       .optimizer = "sgd", .memory_bytes = c->memory_bytes, .k = c->k,
                       .pool = c->pool, .cancel = c->cancel};
    *out = NULL;
    if (!o)
        return fail(err, OM_ENOMEM, "oracle: no memory");
    o->batch = c->batch;
    om_status s = llm_fork(c->base, &o->view, err);
    if (s == OM_OK)
        s = make_trainable(c, o, err);
    if (s == OM_OK && !(o->x0 = mem_array(o->t.n, sizeof(float))))
        s = fail(err, OM_ENOMEM, "oracle: no memory for %zu numbers", o->t.n);
    if (s == OM_OK)
        s = trainer_open(&o->t, &tc, &o->trainer, err);
    if (s != OM_OK) {
        oracle_llm_close(o);
        return s;
    }
    memcpy(o->x0, o->t.x, o->t.n * sizeof(float));
    *out = o;
    return OM_OK;
}

void oracle_llm_close(oracle_llm *o)
{
    if (!o)
        return;
    trainer_close(o->trainer);
    if (o->t.owned_)
        trainable_close(&o->t);
    llm_fork_close(o->view);
    mem_free(o->x0);
    mem_free(o->window);
    mem_free(o);
}

size_t oracle_llm_dim(const oracle_llm *o) { return o->t.n; }
const float *oracle_llm_start(const oracle_llm *o) { return o->x0; }
trainable *oracle_llm_trainable(oracle_llm *o) { return &o->t; }

fl_oracle oracle_llm_client(oracle_llm *o, const token_data *d)
{
    o->data = *d;
    return (fl_oracle){.dim = o->t.n, .n_samples = window_count(d), .ctx = o, .grad = grad,
                       .sgrad = sgrad};
}
