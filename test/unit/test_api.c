/* test_api.c - octomil/run.h as a program uses it: callback and iterator, stops, forms,
 * cancelling from another thread, statistics, vectors, conversations. */
#include "octomil/octomil.h"

#include "base/json.h"
#include "llm/model.h"
#include "os/os.h"
#include "test.h"

#define MODEL OM_SOURCE_DIR "/demo/keyboard.gguf"

typedef struct {
    char text[4096];
    size_t n, calls, stop_after;
} gathered;

static bool gather(void *ctx, const char *text, size_t n)
{
    gathered *g = ctx;
    if (g->n + n < sizeof(g->text)) {
        memcpy(g->text + g->n, text, n);
        g->n += n;
        g->text[g->n] = '\0';
    }
    return ++g->calls != g->stop_after;
}

static bool open_both(test *t, om_model **m, om_session **s)
{
    om_err err = {0};
    CHECK_OK(t, om_model_open(MODEL, NULL, m, &err), err);
    om_session_opts o = {.threads = 1};
    CHECK_OK(t, om_session_open(*m, &o, s, &err), err);
    return *s != NULL;
}

static void close_both(om_model *m, om_session *s)
{
    om_session_close(s);
    om_model_close(m);
}

static void loop(test *t, om_session *s, const om_generate_opts *o, gathered *out)
{
    om_err err = {0};
    const char *text;
    size_t n = 1;
    *out = (gathered){.n = 0};
    CHECK_OK(t, om_start(s, "see you at the", o, &err), err);
    while (n) {
        CHECK_OK(t, om_next(s, &text, &n, &err), err);
        gather(out, text, n);
    }
    CHECK_OK(t, om_next(s, &text, &n, &err), err); /* the end stays the end */
    CHECK_INT(t, n, 0);
}

static void callback_and_iterator(test *t)
{
    om_model *m;
    om_session *s;
    om_err err = {0};
    gathered a = {.n = 0}, b, c = {.stop_after = 3};
    om_generate_stats st, st2;
    om_generate_opts o = {.max_tokens = 30, .seed = 5, .ignore_end = true};
    if (!open_both(t, &m, &s))
        return;
    CHECK_OK(t, om_generate(s, "see you at the", &o, gather, &a, &st, &err), err);
    CHECK_INT(t, st.generated_tokens, 30);
    CHECK_INT(t, st.stop, OM_STOP_LENGTH);
    CHECK(t, st.prompt_tokens > 0 && st.prompt_seconds > 0 && st.generate_seconds > 0);
    loop(t, s, &o, &b);
    om_statistics(s, &st2);
    CHECK_STR(t, b.text, a.text);
    CHECK_INT(t, st2.generated_tokens, 30);
    CHECK(t, st2.reused_tokens + 1 >= st2.prompt_tokens); /* the prompt was there already */
    CHECK_OK(t, om_generate(s, "see you at the", &o, gather, &c, &st, &err), err);
    CHECK_INT(t, st.stop, OM_STOP_CALLBACK);
    CHECK_INT(t, c.calls, 3);
    CHECK(t, strncmp(c.text, a.text, c.n) == 0);
    close_both(m, s);
}

static void stops(test *t)
{
    om_model *m;
    om_session *s;
    gathered whole, cut;
    om_generate_opts o = {.max_tokens = 40, .seed = 5, .ignore_end = true};
    if (!open_both(t, &m, &s))
        return;
    loop(t, s, &o, &whole);
    char stop[4] = {0};
    memcpy(stop, whole.text + 20, 3);
    const char *const list[] = {"never to be seen", stop, NULL};
    o.stops = list;
    loop(t, s, &o, &cut);
    *strstr(whole.text, stop) = '\0';
    CHECK_STR(t, cut.text, whole.text);
    om_generate_stats st;
    om_statistics(s, &st);
    CHECK_INT(t, st.stop, OM_STOP_END);
    close_both(m, s);
}

static void forms(test *t)
{
    static const char schema[] = "{\"type\":\"object\",\"properties\":{\"n\":{\"type\":\"integer\","
                                 "\"minimum\":3,\"maximum\":70}},\"required\":[\"n\"]}";
    om_model *m;
    om_session *s;
    om_err err = {0};
    gathered out;
    json_doc d;
    if (!open_both(t, &m, &s))
        return;
    for (uint64_t seed = 0; seed < 5; seed++) {
        om_generate_opts o = {.json_schema = schema, .seed = seed};
        loop(t, s, &o, &out);
        CHECK_OK(t, json_parse(out.text, out.n, 0, &d, &err), err);
        uint64_t n = json_u64(json_get(d.root, "n"), 0);
        CHECK(t, n >= 3 && n <= 70);
        json_close(&d);
    }
    om_generate_opts yes = {.grammar = "root ::= \"yes\" | \"no\""};
    loop(t, s, &yes, &out);
    CHECK(t, strcmp(out.text, "yes") == 0 || strcmp(out.text, "no") == 0);
    om_generate_opts both = {.json = true, .grammar = "root ::= \"a\""};
    CHECK_INT(t, om_start(s, "x", &both, &err), OM_EARG);
    om_generate_opts bad = {.json_schema = "{\"not\":{}}"};
    CHECK_INT(t, om_start(s, "x", &bad, &err), OM_EUNSUPPORTED);
    CHECK(t, strstr(err.msg, "'not'") != NULL);
    close_both(m, s);
}

