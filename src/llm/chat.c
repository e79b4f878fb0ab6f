/* chat.c - prompts of conversations, by family.
 *
 * A model carries its format as a Jinja program.  Here the program is not run: it is
 * recognised by strings that only its family has, and the family's format is a row of
 * the table.  Nearly all are the same sentence - something before and after each
 * speaker's words, something to make the model speak - so a row is mostly strings; flags
 * tell what else differs.  The BOS token is left out: encoding adds it.
 *
 * A row belongs before another whose marks are part of its own.  Formats: the
 * chat_template of the models' tokenizer_config.json. */
#include "llm/tokenizer.h"

enum {
    TRIM_SYSTEM = 1, /* words lose the blanks around them */
    TRIM_USER = 2,
    TRIM_ASSISTANT = 4,
    TRIM = TRIM_USER | TRIM_ASSISTANT,
    SYSTEM_IN_FIRST_USER = 8, /* no turn of its own: put before the user's words */
    SYSTEM_IN_LAST_USER = 16,
    TRIM_TOGETHER = 32        /* and trimmed as one text with them */
};

struct chat_template {
    const char *name;
    const char *mark[3];      /* all of them stand in the Jinja text */
    const char *begin;
    const char *system[2], *user[2], *assistant[2]; /* before, after */
    const char *tool[2];      /* a function's result; NULL: as the user's words */
    const char *last;         /* after the assistant's words when they end it all */
    const char *again;        /* before every user turn but the first */
    const char *generate;
    const char *default_system;
    unsigned flags;
};

#define EOS_DEEPSEEK "<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"
#define USER_DEEPSEEK "<\xEF\xBD\x9CUser\xEF\xBD\x9C>"
#define ASSISTANT_DEEPSEEK "<\xEF\xBD\x9C" "Assistant\xEF\xBD\x9C>"
#define CHATML                                                            \
    .system = {"<|im_start|>system\n", "<|im_end|>\n"},                   \
    .user = {"<|im_start|>user\n", "<|im_end|>\n"},                       \
    .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"},             \
    .generate = "<|im_start|>assistant\n"
#define DEEPSEEK3                                                         \
    .system = {"", ""}, .user = {USER_DEEPSEEK, ""},                      \
    .assistant = {ASSISTANT_DEEPSEEK, EOS_DEEPSEEK}

