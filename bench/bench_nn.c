/* bench_nn.c - one training step on random weights, beside the figures of a peer.
 *
 *     bench_nn [lora|full|lora05b] [--threads N] [--steps N] [--batch N] [--length N]
 *              [--type F32|F16|Q8_0|Q4_0] [--quant] [--full-f32] [--recompute N]
 *
 *     lora     768 wide, 12 layers, FFN 2048, vocabulary 32,000; rank 8 on q and v; AdamW
 *     lora05b  896 wide, 24 layers, 14 heads over 2, FFN 4864, vocabulary 151,936; the same
 *     full     288 wide, 6 layers, FFN 768, vocabulary 32,000; everything; AdamW
 *
 * The head is tied to the embedding, as in torch_train.py.  The weights of `lora` are of
 * --type, as a mapped file's would be; --quant multiplies them in integers in the forward.
 * Products are of the trainer's precision, GEMM_FAST, and GEMM_BF16 by quantized weights,
 * unless --full-f32.  Prints the
 * median step, tokens/s, the planned block and peak resident memory. */
#include "nn/nn.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { LAYERS = 24, RANK = 8 };

typedef struct {
    nn_weight norm1, norm2, q, k, v, o, gate, up, down;
    nn_lowrank lora_q, lora_v;
} layer;

typedef struct {
    bool full;
    uint32_t recompute; /* so many first blocks */
    uint32_t dim, n_layer, n_head, n_kv_head, ffn, vocab, batch, length;
    dtype type;
    nn_weight embed, out_norm, output;
    layer layer[LAYERS];
    float *x, *grad, *state; /* trainable */
    size_t n, cap;
    int32_t *ids, *pos, *target;
    nn_seq *seq;
    nn_loss loss;
    nn_rope_args rope;
    rng r;
} model;

static void *must(void *p)
{
    if (!p) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    return p;
}

static void random_floats(rng *r, float *x, size_t n, double scale)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)((rng_unit(r) - 0.5) * scale * 3.46);
}

/* n trainable numbers out of the flat vector. */
static float *trainable(model *m, size_t n, float **grad, double scale)
{
    float *x = m->x + m->n;
    *grad = m->grad + m->n;
    m->n += n;
    if (m->n > m->cap)
        exit(1);
    random_floats(&m->r, x, n, scale);
    return x;
}

static void frozen_matrix(model *m, nn_weight *w)
{
    size_t row, n = w->cols;
    const dtype_traits *t = dtype_of(m->type);
    dtype_row_bytes(m->type, n, &row);
    char *data = must(mem_array(row, w->rows));
    float *one = must(mem_array(n, sizeof(float)));
    for (uint32_t i = 0; i < w->rows; i++) {
        random_floats(&m->r, one, n, 0.02);
        t->pack(one, data + i * row, n);
    }
    mem_free(one);
    w->type = m->type;
    w->data = data;
}

static void matrix(model *m, nn_weight *w, const char *name, uint32_t rows, uint32_t cols)
{
    *w = (nn_weight){.name = name, .rows = rows, .cols = cols};
    if (m->full)
        w->data = trainable(m, (size_t)rows * cols, &w->grad, 0.02);
    else
        frozen_matrix(m, w);
}

static void vector(model *m, nn_weight *w, const char *name, uint32_t cols)
{
    float *one =
        m->full ? trainable(m, cols, &w->grad, 0) : must(mem_array(cols, sizeof(float)));
    float *grad = w->grad;
    *w = (nn_weight){.name = name, .rows = 1, .cols = cols, .data = one, .grad = grad};
    for (uint32_t i = 0; i < cols; i++)
        one[i] = 1.0f;
}

static void adapter(model *m, nn_weight *w, nn_lowrank *l)
{
    *l = (nn_lowrank){.rank = RANK, .scale = 2};
    l->a = trainable(m, (size_t)RANK * w->cols, &l->a_grad, 0.02);
    l->b = trainable(m, (size_t)RANK * w->rows, &l->b_grad, 0.0);
    w->lora = l;
}

