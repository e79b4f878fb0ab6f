/* conv2d.c - convolution as a matrix product (im2col), some images at a time.
 *
 * With places P = images * out_h * out_w, K = channels * kh * kw and X^ (K, P) the
 * patches under the window at each place:
 *
 *     Y (out, P) = W X^ + b      dW += dY X^^T     dX^ = W^T dY     db += dY's row sums
 *
 * Images are gathered so that X^ stays near PATCH_BYTES; their results are laid out image
 * by image afterwards.  dx is col2im of dX^: each image and channel by one thread. */
#include "nn/op/conv.h"

enum { PATCH_BYTES = 2 << 20 };

typedef struct {
    nn_tensor *x, *y;
    const nn_weight *w, *b;
    nn_conv_args a;
} conv;

typedef struct {
    const conv *s;
    const float *dy;
    float *dx;
    size_t first, images;  /* of this piece */
    size_t spots, patch;   /* out_h * out_w; K */
    float *patches, *flat; /* (K, P) and (out, P) */
    bool fresh;
} job;

bool conv_fits(nn *c, const nn_tensor *x, const nn_conv_args *a)
{
    if (!a->channels || !a->kh || !a->kw || !a->stride || a->kh > a->h + 2 * a->pad ||
        a->kw > a->w + 2 * a->pad || a->pad >= a->kh || a->pad >= a->kw ||
        x->cols != (uint64_t)a->channels * a->h * a->w)
        nn_fail(c, OM_EARG,
                "nn: a %u x %u window, stride %u, padding %u does not fit rows of %u "
                "numbers as "
                "%u x %u x %u images",
                a->kh, a->kw, a->stride, a->pad, x->cols, a->channels, a->h, a->w);
    return c->status == OM_OK;
}

static void piece_sizes(const conv *s, job *j)
{
    j->s = s;
    j->spots = (size_t)conv_out_h(&s->a) * conv_out_w(&s->a);
    j->patch = s->w->cols;
    j->images = size_max(PATCH_BYTES / (j->spots * j->patch * sizeof(float)), 1);
    j->images = size_min(j->images, size_max(s->x->rows, 1));
}

/* ---- patches
 * ------------------------------------------------------------------------------ */

/* The outputs [lo, hi) along one axis whose window offset k lies inside the image. */
static void inside(uint32_t size, uint32_t out, uint32_t k, const nn_conv_args *a,
                   uint32_t *lo, uint32_t *hi)
{
    *lo = k >= a->pad ? 0 : (a->pad - k + a->stride - 1) / a->stride;
    *hi = size + a->pad <= k ? 0 : (size + a->pad - k - 1) / a->stride + 1;
    *hi = *hi < out ? *hi : out;
    *lo = *lo < *hi ? *lo : *hi;
}

/* One row of X^ for one image: window offset (ky, kx) of a channel at every place. */
static void patch_row(const nn_conv_args *a, const float *plane, uint32_t ky, uint32_t kx,
                      float *to)
{
    uint32_t oh = conv_out_h(a), ow = conv_out_w(a), y0, y1, x0, x1;
    inside(a->h, oh, ky, a, &y0, &y1);
    inside(a->w, ow, kx, a, &x0, &x1);
    memset(to, 0, (size_t)oh * ow * sizeof(float));
    for (uint32_t y = y0; y < y1; y++) {
        const float *from =
            plane + (size_t)(y * a->stride + ky - a->pad) * a->w + kx - a->pad;
        for (uint32_t x = x0; x < x1; x++)
            to[y * ow + x] = from[x * a->stride];
    }
}

static void make_patches(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    const nn_conv_args *a = &j->s->a;
    size_t window = (size_t)a->kh * a->kw, plane = (size_t)a->h * a->w;
    (void)worker;
    for (size_t item = beg; item < end; item++) {
        size_t row = item / j->images, image = item % j->images, k = row % window;
        patch_row(a, op_row(j->s->x, j->first + image) + row / window * plane,
                  (uint32_t)(k / a->kw), (uint32_t)(k % a->kw),
                  j->patches + (row * j->images + image) * j->spots);
    }
}

