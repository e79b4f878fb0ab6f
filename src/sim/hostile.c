/* hostile.c - a simulation under attack: who is hostile, and what they send.
 *
 * Attackers see the whole round, so a wave is then the whole cohort. */
#include "sim/state.h"

static om_status decode(const void *ctx, const uint8_t *in, size_t n, float *y, om_err *err)
{
    const fl_env *e = &((const sim *)ctx)->env;
    return e->up->decode(e->up_p, in, n, 1.0f, y, e->dim, err);
}

enum { USE_FORGED = 0x66636f64 };

static om_status encode(const void *ctx, uint32_t client, const float *x, buf *out,
                        om_err *err)
{
    const sim *s = ctx;
    const fl_env *e = &s->env;
    arena scratch = arena_of(s->scratch, s->scratch_bytes);
    om_status st = e->up->encode(e->up_p, x, e->dim,
                                 rng_for(e->seed, e->round, client, USE_FORGED), scratch,
                                 out);
    return st == OM_OK ? st : fail(err, st, "simulate: a forged update would not encode");
}

om_status hostile_open(sim *s, om_err *err)
{
    const sim_config *c = &s->conf;
    if (!c->attack.row)
        return OM_OK;
    if (!(c->recipe.algo->flags & FL_ROBUST))
        return fail(err, OM_EARG,
                    "simulate: attacks forge updates of the kind fedavg sends; %s sends "
                    "others",
                    c->recipe.algo->name);
    s->hostile = mem_alloc(c->n_clients);
    s->victims = mem_array(c->asked, sizeof(*s->victims));
    s->attack_bytes = attack_bytes(c->asked, c->dim);
    s->attack_room = mem_alloc(s->attack_bytes);
    if (!s->hostile || !s->victims || !s->attack_room)
        return fail(err, OM_ENOMEM, "simulate: no memory for %u updates side by side",
                    (unsigned)c->asked);
    attack_choose(&c->attack, c->seed, c->n_clients, s->hostile);
    return OM_OK;
}

void hostile_close(sim *s)
{
    mem_free(s->hostile);
    mem_free(s->victims);
    mem_free(s->attack_room);
}

om_status hostile_wave(sim *s, size_t n, om_err *err)
{
    attack_round r = {.d = s->conf.dim,
                      .round = s->env.round,
                      .seed = s->conf.seed,
                      .k = s->conf.k,
                      .hostile = s->hostile,
                      .decode = decode,
                      .encode = encode,
                      .ctx = s};
    for (size_t i = 0; i < n; i++) {
        if (s->seat[i].status != OM_OK)
            return OM_OK; /* the round fails of itself */
        s->victims[i] = (attack_seat){s->seat[i].client, &s->seat[i].up};
    }
    return attack_run(&s->conf.attack, &r, s->victims, n,
                      arena_of(s->attack_room, s->attack_bytes), err);
}
