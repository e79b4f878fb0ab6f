/* job.c - one sequence: from logits to a token, from tokens to text that may be shown.
 *
 * Log-probabilities are those of the
 * model: before penalties, filters and grammar. */
#include "serve/job.h"

#include <math.h>

enum { TEXT_MAX = 1 << 26 };

/* ---- life -------------------------------------------------------------------------------- */

static void free_args(job_args *a)
{
    mem_free(a->ids);
    for (uint32_t i = 0; i < a->n_stop; i++)
        buf_free(&a->stop[i]);
    grammar_close(a->grammar);
}

om_status job_new(const job_args *a, job **out, om_err *err)
{
    job *j = mem_alloc(sizeof(*j));
    *out = j;
    if (!j) {
        job_args gone = *a;
        free_args(&gone);
        return fail(err, OM_ENOMEM, "serve: no memory for a request");
    }
    j->a = *a;
    j->out.text = buf_growing(TEXT_MAX);
    for (uint32_t i = 0; i < a->n_stop; i++)
        j->stop[i] = (str){(const char *)a->stop[i].data, a->stop[i].len};
    j->out.stop = j->stop;
    j->out.n_stop = a->n_stop;
    return OM_OK;
}

void job_free(job *j)
{
    if (!j)
        return;
    job_close(j);
    free_args(&j->a);
    buf_free(&j->out.text);
    mem_free(j->token);
    mem_free(j->said);
    mem_free(j->sum);
    mem_free(j);
}

om_status job_open(job *j, const llm_model *m, const vocab_tree *v, om_err *err)
{
    j->m = m;
    if (j->a.embed) {
        j->sum = mem_array(m->h.dim, sizeof(float));
        return j->sum ? OM_OK : fail(err, OM_ENOMEM, "serve: no memory for an embedding");
    }
    j->scratch_n = llm_sample_bytes(m->h.vocab);
    j->logits = mem_array(m->h.vocab, sizeof(float));
    j->scratch = mem_alloc(j->scratch_n);
    bool penalties = fabsf(j->a.frequency_penalty) + fabsf(j->a.presence_penalty) > 0;
    if (penalties)
        j->count = mem_array(m->h.vocab, sizeof(*j->count));
    if (!j->logits || !j->scratch || (penalties && !j->count))
        return fail(err, OM_ENOMEM, "serve: no memory for sampling");
    j->r = rng_for(j->a.how.seed, 0, 0, 0x5a);
    j->match_on = j->a.grammar && !j->a.trigger;
    return j->a.grammar ? gmatch_open(j->a.grammar, v, &j->match, err) : OM_OK;
}

void job_close(job *j)
{
    gmatch_close(j->match);
    mem_free(j->logits);
    mem_free(j->scratch);
    mem_free(j->count);
    j->count = NULL;
    j->match = NULL;
    j->logits = NULL;
    j->scratch = NULL;
}

void job_cancel(job *j) { atomic_store(&j->cancelled, 1); }
job_reason job_why(const job *j) { return j->why; }
const char *job_error(const job *j) { return j->err.msg; }
str job_text(const job *j) { return (str){(const char *)j->out.text.data, j->out.ready}; }
uint32_t job_prompt_tokens(const job *j) { return j->a.n; }
uint32_t job_reused_tokens(const job *j) { return j->reused; }
uint32_t job_new_tokens(const job *j) { return j->n_new; }
const float *job_embedding(const job *j) { return j->sum; }

const job_token *job_tokens(const job *j, uint32_t *n)
{
    for (*n = 0; j->a.logprobs && *n < j->n_new; ++*n)
        if (j->token[*n].text_at + j->token[*n].text_n > j->out.ready)
            break;
    return j->token;
}

/* ---- sampling ---------------------------------------------------------------------------- */

static double log_sum(const float *logits, uint32_t vocab)
{
    double max = -(double)INFINITY, sum = 0;
    for (uint32_t i = 0; i < vocab; i++)
        max = (double)logits[i] > max ? (double)logits[i] : max;
    for (uint32_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - max);
    return max + log(sum);
}

/* The n_top largest, falling; ties to the lower id. */
static void find_top(const job *j, const float *logits, double norm, job_token *out)
{
    for (uint32_t i = 0; j->a.n_top && i < j->m->h.vocab; i++) {
        uint32_t at = out->n_top;
        if (at == j->a.n_top && !(logits[i] > out->top[at - 1].logprob))
            continue;
        out->n_top += at < j->a.n_top;
        at -= at == j->a.n_top;
        for (; at > 0 && logits[i] > out->top[at - 1].logprob; at--)
            out->top[at] = out->top[at - 1];
        out->top[at] = (job_alternative){(int32_t)i, logits[i]};
    }
    for (uint32_t i = 0; i < out->n_top; i++)
        out->top[i].logprob = (float)((double)out->top[i].logprob - norm);
}

/* OpenAI's: a constant for having been said, and one more for every time. */
static void penalise(job *j)
{
    for (uint32_t i = 0; i < j->m->h.vocab; i++)
        if (j->count[i])
            j->logits[i] -= j->a.presence_penalty +
                            j->a.frequency_penalty * (float)j->count[i];
}

