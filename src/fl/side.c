/* side.c - see side.h. */
#include "fl/side.h"
#include "codec/wire.h"

enum { USE_DOWN = 0x32000000, IN_STEP = 0 };

side_codec side_of(double choice, double ratio)
{
    side_codec s;
    const char *name = SIDE_CODECS;
    for (int i = (int)choice; i > 0; i--)
        name = strchr(name, '|') + 1;
    s.c = codec_find((str){name, strcspn(name, "|")});
    BUG_IF(!s.c || param_count(s.c->params) > countof(s.p));
    param_defaults(s.c->params, s.p);
    if (s.c->params && strcmp(s.c->params[0].name, "ratio") == 0)
        s.p[0] = ratio;
    return s;
}

size_t side_down_bound(const fl_env *e, const side_codec *c, uint32_t vectors)
{
    return 1 + size_max(4 * e->dim * vectors, c->c->bound(c->p, e->dim));
}

bool side_in_step(const fl_env *e, void *server)
{
    return *average_note(server, IN_STEP) == (uint64_t)e->round + 1;
}

void side_closed(const fl_env *e, void *server, bool everyone)
{
    *average_note(server, IN_STEP) = everyone ? (uint64_t)e->round + 2 : 0;
}

om_status side_put(const fl_env *e, const side_codec *c, uint32_t round,
                   const float *target, const float *mirror, float *delta, buf *out,
                   om_err *err)
{
    size_t n = c->c->scratch_bytes(c->p, e->dim);
    void *scratch = mem_alloc(n);
    if (!scratch)
        return fail(err, OM_ENOMEM, "no memory to compress the way down");
    for (size_t i = 0; i < e->dim; i++)
        delta[i] = target[i] - mirror[i];
    rng r = rng_for(e->seed, round, 0, USE_DOWN);
    om_status s = c->c->encode(c->p, delta, e->dim, r, arena_of(scratch, n), out);
    mem_free(scratch);
    return s == OM_OK ? s
                      : fail(err, s, "%s could not encode the way down", c->c->name);
}

om_status side_add(const fl_env *e, const side_codec *c, const uint8_t *in, size_t n,
                   float *mirror, om_err *err)
{
    float scale = (float)codec_scale(c->c, c->p, e->dim);
    return c->c->decode(c->p, in, n, scale, mirror, e->dim, err);
}

om_status side_put_whole(const fl_env *e, const float *v, buf *out, om_err *err)
{
    if (buf_reserve(out, 4 * e->dim) != OM_OK)
        return fail(err, OM_ENOMEM, "no room for a vector of %zu numbers", e->dim);
    for (size_t i = 0; i < e->dim; i++, out->len += 4)
        wire_store_f32(out->data + out->len, v[i]);
    return OM_OK;
}
