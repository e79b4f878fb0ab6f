/* test_prune.c - laws of pruning: against NumPy, normal equations, patterns, the shrunken
 * model against the masked one, perturbation, files. */
#include "test.h"

#include "compress/perturb.h"
#include "compress/prune.h"
#include "compress/unit.h"

static const char *const folder = OM_SOURCE_DIR "/test/golden/arch/";

/* ---- a small layer ----------------------------------------------------------------- */

enum { ROWS = 6, COLS = 16, SAMPLES = 40 };

static float w0[ROWS * COLS], x[SAMPLES * COLS], second[COLS * COLS], size2[COLS],
    out2[ROWS];
static kern kernels;

static bool record(test *t, const char *name, float *out, size_t n)
{
    char word[64];
    int rows, cols;
    FILE *f = fopen(OM_SOURCE_DIR "/test/golden/prune.txt", "r");
    bool found = false;
    while (f && !found && fscanf(f, "%63s %d %d", word, &rows, &cols) == 3) {
        found = strcmp(word, name) == 0 && (size_t)rows * (size_t)cols == n;
        for (int i = 0; i < rows * cols; i++) {
            float v;
            if (fscanf(f, "%f", &v) != 1)
                break;
            if (found)
                out[i] = v;
        }
    }
    if (f)
        fclose(f);
    CHECK(t, found);
    return found;
}

static bool open_layer(test *t)
{
    kern_init(&kernels, 0);
    if (!record(t, "w", w0, ROWS * COLS) || !record(t, "x", x, SAMPLES * COLS))
        return false;
    for (size_t i = 0; i < COLS; i++)
        for (size_t j = 0; j < COLS; j++) {
            double s = 0;
            for (size_t k = 0; k < SAMPLES; k++)
                s += (double)x[k * COLS + i] * (double)x[k * COLS + j];
            second[i * COLS + j] = (float)s;
            if (i == j)
                size2[i] = (float)s;
        }
    for (size_t r = 0; r < ROWS; r++) {
        double s = 0;
        for (size_t k = 0; k < SAMPLES; k++) {
            double y = 0;
            for (size_t c = 0; c < COLS; c++)
                y += (double)x[k * COLS + c] * (double)w0[r * COLS + c];
            s += y * y;
        }
        out2[r] = (float)s;
    }
    return true;
}

static prune_matrix layer_of(float *w)
{
    memcpy(w, w0, sizeof(w0));
    return (prune_matrix){.w = w,
                          .rows = ROWS,
                          .cols = COLS,
                          .x2 = size2,
                          .h = second,
                          .y2 = out2,
                          .sparsity = 0.5,
                          .block = 8,
                          .reconstruct = true,
                          .k = &kernels};
}

static void prune(test *t, const char *name, prune_matrix *j)
{
    om_err err;
    const prune_method *how = prune_method_find(str_of(name));
    if (how->sweep)
        CHECK_OK(t, how->sweep(j, &err), err);
    else
        CHECK_OK(t, prune_by_score(how, j, &err), err);
}

static size_t zeros(const float *w, size_t n)
{
    size_t z = 0;
    for (size_t i = 0; i < n; i++)
        z += fpclassify(w[i]) == FP_ZERO;
    return z;
}

static void golden(test *t)
{
    static const struct {
        const char *record, *method;
        uint32_t stay, of;
    } rows[] = {
        {"magnitude", "magnitude", 0, 0},
        {"wanda", "wanda", 0, 0},
        {"ria", "ria", 0, 0},
        {"symmetric-wanda", "symmetric-wanda", 0, 0},
        {"wanda-2:4", "wanda", 2, 4},
        {"sparsegpt", "sparsegpt", 0, 0},
        {"sparsegpt-2:4", "sparsegpt", 2, 4},
        {"thanos", "thanos", 0, 0},
        {"thanos-2:4", "thanos", 2, 4},
    };
    if (!open_layer(t))
        return;
    for (size_t i = 0; i < countof(rows); i++) {
        float w[ROWS * COLS], want[ROWS * COLS];
        prune_matrix j = layer_of(w);
        j.stay = rows[i].stay;
        j.of = rows[i].of;
        j.reconstruct = strcmp(rows[i].method, "thanos") == 0;
        prune(t, rows[i].method, &j);
        if (!record(t, rows[i].record, want, ROWS * COLS))
            return;
        for (size_t e = 0; e < ROWS * COLS; e++) {
            t->checks++;
            if (fabs((double)w[e] - (double)want[e]) > 2e-5)
                test_fail(t, __FILE__, __LINE__, "%s: weight %zu is %g, NumPy has %g",
                          rows[i].record, e, (double)w[e], (double)want[e]);
        }
    }
    float w[ROWS * COLS], want[ROWS * COLS];
    uint8_t keep[COLS];
    om_err err;
    prune_matrix j = layer_of(w);
    if (!record(t, "columns", want, ROWS * COLS))
        return;
    for (size_t c = 0; c < COLS; c++)
        keep[c] = fpclassify(want[c]) != FP_ZERO;
    CHECK_OK(t, obs_drop(second, COLS, PRUNE_DAMP, keep, w, ROWS, &kernels, NULL, &err),
             err);
    for (size_t e = 0; e < ROWS * COLS; e++)
        CHECK_NEAR(t, w[e], want[e], 2e-5);
    CHECK(t, j.w == w);
}

