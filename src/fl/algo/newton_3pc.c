/* newton_3pc.c - Newton-3PC: FedNL with any three-point compressor of Hessians.
 *
 *     client   sends grad f_i(x), l_i = |z - H_i|_F with z = hess f_i(x), y the z of
 * before, and what takes H_i to ef21   H_i + C(z - H_i): fednl cbag   the same with
 * probability p, by a coin of its own, else H_i lag    z if |z - H_i|^2 > zeta |z - y|^2,
 * else H_i clag   H_i + C(z - H_i) if so, else H_i v5     z with probability p, by a coin
 * that all share, else H_i + C(z - y) server   x -= [H]_mu^-1 g (option a) or (H + l I)^-1
 * g (option b), H of before the round
 *
 * A client whose H_i stays sends its gradient alone.  First messages are whole Hessians. */
#include "fl/second.h"

enum { VARIANT, OPTION, MU, P, ZETA };
enum { EF21, CBAG, LAG, CLAG, V5 };
enum { COIN = 9 };

static const param params[] = {
    [VARIANT] = {"variant", CBAG, 0, V5, "the three-point compressor",
                 "ef21|cbag|lag|clag|v5"},
    [OPTION] = {"option", 1, 0, 1, "b: H + l I; a: eigenvalues of H raised to mu", "b|a"},
    [MU] = {"mu", 1e-3, 0, 1e6, "least eigenvalue under option a", NULL},
    [P] = {"p", 0.5, 1e-6, 1, "of cbag's messages, of v5's whole Hessians", NULL},
    [ZETA] = {"zeta", 1, 0, 1e9, "trigger of lag and clag", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static second_shape shape(const fl_env *e)
{
    return (second_shape){.scalars = 1, .client_tris = e->p[VARIANT] >= LAG ? 2 : 1};
}

SECOND_FUNCTIONS(n3pc, shape)
SECOND_BEGIN(n3pc, shape)

/* Leaves in t what is to be sent. */
static unsigned choose(second_step *s, double l)
{
    const double *p = s->e->p;
    float *y = p[VARIANT] >= LAG ? second_tri(s->e, s->shape, s->client, 1) : NULL;
    switch ((int)p[VARIANT]) {
    case CBAG:
        return grad_own_coin(s->e, s->id, p[P], COIN) ? UP2_CODED : UP2_NOTHING;
    case LAG:
    case CLAG: {
        double moved = second_apart(s, s->target, y);
        if (l * l <= p[ZETA] * moved * moved)
            return UP2_NOTHING;
        second_error(s);
        return p[VARIANT] > LAG ? UP2_CODED : UP2_WHOLE;
    }
    case V5:
        if (grad_shared_coin(s->e, p[P], COIN))
            return UP2_WHOLE;
        second_apart(s, s->target, y);
        return UP2_CODED;
    default:
        return UP2_CODED;
    }
}

static om_status rule(second_step *s)
{
    double l = 0;
    TRY(second_start(s, true, true));
    unsigned matrix = UP2_WHOLE;
    if (!second_is_first(s)) {
        l = second_error(s);
        matrix = choose(s, l);
    }
    TRY(second_send(s, UP2_SCALARS | UP2_GRADIENT | matrix, &l, s->g));
    if (s->e->p[VARIANT] >= LAG)
        memcpy(second_tri(s->e, s->shape, s->client, 1), s->target,
               tri_size(s->order) * sizeof(float));
    return OM_OK;
}

SECOND_CLIENT(client_step, shape, rule)

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    second_shape s = shape(e);
    second_server v = second_server_of(e, &s, server);
    return second_newton(e, &v, server, e->p[OPTION], e->p[MU], scratch, err);
}

const fl_algo fl_newton_3pc = {
    .name = "newton-3pc",
    .summary = "Newton's method with lazy, compressed Hessians (CBAG, CLAG, LAG)",
    .source = "Islamov, Qian, Hanzely, Safaryan, Richtarik 2022, arXiv 2206.03588",
    .params = params,
    SECOND_ROW(n3pc),
    .down_bound = second_down_bound,
    .client_step = client_step,
    .server_close = server_close,
};
