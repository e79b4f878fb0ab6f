/* tokenizer.c - encode and decode: special tokens are found first, what lies between
 * them is cut into words (tok_pre.c, or at spaces for SentencePiece), words are merged
 * (tok_merge.c).
 *
 * At each place the longest special token wins, and the leftmost place comes first.
 * SentencePiece models put a space before a text that follows a special token or
 * begins the input; decoding takes exactly that space away, so that decoding an encoded
 * text gives the text, byte for byte, be it UTF-8 or not.  A literal U+2581 is kept apart
 * from a space for the same reason (SentencePiece itself would fold the two). */
#include "llm/tok_impl.h"

uint32_t tokenizer_size(const tokenizer *t) { return t->n; }
int32_t tokenizer_bos(const tokenizer *t) { return t->bos; }
int32_t tokenizer_eos(const tokenizer *t) { return t->eos; }
bool tokenizer_adds_bos(const tokenizer *t) { return t->add_bos && t->bos >= 0; }

static bool known(const tokenizer *t, int32_t id) { return id >= 0 && (uint32_t)id < t->n; }

bool tokenizer_is_end(const tokenizer *t, int32_t id)
{
    return known(t, id) && (t->tok[id].flags & TOKEN_END) != 0;
}

/* ---- text between special tokens ----------------------------------------------------- */

static om_status word_of_bpe(void *ctx, const uint8_t *p, size_t n)
{
    return tok_merge_word(ctx, p, n);
}

/* The first word with a space put before it. */
static om_status merge_with_space(tok_encoder *e, const uint8_t *p, size_t n)
{
    uint8_t small[256], *copy = n < sizeof(small) ? small : mem_alloc(n + 1);
    if (!copy)
        return fail(e->err, OM_ENOMEM, "tokenizer: no memory for a word of %zu bytes", n);
    copy[0] = ' ';
    memcpy(copy + 1, p, n);
    om_status s = tok_merge_word(e, copy, n + 1);
    if (copy != small)
        mem_free(copy);
    return s;
}

/* Bytes up to the next space that follows another character; all when a piece of this
 * vocabulary reaches across such a place. */
static size_t spm_word(const tokenizer *t, const uint8_t *p, size_t n, bool space_before)
{
    if (!t->words)
        return n;
    for (size_t i = 0; i < n; i++) {
        bool after_space = i ? p[i - 1] == ' ' : space_before || p[0] == ' ';
        if (p[i] == ' ' && !after_space)
            return i;
    }
    return n;
}

static om_status encode_spm(tok_encoder *e, const uint8_t *p, size_t n)
{
    const tokenizer *t = e->t;
    bool space = t->space_prefix && e->after_special;
    for (size_t len; n; p += len, n -= len, space = false) {
        len = spm_word(t, p, n, space);
        TRY(space ? merge_with_space(e, p, len) : tok_merge_word(e, p, len));
    }
    return OM_OK;
}

static om_status encode_text(tok_encoder *e, const uint8_t *p, size_t n)
{
    if (n == 0)
        return OM_OK;
    om_status s = e->t->kind == TOK_SPM
                      ? encode_spm(e, p, n)
                      : tok_split(e->t->pre->rule, p, n, word_of_bpe, e);
    e->after_special = false;
    return s;
}

/* ---- special tokens ------------------------------------------------------------------ */

/* The longest special token at p, or -1. */
static int32_t special_at(const tokenizer *t, const uint8_t *p, size_t n, bool control)
{
    for (uint32_t i = t->special_beg[p[0]]; i < t->special_beg[p[0] + 1]; i++) {
        uint32_t len = t->special_len[i];
        if (len > n)
            continue;
        int32_t id = tok_find_special(t, (str){(const char *)p, len});
        if (id >= 0 && (control || t->tok[id].type == TOKEN_USER))
            return id;
    }
    return -1;
}

static bool is_blank(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static om_status encode_parts(tok_encoder *e, const uint8_t *p, size_t n, bool control)
{
    const tokenizer *t = e->t;
    size_t beg = 0, i = 0;
    while (i < n) {
        int32_t id = special_at(t, p + i, n - i, control);
        if (id < 0) {
            i++;
            continue;
        }
        size_t end = i;
        while ((t->tok[id].flags & TOKEN_LSTRIP) && end > beg && is_blank(p[end - 1]))
            end--;
        TRY(encode_text(e, p + beg, end - beg));
        TRY(tok_emit(e, id));
        e->after_special = true;
        i += t->tok[id].len;
        while ((t->tok[id].flags & TOKEN_RSTRIP) && i < n && is_blank(p[i]))
            i++;
        beg = i;
    }
    return encode_text(e, p + beg, n - beg);
}

om_status tokenizer_encode(const tokenizer *t, str text, bool add_special, bool parse_special,
                           int32_t *ids, size_t cap, size_t *n, om_err *err)
{
    tok_encoder e;
    *n = 0;
    if (text.n >= INT32_MAX)
        return fail(err, OM_ELIMIT, "tokenizer: a text of %zu bytes; bring it in parts below "
                    "2 GiB", text.n);
    tok_encoder_open(&e, t, ids, cap, err);
    om_status s = OM_OK;
    if (add_special && tokenizer_adds_bos(t))
        s = tok_emit(&e, t->bos);
    if (s == OM_OK && text.n)
        s = encode_parts(&e, (const uint8_t *)text.p, text.n, parse_special);
    if (s == OM_OK && add_special && t->add_eos && t->eos >= 0)
        s = tok_emit(&e, t->eos);
    tok_encoder_close(&e);
    TRY(s);
    *n = e.n;
    if (e.n > cap)
        return fail(err, OM_ELIMIT, "tokenizer: %zu tokens, room for %zu", e.n, cap);
    return OM_OK;
}

/* ---- back to text -------------------------------------------------------------------- */

str tokenizer_piece(const tokenizer *t, int32_t id, bool special)
{
    if (!known(t, id))
        return (str){"", 0};
    uint8_t type = t->tok[id].type;
    if (!special && (type == TOKEN_CONTROL || type == TOKEN_UNKNOWN))
        return (str){"", 0};
    return tok_raw(t, (uint32_t)id);
}

om_status tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n, bool special,
                           buf *out, om_err *err)
{
    bool drop_space = t->kind == TOK_SPM && t->space_prefix;
    for (size_t i = 0; i < n; i++) {
        if (!known(t, ids[i]))
            return fail(err, OM_EARG, "tokenizer: token %d at %zu, there are %u", ids[i], i, t->n);
        uint8_t type = t->tok[ids[i]].type;
        bool text = type == TOKEN_NORMAL || type == TOKEN_BYTE || type == TOKEN_UNUSED;
        str piece = tokenizer_piece(t, ids[i], special);
        if (text && drop_space && piece.n && piece.p[0] == ' ')
            piece = (str){piece.p + 1, piece.n - 1};
        om_status s = buf_str(out, piece);
        if (s != OM_OK)
            return fail(err, s, "tokenizer: no room for the text of %zu tokens", n);
        drop_space = t->kind == TOK_SPM && t->space_prefix && !text && type != TOKEN_UNKNOWN;
    }
    return OM_OK;
}
