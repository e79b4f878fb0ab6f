/* tape.c - recording backwards and running them in reverse.
 *
 * The tape is a list of (function, saved bytes), last recorded first.  nn_recompute
 * keeps only a block's input: its backward runs the block again on an empty tape, hands
 * the output's gradient to the new output, and unwinds that tape at once (Chen et al.
 * 2016, "Training deep nets with sublinear memory cost").  nn_again is the same for one
 * cheap tensor: a norm, a gate. */
#include "nn/plan.h"

struct tape_entry {
    tape_entry *prev;
    nn_back *back;
    _Alignas(16) char saved[];
};

static void *push(nn *c, nn_back *back, size_t n)
{
    if (!c->tape || c->status != OM_OK)
        return NULL;
    tape_entry *e = plan_meta_alloc(c, sizeof(*e) + n);
    if (!e)
        return NULL;
    e->back = back;
    e->prev = c->tape->top;
    c->tape->top = e;
    return e->saved;
}

void nn_push(nn *c, nn_back *back, const void *saved, size_t n)
{
    void *to = push(c, back, n);
    if (to)
        memcpy(to, saved, n);
}

void nn_backward(nn *c)
{
    if (!c->tape)
        return;
    for (tape_entry *e = c->tape->top; e && c->status == OM_OK; e = e->prev)
        e->back(c, e->saved);
    c->tape->top = NULL;
}

/* ---- recomputation ------------------------------------------------------------------- */

typedef struct {
    nn_block_fn *fn;
    nn_tensor *x, *y;
    _Alignas(16) char ctx[];
} block;

static void block_back(nn *c, void *saved)
{
    block *b = saved;
    if (!nn_grad_in(c, b->y))
        return;
    tape_entry *outer = c->tape->top;
    c->tape->top = NULL;
    nn_tensor *y = b->fn(c, b->ctx, b->x);
    y->grad = b->y->grad;
    y->grad_id = b->y->grad_id;
    nn_backward(c);
    c->tape->top = outer;
}

nn_tensor *nn_recompute(nn *c, nn_block_fn *fn, const void *ctx, size_t ctx_bytes,
                        nn_tensor *x)
{
    block *b = plan_meta_alloc(c, sizeof(*b) + ctx_bytes);
    if (!b)
        return nn_new(c, x->rows, x->cols);
    memcpy(b->ctx, ctx, ctx_bytes);
    nn_tape *tape = c->tape;
    c->tape = NULL;
    nn_tensor *y = fn(c, b->ctx, x);
    c->tape = tape;
    block *s = y->needs_grad ? push(c, block_back, sizeof(*s) + ctx_bytes) : NULL;
    if (s) {
        *s = (block){.fn = fn, .x = x, .y = y};
        memcpy(s->ctx, ctx, ctx_bytes);
    }
    return y;
}

struct nn_remake {
    nn_make *make;
    _Alignas(16) char saved[];
};

void nn_remakes(nn *c, nn_tensor *t, nn_make *make, const void *saved, size_t n)
{
    struct nn_remake *r = c->tape ? plan_meta_alloc(c, sizeof(*r) + n) : NULL;
    if (!r)
        return;
    r->make = make;
    memcpy(r->saved, saved, n);
    t->remake = r;
}

nn_tensor *nn_again(nn *c, nn_tensor *t)
{
    if (!t->remake)
        return t;
    if (!t->made) {
        nn_tape *tape = c->tape;
        c->tape = NULL;
        t->made = t->remake->make(c, t->remake->saved);
        c->tape = tape;
    }
    return t->made;
}
