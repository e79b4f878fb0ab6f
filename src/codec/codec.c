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
