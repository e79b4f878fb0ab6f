/* test_ops.c - every op against an independent reference in double: its forward, and
 * its gradients against central differences of that reference.
 *
 * The loss is the mean over rows of |y - target|^2.  Tolerance: the largest error of a
 * forward or a gradient is at most TOL of the largest number in it (f32 sums of some
 * hundred terms give 1e-6).  Each case runs twice more as op(x) + op(x), which takes the
 * accumulating paths, and weights' gradients start at 1 and must be added to.  Where
 * PyTorch's numbers are recorded, they are met too; and threads change no bit. */
#include "nn/nn.h"
#include "nn_golden.h"
#include "test.h"

#define TOL 2e-5

enum { IN = 3, WEIGHTS = 5 };

typedef struct {
    uint32_t rows, cols;
} shape;

typedef struct example example;
struct example {
    const char *name;
    shape in[IN], w[WEIGHTS]; /* rows 0: none */
    shape out;
    nn_tensor *(*build)(nn *c, const example *e, nn_tensor **in, nn_weight *w);
    void (*ref)(const example *e, double *const *in, double *const *w, double *y);
    const void *arg;
};

/* ---- the harness ----------------------------------------------------------------------
 */

typedef struct {
    const example *e;
    bool twice;
    double *v[IN + WEIGHTS]; /* leaves, exactly f32 values */
    float *f[IN + WEIGHTS], *grad[IN + WEIGHTS];
    nn_weight w[WEIGHTS];
    nn_lowrank lora;
    float *target, *out;
    double *y;
    nn_loss loss;
} bed;

static size_t count(shape s) { return (size_t)s.rows * s.cols; }

static shape leaf_shape(const example *e, int i)
{
    return i < IN ? e->in[i] : e->w[i - IN];
}

static om_status forward_backward(nn *c, void *ctx)
{
    bed *b = ctx;
    const example *e = b->e;
    nn_tensor *in[IN] = {0};
    for (int i = 0; i < IN; i++)
        if (e->in[i].rows) {
            in[i] = nn_input(c, b->f[i], e->in[i].rows, e->in[i].cols);
            in[i]->needs_grad = true;
        }
    nn_tensor *y = e->build(c, e, in, b->w);
    if (b->twice)
        y = nn_add(c, y, e->build(c, e, in, b->w));
    nn_output(c, y, b->out);
    nn_mse(c, y, b->target, 1.0f, &b->loss);
    nn_backward(c);
    for (int i = 0; i < IN; i++)
        if (in[i]) {
            const float *g = nn_grad_in(c, in[i]);
            if (nn_live(c))
                for (size_t k = 0; k < count(e->in[i]); k++)
                    b->grad[i][k] = g ? g[k] : 0.0f;
        }
    return c->status;
}

static double reference_loss(bed *b)
{
    const example *e = b->e;
    double sum = 0, times = b->twice ? 2 : 1;
    e->ref(e, b->v, b->v + IN, b->y);
    for (size_t i = 0; i < count(e->out); i++) {
        double d = times * b->y[i] - (double)b->target[i];
        sum += d * d;
    }
    return sum / e->out.rows;
}

static void open_bed(bed *b, const example *e, bool twice)
{
    rng r = rng_for(7, 0, 0, 0);
    *b = (bed){.e = e, .twice = twice};
    for (int i = 0; i < IN + WEIGHTS; i++) {
        size_t n = count(leaf_shape(e, i));
        b->v[i] = mem_array(n + 1, sizeof(double));
        b->f[i] = mem_array(n + 1, sizeof(float));
        b->grad[i] = mem_array(n + 1, sizeof(float));
        for (size_t k = 0; k < n; k++) {
            b->f[i][k] = (float)rng_normal(&r);
            b->v[i][k] = (double)b->f[i][k];
            b->grad[i][k] = i < IN ? 0.0f : 1.0f;
        }
        if (i >= IN && n)
            b->w[i - IN] = (nn_weight){
                "w",        DTYPE_F32, b->f[i], e->w[i - IN].rows, e->w[i - IN].cols,
                b->grad[i], NULL, NULL};
    }
    b->out = mem_array(count(e->out), sizeof(float));
    b->target = mem_array(count(e->out), sizeof(float));
    b->y = mem_array(count(e->out), sizeof(double));
    for (size_t k = 0; k < count(e->out); k++)
        b->target[k] = (float)rng_normal(&r);
}

static void close_bed(bed *b)
{
    for (int i = 0; i < IN + WEIGHTS; i++) {
        mem_free(b->v[i]);
        mem_free(b->f[i]);
        mem_free(b->grad[i]);
    }
    mem_free(b->out);
    mem_free(b->target);
    mem_free(b->y);
}

