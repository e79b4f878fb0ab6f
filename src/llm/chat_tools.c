/* chat_tools.c - see chat_tools.h.  Words and marks: the chat templates that the families
 * publish (NousResearch Hermes and Qwen2.5; Llama 3.1; Mistral v3).
 *
 * Llama's and Mistral's marks of a call are control tokens, which are not text; what
 * follows them is, and is what is looked for. */
#include "llm/chat_tools.h"

struct chat_tool_form {
    const char *families;             /* names of chat templates, blanks between; NULL: others */
    const char *offer[2];             /* around the functions, in the system's words */
    bool array;                       /* functions as one array, else a line each */
    const char *result[2];            /* around what a function gave back */
    const char *before, *between, *after, *key;
    const char *trigger;
    bool many;
};

static const chat_tool_form forms[] = {
    {.families = " llama3 ",
     .offer = {"Environment: ipython\n\nGiven the following functions, please respond with a "
               "JSON for a function call with its proper arguments that best answers the given "
               "prompt.\n\nRespond in the format {\"name\": function name, \"parameters\": "
               "dictionary of argument name and its value}. Do not use variables.\n\n", ""},
     .result = {"", ""}, .before = "", .between = "", .after = "", .key = "parameters",
     .trigger = "{\"name\""},
    {.families = " mistral mistral-v1 mistral-v3 mistral-v3-tekken mistral-v7 ",
     .offer = {"You may call functions. To do so answer with nothing but a list of calls, "
               "[{\"name\": function name, \"arguments\": {argument name: value}}]. The "
               "functions:\n", ""},
     .array = true, .result = {"[TOOL_RESULTS] ", "[/TOOL_RESULTS]"}, .before = "[",
     .between = ", ", .after = "]", .key = "arguments", .trigger = "[{\"name\"", .many = true},
    {.offer = {"# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
               "You are provided with function signatures within <tools></tools> XML tags:\n"
               "<tools>\n",
               "</tools>\n\nFor each function call, return a json object with function name and "
               "arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": "
               "<function-name>, \"arguments\": <args-json-object>}\n</tool_call>"},
     .result = {"<tool_response>\n", "\n</tool_response>"}, .before = "<tool_call>\n",
     .between = "\n</tool_call>\n<tool_call>\n", .after = "\n</tool_call>", .key = "arguments",
     .trigger = "<tool_call>", .many = true},
};

const chat_tool_form *chat_tool_form_of(const chat_template *c)
{
    char name[64] = " ";
    buf b = buf_fixed(name, sizeof(name) - 1);
    const chat_tool_form *f = forms;
    if (buf_fmt(&b, " %s ", chat_template_name(c)) != OM_OK)
        b.len = 0;
    name[b.len] = '\0';
    while (f->families && !strstr(f->families, name))
        f++;
    return f;
}

const char *chat_tool_trigger(const chat_tool_form *f) { return f->trigger; }

grammar_calls chat_tool_calls(const chat_tool_form *f)
{
    return (grammar_calls){.before = f->before, .between = f->between, .after = f->after,
                           .key = f->key, .many = f->many};
}

/* ---- into the prompt ---------------------------------------------------------------------- */

static void put_json(json_out *o, const char *key, const json *v)
{
    bool object = v->type == JSON_OBJECT;
    switch (v->type) {
    case JSON_NULL: json_put_null(o, key); return;
    case JSON_BOOL: json_put_bool(o, key, v->boolean); return;
    case JSON_NUMBER: json_put_raw(o, key, v->text); return;
    case JSON_STRING: json_put_str(o, key, v->text); return;
    default: break;
    }
    if (object)
        json_open_object(o, key);
    else
        json_open_array(o, key);
    for (const json *e = v->child; e; e = e->next)
        put_json(o, object ? e->key.p : NULL, e);
    json_shut(o, object ? '}' : ']');
}

static om_status put_value(buf *out, const json *v)
{
    json_out o = json_to(out);
    put_json(&o, NULL, v);
    return o.status;
}

static om_status put_offer(const chat_tool_form *f, const json *tools, str system, buf *out)
{
    TRY(buf_str(out, system));
    TRY(buf_str(out, str_of(system.n ? "\n\n" : "")));
    TRY(buf_str(out, str_of(f->offer[0])));
    if (f->array) {
        TRY(put_value(out, tools));
    } else {
        for (const json *t = tools->child; t; t = t->next) {
            TRY(put_value(out, t));
            TRY(buf_u8(out, '\n'));
        }
    }
    return buf_str(out, str_of(f->offer[1]));
}