/* With one block of all columns what stays is at the minimum: the gradient of
 * tr (V - W) H (V - W)^T vanishes there. */
static void normal_equations(test *t)
{
    float w[ROWS * COLS];
    double mean = 0;
    if (!open_layer(t))
        return;
    prune_matrix j = layer_of(w);
    j.block = COLS;
    prune(t, "thanos", &j);
    CHECK_INT(t, zeros(w, ROWS * COLS), ROWS * COLS / 2);
    for (size_t c = 0; c < COLS; c++)
        mean += (double)second[c * COLS + c] / COLS;
    for (size_t r = 0; r < ROWS; r++)
        for (size_t c = 0; c < COLS; c++) {
            double gradient = 0, scale = 0;
            for (size_t k = 0; k < COLS; k++) {
                double h = (double)second[c * COLS + k] + (c == k ? PRUNE_DAMP * mean : 0);
                double g = h * ((double)w[r * COLS + k] - (double)w0[r * COLS + k]);
                gradient += g;
                scale += fabs(g);
            }
            if (fpclassify(w[r * COLS + c]) != FP_ZERO)
                CHECK(t, fabs(gradient) < 1e-4 * scale + 1e-9);
        }
}

/* H = I leaves nothing to make up: the choice is by magnitude and no weight moves. */
static void identity(test *t)
{
    static float one[COLS * COLS], ones[COLS];
    static const char *const names[] = {"sparsegpt", "thanos"};
    if (!open_layer(t))
        return;
    for (size_t c = 0; c < COLS; c++)
        one[c * COLS + c] = ones[c] = 1;
    for (size_t i = 0; i < countof(names); i++)
        for (int nm = 0; nm < 2; nm++) {
            float a[ROWS * COLS], b[ROWS * COLS];
            prune_matrix j = layer_of(a), plain = layer_of(b);
            j.h = one;
            j.x2 = ones;
            j.block = nm ? 8 : COLS;
            j.stay = plain.stay = nm ? 1 : 0;
            j.of = plain.of = nm ? 4 : 0;
            plain.reconstruct = false;
            prune(t, names[i], &j);
            prune(t, "magnitude", &plain);
            CHECK(t, memcmp(a, b, sizeof(a)) == 0);
        }
}

/* Symmetric Wanda: without output statistics Wanda; and the order of its scores is that of
 * what removing one weight alone costs. */
static void symmetric(test *t)
{
    float a[ROWS * COLS], b[ROWS * COLS], s[ROWS * COLS];
    if (!open_layer(t))
        return;
    prune_matrix j = layer_of(a), plain = layer_of(b);
    j.reconstruct = plain.reconstruct = false;
    j.y2 = NULL;
    prune(t, "symmetric-wanda", &j);
    prune(t, "wanda", &plain);
    CHECK(t, memcmp(a, b, sizeof(a)) == 0);
    j = layer_of(a);
    prune_method_find(STR("symmetric-wanda"))->score(&j, s);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t c = 0; c < COLS; c++) {
            double w = (double)w0[r * COLS + c];
            double cost = w * w * ((double)size2[c] + (double)out2[r]);
            CHECK_NEAR(t, (double)s[r * COLS + c] * (double)s[r * COLS + c], cost,
                       1e-5 * cost);
        }
}

/* ---- perturbation ------------------------------------------------------------------ */