static void check_forward(test *t, bed *b)
{
    double worst = 0, largest = 0, times = b->twice ? 2 : 1;
    reference_loss(b);
    for (size_t i = 0; i < count(b->e->out); i++) {
        worst = fmax(worst, fabs((double)b->out[i] - times * b->y[i]));
        largest = fmax(largest, fabs(times * b->y[i]));
    }
    t->checks++;
    if (!(worst <= TOL * largest))
        test_fail(t, __FILE__, __LINE__, "%s: forward off by %.3g of %.3g", b->e->name,
                  worst, largest);
}

/* All coordinates when there are few; else random directions, whose derivative is the
 * inner product with the gradient. */
static void check_leaf(test *t, bed *b, int leaf, size_t n)
{
    double worst = 0, largest = 0, start = leaf < IN ? 0 : 1;
    for (size_t k = 0; k < n; k++) {
        double keep = b->v[leaf][k], h = 1e-5;
        b->v[leaf][k] = keep + h;
        double up = reference_loss(b);
        b->v[leaf][k] = keep - h;
        double down = reference_loss(b);
        b->v[leaf][k] = keep;
        double want = (up - down) / (2 * h), got = (double)b->grad[leaf][k] - start;
        worst = fmax(worst, fabs(want - got));
        largest = fmax(largest, fabs(want));
    }
    t->checks++;
    if (!(worst <= TOL * largest + 1e-7))
        test_fail(t, __FILE__, __LINE__, "%s%s: gradient of %s %d off by %.3g of %.3g",
                  b->e->name, b->twice ? " twice" : "", leaf < IN ? "input" : "weight",
                  leaf < IN ? leaf : leaf - IN, worst, largest);
}

static void check_directions(test *t, bed *b, int leaf, size_t n)
{
    rng r = rng_for(11, (uint32_t)leaf, 0, 0);
    for (int trial = 0; trial < 2; trial++) {
        double h = 1e-4, got = 0, norm = 0, want = 0;
        double *u = mem_array(n, sizeof(double)), *keep = mem_array(n, sizeof(double));
        for (size_t k = 0; k < n; k++) {
            double g = (double)b->grad[leaf][k] - (leaf < IN ? 0 : 1);
            u[k] = rng_normal(&r);
            got += u[k] * g;
            norm += g * g;
        }
        memcpy(keep, b->v[leaf], n * sizeof(double));
        for (int side = -1; side <= 1; side += 2) {
            for (size_t k = 0; k < n; k++)
                b->v[leaf][k] = keep[k] + side * h * u[k];
            want += side * reference_loss(b) / (2 * h);
        }
        memcpy(b->v[leaf], keep, n * sizeof(double));
        mem_free(u);
        mem_free(keep);
        CHECK_NEAR(t, got, want, 1e-4 * sqrt(norm) + 1e-7);
    }
}

/* Output, loss and gradients have the same bits on 1, 2 and 5 threads. */
static void check_threads(test *t, const kern *k, const example *e)
{
    bed b[3];
    om_err err = {0};
    for (int i = 0; i < 3; i++) {
        static const int threads[] = {1, 2, 5};
        pool *p;
        nn *c;
        open_bed(&b[i], e, false);
        CHECK_OK(t, pool_open(threads[i], &p, &err), err);
        CHECK_OK(t, nn_open(&(nn_config){.k = k, .pool = p}, &c, &err), err);
        CHECK_OK(t, nn_run(c, 1, true, forward_backward, &b[i], &err), err);
        nn_close(c);
        pool_close(p);
        bool same = b[i].loss.sum == b[0].loss.sum &&
                    memcmp(b[i].out, b[0].out, count(e->out) * sizeof(float)) == 0;
        for (int l = 0; l < IN + WEIGHTS; l++)
            same = same && memcmp(b[i].grad[l], b[0].grad[l],
                                  count(leaf_shape(e, l)) * sizeof(float)) == 0;
        t->checks++;
        if (!same)
            test_fail(t, __FILE__, __LINE__, "%s: other bits on %d threads", e->name,
                      threads[i]);
    }
    for (int i = 0; i < 3; i++)
        close_bed(&b[i]);
}

