/* fednl_bc.c - FedNL compressed both ways, and the same in the data's basis (BL1).
 *
 * All know w, the mirror of the model, and throw the same coin in a round:
 *
 *     heads (and the first round)   z = w,  the clients send grad f_i(w)
 *     tails                         g = H (w - z) + grad f(z): no gradient travels
 *     x = w - [H]_mu^-1 g (option a) or w - (H + l I)^-1 g (option b);   w += C_M(x - w)
 *     H_i += a C(hess f_i(w) - H_i)
 *
 *     bl1   H_i = V_i L_i V_i' + l2 I, and L_i is what is learned (second.h); the whole
 *           gradient travels, where the paper has its coordinates in V_i
 *
 * C_M is the codec down.  model() is w.
 *
 * Down message: u64 0 and w as doubles in the first round, then u64 1 and C_M(x - w). */
#include "fl/second.h"
#include "fl/side.h"
#include "codec/wire.h"

enum { OPTION, MU, P, DOWN, DOWN_RATIO, L2 };
enum { W };             /* client vector */
enum { Z, AT_Z, MOVE }; /* server vectors; MOVE = x - w of the last close, as floats */
enum { COIN = 8, USE_MOVE = 0x36000000 };

#define BC_PARAMS                                                                          \
    [OPTION] = {"option", 1, 0, 1, "b: H + l I; a: eigenvalues of H raised to mu", "b|a"}, \
    [MU] = {"mu", 1e-3, 0, 1e6, "least eigenvalue under option a", NULL},                  \
    [P] = {"p", 1, 1e-6, 1, "of a round with gradients", NULL},                            \
    [DOWN] = {"down", SIDE_IDENTITY, 0, 5, "codec of the way down", SIDE_CODECS},          \
    [DOWN_RATIO] = {"down_ratio", 0.1, 1e-9, 1, "its ratio", NULL}

static const param params[] = {BC_PARAMS, {NULL, 0, 0, 0, NULL, NULL}};
static const param params_bl1[] = {
    BC_PARAMS,
    [L2] = {"l2", 1e-3, 0, 1e6, "the problem's l2, which is in no basis", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static second_shape shape(const fl_env *e)
{
    (void)e;
    return (second_shape){
        .scalars = 1, .server_vectors = 3, .client_vectors = 1, .client_tris = 1};
}

static second_shape shape_bl1(const fl_env *e)
{
    second_shape s = shape(e);
    s.basis = true;
    s.l2 = e->p[L2];
    return s;
}

SECOND_FUNCTIONS(bc, shape)
SECOND_FUNCTIONS(bl1, shape_bl1)

static side_codec down_of(const fl_env *e) { return side_of(e->p[DOWN], e->p[DOWN_RATIO]); }

static size_t down_bound(const fl_env *e)
{
    side_codec c = down_of(e);
    return 8 + size_max(8 * e->dim, c.c->bound(c.p, e->dim));
}

static size_t scratch_more(const fl_env *e)
{
    side_codec c = down_of(e);
    return c.c->scratch_bytes(c.p, e->dim) + 2 * arena_bytes(double, e->dim) +
           down_bound(e) + 64;
}

static size_t bc_scratch(const fl_env *e) { return bc_scratch_bytes(e) + scratch_more(e); }
static size_t bl1_scratch(const fl_env *e)
{
    return bl1_scratch_bytes(e) + scratch_more(e);
}

/* C_M(x - w) of the close of the round before `round`: the same bytes whenever asked. */
static om_status put_move(const fl_env *e, const double *move, uint32_t round, buf *out,
                          arena scratch, om_err *err)
{
    side_codec c = down_of(e);
    float *v = arena_new(&scratch, float, e->dim);
    for (size_t i = 0; i < e->dim; i++)
        v[i] = (float)move[i];
    if (c.c->encode(c.p, v, e->dim, rng_for(e->seed, round, 0, USE_MOVE), scratch, out) !=
        OM_OK)
        return fail(err, OM_ELIMIT, "%s could not encode the step", c.c->name);
    return OM_OK;
}

/* w += C_M; zeros in scratch take what is decoded. */
static om_status add_move(const fl_env *e, const uint8_t *in, size_t n, double *w,
                          arena scratch, om_err *err)
{
    side_codec c = down_of(e);
    float *v = arena_new(&scratch, float, e->dim);
    TRY(c.c->decode(c.p, in, n, (float)codec_scale(c.c, c.p, e->dim), v, e->dim, err));
    for (size_t i = 0; i < e->dim; i++)
        w[i] += (double)v[i];
    return OM_OK;
}

static om_status begin_with(const fl_env *e, const second_shape *s, void *server, buf *down,
                            om_err *err)
{
    second_server v = second_server_of(e, s, server);
    bool first = v.note->closed == 0;
    if (buf_u64(down, !first) != OM_OK)
        return fail(err, OM_ENOMEM, "no room for the message");
    size_t from = down->len;
    TRY(second_begin(e, s, server, down, err));
    if (first)
        return OM_OK;
    down->len = from;
    size_t n = scratch_more(e);
    char *room = mem_alloc(n);
    om_status st =
        room ? put_move(e, second_own(e, &v, MOVE), e->round, down, arena_of(room, n), err)
             : fail(err, OM_ENOMEM, "no memory for the step");
    mem_free(room);
    return st;
}

static om_status bc_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    second_shape s = shape(e);
    return begin_with(e, &s, server, down, err);
}

static om_status bl1_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    second_shape s = shape_bl1(e);
    return begin_with(e, &s, server, down, err);
}

