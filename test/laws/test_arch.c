/* test_arch.c - every family against an independent implementation.
 *
 * test/golden/arch/<case> holds a tiny random model as a Hugging Face folder and the
 * logits that golden/arch_golden.py (NumPy, float64) computed for two sequences of
 * unequal length.  The law: logits agree to 1e-5 of their largest value in f32
 * (3e-7 was found when this was written),
 *   - from the folder and from the GGUF that llm_write_gguf makes of it,
 *   - prefill at once, token by token, in uneven pieces, and after a rewind,
 *   - both sequences in one batch without a cache, as training runs them. */
#include "test.h"

#include "llm/model.h"
#include "os/os.h"

typedef struct {
    uint32_t n;
    const int32_t *ids;   /* (n) */
    const float *logits;  /* (n, vocab) */
} sequence;

typedef struct {
    llm_model *m;
    buf file;
    sequence seq[2];
    kern k;
    pool *pool;
} fixture;

/* Every folder of golden/arch, sorted: a new family is tested by being there. */
static char cases[64][64];
static size_t n_cases;

static om_status add_case(void *ctx, const char *name, om_err *err)
{
    (void)ctx;
    if (n_cases == countof(cases) || strlen(name) >= sizeof(cases[0]))
        return fail(err, OM_ELIMIT, "too many cases");
    strcpy(cases[n_cases++], name);
    return OM_OK;
}

/* Also the law that every family of the table has a case. */
static void every_family(test *t)
{
    bool seen[64] = {false};
    om_err err = {0};
    for (size_t i = 0; i < n_cases; i++) {
        char path[5000];
        llm_model *m = NULL;
        snprintf(path, sizeof(path), OM_SOURCE_DIR "/test/golden/arch/%s", cases[i]);
        CHECK_OK(t, llm_open(path, &m, &err), err);
        for (size_t j = 0; m && llm_archs[j]; j++)
            seen[j] = seen[j] || llm_archs[j] == m->arch;
        llm_close(m);
    }
    for (size_t j = 0; llm_archs[j]; j++)
        if (!seen[j])
            test_fail(t, __FILE__, __LINE__, "no case for %s", llm_archs[j]->name);
    CHECK(t, n_cases >= 9);
}

static bool read_expected(test *t, fixture *f, const char *name)
{
    char path[5000];
    om_err err = {0};
    snprintf(path, sizeof(path), OM_SOURCE_DIR "/test/golden/arch/%s/expected.bin", name);
    CHECK_OK(t, os_read_file(path, 1 << 20, &f->file, &err), err);
    cursor c = cursor_of(f->file.data, f->file.len);
    uint32_t n_seq = cursor_u32(&c), vocab = f->m->h.vocab;
    CHECK_INT(t, n_seq, 2);
    for (uint32_t i = 0; i < 2 && c.ok; i++) {
        sequence *s = &f->seq[i];
        s->n = cursor_u32(&c);
        s->ids = (const int32_t *)(const void *)cursor_take(&c, s->n * 4u);
        s->logits = (const float *)(const void *)cursor_take(&c, (size_t)s->n * vocab * 4);
    }
    CHECK(t, c.ok);
    return c.ok;
}

static bool open_case(test *t, fixture *f, const char *name)
{
    char path[5000];
    om_err err = {0};
    *f = (fixture){0};
    kern_init(&f->k, 0);
    CHECK_OK(t, pool_open(2, &f->pool, &err), err);
    snprintf(path, sizeof(path), OM_SOURCE_DIR "/test/golden/arch/%s", name);
    CHECK_OK(t, llm_open(path, &f->m, &err), err);
    return f->m && read_expected(t, f, name);
}

static void close_case(fixture *f)
{
    llm_close(f->m);
    pool_close(f->pool);
    buf_free(&f->file);
}

/* The largest error of logits (vocab) against row r, as a share of that row's largest. */
static double error_of(const fixture *f, const sequence *s, uint32_t r, const float *got)
{
    const float *want = s->logits + (size_t)r * f->m->h.vocab;
    double top = 0, worst = 0;
    for (uint32_t i = 0; i < f->m->h.vocab; i++) {
        top = fmax(top, fabs((double)want[i]));
        double e = fabs((double)got[i] - (double)want[i]);
        worst = e <= worst ? worst : e; /* keeps NaN */
    }
    return worst / top;
}

