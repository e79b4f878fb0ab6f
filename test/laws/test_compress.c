/* test_compress.c - laws of quantization: grids, error feedback, calibration, files. */
#include "test.h"

#include "compress/allocate.h"
#include "compress/grid.h"
#include "compress/quantize.h"

static const char *const folder = OM_SOURCE_DIR "/test/golden/arch/llama3";

static void normals(float *x, size_t n, uint64_t seed)
{
    rng r = rng_for(seed, 0, 0, 0);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)rng_normal(&r);
}

static double relative_error(const float *x, const float *y, size_t n)
{
    double e = 0, s = 0;
    for (size_t i = 0; i < n; i++) {
        e += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        s += (double)x[i] * (double)x[i];
    }
    return e / s;
}

/* ---- grids ------------------------------------------------------------------------- */

enum { GRID_N = 256 * 40 };

/* On Gaussian weights ggml's encoders with uniform importance give these relative errors;
 * ours may not give more. */
static const struct {
    dtype type;
    double theirs;
} gaussian[] = {
    {DTYPE_Q4_0, .00663},   {DTYPE_Q4_1, .00488},   {DTYPE_Q5_0, .00163},
    {DTYPE_Q5_1, .00124},   {DTYPE_Q2_K, .0721},    {DTYPE_Q3_K, .0208},
    {DTYPE_Q4_K, .00501},   {DTYPE_Q5_K, .00124},   {DTYPE_Q6_K, .000297},
    {DTYPE_IQ4_NL, .00556}, {DTYPE_IQ4_XS, .00565},
};

static void grids(test *t)
{
    static float x[GRID_N], y[GRID_N], q[GRID_N];
    static uint8_t packed[GRID_N * 2];
    normals(x, GRID_N, 1);
    for (size_t i = 0; i < countof(gaussian); i++) {
        const grid *g = grid_of(gaussian[i].type);
        const dtype_traits *d = dtype_of(gaussian[i].type);
        for (size_t b = 0; b < GRID_N / g->block; b++) {
            grid_block s;
            grid_fit(g, x + b * g->block, NULL, &s);
            grid_codes(g, &s, x + b * g->block, q + b * g->block);
            grid_put(g, &s, packed + b * d->bytes);
        }
        d->unpack(packed, y, GRID_N);
        size_t differ = 0;
        for (size_t e = 0; e < GRID_N; e++)
            differ += q[e] != y[e];
        CHECK_INT(t, differ, 0); /* what was promised is what is read */
        double e = relative_error(x, y, GRID_N);
        t->checks++;
        if (e > gaussian[i].theirs * 1.02)
            test_fail(t, __FILE__, __LINE__, "%s: error %.6f, ggml's %.6f", d->name, e,
                      gaussian[i].theirs);
    }
}

/* Weights move the error to where it counts less. */
static void importance(test *t)
{
    float x[256], w[256], q[2][256];
    double e[2] = {0, 0};
    normals(x, 256, 2);
    for (int i = 0; i < 256; i++)
        w[i] = i % 4 == 0 ? 100 : 1;
    for (int pass = 0; pass < 2; pass++) {
        const grid *g = grid_of(DTYPE_Q3_K);
        grid_block b;
        grid_fit(g, x, pass ? w : NULL, &b);
        grid_codes(g, &b, x, q[pass]);
        for (int i = 0; i < 256; i++)
            e[pass] += (double)(w[i] * (x[i] - q[pass][i]) * (x[i] - q[pass][i]));
    }
    CHECK(t, e[1] < 0.9 * e[0]);
}

/* ---- feedback ---------------------------------------------------------------------- */

enum { ROWS = 24, COLS = 512, SAMPLES = 700 };

static float matrix[ROWS * COLS], second[COLS * COLS];

