/* lowrank.c - the update as a matrix of low rank: powersgd and rankr.
 *
 * The d numbers are laid out as an A x B matrix X, row after row, the last row filled with
 * zeros (A = `rows`, by default the root of d, B = ceil(d / A)); R = min(rank, A, B).
 *
 *     powersgd:  Q = a random B x R matrix;  P = orth(X Q);  C(x) = P (X'P)'
 *     rankr:     the same with 8 more columns, repeated until what is caught no longer
 *                grows, then cut to the best R: the truncated singular value decomposition
 *
 * Both are projections, C(x) = P P'X, so |C(x)-x|^2 = |x|^2 - |P'X|^2.  The best rank R
 * catches at least R / min(A, B) of |x|^2.  So does, in expectation, one step from a
 * Gaussian Q: the part caught of the i-th singular direction grows with its singular value,
 * and the parts add up to R (Chebyshev's sum inequality).  A matrix of rank R or less is
 * sent exactly.  The distributed PowerSGD of the paper keeps Q between rounds and sends one
 * factor a round; a codec has no memory, so both factors travel, and error feedback is
 * around it, not inside.
 *
 * Message: P, whose columns are orthonormal, column by column, then X'P likewise:
 * 4 R (A + B) bytes.  A decoder refuses |P_ij| > 1.01 and products that could overflow. */
#include "codec/codec.h"
#include "codec/wire.h"

#include <float.h>
#include <math.h>

enum { RANK, ROWS };
enum { MORE = 8, MOST_STEPS = 60 };

static const param params[] = {
    [RANK] = {"rank", 2, 1, 64, "columns of each factor", NULL},
    [ROWS] = {"rows", 0, 0, 1e9, "of the matrix; 0: the root of the length", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

typedef struct {
    size_t a, b, r;
} shape;

static shape shape_of(const double *p, size_t d)
{
    shape s = {0};
    if (d == 0)
        return s;
    s.a = p[ROWS] >= 1 ? size_min((size_t)p[ROWS], d) : (size_t)sqrt((double)d);
    s.b = (d + s.a - 1) / s.a;
    s.r = size_min((size_t)p[RANK], size_min(s.a, s.b));
    return s;
}

static double alpha(const double *p, size_t d)
{
    shape s = shape_of(p, d);
    return d ? (double)s.r / (double)size_min(s.a, s.b) : 1;
}

static size_t bound(const double *p, size_t d)
{
    shape s = shape_of(p, d);
    return 4 * s.r * (s.a + s.b);
}

static size_t scratch_bytes(const double *p, size_t d)
{
    shape s = shape_of(p, d);
    size_t r = s.r + MORE;
    return arena_bytes(double, s.a * r) + arena_bytes(double, s.b * r) +
           2 * arena_bytes(double, r * r) + arena_bytes(double, r);
}

/* The work of one encode: P (r columns of a), Q (r columns of b). */
typedef struct {
    const float *x;
    size_t d, a, b, r;
    double *p, *q;
} work;

static size_t row_end(const work *w, size_t i) { return size_min((i + 1) * w->b, w->d); }

static void times_q(const work *w) /* P = X Q */
{
    for (size_t c = 0; c < w->r; c++)
        for (size_t i = 0; i < w->a; i++) {
            double s = 0;
            for (size_t j = i * w->b; j < row_end(w, i); j++)
                s += (double)w->x[j] * w->q[c * w->b + j - i * w->b];
            w->p[c * w->a + i] = s;
        }
}

static void times_p(const work *w) /* Q = X'P */
{
    memset(w->q, 0, w->r * w->b * sizeof(double));
    for (size_t c = 0; c < w->r; c++)
        for (size_t i = 0; i < w->a; i++) {
            double s = w->p[c * w->a + i];
            for (size_t j = i * w->b; j < row_end(w, i); j++)
                w->q[c * w->b + j - i * w->b] += s * (double)w->x[j];
        }
}

static double dot(const double *x, const double *y, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += x[i] * y[i];
    return s;
}

/* Gram-Schmidt, twice over; a column that depends on those before becomes zero. */
static void orthonormalise(double *p, size_t n, size_t columns)
{
    for (size_t c = 0; c < columns; c++) {
        double *v = p + c * n, before = sqrt(dot(v, v, n));
        for (int pass = 0; pass < 2; pass++)
            for (size_t k = 0; k < c; k++) {
                double s = dot(p + k * n, v, n);
                for (size_t i = 0; i < n; i++)
                    v[i] -= s * p[k * n + i];
            }
        double after = sqrt(dot(v, v, n));
        double scale = after > 1e-10 * before ? 1 / after : 0;
        for (size_t i = 0; i < n; i++)
            v[i] *= scale;
    }
}

/* One rotation that makes g[p][q] zero, applied to the columns of v too. */
static void rotate(double *g, double *v, size_t n, size_t p, size_t q)
{
    double apq = g[p * n + q];
    if (fabs(apq) <= 1e-300)
        return;
    double theta = (g[q * n + q] - g[p * n + p]) / (2 * apq);
    double t = (theta < 0 ? -1 : 1) / (fabs(theta) + sqrt(theta * theta + 1));
    double c = 1 / sqrt(t * t + 1), s = t * c;
    for (size_t k = 0; k < n; k++) {
        double x = g[k * n + p], y = g[k * n + q];
        g[k * n + p] = c * x - s * y, g[k * n + q] = s * x + c * y;
    }
    for (size_t k = 0; k < n; k++) {
        double x = g[p * n + k], y = g[q * n + k];
        g[p * n + k] = c * x - s * y, g[q * n + k] = s * x + c * y;
    }
    for (size_t k = 0; k < n; k++) {
        double x = v[k * n + p], y = v[k * n + q];
        v[k * n + p] = c * x - s * y, v[k * n + q] = s * x + c * y;
    }
}

/* Jacobi: g (n, n) symmetric becomes diagonal, v (n, n) its eigenvectors as columns. */
static void eigen(double *g, double *v, size_t n)
{
    for (size_t i = 0; i < n * n; i++)
        v[i] = i % (n + 1) == 0;
    for (int sweep = 0; sweep < 30; sweep++)
        for (size_t p = 0; p + 1 < n; p++)
            for (size_t q = p + 1; q < n; q++)
                rotate(g, v, n, p, q);
}

/* Columns of m (n rows) become m v, in the order `order` of v's columns. */
static void turn(double *m, size_t n, size_t r, const double *v, const size_t *order,
                 size_t keep, double *row)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t c = 0; c < keep; c++) {
            row[c] = 0;
            for (size_t k = 0; k < r; k++)
                row[c] += m[k * n + i] * v[k * r + order[c]];
        }
        for (size_t c = 0; c < keep; c++)
            m[c * n + i] = row[c];
    }
}

