/* tok_gguf.c - a tokenizer from the tokenizer.ggml.* keys of a GGUF, and back.
 *
 * model "llama": SentencePiece with scores; model "gpt2": byte-level BPE with merges and
 * the name of a pre-tokenizer in `pre`.  What a file does not say follows llama.cpp, whose
 * files these are: token types default to normal, a SentencePiece model adds BOS and a
 * leading space.  Names and meaning: the GGUF specification of ggml. */
#include "llm/tok_impl.h"

#define KEY "tokenizer.ggml."

static om_status want_array(const gguf *g, const char *key, const gguf_kv **out, om_err *err)
{
    *out = gguf_find(g, key);
    if (!*out)
        return fail(err, OM_EFORMAT, "tokenizer: the file has no %s", key);
    if ((*out)->type != GGUF_ARRAY || (*out)->elem != GGUF_STRING)
        return fail(err, OM_EFORMAT, "tokenizer: %s is not an array of strings", key);
    return OM_OK;
}

/* An array of numbers with one for each token, or NULL when there is none. */
static om_status per_token(const gguf *g, const char *key, uint64_t n, const gguf_kv **out,
                           om_err *err)
{
    *out = gguf_find(g, key);
    if (!*out)
        return OM_OK;
    if ((*out)->type != GGUF_ARRAY || (*out)->elem == GGUF_STRING ||
        (*out)->elem == GGUF_ARRAY || (*out)->count != n)
        return fail(err, OM_EFORMAT, "tokenizer: %s is not an array of %llu numbers", key,
                    (unsigned long long)n);
    return OM_OK;
}

/* How a piece stands in the file -> its bytes, into out. */
static om_status raw_of(tok_kind kind, str piece, int64_t type, buf *out)
{
    int byte = type == TOKEN_BYTE ? tok_parse_byte(piece) : -1;
    out->len = 0;
    if (byte >= 0)
        return buf_u8(out, (uint8_t)byte);
    if (kind == TOK_SPM && type != TOKEN_CONTROL)
        return tok_unmap_space(piece, out);
    if (kind == TOK_BPE && (type == TOKEN_NORMAL || type == TOKEN_UNUSED))
        return tok_unmap_bytes(piece, out);
    return buf_str(out, piece);
}

static om_status add_tokens(tokenizer *t, const gguf *g, const str *piece, uint64_t n,
                            om_err *err)
{
    const gguf_kv *types, *scores;
    TRY(per_token(g, KEY "token_type", n, &types, err));
    TRY(per_token(g, KEY "scores", n, &scores, err));
    buf raw = buf_growing(4 * TOK_MAX_PIECE);
    om_status s = OM_OK;
    for (uint64_t i = 0; i < n && s == OM_OK; i++) {
        int64_t type = types ? gguf_at_i64(types, i) : TOKEN_NORMAL;
        if (type < TOKEN_NORMAL || type > TOKEN_BYTE)
            type = TOKEN_NORMAL;
        float score = scores ? (float)gguf_at_f64(scores, i) : 0;
        if (piece[i].n > TOK_MAX_PIECE || raw_of(t->kind, piece[i], type, &raw) != OM_OK)
            s = fail(err, OM_ELIMIT, "tokenizer: token %llu is too long",
                     (unsigned long long)i);
        else
            s = tok_add(t, (str){(char *)raw.data, raw.len}, (token_type)type, score, 0, err);
    }
    buf_free(&raw);
    return s;
}

/* "left right": the blank that divides them is not the first character. */
static om_status add_merge(tokenizer *t, str line, buf *raw, om_err *err)
{
    size_t cut = 1;
    while (cut < line.n && line.p[cut] != ' ')
        cut++;
    if (cut + 1 >= line.n || line.n > TOK_MAX_PIECE)
        return fail(err, OM_EFORMAT, "tokenizer: merge %u is not two pieces with a blank between",
                    t->n_merges);
    raw->len = 0;
    if (tok_unmap_bytes((str){line.p, cut}, raw) != OM_OK)
        return fail(err, OM_ENOMEM, "tokenizer: no memory for a merge");
    size_t left = raw->len;
    if (tok_unmap_bytes((str){line.p + cut + 1, line.n - cut - 1}, raw) != OM_OK)
        return fail(err, OM_ENOMEM, "tokenizer: no memory for a merge");
    const char *p = (const char *)raw->data;
    return tok_add_merge(t, (str){p, left}, (str){p + left, raw->len - left}, err);
}

