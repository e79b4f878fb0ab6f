/* test_tokenizer.c - token ids against published vocabularies and test strings, words
 * against an independent regular-expression engine, and files that lie.
 *
 * The vocabularies are llama.cpp's ggml-vocab-*.gguf with its .inp texts and .out ids;
 * those of which the folder has only texts and ids are checked as far as words go
 * (test/golden/pretokenize.txt, made by pretokenize.py with Python's regex module). */
#include "llm/bpe_train.h"
#include "llm/tok_impl.h"
#include "test.h"

#include "base/json.h"
#include "os/os.h"

/* ---- files ----------------------------------------------------------------------- */

static bool read_all(const char *path, buf *out)
{
    om_err err;
    *out = buf_growing(256u << 20);
    return os_read_file(path, 256u << 20, out, &err) == OM_OK;
}

/* A file of the data folder, unpacked when its name ends in .gz. */
static bool read_data(const char *name, buf *out)
{
    char path[512], cmd[1024], temp[128];
    const char *dir = test_data_dir();
    if (!dir)
        return false;
    snprintf(path, sizeof(path), "%s/tokenizers/%s", dir, name);
    if (!os_exists(path))
        return false;
    if (!str_ends(str_of(name), ".gz"))
        return read_all(path, out);
    snprintf(temp, sizeof(temp), "%s/unpacked", test_temp_dir());
    snprintf(cmd, sizeof(cmd), "gzip -dc '%s' > '%s'", path, temp);
    return system(cmd) == 0 && read_all(temp, out);
}

static str str_of_buf(const buf *b) { return (str){(const char *)b->data, b->len}; }

/* The part of *rest before `mark`; false at the end. */
static bool next_part(str *rest, const char *mark, str *part)
{
    size_t n = strlen(mark);
    for (size_t i = 0; i + n <= rest->n; i++)
        if (memcmp(rest->p + i, mark, n) == 0) {
            *part = (str){rest->p, i};
            *rest = (str){rest->p + i + n, rest->n - i - n};
            return true;
        }
    return false;
}

/* ---- published vocabularies ------------------------------------------------------ */

static void check_text(test *t, const tokenizer *k, const char *name, str text, str want)
{
    om_err err = {0};
    int32_t ids[4096];
    size_t n = 0, i = 0;
    CHECK_OK(t, tokenizer_encode(k, text, false, false, ids, countof(ids), &n, &err), err);
    char line[40000];
    buf got = buf_fixed(line, sizeof(line));
    for (i = 0; i < n; i++)
        buf_fmt(&got, " %d", ids[i]);
    t->checks++;
    if (!str_eq(str_of_buf(&got), want))
        test_fail(t, __FILE__, __LINE__, "%s: \"%.*s\" is%.*s, expected%.*s", name, (int)text.n,
                  text.p, (int)got.len, line, (int)want.n, want.p);
    buf back = buf_growing(1 << 20);
    CHECK_OK(t, tokenizer_decode(k, ids, n, false, &back, &err), err);
    CHECK(t, str_eq(str_of_buf(&back), text));
    buf_free(&back);
}

static void check_vectors(test *t, const tokenizer *k, const char *name)
{
    char file[128];
    buf inp, out;
    str text, ids;
    int texts = 0;
    snprintf(file, sizeof(file), "ggml-vocab/ggml-vocab-%s.gguf.inp", name);
    CHECK(t, read_data(file, &inp));
    snprintf(file, sizeof(file), "ggml-vocab/ggml-vocab-%s.gguf.out", name);
    CHECK(t, read_data(file, &out));
    str texts_left = str_of_buf(&inp), ids_left = str_of_buf(&out);
    while (next_part(&texts_left, "\n__ggml_vocab_test__\n", &text) &&
           next_part(&ids_left, "\n", &ids)) {
        check_text(t, k, name, text, ids);
        texts++;
    }
    CHECK(t, texts >= 40);
    buf_free(&inp);
    buf_free(&out);
}

static bool open_vocab(test *t, const char *name, buf *file, gguf *g, tokenizer **k)
{
    char path[128];
    om_err err = {0};
    snprintf(path, sizeof(path), "ggml-vocab/ggml-vocab-%s.gguf.gz", name);
    if (!read_data(path, file))
        return false;
    CHECK_OK(t, gguf_open(file->data, file->len, g, &err), err);
    CHECK_OK(t, tokenizer_from_gguf(g, k, &err), err);
    return *k != NULL;
}

static void vocabulary(test *t, const char *name)
{
    buf file;
    gguf g;
    tokenizer *k;
    if (!open_vocab(t, name, &file, &g, &k)) {
        test_skip(t, "the vocabulary is not in the data folder");
        return;
    }
    check_vectors(t, k, name);
    tokenizer_close(k);
    gguf_close(&g);
    buf_free(&file);
}

