/* cli.c - options, answers and progress for every command.  See cli.h. */
#include "cli/cli.h"

#include "cli/parse.h"

#include <stdio.h>
#include <unistd.h>

/* ---- option values ---------------------------------------------------------------- */

static const parsed_option *option(const cli *c, const char *name)
{
    const parsed *p = c->impl_;
    for (uint32_t i = 0; i < p->n; i++)
        if (strcmp(p->option[i].row->name, name) == 0)
            return &p->option[i];
    BUG_IF(true); /* a command asked for an option its table lacks */
    return NULL;
}

const char *cli_str(const cli *c, const char *name)
{
    const parsed_option *o = option(c, name);
    return o->count ? o->value[o->count - 1] : o->row->def;
}

bool cli_flag(const cli *c, const char *name) { return option(c, name)->count > 0; }
bool cli_given(const cli *c, const char *name) { return option(c, name)->count > 0; }
size_t cli_count(const cli *c, const char *name) { return option(c, name)->count; }

const char *cli_nth(const cli *c, const char *name, size_t i)
{
    const parsed_option *o = option(c, name);
    return i < o->count ? o->value[i] : NULL;
}

om_status cli_u64(const cli *c, const char *name, uint64_t min, uint64_t max, uint64_t *out,
                  om_err *err)
{
    const char *s = cli_str(c, name);
    if (!s)
        return fail(err, OM_EARG, "--%s is needed", name);
    if (!str_u64(str_of(s), out) || *out < min || *out > max)
        return fail(err, OM_EARG,
                    "--%s is '%s'; it must be a whole number from %llu to %llu", name, s,
                    (unsigned long long)min, (unsigned long long)max);
    return OM_OK;
}

om_status cli_f64(const cli *c, const char *name, double min, double max, double *out,
                  om_err *err)
{
    const char *s = cli_str(c, name);
    if (!s)
        return fail(err, OM_EARG, "--%s is needed", name);
    if (!str_f64(str_of(s), out) || *out < min || *out > max)
        return fail(err, OM_EARG, "--%s is '%s'; it must be a number from %g to %g", name, s,
                    min, max);
    return OM_OK;
}

om_status cli_choice(const cli *c, const char *name, const char *choices, int *out,
                     om_err *err)
{
    const char *s = cli_str(c, name);
    const param row[] = {{name, 0, 0, 0, "", choices}, {0}};
    double v = 0;
    if (!s)
        return fail(err, OM_EARG, "--%s is needed: one of %s", name, choices);
    TRY(param_set(row, "option", &v, str_of(name), str_of(s), err));
    *out = (int)v;
    return OM_OK;
}

om_status cli_delegate(cli *c, const command *cmd, int argc, char **argv, om_err *err)
{
    cli other = *c;
    parsed *p = mem_alloc(sizeof(*p));
    if (!p)
        return fail(err, OM_ENOMEM, "out of memory");
    other.cmd = cmd;
    other.impl_ = p;
    other.n_operands = 0;
    other.out = buf_growing(c->out.limit);
    om_status s = parse_args(argc, argv, &other, p, err);
    other.json = c->json;
    other.quiet = c->quiet;
    if (s == OM_OK)
        s = cmd->run(&other, err);
    cli_progress_end(&other);
    cli_flush(&other);
    buf_free(&other.out);
    mem_free(p);
    return s;
}

/* ---- answers ---------------------------------------------------------------------- */

void cli_write(cli *c, str s)
{
    if (buf_str(&c->out, s) != OM_OK) { /* full: make room by printing */
        cli_flush(c);
        fwrite(s.p, 1, s.n, stdout);
    }
}

void cli_print(cli *c, const char *fmt, ...)
{
    char line[4096];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    if (n > 0)
        cli_write(c, (str){line, size_min((size_t)n, sizeof(line) - 1)});
}

void cli_flush(cli *c)
{
    if (c->out.len) /* before the first byte there is no data to point at */
        fwrite(c->out.data, 1, c->out.len, stdout);
    fflush(stdout);
    c->out.len = 0;
}

