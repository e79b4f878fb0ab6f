/* test_inference.c - what only inference does: attention over a cache, and products with
 * packed weights, against references in double. */
#include "nn/nn.h"
#include "test.h"

enum { CACHE_ROWS = 200, CACHE_HEADS = 6, CACHE_KV = 2, CACHE_D = 16,
       CACHE_PAGES = (CACHE_ROWS + KV_TOKENS - 1) / KV_TOKENS };

/* Two sequences of CACHE_ROWS tokens, fed to the cache in batches. */
typedef struct {
    nn_attn_args a;
    nn_kv_layer kv;
    nn_kv_part part;
    nn_kv_page page[2][CACHE_PAGES];
    float *q[2], *k[2], *v[2], *out[2];
    nn_seq seq[2];
    float *batch_q, *batch_k, *batch_v, *batch_out;
    uint32_t rows, n_seq;
} cached;

static om_status cached_pass(nn *c, void *ctx)
{
    cached *s = ctx;
    nn_tensor *q = nn_input(c, s->batch_q, s->rows, CACHE_HEADS * CACHE_D);
    nn_tensor *k = nn_input(c, s->batch_k, s->rows, CACHE_KV * CACHE_D);
    nn_tensor *v = nn_input(c, s->batch_v, s->rows, CACHE_KV * CACHE_D);
    nn_output(c, nn_attention(c, q, k, v, s->seq, s->n_seq, &s->a, &s->kv), s->batch_out);
    return c->status;
}

static void move(float *to, const float *from, uint32_t rows, uint32_t cols)
{
    memcpy(to, from, sizeof(float) * rows * cols);
}

/* Tokens [beg, beg + n) of both sequences in one batch. */
static void feed(test *t, nn *c, cached *s, uint32_t beg, uint32_t n)
{
    const uint32_t qc = CACHE_HEADS * CACHE_D, kc = CACHE_KV * CACHE_D;
    om_err err = {0};
    s->rows = 2 * n;
    s->n_seq = 2;
    for (uint32_t i = 0; i < 2; i++) {
        s->seq[i] = (nn_seq){i * n, n, beg, s->page[i]};
        move(s->batch_q + i * n * qc, s->q[i] + beg * qc, n, qc);
        move(s->batch_k + i * n * kc, s->k[i] + beg * kc, n, kc);
        move(s->batch_v + i * n * kc, s->v[i] + beg * kc, n, kc);
    }
    CHECK_OK(t, nn_run(c, n, false, cached_pass, s, &err), err);
    for (uint32_t i = 0; i < 2; i++)
        move(s->out[i] + beg * qc, s->batch_out + i * n * qc, n, qc);
}

static float *random_rows(rng *r, uint32_t cols, bool half)
{
    size_t n = (size_t)CACHE_ROWS * cols;
    float *x = mem_array(n, sizeof(float));
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)rng_normal(r);
        x[i] = half ? f16_to_f32(f32_to_f16(x[i])) : x[i];
    }
    return x;
}

static double *as_double(const float *x, size_t n)
{
    double *y = mem_array(n, sizeof(double));
    for (size_t i = 0; i < n; i++)
        y[i] = (double)x[i];
    return y;
}

/* The whole sequence at once, in double. */
static void attention_ref(const nn_attn_args *a, const double *q, const double *k,
                          const double *v, double *y)
{
    const size_t d = CACHE_D, group = CACHE_HEADS / CACHE_KV;
    const size_t ql = CACHE_HEADS * d, kl = CACHE_KV * d;
    for (uint32_t i = 0; i < CACHE_ROWS; i++)
        for (uint32_t h = 0; h < CACHE_HEADS; h++) {
            double p[CACHE_ROWS], sum = 0;
            double *o = y + i * ql + h * d;
            uint32_t first = a->window && i + 1 > a->window ? i + 1 - a->window : 0;
            memset(o, 0, d * sizeof(double));
            for (uint32_t j = first; j <= i; j++) {
                double s = 0;
                for (size_t n = 0; n < d; n++)
                    s += q[i * ql + h * d + n] * k[j * kl + h / group * d + n];
                sum += p[j] = exp(s / sqrt((double)d));
            }
            for (uint32_t j = first; j <= i; j++)
                for (size_t n = 0; n < d; n++)
                    o[n] += p[j] / sum * v[j * kl + h / group * d + n];
        }
}

