/* sweep.c - see sweep.h. */
#include "cli/sweep.h"
#include "cli/plot.h"

#include <math.h>
#include <stdio.h>

enum { PLOTTED = 16 }; /* more lines than this nobody can tell apart */

/* ---- what to run ---- */

static size_t count(str values)
{
    size_t n = 1;
    for (size_t i = 0; i < values.n; i++)
        n += values.p[i] == ',';
    return n;
}

om_status sweep_parse(const cli *c, sweep *out, om_err *err)
{
    *out = (sweep){.n_runs = 1};
    for (size_t i = 0; i < cli_count(c, "sweep"); i++) {
        str one = str_of(cli_nth(c, "sweep", i));
        const char *eq = memchr(one.p, '=', one.n);
        if (!eq || eq == one.p || eq + 1 == one.p + one.n)
            return fail(err, OM_EARG, "--sweep takes KEY=VALUE,VALUE..., found '%s'",
                        one.p);
        if (out->n_axes == SWEEP_AXES)
            return fail(err, OM_ELIMIT, "more than %d keys to sweep", SWEEP_AXES);
        sweep_axis *a = &out->axis[out->n_axes++];
        a->key = (str){one.p, (size_t)(eq - one.p)};
        a->values = str_of(eq + 1);
        a->n = count(a->values);
        out->n_runs *= a->n;
        if (out->n_runs > SWEEP_RUNS)
            return fail(err, OM_ELIMIT, "a sweep of more than %d runs", SWEEP_RUNS);
    }
    return OM_OK;
}

static str nth(str values, size_t i)
{
    for (;; i--) {
        const char *comma = memchr(values.p, ',', values.n);
        size_t n = comma ? (size_t)(comma - values.p) : values.n;
        if (i == 0)
            return (str){values.p, n};
        values = (str){values.p + n + 1, values.n - n - 1};
    }
}

str sweep_value(const sweep *s, size_t r, size_t axis)
{
    for (size_t a = s->n_axes - 1; a > axis; a--)
        r /= s->axis[a].n;
    return nth(s->axis[axis].values, r % s->axis[axis].n);
}

void sweep_name(const sweep *s, size_t r, char out[SWEEP_NAME])
{
    buf b = buf_fixed(out, SWEEP_NAME - 1);
    for (size_t a = 0; a < s->n_axes; a++) {
        str key = s->axis[a].key, value = sweep_value(s, r, a);
        const char *dot = memchr(key.p, '.', key.n);
        if (dot && !str_ends(key, ".name"))
            key = (str){dot + 1, key.n - (size_t)(dot + 1 - key.p)};
        buf_fmt(&b, "%s%.*s=%.*s", a ? " " : "", (int)key.n, key.p, (int)value.n, value.p);
    }
    out[b.len] = '\0'; /* cut when it does not fit */
}

/* ---- reading a run back ---- */

void sweep_run_clear(sweep_run *r)
{
    mem_free(r->round);
    *r = (sweep_run){0};
}

/* The next cell of a row, NaN when empty. */
static double cell(str *row)
{
    const char *end = memchr(row->p, ',', row->n);
    size_t n = end ? (size_t)(end - row->p) : row->n;
    double v;
    bool ok = str_f64((str){row->p, n}, &v);
    *row = end ? (str){end + 1, row->n - n - 1} : (str){row->p + n, 0};
    return ok ? v : (double)NAN;
}

/* round,asked,received,train_loss,loss,accuracy,up,down,total up,total down,seconds,late,
 * stale,simulated seconds: see cmd_simulate.c */
static void add_row(sweep_run *r, str row)
{
    double v[14];
    size_t i = r->n++;
    for (size_t c = 0; c < countof(v); c++)
        v[c] = cell(&row);
    double up = v[2] > 0 ? v[6] / v[2] : 0;
    r->round[i] = v[0] + 1;
    r->loss[i] = isfinite(v[4]) ? v[4] : v[3];
    r->accuracy[i] = v[5];
    r->up += (uint64_t)v[6];
    r->down += (uint64_t)v[7];
    r->bits[i] = (i ? r->bits[i - 1] : 0) + 8 * up;
    r->time[i] = r->simulated = v[13];
}