static om_status strings_of(const gguf_kv *kv, uint64_t most, str **out, om_err *err)
{
    if (kv->count > most)
        return fail(err, OM_ELIMIT, "tokenizer: %.*s has %llu entries, the limit is %llu",
                    (int)size_min(kv->key.n, 40), kv->key.p, (unsigned long long)kv->count,
                    (unsigned long long)most);
    *out = mem_array((size_t)kv->count, sizeof(str));
    if (!*out)
        return fail(err, OM_ENOMEM, "tokenizer: no memory for %llu strings",
                    (unsigned long long)kv->count);
    om_status s = gguf_strings(kv, *out, err);
    if (s != OM_OK) {
        mem_free(*out);
        *out = NULL;
    }
    return s;
}

static om_status read_merges(tokenizer *t, const gguf *g, om_err *err)
{
    const gguf_kv *kv;
    str *line;
    TRY(want_array(g, KEY "merges", &kv, err));
    TRY(strings_of(kv, TOK_MAX_MERGES, &line, err));
    om_status s = tok_reserve_merges(t, kv->count, err);
    buf raw = buf_growing(4 * TOK_MAX_PIECE);
    for (uint64_t i = 0; i < kv->count && s == OM_OK; i++)
        s = add_merge(t, line[i], &raw, err);
    buf_free(&raw);
    mem_free(line);
    return s;
}

static om_status read_vocabulary(tokenizer *t, const gguf *g, om_err *err)
{
    const gguf_kv *kv;
    str *piece;
    TRY(want_array(g, KEY "tokens", &kv, err));
    TRY(strings_of(kv, TOK_MAX_TOKENS, &piece, err));
    om_status s = add_tokens(t, g, piece, kv->count, err);
    mem_free(piece);
    TRY(s);
    return tok_index(t, err);
}

static int32_t id_of(const gguf *g, const char *key, int32_t def)
{
    int64_t id = gguf_i64(g, key, def);
    if (id == UINT32_MAX)
        return -1;
    return id >= -1 && id <= INT32_MAX ? (int32_t)id : INT32_MAX; /* refused by tok_ready */
}

static void read_settings(tokenizer *t, const gguf *g)
{
    bool spm = t->kind == TOK_SPM;
    t->bos = id_of(g, KEY "bos_token_id", spm && t->n > 1 ? 1 : -1);
    t->eos = id_of(g, KEY "eos_token_id", spm && t->n > 2 ? 2 : -1);
    t->unk = id_of(g, KEY "unknown_token_id", spm ? 0 : -1);
    t->pad = id_of(g, KEY "padding_token_id", -1);
    t->add_bos = gguf_bool(g, KEY "add_bos_token", spm || t->pre->add_bos);
    t->add_eos = gguf_bool(g, KEY "add_eos_token", false);
    t->space_prefix = gguf_bool(g, KEY "add_space_prefix", spm);
    t->whole_words_first = !spm && t->pre->whole_words_first;
}

static void mark_end(tokenizer *t, const gguf *g, const char *key)
{
    int64_t id = gguf_i64(g, key, -1);
    if (id >= 0 && id < t->n)
        t->tok[id].flags |= TOKEN_END;
}

static om_status read_all(tokenizer *t, const gguf *g, om_err *err)
{
    if (t->kind == TOK_BPE) {
        str name = gguf_str(g, KEY "pre", "default");
        t->pre = tok_pre_find(name);
        if (!t->pre)
            return fail(err, OM_EUNSUPPORTED, "tokenizer: pre-tokenizer \"%.*s\" is not known",
                        (int)size_min(name.n, 60), name.p);
    }
    TRY(read_vocabulary(t, g, err));
    if (t->kind == TOK_BPE)
        TRY(read_merges(t, g, err));
    read_settings(t, g);
    TRY(tok_ready(t, err));
    mark_end(t, g, KEY "eot_token_id");
    mark_end(t, g, KEY "eom_token_id");
    return OM_OK;
}

om_status tokenizer_from_gguf(const gguf *g, tokenizer **out, om_err *err)
{
    str model = gguf_str(g, KEY "model", "");
    tokenizer *t;
    *out = NULL;
    if (!str_is(model, "llama") && !str_is(model, "gpt2"))
        return fail(err, OM_EUNSUPPORTED, "tokenizer: " KEY "model is \"%.*s\", known are llama "
                    "and gpt2", (int)size_min(model.n, 60), model.p);
    TRY(tok_new(str_is(model, "llama") ? TOK_SPM : TOK_BPE, &t, err));
    om_status s = read_all(t, g, err);
    if (s != OM_OK) {
        tokenizer_close(t);
        return s;
    }
    *out = t;
    return OM_OK;
}

/* ---- writing ------------------------------------------------------------------------- */

static om_status file_form(const tokenizer *t, uint32_t id, buf *out)
{
    str raw = tok_raw(t, id);
    uint8_t type = t->tok[id].type;
    if (type == TOKEN_BYTE && raw.n == 1)
        return buf_fmt(out, "<0x%02X>", (unsigned)(uint8_t)raw.p[0]);
    if (t->kind == TOK_SPM && type != TOKEN_CONTROL)
        return tok_map_space(raw, out);
    if (t->kind == TOK_BPE && (type == TOKEN_NORMAL || type == TOKEN_UNUSED))
        return tok_map_bytes(raw, out);
    return buf_str(out, raw);
}

