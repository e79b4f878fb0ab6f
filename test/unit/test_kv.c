/* test_kv.c - sessions over shared pages: forks, several sessions in one forward, hidden
 * states, budgets.  The model is the keyboard demo's, whose F16 weights never meet the f32
 * product: a row must have the same bits whatever it is computed with. */
#include "test.h"

#include "llm/kv.h"
#include "nn/plan.h"

enum { TOKENS = 200, CONTEXT = 256, SESSIONS = 3 };

typedef struct {
    llm_model *m;
    kern k;
    pool *pool;
    int32_t ids[TOKENS];
    float *want; /* (TOKENS, vocab) logits of every prefix of ids, one token at a time */
    uint32_t vocab;
} fixture;

static llm_session_args args_of(const fixture *f)
{
    return (llm_session_args){
        .context = CONTEXT, .kv_type = DTYPE_F16, .k = &f->k, .pool = f->pool};
}

static llm_session *session(test *t, const fixture *f, llm_session_args a)
{
    llm_session *s = NULL;
    om_err err = {0};
    CHECK_OK(t, llm_session_open(f->m, &a, &s, &err), err);
    return s;
}

static const float *eval(test *t, llm_session *s, const int32_t *ids, uint32_t n)
{
    const float *logits = NULL;
    om_err err = {0};
    CHECK_OK(t, llm_eval(s, ids, n, &logits, &err), err);
    return logits;
}

static void open_fixture(test *t, fixture *f)
{
    om_err err = {0};
    rng r = rng_for(3, 0, 0, 0);
    *f = (fixture){0};
    kern_init(&f->k, 0);
    CHECK_OK(t, pool_open(2, &f->pool, &err), err);
    CHECK_OK(t, llm_open(OM_SOURCE_DIR "/demo/keyboard.gguf", &f->m, &err), err);
    f->vocab = f->m->h.vocab;
    for (int i = 0; i < TOKENS; i++)
        f->ids[i] = (int32_t)rng_below(&r, f->vocab);
    f->want = mem_array((size_t)TOKENS * f->vocab, sizeof(float));
    llm_session_args one = args_of(f);
    one.pool = NULL;
    llm_session *s = session(t, f, one);
    for (int i = 0; i < TOKENS; i++)
        memcpy(f->want + (size_t)i * f->vocab, eval(t, s, f->ids + i, 1),
               f->vocab * sizeof(float));
    llm_session_close(s);
}

static void close_fixture(fixture *f)
{
    llm_close(f->m);
    pool_close(f->pool);
    mem_free(f->want);
}

/* Logits of ids[0..i] are those computed alone. */
static bool same(const fixture *f, const float *logits, uint32_t i)
{
    return logits &&
           memcmp(logits, f->want + (size_t)i * f->vocab, f->vocab * sizeof(float)) == 0;
}

/* Any cut of a prompt, any number of threads: the bits of one token at a time. */
static void batches(test *t)
{
    fixture f;
    open_fixture(t, &f);
    static const uint32_t batch[] = {1, 2, 7, 8, 9, 64, 65, 200};
    for (size_t i = 0; i < countof(batch); i++) {
        llm_session_args a = args_of(&f);
        a.batch = batch[i];
        llm_session *s = session(t, &f, a);
        CHECK(t, same(&f, eval(t, s, f.ids, 150), 149));
        CHECK(t, same(&f, eval(t, s, f.ids + 150, 50), 199));
        om_err err = {0};
        CHECK_OK(t, llm_rewind(s, 72, &err), err);
        CHECK(t, same(&f, eval(t, s, f.ids + 128, 3), 130));
        llm_session_close(s);
    }
    close_fixture(&f);
}

