/* fednl.c - FedNL: Newton's method with learned Hessians, and its cubic regularisation.
 *
 *     client   S_i = C(hess f_i(x) - H_i),  l_i = |hess f_i(x) - H_i|_F;
 *              sends grad f_i(x), S_i, l_i;   H_i += a S_i
 *     server   fednl     option A  x -= [H]_mu^-1 g      eigenvalues raised to mu
 *                        option B  x -= (H + l I)^-1 g
 *              fednl-cr  x += argmin_h <g, h> + 1/2 h'(H + l I)h + (M/6) |h|^3
 *              then      H += a mean_i S_i
 *
 * H is that of before the round.  First messages are whole Hessians at x0 (init=zero: none,
 * H = 0), so the first step is Newton's.  Locally superlinear, at a rate that does not
 * depend on the condition number; far from x* fednl-cr and fednl-ls are safe.  M bounds the
 * Lipschitz constant of the Hessian: for logistic regression the mean of
 * |a|^3 / (6 sqrt 3) over the rows.  The cubic step solves (H + l I + (M/2) |h| I) h = -g
 * by Newton's method on r = |h|, one Cholesky factor each. */
#include "fl/second.h"

#include <math.h>

enum { OPTION, MU, INIT };
enum { INIT_HESSIAN, INIT_ZERO };
enum { CR_M, CR_INIT };

static const param params[] = {
    [OPTION] = {"option", 0, 0, 1, "b: H + l I; a: eigenvalues of H raised to mu", "b|a"},
    [MU] = {"mu", 1e-3, 0, 1e6, "least eigenvalue under option a", NULL},
    [INIT] = {"init", 0, 0, 1, "H_i at the start", "hessian|zero"},
    {NULL, 0, 0, 0, NULL, NULL},
};
static const param params_cr[] = {
    [CR_M] = {"m", 1, 0, 1e9, "Lipschitz constant of the Hessian", NULL},
    [CR_INIT] = {"init", 0, 0, 1, "H_i at the start", "hessian|zero"},
    {NULL, 0, 0, 0, NULL, NULL},
};

static second_shape shape(const fl_env *e)
{
    (void)e;
    return (second_shape){.scalars = 1, .client_tris = 1};
}

SECOND_FUNCTIONS(nl, shape)
SECOND_BEGIN(nl, shape)

static om_status learn(second_step *s, double init)
{
    double l = 0;
    TRY(second_start(s, true, true));
    bool whole = second_is_first(s) && init < 0.5;
    if (!whole)
        l = second_error(s);
    return second_send(s, UP2_SCALARS | UP2_GRADIENT | (whole ? UP2_WHOLE : UP2_CODED), &l,
                       s->g);
}

static om_status rule(second_step *s) { return learn(s, s->e->p[INIT]); }
static om_status rule_cr(second_step *s) { return learn(s, s->e->p[CR_INIT]); }

SECOND_CLIENT(client_step, shape, rule)
SECOND_CLIENT(client_step_cr, shape, rule_cr)

/* The cubic step: |h(r)| = r with h(r) = -(H + (l + M r / 2) I)^-1 g.  |h(r)| - r is convex
 * and falls, so Newton's method from the left does not overshoot. */
static om_status cubic(const fl_env *e, const double *h, double l, const double *g,
                       double *step, arena scratch, om_err *err)
{
    size_t d = e->dim;
    double *u = arena_new(&scratch, double, d *d), *w = arena_new(&scratch, double, d);
    double half = e->p[CR_M] / 2, r = 0, low = 0;
    for (int k = 0; k < 200; k++) {
        tri_unpack(h, d, l + half * r, u);
        if (!cholesky(u, d, e->pool)) { /* left of where the system is positive definite */
            low = r;
            r = r > 0 ? 2 * r : 1e-6 * (1 + l) / (half + 1e-300);
            continue;
        }
        for (size_t i = 0; i < d; i++)
            w[i] = step[i] = -g[i];
        cholesky_solve(u, d, step);
        double n = second_length(step, d), slope = 0;
        if (n <= 0 || half <= 0 || fabs(n - r) <= 1e-13 * n)
            return OM_OK;
        memcpy(w, step, d * sizeof(double));
        cholesky_half(u, d, w);
        for (size_t i = 0; i < d; i++)
            slope += w[i] * w[i];
        slope = -half * slope / n - 1;
        double next = r - (n - r) / slope;
        if (n < r && next <= low) /* came from the right of the root */
            next = (low + r) / 2;
        if (next == r)
            return OM_OK;
        r = next;
    }
    return fail(err, OM_ELIMIT, "the cubic step did not converge; the model is kept");
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    second_shape s = shape(e);
    second_server v = second_server_of(e, &s, server);
    return second_newton(e, &v, server, e->p[OPTION], e->p[MU], scratch, err);
}

static om_status server_close_cr(const fl_env *e, void *server, arena scratch, om_err *err)
{
    second_shape s = shape(e);
    second_server v = second_server_of(e, &s, server);
    uint64_t n;
    size_t d = e->dim;
    TRY(second_sums(e, &v, &n, err));
    if (n == 0)
        return OM_OK;
    double l = v.note->sum[0] / (double)n, slope = second_length(v.g, d);
    double *h = arena_new(&scratch, double, tri_size(d));
    double *next = arena_new(&scratch, double, d);
    second_matrix(e, &v, second_whole(&v, n), h);
    TRY(cubic(e, h, l, v.g, next, scratch, err));
    for (size_t i = 0; i < d; i++)
        next[i] += v.x[i];
    TRY(second_accept(e, &v, server, next, err));
    v.note->slope = slope;
    second_learn(e, &v);
    return OM_OK;
}

#define FEDNL_ROW(symbol, name_, summary_, params_, step_, close_)                         \
    const fl_algo symbol = {                                                               \
        .name = name_,                                                                     \
        .summary = summary_,                                                               \
        .source = "Safaryan, Islamov, Qian, Richtarik, ICML 2022, arXiv 2106.02969",       \
        .params = params_,                                                                 \
        SECOND_ROW(nl),                                                                    \
        .down_bound = second_down_bound,                                                   \
        .client_step = step_,                                                              \
        .server_close = close_,                                                            \
    }

FEDNL_ROW(fl_fednl, "fednl", "Newton's method with learned, compressed Hessians", params,
          client_step, server_close);
FEDNL_ROW(fl_fednl_cr, "fednl-cr", "FedNL with cubic regularisation", params_cr,
          client_step_cr, server_close_cr);
