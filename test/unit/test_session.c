/* test_session.c - the stories260K model end to end: the same perplexity from either
 * file, the reference implementation's greedy text, cancellation, limits, and the public
 * functions over it.  Needs the shared test data. */
#include "test.h"

#include "llm/perplexity.h"
#include "octomil/run.h"
#include "os/os.h"

typedef struct {
    llm_model *bin, *gguf;
    kern k;
    pool *pool;
} stories;

static bool open_stories(test *t, stories *s)
{
    const char *dir = test_data_dir();
    char path[512], tok[512];
    om_err err = {0};
    *s = (stories){0};
    if (!dir) {
        test_skip(t, "no shared test data");
        return false;
    }
    kern_init(&s->k, 0);
    CHECK_OK(t, pool_open(2, &s->pool, &err), err);
    snprintf(path, sizeof(path), "%s/models/stories260K.bin", dir);
    snprintf(tok, sizeof(tok), "%s/tokenizers/tok512.bin", dir);
    CHECK_OK(t, llm_open_with(path, tok, &s->bin, &err), err);
    snprintf(path, sizeof(path), "%s/models/stories260K.gguf", dir);
    CHECK_OK(t, llm_open(path, &s->gguf, &err), err);
    return s->bin && s->gguf;
}

static void close_stories(stories *s)
{
    llm_close(s->bin);
    llm_close(s->gguf);
    pool_close(s->pool);
}

/* ---- greedy text --------------------------------------------------------------------- */

/* golden/stories260K.txt: BOS and 200 tokens by golden/arch_golden.py. */
static uint32_t read_golden(test *t, int32_t *ids, uint32_t cap)
{
    buf b = {0};
    om_err err = {0};
    uint32_t n = 0;
    CHECK_OK(t, os_read_file(OM_SOURCE_DIR "/test/golden/stories260K.txt", 1 << 16, &b, &err),
             err);
    if (b.len && buf_u8(&b, 0) == OM_OK)
        for (char *p = (char *)b.data, *end; n < cap; p = end) {
            long v = strtol(p, &end, 10);
            if (end == p)
                break;
            ids[n++] = (int32_t)v;
        }
    buf_free(&b);
    return n;
}

static void greedy_of(test *t, const stories *st, llm_model *m, dtype kv)
{
    int32_t want[256], id = 1;
    uint32_t n = read_golden(t, want, 256), same = 1;
    llm_session *s = NULL;
    om_err err = {0};
    llm_session_args a = {.context = 256, .kv_type = kv, .k = &st->k, .pool = st->pool};
    CHECK_INT(t, n, 201);
    CHECK_OK(t, llm_session_open(m, &a, &s, &err), err);
    while (s && same < n) {
        const float *logits;
        CHECK_OK(t, llm_eval(s, &id, 1, &logits, &err), err);
        id = 0;
        for (int32_t i = 1; i < (int32_t)m->h.vocab; i++)
            if (logits[i] > logits[id])
                id = i;
        if (id != want[same])
            break;
        same++;
    }
    CHECK_INT(t, same, 201);
    llm_session_close(s);
}

static void greedy(test *t)
{
    stories s;
    if (open_stories(t, &s)) {
        greedy_of(t, &s, s.bin, DTYPE_F32);
        greedy_of(t, &s, s.gguf, DTYPE_F32);
        greedy_of(t, &s, s.gguf, DTYPE_F16);
    }
    close_stories(&s);
}

/* ---- perplexity ---------------------------------------------------------------------- */

static const char story[] =
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the "
    "park. One day, she saw a big, red ball. She wanted to play with it, but it was too high "
    "for her to reach. Her mom said, \"Lily, do not worry. I can help you.\" Lily was happy "
    "and said, \"Thank you, mom!\" They played with the ball all day. At the end of the day, "
    "Lily was tired. She went to bed and dreamed of the big, red ball.\n";

static uint32_t tokens_of(test *t, const llm_model *m, str text, int32_t *ids, size_t cap)
{
    size_t n = 0;
    om_err err = {0};
    CHECK_OK(t, tokenizer_encode(m->tok, text, true, false, ids, cap, &n, &err), err);
    return (uint32_t)n;
}

