/* second.h - what the second-order methods share: the server and the clients learn the same
 * matrices H_i by compressed differences, as grad.h learns gradients,
 *
 *     H_i += a C(hess f_i(x) - H_i),     H = mean_i H_i
 *
 * and the server takes Newton's step with H.  a = 1 for a contractive C, 1/(1 + omega) for
 * an unbiased one (codec_scale).  C is the codec up over the packed upper triangle of
 * linalg.h; one that wants a matrix (rankr, powersgd) gets the matrix.
 *
 * PRECISION.  Model, gradients and steps are in double: the mean of gradients that do not
 * vanish has to.  Hessians are in float, so that codecs and messages are those of
 * first-order methods: H need only be near, and its error of 1e-7 costs 1e-7 of a step.
 * What a client adds to its H_i is what the server decodes, so the two stay alike up to
 * rounding.  Methods whose step uses H_i x on one side and H on the other (fednl-pp, bl2)
 * have the two EXACT: the server sums in double, and a client's second triangle is what its
 * first has lost.
 *
 * A BASIS (bl1, bl2).  A client whose rows span r < d dimensions has
 * hess f_i = V_i G_i V_i' + l2 I with V_i (d, r) orthonormal, and learns G_i: r(r+1)/2
 * numbers.  V_i travels once, and the server keeps it: n d^2 floats.
 *
 * Down message: x as dim doubles, unless the family says more.  Up message: a byte of UP_
 * flags and what they announce, in this order: the method's scalars (all but UP_NOTHING),
 * the gradient as dim doubles, the rank as u32, V_i as r x dim floats, the matrix whole or
 * coded.
 *
 * Server state: that of average.h, whose vector 0 is x in float, then a note of 128 bytes,
 * x, the sum of gradients, the method's own vectors, H (packed), all double, the sum of the
 * round's matrices (packed, float, or double if exact), and with a basis the ranks and the
 * V_i. */
#ifndef FL_SECOND_H
#define FL_SECOND_H

#include "fl/grad.h"
#include "fl/linalg.h"

enum { SECOND_SCALARS = 8, SECOND_MOST_DIM = 8192 };

/* What an algorithm has of each; constant. */
typedef struct {
    uint32_t scalars;        /* doubles of an up message, summed in note.sum */
    uint32_t server_vectors; /* own, (dim) doubles */
    uint32_t client_vectors; /* (dim) doubles */
    uint32_t client_tris;    /* packed floats; the first is H_i */
    bool exact;              /* see below */
    bool basis;              /* implies exact at the server */
    bool no_matrix;          /* the server has none */
    double l2;               /* of the problem; with a basis */
} second_shape;

typedef struct {
    double sum[SECOND_SCALARS]; /* of the round */
    double own[5];
    double slope;    /* |mean gradient| where it was last known */
    uint64_t whole;  /* messages of the round that brought a whole matrix */
    uint64_t closed; /* rounds */
} second_note;
_Static_assert(sizeof(second_note) == 128, "vectors start on a cache line");

typedef struct {
    second_note *note;
    double *x, *g;  /* (dim) the model; the sum of the round's gradients */
    double *own;    /* (server_vectors, dim at 64-byte steps): second_own */
    double *h;      /* packed H */
    float *s;       /* packed sum of the round, or */
    double *s64;    /* the same, exact */
    uint64_t *rank; /* (n_clients) and */
    float *v;       /* (n_clients, dim, dim) rows, with a basis */
} second_server;

size_t second_server_bytes(const fl_env *e, const second_shape *s);
second_server second_server_of(const fl_env *e, const second_shape *s, void *server);
double *second_own(const fl_env *e, const second_server *v, uint32_t i); /* (dim) */
size_t second_client_bytes(const fl_env *e, const second_shape *s);
double *second_vector(const fl_env *e, void *client, uint32_t i); /* (dim) */
float *second_tri(const fl_env *e, const second_shape *s, void *client, uint32_t i);
size_t second_scratch_bytes(const fl_env *e, const second_shape *s); /* of step and close */
size_t second_up_bound(const fl_env *e, const second_shape *s);
size_t second_down_bound(const fl_env *e); /* of x alone */

