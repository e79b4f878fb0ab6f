/* engine.h - many generations at once over models that are shared: continuous batching.
 *
 * A LANE is a model, or a model with an adapter (a second view of the same weights), with
 * the key-value pages of its sequences.  A JOB is one sequence: a prompt and what the
 * model says to it, or a text to embed.  One thread, the engine's, runs steps: every
 * sequence of a lane that has a token to go on from gives one row, prompts that are being
 * read share the rest of a step, and one forward computes them all.  A job joins when a
 * slot is free and leaves when it ends; nobody waits for a batch to fill or to drain.
 *
 * Ended sequences are kept while there is memory: a job whose prompt begins like one of
 * them, or like one that is running, starts from a fork of it (copy on write). */
#ifndef SERVE_ENGINE_H
#define SERVE_ENGINE_H

#include "llm/grammar.h"
#include "llm/model.h"

typedef struct engine engine;
typedef struct job job;

typedef struct {
    const kern *k;
    pool *pool;
    uint32_t slots;    /* sequences at once */
    uint32_t queue;    /* jobs that may wait */
    uint32_t context;  /* tokens of one sequence; 0: the model's, at most 8192 */
    uint32_t chunk;    /* prompt tokens per step */
    uint64_t kv_bytes; /* of one lane */
} engine_config;

om_status engine_open(const engine_config *c, engine **out, om_err *err);
/* Before engine_start.  `name` and `view` must outlive the engine. */
om_status engine_add_lane(engine *e, llm_model *view, const char *name, om_err *err);
om_status engine_start(engine *e, om_err *err);
/* No new jobs; ends those that run with JOB_SHUTDOWN after `patience_ms`. */
void engine_stop(engine *e, uint64_t patience_ms);
void engine_close(engine *e);

uint32_t engine_lanes(const engine *e);
const char *engine_lane_name(const engine *e, uint32_t lane);
const llm_model *engine_lane_model(const engine *e, uint32_t lane);
uint32_t engine_lane_context(const engine *e, uint32_t lane);
const vocab_tree *engine_lane_vocab(const engine *e, uint32_t lane);

/* ---- jobs ---------------------------------------------------------------------------- */

enum { JOB_STOPS = 16, JOB_TOP = 20, JOB_BIAS = 300 };

typedef enum {
    JOB_RUNNING,
    JOB_END,      /* an end-of-text token, a stop string or the end of the grammar */
    JOB_LENGTH,   /* max_tokens, or the context is full */
    JOB_CANCELLED,
    JOB_TIMEOUT,
    JOB_SHUTDOWN,
    JOB_FAILED    /* see job_error */
} job_reason;

typedef struct {
    int32_t id;
    float logprob;
} job_alternative;

typedef struct {
    job_alternative chosen, top[JOB_TOP]; /* natural logarithms */
    uint32_t n_top;
    uint32_t text_at, text_n;             /* its bytes in the job's text */
} job_token;

typedef struct {
    uint32_t lane;
    bool embed;             /* hidden states' mean instead of text */
    int32_t *ids;           /* (n) taken over by job_new */
    uint32_t n;
    uint32_t max_tokens;    /* 0: to the end of the context */
    llm_sampling how;
    float frequency_penalty, presence_penalty;
    struct {
        int32_t id;
        float add;
    } bias[JOB_BIAS];
    uint32_t n_bias;
    bool logprobs, ignore_end;
    uint32_t n_top;
    buf stop[JOB_STOPS];    /* taken over */
    uint32_t n_stop;
    grammar *grammar;       /* taken over; NULL: free text */
    const char *trigger;    /* the grammar holds from this text on; NULL: from the start */
    job *leader;            /* starts when this one's prompt, the same one, was read */
    uint64_t deadline_ns;   /* 0: none */
    void *ctx;
    /* From the engine's thread.  Text is whole characters up to job_ready; tokens of it up
     * to job_tokens_ready. */
    void (*on_text)(void *ctx, job *j);
    void (*on_done)(void *ctx, job *j); /* the engine lets go of the job */
    bool (*is_gone)(void *ctx, job *j); /* asked now and then; may be NULL */
} job_args;

/* Takes a over, also when it fails. */
om_status job_new(const job_args *a, job **out, om_err *err);
void job_free(job *j); /* before engine_submit or after on_done */
/* OM_EAGAIN: too many wait; OM_ELIMIT: longer than the lane's context or memory. */
om_status engine_submit(engine *e, job *j, om_err *err);
void job_cancel(job *j); /* from any thread */

/* In on_text and on_done: */
job_reason job_why(const job *j);
const char *job_error(const job *j);
str job_text(const job *j);                              /* all that may be shown */
const job_token *job_tokens(const job *j, uint32_t *n);  /* whose text may be shown */
uint32_t job_prompt_tokens(const job *j);
uint32_t job_reused_tokens(const job *j);
uint32_t job_new_tokens(const job *j);
const float *job_embedding(const job *j);                /* (dim) mean, not normalised */

/* ---- figures --------------------------------------------------------------------------- */

typedef struct {
    uint64_t jobs, cancelled, failed, refused;
    uint64_t prompt_tokens, computed_tokens, generated_tokens; /* computed: of the prompts */
    uint64_t prefix_queries, prefix_hits, prefix_tokens;
    uint64_t steps, rows; /* forwards, and rows in them */
    uint64_t running, waiting, cached, kv_bytes;
    double busy_seconds, first_token_seconds; /* sums */
    uint64_t first_tokens;
} engine_stats;
void engine_read_stats(engine *e, engine_stats *out);

#endif