/* The definition, token by token through a cache: one window over the whole text. */
static double plain_nll(test *t, const stories *st, llm_model *m, const int32_t *ids,
                        uint32_t n)
{
    llm_session *s = NULL;
    om_err err = {0};
    double sum = 0;
    llm_session_args a = {.context = n, .k = &st->k, .pool = st->pool};
    CHECK_OK(t, llm_session_open(m, &a, &s, &err), err);
    for (uint32_t i = 0; s && i + 1 < n; i++) {
        const float *l;
        CHECK_OK(t, llm_eval(s, ids + i, 1, &l, &err), err);
        double top = (double)l[0], z = 0;
        for (uint32_t v = 1; v < m->h.vocab; v++)
            top = fmax(top, (double)l[v]);
        for (uint32_t v = 0; v < m->h.vocab; v++)
            z += exp((double)l[v] - top);
        sum += top + log(z) - (double)l[ids[i + 1]];
    }
    llm_session_close(s);
    return sum / (n - 1);
}

static void perplexity(test *t)
{
    stories s;
    if (open_stories(t, &s)) {
        int32_t a[512], b[512];
        om_err err = {0};
        uint32_t n = tokens_of(t, s.bin, STR(story), a, 512);
        CHECK_INT(t, tokens_of(t, s.gguf, STR(story), b, 512), n);
        CHECK(t, memcmp(a, b, n * sizeof(*a)) == 0);
        perplexity_report whole, bin, packed, other;
        CHECK_OK(t, llm_perplexity(s.bin, &s.k, s.pool, a, n, 512, 0, NULL, NULL, NULL,
                                   &whole, &err), err);
        CHECK_INT(t, whole.tokens, n - 1);
        CHECK_NEAR(t, whole.nll, plain_nll(t, &s, s.bin, a, n), 1e-5);
        CHECK(t, whole.low < whole.perplexity && whole.perplexity < whole.high);
        CHECK_OK(t, llm_perplexity(s.bin, &s.k, s.pool, a, n, 64, 16, NULL, NULL, NULL, &bin,
                                   &err), err);
        CHECK_OK(t, llm_perplexity(s.gguf, &s.k, NULL, b, n, 64, 16, NULL, NULL, NULL, &packed,
                                   &err), err);
        CHECK_INT(t, bin.tokens, n - 1);
        CHECK_NEAR(t, bin.perplexity, packed.perplexity, 5e-5);
        CHECK(t, bin.nll > whole.nll); /* less to look at predicts worse */
        /* every stride scores every token once */
        for (uint32_t stride = 1; stride < 32; stride += 6) {
            CHECK_OK(t, llm_perplexity(s.bin, &s.k, s.pool, a, n, 32, stride, NULL, NULL,
                                       NULL, &other, &err), err);
            CHECK_INT(t, other.tokens, n - 1);
        }
        CHECK_INT(t, llm_perplexity(s.bin, &s.k, NULL, a, n, 32, 32, NULL, NULL, NULL,
                                    &other, &err), OM_EARG);
        CHECK_INT(t, llm_perplexity(s.bin, &s.k, NULL, a, 1, 32, 8, NULL, NULL, NULL, &other,
                                    &err), OM_EARG);
    }
    close_stories(&s);
}

/* ---- limits, cancellation ------------------------------------------------------------ */

static void limits(test *t)
{
    stories s;
    if (open_stories(t, &s)) {
        llm_session *q = NULL;
        om_err err = {0};
        const float *logits;
        om_cancel stop = {0};
        int32_t ids[64] = {1}, wrong = 512;
        llm_session_args a = {.context = 16, .batch = 4, .k = &s.k, .cancel = &stop};
        CHECK_OK(t, llm_session_open(s.bin, &a, &q, &err), err);
        CHECK_INT(t, llm_eval(q, ids, 17, &logits, &err), OM_ELIMIT);
        CHECK_INT(t, llm_eval(q, &wrong, 1, &logits, &err), OM_EARG);
        CHECK_INT(t, llm_eval(q, ids, 0, &logits, &err), OM_EARG);
        CHECK_OK(t, llm_eval(q, ids, 10, &logits, &err), err);
        CHECK_INT(t, llm_rewind(q, 11, &err), OM_EARG);
        stop.requested = 1;
        CHECK_INT(t, llm_eval(q, ids, 6, &logits, &err), OM_ECANCEL);
        CHECK_INT(t, llm_past(q), 10);
        stop.requested = 0;
        CHECK_OK(t, llm_eval(q, ids, 6, &logits, &err), err);
        CHECK_INT(t, llm_past(q), 16);
        llm_session_close(q);
    }
    close_stories(&s);
}

