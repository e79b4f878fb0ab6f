/* bench_model.c - a model file of a real shape with random weights, to measure speed.
 *
 *     bench_model SHAPE TYPE OUT.gguf
 *     SHAPE  llama32-1b | qwen25-05b | llama-32m        TYPE  Q4_0 | Q4_K_M | Q8_0 | F16
 *
 * Speed does not depend on the values, so a few rows are drawn and packed and then
 * repeated.  The vocabulary is made up: the byte tokens and t0, t1, ...  Types follow what
 * llama-quantize chooses: the output matrix (here the embedding, for all shapes are tied)
 * is Q6_K in 4-bit files; Q4_K_M takes Q6_K for v and down in the first and last eighth of
 * the layers and every third between; where 256 does not divide the columns, Q6_K becomes
 * Q8_0 and Q4_K becomes Q5_0. */
#include "fmt/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 32, MOST_COLS = 8192, NAME = 64 };

typedef struct {
    const char *name, *arch;
    uint32_t vocab, dim, layers, heads, kv_heads, ffn;
    bool bias;
    float theta;
} shape;

static const shape shapes[] = {
    {"llama32-1b", "llama", 128256, 2048, 16, 32, 8, 8192, false, 500000},
    {"qwen25-05b", "qwen2", 151936, 896, 24, 14, 2, 4864, true, 1000000},
    {"llama-32m", "llama", 32000, 512, 8, 8, 4, 1536, false, 10000},
};

typedef enum { PART_OUTPUT, PART_MORE, PART_OTHER } part_kind;

typedef struct {
    const shape *s;
    const char *type;
    gguf_writer *w;
    bool announce;
    float row[MOST_COLS];
    uint8_t packed[ROWS][MOST_COLS * 4];
    om_status status;
    om_err err;
} maker;

static dtype type_for(const maker *k, part_kind kind, uint32_t cols)
{
    dtype t = dtype_find(str_of(k->type));
    bool mix = strcmp(k->type, "Q4_K_M") == 0;
    if (mix)
        t = kind == PART_OTHER ? DTYPE_Q4_K : DTYPE_Q6_K;
    else if (t == DTYPE_Q4_0 && kind == PART_OUTPUT)
        t = DTYPE_Q6_K;
    if (t == DTYPE_Q6_K && cols % QK)
        return DTYPE_Q8_0;
    return t == DTYPE_Q4_K && cols % QK ? DTYPE_Q5_0 : t;
}

static bool more_bits(uint32_t i, uint32_t n)
{
    return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
}

static void put_data(maker *k, dtype t, uint64_t rows, uint64_t cols, bool ones)
{
    size_t bytes;
    rng r = rng_for(1, (uint32_t)cols, (uint32_t)t, 0);
    uint64_t distinct = rows < ROWS ? rows : ROWS;
    dtype_row_bytes(t, cols, &bytes);
    for (uint64_t i = 0; i < distinct; i++) {
        for (uint64_t j = 0; j < cols; j++)
            k->row[j] = ones ? 1.0f : (float)(0.02 * rng_normal(&r));
        dtype_of(t)->pack(k->row, k->packed[i], cols);
    }
    for (uint64_t i = 0; i < rows && k->status == OM_OK; i++)
        k->status = gguf_write_data(k->w, k->packed[i % distinct], bytes, &k->err);
}

static void put(maker *k, const char *name, uint64_t rows, uint64_t cols, part_kind kind)
{
    bool vector = rows == 1;
    dtype t = vector ? DTYPE_F32 : type_for(k, kind, (uint32_t)cols);
    tensor info = {.name = str_of(name), .type = t, .n_dims = vector ? 1 : 2,
                   .dim = {vector ? cols : rows, vector ? 1 : cols, 1, 1}};
    if (k->announce)
        gguf_put_tensor_info(k->w, &info);
    else
        put_data(k, t, rows, cols, vector);
}

static void put_layer(maker *k, uint32_t i)
{
    const shape *s = k->s;
    uint32_t kv = s->dim / s->heads * s->kv_heads;
    part_kind mixed = more_bits(i, s->layers) ? PART_MORE : PART_OTHER;
    const struct {
        const char *name;
        uint32_t rows, cols;
        part_kind kind;
        bool bias;
    } part[] = {
        {"attn_norm.weight", 1, s->dim, PART_OTHER, false},
        {"attn_q.weight", s->dim, s->dim, PART_OTHER, false},
        {"attn_q.bias", 1, s->dim, PART_OTHER, true},
        {"attn_k.weight", kv, s->dim, PART_OTHER, false},
        {"attn_k.bias", 1, kv, PART_OTHER, true},
        {"attn_v.weight", kv, s->dim, mixed, false},
        {"attn_v.bias", 1, kv, PART_OTHER, true},
        {"attn_output.weight", s->dim, s->dim, PART_OTHER, false},
        {"ffn_norm.weight", 1, s->dim, PART_OTHER, false},
        {"ffn_gate.weight", s->ffn, s->dim, PART_OTHER, false},
        {"ffn_up.weight", s->ffn, s->dim, PART_OTHER, false},
        {"ffn_down.weight", s->dim, s->ffn, mixed, false},
    };
    for (size_t j = 0; j < countof(part); j++) {
        char name[NAME];
        if (part[j].bias && !s->bias)
            continue;
        snprintf(name, sizeof(name), "blk.%u.%s", i, part[j].name);
        put(k, name, part[j].rows, part[j].cols, part[j].kind);
    }
}

