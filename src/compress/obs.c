/* obs.c - see obs.h. */
#include "compress/obs.h"

#include <math.h>

enum { PANEL = 64, ROW_GRAIN = 4 };

/* ---- the factor -------------------------------------------------------------------- */

/* The inverse of the unit upper corner of u at k0 into x (nb, nb). */
static void invert_corner(const float *u, size_t n, size_t k0, size_t nb, double *x)
{
    for (size_t j = 0; j < nb; j++)
        for (size_t i = nb; i-- > 0;) {
            double s = i == j ? 1 : 0;
            for (size_t l = i + 1; l <= j; l++)
                s -= (double)u[(k0 + i) * n + k0 + l] * x[l * nb + j];
            x[i * nb + j] = i > j ? 0 : s;
        }
}

/* Rows [k0, k0 + nb) of R, those below being done: R_IJ = -R_II sum_K U_IK R_KJ. */
static void invert_rows(float *u, size_t n, size_t k0, size_t nb, const double *corner,
                        float *sum, size_t rest)
{
    for (size_t i = 0; i < nb; i++) {
        float *row = u + (k0 + i) * n;
        memset(row, 0, (k0 + nb) * sizeof(float));
        for (size_t j = 0; j < nb; j++)
            row[k0 + j] = (float)corner[i * nb + j];
        for (size_t j = 0; j < rest; j++) {
            double s = 0;
            for (size_t l = i; l < nb; l++)
                s -= corner[i * nb + l] * (double)sum[l * rest + j];
            row[k0 + nb + j] = (float)s;
        }
    }
}

static om_status invert(float *u, size_t n, const kern *k, pool *p, om_err *err)
{
    size_t bytes = gemm_bytes(k, PANEL, n, n, p);
    void *scratch = mem_alloc(bytes);
    float *sum = mem_array(PANEL, n * sizeof(float));
    double *corner = mem_array(PANEL, PANEL * sizeof(double));
    bool there = scratch && sum && corner;
    for (size_t at = (n + PANEL - 1) / PANEL; there && at-- > 0;) {
        size_t k0 = at * PANEL, nb = size_min(PANEL, n - k0), rest = n - k0 - nb;
        gemm_args g = {.m = nb,
                       .n = rest,
                       .k = rest,
                       .a = u + k0 * n + k0 + nb,
                       .lda = n,
                       .b = u + (k0 + nb) * n + k0 + nb,
                       .ldb = n,
                       .c = sum,
                       .ldc = rest,
                       .alpha = 1};
        if (rest)
            gemm(k, p, &g, arena_of(scratch, bytes));
        invert_corner(u, n, k0, nb, corner);
        invert_rows(u, n, k0, nb, corner, sum, rest);
    }
    mem_free(scratch);
    mem_free(sum);
    mem_free(corner);
    return there ? OM_OK
                 : fail(err, OM_ENOMEM, "prune: no memory to invert %zu columns", n);
}

om_status obs_factor(const float *h, size_t n, double damp, const kern *k, pool *p,
                     obs *out, om_err *err)
{
    ldl f;
    *out = (obs){.n = n};
    TRY(ldl_factor(h, n, damp, k, p, &f, err));
    om_status s = invert(f.u, n, k, p, err);
    if (s != OM_OK) {
        ldl_free(&f);
        return s;
    }
    out->r = f.u;
    out->d = f.d;
    return OM_OK;
}

void obs_free(obs *f)
{
    mem_free(f->r);
    mem_free(f->d);
    *f = (obs){0};
}

/* ---- the sweep --------------------------------------------------------------------- */

typedef struct {
    float *w, *c; /* (rows, cols); (rows, block) */
    size_t cols, block, k0, n;
    obs_row *row;
    void *ctx;
} sweep_job;

static void sweep_rows(void *ctx, size_t beg, size_t end, int worker)
{
    const sweep_job *j = ctx;
    for (size_t r = beg; r < end; r++) {
        float *c = j->c + r * j->block;
        memset(c, 0, j->n * sizeof(float));
        j->row(j->ctx, r, j->k0, j->n, j->w + r * j->cols + j->k0, c, worker);
    }
}