static llm_session *session(test *t, fixture *f, llm_model *m, uint32_t batch)
{
    llm_session *s = NULL;
    om_err err = {0};
    llm_session_args a = {.context = 20, .k = &f->k, .pool = f->pool, .batch = batch};
    CHECK_OK(t, llm_session_open(m, &a, &s, &err), err);
    return s;
}

/* Pieces of the given sizes; the logits after each are compared. */
static void run_pieces(test *t, fixture *f, llm_model *m, const uint32_t *piece, uint32_t n,
                       uint32_t batch, const char *how)
{
    const sequence *q = &f->seq[0];
    llm_session *s = session(t, f, m, batch);
    const float *logits;
    om_err err = {0};
    uint32_t at = 0;
    for (uint32_t i = 0; s && i < n; i++) {
        CHECK_OK(t, llm_eval(s, q->ids + at, piece[i], &logits, &err), err);
        at += piece[i];
        double e = error_of(f, q, at - 1, logits);
        if (!(e <= 1e-5))
            test_fail(t, __FILE__, __LINE__, "%s, %s: %.3g at token %u", m->name.p, how, e,
                      at - 1);
        t->checks++;
    }
    llm_session_close(s);
}

static void run_all_ways(test *t, fixture *f, llm_model *m)
{
    uint32_t ones[13], n = f->seq[0].n;
    for (uint32_t i = 0; i < 13; i++)
        ones[i] = 1;
    CHECK_INT(t, n, 13);
    run_pieces(t, f, m, &n, 1, 0, "at once");
    run_pieces(t, f, m, &n, 1, 5, "in batches of 5");
    run_pieces(t, f, m, ones, 13, 0, "token by token");
    run_pieces(t, f, m, (const uint32_t[]){4, 1, 6, 2}, 4, 0, "in pieces");
}

static void from_folder(test *t)
{
    for (size_t i = 0; i < n_cases; i++) {
        fixture f;
        if (open_case(t, &f, cases[i]))
            run_all_ways(t, &f, f.m);
        close_case(&f);
    }
}

static void from_gguf(test *t)
{
    for (size_t i = 0; i < n_cases; i++) {
        fixture f;
        llm_model *g = NULL;
        om_err err = {0};
        char path[5000];
        snprintf(path, sizeof(path), "%s/%s.gguf", test_temp_dir(), cases[i]);
        if (open_case(t, &f, cases[i])) {
            CHECK_OK(t, llm_write_gguf(f.m, path, DTYPE_F32, NULL, NULL, &err), err);
            CHECK_OK(t, llm_open(path, &g, &err), err);
        }
        if (g) {
            CHECK_INT(t, g->n_weight, f.m->n_weight);
            run_all_ways(t, &f, g);
        }
        llm_close(g);
        close_case(&f);
    }
}

static void rewinds(test *t)
{
    for (size_t i = 0; i < n_cases; i++) {
        fixture f;
        om_err err = {0};
        const float *logits;
        uint32_t reused = 0;
        if (open_case(t, &f, cases[i])) {
            const sequence *a = &f.seq[0], *b = &f.seq[1];
            llm_session *s = session(t, &f, f.m, 0);
            CHECK_OK(t, llm_eval(s, a->ids, a->n, &logits, &err), err);
            CHECK_OK(t, llm_rewind(s, 8, &err), err);
            CHECK_OK(t, llm_eval(s, a->ids + a->n - 8, 8, &logits, &err), err);
            CHECK(t, error_of(&f, a, a->n - 1, logits) <= 1e-5);
            CHECK_OK(t, llm_sync(s, b->ids, b->n, &reused, &logits, &err), err);
            CHECK(t, error_of(&f, b, b->n - 1, logits) <= 1e-5);
            CHECK_INT(t, llm_past(s), b->n);
            CHECK_OK(t, llm_sync(s, b->ids, b->n, &reused, &logits, &err), err);
            CHECK_INT(t, reused, b->n - 1);
            CHECK(t, error_of(&f, b, b->n - 1, logits) <= 1e-5);
            llm_session_close(s);
        }
        close_case(&f);
    }
}

/* ---- a batch of sequences, no cache -------------------------------------------------- */