static void forks(test *t)
{
    fixture f;
    om_err err = {0};
    open_fixture(t, &f);
    llm_session *s = session(t, &f, args_of(&f)), *a = NULL, *b = NULL;
    llm_kv *kv = llm_session_kv(s);
    uint64_t page = llm_kv_now(kv).page_bytes;
    eval(t, s, f.ids, 100);
    CHECK_INT(t, llm_kv_now(kv).memory, 2 * page);
    CHECK_OK(t, llm_session_fork(s, &a, &err), err);
    CHECK_OK(t, llm_session_fork(a, &b, &err), err);
    CHECK_INT(t, llm_kv_now(kv).memory, 2 * page);
    CHECK_INT(t, llm_past(b), 100);
    int32_t other[3] = {5, 6, 7};
    eval(t, a, other, 3); /* writes a copy of the second page */
    CHECK_INT(t, llm_kv_now(kv).memory, 3 * page);
    CHECK(t, same(&f, eval(t, b, f.ids + 100, 20), 119));
    CHECK_INT(t, llm_kv_now(kv).memory, 4 * page);
    CHECK(t,
          same(&f, eval(t, s, f.ids + 100, 1), 100)); /* the last holder copies nothing */
    CHECK_INT(t, llm_kv_now(kv).memory, 4 * page);
    CHECK_OK(t, llm_rewind(a, 53, &err), err);
    CHECK(t,
          same(&f, eval(t, a, f.ids + 50, 10), 59)); /* the first page is shared by all */
    CHECK(t, same(&f, eval(t, s, f.ids + 101, 9), 109));
    llm_session_close(s);
    CHECK(t, same(&f, eval(t, b, f.ids + 120, 80), 199));
    llm_session_close(b);
    CHECK_INT(t, llm_kv_now(kv).memory, page);
    llm_session_close(a);
    close_fixture(&f);
}

static void many(test *t)
{
    fixture f;
    om_err err = {0};
    open_fixture(t, &f);
    llm_session_args a = args_of(&f);
    a.batch = 16; /* the turns below take several forwards */
    CHECK_OK(t, llm_kv_open(f.m, &a, &a.kv, &err), err);
    llm_session *s[SESSIONS];
    static const uint32_t past[SESSIONS] = {0, 70, 128}, n[SESSIONS] = {20, 1, 5},
                          want[SESSIONS] = {3, 1, 5};
    llm_turn turn[SESSIONS];
    for (int i = 0; i < SESSIONS; i++) {
        s[i] = session(t, &f, a);
        if (past[i])
            eval(t, s[i], f.ids, past[i]);
        turn[i] = (llm_turn){.s = s[i], .ids = f.ids + past[i], .n = n[i], .want = want[i]};
    }
    llm_kv_close(a.kv); /* the sessions hold it */
    CHECK_OK(t, llm_eval_many(turn, SESSIONS, &err), err);
    for (int i = 0; i < SESSIONS; i++)
        for (uint32_t j = 0; j < want[i]; j++)
            CHECK(t, same(&f, turn[i].logits + j * f.vocab, past[i] + n[i] - want[i] + j));
    turn[1] = turn[2]; /* a session twice */
    CHECK_INT(t, llm_eval_many(turn, SESSIONS, &err), OM_EARG);
    llm_session *own = session(t, &f, args_of(&f));
    turn[1].s = own;
    CHECK_INT(t, llm_eval_many(turn, SESSIONS, &err), OM_EARG);
    turn[1] = (llm_turn){.s = s[1], .ids = f.ids, .n = 2, .want = 3};
    CHECK_INT(t, llm_eval_many(turn, SESSIONS, &err), OM_EARG);
    turn[1].n = CONTEXT;
    CHECK_INT(t, llm_eval_many(turn, SESSIONS, &err), OM_ELIMIT);
    CHECK_INT(t, llm_past(s[0]), 20); /* nobody advanced */
    turn[0] = (llm_turn){.s = s[1], .ids = f.ids + 71, .n = 9};
    CHECK_OK(t, llm_eval_many(turn, 1, &err), err);
    CHECK(t, turn[0].logits == NULL && llm_past(s[1]) == 80);
    CHECK(t, memcmp(llm_tokens(s[1]), f.ids, 80 * sizeof(int32_t)) == 0);
    llm_session_close(own);
    for (int i = 0; i < SESSIONS; i++)
        llm_session_close(s[i]);
    close_fixture(&f);
}

