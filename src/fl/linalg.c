/* linalg.c - see linalg.h. */
#include "fl/linalg.h"

#include <float.h>
#include <math.h>

void tri_unpack(const double *h, size_t d, double shift, double *a)
{
    for (size_t i = 0; i < d; i++) {
        memcpy(a + i * d + i, h + tri_row(d, i) + i, (d - i) * sizeof(double));
        a[i * d + i] += shift;
    }
}

void tri_times(const double *h, size_t d, const double *x, double *y)
{
    memset(y, 0, d * sizeof(double));
    for (size_t i = 0; i < d; i++) {
        const double *row = h + tri_row(d, i);
        double s = row[i] * x[i];
        for (size_t j = i + 1; j < d; j++) {
            s += row[j] * x[j];
            y[j] += row[j] * x[i];
        }
        y[i] += s;
    }
}

/* ---- Cholesky ---- */

enum { BLOCK = 32, MOST_SWEEPS = 40 };

/* Rows [k, end) of U from rows [k, end) of what is left, columns to d. */
static bool factor_rows(double *a, size_t d, size_t k, size_t end)
{
    for (size_t i = k; i < end; i++) {
        double *row = a + i * d, largest = row[i];
        for (size_t m = k; m < i; m++) {
            const double *up = a + m * d;
            double f = up[i];
            for (size_t j = i; j < d; j++)
                row[j] -= f * up[j];
        }
        if (!(row[i] > 1e-14 * largest) || !(row[i] < DBL_MAX))
            return false;
        double by = 1 / sqrt(row[i]);
        for (size_t j = i; j < d; j++)
            row[j] *= by;
    }
    return true;
}

typedef struct {
    double *a;
    size_t d, k, end;
} trailing;

/* Rows of what is left, less the part of the rows [k, end): four rows of U at a time. */
static void update_rows(void *ctx, size_t beg, size_t end, int worker)
{
    const trailing *t = ctx;
    size_t d = t->d;
    (void)worker;
    for (size_t i = t->end + beg; i < t->end + end; i++) {
        double *row = t->a + i * d;
        for (size_t m = t->k; m < t->end; m += 4) {
            const double *u0 = t->a + m * d, *u1 = u0 + d, *u2 = u1 + d, *u3 = u2 + d;
            double f0 = u0[i], f1 = u1[i], f2 = u2[i], f3 = u3[i];
            for (size_t j = i; j < d; j++)
                row[j] -= (f0 * u0[j] + f1 * u1[j]) + (f2 * u2[j] + f3 * u3[j]);
        }
    }
}

bool cholesky(double *a, size_t d, pool *p)
{
    for (size_t k = 0; k < d; k += BLOCK) {
        size_t end = size_min(k + BLOCK, d);
        if (!factor_rows(a, d, k, end))
            return false;
        trailing t = {a, d, k, end};
        if (end < d)
            pool_run(p, d - end, 16, update_rows, &t);
    }
    return true;
}

void cholesky_half(const double *u, size_t d, double *b)
{
    for (size_t i = 0; i < d; i++) {
        const double *row = u + i * d;
        b[i] /= row[i];
        for (size_t j = i + 1; j < d; j++)
            b[j] -= b[i] * row[j];
    }
}

void cholesky_solve(const double *u, size_t d, double *b)
{
    cholesky_half(u, d, b);
    for (size_t i = d; i-- > 0;) {
        const double *row = u + i * d;
        double s = b[i];
        for (size_t j = i + 1; j < d; j++)
            s -= row[j] * b[j];
        b[i] = s / row[i];
    }
}

/* ---- eigenvalues ---- */

static void turn_rows(double *p, double *q, double c, double s, size_t d)
{
    for (size_t k = 0; k < d; k++) {
        double x = p[k], y = q[k];
        p[k] = c * x - s * y;
        q[k] = s * x + c * y;
    }
}

/* The rotation of rows and columns p < q that makes a_pq zero, onto v's rows too. */
static void turn(double *a, double *v, size_t d, size_t p, size_t q)
{
    double theta = (a[q * d + q] - a[p * d + p]) / (2 * a[p * d + q]);
    double t = (theta >= 0 ? 1 : -1) / (fabs(theta) + sqrt(theta * theta + 1));
    double c = 1 / sqrt(t * t + 1), s = t * c;
    turn_rows(a + p * d, a + q * d, c, s, d);
    for (size_t k = 0; k < d; k++) {
        double x = a[k * d + p], y = a[k * d + q];
        a[k * d + p] = c * x - s * y;
        a[k * d + q] = s * x + c * y;
    }
    turn_rows(v + p * d, v + q * d, c, s, d);
}

bool sym_eigen(double *a, size_t d, double *w, double *v)
{
    double all = 0;
    memset(v, 0, d * d * sizeof(double));
    for (size_t i = 0; i < d; i++) {
        v[i * d + i] = 1;
        for (size_t j = 0; j < d; j++)
            all += a[i * d + j] * a[i * d + j];
    }
    for (int sweep = 0; sweep < MOST_SWEEPS; sweep++) {
        double off = 0;
        for (size_t i = 0; i < d; i++)
            for (size_t j = i + 1; j < d; j++)
                off += 2 * a[i * d + j] * a[i * d + j];
        for (size_t i = 0; i < d; i++)
            w[i] = a[i * d + i];
        if (off <= 1e-28 * all)
            return true;
        double skip = sqrt(1e-30 * all) / (double)d;
        for (size_t p = 0; p < d; p++)
            for (size_t q = p + 1; q < d; q++)
                if (fabs(a[p * d + q]) > skip)
                    turn(a, v, d, p, q);
    }
    return false;
}
