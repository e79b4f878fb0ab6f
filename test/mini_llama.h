/* mini_llama.h - a Llama of two layers with grouped queries and, if asked, adapters on q
 * and v, over two sequences: the whole model that tests train.  The same numbers in the
 * same order as in test/golden/nn_golden.py. */
#ifndef TEST_MINI_LLAMA_H
#define TEST_MINI_LLAMA_H

#include "nn/nn.h"
#include "test.h"

enum {
    V = 40,
    D = 24,
    HEADS = 4,
    KV = 2,
    HD = 6,
    FFN = 32,
    LAYERS = 2,
    RANK = 3,
    ROWS = 16,
    PER_LAYER = 2 * D + 2 * D * HEADS * HD + 2 * D * KV * HD + 3 * D * FFN,
    N_BASE = 2 * V * D + D + LAYERS * PER_LAYER,
    N_LORA = LAYERS * RANK * (2 * D + HEADS * HD + KV * HD)
};

typedef struct {
    nn_weight norm1, q, k, v, o, norm2, gate, up, down;
    nn_lowrank lora_q, lora_v;
} mini_layer;

typedef struct {
    float base[N_BASE], base_grad[N_BASE], lora[N_LORA], lora_grad[N_LORA];
    bool adapted, recompute;
    nn_weight embed, out_norm, output;
    mini_layer layer[LAYERS];
    int32_t ids[ROWS], pos[ROWS], target[ROWS];
    nn_seq seq[2];
    nn_loss loss;
} mini;

static inline nn_weight mini_weight(mini *m, size_t *at, uint32_t rows, uint32_t cols)
{
    nn_weight w = {"w",  DTYPE_F32, m->base + *at,
                   rows, cols,      m->adapted ? NULL : m->base_grad + *at,
                   NULL, NULL};
    *at += (size_t)rows * cols;
    return w;
}

static inline void mini_adapter(mini *m, size_t *at, nn_weight *w, nn_lowrank *l)
{
    size_t a = *at, b = a + (size_t)RANK * w->cols;
    *at = b + (size_t)RANK * w->rows;
    *l =
        (nn_lowrank){RANK, 2, m->lora + a, m->lora + b, m->lora_grad + a, m->lora_grad + b};
    if (m->adapted)
        w->lora = l;
}

static inline void mini_layer_open(mini *m, mini_layer *l, size_t *at, size_t *lora)
{
    l->norm1 = mini_weight(m, at, 1, D);
    l->q = mini_weight(m, at, HEADS * HD, D);
    l->k = mini_weight(m, at, KV * HD, D);
    l->v = mini_weight(m, at, KV * HD, D);
    l->o = mini_weight(m, at, D, HEADS * HD);
    l->norm2 = mini_weight(m, at, 1, D);
    l->gate = mini_weight(m, at, FFN, D);
    l->up = mini_weight(m, at, FFN, D);
    l->down = mini_weight(m, at, D, FFN);
    mini_adapter(m, lora, &l->q, &l->lora_q);
    mini_adapter(m, lora, &l->v, &l->lora_v);
}

/* m->base and m->lora are the caller's to fill; zero m first. */
static inline void mini_open(mini *m, bool adapted)
{
    size_t at = 0, lora = 0;
    m->adapted = adapted;
    m->embed = mini_weight(m, &at, V, D);
    for (int i = 0; i < LAYERS; i++)
        mini_layer_open(m, &m->layer[i], &at, &lora);
    m->out_norm = mini_weight(m, &at, 1, D);
    m->output = mini_weight(m, &at, V, D);
    for (int i = 0; i < ROWS; i++) {
        m->ids[i] = (7 * i * i + 3 * i + 1) % V;
        m->target[i] = i % 6 != 4 ? (5 * i * i + i + 2) % V : -1;
        m->pos[i] = i < 9 ? i : i - 9;
    }
    m->seq[0] = (nn_seq){.row = 0, .n_rows = 9};
    m->seq[1] = (nn_seq){.row = 9, .n_rows = 7};
}

typedef struct {
    const mini *m;
    const mini_layer *l;
} mini_block_arg;

static inline nn_tensor *mini_block(nn *c, void *ctx, nn_tensor *x)
{
    const mini_block_arg *b = ctx;
    const mini_layer *l = b->l;
    nn_rope_args rope = {.head_dim = HD, .n_rot = HD, .base = 10000, .scale = 1};
    nn_attn_args a = {.n_head = HEADS, .n_kv_head = KV, .head_dim = HD};
    nn_tensor *h = nn_rmsnorm(c, x, &l->norm1, 1e-5f);
    nn_tensor *q = nn_rope(c, nn_linear(c, h, &l->q, NULL), b->m->pos, &rope);
    nn_tensor *k = nn_rope(c, nn_linear(c, h, &l->k, NULL), b->m->pos, &rope);
    nn_tensor *v = nn_linear(c, h, &l->v, NULL);
    nn_tensor *o = nn_attention(c, q, k, v, b->m->seq, 2, &a, NULL);
    x = nn_add(c, x, nn_linear(c, o, &l->o, NULL));
    h = nn_rmsnorm(c, x, &l->norm2, 1e-5f);
    nn_tensor *gate = nn_linear(c, h, &l->gate, NULL), *up = nn_linear(c, h, &l->up, NULL);
    return nn_add(c, x, nn_linear(c, nn_silu_mul(c, gate, up), &l->down, NULL));
}

/* Loss and, when training, gradients. */
static inline om_status mini_step(nn *c, void *ctx)
{
    mini *m = ctx;
    nn_tensor *x = nn_embed(c, &m->embed, m->ids, ROWS);
    for (int i = 0; i < LAYERS; i++) {
        mini_block_arg b = {m, &m->layer[i]};
        x = m->recompute ? nn_recompute(c, mini_block, &b, sizeof(b), x)
                         : mini_block(c, &b, x);
    }
    x = nn_rmsnorm(c, x, &m->out_norm, 1e-5f);
    nn_linear_cross_entropy(c, x, &m->output, m->target, 1.0f, &m->loss);
    nn_backward(c);
    return c->status;
}

static inline void mini_random(mini *m, bool adapted)
{
    rng r = rng_for(5, 0, 0, 0);
    memset(m, 0, sizeof(*m));
    for (int i = 0; i < N_BASE; i++)
        m->base[i] = (float)(0.2 * rng_normal(&r));
    for (int i = 0; i < N_LORA; i++)
        m->lora[i] = (float)(0.2 * rng_normal(&r));
    mini_open(m, adapted);
}

#endif