static void run_example(test *t, const kern *k, pool *p, const example *e)
{
    for (int twice = 0; twice < 2; twice++) {
        bed b;
        nn *c;
        om_err err = {0};
        open_bed(&b, e, twice);
        CHECK_OK(t, nn_open(&(nn_config){.k = k, .pool = p}, &c, &err), err);
        CHECK_OK(t, nn_run(c, 1, true, forward_backward, &b, &err), err);
        check_forward(t, &b);
        CHECK_NEAR(t, b.loss.sum / (double)b.loss.rows, reference_loss(&b),
                   1e-5 * (1 + reference_loss(&b)));
        for (int leaf = 0; leaf < IN + WEIGHTS; leaf++) {
            size_t n = count(leaf_shape(e, leaf));
            if (n && n <= 128)
                check_leaf(t, &b, leaf, n);
            else if (n)
                check_directions(t, &b, leaf, n);
        }
        nn_close(c);
        close_bed(&b);
    }
}

static const char *const torch_has[] = {"linear, bias",
                                        "lora",
                                        "rmsnorm",
                                        "rmsnorm_heads",
                                        "layernorm",
                                        "silu",
                                        "gelu",
                                        "relu",
                                        "tanh",
                                        "rows",
                                        "embed",
                                        "rope near",
                                        "rope neox",
                                        "attention grouped",
                                        "attention window",
                                        "conv2d",
                                        "conv2d, padded",
                                        "maxpool2d",
                                        "maxpool2d, edges",
                                        NULL};

/* The same op on PyTorch's numbers: forward and every gradient within 1e-5. */
static void run_golden(test *t, const kern *k, pool *p, const example *e)
{
    const char *const *name = torch_has;
    while (*name && strcmp(*name, e->name) != 0)
        name++;
    if (!*name || !golden_open(t))
        return;
    bed b;
    nn *c;
    om_err err = {0};
    char field[16];
    open_bed(&b, e, false);
    for (int i = 0; i < IN + WEIGHTS; i++) {
        snprintf(field, sizeof(field), "%s%d", i < IN ? "in" : "w", i < IN ? i : i - IN);
        if (leaf_shape(e, i).rows)
            golden_copy(t, e->name, field, b.f[i], count(leaf_shape(e, i)));
        memset(b.grad[i], 0, count(leaf_shape(e, i)) * sizeof(float));
    }
    golden_copy(t, e->name, "target", b.target, count(e->out));
    CHECK_OK(t, nn_open(&(nn_config){.k = k, .pool = p}, &c, &err), err);
    CHECK_OK(t, nn_run(c, 1, true, forward_backward, &b, &err), err);
    golden_check(t, e->name, "y", b.out, count(e->out), 1e-5);
    float loss = (float)(b.loss.sum / (double)b.loss.rows);
    golden_check(t, e->name, "loss", &loss, 1, 1e-5);
    for (int i = 0; i < IN + WEIGHTS; i++) {
        snprintf(field, sizeof(field), "%s%d", i < IN ? "din" : "dw", i < IN ? i : i - IN);
        if (leaf_shape(e, i).rows)
            golden_check(t, e->name, field, b.grad[i], count(leaf_shape(e, i)), 1e-5);
    }
    nn_close(c);
    close_bed(&b);
}

static void run_all(test *t, const example *all)
{
    kern k;
    pool *p;
    om_err err = {0};
    kern_init(&k, 0);
    CHECK_OK(t, pool_open(2, &p, &err), err);
    for (const example *e = all; e->name; e++) {
        run_example(t, &k, p, e);
        run_golden(t, &k, p, e);
        check_threads(t, &k, e);
    }
    pool_close(p);
}

/* ---- linear
 * ------------------------------------------------------------------------------ */

static nn_tensor *linear(nn *c, const example *e, nn_tensor **in, nn_weight *w)
{
    (void)e;
    return nn_linear(c, in[0], &w[0], w[1].rows ? &w[1] : NULL);
}

/* w: W, b, A, B */
static void linear_ref(const example *e, double *const *in, double *const *w, double *y)
{
    size_t n_in = e->in[0].cols, n_out = e->w[0].rows;
    for (size_t i = 0; i < e->in[0].rows; i++)
        for (size_t o = 0; o < n_out; o++) {
            double s = e->w[1].rows ? w[1][o] : 0;
            for (size_t k = 0; k < n_in; k++)
                s += in[0][i * n_in + k] * w[0][o * n_in + k];
            y[i * n_out + o] = s;
        }
}

static const float lora_scale = 0.5f;

static nn_tensor *lora(nn *c, const example *e, nn_tensor **in, nn_weight *w)
{
    static _Thread_local nn_lowrank l[2];
    static _Thread_local nn_weight frozen[2];
    (void)e;
    l[0] = (nn_lowrank){w[2].rows, lora_scale, w[2].data, w[3].data, w[2].grad, w[3].grad};
    frozen[0] = w[0];
    frozen[0].lora = &l[0];
    return nn_linear(c, in[0], &frozen[0], &w[1]);
}

