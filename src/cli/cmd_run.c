/* cmd_run.c - text from a model: one prompt, a pipe, or a conversation on a terminal.
 *
 * Text goes to standard output as it comes; figures go to standard error.  In a
 * conversation the whole history is rendered with the model's chat template every turn
 * and the session keeps what it has in common with the turn before, so only new text is
 * computed.  When the history no longer fits, its oldest turns are dropped. */
#include "cli/cli.h"

#include "octomil/run.h"
#include "octomil/train.h"

#include <stdio.h>
#include <unistd.h>

enum { PROMPT_MAX = 64 << 20, MESSAGES = 256 };

typedef struct {
    cli *c;
    om_model *m;
    om_session *s;
    om_adapter *adapter;
    om_generate_opts how;
    buf form;   /* the file of --json-schema or --grammar, NUL-terminated */
    const char *stops[17];
    buf answer; /* the text of the last generation */
} runner;

/* ---- options ------------------------------------------------------------------------- */

static om_status read_sampling(const cli *c, om_generate_opts *o, om_err *err)
{
    uint64_t k, max;
    double temp, top_p, min_p, penalty;
    TRY(cli_f64(c, "temp", 0, 100, &temp, err));
    TRY(cli_u64(c, "top-k", 0, UINT32_MAX - 1, &k, err));
    TRY(cli_f64(c, "top-p", 0, 1, &top_p, err));
    TRY(cli_f64(c, "min-p", 0, 1, &min_p, err));
    TRY(cli_f64(c, "repeat-penalty", 0.1, 10, &penalty, err));
    TRY(cli_u64(c, "max-tokens", 0, UINT32_MAX, &max, err));
    *o = (om_generate_opts){
        .max_tokens = (uint32_t)max, .greedy = temp <= 0, .temperature = (float)temp,
        .top_k = k ? (uint32_t)k : UINT32_MAX, .top_p = top_p > 0 ? (float)top_p : 1,
        .min_p = min_p > 0 ? (float)min_p : -1, .repeat_penalty = (float)penalty,
        .ignore_end = cli_flag(c, "ignore-end"),
    };
    if (cli_given(c, "seed"))
        return cli_u64(c, "seed", 0, UINT64_MAX, &o->seed, err);
    TRY(os_entropy(&o->seed, sizeof(o->seed), err));
    o->seed >>= 32; /* short enough to type again */
    return OM_OK;
}

static om_status read_form(runner *r, om_err *err)
{
    const char *schema = cli_str(r->c, "json-schema"), *text = cli_str(r->c, "grammar");
    size_t n = cli_count(r->c, "stop");
    if (schema && text)
        return fail(err, OM_EARG, "--json-schema and --grammar exclude each other");
    if (n >= countof(r->stops))
        return fail(err, OM_EARG, "at most %zu times --stop", countof(r->stops) - 1);
    for (size_t i = 0; i < n; i++)
        r->stops[i] = cli_nth(r->c, "stop", i);
    r->how.stops = r->stops;
    if (!schema && !text)
        return OM_OK;
    TRY(os_read_file(schema ? schema : text, 1 << 20, &r->form, err));
    if (buf_u8(&r->form, 0) != OM_OK)
        return fail(err, OM_ELIMIT, "the form of the answer is over 1 MB");
    r->how.json_schema = schema ? (const char *)r->form.data : NULL;
    r->how.grammar = text ? (const char *)r->form.data : NULL;
    return OM_OK;
}

static om_status read_speculation(const cli *c, om_speculate_opts *o, om_err *err)
{
    const char *how = cli_str(c, "speculate");
    str v = str_of(how ? how : "auto");
    if (str_starts(v, "draft=") && v.n > 6)
        *o = (om_speculate_opts){.kind = OM_SPECULATE_DRAFT, .draft = how + 6};
    else if (str_is(v, "off"))
        o->kind = OM_SPECULATE_OFF;
    else if (str_is(v, "lookup"))
        o->kind = OM_SPECULATE_LOOKUP;
    else if (!str_is(v, "auto"))
        return fail(err, OM_EARG, "--speculate is '%s'; auto, off, lookup or draft=FILE", how);
    return OM_OK;
}

