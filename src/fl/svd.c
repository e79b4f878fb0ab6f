/* svd.c - see svd.h.
 *
 * Rotations of pairs of columns of X, gathered in V, until all columns are orthogonal:
 * then X V = U diag(s).  Each sweep is in the same order, so the bits are the same. */
#include "fl/svd.h"

#include <math.h>

enum { MOST_SWEEPS = 60 };

static void turn(double *x, double *y, size_t n, double c, double s)
{
    for (size_t i = 0; i < n; i++) {
        double a = x[i], b = y[i];
        x[i] = c * a - s * b;
        y[i] = s * a + c * b;
    }
}

static bool make_orthogonal(double *x, double *y, size_t m, double *vx, double *vy, size_t n)
{
    double xx = 0, yy = 0, xy = 0;
    for (size_t i = 0; i < m; i++) {
        xx += x[i] * x[i];
        yy += y[i] * y[i];
        xy += x[i] * y[i];
    }
    if (!(fabs(xy) > 1e-15 * sqrt(xx) * sqrt(yy)))
        return false;
    double theta = (yy - xx) / (2 * xy);
    double t = (theta < 0 ? -1 : 1) / (fabs(theta) + hypot(theta, 1));
    double c = 1 / sqrt(t * t + 1);
    turn(x, y, m, c, t * c);
    turn(vx, vy, n, c, t * c);
    return true;
}

static void swap(double *x, double *y, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double kept = x[i];
        x[i] = y[i];
        y[i] = kept;
    }
}

void svd_thin(double *u, size_t m, size_t n, double *s, double *v)
{
    bool moved = true;
    for (size_t i = 0; i < n * n; i++)
        v[i] = i % (n + 1) == 0;
    for (int sweep = 0; moved && sweep < MOST_SWEEPS; sweep++) {
        moved = false;
        for (size_t p = 0; p + 1 < n; p++)
            for (size_t q = p + 1; q < n; q++)
                moved |= make_orthogonal(u + p * m, u + q * m, m, v + p * n, v + q * n, n);
    }
    for (size_t j = 0; j < n; j++) {
        double sum = 0;
        for (size_t i = 0; i < m; i++)
            sum += u[j * m + i] * u[j * m + i];
        s[j] = sqrt(sum);
        for (size_t i = 0; i < m; i++)
            u[j * m + i] = s[j] > 0 ? u[j * m + i] / s[j] : 0;
    }
    for (size_t j = 0; j + 1 < n; j++) { /* selection: n is small */
        size_t best = j;
        for (size_t k = j + 1; k < n; k++)
            best = s[k] > s[best] ? k : best;
        if (best == j)
            continue;
        swap(u + j * m, u + best * m, m);
        swap(v + j * n, v + best * n, n);
        swap(s + j, s + best, 1);
    }
}
