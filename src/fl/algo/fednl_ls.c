/* fednl_ls.c - FedNL with a line search: safe from any starting point.
 *
 *     step = -(H + l I)^-1 g   (option b)   or   -[H]_mu^-1 g   (option a)
 *     x += t step,  t = gamma^s for the least s >= 0 with
 *                   f(x + t step) <= f(x) + c t <g, step>
 *
 * The server cannot know f(x + t step), so a step takes two rounds or more: one in which
 * the clients send f_i, grad f_i and S_i as in fednl, and one in which they are told
 * the step and send f_i(x + t step) for the next two t.  A round of values costs two passes
 * over the data and 17 bytes a client.  <g, step> < 0 always, as the matrix is positive
 * definite; after `backtracks` trials the last t is taken.  f is sure to a few units of its
 * last place, and so is the comparison.
 *
 * Down message: x, u64 0; or x, u64 1, step, the first t. */
#include "fl/second.h"
#include "codec/wire.h"

#include <float.h>
#include <math.h>

enum { OPTION, MU, C, GAMMA, BACKTRACKS };
enum { STEP };                                  /* server vector */
enum { TRYING, TRIED, VALUE, ALONG };           /* note.own */
enum { SUM_L, SUM_F, SUM_NEXT = 0, TRIES = 2 }; /* note.sum */

static const param params[] = {
    [OPTION] = {"option", 0, 0, 1, "b: H + l I; a: eigenvalues of H raised to mu", "b|a"},
    [MU] = {"mu", 1e-3, 0, 1e6, "least eigenvalue under option a", NULL},
    [C] = {"c", 0.49, 1e-9, 0.5, "part of the promised decrease that is asked for", NULL},
    [GAMMA] = {"gamma", 0.5, 0.01, 0.99, "factor of a shorter step", NULL},
    [BACKTRACKS] = {"backtracks", 30, 0, 60, "most times a step is made shorter", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static second_shape shape(const fl_env *e)
{
    (void)e;
    return (second_shape){.scalars = TRIES, .server_vectors = 1, .client_tris = 1};
}

SECOND_FUNCTIONS(ls, shape)

static size_t down_bound(const fl_env *e) { return 16 * e->dim + 16; }

static double t_of(const fl_env *e, double s)
{
    return pow(e->p[GAMMA], fmin(s, e->p[BACKTRACKS]));
}

static om_status ls_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    second_shape s = shape(e);
    second_server v = second_server_of(e, &s, server);
    bool trying = v.note->own[TRYING] > 0;
    double t = t_of(e, v.note->own[TRIED]);
    TRY(second_begin(e, &s, server, down, err));
    if (buf_u64(down, trying) != OM_OK)
        return fail(err, OM_ENOMEM, "no room for the message");
    if (!trying)
        return OM_OK;
    TRY(second_put_doubles(down, second_own(e, &v, STEP), e->dim, err));
    return second_put_doubles(down, &t, 1, err);
}

static om_status learn(second_step *s)
{
    double scalars[TRIES] = {0};
    TRY(second_start(s, true, true));
    bool whole = second_is_first(s);
    scalars[SUM_F] = s->loss;
    if (!whole)
        scalars[SUM_L] = second_error(s);
    return second_send(s, UP2_SCALARS | UP2_GRADIENT | (whole ? UP2_WHOLE : UP2_CODED),
                       scalars, s->g);
}

/* f_i at x + t step and x + gamma t step; step and t lie behind x. */
static om_status values(second_step *s, const double *step, double t)
{
    double f[TRIES];
    for (int k = TRIES; k-- > 0;) {
        double by = k ? t * s->e->p[GAMMA] : t;
        for (size_t i = 0; i < s->e->dim; i++)
            s->g[i] = s->x[i] + by * step[i];
        TRY(s->f->jet(s->f->ctx, s->g, &f[k], NULL, NULL, s->err));
        f[k] = fmin(fmax(f[k], -DBL_MAX), DBL_MAX); /* far out is not an error */
    }
    s->loss = f[0];
    return second_send(s, UP2_SCALARS, f, NULL);
}

typedef struct {
    const double *step;
    double t;
} trial;

static om_status client_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                             const uint8_t *down, size_t down_n, buf *up, double *loss,
                             arena scratch, om_err *err)
{
    second_shape s = shape(e);
    size_t d = e->dim;
    double *x = arena_new(&scratch, double, 2 * d + 1);
    uint64_t trying = down_n >= 8 * d + 8 ? wire_load(down + 8 * d) : 2;
    if (trying > 1 || down_n != 8 * d + 8 + trying * (8 * d + 8))
        return fail(err, OM_EFORMAT,
                    "a message of %zu bytes is neither a model nor a trial", down_n);
    TRY(second_read(down, d, x, err));
    if (!trying)
        return second_client_at(e, &s, id, client, f, x, up, loss, scratch, learn, err);
    TRY(second_read(down + 8 * d + 8, d + 1, x + d, err));
    second_step one = {.e = e,
                       .shape = &s,
                       .id = id,
                       .client = client,
                       .f = f,
                       .x = x,
                       .g = arena_new(&scratch, double, d),
                       .up = up,
                       .err = err};
    if (!f->jet)
        return second_start(&one, false, false); /* refuses */
    TRY(values(&one, x + d, x[2 * d]));
    if (loss)
        *loss = one.loss;
    return OM_OK;
}