static void compare_cached(test *t, const cached *s, int i)
{
    size_t nq = CACHE_ROWS * CACHE_HEADS * CACHE_D, nk = CACHE_ROWS * CACHE_KV * CACHE_D;
    double *in[3] = {as_double(s->q[i], nq), as_double(s->k[i], nk),
                     as_double(s->v[i], nk)};
    double *y = mem_array(nq, sizeof(double)), worst = 0;
    attention_ref(&s->a, in[0], in[1], in[2], y);
    for (size_t k = 0; k < nq; k++)
        worst = fmax(worst, fabs(y[k] - (double)s->out[i][k]));
    CHECK_NEAR(t, worst, 0, 5e-6);
    for (int k = 0; k < 3; k++)
        mem_free(in[k]);
    mem_free(y);
}

static void open_pages(cached *s, kv_type type)
{
    size_t k = kv_block_bytes(type, false, CACHE_D), v = kv_block_bytes(type, true, CACHE_D);
    s->part = (nn_kv_part){type, type, 0, CACHE_KV * k};
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < CACHE_PAGES; j++)
            s->page[i][j] = (nn_kv_page){mem_alloc(CACHE_KV * (k + v)), &s->part};
}

static void run_cached(test *t, const kern *k, pool *p, kv_type type, uint32_t window)
{
    rng r = rng_for(9, 0, 0, 0);
    nn *c;
    om_err err = {0};
    const uint32_t qc = CACHE_HEADS * CACHE_D, kc = CACHE_KV * CACHE_D;
    cached s = {.a = {CACHE_HEADS, CACHE_KV, CACHE_D, 0, window},
                .kv = {.capacity = CACHE_ROWS}};
    bool half = type == KV_F16; /* exactly what the cache can hold */
    open_pages(&s, type);
    for (int i = 0; i < 2; i++) {
        s.q[i] = random_rows(&r, qc, false);
        s.k[i] = random_rows(&r, kc, half);
        s.v[i] = random_rows(&r, kc, half);
        s.out[i] = random_rows(&r, qc, false);
    }
    s.batch_q = mem_array(2 * CACHE_ROWS * qc, sizeof(float));
    s.batch_k = mem_array(2 * CACHE_ROWS * kc, sizeof(float));
    s.batch_v = mem_array(2 * CACHE_ROWS * kc, sizeof(float));
    s.batch_out = mem_array(2 * CACHE_ROWS * qc, sizeof(float));
    CHECK_OK(t, nn_open(&(nn_config){.k = k, .pool = p}, &c, &err), err);
    static const uint32_t pieces[] = {1, 70, 66, 1, 1, 3, 2, 1, 40, 1, 1, 1, 1, 1, 10};
    uint32_t at = 0;
    for (size_t i = 0; i < countof(pieces); at += pieces[i++])
        feed(t, c, &s, at, pieces[i]);
    CHECK_INT(t, at, CACHE_ROWS);
    s.seq[0].past = s.seq[1].past = CACHE_ROWS + 1; /* the second no longer fits */
    CHECK_INT(t, nn_run(c, 10, false, cached_pass, &s, &err), OM_ELIMIT);
    for (int i = 0; i < 2; i++)
        compare_cached(t, &s, i);
    nn_close(c);
    for (int i = 0; i < 2 * CACHE_PAGES; i++)
        mem_free(s.page[i / CACHE_PAGES][i % CACHE_PAGES].data);
    void *all[] = {s.q[0],   s.q[1], s.k[0], s.k[1],    s.v[0],    s.v[1],    s.out[0],
                   s.out[1], s.batch_q, s.batch_k, s.batch_v, s.batch_out};
    for (size_t i = 0; i < countof(all); i++)
        mem_free(all[i]);
}

static void caches(test *t)
{
    kern k;
    pool *p;
    om_err err = {0};
    kern_init(&k, 0);
    CHECK_OK(t, pool_open(2, &p, &err), err);
    run_cached(t, &k, p, KV_F32, 0);
    run_cached(t, &k, p, KV_F16, 0);
    run_cached(t, &k, p, KV_F32, 50);
    run_cached(t, &k, p, KV_F16, 150);
    pool_close(p);
}

/* ---- packed weights
 * ------------------------------------------------------------------------------ */

/* x (rows, 256) through a packed W (32, 256) and an embedding of it. */
typedef struct {
    nn_weight w;
    float *x, *y, *dx, *row, *target;
    bool train;
} packed;

enum { PACKED_ROWS = 5, PACKED_IN = 256, PACKED_OUT = 32 };

