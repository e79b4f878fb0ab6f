/* cmd_create.c - a new, untrained Llama-family model: a byte-level BPE vocabulary learnt
 * from a text, and random weights of the asked shape, as one GGUF file.
 *
 * Weights start normal with deviation 0.02; the matrices that write to the residual
 * stream (attn_output, ffn_down) with 0.02 / sqrt(2 layers), as GPT-2 does, so that its
 * variance does not grow with depth. */
#include "cli/cli.h"
#include "llm/bpe_train.h"

#include <math.h>
#include <stdio.h>

typedef struct {
    uint64_t vocab, dim, layers, heads, kv_heads, ffn, context, seed, experts, used;
    bool tied;
} shape;

static om_status read_shape(cli *c, shape *s, om_err *err)
{
    TRY(cli_u64(c, "vocab", 300, 1000000, &s->vocab, err));
    TRY(cli_u64(c, "dim", 8, 65536, &s->dim, err));
    TRY(cli_u64(c, "layers", 1, 1000, &s->layers, err));
    TRY(cli_u64(c, "heads", 1, 1024, &s->heads, err));
    s->kv_heads = s->heads;
    if (cli_given(c, "kv-heads"))
        TRY(cli_u64(c, "kv-heads", 1, 1024, &s->kv_heads, err));
    s->ffn = (s->dim * 8 / 3 + 31) / 32 * 32;
    if (cli_given(c, "ffn"))
        TRY(cli_u64(c, "ffn", 1, 1 << 20, &s->ffn, err));
    TRY(cli_u64(c, "experts", 0, 1024, &s->experts, err));
    TRY(cli_u64(c, "experts-used", 1, 1024, &s->used, err));
    if (s->experts && s->used > s->experts)
        return fail(err, OM_EARG, "create: a token cannot use %llu of %llu experts",
                    (unsigned long long)s->used, (unsigned long long)s->experts);
    TRY(cli_u64(c, "context", 2, 1 << 20, &s->context, err));
    TRY(cli_u64(c, "seed", 0, UINT64_MAX, &s->seed, err));
    s->tied = !cli_flag(c, "untied");
    if (s->dim % s->heads || s->heads % s->kv_heads || s->dim / s->heads % 2)
        return fail(err, OM_EARG, "create: dim %llu must be a multiple of %llu heads with an "
                                  "even quotient, and heads a multiple of %llu kv-heads",
                    (unsigned long long)s->dim, (unsigned long long)s->heads,
                    (unsigned long long)s->kv_heads);
    return OM_OK;
}

/* ---- the file: tensors in a fixed order, announced and then written -------------------------- */

typedef struct {
    gguf_writer *w;
    const shape *s;
    bool announce;      /* first pass: infos; second: data */
    uint32_t index;     /* of the tensor: its random stream */
    float *row;
    om_status status;
    om_err *err;
} filler;

/* A stack of `count` matrices (0: a matrix); deviation 0: a vector of ones. */
static void put(filler *f, const char *name, uint64_t count, uint64_t rows, uint64_t cols,
                double deviation)
{
    tensor t = {.name = str_of(name), .type = DTYPE_F32, .dim = {1, 1, 1, 1}};
    if (count)
        t.dim[t.n_dims++] = count;
    if (deviation > 0)
        t.dim[t.n_dims++] = rows;
    t.dim[t.n_dims++] = cols;
    rows *= count ? count : 1;
    if (f->announce) {
        gguf_put_tensor_info(f->w, &t);
        return;
    }
    rng r = rng_for(f->s->seed, 0, f->index++, 0x1417);
    for (uint64_t i = 0; i < rows && f->status == OM_OK; i++) {
        for (uint64_t j = 0; j < cols; j++)
            f->row[j] = deviation > 0 ? (float)(deviation * rng_normal(&r)) : 1.0f;
        f->status = gguf_write_data(f->w, f->row, cols * sizeof(float), f->err);
    }
}

static void put_layer(filler *f, uint64_t layer)
{
    const shape *s = f->s;
    char name[64];
    uint64_t kv = s->dim / s->heads * s->kv_heads;
    double residual = 0.02 / sqrt(2.0 * (double)s->layers);
    const struct {
        const char *name;
        uint64_t rows, cols;
        double deviation;
        enum { ALWAYS, DENSE, MIXED, STACK } when;
    } part[] = {
        {"attn_norm", 1, s->dim, 0, ALWAYS},
        {"attn_q", s->dim, s->dim, 0.02, ALWAYS},
        {"attn_k", kv, s->dim, 0.02, ALWAYS},
        {"attn_v", kv, s->dim, 0.02, ALWAYS},
        {"attn_output", s->dim, s->dim, residual, ALWAYS},
        {"ffn_norm", 1, s->dim, 0, ALWAYS},
        {"ffn_gate", s->ffn, s->dim, 0.02, DENSE},
        {"ffn_up", s->ffn, s->dim, 0.02, DENSE},
        {"ffn_down", s->dim, s->ffn, residual, DENSE},
        {"ffn_gate_inp", s->experts, s->dim, 0.02, MIXED},
        {"ffn_gate_exps", s->ffn, s->dim, 0.02, STACK},
        {"ffn_up_exps", s->ffn, s->dim, 0.02, STACK},
        {"ffn_down_exps", s->dim, s->ffn, residual, STACK},
    };
    for (size_t i = 0; i < countof(part); i++) {
        if (part[i].when != ALWAYS && (part[i].when == DENSE) == (s->experts > 0))
            continue;
        snprintf(name, sizeof(name), "blk.%u.%s.weight", (unsigned)layer, part[i].name);
        put(f, name, part[i].when == STACK ? s->experts : 0, part[i].rows, part[i].cols,
            part[i].deviation);
    }
}

