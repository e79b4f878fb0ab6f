/* ask.c - a request's JSON read into jobs.
 *
 * The shapes are OpenAI's (chat completions, completions, embeddings), with a few more
 * members that others know too: top_k, min_p, repeat_penalty, grammar, ignore_eos.  What
 * would change the meaning of the answer and is not supported is refused by name. */
#include "serve/server.h"

#include <math.h>

enum { PROMPT_TEXT_MAX = 1 << 26 };

static om_status wrong(om_err *err, const char *name, const char *what)
{
    return fail(err, OM_EARG, "'%s' %s", name, what);
}

static om_status number(const json *j, const char *name, double min, double max, double *out,
                        om_err *err)
{
    const json *v = json_get(j, name);
    if (!v || v->type == JSON_NULL)
        return OM_OK;
    double d = json_f64(v, (double)NAN);
    if (v->type != JSON_NUMBER || !(d >= min && d <= max))
        return fail(err, OM_EARG, "'%s' must be a number from %g to %g", name, min, max);
    *out = d;
    return OM_OK;
}

static om_status boolean(const json *j, const char *name, bool *out, om_err *err)
{
    const json *v = json_get(j, name);
    if (!v || v->type == JSON_NULL)
        return OM_OK;
    *out = v->boolean;
    return v->type == JSON_BOOL ? OM_OK : wrong(err, name, "must be true or false");
}

static om_status count(const json *j, const char *name, uint32_t max, uint32_t *out, om_err *err)
{
    double d = *out;
    TRY(number(j, name, 0, max, &d, err));
    if (floor(d) < d)
        return wrong(err, name, "must be a whole number");
    *out = (uint32_t)d;
    return OM_OK;
}

static om_status refuse_unknown(const json *j, om_err *err)
{
    static const char *const rows[] = {"suffix", "functions", "function_call", "audio",
                                       "web_search_options", "dimensions"};
    for (size_t i = 0; i < countof(rows); i++) {
        const json *v = json_get(j, rows[i]);
        if (v && v->type != JSON_NULL)
            return fail(err, OM_EUNSUPPORTED, "'%s' is not supported", rows[i]);
    }
    double best = 1;
    TRY(number(j, "best_of", 1, 128, &best, err));
    return best > 1 ? fail(err, OM_EUNSUPPORTED, "'best_of' is not supported") : OM_OK;
}

/* ---- how to sample ------------------------------------------------------------------------ */

static om_status read_bias(const json *j, job_args *a, om_err *err)
{
    const json *v = json_get(j, "logit_bias");
    if (!v || v->type == JSON_NULL)
        return OM_OK;
    if (v->type != JSON_OBJECT || v->count > JOB_BIAS)
        return wrong(err, "logit_bias", "must be an object of at most 300 token ids");
    for (const json *e = v->child; e; e = e->next) {
        uint64_t id;
        double d = json_f64(e, (double)NAN);
        if (!str_u64(e->key, &id) || id > INT32_MAX || !(fabs(d) <= 100))
            return wrong(err, "logit_bias", "must give token ids numbers from -100 to 100");
        a->bias[a->n_bias].id = (int32_t)id;
        a->bias[a->n_bias++].add = (float)d;
    }
    return OM_OK;
}

static om_status read_sampling(const json *j, job_args *a, om_err *err)
{
    double temp = 1, top_p = 1, min_p = 0, repeat = 1, often = 0, ever = 0;
    uint32_t top_k = 0;
    TRY(number(j, "temperature", 0, 2, &temp, err));
    TRY(number(j, "top_p", 0, 1, &top_p, err));
    TRY(number(j, "min_p", 0, 1, &min_p, err));
    TRY(number(j, "repeat_penalty", 0.1, 10, &repeat, err));
    TRY(number(j, "frequency_penalty", -2, 2, &often, err));
    TRY(number(j, "presence_penalty", -2, 2, &ever, err));
    TRY(count(j, "top_k", 1 << 20, &top_k, err));
    a->how = (llm_sampling){.temperature = (float)temp, .top_k = top_k,
                            .top_p = top_p > 0 ? (float)top_p : 1e-6f, .min_p = (float)min_p,
                            .repeat_penalty = (float)repeat, .repeat_last = 64};
    a->frequency_penalty = (float)often;
    a->presence_penalty = (float)ever;
    TRY(boolean(j, "ignore_eos", &a->ignore_end, err));
    TRY(read_bias(j, a, err));
    const json *seed = json_get(j, "seed");
    if (!seed || seed->type == JSON_NULL)
        return os_entropy(&a->how.seed, sizeof(a->how.seed), err);
    if (seed->type != JSON_NUMBER || json_i64(seed, INT64_MIN) == INT64_MIN)
        return wrong(err, "seed", "must be a whole number");
    a->how.seed = (uint64_t)json_i64(seed, 0);
    return OM_OK;
}

