/* net.c - see net.h. */
#include "fl/oracle/net.h"
#include "kern/thin.h"

#include <math.h>

enum { CHUNK = 128 }; /* rows at a time: activations stay in cache */
enum { PARTS = 2 * (NET_LAYERS + 2) };
enum { USE_INIT = 0x696e6974 };

struct net {
    const net_task *task;
    const net_data *data;  /* what index refers to */
    const uint32_t *index; /* (n), or NULL: all rows */
    size_t n;
    nn *nn;
    nn_weight w[PARTS]; /* W, b, W, b ...; views of the vectors of the call */
    uint32_t n_layers;
    float *x; /* (CHUNK, features) */
    int32_t y[CHUNK];
    float *act;   /* thin steps: outputs of the layers, (THIN_ROWS, out) one after other */
    float *slope; /* and two layers' gradients, (2, THIN_ROWS, widest)                   */
    size_t widest;
    uint32_t rows;
    double step; /* 1: gradients; -lr: straight into the weights */
    float scale;
    nn_loss loss;
    fl_rows out; /* of a pass over rows alone */
    const float *dscore, *dloss;
    size_t seen; /* rows of it that are done */
    bool by_rows;
};

/* ---- shapes ---- */

om_status net_shape_hidden(net_shape *s, str widths, om_err *err)
{
    s->n_hidden = 0;
    while (widths.n) {
        const char *comma = memchr(widths.p, ',', widths.n);
        str one = {widths.p, comma ? (size_t)(comma - widths.p) : widths.n};
        uint64_t v;
        if (!str_u64(one, &v) || v == 0 || v > 1 << 20)
            return fail(err, OM_EARG,
                        "a hidden layer is '%.*s' wide, expected 1 to 1048576",
                        (int)size_min(one.n, 20), one.p);
        if (s->n_hidden == countof(s->hidden))
            return fail(err, OM_ELIMIT, "more than %zu hidden layers", countof(s->hidden));
        s->hidden[s->n_hidden++] = (uint32_t)v;
        widths = comma ? (str){comma + 1, widths.n - one.n - 1} : (str){NULL, 0};
    }
    return OM_OK;
}

om_status net_shape_check(const net_shape *s, om_err *err)
{
    if (s->features == 0 || s->classes < 2 || s->features > 1 << 24 || s->classes > 1 << 20)
        return fail(err, OM_EARG,
                    "a network needs features and at least two classes, found "
                    "%u and %u",
                    (unsigned)s->features, (unsigned)s->classes);
    if (s->conv[0] && (s->conv[1] == 0 || s->conv[0] > 4096 || s->conv[1] > 4096))
        return fail(err, OM_EARG, "convolutions of %u and %u channels, expected 1 to 4096",
                    (unsigned)s->conv[0], (unsigned)s->conv[1]);
    if (s->conv[0] &&
        ((uint64_t)s->height * s->width != s->features || s->height < 4 || s->width < 4))
        return fail(err, OM_EARG, "images of %u x %u do not make rows of %u numbers",
                    (unsigned)s->height, (unsigned)s->width, (unsigned)s->features);
    return OM_OK;
}

enum { KERNEL = 5 };

/* Width of what enters the first linear layer. */
static uint32_t flat(const net_shape *s)
{
    return s->conv[0] ? s->conv[1] * (s->height / 4) * (s->width / 4) : s->features;
}

/* Layer l as (out, in); false past the last. */
static bool layer(const net_shape *s, uint32_t l, uint32_t *out, uint32_t *in)
{
    uint32_t convs = s->conv[0] ? 2 : 0, h = l - convs;
    if (l < convs) {
        *out = s->conv[l];
        *in = (l ? s->conv[0] : 1) * KERNEL * KERNEL;
        return true;
    }
    *in = h ? s->hidden[h - 1] : flat(s);
    *out = h < s->n_hidden ? s->hidden[h] : s->classes;
    return h <= s->n_hidden;
}

static uint32_t layers(const net_shape *s)
{
    return (s->conv[0] ? 2 : 0) + s->n_hidden + 1;
}

size_t net_dim(const net_shape *s)
{
    size_t d = 0;
    uint32_t out, in;
    for (uint32_t l = 0; l < layers(s) && layer(s, l, &out, &in); l++)
        d += (size_t)out * in + out;
    return d;
}

