/* answer.c - what jobs say as OpenAI's JSON: whole answers, streams of events, errors. */
#include "serve/server.h"

#include <math.h>

enum { ANSWER_MAX = 1 << 28 };

static const char *const objects[] = {
    [ASK_CHAT] = "chat.completion", [ASK_COMPLETION] = "text_completion"};

/* ---- errors -------------------------------------------------------------------------------- */

static void put_error(json_out *o, const char *type, const char *code, const char *message)
{
    json_open_object(o, NULL);
    json_open_object(o, "error");
    json_put_str(o, "message", str_of(message));
    json_put_str(o, "type", str_of(type));
    json_put_null(o, "param");
    if (code)
        json_put_str(o, "code", str_of(code));
    else
        json_put_null(o, "code");
    json_shut(o, '}');
    json_shut(o, '}');
}

void answer_error(server *s, http_request *r, unsigned status, const char *type,
                  const char *code, const char *message)
{
    buf b = buf_growing(ANSWER_MAX);
    json_out o = json_to(&b);
    s->errors++;
    put_error(&o, type, code, message);
    http_answer(r, status, "application/json", (str){(char *)b.data, b.len});
    buf_free(&b);
}

static void send_event(request *q, const buf *b)
{
    buf line = buf_growing(ANSWER_MAX);
    om_status s = buf_str(&line, STR("data: "));
    if (s == OM_OK)
        s = buf_put(&line, b->data, b->len);
    if (s == OM_OK)
        s = buf_str(&line, STR("\n\n"));
    if (s != OM_OK || !http_stream_put(q->http, (str){(char *)line.data, line.len}))
        for (uint32_t i = 0; i < q->prompts * q->n; i++) /* it does not read: let go of it */
            if (q->choice[i].job && !q->choice[i].done)
                job_cancel(q->choice[i].job);
    buf_free(&line);
}

void answer_failure(request *q, om_status s, const om_err *err)
{
    const char *type = "invalid_request_error", *code = NULL;
    unsigned status = 400;
    switch (s) {
    case OM_ENOTFOUND: status = 404, code = "model_not_found"; break;
    case OM_ELIMIT: code = "context_length_exceeded"; break;
    case OM_EAGAIN: status = 503, type = "server_error", code = "overloaded"; break;
    case OM_ECANCEL: status = 504, type = "server_error", code = "timeout"; break;
    case OM_ENOMEM:
    case OM_EIO: status = 500, type = "server_error"; break;
    default: break;
    }
    q->answered = true;
    if (q->started) {
        buf b = buf_growing(ANSWER_MAX);
        json_out o = json_to(&b);
        q->s->errors++;
        put_error(&o, type, code, err->msg);
        send_event(q, &b);
        buf_free(&b);
        http_stream_end(q->http);
    } else {
        answer_error(q->s, q->http, status, type, code, err->msg);
    }
}

/* ---- log-probabilities -------------------------------------------------------------------- */

static str piece_of(const request *q, int32_t id)
{
    return tokenizer_piece(engine_lane_model(q->s->c.engine, q->lane)->tok, id, true);
}

static void put_alternative(json_out *o, const request *q, const char *key, job_alternative a)
{
    str p = piece_of(q, a.id);
    json_open_object(o, key);
    json_put_str(o, "token", p);
    json_put_f64(o, "logprob", (double)fmaxf(a.logprob, -9999));
    json_open_array(o, "bytes");
    for (size_t i = 0; i < p.n; i++)
        json_put_u64(o, NULL, (uint8_t)p.p[i]);
    json_shut(o, ']');
}

/* {"content": [...]} */
static void put_chat_logprobs(json_out *o, const request *q, const job_token *t, uint32_t n)
{
    json_open_object(o, "logprobs");
    json_open_array(o, "content");
    for (uint32_t i = 0; i < n; i++) {
        put_alternative(o, q, NULL, t[i].chosen);
        json_open_array(o, "top_logprobs");
        for (uint32_t k = 0; k < t[i].n_top; k++) {
            put_alternative(o, q, NULL, t[i].top[k]);
            json_shut(o, '}');
        }
        json_shut(o, ']');
        json_shut(o, '}');
    }
    json_shut(o, ']');
    json_put_null(o, "refusal");
    json_shut(o, '}');
}

static void put_top_map(json_out *o, const request *q, const job_token *t)
{
    json_open_object(o, NULL);
    for (uint32_t k = 0; k < t->n_top; k++) {
        char *name = mem_strdup(piece_of(q, t->top[k].id));
        json_put_f64(o, name ? name : "", (double)fmaxf(t->top[k].logprob, -9999));
        mem_free(name);
    }
    json_shut(o, '}');
}

