/* experts.c - a mixture of experts: every row goes through the few feed-forward networks
 * that its router likes best, and their outputs are added up by its weights.
 *
 *     p = softmax(router row)        the `used` largest, ties to the lower number
 *     w = p of those                 divided by their sum where `normalize` says so
 *     y = sum_s w_s down_s(silu(gate_s x) * up_s x)  [+ sigmoid(shared_gate) * shared]
 *
 * The (row, choice) pairs are sorted by expert, so that an expert's weights are read once
 * however many rows want it, and their number is rows * used whatever the router says:
 * the plan does not depend on data.  A row's sum runs over its own choices, best first:
 * the same bits alone and in any batch.  Shazeer et al. 2017, arXiv:1701.06538; Jiang et
 * al. 2024, arXiv:2401.04088. */
#include "nn/op.h"

#include <math.h>

typedef struct {
    const nn_experts_args *a;
    const nn_tensor *x, *router, *shared, *shared_gate;
    nn_tensor *y;
    uint32_t used, ffn;
    uint32_t *pick;  /* (rows, used) experts of a row, best first  */
    float *weight;   /* (rows, used)                               */
    uint32_t *place; /* (rows, used) where a pair lies when sorted */
    uint32_t *beg;   /* (n + 1) first sorted pair of an expert     */
    float *in;       /* (rows * used, dim) sorted: inputs, later outputs */
    float *gate, *up; /* (rows * used, ffn) */
    const kern *k;
} job;

static void choose(const job *j, uint32_t row)
{
    const float *l = op_row(j->router, row);
    uint32_t *pick = j->pick + (size_t)row * j->used;
    float *w = j->weight + (size_t)row * j->used, top = l[0], all = 0, kept = 0;
    for (uint32_t e = 1; e < j->a->n; e++)
        top = l[e] > top ? l[e] : top;
    for (uint32_t e = 0; e < j->a->n; e++)
        all += expf(l[e] - top);
    for (uint32_t s = 0; s < j->used; s++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t e = 0; e < j->a->n; e++) {
            bool taken = false;
            for (uint32_t i = 0; i < s; i++)
                taken = taken || pick[i] == e;
            if (!taken && (best == UINT32_MAX || l[e] > l[best]))
                best = e;
        }
        pick[s] = best;
        w[s] = expf(l[best] - top) / all;
        kept += w[s];
    }
    for (uint32_t s = 0; j->a->normalize && s < j->used; s++)
        w[s] /= kept;
}

static void choose_rows(void *ctx, size_t beg, size_t end, int worker)
{
    (void)worker;
    for (size_t i = beg; i < end; i++)
        choose(ctx, (uint32_t)i);
}

/* Counting sort by expert; rows keep their order within one. */
static void sort_pairs(job *j)
{
    size_t pairs = (size_t)j->x->rows * j->used;
    memset(j->beg, 0, (j->a->n + 1) * sizeof(*j->beg));
    for (size_t i = 0; i < pairs; i++)
        j->beg[j->pick[i] + 1]++;
    for (uint32_t e = 0; e < j->a->n; e++)
        j->beg[e + 1] += j->beg[e];
    for (size_t i = 0; i < pairs; i++)
        j->place[i] = j->beg[j->pick[i]]++;
    for (uint32_t e = j->a->n; e > 0; e--)
        j->beg[e] = j->beg[e - 1];
    j->beg[0] = 0;
}

static void gather(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    for (size_t i = beg; i < end; i++)
        for (uint32_t s = 0; s < j->used; s++)
            memcpy(j->in + (size_t)j->place[i * j->used + s] * j->x->cols, op_row(j->x, i),
                   j->x->cols * sizeof(float));
}

static void activate(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    (void)worker;
    j->k->silu_mul(j->gate + beg, j->gate + beg, j->up + beg, end - beg);
}

