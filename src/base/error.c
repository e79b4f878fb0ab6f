/* error.c - status names, the error report, log lines. */
#include "base/base.h"

#include <stdio.h>

const char *om_version(void) { return OM_VERSION; }

const char *om_status_name(om_status s)
{
    switch (s) {
#define X(name, value, text) \
    case OM_##name: return #name;
        OM_STATUS_MAP(X)
#undef X
    }
    return "UNKNOWN";
}

const char *om_status_text(om_status s)
{
    switch (s) {
#define X(name, value, text) \
    case OM_##name: return text;
        OM_STATUS_MAP(X)
#undef X
    }
    return "unknown status";
}

static om_status report(om_err *err, om_status code, uint64_t pos, const char *fmt,
                        va_list ap)
{
    if (err) {
        vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
        err->code = code;
        err->pos = pos;
    }
    return code;
}

om_status fail(om_err *err, om_status code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    report(err, code, 0, fmt, ap);
    va_end(ap);
    return code;
}

om_status fail_at(om_err *err, om_status code, uint64_t pos, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    report(err, code, pos, fmt, ap);
    va_end(ap);
    return code;
}

om_status fail_in(om_err *err, om_status code, const char *what)
{
    if (err) {
        char inner[sizeof(err->msg)];
        memcpy(inner, err->msg, sizeof(inner));
        inner[sizeof(inner) - 1] = '\0';
        snprintf(err->msg, sizeof(err->msg), "%.120s: %.170s", what, inner);
        err->code = code;
    }
    return code;
}

void log_to(const log_sink *s, log_level level, const char *fmt, ...)
{
    if (!s || !s->fn || level < s->least)
        return;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    s->fn(s->ctx, level, line);
}
