/* second.c - see second.h: state, messages and the server's side. */
#include "fl/second_wire.h"

#include <float.h>
#include <math.h>

/* ---- state ---- */

static size_t doubles(size_t n) { return size_align(n * sizeof(double), 64); }
static size_t floats(size_t n) { return size_align(n * sizeof(float), 64); }

static bool is_exact(const second_shape *s) { return s->exact || s->basis; }

size_t second_server_bytes(const fl_env *e, const second_shape *s)
{
    size_t d = e->dim, n = e->n_clients;
    size_t all = size_align(average_bytes(e, 0), 64) + sizeof(second_note);
    size_t tri = s->no_matrix ? 0 : tri_size(d);
    all += (2 + (size_t)s->server_vectors) * doubles(d) + doubles(tri);
    all += is_exact(s) ? doubles(tri) : floats(tri);
    return s->basis ? all + doubles(n) + floats(n * d * d) : all;
}

second_server second_server_of(const fl_env *e, const second_shape *s, void *server)
{
    second_server v;
    char *p = (char *)server + size_align(average_bytes(e, 0), 64);
    size_t d = e->dim;
    v.note = (second_note *)(void *)p;
    v.x = (double *)(void *)(p += sizeof(second_note));
    v.g = (double *)(void *)(p += doubles(d));
    v.own = (double *)(void *)(p += doubles(d));
    v.h = (double *)(void *)(p += s->server_vectors * doubles(d));
    size_t tri = s->no_matrix ? 0 : tri_size(d);
    p += doubles(tri);
    v.s = is_exact(s) ? NULL : (float *)(void *)p;
    v.s64 = is_exact(s) ? (double *)(void *)p : NULL;
    p += is_exact(s) ? doubles(tri) : floats(tri);
    v.rank = s->basis ? (uint64_t *)(void *)p : NULL;
    v.v = s->basis ? (float *)(void *)(p + doubles(e->n_clients)) : NULL;
    return v;
}

double *second_own(const fl_env *e, const second_server *v, uint32_t i)
{
    return v->own + i * (doubles(e->dim) / sizeof(double));
}

/* With a basis: V (dim, dim), then the rest as without. */
size_t second_client_bytes(const fl_env *e, const second_shape *s)
{
    size_t all = sizeof(client_head) + s->client_vectors * doubles(e->dim);
    all += s->client_tris * floats(tri_size(e->dim));
    return s->basis ? all + floats(e->dim * e->dim) : all;
}

double *second_vector(const fl_env *e, void *client, uint32_t i)
{
    char *p = (char *)client + sizeof(client_head) + i * doubles(e->dim);
    return (double *)(void *)p;
}

float *second_tri(const fl_env *e, const second_shape *s, void *client, uint32_t i)
{
    char *p = (char *)(void *)second_vector(e, client, s->client_vectors);
    return (float *)(void *)(p + i * floats(tri_size(e->dim)));
}

/* Codec's room, packed matrices, full ones of the codec or the basis, vectors; a close
 * takes two full matrices of doubles. */
size_t second_scratch_bytes(const fl_env *e, const second_shape *s)
{
    size_t d = e->dim, n = tri_size(d), full = (e->up->flags & CODEC_MATRIX) ? d * d : 0;
    hess_codec c = hess_codec_of(e, d);
    size_t step = 5 * arena_bytes(double, d) + 4 * arena_bytes(float, n) +
                  3 * arena_bytes(float, full) + c.c->scratch_bytes(c.p, c.n) + 256;
    size_t close =
        2 * arena_bytes(double, d *d) + arena_bytes(double, n) + 8 * arena_bytes(double, d);
    if (is_exact(s))
        step += arena_bytes(float, n);
    if (s->basis)
        step += 2 * arena_bytes(double, d *d) + 2 * arena_bytes(float, d *d);
    return size_max(step, close) + fl_cohort_bytes(e->n_clients) +
           arena_bytes(uint32_t, e->n_clients);
}

size_t second_up_bound(const fl_env *e, const second_shape *s)
{
    size_t d = e->dim, n = tri_size(d);
    hess_codec c = hess_codec_of(e, d);
    size_t part = size_max(4 * n, c.c->bound(c.p, c.n));
    return 1 + 8 * (s->scalars + d) + part + (s->basis ? 4 + 4 * d * d : 0);
}

