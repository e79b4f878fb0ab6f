/* tok_llama2c.c - SentencePiece tokenizers from two more files: llama2.c's
 * tokenizer.bin and SentencePiece's own tokenizer.model.
 *
 * tokenizer.bin: u32 length of the longest piece, then for each token f32 score, i32
 * length, bytes; spaces are spaces already, "<0x0A>" are byte tokens, and tokens 0, 1, 2
 * are unknown, BOS ("\n<s>\n") and EOS ("\n</s>\n").  The number of tokens stands in the
 * checkpoint, not in the file; 0 means all there are.
 *
 * tokenizer.model: a protobuf message whose field 1, repeated, is a piece {1: text,
 * 2: f32 score, 3: type}, and whose field 3 (normaliser) says in field 3 whether a space
 * is put in front; field 2 (trainer) has the model type in 3 and ids in 40..43. */
#include "llm/tok_impl.h"

static om_status finish(tokenizer *t, tokenizer **out, om_err *err)
{
    om_status s = tok_index(t, err);
    if (s == OM_OK)
        s = tok_ready(t, err);
    if (s == OM_OK)
        *out = t;
    return s;
}

/* ---- tokenizer.bin ------------------------------------------------------------------- */

static om_status add_piece(tokenizer *t, str piece, float score, om_err *err)
{
    static const char *const special[] = {"<unk>", "<s>", "</s>"};
    int byte = tok_parse_byte(piece);
    uint8_t b = (uint8_t)byte;
    if (t->n < 3)
        return tok_add(t, str_of(special[t->n]), t->n ? TOKEN_CONTROL : TOKEN_UNKNOWN, score, 0,
                       err);
    if (byte >= 0)
        return tok_add(t, (str){(char *)&b, 1}, TOKEN_BYTE, score, 0, err);
    return tok_add(t, piece, TOKEN_NORMAL, score, 0, err);
}

static om_status read_bin(tokenizer *t, cursor *c, uint32_t vocab_size, om_err *err)
{
    uint32_t longest = cursor_u32(c);
    if (longest > TOK_MAX_PIECE)
        return fail(err, OM_EFORMAT, "tokenizer: a longest piece of %u bytes; is this llama2.c's "
                    "tokenizer.bin?", longest);
    while (vocab_size ? t->n < vocab_size : c->pos < c->n) {
        float score = cursor_f32(c);
        uint32_t n = cursor_u32(c);
        const uint8_t *p = n <= longest ? cursor_take(c, n) : NULL;
        if (!p || !c->ok)
            return fail_at(err, OM_EFORMAT, c->pos, "tokenizer: the file ends or is damaged in "
                           "token %u of %u", t->n, vocab_size);
        TRY(add_piece(t, (str){(const char *)p, n}, score, err));
    }
    t->unk = 0;
    t->bos = t->n > 1 ? 1 : -1;
    t->eos = t->n > 2 ? 2 : -1;
    t->add_bos = t->space_prefix = true;
    return OM_OK;
}

om_status tokenizer_from_llama2c(const void *p, size_t n, uint32_t vocab_size, tokenizer **out,
                                 om_err *err)
{
    tokenizer *t;
    cursor c = cursor_of(p, n);
    *out = NULL;
    TRY(tok_new(TOK_SPM, &t, err));
    om_status s = read_bin(t, &c, vocab_size, err);
    if (s == OM_OK)
        s = finish(t, out, err);
    if (s != OM_OK)
        tokenizer_close(t);
    return s;
}

/* ---- tokenizer.model ----------------------------------------------------------------- */

/* One field of a protobuf message: a number, or bytes. */
typedef struct {
    uint32_t number, wire;
    uint64_t value;
    str bytes;
} field;

static uint64_t varint(cursor *c)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t b = cursor_u8(c);
        v |= (uint64_t)(b & 127) << shift;
        if (b < 128)
            return v;
    }
    c->ok = false;
    return 0;
}