om_status obs_sweep(const obs *f, float *w, size_t rows, size_t block, const kern *k,
                    pool *p, obs_begin *begin, obs_row *row, void *ctx, om_err *err)
{
    size_t cols = f->n, bytes = gemm_bytes(k, rows, cols, block, p);
    sweep_job j = {.w = w, .cols = cols, .block = block, .row = row, .ctx = ctx};
    void *scratch = mem_alloc(bytes);
    j.c = mem_array(rows, block * sizeof(float));
    om_status s = scratch && j.c
                      ? OM_OK
                      : fail(err, OM_ENOMEM, "prune: no memory for %zu rows", rows);
    for (j.k0 = 0; s == OM_OK && j.k0 < cols; j.k0 += j.n) {
        j.n = size_min(block, cols - j.k0);
        size_t behind = j.k0 + j.n;
        s = begin(ctx, j.k0, j.n, w, err);
        if (s != OM_OK)
            break;
        pool_run(p, rows, ROW_GRAIN, sweep_rows, &j);
        gemm_args g = {.m = rows,
                       .n = cols - behind,
                       .k = j.n,
                       .a = j.c,
                       .lda = block,
                       .b = f->r + j.k0 * cols + behind,
                       .ldb = cols,
                       .c = w + behind,
                       .ldc = cols,
                       .alpha = 1,
                       .beta = 1};
        if (behind < cols)
            gemm(k, p, &g, arena_of(scratch, bytes));
    }
    mem_free(scratch);
    mem_free(j.c);
    return s;
}

/* ---- several weights of a row at once ---------------------------------------------- */

void obs_block(const obs *f, size_t k0, size_t n, double *g)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n; j++) {
            double s = 0;
            for (size_t l = 0; l <= i; l++) {
                const float *row = f->r + (k0 + l) * f->n + k0;
                s += (double)row[i] * (double)row[j] / (double)f->d[k0 + l];
            }
            g[i * n + j] = g[j * n + i] = s;
        }
}

size_t obs_joint_room(size_t n) { return n * (n + 2); }

/* A (m, m) x = b in place by Cholesky; A positive definite, its lower half is read. */
static void solve(double *a, size_t m, double *b)
{
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j <= i; j++) {
            double s = a[i * m + j];
            for (size_t l = 0; l < j; l++)
                s -= a[i * m + l] * a[j * m + l];
            a[i * m + j] = i == j ? sqrt(s > 1e-300 ? s : 1e-300) : s / a[j * m + j];
        }
        double s = b[i];
        for (size_t l = 0; l < i; l++)
            s -= a[i * m + l] * b[l];
        b[i] = s / a[i * m + i];
    }
    for (size_t i = m; i-- > 0;) {
        double s = b[i];
        for (size_t l = i + 1; l < m; l++)
            s -= a[l * m + i] * b[l];
        b[i] = s / a[i * m + i];
    }
}

void obs_joint(const obs *f, size_t k0, size_t n, const double *g, const uint8_t *keep,
               float *w, float *c, double *scratch)
{
    double *a = scratch, *lambda = scratch + n * n, *move = lambda + n;
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        if (keep[i])
            continue;
        size_t col = 0;
        lambda[m] = (double)w[i];
        for (size_t j = 0; j <= i; j++)
            if (!keep[j])
                move[col++] = g[i * n + j];
        memcpy(a + m * n, move, col * sizeof(*a));
        m++;
    }
    for (size_t i = 1; i < m; i++) /* rows of n to rows of m */
        memmove(a + i * m, a + i * n, (i + 1) * sizeof(*a));
    solve(a, m, lambda);
    for (size_t k = 0; k < n; k++) { /* c = -D^-1 R_q lambda */
        const float *row = f->r + (k0 + k) * f->n + k0;
        double s = 0;
        m = 0;
        for (size_t i = 0; i < n; i++)
            if (!keep[i])
                s += lambda[m++] * (double)row[i];
        move[k] = -s / (double)f->d[k0 + k];
        c[k] = (float)move[k];
    }
    for (size_t i = 0; i < n; i++) {
        double s = (double)w[i];
        for (size_t k = 0; k <= i; k++)
            s += move[k] * (double)f->r[(k0 + k) * f->n + k0 + i];
        w[i] = keep[i] ? (float)s : 0;
    }
}

/* ---- whole columns ----------------------------------------------------------------- */

typedef struct {
    const float *h;
    size_t n, n_kept;
    const uint32_t *kept; /* (n_kept), then the others */
    float *part;          /* H_KK, then H_qK */
} gather_job;

static void gather_rows(void *ctx, size_t beg, size_t end, int worker)
{
    const gather_job *j = ctx;
    (void)worker;
    for (size_t i = beg; i < end; i++)
        for (size_t c = 0; c < j->n_kept; c++)
            j->part[i * j->n_kept + c] = j->h[(size_t)j->kept[i] * j->n + j->kept[c]];
}