static void put_all(filler *f)
{
    const shape *s = f->s;
    put(f, "token_embd.weight", 0, s->vocab, s->dim, 0.02);
    for (uint64_t i = 0; i < s->layers; i++)
        put_layer(f, i);
    put(f, "output_norm.weight", 0, 1, s->dim, 0);
    if (!s->tied)
        put(f, "output.weight", 0, s->vocab, s->dim, 0.02);
}

static void put_metadata(gguf_writer *w, const shape *s, const char *name)
{
    gguf_put_str(w, "general.architecture", STR("llama"));
    gguf_put_str(w, "general.name", str_of(name));
    gguf_put_u32(w, "llama.block_count", (uint32_t)s->layers);
    gguf_put_u32(w, "llama.context_length", (uint32_t)s->context);
    gguf_put_u32(w, "llama.embedding_length", (uint32_t)s->dim);
    gguf_put_u32(w, "llama.feed_forward_length", (uint32_t)s->ffn);
    gguf_put_u32(w, "llama.attention.head_count", (uint32_t)s->heads);
    gguf_put_u32(w, "llama.attention.head_count_kv", (uint32_t)s->kv_heads);
    gguf_put_u32(w, "llama.rope.dimension_count", (uint32_t)(s->dim / s->heads));
    gguf_put_f32(w, "llama.rope.freq_base", 10000.0f);
    gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    if (s->experts) {
        gguf_put_u32(w, "llama.expert_count", (uint32_t)s->experts);
        gguf_put_u32(w, "llama.expert_used_count", (uint32_t)s->used);
    }
    gguf_put_u32(w, "llama.vocab_size", (uint32_t)s->vocab);
}

static om_status write_model(const shape *s, const tokenizer *tok, const char *path,
                             om_err *err)
{
    filler f = {.s = s, .announce = true, .err = err};
    f.row = mem_array(size_max(s->dim, s->ffn), sizeof(float));
    if (!f.row)
        return fail(err, OM_ENOMEM, "create: no memory for a row");
    om_status status = gguf_writer_open(path, &f.w, err);
    if (status == OM_OK) {
        put_metadata(f.w, s, "octomil");
        tokenizer_to_gguf(tok, f.w);
        put_all(&f);
        f.announce = false;
        f.status = gguf_begin_data(f.w, err);
        put_all(&f);
        status = f.status;
        if (status == OM_OK)
            status = gguf_writer_commit(f.w, err);
        else
            gguf_writer_abort(f.w);
    }
    mem_free(f.row);
    return status;
}

static om_status run(cli *c, om_err *err)
{
    shape s;
    buf text = {0};
    tokenizer *tok = NULL;
    str end = STR("<|endoftext|>");
    if (!cli_given(c, "text"))
        return fail(err, OM_EARG, "create needs --text FILE to learn the vocabulary from");
    TRY(read_shape(c, &s, err));
    TRY(os_read_file(cli_str(c, "text"), 1u << 30, &text, err));
    om_status status = bpe_train((str){(char *)text.data, text.len}, (uint32_t)s.vocab, &end, 1,
                                 &tok, err);
    buf_free(&text);
    TRY(status);
    s.vocab = tokenizer_size(tok); /* a short text gives fewer merges */
    status = write_model(&s, tok, c->operand[0], err);
    tokenizer_close(tok);
    if (status == OM_OK && c->json)
        cli_print(c, "{\"vocab\":%llu}\n", (unsigned long long)s.vocab);
    else if (status == OM_OK)
        cli_print(c, "wrote %s: an untrained model with %llu tokens\n", c->operand[0],
                  (unsigned long long)s.vocab);
    return status;
}

static const cli_option options[] = {
    {"text", 0, "FILE", NULL, "text to learn the vocabulary from", false},
    {"vocab", 0, "N", "1024", "tokens", false},
    {"dim", 0, "N", "128", "width", false},
    {"layers", 0, "N", "4", "blocks", false},
    {"heads", 0, "N", "4", "attention heads", false},
    {"kv-heads", 0, "N", NULL, "key-value heads (default: as many as heads)", false},
    {"ffn", 0, "N", NULL, "feed-forward width (default: 8/3 of dim, rounded up to 32)", false},
    {"experts", 0, "N", "0", "a mixture of so many feed-forward networks; 0: one for all", false},
    {"experts-used", 0, "N", "2", "experts of a token", false},
    {"context", 0, "N", "256", "longest context", false},
    {"untied", 0, NULL, NULL, "an output matrix of its own", false},
    {"seed", 0, "N", "1", "for the weights", false},
    {0},
};

const command command_create = {
    .name = "create", .summary = "make a new, untrained model and its vocabulary",
    .operands = "OUT.gguf", .min_operands = 1, .max_operands = 1, .options = options,
    .run = run,
    .details = "Then: octomil train --full --model OUT.gguf --data text.txt --steps 2000\n",
};