om_status sweep_read(const char *path, sweep_run *out, om_err *err)
{
    buf text = {0};
    size_t lines = 0;
    TRY(os_read_file(path, (size_t)1 << 31, &text, err));
    for (size_t i = 0; i < text.len; i++)
        lines += text.data[i] == '\n';
    double *room = mem_array(5 * (lines + 1), sizeof(double));
    if (!room) {
        buf_free(&text);
        return fail(err, OM_ENOMEM, "simulate: no memory for '%s'", path);
    }
    out->round = room;
    out->bits = room + (lines + 1);
    out->time = room + 2 * (lines + 1);
    out->loss = room + 3 * (lines + 1);
    out->accuracy = room + 4 * (lines + 1);
    const char *at = (const char *)text.data, *end = at + text.len;
    for (bool head = true; at < end; head = false) {
        const char *nl = memchr(at, '\n', (size_t)(end - at));
        if (!nl)
            break; /* a row cut short */
        if (!head)
            add_row(out, (str){at, (size_t)(nl - at)});
        at = nl + 1;
    }
    buf_free(&text);
    return OM_OK;
}

/* ---- tables ---- */

static om_status number(buf *b, double v, const char *after)
{
    return isfinite(v) ? buf_fmt(b, "%.9g%s", v, after) : buf_fmt(b, "%s", after);
}

om_status sweep_csv(const sweep *s, const sweep_run *runs, buf *out)
{
    TRY(buf_str(out, STR("run,")));
    for (size_t a = 0; a < s->n_axes; a++)
        TRY(buf_fmt(out, "%.*s,", (int)s->axis[a].key.n, s->axis[a].key.p));
    TRY(buf_str(out, STR("rounds,loss,accuracy,up_bytes,down_bytes,simulated_seconds,auc,"
                         "pauc,ap\n")));
    for (size_t r = 0; r < s->n_runs; r++) {
        TRY(buf_fmt(out, "%zu,", r + 1));
        for (size_t a = 0; a < s->n_axes; a++) {
            str v = sweep_value(s, r, a);
            TRY(buf_fmt(out, "%.*s,", (int)v.n, v.p));
        }
        TRY(buf_fmt(out, "%zu,", runs[r].n));
        TRY(number(out, runs[r].score.loss, ","));
        TRY(number(out, runs[r].score.accuracy, ","));
        TRY(buf_fmt(out, "%llu,%llu,", (unsigned long long)runs[r].up,
                    (unsigned long long)runs[r].down));
        TRY(number(out, runs[r].simulated, ","));
        TRY(number(out, runs[r].score.ranks.auc, ","));
        TRY(number(out, runs[r].score.ranks.pauc, ","));
        TRY(number(out, runs[r].score.ranks.ap, "\n"));
    }
    return OM_OK;
}

om_status sweep_jsonl(const sweep *s, const sweep_run *runs, buf *out)
{
    for (size_t r = 0; r < s->n_runs; r++) {
        char key[128];
        json_out o = json_to(out);
        json_open_object(&o, NULL);
        json_put_u64(&o, "run", r + 1);
        for (size_t a = 0; a < s->n_axes; a++) {
            snprintf(key, sizeof(key), "%.*s", (int)size_min(s->axis[a].key.n, 127),
                     s->axis[a].key.p);
            json_put_str(&o, key, sweep_value(s, r, a));
        }
        json_put_u64(&o, "rounds", runs[r].n);
        json_put_f64(&o, "loss", runs[r].score.loss);
        json_put_f64(&o, "accuracy", runs[r].score.accuracy);
        json_put_u64(&o, "up_bytes", runs[r].up);
        json_put_u64(&o, "down_bytes", runs[r].down);
        json_put_f64(&o, "simulated_seconds", runs[r].simulated);
        if (isfinite(runs[r].score.ranks.auc)) {
            json_put_f64(&o, "auc", runs[r].score.ranks.auc);
            json_put_f64(&o, "pauc", runs[r].score.ranks.pauc);
            json_put_f64(&o, "ap", runs[r].score.ranks.ap);
        }
        json_shut(&o, '}');
        TRY(o.status);
        TRY(buf_u8(out, '\n'));
    }
    return OM_OK;
}

/* ---- the page ---- */