/* Losses that are sums over units: the worthless half is found. */
static void planted(test *t)
{
    enum { UNITS = 40, MASKS = 120 };
    static int8_t z[MASKS * UNITS];
    double worth[UNITS], y[MASKS];
    float prior[UNITS], beta[UNITS];
    om_err err;
    rng r = rng_for(11, 0, 0, 0);
    for (int u = 0; u < UNITS; u++) {
        worth[u] = u % 2 ? 1 + rng_unit(&r) : 0.2 * rng_unit(&r);
        prior[u] = (float)rng_unit(&r); /* says nothing */
    }
    for (int k = 0; k < MASKS; k++) {
        y[k] = 0.05 * rng_normal(&r);
        for (int u = 0; u < UNITS; u++) {
            int8_t *mine = &z[k * UNITS + u];
            *mine = k % 2 ? (int8_t)-mine[-UNITS] : rng_below(&r, 2) ? 1 : -1;
            y[k] += worth[u] * *mine;
        }
    }
    CHECK_OK(t, perturb_fit(z, y, MASKS, UNITS, prior, beta, &err), err);
    uint8_t keep[UNITS];
    memset(keep, 1, UNITS);
    CHECK_OK(t, prune_lowest(beta, UNITS, UNITS / 2, keep, &err), err);
    for (int u = 0; u < UNITS; u++)
        CHECK_INT(t, keep[u], u % 2);
    double a[] = {1, 2, 3, 4}, b[] = {1, 2, 4, 3};
    CHECK_NEAR(t, perturb_tau(a, b, 4), 4.0 / 6, 1e-12);
}

/* ---- models ------------------------------------------------------------------------ */

enum { TOKENS = 512 };

typedef struct {
    llm_model *m;
    int32_t ids[TOKENS];
    calib_args text;
} sample;

static bool open_sample(test *t, const char *family, sample *s)
{
    om_err err;
    char path[512];
    *s = (sample){0};
    kern_init(&kernels, 0);
    snprintf(path, sizeof(path), "%s%s", folder, family);
    CHECK_OK(t, llm_open(path, &s->m, &err), err);
    rng r = rng_for(9, 0, 0, 0);
    for (int i = 0; s->m && i < TOKENS; i++)
        s->ids[i] = (int32_t)rng_below(&r, s->m->h.vocab);
    s->text = (calib_args){.ids = s->ids, .n = TOKENS, .window = 32, .k = &kernels};
    return s->m != NULL;
}

static prune_args args_of(const sample *s, const char *method, prune_structure what,
                          double sparsity)
{
    const prune_method *how = prune_method_find(str_of(method));
    return (prune_args){.method = how,
                        .structure = what,
                        .stay = 2,
                        .of = 4,
                        .sparsity = sparsity,
                        .reconstruct = how->reconstructs,
                        .search = {.masks = 10, .seed = 1, .step = 0.2},
                        .text = &s->text};
}

static void hidden(test *t, llm_model *m, const int32_t *ids, uint32_t n, float *out)
{
    om_err err;
    llm_session *s;
    llm_session_args a = {.k = &kernels, .exact = true};
    CHECK_OK(t, llm_session_open(m, &a, &s, &err), err);
    CHECK_OK(t, llm_hidden(s, ids, n, out, &err), err);
    llm_session_close(s);
}

/* Zeros in the columns that read a unit which the small model lacks.  Magnitude does not
 * move weights, so that the columns that stay are found again by their values. */
static void mask_like(nn_weight *big, const nn_weight *small, uint32_t n_units)
{
    size_t n = (size_t)big->rows * big->cols, wide = big->cols / n_units, at = 0;
    float *v = mem_array(n, sizeof(*v)), *w = mem_array(n, sizeof(*w));
    dtype_of(big->type)->unpack(big->data, v, n);
    dtype_of(small->type)->unpack(small->data, w, (size_t)small->rows * small->cols);
    for (size_t u = 0; u < n_units; u++) {
        bool same = at < small->cols;
        for (size_t r = 0; same && r < big->rows; r++)
            same = memcmp(v + r * big->cols + u * wide, w + r * small->cols + at,
                          wide * sizeof(float)) == 0;
        at += same ? wide : 0;
        for (size_t r = 0; !same && r < big->rows; r++)
            memset(v + r * big->cols + u * wide, 0, wide * sizeof(float));
    }
    mem_free(w);
    big->data = v;
    big->type = DTYPE_F32;
}

