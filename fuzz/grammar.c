/* grammar.c - any schema and any grammar text: what compiles can be matched, and a text
 * that is sampled from a schema under the mask parses as JSON.  The first byte chooses. */
#include "fuzz.h"
#include "llm/grammar.h"

/* Feed the bytes that come first among those allowed, `seed` deciding, until the end. */
static void follow(gmatch *m, const uint8_t *seed, size_t n, buf *out)
{
    static const char likely[] = "\"}]0:,a-1{[tn ";
    om_err err;
    for (size_t i = 0; i < 300 && !(gmatch_can_end(m) && i >= n); i++) {
        char c = i < n ? (char)seed[i] : likely[i % (sizeof(likely) - 1)];
        for (int k = 0; k < 256; k++, c++)
            if (gmatch_bytes(m, (str){&c, 1}, &err) == OM_OK) {
                buf_u8(out, (uint8_t)c);
                break;
            }
    }
}

static void match(const grammar *g, const uint8_t *data, size_t n, bool is_json)
{
    gmatch *m;
    json_doc doc;
    om_err err;
    buf out = buf_growing(1 << 20);
    if (gmatch_open(g, NULL, &m, &err) != OM_OK)
        return;
    for (int k = 0; k < 2; k++) {
        out.len = 0;
        if (gmatch_restart(m, &err) != OM_OK)
            break;
        follow(m, data, k ? size_min(n, 40) : 0, &out);
        if (is_json && gmatch_can_end(m)) {
            FUZZ_CHECK(json_parse(out.data, out.len, 0, &doc, &err) == OM_OK);
            json_close(&doc);
        }
    }
    buf_free(&out);
    gmatch_close(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    json_doc doc;
    grammar *g = NULL;
    om_err err = {0};
    if (n == 0 || n > 4096)
        return 0;
    bool schema = data[0] == 's';
    if (!schema) {
        if (grammar_from_text((str){(const char *)data + 1, n - 1}, &g, &err) != OM_OK)
            FUZZ_CHECK(!g && err.msg[0]);
    } else if (json_parse(data + 1, n - 1, 4096, &doc, &err) == OM_OK) {
        if (grammar_from_schema(doc.root, &g, &err) != OM_OK)
            FUZZ_CHECK(!g && err.msg[0]);
        json_close(&doc);
    }
    if (g)
        match(g, data, n, schema);
    grammar_close(g);
    return 0;
}