/* Correlated inputs: a random walk across the columns. */
static void correlated(void)
{
    static float x[SAMPLES * COLS];
    normals(x, SAMPLES * COLS, 3);
    normals(matrix, ROWS * COLS, 4);
    for (size_t s = 0; s < SAMPLES; s++)
        for (size_t i = 1; i < COLS; i++)
            x[s * COLS + i] = 0.8f * x[s * COLS + i - 1] + 0.6f * x[s * COLS + i];
    for (size_t i = 0; i < COLS; i++)
        for (size_t j = 0; j < COLS; j++) {
            double sum = 0;
            for (size_t s = 0; s < SAMPLES; s++)
                sum += (double)x[s * COLS + i] * (double)x[s * COLS + j];
            second[i * COLS + j] = (float)sum;
        }
}

static void factor(test *t)
{
    kern k;
    om_err err;
    ldl f;
    kern_init(&k, 0);
    correlated();
    CHECK_OK(t, ldl_factor(second, COLS, 0.01, &k, NULL, &f, &err), err);
    double mean = 0, worst = 0;
    for (size_t i = 0; i < COLS; i++)
        mean += (double)second[i * COLS + i] / COLS;
    for (size_t i = 0; i < COLS; i += 7)
        for (size_t j = i; j < COLS; j += 5) {
            double sum = 0;
            for (size_t l = j; l < COLS; l++)
                sum +=
                    (double)f.u[i * COLS + l] * (double)f.d[l] * (double)f.u[j * COLS + l];
            double want = (double)second[i * COLS + j] + (i == j ? 0.01 * mean : 0);
            worst = fmax(worst, fabs(sum - want));
        }
    CHECK(t, worst < 1e-4 * mean);
    ldl_free(&f);
    second[5 * COLS + 5] = NAN;
    CHECK_INT(t, ldl_factor(second, COLS, 0.01, &k, NULL, &f, &err), OM_EFORMAT);
}

/* tr (W - V) H (W - V)^T */
static double output_error(const float *v)
{
    double sum = 0;
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < COLS; i++) {
            double row = 0;
            for (size_t j = 0; j < COLS; j++)
                row += (double)second[i * COLS + j] *
                       ((double)matrix[r * COLS + j] - (double)v[r * COLS + j]);
            sum += row * ((double)matrix[r * COLS + i] - (double)v[r * COLS + i]);
        }
    return sum;
}

static void encode(test *t, dtype type, const ldl *f, pool *p, uint8_t *out, float *v)
{
    kern k;
    om_err err;
    kern_init(&k, 0);
    quant_rows j = {.w = matrix,
                    .rows = ROWS,
                    .cols = COLS,
                    .type = type,
                    .f = f,
                    .k = &k,
                    .pool = p,
                    .out = out};
    CHECK(t, dtype_row_bytes(type, COLS, &j.row_bytes));
    CHECK_OK(t, quant_encode_grid(&j, &err), err);
    dtype_of(type)->unpack(out, v, ROWS * COLS);
}

static void feedback(test *t)
{
    static const dtype types[] = {DTYPE_Q2_K, DTYPE_Q3_K, DTYPE_Q4_K, DTYPE_IQ4_XS,
                                  DTYPE_Q4_0};
    static uint8_t out[2][ROWS * COLS];
    static float v[ROWS * COLS];
    kern k;
    om_err err;
    ldl f, identity;
    kern_init(&k, 0);
    correlated();
    CHECK_OK(t, ldl_factor(second, COLS, 0.01, &k, NULL, &f, &err), err);
    static float one[COLS * COLS];
    for (size_t i = 0; i < COLS; i++)
        one[i * COLS + i] = 1;
    CHECK_OK(t, ldl_factor(one, COLS, 0, &k, NULL, &identity, &err), err);
    for (size_t i = 0; i < countof(types); i++) {
        encode(t, types[i], NULL, NULL, out[0], v);
        double alone = output_error(v);
        encode(t, types[i], &identity, NULL, out[1], v);
        size_t bytes;
        CHECK(t, dtype_row_bytes(types[i], ROWS * COLS, &bytes));
        CHECK(t, memcmp(out[0], out[1], bytes) == 0); /* H = I: rounding */
        encode(t, types[i], &f, NULL, out[0], v);
        double fed = output_error(v);
        t->checks++;
        if (!(fed < 0.6 * alone))
            test_fail(t, __FILE__, __LINE__,
                      "%s: output error %g with feedback, %g without",
                      dtype_of(types[i])->name, fed, alone);
    }
    ldl_free(&f);
    ldl_free(&identity);
}