static om_status open_all(runner *r, om_err *err)
{
    cli *c = r->c;
    uint64_t context;
    double bits;
    om_model_opts mo = {.tokenizer = cli_str(c, "tokenizer")};
    TRY(cli_u64(c, "context", 0, 1u << 24, &context, err));
    TRY(cli_f64(c, "cache-bits", 0, 32, &bits, err));
    TRY(read_sampling(c, &r->how, err));
    TRY(read_form(r, err));
    om_speculate_opts speculate = {0};
    uint64_t experts;
    TRY(cli_size(c, "expert-cache", &experts, err));
    TRY(read_speculation(c, &speculate, err));
    TRY(om_model_open(c->operand[0], &mo, &r->m, err));
    if (cli_given(c, "adapter"))
        TRY(om_adapter_open(r->m, cli_str(c, "adapter"), &r->adapter, err));
    om_session_opts so = {.context = (uint32_t)context, .cancel = c->cancel,
                          .threads = (uint32_t)pool_threads(c->pool),
                          .cache_f32 = cli_flag(c, "cache-f32"),
                          .cache_bits = (float)bits, .spill = cli_str(c, "spill"),
                          .expert_bytes = experts, .speculate = speculate};
    return om_session_open(r->m, &so, &r->s, err);
}

/* ---- prompts ------------------------------------------------------------------------- */

/* Everything on standard input, NUL-terminated. */
static om_status read_stdin(buf *text, om_err *err)
{
    char piece[65536];
    size_t n;
    *text = buf_growing(PROMPT_MAX);
    while ((n = fread(piece, 1, sizeof(piece), stdin)) > 0)
        if (buf_put(text, piece, n) != OM_OK)
            return fail(err, OM_ELIMIT, "the prompt on standard input is over %d MB",
                        PROMPT_MAX >> 20);
    if (ferror(stdin))
        return fail(err, OM_EIO, "cannot read standard input");
    return buf_u8(text, 0) == OM_OK ? OM_OK : fail(err, OM_ENOMEM, "no memory for a prompt");
}

/* The conversation as a prompt; mem_free it. */
static om_status render(const runner *r, const om_message *list, size_t n, char **out,
                        om_err *err)
{
    size_t need = 0;
    om_status s = om_chat_prompt(r->m, list, n, NULL, 0, &need, err);
    if (s != OM_ELIMIT)
        return s;
    *out = mem_alloc(need);
    if (!*out)
        return fail(err, OM_ENOMEM, "no memory for a prompt of %zu bytes", need);
    return om_chat_prompt(r->m, list, n, *out, need, &need, err);
}

/* ---- one generation ------------------------------------------------------------------ */

static bool show(void *ctx, const char *text, size_t n)
{
    runner *r = ctx;
    if (!r->c->json) {
        cli_write(r->c, (str){text, n});
        cli_flush(r->c);
    }
    return buf_put(&r->answer, text, n) == OM_OK;
}

static void note_speed(const runner *r, const om_generate_stats *st)
{
    uint32_t computed = st->prompt_tokens - st->reused_tokens;
    cli_note(r->c, "%u prompt tokens (%.0f/s), %u tokens (%.1f/s), seed %llu", computed,
             (double)computed / (st->prompt_seconds + 1e-9), st->generated_tokens,
             (double)st->generated_tokens / (st->generate_seconds + 1e-9),
             (unsigned long long)r->how.seed);
    if (st->accepted_tokens)
        cli_note(r->c, "%u of %u guessed tokens came true: %.2f times as fast",
                 st->accepted_tokens, st->drafted_tokens, st->speedup);
    if (st->experts)
        cli_note(r->c, "%llu experts computed, %.1f %% of them were in memory in time",
                 (unsigned long long)st->experts,
                 100 - 100.0 * (double)st->experts_awaited / (double)st->experts);
}

static om_status generate(runner *r, const char *prompt, om_generate_stats *st, om_err *err)
{
    r->answer.len = 0;
    return om_generate(r->s, prompt, &r->how, show, r, st, err);
}

static void answer_json(runner *r, const om_generate_stats *st)
{
    static const char *const why[] = {"end", "length", "context", "callback"};
    buf b = buf_growing(PROMPT_MAX);
    json_out o = json_to(&b);
    json_open_object(&o, NULL);
    json_put_str(&o, "text", (str){(const char *)r->answer.data, r->answer.len});
    json_put_str(&o, "stop", str_of(why[st->stop]));
    json_put_u64(&o, "seed", r->how.seed);
    json_put_u64(&o, "prompt_tokens", st->prompt_tokens);
    json_put_u64(&o, "generated_tokens", st->generated_tokens);
    json_put_f64(&o, "prompt_seconds", st->prompt_seconds);
    json_put_f64(&o, "generate_seconds", st->generate_seconds);
    json_put_f64(&o, "tokens_per_second",
                 (double)st->generated_tokens / (st->generate_seconds + 1e-9));
    json_put_u64(&o, "drafted_tokens", st->drafted_tokens);
    json_put_u64(&o, "accepted_tokens", st->accepted_tokens);
    json_put_f64(&o, "speculation_speedup", st->speedup);
    json_put_u64(&o, "experts", st->experts);
    json_put_u64(&o, "experts_awaited", st->experts_awaited);
    json_put_u64(&o, "peak_rss_bytes", os_peak_rss_bytes());
    json_shut(&o, '}');
    cli_write(r->c, (str){(const char *)b.data, b.len});
    cli_write(r->c, STR("\n"));
    buf_free(&b);
}