static void vocab_gpt2(test *t) { vocabulary(t, "gpt-2"); }
static void vocab_falcon(test *t) { vocabulary(t, "falcon"); }
static void vocab_llama_spm(test *t) { vocabulary(t, "llama-spm"); }
static void vocab_phi3(test *t) { vocabulary(t, "phi-3"); }

/* These are skipped where only their texts and ids are at hand; with the file, all ids. */
static void vocab_llama_bpe(test *t) { vocabulary(t, "llama-bpe"); }
static void vocab_qwen2(test *t) { vocabulary(t, "qwen2"); }
static void vocab_deepseek_r1_qwen(test *t) { vocabulary(t, "deepseek-r1-qwen"); }
static void vocab_deepseek_llm(test *t) { vocabulary(t, "deepseek-llm"); }
static void vocab_command_r(test *t) { vocabulary(t, "command-r"); }
static void vocab_mpt(test *t) { vocabulary(t, "mpt"); }
static void vocab_refact(test *t) { vocabulary(t, "refact"); }
static void vocab_chameleon(test *t) { vocabulary(t, "chameleon"); }
static void vocab_roberta(test *t) { vocabulary(t, "roberta-bpe"); }

/* BERT's word pieces are another kind; the refusal says so. */
static void vocab_bert(test *t)
{
    buf file;
    gguf g;
    tokenizer *k;
    om_err err = {0};
    if (!read_data("ggml-vocab/ggml-vocab-bert-bge.gguf.gz", &file)) {
        test_skip(t, "no data folder");
        return;
    }
    CHECK_OK(t, gguf_open(file.data, file.len, &g, &err), err);
    CHECK_INT(t, tokenizer_from_gguf(&g, &k, &err), OM_EUNSUPPORTED);
    CHECK(t, strstr(err.msg, "\"bert\"") != NULL);
    gguf_close(&g);
    buf_free(&file);
}

/* ---- the same vocabulary through other files ------------------------------------- */

static void gguf_round_trip(test *t, const char *name)
{
    buf file, again;
    gguf g, g2;
    tokenizer *k, *k2 = NULL;
    gguf_writer *w;
    om_err err = {0};
    char path[128];
    if (!open_vocab(t, name, &file, &g, &k)) {
        test_skip(t, "the vocabulary is not in the data folder");
        return;
    }
    snprintf(path, sizeof(path), "%s/again.gguf", test_temp_dir());
    CHECK_OK(t, gguf_writer_open(path, &w, &err), err);
    tokenizer_to_gguf(k, w);
    CHECK_OK(t, gguf_begin_data(w, &err), err);
    CHECK_OK(t, gguf_writer_commit(w, &err), err);
    CHECK(t, read_all(path, &again));
    CHECK_OK(t, gguf_open(again.data, again.len, &g2, &err), err);
    CHECK_OK(t, tokenizer_from_gguf(&g2, &k2, &err), err);
    if (k2) {
        check_vectors(t, k2, name);
        CHECK_INT(t, tokenizer_size(k2), tokenizer_size(k));
        CHECK_INT(t, tokenizer_bos(k2), tokenizer_bos(k));
        CHECK_INT(t, tokenizer_eos(k2), tokenizer_eos(k));
    }
    tokenizer_close(k);
    tokenizer_close(k2);
    gguf_close(&g);
    gguf_close(&g2);
    buf_free(&file);
    buf_free(&again);
}

static void gguf_again_bpe(test *t) { gguf_round_trip(t, "gpt-2"); }
static void gguf_again_spm(test *t) { gguf_round_trip(t, "llama-spm"); }

static void gpt2_files(test *t)
{
    buf vocab, merges;
    tokenizer *k;
    om_err err = {0};
    if (!read_data("bpe/gpt2_vocab.json.gz", &vocab) ||
        !read_data("bpe/gpt2_merges.txt.gz", &merges)) {
        test_skip(t, "no data folder");
        return;
    }
    CHECK_OK(t, tokenizer_from_vocab_merges(str_of_buf(&vocab), str_of_buf(&merges), &k, &err),
             err);
    check_vectors(t, k, "gpt-2");
    CHECK_INT(t, tokenizer_size(k), 50257);
    CHECK_INT(t, tokenizer_eos(k), 50256);
    CHECK(t, tokenizer_is_end(k, 50256));
    tokenizer_close(k);
    buf_free(&vocab);
    buf_free(&merges);
}

/* GPT-2 as a tokenizer.json, merges as strings or as pairs. */
static void put_merges_json(buf *doc, str merges, bool pairs)
{
    str line;
    json_out o = json_to(doc);
    json_open_array(&o, NULL);
    if (str_starts(merges, "#version"))
        next_part(&merges, "\n", &line);
    while (next_part(&merges, "\n", &line)) {
        size_t cut = (size_t)((const char *)memchr(line.p, ' ', line.n) - line.p);
        if (!pairs) {
            json_put_str(&o, NULL, line);
            continue;
        }
        json_open_array(&o, NULL);
        json_put_str(&o, NULL, (str){line.p, cut});
        json_put_str(&o, NULL, (str){line.p + cut + 1, line.n - cut - 1});
        json_shut(&o, ']');
    }
    json_shut(&o, ']');
}