om_status second_open(const fl_env *e, const second_shape *s, void *server, const float *x0,
                      om_err *err);
/* Forgets what came, and writes x. */
om_status second_begin(const fl_env *e, const second_shape *s, void *server, buf *down,
                       om_err *err);
om_status second_put_doubles(buf *out, const double *v, size_t n, om_err *err);
/* n doubles at p, all finite, into x. */
om_status second_read(const uint8_t *p, size_t n, double *x, om_err *err);

/* ---- the client ---- */

enum { UP2_NOTHING = 0, UP2_SCALARS = 1, UP2_GRADIENT = 2, UP2_WHOLE = 4, UP2_CODED = 8 };

/* One client's round.  second_start fills g, loss and target, whose packed order is dim or
 * the rank; vectors are scratch that lasts for the step. */
typedef struct {
    const fl_env *e;
    const second_shape *shape;
    uint32_t id;
    void *client;
    const fl_oracle *f;
    buf *up;
    double *x, *g;        /* (dim) */
    float *h, *t;         /* packed scratch; h is the Hessian */
    float *target, *mine; /* packed by order: what H_i should be, and H_i */
    float *v;             /* (order, dim) rows of the basis, or NULL */
    size_t order;
    double loss;
    arena scratch;
    om_err *err;
} second_step;

om_status second_start(second_step *s, bool gradient, bool hessian);
bool second_is_first(const second_step *s); /* no matrix was sent yet */
/* t = target - H_i; returns its Frobenius norm. */
double second_error(second_step *s);
/* |a - b| in the Frobenius norm, packed by order. */
double second_apart(const second_step *s, const float *a, const float *b);
/* The message: flags of UP2_.  UP2_WHOLE sends target the first time, then t, and UP2_CODED
 * C(t); H_i += what was sent, a times for C. */
om_status second_send(second_step *s, unsigned what, const double *scalars,
                      const double *gradient);
/* Other scalars and gradient in the message at s->up->data + at, for what is known once
 * H_i has moved. */
void second_patch(second_step *s, size_t at, const double *scalars, const double *gradient);
/* y = H_i x, with l2 I if there is a basis. */
void second_times(second_step *s, const double *x, double *y);

/* fl_algo.client_step for a rule over a down message that is x alone. */
typedef om_status second_rule(second_step *s);
om_status second_client(const fl_env *e, const second_shape *shape, uint32_t id,
                        void *client, const fl_oracle *f, const uint8_t *down,
                        size_t down_n, buf *up, double *loss, arena scratch,
                        second_rule *rule, om_err *err);
/* The same where the family has read the message: x (dim) is copied. */
om_status second_client_at(const fl_env *e, const second_shape *shape, uint32_t id,
                           void *client, const fl_oracle *f, const double *x, buf *up,
                           double *loss, arena scratch, second_rule *rule, om_err *err);

/* ---- the server ---- */

om_status second_recv(const fl_env *e, const second_shape *s, void *server, uint32_t id,
                      uint64_t samples, const uint8_t *up, size_t up_n, arena scratch,
                      om_err *err);
om_status second_check(const fl_env *e, const second_shape *s, uint32_t id,
                       uint64_t samples, const uint8_t *up, size_t up_n, om_err *err);

/* The sums of the round, checked: *n clients (0: nothing came), g becomes their mean.
 * OM_ELIMIT for what is absurd. */
om_status second_sums(const fl_env *e, const second_server *v, uint64_t *n, om_err *err);
/* Is the round's sum first matrices, which count before the step? */
bool second_whole(const second_server *v, uint64_t n);
/* out (packed) = H, plus the round's sum when `with`. */
void second_matrix(const fl_env *e, const second_server *v, bool with, double *out);
/* H += the round's sum / n_clients. */
void second_learn(const fl_env *e, const second_server *v);

enum { SECOND_B, SECOND_A };
/* step = -(H + l I)^-1 g for option B; with option A, H's eigenvalues raised to mu take the
 * place of H + l I.  A matrix that is not positive definite is helped by the least of a
 * growing series of multiples of I.  h packed. */
