/* second_step.c - see second.h: the client's side. */
#include "fl/second_wire.h"

#include <math.h>

static client_head *head_of(const second_step *s) { return s->client; }

enum { RANK }; /* of head.own */

bool second_is_first(const second_step *s) { return head_of(s)->sent == 0; }

/* ---- the basis ---- */

/* V' = an orthonormal basis of the range of h - l2 I, row by row: pivoted Cholesky, each
 * column made orthogonal to those before it, twice.  What is left of the diagonal when
 * it ends is below 1e-6 of the largest. */
static size_t find_basis(size_t d, const float *h, double l2, float *v, arena scratch)
{
    double *a = arena_new(&scratch, double, d *d), *q = arena_new(&scratch, double, d *d);
    double largest = 0;
    size_t rank = 0;
    for (size_t i = 0; i < d; i++)
        for (size_t j = i; j < d; j++)
            a[i * d + j] = a[j * d + i] = (double)h[tri_row(d, i) + j] - (i == j ? l2 : 0);
    while (rank < d) {
        size_t at = 0;
        double *row = q + rank * d, left = 0, length = 0;
        for (size_t i = 1; i < d; i++)
            at = a[i * d + i] > a[at * d + at] ? i : at;
        double pivot = a[at * d + at];
        largest = rank ? largest : pivot;
        if (!(pivot > 1e-6 * largest))
            break;
        memcpy(row, a + at * d, d * sizeof(double));
        for (size_t i = 0; i < d; i++)
            for (size_t j = 0; j < d; j++)
                a[i * d + j] -= row[i] * row[j] / pivot;
        for (size_t i = 0; i < d; i++)
            length += row[i] * row[i];
        for (size_t k = 0; k < 2 * rank; k++) {
            const double *other = q + k % rank * d;
            double s = 0;
            for (size_t i = 0; i < d; i++)
                s += other[i] * row[i];
            for (size_t i = 0; i < d; i++)
                row[i] -= s * other[i];
        }
        for (size_t i = 0; i < d; i++)
            left += row[i] * row[i];
        if (!(left > 1e-20 * length))
            break;
        for (size_t i = 0; i < d; i++) {
            row[i] /= sqrt(left);
            v[rank * d + i] = (float)row[i];
        }
        rank++;
    }
    if (rank == 0) /* nothing but l2: any direction will do */
        v[0] = 1;
    return rank ? rank : 1;
}

/* out (packed by rank) = V' (h - l2 I) V */
static void into_basis(const second_step *s, float *out, arena scratch)
{
    size_t d = s->e->dim, r = s->order;
    float *full = arena_new(&scratch, float, d *d), *hv = arena_new(&scratch, float, d);
    for (size_t i = 0; i < d; i++)
        for (size_t j = i; j < d; j++)
            full[i * d + j] = full[j * d + i] = s->h[tri_row(d, i) + j];
    for (size_t i = 0; i < d; i++)
        full[i * d + i] -= (float)s->shape->l2;
    for (size_t k = 0; k < r; k++) {
        for (size_t i = 0; i < d; i++)
            hv[i] = s->e->k->dot(full + i * d, s->v + k * d, d);
        for (size_t j = k; j < r; j++)
            out[tri_row(r, k) + j] = s->e->k->dot(hv, s->v + j * d, d);
    }
}

static void begin_basis(second_step *s)
{
    client_head *h = head_of(s);
    s->v = second_tri(s->e, s->shape, s->client, s->shape->client_tris);
    if (h->own[RANK] == 0)
        h->own[RANK] = find_basis(s->e->dim, s->h, s->shape->l2, s->v, s->scratch);
    s->order = (size_t)h->own[RANK];
    s->target = arena_new(&s->scratch, float, tri_size(s->order));
    into_basis(s, s->target, s->scratch);
}

/* ---- the step ---- */

