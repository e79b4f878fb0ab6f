/* fednl_pp.c - FedNL with partial participation, and the same in the data's basis (BL2).
 *
 * A client keeps H_i, l_i and g_i = (H_i + l_i I) w_i - grad f_i(w_i), w_i the last model
 * it saw; the server their means H, l, g.  A round: `drawn` of the clients, by a choice
 * that all share, do
 *
 *     H_i += a C(hess f_i(x) - H_i);   l_i = |hess f_i(x) - H_i|_F, of the new H_i;
 *     g_i = (H_i + l_i I) x - grad f_i(x);   send what was added, and the changes of l, g
 *
 * and x = (H + l I)^-1 g; the others send one byte.  In the first round all send theirs.
 * With everyone drawn and nothing compressed this is Newton's method.
 *
 *     bl2   H_i = V_i L_i V_i' + l2 I, and L_i is what is learned (second.h); the whole
 *           gradient travels, where the paper has its coordinates in V_i
 *
 * g = mean_i g_i must use the H that the server has: both sides are exact (second.h). */
#include "fl/second.h"

enum { DRAWN, L2 };
enum { G_I };       /* client vector */
enum { MEAN_G };    /* server vector */
enum { MEAN_L };    /* note.own */
enum { OWN_L = 1 }; /* head.own, the bits of a double */
enum { SEED_DRAW = 0x70617274 };

static const param params[] = {
    [DRAWN] = {"drawn", 0, 0, 4294967295.0, "clients of a round; 0: half of them", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};
static const param params_bl2[] = {
    [DRAWN] = {"drawn", 0, 0, 4294967295.0, "clients of a round; 0: half of them", NULL},
    [L2] = {"l2", 1e-3, 0, 1e6, "the problem's l2, which is in no basis", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static second_shape shape(const fl_env *e)
{
    (void)e;
    return (second_shape){.scalars = 1,
                          .server_vectors = 1,
                          .client_vectors = 1,
                          .client_tris = 2,
                          .exact = true};
}

static second_shape shape_bl2(const fl_env *e)
{
    second_shape s = shape(e);
    s.basis = true;
    s.l2 = e->p[L2];
    return s;
}

SECOND_FUNCTIONS(pp, shape)
SECOND_BEGIN(pp, shape)
SECOND_FUNCTIONS(bl2, shape_bl2)
SECOND_BEGIN(bl2, shape_bl2)

static bool is_drawn(const second_step *s)
{
    const fl_env *e = s->e;
    uint32_t n = e->n_clients, want = (uint32_t)e->p[DRAWN];
    arena room = s->scratch;
    uint32_t *chosen = arena_new(&room, uint32_t, n);
    want = want == 0 ? (n + 1) / 2 : want < n ? want : n;
    fl_cohort(e->seed ^ SEED_DRAW, e->round, n, want, chosen, room);
    for (uint32_t i = 0; i < want; i++)
        if (chosen[i] == s->id)
            return true;
    return false;
}

static om_status rule(second_step *s)
{
    size_t d = s->e->dim, at = s->up->len;
    bool first = second_is_first(s);
    client_head *head = s->client;
    double l = 0, was, change;
    if (!first && !is_drawn(s))
        return second_send(s, UP2_NOTHING, NULL, NULL);
    TRY(second_start(s, true, true));
    double *mine = second_vector(s->e, s->client, G_I);
    double *next = arena_new(&s->scratch, double, d);
    memcpy(&was, &head->own[OWN_L], 8);
    if (!first)
        second_error(s);
    TRY(second_send(s, UP2_SCALARS | UP2_GRADIENT | (first ? UP2_WHOLE : UP2_CODED), &l,
                    next));
    if (!first)
        l = second_error(s);
    second_times(s, s->x, next);
    for (size_t i = 0; i < d; i++) {
        double g = next[i] + l * s->x[i] - s->g[i];
        next[i] = g - mine[i];
        mine[i] = g;
    }
    change = l - was;
    memcpy(&head->own[OWN_L], &l, 8);
    second_patch(s, at, &change, next);
    return OM_OK;
}

SECOND_CLIENT(client_step, shape, rule)
SECOND_CLIENT(client_step_bl2, shape_bl2, rule)

static om_status close_with(const fl_env *e, void *server, const second_shape *s,
                            arena scratch, om_err *err)
{
    second_server v = second_server_of(e, s, server);
    uint64_t n;
    size_t d = e->dim;
    TRY(second_sums(e, &v, &n, err));
    if (n == 0)
        return OM_OK;
    double l = v.note->own[MEAN_L] + v.note->sum[0] / e->n_clients;
    double *mean = second_own(e, &v, MEAN_G), *step = arena_new(&scratch, double, d);
    double *g = arena_new(&scratch, double, d),
           *h = arena_new(&scratch, double, tri_size(d));
    double share = (double)n / e->n_clients;
    second_matrix(e, &v, true, h);
    for (size_t i = 0; i < d; i++)
        g[i] = mean[i] + share * v.g[i];
    TRY(second_direction(e, h, SECOND_B, l, 0, g, step, scratch, err));
    for (size_t i = 0; i < d; i++)
        step[i] = -step[i];
    TRY(second_accept(e, &v, server, step, err));
    memcpy(mean, g, d * sizeof(double));
    v.note->own[MEAN_L] = l;
    second_learn(e, &v);
    return OM_OK;
}

static om_status close_pp(const fl_env *e, void *server, arena scratch, om_err *err)
{
    second_shape s = shape(e);
    return close_with(e, server, &s, scratch, err);
}

static om_status close_bl2(const fl_env *e, void *server, arena scratch, om_err *err)
{
    second_shape s = shape_bl2(e);
    return close_with(e, server, &s, scratch, err);
}

const fl_algo fl_fednl_pp = {
    .name = "fednl-pp",
    .summary = "FedNL with a few clients a round",
    .source = "Safaryan, Islamov, Qian, Richtarik, ICML 2022, arXiv 2106.02969",
    .params = params,
    SECOND_ROW(pp),
    .down_bound = second_down_bound,
    .client_step = client_step,
    .server_close = close_pp,
};

const fl_algo fl_bl2 = {
    .name = "bl2",
    .summary = "Basis Learn: Hessians in the basis of the data, a few clients a round",
    .source = "Qian, Islamov, Safaryan, Richtarik, AISTATS 2022, arXiv 2111.01847",
    .params = params_bl2,
    SECOND_ROW(bl2),
    .down_bound = second_down_bound,
    .client_step = client_step_bl2,
    .server_close = close_bl2,
};
