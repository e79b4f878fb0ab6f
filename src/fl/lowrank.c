/* lowrank.c - see lowrank.h.
 *
 * In a message of stride s numbers a rank, the row j of the A of a matrix lies at
 * j s + o and column j of its B at j s + o', where o and o' depend on the matrix alone:
 * every loop below runs over matrices and carries these two. */
#include "fl/lowrank.h"
#include "codec/wire.h"

#include <math.h>

enum { COVERAGE = 2 }; /* vector of the server */

static bool has_a(lowrank_side s) { return s != SIDE_B; }
static bool has_b(lowrank_side s) { return s != SIDE_A; }

static size_t stride(const fl_shape *s, lowrank_side side)
{
    size_t n = 0;
    for (uint32_t i = 0; i < s->n; i++)
        n += (has_a(side) ? s->m[i].cols : 0) + (has_b(side) ? s->m[i].rows : 0);
    return n;
}

/* Where A and B of matrix *m begin; the next matrix's begin at *at afterwards. */
static void places(const fl_matrix *m, lowrank_side side, size_t *at, size_t *a, size_t *b)
{
    *a = *at;
    *b = *at += has_a(side) ? m->cols : 0;
    *at += has_b(side) ? m->rows : 0;
}

size_t lowrank_len(const fl_env *e, uint32_t r, lowrank_side side)
{
    return r * stride(e->shape, side);
}

uint32_t lowrank_limit(const fl_env *e)
{
    const fl_shape *s = e->shape;
    size_t most = s->rank ? s->rank : LOWRANK_MOST;
    for (uint32_t i = 0; s->rank == 0 && i < s->n; i++)
        most = size_min(most, size_min(s->m[i].rows, s->m[i].cols));
    return (uint32_t)most;
}

uint32_t lowrank_rank(const fl_env *e, uint32_t id, uint32_t most)
{
    const fl_shape *s = e->shape;
    uint32_t own = s->n_ranks ? s->ranks[id % s->n_ranks] : most;
    return own < most ? own : most;
}

/* ---- pairs: layout ---- */

void pairs_take(const fl_env *e, const float *x, uint32_t r, lowrank_side side, float *z)
{
    const fl_shape *s = e->shape;
    size_t step = stride(s, side), at = 0, a, b;
    for (uint32_t i = 0; i < s->n; i++) {
        const fl_matrix *m = &s->m[i];
        places(m, side, &at, &a, &b);
        for (uint32_t j = 0; j < r && has_a(side); j++)
            memcpy(z + j * step + a, x + m->a + (size_t)j * m->cols, m->cols * sizeof(float));
        for (uint32_t j = 0; j < r && has_b(side); j++)
            for (uint32_t k = 0; k < m->rows; k++)
                z[j * step + b + k] = x[m->b + (size_t)k * s->rank + j];
    }
}

void pairs_put(const fl_env *e, const float *z, uint32_t r, lowrank_side side, float *x)
{
    const fl_shape *s = e->shape;
    size_t step = stride(s, side), at = 0, a, b;
    for (uint32_t i = 0; i < s->n; i++) {
        const fl_matrix *m = &s->m[i];
        places(m, side, &at, &a, &b);
        for (uint32_t j = 0; j < r && has_a(side); j++)
            memcpy(x + m->a + (size_t)j * m->cols, z + j * step + a, m->cols * sizeof(float));
        for (uint32_t j = 0; j < r && has_b(side); j++)
            for (uint32_t k = 0; k < m->rows; k++)
                x[m->b + (size_t)k * s->rank + j] = z[j * step + b + k];
    }
}

/* ---- pairs: the client ---- */

typedef struct {
    const fl_env *e;
    const fl_oracle *inner;
    uint32_t r;
    lowrank_side side;
    pairs_pull pull;
    float *full, *grad; /* (dim) */
} slice;