om_status second_start(second_step *s, bool gradient, bool hessian)
{
    if (!s->f->jet)
        return fail(s->err, OM_EUNSUPPORTED,
                    "this problem has no second derivatives in double precision; "
                    "second-order methods need model.kind quadratic, logistic or "
                    "multinomial");
    TRY(s->f->jet(s->f->ctx, s->x, &s->loss, gradient ? s->g : NULL, hessian ? s->h : NULL,
                  s->err));
    s->order = s->e->dim;
    s->target = s->h;
    s->mine = second_tri(s->e, s->shape, s->client, 0);
    if (s->shape->basis && hessian)
        begin_basis(s);
    return OM_OK;
}

/* Off the diagonal counts twice. */
static double frobenius(const second_step *s, const float *t)
{
    size_t n = s->order;
    double all = 2 * s->e->k->sumsq(t, tri_size(n));
    for (size_t i = 0; i < n; i++) {
        double v = (double)t[tri_row(n, i) + i];
        all -= v * v;
    }
    return sqrt(fmax(all, 0));
}

double second_apart(const second_step *s, const float *a, const float *b)
{
    for (size_t i = 0; i < tri_size(s->order); i++)
        s->t[i] = a[i] - b[i];
    return frobenius(s, s->t);
}

double second_error(second_step *s) { return second_apart(s, s->target, s->mine); }

static om_status no_room(second_step *s)
{
    return fail(s->err, OM_ENOMEM, "client %u: no room for the update", (unsigned)s->id);
}

static om_status put_floats(second_step *s, const float *v, size_t n)
{
    if (buf_reserve(s->up, 4 * n) != OM_OK)
        return no_room(s);
    for (size_t i = 0; i < n; i++, s->up->len += 4)
        wire_store_f32(s->up->data + s->up->len, v[i]);
    return OM_OK;
}

/* H_i and what it has lost += part */
static void add_exactly(second_step *s, const float *part)
{
    float *lost = second_tri(s->e, s->shape, s->client, 1);
    for (size_t i = 0; i < tri_size(s->order); i++) {
        double sum = (double)s->mine[i] + (double)lost[i] + (double)part[i];
        s->mine[i] = (float)sum;
        lost[i] = (float)(sum - (double)s->mine[i]);
    }
}

static om_status put_coded(second_step *s)
{
    hess_codec c = hess_codec_of(s->e, s->order);
    arena room = s->scratch;
    size_t n = s->order, from = s->up->len;
    const float *x = s->t;
    if (s->e->up->flags & CODEC_MATRIX) {
        float *full = arena_new(&room, float, n *n);
        for (size_t i = 0; i < n; i++)
            for (size_t j = i; j < n; j++)
                full[i * n + j] = full[j * n + i] = s->t[tri_row(n, i) + j];
        x = full;
    }
    if (c.c->encode(c.p, x, c.n, fl_codec_rng(s->e, s->id), room, s->up) != OM_OK)
        return fail(s->err, OM_EARG, "client %u: %s could not encode the Hessian",
                    (unsigned)s->id, c.c->name);
    const uint8_t *sent = s->up->data + from;
    if (!s->shape->exact)
        return hess_decode(s->e, n, sent, s->up->len - from, 1, s->mine, room, s->err);
    float *part = arena_new(&room, float, tri_size(n));
    TRY(hess_decode(s->e, n, sent, s->up->len - from, 1, part, room, s->err));
    add_exactly(s, part);
    return OM_OK;
}