/* An assistant's calls as it should have written them. */
static om_status put_calls(const chat_tool_form *f, const chat_turn *t, buf *out)
{
    TRY(buf_str(out, t->content));
    TRY(buf_str(out, str_of(t->content.n && f->before[0] ? "\n" : "")));
    TRY(buf_str(out, str_of(f->before)));
    for (const json *c = t->calls->child; c; c = c->next) {
        const json *fn = json_get(c, "function");
        json_out o = json_to(out);
        str args = json_str(json_get(fn, "arguments"), "{}");
        TRY(buf_str(out, STR("{\"name\": ")));
        json_put_str(&o, NULL, json_str(json_get(fn, "name"), ""));
        TRY(buf_fmt(out, ", \"%s\": ", f->key));
        TRY(buf_str(out, args));
        TRY(buf_str(out, STR("}")));
        TRY(buf_str(out, str_of(c->next ? f->between : f->after)));
    }
    return OM_OK;
}

static om_status put_result(const chat_tool_form *f, str content, buf *out)
{
    TRY(buf_str(out, str_of(f->result[0])));
    TRY(buf_str(out, content));
    return buf_str(out, str_of(f->result[1]));
}

/* The text of message i where it is not the client's own, as offsets into *made, which may
 * move while it grows. */
static om_status make_text(const chat_tool_form *f, const json *tools, const chat_turn *t,
                           buf *made, bool *own)
{
    *own = false;
    if (strcmp(t->role, "system") == 0 && tools)
        return put_offer(f, tools, t->content, made);
    if (t->calls && t->calls->count)
        return put_calls(f, t, made);
    if (strcmp(t->role, "tool") == 0)
        return put_result(f, t->content, made);
    *own = true;
    return OM_OK;
}

om_status chat_tool_messages(const chat_tool_form *f, const json *tools, const chat_turn *turn,
                             size_t n, chat_message *out, size_t *n_out, buf *made, om_err *err)
{
    bool offered = n && strcmp(turn[0].role, "system") == 0;
    chat_turn system = {.role = "system"};
    size_t k = 0;
    om_status s = OM_OK;
    for (size_t i = 0; i < n + (tools && !offered) && s == OM_OK; i++) {
        bool first = tools && !offered;
        const chat_turn *t = first ? (i == 0 ? &system : &turn[i - 1]) : &turn[i];
        size_t beg = made->len;
        bool own;
        s = make_text(f, i == 0 ? tools : NULL, t, made, &own);
        out[k++] = (chat_message){t->role, own ? t->content : (str){NULL, made->len - beg}};
    }
    size_t at = 0;
    for (size_t i = 0; i < k; i++)
        if (!out[i].content.p && out[i].content.n) {
            out[i].content.p = (const char *)made->data + at;
            at += out[i].content.n;
        }
    *n_out = k;
    return s == OM_OK ? OM_OK : fail(err, s, "chat: no room for the tools of the prompt");
}

/* ---- out of the answer --------------------------------------------------------------------- */

/* The length of the JSON object that s begins with; 0: none ends. */
static size_t object_length(str s)
{
    bool quoted = false;
    int depth = 0;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (quoted) {
            i += c == '\\';
            quoted = c != '"';
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if ((c == '}' || c == ']') && --depth == 0) {
            return i + 1;
        }
    }
    return 0;
}

static om_status report(const chat_tool_form *f, str object, chat_call_fn *fn, void *ctx)
{
    json_doc d;
    om_err err;
    buf args = buf_growing((size_t)1 << 24);
    if (json_parse(object.p, object.n, 0, &d, &err) != OM_OK)
        return OM_EFORMAT;
    const json *name = json_get(d.root, "name"), *a = json_get(d.root, f->key);
    om_status s = name && name->type == JSON_STRING ? OM_OK : OM_EFORMAT;
    if (s == OM_OK)
        s = a ? put_value(&args, a) : buf_str(&args, STR("{}"));
    if (s == OM_OK)
        s = fn(ctx, name->text, (str){(const char *)args.data, args.len});
    buf_free(&args);
    json_close(&d);
    return s;
}

om_status chat_tool_find(const chat_tool_form *f, str answer, size_t *before, chat_call_fn *fn,
                         void *ctx)
{
    size_t n = strlen(f->trigger), at = 0;
    *before = answer.n;
    while (at + n <= answer.n && memcmp(answer.p + at, f->trigger, n) != 0)
        at++;
    if (at + n > answer.n)
        return OM_OK;
    *before = at;
    while (at < answer.n) {
        const char *open = memchr(answer.p + at, '{', answer.n - at);
        if (!open)
            break;
        at = (size_t)(open - answer.p);
        size_t len = object_length((str){open, answer.n - at});
        if (len == 0 || report(f, (str){open, len}, fn, ctx) != OM_OK)
            return OM_EFORMAT;
        at += len;
    }
    return OM_OK;
}