static const char head[] =
    "<!doctype html><html lang='en'><meta charset='utf-8'>\n"
    "<meta name='viewport' content='width=device-width'><style>body{font:16px/1.5 "
    "system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}table{"
    "border-collapse:collapse;font-size:14px}td,th{padding:.25em .8em;border-bottom:1px "
    "solid #ddd;text-align:right}td:first-child,th:first-child{text-align:left}svg{max-"
    "width:100%;height:auto}</style>\n";

static om_status escaped(buf *out, const char *s)
{
    for (; *s; s++) {
        const char *as = *s == '<' ? "&lt;" : *s == '&' ? "&amp;" : NULL;
        TRY(as ? buf_str(out, str_of(as)) : buf_put(out, s, 1));
    }
    return OM_OK;
}

/* The finite points of every run, y over x; the caller frees *room. */
static size_t gather(const sweep *s, const sweep_run *runs, int x, bool accuracy,
                     plot_series *out, double **room)
{
    size_t n = size_min(s->n_runs, PLOTTED), total = 0, points = 0;
    for (size_t r = 0; r < n; r++)
        total += runs[r].n;
    double *at = *room = mem_array(2 * total + 1, sizeof(double));
    for (size_t r = 0; at && r < n; r++) {
        const double *of[] = {runs[r].round, runs[r].bits, runs[r].time};
        const double *y = accuracy ? runs[r].accuracy : runs[r].loss;
        size_t m = 0;
        for (size_t i = 0; i < runs[r].n; i++)
            if (isfinite(y[i])) {
                at[m] = of[x][i];
                at[runs[r].n + m++] = y[i];
            }
        out[r] = (plot_series){runs[r].name, at, at + runs[r].n, m, m < 40};
        at += 2 * runs[r].n;
        points += m;
    }
    return points;
}

static om_status curves(const sweep *s, const sweep_run *runs, int x, bool accuracy,
                        buf *out)
{
    static const char *const label[] = {"round", "bits sent by a client",
                                        "simulated seconds"};
    plot_series series[PLOTTED];
    double *room;
    size_t points = gather(s, runs, x, accuracy, series, &room);
    plot p = {.x_label = label[x],
              .y_label = accuracy ? "accuracy" : "loss",
              .title = "",
              .series = series,
              .n_series = size_min(s->n_runs, PLOTTED),
              .log_y = !accuracy,
              .width = 860};
    om_status st = room ? OM_OK : OM_ENOMEM;
    if (st == OM_OK && points)
        st = plot_svg(&p, out);
    mem_free(room);
    return st;
}

static om_status table(const sweep *s, const sweep_run *runs, buf *out)
{
    TRY(buf_str(out, STR("<table><tr><th>run<th>rounds<th>loss<th>accuracy<th>bytes up<th>"
                         "bytes down<th>simulated seconds\n")));
    for (size_t r = 0; r < s->n_runs; r++) {
        char up[24], down[24];
        TRY(buf_str(out, STR("<tr><td>")));
        TRY(escaped(out, runs[r].name));
        TRY(buf_fmt(out, "<td>%zu<td>", runs[r].n));
        TRY(number(out, runs[r].score.loss, "<td>"));
        TRY(number(out, runs[r].score.accuracy, "<td>"));
        TRY(buf_fmt(out, "%s<td>%s<td>%.4g\n", cli_bytes(up, runs[r].up),
                    cli_bytes(down, runs[r].down), runs[r].simulated));
    }
    return buf_str(out, STR("</table>\n"));
}

om_status sweep_page(const char *title, const sweep *s, const sweep_run *runs, buf *out)
{
    TRY(buf_str(out, str_of(head)));
    TRY(buf_str(out, STR("<title>")));
    TRY(escaped(out, title));
    TRY(buf_str(out, STR("</title><h1>")));
    TRY(escaped(out, title));
    TRY(buf_str(out, STR("</h1>\n")));
    TRY(table(s, runs, out));
    if (s->n_runs > PLOTTED)
        TRY(buf_fmt(out, "<p>The curves of the first %d runs.\n", PLOTTED));
    for (int x = 0; x < 3; x++)
        TRY(curves(s, runs, x, false, out));
    for (int x = 0; x < 3; x++)
        TRY(curves(s, runs, x, true, out));
    return buf_str(
        out, STR("<p>Simulated time is that of the configuration's devices and network. Where "
                 "the model was not evaluated, the loss is the clients' training "
                 "loss.</html>\n"));
}