/* Logits are the output matrix times the hidden state. */
static void hidden(test *t)
{
    fixture f;
    om_err err = {0};
    open_fixture(t, &f);
    size_t dim = f.m->h.dim;
    float *all = mem_array(TOKENS * dim, sizeof(float)), *w = mem_array(dim, sizeof(float));
    llm_session_args a = args_of(&f);
    a.batch = 64;
    llm_session *s = session(t, &f, a);
    CHECK_OK(t, llm_hidden(s, f.ids, TOKENS, all, &err), err);
    const nn_weight *out = f.m->output;
    for (uint32_t v = 0; v < f.vocab; v += 101) {
        f.k.f16_to_f32(w, (const uint16_t *)out->data + v * dim, dim);
        for (uint32_t i = 0; i < TOKENS; i += 33) {
            double dot = 0;
            for (size_t j = 0; j < dim; j++)
                dot += (double)w[j] * (double)all[i * dim + j];
            CHECK_NEAR(t, dot, f.want[(size_t)i * f.vocab + v], 1e-3);
        }
    }
    llm_session_close(s);
    mem_free(all);
    mem_free(w);
    close_fixture(&f);
}

static void budget(test *t)
{
    fixture f;
    om_err err = {0};
    open_fixture(t, &f);
    llm_session *s = session(t, &f, args_of(&f));
    llm_session_args a = args_of(&f);
    a.budget = 2 * llm_kv_now(llm_session_kv(s)).page_bytes;
    llm_session_close(s);
    s = session(t, &f, a);
    eval(t, s, f.ids, 100);
    const float *logits;
    CHECK_INT(t, llm_eval(s, f.ids + 100, 60, &logits, &err), OM_ELIMIT);
    CHECK_INT(t, llm_past(s), 100);
    CHECK(t, same(&f, eval(t, s, f.ids + 100, 28), 127));
    llm_session_close(s);
    close_fixture(&f);
}

/* Over budget with a folder to spill to: every bit as without a limit. */
static void spilled(test *t)
{
    fixture f;
    om_err err = {0};
    open_fixture(t, &f);
    llm_session_args a = args_of(&f);
    llm_session *s = session(t, &f, a), *other = NULL;
    a.budget = 2 * llm_kv_now(llm_session_kv(s)).page_bytes;
    llm_session_close(s);
    a.spill = test_temp_dir();
    a.batch = 40;
    CHECK_OK(t, llm_kv_open(f.m, &a, &a.kv, &err), err);
    s = session(t, &f, a);
    CHECK(t, same(&f, eval(t, s, f.ids, 190), 189)); /* three pages in one call */
    llm_kv_stats now = llm_kv_now(a.kv);
    CHECK(t, now.memory == a.budget && now.spilled == now.page_bytes && now.pages == 3);
    for (uint32_t i = 190; i < TOKENS; i++)
        CHECK(t, same(&f, eval(t, s, f.ids + i, 1), i));
    CHECK_OK(t, llm_session_fork(s, &other, &err), err);
    CHECK_OK(t, llm_rewind(other, 170, &err), err);
    CHECK(t, same(&f, eval(t, other, f.ids + 30, 100), 129)); /* from a page in a file */
    CHECK(t, llm_kv_now(a.kv).memory <= a.budget && llm_kv_now(a.kv).pages == 7);
    CHECK_OK(t, llm_rewind(s, 20, &err), err);
    CHECK(t, same(&f, eval(t, s, f.ids + 180, 20), 199));
    llm_session_close(other);
    CHECK_OK(t, llm_rewind(s, 100, &err), err);
    CHECK(t, same(&f, eval(t, s, f.ids + 100, 1), 100)); /* back in memory: there is room */
    CHECK_INT(t, llm_kv_now(a.kv).spilled, 0);
    llm_session_close(s);
    now = llm_kv_now(a.kv);
    CHECK(t, now.memory == 0 && now.pages == 0);
    llm_kv_close(a.kv);
    a.kv = NULL;
    a.spill = "/nonexistent/folder";
    s = session(t, &f, a);
    const float *logits;
    CHECK(t, llm_eval(s, f.ids, TOKENS, &logits, &err) != OM_OK);
    CHECK_INT(t, llm_past(s), 0);
    llm_session_close(s);
    close_fixture(&f);
}