static void add_patch_row(const nn_conv_args *a, float *plane, uint32_t ky, uint32_t kx,
                          const float *from)
{
    uint32_t oh = conv_out_h(a), ow = conv_out_w(a), y0, y1, x0, x1;
    inside(a->h, oh, ky, a, &y0, &y1);
    inside(a->w, ow, kx, a, &x0, &x1);
    for (uint32_t y = y0; y < y1; y++) {
        float *to = plane + (size_t)(y * a->stride + ky - a->pad) * a->w + kx - a->pad;
        for (uint32_t x = x0; x < x1; x++)
            to[x * a->stride] += from[y * ow + x];
    }
}

/* Items are (image, channel): nobody else writes that plane of dx. */
static void fold_patches(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    const nn_conv_args *a = &j->s->a;
    size_t plane = (size_t)a->h * a->w, window = (size_t)a->kh * a->kw;
    (void)worker;
    for (size_t item = beg; item < end; item++) {
        size_t image = item / a->channels, channel = item % a->channels;
        float *to = j->dx + (j->first + image) * j->s->x->cols + channel * plane;
        if (j->fresh)
            memset(to, 0, plane * sizeof(float));
        for (size_t k = 0; k < window; k++)
            add_patch_row(a, to, (uint32_t)(k / a->kw), (uint32_t)(k % a->kw),
                          j->patches +
                              ((channel * window + k) * j->images + image) * j->spots);
    }
}

/* ---- (out, P) <-> image by image
 * ------------------------------------------------------------- */

static void lay_out(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    const conv *s = j->s;
    const float *bias = s->b ? s->b->data : NULL;
    (void)worker;
    for (size_t item = beg; item < end; item++) {
        size_t image = item / s->w->rows, o = item % s->w->rows;
        const float *from = j->flat + (o * j->images + image) * j->spots;
        float *to = op_row(s->y, j->first + image) + o * j->spots;
        for (size_t i = 0; i < j->spots; i++)
            to[i] = from[i] + (bias ? bias[o] : 0.0f);
    }
}

static void gather(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    size_t out = j->s->w->rows;
    (void)worker;
    for (size_t item = beg; item < end; item++) {
        size_t image = item / out, o = item % out;
        memcpy(j->flat + (o * j->images + image) * j->spots,
               j->dy + ((j->first + image) * out + o) * j->spots, j->spots * sizeof(float));
    }
}

/* ---- backward
 * ---------------------------------------------------------------------------------- */

static void back_piece(nn *c, job *j, arena scratch)
{
    const conv *s = j->s;
    size_t out = s->w->rows, places = j->images * j->spots;
    pool_run(c->pool, out * j->images, op_grain(j->spots), gather, j);
    for (size_t o = 0; op_trains(s->b) && o < out; o++)
        s->b->grad[o] += (float)c->k->sum(j->flat + o * places, places);
    if (s->w->grad) {
        pool_run(c->pool, j->patch * j->images, op_grain(j->spots), make_patches, j);
        gemm_args g = {.m = out,
                       .n = j->patch,
                       .k = places,
                       .a = j->flat,
                       .lda = places,
                       .b = j->patches,
                       .ldb = places,
                       .b_t = true,
                       .c = s->w->grad,
                       .ldc = j->patch,
                       .alpha = 1.0f,
                       .beta = 1.0f};
        op_product(c, &g, scratch);
    }
    if (j->dx) {
        gemm_args g = {.m = j->patch,
                       .n = places,
                       .k = out,
                       .a = s->w->data,
                       .lda = j->patch,
                       .a_t = true,
                       .b = j->flat,
                       .ldb = places,
                       .c = j->patches,
                       .ldc = places,
                       .alpha = 1.0f};
        op_product(c, &g, scratch);
        pool_run(c->pool, j->images * s->a.channels, 1, fold_patches, j);
    }
}

