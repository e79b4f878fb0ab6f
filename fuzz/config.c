/* config.c - the YAML configuration: what is accepted is printed and read back to the
 * same configuration. */
#include "cli/config.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static config c, again;
    om_err err = {0};
    if (config_parse("fuzz", data, n, &c, &err) != OM_OK) {
        FUZZ_CHECK(err.msg[0]);
        return 0;
    }
    buf text = buf_growing(1 << 20);
    FUZZ_CHECK(config_print(&c, &text) == OM_OK);
    om_status s = config_parse("printed", text.data, text.len, &again, &err);
    FUZZ_CHECK(s == OM_OK && memcmp(&c, &again, sizeof(c)) == 0);
    buf_free(&text);
    return 0;
}