static void cancel_soon(void *ctx)
{
    os_sleep_ms(30);
    om_cancel_now(ctx);
}

static void cancelled_from_another_thread(test *t)
{
    om_model *m;
    om_session *s;
    om_err err = {0};
    os_thread *thread;
    gathered g;
    const char *text;
    size_t n = 1;
    om_status st = OM_OK;
    om_generate_opts o = {.ignore_end = true, .seed = 1};
    if (!open_both(t, &m, &s))
        return;
    CHECK_OK(t, os_thread_start(&thread, cancel_soon, s, &err), err);
    while (st == OM_OK) { /* again and again, until it is cancelled */
        st = om_start(s, "hello", &o, &err);
        for (n = 1; st == OM_OK && n;)
            st = om_next(s, &text, &n, &err);
    }
    CHECK_INT(t, st, OM_ECANCEL);
    os_thread_join(thread);
    o.max_tokens = 4;
    loop(t, s, &o, &g); /* and the session goes on */
    CHECK(t, g.n > 0);
    close_both(m, s);
}

static double product(const float *a, const float *b, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static void vectors(test *t)
{
    om_model *m;
    om_session *s;
    om_err err = {0};
    om_model_info info;
    om_generate_stats st;
    if (!open_both(t, &m, &s))
        return;
    om_model_describe(m, &info);
    float *v = mem_array((size_t)3 * info.dim, sizeof(float));
    om_generate_opts o = {.max_tokens = 4};
    gathered g;
    loop(t, s, &o, &g);
    CHECK_OK(t, om_embed(s, "see you at the station", v, &err), err);
    CHECK_OK(t, om_embed(s, "see you at the station", v + info.dim, &err), err);
    CHECK_OK(t, om_embed(s, "what a lovely morning that was", v + 2 * info.dim, &err), err);
    CHECK_NEAR(t, product(v, v, info.dim), 1, 1e-5);
    CHECK_NEAR(t, product(v, v + info.dim, info.dim), 1, 1e-6);
    CHECK(t, product(v, v + 2 * info.dim, info.dim) < 0.999);
    loop(t, s, &o, &g); /* the timeline is as it was */
    om_statistics(s, &st);
    CHECK(t, st.reused_tokens + 1 >= st.prompt_tokens);
    CHECK_INT(t, om_embed(s, "", v, &err) == OM_OK || err.code == OM_ELIMIT, 1);
    mem_free(v);
    close_both(m, s);
}

/* A model file that carries a chat template. */
static void chat_prompts(test *t)
{
    char path[300], out[512];
    om_err err = {0};
    om_model *m = NULL;
    llm_model *plain = NULL;
    size_t need = 0;
    om_message talk[] = {{"system", "Be brief."}, {"user", "Hi"}, {"assistant", "Hello."},
                         {"user", "How are you?"}};
    static const char want[] =
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nHow are you?<|im_end|>\n"
        "<|im_start|>assistant\n";
    snprintf(path, sizeof(path), "%s/chat.gguf", test_temp_dir());
    CHECK_OK(t, llm_open(MODEL, &plain, &err), err);
    CHECK_INT(t, om_chat_prompt(plain, talk, 4, out, sizeof(out), &need, &err), OM_EUNSUPPORTED);
    plain->chat_jinja = STR("{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n'}}");
    CHECK_OK(t, llm_write_gguf(plain, path, DTYPE_COUNT, NULL, NULL, &err), err);
    llm_close(plain);
    CHECK_OK(t, om_model_open(path, NULL, &m, &err), err);
    om_model_info info;
    om_model_describe(m, &info);
    CHECK_STR(t, info.chat_template, "chatml");
    CHECK_INT(t, om_chat_prompt(m, talk, 4, out, 10, &need, &err), OM_ELIMIT);
    CHECK_INT(t, need, sizeof(want));
    CHECK_OK(t, om_chat_prompt(m, talk, 4, out, sizeof(out), &need, &err), err);
    CHECK_STR(t, out, want);
    om_message nobody = {"narrator", "x"};
    CHECK_INT(t, om_chat_prompt(m, &nobody, 1, out, sizeof(out), &need, &err), OM_EUNSUPPORTED);
    om_model_close(m);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"iterator", "callback and iterator say the same", callback_and_iterator},
        {"stops", "stop strings end the text and are not in it", stops},
        {"forms", "JSON, schemas and grammars", forms},
        {"cancel", "cancelled from another thread, then going on", cancelled_from_another_thread},
        {"vectors", "embeddings", vectors},
        {"chat", "om_chat_prompt with a model that brings its template", chat_prompts},
        {0}};
    return test_main(argc, argv, cases);
}
