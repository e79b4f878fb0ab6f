/* hostile.c - a simulation under attack: who is hostile, and what they send.
 *
 * Attackers see the whole round, so a wave is then the whole cohort. */
#include "sim/state.h"

static om_status decode(const void *ctx, const uint8_t *in, size_t n, float *y, om_err *err)
{
    const sim *s = ctx;
    const fl_env *e = &s->env;
    const fl_algo *a = s->conf.recipe.algo;
    if (a->up_read)
        return a->up_read(e, in, n, y, err);
    return e->up->decode(e->up_p, in, n, 1.0f, y, e->dim, err);
}

enum { USE_FORGED = 0x66636f64 };

static om_status encode(const void *ctx, uint32_t client, const float *x, buf *out,
                        om_err *err)
{
    const sim *s = ctx;
    const fl_env *e = &s->env;
    const fl_algo *a = s->conf.recipe.algo;
    arena scratch = arena_of(s->scratch, s->scratch_bytes);
    rng r = rng_for(e->seed, e->round, client, USE_FORGED);
    if (a->up_write)
        return a->up_write(e, s->forged_kind, x, r, out, scratch, err);
    om_status st = e->up->encode(e->up_p, x, e->dim, r, scratch, out);
    return st == OM_OK ? st : fail(err, st, "simulate: a forged update would not encode");
}

om_status hostile_open(sim *s, om_err *err)
{
    const sim_config *c = &s->conf;
    if (!c->attack.row)
        return OM_OK;
    if (!(c->recipe.algo->flags & FL_ROBUST) && !c->recipe.algo->up_read)
        return fail(err, OM_EARG,
                    "simulate: attacks forge updates of the kinds that fedavg and ef21 send; "
                    "%s sends others; nearest: fedavg",
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
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        buf *up = &s->seat[i].up;
        if (s->seat[i].status != OM_OK)
            return OM_OK; /* the round fails of itself */
        if (s->conf.recipe.algo->up_read && up->len == 1)
            continue; /* it was not drawn, and has nothing to say */
        s->forged_kind = up->data[0];
        s->victims[m++] = (attack_seat){s->seat[i].client, up};
    }
    return attack_run(&s->conf.attack, &r, s->victims, m,
                      arena_of(s->attack_room, s->attack_bytes), err);
}
