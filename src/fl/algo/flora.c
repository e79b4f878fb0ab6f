/* flora.c - FLoRA: the clients' factors stacked, so that the sum of their products is exact
 * for any ranks.
 *
 *     client: A_i as it begins each round (uniform in +-1/sqrt(cols)), B_i = 0;
 *             trains f_i(W + s_i B_i A_i), s_i = alpha / r_i;  sends what became of both,
 *             less what A_i began as, which the seed tells the server too
 *     server: the stack A = [p_1 s_1 A_1; p_2 s_2 A_2; ...], B = [B_1, B_2, ...], p_i the
 *             share of the samples, whose product is sum p_i s_i B_i A_i;  W += B A
 *     down:   the stack of the round before to who has followed so far; else W
 *
 * The stack is applied by server and clients in one order, so their W are equal in every
 * bit.  Whoever was away makes the next message whole (side.h).  The vector is the matrices
 * themselves (model.adaptation matrices).
 *
 * Client state: u64, the next round it has W for, plus 1; then, from 64 on, W.  Server: the
 * stack after the vectors: its length, then for each client rank, weight, factors.  Down
 * message: one byte; W, or n clients: u32 r, f32 p s, factors.  Up: u32 r, C(differences).
 *
 * Wang et al., NeurIPS 2024, arXiv 2409.05976. */
#include "codec/wire.h"
#include "fl/lowrank.h"
#include "fl/side.h"

#include <math.h>

enum { RANK = LOCAL_PARAMS, ALPHA };
enum { HEAD = 64, USE_A = 0x38000000 };