static double norm_of(const float *z, size_t step, uint32_t from, uint32_t to, size_t n)
{
    double sum = 0;
    for (uint32_t j = from; j < to; j++)
        for (size_t i = 0; i < n; i++)
            sum += (double)z[j * step + i] * (double)z[j * step + i];
    return sqrt(sum);
}

double pairs_tail(const fl_env *e, const float *z, uint32_t r, uint32_t tail)
{
    const fl_shape *s = e->shape;
    size_t step = stride(s, SIDE_BOTH), at = 0, a, b;
    double sum = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        places(&s->m[i], SIDE_BOTH, &at, &a, &b);
        sum += norm_of(z + a, step, tail, r, s->m[i].cols) *
               norm_of(z + b, step, tail, r, s->m[i].rows);
    }
    return sum;
}

static void add_scaled(const float *z, double by, size_t step, uint32_t from, uint32_t to,
                       size_t n, float *g)
{
    for (uint32_t j = from; j < to; j++)
        for (size_t i = 0; i < n; i++)
            g[j * step + i] += (float)by * z[j * step + i];
}

/* g += gradient of strength |A_tail| |B_tail|. */
static void add_pull(const slice *s, const float *z, float *g)
{
    const fl_shape *h = s->e->shape;
    size_t step = stride(h, SIDE_BOTH), at = 0, a, b;
    for (uint32_t i = 0; i < h->n; i++) {
        const fl_matrix *m = &h->m[i];
        places(m, SIDE_BOTH, &at, &a, &b);
        double na = norm_of(z + a, step, s->pull.tail, s->r, m->cols);
        double nb = norm_of(z + b, step, s->pull.tail, s->r, m->rows);
        if (!(na > 0 && nb > 0))
            continue;
        double by = s->pull.strength;
        add_scaled(z + a, by * nb / na, step, s->pull.tail, s->r, m->cols, g + a);
        add_scaled(z + b, by * na / nb, step, s->pull.tail, s->r, m->rows, g + b);
    }
}

static om_status slice_after(const slice *s, const float *z, float *g, om_status st)
{
    if (st != OM_OK)
        return st;
    pairs_take(s->e, s->grad, s->r, s->side, g);
    if (s->pull.strength > 0 && s->pull.tail < s->r)
        add_pull(s, z, g);
    return OM_OK;
}

static om_status slice_grad(void *ctx, const float *z, float *g, double *loss, om_err *err)
{
    slice *s = ctx;
    pairs_put(s->e, z, s->r, s->side, s->full);
    return slice_after(s, z, g, s->inner->grad(s->inner->ctx, s->full, s->grad, loss, err));
}

static om_status slice_sgrad(void *ctx, const float *z, uint32_t batch, rng r, float *g,
                             double *loss, om_err *err)
{
    slice *s = ctx;
    pairs_put(s->e, z, s->r, s->side, s->full);
    return slice_after(
        s, z, g, s->inner->sgrad(s->inner->ctx, s->full, batch, r, s->grad, loss, err));
}

static om_status know(const fl_env *e, uint32_t id, const fl_oracle *f, om_err *err)
{
    if (f->dim == e->dim && f->n_samples)
        return OM_OK;
    return fail(err, OM_EARG,
                "client %u has %llu samples of a problem of %zu numbers, expected some of %zu",
                (unsigned)id, (unsigned long long)f->n_samples, f->dim, e->dim);
}

static om_status read_floats(const uint8_t *p, size_t n, float *z, om_err *err)
{
    if (!wire_all_finite(p, n))
        return fail(err, OM_EFORMAT, "the model message holds a NaN or an infinity");
    for (size_t i = 0; i < n; i++)
        z[i] = wire_load_f32(p + 4 * i);
    return OM_OK;
}

