/* tok_hf.c - Hugging Face tokenizer.json (and tokenizer_config.json beside it), and the
 * vocab.json + merges.txt pair of GPT-2.
 *
 * The file is a small program: normalizer, pre-tokenizer, model, post-processor.  Here it
 * is recognised, not interpreted: byte-level BPE whose pre-tokenizer is one of tok_pre.c
 * (expressions are known by their exact text), or SentencePiece exported as BPE with byte
 * fallback.  Anything else is refused by name.  NFC is accepted and not applied: the text
 * is taken as it comes.
 *
 * An exported SentencePiece model lists every split of every piece as a merge, in the
 * order of the scores; so a piece's score is minus the rank of its first merge, and a
 * piece without a merge never comes from merging. */
#include "llm/tok_impl.h"

#include "base/json.h"

#include <math.h>

enum { MAX_NODES = 8 << 20 };

static bool type_is(const json *j, const char *type)
{
    return str_is(json_str(json_get(j, "type"), ""), type);
}

static om_status unsupported(om_err *err, const char *what, str name)
{
    return fail(err, OM_EUNSUPPORTED, "tokenizer.json: %s \"%.*s\" is not supported", what,
                (int)size_min(name.n, 120), name.p);
}

static bool present(const json *j) { return j && j->type != JSON_NULL; }

/* ---- tokens -------------------------------------------------------------------------- */

/* What stands at each id: a member of the vocabulary, an added token, or neither. */
typedef struct {
    const json **vocab, **added; /* [n] */
    uint32_t n;
} id_table;

static om_status highest(const json *list, bool added, uint32_t *n, om_err *err)
{
    for (const json *j = list ? list->child : NULL; j; j = j->next) {
        uint64_t id = json_u64(added ? json_get(j, "id") : j, UINT64_MAX);
        if (id >= TOK_MAX_TOKENS)
            return fail_at(err, OM_EFORMAT, j->pos, "tokenizer.json: a token's id is missing or "
                           "over %d", TOK_MAX_TOKENS);
        if (id >= *n)
            *n = (uint32_t)id + 1;
    }
    return OM_OK;
}

static om_status place(const json *vocab, const json *added, id_table *ids, om_err *err)
{
    TRY(highest(vocab, false, &ids->n, err));
    TRY(highest(added, true, &ids->n, err));
    ids->vocab = mem_array(ids->n, sizeof(*ids->vocab));
    ids->added = mem_array(ids->n, sizeof(*ids->added));
    if (!ids->vocab || !ids->added)
        return fail(err, OM_ENOMEM, "tokenizer.json: no memory for %u tokens", ids->n);
    for (const json *j = vocab ? vocab->child : NULL; j; j = j->next)
        if (!ids->vocab[json_u64(j, 0)])
            ids->vocab[json_u64(j, 0)] = j;
    for (const json *j = added ? added->child : NULL; j; j = j->next)
        ids->added[json_u64(json_get(j, "id"), 0)] = j;
    return OM_OK;
}

static om_status add_added(tokenizer *t, const json *j, buf *raw, om_err *err)
{
    str text = json_str(json_get(j, "content"), "");
    bool special = json_bool(json_get(j, "special"), false);
    uint8_t flags = (json_bool(json_get(j, "lstrip"), false) ? TOKEN_LSTRIP : 0) |
                    (json_bool(json_get(j, "rstrip"), false) ? TOKEN_RSTRIP : 0);
    om_status s = t->kind == TOK_SPM && !special ? tok_unmap_space(text, raw)
                                                 : buf_str(raw, text);
    if (s != OM_OK)
        return fail(err, s, "tokenizer.json: token %u is too long", t->n);
    return tok_add(t, (str){(char *)raw->data, raw->len}, special ? TOKEN_CONTROL : TOKEN_USER,
                   -INFINITY, flags, err);
}