size_t second_down_bound(const fl_env *e) { return 8 * e->dim; }

om_status second_open(const fl_env *e, const second_shape *s, void *server, const float *x0,
                      om_err *err)
{
    second_server v = second_server_of(e, s, server);
    if (e->dim > SECOND_MOST_DIM)
        return fail(err, OM_ELIMIT,
                    "a second-order method keeps matrices of the model's %zu numbers "
                    "squared; %d numbers are the most, so choose a first-order method",
                    e->dim, SECOND_MOST_DIM);
    TRY(average_open(e, server, x0, err));
    for (size_t i = 0; i < e->dim; i++) {
        v.x[i] = (double)x0[i];
        if (s->basis)
            v.h[tri_row(e->dim, i) + i] = s->l2;
    }
    v.note->slope = (double)NAN;
    return OM_OK;
}

/* ---- messages ---- */

om_status second_put_doubles(buf *out, const double *v, size_t n, om_err *err)
{
    if (buf_reserve(out, 8 * n) != OM_OK)
        return fail(err, OM_ENOMEM, "no room for %zu numbers", n);
    for (size_t i = 0; i < n; i++) {
        uint64_t u;
        memcpy(&u, &v[i], 8);
        TRY(buf_u64(out, u));
    }
    return OM_OK;
}

double wire_load_f64(const uint8_t *p)
{
    uint64_t u = (uint64_t)wire_load(p) | (uint64_t)wire_load(p + 4) << 32;
    double v;
    memcpy(&v, &u, 8);
    return v;
}

om_status second_read(const uint8_t *p, size_t n, double *x, om_err *err)
{
    for (size_t i = 0; i < n; i++) {
        double v = wire_load_f64(p + 8 * i);
        if (!(fabs(v) <= DBL_MAX))
            return fail(err, OM_EFORMAT, "number %zu of a message is not finite", i);
        if (x)
            x[i] = v;
    }
    return OM_OK;
}

om_status second_begin(const fl_env *e, const second_shape *s, void *server, buf *down,
                       om_err *err)
{
    second_server v = second_server_of(e, s, server);
    average_fresh(e, server);
    memset(v.note->sum, 0, sizeof(v.note->sum));
    v.note->whole = 0;
    memset(v.g, 0, e->dim * sizeof(double));
    if (v.s64)
        memset(v.s64, 0, (s->no_matrix ? 0 : tri_size(e->dim)) * sizeof(double));
    else
        memset(v.s, 0, (s->no_matrix ? 0 : tri_size(e->dim)) * sizeof(float));
    return second_put_doubles(down, v.x, e->dim, err);
}

hess_codec hess_codec_of(const fl_env *e, size_t order)
{
    hess_codec c = {.c = e->up, .n = tri_size(order)};
    memcpy(c.p, e->up_p, param_count(e->up->params) * sizeof(double));
    if (e->up->flags & CODEC_MATRIX) {
        c.n = order * order;
        for (size_t i = 0; e->up->params[i].name; i++)
            if (strcmp(e->up->params[i].name, "rows") == 0)
                c.p[i] = (double)order;
    }
    c.scale = (float)codec_scale(c.c, c.p, c.n);
    return c;
}

om_status hess_decode(const fl_env *e, size_t order, const uint8_t *in, size_t n,
                      float weight, float *y, arena scratch, om_err *err)
{
    hess_codec c = hess_codec_of(e, order);
    if (!(e->up->flags & CODEC_MATRIX))
        return c.c->decode(c.p, in, n, weight * c.scale, y, c.n, err);
    float *full = arena_new(&scratch, float, c.n);
    TRY(c.c->decode(c.p, in, n, weight * c.scale, full, c.n, err));
    for (size_t i = 0; i < order; i++)
        for (size_t j = i; j < order; j++)
            y[tri_row(order, i) + j] += full[i * order + j];
    return OM_OK;
}

/* An up message taken apart. */
typedef struct {
    unsigned what;
    const uint8_t *scalar, *gradient, *v, *tail;
    size_t rank, tail_n;
} message;

