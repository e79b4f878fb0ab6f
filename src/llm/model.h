/* model.h - a language model: hyper-parameters, weights by role, tokenizer, and the
 * families that know how to run it.
 *
 * om_model (public, octomil/model.h) is this struct, opaque.  Opened from a .gguf, a
 * Hugging Face folder (config.json + *.safetensors + tokenizer.json) or a llama2.c
 * checkpoint; weights are views of mapped files, never copied.  Immutable after open,
 * except for adapters (adapt/), so any number of sessions may share it. */
#ifndef LLM_MODEL_H
#define LLM_MODEL_H

#include "fmt/gguf.h"
#include "llm/tokenizer.h"
#include "nn/nn.h"

typedef struct {
    uint32_t vocab, dim, n_layer, n_head, n_kv_head, head_dim, ffn, context;
    uint32_t window;       /* sliding-window attention, 0: none */
    float norm_eps;
    float attn_scale;      /* 0: 1/sqrt(head_dim) */
    nn_rope_args rope;
    bool tied;             /* output shares the embedding */
    /* A mixture of experts; n_expert 0: none.  shared_ffn 0: no shared expert. */
    uint32_t n_expert, n_expert_used, expert_ffn, shared_ffn;
    bool expert_norm;      /* the weights of the experts used add up to one */
} llm_hparams;

/* Shapes: q (n_head*head_dim, dim), k v (n_kv_head*head_dim, dim), o (dim, n_head*head_dim),
 * gate up (ffn, dim), down (dim, ffn); norms and biases (1, n) and always F32.  Experts lie
 * in stacks, one after the other: expert_gate expert_up (n_expert*expert_ffn, dim),
 * expert_down (n_expert*dim, expert_ffn); router (n_expert, dim), shared_router (1, dim),
 * shared_* like gate, up and down. */
typedef struct {           /* NULL where a family has no such weight */
    nn_weight *attn_norm, *attn_norm_b, *q, *q_b, *k, *k_b, *v, *v_b, *o, *o_b;
    nn_weight *q_norm, *k_norm;
    nn_weight *ffn_norm, *ffn_norm_b, *gate, *gate_b, *up, *up_b, *down, *down_b;
    nn_weight *router, *expert_gate, *expert_up, *expert_down;
    nn_weight *shared_router, *shared_gate, *shared_up, *shared_down;
} llm_layer;

typedef struct llm_arch llm_arch;

struct om_model {
    const llm_arch *arch;
    llm_hparams h;
    nn_weight *embed, *pos_embed, *out_norm, *out_norm_b, *output; /* output == embed if tied */
    llm_layer *layer;          /* n_layer */
    /* Every weight, n_weight, in the order of the family's name table, whatever file it
     * came from; names are the canonical GGUF ones ("blk.0.attn_q.weight"). */
    nn_weight *weight;
    uint32_t n_weight;
    tokenizer *tok;            /* NULL: a model without one */
    const chat_template *chat; /* NULL: none recognised */
    str chat_jinja;
    str name;                  /* general.name, or the path's last part */
    void *owned_;              /* maps, blocks, parsed files: model_impl.h */
};
typedef struct om_model llm_model;

/* A stretch of a forward: blocks [first, first + n) alone.  What enters and leaves them,
 * (rows, dim), is the residual stream; calibration walks a model this way, block by block. */
typedef struct {
    uint32_t first, n;
    const float *in;           /* NULL: the embedding */
    float *out;                /* NULL: not wanted */
} llm_stretch;

/* What one forward sees: rows of several sequences, ids, positions, cache. */
typedef struct {
    const int32_t *ids;        /* (rows) */
    const int32_t *pos;        /* (rows) */
    uint32_t rows;
    const nn_seq *seq;
    uint32_t n_seq;
    const nn_kv_layer *kv;     /* (n_layer) or NULL */
    uint32_t recompute;        /* so many first blocks keep only their input for backward */
    const llm_stretch *stretch; /* NULL: every block */
    nn_expert_store *experts;  /* NULL: they are all in memory, or there are none */
} llm_batch;