/* Four arrays side by side, as completions have them. */
static void put_plain_logprobs(json_out *o, const request *q, const job_token *t, uint32_t n,
                               size_t offset)
{
    json_open_object(o, "logprobs");
    json_open_array(o, "tokens");
    for (uint32_t i = 0; i < n; i++)
        json_put_str(o, NULL, piece_of(q, t[i].chosen.id));
    json_shut(o, ']');
    json_open_array(o, "token_logprobs");
    for (uint32_t i = 0; i < n; i++)
        json_put_f64(o, NULL, (double)fmaxf(t[i].chosen.logprob, -9999));
    json_shut(o, ']');
    json_open_array(o, "top_logprobs");
    for (uint32_t i = 0; i < n; i++)
        put_top_map(o, q, &t[i]);
    json_shut(o, ']');
    json_open_array(o, "text_offset");
    for (uint32_t i = 0; i < n; i++)
        json_put_u64(o, NULL, offset + t[i].text_at);
    json_shut(o, ']');
    json_shut(o, '}');
}

static void put_logprobs(json_out *o, const request *q, const job_token *t, uint32_t n,
                         size_t offset)
{
    if (!q->logprobs)
        json_put_null(o, "logprobs");
    else if (q->kind == ASK_CHAT)
        put_chat_logprobs(o, q, t, n);
    else
        put_plain_logprobs(o, q, t, n, offset);
}

/* ---- pieces of answers -------------------------------------------------------------------- */

static void put_head(json_out *o, const request *q, bool chunk)
{
    json_open_object(o, NULL);
    json_put_str(o, "id", str_of(q->id));
    json_put_str(o, "object", chunk && q->kind == ASK_CHAT ? STR("chat.completion.chunk")
                                                            : str_of(objects[q->kind]));
    json_put_u64(o, "created", q->created);
    json_put_str(o, "model", str_of(engine_lane_name(q->s->c.engine, q->lane)));
    json_put_null(o, "system_fingerprint");
}

static void put_usage(json_out *o, const request *q)
{
    uint64_t prompt = 0, reused = 0, said = 0;
    for (uint32_t i = 0; i < q->prompts * q->n; i++) {
        const job *j = q->choice[i].job;
        prompt += i % q->n == 0 ? job_prompt_tokens(j) : 0;
        reused += i % q->n == 0 ? job_reused_tokens(j) : 0;
        said += job_new_tokens(j);
    }
    json_open_object(o, "usage");
    json_put_u64(o, "prompt_tokens", prompt);
    if (q->kind != ASK_EMBEDDING)
        json_put_u64(o, "completion_tokens", said);
    json_put_u64(o, "total_tokens", prompt + said);
    if (q->kind != ASK_EMBEDDING) {
        json_open_object(o, "prompt_tokens_details");
        json_put_u64(o, "cached_tokens", reused);
        json_shut(o, '}');
    }
    json_shut(o, '}');
}

typedef struct {
    json_out *o;
    const request *q;
    uint32_t n, choice;
    bool chunk;
} call_writer;

static om_status put_call(void *ctx, str name, str arguments)
{
    call_writer *w = ctx;
    char id[64];
    buf b = buf_fixed(id, sizeof(id) - 1);
    if (buf_fmt(&b, "call_%.12s%u_%u", w->q->id + strlen(w->q->id) - 12, (unsigned)w->choice,
                (unsigned)w->n) != OM_OK)
        return OM_ELIMIT;
    if (w->n == 0)
        json_open_array(w->o, "tool_calls");
    json_open_object(w->o, NULL);
    if (w->chunk)
        json_put_u64(w->o, "index", w->n);
    json_put_str(w->o, "id", (str){id, b.len});
    json_put_str(w->o, "type", STR("function"));
    json_open_object(w->o, "function");
    json_put_str(w->o, "name", name);
    json_put_str(w->o, "arguments", arguments);
    json_shut(w->o, '}');
    json_shut(w->o, '}');
    w->n++;
    return w->o->status;
}

static om_status count_call(void *ctx, str name, str arguments)
{
    (void)name, (void)arguments;
    ++*(uint32_t *)ctx;
    return OM_OK;
}

/* How many calls the answer is; *before: the text in front of them. */
static uint32_t count_calls(const request *q, str text, size_t *before)
{
    uint32_t n = 0;
    *before = text.n;
    if (!q->tools)
        return 0;
    if (chat_tool_find(q->form, text, before, count_call, &n) != OM_OK)
        n = 0;
    if (n == 0)
        *before = text.n;
    return n;
}

static void put_calls(json_out *o, const request *q, const choice *c, str text, bool chunk)
{
    call_writer w = {.o = o, .q = q, .choice = c->index, .chunk = chunk};
    size_t before;
    chat_tool_find(q->form, text, &before, put_call, &w);
    if (w.n)
        json_shut(o, ']');
}