static void put_tensors(maker *k)
{
    put(k, "token_embd.weight", k->s->vocab, k->s->dim, PART_OUTPUT);
    for (uint32_t i = 0; i < k->s->layers; i++)
        put_layer(k, i);
    put(k, "output_norm.weight", 1, k->s->dim, PART_OTHER);
}

static void put_u32(maker *k, const char *key, uint32_t v)
{
    char name[NAME];
    snprintf(name, sizeof(name), "%s.%s", k->s->arch, key);
    gguf_put_u32(k->w, name, v);
}

static void put_hparams(maker *k)
{
    const shape *s = k->s;
    char name[NAME];
    gguf_put_str(k->w, "general.architecture", str_of(s->arch));
    gguf_put_str(k->w, "general.name", str_of(s->name));
    put_u32(k, "block_count", s->layers);
    put_u32(k, "context_length", 32768);
    put_u32(k, "embedding_length", s->dim);
    put_u32(k, "feed_forward_length", s->ffn);
    put_u32(k, "attention.head_count", s->heads);
    put_u32(k, "attention.head_count_kv", s->kv_heads);
    put_u32(k, "rope.dimension_count", s->dim / s->heads);
    put_u32(k, "vocab_size", s->vocab);
    snprintf(name, sizeof(name), "%s.rope.freq_base", s->arch);
    gguf_put_f32(k->w, name, s->theta);
    snprintf(name, sizeof(name), "%s.attention.layer_norm_rms_epsilon", s->arch);
    gguf_put_f32(k->w, name, 1e-5f);
}

/* SentencePiece style: unknown, begin, end, 256 bytes, then made-up words. */
static bool put_vocabulary(maker *k)
{
    enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, BYTE = 6, FIRST = 259, TEXT = 12 };
    uint32_t n = k->s->vocab;
    char(*text)[TEXT] = calloc(n, TEXT);
    str *word = calloc(n, sizeof(*word));
    float *score = calloc(n, sizeof(*score));
    int32_t *kind = calloc(n, sizeof(*kind));
    bool ok = text && word && score && kind;
    for (uint32_t i = 0; ok && i < n; i++) {
        static const char *const special[] = {"<unk>", "<s>", "</s>"};
        if (i < 3)
            snprintf(text[i], TEXT, "%s", special[i]);
        else if (i < FIRST)
            snprintf(text[i], TEXT, "<0x%02X>", i - 3);
        else
            snprintf(text[i], TEXT, "t%u", i);
        word[i] = str_of(text[i]);
        score[i] = -(float)i;
        kind[i] = i == 0 ? UNKNOWN : i < 3 ? CONTROL : i < FIRST ? BYTE : NORMAL;
    }
    if (ok) {
        gguf_put_str(k->w, "tokenizer.ggml.model", STR("llama"));
        gguf_put_strings(k->w, "tokenizer.ggml.tokens", word, n);
        gguf_put_array(k->w, "tokenizer.ggml.scores", GGUF_F32, score, n);
        gguf_put_array(k->w, "tokenizer.ggml.token_type", GGUF_I32, kind, n);
        gguf_put_u32(k->w, "tokenizer.ggml.unknown_token_id", 0);
        gguf_put_u32(k->w, "tokenizer.ggml.bos_token_id", 1);
        gguf_put_u32(k->w, "tokenizer.ggml.eos_token_id", 2);
    }
    free(text);
    free(word);
    free(score);
    free(kind);
    return ok;
}

static om_status make(maker *k, const char *path)
{
    k->status = gguf_writer_open(path, &k->w, &k->err);
    if (k->status != OM_OK)
        return k->status;
    put_hparams(k);
    if (!put_vocabulary(k))
        k->status = fail(&k->err, OM_ENOMEM, "no memory for the vocabulary");
    k->announce = true;
    put_tensors(k);
    k->announce = false;
    if (k->status == OM_OK)
        k->status = gguf_begin_data(k->w, &k->err);
    if (k->status == OM_OK)
        put_tensors(k);
    if (k->status == OM_OK)
        return gguf_writer_commit(k->w, &k->err);
    gguf_writer_abort(k->w);
    return k->status;
}

int main(int argc, char **argv)
{
    static maker k;
    for (size_t i = 0; argc == 4 && i < countof(shapes); i++)
        if (strcmp(argv[1], shapes[i].name) == 0)
            k.s = &shapes[i];
    if (argc == 4)
        k.type = argv[2];
    if (!k.s || (dtype_find(str_of(k.type)) == DTYPE_COUNT && strcmp(k.type, "Q4_K_M"))) {
        fprintf(stderr, "usage: bench_model llama32-1b|qwen25-05b|llama-32m "
                        "Q4_0|Q4_K_M|Q8_0|F16 OUT.gguf\n");
        return 2;
    }
    if (make(&k, argv[3]) != OM_OK) {
        fprintf(stderr, "bench_model: %s\n", k.err.msg);
        return 1;
    }
    return 0;
}