/* A family: one file arch/<name>.c, one row. */
struct llm_arch {
    const char *name;          /* general.architecture in GGUF: "llama" */
    const char *hf_names;      /* config.json model_type's, "llama|mistral" */
    const char *summary, *source;
    /* Hidden states after the final norm, (rows, dim): straight-line code over ops. */
    nn_tensor *(*forward)(nn *c, const llm_model *m, const llm_batch *b);
    const struct llm_name *names; /* its weights in GGUF and HF: arch/names.h */
    bool rope_neox;            /* layout of q,k rows in GGUF files of this family */
    bool hf_permuted_qk;       /* HF->GGUF of this family permutes q and k rows */
    bool expert_norm;          /* llm_hparams.expert_norm, where the file does not tell */
    const llm_arch *experts;   /* the family that a GGUF of this name with experts is */
};
extern const llm_arch *const llm_archs[]; /* ends with NULL */
const llm_arch *llm_arch_find(str name);  /* by name or hf_names; NULL: none */

/* A .gguf file, a Hugging Face folder, or a llama2.c checkpoint (.bin).  `tokenizer` is
 * a file to use instead of what the model brings (tokenizer.json, a llama2.c .bin, or a
 * .gguf); NULL: the model's own; a llama2.c checkpoint then looks for tokenizer.bin or
 * tok<vocab>.bin beside itself. */
om_status llm_open_with(const char *path, const char *tokenizer, llm_model **out,
                        om_err *err);
om_status llm_open(const char *path, llm_model **out, om_err *err);
void llm_close(llm_model *m);
nn_weight *llm_weight(const llm_model *m, const char *gguf_name); /* NULL: none */
/* A second view over the same bytes, with no adapters (fork.c).  m must outlive it. */
om_status llm_fork(const llm_model *m, llm_model **out, om_err *err);
void llm_fork_close(llm_model *f);
/* All tokens of a text, BOS and EOS as the model wants them, into a block of their own
 * (mem_free).  OM_ENOTFOUND when the model has no tokenizer. */
om_status llm_tokenize(const llm_model *m, str text, int32_t **ids, size_t *n, om_err *err);
/* Tokens of a trained prompt (adapt/), which every text is to begin with: their ids follow
 * the vocabulary. */
static inline uint32_t llm_prompt_tokens(const llm_model *m)
{
    return m->embed && m->embed->more ? m->embed->more->rows : 0;
}
/* Ids a forward takes: the vocabulary, and those. */
static inline uint32_t llm_token_limit(const llm_model *m)
{
    return m->h.vocab + llm_prompt_tokens(m);
}
om_status llm_need_tokenizer(const llm_model *m, om_err *err);
/* Write the model as it runs now as GGUF: every matrix of `type` where its rows allow
 * (else Q8_0, else F16), norms and biases F32, adapters that hang on the weights folded
 * in.  Rows stream through: memory stays small.  Matrices that have the wanted type
 * already are copied bit for bit; DTYPE_COUNT keeps every matrix's own type. */
om_status llm_write_gguf(const llm_model *m, const char *path, dtype type,
                         om_progress_fn *progress, void *ctx, om_err *err);

/* The same by an encoder, which chooses each matrix's type and packs it, in the order of
 * the file: embedding, blocks, head.  It may replace `data` of weights of m (a fork) that
 * are not written yet.  A type of DTYPE_COUNT keeps the matrix as it is.  file_type is
 * general.file_type's dtype. */
typedef struct {
    dtype (*type_of)(void *ctx, const nn_weight *w);
    /* Before the tensors of block `layer`; n_layer: before what follows the blocks. */
    om_status (*enter)(void *ctx, uint32_t layer, om_err *err);
    /* All rows of w, packed as its type, into out. */
    om_status (*encode)(void *ctx, const nn_weight *w, dtype type, uint8_t *out,
                        om_err *err);
    void *ctx;
} llm_encoder;
om_status llm_encode_gguf(const llm_model *m, const char *path, dtype file_type,
                          const llm_encoder *e, om_progress_fn *progress, void *ctx,
                          om_err *err);