static void hf_gpt2(test *t)
{
    buf vocab, merges;
    if (!read_data("bpe/gpt2_vocab.json.gz", &vocab) ||
        !read_data("bpe/gpt2_merges.txt.gz", &merges)) {
        test_skip(t, "no data folder");
        return;
    }
    for (int pairs = 0; pairs < 2; pairs++) {
        om_err err = {0};
        tokenizer *k;
        buf doc = buf_growing(64 << 20);
        buf_fmt(&doc, "{\"added_tokens\":[{\"id\":50256,\"content\":\"<|endoftext|>\","
                      "\"special\":true}],\"normalizer\":null,\"pre_tokenizer\":{\"type\":"
                      "\"ByteLevel\",\"add_prefix_space\":false},\"post_processor\":{\"type\":"
                      "\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":");
        buf_str(&doc, str_of_buf(&vocab));
        buf_fmt(&doc, ",\"merges\":");
        put_merges_json(&doc, str_of_buf(&merges), pairs);
        buf_fmt(&doc, "}}");
        CHECK_OK(t, tokenizer_from_hf_json(doc.data, doc.len, &k, &err), err);
        if (k)
            check_vectors(t, k, "gpt-2");
        tokenizer_close(k);
        buf_free(&doc);
    }
    buf_free(&vocab);
    buf_free(&merges);
}

static void put_raw(json_out *o, const char *key, const tokenizer *k, uint32_t id)
{
    buf form = buf_growing(1 << 20);
    str raw = tok_raw(k, id);
    if (k->tok[id].type == TOKEN_BYTE)
        buf_fmt(&form, "<0x%02X>", (unsigned)(uint8_t)raw.p[0]);
    else
        tok_map_space(raw, &form);
    if (key)
        json_put_str(o, key, str_of_buf(&form));
    else
        json_put_u64(o, (buf_u8(&form, 0), (const char *)form.data), id);
    buf_free(&form);
}

/* Llama's SentencePiece model the way its export to tokenizer.json makes it: every split
 * of every piece into two pieces is a merge, in the order of the pieces' scores.  They
 * fall with the id, but for runs of spaces, which come last. */
static void put_spm_merges(json_out *o, const tokenizer *k, bool last)
{
    buf form = buf_growing(1 << 20);
    for (uint32_t id = 259; id < k->n; id++) {
        str raw = tok_raw(k, id);
        for (size_t cut = 1; cut < raw.n && (k->tok[id].score < -1e8F) == last; cut++) {
            str a = {raw.p, cut}, b = {raw.p + cut, raw.n - cut};
            if (tok_find_word(k, a) < 0 || tok_find_word(k, b) < 0)
                continue;
            form.len = 0;
            tok_map_space(a, &form);
            buf_u8(&form, ' ');
            tok_map_space(b, &form);
            json_put_str(o, NULL, str_of_buf(&form));
        }
    }
    buf_free(&form);
}

static void hf_llama(test *t)
{
    buf file;
    gguf g;
    tokenizer *k, *h = NULL;
    om_err err = {0};
    if (!open_vocab(t, "llama-spm", &file, &g, &k)) {
        test_skip(t, "the vocabulary is not in the data folder");
        return;
    }
    buf doc = buf_growing(64 << 20);
    json_out o = json_to(&doc);
    json_open_object(&o, NULL);
    json_put_raw(&o, "added_tokens",
                 STR("[{\"id\":0,\"content\":\"<unk>\",\"special\":true},{\"id\":1,\"content\":"
                     "\"<s>\",\"special\":true},{\"id\":2,\"content\":\"</s>\",\"special\":true}]"));
    json_put_raw(&o, "normalizer",
                 STR("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"
                     "\"\\u2581\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},"
                     "\"content\":\"\\u2581\"}]}"));
    json_put_raw(&o, "post_processor",
                 STR("{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
                     "\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}]}"));
    json_open_object(&o, "model");
    json_put_str(&o, "type", STR("BPE"));
    json_put_str(&o, "unk_token", STR("<unk>"));
    json_put_bool(&o, "byte_fallback", true);
    json_open_object(&o, "vocab");
    for (uint32_t id = 0; id < k->n; id++)
        put_raw(&o, NULL, k, id);
    json_shut(&o, '}');
    json_open_array(&o, "merges");
    put_spm_merges(&o, k, false);
    put_spm_merges(&o, k, true);
    json_shut(&o, ']');
    json_shut(&o, '}');
    json_shut(&o, '}');
    CHECK_INT(t, o.status, OM_OK);
    CHECK_OK(t, tokenizer_from_hf_json(doc.data, doc.len, &h, &err), err);
    if (h) {
        check_vectors(t, h, "llama-spm");
        CHECK_INT(t, tokenizer_bos(h), 1);
        CHECK_INT(t, tokenizer_eos(h), 2);
        CHECK(t, tokenizer_adds_bos(h));
    }
    tokenizer_close(h);
    tokenizer_close(k);
    gguf_close(&g);
    buf_free(&doc);
    buf_free(&file);
}

static void llama2c_file(test *t)
{
    buf file;
    tokenizer *k;
    om_err err = {0};
    int32_t ids[16];
    size_t n;
    if (!read_data("llama2-tokenizer.bin", &file)) {
        test_skip(t, "no data folder");
        return;
    }
    CHECK_OK(t, tokenizer_from_llama2c(file.data, file.len, 32000, &k, &err), err);
    check_vectors(t, k, "llama-spm"); /* the same vocabulary */
    CHECK_OK(t, tokenizer_encode(k, STR("a"), true, false, ids, 16, &n, &err), err);
    CHECK_INT(t, n, 2);
    CHECK_INT(t, ids[0], 1);
    CHECK_INT(t, ids[1], 263); /* "_a" */
    tokenizer_close(k);
    /* Cut short anywhere, it is refused. */
    for (size_t cut = 0; cut < 2000; cut++)
        CHECK(t, tokenizer_from_llama2c(file.data, cut, 32000, &k, &err) != OM_OK && !k);
    buf_free(&file);
}

static void sentencepiece_file(test *t)
{
    buf file;
    tokenizer *k;
    om_err err = {0};
    if (!read_data("llama2-tokenizer.model", &file)) {
        test_skip(t, "no data folder");
        return;
    }
    CHECK_OK(t, tokenizer_from_sentencepiece(file.data, file.len, &k, &err), err);
    check_vectors(t, k, "llama-spm");
    CHECK_INT(t, tokenizer_size(k), 32000);
    CHECK_INT(t, tokenizer_eos(k), 2);
    tokenizer_close(k);
    buf_free(&file);
}

/* Small vocabularies: what comes back is the text, where every character has a token. */
static void small_files(test *t)
{
    static const struct {
        const char *name;
        uint32_t n;
    } files[] = {{"tok512.bin", 512}, {"tok1024.bin", 1024}, {"tok105.bin", 105}};
    buf text;
    if (!read_data("bpe/tinystories_sample.txt", &text)) {
        test_skip(t, "no data folder");
        return;
    }
    for (size_t i = 0; i < countof(files); i++) {
        buf file, back = buf_growing(1 << 20);
        tokenizer *k;
        om_err err = {0};
        int32_t ids[8192];
        size_t n;
        CHECK(t, read_data(files[i].name, &file));
        CHECK_OK(t, tokenizer_from_llama2c(file.data, file.len, 0, &k, &err), err);
        CHECK_INT(t, tokenizer_size(k), files[i].n);
        str s = i < 2 ? str_of_buf(&text) : STR("Once upon a time, there was a girl.");
        CHECK_OK(t, tokenizer_encode(k, s, true, false, ids, 8192, &n, &err), err);
        CHECK(t, n > 1 && ids[0] == 1);
        CHECK_OK(t, tokenizer_decode(k, ids, n, false, &back, &err), err);
        CHECK(t, str_eq(str_of_buf(&back), s));
        tokenizer_close(k);
        buf_free(&back);
        buf_free(&file);
    }
    buf_free(&text);
}

/* ---- words ----------------------------------------------------------------------------- */

static om_status put_length(void *ctx, const uint8_t *p, size_t n)
{
    (void)p;
    return buf_fmt(ctx, " %zu", n);
}

static void words(test *t)
{
    buf file, text = buf_growing(1 << 20), got = buf_growing(1 << 20);
    str rest, line;
    int schemes = 0;
    CHECK(t, read_all(OM_SOURCE_DIR "/test/golden/pretokenize.txt", &file));
    rest = str_of_buf(&file);
    while (next_part(&rest, "\n", &line)) {
        const char *blank = memchr(line.p, ' ', line.n);
        if (!blank) {
            text.len = 0;
            CHECK(t, buf_reserve(&text, line.n / 2) == OM_OK &&
                         hex_decode(line, text.data, line.n / 2));
            text.len = line.n / 2;
            continue;
        }
        str name = {line.p, (size_t)(blank - line.p)};
        const tok_pre *pre = tok_pre_find(name);
        CHECK(t, pre != NULL);
        got.len = 0;
        tok_split(pre->rule, text.data, text.len, put_length, &got);
        t->checks++;
        schemes++;
        if (!str_eq(str_of_buf(&got), (str){blank, line.n - name.n}))
            test_fail(t, __FILE__, __LINE__, "%.*s: \"%.*s\" is cut into%.*s, expected%.*s",
                      (int)name.n, name.p, (int)text.len, text.data, (int)got.len, got.data,
                      (int)(line.n - name.n), blank);
    }
    CHECK(t, schemes > 2000);
    buf_free(&file);
    buf_free(&text);
    buf_free(&got);
}

static om_status count_sunk(void *ctx, const uint8_t *p, size_t n)
{
    (void)p;
    *(size_t *)ctx += n;
    return OM_OK;
}

/* No text is slow: every scheme on long runs of one thing (a quadratic scanner would
 * take minutes), and every byte comes out. */
static void words_long(test *t)
{
    static const char *const names[] = {"gpt-2", "llama-bpe", "qwen2", "smollm", "falcon",
                                        "default", "deepseek-llm", "deepseek-coder",
                                        "deepseek-v3", "chameleon"};
    static const char runs[] = " \n\ta1.'$\xFF";
    size_t n = 1 << 18;
    uint8_t *text = mem_alloc(n);
    for (const char *c = runs; *c; c++) {
        memset(text, *c, n);
        text[n - 1] = 'x';
        for (size_t i = 0; i < countof(names); i++) {
            size_t sunk = 0;
            tok_split(tok_pre_find(str_of(names[i]))->rule, text, n, count_sunk, &sunk);
            CHECK_INT(t, sunk, n);
        }
    }
    mem_free(text);
}

/* ---- merging --------------------------------------------------------------------------- */

/* The definition, step by step: of all adjacent pairs that are tokens, the best, leftmost. */
static size_t merge_slowly(const tokenizer *k, const uint8_t *p, size_t n, int32_t *ids)
{
    size_t count = n;
    for (size_t i = 0; i < n; i++)
        ids[i] = k->byte_id[p[i]];
    for (;;) {
        const tok_merge *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < count; i++) {
            const tok_merge *m = tok_merge_of(k, (uint32_t)ids[i], (uint32_t)ids[i + 1]);
            if (m && (!best || m->rank < best->rank)) {
                best = m;
                at = i;
            }
        }
        if (!best)
            return count;
        ids[at] = (int32_t)best->id;
        count--;
        memmove(ids + at + 1, ids + at + 2, (count - at - 1) * sizeof(*ids));
    }
}