static const chat_template table[] = {
    {.name = "phi4", .mark = {"<|im_start|>", "<|im_sep|>"},
     .system = {"<|im_start|>system<|im_sep|>", "<|im_end|>"},
     .user = {"<|im_start|>user<|im_sep|>", "<|im_end|>"},
     .assistant = {"<|im_start|>assistant<|im_sep|>", "<|im_end|>"},
     .generate = "<|im_start|>assistant<|im_sep|>"},
    {.name = "qwen2.5", .mark = {"<|im_start|>", "You are Qwen, created by Alibaba Cloud."}, CHATML,
     .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
    {.name = "smollm2", .mark = {"<|im_start|>", "You are a helpful AI assistant named SmolLM"},
     CHATML, .default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging "
                               "Face"},
    {.name = "qwen2", .mark = {"<|im_start|>system", "You are a helpful assistant.<|im_end|>"},
     CHATML, .default_system = "You are a helpful assistant."},
    {.name = "chatml", .mark = {"<|im_start|>"}, CHATML},
    {.name = "llama3", .mark = {"<|start_header_id|>", "<|end_header_id|>"},
     .system = {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"},
     .user = {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},
     .assistant = {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"},
     .tool = {"<|start_header_id|>ipython<|end_header_id|>\n\n", "<|eot_id|>"},
     .generate = "<|start_header_id|>assistant<|end_header_id|>\n\n",
     .flags = TRIM | TRIM_SYSTEM},
    {.name = "mistral-v7", .mark = {"[SYSTEM_PROMPT]", "[INST]"},
     .system = {"[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"}, .user = {"[INST] ", "[/INST]"},
     .assistant = {" ", "</s>"}},
    {.name = "llama2", .mark = {"[INST]", "<<SYS>>", "bos_token + '[INST]"},
     .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"}, .user = {"[INST] ", " [/INST]"},
     .assistant = {" ", " </s>"}, .again = "<s>",
     .flags = TRIM | TRIM_TOGETHER | SYSTEM_IN_FIRST_USER},
    {.name = "llama2-once", .mark = {"[INST]", "<<SYS>>"},
     .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"}, .user = {"[INST] ", " [/INST]"},
     .assistant = {" ", " </s>"}, .flags = TRIM | TRIM_TOGETHER | SYSTEM_IN_FIRST_USER},
    {.name = "mistral-v1", .mark = {"' [INST] ' + system_message"},
     .system = {"", "\n\n"}, .user = {" [INST] ", " [/INST]"}, .assistant = {" ", "</s>"},
     .flags = SYSTEM_IN_FIRST_USER},
    {.name = "mistral-v3-tekken", .mark = {"[AVAILABLE_TOOLS]", "\"[INST]\""},
     .system = {"", "\n\n"}, .user = {"[INST]", "[/INST]"}, .assistant = {"", "</s>"},
     .flags = SYSTEM_IN_LAST_USER},
    {.name = "mistral-v3", .mark = {"[AVAILABLE_TOOLS]", "[INST]"},
     .system = {"", "\n\n"}, .user = {"[INST] ", "[/INST]"}, .assistant = {" ", "</s>"},
     .flags = SYSTEM_IN_LAST_USER | TRIM_ASSISTANT},
    {.name = "mistral", .mark = {"[INST]", "[/INST]"},
     .system = {"", "\n\n"}, .user = {"[INST] ", " [/INST]"}, .assistant = {"", "</s>"},
     .flags = SYSTEM_IN_FIRST_USER},
    {.name = "gemma", .mark = {"<start_of_turn>"},
     .system = {"", "\n\n"}, .user = {"<start_of_turn>user\n", "<end_of_turn>\n"},
     .assistant = {"<start_of_turn>model\n", "<end_of_turn>\n"},
     .generate = "<start_of_turn>model\n", .flags = TRIM | SYSTEM_IN_FIRST_USER},
    {.name = "glm4", .mark = {"[gMASK]<sop>", "<|assistant|>"}, .begin = "[gMASK]<sop>",
     .system = {"<|system|>\n", ""}, .user = {"<|user|>\n", ""},
     .assistant = {"<|assistant|>\n", ""}, .generate = "<|assistant|>"},
    {.name = "phi4-mini", .mark = {"<|end|>", "'|>' + message['content'] + '<|end|>'"},
     .system = {"<|system|>", "<|end|>"}, .user = {"<|user|>", "<|end|>"},
     .assistant = {"<|assistant|>", "<|end|>"}, .generate = "<|assistant|>"},
    {.name = "phi3", .mark = {"<|assistant|>", "<|end|>"},
     .system = {"<|system|>\n", "<|end|>\n"}, .user = {"<|user|>\n", "<|end|>\n"},
     .assistant = {"<|assistant|>\n", "<|end|>\n"}, .generate = "<|assistant|>\n"},
    {.name = "phi3", .mark = {"'|>' + '\\n' + message['content'] + '<|end|>"},
     .system = {"<|system|>\n", "<|end|>\n"}, .user = {"<|user|>\n", "<|end|>\n"},
     .assistant = {"<|assistant|>\n", "<|end|>\n"}, .generate = "<|assistant|>\n"},
    {.name = "falcon3", .mark = {"<|user|>", "<|assistant|>", "eos_token + '"},
     .system = {"<|system|>\n", "\n"}, .user = {"<|user|>\n", "\n"},
     .assistant = {"<|assistant|>\n", "<|endoftext|>\n"}, .last = "<|endoftext|>",
     .generate = "<|assistant|>\n"},
    {.name = "zephyr", .mark = {"<|user|>", "<|assistant|>", "eos_token"},
     .system = {"<|system|>\n", "</s>\n"}, .user = {"<|user|>\n", "</s>\n"},
     .assistant = {"<|assistant|>\n", "</s>\n"}, .generate = "<|assistant|>\n"},
    {.name = "deepseek-r1", .mark = {ASSISTANT_DEEPSEEK "<think>"}, DEEPSEEK3,
     .generate = ASSISTANT_DEEPSEEK "<think>\n"},
    {.name = "deepseek3", .mark = {ASSISTANT_DEEPSEEK, USER_DEEPSEEK}, DEEPSEEK3,
     .generate = ASSISTANT_DEEPSEEK},
    {.name = "deepseek2", .mark = {"'Assistant: ' + message['content'] + eos_token"},
     .system = {"", "\n\n"}, .user = {"User: ", "\n\n"},
     .assistant = {"Assistant: ", EOS_DEEPSEEK}, .generate = "Assistant:"},
    {.name = "deepseek-coder", .mark = {"### Instruction:", "<|EOT|>"},
     .system = {"", ""}, .user = {"### Instruction:\n", "\n"},
     .assistant = {"### Response:\n", "\n<|EOT|>\n"}, .generate = "### Response:\n",
     .default_system =
         "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by "
         "Deepseek Company, and you only answer questions related to computer science. For "
         "politically sensitive questions, security and privacy issues, and other non-computer "
         "science questions, you will refuse to answer\n"},
    {.name = "vicuna-orca", .mark = {"SYSTEM: ", "USER: ", "ASSISTANT: "},
     .system = {"SYSTEM: ", "\n"}, .user = {"USER: ", "\n"}, .assistant = {"ASSISTANT: ", "</s>\n"},
     .generate = "ASSISTANT:"},
    {.name = "vicuna", .mark = {"USER: ", "ASSISTANT: "},
     .system = {"", "\n\n"}, .user = {"USER: ", "\n"}, .assistant = {"ASSISTANT: ", "</s>\n"},
     .generate = "ASSISTANT:"},
    {.name = "command-r", .mark = {"<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"},
     .system = {"<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"},
     .user = {"<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"},
     .assistant = {"<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"},
     .generate = "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", .flags = TRIM},
    {.name = "granite", .mark = {"<|start_of_role|>"},
     .system = {"<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n"},
     .user = {"<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n"},
     .assistant = {"<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>\n"},
     .generate = "<|start_of_role|>assistant<|end_of_role|>"},
    {.name = "openchat", .mark = {"GPT4 Correct "},
     .system = {"GPT4 Correct System: ", "<|end_of_turn|>"},
     .user = {"GPT4 Correct User: ", "<|end_of_turn|>"},
     .assistant = {"GPT4 Correct Assistant: ", "<|end_of_turn|>"},
     .generate = "GPT4 Correct Assistant:"},
};

static bool contains(str s, const char *z)
{
    size_t n = strlen(z);
    for (size_t i = 0; i + n <= s.n; i++)
        if (s.p[i] == z[0] && memcmp(s.p + i, z, n) == 0)
            return true;
    return false;
}

static bool marked(const chat_template *c, str jinja)
{
    for (size_t k = 0; k < countof(c->mark) && c->mark[k]; k++)
        if (!contains(jinja, c->mark[k]))
            return false;
    return true;
}

const chat_template *chat_template_find(str jinja_or_name)
{
    for (size_t i = 0; i < countof(table); i++)
        if (str_is(jinja_or_name, table[i].name))
            return &table[i];
    for (size_t i = 0; i < countof(table); i++)
        if (marked(&table[i], jinja_or_name))
            return &table[i];
    return NULL;
}

const char *chat_template_name(const chat_template *c) { return c->name; }

/* ---- rendering ----------------------------------------------------------------------- */

static bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static str trimmed(str s, bool left, bool right)
{
    while (left && s.n && is_blank(s.p[0]))
        s = (str){s.p + 1, s.n - 1};
    while (right && s.n && is_blank(s.p[s.n - 1]))
        s.n--;
    return s;
}

static om_status put(buf *out, const char *z) { return z ? buf_str(out, str_of(z)) : OM_OK; }

/* What has been said so far, and what waits to be put into a user's turn. */
typedef struct {
    const chat_template *c;
    bool marked;
    const chat_message *system; /* NULL: none waits */
    size_t last_user;
    bool any_user;
} chat_state;

static om_status put_words(const chat_state *s, str words, buf *out)
{
    if (s->marked)
        TRY(buf_u8(out, (uint8_t)CHAT_MARK));
    TRY(buf_str(out, words));
    return s->marked ? buf_u8(out, (uint8_t)CHAT_MARK) : OM_OK;
}

static om_status put_system(const chat_state *s, str words, buf *out)
{
    bool trim = s->c->flags & TRIM_SYSTEM;
    TRY(put(out, s->c->system[0]));
    TRY(put_words(s, trimmed(words, trim, trim), out));
    return put(out, s->c->system[1]);
}

static om_status put_user(chat_state *s, str words, size_t i, buf *out)
{
    const chat_template *c = s->c;
    bool here = s->system && (!(c->flags & SYSTEM_IN_LAST_USER) || i == s->last_user);
    if (s->any_user)
        TRY(put(out, c->again));
    s->any_user = true;
    TRY(put(out, c->user[0]));
    if (here) {
        TRY(put_system(s, s->system->content, out));
        s->system = NULL;
    }
    bool trim = c->flags & TRIM_USER;
    words = trimmed(words, trim && !(here && c->flags & TRIM_TOGETHER), trim);
    TRY(put_words(s, words, out));
    return put(out, c->user[1]);
}

static om_status put_assistant(const chat_state *s, str words, bool last, buf *out)
{
    const chat_template *c = s->c;
    bool trim = c->flags & TRIM_ASSISTANT;
    TRY(put(out, c->assistant[0]));
    TRY(put_words(s, trimmed(words, trim, trim), out));
    return put(out, last && c->last ? c->last : c->assistant[1]);
}

static om_status put_message(chat_state *s, const chat_message *m, size_t i, bool last, buf *out)
{
    const chat_template *c = s->c;
    if (strcmp(m->role, "user") == 0)
        return put_user(s, m->content, i, out);
    if (strcmp(m->role, "assistant") == 0)
        return put_assistant(s, m->content, last, out);
    if (strcmp(m->role, "tool") == 0) {
        if (!c->tool[0])
            return put_user(s, m->content, i, out);
        TRY(put(out, c->tool[0]));
        TRY(put_words(s, m->content, out));
        return put(out, c->tool[1]);
    }
    if (!(c->flags & (SYSTEM_IN_FIRST_USER | SYSTEM_IN_LAST_USER)))
        return put_system(s, m->content, out);
    s->system = m;
    return OM_OK;
}

static om_status check(const chat_template *c, const chat_message *m, size_t n, om_err *err)
{
    size_t systems = 0;
    for (size_t i = 0; i < n; i++) {
        bool system = strcmp(m[i].role, "system") == 0;
        systems += system;
        if (!system && strcmp(m[i].role, "user") != 0 && strcmp(m[i].role, "assistant") != 0 &&
            strcmp(m[i].role, "tool") != 0)
            return fail(err, OM_EUNSUPPORTED, "chat: role \"%.40s\" of message %zu is not "
                        "system, user, assistant or tool", m[i].role, i);
    }
    if (systems > 1 && (c->flags & (SYSTEM_IN_FIRST_USER | SYSTEM_IN_LAST_USER)))
        return fail(err, OM_EUNSUPPORTED, "chat: the %s format takes one system message, there "
                    "are %zu", c->name, systems);
    return OM_OK;
}

static om_status render(const chat_template *c, const chat_message *m, size_t n, bool generate,
                        bool marked_words, buf *out)
{
    chat_state s = {.c = c, .marked = marked_words};
    for (size_t i = 0; i < n; i++)
        if (strcmp(m[i].role, "user") == 0)
            s.last_user = i;
    TRY(put(out, c->begin));
    if (c->default_system && (n == 0 || strcmp(m[0].role, "system") != 0))
        TRY(put_system(&s, str_of(c->default_system), out));
    for (size_t i = 0; i < n; i++)
        TRY(put_message(&s, &m[i], i, i + 1 == n, out));
    if (s.system) /* no user after it: a turn with nothing else in it */
        TRY(put_user(&s, STR(""), s.last_user, out));
    return generate ? put(out, c->generate) : OM_OK;
}

static om_status check_and_render(const chat_template *c, const chat_message *m, size_t n,
                                  bool generate, bool marked_words, buf *out, om_err *err)
{
    TRY(check(c, m, n, err));
    om_status s = render(c, m, n, generate, marked_words, out);
    return s == OM_OK ? OM_OK : fail(err, s, "chat: no room for a prompt of %zu messages", n);
}

om_status chat_render(const chat_template *c, const chat_message *m, size_t n,
                      bool add_generation_prompt, buf *out, om_err *err)
{
    return check_and_render(c, m, n, add_generation_prompt, false, out, err);
}

om_status chat_render_marked(const chat_template *c, const chat_message *m, size_t n,
                             bool add_generation_prompt, buf *out, om_err *err)
{
    return check_and_render(c, m, n, add_generation_prompt, true, out, err);
}