/* ---- allocation -------------------------------------------------------------------- */

/* Least cost within the budget over all combinations. */
static double brute(const allocate_item *item, uint32_t n, uint64_t budget)
{
    if (n == 0)
        return 0;
    double best = (double)INFINITY;
    for (uint32_t o = 0; o < item->n; o++)
        if (item->bytes[o] <= budget)
            best =
                fmin(best, item->cost[o] + brute(item + 1, n - 1, budget - item->bytes[o]));
    return best;
}

static void knapsack(test *t)
{
    rng r = rng_for(7, 0, 0, 0);
    for (int round = 0; round < 200; round++) {
        allocate_item item[6] = {{0}};
        uint8_t choice[6];
        uint64_t least, total = 0, used = 0, budget;
        uint32_t n = 1 + rng_below(&r, 6);
        double cost = 0, last = (double)INFINITY;
        om_err err;
        for (uint32_t i = 0; i < n; i++) {
            item[i].n = 1 + rng_below(&r, 4);
            for (uint32_t o = 0; o < item[i].n; o++) {
                item[i].bytes[o] = 10 + rng_below(&r, 90);
                item[i].cost[o] = rng_unit(&r);
                total += item[i].bytes[o];
            }
        }
        budget = rng_below(&r, (uint32_t)total + 1);
        om_status s = allocate(item, n, budget, choice, &least, &err);
        CHECK_INT(t, s, least <= budget ? OM_OK : OM_EARG);
        for (uint32_t i = 0; s == OM_OK && i < n; i++) {
            used += item[i].bytes[choice[i]];
            cost += item[i].cost[choice[i]];
        }
        if (s != OM_OK)
            continue;
        CHECK(t, used <= budget);
        CHECK_NEAR(t, cost, brute(item, n, budget), 1e-12);
        for (uint64_t more = budget; more < budget + 40; more += 13) { /* never worse */
            double with = 0;
            CHECK_OK(t, allocate(item, n, more, choice, &least, &err), err);
            for (uint32_t i = 0; i < n; i++)
                with += item[i].cost[choice[i]];
            CHECK(t, with <= last + 1e-12);
            last = with;
        }
    }
}

/* ---- calibration ------------------------------------------------------------------- */

enum { TOKENS = 600 };

typedef struct {
    kern k;
    llm_model *m;
    int32_t ids[TOKENS];
    double q_sum[64], down_sum[4096];
    const nn_weight *q, *down;
} sample;

static bool open_sample(test *t, sample *s)
{
    om_err err;
    *s = (sample){0};
    kern_init(&s->k, 0);
    CHECK_OK(t, llm_open(folder, &s->m, &err), err);
    rng r = rng_for(9, 0, 0, 0);
    for (int i = 0; s->m && i < TOKENS; i++)
        s->ids[i] = (int32_t)rng_below(&r, s->m->h.vocab);
    return s->m != NULL;
}

static void see(void *ctx, const nn_weight *w, float *x, uint32_t rows)
{
    sample *s = ctx;
    double *sum = w == s->q ? s->q_sum : w == s->down ? s->down_sum : NULL;
    for (size_t i = 0; sum && i < (size_t)rows * w->cols; i++)
        sum[i % w->cols] += (double)x[i] * (double)x[i];
}