/* ---- the public functions ------------------------------------------------------------ */

typedef struct {
    char text[4096];
    size_t n;
    int calls, most;
} heard;

static bool hear(void *ctx, const char *text, size_t n)
{
    heard *h = ctx;
    if (n < sizeof(h->text) - h->n) {
        memcpy(h->text + h->n, text, n);
        h->n += n;
        h->text[h->n] = '\0';
    }
    return ++h->calls != h->most;
}

static void public_api(test *t)
{
    const char *dir = test_data_dir();
    om_model *m = NULL;
    om_session *s = NULL;
    om_err err = {0};
    char path[512];
    if (!dir) {
        test_skip(t, "no shared test data");
        return;
    }
    snprintf(path, sizeof(path), "%s/models/stories260K.gguf", dir);
    CHECK_OK(t, om_model_open(path, NULL, &m, &err), err);
    CHECK_OK(t, om_session_open(m, &(om_session_opts){.context = 128, .threads = 1}, &s, &err),
             err);
    om_model_info info;
    om_model_describe(m, &info);
    CHECK_STR(t, info.family, "llama");
    CHECK_INT(t, info.layers, 5);
    CHECK(t, info.has_tokenizer && info.parameters > 260000 && info.weight_bytes > 1000000);
    heard a = {.n = 0}, b = {.n = 0}, c = {.n = 0}, d = {.n = 0};
    om_generate_stats st;
    om_generate_opts o = {.max_tokens = 20, .greedy = true};
    CHECK_OK(t, om_generate(s, "Once upon a time", &o, hear, &a, &st, &err), err);
    CHECK(t, st.generated_tokens == 20 && st.stop == OM_STOP_LENGTH && a.n > 20);
    CHECK(t, strncmp(a.text, ", there was a little", 20) == 0);
    CHECK_OK(t, om_generate(s, "Once upon a time", &o, hear, &b, &st, &err), err);
    CHECK_STR(t, b.text, a.text);
    CHECK_INT(t, st.reused_tokens, st.prompt_tokens - 1);
    o = (om_generate_opts){.seed = 5};
    CHECK_OK(t, om_generate(s, "", &o, hear, &c, &st, &err), err);
    CHECK(t, st.stop == OM_STOP_END || st.stop == OM_STOP_CONTEXT);
    d.most = 3;
    CHECK_OK(t, om_generate(s, "", &o, hear, &d, &st, &err), err);
    CHECK(t, st.stop == OM_STOP_CALLBACK && strncmp(c.text, d.text, d.n) == 0);
    int32_t ids[64];
    size_t n = 0, bytes = 0;
    char text[64];
    CHECK_OK(t, om_tokenize(m, "Tim ran", 7, 0, ids, 64, &n, &err), err);
    CHECK_OK(t, om_detokenize(m, ids, n, text, sizeof(text), &bytes, &err), err);
    CHECK(t, bytes == 7 && memcmp(text, "Tim ran", 7) == 0);
    CHECK_INT(t, om_detokenize(m, ids, n, text, 3, &bytes, &err), OM_ELIMIT);
    CHECK_INT(t, bytes, 7);
    char *long_prompt = mem_alloc(2000);
    memset(long_prompt, 'x', 1999);
    CHECK_INT(t, om_generate(s, long_prompt, &o, hear, &c, &st, &err), OM_ELIMIT);
    mem_free(long_prompt);
    om_perplexity_result r;
    CHECK_OK(t, om_perplexity(m, story, sizeof(story) - 1, NULL, &r, &err), err);
    CHECK(t, r.perplexity > 2 && r.perplexity < 6);
    CHECK_INT(t, om_chat_prompt(m, &(om_message){"user", "hi"}, 1, text, 64, &n, &err),
              OM_EUNSUPPORTED);
    om_session_close(s);
    om_model_close(m);
}

int main(int argc, char **argv)
{
    static const test_case list[] = {
        {"greedy", "200 greedy tokens as the reference gives them", greedy},
        {"perplexity", "either file, any stride, against the definition", perplexity},
        {"limits", "context, vocabulary, cancellation", limits},
        {"public_api", "octomil/model.h and octomil/run.h", public_api},
        {0},
    };
    return test_main(argc, argv, list);
}
