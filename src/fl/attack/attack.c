/* attack.c - see attack.h: the registry, who is hostile, and a round under attack. */
#include "fl/attack/attack.h"

#include "fl/algo.h"

#include <math.h>

#define X(name) extern const attack attack_##name;
#include "fl/attack/list.h"
#undef X

const attack *const attacks[] = {
#define X(name) &attack_##name,
#include "fl/attack/list.h"
#undef X
    NULL};

om_status attack_need(str name, const attack **out, om_err *err)
{
    const char *names[countof(attacks)];
    for (size_t i = 0; i < countof(attacks); i++) {
        names[i] = attacks[i] ? attacks[i]->name : NULL;
        if (attacks[i] && str_is(name, attacks[i]->name)) {
            *out = attacks[i];
            return OM_OK;
        }
    }
    return fail(err, OM_ENOTFOUND, "there is no attack '%.*s'; did you mean '%s'?",
                (int)size_min(name.n, 40), name.p, nearest_name(names, name));
}

enum { USE_HOSTILE = 0x686f7374, USE_FORGE = 0x666f7267, USE_SHARED = 0x73686172 };

/* A first part of a shuffle. */
uint32_t attack_choose(const attack_rule *a, uint64_t seed, uint32_t n, uint8_t *hostile)
{
    uint32_t want = a->row ? (uint32_t)(a->p[ATTACK_PART] * n + 1e-9) : 0;
    uint64_t key = rng_for(seed, 0, 0, USE_HOSTILE).key;
    memset(hostile, 0, n);
    for (uint32_t i = 0; i < want; i++)
        hostile[fl_pick(key, n, i)] = 1;
    return want;
}

size_t attack_bytes(size_t n, size_t d) { return (n + 4) * arena_bytes(float, d) + 64; }

/* Honest rows first, then the hostile, each kind in order of seats. */
static om_status decode_all(const attack_round *r, const attack_seat *seat, size_t n,
                            float *row, size_t *honest, om_err *err)
{
    size_t at = 0;
    for (int kind = 0; kind < 2; kind++) {
        for (size_t i = 0; i < n; i++) {
            if (r->hostile[seat[i].client] != kind)
                continue;
            memset(row + at * r->d, 0, r->d * sizeof(float));
            TRY(r->decode(r->ctx, seat[i].message->data, seat[i].message->len,
                          row + at * r->d, err));
            at++;
        }
        *honest = kind == 0 ? at : *honest;
    }
    return OM_OK;
}

static void moments(const cohort *c, float *mean, float *dev)
{
    double n = c->n ? (double)c->n : 1;
    for (size_t l = 0; l < c->d; l++) {
        double sum = 0, square = 0;
        for (size_t i = 0; i < c->n; i++) {
            double x = (double)c->v[i * c->ld + l];
            sum += x, square += x * x;
        }
        mean[l] = (float)(sum / n);
        double var = square / n - sum / n * (sum / n);
        dev[l] = var > 0 ? (float)sqrt(var) : 0;
    }
}

om_status attack_run(const attack_rule *a, const attack_round *r, attack_seat *seat,
                     size_t n, arena room, om_err *err)
{
    size_t d = r->d, honest = 0, at = 0;
    float *row = arena_new(&room, float, n *d), *mean = arena_new(&room, float, d);
    float *dev = arena_new(&room, float, d), *out = arena_new(&room, float, d);
    TRY(decode_all(r, seat, n, row, &honest, err));
    attack_view v = {.honest = {honest, d, d, row},
                     .mean = mean,
                     .dev = dev,
                     .hostile = n - honest,
                     .first = row + honest * d,
                     .p = a->p,
                     .shared = rng_for(r->seed, r->round, 0, USE_SHARED)};
    moments(&v.honest, mean, dev);
    for (size_t i = 0; i < n; i++) {
        if (!r->hostile[seat[i].client])
            continue;
        v.own = row + (honest + at++) * d;
        v.r = rng_for(r->seed, r->round, seat[i].client, USE_FORGE);
        if (a->row->flags & ATTACK_BYTES) {
            a->row->corrupt(&v, seat[i].message->data, seat[i].message->len);
            continue;
        }
        a->row->forge(&v, out);
        seat[i].message->len = 0;
        TRY(r->encode(r->ctx, seat[i].client, out, seat[i].message, err));
    }
    return OM_OK;
}

/* ---- poisoned data ---- */

void poison_labels(const int32_t *label, size_t n, uint32_t classes, int32_t *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (int32_t)classes - 1 - label[i];
}

void poison_trigger(uint8_t *rows, size_t n, uint32_t height, uint32_t width)
{
    for (size_t i = 0; i < n; i++)
        for (uint32_t y = 0; y < 3 && y < height; y++)
            for (uint32_t x = 0; x < 3 && x < width; x++)
                rows[(i * height + y) * width + x] = 255;
}