static void smaller_is_masked(test *t)
{
    static const char *const families[] = {"llama3", "llama-biases", "gpt2", "qwen3"};
    static const prune_structure what[] = {PRUNE_CHANNEL, PRUNE_HEAD};
    static float a[24 * 512], b[24 * 512];
    for (size_t f = 0; f < countof(families); f++)
        for (size_t k = 0; k < countof(what); k++) {
            sample s;
            om_err err;
            llm_model *small = NULL, *masked = NULL;
            prune_report r;
            char path[512];
            if (!open_sample(t, families[f], &s))
                return;
            snprintf(path, sizeof(path), "%s/%s.gguf", test_temp_dir(), families[f]);
            uint32_t units = what[k] == PRUNE_HEAD ? s.m->h.n_kv_head : 4;
            double share = (double)unit_weights(s.m, what[k]) /
                           (double)unit_weights(s.m, PRUNE_UNSTRUCTURED);
            share *= what[k] == PRUNE_HEAD ? 1 : s.m->h.ffn / 2;
            prune_args p = args_of(&s, "magnitude", what[k], share);
            if (units > 1 || what[k] == PRUNE_CHANNEL) {
                CHECK_OK(t, prune_model(s.m, path, &p, &r, &err), err);
                CHECK_OK(t, llm_open(path, &small, &err), err);
                CHECK_OK(t, llm_fork(s.m, &masked, &err), err);
            }
            for (uint32_t i = 0; small && i < s.m->h.n_layer; i++)
                if (what[k] == PRUNE_HEAD)
                    mask_like(masked->layer[i].o, small->layer[i].o, s.m->h.n_kv_head);
                else
                    mask_like(masked->layer[i].down, small->layer[i].down, s.m->h.ffn);
            if (small) {
                CHECK(t, what[k] == PRUNE_HEAD ? small->h.n_kv_head < s.m->h.n_kv_head
                                               : small->h.ffn < s.m->h.ffn);
                hidden(t, small, s.ids, 24, a);
                hidden(t, masked, s.ids, 24, b);
                for (size_t i = 0; i < (size_t)24 * s.m->h.dim; i++)
                    CHECK_NEAR(t, a[i], b[i], 2e-5 * (1 + fabs((double)b[i])));
                for (uint32_t i = 0; i < s.m->h.n_layer; i++)
                    mem_free((void *)(what[k] == PRUNE_HEAD ? masked->layer[i].o
                                                            : masked->layer[i].down)
                                 ->data);
            }
            llm_fork_close(masked);
            llm_close(small);
            llm_close(s.m);
        }
}

/* Every method in every structure it does: a model that opens, the sparsity asked, the
 * pattern in every row, the same bytes on any number of threads. */
static void check_zeros(test *t, const llm_model *m, const prune_args *a)
{
    for (uint32_t i = 0; i < m->n_weight; i++) {
        const nn_weight *w = &m->weight[i];
        if (w->rows == 1 || w == m->embed || w == m->output)
            continue;
        size_t n = (size_t)w->rows * w->cols;
        float *v = mem_array(n, sizeof(*v));
        dtype_of(w->type)->unpack(w->data, v, n);
        if (a->structure == PRUNE_UNSTRUCTURED)
            CHECK(t, zeros(v, n) >= (size_t)(0.48 * (double)n));
        for (size_t at = 0; a->structure == PRUNE_NM && at < n; at += a->of)
            CHECK(t, zeros(v + at, a->of) >= a->of - a->stay);
        mem_free(v);
    }
}

static void all_methods(test *t)
{
    sample s;
    om_err err;
    pool *p;
    if (!open_sample(t, "mistral", &s))
        return;
    CHECK_OK(t, pool_open(3, &p, &err), err);
    for (size_t i = 0; prune_methods[i]; i++)
        for (int what = 0; what < PRUNE_STRUCTURES; what++) {
            if (!(prune_methods[i]->structures & 1u << what))
                continue;
            double target = what == PRUNE_HEAD || what == PRUNE_LAYER ? 0.1 : 0.5;
            target = what == PRUNE_CHANNEL || what == PRUNE_CHANNEL_HEAD ? 0.2 : target;
            prune_args a =
                args_of(&s, prune_methods[i]->name, (prune_structure)what, target);
            buf file[2] = {{0}, {0}};
            prune_report r;
            char path[512];
            llm_model *m = NULL;
            snprintf(path, sizeof(path), "%s/all.gguf", test_temp_dir());
            for (int k = 0; k < 2; k++) {
                s.text.pool = k ? p : NULL;
                CHECK_OK(t, prune_model(s.m, path, &a, &r, &err), err);
                CHECK_OK(t, os_read_file(path, 1 << 24, &file[k], &err), err);
            }
            CHECK(t, file[0].len > 1000 && file[0].len == file[1].len &&
                         memcmp(file[0].data, file[1].data, file[0].len) == 0);
            CHECK_OK(t, llm_open(path, &m, &err), err);
            if (m)
                check_zeros(t, m, &a);
            llm_close(m);
            buf_free(&file[0]);
            buf_free(&file[1]);
        }
    pool_close(p);
    llm_close(s.m);
}