om_status pairs_train(const fl_env *e, uint32_t id, const fl_oracle *f, uint32_t r,
                      lowrank_side side, pairs_pull pull, const uint8_t *down,
                      size_t down_n, float *z, float *y, double *loss, arena scratch,
                      om_err *err)
{
    size_t n = lowrank_len(e, r, side);
    slice s = {e, f, r, side, pull, arena_alloc(&scratch, sizeof(float), 64, e->dim),
               arena_alloc(&scratch, sizeof(float), 64, e->dim)};
    float *g = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    fl_oracle own = {.dim = n, .n_samples = f->n_samples, .ctx = &s, .grad = slice_grad,
                     .sgrad = f->sgrad ? slice_sgrad : NULL};
    fl_env sub = *e;
    uint64_t steps;
    double mean = 0;
    TRY(know(e, id, f, err));
    if (down_n != 4 * n && down_n != 4 * lowrank_len(e, e->shape->rank, side))
        return fail(err, OM_EFORMAT, "the model message has %zu bytes; rank %u needs %zu",
                    down_n, (unsigned)r, 4 * n);
    TRY(read_floats(down, n, z, err));
    memset(s.full, 0, e->dim * sizeof(float));
    if (side == SIDE_B) { /* A: y is room for it */
        pairs_take(e, e->shape->start, r, SIDE_A, y);
        pairs_put(e, y, r, SIDE_A, s.full);
    }
    memcpy(y, z, n * sizeof(float));
    sub.dim = n;
    TRY(local_train(&sub, id, &own, 0, NULL, z, y, g, &mean, &steps, scratch, err));
    if (loss)
        *loss = mean;
    return OM_OK;
}

om_status pairs_send(const fl_env *e, uint32_t id, void *error, uint32_t r,
                     lowrank_side side, float *delta, buf *up, arena scratch, om_err *err)
{
    fl_env sub = *e;
    sub.dim = lowrank_len(e, r, side);
    if (buf_u32(up, r) != OM_OK)
        return fail(err, OM_ENOMEM, "no room for an update");
    return local_send(&sub, id, error, delta, up, scratch, err);
}

size_t pairs_scratch_bytes(const fl_env *e)
{
    return local_scratch_bytes(e) + 3 * (e->dim * sizeof(float) + 64);
}

size_t pairs_up_bound(const fl_env *e) { return 4 + local_up_bound(e); }

om_status pairs_check_recipe(const fl_recipe *r, om_err *err)
{
    if (r->up->flags & CODEC_JOINT)
        return fail(err, OM_EARG,
                    "%s: clients may differ in rank, and %s deals one vector's places to "
                    "all; nearest: randk",
                    r->algo->name, r->up->name);
    return local_check(r, err);
}

/* ---- pairs: the server ---- */

static double *coverage(const fl_env *e, void *server)
{
    return (double *)(void *)average_vector(e, server, COVERAGE);
}

om_status pairs_begin(const fl_env *e, void *server, lowrank_side side, buf *down,
                      om_err *err)
{
    uint32_t r = e->shape->rank;
    size_t n = lowrank_len(e, r, side);
    float *room = average_vector(e, server, 1); /* the sum, which is zero until a message */
    average_fresh(e, server);
    memset(coverage(e, server), 0, r * sizeof(double));
    if (buf_reserve(down, 4 * n) != OM_OK)
        return fail(err, OM_ENOMEM, "no room for factors of %zu numbers", n);
    pairs_take(e, average_model(e, server), r, side, room);
    for (size_t i = 0; i < n; i++, down->len += 4)
        wire_store_f32(down->data + down->len, room[i]);
    memset(room, 0, n * sizeof(float));
    return OM_OK;
}

size_t pairs_down_part(const fl_env *e, uint32_t id, lowrank_side side)
{
    return 4 * lowrank_len(e, lowrank_rank(e, id, e->shape->rank), side);
}

static om_status read_head(const fl_env *e, uint32_t id, bool any, const uint8_t *up,
                           size_t n, uint32_t *r, om_err *err)
{
    uint32_t own = lowrank_rank(e, id, e->shape->rank);
    *r = n >= 4 ? wire_load(up) : 0;
    if (*r < 1 || *r > own || (!any && *r != own))
        return fail(err, OM_EFORMAT, "client %u sends factors of rank %u, expected %u",
                    (unsigned)id, (unsigned)*r, (unsigned)own);
    return OM_OK;
}