static const param params[] = {
    FL_LOCAL_PARAMS,
    [RANK] = {"rank", 8, 1, LOWRANK_MOST, "of a client that has none of its own", NULL},
    [ALPHA] = {"alpha", 16, 1e-6, 1e6, "a client's scale is alpha / its rank", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static uint32_t most_rank(const fl_env *e)
{
    uint32_t limit = lowrank_limit(e), r = (uint32_t)e->p[RANK];
    for (uint32_t i = 0; i < e->shape->n_ranks; i++)
        r = i == 0 || e->shape->ranks[i] > r ? e->shape->ranks[i] : r;
    return r < limit ? r : limit;
}

static uint32_t rank_of(const fl_env *e, uint32_t id)
{
    uint32_t limit = lowrank_limit(e), r = lowrank_rank(e, id, UINT32_MAX);
    r = e->shape->n_ranks ? r : (uint32_t)e->p[RANK];
    return r < limit ? r : limit;
}

static size_t most_numbers(const fl_env *e)
{
    return lowrank_len(e, most_rank(e), SIDE_BOTH);
}

/* ---- the stack ---- */

typedef struct {
    uint64_t n; /* clients in it */
    uint64_t zero[7];
} stack_head;

typedef struct {
    uint32_t r;
    float weight; /* while a round lasts the client's samples, then p s */
} entry;

static size_t entry_bytes(const fl_env *e)
{
    return size_align(sizeof(entry) + most_numbers(e) * sizeof(float), 64);
}

static size_t stack_at(const fl_env *e) { return average_bytes(e, 0); }

/* Two: of the round before, which is sent, and of this one. */
static size_t stack_bytes(const fl_env *e)
{
    return sizeof(stack_head) + e->cohort * entry_bytes(e);
}

static stack_head *stack_of(const fl_env *e, void *server, int which)
{
    return (stack_head *)(void *)((char *)server + stack_at(e) +
                                  (size_t)which * stack_bytes(e));
}

static entry *entry_of(const fl_env *e, stack_head *s, uint64_t i)
{
    return (entry *)(void *)((char *)(s + 1) + i * entry_bytes(e));
}

static float *factors_of(entry *x) { return (float *)(void *)(x + 1); }

static size_t server_bytes(const fl_env *e) { return stack_at(e) + 2 * stack_bytes(e); }

/* ---- down ---- */

static size_t down_bound(const fl_env *e)
{
    size_t stack = e->cohort * (8 + 4 * most_numbers(e));
    return 1 + size_max(4 * e->dim, stack);
}

static om_status put_stack(const fl_env *e, stack_head *s, buf *down, om_err *err)
{
    for (uint64_t i = 0; i < s->n; i++) {
        entry *x = entry_of(e, s, i);
        size_t n = lowrank_len(e, x->r, SIDE_BOTH);
        if (buf_reserve(down, 8 + 4 * n) != OM_OK)
            return fail(err, OM_ENOMEM, "no room for a stack of factors");
        wire_store(down->data + down->len, x->r);
        wire_store_f32(down->data + down->len + 4, x->weight);
        down->len += 8;
        for (size_t k = 0; k < n; k++, down->len += 4)
            wire_store_f32(down->data + down->len, factors_of(x)[k]);
    }
    return OM_OK;
}

static om_status server_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    bool part = e->round == 0 || side_in_step(e, server);
    average_fresh(e, server);
    stack_of(e, server, 1)->n = 0;
    if (buf_u8(down, part ? DOWN_PART : DOWN_WHOLE) != OM_OK)
        return fail(err, OM_ENOMEM, "no room for a model message");
    return part ? put_stack(e, stack_of(e, server, 0), down, err)
                : side_put_whole(e, average_model(e, server), down, err);
}

/* One client of the stack onto w; z is room.  False: the message is malformed. */
static bool take_entry(const fl_env *e, cursor *c, float *z, float *w)
{
    const uint8_t *head = cursor_take(c, 8);
    uint32_t r = head ? wire_load(head) : 0;
    if (r < 1 || r > most_rank(e) || !wire_all_finite(head + 4, 1))
        return false;
    size_t n = lowrank_len(e, r, SIDE_BOTH);
    const uint8_t *p = cursor_take(c, 4 * n);
    if (!p || !wire_all_finite(p, n))
        return false;
    for (size_t i = 0; i < n; i++)
        z[i] = wire_load_f32(p + 4 * i);
    lowrank_apply(e, r, SIDE_BOTH, wire_load_f32(head + 4), z, NULL, w);
    return true;
}

static float *mirror_of(void *client) { return (float *)(void *)((char *)client + HEAD); }

/* The model of the round, onto w (dim). */
static om_status read_down(const fl_env *e, uint64_t seen, const float *mirror,
                           const uint8_t *down, size_t n, float *z, float *w, om_err *err)
{
    cursor c = cursor_of(down, n);
    uint8_t kind = cursor_u8(&c);
    uint32_t entries = 0;
    if (n && kind == DOWN_WHOLE)
        return average_read(e, down + 1, n - 1, w, err);
    if (n == 0 || kind != DOWN_PART || (e->round && seen != e->round))
        return fail(err, OM_EFORMAT, "the model message is of unknown form, or follows on one "
                                     "this client has not seen");
    memcpy(w, e->round ? mirror : e->shape->start, e->dim * sizeof(float));
    for (; c.pos < n; entries++)
        if (entries == e->cohort || !take_entry(e, &c, z, w))
            return fail(err, OM_EFORMAT, "the stack of factors is malformed at byte %zu", c.pos);
    if (wire_first_bad(w, e->dim) < e->dim || (e->round && entries == 0))
        return fail(err, OM_EFORMAT, "the stack of factors leads to no model");
    return OM_OK;
}

/* ---- a round ---- */

static size_t client_bytes(const fl_env *e) { return HEAD + e->dim * sizeof(float); }

static size_t scratch_bytes(const fl_env *e)
{
    return lowrank_train_bytes(e) + 4 * (size_max(e->dim, most_numbers(e)) * sizeof(float) + 64);
}

static size_t up_bound(const fl_env *e)
{
    return 4 + e->up->bound(e->up_p, most_numbers(e));
}

/* A uniform in +-1/sqrt(cols), as adapters begin; B = 0. */
static void begin_factors(const fl_env *e, uint32_t id, uint32_t r, float *z)
{
    size_t step = lowrank_len(e, 1, SIDE_BOTH), at = 0;
    memset(z, 0, r * step * sizeof(float));
    for (uint32_t i = 0; i < e->shape->n; i++) {
        const fl_matrix *m = &e->shape->m[i];
        rng g = rng_for(e->seed, e->round, id, USE_A + i);
        double bound = 1 / sqrt((double)m->cols);
        for (uint32_t j = 0; j < r; j++)
            for (uint32_t c = 0; c < m->cols; c++)
                z[j * step + at + c] = (float)((2 * rng_unit(&g) - 1) * bound);
        at += m->cols + m->rows;
    }
}

static om_status client_step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                             const uint8_t *down, size_t down_n, buf *up, double *loss,
                             arena scratch, om_err *err)
{
    size_t most = size_max(e->dim, most_numbers(e));
    float *w = arena_alloc(&scratch, sizeof(float), 64, most);
    float *z = arena_alloc(&scratch, sizeof(float), 64, most);
    float *z0 = arena_alloc(&scratch, sizeof(float), 64, most);
    uint32_t r = rank_of(e, id);
    uint64_t seen;
    size_t n = lowrank_len(e, r, SIDE_BOTH);
    memcpy(&seen, client, sizeof(seen));
    TRY(read_down(e, seen, mirror_of(client), down, down_n, z, w, err));
    begin_factors(e, id, r, z0);
    memcpy(z, z0, n * sizeof(float));
    lowrank_view v = {.e = e, .inner = f, .r = r, .side = SIDE_BOTH,
                      .scale = (float)(e->p[ALPHA] / r), .w = w};
    TRY(lowrank_train(&v, id, z, loss, scratch, err));
    if (wire_first_bad(z, n) < n)
        return fail(err, OM_ELIMIT, "client %u: local training left the finite numbers; "
                                    "lower lr or set clip", (unsigned)id);
    for (size_t i = 0; i < n; i++)
        z[i] -= z0[i];
    memcpy(mirror_of(client), w, e->dim * sizeof(float));
    seen = (uint64_t)e->round + 1;
    memcpy(client, &seen, sizeof(seen));
    om_status s = buf_u32(up, r);
    if (s == OM_OK)
        s = e->up->encode(e->up_p, z, n, fl_codec_rng(e, id), scratch, up);
    return s == OM_OK ? s : fail(err, s, "client %u: the factors could not be encoded",
                                 (unsigned)id);
}