/* ---- sessions ------------------------------------------------------------------------ */

typedef struct {
    float temperature;      /* 0: greedy */
    uint32_t top_k;         /* 0: off */
    float top_p, min_p;     /* 1 and 0: off */
    float repeat_penalty;   /* 1: off; over the last repeat_last tokens */
    uint32_t repeat_last;
    uint64_t seed;
} llm_sampling;

/* The next token, from logits (vocab), which are scratch afterwards.  `recent` are the
 * last tokens, for the repetition penalty.  Order: penalty, temperature, top-k, top-p,
 * min-p, draw.  Same logits, recent and r: same token.  Never fails: logits with no
 * finite value give token 0. */
int32_t llm_sample(const llm_sampling *s, float *logits, uint32_t vocab, const int32_t *recent,
                   uint32_t n_recent, rng *r, arena scratch);
size_t llm_sample_bytes(uint32_t vocab); /* scratch it needs */

/* What sessions of one model share: pages for their keys and values, in a budget, and
 * the memory of one forward.  Several sessions may begin with the same pages.  A page is
 * KV_TOKENS tokens of every layer and is counted by reference; who appends to a shared
 * one copies it first.  One call at a time over all sessions of an llm_kv. */
typedef struct llm_kv llm_kv;
typedef struct llm_session llm_session; /* one mutable timeline: tokens and their cache */

enum { LLM_CONTEXT = 4096, LLM_BATCH = 256 };
static inline uint32_t llm_context_of(const llm_model *m, uint32_t asked)
{
    return asked ? asked : (uint32_t)size_min(m->h.context, LLM_CONTEXT);
}

typedef struct {
    uint32_t context;       /* 0: the model's, capped at 4096 */
    dtype kv_type;          /* DTYPE_F32 (0) or DTYPE_F16 */
    uint32_t batch;         /* prompt tokens per forward; 0: 256 */
    bool exact;             /* f32 products for packed weights too */
    const kern *k;
    pool *pool;
    const om_cancel *cancel;
    /* Pages older than the last `recent` tokens (0: 128; UINT32_MAX: none is spared) are
     * packed to at most `bits` per number on average over the layers, scales included:
     * the widest type that fits, then the keys of the outermost layers wider, inwards, as
     * far as that goes.  0, or 16 and more: never. */
    float bits;
    uint32_t recent;
    bool pack_late;         /* only when the budget is used up, the oldest first */
    uint64_t budget;        /* most bytes of pages in memory; 0: no limit */
    bool endless;           /* a full context forgets from its middle and goes on: the first
                               page and the last three quarters stay */
    const char *spill;      /* over budget, pages move to files in this folder; NULL: no */
    llm_kv *kv;             /* shared pages; then only context, cancel and endless count */
    uint64_t expert_cache;  /* bytes for experts read from the file when they are wanted; 0:
                               all stay mapped */
} llm_session_args;

/* A cache of experts, since it was opened. */
typedef struct {
    uint32_t experts, slots;    /* in the file; in the cache at once */
    uint64_t cache_bytes;
    uint64_t requests, misses;  /* experts computed; of those waited for */
    uint64_t read_bytes, waited_ns;
} llm_expert_stats;


/* Pages for sessions opened with args.kv; args.context and args.cancel do not count.
 * Closing gives up the caller's hold: it ends with its last session. */
om_status llm_kv_open(llm_model *m, const llm_session_args *a, llm_kv **out, om_err *err);
void llm_kv_close(llm_kv *kv);
typedef struct {
    uint64_t memory, spilled; /* bytes of pages in memory, in files */
    uint64_t pages, packed;   /* how many there are, and of those packed */
    size_t page_bytes;        /* of a page as it is written first, */
    size_t packed_bytes;      /* and packed; 0 when pages are never packed */
} llm_kv_stats;
llm_kv_stats llm_kv_now(const llm_kv *kv);
llm_expert_stats llm_experts_now(const llm_kv *kv); /* zeros: no cache of experts */
uint64_t llm_kv_bytes(const llm_kv *kv);      /* memory, of the above */
uint64_t llm_kv_page_bytes(const llm_kv *kv); /* page_bytes */

