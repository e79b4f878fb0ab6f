/* block.c - see block.h. */
#include "llm/arch/block.h"

#include <math.h>

nn_tensor *llm_blocks(nn *c, const llm_model *m, const llm_batch *b, nn_block_fn *block,
                      nn_tensor *x)
{
    const llm_stretch all = {.n = m->h.n_layer}, *part = b->stretch ? b->stretch : &all;
    if (part->in)
        x = nn_input(c, part->in, b->rows, m->h.dim);
    for (uint32_t i = part->first; i < part->first + part->n; i++) {
        llm_step s = {m, b, &m->layer[i], b->kv ? &b->kv[i] : NULL};
        x = i < b->recompute ? nn_recompute(c, block, &s, sizeof(s), x) : block(c, &s, x);
    }
    if (part->out)
        nn_output(c, x, part->out);
    return x;
}

nn_tensor *llm_attend(nn *c, const llm_step *s, nn_tensor *q, nn_tensor *k, nn_tensor *v)
{
    const llm_hparams *h = &s->m->h;
    nn_attn_args a = {
        .n_head = h->n_head, .n_kv_head = h->n_kv_head, .head_dim = h->head_dim,
        .scale = h->attn_scale > 0 ? h->attn_scale : 1 / sqrtf((float)h->head_dim),
        .window = h->window,
    };
    return nn_attention(c, q, k, v, s->b->seq, s->b->n_seq, &a, s->kv);
}

nn_tensor *llm_swiglu(nn *c, const llm_layer *l, nn_tensor *x)
{
    nn_tensor *gate = nn_linear(c, x, l->gate, l->gate_b);
    nn_tensor *up = nn_linear(c, x, l->up, l->up_b);
    return nn_linear(c, nn_silu_mul(c, gate, up), l->down, l->down_b);
}

nn_tensor *llm_experts(nn *c, const llm_step *s, nn_tensor *x)
{
    const llm_hparams *h = &s->m->h;
    const llm_layer *l = s->l;
    nn_experts_args a = {.n = h->n_expert, .used = h->n_expert_used,
                         .normalize = h->expert_norm, .gate = l->expert_gate,
                         .up = l->expert_up, .down = l->expert_down,
                         .store = s->b->experts, .layer = (uint32_t)(l - s->m->layer)};
    if (a.layer + 1 < h->n_layer)
        a.next_router = s->m->layer[a.layer + 1].router;
    nn_tensor *shared = NULL, *gate = NULL;
    nn_tensor *router = nn_linear(c, x, l->router, NULL);
    if (l->shared_up) {
        nn_tensor *g = nn_linear(c, x, l->shared_gate, NULL);
        nn_tensor *u = nn_linear(c, x, l->shared_up, NULL);
        shared = nn_linear(c, nn_silu_mul(c, g, u), l->shared_down, NULL);
        gate = nn_linear(c, x, l->shared_router, NULL);
    }
    return nn_experts(c, x, router, shared, gate, &a);
}