static om_status take_apart(const fl_env *e, const second_shape *s, const uint8_t *up,
                            size_t up_n, message *m, om_err *err)
{
    cursor c = cursor_of(up, up_n);
    size_t d = e->dim;
    *m = (message){.what = cursor_u8(&c), .rank = d};
    bool tail = m->what & (UP2_WHOLE | UP2_CODED);
    if (m->what & UP2_SCALARS)
        m->scalar = cursor_take(&c, 8 * s->scalars);
    if (m->what & UP2_GRADIENT)
        m->gradient = cursor_take(&c, 8 * d);
    if (tail && s->basis)
        m->rank = cursor_u32(&c);
    if (m->rank == 0 || m->rank > d)
        return fail(err, OM_EFORMAT, "a basis of rank %zu in %zu dimensions", m->rank, d);
    if ((m->what & UP2_WHOLE) && s->basis)
        m->v = cursor_take(&c, 4 * m->rank * d);
    m->tail_n = up_n - c.pos;
    m->tail = cursor_take(&c, m->tail_n);
    if (!c.ok || m->what > 15 || (m->what & 12) == 12 || (!tail && m->tail_n) ||
        ((m->what & UP2_WHOLE) && m->tail_n != 4 * tri_size(m->rank)))
        return fail(
            err, OM_EFORMAT,
            "an update of %zu bytes of kind %u does not hold what that announces for "
            "%zu numbers",
            up_n, m->what, d);
    if (m->scalar)
        TRY(second_read(m->scalar, s->scalars, NULL, err));
    if (m->gradient)
        TRY(second_read(m->gradient, d, NULL, err));
    if ((m->what & UP2_WHOLE) && !wire_all_finite(m->tail, tri_size(m->rank)))
        return fail(err, OM_EFORMAT, "a Hessian holds a NaN or an infinity");
    for (size_t i = 0; m->v && i < m->rank * d; i++)
        if (!(fabsf(wire_load_f32(m->v + 4 * i)) <= 1.01f))
            return fail(err, OM_EFORMAT, "a basis holds a number above 1");
    return OM_OK;
}

/* y (packed by the rank) += the matrix of the message, weight times. */
static om_status add_tail(const fl_env *e, const message *m, float weight, float *y,
                          arena scratch, om_err *err)
{
    if (m->what & UP2_CODED)
        return hess_decode(e, m->rank, m->tail, m->tail_n, weight, y, scratch, err);
    for (size_t i = 0; (m->what & UP2_WHOLE) && i < tri_size(m->rank); i++)
        y[i] += weight * wire_load_f32(m->tail + 4 * i);
    return OM_OK;
}

/* s += V' G V, V (rank, d) rows, G packed by the rank. */
static void expand(size_t d, const float *v, size_t rank, const float *g, double *s,
                   arena scratch)
{
    double *gv = arena_new(&scratch, double, rank *d);
    for (size_t i = 0; i < rank; i++)
        for (size_t j = i; j < rank; j++) {
            double by = (double)g[tri_row(rank, i) + j];
            for (size_t k = 0; k < d; k++)
                gv[i * d + k] += by * (double)v[j * d + k];
            for (size_t k = 0; j > i && k < d; k++)
                gv[j * d + k] += by * (double)v[i * d + k];
        }
    for (size_t i = 0; i < d; i++)
        for (size_t k = 0; k < rank; k++) {
            double by = (double)v[k * d + i];
            for (size_t j = i; j < d; j++)
                s[tri_row(d, i) + j] += by * gv[k * d + j];
        }
}

/* Into a sum in double; with a basis from that of the client's first message. */
static om_status add_exact(const fl_env *e, const second_server *v, uint32_t id,
                           const message *m, arena scratch, om_err *err)
{
    size_t d = e->dim, n = tri_size(m->rank);
    float *basis = v->v ? v->v + id * d * d : NULL, *g = arena_new(&scratch, float, n);
    if (basis && !m->v && m->rank != v->rank[id])
        return fail(err, OM_EFORMAT, "client %u has a basis of rank %zu, not %llu",
                    (unsigned)id, m->rank, (unsigned long long)v->rank[id]);
    TRY(add_tail(e, m, 1, g, scratch, err));
    for (size_t i = 0; !basis && i < n; i++)
        v->s64[i] += (double)g[i];
    for (size_t i = 0; m->v && i < m->rank * d; i++)
        basis[i] = wire_load_f32(m->v + 4 * i);
    if (basis) {
        v->rank[id] = m->rank;
        expand(d, basis, m->rank, g, v->s64, scratch);
    }
    return OM_OK;
}

