/* nn.h - one forward for inference, training and calibration.
 *
 * A model is straight-line code over ops.  An op computes at once; when a tape is
 * present it also records its backward.  All activations are matrices (rows, cols) of
 * f32, row-major and contiguous: rows are tokens (or examples), cols are features.
 *
 * MEMORY IS PLANNED.  The same code runs first "dry" (nn_plan): ops allocate and touch
 * but do not compute.  From the birth and the last touch of every buffer, forward and
 * backward, the planner packs them into one block with reuse; the real run repeats the
 * same sequence of allocations and gets the planned offsets.  So: an op must not branch
 * on data, must nn_touch every buffer it reads or writes at that time (forward and
 * again in its backward), and no training step or token allocates from the system.
 *
 * An op, forward or backward, has two halves.  First it declares: nn_new, nn_grad,
 * nn_touch, nn_scratch.  Then `if (!nn_live(c)) return`, which also ends the op for the
 * planner, and it computes.  Whatever one op declared is alive together.
 *
 * Arrays handed to ops (ids, positions, sequences, targets, weights) are kept by
 * pointer and must stay until nn_run returns; they are not read in a dry run.
 *
 * Errors stick in nn->status; ops are no-ops afterwards, and nn_end reports it.
 * Gradients accumulate (+=); weights' gradients live with the weight. */
#ifndef NN_NN_H
#define NN_NN_H

#include "kern/attn.h"
#include "kern/kern.h"
#include "tensor/tensor.h"

typedef struct nn nn;
typedef struct nn_tape nn_tape;
typedef struct nn_plan nn_plan;

/* An activation.  Lives in the planned block until its last touch. */
typedef struct nn_tensor nn_tensor;
struct nn_tensor {
    uint32_t rows, cols;
    float *data; /* (rows, cols); NULL in a dry run: only ops may look at it */
    float *grad; /* (rows, cols), once nn_grad made it; use nn_grad, nn_grad_in */
    uint32_t id, grad_id;
    bool needs_grad; /* something trainable lies upstream */
    const struct nn_remake *remake; /* NULL: must be kept; see nn_again */
    nn_tensor *made;                /* a remade copy of this run */
};

/* A low-rank adapter on a linear layer:  y += scale * (x A^T) B^T.  (Hu et al. 2021) */
typedef struct {
    uint32_t rank;
    float scale;            /* alpha / rank */
    const float *a, *b;     /* A (rank, in), B (out, rank) */
    float *a_grad, *b_grad; /* NULL: frozen */
} nn_lowrank;

/* Rows behind the last of an embedding: trained tokens that no text spells. */
typedef struct {
    uint32_t rows;
    const float *data; /* (rows, cols) */
    float *grad;       /* NULL: frozen */
} nn_extra_rows;

/* A parameter: a view of a mapped file (frozen) or of the trainer's flat vector. */
typedef struct {
    const char *name; /* as in the file: "blk.0.attn_q.weight" */
    dtype type;       /* F32 when trainable */
    const void *data; /* (rows, cols); a vector is (1, cols) */
    uint32_t rows, cols;
    float *grad;      /* (rows, cols) f32, NULL: frozen */
    nn_lowrank *lora; /* NULL: none */
    nn_extra_rows *more; /* NULL: none; nn_embed alone looks at it */
} nn_weight;

/* Calibration and statistics: called with the input of every linear layer, before it is
 * read.  Without a tape it may be changed: an input set to zero is a channel left out. */
typedef void nn_linear_hook(void *ctx, const nn_weight *w, float *x, uint32_t rows);

struct nn {
    const kern *k;
    pool *pool;
    nn_plan *plan;
    nn_tape *tape; /* NULL: inference, nothing is saved */
    om_status status;
    om_err err;
    bool dry;
    bool train;              /* this run has a backward; true in a recomputed block too */
    gemm_precision precision; /* of f32 products; GEMM_FAST is enough for training */
    gemm_precision quantized; /* of products by quantized weights: GEMM_BF16 likewise */
    bool exact;              /* f32 products for packed weights too (reference) */
    bool quant_train;        /* training forward through packed weights in integers */
    const om_cancel *cancel; /* checked once per op */
    nn_linear_hook *on_linear;
    void *on_linear_ctx;
};

/* ---- running ------------------------------------------------------------------------ */

