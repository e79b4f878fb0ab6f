/* rac_lora.c - RAC-LoRA in its federated form (Fed-RAC-LoRA): a chain of low-rank updates,
 * each with one random factor that all share and one that is trained from zero.
 *
 *     round t, factor=a:  B_t random (rows, r), orthonormal columns, the same for all;
 *                         client: A_i = 0, trains f_i(W + s B_t A_i) over A_i alone
 *                         server: A = sum p_i A_i;  W += s B_t A
 *     factor=b:           A_t random (r, cols), orthonormal rows; B is trained and averaged
 *
 * The average is exact: sum p_i B_t A_i = B_t sum p_i A_i.  One full gradient step of every
 * client is W -= lr s^2 H grad f(W), H = B_t B_t', a projection; with r the size of the
 * matrix that is gradient descent.  With the same factor every round the chain stalls.  A
 * client of rank r_i trains the first r_i ranks, the others are zero.
 *
 * Seeds are not sent: round and seed give B_t.  Up: r_i cols floats a matrix (or r_i rows)
 * through the codec.  Down: one byte; the mean factor of the round before to who has
 * followed so far; else W (side.h).  Client state: u64, the next round it has W for, plus 1;
 * from 64 on, W.
 *
 * Malinovsky et al. 2024, arXiv 2410.08305. */
#include "codec/wire.h"
#include "fl/lowrank.h"
#include "fl/side.h"

enum { RANK = LOCAL_PARAMS, SCALE, FACTOR };
enum { HEAD = 64, LAST = 2 }; /* vector: the mean factor of the round before */

static const param params[] = {
    FL_LOCAL_PARAMS,
    [RANK] = {"rank", 8, 1, LOWRANK_MOST, "of the random factor", NULL},
    [SCALE] = {"scale", 1, 1e-6, 1e6, "of the product of the factors", NULL},
    [FACTOR] = {"factor", 0, 0, 1, "which is trained; the other is random", "a|b"},
    {NULL, 0, 0, 0, NULL, NULL},
};

static lowrank_side trained(const fl_env *e) { return e->p[FACTOR] < 0.5 ? SIDE_A : SIDE_B; }
static lowrank_side random_side(const fl_env *e)
{
    return e->p[FACTOR] < 0.5 ? SIDE_B : SIDE_A;
}

static uint32_t most_rank(const fl_env *e)
{
    uint32_t limit = lowrank_limit(e), r = (uint32_t)e->p[RANK];
    return r < limit ? r : limit;
}

static uint32_t rank_of(const fl_env *e, uint32_t id) { return lowrank_rank(e, id, most_rank(e)); }

static size_t numbers(const fl_env *e) { return lowrank_len(e, most_rank(e), trained(e)); }

static size_t frame_numbers(const fl_env *e)
{
    return lowrank_len(e, most_rank(e), random_side(e));
}

static size_t server_bytes(const fl_env *e) { return average_bytes(e, 1); }
static size_t client_bytes(const fl_env *e) { return HEAD + e->dim * sizeof(float); }
static size_t down_bound(const fl_env *e) { return 1 + 4 * size_max(e->dim, numbers(e)); }
static size_t up_bound(const fl_env *e) { return e->up->bound(e->up_p, numbers(e)); }

static size_t scratch_bytes(const fl_env *e)
{
    size_t most = size_max(e->dim, size_max(numbers(e), frame_numbers(e)));
    return lowrank_train_bytes(e) + 4 * (most * sizeof(float) + 64);
}

/* w += scale times the product of z and the frames of that round. */
static om_status add_round(const fl_env *e, uint32_t round, const float *z, float *frames,
                           float *w, om_err *err)
{
    uint32_t r = most_rank(e);
    TRY(lowrank_frames(e, round, r, random_side(e), frames, err));
    lowrank_apply(e, r, trained(e), (float)e->p[SCALE], z, frames, w);
    return OM_OK;
}

/* ---- down ---- */

static om_status server_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    bool part = e->round == 0 || side_in_step(e, server);
    fl_env sub = *e;
    average_fresh(e, server);
    if (buf_u8(down, part ? DOWN_PART : DOWN_WHOLE) != OM_OK)
        return fail(err, OM_ENOMEM, "no room for a model message");
    sub.dim = numbers(e);
    if (!part)
        return side_put_whole(e, average_model(e, server), down, err);
    return e->round ? side_put_whole(&sub, average_vector(e, server, LAST), down, err) : OM_OK;
}

static om_status read_down(const fl_env *e, uint64_t seen, const float *mirror,
                           const uint8_t *down, size_t n, float *z, float *frames, float *w,
                           om_err *err)
{
    fl_env sub = *e;
    sub.dim = numbers(e);
    if (n && down[0] == DOWN_WHOLE)
        return average_read(e, down + 1, n - 1, w, err);
    if (n == 0 || down[0] != DOWN_PART || (e->round && seen != e->round) ||
        (e->round == 0 && n != 1))
        return fail(err, OM_EFORMAT, "the model message is of unknown form, or follows on one "
                                     "this client has not seen");
    memcpy(w, e->round ? mirror : e->shape->start, e->dim * sizeof(float));
    if (e->round == 0)
        return OM_OK;
    TRY(average_read(&sub, down + 1, n - 1, z, err));
    TRY(add_round(e, e->round - 1, z, frames, w, err));
    return wire_first_bad(w, e->dim) == e->dim
               ? OM_OK
               : fail(err, OM_EFORMAT, "the mean factor leads to no model");
}