om_status second_direction(const fl_env *e, const double *h, double option, double l,
                           double mu, const double *g, double *step, arena scratch,
                           om_err *err);
/* x = next unless it is not finite in float; the round is over. */
om_status second_accept(const fl_env *e, const second_server *v, void *server,
                        const double *next, om_err *err);
/* A whole close: x += second_direction at H of before the round, l the mean of scalar 0;
 * H learns. */
om_status second_newton(const fl_env *e, const second_server *v, void *server,
                        double option, double mu, arena scratch, om_err *err);
double second_slope(const fl_env *e, const void *server);
double second_length(const double *v, size_t d);

/* ---- rows ---- */

/* The functions of a row that a shape alone decides; `shape` is (const fl_env *) ->
 * second_shape. */
#define SECOND_FUNCTIONS(name, shape)                                                      \
    static size_t name##_server_bytes(const fl_env *e)                                     \
    {                                                                                      \
        second_shape s = shape(e);                                                         \
        return second_server_bytes(e, &s);                                                 \
    }                                                                                      \
    static size_t name##_client_bytes(const fl_env *e)                                     \
    {                                                                                      \
        second_shape s = shape(e);                                                         \
        return second_client_bytes(e, &s);                                                 \
    }                                                                                      \
    static size_t name##_scratch_bytes(const fl_env *e)                                    \
    {                                                                                      \
        second_shape s = shape(e);                                                         \
        return second_scratch_bytes(e, &s);                                                \
    }                                                                                      \
    static size_t name##_up_bound(const fl_env *e)                                         \
    {                                                                                      \
        second_shape s = shape(e);                                                         \
        return second_up_bound(e, &s);                                                     \
    }                                                                                      \
    static om_status name##_open(const fl_env *e, void *server, const float *x0,           \
                                 om_err *err)                                              \
    {                                                                                      \
        second_shape s = shape(e);                                                         \
        return second_open(e, &s, server, x0, err);                                        \
    }                                                                                      \
    static om_status name##_recv(const fl_env *e, void *server, uint32_t id,               \
                                 uint64_t samples, const uint8_t *up, size_t up_n,         \
                                 arena scratch, om_err *err)                               \
    {                                                                                      \
        second_shape s = shape(e);                                                         \
        return second_recv(e, &s, server, id, samples, up, up_n, scratch, err);            \
    }                                                                                      \
    static om_status name##_check(const fl_env *e, uint32_t id, uint64_t samples,          \
                                  const uint8_t *up, size_t up_n, float *zeros,            \
                                  om_err *err)                                             \
    {                                                                                      \
        second_shape s = shape(e);                                                         \
        (void)zeros;                                                                       \
        return second_check(e, &s, id, samples, up, up_n, err);                            \
    }
/* A down message that is x alone, and a client that follows a rule. */
#define SECOND_BEGIN(name, shape)                                                          \
    static om_status name##_begin(const fl_env *e, void *server, buf *down, om_err *err)   \
    {                                                                                      \
        second_shape s = shape(e);                                                         \
        return second_begin(e, &s, server, down, err);                                     \
    }
#define SECOND_CLIENT(name, shape, rule)                                                   \
    static om_status name(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,  \
                          const uint8_t *down, size_t down_n, buf *up, double *loss,       \
                          arena scratch, om_err *err)                                      \
    {                                                                                      \
        second_shape s = shape(e);                                                         \
        return second_client(e, &s, id, client, f, down, down_n, up, loss, scratch, rule,  \
                             err);                                                         \
    }
#define SECOND_ROW(name) SECOND_ROW_(name, name##_scratch_bytes)
#define SECOND_ROW_(name, scratch)                                                         \
    .flags = FL_CLIENT_STATE | FL_EVERY_CLIENT, .server_bytes = name##_server_bytes,       \
    .client_bytes = name##_client_bytes, .scratch_bytes = scratch,                         \
    .up_bound = name##_up_bound, .server_open = name##_open, .server_recv = name##_recv,   \
    .server_check = name##_check, .server_begin = name##_begin, .model = average_model,    \
    .slope = second_slope

#endif
