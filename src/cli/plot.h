/* plot.h - line charts as self-contained SVG: the loss of a run, several runs overlaid. */
#ifndef CLI_PLOT_H
#define CLI_PLOT_H

#include "base/base.h"

typedef struct {
    const char *name;
    const double *x, *y; /* (n); points that are not finite break the line */
    size_t n;
    bool dots;           /* mark every point */
} plot_series;

typedef struct {
    const char *title, *x_label, *y_label;
    const plot_series *series;
    size_t n_series;
    bool log_y;          /* ignored unless every y is positive */
    int width, height;   /* 0: 720 x 420 */
} plot;

/* Appends one <svg> element. */
om_status plot_svg(const plot *p, buf *out);

#endif