/* ---- a round ---- */

static om_status client_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                             const uint8_t *down, size_t down_n, buf *up, double *loss,
                             arena scratch, om_err *err)
{
    size_t most = size_max(e->dim, size_max(numbers(e), frame_numbers(e)));
    float *w = arena_alloc(&scratch, sizeof(float), 64, most);
    float *z = arena_alloc(&scratch, sizeof(float), 64, most);
    float *frames = arena_alloc(&scratch, sizeof(float), 64, most);
    float *mirror = (float *)(void *)((char *)client + HEAD);
    uint32_t r = rank_of(e, id);
    size_t n = lowrank_len(e, r, trained(e));
    uint64_t seen;
    memcpy(&seen, client, sizeof(seen));
    TRY(read_down(e, seen, mirror, down, down_n, z, frames, w, err));
    TRY(lowrank_frames(e, e->round, most_rank(e), random_side(e), frames, err));
    memset(z, 0, n * sizeof(float));
    lowrank_view v = {.e = e, .inner = f, .r = r, .side = trained(e),
                      .scale = (float)e->p[SCALE], .w = w, .fixed = frames};
    TRY(lowrank_train(&v, id, z, loss, scratch, err));
    if (wire_first_bad(z, n) < n)
        return fail(err, OM_ELIMIT, "client %u: local training left the finite numbers; "
                                    "lower lr or set clip", (unsigned)id);
    memcpy(mirror, w, e->dim * sizeof(float));
    seen = (uint64_t)e->round + 1;
    memcpy(client, &seen, sizeof(seen));
    om_status s = e->up->encode(e->up_p, z, n, fl_codec_rng(e, id), scratch, up);
    return s == OM_OK ? s : fail(err, s, "client %u: the factor could not be encoded",
                                 (unsigned)id);
}

/* The factor's ranks lie one after another: that of a smaller rank is its beginning. */
static om_status server_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                             const uint8_t *up, size_t up_n, arena scratch, om_err *err)
{
    float weight = e->p[LOCAL_WEIGHTS] < 0.5 ? (float)samples : 1.0f;
    (void)scratch;
    TRY(average_admit(e, server, id, samples, err));
    TRY(e->up->decode(e->up_p, up, up_n, weight, average_vector(e, server, 1),
                      lowrank_len(e, rank_of(e, id), trained(e)), err));
    average_count(server, id, (double)weight);
    return OM_OK;
}

static om_status server_check(const fl_env *e, uint32_t id, uint64_t samples,
                              const uint8_t *up, size_t up_n, float *zeros, om_err *err)
{
    TRY(average_check_head(e, id, samples, err));
    return e->up->decode(e->up_p, up, up_n, 0.0f, zeros,
                         lowrank_len(e, rank_of(e, id), trained(e)), err);
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    size_t most = size_max(e->dim, frame_numbers(e)), n = numbers(e);
    float *w = arena_alloc(&scratch, sizeof(float), 64, most), *mean;
    float *frames = arena_alloc(&scratch, sizeof(float), 64, most);
    uint64_t received = average_received(server);
    TRY(average_mean(e, server, &mean, err));
    if (!mean)
        return OM_OK;
    memcpy(w, average_model(e, server), e->dim * sizeof(float));
    TRY(add_round(e, e->round, mean, frames, w, err));
    memcpy(frames, mean, n * sizeof(float)); /* accepting clears it */
    TRY(average_accept(e, server, w, err));
    memcpy(average_vector(e, server, LAST), frames, n * sizeof(float));
    side_closed(e, server, received == e->n_clients);
    return OM_OK;
}

static om_status check(const fl_recipe *r, om_err *err)
{
    if (r->up->flags & CODEC_JOINT)
        return fail(err, OM_EARG, "rac-lora: clients may differ in rank, and %s deals one "
                                  "vector's places to all; nearest: randk", r->up->name);
    if ((int)r->p[LOCAL_FEEDBACK] == 2)
        return fail(err, OM_EARG, "rac-lora: the random factor is another each round, so an "
                                  "error of the round before means nothing; set "
                                  "error_feedback to auto");
    return local_check(r, err);
}

const fl_algo fl_rac_lora = {
    .name = "rac-lora",
    .summary = "a chain of low-rank updates, one factor random, the other averaged exactly",
    .source = "Malinovsky et al. 2024, arXiv 2410.08305",
    .flags = FL_CLIENT_STATE | FL_MATRICES | FL_RANKS,
    .params = params,
    .check = check,
    .server_bytes = server_bytes,
    .client_bytes = client_bytes,
    .scratch_bytes = scratch_bytes,
    .up_bound = up_bound,
    .down_bound = down_bound,
    .server_open = average_open,
    .server_begin = server_begin,
    .client_step = client_step,
    .server_recv = server_recv,
    .server_check = server_check,
    .server_close = server_close,
    .model = average_model,
};