static om_status packed_pass(nn *c, void *ctx)
{
    packed *s = ctx;
    static const int32_t which[] = {7};
    nn_loss loss = {0};
    nn_tensor *x = nn_input(c, s->x, PACKED_ROWS, PACKED_IN);
    x->needs_grad = true;
    nn_tensor *y = nn_linear(c, x, &s->w, NULL);
    nn_output(c, y, s->y);
    nn_output(c, nn_embed(c, &s->w, which, 1), s->row);
    nn_mse(c, y, s->target, PACKED_ROWS / 2.0f, &loss); /* dy = y - target */
    nn_backward(c);
    const float *dx = nn_grad_in(c, x);
    if (dx && nn_live(c))
        memcpy(s->dx, dx, PACKED_ROWS * PACKED_IN * sizeof(float));
    return c->status;
}

static void check_packed(test *t, const packed *s, double tolerance)
{
    float w[PACKED_OUT][PACKED_IN];
    double worst = 0, largest = 0;
    dtype_of(s->w.type)->unpack(s->w.data, &w[0][0], PACKED_OUT * PACKED_IN);
    for (int i = 0; i < PACKED_ROWS; i++)
        for (int o = 0; o < PACKED_OUT; o++) {
            double sum = 0;
            for (int k = 0; k < PACKED_IN; k++)
                sum += (double)s->x[i * PACKED_IN + k] * (double)w[o][k];
            worst = fmax(worst, fabs(sum - (double)s->y[i * PACKED_OUT + o]));
            largest = fmax(largest, fabs(sum));
        }
    CHECK_NEAR(t, worst / largest, 0, tolerance);
    CHECK(t, memcmp(s->row, w[7], sizeof(w[7])) == 0);
    for (int k = 0; s->train && k < PACKED_IN; k++) {
        double sum = 0;
        for (int o = 0; o < PACKED_OUT; o++)
            sum += (double)(s->y[PACKED_OUT + o] - s->target[PACKED_OUT + o]) *
                   (double)w[o][k];
        CHECK_NEAR(t, s->dx[PACKED_IN + k], sum, 1e-5 * largest);
    }
}

/* In f32 where exactness is asked for, and when training unless integers are; else through
 * 8-bit activations, whose error is that of rounding to 1/127 of a block's largest. */
static void packed_weights(test *t)
{
    static const dtype types[] = {DTYPE_F16,  DTYPE_BF16, DTYPE_Q8_0,
                                  DTYPE_Q4_0, DTYPE_Q4_K, DTYPE_Q6_K};
    kern k;
    om_err err = {0};
    float raw[PACKED_OUT * PACKED_IN];
    rng r = rng_for(2, 0, 0, 0);
    packed s = {.x = random_rows(&r, 20, false), .target = random_rows(&r, 1, false)};
    s.y = mem_array(PACKED_ROWS * PACKED_OUT, sizeof(float));
    s.dx = mem_array(PACKED_ROWS * PACKED_IN, sizeof(float));
    s.row = mem_array(PACKED_IN, sizeof(float));
    kern_init(&k, 0);
    for (size_t i = 0; i < countof(types); i++) {
        nn *c;
        void *data = mem_alloc(sizeof(raw));
        for (size_t j = 0; j < countof(raw); j++)
            raw[j] = (float)rng_normal(&r);
        dtype_of(types[i])->pack(raw, data, countof(raw));
        s.w = (nn_weight){"packed", types[i], data, PACKED_OUT, PACKED_IN, NULL, NULL, NULL};
        CHECK_OK(t, nn_open(&(nn_config){.k = &k}, &c, &err), err);
        s.train = true;
        CHECK_OK(t, nn_run(c, 1, true, packed_pass, &s, &err), err);
        check_packed(t, &s, 1e-5);
        s.train = false;
        c->exact = true;
        CHECK_OK(t, nn_run(c, 1, false, packed_pass, &s, &err), err);
        check_packed(t, &s, 1e-5);
        c->exact = false;
        CHECK_OK(t, nn_run(c, 2, false, packed_pass, &s, &err), err);
        check_packed(t, &s, 2e-2);
        s.train = c->quant_train = true;
        CHECK_OK(t, nn_run(c, 3, true, packed_pass, &s, &err), err);
        check_packed(t, &s, 2e-2);
        nn_close(c);
        mem_free(data);
    }
    void *all[] = {s.x, s.target, s.y, s.dx, s.row};
    for (size_t i = 0; i < countof(all); i++)
        mem_free(all[i]);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"caches", "tokens in pieces and one by one, F32 and F16, windowed", caches},
        {"packed_weights", "exact products and integer ones", packed_weights},
        {0}};
    return test_main(argc, argv, cases);
}