static void merging(test *t)
{
    static const char letters[] = "aabbcd e";
    tokenizer *k;
    om_err err = {0};
    rng r = rng_for(3, 0, 0, 0);
    buf text = buf_growing(1 << 20);
    for (int i = 0; i < 4000; i++)
        buf_u8(&text, (uint8_t)letters[rng_below(&r, 8)]);
    CHECK_OK(t, bpe_train(str_of_buf(&text), 400, NULL, 0, &k, &err), err);
    for (int i = 0; i < 300; i++) {
        uint8_t word[400];
        int32_t want[400], got[400];
        tok_encoder e;
        size_t n = 1 + rng_below(&r, 399);
        for (size_t j = 0; j < n; j++)
            word[j] = (uint8_t)letters[rng_below(&r, 6)];
        size_t count = merge_slowly(k, word, n, want);
        tok_encoder_open(&e, k, got, 400, &err);
        CHECK_OK(t, tok_merge_word(&e, word, n), err);
        CHECK_INT(t, e.n, count);
        CHECK(t, memcmp(got, want, count * sizeof(*got)) == 0);
        tok_encoder_close(&e);
    }
    tokenizer_close(k);
    buf_free(&text);
}

/* ---- training -------------------------------------------------------------------------- */

static void train_reference(test *t)
{
    buf corpus, merges, vocab;
    tokenizer *k = NULL;
    om_err err = {0};
    str special = STR("<|endoftext|>"), line;
    if (!read_data("bpe/corpus.en.gz", &corpus)) {
        test_skip(t, "no data folder");
        return;
    }
    CHECK(t, read_data("bpe/train-bpe-reference-merges.txt", &merges));
    CHECK(t, read_data("bpe/train-bpe-reference-vocab.json", &vocab));
    CHECK_OK(t, bpe_train(str_of_buf(&corpus), 500, &special, 1, &k, &err), err);
    CHECK_INT(t, tokenizer_size(k), 500);
    CHECK_INT(t, tokenizer_eos(k), 0);
    str rest = str_of_buf(&merges);
    uint32_t rank = 0;
    while (next_part(&rest, "\n", &line)) { /* as printed: bytes that are blanks look odd */
        buf raw = buf_growing(1 << 16);
        const char *blank = memchr(line.p + 1, ' ', line.n - 1);
        str a = {line.p, (size_t)(blank - line.p)}, b = {blank + 1, line.n - a.n - 1};
        tok_unmap_bytes(a, &raw);
        size_t na = raw.len;
        tok_unmap_bytes(b, &raw);
        int32_t ia = tok_find_word(k, (str){(char *)raw.data, na});
        int32_t ib = tok_find_word(k, (str){(char *)raw.data + na, raw.len - na});
        const tok_merge *m = ia < 0 || ib < 0 ? NULL : tok_merge_of(k, (uint32_t)ia, (uint32_t)ib);
        CHECK(t, m != NULL);
        CHECK_INT(t, m ? m->rank : 0, ++rank);
        buf_free(&raw);
    }
    CHECK_INT(t, rank, 243);
    json_doc doc;
    CHECK_OK(t, json_parse(vocab.data, vocab.len, 0, &doc, &err), err);
    for (const json *j = doc.root->child; j; j = j->next) {
        buf raw = buf_growing(1 << 16);
        tok_unmap_bytes(j->key, &raw);
        if (json_u64(j, 0) > 0)
            CHECK(t, str_eq(tok_raw(k, (uint32_t)json_u64(j, 0)), str_of_buf(&raw)));
        buf_free(&raw);
    }
    CHECK_INT(t, doc.root->count, 500);
    json_close(&doc);
    tokenizer_close(k);
    buf_free(&corpus);
    buf_free(&merges);
    buf_free(&vocab);
}

