/* job.h - private to the engine: one sequence. */
#ifndef SERVE_JOB_H
#define SERVE_JOB_H

#include "llm/outlet.h"
#include "serve/engine.h"

typedef enum { JOB_WAITS, JOB_READS, JOB_WRITES } job_state;

struct job {
    job_args a;
    job_state state;
    job_reason why;
    om_err err;
    _Atomic int cancelled;
    job *next;              /* in the list it waits in */
    llm_session *s;
    uint32_t read, reused;  /* prompt tokens in the session; of those, from another one */
    bool prompt_read;
    uint64_t submitted_ns;
    uint64_t reserved;      /* bytes of pages it may come to need */
    /* what was said */
    uint32_t n_new;
    int32_t last, *said;    /* (cap_said) all new tokens */
    uint32_t cap_said;
    outlet out;
    str stop[JOB_STOPS];
    size_t shown;           /* bytes, at the last on_text */
    job_token *token;       /* (n_new) when logprobs */
    uint32_t cap_token;
    /* of the lane's vocabulary */
    const llm_model *m;
    float *logits;          /* (vocab) scratch */
    uint32_t *count;        /* (vocab) times said; NULL without penalties */
    void *scratch;
    size_t scratch_n;
    rng r;
    gmatch *match;
    bool match_on;
    float *sum;             /* (dim) embeddings */
};

/* What sampling needs, on entering a lane. */
om_status job_open(job *j, const llm_model *m, const vocab_tree *v, om_err *err);
void job_close(job *j);
/* The next token from the last row's logits: sampling (any thread), then what it means for
 * the text; j->why says whether the job is over. */
void job_sample(job *j, const float *logits);
void job_take(job *j, uint32_t context);

#endif
