/* unicode.h - as much of Unicode as tokenizers need: one character at a time out of
 * UTF-8 that may be broken, and its class. */
#ifndef LLM_UNICODE_H
#define LLM_UNICODE_H

#include "base/base.h"

typedef enum {
    UNI_OTHER,  /* unassigned, control, or a byte that is not UTF-8 */
    UNI_CASED,  /* \p{L}: upper, lower and title case */
    UNI_LETTER, /* \p{L}: the others */
    UNI_MARK,   /* \p{M} */
    UNI_NUMBER, /* \p{N} */
    UNI_PUNCT,  /* \p{P} */
    UNI_SYMBOL, /* \p{S} */
    UNI_SPACE   /* White_Space: what \s means in a regular expression */
} unicode_class;

/* Entries are first << 3 | class; see tools/gen-unicode.py. */
extern const uint32_t unicode_runs[];
extern const uint32_t unicode_run_count;

unicode_class unicode_class_of(uint32_t cp);

/* The character at p < end and its length in *len.  A byte that does not begin a
 * well-formed sequence (RFC 3629) counts as one character, UNICODE_BAD + the byte:
 * no class, never equal to a real one, so that no byte of a text is ever lost. */
#define UNICODE_BAD 0x200000u
uint32_t unicode_at(const uint8_t *p, const uint8_t *end, uint32_t *len);

/* UTF-8 of cp < 0x110000 into out; its length, 1 to 4. */
uint32_t unicode_put(uint32_t cp, uint8_t out[4]);

#endif
