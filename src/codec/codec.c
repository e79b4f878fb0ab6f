/* codec.c - the table of update compressors. */
#include "codec/codec.h"

#define X(name) extern const codec codec_##name;
#include "codec/list.h"
#undef X

const codec *const codecs[] = {
#define X(name) &codec_##name,
#include "codec/list.h"
#undef X
    NULL};

const codec *codec_find(str name)
{
    for (size_t i = 0; codecs[i]; i++)
        if (str_is(name, codecs[i]->name))
            return codecs[i];
    return NULL;
}

om_status codec_need(str name, const codec **out, om_err *err)
{
    const char *names[countof(codecs)];
    *out = codec_find(name);
    if (*out)
        return OM_OK;
    for (size_t i = 0; i < countof(codecs); i++)
        names[i] = codecs[i] ? codecs[i]->name : NULL;
    return fail(err, OM_ENOTFOUND, "there is no codec '%.*s'; did you mean '%s'?",
                (int)size_min(name.n, 40), name.p, nearest_name(names, name));
}

double codec_alpha(const codec *c, const double *p, size_t d)
{
    return c->alpha ? c->alpha(p, d) : c->omega ? 1 / (1 + c->omega(p, d)) : 0;
}

double codec_scale(const codec *c, const double *p, size_t d)
{
    return c->alpha || !c->omega ? 1 : 1 / (1 + c->omega(p, d));
}

om_status codec_feedback(const codec *c, const double *p, float *v, float *error, size_t d,
                         rng r, arena scratch, buf *out, om_err *err)
{
    size_t from = out->len;
    for (size_t i = 0; i < d; i++)
        v[i] += error[i];
    om_status s = c->encode(p, v, d, r, scratch, out);
    if (s != OM_OK)
        return fail(err, s, "%s could not encode the update", c->name);
    memcpy(error, v, d * sizeof(float));
    return c->decode(p, out->data + from, out->len - from, -1.0f, error, d, err);
}
