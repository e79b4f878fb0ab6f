/* test_speculate.c - the same text with and without guesses, and what wrong guesses may cost.
 *
 * Time is never measured here: whether the controller guesses or not, and however it was led
 * to by the machine's speed, the tokens must be those of plain decoding. */
#include "test.h"

#include "llm/kv.h"
#include "llm/speculate.h"
#include "octomil/run.h"

#include <string.h>

#define KEYBOARD OM_SOURCE_DIR "/demo/keyboard.gguf"

/* ---- the controller, under costs that are made up ---------------------------------------- */

/* What `tokens` tokens cost, in plain ones, when a row beside the first costs `row` and each
 * guess is right with probability a (drawn).  *found: the share that came from guesses. */
static double simulate(double row, double guess_cost, double a, int tokens, double *found)
{
    spec_control c;
    rng r = rng_for(8, 0, 0, 0);
    double spent = 0, gain, lucky = 0;
    spec_control_init(&c);
    for (int done = 0; done < tokens;) {
        uint32_t n = spec_choose(&c, 0, SPEC_MOST, &gain), right = 0;
        double cost = 1000 * (1 + row * n), guessing = 1000 * guess_cost * n;
        spec_paid(&c, n, cost, guessing);
        while (right < n && rng_unit(&r) < a)
            right++;
        if (n)
            spec_came_true(&c, 0, n, right);
        spent += (cost + guessing) / 1000;
        done += 1 + (int)right;
        lucky += right;
    }
    *found = lucky / tokens;
    return spent / tokens;
}

