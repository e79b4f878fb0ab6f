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

enum { FORESEE_ROWS = 4, FORESEE_USED = 16 };

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
    /* those that somebody chose, and their matrices: (n), (3 n) and (n) */
    uint32_t *busy, n_busy;
    const void **m;
    qmat_part *part;
    nn_weight one[3]; /* the shape of an expert's gate, up, down */
    float *guess;     /* (rows, n) the next layer's router */
    void *room;
    size_t room_bytes;
    const kern *k;
} job;

/* The best of n that is not among the s picked before. */
static uint32_t top_of(const float *l, uint32_t n, const uint32_t *pick, uint32_t s)
{
    uint32_t best = UINT32_MAX;
    for (uint32_t e = 0; e < n; e++) {
        bool taken = false;
        for (uint32_t i = 0; i < s; i++)
            taken = taken || pick[i] == e;
        if (!taken && (best == UINT32_MAX || l[e] > l[best]))
            best = e;
    }
    return best;
}

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
        pick[s] = top_of(l, j->a->n, pick, s);
        w[s] = expf(l[pick[s]] - top) / all;
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
    for (size_t i = beg; i < end; i++) {
        size_t at = j->part[i].beg * j->ffn, n = (j->part[i].end - j->part[i].beg) * j->ffn;
        j->k->silu_mul(j->gate + at, j->gate + at, j->up + at, n);
    }
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

/* One of the three products, for the first n busy experts. */
static void product(nn *c, job *j, int which, uint32_t n, const float *x, float *y)
{
    for (uint32_t i = 0; i < n; i++)
        j->part[i] = (qmat_part){j->m[3 * i + which], j->beg[j->busy[i]],
                                 j->beg[j->busy[i] + 1]};
    op_matmul_parts(c, &j->one[which], j->part, n, x, y, j->room, j->room_bytes);
}

static void feed(nn *c, job *j, uint32_t n)
{
    product(c, j, 0, n, j->in, j->gate);
    product(c, j, 1, n, j->in, j->up);
    pool_run(c->pool, n, op_grain(j->ffn), activate, j);
    product(c, j, 2, n, j->gate, j->in);
}

static void feed_resident(nn *c, job *j)
{
    const nn_weight *w[] = {j->a->gate, j->a->up, j->a->down};
    for (int k = 0; k < 3; k++) {
        size_t row = 0;
        BUG_IF(!dtype_row_bytes(w[k]->type, w[k]->cols, &row));
        for (uint32_t i = 0; i < j->n_busy; i++)
            j->m[3 * i + k] =
                (const uint8_t *)w[k]->data + (size_t)j->busy[i] * j->one[k].rows * row;
    }
    feed(c, j, j->n_busy);
}

/* What the next layer's router would say of the rows as they are now: they change little
 * from one layer to the next. */
static void foresee(nn *c, job *j)
{
    const nn_experts_args *a = j->a;
    uint32_t best[FORESEE_ROWS * FORESEE_USED], n = 0;
    if (!j->guess)
        return;
    op_matmul(c, a->next_router, j->x->data, j->guess, j->x->rows, j->room, j->room_bytes);
    for (uint32_t r = 0; r < j->x->rows; r++, n += j->used)
        for (uint32_t s = 0; s < j->used; s++)
            best[n + s] = top_of(j->guess + (size_t)r * a->n, a->n, best + n, s);
    a->store->hint(a->store, a->layer + 1, best, n);
}

static void feed_stored(nn *c, job *j)
{
    nn_expert_store *store = j->a->store;
    foresee(c, j);
    while (j->n_busy && c->status == OM_OK) {
        om_err err = {0};
        uint32_t got = store->take(store, j->a->layer, j->busy, j->n_busy, j->m, &err);
        if (got == 0) {
            nn_fail(c, err.code ? err.code : OM_EIO, "%s", err.msg);
            return;
        }
        feed(c, j, got);
        store->release(store);
        j->busy += got;
        j->n_busy -= got;
    }
}

static void compute(nn *c, job *j)
{
    const nn_experts_args *a = j->a;
    uint32_t pairs = j->x->rows * j->used;
    pool_run(c->pool, j->x->rows, op_grain(8 * a->n), choose_rows, j);
    sort_pairs(j);
    pool_run(c->pool, j->x->rows, op_grain(j->x->cols), gather, j);
    for (uint32_t e = 0; e < a->n; e++)
        if (j->beg[e + 1] > j->beg[e])
            j->busy[j->n_busy++] = e;
    if (c->on_linear) {
        c->on_linear(c->on_linear_ctx, a->gate, j->in, pairs);
        c->on_linear(c->on_linear_ctx, a->up, j->in, pairs);
    }
    if (a->store)
        feed_stored(c, j);
    else
        feed_resident(c, j);
    if (c->on_linear)
        c->on_linear(c->on_linear_ctx, a->down, j->gate, pairs);
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
    j.busy = nn_scratch(c, a->n * sizeof(*j.busy));
    j.m = nn_scratch(c, 3 * a->n * sizeof(*j.m));
    j.part = nn_scratch(c, a->n * sizeof(*j.part));
    const nn_weight *w[] = {a->gate, a->up, a->down};
    for (int i = 0; i < 3; i++) {
        j.one[i] = *w[i];
        j.one[i].rows = w[i]->rows / a->n;
        j.room_bytes = size_max(j.room_bytes, op_matmul_parts_bytes(c, &j.one[i], pairs));
    }
    if (a->store && a->next_router && x->rows <= FORESEE_ROWS && a->used <= FORESEE_USED) {
        j.guess = nn_scratch(c, (size_t)x->rows * a->n * sizeof(float));
        j.room_bytes = size_max(j.room_bytes, op_matmul_bytes(c, a->next_router, x->rows));
    }
    j.room = nn_scratch(c, j.room_bytes);
    if (nn_live(c))
        compute(c, &j);
    return j.y;
}