static void train_small(test *t)
{
    tokenizer *k;
    om_err err = {0};
    str special[] = {STR("<|endoftext|>"), STR("<|user|>")};
    int32_t ids[64];
    size_t n;
    CHECK_OK(t, bpe_train(STR("low low lower<|endoftext|>low newest newest"), 1000, special, 2,
                          &k, &err), err);
    CHECK(t, tokenizer_size(k) > 258 && tokenizer_size(k) < 300); /* pairs ran out */
    CHECK_OK(t, tokenizer_encode(k, STR("newest low"), false, true, ids, 64, &n, &err), err);
    CHECK_INT(t, n, 2); /* newest, _low */
    CHECK_OK(t, tokenizer_encode(k, STR("<|user|> newest<|endoftext|>"), false, true, ids, 64, &n,
                                 &err), err);
    CHECK_INT(t, n, 3);
    CHECK_INT(t, ids[0], 1);
    CHECK_INT(t, ids[2], 0);
    CHECK(t, tokenizer_is_end(k, 0) && !tokenizer_is_end(k, 1));
    tokenizer_close(k);
    CHECK_INT(t, bpe_train(STR("abc"), 255, NULL, 0, &k, &err), OM_EARG);
    CHECK_OK(t, bpe_train(STR(""), 256, NULL, 0, &k, &err), err);
    tokenizer_close(k);
}