static om_status add_stop(job_args *a, str s, om_err *err)
{
    if (s.n == 0 || s.n > 1024 || a->n_stop == JOB_STOPS)
        return wrong(err, "stop", "must be at most 16 texts of 1 to 1024 bytes");
    a->stop[a->n_stop] = buf_growing(2048);
    return buf_str(&a->stop[a->n_stop++], s) == OM_OK ? OM_OK
                                                      : fail(err, OM_ENOMEM, "no memory");
}

static om_status read_stops(const json *j, job_args *a, om_err *err)
{
    const json *v = json_get(j, "stop");
    if (!v || v->type == JSON_NULL)
        return OM_OK;
    if (v->type == JSON_STRING)
        return add_stop(a, v->text, err);
    if (v->type != JSON_ARRAY)
        return wrong(err, "stop", "must be a text or an array of texts");
    for (const json *e = v->child; e; e = e->next)
        TRY(e->type == JSON_STRING ? add_stop(a, e->text, err)
                                   : wrong(err, "stop", "must be texts"));
    return OM_OK;
}

/* ---- form of the answer ------------------------------------------------------------------ */

static om_status read_format(const json *j, grammar **out, om_err *err)
{
    const json *f = json_get(j, "response_format"), *g = json_get(j, "grammar");
    str type = json_str(json_get(f, "type"), "text");
    *out = NULL;
    if (g && g->type == JSON_STRING)
        return grammar_from_text(g->text, out, err);
    if (!f || f->type == JSON_NULL || str_is(type, "text"))
        return OM_OK;
    if (str_is(type, "json_object"))
        return grammar_json(out, err);
    if (!str_is(type, "json_schema"))
        return wrong(err, "response_format.type", "must be text, json_object or json_schema");
    const json *schema = json_get(json_get(f, "json_schema"), "schema");
    if (!schema)
        return wrong(err, "response_format.json_schema.schema", "is missing");
    return grammar_from_schema(schema, out, err);
}

static om_status offered_tools(request *q, const json *j, grammar_tool *list, size_t cap,
                               size_t *n, om_err *err)
{
    const json *only = json_get(json_get(json_get(j, "tool_choice"), "function"), "name");
    *n = 0;
    for (const json *t = q->tools->child; t; t = t->next) {
        const json *f = json_get(t, "function"), *name = json_get(f, "name");
        const json *p = json_get(f, "parameters");
        if (!str_is(json_str(json_get(t, "type"), ""), "function") || !name ||
            name->type != JSON_STRING || *n == cap)
            return wrong(err, "tools", "must be at most 128 functions with names");
        if (!only || str_eq(name->text, json_str(only, "")))
            list[(*n)++] = (grammar_tool){name->text, p && p->type == JSON_OBJECT ? p : NULL};
    }
    return *n ? OM_OK : wrong(err, "tool_choice", "names a function that is not offered");
}

static om_status read_tools(request *q, const json *j, job_args *a, om_err *err)
{
    const json *choice_ = json_get(j, "tool_choice");
    grammar_tool list[128];
    bool parallel = true;
    q->tools = json_get(j, "tools");
    if (q->tools && (q->tools->type != JSON_ARRAY || q->tools->count == 0))
        q->tools = NULL;
    if (!q->tools || str_is(json_str(choice_, "auto"), "none")) {
        q->tools = NULL;
        return OM_OK;
    }
    q->form = chat_tool_form_of(q->chat);
    grammar_calls calls = chat_tool_calls(q->form);
    TRY(boolean(j, "parallel_tool_calls", &parallel, err));
    TRY(offered_tools(q, j, list, countof(list), &calls.n, err));
    calls.tool = list;
    calls.many = calls.many && parallel;
    if (a->grammar)
        return fail(err, OM_EUNSUPPORTED, "'tools' and 'response_format' cannot be used together");
    TRY(grammar_from_tools(&calls, &a->grammar, err));
    bool must = choice_ && (choice_->type == JSON_OBJECT ||
                            str_is(json_str(choice_, ""), "required"));
    a->trigger = must ? NULL : chat_tool_trigger(q->form);
    return OM_OK;
}

