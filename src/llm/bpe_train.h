/* bpe_train.h - learn a byte-level BPE vocabulary from a text. */
#ifndef LLM_BPE_TRAIN_H
#define LLM_BPE_TRAIN_H

#include "llm/tokenizer.h"

/* vocab_size counts the special tokens, the 256 bytes and the merges; it is not reached
 * when no pair of tokens occurs twice any more.  No token is over 256 bytes.
 * special[0], if there is one, becomes BOS and EOS.  Words are cut as GPT-2 does; a
 * special token in the text separates words and is not learnt from.  The same text gives
 * the same tokenizer. */
om_status bpe_train(str text, uint32_t vocab_size, const str *special, uint32_t n_special,
                    tokenizer **out, om_err *err);

#endif
