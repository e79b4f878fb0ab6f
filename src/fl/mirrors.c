/* mirrors.c - see mirrors.h. */
#include "fl/mirrors.h"

enum { USE_BUCKETS = 0x6d697272 };
enum { FIRST = 2 }; /* vector */

size_t mirrors_bytes(const fl_env *e)
{
    return average_bytes(e, average_is_robust(e) ? e->n_clients : 1);
}

static size_t aggregate_room(const fl_env *e)
{
    if (!average_is_robust(e))
        return 0;
    return arena_bytes(uint32_t, e->n_clients) +
           aggregate_bytes(e->robust, e->k, e->n_clients, e->pool);
}

size_t mirrors_scratch_bytes(const fl_env *e)
{
    return grad_scratch_bytes(e) + arena_bytes(float, e->dim) + aggregate_room(e);
}

om_status mirrors_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                       const uint8_t *up, size_t up_n, arena scratch, om_err *err)
{
    return grad_recv_kept(e, server, id, samples, up, up_n, false, 0, scratch, err);
}

om_status mirrors_recv_scaled(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                              const uint8_t *up, size_t up_n, arena scratch, om_err *err)
{
    return grad_recv_kept(e, server, id, samples, up, up_n, true, 0, scratch, err);
}

static void follow(const fl_env *e, void *server)
{
    for (uint64_t i = 0; i < average_received(server); i++) {
        uint32_t id;
        const float *step = average_kept(e, i, &id);
        float *g = average_vector(e, server, FIRST + id);
        for (size_t l = 0; l < e->dim; l++)
            g[l] += step[l];
    }
}

om_status mirrors_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    if (!average_is_robust(e))
        return grad_track(e, server, e->n_clients, e->p[GRAD_LR], scratch, err);
    if (average_received(server) == 0)
        return OM_OK;
    follow(e, server); /* as the clients have, whatever comes of the round */
    const float *first = average_vector(e, server, FIRST);
    size_t ld = (size_t)(average_vector(e, server, FIRST + 1) - first);
    cohort rows = {e->n_clients, e->dim, ld, first};
    float *g = average_vector(e, server, 1);
    uint32_t *id = arena_new(&scratch, uint32_t, e->n_clients);
    for (uint32_t i = 0; i < e->n_clients; i++)
        id[i] = i;
    arena room = scratch;
    TRY(aggregate_run(e->robust, &rows, id, rng_for(e->seed, e->round, 0, USE_BUCKETS),
                      e->k, e->pool, g, room, err));
    return grad_move(e, server, g, e->p[GRAD_LR], scratch, err);
}
