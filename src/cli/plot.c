/* plot.c - line charts as SVG (see plot.h).  Ticks are the 1-2-5 steps that give about
 * six of them; colours are the eight of Okabe and Ito, which stay apart for colour-blind
 * readers. */
#include "cli/plot.h"

#include <math.h>

static const char *const colour[] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                     "#E69F00", "#56B4E9", "#000000", "#F0E442"};

typedef struct {
    double x0, x1, y0, y1;          /* data range; y is log10 when log_y */
    double left, right, top, bottom; /* pixels */
    bool log_y;
} frame;

static double map_x(const frame *f, double x)
{
    return f->left + (x - f->x0) / (f->x1 - f->x0) * (f->right - f->left);
}

static double map_y(const frame *f, double y)
{
    double v = f->log_y ? log10(y) : y;
    return f->bottom - (v - f->y0) / (f->y1 - f->y0) * (f->bottom - f->top);
}

static void widen(double *lo, double *hi)
{
    if (!(*lo <= *hi)) {
        *lo = 0;
        *hi = 1;
    }
    double pad = *hi > *lo ? 0.04 * (*hi - *lo) : fabs(*lo) * 0.05 + 0.5;
    *lo -= pad;
    *hi += pad;
}

static frame measure(const plot *p, double width, double height)
{
    const double none = (double)INFINITY;
    frame f = {none, -none, none, -none, 70, width - 20, 46, height - 52, p->log_y};
    for (size_t s = 0; s < p->n_series; s++)
        for (size_t i = 0; i < p->series[s].n; i++)
            f.log_y = f.log_y && !(p->series[s].y[i] <= 0);
    for (size_t s = 0; s < p->n_series; s++)
        for (size_t i = 0; i < p->series[s].n; i++) {
            double x = p->series[s].x[i], y = p->series[s].y[i];
            if (!isfinite(x) || !isfinite(y))
                continue;
            double v = f.log_y ? log10(y) : y;
            f.x0 = fmin(f.x0, x);
            f.x1 = fmax(f.x1, x);
            f.y0 = fmin(f.y0, v);
            f.y1 = fmax(f.y1, v);
        }
    widen(&f.y0, &f.y1);
    if (!(f.x1 > f.x0))
        widen(&f.x0, &f.x1);
    return f;
}

static double tick_step(double range)
{
    double raw = range / 6, power = pow(10, floor(log10(raw))), m = raw / power;
    return power * (m < 1.5 ? 1 : m < 3.5 ? 2 : m < 7.5 ? 5 : 10);
}

static om_status escape(buf *out, const char *s)
{
    for (; s && *s; s++) {
        const char *as = *s == '<' ? "&lt;" : *s == '&' ? "&amp;" : *s == '>' ? "&gt;" : NULL;
        TRY(as ? buf_str(out, str_of(as)) : buf_put(out, s, 1));
    }
    return OM_OK;
}

static om_status text(buf *out, double x, double y, const char *anchor, const char *extra,
                      const char *s)
{
    TRY(buf_fmt(out, "<text x='%.1f' y='%.1f' text-anchor='%s' %s>", x, y, anchor, extra));
    TRY(escape(out, s));
    return buf_str(out, STR("</text>\n"));
}

static om_status axes(const plot *p, const frame *f, buf *out)
{
    double sx = tick_step(f->x1 - f->x0), sy = tick_step(f->y1 - f->y0);
    for (double x = ceil(f->x0 / sx) * sx; x <= f->x1; x += sx)
        TRY(buf_fmt(out, "<text x='%.1f' y='%.1f' text-anchor='middle'>%.6g</text>\n",
                    map_x(f, x), f->bottom + 18, fabs(x) < sx / 1e6 ? 0.0 : x));
    for (double v = ceil(f->y0 / sy) * sy; v <= f->y1; v += sy) {
        double y = f->log_y ? pow(10, v) : v;
        TRY(buf_fmt(out, "<line x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f' stroke='#ddd'/>"
                         "<text x='%.1f' y='%.1f' text-anchor='end'>%.4g</text>\n",
                    f->left, f->right, map_y(f, y), map_y(f, y), f->left - 6, map_y(f, y) + 4,
                    fabs(v) < sy / 1e6 && !f->log_y ? 0.0 : y));
    }
    TRY(buf_fmt(out, "<path d='M%.1f %.1fV%.1fH%.1f' fill='none' stroke='#333'/>\n", f->left,
                f->top, f->bottom, f->right));
    TRY(text(out, (f->left + f->right) / 2, f->bottom + 40, "middle", "", p->x_label));
    char turn[64];
    buf t = buf_fixed(turn, sizeof(turn));
    double mid = (f->top + f->bottom) / 2;
    TRY(buf_fmt(&t, "transform='rotate(-90 16 %.1f)'", mid));
    return text(out, 16, mid, "middle", turn, p->y_label);
}

static om_status line(const plot_series *s, const frame *f, const char *stroke, buf *out)
{
    bool pen = false;
    TRY(buf_fmt(out, "<path fill='none' stroke='%s' stroke-width='2' d='", stroke));
    for (size_t i = 0; i < s->n; i++) {
        bool there = isfinite(s->x[i]) && isfinite(s->y[i]);
        if (there)
            TRY(buf_fmt(out, "%c%.1f %.1f", pen ? 'L' : 'M', map_x(f, s->x[i]),
                        map_y(f, s->y[i])));
        pen = there;
    }
    TRY(buf_str(out, STR("'/>\n")));
    for (size_t i = 0; s->dots && i < s->n; i++)
        if (isfinite(s->x[i]) && isfinite(s->y[i]))
            TRY(buf_fmt(out, "<circle cx='%.1f' cy='%.1f' r='3' fill='%s'/>\n",
                        map_x(f, s->x[i]), map_y(f, s->y[i]), stroke));
    return OM_OK;
}

om_status plot_svg(const plot *p, buf *out)
{
    int w = p->width ? p->width : 720, h = p->height ? p->height : 420;
    frame f = measure(p, w, h);
    TRY(buf_fmt(out, "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' "
                     "viewBox='0 0 %d %d' font-family='sans-serif' font-size='12'>\n"
                     "<rect width='100%%' height='100%%' fill='white'/>\n", w, h, w, h));
    TRY(text(out, f.left, 20, "start", "font-size='15'", p->title));
    TRY(axes(p, &f, out));
    for (size_t s = 0; s < p->n_series; s++) {
        const char *stroke = colour[s % countof(colour)];
        TRY(line(&p->series[s], &f, stroke, out));
        if (p->n_series < 2)
            continue;
        double x = f.left + 10 + (double)(s % 6) * (f.right - f.left - 10) / 6;
        double y = 38 + 13 * (double)(s / 6);
        TRY(buf_fmt(out, "<rect x='%.1f' y='%.1f' width='10' height='10' fill='%s'/>", x,
                    y - 9, stroke));
        TRY(text(out, x + 14, y, "start", "", p->series[s].name));
    }
    return buf_str(out, STR("</svg>\n"));
}
