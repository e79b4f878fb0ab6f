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
        {0}};
    return test_main(argc, argv, cases);
}