/* ---- special tokens ---------------------------------------------------------------------- */

static tokenizer *small_spm(test *t)
{
    static const struct {
        const char *raw;
        token_type type;
        float score;
        uint8_t flags;
    } rows[] = {{"<unk>", TOKEN_UNKNOWN, 0, 0}, {"<s>", TOKEN_CONTROL, 0, 0},
                {"</s>", TOKEN_CONTROL, 0, 0}, {"a", TOKEN_NORMAL, -5, 0},
                {" ", TOKEN_NORMAL, -5, 0}, {" a", TOKEN_NORMAL, -1, 0},
                {"aa", TOKEN_NORMAL, -2, 0}, {"<x>", TOKEN_USER, 0, 0},
                {"<x>a", TOKEN_USER, 0, TOKEN_LSTRIP | TOKEN_RSTRIP}, {"<|eot_id|>", TOKEN_CONTROL, 0, 0}};
    tokenizer *k;
    om_err err = {0};
    CHECK_OK(t, tok_new(TOK_SPM, &k, &err), err);
    for (size_t i = 0; i < countof(rows); i++)
        CHECK_OK(t, tok_add(k, str_of(rows[i].raw), rows[i].type, rows[i].score, rows[i].flags,
                            &err), err);
    k->bos = 1;
    k->eos = 2;
    k->unk = 0;
    k->add_bos = k->space_prefix = true;
    CHECK_OK(t, tok_index(k, &err), err);
    CHECK_OK(t, tok_ready(k, &err), err);
    return k;
}

static void check_ids(test *t, const tokenizer *k, str text, bool special, const char *want)
{
    int32_t ids[64];
    char line[400] = "";
    size_t n;
    om_err err = {0};
    buf got = buf_fixed(line, sizeof(line) - 1);
    CHECK_OK(t, tokenizer_encode(k, text, special, special, ids, 64, &n, &err), err);
    for (size_t i = 0; i < n; i++)
        buf_fmt(&got, i ? " %d" : "%d", ids[i]);
    CHECK_STR(t, line, want);
}