static void lora_ref(const example *e, double *const *in, double *const *w, double *y)
{
    size_t n_in = e->in[0].cols, n_out = e->w[0].rows, rank = e->w[2].rows;
    linear_ref(e, in, w, y);
    for (size_t i = 0; i < e->in[0].rows; i++)
        for (size_t r = 0; r < rank; r++) {
            double u = 0;
            for (size_t k = 0; k < n_in; k++)
                u += in[0][i * n_in + k] * w[2][r * n_in + k];
            for (size_t o = 0; o < n_out; o++)
                y[i * n_out + o] += (double)lora_scale * u * w[3][o * rank + r];
        }
}

static void linear_layers(test *t)
{
    static const example all[] = {{.name = "linear",
                                   .in = {{5, 12}},
                                   .w = {{7, 12}},
                                   .out = {5, 7},
                                   .build = linear,
                                   .ref = linear_ref},
                                  {.name = "linear, bias",
                                   .in = {{1, 9}},
                                   .w = {{17, 9}, {1, 17}},
                                   .out = {1, 17},
                                   .build = linear,
                                   .ref = linear_ref},
                                  {.name = "linear, larger",
                                   .in = {{40, 70}},
                                   .w = {{65, 70}, {1, 65}},
                                   .out = {40, 65},
                                   .build = linear,
                                   .ref = linear_ref},
                                  {.name = "lora, many rows",
                                   .in = {{300, 100}},
                                   .w = {{90, 100}, {1, 90}, {8, 100}, {90, 8}},
                                   .out = {300, 90},
                                   .build = lora,
                                   .ref = lora_ref},
                                  {.name = "lora",
                                   .in = {{6, 10}},
                                   .w = {{8, 10}, {1, 8}, {3, 10}, {8, 3}},
                                   .out = {6, 8},
                                   .build = lora,
                                   .ref = lora_ref},
                                  {0}};
    run_all(t, all);
}

/* ---- norms
 * --------------------------------------------------------------------------------- */

static const double eps = 1e-2; /* large, so that it matters */

static nn_tensor *rmsnorm(nn *c, const example *e, nn_tensor **in, nn_weight *w)
{
    (void)e;
    return nn_rmsnorm(c, in[0], &w[0], (float)eps);
}

static nn_tensor *rmsnorm_heads(nn *c, const example *e, nn_tensor **in, nn_weight *w)
{
    (void)e;
    return nn_rmsnorm_heads(c, in[0], &w[0], (float)eps);
}

static void rmsnorm_ref(const example *e, double *const *in, double *const *w, double *y)
{
    size_t d = e->w[0].cols, n = count(e->in[0]) / d;
    for (size_t i = 0; i < n; i++) {
        double sq = 0;
        for (size_t k = 0; k < d; k++)
            sq += in[0][i * d + k] * in[0][i * d + k];
        for (size_t k = 0; k < d; k++)
            y[i * d + k] =
                in[0][i * d + k] * w[0][k] / sqrt(sq / (double)d + (double)(float)eps);
    }
}

static nn_tensor *layernorm(nn *c, const example *e, nn_tensor **in, nn_weight *w)
{
    (void)e;
    return nn_layernorm(c, in[0], &w[0], &w[1], (float)eps);
}

static void layernorm_ref(const example *e, double *const *in, double *const *w, double *y)
{
    size_t d = e->in[0].cols;
    for (size_t i = 0; i < e->in[0].rows; i++) {
        const double *x = in[0] + i * d;
        double mean = 0, var = 0;
        for (size_t k = 0; k < d; k++)
            mean += x[k] / (double)d;
        for (size_t k = 0; k < d; k++)
            var += (x[k] - mean) * (x[k] - mean) / (double)d;
        for (size_t k = 0; k < d; k++)
            y[i * d + k] =
                w[0][k] * (x[k] - mean) / sqrt(var + (double)(float)eps) + w[1][k];
    }
}

static void norms(test *t)
{
    static const example all[] = {{.name = "rmsnorm",
                                   .in = {{4, 19}},
                                   .w = {{1, 19}},
                                   .out = {4, 19},
                                   .build = rmsnorm,
                                   .ref = rmsnorm_ref},
                                  {.name = "rmsnorm_heads",
                                   .in = {{3, 24}},
                                   .w = {{1, 8}},
                                   .out = {3, 24},
                                   .build = rmsnorm_heads,
                                   .ref = rmsnorm_ref},
                                  {.name = "rmsnorm, many rows",
                                   .in = {{300, 160}},
                                   .w = {{1, 160}},
                                   .out = {300, 160},
                                   .build = rmsnorm,
                                   .ref = rmsnorm_ref},
                                  {.name = "layernorm, many rows",
                                   .in = {{300, 160}},
                                   .w = {{1, 160}, {1, 160}},
                                   .out = {300, 160},
                                   .build = layernorm,
                                   .ref = layernorm_ref},
                                  {.name = "layernorm",
                                   .in = {{4, 21}},
                                   .w = {{1, 21}, {1, 21}},
                                   .out = {4, 21},
                                   .build = layernorm,
                                   .ref = layernorm_ref},
                                  {0}};
    run_all(t, all);
}

