/* octomil/run.h - text out of a model.
 *
 *     static bool show(void *ctx, const char *text, size_t n)
 *     {
 *         (void)ctx;
 *         fwrite(text, 1, n, stdout);
 *         return true;
 *     }
 *
 *     om_err err;
 *     om_model *m;
 *     om_session *s;
 *     if (om_model_open("model.gguf", NULL, &m, &err) == OM_OK &&
 *         om_session_open(m, NULL, &s, &err) == OM_OK)
 *         om_generate(s, "Once upon a time", NULL, show, NULL, NULL, &err);
 *
 * A session is one timeline of tokens with its cache, threads of its own, and no global
 * state: use each from one thread at a time, as many as memory allows.  Only om_cancel_now
 * may be called from another thread. */
#ifndef OCTOMIL_RUN_H
#define OCTOMIL_RUN_H

#include "octomil/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct om_session om_session;

/* Guessing tokens ahead, so that one pass over the weights computes several.  The text is
 * the same, token by token, whatever is chosen here; only the time differs. */
typedef enum {
    OM_SPECULATE_AUTO,        /* every kind there is, each while it pays */
    OM_SPECULATE_OFF,
    OM_SPECULATE_LOOKUP,      /* only what stood in the text before */
    OM_SPECULATE_DRAFT        /* only the draft model */
} om_speculate;

typedef struct {
    om_speculate kind;
    const char *draft;        /* a smaller model with the same vocabulary; NULL: none */
    uint32_t most;            /* tokens guessed at once; 0, and at most: 15 */
} om_speculate_opts;

typedef struct {
    uint32_t context;         /* tokens the session can hold; 0: the model's, at most 4096 */
    uint32_t threads;         /* 0: every CPU this process may use */
    uint32_t batch;           /* prompt tokens computed at once; 0: 256 */
    bool cache_f32;           /* cache in 32-bit floats; else 16-bit, half the memory */
    /* Most bits per number of what is older than 128 tokens: 4.5 and 3.5 are good; 16: plain.
     * 0: plain when that fits, else fewer. */
    float cache_bits;
    uint64_t cache_bytes;     /* most bytes of cache in memory; 0: what is free, with a reserve */
    const char *spill;        /* folder for what is over cache_bytes; NULL: none, OM_ELIMIT */
    uint64_t expert_bytes;    /* memory for a mixture's experts, read from the file when they are
                                 wanted; 0: all stay mapped if they fit, else what is free */
    const om_cancel *cancel;  /* checked between operations; may be NULL */
    om_speculate_opts speculate;
} om_session_opts;

OM_API om_status om_session_open(om_model *m, const om_session_opts *opts, om_session **out,
                                 om_err *err);
OM_API void om_session_close(om_session *s); /* NULL is allowed */

typedef enum { OM_STOP_END, OM_STOP_LENGTH, OM_STOP_CONTEXT, OM_STOP_CALLBACK } om_stop;

typedef struct {
    uint32_t max_tokens;      /* 0: until the model ends or the context is full */
    bool greedy;              /* always the most likely token; ignores what follows */
    float temperature;        /* 0: 0.8 */
    uint32_t top_k;           /* 0: 40; UINT32_MAX: off */
    float top_p;              /* 0: 0.95; 1: off */
    float min_p;              /* 0: 0.05; below 0: off */
    float repeat_penalty;     /* 0: 1, which is off; over the last 64 tokens */
    uint64_t seed;            /* the same seed gives the same text */
    bool special;             /* special tokens spelled out in the prompt are parsed */
    bool ignore_end;          /* go on after an end-of-text token */
    const char *const *stops; /* texts that end the answer and are not part of it; the last is
                                 NULL.  NULL: none */
    /* The answer's form, at most one of them.  An answer that ends by itself has it. */
    bool json;                /* a JSON object */
    const char *json_schema;  /* a value of this JSON schema */
    const char *grammar;      /* rules "name ::= ...", the text is "root" */
} om_generate_opts;

typedef struct {
    uint32_t prompt_tokens;   /* of the whole prompt                          */
    uint32_t reused_tokens;   /* of those, already computed by an earlier call */
    uint32_t generated_tokens;
    double prompt_seconds, generate_seconds;
    om_stop stop;
    /* Speculation: tokens guessed, those of them that came true, and how many times as fast
     * as without it the answer came, by what the passes cost (1: no guesses). */
    uint32_t drafted_tokens, accepted_tokens;
    double speedup;
    /* A mixture with a cache of experts: computed since the session was opened, and of those
     * waited for. */
    uint64_t experts, experts_awaited;
} om_generate_stats;

/* Whole UTF-8 characters as they come; return false to stop. */
typedef bool om_text_fn(void *ctx, const char *text, size_t n);

/* `prompt` is the whole text so far: what it shares with the session's timeline is not
 * computed again, so a conversation is continued by giving it all.  stats may be NULL.
 * OM_ELIMIT when the prompt does not fit the context. */
OM_API om_status om_generate(om_session *s, const char *prompt, const om_generate_opts *opts,
                             om_text_fn *text, void *ctx, om_generate_stats *stats,
                             om_err *err);

/* The same piece by piece, for callers with a loop of their own:
 *
 *     om_start(s, "Once upon a time", NULL, &err);
 *     while (om_next(s, &text, &n, &err) == OM_OK && n > 0)
 *         fwrite(text, 1, n, stdout);
 *
 * om_start reads the prompt; it copies what it needs of opts.  om_next gives whole
 * characters, valid until the next call; *n is 0 when the answer has ended.  Leaving early
 * needs no call: the session goes on from what was said. */
OM_API om_status om_start(om_session *s, const char *prompt, const om_generate_opts *opts,
                          om_err *err);
OM_API om_status om_next(om_session *s, const char **text, size_t *n, om_err *err);
/* Of the last om_start or om_generate, so far. */
OM_API void om_statistics(const om_session *s, om_generate_stats *out);
/* From any thread or a signal handler: the call that runs, or else the next one, returns
 * OM_ECANCEL at its next safe point; the session goes on from where it was. */
OM_API void om_cancel_now(om_session *s);

/* What a text is about as a vector of om_model_info.dim numbers and length 1: the mean of
 * the last hidden states.  The session's timeline stays as it is. */
OM_API om_status om_embed(om_session *s, const char *text, float *out, om_err *err);

/* One turn of a conversation; role is "system", "user" or "assistant". */
typedef struct {
    const char *role, *content;
} om_message;

/* The conversation as this model's prompt, ready for om_generate with special = true; NUL-
 * terminated in out.  OM_ELIMIT with *need > cap says how much room to bring;
 * OM_EUNSUPPORTED when the model has no chat template that is known. */
OM_API om_status om_chat_prompt(const om_model *m, const om_message *messages, size_t n,
                                char *out, size_t cap, size_t *need, om_err *err);

typedef struct {
    uint32_t window;          /* tokens seen at once; 0: the model's context, at most 512 */
    uint32_t stride;          /* new tokens per window; 0: half a window */
    uint32_t threads;         /* 0: every CPU this process may use */
    const om_cancel *cancel;
    om_progress_fn *progress;
    void *progress_ctx;
} om_perplexity_opts;

typedef struct {
    double perplexity, low, high; /* 95 % confidence interval */
    double nll;                   /* mean negative log-likelihood, nats per token */
    uint64_t tokens;              /* scored */
    double seconds;
} om_perplexity_result;

OM_API om_status om_perplexity(om_model *m, const char *text, size_t text_bytes,
                               const om_perplexity_opts *opts, om_perplexity_result *out,
                               om_err *err);

#ifdef __cplusplus
}
#endif
#endif