static void specials(test *t)
{
    tokenizer *k = small_spm(t);
    int32_t ids[4];
    size_t n;
    om_err err = {0};
    check_ids(t, k, STR("a"), false, "5");
    check_ids(t, k, STR("a"), true, "1 5");
    check_ids(t, k, STR("aa a"), false, "5 3 5"); /* " a" beats "aa" */
    check_ids(t, k, STR("a</s>a"), true, "1 5 2 5"); /* a text gets its space again */
    check_ids(t, k, STR("</s>"), false, "4 0 0 0 0"); /* a stranger's words stay words */
    check_ids(t, k, STR("a<x>"), false, "5 7");    /* user tokens always */
    check_ids(t, k, STR("a  <x>a  a"), false, "5 8 5"); /* the longest; blanks stripped */
    check_ids(t, k, STR("b"), false, "4 0");
    check_ids(t, k, STR(""), true, "1");
    CHECK(t, tokenizer_is_end(k, 2) && tokenizer_is_end(k, 9) && !tokenizer_is_end(k, 3));
    CHECK(t, !tokenizer_is_end(k, -1) && !tokenizer_is_end(k, 1000));
    CHECK_INT(t, tokenizer_encode(k, STR("aa a"), false, false, ids, 2, &n, &err), OM_ELIMIT);
    CHECK_INT(t, n, 3);
    CHECK_INT(t, ids[1], 3);
    CHECK_INT(t, tokenizer_piece(k, 2, false).n, 0);
    CHECK(t, str_is(tokenizer_piece(k, 2, true), "</s>"));
    CHECK_INT(t, tokenizer_piece(k, 99, true).n, 0);
    ids[0] = 99;
    buf out = buf_growing(100);
    CHECK_INT(t, tokenizer_decode(k, ids, 1, true, &out, &err), OM_EARG);
    buf_free(&out);
    tokenizer_close(k);
}

/* ---- hostile files ----------------------------------------------------------------------- */

static void hf_refuses(test *t)
{
    static const struct {
        const char *doc, *says;
        om_status status;
    } rows[] = {
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "Unigram", OM_EUNSUPPORTED},
        {"{}", "BPE", OM_EUNSUPPORTED},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", "ByteLevel", OM_EUNSUPPORTED},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"x+\"},\"behavior\":"
         "\"Isolated\"},\"model\":{\"vocab\":{\"a\":0}}}", "x+", OM_EUNSUPPORTED},
        {"{\"normalizer\":{\"type\":\"Lowercase\"},\"model\":{\"vocab\":{\"a\":0}}}", "Lowercase",
         OM_EUNSUPPORTED},
        {"{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{\"a\":99999999}}}",
         "id", OM_EFORMAT},
        {"{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{\"a\":0},\"merges\":"
         "[\"a b\"]}}", "\"b\"", OM_EFORMAT},
        {"{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{\"a\":0},\"merges\":"
         "[\"a\"]}}", "blank", OM_EFORMAT},
        {"{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{}}}", "empty",
         OM_EFORMAT},
        {"[1", "", OM_EFORMAT},
    };
    for (size_t i = 0; i < countof(rows); i++) {
        tokenizer *k;
        om_err err = {0};
        CHECK_INT(t, tokenizer_from_hf_json(rows[i].doc, strlen(rows[i].doc), &k, &err),
                  rows[i].status);
        CHECK(t, k == NULL && strstr(err.msg, rows[i].says) != NULL);
    }
}

static void hf_small(test *t)
{
    static const char doc[] =
        "{\"added_tokens\":[{\"id\":3,\"content\":\"<s>\",\"special\":true},{\"id\":6,"
        "\"content\":\"<u>\",\"special\":false}],\"normalizer\":{\"type\":\"NFC\"},"
        "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\","
        "\"individual_digits\":true},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
        "\"use_regex\":true}]},\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
        "[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}]},\"model\":{\"type\":"
        "\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"<s>\":3,\"1\":4},\"merges\":[[\"a\","
        "\"b\"]]}}";
    tokenizer *k;
    om_err err = {0};
    int32_t ids[8];
    size_t n;
    CHECK_OK(t, tokenizer_from_hf_json(doc, sizeof(doc) - 1, &k, &err), err);
    if (!k)
        return;
    CHECK_INT(t, tokenizer_size(k), 7); /* 5 is a hole */
    CHECK_STR(t, k->pre->names, tok_pre_find(STR("smollm"))->names);
    check_ids(t, k, STR("ab11"), true, "3 2 4 4");
    check_ids(t, k, STR("ab<u>a"), false, "2 6 0");
    CHECK_INT(t, tokenizer_encode(k, STR("c"), false, false, ids, 8, &n, &err), OM_EUNSUPPORTED);
    static const char config[] = "{\"eos_token\":{\"content\":\"<u>\"},\"bos_token\":null,"
                                 "\"add_bos_token\":false}";
    CHECK_OK(t, tokenizer_hf_config(k, config, sizeof(config) - 1, &err), err);
    CHECK_INT(t, tokenizer_eos(k), 6);
    CHECK(t, tokenizer_is_end(k, 6) && !tokenizer_adds_bos(k));
    CHECK_INT(t, tokenizer_hf_config(k, STR("{\"eos_token\":\"zz\"}").p, 18, &err), OM_EFORMAT);
    tokenizer_close(k);
}