static bool heads(const fl_env *e, bool first)
{
    return first || grad_shared_coin(e, e->p[P], COIN);
}

static om_status rule(second_step *s)
{
    bool first = second_is_first(s), gradient = heads(s->e, first);
    double l = 0;
    TRY(second_start(s, gradient, true));
    if (!first)
        l = second_error(s);
    return second_send(
        s, UP2_SCALARS | (gradient ? UP2_GRADIENT : 0) | (first ? UP2_WHOLE : UP2_CODED),
        &l, s->g);
}

static om_status step_with(const fl_env *e, const second_shape *s, uint32_t id,
                           void *client, const fl_oracle *f, const uint8_t *down,
                           size_t down_n, buf *up, double *loss, arena scratch, om_err *err)
{
    double *w = second_vector(e, client, W);
    uint32_t kind = down_n >= 8 ? wire_load(down) : 2;
    if (kind > 1 || (kind == 0 && down_n != 8 + 8 * e->dim))
        return fail(err, OM_EFORMAT,
                    "the model message has %zu bytes and kind %u; expected 8 and %zu "
                    "doubles, or a step",
                    down_n, kind, e->dim);
    if (kind == 0)
        TRY(second_read(down + 8, e->dim, w, err));
    else
        TRY(add_move(e, down + 8, down_n - 8, w, scratch, err));
    return second_client_at(e, s, id, client, f, w, up, loss, scratch, rule, err);
}

static om_status client_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                             const uint8_t *down, size_t down_n, buf *up, double *loss,
                             arena scratch, om_err *err)
{
    second_shape s = shape(e);
    return step_with(e, &s, id, client, f, down, down_n, up, loss, scratch, err);
}

static om_status client_step_bl1(const fl_env *e, uint32_t id, void *client,
                                 const fl_oracle *f, const uint8_t *down, size_t down_n,
                                 buf *up, double *loss, arena scratch, om_err *err)
{
    second_shape s = shape_bl1(e);
    return step_with(e, &s, id, client, f, down, down_n, up, loss, scratch, err);
}

static om_status close_with(const fl_env *e, void *server, const second_shape *s,
                            arena scratch, om_err *err)
{
    second_server v = second_server_of(e, s, server);
    uint64_t n;
    size_t d = e->dim;
    TRY(second_sums(e, &v, &n, err));
    if (n == 0)
        return OM_OK;
    bool fresh = heads(e, v.note->closed == 0);
    double l = v.note->sum[0] / (double)n, *move = second_own(e, &v, MOVE);
    double *z = second_own(e, &v, Z), *at_z = second_own(e, &v, AT_Z);
    double *g = arena_new(&scratch, double, d), *step = arena_new(&scratch, double, d);
    double *h = arena_new(&scratch, double, tri_size(d));
    second_matrix(e, &v, second_whole(&v, n), h);
    for (size_t i = 0; i < d; i++)
        step[i] = v.x[i] - z[i];
    tri_times(h, d, step, g);
    for (size_t i = 0; i < d; i++)
        g[i] = fresh ? v.g[i] : g[i] + at_z[i];
    TRY(second_direction(e, h, e->p[OPTION], l, e->p[MU], g, step, scratch, err));
    buf message = buf_fixed(arena_new(&scratch, uint8_t, down_bound(e)), down_bound(e));
    double *w = arena_new(&scratch, double, d);
    memcpy(w, v.x, d * sizeof(double));
    TRY(put_move(e, step, e->round + 1, &message, scratch, err));
    TRY(add_move(e, message.data, message.len, w, scratch, err));
    if (fresh) {
        v.note->slope = second_length(g, d);
        memcpy(z, v.x, d * sizeof(double));
        memcpy(at_z, g, d * sizeof(double));
    }
    TRY(second_accept(e, &v, server, w, err));
    memcpy(move, step, d * sizeof(double));
    second_learn(e, &v);
    return OM_OK;
}

static om_status close_bc(const fl_env *e, void *server, arena scratch, om_err *err)
{
    second_shape s = shape(e);
    return close_with(e, server, &s, scratch, err);
}

static om_status close_bl1(const fl_env *e, void *server, arena scratch, om_err *err)
{
    second_shape s = shape_bl1(e);
    return close_with(e, server, &s, scratch, err);
}

const fl_algo fl_fednl_bc = {
    .name = "fednl-bc",
    .summary = "FedNL compressed both ways, with gradients now and then",
    .source = "Safaryan, Islamov, Qian, Richtarik, ICML 2022, arXiv 2106.02969",
    .params = params,
    SECOND_ROW_(bc, bc_scratch),
    .down_bound = down_bound,
    .client_step = client_step,
    .server_close = close_bc,
};

const fl_algo fl_bl1 = {
    .name = "bl1",
    .summary = "Basis Learn: Hessians in the basis of the data",
    .source = "Qian, Islamov, Safaryan, Richtarik, AISTATS 2022, arXiv 2111.01847",
    .params = params_bl1,
    SECOND_ROW_(bl1, bl1_scratch),
    .down_bound = down_bound,
    .client_step = client_step_bl1,
    .server_close = close_bl1,
};