static om_status whole_forward(nn *c, void *ctx)
{
    sample *s = ctx;
    static int32_t pos[TOKENS];
    nn_seq seq[TOKENS / 50];
    for (int i = 0; i < TOKENS; i++)
        pos[i] = i % 50;
    for (uint32_t i = 0; i < countof(seq); i++)
        seq[i] = (nn_seq){.row = i * 50, .n_rows = 50};
    llm_batch b = {
        .ids = s->ids, .pos = pos, .rows = TOKENS, .seq = seq, .n_seq = countof(seq)};
    s->m->arch->forward(c, s->m, &b);
    return c->status;
}

/* Block by block sees what the whole forward sees. */
static void block_by_block(test *t)
{
    sample s;
    om_err err;
    calib *c;
    nn *net;
    if (!open_sample(t, &s))
        return;
    uint32_t last = s.m->h.n_layer - 1;
    s.q = s.m->layer[last].q;
    s.down = s.m->layer[last].down;
    CHECK_OK(t, nn_open(&(nn_config){.k = &s.k}, &net, &err), err);
    net->on_linear = see;
    net->on_linear_ctx = &s;
    net->exact = true;
    CHECK_OK(t, nn_run(net, 1, false, whole_forward, &s, &err), err);
    calib_args a = {.ids = s.ids, .n = TOKENS, .window = 50, .k = &s.k};
    CHECK_OK(t, calib_open(s.m, &a, &c, &err), err);
    for (uint32_t i = 0; i < last; i++)
        CHECK_OK(t, calib_advance(c, i, &err), err);
    CHECK_OK(t, calib_collect(c, last, true, false, &err), err);
    const calib_input *q = calib_of(c, s.q), *down = calib_of(c, s.down);
    CHECK(t, q && down && q != down && q == calib_of(c, s.m->layer[last].v));
    CHECK(t, q != calib_of(c, s.m->layer[last].o));
    for (uint32_t i = 0; q && i < q->cols; i++) {
        CHECK_NEAR(t, q->diag[i], s.q_sum[i], 1e-4 * s.q_sum[i]);
        CHECK_NEAR(t, q->h[i * q->cols + i], s.q_sum[i], 1e-4 * s.q_sum[i]);
    }
    for (uint32_t i = 0; down && i < down->cols; i++)
        CHECK_NEAR(t, down->diag[i], s.down_sum[i], 1e-4 * s.down_sum[i] + 1e-12);
    calib_close(c);
    a.n = CALIB_LEAST_TOKENS - 1;
    CHECK_INT(t, calib_open(s.m, &a, &c, &err), OM_EARG);
    nn_close(net);
    llm_close(s.m);
}

static void importance_file(test *t)
{
    sample s;
    om_err err;
    imatrix a, b;
    char path[512];
    if (!open_sample(t, &s))
        return;
    snprintf(path, sizeof(path), "%s/im.gguf", test_temp_dir());
    calib_args args = {.ids = s.ids, .n = TOKENS, .k = &s.k};
    CHECK_OK(t, imatrix_measure(s.m, &args, &a, &err), err);
    CHECK_OK(t, imatrix_write(&a, path, "a text", &err), err);
    CHECK_OK(t, imatrix_read(s.m, path, &b, &err), err);
    CHECK_INT(t, a.n_known, b.n_known);
    CHECK_INT(t, a.n_windows, b.n_windows);
    for (uint32_t i = 0; i < s.m->n_weight; i++) {
        CHECK(t, !a.mean[i] == !b.mean[i]);
        for (uint32_t c = 0; a.mean[i] && b.mean[i] && c < s.m->weight[i].cols; c++)
            CHECK_NEAR(t, b.mean[i][c], a.mean[i][c], 1e-6 * (double)a.mean[i][c]);
    }
    CHECK(t,
          imatrix_of(&b, s.m->layer[0].down) && !imatrix_of(&b, s.m->layer[0].attn_norm));
    imatrix_close(&b);
    CHECK(t, imatrix_read(s.m, __FILE__, &b, &err) != OM_OK);
    imatrix_close(&a);
    llm_close(s.m);
}