static str reason_of(const choice *c, bool calls)
{
    return calls                              ? STR("tool_calls")
           : job_why(c->job) == JOB_LENGTH    ? STR("length")
           : job_why(c->job) == JOB_SHUTDOWN  ? STR("length")
                                              : STR("stop");
}

/* ---- streams -------------------------------------------------------------------------------- */

/* How much of the text may be shown while a call may be on its way. */
static size_t before_call(const request *q, str text)
{
    const char *trigger = q->tools ? chat_tool_trigger(q->form) : NULL;
    size_t n = trigger ? strlen(trigger) : 0;
    for (size_t at = 0; n && at < text.n; at++) {
        size_t k = size_min(n, text.n - at);
        if (memcmp(text.p + at, trigger, k) == 0)
            return at;
    }
    return text.n;
}

static void open_choice(json_out *o, const request *q, const choice *c)
{
    put_head(o, q, true);
    json_open_array(o, "choices");
    json_open_object(o, NULL);
    json_put_u64(o, "index", c->index);
}

static void send_piece(request *q, choice *c, str text, size_t upto)
{
    buf b = buf_growing(ANSWER_MAX);
    json_out o = json_to(&b);
    uint32_t n, from = c->tokens_sent;
    const job_token *t = job_tokens(c->job, &n);
    size_t echoed = q->echo ? q->echoed[c->index / q->n].len : 0;
    str piece = {text.p + c->text_sent, upto - c->text_sent};
    open_choice(&o, q, c);
    if (q->kind == ASK_CHAT) {
        json_open_object(&o, "delta");
        if (!c->begun)
            json_put_str(&o, "role", STR("assistant"));
        json_put_str(&o, "content", piece);
        json_shut(&o, '}');
    } else {
        json_put_str(&o, "text", piece);
    }
    put_logprobs(&o, q, t + from, n - from, echoed);
    json_put_null(&o, "finish_reason");
    json_shut(&o, '}');
    json_shut(&o, ']');
    if (q->usage)
        json_put_null(&o, "usage");
    json_shut(&o, '}');
    send_event(q, &b);
    buf_free(&b);
    c->begun = true;
    c->text_sent = upto;
    c->tokens_sent = n;
}

static void send_echo(request *q, choice *c)
{
    const buf *e = &q->echoed[c->index / q->n];
    buf b = buf_growing(ANSWER_MAX);
    json_out o = json_to(&b);
    c->begun = true;
    open_choice(&o, q, c);
    json_put_str(&o, "text", (str){(char *)e->data, e->len});
    json_put_null(&o, "logprobs");
    json_put_null(&o, "finish_reason");
    json_shut(&o, '}');
    json_shut(&o, ']');
    json_shut(&o, '}');
    send_event(q, &b);
    buf_free(&b);
}

void answer_text(request *q, choice *c)
{
    str text = job_text(c->job);
    size_t upto = before_call(q, text);
    if (!q->stream)
        return;
    if (q->echo && !c->begun)
        send_echo(q, c);
    if (upto > c->text_sent)
        send_piece(q, c, text, upto);
}

static void send_end(request *q, choice *c)
{
    buf b = buf_growing(ANSWER_MAX);
    json_out o = json_to(&b);
    str text = job_text(c->job);
    size_t before;
    uint32_t calls = count_calls(q, text, &before);
    if (before > c->text_sent || (!c->begun && !calls))
        send_piece(q, c, text, before > c->text_sent ? before : c->text_sent);
    open_choice(&o, q, c);
    if (q->kind == ASK_CHAT) {
        json_open_object(&o, "delta");
        if (!c->begun)
            json_put_str(&o, "role", STR("assistant"));
        if (calls)
            put_calls(&o, q, c, text, true);
        json_shut(&o, '}');
    } else {
        json_put_str(&o, "text", STR(""));
    }
    json_put_null(&o, "logprobs");
    json_put_str(&o, "finish_reason", reason_of(c, calls > 0));
    json_shut(&o, '}');
    json_shut(&o, ']');
    if (q->usage)
        json_put_null(&o, "usage");
    json_shut(&o, '}');
    send_event(q, &b);
    buf_free(&b);
}

void answer_choice_end(request *q, choice *c)
{
    if (!q->stream)
        return;
    if (q->echo && !c->begun)
        send_echo(q, c);
    send_end(q, c);
}

static void end_stream(request *q)
{
    buf b = buf_growing(ANSWER_MAX);
    json_out o = json_to(&b);
    if (q->usage) {
        put_head(&o, q, true);
        json_open_array(&o, "choices");
        json_shut(&o, ']');
        put_usage(&o, q);
        json_shut(&o, '}');
        send_event(q, &b);
        b.len = 0;
    }
    buf_str(&b, STR("[DONE]"));
    send_event(q, &b);
    buf_free(&b);
    http_stream_end(q->http);
}