/* Mean of the squared differences of logits over that of the logits. */
static double distance(const fixture *f, const float *got, uint32_t i)
{
    double error = 0, square = 0;
    const float *want = f->want + (size_t)i * f->vocab;
    for (uint32_t v = 0; v < f->vocab; v++) {
        error += pow((double)got[v] - (double)want[v], 2);
        square += pow((double)want[v], 2);
    }
    return error / square;
}

/* Pages are packed when they are old, take the bytes they should, and change logits by
 * little; more bits, less. */
static void packed(test *t)
{
    static const float bits[] = {8.5f, 5, 4.5f, 3.5f};
    static const double most[] = {1e-5, 1e-3, 1e-3, 4e-3};
    fixture f;
    om_err err = {0};
    double before = 0;
    open_fixture(t, &f);
    for (size_t i = 0; i < countof(bits); i++) {
        llm_session_args a = args_of(&f);
        a.bits = bits[i];
        a.recent = 64;
        a.batch = 8;
        llm_session *s = session(t, &f, a);
        llm_kv *kv = llm_session_kv(s);
        CHECK(t, distance(&f, eval(t, s, f.ids, 127), 126) < 1e-6); /* all plain, rotated */
        CHECK_INT(t, llm_kv_now(kv).packed, 0);
        double d = distance(&f, eval(t, s, f.ids + 127, 73), 199);
        CHECK(t, d > before && d < most[i]);
        before = d;
        llm_kv_stats now = llm_kv_now(kv);
        CHECK(t, now.packed == 2 && now.pages == 4);
        CHECK_INT(t, now.memory, 2 * now.page_bytes + 2 * now.packed_bytes);
        CHECK((t),
              (double)now.packed_bytes <= (double)now.page_bytes * (double)bits[i] / 16);
        CHECK_OK(t, llm_rewind(s, 100, &err), err); /* into a packed page: plain again */
        CHECK(t, distance(&f, eval(t, s, f.ids + 100, 10), 109) < most[i]);
        CHECK_INT(t, llm_kv_now(kv).packed, 1);
        llm_session_close(s);
    }
    llm_session_args a = args_of(&f);
    llm_session *s = NULL;
    a.bits = 3;
    CHECK_INT(t, llm_session_open(f.m, &a, &s, &err), OM_EARG);
    close_fixture(&f);
}

/* Late packing: plain as long as the budget allows, then the oldest pages are packed. */
static void packed_late(test *t)
{
    fixture f;
    open_fixture(t, &f);
    llm_session_args a = args_of(&f);
    a.bits = 4.5f;
    a.pack_late = true;
    a.batch = 40;
    llm_session *s = session(t, &f, a);
    a.budget = 3 * llm_kv_now(llm_session_kv(s)).page_bytes;
    CHECK(t, distance(&f, eval(t, s, f.ids, 200), 199) < 1e-6);
    CHECK_INT(t, llm_kv_now(llm_session_kv(s)).packed, 0);
    llm_session_close(s);
    s = session(t, &f, a);
    CHECK(t, distance(&f, eval(t, s, f.ids, 128), 127) < 1e-6);
    CHECK(t, distance(&f, eval(t, s, f.ids + 128, 72), 199) < 1e-3);
    llm_kv_stats now = llm_kv_now(llm_session_kv(s));
    CHECK(t, now.packed == 2 && now.pages == 4 && now.memory <= a.budget);
    llm_session_close(s);
    close_fixture(&f);
}

