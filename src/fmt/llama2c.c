/* llama2c.c - reading llama2.c checkpoints.
 *
 *     legacy     7 int32 (negative vocabulary: own output matrix), then f32:
 *                embedding, attention norms of all layers, all wq, wk, wv, wo,
 *                feed-forward norms, all w1, w2, w3, last norm, two rotary tables that
 *                nobody reads, [output]
 *     version 1  "24ka" 1, 7 int32, u8 tied, zeros to byte 256, then f32: both norms of
 *                all layers, last norm, embedding, wq, wk, wv, wo, w1, w2, w3, [output]
 *     version 2  the same with int32 group size after `tied`; matrices are int8 rows,
 *                then an f32 scale for each group, matrix by matrix
 *
 * w1, w2, w3 are gate, down, up.  Source: export.py, run.c and runq.c of
 * karpathy/llama2.c.  An order of parts is a string of letters, so that the three
 * layouts are three lines. */
#include "fmt/llama2c.h"

#include <stdio.h>

enum { NAME_BYTES = 32, MAGIC = 0x616b3432, HEADER = 256 };

typedef struct {
    char letter;
    bool per_layer, norm; /* a norm is f32 in every version */
    const char *name;
} part;

static const part parts[] = {
    {'E', false, false, "token_embd.weight"}, {'a', true, true, "attn_norm.weight"},
    {'q', true, false, "attn_q.weight"},      {'k', true, false, "attn_k.weight"},
    {'v', true, false, "attn_v.weight"},      {'o', true, false, "attn_output.weight"},
    {'f', true, true, "ffn_norm.weight"},     {'1', true, false, "ffn_gate.weight"},
    {'2', true, false, "ffn_down.weight"},    {'3', true, false, "ffn_up.weight"},
    {'n', false, true, "output_norm.weight"}, {'O', false, false, "output.weight"},
};

static const char *const orders[] = {"Eaqkvof123n.O", "afnEqkvo123O", "afnEqkvo123O"};

typedef struct {
    llama2c *m;
    cursor c;
    tensor *tensors;
    char *names;   /* NAME_BYTES each */
    float *floats; /* where version 2 unpacks to */
    om_err *err;
} parser;

/* ---- sizes --------------------------------------------------------------------------- */

static uint64_t kv_dim(const llama2c *m)
{
    return (uint64_t)m->dim / m->n_heads * m->n_kv_heads;
}

static void shape_of(const llama2c *m, char letter, tensor *t)
{
    uint64_t rows = m->dim, cols = m->dim; /* q, o */
    if (letter == 'E' || letter == 'O')
        rows = m->vocab_size;
    else if (letter == 'k' || letter == 'v')
        rows = kv_dim(m);
    else if (letter == '1' || letter == '3')
        rows = m->hidden_dim;
    else if (letter == '2')
        cols = m->hidden_dim;
    t->type = DTYPE_F32;
    t->n_dims = 2;
    for (int d = 2; d < TENSOR_DIMS; d++)
        t->dim[d] = 1;
    t->dim[0] = rows;
    t->dim[1] = cols;
}

static void norm_shape(const llama2c *m, tensor *t)
{
    t->type = DTYPE_F32;
    t->n_dims = 1;
    t->dim[0] = m->dim;
    for (int d = 1; d < TENSOR_DIMS; d++)
        t->dim[d] = 1;
}

/* The head's numbers, capped so that no size below can overflow 64 bits. */
static om_status check_head(parser *p)
{
    const llama2c *m = p->m;
    bool sane = m->dim - 1 < 1 << 17 && m->hidden_dim - 1 < 1 << 20 &&
                m->n_layers - 1 < 1 << 10 && m->n_heads - 1 < 1 << 12 &&
                m->vocab_size - 1 < 1 << 24 && m->seq_len - 1 < 1 << 24 &&
                m->n_kv_heads >= 1 && m->n_kv_heads <= m->n_heads;
    if (!sane || m->dim % m->n_heads || m->n_heads % m->n_kv_heads ||
        m->dim / m->n_heads % 2)
        return fail(p->err, OM_EFORMAT,
                    "llama2c: dim %u, hidden %u, layers %u, heads %u/%u, vocabulary %u, "
                    "context %u make no model",
                    m->dim, m->hidden_dim, m->n_layers, m->n_heads, m->n_kv_heads,
                    m->vocab_size, m->seq_len);
    if (m->version == 2 && m->group_size == 0)
        return fail(p->err, OM_EFORMAT, "llama2c: groups of no values");
    return OM_OK;
}

/* ---- head ------------------------------------------------------------------------------
 */

static om_status take_head(parser *p)
{
    llama2c *m = p->m;
    uint32_t first = cursor_u32(&p->c);
    if (first == MAGIC) {
        m->version = cursor_u32(&p->c);
        if (p->c.ok && m->version != 1 && m->version != 2)
            return fail(p->err, OM_EUNSUPPORTED, "llama2c: version %u; 0 to 2 are read",
                        m->version);
        first = cursor_u32(&p->c);
    }
    m->dim = first;
    m->hidden_dim = cursor_u32(&p->c);
    m->n_layers = cursor_u32(&p->c);
    m->n_heads = cursor_u32(&p->c);
    m->n_kv_heads = cursor_u32(&p->c);
    m->vocab_size = cursor_u32(&p->c);
    m->seq_len = cursor_u32(&p->c);
    m->tied = true;
    if (m->version > 0) {
        m->tied = cursor_u8(&p->c) != 0;
        m->group_size = m->version == 2 ? cursor_u32(&p->c) : 0;
        cursor_take(&p->c, HEADER - size_min(p->c.pos, HEADER));
    } else if (m->vocab_size > INT32_MAX) {
        m->vocab_size = 0 - m->vocab_size;
        m->tied = false;
    }
    if (!p->c.ok)
        return fail(p->err, OM_EFORMAT, "llama2c: the file ends inside its header");
    return check_head(p);
}

