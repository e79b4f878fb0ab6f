/* gram_impl.h - private to the grammar files: how a network is put together.
 *
 * Every builder function goes from one state to another; the first failure (memory, a
 * size limit) sticks in g->status and later calls do nothing, so callers check once, in
 * gram_finish. */
#ifndef LLM_GRAM_IMPL_H
#define LLM_GRAM_IMPL_H

#include "llm/grammar.h"

enum {
    GRAM_STATES = 1 << 20, /* and as many edges each way: a few tens of MB at most */
    GRAM_EDGES = 1 << 21,
    GRAM_RULES = 1 << 16,
    GRAM_DEPTH = 60,       /* calls inside each other: JSON within what parsers take */
    GRAM_FAR = UINT16_MAX, /* `need` of a state from which no end can be reached */
    GRAM_REPEAT = 1 << 16  /* the largest count of a bounded repetition */
};

typedef enum { GRAM_BYTES, GRAM_EPS, GRAM_CALL } gram_kind;
typedef struct {
    uint8_t kind, lo, hi; /* bytes lo..hi */
    uint32_t rule;        /* called */
    uint32_t to;
    uint32_t next;        /* the state's next edge + 1, 0: none */
} gram_edge;

enum { GRAM_ACCEPT = 1, GRAM_TAIL = 2 /* nothing but the rule's end lies ahead */ };
typedef struct {
    uint32_t edge;  /* the first + 1 */
    uint16_t need;  /* calls inside each other that the way to the rule's end takes */
    uint8_t flags;
} gram_state;

struct grammar {
    gram_state *state;
    gram_edge *edge;
    uint32_t *rule;  /* start states */
    size_t n_state, cap_state, n_edge, cap_edge, n_rule, cap_rule;
    uint32_t root;
    om_status status;
    const char *what; /* the limit that was met */
};

grammar *gram_new(om_err *err);
uint32_t gram_add_state(grammar *g);
uint32_t gram_add_rule(grammar *g);               /* with a start state of its own */
uint32_t gram_rule_at(grammar *g, uint32_t start); /* with a state that is there */
void gram_accept(grammar *g, uint32_t state);
void gram_eps(grammar *g, uint32_t from, uint32_t to);
void gram_bytes(grammar *g, uint32_t from, uint8_t lo, uint8_t hi, uint32_t to);
void gram_call(grammar *g, uint32_t from, uint32_t rule, uint32_t to);
/* These make the state they end in. */
uint32_t gram_literal(grammar *g, uint32_t from, str bytes);
uint32_t gram_call_to(grammar *g, uint32_t from, uint32_t rule);
/* min to max times (UINT32_MAX: for ever) what leads from a to e, which nobody else uses. */
uint32_t gram_repeat(grammar *g, uint32_t from, uint32_t a, uint32_t e, uint32_t min,
                     uint32_t max);
/* The strings of n letters between lo and hi, inclusive, letters after the first being
 * least..most. */
void gram_between(grammar *g, uint32_t from, const uint8_t *lo, const uint8_t *hi, size_t n,
                  uint8_t least, uint8_t most, uint32_t to);

/* A set of characters: code points lo..hi, in any order. */
enum { GRAM_CLASS = 256 };
typedef struct {
    struct {
        uint32_t lo, hi;
    } range[GRAM_CLASS];
    uint32_t n;
    bool full; /* more ranges than fit */
} gram_class;
void gram_class_add(gram_class *c, uint32_t lo, uint32_t hi);
void gram_class_invert(gram_class *c); /* surrogates stay out */
/* One character of the set, as UTF-8; quoted: as it stands in a JSON string. */
void gram_char(grammar *g, uint32_t from, const gram_class *c, bool quoted, uint32_t to);

/* A regular expression's matches as the inside of a JSON string (gram_regex.c). */
om_status gram_regex(grammar *g, uint32_t from, str pattern, uint32_t *to, om_err *err);

/* ---- JSON values (gram_json.c) ------------------------------------------------------------ */

/* Rules that every JSON grammar shares. */
typedef struct {
    uint32_t space;              /* "", " ", or a newline and a little indentation */
    uint32_t character, string;  /* of a string; a whole string with its quotes    */
    uint32_t number, integer;
    uint32_t value, object, array;
} gram_json;
void gram_json_rules(grammar *g, gram_json *j);

typedef struct {
    bool has_min, has_max, open_min, open_max; /* open: the bound itself is out */
    bool whole;                                /* integers alone */
    int64_t min, max;                          /* within +-GRAM_NUMBER */
} gram_interval;
#define GRAM_NUMBER INT64_C(999999999999999) /* exact in a double */
void gram_number(grammar *g, uint32_t from, const gram_interval *i, uint32_t to);

/* A JSON string, quotes and all, that is none of n names (gram_json.c). */
void gram_other_key(grammar *g, uint32_t from, const str *name, uint32_t n, uint32_t to);

/* The network is complete: refuses left recursion and texts that cannot end. */
om_status gram_finish(grammar *g, uint32_t root, om_err *err);
om_status gram_done(grammar *g, om_status s, grammar **out, om_err *err);

#endif
