/* chat_tools.h - functions a model may call, in the words its family learnt them in.
 *
 * A request's tools become text of the prompt; calls in the answer are found again.  Three
 * forms are known: Hermes' (Qwen and most others), Llama 3's and Mistral's. */
#ifndef LLM_CHAT_TOOLS_H
#define LLM_CHAT_TOOLS_H

#include "base/json.h"
#include "llm/grammar.h"

typedef struct chat_tool_form chat_tool_form;
const chat_tool_form *chat_tool_form_of(const chat_template *c);
/* An answer that has this text in it is a call from there on. */
const char *chat_tool_trigger(const chat_tool_form *f);
/* How calls are written, for grammar_from_tools; tool, n and many are the caller's. */
grammar_calls chat_tool_calls(const chat_tool_form *f);

/* A message of OpenAI's shape. */
typedef struct {
    const char *role;
    str content;
    const json *calls; /* an assistant's tool_calls, or NULL */
} chat_turn;

/* Messages for chat_render in which `tools` (an array of OpenAI's shape, or NULL) are
 * offered and past calls and results stand in the form's words.  out has room for n + 1;
 * texts made on the way lie in *made. */
om_status chat_tool_messages(const chat_tool_form *f, const json *tools, const chat_turn *turn,
                             size_t n, chat_message *out, size_t *n_out, buf *made,
                             om_err *err);

/* The calls in an answer, in order; the words before them are answer[0..*before).  fn
 * returning non-OK stops.  An answer whose calls cannot be read has none. */
typedef om_status chat_call_fn(void *ctx, str name, str arguments_json);
om_status chat_tool_find(const chat_tool_form *f, str answer, size_t *before,
                         chat_call_fn *fn, void *ctx);

#endif