/* Bytes that are no UTF-8, and every single byte, survive both kinds. */
static void bytes_survive(test *t)
{
    buf file;
    gguf g;
    tokenizer *k;
    om_err err = {0};
    static const char *const names[] = {"gpt-2", "llama-spm"};
    for (size_t v = 0; v < 2; v++) {
        if (!open_vocab(t, names[v], &file, &g, &k)) {
            test_skip(t, "the vocabulary is not in the data folder");
            return;
        }
        rng r = rng_for(11, 0, 0, 0);
        for (int i = 0; i < 500; i++) {
            uint8_t text[300];
            int32_t ids[1000];
            size_t n = rng_below(&r, 300), count;
            for (size_t j = 0; j < n; j++)
                text[j] = i % 2 ? (uint8_t)rng_below(&r, 256)
                                : (uint8_t)" a\xE2\x96\x81\xC3\xA9\n"[rng_below(&r, 8)];
            str s = {(char *)text, n};
            buf out = buf_growing(10000);
            CHECK_OK(t, tokenizer_encode(k, s, false, false, ids, 1000, &count, &err), err);
            CHECK_OK(t, tokenizer_decode(k, ids, count, false, &out, &err), err);
            CHECK(t, str_eq(str_of_buf(&out), s));
            buf_free(&out);
        }
        tokenizer_close(k);
        gguf_close(&g);
        buf_free(&file);
    }
}

#ifdef OM_FAULTS
/* The n-th allocation fails, for every n. */
static void no_memory(test *t)
{
    tokenizer *k = NULL;
    om_err err;
    om_status s = OM_ENOMEM;
    for (long nth = 1; s != OM_OK && nth < 200; nth++) {
        mem_fail_at(nth);
        s = bpe_train(STR("low low lower newest newest"), 270, NULL, 0, &k, &err);
        mem_fail_at(0);
        CHECK(t, (s == OM_OK) == (k != NULL));
        CHECK(t, s == OM_OK || s == OM_ENOMEM);
    }
    CHECK_INT(t, s, OM_OK);
    tokenizer_close(k);
}
#endif

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"vocab_gpt2", "all ids of GPT-2", vocab_gpt2},
        {"vocab_falcon", "all ids of Falcon", vocab_falcon},
        {"vocab_llama_spm", "all ids of Llama 2", vocab_llama_spm},
        {"vocab_phi3", "all ids of Phi-3", vocab_phi3},
        {"vocab_llama_bpe", "all ids of Llama 3", vocab_llama_bpe},
        {"vocab_qwen2", "all ids of Qwen2", vocab_qwen2},
        {"vocab_deepseek_r1_qwen", "all ids of DeepSeek R1", vocab_deepseek_r1_qwen},
        {"vocab_deepseek_llm", "all ids of DeepSeek LLM", vocab_deepseek_llm},
        {"vocab_command_r", "all ids of Command R", vocab_command_r},
        {"vocab_mpt", "all ids of MPT", vocab_mpt},
        {"vocab_refact", "all ids of Refact", vocab_refact},
        {"vocab_chameleon", "all ids of Chameleon", vocab_chameleon},
        {"vocab_roberta", "all ids of RoBERTa", vocab_roberta},
        {"vocab_bert", "word pieces are refused by name", vocab_bert},
        {"gguf_again_bpe", "written to a GGUF and read again", gguf_again_bpe},
        {"gguf_again_spm", "written to a GGUF and read again", gguf_again_spm},
        {"gpt2_files", "vocab.json and merges.txt", gpt2_files},
        {"hf_gpt2", "tokenizer.json, byte-level", hf_gpt2},
        {"hf_llama", "tokenizer.json, byte fallback", hf_llama},
        {"llama2c_file", "llama2.c's tokenizer.bin", llama2c_file},
        {"sentencepiece_file", "SentencePiece's tokenizer.model", sentencepiece_file},
        {"small_files", "tokenizers of small models", small_files},
        {"words", "cuts of published expressions", words},
        {"words_long", "no text is slow to cut", words_long},
        {"merging", "the heap merges as the definition", merging},
        {"train_reference", "merges of the reference trainer", train_reference},
        {"train_small", "special tokens, ends of training", train_small},
        {"specials", "control, user, end, limits", specials},
        {"hf_refuses", "unknown parts are named", hf_refuses},
        {"hf_small", "added tokens, template, config", hf_small},
        {"bytes_survive", "decode of encode is any text", bytes_survive},
#ifdef OM_FAULTS
        {"no_memory", "every allocation may fail", no_memory},
#endif
        {0}};
    return test_main(argc, argv, cases);
}
