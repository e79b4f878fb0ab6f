/* test_losses.c - cross-entropy, alone and fused with the output head, against a reference
 * in double and its central differences (tolerance 2e-5 of the largest number). */
#include "nn/nn.h"
#include "test.h"

/* ---- losses
 * ----------------------------------------------------------------------------------- */

/* A head with cross-entropy: x (rows, dim), W (vocab, dim); fused or as two ops. */
typedef struct {
    uint32_t rows, dim, vocab;
    bool fused;
    double *x, *w;
    float *xf, *wf, *dx, *dw;
    int32_t *target;
    float scale;
    nn_loss loss;
} head;

static om_status head_pass(nn *c, void *ctx)
{
    head *h = ctx;
    nn_weight w = {"head", DTYPE_F32, h->wf, h->vocab, h->dim, h->dw, NULL, NULL};
    nn_tensor *x = nn_input(c, h->xf, h->rows, h->dim);
    x->needs_grad = true;
    if (h->fused)
        nn_linear_cross_entropy(c, x, &w, h->target, h->scale, &h->loss);
    else
        nn_cross_entropy(c, nn_linear(c, x, &w, NULL), h->target, h->scale, &h->loss);
    nn_backward(c);
    const float *dx = nn_grad_in(c, x);
    if (nn_live(c) && dx)
        memcpy(h->dx, dx, sizeof(float) * h->rows * h->dim);
    return c->status;
}

static double head_ref(const head *h, uint64_t *correct)
{
    double sum = 0, counted = 0, *z = mem_array(h->vocab, sizeof(double));
    *correct = 0;
    for (uint32_t i = 0; i < h->rows; i++) {
        double all = 0;
        uint32_t best = 0;
        if (h->target[i] < 0)
            continue;
        for (uint32_t v = 0; v < h->vocab; v++) {
            z[v] = 0;
            for (uint32_t k = 0; k < h->dim; k++)
                z[v] += h->x[i * h->dim + k] * h->w[v * h->dim + k];
            all += exp(z[v]);
            best = z[v] > z[best] ? v : best;
        }
        sum += log(all) - z[h->target[i]];
        counted++;
        *correct += best == (uint32_t)h->target[i];
    }
    mem_free(z);
    return sum / counted;
}

static void open_head(head *h, uint32_t rows, uint32_t dim, uint32_t vocab, bool fused)
{
    rng r = rng_for(3, 0, 0, 0);
    size_t nx = (size_t)rows * dim, nw = (size_t)vocab * dim;
    *h = (head){rows, dim, vocab, fused, .scale = 2};
    h->x = mem_array(nx, sizeof(double));
    h->w = mem_array(nw, sizeof(double));
    h->xf = mem_array(nx, sizeof(float));
    h->wf = mem_array(nw, sizeof(float));
    h->dx = mem_array(nx, sizeof(float));
    h->dw = mem_array(nw, sizeof(float));
    h->target = mem_array(rows, sizeof(int32_t));
    for (size_t i = 0; i < nx; i++)
        h->x[i] = (double)(h->xf[i] = (float)rng_normal(&r));
    for (size_t i = 0; i < nw; i++)
        h->w[i] = (double)(h->wf[i] = (float)rng_normal(&r));
    for (uint32_t i = 0; i < rows; i++)
        h->target[i] = i % 5 == 2 ? -1 : (int32_t)rng_below(&r, vocab);
}

static void close_head(head *h)
{
    void *all[] = {h->x, h->w, h->xf, h->wf, h->dx, h->dw, h->target};
    for (size_t i = 0; i < countof(all); i++)
        mem_free(all[i]);
}

static void check_head(test *t, head *h, double *leaf, const float *grad, size_t n)
{
    uint64_t correct;
    double worst = 0, largest = 0, step = 1e-5;
    for (size_t i = 0; i < n; i++) {
        double keep = leaf[i];
        leaf[i] = keep + step;
        double up = head_ref(h, &correct);
        leaf[i] = keep - step;
        double want = (double)h->scale * (up - head_ref(h, &correct)) / (2 * step);
        leaf[i] = keep;
        worst = fmax(worst, fabs(want - (double)grad[i]));
        largest = fmax(largest, fabs(want));
    }
    CHECK(t, largest > 0);
    CHECK_NEAR(t, worst / largest, 0, 2e-5);
}

static void cross_entropies(test *t)
{
    kern k;
    om_err err = {0};
    kern_init(&k, 0);
    for (int fused = 0; fused < 2; fused++) {
        head h;
        nn *c;
        uint64_t correct;
        open_head(&h, 7, 6, 11, fused);
        CHECK_OK(t, nn_open(&(nn_config){.k = &k}, &c, &err), err);
        CHECK_OK(t, nn_run(c, 1, true, head_pass, &h, &err), err);
        CHECK_INT(t, h.loss.rows, 6);
        CHECK_NEAR(t, h.loss.sum / 6, head_ref(&h, &correct), 1e-5);
        CHECK_INT(t, h.loss.correct, correct);
        check_head(t, &h, h.x, h.dx, 7 * 6);
        check_head(t, &h, h.w, h.dw, 11 * 6);
        h.target[3] = 11;
        CHECK_INT(t, nn_run(c, 1, true, head_pass, &h, &err), OM_EARG);
        h.target[3] = 1;
        float nll[7];
        h.loss.row_nll = nll; /* evaluation: the same loss, row by row, no gradient */
        memset(h.dx, 0, 7 * 6 * sizeof(float));
        CHECK_OK(t, nn_run(c, 1, false, head_pass, &h, &err), err);
        CHECK_NEAR(t, h.loss.sum / 6, head_ref(&h, &correct), 1e-5);
        CHECK(t, isnan(nll[2]) && h.dx[0] == 0.0f);
        CHECK_NEAR(t, nll[0] + nll[1] + nll[3] + nll[4] + nll[5] + nll[6], h.loss.sum,
                   1e-5);
        nn_close(c);
        close_head(&h);
    }
}

/* Two chunks of rows, against the loss that keeps all logits. */
static void chunked_head(test *t)
{
    kern k;
    om_err err = {0};
    head h[2];
    kern_init(&k, 0);
    for (int fused = 0; fused < 2; fused++) {
        nn *c;
        open_head(&h[fused], 48, 3, 200000, fused);
        CHECK_OK(t, nn_open(&(nn_config){.k = &k}, &c, &err), err);
        CHECK_OK(t, nn_run(c, 1, true, head_pass, &h[fused], &err), err);
        nn_close(c);
    }
    CHECK_NEAR(t, h[0].loss.sum / h[1].loss.sum, 1, 1e-6);
    double dx = 0, dw = 0;
    for (size_t i = 0; i < 48 * 3; i++)
        dx = fmax(dx, fabs((double)h[0].dx[i] - (double)h[1].dx[i]));
    for (size_t i = 0; i < 200000 * 3; i++)
        dw = fmax(dw, fabs((double)h[0].dw[i] - (double)h[1].dw[i]));
    CHECK_NEAR(t, dx, 0, 1e-5);
    CHECK_NEAR(t, dw, 0, 1e-5);
    close_head(&h[0]);
    close_head(&h[1]);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"cross_entropy", "alone and fused with the head", cross_entropies},
        {"chunked_head", "the fused head in several chunks", chunked_head},
        {0}};
    return test_main(argc, argv, cases);
}
