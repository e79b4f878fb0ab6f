/* flexlora.c - FlexLoRA: the mean of the full products, cut to each client's rank.
 *
 *     down:   the first r_i ranks of A and B
 *     server: M = sum p_i B_i A_i;  M = U S V'  (singular values in descending order);
 *             B = U S,  A = V', the first ranks of which are the best of their number
 *
 * A rank whose singular value is zero keeps its A, so that it can still learn.  When the
 * adapters' rank is that of the matrix, B A = M exactly.  Down: r_i (in + out) floats a
 * matrix; up: 4 bytes and C of as many.  Server state beside the factors: M, the size of
 * the matrices.
 *
 * Bai et al., NeurIPS 2024, arXiv 2402.11505. */
#include "fl/lowrank.h"
#include "fl/svd.h"

static const param params[] = {FL_LOCAL_PARAMS, {NULL, 0, 0, 0, NULL, NULL}};

static size_t products(const fl_env *e)
{
    size_t n = 0;
    for (uint32_t i = 0; i < e->shape->n; i++)
        n += (size_t)e->shape->m[i].rows * e->shape->m[i].cols;
    return n;
}

static size_t factors_end(const fl_env *e) { return average_bytes(e, 1); }

static size_t server_bytes(const fl_env *e)
{
    return factors_end(e) + products(e) * sizeof(double);
}

static double *mean_of(const fl_env *e, void *server)
{
    return (double *)(void *)((char *)server + factors_end(e));
}

/* Room of the decomposition: a copy of M on its side, V and the singular values. */
static size_t svd_numbers(const fl_env *e)
{
    size_t most = 0;
    for (uint32_t i = 0; i < e->shape->n; i++) {
        const fl_matrix *m = &e->shape->m[i];
        size_t n = size_min(m->rows, m->cols);
        most = size_max(most, (size_t)m->rows * m->cols + n * n + n);
    }
    return most;
}

static size_t scratch_bytes(const fl_env *e)
{
    return size_max(pairs_scratch_bytes(e),
                    svd_numbers(e) * sizeof(double) + e->dim * sizeof(float) + 128);
}

static size_t down_bound(const fl_env *e)
{
    return 4 * lowrank_len(e, e->shape->rank, SIDE_BOTH);
}

static size_t down_part(const fl_env *e, uint32_t id, const uint8_t *down, size_t n)
{
    (void)down, (void)n;
    return pairs_down_part(e, id, SIDE_BOTH);
}

static om_status server_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    memset(mean_of(e, server), 0, products(e) * sizeof(double));
    return pairs_begin(e, server, SIDE_BOTH, down, err);
}

static om_status client_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                             const uint8_t *down, size_t down_n, buf *up, double *loss,
                             arena scratch, om_err *err)
{
    float *z = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    float *y = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    uint32_t r = lowrank_rank(e, id, e->shape->rank);
    size_t n = lowrank_len(e, r, SIDE_BOTH);
    TRY(pairs_train(e, id, f, r, SIDE_BOTH, (pairs_pull){0, 0}, down, down_n, z, y, loss,
                    scratch, err));
    for (size_t i = 0; i < n; i++)
        y[i] -= z[i];
    return pairs_send(e, id, client, r, SIDE_BOTH, y, up, scratch, err);
}

/* M += weight B A. */
static void add_product(const fl_env *e, uint32_t r, double weight, const float *z, double *m)
{
    size_t step = lowrank_len(e, 1, SIDE_BOTH), at = 0;
    for (uint32_t i = 0; i < e->shape->n; i++) {
        uint32_t rows = e->shape->m[i].rows, cols = e->shape->m[i].cols;
        for (uint32_t j = 0; j < r; j++) {
            const float *a = z + j * step + at, *b = a + cols;
            for (uint32_t k = 0; k < rows; k++)
                for (uint32_t c = 0; c < cols; c++)
                    m[(size_t)k * cols + c] += weight * (double)b[k] * (double)a[c];
        }
        at += cols + rows;
        m += (size_t)rows * cols;
    }
}