om_status pairs_read(const fl_env *e, uint32_t id, bool any, lowrank_side side,
                     const uint8_t *up, size_t n, float *z, uint32_t *r, om_err *err)
{
    TRY(read_head(e, id, any, up, n, r, err));
    size_t len = lowrank_len(e, *r, side);
    memset(z, 0, len * sizeof(float));
    return e->up->decode(e->up_p, up + 4, n - 4, 1.0f, z, len, err);
}

om_status pairs_check(const fl_env *e, uint32_t id, uint64_t samples, bool any,
                      lowrank_side side, const uint8_t *up, size_t n, float *zeros,
                      om_err *err)
{
    uint32_t r;
    TRY(average_check_head(e, id, samples, err));
    TRY(read_head(e, id, any, up, n, &r, err));
    return e->up->decode(e->up_p, up + 4, n - 4, 0.0f, zeros, lowrank_len(e, r, side), err);
}

void pairs_add(const fl_env *e, void *server, uint32_t id, uint32_t r, lowrank_side side,
               double weight, const float *z)
{
    float *sum = average_vector(e, server, 1), w = (float)weight;
    size_t n = lowrank_len(e, r, side);
    for (size_t i = 0; i < n; i++)
        sum[i] += w * z[i];
    for (uint32_t j = 0; j < r; j++)
        coverage(e, server)[j] += weight;
    average_count(server, id, weight);
}

/* The sum is in the order of messages: a rank that only some had is held against all. */
om_status pairs_close(const fl_env *e, void *server, lowrank_side side, arena scratch,
                      om_err *err)
{
    uint32_t r = e->shape->rank;
    size_t step = lowrank_len(e, 1, side);
    double all = average_weight(server);
    float *d, *z = arena_new(&scratch, float, e->dim);
    float *next = arena_new(&scratch, float, e->dim);
    TRY(average_mean(e, server, &d, err));
    if (!d)
        return OM_OK;
    pairs_take(e, average_model(e, server), r, side, z);
    for (uint32_t j = 0; j < r; j++) {
        float kept = (float)(coverage(e, server)[j] / all);
        for (size_t i = j * step; i < (j + 1) * step; i++)
            z[i] = kept * z[i] + d[i];
    }
    memcpy(next, average_model(e, server), e->dim * sizeof(float));
    pairs_put(e, z, r, side, next);
    return average_accept(e, server, next, err);
}

/* ---- matrices ---- */

/* The factors j of a matrix: of z where its side has them, else of the fixed ones. */
typedef struct {
    const float *a, *b;
    size_t step_a, step_b;
} factors;

typedef struct {
    const fl_shape *s;
    lowrank_side side;
    size_t step, other, at, at_fixed; /* strides, and how far the loop is */
} walk;

static walk walk_of(const fl_env *e, lowrank_side side)
{
    lowrank_side o = side == SIDE_A ? SIDE_B : SIDE_A;
    return (walk){e->shape, side, stride(e->shape, side),
                  side == SIDE_BOTH ? 0 : stride(e->shape, o), 0, 0};
}

static factors walk_next(walk *w, const fl_matrix *m, const float *z, const float *fixed)
{
    size_t a, b;
    places(m, w->side, &w->at, &a, &b);
    factors f = {z + a, z + b, w->step, w->step};
    if (w->side == SIDE_A) {
        f.b = fixed + w->at_fixed, f.step_b = w->other;
        w->at_fixed += m->rows;
    } else if (w->side == SIDE_B) {
        f.a = fixed + w->at_fixed, f.step_a = w->other;
        w->at_fixed += m->cols;
    }
    return f;
}