/* A prompt is a message to a model that has a chat template, else the start of a text. */
static om_status one_prompt(runner *r, const char *prompt, om_err *err)
{
    om_model_info info;
    om_generate_stats st;
    char *chat = NULL;
    const char *system = cli_str(r->c, "system");
    om_message list[2] = {{"system", system}, {"user", prompt}};
    om_model_describe(r->m, &info);
    if (system && !info.chat_template)
        return fail(err, OM_EARG, "--system needs a model with a chat template");
    bool as_chat = info.chat_template && !cli_flag(r->c, "raw");
    om_status s = OM_OK;
    if (as_chat)
        s = render(r, system ? list : list + 1, system ? 2 : 1, &chat, err);
    r->how.special = as_chat;
    if (s == OM_OK)
        s = generate(r, as_chat ? chat : prompt, &st, err);
    mem_free(chat);
    TRY(s);
    if (r->c->json) {
        answer_json(r, &st);
        return OM_OK;
    }
    cli_print(r->c, "\n");
    cli_flush(r->c);
    note_speed(r, &st);
    return OM_OK;
}

/* ---- conversation -------------------------------------------------------------------- */

typedef struct {
    om_message list[MESSAGES];
    size_t n;
    size_t kept; /* 1 when list[0] is the system's message, which is never dropped */
} history;

static void drop_message(history *h, size_t i)
{
    mem_free((char *)h->list[i].content);
    memmove(&h->list[i], &h->list[i + 1], (h->n - i - 1) * sizeof(*h->list));
    h->n--;
}

static om_status add_message(history *h, const char *role, str content, om_err *err)
{
    while (h->n + 1 >= MESSAGES)
        drop_message(h, h->kept);
    char *z = mem_strdup(content);
    if (!z)
        return fail(err, OM_ENOMEM, "no memory for the conversation");
    h->list[h->n++] = (om_message){role, z};
    return OM_OK;
}

/* Answer the last message; without a template the plain texts follow each other. */
static om_status answer(runner *r, history *h, om_generate_stats *st, om_err *err)
{
    for (;;) {
        char *prompt = NULL;
        TRY(render(r, h->list, h->n, &prompt, err));
        om_status s = generate(r, prompt, st, err);
        mem_free(prompt);
        if (s != OM_ELIMIT || h->n <= h->kept + 1)
            return s;
        drop_message(h, h->kept); /* too long: forget the oldest question and answer */
        if (h->n > h->kept + 1)
            drop_message(h, h->kept);
    }
}

static bool read_line(buf *line)
{
    char piece[4096];
    line->len = 0;
    while (fgets(piece, sizeof(piece), stdin)) {
        size_t n = strlen(piece);
        bool whole = n && piece[n - 1] == '\n';
        if (buf_put(line, piece, n - whole) != OM_OK)
            return false;
        if (whole)
            return true;
    }
    return line->len > 0;
}

/* One exchange; false in *more when the conversation is over. */
static om_status turn(runner *r, history *h, buf *line, bool chat, bool *more, om_err *err)
{
    om_generate_stats st = {0};
    fputs("> ", stderr);
    *more = read_line(line) && !r->c->cancel->requested;
    str said = {(const char *)line->data, line->len};
    if (!*more || str_is(said, "/exit"))
        return *more = false, OM_OK;
    if (str_is(said, "/clear"))
        while (h->n > h->kept)
            drop_message(h, h->n - 1);
    if (said.n == 0 || str_is(said, "/clear"))
        return OM_OK;
    TRY(add_message(h, "user", said, err));
    om_status s = chat ? answer(r, h, &st, err)
                       : generate(r, h->list[h->n - 1].content, &st, err);
    if (s == OM_ECANCEL)
        r->c->cancel->requested = 0; /* Ctrl-C ends the answer, not the conversation */
    else
        TRY(s);
    cli_print(r->c, "\n");
    cli_flush(r->c);
    if (!chat) {
        drop_message(h, h->n - 1);
        return OM_OK;
    }
    return add_message(h, "assistant", (str){(const char *)r->answer.data, r->answer.len},
                       err);
}