/* ---- elementwise
 * ----------------------------------------------------------------------------- */

static nn_tensor *element(nn *c, const example *e, nn_tensor **in, nn_weight *w)
{
    (void)w;
    switch (*(const char *)e->arg) {
    case '+':
        return nn_add(c, in[0], in[1]);
    case '*':
        return nn_scale(c, in[0], -1.5f);
    case 's':
        return nn_silu_mul(c, in[0], in[1]);
    case 'g':
        return nn_gelu(c, in[0]);
    case 'r':
        return nn_relu(c, in[0]);
    default:
        return nn_tanh(c, in[0]);
    }
}

static void element_ref(const example *e, double *const *in, double *const *w, double *y)
{
    (void)w;
    for (size_t i = 0; i < count(e->out); i++) {
        double a = in[0][i], b = e->in[1].rows ? in[1][i] : 0;
        switch (*(const char *)e->arg) {
        case '+':
            y[i] = a + b;
            break;
        case '*':
            y[i] = -1.5 * a;
            break;
        case 's':
            y[i] = a / (1 + exp(-a)) * b;
            break;
        case 'g':
            y[i] =
                0.5 * a * (1 + tanh(0.79788456080286535588 * (a + 0.044715 * a * a * a)));
            break;
        case 'r':
            y[i] = a > 0 ? a : 0;
            break;
        default:
            y[i] = tanh(a);
        }
    }
}

static void elementwise(test *t)
{
#define ELEMENT(label, two)                                                                \
    {                                                                                      \
        .name = label, .in = {{5, 13}, {two * 5, two * 13}}, .out = {5, 13},               \
        .build = element, .ref = element_ref, .arg = label                                 \
    }
    static const example all[] = {ELEMENT("+", 1),
                                  ELEMENT("*", 0),
                                  ELEMENT("silu", 1),
                                  ELEMENT("gelu", 0),
                                  ELEMENT("relu", 0),
                                  ELEMENT("tanh", 0),
                                  {.name = "silu, many rows",
                                   .in = {{300, 100}, {300, 100}},
                                   .out = {300, 100},
                                   .build = element,
                                   .ref = element_ref,
                                   .arg = "s"},
                                  {.name = "gelu, many rows",
                                   .in = {{300, 100}},
                                   .out = {300, 100},
                                   .build = element,
                                   .ref = element_ref,
                                   .arg = "g"},
                                  {0}};
#undef ELEMENT
    run_all(t, all);
}

/* ---- rows, embedding
 * --------------------------------------------------------------------------- */

static const uint32_t picks[] = {3, 0, 3, 1};
static const int32_t ids[] = {4, 0, 4, 2, 1};

static nn_tensor *rows(nn *c, const example *e, nn_tensor **in, nn_weight *w)
{
    (void)e, (void)w;
    return nn_rows(c, in[0], picks, countof(picks));
}

static void rows_ref(const example *e, double *const *in, double *const *w, double *y)
{
    (void)w;
    for (size_t i = 0; i < countof(picks); i++)
        for (size_t k = 0; k < e->in[0].cols; k++)
            y[i * e->in[0].cols + k] = in[0][picks[i] * e->in[0].cols + k];
}

static nn_tensor *embed(nn *c, const example *e, nn_tensor **in, nn_weight *w)
{
    (void)e, (void)in;
    return nn_embed(c, &w[0], ids, countof(ids));
}

static void embed_ref(const example *e, double *const *in, double *const *w, double *y)
{
    (void)in;
    for (size_t i = 0; i < countof(ids); i++)
        for (size_t k = 0; k < e->w[0].cols; k++)
            y[i * e->w[0].cols + k] = w[0][(size_t)ids[i] * e->w[0].cols + k];
}

static void lookups(test *t)
{
    static const example all[] = {
        {.name = "rows", .in = {{4, 9}}, .out = {4, 9}, .build = rows, .ref = rows_ref},
        {.name = "embed", .w = {{6, 9}}, .out = {5, 9}, .build = embed, .ref = embed_ref},
        {0}};
    run_all(t, all);
}