void net_init(const net_shape *s, uint64_t seed, float *x0)
{
    uint32_t out, in;
    rng r = rng_for(seed, 0, 0, USE_INIT);
    memset(x0, 0, net_dim(s) * sizeof(float));
    for (uint32_t l = 0; layers(s) > 1 && l < layers(s) && layer(s, l, &out, &in); l++) {
        float most = 1.0f / sqrtf((float)in);
        for (size_t i = 0; i < (size_t)out * in + out; i++)
            *x0++ = most * (float)(2 * rng_unit(&r) - 1);
    }
}

/* ---- a forward ---- */

static nn_tensor *convolve(net *n, nn *c, nn_tensor *h)
{
    const net_shape *s = n->task->shape;
    uint32_t channels = 1, height = s->height, width = s->width;
    for (uint32_t l = 0; s->conv[0] && l < 2; l++) {
        nn_conv_args conv = {channels, height, width, KERNEL, KERNEL, 1, KERNEL / 2};
        h = nn_relu(c, nn_conv2d(c, h, &n->w[2 * l], &n->w[2 * l + 1], &conv));
        channels = s->conv[l];
        nn_conv_args half = {channels, height, width, 2, 2, 2, 0};
        h = nn_maxpool2d(c, h, &half);
        height /= 2, width /= 2;
    }
    return h;
}

/* Score, loss and sign of rows of logits, or the gradient with respect to those. */
static void see_rows(void *ctx, const float *z, size_t rows, size_t cols, float *dz)
{
    net *n = ctx;
    const kern *k = n->task->k;
    for (size_t r = 0; r < rows; r++, z += cols) {
        size_t at = n->seen + r;
        float most = k->max(z, cols), sum = 0;
        for (size_t j = 0; j < cols; j++)
            sum += expf(z[j] - most);
        if (dz) {
            float dl = n->dloss ? n->dloss[at] : 0, ds = n->dscore ? n->dscore[at] : 0;
            for (size_t j = 0; j < cols; j++)
                dz[j] = dl * expf(z[j] - most) / sum;
            dz[n->y[r]] -= dl;
            dz[0] -= ds, dz[1] += ds;
            dz += cols;
        }
        if (n->out.score)
            n->out.score[at] = cols == 2 ? z[1] - z[0] : NAN;
        if (n->out.sign)
            n->out.sign[at] = n->y[r] == 1 ? 1.0f : -1.0f;
        if (n->out.loss)
            n->out.loss[at] = logf(sum) + most - z[n->y[r]];
    }
}

static om_status forward(nn *c, void *ctx)
{
    net *n = ctx;
    nn_tensor *h = nn_input(c, n->x, n->rows, n->data->features); /* (rows, features) */
    h = convolve(n, c, h);
    for (uint32_t l = n->task->shape->conv[0] ? 2 : 0; l < n->n_layers; l++) {
        h = nn_linear(c, h, &n->w[2 * l], &n->w[2 * l + 1]);
        if (l + 1 < n->n_layers)
            h = nn_relu(c, h);
    }
    if (n->by_rows)
        nn_loss_of_rows(c, h, see_rows, n);
    else
        nn_cross_entropy(c, h, n->y, n->scale, &n->loss); /* of (rows, classes) */
    if (c->train)
        nn_backward(c);
    return OM_OK;
}

/* Views of x (and g, unless NULL). */
static void aim(net *n, const float *x, float *g)
{
    uint32_t out, in;
    for (uint32_t l = 0; l < n->n_layers && layer(n->task->shape, l, &out, &in); l++) {
        size_t w = (size_t)out * in;
        n->w[2 * l] =
            (nn_weight){.name = "W", .data = x, .rows = out, .cols = in, .grad = g};
        n->w[2 * l + 1] = (nn_weight){
            .name = "b", .data = x + w, .rows = 1, .cols = out, .grad = g ? g + w : NULL};
        x += w + out;
        g = g ? g + w + out : NULL;
    }
}

static void gather(net *n, uint32_t to, size_t place)
{
    const net_data *d = n->data;
    size_t row = n->index ? n->index[place] : place, w = d->features;
    float *x = n->x + to * w;
    n->y[to] = d->label[row];
    if (d->x)
        memcpy(x, d->x + row * w, w * sizeof(float));
    for (size_t i = 0; !d->x && i < w; i++)
        x[i] = (float)d->bytes[row * w + i] * (1.0f / 255.0f);
}