/* ---- prompts ------------------------------------------------------------------------------ */

static om_status grow_ids(int32_t **ids, size_t *cap, size_t need, om_err *err)
{
    if (need <= *cap)
        return OM_OK;
    int32_t *p = mem_grow(*ids, *cap * sizeof(*p), need * sizeof(*p));
    if (!p)
        return fail(err, OM_ENOMEM, "no memory for a prompt");
    *ids = p;
    *cap = need;
    return OM_OK;
}

static om_status encode(const llm_model *m, str text, bool add, bool special, int32_t **ids,
                        size_t *cap, size_t *n, om_err *err)
{
    size_t got = 0;
    TRY(grow_ids(ids, cap, *n + text.n + 8, err));
    TRY(tokenizer_encode(m->tok, text, add, special, *ids + *n, *cap - *n, &got, err));
    *n += got;
    return OM_OK;
}

/* Do somebody's words contain what a template would be understood by? */
static om_status has_specials(const llm_model *m, str text, bool *out, om_err *err)
{
    int32_t *a = NULL, *b = NULL;
    size_t cap_a = 0, cap_b = 0, n_a = 0, n_b = 0;
    om_status s = encode(m, text, false, false, &a, &cap_a, &n_a, err);
    if (s == OM_OK)
        s = encode(m, text, false, true, &b, &cap_b, &n_b, err);
    *out = s == OM_OK && (n_a != n_b || memcmp(a, b, n_a * sizeof(*a)) != 0);
    mem_free(a);
    mem_free(b);
    return s;
}

/* A rendered conversation as tokens.  Words (between marks) never become special tokens:
 * when some would, every part is encoded by itself. */
static om_status encode_marked(const llm_model *m, str marked, int32_t **ids, size_t *n,
                               om_err *err)
{
    buf plain = buf_growing(PROMPT_TEXT_MAX);
    size_t cap = 0, beg = 0;
    bool words = false, apart = false;
    om_status s = OM_OK;
    for (size_t i = 0; i <= marked.n && s == OM_OK; i++) {
        if (i < marked.n && marked.p[i] != CHAT_MARK)
            continue;
        str part = {marked.p + beg, i - beg};
        bool special = false;
        s = buf_str(&plain, part);
        if (s == OM_OK && words)
            s = has_specials(m, part, &special, err);
        apart |= special;
        words = !words;
        beg = i + 1;
    }
    if (s == OM_OK && !apart)
        s = encode(m, (str){(char *)plain.data, plain.len}, true, true, ids, &cap, n, err);
    words = false;
    beg = 0;
    for (size_t i = 0; i <= marked.n && s == OM_OK && apart; i++) {
        if (i < marked.n && marked.p[i] != CHAT_MARK)
            continue;
        s = encode(m, (str){marked.p + beg, i - beg}, beg == 0, !words, ids, &cap, n, err);
        words = !words;
        beg = i + 1;
    }
    buf_free(&plain);
    int32_t bos = tokenizer_bos(m->tok); /* templates spell it out, encoding adds it */
    if (s == OM_OK && *n > 1 && bos >= 0 && (*ids)[0] == bos && (*ids)[1] == bos)
        memmove(*ids, *ids + 1, --*n * sizeof(**ids));
    return s;
}

/* A message's content: a text, or parts of which each is a text. */
static om_status read_content(const json *v, buf *made, str *out, om_err *err)
{
    *out = (str){"", 0};
    if (!v || v->type == JSON_NULL)
        return OM_OK;
    if (v->type == JSON_STRING)
        return *out = v->text, OM_OK;
    if (v->type != JSON_ARRAY)
        return wrong(err, "messages", "must have texts as content");
    if (v->count == 1)
        made = NULL;
    for (const json *e = v->child; e; e = e->next) {
        const json *text = json_get(e, "text");
        if (!str_is(json_str(json_get(e, "type"), ""), "text") || !text)
            return fail(err, OM_EUNSUPPORTED, "content of other kinds than text is not supported");
        if (!made)
            return *out = json_str(text, ""), OM_OK;
        TRY(buf_str(made, json_str(text, "")));
    }
    return OM_OK; /* the caller takes it from made */
}