static om_status add_known(tokenizer *t, str piece, str unk, buf *raw, om_err *err)
{
    int byte = t->kind == TOK_SPM ? tok_parse_byte(piece) : -1;
    token_type type = byte >= 0 ? TOKEN_BYTE
                      : unk.n && str_eq(piece, unk) ? TOKEN_UNKNOWN : TOKEN_NORMAL;
    om_status s = byte >= 0              ? buf_u8(raw, (uint8_t)byte)
                  : t->kind == TOK_SPM   ? tok_unmap_space(piece, raw)
                  : type == TOKEN_NORMAL ? tok_unmap_bytes(piece, raw)
                                         : buf_str(raw, piece);
    if (s != OM_OK)
        return fail(err, s, "tokenizer.json: token %u is too long", t->n);
    return tok_add(t, (str){(char *)raw->data, raw->len}, type, -INFINITY, 0, err);
}

static om_status add_hole(tokenizer *t, buf *raw, om_err *err)
{
    if (buf_fmt(raw, "[PAD%u]", t->n) != OM_OK)
        return fail(err, OM_ENOMEM, "tokenizer.json: no memory");
    return tok_add(t, (str){(char *)raw->data, raw->len}, TOKEN_UNUSED, -INFINITY, 0, err);
}

static om_status add_all(tokenizer *t, const json *vocab, const json *added, str unk, om_err *err)
{
    id_table ids = {0};
    buf raw = buf_growing(4 * TOK_MAX_PIECE);
    om_status s = place(vocab, added, &ids, err);
    for (uint32_t i = 0; s == OM_OK && i < ids.n; i++) {
        raw.len = 0;
        s = ids.added[i]   ? add_added(t, ids.added[i], &raw, err)
            : ids.vocab[i] ? add_known(t, ids.vocab[i]->key, unk, &raw, err)
                           : add_hole(t, &raw, err);
        if (unk.n && t->unk < 0 && ids.vocab[i] && str_eq(ids.vocab[i]->key, unk))
            t->unk = (int32_t)i;
    }
    buf_free(&raw);
    mem_free(ids.vocab);
    mem_free(ids.added);
    return s;
}

/* ---- merges -------------------------------------------------------------------------- */

/* For SentencePiece a merge only says the score of what it makes. */
static void score_merge(tokenizer *t, str joined)
{
    int32_t id = tok_find_word(t, joined);
    t->n_merges++;
    if (id >= 0 && isinf(t->tok[id].score))
        t->tok[id].score = -(float)t->n_merges;
}

static om_status add_pair(tokenizer *t, str left, str right, buf *raw, om_err *err)
{
    om_status (*unmap)(str, buf *) = t->kind == TOK_SPM ? tok_unmap_space : tok_unmap_bytes;
    raw->len = 0;
    om_status s = unmap(left, raw);
    size_t n = raw->len;
    if (s == OM_OK)
        s = unmap(right, raw);
    if (s != OM_OK)
        return fail(err, s, "tokenizer: merge %u is too long", t->n_merges);
    const char *p = (const char *)raw->data;
    if (t->kind == TOK_BPE)
        return tok_add_merge(t, (str){p, n}, (str){p + n, raw->len - n}, err);
    score_merge(t, (str){p, raw->len});
    return OM_OK;
}

static om_status add_line(tokenizer *t, str line, buf *raw, om_err *err)
{
    size_t cut = 1;
    while (cut < line.n && line.p[cut] != ' ')
        cut++;
    if (cut + 1 >= line.n)
        return fail(err, OM_EFORMAT, "tokenizer: merge %u is not two pieces with a blank between",
                    t->n_merges);
    return add_pair(t, (str){line.p, cut}, (str){line.p + cut + 1, line.n - cut - 1}, raw, err);
}