typedef struct {
    const kern *k;
    pool *pool;
    size_t max_bytes; /* refuse to plan more; 0: no limit */
    bool no_reuse;    /* diagnostic: every buffer its own bytes, NaN before a run */
} nn_config;

om_status nn_open(const nn_config *c, nn **out, om_err *err);
void nn_close(nn *c);

/* Run `fn` (a forward, and nn_backward if it trains) once: plans it dry when `shape_key`
 * differs from the last call's, then runs it for real.  The key must change whenever
 * the sequence of allocations can (batch, lengths, flags).  A few plans are cached. */
typedef om_status nn_fn(nn *c, void *ctx);
om_status nn_run(nn *c, uint64_t shape_key, bool train, nn_fn *fn, void *ctx, om_err *err);
/* Plan only: bytes the block would take.  Not held against max_bytes. */
om_status nn_measure(nn *c, bool train, nn_fn *fn, void *ctx, size_t *bytes, om_err *err);

/* ---- for op authors ------------------------------------------------------------------ */

nn_tensor *nn_new(nn *c, uint32_t rows, uint32_t cols); /* uninitialised; never NULL */
void nn_touch(nn *c, const nn_tensor *t);               /* its data is used now */
/* The gradient of t, allocated on first use in a backward; *fresh: not yet written (the
 * op must overwrite), else it must add.  NULL when t needs none.  In a dry run a pointer
 * to nothing: test it, but compute only when nn_live. */
float *nn_grad(nn *c, nn_tensor *t, bool *fresh);
const float *nn_grad_in(nn *c, nn_tensor *t); /* dL/dt, to read; NULL: zero */
/* For y = f(x) of one shape: if x has no gradient yet it takes over the buffer of y's,
 * which nobody reads after the op's backward; true then, and the op works in place. */