om_status second_send(second_step *s, unsigned what, const double *scalars,
                      const double *gradient)
{
    size_t n = tri_size(s->order);
    bool tail = what & (UP2_WHOLE | UP2_CODED);
    if (buf_u8(s->up, (uint8_t)what) != OM_OK)
        return no_room(s);
    if (what & UP2_SCALARS)
        TRY(second_put_doubles(s->up, scalars, s->shape->scalars, s->err));
    if (what & UP2_GRADIENT)
        TRY(second_put_doubles(s->up, gradient, s->e->dim, s->err));
    if (tail && s->shape->basis && buf_u32(s->up, (uint32_t)s->order) != OM_OK)
        return no_room(s);
    const float *whole = second_is_first(s) ? s->target : s->t;
    if (tail)
        head_of(s)->sent++;
    if (what & UP2_CODED)
        return put_coded(s);
    if (!(what & UP2_WHOLE))
        return OM_OK;
    if (s->shape->basis)
        TRY(put_floats(s, s->v, s->order * s->e->dim));
    TRY(put_floats(s, whole, n));
    for (size_t i = 0; i < n; i++)
        s->mine[i] += whole[i];
    return OM_OK;
}

void second_patch(second_step *s, size_t at, const double *scalars, const double *gradient)
{
    size_t n = s->shape->scalars;
    buf b = buf_fixed(s->up->data + at + 1, 8 * (n + s->e->dim));
    BUG_IF(second_put_doubles(&b, scalars, n, NULL) != OM_OK ||
           second_put_doubles(&b, gradient, s->e->dim, NULL) != OM_OK);
}

/* y = (packed a + lost) x */
static void times(size_t n, const float *a, const float *lost, const double *x, double *y)
{
    memset(y, 0, n * sizeof(double));
    for (size_t i = 0; i < n; i++)
        for (size_t j = i, k = tri_row(n, i) + i; j < n; j++, k++) {
            double v = (double)a[k] + (double)lost[k];
            y[i] += v * x[j];
            if (j > i)
                y[j] += v * x[i];
        }
}

void second_times(second_step *s, const double *x, double *y)
{
    size_t d = s->e->dim, r = s->order;
    arena room = s->scratch;
    const float *lost = second_tri(s->e, s->shape, s->client, 1);
    double *a = arena_new(&room, double, d), *b = arena_new(&room, double, d);
    if (!s->shape->basis) {
        times(d, s->mine, lost, x, y);
        return;
    }
    for (size_t k = 0; k < r; k++)
        for (size_t i = 0; i < d; i++)
            a[k] += (double)s->v[k * d + i] * x[i];
    times(r, s->mine, lost, a, b);
    for (size_t i = 0; i < d; i++)
        y[i] = s->shape->l2 * x[i];
    for (size_t k = 0; k < r; k++)
        for (size_t i = 0; i < d; i++)
            y[i] += (double)s->v[k * d + i] * b[k];
}

om_status second_client_at(const fl_env *e, const second_shape *shape, uint32_t id,
                           void *client, const fl_oracle *f, const double *x, buf *up,
                           double *loss, arena scratch, second_rule *rule, om_err *err)
{
    size_t d = e->dim;
    second_step s = {.e = e,
                     .shape = shape,
                     .id = id,
                     .client = client,
                     .f = f,
                     .up = up,
                     .err = err,
                     .loss = (double)NAN};
    s.x = arena_new(&scratch, double, d);
    s.g = arena_new(&scratch, double, d);
    s.h = arena_new(&scratch, float, tri_size(d));
    s.t = arena_new(&scratch, float, tri_size(d));
    s.scratch = scratch;
    memcpy(s.x, x, d * sizeof(double));
    TRY(rule(&s));
    head_of(&s)->answers++;
    head_of(&s)->last = (uint64_t)e->round + 1;
    if (loss)
        *loss = s.loss;
    return OM_OK;
}

om_status second_client(const fl_env *e, const second_shape *shape, uint32_t id,
                        void *client, const fl_oracle *f, const uint8_t *down,
                        size_t down_n, buf *up, double *loss, arena scratch,
                        second_rule *rule, om_err *err)
{
    double *x = arena_new(&scratch, double, e->dim);
    if (down_n != 8 * e->dim)
        return fail(err, OM_EFORMAT, "the model message has %zu bytes, expected %zu",
                    down_n, 8 * e->dim);
    TRY(second_read(down, e->dim, x, err));
    return second_client_at(e, shape, id, client, f, x, up, loss, scratch, rule, err);
}
