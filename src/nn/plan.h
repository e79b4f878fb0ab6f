/* plan.h - inside nn: the recorder of buffer lifetimes, the plans made of them, and the
 * small memory that holds tensors and tape entries of one run. */
#ifndef NN_PLAN_H
#define NN_PLAN_H

#include "nn/nn.h"

enum { PLAN_CACHED = 8 };

/* One buffer of the dry run.  Ticks count ops; it is alive in [birth, last]. */
typedef struct {
    size_t bytes, offset;
    uint32_t birth, last;
} plan_buf;

typedef struct {
    size_t bytes, offset;
} plan_slot;

/* A packed plan: the k-th allocation of a run gets slot[k]. */
typedef struct {
    uint64_t key;
    unsigned mode; /* flags of nn that change what ops allocate */
    uint64_t used; /* stamp of the last run, 0: empty */
    uint32_t n;
    plan_slot *slot;
    size_t total;
} plan_entry;

typedef struct plan_chunk plan_chunk;

/* Bump memory in chunks that are kept between runs: after the dry run the real one
 * finds them large enough. */
typedef struct {
    plan_chunk *first, *now;
} plan_meta;

typedef struct tape_entry tape_entry;
struct nn_tape {
    tape_entry *top; /* the last recorded; a list towards the first */
};

/* The last table of angles nn_rope made in this run; q, k and all layers share it. */
typedef struct {
    const int32_t *pos;
    nn_rope_args a;
    nn_tensor *table; /* NULL: none yet */
} plan_rope;

struct nn_plan {
    size_t max_bytes;
    bool no_reuse;
    plan_buf *buf; /* dry run: recorded so far */
    uint32_t n_buf, cap_buf, tick;
    const plan_entry *now; /* real run: replayed */
    uint32_t next;
    plan_entry entry[PLAN_CACHED];
    uint64_t stamp;
    char *block;
    size_t block_bytes;
    plan_meta meta;
    nn_tape tape;
    plan_rope rope;
    nn_tensor dummy; /* what nn_new gives after an error */
    float nothing;   /* where dry gradients point */
};

/* Record (dry) or replay one allocation.  Returns its id, from 1; 0 after an error. */
uint32_t plan_alloc(nn *c, size_t bytes, void **data);
void plan_touch(nn *c, uint32_t id);
/* Zeroed memory until the next run; NULL after setting c->status. */
void *plan_meta_alloc(nn *c, size_t n);
void plan_meta_reset(plan_meta *m);
/* Give every recorded buffer an offset; returns the block's size.  scratch: 2 n_buf
 * indices. */
size_t plan_pack(plan_buf *all, uint32_t n, bool no_reuse, uint32_t *scratch);
void plan_start_dry(nn_plan *p);
plan_entry *plan_find(nn_plan *p, uint64_t key, unsigned mode);
/* Pack what was recorded into the least recently used entry and make the block. */
om_status plan_keep(nn_plan *p, uint64_t key, unsigned mode, plan_entry **out, om_err *err);
void plan_clear(nn_plan *p);

#endif
