/* codec.c - update messages: the first byte of the input chooses the codec, the second
 * its parameters and the length of the vector.  A refused message leaves y alone, an
 * accepted one makes it finite. */
#include "codec/codec.h"
#include "codec/wire.h"
#include "fuzz.h"

enum { MOST = 200 };

static void choose(const codec *c, uint8_t how, double *p)
{
    param_defaults(c->params, p);
    for (size_t i = 0; c->params && c->params[i].name; i++) {
        const param *row = &c->params[i];
        if (strcmp(row->name, "ratio") == 0)
            p[i] = 1.0 / (1 + how % 16);
        if (strcmp(row->name, "bits") == 0)
            p[i] = 2 + how % 7;
        if (strcmp(row->name, "bucket") == 0)
            p[i] = 1 + how % 64;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 2)
        return 0;
    size_t n_codecs = 0;
    while (codecs[n_codecs])
        n_codecs++;
    const codec *c = codecs[data[0] % n_codecs];
    size_t d = data[1] % (MOST + 1);
    double p[16];
    float y[MOST] = {0};
    choose(c, data[1], p);
    om_err err = {0};
    om_status s = c->decode(p, data + 2, n - 2, 2.0f / 3, y, d, &err);
    FUZZ_CHECK(s == OM_OK || (s == OM_EFORMAT && err.msg[0]));
    FUZZ_CHECK(s != OM_OK || n - 2 <= c->bound(p, d));
    for (size_t i = 0; i < MOST; i++) {
        FUZZ_CHECK(wire_finite(wire_bits(y[i])));
        FUZZ_CHECK(y[i] == 0 || (s == OM_OK && i < d));
    }
    return 0;
}
