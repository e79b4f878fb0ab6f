/* hetlora.c - HetLoRA: clients of unequal rank, weighted by how much they have to say,
 * which give up ranks that they do not need.
 *
 *     down:   the first r_i ranks of A and B
 *     client: trains f_i + lambda sum_matrices |A_t| |B_t|, where t are its last ranks, from
 *             max(1, floor(gamma r_i)) on;  when that sum is smaller after training than
 *             before, the ranks t are cut off for good
 *     server: A = sum p_i A_i,  B = sum p_i B_i, missing ranks as zeros,
 *             p_i = S_i / sum S,  S_i^2 = sum_matrices |B_i A_i|_F^2   (sparsity-weighted)
 *
 * With weights=samples, equal ranks and gamma 1 (no pruning) it is fedit.
 *
 * Client state: 64 bytes, the rank in the first four (0: as it began), then the codec's
 * error.
 *
 * Cho et al., EMNLP 2024, arXiv 2401.06432. */
#include "fl/lowrank.h"

#include <math.h>

enum { LAMBDA = LOCAL_PARAMS, GAMMA, BY };
enum { BY_NORM, BY_SAMPLES, BY_NOTHING };
enum { HEAD = 64 };

static const param params[] = {
    FL_LOCAL_PARAMS,
    [LAMBDA] = {"lambda", 1e-3, 0, 1e6, "pull of a client's last ranks to zero", NULL},
    [GAMMA] = {"gamma", 0.99, 1e-3, 1,
               "part of the ranks that stay when the last are given up; 1: no pruning", NULL},
    [BY] = {"weigh_by", BY_NORM, 0, 2, "what a client counts for", "norm|samples|equal"},
    {NULL, 0, 0, 0, NULL, NULL},
};

static size_t server_bytes(const fl_env *e) { return average_bytes(e, 1); }

static size_t client_bytes(const fl_env *e) { return HEAD + local_client_bytes(e); }

static om_status server_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    return pairs_begin(e, server, SIDE_BOTH, down, err);
}

static size_t down_bound(const fl_env *e)
{
    return 4 * lowrank_len(e, e->shape->rank, SIDE_BOTH);
}

/* Of the rank it began with: who has given ranks up takes less, which is not known here. */
static size_t down_part(const fl_env *e, uint32_t id, const uint8_t *down, size_t n)
{
    (void)down, (void)n;
    return pairs_down_part(e, id, SIDE_BOTH);
}

static om_status client_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                             const uint8_t *down, size_t down_n, buf *up, double *loss,
                             arena scratch, om_err *err)
{
    float *z = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    float *y = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    uint32_t own = lowrank_rank(e, id, e->shape->rank), r = own, kept;
    memcpy(&kept, client, sizeof(kept));
    if (kept)
        r = kept;
    uint32_t tail = (uint32_t)(e->p[GAMMA] * r);
    pairs_pull pull = {e->p[LAMBDA], tail > 1 ? tail : 1};
    if (e->p[GAMMA] >= 1)
        pull = (pairs_pull){0, r};
    if (down_n == 4 * lowrank_len(e, own, SIDE_BOTH)) /* its prefix, or the whole */
        down_n = 4 * lowrank_len(e, r, SIDE_BOTH);
    TRY(pairs_train(e, id, f, r, SIDE_BOTH, pull, down, down_n, z, y, loss, scratch, err));
    if (pull.tail < r &&
        pairs_tail(e, y, r, pull.tail) < pairs_tail(e, z, r, pull.tail))
        r = pull.tail;
    memcpy(client, &r, sizeof(r));
    size_t n = lowrank_len(e, r, SIDE_BOTH);
    for (size_t i = 0; i < n; i++)
        y[i] -= z[i];
    return pairs_send(e, id, (char *)client + HEAD, r, SIDE_BOTH, y, up, scratch, err);
}

/* sum over matrices |B A|_F^2 = sum_jk (B'B)_jk (A A')_jk, of factors in message order. */
static double product_norm(const fl_env *e, uint32_t r, const float *z)
{
    size_t step = lowrank_len(e, 1, SIDE_BOTH), at = 0;
    double sum = 0;
    for (uint32_t i = 0; i < e->shape->n; i++) {
        const fl_matrix *m = &e->shape->m[i];
        for (uint32_t j = 0; j < r; j++)
            for (uint32_t k = 0; k < r; k++) {
                const float *x = z + j * step + at, *y = z + k * step + at;
                double aa = 0, bb = 0;
                for (uint32_t c = 0; c < m->cols; c++)
                    aa += (double)x[c] * (double)y[c];
                for (uint32_t c = m->cols; c < m->cols + m->rows; c++)
                    bb += (double)x[c] * (double)y[c];
                sum += aa * bb;
            }
        at += m->cols + m->rows;
    }
    return sqrt(sum > 0 ? sum : 0);
}

static om_status server_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                             const uint8_t *up, size_t up_n, arena scratch, om_err *err)
{
    float *z = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    float *x = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    int by = (int)e->p[BY];
    uint32_t r;
    TRY(average_admit(e, server, id, samples, err));
    TRY(pairs_read(e, id, true, SIDE_BOTH, up, up_n, z, &r, err));
    double weight = by == BY_SAMPLES ? (double)samples : 1;
    if (by == BY_NORM) {
        pairs_take(e, average_model(e, server), r, SIDE_BOTH, x);
        for (size_t i = 0; i < lowrank_len(e, r, SIDE_BOTH); i++)
            x[i] += z[i];
        weight = fmax(product_norm(e, r, x), 1e-12); /* a client that adds nothing */
    }
    pairs_add(e, server, id, r, SIDE_BOTH, weight, z);
    return OM_OK;
}

static om_status server_check(const fl_env *e, uint32_t id, uint64_t samples,
                              const uint8_t *up, size_t up_n, float *zeros, om_err *err)
{
    return pairs_check(e, id, samples, true, SIDE_BOTH, up, up_n, zeros, err);
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    return pairs_close(e, server, SIDE_BOTH, scratch, err);
}

const fl_algo fl_hetlora = {
    .name = "hetlora",
    .summary = "low-rank adapters of unequal rank, weighted by norm, that prune themselves",
    .source = "Cho et al., EMNLP 2024, arXiv 2401.06432",
    .flags = FL_CLIENT_STATE | FL_PAIRS | FL_RANKS,
    .params = params,
    .check = pairs_check_recipe,
    .server_bytes = server_bytes,
    .client_bytes = client_bytes,
    .scratch_bytes = pairs_scratch_bytes,
    .up_bound = pairs_up_bound,
    .down_bound = down_bound,
    .down_part = down_part,
    .server_open = average_open,
    .server_begin = server_begin,
    .client_step = client_step,
    .server_recv = server_recv,
    .server_check = server_check,
    .server_close = server_close,
    .model = average_model,
};