/* What was planned is what is taken: pages exactly, activations to 2 %. */
static void planned(test *t)
{
    static const float bits[] = {0, 4.5f};
    fixture f;
    om_err err = {0};
    open_fixture(t, &f);
    for (size_t i = 0; i < countof(bits); i++) {
        llm_session_args a = args_of(&f);
        llm_plan p = {0}, small = {0};
        a.bits = bits[i];
        a.context = 192;
        CHECK_OK(t, llm_plan_of(f.m, &a, 0, &p, &err), err);
        llm_session *s = session(t, &f, a);
        llm_kv *kv = llm_session_kv(s);
        eval(t, s, f.ids, 192);
        CHECK_OK(t, llm_rewind(s, 8, &err), err);
        for (uint32_t j = 184; j < 192; j++)
            eval(t, s, f.ids + j, 1);
        size_t less =
            bits[i] > 0 ? p.page_bytes - p.packed_bytes : 0; /* before it is packed */
        CHECK_INT(t, llm_kv_bytes(kv) + less, p.cache);
        double taken = (double)kv->c->plan->block_bytes;
        CHECK(t, taken <= 1.02 * (double)p.activations &&
                     taken >= 0.98 * (double)p.activations);
        CHECK(t, p.fits && p.available > p.weights && p.budget < p.available);
        CHECK_OK(t,
                 llm_plan_of(f.m, &a, p.weights + p.activations + p.tables + p.cache,
                             &small, &err),
                 err);
        CHECK(t, !small.fits && small.reserve > 0);
        CHECK_OK(t,
                 llm_plan_of(f.m, &a,
                             p.weights + p.activations + p.tables + p.cache + small.reserve,
                             &small, &err),
                 err);
        CHECK(t, small.fits);
        CHECK_INT(t, llm_plan_longest(&small, a.bits > 0), 192);
        CHECK_OK(t, llm_session_fit(f.m, &a, &err), err); /* a machine this size has room */
        CHECK(t, a.budget >= 4 * p.page_bytes && a.bits == bits[i]);
        llm_session_close(s);
    }
    close_fixture(&f);
}

/* ---- files ------------------------------------------------------------------------ */

static om_status load_bytes(llm_session *s, const uint8_t *p, size_t n, const char *path)
{
    om_err err = {0};
    if (os_write_file_atomic(path, p, n, &err) != OM_OK)
        return OM_OK; /* would fail the check */
    return llm_session_load(s, path, &err);
}

static void saved(test *t)
{
    static const float bits[] = {0, 4.5f};
    fixture f;
    om_err err = {0};
    char path[512];
    open_fixture(t, &f);
    CHECK_OK(t, os_join(path, sizeof(path), test_temp_dir(), "session.kv"), err);
    for (size_t i = 0; i < countof(bits); i++) {
        llm_session_args a = args_of(&f);
        a.bits = bits[i];
        a.recent = 64;
        llm_session *s = session(t, &f, a), *back = session(t, &f, a);
        float *want = mem_array(f.vocab, sizeof(*want));
        eval(t, s, f.ids, 130);
        eval(t, s, f.ids + 130, 61); /* a packed page now, when there are any */
        CHECK_OK(t, llm_session_save(s, path, &err), err);
        memcpy(want, eval(t, s, f.ids + 191, 9), f.vocab * sizeof(*want));
        eval(t, back, f.ids, 20); /* is replaced */
        CHECK_OK(t, llm_session_load(back, path, &err), err);
        CHECK_INT(t, llm_past(back), 191);
        CHECK_INT(t, llm_kv_now(llm_session_kv(back)).packed, bits[i] > 0);
        CHECK(t, memcmp(want, eval(t, back, f.ids + 191, 9), f.vocab * sizeof(*want)) == 0);
        a.bits = bits[i] > 0 ? 0 : 8.5f;
        llm_session *other = session(t, &f, a);
        eval(t, other, f.ids, 20);
        CHECK_INT(t, llm_session_load(other, path, &err), OM_EARG);
        CHECK_INT(t, llm_past(other), 20);
        llm_session_close(other);
        buf b = {0};
        CHECK_OK(t, os_read_file(path, 1 << 30, &b, &err), err);
        for (size_t cut = 0; b.len && cut < 10; cut++)
            CHECK(t, load_bytes(back, b.data, b.len * cut / 10, path) != OM_OK);
        for (size_t at = 0; b.len && at < b.len; at += b.len / 9) {
            b.data[at] ^= 1;
            CHECK(t, load_bytes(back, b.data, b.len, path) != OM_OK);
            b.data[at] ^= 1;
        }
        CHECK_INT(t, llm_past(back), 200);
        CHECK_INT(t, load_bytes(back, b.data, b.len, path), OM_OK);
        CHECK_INT(t, llm_past(back), 191);
        buf_free(&b);
        mem_free(want);
        llm_session_close(s);
        llm_session_close(back);
    }
    close_fixture(&f);
}

