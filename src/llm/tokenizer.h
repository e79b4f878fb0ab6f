/* tokenizer.h - text to token ids and back.
 *
 * Kinds: SentencePiece-BPE ("llama": merge the adjacent pair whose piece has the best
 * score, byte fallback, U+2581 for space) and byte-level BPE ("gpt2": a pre-tokenizer
 * cuts the text, then ranked merges).  Made from a GGUF's tokenizer.ggml.* keys, a
 * Hugging Face tokenizer.json, or a llama2.c tokenizer.bin.  Read-only after open:
 * any number of threads may use one. */
#ifndef LLM_TOKENIZER_H
#define LLM_TOKENIZER_H

#include "fmt/gguf.h"

typedef struct tokenizer tokenizer;

om_status tokenizer_from_gguf(const gguf *g, tokenizer **out, om_err *err);
om_status tokenizer_from_hf_json(const void *p, size_t n, tokenizer **out, om_err *err);
/* tokenizer_config.json, which goes with it: bos_token, eos_token, add_bos_token,
 * add_eos_token.  Before the tokenizer is shared between threads. */
om_status tokenizer_hf_config(tokenizer *t, const void *p, size_t n, om_err *err);
/* vocab.json and merges.txt, as GPT-2 came. */
om_status tokenizer_from_vocab_merges(str vocab_json, str merges_txt, tokenizer **out,
                                      om_err *err);
/* vocab_size 0: as many tokens as the file has. */
om_status tokenizer_from_llama2c(const void *p, size_t n, uint32_t vocab_size, tokenizer **out,
                                 om_err *err);
/* SentencePiece's tokenizer.model (BPE). */
om_status tokenizer_from_sentencepiece(const void *p, size_t n, tokenizer **out, om_err *err);
void tokenizer_close(tokenizer *t);
/* Write all keys a GGUF needs to make this tokenizer again. */
void tokenizer_to_gguf(const tokenizer *t, gguf_writer *w);

uint32_t tokenizer_size(const tokenizer *t);
int32_t tokenizer_bos(const tokenizer *t); /* -1 when there is none */
int32_t tokenizer_eos(const tokenizer *t);
bool tokenizer_adds_bos(const tokenizer *t);
/* True for eos and every other end-of-turn token (<|im_end|>, <|eot_id|>, ...). */
bool tokenizer_is_end(const tokenizer *t, int32_t id);

/* add_special: put BOS/EOS as the model wants.  parse_special: "<|eot_id|>" in the text
 * becomes that token (never for text from a stranger).  At most cap ids are written;
 * *n is the number there are, so OM_ELIMIT with *n > cap says how much room to bring. */
om_status tokenizer_encode(const tokenizer *t, str text, bool add_special, bool parse_special,
                           int32_t *ids, size_t cap, size_t *n, om_err *err);
/* Bytes of one token; pieces may be part of a UTF-8 character.  Control tokens give
 * nothing unless `special`.  The view lives as long as the tokenizer. */
str tokenizer_piece(const tokenizer *t, int32_t id, bool special);
/* Decode of encode is the text: drops the space a SentencePiece model puts in front. */
om_status tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n, bool special,
                           buf *out, om_err *err);

/* ---- chat ------------------------------------------------------------------------ */

typedef struct {
    const char *role; /* "system", "user", "assistant" */
    str content;
} chat_message;

/* Which family's template a model's Jinja text (or name) stands for: rows in chat.c
 * (chatml, llama2, llama3, mistral, zephyr, gemma, phi3, ...). NULL: not recognised. */
typedef struct chat_template chat_template;
const chat_template *chat_template_find(str jinja_or_name);
const char *chat_template_name(const chat_template *c);
/* Prompt text, special tokens spelled out (encode with parse_special).  A message of the
 * role "tool", what a called function gave back, stands in the user's place where the
 * family has no place of its own for it. */
om_status chat_render(const chat_template *c, const chat_message *m, size_t n,
                      bool add_generation_prompt, buf *out, om_err *err);
/* The same with a byte CHAT_MARK before and after everybody's words: what lies between is
 * not the template's and must not become special tokens. */
#define CHAT_MARK '\xff'
om_status chat_render_marked(const chat_template *c, const chat_message *m, size_t n,
                             bool add_generation_prompt, buf *out, om_err *err);

#endif