/* X ~ P Q' with r columns: turned so that the first `keep` are the best of them. */
static void best_first(work *w, size_t keep, arena scratch)
{
    size_t r = w->r, order[64 + MORE];
    double *g = arena_new(&scratch, double, r * r), *v = arena_new(&scratch, double, r * r);
    for (size_t i = 0; i < r; i++)
        for (size_t j = 0; j < r; j++)
            g[i * r + j] = dot(w->q + i * w->b, w->q + j * w->b, w->b);
    eigen(g, v, r);
    for (size_t i = 0; i < r; i++) { /* insertion sort by eigenvalue, largest first */
        size_t j = i;
        for (; j && g[order[j - 1] * (r + 1)] < g[i * (r + 1)]; j--)
            order[j] = order[j - 1];
        order[j] = i;
    }
    double *row = arena_new(&scratch, double, r);
    turn(w->p, w->a, r, v, order, keep, row);
    turn(w->q, w->b, r, v, order, keep, row);
    w->r = keep;
}

static void factor(work *w, rng *r, bool best, size_t keep, arena scratch)
{
    double caught = 0;
    for (size_t i = 0; i < w->b * w->r; i++)
        w->q[i] = rng_normal(r);
    for (int step = 0; step < (best ? MOST_STEPS : 1); step++) {
        times_q(w);
        orthonormalise(w->p, w->a, w->r);
        times_p(w);
        double now = dot(w->q, w->q, w->b * w->r);
        if (now <= caught * (1 + 1e-9))
            break;
        caught = now;
    }
    if (best)
        best_first(w, keep, scratch);
}

