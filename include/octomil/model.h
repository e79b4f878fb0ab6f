/* octomil/model.h - a language model in memory: open it, ask what it is, turn text into
 * tokens and back, write it as another file.
 *
 * Opened from a .gguf file, a Hugging Face folder (config.json, *.safetensors,
 * tokenizer.json) or a llama2.c checkpoint.  Weights are mapped, not read: opening is
 * quick and several processes share the pages.
 *
 * Thread safety: a model does not change after om_model_open; any number of threads and
 * sessions may use one at the same time.  Close it after its last session.
 *
 * Structs are plain; an all-zero struct, or NULL in its place, means the defaults. */
#ifndef OCTOMIL_MODEL_H
#define OCTOMIL_MODEL_H

#include "octomil/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct om_model om_model;

typedef struct {
    const char *tokenizer; /* a file to use instead of the model's own tokenizer */
} om_model_opts;

OM_API om_status om_model_open(const char *path, const om_model_opts *opts, om_model **out,
                               om_err *err);
OM_API void om_model_close(om_model *m); /* NULL is allowed */

/* Strings live as long as the model. */
typedef struct {
    const char *family;           /* "llama", "qwen2", ... */
    uint32_t vocab, dim, layers, heads, kv_heads, head_dim, ffn, context;
    uint64_t parameters;
    uint64_t weight_bytes;        /* as stored */
    bool has_tokenizer;
    const char *chat_template;    /* "chatml", "llama3", ...; NULL: none recognised */
} om_model_info;

OM_API void om_model_describe(const om_model *m, om_model_info *out);

enum {
    OM_TOKENIZE_PLAIN = 1u << 0,   /* no BOS or EOS around the text                 */
    OM_TOKENIZE_SPECIAL = 1u << 1, /* "<|eot_id|>" in the text becomes that token:
                                      never for text from somebody you do not trust */
};

/* At most cap ids are written; *n is the number there are, so OM_ELIMIT with *n > cap says
 * how much room to bring. */
OM_API om_status om_tokenize(const om_model *m, const char *text, size_t text_bytes,
                             unsigned flags, int32_t *ids, size_t cap, size_t *n,
                             om_err *err);
/* The same for the text of tokens, which is not NUL-terminated. */
OM_API om_status om_detokenize(const om_model *m, const int32_t *ids, size_t n, char *text,
                               size_t cap, size_t *text_bytes, om_err *err);

/* Write as one GGUF file with matrices of `type`: "F32", "F16", "BF16", "Q8_0", "Q4_0",
 * "Q4_K", "Q6_K", ...; NULL keeps every matrix's own type.  Rows whose length a type
 * cannot hold fall back to Q8_0 or F16.  Replaces `path` at once or not at all. */
OM_API om_status om_model_save(const om_model *m, const char *path, const char *type,
                               om_progress_fn *progress, void *ctx, om_err *err);

#ifdef __cplusplus
}
#endif
#endif
