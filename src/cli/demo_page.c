/* demo_page.c - the page the demo leaves behind: see demo_page.h. */
#include "cli/demo_page.h"

#include "cli/plot.h"

static const char head[] =
    "<!doctype html><html lang='en'><meta charset='utf-8'>\n"
    "<meta name='viewport' content='width=device-width'><title>octomil demo</title>\n"
    "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:760px;margin:2em auto;padding:0 "
    "1em;color:#222}table{border-collapse:collapse}td,th{padding:.25em .9em;border-bottom:1px "
    "solid #ddd;text-align:right}td:first-child,th:first-child{text-align:left}svg{max-width:"
    "100%;height:auto}blockquote{background:#f4f4f4;margin:.5em 0;padding:.6em 1em}</style>\n";

static om_status escaped(buf *out, const char *s)
{
    for (; *s; s++) {
        const char *as = *s == '<' ? "&lt;" : *s == '&' ? "&amp;" : *s == '\n' ? "<br>" : NULL;
        TRY(as ? buf_str(out, str_of(as)) : buf_put(out, s, 1));
    }
    return OM_OK;
}

static om_status curve(const demo_results *r, const char *title, const char *label,
                       const double *y, buf *out)
{
    plot_series s = {label, r->round, y, r->rounds, true};
    plot p = {.title = title, .x_label = "round", .y_label = label, .series = &s,
              .n_series = 1, .height = 320};
    return plot_svg(&p, out);
}

static om_status devices_table(const demo_results *r, buf *out)
{
    TRY(buf_str(out, STR("<h2>Each device, on its own held-out text</h2><table><tr><th>device"
                         "<th>perplexity before<th>after<th>less by\n")));
    for (uint32_t i = 0; i < r->devices; i++)
        TRY(buf_fmt(out, "<tr><td>%s<td>%.2f<td>%.2f<td>%.0f %%\n", r->name[i], r->before[i],
                    r->after[i], 100 * (1 - r->after[i] / r->before[i])));
    return buf_fmt(out, "<tr><th>all<th>%.2f<th>%.2f<th>%.0f %%</table>\n", r->all_before,
                   r->all_after, 100 * (1 - r->all_after / r->all_before));
}

static om_status completions(const demo_results *r, buf *out)
{
    TRY(buf_str(out, STR("<h2>The same prompt</h2><p>Before:<blockquote><b>")));
    TRY(escaped(out, r->prompt));
    TRY(buf_str(out, STR("</b>")));
    TRY(escaped(out, r->text_before));
    TRY(buf_str(out, STR("</blockquote><p>After:<blockquote><b>")));
    TRY(escaped(out, r->prompt));
    TRY(buf_str(out, STR("</b>")));
    TRY(escaped(out, r->text_after));
    return buf_str(out, STR("</blockquote>\n"));
}

om_status demo_page(const demo_results *r, buf *out)
{
    uint64_t up = 0, down = 0;
    for (uint32_t i = 0; i < r->rounds; i++) {
        up += r->bytes_up[i];
        down += r->bytes_down[i];
    }
    double full = 2.0 * (double)r->model_bytes * r->devices * r->rounds;
    TRY(buf_str(out, str_of(head)));
    TRY(buf_fmt(out, "<h1>%u devices improved a language model together</h1>\n<p>%u rounds in "
                     "%.0f seconds. Each device trained an adapter of %llu numbers on its own "
                     "text, which it never sent anywhere. %.2f MB went up and %.2f MB down; "
                     "sending the whole model instead would have been %.0f times as much.\n",
                r->devices, r->rounds, r->seconds, (unsigned long long)r->trainable,
                (double)up / 1e6, (double)down / 1e6, full / ((double)up + (double)down + 1)));
    TRY(curve(r, "Perplexity on held-out text of all devices", "perplexity", r->perplexity,
              out));
    TRY(curve(r, "Loss at the start of each device's round", "loss, nats per token", r->loss,
              out));
    TRY(devices_table(r, out));
    return completions(r, out);
}