static om_status add_merges(tokenizer *t, const json *merges, om_err *err)
{
    buf raw = buf_growing(4 * TOK_MAX_PIECE);
    om_status s = OM_OK;
    if (t->kind == TOK_BPE)
        s = tok_reserve_merges(t, merges ? merges->count : 0, err);
    for (const json *j = merges ? merges->child : NULL; j && s == OM_OK; j = j->next) {
        if (j->type == JSON_ARRAY && j->count == 2)
            s = add_pair(t, json_str(j->child, ""), json_str(j->child->next, ""), &raw, err);
        else
            s = add_line(t, json_str(j, ""), &raw, err);
    }
    buf_free(&raw);
    return s;
}

/* ---- the parts around the model ------------------------------------------------------ */

/* A part is absent, one object, or a Sequence of them under `list`. */
static om_status each(const json *part, const char *list,
                      om_status (*fn)(void *ctx, const json *one, om_err *err), void *ctx,
                      om_err *err)
{
    if (!present(part))
        return OM_OK;
    if (!type_is(part, "Sequence"))
        return fn(ctx, part, err);
    const json *all = json_get(part, list);
    for (const json *j = all ? all->child : NULL; j; j = j->next)
        TRY(fn(ctx, j, err));
    return OM_OK;
}

static bool is_space_mark(const json *j) { return str_is(json_str(j, ""), "\xE2\x96\x81"); }

static om_status normalizer(void *ctx, const json *j, om_err *err)
{
    tokenizer *t = ctx;
    if (type_is(j, "NFC"))
        return OM_OK;
    if (type_is(j, "Prepend") && is_space_mark(json_get(j, "prepend"))) {
        t->kind = TOK_SPM;
        t->space_prefix = true;
        return OM_OK;
    }
    if (type_is(j, "Replace") && is_space_mark(json_get(j, "content")) &&
        str_is(json_str(json_get(json_get(j, "pattern"), "String"), ""), " ")) {
        t->kind = TOK_SPM;
        return OM_OK;
    }
    return unsupported(err, "normalizer", json_str(json_get(j, "type"), ""));
}

typedef struct {
    tokenizer *t;
    tok_rule *rule[8];
    int n;
    bool byte_level;
} pre_parts;

static om_status add_rule(pre_parts *p, tok_rule *rule, str name, om_err *err)
{
    if (!rule || p->n == 7)
        return unsupported(err, "pre-tokenizer", name);
    p->rule[p->n++] = rule;
    return OM_OK;
}

static om_status split_rule(pre_parts *p, const json *j, om_err *err)
{
    const json *pattern = json_get(j, "pattern");
    str regex = json_str(json_get(pattern, "Regex"), "");
    str behavior = json_str(json_get(j, "behavior"), "");
    bool invert = json_bool(json_get(j, "invert"), false);
    if (p->t->kind == TOK_SPM && str_is(json_str(json_get(pattern, "String"), ""), " "))
        return OM_OK; /* there are no blanks left to split at */
    if (!str_is(behavior, invert ? "Removed" : "Isolated"))
        return unsupported(err, "Split behavior", behavior);
    return add_rule(p, tok_rule_of_regex(regex), regex, err);
}

static om_status metaspace(tokenizer *t, const json *j)
{
    str scheme = json_str(json_get(j, "prepend_scheme"), "");
    t->kind = TOK_SPM;
    t->space_prefix = scheme.n ? !str_is(scheme, "never")
                               : json_bool(json_get(j, "add_prefix_space"), true);
    return OM_OK;
}

static om_status pre_tokenizer(void *ctx, const json *j, om_err *err)
{
    pre_parts *p = ctx;
    str type = json_str(json_get(j, "type"), "");
    if (str_is(type, "Metaspace"))
        return metaspace(p->t, j);
    if (str_is(type, "Split"))
        return split_rule(p, j, err);
    if (str_is(type, "Digits") && json_bool(json_get(j, "individual_digits"), false))
        return add_rule(p, tok_rule_digit, type, err);
    if (!str_is(type, "ByteLevel") || json_bool(json_get(j, "add_prefix_space"), false))
        return unsupported(err, "pre-tokenizer", type);
    p->byte_level = true;
    return json_bool(json_get(j, "use_regex"), true) ? add_rule(p, tok_rule_gpt2, type, err)
                                                     : OM_OK;
}