/* The strings are views into one buffer, so their places are kept until it is whole. */
typedef struct {
    str *v;
    size_t *beg;
    buf text;
    uint32_t n;
    bool ok;
} string_list;

static string_list list_open(uint32_t n)
{
    string_list l = {mem_array(n + 1u, sizeof(str)), mem_array(n + 1u, sizeof(size_t)),
                     buf_growing(SIZE_MAX / 2), n, true};
    l.ok = l.v && l.beg;
    return l;
}

static void list_put(string_list *l, gguf_writer *w, const char *key)
{
    for (uint32_t i = 0; l->ok && i < l->n; i++)
        l->v[i] = (str){(const char *)l->text.data + l->beg[i], l->beg[i + 1] - l->beg[i]};
    /* Without memory the key is left out: a reader refuses the file by name. */
    if (l->ok)
        gguf_put_strings(w, key, l->v, l->n);
    mem_free(l->v);
    mem_free(l->beg);
    buf_free(&l->text);
}

static void put_tokens(const tokenizer *t, gguf_writer *w)
{
    string_list l = list_open(t->n);
    for (uint32_t i = 0; l.ok && i < t->n; i++) {
        l.ok = file_form(t, i, &l.text) == OM_OK;
        l.beg[i + 1] = l.text.len;
    }
    list_put(&l, w, KEY "tokens");
    int32_t *type = mem_array(t->n, sizeof(*type));
    float *score = mem_array(t->n, sizeof(*score));
    for (uint32_t i = 0; type && score && i < t->n; i++) {
        type[i] = t->tok[i].type;
        score[i] = t->tok[i].score;
    }
    if (type && score && t->kind == TOK_SPM)
        gguf_put_array(w, KEY "scores", GGUF_F32, score, t->n);
    if (type && score)
        gguf_put_array(w, KEY "token_type", GGUF_I32, type, t->n);
    mem_free(type);
    mem_free(score);
}

static void put_merges(const tokenizer *t, gguf_writer *w)
{
    uint64_t *pair = mem_array(t->n_merges + 1u, sizeof(*pair));
    bool *have = mem_array(t->n_merges + 1u, sizeof(*have));
    uint32_t n = 0;
    for (uint32_t i = 0; pair && have && i <= t->merge_mask; i++)
        if (t->merge[i].rank) {
            pair[t->merge[i].rank - 1] = t->merge[i].pair;
            have[t->merge[i].rank - 1] = true;
        }
    for (uint32_t i = 0; pair && have && i < t->n_merges; i++) /* one said twice has a gap */
        if (have[i])
            pair[n++] = pair[i];
    string_list l = list_open(n);
    l.ok = l.ok && pair && have;
    for (uint32_t i = 0; l.ok && i < n; i++) {
        l.ok = tok_map_bytes(tok_raw(t, (uint32_t)(pair[i] >> 32)), &l.text) == OM_OK &&
               buf_u8(&l.text, ' ') == OM_OK &&
               tok_map_bytes(tok_raw(t, (uint32_t)pair[i]), &l.text) == OM_OK;
        l.beg[i + 1] = l.text.len;
    }
    list_put(&l, w, KEY "merges");
    mem_free(pair);
    mem_free(have);
}

/* What a reader takes for granted in a SentencePiece file must be denied: no token is
 * 2^32 - 1. */
static void put_id(const tokenizer *t, gguf_writer *w, const char *key, int32_t id)
{
    if (id >= 0 || t->kind == TOK_SPM)
        gguf_put_u32(w, key, (uint32_t)id);
}

void tokenizer_to_gguf(const tokenizer *t, gguf_writer *w)
{
    gguf_put_str(w, KEY "model", t->kind == TOK_SPM ? STR("llama") : STR("gpt2"));
    if (t->kind == TOK_BPE)
        gguf_put_str(w, KEY "pre",
                     (str){t->pre->names, strcspn(t->pre->names, " ")});
    else
        gguf_put_str(w, KEY "pre", STR("default"));
    put_tokens(t, w);
    if (t->kind == TOK_BPE)
        put_merges(t, w);
    put_id(t, w, KEY "bos_token_id", t->bos);
    put_id(t, w, KEY "eos_token_id", t->eos);
    put_id(t, w, KEY "unknown_token_id", t->unk);
    put_id(t, w, KEY "padding_token_id", t->pad);
    gguf_put_bool(w, KEY "add_bos_token", t->add_bos);
    gguf_put_bool(w, KEY "add_eos_token", t->add_eos);
    if (t->kind == TOK_SPM)
        gguf_put_bool(w, KEY "add_space_prefix", t->space_prefix);
}