/* ---- without end ------------------------------------------------------------------ */

/* Turning a page is what computing it further on would have given. */
static void turned(test *t)
{
    fixture f;
    om_err err = {0};
    open_fixture(t, &f);
    nn_rope_args a = f.m->h.rope;
    for (int neox = 0; neox < 2; neox++) {
        float x[KV_MAX_DIM], y[KV_MAX_DIM];
        rng r = rng_for(1, 0, 0, 0);
        a.neox = neox;
        for (uint32_t i = 0; i < a.head_dim; i++)
            x[i] = y[i] = (float)rng_normal(&r);
        nn_rope_turn(&a, x, 700);
        nn_rope_turn(&a, x, -300);
        nn_rope_turn(&a, y, 400);
        for (uint32_t i = 0; i < a.head_dim; i++)
            CHECK_NEAR(t, (double)x[i], (double)y[i], 1e-5);
    }
    llm_session *s = session(t, &f, args_of(&f)), *late;
    CHECK_OK(t, llm_session_fork(s, &late, &err), err);
    late->shift = 640;
    eval(t, s, f.ids, 64);
    float *want = mem_array(f.vocab, sizeof(*want));
    memcpy(want, eval(t, late, f.ids, 65), f.vocab * sizeof(*want));
    kv_page_turn(s->kv, s->page[0], 640);
    s->shift = 640;
    const float *got = eval(t, s, f.ids + 64, 1);
    for (uint32_t v = 0; v < f.vocab; v++)
        CHECK_NEAR(t, (double)got[v], (double)want[v], 0.02);
    CHECK(t, distance(&f, want, 64) < 1e-5); /* and positions matter by difference alone */
    mem_free(want);
    llm_session_close(late);
    llm_session_close(s);
    close_fixture(&f);
}

static void endless(test *t)
{
    fixture f;
    om_err err = {0};
    open_fixture(t, &f);
    for (int packed_too = 0; packed_too < 2; packed_too++) {
        llm_session_args a = args_of(&f);
        a.endless = true;
        a.bits = packed_too ? 4.5f : 0;
        llm_session *s = session(t, &f, a);
        const float *logits;
        for (uint32_t i = 0; i < 1000; i += 20) {
            logits = eval(t, s, f.ids + i % 180, 20);
            for (uint32_t v = 0; logits && v < f.vocab; v++)
                CHECK(t, isfinite(logits[v]));
        }
        CHECK(t, s->shift > 700 && s->shift + s->n == 1000);
        CHECK(t, memcmp(llm_tokens(s), f.ids, 60 * sizeof(int32_t)) == 0);
        CHECK(t, memcmp(llm_tokens(s) + s->n - 20, f.ids + 980 % 180,
                        20 * sizeof(int32_t)) == 0);
        CHECK(t, llm_kv_now(s->kv).pages <= CONTEXT / KV_TOKENS);
        CHECK_INT(t, llm_eval(s, f.ids, CONTEXT, &logits, &err), OM_ELIMIT);
        llm_session_close(s);
    }
    llm_session_args a = args_of(&f);
    llm_session *s = NULL;
    a.endless = true;
    a.context = 128;
    CHECK_INT(t, llm_session_open(f.m, &a, &s, &err), OM_EARG);
    close_fixture(&f);
}

int main(int argc, char **argv)
{
    static const test_case list[] = {
        {"batches", "the same bits however a prompt is cut", batches},
        {"forks", "shared prefixes, copied on the first write", forks},
        {"many", "several sessions in one forward", many},
        {"hidden", "states after the final norm", hidden},
        {"budget", "a full cache is refused, nothing lost", budget},
        {"spilled", "pages in files: the same bits", spilled},
        {"packed", "old pages in fewer bits", packed},
        {"planned", "the memory plan beside what is taken", planned},
        {"saved", "a session through a file; damaged ones are refused", saved},
        {"turned", "keys moved to other positions", turned},
        {"endless", "a full context goes on", endless},
        {"packed_late", "only when the budget is used up", packed_late},
        {0},
    };
    return test_main(argc, argv, list);
}