om_status llm_session_open(llm_model *m, const llm_session_args *a, llm_session **out,
                           om_err *err);
/* A second timeline with the same tokens, which takes no memory until they part. */
om_status llm_session_fork(const llm_session *s, llm_session **out, om_err *err);
void llm_session_close(llm_session *s);
/* Tokens and pages to a file; and back, in place of the session's timeline, which stays when
 * the file is refused: another model, adapter, kind of cache or a longer context. */
om_status llm_session_save(const llm_session *s, const char *path, om_err *err);
om_status llm_session_load(llm_session *s, const char *path, om_err *err);
llm_kv *llm_session_kv(const llm_session *s); /* to open others on; the session's */

/* What a session of these args will take, before anything is taken, beside what there is.
 * available: bytes, 0: what the system says is free for us. */
typedef struct {
    uint32_t context, batch, recent;
    double bits;                  /* per number of the cache, once it is old */
    size_t page_bytes, packed_bytes;
    uint64_t weights, activations, tables, cache, reserve;
    uint64_t experts;             /* of the weights: those that the cache of experts stands for,
                                     as they lie in the file; 0: all are mapped */
    uint64_t memory, available;
    uint64_t budget;              /* for the cache: available less all the others */
    bool fits;                    /* cache <= budget */
} llm_plan;
om_status llm_plan_of(llm_model *m, const llm_session_args *a, uint64_t available,
                      llm_plan *out, om_err *err);
/* What a session takes by itself where nothing is said: budget, what is free less the rest
 * of the plan; bits, none when a plain cache fits, else 4.5, else 3.5. */
om_status llm_session_fit(llm_model *m, llm_session_args *a, om_err *err);
static inline bool llm_packs(const llm_session_args *a) { return a->bits > 0 && a->bits < 16; }
/* Bytes of pages of a full context; the longest context whose pages the budget holds. */
uint64_t llm_plan_cache(const llm_plan *p, uint32_t context, bool packed);
uint32_t llm_plan_longest(const llm_plan *p, bool packed);

/* Append tokens; logits (vocab) of the last one, valid until the next call on any
 * session of the same llm_kv. */
om_status llm_eval(llm_session *s, const int32_t *ids, uint32_t n, const float **logits,
                   om_err *err);
/* The same for several sessions of one llm_kv in one forward (of `batch` rows at most, then
 * further ones): logits are those of the last `want` of the n rows, (want, vocab), valid
 * until the next call; NULL when want is 0.  All sessions advance, or none does.
 * A row's logits have the same bits alone and in any company, as long as no product goes
 * through f32 gemm (F32 weights, adapters, exact): such rows have them in forwards of up to
 * 16 rows (its thin products), and agree to f32 rounding in larger ones. */
typedef struct {
    llm_session *s;
    const int32_t *ids; /* (n) */
    uint32_t n, want;
    const float *logits; /* out */
} llm_turn;
om_status llm_eval_many(llm_turn *t, uint32_t n, om_err *err);
/* Append tokens; the hidden states after the final norm into out (n, dim). */
om_status llm_hidden(llm_session *s, const int32_t *ids, uint32_t n, float *out,
                     om_err *err);
/* Make `ids` the session's whole timeline: what it shares with the tokens already there
 * is kept, the rest is forgotten, only the new tail is computed.  n >= 1. */
om_status llm_sync(llm_session *s, const int32_t *ids, uint32_t n, uint32_t *reused,
                   const float **logits, om_err *err);
uint32_t llm_past(const llm_session *s);
const int32_t *llm_tokens(const llm_session *s); /* (llm_past) the timeline */
uint32_t llm_context(const llm_session *s); /* tokens it can hold */
/* Forget the last n_tokens. */
om_status llm_rewind(llm_session *s, uint32_t n_tokens, om_err *err);

#endif