/* ---- rope ------------------------------------------------------------------------------
 */

static const int32_t positions[] = {0, 1, 2, 300, 5};
static const float factors[] = {1, 2, 4, 8};

static nn_tensor *rope(nn *c, const example *e, nn_tensor **in, nn_weight *w)
{
    (void)w;
    return nn_rope(c, in[0], positions, e->arg);
}

/* The table of frequencies is checked against published formulas here, in one go. */
static double rope_frequency(const nn_rope_args *a, uint32_t i, double *magnitude)
{
    double f = (double)(a->scale != 0.0f ? a->scale : 1.0f) *
               exp(-log((double)a->base) * 2 * i / a->n_rot);
    *magnitude = 1;
    if (a->factors)
        f /= (double)a->factors[i];
    if (a->yarn_factor != 0.0f) {
        /* Turns pair i makes over the original context; ramp over its index. */
        double d = a->n_rot, ctx = a->yarn_ctx_orig, lb = log((double)a->base);
        double low = floor(d * log(ctx / (2 * 3.14159265358979323846 * 32)) / (2 * lb));
        double high = ceil(d * log(ctx / (2 * 3.14159265358979323846 * 1)) / (2 * lb));
        low = low < 0 ? 0 : low;
        high = high > d - 1 ? d - 1 : high;
        double slow = (i - low) / (high - low);
        slow = slow < 0 ? 0 : slow > 1 ? 1 : slow;
        f = (1 - slow) * f + slow * f / (double)a->yarn_factor;
        *magnitude = 0.1 * log((double)a->yarn_factor) + 1;
    }
    return f;
}

static void rope_ref(const example *e, double *const *in, double *const *w, double *y)
{
    const nn_rope_args *a = e->arg;
    uint32_t half = a->n_rot / 2, cols = e->in[0].cols;
    (void)w;
    memcpy(y, in[0], count(e->in[0]) * sizeof(double));
    for (size_t r = 0; r < e->in[0].rows; r++)
        for (uint32_t h = 0; h < cols; h += a->head_dim)
            for (uint32_t i = 0; i < half; i++) {
                double mag, angle = positions[r] * rope_frequency(a, i, &mag);
                size_t x0 = r * cols + h + (a->neox ? i : 2 * i);
                size_t x1 = x0 + (a->neox ? half : 1);
                y[x0] = mag * (in[0][x0] * cos(angle) - in[0][x1] * sin(angle));
                y[x1] = mag * (in[0][x0] * sin(angle) + in[0][x1] * cos(angle));
            }
}

/* One after the other in one run: the second must not turn by the first's angles. */
static const nn_rope_args both[] = {
    {.head_dim = 8, .n_rot = 8, .base = 10000, .scale = 1},
    {.head_dim = 8, .n_rot = 8, .neox = true, .base = 500, .scale = 1}};

static nn_tensor *two_ropes(nn *c, const example *e, nn_tensor **in, nn_weight *w)
{
    (void)e, (void)w;
    return nn_rope(c, nn_rope(c, in[0], positions, &both[0]), positions, &both[1]);
}

static void two_ropes_ref(const example *e, double *const *in, double *const *w, double *y)
{
    example one = *e;
    double *mid[IN] = {mem_array(count(e->out), sizeof(double))};
    one.arg = &both[0];
    rope_ref(&one, in, w, mid[0]);
    one.arg = &both[1];
    rope_ref(&one, mid, w, y);
    mem_free(mid[0]);
}

static void ropes(test *t)
{
    static const nn_rope_args near = {.head_dim = 8, .n_rot = 8, .base = 10000, .scale = 1};
    static const nn_rope_args neox = {
        .head_dim = 8, .n_rot = 8, .neox = true, .base = 10000};
    static const nn_rope_args part = {
        .head_dim = 8, .n_rot = 4, .neox = true, .base = 500, .scale = 0.25f};
    static const nn_rope_args divided = {
        .head_dim = 8, .n_rot = 8, .base = 10000, .factors = factors};
    static const nn_rope_args yarn = {
        .head_dim = 8, .n_rot = 8, .base = 10000, .yarn_factor = 4, .yarn_ctx_orig = 2048};
#define ROPE(which)                                                                        \
    {                                                                                      \
        .name = "rope " #which, .in = {{5, 16}}, .out = {5, 16}, .build = rope,            \
        .ref = rope_ref, .arg = &which                                                     \
    }
    static const example all[] = {ROPE(near),
                                  ROPE(neox),
                                  ROPE(part),
                                  ROPE(divided),
                                  ROPE(yarn),
                                  {.name = "rope twice",
                                   .in = {{5, 16}},
                                   .out = {5, 16},
                                   .build = two_ropes,
                                   .ref = two_ropes_ref},
                                  {0}};
#undef ROPE
    run_all(t, all);
}

