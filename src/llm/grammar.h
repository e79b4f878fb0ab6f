/* grammar.h - text that must have a form: grammars compiled to an automaton over bytes,
 * and the tokens of a vocabulary that may come next.
 *
 *     JSON schema --grammar_from_schema--+
 *     JSON of any kind --grammar_json----+--> grammar --gmatch_open--> masks, token by token
 *     GBNF-like text --grammar_from_text-+
 *
 * A grammar is a recursive transition network: per rule a finite automaton whose edges
 * are byte ranges, nothing, or calls of rules.  It does not change after it was made and
 * any number of matchers may use it; a matcher belongs to one thread.
 *
 * The promise: as long as only tokens of the mask are taken the text can be completed,
 * and where gmatch_can_end is true it has the form.  So whatever a model answers, and
 * wherever sampling leads, a finished answer is valid. */
#ifndef LLM_GRAMMAR_H
#define LLM_GRAMMAR_H

#include "base/json.h"
#include "llm/tokenizer.h"

typedef struct grammar grammar;

/* Rules "name ::= ..." of which "root" is the text: "literals" (escapes \n \r \t \" \\
 * \xHH \uHHHH), [a-z] and [^a-z], . (any character), names, ( | ), * + ? {m} {m,} {m,n},
 * # comments.  OM_EFORMAT with the byte offset; OM_EUNSUPPORTED for left recursion. */
om_status grammar_from_text(str text, grammar **out, om_err *err);
/* A JSON schema (draft 2020-12, the part docs/server.md lists).  What it does not know
 * is refused by name: nothing is silently ignored.  Answers are a subset of the schema's
 * values: members come in the schema's order, whitespace is short. */
om_status grammar_from_schema(const json *schema, grammar **out, om_err *err);
/* Any JSON object. */
om_status grammar_json(grammar **out, om_err *err);
void grammar_close(grammar *g); /* NULL is allowed; after its matchers */

/* A function a model may call; parameters NULL or a schema of an object. */
typedef struct {
    str name;
    const json *parameters;
} grammar_tool;

/* One call (`many`: or several, `between` apart) as `before` {"name": ..., KEY: {...}}
 * `after`, where KEY is "arguments" or what a family calls it. */
typedef struct {
    const grammar_tool *tool;
    size_t n;
    const char *before, *between, *after, *key;
    bool many;
} grammar_calls;
om_status grammar_from_tools(const grammar_calls *c, grammar **out, om_err *err);

/* ---- a vocabulary as a tree of bytes --------------------------------------------------- */

typedef struct vocab_tree vocab_tree;
om_status vocab_tree_open(const tokenizer *t, vocab_tree **out, om_err *err);
void vocab_tree_close(vocab_tree *v);

/* ---- matching -------------------------------------------------------------------------- */

typedef struct gmatch gmatch;
/* v may be NULL when only bytes are fed. */
om_status gmatch_open(const grammar *g, const vocab_tree *v, gmatch **out, om_err *err);
void gmatch_close(gmatch *m);
/* Back to the beginning; what was computed for earlier texts is kept. */
om_status gmatch_restart(gmatch *m, om_err *err);
/* Which tokens may come next: bit id of mask[id / 64].  End-of-text tokens are in it
 * where the text may end.  The view lives until the next call.  *n: how many.
 * OM_ELIMIT when the grammar needs more memory than a matcher may have. */
om_status gmatch_mask(gmatch *m, const uint64_t **mask, uint32_t *n, om_err *err);
/* Take a token; OM_EARG and nothing changed when it may not come next. */
om_status gmatch_token(gmatch *m, int32_t id, om_err *err);
om_status gmatch_bytes(gmatch *m, str bytes, om_err *err); /* the same for bytes */
bool gmatch_can_end(const gmatch *m);
/* Logits of tokens outside the mask become -infinity. */
void gmatch_apply(const uint64_t *mask, float *logits, uint32_t vocab);

#endif