typedef struct {
    float *gone, *moved, *half; /* (rows, n - n_kept); (rows, n_kept) twice */
    void *scratch;
    size_t bytes;
} drop_room;

static void product(const kern *k, pool *p, const drop_room *room, gemm_args g)
{
    g.alpha = 1;
    if (g.m && g.n && g.k)
        gemm(k, p, &g, arena_of(room->scratch, room->bytes));
}

/* What `damp` of the mean of H's diagonal is of that of H_KK's. */
static double damp_of(const gather_job *j, double damp)
{
    double all = 0, kept = 0;
    for (size_t i = 0; i < j->n; i++) {
        double v = (double)j->h[(size_t)j->kept[i] * j->n + j->kept[i]];
        all += v / (double)j->n;
        kept += i < j->n_kept ? v / (double)j->n_kept : 0;
    }
    return kept > 0 ? damp * all / kept : damp;
}

/* moved = gone H_qK H_KK^-1, with part as gather_job leaves it. */
static om_status solve_columns(const gather_job *j, double damp, const drop_room *room,
                               size_t rows, const kern *k, pool *p, om_err *err)
{
    size_t m = j->n_kept, q = j->n - m;
    obs f;
    TRY(obs_factor(j->part, m, damp_of(j, damp), k, p, &f, err));
    product(k, p, room,
            (gemm_args){.m = rows,
                        .n = m,
                        .k = q,
                        .a = room->gone,
                        .lda = q,
                        .b = j->part + m * m,
                        .ldb = m,
                        .c = room->moved,
                        .ldc = m});
    product(k, p, room,
            (gemm_args){.m = rows,
                        .n = m,
                        .k = m,
                        .a = room->moved,
                        .lda = m,
                        .b = f.r,
                        .ldb = m,
                        .b_t = true,
                        .c = room->half,
                        .ldc = m});
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < m; i++)
            room->half[r * m + i] /= f.d[i];
    product(k, p, room,
            (gemm_args){.m = rows,
                        .n = m,
                        .k = m,
                        .a = room->half,
                        .lda = m,
                        .b = f.r,
                        .ldb = m,
                        .c = room->moved,
                        .ldc = m});
    obs_free(&f);
    return OM_OK;
}

static void split(const uint8_t *keep, size_t n, uint32_t *order, size_t *n_kept)
{
    size_t at = 0;
    for (int want = 1; want >= 0; want--) {
        for (size_t i = 0; i < n; i++)
            if ((keep[i] != 0) == want)
                order[at++] = (uint32_t)i;
        if (want)
            *n_kept = at;
    }
}

om_status obs_drop(const float *h, size_t n, double damp, const uint8_t *keep, float *w,
                   size_t rows, const kern *k, pool *p, om_err *err)
{
    uint32_t *order = mem_array(n, sizeof(*order));
    gather_job j = {.h = h, .n = n, .kept = order};
    drop_room room = {.bytes = gemm_bytes(k, rows, n, n, p)};
    room.scratch = mem_alloc(room.bytes);
    if (order)
        split(keep, n, order, &j.n_kept);
    j.part = mem_array(n, j.n_kept * sizeof(float));
    room.gone = mem_array(rows, (n - j.n_kept) * sizeof(float));
    room.moved = mem_array(rows, j.n_kept * sizeof(float));
    room.half = mem_array(rows, j.n_kept * sizeof(float));
    bool there = order && room.scratch && j.part && room.gone && room.moved && room.half;
    om_status s =
        there ? OM_OK : fail(err, OM_ENOMEM, "prune: no memory for %zu columns", n);
    if (s == OM_OK && j.n_kept < n) {
        size_t q = n - j.n_kept;
        pool_run(p, n, 16, gather_rows, &j);
        for (size_t r = 0; r < rows; r++)
            for (size_t i = 0; i < q; i++)
                room.gone[r * q + i] = w[r * n + order[j.n_kept + i]];
        s = solve_columns(&j, damp, &room, rows, k, p, err);
        for (size_t r = 0; s == OM_OK && r < rows; r++) {
            for (size_t i = 0; i < j.n_kept; i++)
                w[r * n + order[i]] += room.moved[r * j.n_kept + i];
            for (size_t i = j.n_kept; i < n; i++)
                w[r * n + order[i]] = 0;
        }
    }
    mem_free(order);
    mem_free(j.part);
    mem_free(room.gone);
    mem_free(room.moved);
    mem_free(room.half);
    mem_free(room.scratch);
    return s;
}