void cli_note(cli *c, const char *fmt, ...)
{
    if (c->quiet)
        return;
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

/* ---- progress --------------------------------------------------------------------- */

om_status cli_size(const cli *c, const char *option, uint64_t *out, om_err *err)
{
    const char *text = cli_str(c, option);
    static const struct {
        char unit;
        double bytes;
    } units[] = {{'K', 1e3}, {'M', 1e6}, {'G', 1e9}, {'T', 1e12}};
    double value, scale = 1;
    *out = 0;
    if (!text)
        return OM_OK;
    str s = str_of(text);
    for (size_t i = 0; i < countof(units) && s.n; i++)
        if ((s.p[s.n - 1] & ~32) == units[i].unit)
            scale = units[i].bytes;
    if (scale > 1)
        s.n--;
    if (!str_f64(s, &value) || value * scale < 1 || value * scale > 1e18)
        return fail(err, OM_EARG, "--%s '%s' is not a size; 800M and 4G are", option, text);
    *out = (uint64_t)(value * scale);
    return OM_OK;
}

const char *cli_bytes(char *out, uint64_t bytes)
{
    static const char *const unit[] = {"B", "kB", "MB", "GB", "TB"};
    double v = (double)bytes;
    size_t u = 0;
    while (v >= 999.5 && u + 1 < countof(unit)) {
        v /= 1000;
        u++;
    }
    snprintf(out, 24, v < 9.95 && u ? "%.1f %s" : "%.0f %s", v, unit[u]);
    return out;
}

const char *cli_duration(char *out, double s)
{
    if (s < 1)
        snprintf(out, 24, "%.0f ms", s * 1000);
    else if (s < 60)
        snprintf(out, 24, "%.1f s", s);
    else if (s < 3600)
        snprintf(out, 24, "%d min %02d s", (int)s / 60, (int)s % 60);
    else
        snprintf(out, 24, "%d h %02d min", (int)(s / 3600), (int)s / 60 % 60);
    return out;
}

static void bar(char out[21], double share)
{
    int full = (int)(share * 20);
    for (int i = 0; i < 20; i++)
        out[i] = i < full ? '#' : '.';
    out[20] = '\0';
}

void cli_progress(void *ctx, const char *what, const char *unit, uint64_t done,
                  uint64_t total)
{
    cli *c = ctx;
    meter *m = &((parsed *)c->impl_)->meter;
    uint64_t now = os_now_ns();
    if (c->quiet)
        return;
    if (m->start_ns == 0 || done < m->last_done)
        *m = (meter){.start_ns = now, .shown_ns = c->tty ? 0 : now};
    m->last_done = done;
    uint64_t pause = c->tty ? 100000000u : 5000000000u;
    if (m->shown_ns && now - m->shown_ns < pause && (done != total || !c->tty))
        return;
    m->shown_ns = now;
    double seconds = (double)(now - m->start_ns) * 1e-9;
    double rate = seconds > 0 ? (double)done / seconds : 0;
    char eta[24] = "?", blocks[21] = "";
    if (rate > 0 && total >= done)
        cli_duration(eta, (double)(total - done) / rate);
    if (total)
        bar(blocks, (double)done / (double)total);
    if (c->tty && total)
        fprintf(stderr, "\r\033[K%s [%s] %llu/%llu %s, %.4g %s/s, %s left", what, blocks,
                (unsigned long long)done, (unsigned long long)total, unit, rate, unit, eta);
    else if (total)
        fprintf(stderr, "%s: %llu/%llu %s, %.4g %s/s, %s left\n", what,
                (unsigned long long)done, (unsigned long long)total, unit, rate, unit, eta);
    else
        fprintf(stderr, "%s%s: %llu %s, %.4g %s/s%s", c->tty ? "\r\033[K" : "", what,
                (unsigned long long)done, unit, rate, unit, c->tty ? "" : "\n");
    m->open = c->tty;
}

void cli_progress_end(cli *c)
{
    meter *m = &((parsed *)c->impl_)->meter;
    if (m->open)
        fputc('\n', stderr);
    *m = (meter){0};
}