static bool apply_grammar(job *j)
{
    const uint64_t *mask;
    uint32_t n;
    if (gmatch_mask(j->match, &mask, &n, &j->err) != OM_OK) {
        j->why = JOB_FAILED;
        return false;
    }
    if (n == 0) {
        j->why = gmatch_can_end(j->match) ? JOB_END : JOB_FAILED;
        if (j->why == JOB_FAILED)
            fail(&j->err, OM_EUNSUPPORTED, "the vocabulary has no token that the grammar allows "
                                           "here");
        return false;
    }
    gmatch_apply(mask, j->logits, j->m->h.vocab);
    return true;
}

static uint32_t recent_tokens(const job *j, int32_t out[64])
{
    uint32_t n = 0, from_prompt = (uint32_t)size_min(j->a.n, 64);
    for (uint32_t i = j->a.n - from_prompt; i < j->a.n; i++)
        out[n++] = j->a.ids[i];
    for (uint32_t i = j->n_new > 64 ? j->n_new - 64 : 0; i < j->n_new; i++) {
        if (n == 64)
            memmove(out, out + 1, 63 * sizeof(*out));
        n -= n == 64;
        out[n++] = j->said[i];
    }
    return n;
}

static bool room_for_token(job *j)
{
    if (j->n_new < j->cap_said)
        return true;
    uint32_t cap = j->cap_said ? 2 * j->cap_said : 64;
    int32_t *said = mem_grow(j->said, j->cap_said * sizeof(*said), cap * sizeof(*said));
    j->said = said ? said : j->said;
    if (said && j->a.logprobs) {
        job_token *t = mem_grow(j->token, j->cap_said * sizeof(*t), cap * sizeof(*t));
        j->token = t ? t : j->token;
        said = t ? said : NULL;
    }
    if (said)
        j->cap_said = cap;
    return said != NULL;
}

void job_sample(job *j, const float *logits)
{
    uint32_t vocab = j->m->h.vocab;
    int32_t recent[64];
    if (!room_for_token(j)) {
        j->why = JOB_FAILED;
        fail(&j->err, OM_ENOMEM, "serve: no memory for the answer");
        return;
    }
    memcpy(j->logits, logits, vocab * sizeof(float));
    for (uint32_t i = 0; i < j->a.n_bias; i++)
        if (j->a.bias[i].id >= 0 && (uint32_t)j->a.bias[i].id < vocab)
            j->logits[j->a.bias[i].id] += j->a.bias[i].add;
    if (j->count)
        penalise(j);
    if (j->match_on && !apply_grammar(j))
        return;
    j->last = llm_sample(&j->a.how, j->logits, vocab, recent, recent_tokens(j, recent), &j->r,
                         arena_of(j->scratch, j->scratch_n));
    if (!j->a.logprobs)
        return;
    job_token *t = &j->token[j->n_new];
    double norm = log_sum(logits, vocab);
    *t = (job_token){.chosen = {j->last, (float)((double)logits[j->last] - norm)}};
    find_top(j, logits, norm, t);
}

/* ---- text ------------------------------------------------------------------------------- */

/* The text has come to the words from which on the grammar holds. */
static void watch_trigger(job *j)
{
    size_t n = strlen(j->a.trigger), at = j->out.text.len;
    om_err err;
    if (j->out.text.len < n)
        return;
    size_t least = j->out.text.len - n > 64 ? j->out.text.len - n - 64 : 0;
    for (at = j->out.text.len - n + 1; at-- > least;)
        if (memcmp(j->out.text.data + at, j->a.trigger, n) == 0) {
            str so_far = {(const char *)j->out.text.data + at, j->out.text.len - at};
            j->match_on = gmatch_restart(j->match, &err) == OM_OK &&
                          gmatch_bytes(j->match, so_far, &err) == OM_OK;
            return;
        }
}

static om_status add_piece(job *j, str piece)
{
    if (j->a.logprobs) {
        j->token[j->n_new - 1].text_at = (uint32_t)j->out.text.len;
        j->token[j->n_new - 1].text_n = (uint32_t)piece.n;
    }
    if (outlet_put(&j->out, piece) != OM_OK)
        return fail(&j->err, OM_ENOMEM, "serve: no memory for the answer");
    if (j->out.stopped)
        j->why = JOB_END;
    return OM_OK;
}

void job_take(job *j, uint32_t context)
{
    const tokenizer *t = j->m->tok;
    if (j->why != JOB_RUNNING)
        return;
    if (j->match_on && gmatch_token(j->match, j->last, &j->err) != OM_OK) {
        j->why = JOB_FAILED;
        return;
    }
    if (tokenizer_is_end(t, j->last) && !j->a.ignore_end) {
        outlet_end(&j->out);
        j->why = JOB_END;
        return;
    }
    j->said[j->n_new++] = j->last;
    if (j->count)
        j->count[j->last]++;
    if (add_piece(j, tokenizer_piece(t, j->last, false)) != OM_OK) {
        j->why = JOB_FAILED;
        return;
    }
    if (j->a.trigger && !j->match_on && j->why == JOB_RUNNING)
        watch_trigger(j);
    bool full = j->a.n + j->n_new >= context;
    if (j->why == JOB_RUNNING && (full || (j->a.max_tokens && j->n_new >= j->a.max_tokens))) {
        outlet_end(&j->out);
        j->why = JOB_LENGTH;
    }
}