/* Where no guess comes true, 3 % at most; where guessing pays, most of what it can give. */
static void controller(test *t)
{
    static const double row[] = {0.0, 0.02, 0.1, 0.3, 0.7, 1.0};
    double found;
    for (size_t i = 0; i < countof(row); i++) {
        for (int n = 200; n <= 20000; n *= 10) {
            CHECK(t, simulate(row[i], 0, 0, n, &found) <= 1.03);
            CHECK(t, simulate(row[i], 0.2, 0, n, &found) <= 1.03);
        }
        CHECK(t, simulate(row[i], 0, 0.3, 2000, &found) <= 1.03);
        CHECK(t, simulate(row[i], 0, 0.9, 2000, &found) <= 1.03);
    }
    CHECK(t, simulate(0.05, 0, 0.95, 2000, &found) < 1 / 3.5); /* E(7) / 1.35 is 4.9 */
    CHECK(t, simulate(0.1, 0, 0.9, 2000, &found) < 1 / 2.3);   /* E(7) / 1.7 is 3.3 */
    CHECK(t, simulate(0.05, 0.1, 0.8, 2000, &found) < 1 / 1.5);
    CHECK(t, simulate(1, 0.5, 0.99, 2000, &found) <= 1.03); /* rows as dear as forwards, */
    CHECK(t, found < 0.1);                                  /* and guesses not free */
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* What exactness stands on: a row's logits are the same bits in forwards of 1 to 16. */
static void rows(test *t, const char *path, unsigned mask)
{
    om_err err = {0};
    llm_model *m = NULL;
    llm_session *one = NULL, *many = NULL;
    kern k;
    kern_init(&k, mask);
    CHECK_OK(t, llm_open(path, &m, &err), err);
    llm_session_args a = {.context = 200, .kv_type = DTYPE_F16, .k = &k};
    CHECK_OK(t, llm_session_open(m, &a, &one, &err), err);
    CHECK_OK(t, llm_session_open(m, &a, &many, &err), err);
    rng r = rng_for(4, 0, 0, 0);
    for (uint32_t n = 1; n <= SPEC_MOST + 1; n++) {
        int32_t ids[SPEC_MOST + 1];
        for (uint32_t i = 0; i < n; i++)
            ids[i] = (int32_t)rng_below(&r, m->h.vocab);
        llm_turn turn = {.s = many, .ids = ids, .n = n, .want = n};
        CHECK_OK(t, llm_eval_many(&turn, 1, &err), err);
        for (uint32_t i = 0; i < n; i++) {
            const float *logits;
            CHECK_OK(t, llm_eval(one, ids + i, 1, &logits, &err), err);
            CHECK(t, memcmp(logits, turn.logits + (size_t)i * m->h.vocab,
                            m->h.vocab * sizeof(float)) == 0);
        }
    }
    llm_session_close(one);
    llm_session_close(many);
    llm_close(m);
}

static const char *stories(test *t)
{
    static char path[512];
    if (!test_data_dir()) {
        test_skip(t, "no shared test data");
        return NULL;
    }
    snprintf(path, sizeof(path), "%s/models/stories260K.gguf", test_data_dir());
    return path;
}

static void rows_f16(test *t)
{
    rows(t, KEYBOARD, 0);
    rows(t, KEYBOARD, CPU_AVX2);
}

static void rows_f32(test *t)
{
    const char *path = stories(t);
    if (!path)
        return;
    rows(t, path, 0);
    rows(t, path, CPU_AVX2);
    rows(t, path, CPU_NEON);
}

/* ---- texts --------------------------------------------------------------------------------- */

typedef struct {
    char *text;
    size_t n, cap;
} heard;

static bool hear(void *ctx, const char *text, size_t n)
{
    heard *h = ctx;
    if (n > h->cap - h->n)
        return false;
    memcpy(h->text + h->n, text, n);
    h->n += n;
    return true;
}

typedef struct {
    uint64_t tokens, drafted, accepted;
} tally;

static const char *const prompts[] = {
    "see you at the station at nine. i will be at the station at",
    "Once upon a time, there was a little girl named Lily. Once upon a time, there was",
    "one two three one two three one two", "a"};

/* Answers with one token per forward and with guesses, both from the same seeds. */
static void same_text(test *t, const char *path, uint32_t context, om_generate_opts how,
                      om_speculate_opts guess, uint32_t tokens, tally *sum)
{
    om_err err = {0};
    om_model *m = NULL;
    om_session *plain = NULL, *ahead = NULL;
    CHECK_OK(t, om_model_open(path, NULL, &m, &err), err);
    om_session_opts o = {.context = context, .threads = 1,
                         .speculate = {.kind = OM_SPECULATE_OFF}};
    CHECK_OK(t, om_session_open(m, &o, &plain, &err), err);
    o.speculate = guess;
    CHECK_OK(t, om_session_open(m, &o, &ahead, &err), err);
    heard a = {mem_alloc(1 << 16), 0, 1 << 16}, b = {mem_alloc(1 << 16), 0, 1 << 16};
    for (uint32_t done = 0, i = 0; done < tokens && i < 500; i++) {
        om_generate_stats st, st2;
        const char *prompt = prompts[i % countof(prompts)];
        a.n = b.n = 0;
        how.seed = i;
        CHECK_OK(t, om_generate(plain, prompt, &how, hear, &a, &st, &err), err);
        CHECK_OK(t, om_generate(ahead, prompt, &how, hear, &b, &st2, &err), err);
        CHECK(t, a.n == b.n && memcmp(a.text, b.text, a.n) == 0);
        CHECK_INT(t, st2.generated_tokens, st.generated_tokens);
        CHECK_INT(t, st2.stop, st.stop);
        CHECK(t, st2.accepted_tokens <= st2.drafted_tokens && st.speedup == 1);
        done += st.generated_tokens;
        sum->tokens += st.generated_tokens;
        sum->drafted += st2.drafted_tokens;
        sum->accepted += st2.accepted_tokens;
    }
    mem_free(a.text);
    mem_free(b.text);
    om_session_close(plain);
    om_session_close(ahead);
    om_model_close(m);
}

static void keyboard_texts(test *t)
{
    tally sum = {0};
    uint32_t n = (uint32_t)test_times(2500);
    om_generate_opts greedy = {.greedy = true, .ignore_end = true}, some = {.ignore_end = true};
    om_generate_opts held = {.ignore_end = true, .repeat_penalty = 1.3f, .max_tokens = 90};
    om_speculate_opts lookup = {.kind = OM_SPECULATE_LOOKUP}, all = {0};
    om_speculate_opts draft = {.kind = OM_SPECULATE_DRAFT, .draft = KEYBOARD, .most = 5};
    same_text(t, KEYBOARD, 0, greedy, all, n, &sum);
    same_text(t, KEYBOARD, 0, some, lookup, n, &sum);
    same_text(t, KEYBOARD, 0, held, lookup, n / 8, &sum);
    same_text(t, KEYBOARD, 0, some, draft, n / 8, &sum);
    CHECK(t, sum.tokens >= n * 2);
}

static void stories_texts(test *t)
{
    tally sum = {0};
    const char *path = stories(t);
    if (!path)
        return;
    uint32_t n = (uint32_t)test_times(2500);
    om_generate_opts greedy = {.greedy = true}, some = {.ignore_end = true};
    same_text(t, path, 512, greedy, (om_speculate_opts){0}, n, &sum);
    same_text(t, path, 300, some, (om_speculate_opts){0}, n, &sum);
}

/* ---- guesses that are forced ---------------------------------------------------------------- */

typedef struct {
    llm_model *m;
    kern k;
    llm_session_args args;
    llm_session *s;
    speculator *p; /* NULL: one token per forward */
    void *scratch;
    float *logits;
} writer;

static void open_writer(test *t, writer *w, const char *path, const spec_args *how,
                        llm_session_args args)
{
    om_err err = {0};
    *w = (writer){0};
    kern_init(&w->k, 0);
    CHECK_OK(t, llm_open(path, &w->m, &err), err);
    w->args = args;
    w->args.context = 230;
    w->args.kv_type = DTYPE_F16;
    w->args.k = &w->k;
    CHECK_OK(t, llm_session_open(w->m, &w->args, &w->s, &err), err);
    w->scratch = mem_alloc(llm_sample_bytes(w->m->h.vocab));
    w->logits = mem_array(w->m->h.vocab, sizeof(float));
    if (!how)
        return;
    spec_args a = *how;
    a.args = &w->args;
    CHECK_OK(t, spec_open(w->s, &a, &w->p, &err), err);
}

static void close_writer(writer *w)
{
    spec_close(w->p);
    llm_session_close(w->s);
    llm_close(w->m);
    mem_free(w->scratch);
    mem_free(w->logits);
}

/* ids[0..n) are given; fills ids[n..end). */
static void write_on(test *t, writer *w, const llm_sampling *how, int32_t *ids, uint32_t n,
                     uint32_t end)
{
    om_err err = {0};
    const float *at;
    rng r = rng_for(how->seed, 0, 0, 0x5a);
    arena scratch = arena_of(w->scratch, llm_sample_bytes(w->m->h.vocab));
    CHECK_OK(t, llm_sync(w->s, ids, n, NULL, &at, &err), err);
    if (w->p)
        spec_begin(w->p);
    for (;;) {
        uint32_t last = (uint32_t)size_min(n, how->repeat_last);
        memcpy(w->logits, at, w->m->h.vocab * sizeof(float));
        ids[n] = llm_sample(how, w->logits, w->m->h.vocab, ids + n - last, last, &r, scratch);
        if (++n == end)
            return;
        spec_text text = {ids, n, how, r};
        if (w->p)
            CHECK_OK(t, spec_next(w->p, &text, end - n - 1, &at, &err), err);
        else
            CHECK_OK(t, llm_eval(w->s, ids + n - 1, 1, &at, &err), err);
        uint32_t past = llm_past(w->s); /* pages are those of the tokens there are */
        CHECK(t, past >= n && past <= w->s->context);
        CHECK(t, llm_kv_now(w->s->kv).pages == kv_pages_of(past));
    }
}

/* Many texts from every other token, plain against guessed, in every forward as many guesses
 * as there can be: most are wrong, at every place of a page. */
static tally forced_on(test *t, const char *path, const spec_args *how, llm_sampling draw,
                       int texts, llm_session_args cache)
{
    enum { PROMPT = 9, END = 229 };
    writer a, b;
    tally sum = {0};
    int32_t x[END], y[END];
    rng r = rng_for(6, 0, 0, 0);
    open_writer(t, &a, path, NULL, cache);
    open_writer(t, &b, path, how, cache);
    for (int i = 0; i < texts; i++) {
        for (int j = 0; j < PROMPT; j++)
            x[j] = y[j] = (int32_t)rng_below(&r, a.m->h.vocab);
        draw.seed = (uint64_t)i;
        write_on(t, &a, &draw, x, PROMPT, END);
        write_on(t, &b, &draw, y, PROMPT, END);
        CHECK(t, memcmp(x, y, sizeof(x)) == 0);
        spec_stats st = spec_now(b.p);
        sum.tokens += END - PROMPT;
        sum.drafted += st.drafted;
        sum.accepted += st.accepted;
    }
    close_writer(&a);
    close_writer(&b);
    return sum;
}

static tally forced(test *t, const char *path, const spec_args *how, llm_sampling draw,
                    int texts)
{
    return forced_on(t, path, how, draw, texts, (llm_session_args){0});
}

/* A cache that is packed while it grows, by age or for room. */
static void forced_packed(test *t)
{
    static const uint32_t recent[] = {1, 64, 100};
    llm_sampling warm = {.temperature = 0.7f, .repeat_last = 64, .repeat_penalty = 1};
    spec_args how = {.only = "lookup", .always = true};
    for (size_t i = 0; i < countof(recent); i++) {
        llm_session_args a = {.bits = 4.5f, .recent = recent[i]};
        tally sum = forced_on(t, KEYBOARD, &how, warm, 1, a);
        CHECK(t, sum.drafted > sum.tokens);
    }
    llm_session_args late = {.bits = 4.5f, .pack_late = true, .budget = 600000};
    forced_on(t, KEYBOARD, &how, warm, 1, late);
}

static void forced_lookup(test *t)
{
    llm_sampling greedy = {.repeat_last = 64, .repeat_penalty = 1};
    llm_sampling warm = {.temperature = 0.7f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f,
                         .repeat_penalty = 1.1f, .repeat_last = 64};
    spec_args how = {.only = "lookup", .always = true};
    int n = test_times(12);
    tally sum = forced(t, KEYBOARD, &how, greedy, n);
    CHECK(t, sum.accepted > sum.tokens / 4);
    sum = forced(t, KEYBOARD, &how, warm, n / 2 + 1);
    CHECK(t, sum.drafted > 2 * sum.tokens && sum.accepted > 0);
    if (!test_data_dir())
        return;
    sum = forced(t, stories(t), &how, greedy, n);
    CHECK(t, sum.drafted > sum.tokens && sum.accepted > 0);
    sum = forced(t, stories(t), &how, warm, n / 2 + 1);
    CHECK(t, sum.drafted > 2 * sum.tokens);
}

/* A model that drafts for itself draws what the sampler draws, so nearly all comes true. */
static void forced_draft(test *t)
{
    om_err err = {0};
    llm_sampling warm = {.temperature = 1, .repeat_last = 64, .repeat_penalty = 1};
    spec_args how = {.only = "draft", .always = true, .most = 7};
    CHECK_OK(t, llm_open(KEYBOARD, &how.draft, &err), err);
    tally sum = forced(t, KEYBOARD, &how, warm, test_times(5));
    CHECK(t, sum.drafted > sum.tokens / 2 && sum.accepted > sum.drafted * 9 / 10);
    const char *path = test_data_dir() ? stories(t) : NULL;
    llm_model *other = NULL;
    if (path) {
        CHECK_OK(t, llm_open(path, &other, &err), err);
        CHECK(t, !spec_same_vocabulary(how.draft, other));
        llm_close(other);
    }
    CHECK(t, spec_same_vocabulary(how.draft, how.draft));
    llm_close(how.draft);
}

/* What follows a prompt over many seeds: guessed texts are drawn from the distribution of
 * plain ones of other seeds.  Chi-square of two samples over the third token. */
static void distribution(test *t)
{
    enum { PROMPT = 6, BINS = 16 };
    writer a, b;
    spec_args how = {.only = "lookup", .always = true};
    llm_sampling draw = {.temperature = 1, .repeat_last = 64, .repeat_penalty = 1};
    double x[BINS] = {0}, y[BINS] = {0}, chi = 0;
    int n = test_times(500), df = -1;
    open_writer(t, &a, KEYBOARD, NULL, (llm_session_args){0});
    open_writer(t, &b, KEYBOARD, &how, (llm_session_args){0});
    for (int i = 0; i < n; i++) {
        int32_t ids[PROMPT + 4] = {20, 300, 41, 20, 300, 41};
        draw.seed = (uint64_t)i;
        write_on(t, &a, &draw, ids, PROMPT, PROMPT + 4);
        x[ids[PROMPT + 2] % BINS]++;
        draw.seed = (uint64_t)(n + i);
        write_on(t, &b, &draw, ids, PROMPT, PROMPT + 4);
        y[ids[PROMPT + 2] % BINS]++;
    }
    for (int i = 0; i < BINS; i++)
        if (x[i] + y[i] > 0) {
            chi += (x[i] - y[i]) * (x[i] - y[i]) / (x[i] + y[i]);
            df++;
        }
    CHECK(t, df >= 5);
    CHECK(t, chi < df + 4.5 * sqrt(2.0 * df)); /* beyond the 0.1 % point for these df */
    close_writer(&a);
    close_writer(&b);
}

/* ---- refusals ------------------------------------------------------------------------------- */

static void refusals(test *t)
{
    om_err err = {0};
    om_model *m = NULL;
    om_session *s = NULL;
    CHECK_OK(t, om_model_open(KEYBOARD, NULL, &m, &err), err);
    om_session_opts o = {.threads = 1, .speculate = {.kind = OM_SPECULATE_DRAFT}};
    CHECK_INT(t, om_session_open(m, &o, &s, &err), OM_EARG);
    o.speculate.draft = OM_SOURCE_DIR "/demo/none.gguf";
    CHECK(t, om_session_open(m, &o, &s, &err) != OM_OK && !s);
    const char *path = test_data_dir() ? stories(t) : NULL;
    o.speculate.draft = path;
    if (path) {
        CHECK_INT(t, om_session_open(m, &o, &s, &err), OM_EARG);
        CHECK(t, strstr(err.msg, "vocabulary") != NULL);
    }
    om_model_close(m);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"controller", "what wrong guesses cost and right ones save", controller},
        {"rows_f16", "logits of 1 to 16 rows are those of single ones, F16", rows_f16},
        {"rows_f32", "the same of F32 weights", rows_f32},
        {"keyboard", "om_generate with guesses, as it chooses, F16", keyboard_texts},
        {"stories", "the same, F32", stories_texts},
        {"forced_lookup", "guesses in every forward", forced_lookup},
        {"forced_packed", "over a cache that is packed as it grows", forced_packed},
        {"forced_draft", "a draft model in every forward", forced_draft},
        {"distribution", "chi-square of guessed and plain samples", distribution},
        {"refusals", "draft models that do not fit", refusals},
        {0}};
    return test_main(argc, argv, cases);
}