typedef struct {
    llm_model *m;
    int32_t ids[32], pos[32];
    nn_seq seq[2];
    uint32_t rows;
    uint32_t recompute;
    float *logits; /* (rows, vocab) */
} batch_run;

static om_status run_batch(nn *c, void *ctx)
{
    batch_run *b = ctx;
    llm_batch lb = {.ids = b->ids, .pos = b->pos, .rows = b->rows, .seq = b->seq, .n_seq = 2,
                    .recompute = b->recompute};
    nn_tensor *x = b->m->arch->forward(c, b->m, &lb);
    nn_output(c, nn_linear(c, x, b->m->output, NULL), b->logits);
    return c->status;
}

static void batches(test *t)
{
    for (size_t i = 0; i < n_cases; i++) {
        fixture f;
        om_err err = {0};
        nn *c = NULL;
        if (open_case(t, &f, cases[i])) {
            batch_run b = {.m = f.m};
            for (uint32_t q = 0; q < 2; q++) {
                b.seq[q] = (nn_seq){.row = b.rows, .n_rows = f.seq[q].n};
                for (uint32_t j = 0; j < f.seq[q].n; j++, b.rows++) {
                    b.ids[b.rows] = f.seq[q].ids[j];
                    b.pos[b.rows] = (int32_t)j;
                }
            }
            b.logits = mem_array((size_t)b.rows * f.m->h.vocab, sizeof(float));
            CHECK_OK(t, nn_open(&(nn_config){.k = &f.k, .pool = f.pool}, &c, &err), err);
            for (int again = 0; again < 2; again++) {
                b.recompute = again ? UINT32_MAX : 0;
                CHECK_OK(t, nn_run(c, 1 + (uint64_t)again, false, run_batch, &b, &err), err);
                for (uint32_t q = 0; q < 2; q++)
                    for (uint32_t j = 0; j < f.seq[q].n; j++) {
                        const float *got = b.logits + ((size_t)b.seq[q].row + j) * f.m->h.vocab;
                        CHECK(t, error_of(&f, &f.seq[q], j, got) <= 1e-5);
                    }
            }
            mem_free(b.logits);
        }
        nn_close(c);
        close_case(&f);
    }
}

/* F16 cache and quantized files: not exact, but the same model. */
static void other_types(test *t)
{
    static const dtype types[] = {DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0};
    for (size_t i = 0; i < n_cases; i++) {
        fixture f;
        om_err err = {0};
        const float *logits;
        if (!open_case(t, &f, cases[i]))
            continue;
        for (size_t j = 0; j < countof(types); j++) {
            char path[5000];
            llm_model *g = NULL;
            llm_session *s = NULL;
            snprintf(path, sizeof(path), "%s/%s-%zu.gguf", test_temp_dir(), cases[i], j);
            CHECK_OK(t, llm_write_gguf(f.m, path, types[j], NULL, NULL, &err), err);
            CHECK_OK(t, llm_open(path, &g, &err), err);
            llm_session_args a = {.context = 20, .k = &f.k, .kv_type = DTYPE_F16};
            if (g && g->embed->cols % 32 == 0)
                CHECK_INT(t, g->embed->type, types[j]);
            if (g)
                CHECK_OK(t, llm_session_open(g, &a, &s, &err), err);
            if (s) {
                CHECK_OK(t, llm_eval(s, f.seq[0].ids, 13, &logits, &err), err);
                double e = error_of(&f, &f.seq[0], 12, logits);
                CHECK(t, e <= (types[j] == DTYPE_Q8_0 ? 0.1 : 0.03));
            }
            llm_session_close(s);
            llm_close(g);
        }
        close_case(&f);
    }
}

int main(int argc, char **argv)
{
    static const test_case list[] = {
        {"every_family", "no family without a golden model", every_family},
        {"from_folder", "logits from the Hugging Face folder", from_folder},
        {"from_gguf", "logits from the GGUF made of it", from_gguf},
        {"rewinds", "rewind and sync give the same logits", rewinds},
        {"batches", "unequal sequences in one batch, no cache", batches},
        {"other_types", "16-bit and 8-bit files with a 16-bit cache stay close", other_types},
        {0},
    };
    om_err err = {0};
    if (os_list_dir(OM_SOURCE_DIR "/test/golden/arch", add_case, NULL, &err) != OM_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 2;
    }
    return test_main(argc, argv, list);
}