static void make_layer(model *m, layer *l)
{
    uint32_t kv = m->dim / m->n_head * m->n_kv_head;
    vector(m, &l->norm1, "attn_norm", m->dim);
    vector(m, &l->norm2, "ffn_norm", m->dim);
    matrix(m, &l->q, "attn_q", m->dim, m->dim);
    matrix(m, &l->k, "attn_k", kv, m->dim);
    matrix(m, &l->v, "attn_v", kv, m->dim);
    matrix(m, &l->o, "attn_output", m->dim, m->dim);
    matrix(m, &l->gate, "ffn_gate", m->ffn, m->dim);
    matrix(m, &l->up, "ffn_up", m->ffn, m->dim);
    matrix(m, &l->down, "ffn_down", m->dim, m->ffn);
    if (!m->full) {
        adapter(m, &l->q, &l->lora_q);
        adapter(m, &l->v, &l->lora_v);
    }
}

static void make_batch(model *m)
{
    uint32_t rows = m->batch * m->length;
    m->ids = must(mem_array(rows, sizeof(int32_t)));
    m->pos = must(mem_array(rows, sizeof(int32_t)));
    m->target = must(mem_array(rows, sizeof(int32_t)));
    m->seq = must(mem_array(m->batch, sizeof(nn_seq)));
    for (uint32_t i = 0; i < rows; i++) {
        m->ids[i] = (int32_t)rng_below(&m->r, m->vocab);
        m->target[i] = (int32_t)rng_below(&m->r, m->vocab);
        m->pos[i] = (int32_t)(i % m->length);
    }
    for (uint32_t i = 0; i < m->batch; i++)
        m->seq[i] = (nn_seq){.row = i * m->length, .n_rows = m->length};
}

static void make_model(model *m)
{
    m->r = rng_for(1, 0, 0, 0);
    m->cap = m->full ? (size_t)m->vocab * m->dim +
                           m->n_layer * (4 * (size_t)m->dim * m->dim +
                                         3 * (size_t)m->dim * m->ffn + 2 * m->dim) +
                           m->dim
                     : m->n_layer * 4 * (size_t)RANK * m->dim;
    m->x = must(mem_array(m->cap, sizeof(float)));
    m->grad = must(mem_array(m->cap, sizeof(float)));
    m->state = must(mem_array(m->cap, 2 * sizeof(float)));
    matrix(m, &m->embed, "token_embd", m->vocab, m->dim);
    m->output = m->embed;
    vector(m, &m->out_norm, "output_norm", m->dim);
    for (uint32_t i = 0; i < m->n_layer; i++)
        make_layer(m, &m->layer[i]);
    uint32_t d = m->dim / m->n_head;
    m->rope = (nn_rope_args){.head_dim = d, .n_rot = d, .base = 10000, .scale = 1};
    make_batch(m);
}

/* ---- the step
 * ------------------------------------------------------------------------------ */

typedef struct {
    model *m;
    layer *l;
} block_arg;

static nn_tensor *block(nn *c, void *ctx, nn_tensor *x)
{
    const block_arg *b = ctx;
    const model *m = b->m;
    const layer *l = b->l;
    nn_attn_args a = {m->n_head, m->n_kv_head, m->dim / m->n_head, 0, 0};
    nn_tensor *h = nn_rmsnorm(c, x, &l->norm1, 1e-5f);
    nn_tensor *q = nn_rope(c, nn_linear(c, h, &l->q, NULL), m->pos, &m->rope);
    nn_tensor *k = nn_rope(c, nn_linear(c, h, &l->k, NULL), m->pos, &m->rope);
    nn_tensor *v = nn_linear(c, h, &l->v, NULL);
    nn_tensor *o = nn_attention(c, q, k, v, m->seq, m->batch, &a, NULL);
    x = nn_add(c, x, nn_linear(c, o, &l->o, NULL));
    h = nn_rmsnorm(c, x, &l->norm2, 1e-5f);
    nn_tensor *g = nn_linear(c, h, &l->gate, NULL), *u = nn_linear(c, h, &l->up, NULL);
    return nn_add(c, x, nn_linear(c, nn_silu_mul(c, g, u), &l->down, NULL));
}