static size_t declare(nn *c, job *j, bool backward)
{
    size_t out = j->s->w->rows, places = j->images * j->spots, k = j->patch;
    j->patches = nn_scratch(c, k * places * sizeof(float));
    j->flat = nn_scratch(c, out * places * sizeof(float));
    size_t n = gemm_bytes(c->k, out, places, k, c->pool);
    if (!backward)
        return n;
    n = size_max(n, gemm_bytes(c->k, out, k, places, c->pool));
    return size_max(n, gemm_bytes(c->k, k, places, out, c->pool));
}

static void back(nn *c, void *saved)
{
    conv *s = saved;
    job j = {.dy = nn_grad_in(c, s->y)};
    if (!j.dy)
        return;
    piece_sizes(s, &j);
    j.dx = nn_grad(c, s->x, &j.fresh);
    if (s->w->grad)
        nn_touch(c, s->x);
    size_t n = declare(c, &j, true), piece = j.images;
    arena scratch = arena_of(nn_scratch(c, n), n);
    if (!nn_live(c))
        return;
    for (j.first = 0; j.first < s->x->rows; j.first += piece) {
        j.images = size_min(piece, s->x->rows - j.first);
        back_piece(c, &j, scratch);
    }
}

/* ---- forward
 * ------------------------------------------------------------------------------------- */

static void piece(nn *c, job *j, arena scratch)
{
    const conv *s = j->s;
    size_t places = j->images * j->spots;
    pool_run(c->pool, j->patch * j->images, op_grain(j->spots), make_patches, j);
    gemm_args g = {.m = s->w->rows,
                   .n = places,
                   .k = j->patch,
                   .a = s->w->data,
                   .lda = j->patch,
                   .b = j->patches,
                   .ldb = places,
                   .c = j->flat,
                   .ldc = places,
                   .alpha = 1.0f};
    op_product(c, &g, scratch);
    pool_run(c->pool, s->w->rows * j->images, op_grain(j->spots), lay_out, j);
}

nn_tensor *nn_conv2d(nn *c, nn_tensor *x, const nn_weight *w, const nn_weight *b,
                     const nn_conv_args *a)
{
    conv s = {.x = x, .w = w, .b = b, .a = *a};
    bool fits = conv_fits(c, x, a);
    size_t spots = fits ? (size_t)conv_out_h(a) * conv_out_w(a) : 0, cols = 0;
    if (fits && (w->type != DTYPE_F32 || w->cols != (uint64_t)a->channels * a->kh * a->kw ||
                 (b && (b->type != DTYPE_F32 || b->cols != w->rows))))
        nn_fail(
            c, OM_EARG,
            "nn: %s is (%u, %u); (out, %u x %u x %u) and a bias of as many columns, both "
            "F32, are expected",
            w->name ? w->name : "a convolution", w->rows, w->cols, a->channels, a->kh,
            a->kw);
    if (!size_mul(w->rows, spots, &cols) || cols > UINT32_MAX)
        nn_fail(c, OM_ELIMIT, "nn: a convolution's row of %u x %zu numbers is too long",
                w->rows, spots);
    s.y = nn_new(c, x->rows, (uint32_t)cols);
    if (c->status != OM_OK)
        return s.y;
    s.y->needs_grad = x->needs_grad || w->grad || op_trains(b);
    nn_touch(c, x);
    job j = {0};
    piece_sizes(&s, &j);
    size_t n = declare(c, &j, false), images = j.images;
    arena scratch = arena_of(nn_scratch(c, n), n);
    if (s.y->needs_grad)
        nn_push(c, back, &s, sizeof(s));
    if (!nn_live(c))
        return s.y;
    for (j.first = 0; j.first < x->rows; j.first += images) {
        j.images = size_min(images, x->rows - j.first);
        piece(c, &j, scratch);
    }
    return s.y;
}