om_status second_recv(const fl_env *e, const second_shape *s, void *server, uint32_t id,
                      uint64_t samples, const uint8_t *up, size_t up_n, arena scratch,
                      om_err *err)
{
    second_server v = second_server_of(e, s, server);
    message m;
    TRY(average_admit(e, server, id, samples, err));
    TRY(take_apart(e, s, up, up_n, &m, err));
    if (v.s64 && (m.what & (UP2_WHOLE | UP2_CODED)))
        TRY(add_exact(e, &v, id, &m, scratch, err));
    else
        TRY(add_tail(e, &m, 1, v.s, scratch, err));
    for (uint32_t i = 0; m.scalar && i < s->scalars; i++)
        v.note->sum[i] += wire_load_f64(m.scalar + 8 * i);
    for (size_t i = 0; m.gradient && i < e->dim; i++)
        v.g[i] += wire_load_f64(m.gradient + 8 * i);
    v.note->whole += (m.what & UP2_WHOLE) != 0;
    average_count(server, id, 1);
    return OM_OK;
}

/* The driver's zeros are dim floats and a matrix is more: room of its own, as a check at
 * the door is not a round. */
om_status second_check(const fl_env *e, const second_shape *s, uint32_t id,
                       uint64_t samples, const uint8_t *up, size_t up_n, om_err *err)
{
    message m;
    TRY(average_check_head(e, id, samples, err));
    TRY(take_apart(e, s, up, up_n, &m, err));
    if (!(m.what & UP2_CODED))
        return OM_OK;
    size_t n = arena_bytes(float, tri_size(e->dim)) + arena_bytes(float, e->dim * e->dim);
    char *room = mem_alloc(n);
    arena a = arena_of(room, n);
    if (!room)
        return fail(err, OM_ENOMEM, "no memory to check a matrix of order %zu", e->dim);
    float *y = arena_new(&a, float, tri_size(m.rank));
    om_status st = add_tail(e, &m, 0, y, a, err);
    mem_free(room);
    return st;
}

/* ---- the close ---- */

static double summed(const second_server *v, size_t i)
{
    return v->s64 ? v->s64[i] : (double)v->s[i];
}

om_status second_sums(const fl_env *e, const second_server *v, uint64_t *n, om_err *err)
{
    const void *server =
        (const char *)(void *)v->note - size_align(average_bytes(e, 0), 64);
    *n = average_received(server);
    for (size_t i = 0; *n && i < tri_size(e->dim); i++)
        if (!(fabs(summed(v, i)) <= 1e15))
            return fail(err, OM_ELIMIT,
                        "the sum of %llu matrices is %g at number %zu; the model is kept",
                        (unsigned long long)*n, summed(v, i), i);
    for (size_t i = 0; *n && i < e->dim; i++)
        v->g[i] /= (double)*n;
    return OM_OK;
}

bool second_whole(const second_server *v, uint64_t n)
{
    return v->note->closed == 0 && v->note->whole == n;
}

void second_matrix(const fl_env *e, const second_server *v, bool with, double *out)
{
    double by = with ? 1.0 / e->n_clients : 0;
    for (size_t i = 0; i < tri_size(e->dim); i++)
        out[i] = v->h[i] + by * summed(v, i);
}

void second_learn(const fl_env *e, const second_server *v)
{
    second_matrix(e, v, true, v->h);
}

