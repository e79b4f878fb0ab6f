/* model_impl.h - private to llm/: how a model is put together from a file.
 *
 * A source (model_gguf.c, hf.c, model_llama2c.c) maps its files, fills the
 * hyper-parameters and hands over a lookup of tensors by name; model_bind.c checks every
 * shape against the family's name table and makes the weights. */
#ifndef LLM_MODEL_IMPL_H
#define LLM_MODEL_IMPL_H

#include "base/json.h"
#include "fmt/llama2c.h"
#include "fmt/safetensors.h"
#include "llm/arch/names.h"

/* Everything a model owns.  A zeroed one owns nothing; model_close frees what is set. */
typedef struct {
    os_map *map;          /* (n_maps) */
    safetensors *st;      /* (n_st), the shards of a folder */
    uint32_t n_maps, n_st;
    os_map tok_map;       /* a tokenizer's own file */
    bool has_tok_map;
    gguf g;
    bool has_gguf;
    llama2c l2c;
    bool has_l2c;
    char *names;          /* text of every weight's name */
    void **copy;          /* (n_copies) weights that could not stay views */
    uint32_t n_copies;
    float *factors;       /* rope frequency factors (n_rot/2) */
    nn_weight *weights;
    llm_layer *layers;
    char *chat_text, *name_text, *path;
} llm_owned;

typedef struct {
    /* NULL when there is none.  The view lives as long as the model. */
    const tensor *(*find)(void *ctx, const char *name);
    void *ctx;
    bool hf;              /* Hugging Face names, and matrices may be (in, out) */
} llm_source;

/* Fill m->weight, m->layer and the role pointers; every shape is checked. */
om_status llm_bind(llm_model *m, const llm_source *s, om_err *err);
/* "blk.#.x" with the block number put in; names are under LLM_NAME_BYTES. */
enum { LLM_NAME_BYTES = 64 };
void llm_name_put(char out[LLM_NAME_BYTES], const char *pattern, uint32_t layer);

/* Refuse hyper-parameters no real model has, before anything is sized by them. */
om_status llm_check_hparams(const llm_hparams *h, om_err *err);
/* Llama 3's published scaling as divisors of the frequencies, (n_rot/2) into out. */
typedef struct {
    double factor, low_freq, high_freq, ctx_orig;
} llama3_scaling;
void llm_llama3_factors(const nn_rope_args *r, const llama3_scaling *s, float *out);

/* own_tok: also open the tokenizer that comes with the model. */
om_status llm_open_gguf(llm_model *m, const char *path, bool own_tok, om_err *err);
om_status llm_open_hf(llm_model *m, const char *dir, bool own_tok, om_err *err);
om_status llm_open_llama2c(llm_model *m, const char *path, bool own_tok, om_err *err);
/* m->tok from a file of any known kind, which stays mapped. */
om_status llm_take_tokenizer(llm_model *m, const char *path, om_err *err);
static inline llm_owned *owned_by(const llm_model *m) { return m->owned_; }

#endif
