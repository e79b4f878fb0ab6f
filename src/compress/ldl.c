/* ldl.c - see ldl.h.
 *
 * Read backwards, H = U D U^T is an ordinary Cholesky factorisation: with P the reversal,
 * P H P = L L^T and U = P L P with its columns divided by their diagonal.  Reversing rows
 * and columns of a square array reverses its elements.  L is computed by block columns;
 * nearly all work is in gemm. */
#include "compress/ldl.h"

#include <math.h>

enum { PANEL = 64, ROWS_GRAIN = 16 };

/* ---- Cholesky ---------------------------------------------------------------------- */

/* The nb columns from j0 on, of rows [j0, j0 + nb). */
static void factor_corner(float *a, size_t n, size_t j0, size_t nb)
{
    for (size_t j = j0; j < j0 + nb; j++)
        for (size_t i = j; i < j0 + nb; i++) {
            double s = (double)a[i * n + j];
            for (size_t t = j0; t < j; t++)
                s -= (double)a[i * n + t] * (double)a[j * n + t];
            if (i == j)
                a[j * n + j] = (float)sqrt(s > 1e-30 ? s : 1e-30);
            else
                a[i * n + j] = (float)(s / (double)a[j * n + j]);
        }
}

typedef struct {
    float *a;
    size_t n, j0, nb;
} panel_job;

static void solve_rows(void *ctx, size_t beg, size_t end, int worker)
{
    const panel_job *p = ctx;
    (void)worker;
    for (size_t i = p->j0 + p->nb + beg; i < p->j0 + p->nb + end; i++) {
        float *row = p->a + i * p->n + p->j0;
        for (size_t c = 0; c < p->nb; c++) {
            const float *l = p->a + (p->j0 + c) * p->n + p->j0;
            float s = row[c];
            for (size_t t = 0; t < c; t++)
                s -= row[t] * l[t];
            row[c] = s / l[c];
        }
    }
}

static om_status cholesky(float *a, size_t n, const kern *k, pool *p, om_err *err)
{
    size_t bytes = gemm_bytes(k, n, PANEL, n, p);
    void *scratch = mem_alloc(bytes);
    if (!scratch)
        return fail(err, OM_ENOMEM, "quantize: no memory to factor %zu columns", n);
    for (size_t j = 0; j < n; j += PANEL) {
        size_t nb = size_min(PANEL, n - j);
        gemm_args g = {.m = n - j,
                       .n = nb,
                       .k = j,
                       .a = a + j * n,
                       .lda = n,
                       .b = a + j * n,
                       .ldb = n,
                       .b_t = true,
                       .c = a + j * n + j,
                       .ldc = n,
                       .alpha = -1,
                       .beta = 1};
        if (j)
            gemm(k, p, &g, arena_of(scratch, bytes));
        factor_corner(a, n, j, nb);
        panel_job job = {a, n, j, nb};
        pool_run(p, n - j - nb, ROWS_GRAIN, solve_rows, &job);
    }
    mem_free(scratch);
    return OM_OK;
}

/* ---- the factor -------------------------------------------------------------------- */

static void reverse(float *a, size_t n)
{
    for (size_t i = 0; i < n / 2; i++) {
        float kept = a[i];
        a[i] = a[n - 1 - i];
        a[n - 1 - i] = kept;
    }
}

static om_status damp_by(float *a, size_t n, double damp, om_err *err)
{
    double mean = 0;
    for (size_t i = 0; i < n; i++)
        mean += (double)a[i * n + i] / (double)n;
    if (!isfinite(mean) || mean < 0)
        return fail(err, OM_EFORMAT, "quantize: a layer's inputs are not finite numbers");
    for (size_t i = 0; i < n; i++)
        a[i * n + i] += (float)(mean > 0 ? damp * mean : 1);
    return OM_OK;
}

static void normalise(ldl *f)
{
    size_t n = f->n;
    for (size_t k = 0; k < n; k++)
        f->d[k] = f->u[k * n + k];
    for (size_t j = 0; j < n; j++)
        for (size_t k = j; k < n; k++)
            f->u[j * n + k] /= f->d[k];
    for (size_t k = 0; k < n; k++)
        f->d[k] *= f->d[k];
}

om_status ldl_factor(const float *h, size_t n, double damp, const kern *k, pool *p,
                     ldl *out, om_err *err)
{
    size_t count = 0;
    *out = (ldl){.n = n};
    bool fits = size_mul(n, n, &count);
    out->u = fits ? mem_array(count, sizeof(float)) : NULL;
    out->d = mem_array(n, sizeof(float));
    if (!out->u || !out->d) {
        ldl_free(out);
        return fail(err, OM_ENOMEM, "quantize: no memory to factor %zu columns", n);
    }
    memcpy(out->u, h, count * sizeof(float));
    om_status s = damp_by(out->u, n, damp, err);
    if (s == OM_OK) {
        reverse(out->u, count);
        s = cholesky(out->u, n, k, p, err);
        reverse(out->u, count);
    }
    if (s == OM_OK)
        normalise(out);
    else
        ldl_free(out);
    return s;
}

void ldl_free(ldl *f)
{
    mem_free(f->u);
    mem_free(f->d);
    *f = (ldl){0};
}

/* ---- rounding ---------------------------------------------------------------------- */

typedef struct {
    const float *w;
    float *e, *t; /* (rows, cols) W - V so far; (rows, block) targets */
    size_t cols, block, k0, n;
    bool feedback;
    ldl_round *round;
    void *ctx;
} run_job;

static void round_rows(void *ctx, size_t beg, size_t end, int worker)
{
    const run_job *j = ctx;
    (void)worker;
    for (size_t r = beg; r < end; r++) {
        const float *w = j->w + r * j->cols + j->k0;
        float *e = j->e + r * j->cols + j->k0;
        const float *t = j->feedback ? j->t + r * j->block : w;
        j->round(j->ctx, r, j->k0, j->n, t, w, e); /* e: the values for a moment */
        for (size_t i = 0; i < j->n; i++)
            e[i] = w[i] - e[i];
    }
}

om_status ldl_run(const ldl *f, const float *w, size_t rows, size_t cols, size_t block,
                  const kern *k, pool *p, ldl_round *round, void *ctx, om_err *err)
{
    run_job j = {.w = w,
                 .cols = cols,
                 .block = block,
                 .feedback = f != NULL,
                 .round = round,
                 .ctx = ctx};
    size_t bytes = f ? gemm_bytes(k, rows, block, cols, p) : 0;
    void *scratch = mem_alloc(bytes);
    j.e = mem_array(rows, cols * sizeof(float));
    j.t = mem_array(rows, block * sizeof(float));
    bool there = scratch && j.e && j.t;
    for (j.k0 = 0; there && j.k0 < cols; j.k0 += block) {
        j.n = size_min(block, cols - j.k0);
        for (size_t r = 0; f && r < rows; r++)
            memcpy(j.t + r * block, w + r * cols + j.k0, j.n * sizeof(float));
        gemm_args g = {.m = rows,
                       .n = j.n,
                       .k = j.k0,
                       .a = j.e,
                       .lda = cols,
                       .b = f ? f->u + j.k0 : NULL,
                       .ldb = cols,
                       .c = j.t,
                       .ldc = block,
                       .alpha = 1,
                       .beta = 1};
        if (f && j.k0)
            gemm(k, p, &g, arena_of(scratch, bytes));
        pool_run(p, rows, 1, round_rows, &j);
    }
    mem_free(scratch);
    mem_free(j.e);
    mem_free(j.t);
    return there ? OM_OK : fail(err, OM_ENOMEM, "quantize: no memory for %zu rows", rows);
}