/* What is put around the text: special tokens before and after the one sequence. */
static om_status post_processor(void *ctx, const json *j, om_err *err)
{
    tokenizer *t = ctx;
    bool after = false;
    if (type_is(j, "ByteLevel"))
        return OM_OK;
    if (!type_is(j, "TemplateProcessing"))
        return unsupported(err, "post-processor", json_str(json_get(j, "type"), ""));
    const json *single = json_get(j, "single");
    for (const json *k = single ? single->child : NULL; k; k = k->next) {
        str name = json_str(json_get(json_get(k, "SpecialToken"), "id"), "");
        int32_t id = name.n ? tok_find_special(t, name) : -1;
        if (!name.n)
            after = true;
        else if (id < 0)
            return unsupported(err, "template token", name);
        else if (after)
            t->eos = id, t->add_eos = true;
        else
            t->bos = id, t->add_bos = true;
    }
    return OM_OK;
}

/* ---- the whole file ------------------------------------------------------------------ */

static int32_t first_known(const tokenizer *t, const char *const *names)
{
    for (; *names; names++) {
        int32_t id = tok_find_special(t, str_of(*names));
        if (id >= 0)
            return id;
    }
    return -1;
}

/* Until tokenizer_config.json says better. */
static void guess_ends(tokenizer *t)
{
    static const char *const bos[] = {"<|begin_of_text|>", "<s>", "<bos>", "<|endoftext|>", NULL};
    static const char *const eos[] = {"<|eot_id|>", "<|im_end|>", "<|end_of_text|>", "</s>",
                                      "<eos>", "<|endoftext|>", NULL};
    if (t->bos < 0)
        t->bos = first_known(t, bos);
    if (t->eos < 0)
        t->eos = first_known(t, eos);
}

static om_status choose_pre(tokenizer *t, const pre_parts *p, bool ignore_merges, om_err *err)
{
    if (t->kind == TOK_SPM)
        return OM_OK;
    if (!p->byte_level)
        return unsupported(err, "pre-tokenizer", STR("(none that is ByteLevel)"));
    t->whole_words_first = ignore_merges;
    t->pre = tok_pre_by_rules(p->rule, ignore_merges);
    return t->pre ? OM_OK : unsupported(err, "pre-tokenizer", STR("Sequence of known parts"));
}

static om_status read_root(tokenizer *t, const json *root, om_err *err)
{
    const json *model = json_get(root, "model");
    pre_parts pre = {.t = t};
    str type = json_str(json_get(model, "type"), "BPE");
    if (!str_is(type, "BPE") || !present(json_get(model, "vocab")))
        return unsupported(err, "model", type);
    if (json_bool(json_get(model, "byte_fallback"), false))
        t->kind = TOK_SPM;
    TRY(each(json_get(root, "normalizer"), "normalizers", normalizer, t, err));
    TRY(each(json_get(root, "pre_tokenizer"), "pretokenizers", pre_tokenizer, &pre, err));
    TRY(choose_pre(t, &pre, json_bool(json_get(model, "ignore_merges"), false), err));
    TRY(add_all(t, json_get(model, "vocab"), json_get(root, "added_tokens"),
                json_str(json_get(model, "unk_token"), ""), err));
    TRY(tok_index(t, err));
    TRY(add_merges(t, json_get(model, "merges"), err));
    TRY(each(json_get(root, "post_processor"), "processors", post_processor, t, err));
    guess_ends(t);
    return tok_ready(t, err);
}

om_status tokenizer_from_hf_json(const void *p, size_t n, tokenizer **out, om_err *err)
{
    tokenizer *t;
    json_doc doc;
    *out = NULL;
    TRY(json_parse(p, n, MAX_NODES, &doc, err));
    om_status s = tok_new(TOK_BPE, &t, err);
    if (s == OM_OK) {
        s = read_root(t, doc.root, err);
        if (s == OM_OK)
            *out = t;
        else
            tokenizer_close(t);
    }
    json_close(&doc);
    return s;
}