/* step = -(H + shift I)^-1 g, with the least help that makes it positive definite. */
static bool solve(const fl_env *e, const double *h, double shift, const double *g,
                  double *step, double *u)
{
    size_t d = e->dim;
    double mean = 0, more = 0;
    for (size_t i = 0; i < d; i++)
        mean += fabs(h[tri_row(d, i) + i]) / (double)d;
    mean += fabs(shift) + DBL_MIN;
    for (int tries = 0; tries < 60; tries++) {
        tri_unpack(h, d, shift + more, u);
        if (cholesky(u, d, e->pool)) {
            for (size_t i = 0; i < d; i++)
                step[i] = -g[i];
            cholesky_solve(u, d, step);
            return true;
        }
        more = more > 0 ? 4 * more : 1e-10 * mean;
    }
    return false;
}

/* step = -[H]_mu^-1 g by eigenvalues. */
static bool project(const fl_env *e, const double *h, double mu, const double *g,
                    double *step, double *a, double *v, double *w)
{
    size_t d = e->dim;
    tri_unpack(h, d, 0, a);
    for (size_t i = 0; i < d; i++)
        for (size_t j = 0; j < i; j++)
            a[i * d + j] = a[j * d + i];
    if (!sym_eigen(a, d, w, v))
        return false;
    memset(step, 0, d * sizeof(double));
    for (size_t k = 0; k < d; k++) {
        double s = 0;
        for (size_t i = 0; i < d; i++)
            s += v[k * d + i] * g[i];
        s /= w[k] > mu ? w[k] : mu;
        for (size_t i = 0; i < d; i++)
            step[i] -= s * v[k * d + i];
    }
    return true;
}

om_status second_direction(const fl_env *e, const double *h, double option, double l,
                           double mu, const double *g, double *step, arena scratch,
                           om_err *err)
{
    size_t d = e->dim;
    double *u = arena_new(&scratch, double, d *d);
    bool ok;
    if (option < 0.5) {
        ok = solve(e, h, l, g, step, u);
    } else {
        tri_unpack(h, d, -mu, u); /* is every eigenvalue above mu? */
        if (cholesky(u, d, e->pool)) {
            ok = solve(e, h, 0, g, step, u);
        } else {
            double *v = arena_new(&scratch, double, d *d), *w;
            w = arena_new(&scratch, double, d);
            ok = project(e, h, mu, g, step, u, v, w);
        }
    }
    for (size_t i = 0; ok && i < d; i++)
        ok = fabs(step[i]) <= DBL_MAX;
    return ok ? OM_OK
              : fail(err, OM_ELIMIT,
                     "Newton's system has no finite solution; the model "
                     "is kept");
}

om_status second_accept(const fl_env *e, const second_server *v, void *server,
                        const double *next, om_err *err)
{
    float *model = average_vector(e, server, 0);
    for (size_t i = 0; i < e->dim; i++)
        if (!(fabs(next[i]) <= (double)FLT_MAX))
            return fail(err, OM_ELIMIT,
                        "the new model is not finite at number %zu; the old one is kept",
                        i);
    for (size_t i = 0; i < e->dim; i++) {
        v->x[i] = next[i];
        model[i] = (float)next[i];
    }
    average_fresh(e, server);
    v->note->closed++;
    return OM_OK;
}

om_status second_newton(const fl_env *e, const second_server *v, void *server,
                        double option, double mu, arena scratch, om_err *err)
{
    uint64_t n;
    size_t d = e->dim;
    TRY(second_sums(e, v, &n, err));
    if (n == 0)
        return OM_OK;
    double l = v->note->sum[0] / (double)n, slope = second_length(v->g, d);
    double *h = arena_new(&scratch, double, tri_size(d));
    double *next = arena_new(&scratch, double, d);
    second_matrix(e, v, second_whole(v, n), h);
    TRY(second_direction(e, h, option, l, mu, v->g, next, scratch, err));
    for (size_t i = 0; i < d; i++)
        next[i] += v->x[i];
    TRY(second_accept(e, v, server, next, err));
    v->note->slope = slope;
    second_learn(e, v);
    return OM_OK;
}

double second_slope(const fl_env *e, const void *server)
{
    const char *p = (const char *)server + size_align(average_bytes(e, 0), 64);
    return ((const second_note *)(const void *)p)->slope;
}

double second_length(const double *v, size_t d)
{
    double s = 0;
    for (size_t i = 0; i < d; i++)
        s += v[i] * v[i];
    return sqrt(s);
}