static om_status step(nn *c, void *ctx)
{
    model *m = ctx;
    nn_tensor *x = nn_embed(c, &m->embed, m->ids, m->batch * m->length);
    for (uint32_t i = 0; i < m->n_layer; i++) {
        block_arg b = {m, &m->layer[i]};
        x = i < m->recompute ? nn_recompute(c, block, &b, sizeof(b), x) : block(c, &b, x);
    }
    x = nn_rmsnorm(c, x, &m->out_norm, 1e-5f);
    nn_linear_cross_entropy(c, x, &m->output, m->target, 1.0f, &m->loss);
    nn_backward(c);
    return c->status;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct {
    int threads, steps;
    bool quant, full_f32;
} options;

static int run(model *m, const options *o)
{
    om_err err = {0};
    kern k;
    pool *p;
    nn *c;
    size_t planned = 0;
    double ms[100], cpu[100], params[8];
    const nn_optim *adamw = nn_optim_find(STR("adamw"));
    kern_init(&k, 0);
    make_model(m);
    if (pool_open(o->threads, &p, &err) ||
        nn_open(&(nn_config){.k = &k, .pool = p}, &c, &err) ||
        nn_measure(c, true, step, m, &planned, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    c->quant_train = o->quant;
    c->precision = o->full_f32 ? GEMM_F32 : GEMM_FAST; /* the trainer's choice is fast */
    c->quantized = o->full_f32 ? GEMM_F32 : GEMM_BF16;
    param_defaults(adamw->params, params);
    for (int i = 0; i < o->steps; i++) {
        uint64_t start = os_now_ns();
        clock_t used = clock();
        memset(m->grad, 0, m->n * sizeof(float));
        if (nn_run(c, 1, true, step, m, &err)) {
            fprintf(stderr, "%s\n", err.msg);
            return 1;
        }
        uint64_t mid = os_now_ns();
        adamw->step(&k, p, params, m->state, m->x, m->grad, m->n, 1e-3, (uint64_t)i + 1);
        ms[i] = (double)(os_now_ns() - start) / 1e6;
        cpu[i] = (double)(clock() - used) * 1e3 / CLOCKS_PER_SEC;
        printf("step %d: loss %.6f, %.0f ms (%.0f in the optimizer)\n", i,
               m->loss.sum / (double)m->loss.rows, ms[i],
               (double)(os_now_ns() - mid) / 1e6);
        fflush(stdout);
    }
    qsort(ms, (size_t)o->steps, sizeof(*ms), by_value);
    qsort(cpu, (size_t)o->steps, sizeof(*cpu), by_value);
    printf("%s: best %.0f, median %.0f ms/step (best CPU %.0f), %.0f tokens/s, planned "
           "%.0f MB, peak RSS "
           "%.0f MB, %zu trainable\n",
           m->full ? "full" : "lora", ms[0], ms[o->steps / 2], cpu[0],
           1e3 * m->batch * m->length / ms[o->steps / 2], (double)planned / 1e6,
           (double)os_peak_rss_bytes() / 1e6, m->n);
    nn_close(c);
    pool_close(p);
    return 0;
}

int main(int argc, char **argv)
{
    model m = {.dim = 768,
               .n_layer = 12,
               .n_head = 12,
               .n_kv_head = 12,
               .ffn = 2048,
               .vocab = 32000,
               .batch = 4,
               .length = 256};
    options o = {.steps = 5};
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(a, "full")) {
            m.full = true;
            m.dim = 288;
            m.n_kv_head = 6;
            m.n_layer = m.n_head = 6;
            m.ffn = 768;
        } else if (!strcmp(a, "lora05b")) {
            m.dim = 896;
            m.n_layer = 24;
            m.n_head = 14;
            m.n_kv_head = 2;
            m.ffn = 4864;
            m.vocab = 151936;
            m.batch = 1;
        } else if (!strcmp(a, "--threads"))
            o.threads = atoi(v), i++;
        else if (!strcmp(a, "--steps"))
            o.steps = atoi(v) > 100 ? 100 : atoi(v), i++;
        else if (!strcmp(a, "--batch"))
            m.batch = (uint32_t)atoi(v), i++;
        else if (!strcmp(a, "--length"))
            m.length = (uint32_t)atoi(v), i++;
        else if (!strcmp(a, "--type"))
            m.type = dtype_find(str_of(v)), i++;
        else if (!strcmp(a, "--quant"))
            o.quant = true;
        else if (!strcmp(a, "--full-f32"))
            o.full_f32 = true;
        else if (!strcmp(a, "--recompute"))
            m.recompute = (uint32_t)atoi(v), i++;
    }
    return run(&m, &o);
}