void lowrank_apply(const fl_env *e, uint32_t r, lowrank_side side, float scale,
                   const float *z, const float *fixed, float *w)
{
    walk at = walk_of(e, side);
    for (uint32_t i = 0; i < e->shape->n; i++) {
        const fl_matrix *m = &e->shape->m[i];
        factors f = walk_next(&at, m, z, fixed);
        for (uint32_t k = 0; k < m->rows; k++)
            for (uint32_t j = 0; j < r; j++)
                e->k->axpy(w + m->a + (size_t)k * m->cols, scale * f.b[j * f.step_b + k],
                           f.a + j * f.step_a, m->cols);
    }
}

/* g = the gradient by the factors of v->side, from that by the matrices in v->grad. */
static void chain(const lowrank_view *v, const float *z, float *g)
{
    const fl_env *e = v->e;
    walk at = walk_of(e, v->side);
    memset(g, 0, lowrank_len(e, v->r, v->side) * sizeof(float));
    for (uint32_t i = 0; i < e->shape->n; i++) {
        const fl_matrix *m = &e->shape->m[i];
        factors f = walk_next(&at, m, z, v->fixed);
        float *ga = has_a(v->side) ? g + (f.a - z) : NULL;
        float *gb = has_b(v->side) ? g + (f.b - z) : NULL;
        for (uint32_t k = 0; k < m->rows; k++) {
            const float *row = v->grad + m->a + (size_t)k * m->cols;
            for (uint32_t j = 0; ga && j < v->r; j++)
                e->k->axpy(ga + j * f.step_a, v->scale * f.b[j * f.step_b + k], row, m->cols);
            for (uint32_t j = 0; gb && j < v->r; j++)
                gb[j * f.step_b + k] = v->scale * e->k->dot(row, f.a + j * f.step_a, m->cols);
        }
    }
}

static void view_at(lowrank_view *v, const float *z)
{
    memcpy(v->full, v->w, v->e->dim * sizeof(float));
    lowrank_apply(v->e, v->r, v->side, v->scale, z, v->fixed, v->full);
}

static om_status view_grad(void *ctx, const float *z, float *g, double *loss, om_err *err)
{
    lowrank_view *v = ctx;
    view_at(v, z);
    TRY(v->inner->grad(v->inner->ctx, v->full, v->grad, loss, err));
    chain(v, z, g);
    return OM_OK;
}

static om_status view_sgrad(void *ctx, const float *z, uint32_t batch, rng r, float *g,
                            double *loss, om_err *err)
{
    lowrank_view *v = ctx;
    view_at(v, z);
    TRY(v->inner->sgrad(v->inner->ctx, v->full, batch, r, v->grad, loss, err));
    chain(v, z, g);
    return OM_OK;
}

fl_oracle lowrank_oracle(lowrank_view *v)
{
    return (fl_oracle){.dim = lowrank_len(v->e, v->r, v->side),
                       .n_samples = v->inner->n_samples, .ctx = v, .grad = view_grad,
                       .sgrad = v->inner->sgrad ? view_sgrad : NULL};
}

om_status lowrank_train(lowrank_view *v, uint32_t id, float *z, double *loss,
                        arena scratch, om_err *err)
{
    fl_env sub = *v->e;
    uint64_t steps;
    double mean = 0;
    v->full = arena_alloc(&scratch, sizeof(float), 64, v->e->dim);
    v->grad = arena_alloc(&scratch, sizeof(float), 64, v->e->dim);
    TRY(know(v->e, id, v->inner, err));
    fl_oracle own = lowrank_oracle(v);
    sub.dim = own.dim;
    float *g = arena_alloc(&scratch, sizeof(float), 64, own.dim);
    TRY(local_train(&sub, id, &own, 0, NULL, z, z, g, &mean, &steps, scratch, err));
    if (loss)
        *loss = mean;
    return OM_OK;
}

/* Factors are no longer than the largest of a rank that every matrix can have. */
static size_t factor_numbers(const fl_env *e)
{
    return lowrank_len(e, lowrank_limit(e), SIDE_BOTH);
}

