/* fedit.c - FedIT and FFA-LoRA: the mean of the clients' low-rank factors.
 *
 *     fedit:     A = sum p_i A_i,  B = sum p_i B_i     (A and B averaged each for itself)
 *     ffa_lora:  A stays as the seed gave it and is never sent;  B = sum p_i B_i
 *
 * with p_i = m_i / sum m.  A client of rank r_i has the first r_i ranks, and counts as zero
 * for the others.  The mean of products is not the product of means: FedIT is off by
 * sum p_i B_i A_i - B A, FFA-LoRA is exact since A is one.  With equal ranks FedIT is fedavg
 * on the adapters, bit for bit.  Down: r_i (in + out) floats a matrix, or r_i out;  up:
 * 4 bytes and C of as many.
 *
 * Zhang et al. 2023, arXiv 2305.05644 (FedIT); Sun et al., ICLR 2024, arXiv 2403.12313. */
#include "fl/lowrank.h"

static const param params[] = {FL_LOCAL_PARAMS, {NULL, 0, 0, 0, NULL, NULL}};

static size_t server_bytes(const fl_env *e) { return average_bytes(e, 1); }

static om_status step(const fl_env *e, uint32_t id, void *client, const fl_oracle *f,
                      lowrank_side side, const uint8_t *down, size_t down_n, buf *up,
                      double *loss, arena scratch, om_err *err)
{
    float *z = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    float *y = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    uint32_t r = lowrank_rank(e, id, e->shape->rank);
    size_t n = lowrank_len(e, r, side);
    TRY(pairs_train(e, id, f, r, side, (pairs_pull){0, 0}, down, down_n, z, y, loss,
                    scratch, err));
    for (size_t i = 0; i < n; i++)
        y[i] -= z[i];
    return pairs_send(e, id, client, r, side, y, up, scratch, err);
}

static om_status recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                      lowrank_side side, const uint8_t *up, size_t up_n, arena scratch,
                      om_err *err)
{
    float *z = arena_alloc(&scratch, sizeof(float), 64, e->dim);
    uint32_t r;
    TRY(average_admit(e, server, id, samples, err));
    TRY(pairs_read(e, id, false, side, up, up_n, z, &r, err));
    pairs_add(e, server, id, r, side, e->p[LOCAL_WEIGHTS] < 0.5 ? (double)samples : 1, z);
    return OM_OK;
}

/* The functions of fl_algo, once for each side that travels. */
#define FEDIT_FUNCTIONS(kind, side)                                                        \
    static om_status kind##_begin(const fl_env *e, void *server, buf *down, om_err *err)   \
    {                                                                                      \
        return pairs_begin(e, server, side, down, err);                                    \
    }                                                                                      \
    static size_t kind##_bound(const fl_env *e)                                            \
    {                                                                                      \
        return 4 * lowrank_len(e, e->shape->rank, side);                                   \
    }                                                                                      \
    static size_t kind##_part(const fl_env *e, uint32_t id, const uint8_t *down, size_t n) \
    {                                                                                      \
        (void)down, (void)n;                                                               \
        return pairs_down_part(e, id, side);                                               \
    }                                                                                      \
    static om_status kind##_step(const fl_env *e, uint32_t id, void *client,               \
                                 const fl_oracle *f, const uint8_t *down, size_t down_n,   \
                                 buf *up, double *loss, arena scratch, om_err *err)        \
    {                                                                                      \
        return step(e, id, client, f, side, down, down_n, up, loss, scratch, err);         \
    }                                                                                      \
    static om_status kind##_recv(const fl_env *e, void *server, uint32_t id,               \
                                 uint64_t samples, const uint8_t *up, size_t up_n,         \
                                 arena scratch, om_err *err)                               \
    {                                                                                      \
        return recv(e, server, id, samples, side, up, up_n, scratch, err);                 \
    }                                                                                      \
    static om_status kind##_check(const fl_env *e, uint32_t id, uint64_t samples,          \
                                  const uint8_t *up, size_t up_n, float *zeros,            \
                                  om_err *err)                                             \
    {                                                                                      \
        return pairs_check(e, id, samples, false, side, up, up_n, zeros, err);             \
    }                                                                                      \
    static om_status kind##_close(const fl_env *e, void *server, arena scratch,            \
                                  om_err *err)                                             \
    {                                                                                      \
        return pairs_close(e, server, side, scratch, err);                                 \
    }

FEDIT_FUNCTIONS(both, SIDE_BOTH)
FEDIT_FUNCTIONS(b, SIDE_B)

#define FEDIT_ROW(symbol, name_, summary_, source_, kind)                                  \
    const fl_algo symbol = {                                                               \
        .name = name_,                                                                     \
        .summary = summary_,                                                               \
        .source = source_,                                                                 \
        .flags = FL_CLIENT_STATE | FL_PAIRS | FL_RANKS,                                     \
        .params = params,                                                                  \
        .check = pairs_check_recipe,                                                       \
        .server_bytes = server_bytes,                                                      \
        .client_bytes = local_client_bytes,                                                \
        .scratch_bytes = pairs_scratch_bytes,                                              \
        .up_bound = pairs_up_bound,                                                        \
        .down_bound = kind##_bound,                                                        \
        .down_part = kind##_part,                                                          \
        .server_open = average_open,                                                       \
        .server_begin = kind##_begin,                                                      \
        .client_step = kind##_step,                                                        \
        .server_recv = kind##_recv,                                                        \
        .server_check = kind##_check,                                                      \
        .server_close = kind##_close,                                                      \
        .model = average_model,                                                            \
    }

FEDIT_ROW(fl_fedit, "fedit", "low-rank factors averaged each for itself, ranks may differ",
          "Zhang et al. 2023, arXiv 2305.05644", both);
FEDIT_ROW(fl_ffa_lora, "ffa-lora", "low-rank adapters whose A is frozen: B averaged exactly",
          "Sun et al., ICLR 2024, arXiv 2403.12313", b);