/* Adds the mean's gradient over places [from, from + m) of the shuffle (key; NULL: data
 * order) to g, and its loss and hits to the sums. */
static om_status visit(net *n, const uint64_t *key, size_t from, size_t m, bool train,
                       double *loss, uint64_t *right, om_err *err)
{
    for (size_t at = 0; at < m; at += CHUNK) {
        n->rows = (uint32_t)size_min(CHUNK, m - at);
        n->scale = (float)(n->step * (double)n->rows / (double)m);
        for (uint32_t i = 0; i < n->rows; i++)
            gather(n, i, key ? fl_pick(*key, n->n, from + at + i) : from + at + i);
        TRY(nn_run(n->nn, n->rows | (uint64_t)n->by_rows << 32, train, forward, n, err));
        n->seen += n->rows;
        if (n->by_rows)
            continue;
        *loss += n->loss.sum;
        *right += n->loss.correct;
    }
    return OM_OK;
}

/* ---- the oracle ---- */

static om_status mean_grad(net *n, const uint64_t *key, size_t from, size_t m,
                           const float *x, float *g, double *loss, om_err *err)
{
    size_t d = net_dim(n->task->shape);
    double sum = 0, l2 = n->task->l2, xx = 0;
    uint64_t right = 0;
    memset(g, 0, d * sizeof(float));
    aim(n, x, g);
    TRY(visit(n, key, from, m, true, &sum, &right, err));
    for (size_t i = 0; l2 > 0 && i < d; i++) {
        g[i] += (float)l2 * x[i];
        xx += (double)x[i] * (double)x[i];
    }
    if (loss)
        *loss = sum / (double)m + 0.5 * l2 * xx;
    return OM_OK;
}

static om_status grad(void *ctx, const float *x, float *g, double *loss, om_err *err)
{
    net *n = ctx;
    return mean_grad(n, NULL, 0, n->n, x, g, loss, err);
}

static om_status sgrad(void *ctx, const float *x, uint32_t batch, rng r, float *g,
                       double *loss, om_err *err)
{
    net *n = ctx;
    size_t from = (size_t)r.ctr * batch;
    if (from >= n->n)
        return fail(err, OM_EARG, "net: minibatch %llu of %u is past the %zu samples",
                    (unsigned long long)r.ctr, (unsigned)batch, n->n);
    return mean_grad(n, &r.key, from, size_min(batch, n->n - from), x, g, loss, err);
}

/* ---- rows ---- */

/* A pass over the minibatch that stops at each row's own figures. */
static om_status by_rows(net *n, uint32_t batch, rng r, const fl_rows *out, bool train,
                         uint32_t *count, om_err *err)
{
    size_t from = size_min((size_t)r.ctr * batch, n->n), m = size_min(batch, n->n - from);
    double none = 0;
    uint64_t right = 0;
    n->by_rows = true;
    n->seen = 0;
    n->out = *out;
    om_status s = visit(n, &r.key, from, m, train, &none, &right, err);
    n->by_rows = false;
    *count = (uint32_t)m;
    return s;
}

static om_status rows_of(void *ctx, const float *x, uint32_t batch, rng r,
                         const fl_rows *out, uint32_t *count, om_err *err)
{
    net *n = ctx;
    aim(n, x, NULL);
    return by_rows(n, batch, r, out, false, count, err);
}

static om_status pull(void *ctx, const float *x, uint32_t batch, rng r, const float *dscore,
                      const float *dloss, float *g, om_err *err)
{
    net *n = ctx;
    size_t d = net_dim(n->task->shape);
    uint32_t count;
    memset(g, 0, d * sizeof(float));
    aim(n, x, g);
    n->dscore = dscore;
    n->dloss = dloss;
    TRY(by_rows(n, batch, r, &(fl_rows){0}, true, &count, err));
    for (size_t i = 0; n->task->l2 > 0 && i < d; i++)
        g[i] += (float)n->task->l2 * x[i];
    return OM_OK;
}

static uint64_t positives(void *ctx)
{
    const net *n = ctx;
    uint64_t count = 0;
    for (size_t i = 0; i < n->n; i++)
        count += n->data->label[n->index ? n->index[i] : i] == 1;
    return count;
}

