/* rows.c - a loss that the caller works out itself: it sees the rows of the logits, and in
 * the backward says what the gradient with respect to them is. */
#include "nn/op.h"

typedef struct {
    nn_tensor *z;
    nn_rows_fn *fn;
    void *ctx;
} seeded;

static void back(nn *c, void *saved)
{
    seeded *s = saved;
    size_t n = op_count(s->z);
    bool fresh;
    float *dz = nn_grad(c, s->z, &fresh);
    float *own = fresh ? NULL : nn_scratch(c, n * sizeof(float));
    nn_touch(c, s->z);
    if (!dz || !nn_live(c))
        return;
    s->fn(s->ctx, s->z->data, s->z->rows, s->z->cols, fresh ? dz : own);
    if (!fresh)
        op_accumulate(c, dz, own, n);
}

void nn_loss_of_rows(nn *c, nn_tensor *z, nn_rows_fn *fn, void *ctx)
{
    nn_touch(c, z);
    if (z->needs_grad)
        nn_push(c, back, &(seeded){z, fn, ctx}, sizeof(seeded));
    else if (nn_live(c))
        fn(ctx, z->data, z->rows, z->cols, NULL);
}
