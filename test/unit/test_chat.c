/* test_chat.c - prompts against those that the published Jinja templates write
 * (test/golden/chat.txt, made by chat.py), and how a template is recognised. */
#include "llm/tokenizer.h"
#include "test.h"

#include "os/os.h"

static const chat_message talk0[] = {{"user", {"Hello", 5}}};
static const chat_message talk1[] = {{"system", {"You are a pirate.", 17}},
                                     {"user", {" Who are you? ", 14}}};
static const chat_message talk2[] = {{"system", {"Be brief.\n", 10}},
                                     {"user", {"Hello", 5}},
                                     {"assistant", {"Hi there", 8}},
                                     {"user", {"Who?", 4}},
                                     {"assistant", {"  An assistant \n", 16}},
                                     {"user", {"Another\nquestion", 16}}};
static const chat_message talk3[] = {{"user", {"Hello", 5}},
                                     {"assistant", {"Hi", 2}},
                                     {"user", {"Bye", 3}},
                                     {"assistant", {"So long", 7}}};
static const struct {
    const chat_message *m;
    size_t n;
} talks[] = {{talk0, countof(talk0)}, {talk1, countof(talk1)}, {talk2, countof(talk2)},
             {talk3, countof(talk3)}};

static void check_line(test *t, const char *name, unsigned talk, int generate, str hex)
{
    uint8_t want[4000];
    om_err err = {0};
    buf got = buf_growing(1 << 16);
    const chat_template *c = chat_template_find(str_of(name));
    CHECK(t, c != NULL && talk < countof(talks));
    CHECK(t, hex.n / 2 <= sizeof(want) && hex_decode(hex, want, hex.n / 2));
    if (!c)
        return;
    CHECK_STR(t, chat_template_name(c), name);
    CHECK_OK(t, chat_render(c, talks[talk].m, talks[talk].n, generate, &got, &err), err);
    t->checks++;
    if (got.len != hex.n / 2 || memcmp(got.data, want, got.len) != 0)
        test_fail(t, __FILE__, __LINE__, "%s, conversation %u, is\n[%.*s]\nexpected\n[%.*s]",
                  name, talk, (int)got.len, got.data, (int)hex.n / 2, want);
    buf_free(&got);
}

static void goldens(test *t)
{
    buf file = buf_growing(1 << 20);
    om_err err = {0};
    int lines = 0;
    CHECK_OK(t, os_read_file(OM_SOURCE_DIR "/test/golden/chat.txt", 1 << 20, &file, &err), err);
    for (const char *p = (char *)file.data, *end = p + file.len; p < end; lines++) {
        char name[40];
        unsigned talk;
        int generate, n = 0;
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        CHECK(t, nl != NULL);
        if (!nl || sscanf(p, "%39s %u %d %n", name, &talk, &generate, &n) != 3)
            break;
        check_line(t, name, talk, generate, (str){p + n, (size_t)(nl - p - n)});
        p = nl + 1;
    }
    CHECK(t, lines > 100);
    buf_free(&file);
}

/* Strings that a family's published template has in it. */
static void recognised(test *t)
{
    static const struct {
        const char *jinja, *name;
    } rows[] = {
        {"{{'<|im_start|>' + message['role']", "chatml"},
        {"'<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n'", "qwen2"},
        {"<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are", "qwen2.5"},
        {"<|im_start|>system You are a helpful AI assistant named SmolLM, trained", "smollm2"},
        {"'<|im_start|>user<|im_sep|>' + message['content']", "phi4"},
        {"'<|start_header_id|>' + message['role'] + '<|end_header_id|>", "llama3"},
        {"'<<SYS>>\\n' + system_message {{ bos_token + '[INST] ' + content", "llama2"},
        {"'<<SYS>>\\n' + system_message {{ '[INST] ' + content", "llama2-once"},
        {"{{ '[INST] ' + message['content'] + ' [/INST]' }}", "mistral"},
        {"{{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}",
         "mistral-v1"},
        {"\"[AVAILABLE_TOOLS] [\" \"[INST] \" + message \"[/INST]\"", "mistral-v3"},
        {"\"[AVAILABLE_TOOLS][\" \"[INST]\" + message \"[/INST]\"", "mistral-v3-tekken"},
        {"'[SYSTEM_PROMPT] ' + m '[/SYSTEM_PROMPT]' '[INST] '", "mistral-v7"},
        {"'<start_of_turn>' + role", "gemma"},
        {"'<|user|>\\n' + message '<|end|>' '<|assistant|>'", "phi3"},
        {"'<|' + message['role'] + '|>' + message['content'] + '<|end|>' '<|assistant|>'",
         "phi4-mini"},
        {"'<|user|>\\n' + message['content'] + eos_token }} '<|assistant|>'", "zephyr"},
        {"message '<\xEF\xBD\x9CUser\xEF\xBD\x9C>' + '<\xEF\xBD\x9C" "Assistant\xEF\xBD\x9C>'",
         "deepseek3"},
        {"<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "command-r"},
        {"'USER: ' + message 'ASSISTANT: ' + message", "vicuna"},
    };
    for (size_t i = 0; i < countof(rows); i++) {
        const chat_template *c = chat_template_find(str_of(rows[i].jinja));
        CHECK_STR(t, c ? chat_template_name(c) : "(none)", rows[i].name);
    }
    CHECK(t, chat_template_find(STR("{{ messages }}")) == NULL);
    CHECK(t, chat_template_find(STR("")) == NULL);
}

static void refused(test *t)
{
    const chat_template *llama = chat_template_find(STR("llama2"));
    chat_message tool = {"function", {"42", 2}};
    chat_message twice[] = {{"system", {"a", 1}}, {"system", {"b", 1}}, {"user", {"c", 1}}};
    om_err err = {0};
    uint8_t small[4];
    buf out = buf_growing(1000), full = buf_fixed(small, sizeof(small));
    CHECK_INT(t, chat_render(llama, &tool, 1, true, &out, &err), OM_EUNSUPPORTED);
    CHECK(t, strstr(err.msg, "\"function\"") != NULL);
    CHECK_INT(t, chat_render(llama, twice, 3, true, &out, &err), OM_EUNSUPPORTED);
    CHECK_INT(t, out.len, 0);
    CHECK_INT(t, chat_render(llama, talk0, 1, true, &full, &err), OM_ELIMIT);
    /* A system message that nobody answers is not lost. */
    CHECK_OK(t, chat_render(llama, twice, 1, true, &out, &err), err);
    CHECK(t, str_is((str){(char *)out.data, out.len}, "[INST] <<SYS>>\na\n<</SYS>>\n\n [/INST]"));
    out.len = 0;
    CHECK_OK(t, chat_render(chat_template_find(STR("chatml")), NULL, 0, true, &out, &err), err);
    CHECK(t, str_is((str){(char *)out.data, out.len}, "<|im_start|>assistant\n"));
    buf_free(&out);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"goldens", "prompts as the Jinja templates write them", goldens},
        {"recognised", "a template is known by its marks", recognised},
        {"refused", "roles, room, one system message", refused},
        {0}};
    return test_main(argc, argv, cases);
}