/* ---- tokenizer_config.json ----------------------------------------------------------- */

/* A token's text, alone or as {"content": text}. */
static om_status set_token(const tokenizer *t, const json *j, int32_t *id, om_err *err)
{
    if (!present(j))
        return OM_OK;
    str text = json_str(j->type == JSON_OBJECT ? json_get(j, "content") : j, "");
    int32_t found = tok_find_special(t, text);
    if (found < 0)
        found = tok_find_word(t, text);
    if (found < 0)
        return fail(err, OM_EFORMAT, "tokenizer_config.json: \"%.*s\" is not in the vocabulary",
                    (int)size_min(text.n, 60), text.p);
    *id = found;
    return OM_OK;
}

om_status tokenizer_hf_config(tokenizer *t, const void *p, size_t n, om_err *err)
{
    json_doc doc;
    TRY(json_parse(p, n, 0, &doc, err));
    om_status s = set_token(t, json_get(doc.root, "bos_token"), &t->bos, err);
    if (s == OM_OK)
        s = set_token(t, json_get(doc.root, "eos_token"), &t->eos, err);
    t->add_bos = json_bool(json_get(doc.root, "add_bos_token"), t->add_bos);
    t->add_eos = json_bool(json_get(doc.root, "add_eos_token"), t->add_eos);
    if (t->eos >= 0)
        t->tok[t->eos].flags |= TOKEN_END;
    json_close(&doc);
    return s;
}

/* ---- vocab.json + merges.txt --------------------------------------------------------- */

static om_status merge_lines(tokenizer *t, str text, om_err *err)
{
    buf raw = buf_growing(4 * TOK_MAX_PIECE);
    uint64_t lines = 1;
    for (size_t i = 0; i < text.n; i++)
        lines += text.p[i] == '\n';
    om_status s = tok_reserve_merges(t, lines, err);
    for (size_t i = 0, n; i < text.n && s == OM_OK; i += n + 1) {
        const char *p = text.p + i, *nl = memchr(p, '\n', text.n - i);
        n = nl ? (size_t)(nl - p) : text.n - i;
        str line = {p, n && p[n - 1] == '\r' ? n - 1 : n};
        if (line.n && !(i == 0 && str_starts(line, "#version")))
            s = add_line(t, line, &raw, err);
    }
    buf_free(&raw);
    return s;
}

/* <|endoftext|> and its like are not marked in this form; their look says it. */
static void mark_control(tokenizer *t)
{
    for (uint32_t i = 0; i < t->n; i++)
        if (str_starts(tok_raw(t, i), "<|") && str_ends(tok_raw(t, i), "|>"))
            t->tok[i].type = TOKEN_CONTROL;
}

static om_status read_pair(tokenizer *t, const json *vocab, str merges, om_err *err)
{
    if (!vocab || vocab->type != JSON_OBJECT)
        return fail(err, OM_EFORMAT, "vocab.json: not an object of token: id");
    t->pre = tok_pre_find(STR("gpt-2"));
    TRY(add_all(t, vocab, NULL, (str){"", 0}, err));
    mark_control(t);
    TRY(tok_index(t, err));
    TRY(merge_lines(t, merges, err));
    guess_ends(t);
    return tok_ready(t, err);
}

om_status tokenizer_from_vocab_merges(str vocab_json, str merges_txt, tokenizer **out,
                                      om_err *err)
{
    tokenizer *t;
    json_doc doc;
    *out = NULL;
    TRY(json_parse(vocab_json.p, vocab_json.n, MAX_NODES, &doc, err));
    om_status s = tok_new(TOK_BPE, &t, err);
    if (s == OM_OK) {
        s = read_pair(t, doc.root, merges_txt, err);
        if (s == OM_OK)
            *out = t;
        else
            tokenizer_close(t);
    }
    json_close(&doc);
    return s;
}