/* ---- files ------------------------------------------------------------------------- */

static om_status quantize_to(sample *s, const char *path, const char *method, dtype type,
                             pool *p, om_err *err)
{
    dtype types[256];
    calib_args text = {.ids = s->ids, .n = TOKENS, .k = &s->k, .pool = p};
    quantize_args a = {.method = quant_method_find(str_of(method)),
                       .types = types,
                       .file_type = type,
                       .text = &text};
    for (uint32_t i = 0; i < s->m->n_weight; i++)
        types[i] = type;
    return quantize_model(s->m, path, &a, err);
}

/* Every method writes a model that opens, the same bytes on any number of threads. */
static void threads(test *t)
{
    sample s;
    om_err err;
    pool *p;
    if (!open_sample(t, &s))
        return;
    CHECK_OK(t, pool_open(3, &p, &err), err);
    for (size_t i = 0; quant_methods[i]; i++) {
        char one[512], three[512];
        buf a = {0}, b = {0};
        llm_model *m = NULL;
        const char *name = quant_methods[i]->name;
        snprintf(one, sizeof(one), "%s/%s-1.gguf", test_temp_dir(), name);
        snprintf(three, sizeof(three), "%s/%s-3.gguf", test_temp_dir(), name);
        CHECK_OK(t, quantize_to(&s, one, name, DTYPE_Q4_0, NULL, &err), err);
        CHECK_OK(t, quantize_to(&s, three, name, DTYPE_Q4_0, p, &err), err);
        CHECK_OK(t, os_read_file(one, 1 << 24, &a, &err), err);
        CHECK_OK(t, os_read_file(three, 1 << 24, &b, &err), err);
        CHECK(t, a.len > 1000 && a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
        CHECK_OK(t, llm_open(one, &m, &err), err);
        CHECK(t, m && m->layer[0].q->type == DTYPE_Q4_0);
        llm_close(m);
        buf_free(&a);
        buf_free(&b);
    }
    pool_close(p);
    llm_close(s.m);
}

/* A weight that is no number: an error that names it, and no file. */
static void not_a_number(test *t)
{
    sample s;
    om_err err;
    char path[512];
    if (!open_sample(t, &s))
        return;
    nn_weight *w = s.m->layer[1].up;
    size_t n = (size_t)w->rows * w->cols;
    float *v = mem_array(n, sizeof(*v));
    dtype_of(w->type)->unpack(w->data, v, n);
    v[3 * w->cols + 2] = NAN;
    w->data = v;
    w->type = DTYPE_F32;
    snprintf(path, sizeof(path), "%s/nan.gguf", test_temp_dir());
    CHECK_INT(t, quantize_to(&s, path, "rtn", DTYPE_Q8_0, NULL, &err), OM_EFORMAT);
    CHECK(t, strstr(err.msg, "blk.1.ffn_up.weight") && strstr(err.msg, "row 3, column 2"));
    CHECK(t, !os_exists(path));
    mem_free(v);
    llm_close(s.m);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"grids", "promised values are read; error not above ggml's", grids},
        {"importance", "weighted search serves what counts", importance},
        {"factor", "U D U^T is the damped H", factor},
        {"feedback", "H = I is rounding; else less output error", feedback},
        {"knapsack", "allocation equals brute force, within budget, monotone", knapsack},
        {"block_by_block", "moments of a walk by blocks are those of a forward",
         block_by_block},
        {"importance_file", "an importance matrix comes back from its file",
         importance_file},
        {"threads", "every method, same bytes on 1 and 3 threads", threads},
        {"not_a_number", "a NaN weight is named and nothing is written", not_a_number},
        {0}};
    return test_main(argc, argv, cases);
}