static const char *role_of(const json *m)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    str r = json_str(json_get(m, "role"), "");
    if (str_is(r, "developer"))
        return "system";
    for (size_t i = 0; i < countof(roles); i++)
        if (str_is(r, roles[i]))
            return roles[i];
    return NULL;
}

/* Texts of several parts are joined in made, which is filled once and then read. */
static om_status read_turns(const json *list, chat_turn *turn, buf *made, om_err *err)
{
    size_t i = 0;
    for (const json *m = list->child; m; m = m->next, i++) {
        const json *content = json_get(m, "content"), *calls = json_get(m, "tool_calls");
        size_t beg = made->len;
        turn[i].role = role_of(m);
        if (!turn[i].role)
            return wrong(err, "messages", "must have the role system, developer, user, assistant "
                                          "or tool");
        TRY(read_content(content, made, &turn[i].content, err));
        turn[i].calls = calls && calls->type == JSON_ARRAY ? calls : NULL;
        if (made->len > beg)
            turn[i].content = (str){NULL, made->len - beg};
    }
    size_t at = 0;
    for (size_t k = 0; k < i; k++)
        if (!turn[k].content.p) {
            turn[k].content.p = (const char *)made->data + at;
            at += turn[k].content.n;
        }
    return OM_OK;
}

static om_status render_chat(request *q, const json *list, chat_turn *turn, chat_message *msg,
                             buf *out, om_err *err)
{
    buf parts = buf_growing(PROMPT_TEXT_MAX), made = buf_growing(PROMPT_TEXT_MAX);
    size_t n = 0;
    om_status s = read_turns(list, turn, &parts, err);
    if (s == OM_OK)
        s = chat_tool_messages(chat_tool_form_of(q->chat), q->tools, turn, list->count, msg, &n,
                               &made, err);
    if (s == OM_OK)
        s = chat_render_marked(q->chat, msg, n, true, out, err);
    buf_free(&parts);
    buf_free(&made);
    return s;
}

static om_status chat_prompt(request *q, const json *j, job_args *a, om_err *err)
{
    const llm_model *m = engine_lane_model(q->s->c.engine, q->lane);
    const json *list = json_get(j, "messages");
    if (!list || list->type != JSON_ARRAY || list->count == 0 || list->count > 100000)
        return wrong(err, "messages", "must be an array of messages");
    chat_turn *turn = mem_array(list->count, sizeof(*turn));
    chat_message *msg = mem_array((size_t)list->count + 1, sizeof(*msg));
    buf text = buf_growing(PROMPT_TEXT_MAX);
    size_t n = 0;
    om_status s = turn && msg ? render_chat(q, list, turn, msg, &text, err)
                              : fail(err, OM_ENOMEM, "no memory for a prompt");
    if (s == OM_OK)
        s = encode_marked(m, (str){(char *)text.data, text.len}, &a->ids, &n, err);
    a->n = (uint32_t)n;
    buf_free(&text);
    mem_free(turn);
    mem_free(msg);
    return s;
}

static om_status ids_prompt(const llm_model *m, const json *v, job_args *a, om_err *err)
{
    a->ids = mem_array((size_t)v->count + 1, sizeof(*a->ids));
    if (!a->ids)
        return fail(err, OM_ENOMEM, "no memory for a prompt");
    for (const json *e = v->child; e; e = e->next) {
        uint64_t id = json_u64(e, UINT64_MAX);
        if (id >= m->h.vocab)
            return fail(err, OM_EARG, "a prompt of token ids must have ids below %u", m->h.vocab);
        a->ids[a->n++] = (int32_t)id;
    }
    return OM_OK;
}

static om_status text_prompt(const llm_model *m, const json *v, job_args *a, om_err *err)
{
    size_t cap = 0, n = 0;
    TRY(encode(m, v->text, true, false, &a->ids, &cap, &n, err));
    int32_t bos = tokenizer_bos(m->tok), eos = tokenizer_eos(m->tok);
    if (n == 0 && (bos >= 0 || eos >= 0))
        a->ids[n++] = bos >= 0 ? bos : eos;
    a->n = (uint32_t)n;
    return OM_OK;
}