/* ---- a step on a few rows: thin.h's kernels instead of the tape ---- */

/* Softmax cross-entropy of m rows of logits z (m,c): the loss's sum; z becomes
 * scale (softmax - onehot). */
static double softmax_slope(const kern *k, float *z, const int32_t *y, size_t m, size_t c,
                            float scale)
{
    double loss = 0;
    for (size_t r = 0; r < m; r++, z += c) {
        float most = k->max(z, c), own = z[y[r]];
        double sum = k->expsum(z, z, most, c);
        loss += log(sum) + (double)most - (double)own;
        k->scale(z, (float)((double)scale / sum), c);
        z[y[r]] -= scale;
    }
    return loss;
}

/* The gathered rows, in and out of place: activations stay for the way back, on which a
 * layer's dx is taken before its W moves. */
static double thin_step(net *n, float *params, double lr)
{
    const thin_kernels *t = thin_kernels_for(n->task->k->flags);
    const net_shape *s = n->task->shape;
    const float *in[NET_LAYERS + 1] = {n->x};
    float *w[NET_LAYERS + 1], *d = n->slope, *before = n->slope + THIN_ROWS * n->widest;
    uint32_t out[NET_LAYERS + 1], cols[NET_LAYERS + 1], last = n->n_layers - 1;
    size_t m = n->rows;
    float *a = n->act;
    for (uint32_t l = 0; l <= last && layer(s, l, &out[l], &cols[l]); l++) {
        size_t count = (size_t)out[l] * cols[l];
        w[l] = params;
        params += count + out[l];
        t->forward(l < last ? a : d, in[l], w[l], w[l] + count, m, out[l], cols[l]);
        for (size_t i = 0; l < last && i < m * out[l]; i++)
            a[i] = a[i] > 0 ? a[i] : 0;
        in[l + 1] = a;
        a += m * out[l];
    }
    double loss =
        softmax_slope(n->task->k, d, n->y, m, out[last], (float)(-lr / (double)m));
    for (uint32_t l = n->n_layers; l-- > 0;) {
        if (l) {
            t->back(before, d, w[l], m, out[l], cols[l]);
            for (size_t i = 0; i < m * cols[l]; i++)
                before[i] = in[l][i] > 0 ? before[i] : 0;
        }
        t->update(w[l], w[l] + (size_t)out[l] * cols[l], d, in[l], m, out[l], cols[l]);
        float *swap = d;
        d = before;
        before = swap;
    }
    return loss;
}

/* The weights stand in for their own gradient, and the loss for -lr times the loss: what
 * the backward adds is then the step.  Sound because a linear layer's backward reads W
 * (for dx) before it adds to it; not for more rows than one chunk. */
static om_status sgd(void *ctx, float *y, uint32_t batch, rng r, double lr, double *loss,
                     om_err *err)
{
    net *n = ctx;
    size_t from = (size_t)r.ctr * batch, m = size_min(batch, n->n - size_min(from, n->n));
    double sum = 0;
    uint64_t right = 0;
    if (m == 0)
        return fail(err, OM_EARG, "net: minibatch %llu of %u is past the %zu samples",
                    (unsigned long long)r.ctr, (unsigned)batch, n->n);
    BUG_IF(m > CHUNK);
    if (m <= THIN_ROWS) {
        n->rows = (uint32_t)m;
        for (uint32_t i = 0; i < n->rows; i++)
            gather(n, i, fl_pick(r.key, n->n, from + i));
        *loss = thin_step(n, y, lr) / (double)m;
        return OM_OK;
    }
    aim(n, y, y);
    n->step = -lr;
    om_status s = visit(n, &r.key, from, m, true, &sum, &right, err);
    n->step = 1;
    *loss = sum / (double)m;
    return s;
}

static om_status value(void *ctx, const float *x, double *loss, om_err *err)
{
    net *n = ctx;
    size_t d = net_dim(n->task->shape);
    double sum = 0, xx = 0;
    uint64_t right = 0;
    aim(n, x, NULL);
    TRY(visit(n, NULL, 0, n->n, false, &sum, &right, err));
    for (size_t i = 0; i < d; i++)
        xx += (double)x[i] * (double)x[i];
    *loss = sum / (double)n->n + 0.5 * n->task->l2 * xx;
    return OM_OK;
}