static om_status propose(const fl_env *e, second_server *v, void *server, uint64_t n,
                         arena scratch, om_err *err)
{
    size_t d = e->dim;
    double l = v->note->sum[SUM_L] / (double)n, along = 0;
    double *h = arena_new(&scratch, double, tri_size(d)), *step = second_own(e, v, STEP);
    second_matrix(e, v, second_whole(v, n), h);
    TRY(second_direction(e, h, e->p[OPTION], l, e->p[MU], v->g, step, scratch, err));
    for (size_t i = 0; i < d; i++)
        along += step[i] * v->g[i];
    v->note->own[TRYING] = 1;
    v->note->own[TRIED] = 0;
    v->note->own[VALUE] = v->note->sum[SUM_F] / (double)n;
    v->note->own[ALONG] = along;
    v->note->slope = second_length(v->g, d);
    second_learn(e, v);
    v->note->closed++;
    average_fresh(e, server);
    return OM_OK;
}

static om_status choose(const fl_env *e, second_server *v, void *server, uint64_t n,
                        arena scratch, om_err *err)
{
    double *own = v->note->own, slack = 4 * DBL_EPSILON * fabs(own[VALUE]);
    double *next = arena_new(&scratch, double, e->dim), *step = second_own(e, v, STEP);
    for (int k = 0; k < TRIES; k++) {
        double f = v->note->sum[k] / (double)n, t = t_of(e, own[TRIED] + k);
        if (!(f <= own[VALUE] + e->p[C] * t * own[ALONG] + slack) &&
            own[TRIED] + k < e->p[BACKTRACKS])
            continue;
        for (size_t i = 0; i < e->dim; i++)
            next[i] = v->x[i] + t * step[i];
        TRY(second_accept(e, v, server, next, err));
        own[TRYING] = 0;
        return OM_OK;
    }
    own[TRIED] += TRIES;
    average_fresh(e, server);
    return OM_OK;
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    second_shape s = shape(e);
    second_server v = second_server_of(e, &s, server);
    uint64_t n;
    TRY(second_sums(e, &v, &n, err));
    if (n == 0)
        return OM_OK;
    return v.note->own[TRYING] > 0 ? choose(e, &v, server, n, scratch, err)
                                   : propose(e, &v, server, n, scratch, err);
}

const fl_algo fl_fednl_ls = {
    .name = "fednl-ls",
    .summary = "FedNL with a line search, two rounds a step",
    .source = "Safaryan, Islamov, Qian, Richtarik, ICML 2022, arXiv 2106.02969",
    .params = params,
    SECOND_ROW(ls),
    .down_bound = down_bound,
    .client_step = client_step,
    .server_close = server_close,
};
