/* number.c - decimal text: str_f64 and the C library agree on every plain decimal, and
 * json_put_f64 writes what is read back. */
#include "base/json.h"
#include "fuzz.h"

#include <ctype.h>
#include <math.h>

static bool plain(const char *z) /* strtod also takes hex, names and leading space */
{
    for (; *z; z++)
        if (!isdigit((unsigned char)*z) && !strchr("+-.eE", *z))
            return false;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n > 5000)
        return 0;
    char *z = calloc(1, n + 1), *end;
    FUZZ_CHECK(z);
    if (n)
        memcpy(z, data, n);
    double v = 0;
    bool ok = str_f64((str){(const char *)data, n}, &v);
    if (plain(z) && strlen(z) == n) {
        double want = strtod(z, &end);
        bool whole = n && end == z + n;
        FUZZ_CHECK(ok == (whole && isfinite(want)));
        FUZZ_CHECK(!ok || (v == want && signbit(v) == signbit(want)));
    } else {
        FUZZ_CHECK(!ok);
    }
    if (ok) {
        uint8_t raw[64];
        buf b = buf_fixed(raw, sizeof(raw));
        json_out o = json_to(&b);
        double back = 0;
        json_put_f64(&o, NULL, v);
        FUZZ_CHECK(o.status == OM_OK);
        FUZZ_CHECK(str_f64((str){(const char *)raw, b.len}, &back) && back == v);
    }
    free(z);
    return 0;
}