/* The i-th of a text, ids, or an array of those; *total: how many there are. */
static const json *nth_prompt(const json *v, uint32_t i, uint32_t *total)
{
    bool list = v && v->type == JSON_ARRAY && v->child && v->child->type != JSON_NUMBER;
    *total = list ? v->count : v && (v->type == JSON_STRING || v->type == JSON_ARRAY);
    return list ? json_at(v, i) : v;
}

static om_status plain_prompt(request *q, const json *v, uint32_t i, job_args *a, om_err *err)
{
    const llm_model *m = engine_lane_model(q->s->c.engine, q->lane);
    uint32_t total;
    const json *p = nth_prompt(v, i, &total);
    if (p && p->type == JSON_STRING)
        return text_prompt(m, p, a, err);
    if (p && p->type == JSON_ARRAY)
        return ids_prompt(m, p, a, err);
    return fail(err, OM_EARG, "a prompt must be a text or an array of token ids");
}

/* ---- jobs ---------------------------------------------------------------------------------- */

static om_status read_lane(request *q, const json *j, om_err *err)
{
    const json *v = json_get(j, "model");
    const engine *e = q->s->c.engine;
    str name = json_str(v, "");
    for (q->lane = 0; v && q->lane < engine_lanes(e); q->lane++)
        if (str_is(name, engine_lane_name(e, q->lane)))
            return OM_OK;
    q->lane = 0;
    return v ? fail(err, OM_ENOTFOUND, "the model '%.*s' does not exist; GET /v1/models lists them",
                    (int)size_min(name.n, 100), name.p)
             : OM_OK;
}

static om_status read_common(request *q, const json *j, job_args *a, om_err *err)
{
    uint32_t n = 1, max = 0;
    TRY(refuse_unknown(j, err));
    TRY(boolean(j, "stream", &q->stream, err));
    TRY(boolean(json_get(j, "stream_options"), "include_usage", &q->usage, err));
    TRY(count(j, "n", SERVE_CHOICES, &n, err));
    TRY(count(j, "max_tokens", 1 << 24, &max, err));
    TRY(count(j, "max_completion_tokens", 1 << 24, &max, err));
    const json *given = json_get(j, "max_tokens");
    if (q->kind == ASK_COMPLETION && (!given || given->type == JSON_NULL))
        max = 16; /* OpenAI's */
    q->n = n ? n : 1;
    a->max_tokens = max;
    TRY(read_sampling(j, a, err));
    TRY(read_stops(j, a, err));
    if (q->kind == ASK_COMPLETION) {
        const json *lp = json_get(j, "logprobs");
        TRY(boolean(j, "echo", &q->echo, err));
        TRY(count(j, "logprobs", JOB_TOP, &q->n_top, err));
        q->logprobs = lp && lp->type == JSON_NUMBER;
    } else {
        TRY(boolean(j, "logprobs", &q->logprobs, err));
        TRY(count(j, "top_logprobs", JOB_TOP, &q->n_top, err));
    }
    a->logprobs = q->logprobs;
    a->n_top = q->logprobs ? q->n_top : 0;
    return OM_OK;
}

static om_status copy_ids(job_args *a, const job_args *from, om_err *err)
{
    a->n = from->n;
    a->ids = mem_array((size_t)from->n + 1, sizeof(*a->ids));
    if (!a->ids)
        return fail(err, OM_ENOMEM, "no memory for a prompt");
    memcpy(a->ids, from->ids, from->n * sizeof(*a->ids));
    return OM_OK;
}

/* Everything of choice i: its prompt (or the one of the first choice with the same), its
 * own stops and grammar, its seed. */
static om_status fill_job(request *q, const json *j, uint32_t i, const job_args *leader,
                          job_args *a, om_err *err)
{
    a->lane = q->lane;
    TRY(read_common(q, j, a, err));
    TRY(read_format(j, &a->grammar, err));
    if (leader)
        a->how.seed = leader->how.seed + i % q->n;
    if (q->kind == ASK_CHAT) {
        TRY(read_tools(q, j, a, err));
        return leader ? copy_ids(a, leader, err) : chat_prompt(q, j, a, err);
    }
    return leader ? copy_ids(a, leader, err)
                  : plain_prompt(q, json_get(j, "prompt"), i / q->n, a, err);
}

static om_status keep_echo(request *q, uint32_t i, const job_args *a, om_err *err)
{
    const llm_model *m = engine_lane_model(q->s->c.engine, q->lane);
    return tokenizer_decode(m->tok, a->ids, a->n, false, &q->echoed[i], err);
}