bool nn_grad_take(nn *c, nn_tensor *x, nn_tensor *y);
/* Record: back(c, saved) runs in reverse order; saved is copied (plain bytes). */
typedef void nn_back(nn *c, void *saved);
void nn_push(nn *c, nn_back *back, const void *saved, size_t n);
/* True when the op should compute (not dry, no error, not cancelled). */
bool nn_live(nn *c);
/* n uninitialised bytes until this op ends; NULL in a dry run.  64-byte aligned. */
void *nn_scratch(nn *c, size_t n);
om_status nn_fail(nn *c, om_status s, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Run the tape backward.  Seeds were set by the loss op. */
void nn_backward(nn *c);

/* Recompute instead of remember: run fn without a tape and keep only x; in the backward
 * run it again with one.  fn must be deterministic. */
typedef nn_tensor *nn_block_fn(nn *c, void *ctx, nn_tensor *x);
nn_tensor *nn_recompute(nn *c, nn_block_fn *fn, const void *ctx, size_t ctx_bytes,
                        nn_tensor *x);

/* A tensor that costs little may be made again for a backward instead of being kept: `make`
 * runs its op once more, on inputs the op's own backward keeps anyway.  A backward that
 * wants such an input takes nn_again(t), a tensor of the same data, before it declares
 * anything: the making is an op of its own. */
typedef nn_tensor *nn_make(nn *c, const void *saved);
void nn_remakes(nn *c, nn_tensor *t, nn_make *make, const void *saved, size_t n);
nn_tensor *nn_again(nn *c, nn_tensor *t); /* t itself when it was kept */

/* ---- ops (op/<name>.c each: forward, backward, shapes) --------------------------------
 */

nn_tensor *nn_input(nn *c, const float *x, uint32_t rows, uint32_t cols); /* copies */
void nn_output(nn *c, const nn_tensor *x, float *out); /* copies x out of the block */
nn_tensor *nn_embed(nn *c, const nn_weight *w, const int32_t *ids, uint32_t n);
/* y = x W^T + b (+ adapter); b may be NULL. */
nn_tensor *nn_linear(nn *c, nn_tensor *x, const nn_weight *w, const nn_weight *b);
nn_tensor *nn_rmsnorm(nn *c, nn_tensor *x, const nn_weight *w, float eps);
/* Per head: x (rows, heads*d), w (1, d).  QK-norm. */
nn_tensor *nn_rmsnorm_heads(nn *c, nn_tensor *x, const nn_weight *w, float eps);
nn_tensor *nn_layernorm(nn *c, nn_tensor *x, const nn_weight *w, const nn_weight *b,
                        float eps);
nn_tensor *nn_add(nn *c, nn_tensor *a, nn_tensor *b);
nn_tensor *nn_scale(nn *c, nn_tensor *x, float s);
nn_tensor *nn_silu_mul(nn *c, nn_tensor *gate, nn_tensor *up);
nn_tensor *nn_gelu(nn *c, nn_tensor *x);

/* A mixture of n experts (op/experts.c).  Weights are stacks, expert after expert: gate and
 * up (n * ffn, dim), down (n * dim, ffn).  x (rows, dim), router (rows, n) its logits;
 * shared (rows, dim) and shared_gate (rows, 1), or NULL, an expert that every row takes,
 * times the sigmoid of its gate.  No backward. */
typedef struct nn_expert_store nn_expert_store;
struct nn_expert_store {
    /* Of n experts of a layer: moves those that can be had now to the front, waiting for
     * one if need be, and says how many; m[3 i + 0, 1, 2] are gate, up and down of the i-th,
     * until they are released.  0: failed. */
    uint32_t (*take)(nn_expert_store *s, uint32_t layer, uint32_t *expert, uint32_t n,
                     const void **m, om_err *err);
    void (*release)(nn_expert_store *s);
    void (*hint)(nn_expert_store *s, uint32_t layer, const uint32_t *expert, uint32_t n);
};

typedef struct {
    uint32_t n, used; /* experts; of them for a row */
    bool normalize;   /* the weights of those used add up to one */
    const nn_weight *gate, *up, *down;
    /* NULL, or where the matrices come from when they are not all in memory; then `layer`
     * tells them apart, and next_router (NULL: none), the router of the layer that follows,
     * what will probably be wanted there. */
    nn_expert_store *store;
    uint32_t layer;
    const nn_weight *next_router;
} nn_experts_args;
nn_tensor *nn_experts(nn *c, nn_tensor *x, nn_tensor *router, nn_tensor *shared,
                      nn_tensor *shared_gate, const nn_experts_args *a);

nn_tensor *nn_relu(nn *c, nn_tensor *x);
nn_tensor *nn_tanh(nn *c, nn_tensor *x);
/* Rows picked by index (last tokens of sequences). */
nn_tensor *nn_rows(nn *c, nn_tensor *x, const uint32_t *row, uint32_t n);

typedef struct {
    uint32_t head_dim, n_rot; /* n_rot <= head_dim, even */
    bool neox;            /* halves (GPT-NeoX, Qwen, HF) or adjacent pairs (GGUF llama) */
    float base;           /* theta, 10000 */
    float scale;          /* position multiplier, 1; linear scaling 1/factor */
    const float *factors; /* (n_rot/2) frequency divisors (llama3, longrope) or NULL */
    /* YaRN (Peng et al. 2023): frequencies slower than beta_slow turns in ctx_orig are
     * divided by the factor, those faster than beta_fast kept, a ramp between; cos and
     * sin are multiplied by mscale, 0: 1 + 0.1 ln(factor).  factor 0: none; betas 0: 32, 1.
     */
    float yarn_factor, yarn_beta_fast, yarn_beta_slow, yarn_mscale;
    uint32_t yarn_ctx_orig;
} nn_rope_args;
nn_tensor *nn_rope(nn *c, nn_tensor *x, const int32_t *pos, const nn_rope_args *a);
/* A head x (head_dim) that was turned to position p, to position p + by. */
void nn_rope_turn(const nn_rope_args *a, float *x, int32_t by);

/* Where one layer lies in a page: a block of keys and one of values per kv head, one
 * behind the other (kern/attn.h); offsets in bytes. */
typedef struct {
    kv_type k, v;
    size_t k_at, v_at;
} nn_kv_part;

/* A page of a key-value cache: KV_TOKENS consecutive tokens of every layer. */
typedef struct {
    uint8_t *data;
    const nn_kv_part *layer; /* (n_layer) */
} nn_kv_page;

/* With at most so many rows in a batch attention over a cache is split over the context,
 * which takes scratch in proportion to it. */
enum { NN_SPLIT_ROWS = 8 };

/* One layer of a cache, of all sequences of a batch. */
typedef struct {
    uint32_t layer;
    uint32_t capacity; /* tokens of the longest sequence there may be */
    bool rotate;       /* keys and values are stored rotated (kv_rotate) */
} nn_kv_layer;

/* Which rows of the batch belong together.  With a cache, row i of the sequence is
 * appended as its token past + i and attends to its tokens [0, past + i]; the pages it is
 * written to must be plain and nobody else's.  Without (kv NULL, training) rows attend
 * among themselves, causally. */
typedef struct {
    uint32_t row, n_rows, past;
    const nn_kv_page *page; /* (past + n_rows) / KV_TOKENS of them, rounded up */
} nn_seq;

typedef struct {
    uint32_t n_head, n_kv_head, head_dim;
    float scale;     /* 0: 1/sqrt(head_dim) */
    uint32_t window; /* 0: none; else attend to the last `window` tokens only */
} nn_attn_args;
/* q (rows, n_head*d), k and v (rows, n_kv_head*d).  Never writes the score matrix.  Over a
 * cache a row has the same bits in any batch and on any number of threads. */
nn_tensor *nn_attention(nn *c, nn_tensor *q, nn_tensor *k, nn_tensor *v, const nn_seq *seq,
                        uint32_t n_seq, const nn_attn_args *a, const nn_kv_layer *kv);

/* Images: a row is channels*h*w (CHW).  Weight (out, in*kh*kw), stride, zero padding. */
typedef struct {
    uint32_t channels, h, w, kh, kw, stride, pad;
} nn_conv_args;
nn_tensor *nn_conv2d(nn *c, nn_tensor *x, const nn_weight *w, const nn_weight *b,
                     const nn_conv_args *a);
nn_tensor *nn_maxpool2d(nn *c, nn_tensor *x, const nn_conv_args *a);

/* ---- losses (loss/<name>.c): mean over rows with target >= 0, in double -----------------
 */

typedef struct {
    double sum;       /* of -log p(target), over counted rows */
    uint64_t rows;    /* counted */
    uint64_t correct; /* argmax == target */
    float *row_nll;   /* if not NULL: (rows), NaN where not counted */
} nn_loss;

/* Seeds the backward with grad_scale / counted rows. target -1 = ignore. */
void nn_cross_entropy(nn *c, nn_tensor *logits, const int32_t *target, float grad_scale,
                      nn_loss *out);
/* Head and loss in one: logits exist a chunk of rows at a time, their gradient is folded
 * into dx (and dW, db when trainable) at once, never kept. */
void nn_linear_cross_entropy(nn *c, nn_tensor *x, const nn_weight *w, const int32_t *target,
                             float grad_scale, nn_loss *out);
void nn_mse(nn *c, nn_tensor *y, const float *target, float grad_scale, nn_loss *out);
/* A loss of the caller's: fn sees z (rows, cols) once, in the backward with dz to fill, else
 * in the forward with dz NULL. */
typedef void nn_rows_fn(void *ctx, const float *z, size_t rows, size_t cols, float *dz);
void nn_loss_of_rows(nn *c, nn_tensor *z, nn_rows_fn *fn, void *ctx);

/* ---- optimizers (optim/<name>.c): on flat vectors ---------------------------------------
 */

typedef struct {
    const char *name, *summary, *source;
    const param *params;                              /* lr is passed per step */
    size_t (*state_bytes)(const double *p, size_t n); /* flat state, zero = start */
    /* t counts from 1.  x -= lr * direction. */
    void (*step)(const kern *k, pool *pool, const double *p, void *state, float *x,
                 const float *g, size_t n, double lr, uint64_t t);
} nn_optim;
extern const nn_optim *const nn_optims[]; /* ends with NULL: sgd momentum adamw */
const nn_optim *nn_optim_find(str name);

/* Learning-rate schedules, steps counted from 0: warm-up lr (step+1)/(warmup+1), then
 * constant, linear or cosine down to min_ratio * lr at `total`. */
typedef enum {
    NN_SCHEDULE_CONSTANT,
    NN_SCHEDULE_LINEAR,
    NN_SCHEDULE_COSINE
} nn_schedule_kind;
double nn_schedule(nn_schedule_kind kind, double lr, uint64_t step, uint64_t warmup,
                   uint64_t total, double min_ratio);
/* Scale g so that its norm is at most max_norm; returns the norm before. */
double nn_clip_norm(const kern *k, pool *pool, float *g, size_t n, double max_norm);

#endif