/* ---- what is refused --------------------------------------------------------------- */

static void refused(test *t)
{
    sample s;
    om_err err;
    prune_report r;
    char path[512];
    if (!open_sample(t, "llama3", &s))
        return;
    snprintf(path, sizeof(path), "%s/no.gguf", test_temp_dir());
    prune_args a = args_of(&s, "wanda", PRUNE_HEAD, 0.9);
    CHECK_INT(t, prune_model(s.m, path, &a, &r, &err), OM_EARG);
    CHECK(t, strstr(err.msg, "cannot go as heads"));
    a = args_of(&s, "wanda", PRUNE_LAYER, 0.5);
    CHECK_INT(t, prune_model(s.m, path, &a, &r, &err), OM_EARG);
    CHECK(t, strstr(err.msg, "wanda cannot do layer"));
    a = args_of(&s, "wanda", PRUNE_UNSTRUCTURED, 0.5);
    s.text.n = 40;
    CHECK_INT(t, prune_model(s.m, path, &a, &r, &err), OM_EARG);
    CHECK(t, strstr(err.msg, "give a longer text"));
    s.text.n = 0;
    CHECK_INT(t, prune_model(s.m, path, &a, &r, &err), OM_EARG);
    CHECK(t, strstr(err.msg, "needs a calibration text"));
    s.text.n = TOKENS;
    a = args_of(&s, "wanda", PRUNE_NM, 0.5);
    a.of = 5;
    CHECK_INT(t, prune_model(s.m, path, &a, &r, &err), OM_EARG);
    CHECK(t, strstr(err.msg, "no multiple of 5"));
    nn_weight *w = s.m->layer[1].up, kept = *w;
    size_t n = (size_t)w->rows * w->cols;
    float *v = mem_array(n, sizeof(*v));
    dtype_of(w->type)->unpack(w->data, v, n);
    v[3 * w->cols + 2] = NAN;
    w->data = v;
    w->type = DTYPE_F32;
    a = args_of(&s, "magnitude", PRUNE_CHANNEL, 0.2);
    CHECK_INT(t, prune_model(s.m, path, &a, &r, &err), OM_EFORMAT);
    CHECK(t, strstr(err.msg, "blk.1.ffn_up.weight") && strstr(err.msg, "row 3, column 2"));
    *w = kept;
    w->type = DTYPE_Q8_0;
    CHECK_INT(t, prune_model(s.m, path, &a, &r, &err), OM_EARG);
    CHECK(t, strstr(err.msg, "prune the original, then quantize"));
    CHECK(t, !os_exists(path));
    *w = kept;
    mem_free(v);
    llm_close(s.m);
}

/* Balanced sparsity: as many weights go as asked, none from the embedding. */
static void balance(test *t)
{
    sample s;
    om_err err;
    double b[256], gone = 0, all = 0;
    if (!open_sample(t, "llama3", &s))
        return;
    CHECK_OK(t, prune_balance(s.m, &s.text, 0.5, b, &err), err);
    for (uint32_t i = 0; i < s.m->n_weight; i++) {
        const nn_weight *w = &s.m->weight[i];
        if (w->rows == 1 || w == s.m->embed || w == s.m->output) {
            CHECK_NEAR(t, b[i], 0, 0);
            continue;
        }
        gone += b[i] * w->rows * w->cols;
        all += (double)w->rows * w->cols;
    }
    CHECK(t, gone >= 0.5 * all - 1 && gone < 0.53 * all);
    llm_close(s.m);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"golden", "a small layer by every method is what NumPy makes of it", golden},
        {"normal_equations", "thanos in one block leaves no gradient", normal_equations},
        {"identity", "H = I: the choice of magnitude, nothing moves", identity},
        {"symmetric", "no outputs: wanda; scores order single removals", symmetric},
        {"planted", "perturbation finds the units that are worth nothing", planted},
        {"smaller_is_masked", "channels and heads gone are those masked, four families",
         smaller_is_masked},
        {"all_methods", "every method and structure: opens, sparsity, pattern, threads",
         all_methods},
        {"refused", "what cannot be, with what to do; nothing is written", refused},
        {"balance", "sparsity over matrices adds up", balance},
        {0}};
    return test_main(argc, argv, cases);
}