static void free_args(job_args *a)
{
    mem_free(a->ids);
    for (uint32_t i = 0; i < a->n_stop; i++)
        buf_free(&a->stop[i]);
    grammar_close(a->grammar);
}

/* Choice i; its leader is the first choice of the same prompt. */
static om_status make_job(request *q, const json *j, uint32_t i, job_args *leader, om_err *err)
{
    job_args *a = mem_alloc(sizeof(*a));
    if (!a)
        return fail(err, OM_ENOMEM, "no memory for a request");
    bool first = i % q->n == 0;
    om_status s = q->kind == ASK_EMBEDDING
                      ? plain_prompt(q, json_get(j, "input"), i, a, err)
                      : fill_job(q, j, i, first ? NULL : leader, a, err);
    a->lane = q->lane;
    a->embed = q->kind == ASK_EMBEDDING;
    a->ctx = &q->choice[i];
    ask_callbacks(a);
    a->leader = first ? NULL : q->choice[i - i % q->n].job;
    if (q->s->c.timeout_s)
        a->deadline_ns = os_now_ns() + (uint64_t)q->s->c.timeout_s * 1000000000u;
    if (s == OM_OK && q->echo && first)
        s = keep_echo(q, i / q->n, a, err);
    q->choice[i].req = q;
    q->choice[i].index = i;
    if (s != OM_OK)
        free_args(a);
    else
        s = job_new(a, &q->choice[i].job, err);
    if (s == OM_OK && first) /* only ids, n and the seed of it are looked at */
        *leader = *a;
    mem_free(a);
    return s;
}

static om_status make_jobs(request *q, const json *j, om_err *err)
{
    job_args *leader = mem_alloc(sizeof(*leader));
    om_status s = leader ? OM_OK : fail(err, OM_ENOMEM, "no memory for a request");
    for (uint32_t i = 0; i < q->prompts * q->n && s == OM_OK; i++)
        s = make_job(q, j, i, leader, err);
    mem_free(leader);
    return s;
}

static om_status find_chat(request *q, om_err *err)
{
    const llm_model *m = engine_lane_model(q->s->c.engine, q->lane);
    q->chat = m->chat ? m->chat : q->s->c.chat;
    return q->chat ? OM_OK
                   : fail(err, OM_EUNSUPPORTED, "this model has no chat template that is known; "
                                                "start the server with --chat-template NAME");
}

static om_status read_embedding(request *q, const json *j, om_err *err)
{
    str form = json_str(json_get(j, "encoding_format"), "float");
    q->base64 = str_is(form, "base64");
    q->n = 1;
    TRY(refuse_unknown(j, err));
    return q->base64 || str_is(form, "float")
               ? OM_OK
               : wrong(err, "encoding_format", "must be float or base64");
}

om_status ask_read(request *q, om_err *err)
{
    TRY(json_parse(q->body.data, q->body.len, SERVE_NODES, &q->doc, err));
    const json *j = q->doc.root;
    if (j->type != JSON_OBJECT)
        return fail(err, OM_EARG, "the body must be a JSON object");
    TRY(read_lane(q, j, err));
    q->prompts = q->n = 1;
    if (q->kind == ASK_CHAT)
        TRY(find_chat(q, err));
    else
        nth_prompt(json_get(j, q->kind == ASK_COMPLETION ? "prompt" : "input"), 0, &q->prompts);
    if (q->kind == ASK_EMBEDDING) {
        TRY(read_embedding(q, j, err));
    } else {
        job_args a = {.n = 0};
        om_status s = read_common(q, j, &a, err);
        free_args(&a);
        TRY(s);
    }
    uint64_t most = q->kind == ASK_EMBEDDING ? SERVE_INPUTS : SERVE_CHOICES;
    if (q->prompts == 0 || (uint64_t)q->prompts * q->n > most)
        return fail(err, OM_EARG, "there must be 1 to %llu prompts times n",
                    (unsigned long long)most);
    q->choice = mem_array((size_t)q->prompts * q->n, sizeof(*q->choice));
    q->echoed = mem_array(q->prompts, sizeof(*q->echoed));
    if (!q->choice || !q->echoed)
        return fail(err, OM_ENOMEM, "no memory for a request");
    for (uint32_t i = 0; i < q->prompts; i++)
        q->echoed[i] = buf_growing(PROMPT_TEXT_MAX);
    return make_jobs(q, j, err);
}