size_t lowrank_train_bytes(const fl_env *e)
{
    fl_env sub = *e;
    sub.dim = size_max(e->dim, factor_numbers(e));
    return local_scratch_bytes(&sub) + 6 * (sub.dim * sizeof(float) + 64);
}

/* ---- frames ---- */

static double dot64(const double *x, const double *y, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += x[i] * y[i];
    return s;
}

/* Gram-Schmidt, twice over; Gaussians are independent but in theory. */
static void orthonormal(double *q, size_t n, uint32_t r)
{
    for (uint32_t j = 0; j < r; j++) {
        double *v = q + j * n;
        for (int pass = 0; pass < 2; pass++)
            for (uint32_t k = 0; k < j; k++) {
                double s = dot64(q + k * n, v, n);
                for (size_t i = 0; i < n; i++)
                    v[i] -= s * q[k * n + i];
            }
        double norm = sqrt(dot64(v, v, n));
        for (size_t i = 0; i < n; i++)
            v[i] = norm > 0 ? v[i] / norm : 0;
    }
}

enum { USE_FRAME = 0x39000000 };

om_status lowrank_frames(const fl_env *e, uint32_t round, uint32_t r, lowrank_side side,
                         float *out, om_err *err)
{
    const fl_shape *s = e->shape;
    size_t step = stride(s, side), at = 0, most = 0;
    for (uint32_t i = 0; i < s->n; i++)
        most = size_max(most, size_max(s->m[i].rows, s->m[i].cols));
    double *q = mem_array(most * r, sizeof(double));
    if (!q)
        return fail(err, OM_ENOMEM, "no memory for frames of rank %u", (unsigned)r);
    for (uint32_t i = 0; i < s->n; i++) {
        size_t n = side == SIDE_A ? s->m[i].cols : s->m[i].rows;
        rng g = rng_for(e->seed, round, i, USE_FRAME + (uint32_t)side);
        for (size_t k = 0; k < n * r; k++)
            q[k] = rng_normal(&g);
        orthonormal(q, n, r);
        for (uint32_t j = 0; j < r; j++)
            for (size_t k = 0; k < n; k++)
                out[j * step + at + k] = (float)q[j * n + k];
        at += n;
    }
    mem_free(q);
    return OM_OK;
}

/* T = B' D (r, cols), D = B T;  T = D A' (rows, r), D = T A. */
static void project_one(const fl_env *e, const fl_matrix *m, uint32_t r, lowrank_side side,
                        const float *q, size_t step, float *t, float *d)
{
    uint32_t cols = m->cols;
    if (side == SIDE_B) {
        memset(t, 0, (size_t)r * cols * sizeof(float));
        for (uint32_t k = 0; k < m->rows; k++)
            for (uint32_t j = 0; j < r; j++)
                e->k->axpy(t + (size_t)j * cols, q[j * step + k], d + (size_t)k * cols, cols);
        memset(d, 0, (size_t)m->rows * cols * sizeof(float));
        for (uint32_t k = 0; k < m->rows; k++)
            for (uint32_t j = 0; j < r; j++)
                e->k->axpy(d + (size_t)k * cols, q[j * step + k], t + (size_t)j * cols, cols);
        return;
    }
    for (uint32_t k = 0; k < m->rows; k++) {
        float *row = d + (size_t)k * cols;
        for (uint32_t j = 0; j < r; j++)
            t[j] = e->k->dot(row, q + j * step, cols);
        memset(row, 0, cols * sizeof(float));
        for (uint32_t j = 0; j < r; j++)
            e->k->axpy(row, t[j], q + j * step, cols);
    }
}

void lowrank_project(const fl_env *e, uint32_t r, lowrank_side side, const float *frames,
                     float *t, float *d)
{
    const fl_shape *s = e->shape;
    size_t step = stride(s, side), at = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        project_one(e, &s->m[i], r, side, frames + at, step, t, d + s->m[i].a);
        at += side == SIDE_A ? s->m[i].cols : s->m[i].rows;
    }
}