static bool next_field(cursor *c, field *f)
{
    if (!c->ok || c->pos == c->n)
        return false;
    uint64_t tag = varint(c);
    *f = (field){.number = (uint32_t)(tag >> 3), .wire = (uint32_t)(tag & 7)};
    if (f->wire == 0) {
        f->value = varint(c);
    } else if (f->wire == 1) {
        f->value = cursor_u64(c);
    } else if (f->wire == 5) {
        f->value = cursor_u32(c);
    } else if (f->wire == 2) {
        uint64_t n = varint(c);
        const uint8_t *p = n <= c->n ? cursor_take(c, (size_t)n) : NULL;
        f->bytes = (str){(const char *)p, (size_t)n};
        c->ok &= p != NULL;
    } else {
        c->ok = false;
    }
    return c->ok;
}

static om_status model_piece(tokenizer *t, str message, buf *raw, om_err *err)
{
    cursor c = cursor_of(message.p, message.n);
    field f;
    str text = {"", 0};
    uint32_t bits = 0;
    uint64_t type = TOKEN_NORMAL;
    while (next_field(&c, &f)) {
        if (f.number == 1)
            text = f.bytes;
        else if (f.number == 2)
            bits = (uint32_t)f.value;
        else if (f.number == 3)
            type = f.value;
    }
    if (!c.ok || type < TOKEN_NORMAL || type > TOKEN_BYTE)
        return fail(err, OM_EFORMAT, "tokenizer: piece %u of the model is damaged", t->n);
    float score;
    memcpy(&score, &bits, sizeof(score));
    int byte = type == TOKEN_BYTE ? tok_parse_byte(text) : -1;
    raw->len = 0;
    om_status s = byte >= 0               ? buf_u8(raw, (uint8_t)byte)
                  : type == TOKEN_CONTROL ? buf_str(raw, text)
                                          : tok_unmap_space(text, raw);
    if (s != OM_OK)
        return fail(err, s, "tokenizer: piece %u of the model is too long", t->n);
    if (type == TOKEN_UNKNOWN)
        t->unk = (int32_t)t->n;
    return tok_add(t, (str){(char *)raw->data, raw->len}, (token_type)type, score, 0, err);
}

static om_status trainer(tokenizer *t, str message, om_err *err)
{
    cursor c = cursor_of(message.p, message.n);
    field f;
    while (next_field(&c, &f)) {
        if (f.number == 3 && f.wire == 0 && f.value != 2)
            return fail(err, OM_EUNSUPPORTED, "tokenizer: SentencePiece model type %llu, known is "
                        "2 (BPE)", (unsigned long long)f.value);
        /* -1 is written as 64 ones */
        if (f.number == 41)
            t->bos = f.value <= INT32_MAX ? (int32_t)f.value : -1;
        else if (f.number == 42)
            t->eos = f.value <= INT32_MAX ? (int32_t)f.value : -1;
    }
    return c.ok ? OM_OK : fail(err, OM_EFORMAT, "tokenizer: the trainer part is damaged");
}

static om_status read_model(tokenizer *t, cursor *c, buf *raw, om_err *err)
{
    field f, g;
    while (next_field(c, &f)) {
        if (f.wire == 2 && f.number == 1)
            TRY(model_piece(t, f.bytes, raw, err));
        else if (f.wire == 2 && f.number == 2)
            TRY(trainer(t, f.bytes, err));
        else if (f.wire == 2 && f.number == 3)
            for (cursor n = cursor_of(f.bytes.p, f.bytes.n); next_field(&n, &g);)
                if (g.number == 3)
                    t->space_prefix = g.value != 0;
    }
    return c->ok ? OM_OK
                 : fail_at(err, OM_EFORMAT, c->pos, "tokenizer: this is no SentencePiece model");
}

om_status tokenizer_from_sentencepiece(const void *p, size_t n, tokenizer **out, om_err *err)
{
    tokenizer *t;
    cursor c = cursor_of(p, n);
    buf raw = buf_growing(4 * TOK_MAX_PIECE);
    *out = NULL;
    TRY(tok_new(TOK_SPM, &t, err));
    t->unk = 0;
    t->bos = 1;
    t->eos = 2;
    t->add_bos = t->space_prefix = true;
    om_status s = read_model(t, &c, &raw, err);
    buf_free(&raw);
    if (s == OM_OK)
        s = finish(t, out, err);
    if (s != OM_OK)
        tokenizer_close(t);
    return s;
}
