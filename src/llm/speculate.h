/* speculate.h - several tokens out of one forward.
 *
 * Reading the weights is most of the cost of a token, and a forward of a few rows reads them
 * once.  So tokens are guessed, and one forward computes what follows each of them; as far
 * as the guesses are what the sampler then draws, their logits are there already.
 *
 * EXACT.  spec_next gives the logits llm_eval would have given, bit for bit (model.h says
 * when rows have the same bits alone and together), in the same order, and the sampler
 * draws from them with the random numbers it would have used.  A guess is kept when it is
 * the token that was drawn.  So the text is that of plain decoding, token by token, greedy
 * or sampled, with penalties, forms and stops.  The rejection rule of Leviathan et al.
 * (2023) and Chen et al. (2023) keeps the distribution alone, not the text of a seed; for a
 * guess without a distribution of its own (lookup) both keep it with the same probability
 * p(guess), and a draft model guesses with the sampler's own next random number, so that two
 * distributions that are alike mostly draw alike.
 *
 * A kind of guessing is one file ending in one const row, spec_kinds in speculate.c. */
#ifndef LLM_SPECULATE_H
#define LLM_SPECULATE_H

#include "llm/model.h"

/* ---- the controller (spec_control.c) ------------------------------------------------- */

enum {
    SPEC_MOST = 15,    /* guesses of a forward: 16 rows keep their bits in every product */
    SPEC_LENGTHS = 5,  /* 0, 1, 3, 7, 15: kernels take rows by twos and fours, and plans of
                          forwards are few */
    SPEC_CLASSES = 8   /* kinds of guess told apart by how often they are right */
};

/* What a forward costs and how often guesses are right, learned while it runs.  Costs are
 * in any unit of time.  `credit` bounds what wrong guesses may cost: it grows by a small
 * share of every token's cost and by what right guesses saved. */
typedef struct {
    double cost[SPEC_LENGTHS];     /* of a forward with so many guesses; 0: not known */
    uint32_t seen[SPEC_LENGTHS];
    double guess_cost;             /* of one guess */
    double right[SPEC_CLASSES], tried[SPEC_CLASSES]; /* decaying counts of guesses */
    uint32_t since;                /* forwards with guesses since one without */
    double credit;                 /* in costs of a plain token */
    double tokens, spent;          /* had so far, and what they cost in plain tokens */
} spec_control;

void spec_control_init(spec_control *c);
uint32_t spec_length(uint32_t i); /* 0 1 3 7 15 */
/* How many tokens to guess by a guess of class k, at most `most`; *gain is the speed-up to
 * be expected, 1 when the answer is 0. */
uint32_t spec_choose(const spec_control *c, uint32_t k, uint32_t most, double *gain);
/* A forward with n guesses of class k, n one of the lengths, took `cost` and the guesses
 * `guessing`. */
void spec_paid(spec_control *c, uint32_t n, double cost, double guessing);
/* Of its n > 0 guesses of class k the first `right` were drawn. */
void spec_came_true(spec_control *c, uint32_t k, uint32_t n, uint32_t right);

/* ---- kinds of guessing ------------------------------------------------------------------ */

typedef struct {
    const llm_session *s;       /* whose tokens are guessed */
    llm_model *draft;           /* of another model with the same vocabulary, or NULL */
    const llm_session_args *args; /* to open a session of it */
} spec_source;

/* The tokens so far, the last one not yet computed, and how the next ones are drawn. */
typedef struct {
    const int32_t *ids;
    uint32_t n;
    const llm_sampling *how;
    rng r;                      /* a copy: what the sampler will draw with */
} spec_text;

typedef struct {
    const char *name, *summary;
    uint32_t first_class, classes; /* in spec_control */
    om_status (*open)(const spec_source *from, void **self, om_err *err);
    void (*close)(void *self);
    void (*begin)(void *self);  /* another text follows */
    /* The class of the guess it could make now, below `classes`; -1: none. */
    int (*look)(void *self, const spec_text *t);
    /* `want` guesses, or *n fewer, after look gave a class. */
    om_status (*guess)(void *self, const spec_text *t, uint32_t want, int32_t *out,
                       uint32_t *n, om_err *err);
} spec_kind;
extern const spec_kind spec_lookup, spec_draft;
/* True when token i means the same to both, for every i. */
bool spec_same_vocabulary(const llm_model *a, const llm_model *b);
extern const spec_kind *const spec_kinds[]; /* ends with NULL */

/* ---- over a session ----------------------------------------------------------------------- */

typedef struct speculator speculator;

typedef struct {
    const char *only;       /* a kind's name; NULL: all that can be had */
    uint32_t most;          /* guesses of a forward, 0: SPEC_MOST */
    bool always;            /* guess as much as can be, whatever it costs */
    llm_model *draft;       /* as spec_source */
    const llm_session_args *args;
} spec_args;

/* For session s, which must outlive it. */
om_status spec_open(llm_session *s, const spec_args *a, speculator **out, om_err *err);
void spec_close(speculator *p); /* NULL is allowed */
/* Another text: what the session's timeline is now is taken as it is. */
void spec_begin(speculator *p);
/* Append the last token of t to the session, whose timeline holds those before it (and
 * guesses, which only spec_next knows of): logits (vocab) as of llm_eval, valid until the
 * next call.  At most `most` tokens are guessed beside it.  When it fails, the timeline is
 * the tokens before. */
om_status spec_next(speculator *p, const spec_text *t, uint32_t most, const float **logits,
                    om_err *err);

typedef struct {
    uint64_t drafted, accepted; /* since spec_begin */
    double speedup;             /* against plain decoding, by the costs seen; 1: none */
} spec_stats;
spec_stats spec_now(const speculator *p);

#endif