static om_status server_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                             const uint8_t *up, size_t up_n, arena scratch, om_err *err)
{
    float *z = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    float *x = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    double weight = e->p[LOCAL_WEIGHTS] < 0.5 ? (double)samples : 1;
    uint32_t r;
    TRY(average_admit(e, server, id, samples, err));
    TRY(pairs_read(e, id, false, SIDE_BOTH, up, up_n, z, &r, err));
    pairs_take(e, average_model(e, server), r, SIDE_BOTH, x);
    for (size_t i = 0; i < lowrank_len(e, r, SIDE_BOTH); i++)
        x[i] += z[i];
    add_product(e, r, weight, x, mean_of(e, server));
    average_count(server, id, weight);
    return OM_OK;
}

static om_status server_check(const fl_env *e, uint32_t id, uint64_t samples,
                              const uint8_t *up, size_t up_n, float *zeros, om_err *err)
{
    return pairs_check(e, id, samples, false, SIDE_BOTH, up, up_n, zeros, err);
}

/* A and B of x from M (rows, cols) / total. */
static void split(const fl_env *e, const fl_matrix *m, const double *mean, double total,
                  float *x, arena scratch)
{
    bool tall = m->rows >= m->cols;
    size_t high = tall ? m->rows : m->cols, n = tall ? m->cols : m->rows;
    double *u = arena_new(&scratch, double, high * n), *v = arena_new(&scratch, double, n * n);
    double *s = arena_new(&scratch, double, n);
    uint32_t rank = e->shape->rank;
    for (uint32_t k = 0; k < m->rows; k++)
        for (uint32_t c = 0; c < m->cols; c++)
            u[tall ? c * high + k : k * high + c] = mean[(size_t)k * m->cols + c] / total;
    svd_thin(u, high, n, s, v);
    for (uint32_t j = 0; j < rank; j++) {
        bool there = j < n && s[j] > 1e-12 * s[0];
        const double *left = tall ? u + j * high : v + j * n;
        const double *right = tall ? v + j * n : u + j * high;
        for (uint32_t c = 0; there && c < m->cols; c++)
            x[m->a + (size_t)j * m->cols + c] = (float)right[c];
        for (uint32_t k = 0; k < m->rows; k++)
            x[m->b + (size_t)k * rank + j] = there ? (float)(left[k] * s[j]) : 0;
    }
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    double total = average_weight(server);
    float *next = arena_new(&scratch, float, e->dim);
    const double *m = mean_of(e, server);
    if (average_received(server) == 0)
        return OM_OK;
    for (size_t i = 0; i < products(e); i++)
        if (!(m[i] >= -1e15 * total && m[i] <= 1e15 * total))
            return fail(err, OM_ELIMIT,
                        "the mean product of %llu updates is %g at number %zu; the model is "
                        "kept",
                        (unsigned long long)average_received(server), m[i] / total, i);
    memcpy(next, average_model(e, server), e->dim * sizeof(float));
    for (uint32_t i = 0; i < e->shape->n; i++) {
        split(e, &e->shape->m[i], m, total, next, scratch);
        m += (size_t)e->shape->m[i].rows * e->shape->m[i].cols;
    }
    return average_accept(e, server, next, err);
}

const fl_algo fl_flexlora = {
    .name = "flexlora",
    .summary = "the mean of full low-rank products, cut by SVD to each client's rank",
    .source = "Bai et al., NeurIPS 2024, arXiv 2402.11505",
    .flags = FL_CLIENT_STATE | FL_PAIRS | FL_RANKS,
    .params = params,
    .check = pairs_check_recipe,
    .server_bytes = server_bytes,
    .client_bytes = local_client_bytes,
    .scratch_bytes = scratch_bytes,
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