static om_status converse(runner *r, om_err *err)
{
    om_model_info info;
    history h = {.n = 0};
    buf line = buf_growing(PROMPT_MAX);
    const char *system = cli_str(r->c, "system");
    bool more = true;
    om_status s = OM_OK;
    om_model_describe(r->m, &info);
    bool chat = info.chat_template && !cli_flag(r->c, "raw");
    r->how.special = chat;
    if (chat && system)
        s = add_message(&h, "system", str_of(system), err);
    h.kept = h.n;
    cli_note(r->c, "%s  /clear forgets, /exit or Ctrl-D ends, Ctrl-C stops an answer",
             chat ? "A conversation." : "No chat template: every line is completed.");
    while (s == OM_OK && more)
        s = turn(r, &h, &line, chat, &more, err);
    while (h.n)
        drop_message(&h, h.n - 1);
    buf_free(&line);
    return s;
}

/* ---- the command --------------------------------------------------------------------- */

static om_status talk(runner *r, om_err *err)
{
    const char *prompt = r->c->n_operands > 1 ? r->c->operand[1] : NULL;
    if (prompt && strcmp(prompt, "-") != 0)
        return one_prompt(r, prompt, err);
    if (!prompt && isatty(0) && !r->c->json)
        return converse(r, err);
    buf text = {0};
    om_status s = read_stdin(&text, err);
    if (s == OM_OK)
        s = one_prompt(r, (const char *)text.data, err);
    buf_free(&text);
    return s;
}

static om_status run(cli *c, om_err *err)
{
    runner r = {.c = c, .answer = buf_growing(PROMPT_MAX)};
    om_status s = open_all(&r, err);
    if (s == OM_OK)
        s = talk(&r, err);
    om_session_close(r.s);
    om_adapter_close(r.adapter);
    om_model_close(r.m);
    buf_free(&r.answer);
    buf_free(&r.form);
    return s;
}

static const cli_option options[] = {
    {"max-tokens", 'n', "N", "0", "stop after N tokens; 0: when the model ends", false},
    {"temp", 0, "T", "0.8", "temperature; 0: always the most likely token", false},
    {"top-k", 0, "N", "40", "only the N most likely tokens; 0: off", false},
    {"top-p", 0, "P", "0.95", "only the likeliest tokens that make up P; 1: off", false},
    {"min-p", 0, "P", "0.05", "only tokens P times as likely as the likeliest; 0: off", false},
    {"repeat-penalty", 0, "R", "1", "over 1 makes recent tokens less likely", false},
    {"seed", 's', "N", NULL, "the same seed gives the same text (default: a random one)",
     false},
    {"system", 0, "TEXT", NULL, "the system's message, for models with a chat template", false},
    {"raw", 0, NULL, NULL, "complete the prompt as it is, without the chat template", false},
    {"stop", 0, "TEXT", NULL, "end the answer before this text", true},
    {"json-schema", 0, "FILE", NULL, "the answer is JSON of this schema", false},
    {"grammar", 0, "FILE", NULL, "the answer is a text of this grammar (docs/server.md)", false},
    {"ignore-end", 0, NULL, NULL, "go on after the end of the text", false},
    {"context", 'c', "N", "0", "tokens to hold; 0: the model's, at most 4096", false},
    {"cache-f32", 0, NULL, NULL, "keep the cache in 32-bit floats", false},
    {"cache-bits", 0, "BITS", "0",
     "most bits per number of the older cache; 16: plain; 0: plain when that fits", false},
    {"spill", 0, "FOLDER", NULL, "where the cache goes that memory has no room for", false},
    {"expert-cache", 0, "SIZE", NULL,
     "memory for a mixture's experts, the others being read when wanted; default: all, or "
     "what is free", false},
    {"speculate", 0, "KIND", "auto",
     "guess tokens ahead, for the same text sooner: auto, off, lookup or draft=FILE", false},
    {"adapter", 'a', "PATH", NULL, "a LoRA adapter to use: PEFT folder or GGUF file", false},
    {"tokenizer", 0, "FILE", NULL, "tokenizer of a model that has none", false},
    {0},
};

const command command_run = {
    .name = "run", .summary = "text from a model: a prompt, a pipe, a conversation",
    .operands = "MODEL [PROMPT]", .min_operands = 1, .max_operands = 2, .options = options,
    .run = run,
    .details =
        "MODEL is a .gguf file, a Hugging Face folder or a llama2.c checkpoint.  A model\n"
        "with a chat template answers PROMPT as a message; any other continues it as a\n"
        "text.  Without PROMPT (or with -) the prompt is read from standard input; on a\n"
        "terminal that is a conversation.\n\n"
        "  octomil run model.gguf \"Once upon a time\" --max-tokens 100\n"
        "  octomil run model.gguf --temp 0 --json < prompt.txt\n"
        "  octomil run model.gguf \"Describe a city\" --json-schema city.json\n",
};
