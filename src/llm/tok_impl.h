/* tok_impl.h - what the files of the tokenizer share: the vocabulary, its indexes and
 * the builder that loaders fill.  Everyone else includes tokenizer.h.
 *
 * A token is kept as the bytes it stands for ("raw"): byte-level pieces are mapped
 * back from their printable alphabet, U+2581 becomes a space, <0x0A> one byte.  So
 * encoding looks substrings of the text up as they are, and decoding is copying. */
#ifndef LLM_TOK_IMPL_H
#define LLM_TOK_IMPL_H

#include "llm/tokenizer.h"

typedef enum { TOK_SPM, TOK_BPE } tok_kind;

/* The numbers are those of tokenizer.ggml.token_type. */
typedef enum {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN,
    TOKEN_CONTROL, /* found in a text only with parse_special */
    TOKEN_USER,    /* found in every text before anything else is cut */
    TOKEN_UNUSED,
    TOKEN_BYTE
} token_type;

enum { TOKEN_LSTRIP = 1, TOKEN_RSTRIP = 2, TOKEN_END = 4 }; /* flags */

enum { TOK_MAX_TOKENS = 1 << 21, TOK_MAX_MERGES = 1 << 22, TOK_MAX_PIECE = 1 << 16 };

/* ---- pre-tokenizers (tok_pre.c) -------------------------------------------------- */

/* One regular expression, written out: bytes it matches at p < end, or 0 and in *skip
 * how many bytes cannot begin a match (at least one character). */
typedef size_t tok_rule(const uint8_t *p, const uint8_t *end, size_t *skip);

/* Rules cut in turn: the matches of one rule and the gaps between them are what the
 * next rule sees. */
typedef struct {
    const char *names;       /* of tokenizer.ggml.pre, blanks between; written: the first */
    tok_rule *rule[8];       /* ends with NULL */
    bool whole_words_first;  /* a word that is a token is that token, merges or not */
    bool add_bos;            /* when the file does not say */
} tok_pre;

const tok_pre *tok_pre_find(str name);                    /* NULL: no such name */
/* The row with these rules, if possible also with this whole_words_first; NULL: none. */
const tok_pre *tok_pre_by_rules(tok_rule *const *rule, bool whole_words_first);
/* The rule for a regular expression, known by its text; NULL: unknown. */
tok_rule *tok_rule_of_regex(str regex);
extern tok_rule tok_rule_gpt2, tok_rule_digit;

typedef om_status tok_sink(void *ctx, const uint8_t *p, size_t n);
/* Every byte of the text goes to the sink once, in order. */
om_status tok_split(tok_rule *const *rule, const uint8_t *p, size_t n, tok_sink *sink,
                    void *ctx);

/* ---- vocabulary ------------------------------------------------------------------ */

typedef struct {
    uint32_t off, len; /* raw bytes in blob */
    float score;
    uint8_t type, flags;
} tok_entry;

/* Open addressing; slots hold id + 1. */
typedef struct {
    uint32_t *slot;
    uint32_t mask;
} tok_map;

typedef struct {
    uint64_t pair; /* left << 32 | right */
    uint32_t rank; /* rank + 1; 0: an empty slot */
    uint32_t id;   /* the token both become */
} tok_merge;

struct tokenizer {
    tok_kind kind;
    const tok_pre *pre; /* byte-level BPE only */
    bool add_bos, add_eos, space_prefix, whole_words_first;
    bool words;         /* SPM: no piece has a space after another character, so the text
                           may be merged word by word */
    int32_t bos, eos, unk, pad;
    uint32_t n, n_merges, merge_mask;
    tok_entry *tok;     /* [n] */
    size_t tok_cap;
    buf blob;
    tok_map by_word;    /* pieces that merging may give */
    tok_map by_special; /* tokens that are found by their text */
    uint32_t *order;    /* SPM [n]: 0 is the best score; UINT32_MAX never merges */
    tok_merge *merge;   /* BPE [merge_mask + 1] */
    int32_t byte_id[256];
    uint32_t *special_len;        /* lengths of special tokens, longest first, by first byte */
    uint32_t special_beg[257];
    uint32_t max_special;
};

static inline str tok_raw(const tokenizer *t, uint32_t id)
{
    return (str){(const char *)t->blob.data + t->tok[id].off, t->tok[id].len};
}

/* ---- builder --------------------------------------------------------------------- */

/* tok_new, tok_add in id order, tok_index, then for BPE tok_add_merge in rank order and
 * for both tok_ready.  On any failure the loader calls tokenizer_close. */
om_status tok_new(tok_kind kind, tokenizer **out, om_err *err);
om_status tok_add(tokenizer *t, str raw, token_type type, float score, uint8_t flags,
                  om_err *err);
om_status tok_index(tokenizer *t, om_err *err);
om_status tok_reserve_merges(tokenizer *t, uint64_t n, om_err *err);
om_status tok_add_merge(tokenizer *t, str raw_left, str raw_right, om_err *err);
om_status tok_ready(tokenizer *t, om_err *err);
int32_t tok_find_word(const tokenizer *t, str raw);    /* -1: none */
int32_t tok_find_special(const tokenizer *t, str raw);

/* File form to raw and back.  Appended to out; the text need not be valid UTF-8. */
om_status tok_unmap_bytes(str piece, buf *out);  /* printable alphabet -> bytes */
om_status tok_map_bytes(str raw, buf *out);
om_status tok_unmap_space(str piece, buf *out);  /* U+2581 -> ' ' */
om_status tok_map_space(str raw, buf *out);
/* The printable character that stands for a byte in byte-level BPE (GPT-2). */
uint32_t tok_byte_char(uint8_t b);
int tok_parse_byte(str piece); /* "<0x0A>" -> 10, else -1 */

const tok_merge *tok_merge_of(const tokenizer *t, uint32_t left, uint32_t right);

/* ---- merging (tok_merge.c) ------------------------------------------------------- */

typedef struct tok_encoder tok_encoder;
/* One piece of text that merges do not cross; p stays valid during the call. */
om_status tok_merge_word(tok_encoder *e, const uint8_t *p, size_t n);
om_status tok_emit(tok_encoder *e, int32_t id);

typedef struct {
    uint32_t off, len;
    int32_t id; /* -1: no such token */
    uint32_t prev, next;
} tok_symbol;

typedef struct {
    uint64_t key;  /* rank << 32 | left: the lowest is merged next */
    uint32_t size; /* bytes of both, to notice that one of them changed */
    uint32_t id;
} tok_pair;

enum { TOK_INLINE = 96 };

struct tok_encoder {
    const tokenizer *t;
    om_err *err;
    int32_t *ids;
    size_t cap, n;
    bool after_special; /* SPM: the next text gets its leading space */
    tok_symbol *sym, sym_inline[TOK_INLINE];
    tok_pair *heap, heap_inline[3 * TOK_INLINE];
    size_t room;        /* symbols that fit */
};

void tok_encoder_open(tok_encoder *e, const tokenizer *t, int32_t *ids, size_t cap,
                      om_err *err);
void tok_encoder_close(tok_encoder *e);

#endif