/* ---- tensors
 * ------------------------------------------------------------------------------ */

static om_status cut_short(parser *p, const tensor *t)
{
    return fail_at(p->err, OM_EFORMAT, p->c.pos, "llama2c: the file ends before %s",
                   t->name.p);
}

static om_status unpack_groups(parser *p, tensor *t)
{
    size_t n = t->bytes / 4, g = p->m->group_size;
    if (n % g) /* a group may run from one row into the next */
        return fail(p->err, OM_EFORMAT, "llama2c: groups of %zu do not divide %s", g,
                    t->name.p);
    const int8_t *q = (const int8_t *)cursor_take(&p->c, n);
    const uint8_t *scales = cursor_take(&p->c, n / g * 4);
    if (!scales)
        return cut_short(p, t);
    t->data = p->floats;
    for (size_t i = 0; i < n; i += g) {
        float s;
        memcpy(&s, scales + i / g * 4, 4);
        for (size_t j = 0; j < g; j++)
            *p->floats++ = (float)q[i + j] * s;
    }
    return OM_OK;
}

static om_status take_tensor(parser *p, const part *row, uint32_t layer)
{
    tensor *t = &p->tensors[p->m->n_tensors];
    char *name = p->names + (size_t)p->m->n_tensors * NAME_BYTES;
    if (row->per_layer)
        snprintf(name, NAME_BYTES, "blk.%u.%s", layer, row->name);
    else
        snprintf(name, NAME_BYTES, "%s", row->name);
    t->name = str_of(name);
    if (row->norm)
        norm_shape(p->m, t);
    else
        shape_of(p->m, row->letter, t);
    t->bytes = 4 * (size_t)(t->dim[0] * t->dim[1]);
    p->m->n_tensors++;
    if (p->m->version == 2 && !row->norm)
        return unpack_groups(p, t);
    t->data = cursor_take(&p->c, t->bytes);
    return t->data ? OM_OK : cut_short(p, t);
}

static om_status take_part(parser *p, char letter)
{
    const llama2c *m = p->m;
    if (letter == '.') { /* cos and sin tables of the legacy format */
        size_t tables = (size_t)m->seq_len * (m->dim / m->n_heads) * 4;
        return cursor_take(&p->c, tables)
                   ? OM_OK
                   : fail(p->err, OM_EFORMAT,
                          "llama2c: the file ends in its rotary tables");
    }
    const part *row = parts;
    while (row->letter != letter)
        row++;
    if (letter == 'O' && m->tied)
        return OM_OK;
    for (uint32_t i = 0; i < (row->per_layer ? m->n_layers : 1); i++)
        TRY(take_tensor(p, row, i));
    return OM_OK;
}

static om_status allocate(parser *p)
{
    llama2c *m = p->m;
    size_t n = 9 * (size_t)m->n_layers + 3, floats = 0;
    if (m->version == 2) { /* int8 values with f32 scales: fewer floats than bytes left */
        floats = p->c.n - p->c.pos;
        if (floats > SIZE_MAX / 8)
            return fail(p->err, OM_ENOMEM, "llama2c: no memory to unpack");
    }
    size_t table = size_align(n * (sizeof(tensor) + NAME_BYTES), 64);
    char *block = mem_alloc(table + floats * 4);
    if (!block)
        return fail(p->err, OM_ENOMEM, "llama2c: no memory for %zu bytes",
                    table + floats * 4);
    m->block_ = block;
    m->tensors = p->tensors = (tensor *)(void *)block;
    p->names = block + n * sizeof(tensor);
    p->floats = (float *)(void *)(block + table);
    return OM_OK;
}

static om_status parse(parser *p)
{
    TRY(take_head(p));
    TRY(allocate(p));
    for (const char *letter = orders[p->m->version]; *letter; letter++)
        TRY(take_part(p, *letter));
    if (p->c.pos != p->c.n)
        return fail_at(p->err, OM_EFORMAT, p->c.pos,
                       "llama2c: %zu bytes follow the last tensor; is this a checkpoint?",
                       p->c.n - p->c.pos);
    return OM_OK;
}

om_status llama2c_open(const void *p, size_t n, llama2c *out, om_err *err)
{
    *out = (llama2c){0};
    if ((uintptr_t)p & 7)
        return fail(err, OM_EARG, "llama2c: the bytes must lie 8-byte aligned");
    parser g = {.m = out, .c = cursor_of(p, n), .err = err};
    om_status s = parse(&g);
    if (s != OM_OK)
        llama2c_close(out);
    return s;
}

void llama2c_close(llama2c *m)
{
    mem_free(m->block_);
    *m = (llama2c){0};
}

const tensor *llama2c_find(const llama2c *m, const char *name)
{
    for (uint32_t i = 0; i < m->n_tensors; i++)
        if (str_is(m->tensors[i].name, name))
            return &m->tensors[i];
    return NULL;
}