/* ---- whole answers -------------------------------------------------------------------------- */

static void put_message(json_out *o, const request *q, const choice *c, bool *called)
{
    str text = job_text(c->job);
    size_t before;
    uint32_t calls = count_calls(q, text, &before);
    *called = calls > 0;
    json_open_object(o, "message");
    json_put_str(o, "role", STR("assistant"));
    if (before || !calls)
        json_put_str(o, "content", (str){text.p, before});
    else
        json_put_null(o, "content");
    json_put_null(o, "refusal");
    if (calls)
        put_calls(o, q, c, text, false);
    json_shut(o, '}');
}

static void put_text(json_out *o, const request *q, const choice *c)
{
    str text = job_text(c->job);
    buf whole = buf_growing(ANSWER_MAX);
    const buf *e = &q->echoed[c->index / q->n];
    if (q->echo && buf_put(&whole, e->data, e->len) != OM_OK)
        o->status = OM_ENOMEM;
    if (buf_str(&whole, text) != OM_OK)
        o->status = OM_ENOMEM;
    json_put_str(o, "text", (str){(char *)whole.data, whole.len});
    buf_free(&whole);
}

static void put_choice(json_out *o, const request *q, const choice *c)
{
    uint32_t n;
    const job_token *t = job_tokens(c->job, &n);
    bool called = false;
    json_open_object(o, NULL);
    json_put_u64(o, "index", c->index);
    if (q->kind == ASK_CHAT)
        put_message(o, q, c, &called);
    else
        put_text(o, q, c);
    put_logprobs(o, q, t, n, q->echo ? q->echoed[c->index / q->n].len : 0);
    json_put_str(o, "finish_reason", reason_of(c, called));
    json_shut(o, '}');
}

static void put_base64(json_out *o, const char *key, const uint8_t *p, size_t n)
{
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    buf b = buf_growing(ANSWER_MAX);
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) |
                     (i + 2 < n ? p[i + 2] : 0);
        char four[4] = {digits[v >> 18], digits[v >> 12 & 63],
                        i + 1 < n ? digits[v >> 6 & 63] : '=', i + 2 < n ? digits[v & 63] : '='};
        if (buf_put(&b, four, 4) != OM_OK)
            o->status = OM_ENOMEM;
    }
    json_put_str(o, key, (str){(char *)b.data, b.len});
    buf_free(&b);
}

/* The mean, scaled to length 1. */
static void put_embedding(json_out *o, const request *q, const choice *c)
{
    uint32_t dim = engine_lane_model(q->s->c.engine, q->lane)->h.dim;
    const float *x = job_embedding(c->job);
    double sum = 0;
    uint8_t *bytes = mem_array(dim, 4);
    for (uint32_t i = 0; i < dim; i++)
        sum += (double)x[i] * (double)x[i];
    double scale = sum > 0 ? 1 / sqrt(sum) : 0;
    json_open_object(o, NULL);
    json_put_str(o, "object", STR("embedding"));
    json_put_u64(o, "index", c->index);
    if (!q->base64)
        json_open_array(o, "embedding");
    for (uint32_t i = 0; i < dim; i++) {
        float v = (float)((double)x[i] * scale);
        if (!q->base64)
            json_put_f64(o, NULL, (double)v);
        else if (bytes)
            memcpy(bytes + 4 * (size_t)i, &v, 4);
    }
    if (!q->base64)
        json_shut(o, ']');
    else
        put_base64(o, "embedding", bytes, bytes ? 4 * (size_t)dim : 0);
    json_shut(o, '}');
    mem_free(bytes);
}

static void put_all(json_out *o, const request *q)
{
    bool embed = q->kind == ASK_EMBEDDING;
    if (embed) {
        json_open_object(o, NULL);
        json_put_str(o, "object", STR("list"));
        json_put_str(o, "model", str_of(engine_lane_name(q->s->c.engine, q->lane)));
    } else {
        put_head(o, q, false);
    }
    json_open_array(o, embed ? "data" : "choices");
    for (uint32_t i = 0; i < q->prompts * q->n; i++) {
        if (embed)
            put_embedding(o, q, &q->choice[i]);
        else
            put_choice(o, q, &q->choice[i]);
    }
    json_shut(o, ']');
    put_usage(o, q);
    json_shut(o, '}');
}

void answer_all(request *q)
{
    if (q->stream) {
        end_stream(q);
        return;
    }
    buf b = buf_growing(ANSWER_MAX);
    json_out o = json_to(&b);
    put_all(&o, q);
    if (o.status == OM_OK)
        http_answer(q->http, 200, "application/json", (str){(char *)b.data, b.len});
    else
        answer_error(q->s, q->http, 500, "server_error", NULL, "no memory for the answer");
    buf_free(&b);
}
