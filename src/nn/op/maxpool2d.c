/* maxpool2d.c - the largest number under each place of a window, per channel.
 *
 * The backward finds the place again (the first of equals) and adds dy there.  Padding
 * never wins. */
#include "nn/op/conv.h"

typedef struct {
    nn_tensor *x, *y;
    nn_conv_args a;
} pooling;

typedef struct {
    const pooling *s;
    const float *dy;
    float *dx;
    bool fresh;
} job;

/* Index in the plane of the largest number under the window at (oy, ox). */
static size_t largest(const nn_conv_args *a, const float *plane, uint32_t oy, uint32_t ox)
{
    uint32_t y0 = oy * a->stride, x0 = ox * a->stride;
    size_t best = SIZE_MAX;
    for (uint32_t y = y0; y < y0 + a->kh; y++)
        for (uint32_t x = x0; x < x0 + a->kw; x++) {
            if (y < a->pad || x < a->pad || y - a->pad >= a->h || x - a->pad >= a->w)
                continue;
            size_t at = (size_t)(y - a->pad) * a->w + x - a->pad;
            if (best == SIZE_MAX || plane[at] > plane[best])
                best = at;
        }
    return best;
}

/* Items are planes: (row, channel). */
static void some_planes(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    const nn_conv_args *a = &j->s->a;
    uint32_t oh = conv_out_h(a), ow = conv_out_w(a);
    size_t plane = (size_t)a->h * a->w;
    (void)worker;
    for (size_t p = beg; p < end; p++) {
        const float *x = j->s->x->data + p * plane;
        size_t out = p * oh * ow;
        if (j->dx && j->fresh)
            memset(j->dx + p * plane, 0, plane * sizeof(float));
        for (uint32_t oy = 0; oy < oh; oy++)
            for (uint32_t ox = 0; ox < ow; ox++, out++) {
                size_t at = largest(a, x, oy, ox);
                if (j->dx)
                    j->dx[p * plane + at] += j->dy[out];
                else
                    j->s->y->data[out] = x[at];
            }
    }
}

static void run(nn *c, job *j)
{
    const nn_conv_args *a = &j->s->a;
    pool_run(c->pool, (size_t)j->s->x->rows * a->channels, op_grain((size_t)a->h * a->w),
             some_planes, j);
}

static void back(nn *c, void *saved)
{
    pooling *s = saved;
    job j = {.s = s, .dy = nn_grad_in(c, s->y)};
    if (!j.dy)
        return;
    j.dx = nn_grad(c, s->x, &j.fresh);
    nn_touch(c, s->x);
    if (j.dx && nn_live(c))
        run(c, &j);
}

nn_tensor *nn_maxpool2d(nn *c, nn_tensor *x, const nn_conv_args *a)
{
    bool fits = conv_fits(c, x, a);
    size_t cols = fits ? (size_t)a->channels * conv_out_h(a) * conv_out_w(a) : 0;
    pooling s = {.x = x, .y = nn_new(c, x->rows, (uint32_t)cols), .a = *a};
    if (c->status != OM_OK)
        return s.y;
    s.y->needs_grad = x->needs_grad;
    nn_touch(c, x);
    job j = {.s = &s};
    if (nn_live(c))
        run(c, &j);
    if (s.y->needs_grad)
        nn_push(c, back, &s, sizeof(s));
    return s.y;
}