static om_status encode(bool best, const double *p, const float *x, size_t d, rng r,
                        arena scratch, buf *out)
{
    shape s = shape_of(p, d);
    if (wire_first_bad(x, d) < d)
        return OM_EARG;
    TRY(buf_reserve(out, bound(p, d)));
    work w = {.x = x, .d = d, .a = s.a, .b = s.b};
    w.r = best ? size_min(s.r + MORE, size_min(s.a, s.b)) : s.r;
    w.p = arena_new(&scratch, double, w.a * w.r);
    w.q = arena_new(&scratch, double, w.b * w.r);
    factor(&w, &r, best, s.r, scratch);
    uint8_t *to = out->data + out->len;
    for (size_t i = 0; i < s.r * (s.a + s.b); i++) {
        double v = i < s.r * s.a ? w.p[i] : w.q[i - s.r * s.a];
        if (!(fabs(v) <= (double)FLT_MAX / 200))
            return OM_EARG;
        wire_store_f32(to + 4 * i, (float)v);
    }
    out->len += bound(p, d);
    return OM_OK;
}

static om_status power_encode(const double *p, const float *x, size_t d, rng r,
                              arena scratch, buf *out)
{
    return encode(false, p, x, d, r, scratch, out);
}

static om_status rank_encode(const double *p, const float *x, size_t d, rng r,
                             arena scratch, buf *out)
{
    return encode(true, p, x, d, r, scratch, out);
}

static bool within(const uint8_t *in, size_t n, float most)
{
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        float v = wire_load_f32(in + 4 * i);
        ok &= v >= -most && v <= most; /* false for NaN */
    }
    return ok;
}

static om_status decode(const char *name, const double *p, const uint8_t *in, size_t n,
                        float weight, float *y, size_t d, om_err *err)
{
    shape s = shape_of(p, d);
    const uint8_t *second = in + 4 * s.r * s.a;
    if (n != bound(p, d))
        return fail(err, OM_EFORMAT,
                    "%s: the message has %zu bytes, expected %zu for %zu x %zu at rank %zu",
                    name, n, bound(p, d), s.a, s.b, s.r);
    if (!within(in, s.r * s.a, 1.01f) || !within(second, s.r * s.b, FLT_MAX / 100))
        return fail(err, OM_EFORMAT,
                    "%s: a factor holds a NaN or a number that is too large", name);
    if (weight == 0.0f) /* only checked */
        return OM_OK;
    for (size_t i = 0; i < d; i++) {
        double v = 0;
        for (size_t c = 0; c < s.r; c++)
            v += (double)wire_load_f32(in + 4 * (c * s.a + i / s.b)) *
                 (double)wire_load_f32(second + 4 * (c * s.b + i % s.b));
        y[i] += weight * (float)v;
    }
    return OM_OK;
}

static om_status power_decode(const double *p, const uint8_t *in, size_t n, float weight,
                              float *y, size_t d, om_err *err)
{
    return decode("powersgd", p, in, n, weight, y, d, err);
}

static om_status rank_decode(const double *p, const uint8_t *in, size_t n, float weight,
                             float *y, size_t d, om_err *err)
{
    return decode("rankr", p, in, n, weight, y, d, err);
}

const codec codec_powersgd = {
    .name = "powersgd",
    .summary = "a matrix of low rank, by one power step from a random start",
    .source = "Vogels, Karimireddy, Jaggi, NeurIPS 2019, arXiv 1905.13727",
    .flags = CODEC_CONTRACTIVE | CODEC_MATRIX,
    .params = params,
    .alpha = alpha,
    .bound = bound,
    .scratch_bytes = scratch_bytes,
    .encode = power_encode,
    .decode = power_decode,
};

const codec codec_rankr = {
    .name = "rankr",
    .summary = "the best matrix of low rank",
    .source = "Safaryan, Islamov, Qian, Richtarik, ICML 2022, arXiv 2106.02969",
    .flags = CODEC_CONTRACTIVE | CODEC_MATRIX,
    .params = params,
    .alpha = alpha,
    .bound = bound,
    .scratch_bytes = scratch_bytes,
    .encode = rank_encode,
    .decode = rank_decode,
};
