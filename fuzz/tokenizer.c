/* tokenizer.c - any bytes as a tokenizer in one of its file forms, and any text for it.
 *
 * Input: a byte that chooses the form, two bytes with the length of the file, the file,
 * and the rest is the text (for merges.txt, the text is the second file too).  What is
 * accepted encodes the text to tokens that exist; if none is the unknown token, decoding
 * gives the text back; and written to a GGUF and read again it gives the same tokens. */
#include "fuzz.h"
#include "llm/bpe_train.h"
#include "llm/tok_impl.h"

static om_status open_form(unsigned form, const uint8_t *p, size_t n, str text, tokenizer **t,
                           om_err *err)
{
    gguf g;
    str file = {(const char *)p, n};
    switch (form % 6) {
    case 0:
        return tokenizer_from_hf_json(p, n, t, err);
    case 1:
        return tokenizer_from_llama2c(p, n, form / 6, t, err);
    case 2:
        return tokenizer_from_sentencepiece(p, n, t, err);
    case 3:
        return tokenizer_from_vocab_merges(file, text, t, err);
    case 4:
        return bpe_train(file, 256 + form / 6, NULL, 0, t, err);
    default:
        break;
    }
    om_status s = gguf_open(p, n, &g, err);
    if (s == OM_OK)
        s = tokenizer_from_gguf(&g, t, err);
    gguf_close(&g);
    return s;
}

/* Nothing in this vocabulary changes a text or is lost in a GGUF. */
static bool plain(const tokenizer *t)
{
    for (uint32_t i = 0; i < t->n; i++) {
        str raw = tok_raw(t, i);
        if (t->tok[i].flags & (TOKEN_LSTRIP | TOKEN_RSTRIP))
            return false;
        for (size_t k = 0; t->kind == TOK_SPM && k + 2 < raw.n; k++)
            if (memcmp(raw.p + k, "\xE2\x96\x81", 3) == 0)
                return false;
    }
    return t->kind == TOK_SPM || t->pre->whole_words_first == t->whole_words_first;
}

static void same_again(const tokenizer *t, str text, const int32_t *ids, size_t n, int32_t *room,
                       size_t cap)
{
    buf file = buf_growing(1 << 26);
    gguf_writer *w;
    gguf g;
    tokenizer *again;
    om_err err;
    size_t m;
    FUZZ_CHECK(gguf_writer_open_buf(&file, &w, &err) == OM_OK);
    tokenizer_to_gguf(t, w);
    FUZZ_CHECK(gguf_begin_data(w, &err) == OM_OK && gguf_writer_commit(w, &err) == OM_OK);
    FUZZ_CHECK(gguf_open(file.data, file.len, &g, &err) == OM_OK);
    FUZZ_CHECK(tokenizer_from_gguf(&g, &again, &err) == OM_OK);
    FUZZ_CHECK(again->n == t->n && again->bos == t->bos && again->eos == t->eos);
    FUZZ_CHECK(tokenizer_encode(again, text, true, true, room, cap, &m, &err) == OM_OK);
    FUZZ_CHECK(m == n && memcmp(ids, room, n * sizeof(*ids)) == 0);
    tokenizer_close(again);
    gguf_close(&g);
    buf_free(&file);
}

static void use(const tokenizer *t, str text)
{
    om_err err;
    size_t n, cap = 2 * text.n + 8;
    int32_t *ids = calloc(cap, 2 * sizeof(*ids));
    buf out = buf_growing(1 << 24);
    FUZZ_CHECK(ids);
    om_status s = tokenizer_encode(t, text, false, true, ids, cap, &n, &err);
    bool all_known = true;
    for (size_t i = 0; s == OM_OK && i < n; i++) {
        FUZZ_CHECK(ids[i] >= 0 && (uint32_t)ids[i] < t->n);
        all_known &= ids[i] != t->unk && t->tok[ids[i]].type != TOKEN_UNKNOWN;
    }
    if (s == OM_OK) {
        FUZZ_CHECK(tokenizer_decode(t, ids, n, true, &out, &err) == OM_OK);
        if (all_known && plain(t))
            FUZZ_CHECK(str_eq((str){(char *)out.data, out.len}, text));
        FUZZ_CHECK(tokenizer_encode(t, text, true, true, ids, cap, &n, &err) == OM_OK);
        if (plain(t))
            same_again(t, text, ids, n, ids + cap, cap);
    }
    buf_free(&out);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    om_err err = {0};
    tokenizer *t = NULL;
    if (n < 3)
        return 0;
    size_t size = size_min(data[1] | (size_t)data[2] << 8, n - 3);
    uint8_t *file = fuzz_copy(data + 3, size);
    uint8_t *rest = fuzz_copy(data + 3 + size, n - 3 - size);
    str text = {(char *)rest, n - 3 - size};
    om_status s = open_form(data[0], file, size, text, &t, &err);
    FUZZ_CHECK((s == OM_OK) == (t != NULL) && (s == OM_OK || err.msg[0]));
    if (t)
        use(t, text);
    tokenizer_close(t);
    free(file);
    free(rest);
    return 0;
}