static om_status read_up(const fl_env *e, uint32_t id, const uint8_t *up, size_t up_n,
                         float by, float *z, om_err *err)
{
    uint32_t r = rank_of(e, id);
    if (up_n < 4 || wire_load(up) != r)
        return fail(err, OM_EFORMAT, "client %u sends no factors of rank %u", (unsigned)id,
                    (unsigned)r);
    return e->up->decode(e->up_p, up + 4, up_n - 4, by, z, lowrank_len(e, r, SIDE_BOTH), err);
}

static om_status server_check(const fl_env *e, uint32_t id, uint64_t samples,
                              const uint8_t *up, size_t up_n, float *zeros, om_err *err)
{
    size_t n = lowrank_len(e, rank_of(e, id), SIDE_BOTH);
    TRY(average_check_head(e, id, samples, err));
    if (n <= e->dim)
        return read_up(e, id, up, up_n, 0, zeros, err);
    float *room = mem_array(n, sizeof(float)); /* factors of a full rank outgrow the matrix */
    om_status s = room ? read_up(e, id, up, up_n, 0, room, err)
                       : fail(err, OM_ENOMEM, "no memory for %zu numbers", n);
    mem_free(room);
    return s;
}

static om_status server_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                             const uint8_t *up, size_t up_n, arena scratch, om_err *err)
{
    uint32_t r = rank_of(e, id);
    size_t n = lowrank_len(e, r, SIDE_BOTH);
    stack_head *s = stack_of(e, server, 1);
    float *z = arena_alloc(&scratch, sizeof(float), 64, n);
    float weight = e->p[LOCAL_WEIGHTS] < 0.5 ? (float)samples : 1.0f;
    TRY(average_admit(e, server, id, samples, err));
    if (s->n >= e->cohort)
        return fail(err, OM_ELIMIT, "update %llu of a round of %u",
                    (unsigned long long)s->n + 1, (unsigned)e->cohort);
    begin_factors(e, id, r, z);
    TRY(read_up(e, id, up, up_n, 1, z, err));
    entry *x = entry_of(e, s, s->n++);
    *x = (entry){r, weight};
    memcpy(factors_of(x), z, n * sizeof(float));
    average_count(server, id, (double)weight);
    return OM_OK;
}

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    stack_head *s = stack_of(e, server, 1);
    float *w = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    uint64_t received = average_received(server);
    double all = average_weight(server);
    if (received == 0)
        return OM_OK;
    memcpy(w, average_model(e, server), e->dim * sizeof(float));
    for (uint64_t i = 0; i < s->n; i++) {
        entry *x = entry_of(e, s, i);
        x->weight = (float)((double)x->weight / all * e->p[ALPHA] / x->r);
        lowrank_apply(e, x->r, SIDE_BOTH, x->weight, factors_of(x), NULL, w);
    }
    for (size_t i = 0; i < e->dim; i++)
        if (!(w[i] >= -1e15f && w[i] <= 1e15f))
            return fail(err, OM_ELIMIT, "the stacked factors of %llu clients lead to %g at "
                                        "number %zu; the model is kept",
                        (unsigned long long)received, (double)w[i], i);
    TRY(average_accept(e, server, w, err));
    memcpy(stack_of(e, server, 0), s, stack_bytes(e));
    memset(s, 0, stack_bytes(e));
    side_closed(e, server, received == e->n_clients);
    return OM_OK;
}

static om_status check(const fl_recipe *r, om_err *err)
{
    if (r->up->flags & CODEC_JOINT)
        return fail(err, OM_EARG, "flora: clients differ in rank, and %s deals one vector's "
                                  "places to all; nearest: randk", r->up->name);
    if ((int)r->p[LOCAL_FEEDBACK] == 2)
        return fail(err, OM_EARG, "flora: factors begin anew each round, so an error of the "
                                  "round before means nothing; set error_feedback to auto");
    return local_check(r, err);
}

const fl_algo fl_flora = {
    .name = "flora",
    .summary = "low-rank factors stacked: the sum of products exact for any ranks",
    .source = "Wang et al., NeurIPS 2024, arXiv 2409.05976",
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