/* ---- attention
 * ----------------------------------------------------------------------------------------
 */

typedef struct {
    nn_attn_args a;
    uint32_t n_seq;
    nn_seq seq[3];
} attn_arg;

static nn_tensor *attention(nn *c, const example *e, nn_tensor **in, nn_weight *w)
{
    const attn_arg *a = e->arg;
    (void)w;
    return nn_attention(c, in[0], in[1], in[2], a->seq, a->n_seq, &a->a, NULL);
}

static void attention_ref(const example *e, double *const *in, double *const *w, double *y)
{
    const attn_arg *g = e->arg;
    const nn_attn_args *a = &g->a;
    size_t d = a->head_dim, group = a->n_head / a->n_kv_head;
    size_t ql = a->n_head * d, kl = a->n_kv_head * d;
    double *p = mem_array(e->in[0].rows, sizeof(double));
    (void)w;
    for (uint32_t s = 0; s < g->n_seq; s++)
        for (uint32_t i = 0; i < g->seq[s].n_rows; i++)
            for (uint32_t h = 0; h < a->n_head; h++) {
                const double *q = in[0] + (g->seq[s].row + i) * ql + h * d;
                size_t k0 = g->seq[s].row * kl + h / group * d;
                uint32_t first = a->window && i + 1 > a->window ? i + 1 - a->window : 0;
                double sum = 0, max = -1e300;
                for (uint32_t j = first; j <= i; j++) {
                    p[j] = 0;
                    for (size_t k = 0; k < d; k++)
                        p[j] += q[k] * in[1][k0 + j * kl + k];
                    p[j] *= a->scale != 0.0f ? (double)a->scale : 1 / sqrt((double)d);
                    max = fmax(max, p[j]);
                }
                for (uint32_t j = first; j <= i; j++)
                    sum += p[j] = exp(p[j] - max);
                double *o = y + (g->seq[s].row + i) * ql + h * d;
                memset(o, 0, d * sizeof(double));
                for (uint32_t j = first; j <= i; j++)
                    for (size_t k = 0; k < d; k++)
                        o[k] += p[j] / sum * in[2][k0 + j * kl + k];
            }
    mem_free(p);
}

static void attentions(test *t)
{
    static const attn_arg plain = {
        {.n_head = 2, .n_kv_head = 2, .head_dim = 4}, 1, {{0, 6, 0, 0}}};
    static const attn_arg grouped = {
        {.n_head = 4, .n_kv_head = 2, .head_dim = 6, .scale = 0.3f},
        3,
        {{0, 3, 0, 0}, {3, 1, 0, 0}, {4, 4, 0, 0}}};
    static const attn_arg window = {
        {.n_head = 2, .n_kv_head = 1, .head_dim = 4, .window = 3}, 1, {{0, 8, 0, 0}}};
    static const attn_arg long_ = {{.n_head = 2, .n_kv_head = 1, .head_dim = 20},
                                   2,
                                   {{0, 200, 0, 0}, {200, 70, 0, 0}}};
    static const attn_arg long_window = {
        {.n_head = 2, .n_kv_head = 2, .head_dim = 8, .window = 90}, 1, {{0, 300, 0, 0}}};
#define ATTENTION(which, rows, heads, kv, d)                                               \
    {                                                                                      \
        .name = "attention " #which,                                                       \
        .in = {{rows, heads * d}, {rows, kv * d}, {rows, kv * d}},                         \
        .out = {rows, heads * d}, .build = attention, .ref = attention_ref, .arg = &which  \
    }
    static const example all[] = {
        ATTENTION(plain, 6, 2, 2, 4),         ATTENTION(grouped, 8, 4, 2, 6),
        ATTENTION(window, 8, 2, 1, 4),        ATTENTION(long_, 270, 2, 1, 20),
        ATTENTION(long_window, 300, 2, 2, 8), {0}};
#undef ATTENTION
    run_all(t, all);
}

/* ---- images
 * -------------------------------------------------------------------------------- */

static nn_tensor *conv2d(nn *c, const example *e, nn_tensor **in, nn_weight *w)
{
    return nn_conv2d(c, in[0], &w[0], w[1].rows ? &w[1] : NULL, e->arg);
}

static double pixel(const nn_conv_args *a, const double *plane, long y, long x)
{
    bool outside = y < 0 || x < 0 || y >= (long)a->h || x >= (long)a->w;
    return outside ? 0 : plane[y * (long)a->w + x];
}