static void combine(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    size_t dim = j->x->cols;
    (void)worker;
    for (size_t i = beg; i < end; i++) {
        float *y = op_row(j->y, i);
        memset(y, 0, dim * sizeof(float));
        for (uint32_t s = 0; s < j->used; s++)
            j->k->axpy(y, j->weight[i * j->used + s],
                       j->in + (size_t)j->place[i * j->used + s] * dim, dim);
        if (j->shared)
            j->k->axpy(y, 1 / (1 + expf(-op_row(j->shared_gate, i)[0])),
                       op_row(j->shared, i), dim);
    }
}

static void compute(nn *c, job *j, void *room, size_t bytes)
{
    const nn_experts_args *a = j->a;
    size_t pairs = (size_t)j->x->rows * j->used;
    pool_run(c->pool, j->x->rows, op_grain(8 * a->n), choose_rows, j);
    sort_pairs(j);
    pool_run(c->pool, j->x->rows, op_grain(j->x->cols), gather, j);
    if (c->on_linear) {
        c->on_linear(c->on_linear_ctx, a->gate, j->in, (uint32_t)pairs);
        c->on_linear(c->on_linear_ctx, a->up, j->in, (uint32_t)pairs);
    }
    op_matmul_stack(c, a->gate, a->n, j->beg, j->in, j->gate, room, bytes);
    op_matmul_stack(c, a->up, a->n, j->beg, j->in, j->up, room, bytes);
    pool_run(c->pool, pairs * j->ffn, 8192, activate, j);
    if (c->on_linear)
        c->on_linear(c->on_linear_ctx, a->down, j->gate, (uint32_t)pairs);
    op_matmul_stack(c, a->down, a->n, j->beg, j->gate, j->in, room, bytes);
    pool_run(c->pool, j->x->rows, op_grain(j->x->cols * j->used), combine, j);
}

static bool fits(nn *c, const nn_tensor *x, const nn_tensor *router, const nn_experts_args *a)
{
    bool ok = a->n && a->used && a->used <= a->n && router->cols == a->n &&
              router->rows == x->rows && a->gate->cols == x->cols &&
              a->up->cols == x->cols && a->up->rows == a->gate->rows &&
              a->down->rows == (uint64_t)a->n * x->cols &&
              a->gate->rows == (uint64_t)a->n * a->down->cols;
    if (!ok)
        nn_fail(c, OM_EARG, "nn: %u experts of which %u are used do not fit their weights",
                a->n, a->used);
    else if (x->needs_grad || router->needs_grad || a->gate->lora || a->up->lora ||
             a->down->lora)
        nn_fail(c, OM_EUNSUPPORTED,
                "nn: a mixture of experts runs, but cannot be trained through yet");
    return c->status == OM_OK;
}

nn_tensor *nn_experts(nn *c, nn_tensor *x, nn_tensor *router, nn_tensor *shared,
                      nn_tensor *shared_gate, const nn_experts_args *a)
{
    job j = {.a = a, .x = x, .router = router, .shared = shared, .shared_gate = shared_gate,
             .y = nn_new(c, x->rows, x->cols), .used = a->used, .ffn = a->down->cols,
             .k = c->k};
    if (!fits(c, x, router, a))
        return j.y;
    size_t pairs = (size_t)x->rows * a->used;
    nn_touch(c, x);
    nn_touch(c, router);
    if (shared) {
        nn_touch(c, shared);
        nn_touch(c, shared_gate);
    }
    j.pick = nn_scratch(c, pairs * sizeof(*j.pick));
    j.weight = nn_scratch(c, pairs * sizeof(*j.weight));
    j.place = nn_scratch(c, pairs * sizeof(*j.place));
    j.beg = nn_scratch(c, (a->n + 1) * sizeof(*j.beg));
    j.in = nn_scratch(c, pairs * x->cols * sizeof(float));
    j.gate = nn_scratch(c, pairs * j.ffn * sizeof(float));
    j.up = nn_scratch(c, pairs * j.ffn * sizeof(float));
    size_t n = op_matmul_stack_bytes(c, a->gate, a->n, pairs);
    n = size_max(n, op_matmul_stack_bytes(c, a->up, a->n, pairs));
    n = size_max(n, op_matmul_stack_bytes(c, a->down, a->n, pairs));
    void *room = nn_scratch(c, n);
    if (nn_live(c))
        compute(c, &j, room, n);
    return j.y;
}