static bool take_rows(net *n, const net_shape *s)
{
    size_t hidden = 0;
    n->widest = s->classes;
    for (uint32_t l = 0; l < s->n_hidden; l++) {
        hidden += s->hidden[l];
        n->widest = size_max(n->widest, s->hidden[l]);
    }
    n->x = mem_array((size_t)CHUNK * s->features, sizeof(float));
    n->act = mem_array(THIN_ROWS * hidden + 1, sizeof(float));
    n->slope = mem_array(2 * THIN_ROWS * n->widest, sizeof(float));
    return n->x && n->act && n->slope;
}

om_status net_open(const net_task *t, net **out, om_err *err)
{
    TRY(net_shape_check(t->shape, err));
    net *n = mem_alloc(sizeof(*n));
    if (!n || !take_rows(n, t->shape)) {
        net_close(n);
        return fail(err, OM_ENOMEM, "net: no memory for a batch");
    }
    n->task = t;
    n->data = t->data;
    n->step = 1;
    n->n_layers = layers(t->shape);
    om_status s = nn_open(&(nn_config){.k = t->k}, &n->nn, err);
    if (s != OM_OK) {
        net_close(n);
        return s;
    }
    *out = n;
    return OM_OK;
}

void net_close(net *n)
{
    if (!n)
        return;
    nn_close(n->nn);
    mem_free(n->x);
    mem_free(n->act);
    mem_free(n->slope);
    mem_free(n);
}

void net_client(net *n, uint32_t client, fl_oracle *out)
{
    const partition *p = n->task->split;
    BUG_IF(client >= p->n_clients);
    n->data = n->task->data;
    n->index = p->index + p->first[client];
    n->n = p->first[client + 1] - p->first[client];
    *out = (fl_oracle){
        .dim = net_dim(n->task->shape),
        .n_samples = n->n,
        .ctx = n,
        .grad = grad,
        .sgrad = sgrad,
        .value = value,
        .sgd = n->task->l2 > 0 || n->task->shape->conv[0] ? NULL : sgd,
        .fused_batch = CHUNK,
        .rows = rows_of,
        .pull = pull,
        .positives = n->task->shape->classes == 2 ? positives : NULL,
    };
}

/* ---- scoring: chunks of rows in parallel, their sums added in order ---- */

typedef struct {
    double loss;
    uint64_t right;
    om_status status;
    om_err err;
} part;

typedef struct {
    net *const *nets;
    const net_data *data;
    const float *x;
    float *score;
    part *part;
} job;

static void score_rows(void *ctx, size_t beg, size_t end, int worker)
{
    job *j = ctx;
    net *n = j->nets[worker];
    part *p = &j->part[beg / CHUNK];
    n->data = j->data;
    n->index = NULL;
    n->n = j->data->n;
    aim(n, j->x, NULL);
    p->status = visit(n, NULL, beg, end - beg, false, &p->loss, &p->right, &p->err);
    if (!j->score || p->status != OM_OK)
        return;
    double none = 0;
    uint64_t right = 0;
    n->by_rows = true;
    n->seen = 0;
    n->out = (fl_rows){.score = j->score + beg};
    p->status = visit(n, NULL, beg, end - beg, false, &none, &right, &p->err);
    n->by_rows = false;
}

om_status net_score(net *const *nets, pool *p, const net_data *data, const float *x,
                    float *score, double *loss, double *accuracy, om_err *err)
{
    size_t parts = (data->n + CHUNK - 1) / CHUNK;
    job j = {nets, data, x, score, mem_array(parts, sizeof(part))};
    om_status s = OM_OK;
    double sum = 0, right = 0;
    if (!j.part)
        return fail(err, OM_ENOMEM, "net: no memory to score %zu rows", data->n);
    pool_run(p, data->n, CHUNK, score_rows, &j);
    for (size_t i = 0; i < parts && s == OM_OK; i++) {
        sum += j.part[i].loss;
        right += (double)j.part[i].right;
        s = j.part[i].status;
        if (s != OM_OK && err)
            *err = j.part[i].err;
    }
    *loss = sum / (double)data->n;
    *accuracy = right / (double)data->n;
    mem_free(j.part);
    return s;
}