static void conv2d_ref(const example *e, double *const *in, double *const *w, double *y)
{
    const nn_conv_args *a = e->arg;
    long oh = (a->h + 2 * a->pad - a->kh) / a->stride + 1;
    long ow = (a->w + 2 * a->pad - a->kw) / a->stride + 1;
    for (size_t i = 0; i < e->in[0].rows; i++)
        for (size_t o = 0; o < e->w[0].rows; o++)
            for (long p = 0; p < oh * ow; p++) {
                double sum = e->w[1].rows ? w[1][o] : 0;
                for (uint32_t k = 0; k < e->w[0].cols; k++) {
                    uint32_t ch = k / (a->kh * a->kw);
                    long ky = k / a->kw % a->kh, kx = k % a->kw;
                    const double *plane = in[0] + i * e->in[0].cols + ch * a->h * a->w;
                    sum += w[0][o * e->w[0].cols + k] *
                           pixel(a, plane, p / ow * a->stride + ky - a->pad,
                                 p % ow * a->stride + kx - a->pad);
                }
                y[(i * e->w[0].rows + o) * (size_t)(oh * ow) + (size_t)p] = sum;
            }
}

static nn_tensor *maxpool2d(nn *c, const example *e, nn_tensor **in, nn_weight *w)
{
    (void)w;
    return nn_maxpool2d(c, in[0], e->arg);
}

static void maxpool2d_ref(const example *e, double *const *in, double *const *w, double *y)
{
    const nn_conv_args *a = e->arg;
    long oh = (a->h + 2 * a->pad - a->kh) / a->stride + 1;
    long ow = (a->w + 2 * a->pad - a->kw) / a->stride + 1;
    (void)w;
    for (size_t p = 0; p < (size_t)e->in[0].rows * a->channels; p++)
        for (long o = 0; o < oh * ow; o++) {
            double best = -1e300;
            for (long k = 0; k < (long)(a->kh * a->kw); k++) {
                long py = o / ow * a->stride + k / a->kw - a->pad;
                long px = o % ow * a->stride + k % a->kw - a->pad;
                if (py >= 0 && px >= 0 && py < (long)a->h && px < (long)a->w)
                    best = fmax(best, in[0][p * a->h * a->w + (size_t)(py * a->w + px)]);
            }
            y[p * (size_t)(oh * ow) + (size_t)o] = best;
        }
}

static void images(test *t)
{
    static const nn_conv_args plain = {2, 6, 5, 3, 3, 1, 0}, padded = {1, 5, 7, 3, 5, 2, 2};
    static const nn_conv_args big = {3, 32, 32, 5, 5, 1, 2};
    static const nn_conv_args halves = {2, 6, 4, 2, 2, 2, 0}, edges = {1, 5, 5, 3, 3, 2, 1};
    static const example all[] = {{.name = "conv2d",
                                   .in = {{2, 60}},
                                   .w = {{3, 18}, {1, 3}},
                                   .out = {2, 36},
                                   .build = conv2d,
                                   .ref = conv2d_ref,
                                   .arg = &plain},
                                  {.name = "conv2d, padded",
                                   .in = {{3, 35}},
                                   .w = {{2, 15}},
                                   .out = {3, 2 * 4 * 4},
                                   .build = conv2d,
                                   .ref = conv2d_ref,
                                   .arg = &padded},
                                  {.name = "conv2d, in pieces",
                                   .in = {{9, 3072}},
                                   .w = {{2, 75}, {1, 2}},
                                   .out = {9, 2048},
                                   .build = conv2d,
                                   .ref = conv2d_ref,
                                   .arg = &big},
                                  {.name = "maxpool2d",
                                   .in = {{2, 48}},
                                   .out = {2, 12},
                                   .build = maxpool2d,
                                   .ref = maxpool2d_ref,
                                   .arg = &halves},
                                  {.name = "maxpool2d, edges",
                                   .in = {{3, 25}},
                                   .out = {3, 9},
                                   .build = maxpool2d,
                                   .ref = maxpool2d_ref,
                                   .arg = &edges},
                                  {0}};
    run_all(t, all);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"linear", "x W^T + b and adapters", linear_layers},
        {"norms", "rms, rms per head, layer", norms},
        {"elementwise", "add, scale, silu gate, gelu, relu, tanh", elementwise},
        {"lookups", "rows and embedding", lookups},
        {"rope", "both layouts, partial, factors, yarn", ropes},
        {"attention", "grouped, windowed, several sequences, several tiles", attentions},
        {"images", "convolution and pooling, padding, stride, several pieces", images},
        {0}};
    return test_main(argc, argv, cases);
}
