/* plan.c - where every buffer of a run lies.
 *
 * A dry run records each buffer's size and the ops (ticks) between which it is alive.
 * Packing intervals into the least memory is NP-hard; greedy by decreasing size with
 * best fit (as in Pisarchyk and Lee, "Efficient memory management for deep neural net
 * inference", 2020) comes within a few per cent of the largest sum of live bytes on
 * transformer steps.  All offsets are multiples of 64 bytes.
 *
 * Invariants: two buffers that share a tick do not share a byte; the real run allocates
 * the same sizes in the same order as the dry one, which plan_alloc checks. */
#include "nn/plan.h"

enum { ALIGN = 64, CHUNK_BYTES = 64 << 10 };

struct plan_chunk {
    plan_chunk *next;
    size_t used, cap; /* bytes after the header */
};

/* ---- small memory ------------------------------------------------------------------ */

static size_t chunk_head(void) { return size_align(sizeof(plan_chunk), ALIGN); }

static plan_chunk *chunk_open(size_t n)
{
    size_t cap = size_max(n, CHUNK_BYTES), total;
    if (!size_add(cap, chunk_head(), &total))
        return NULL;
    plan_chunk *k = mem_alloc(total);
    if (k)
        k->cap = cap;
    return k;
}

void *plan_meta_alloc(nn *c, size_t n)
{
    plan_meta *m = &c->plan->meta;
    n = size_align(n, 16);
    while (!m->now || m->now->cap - m->now->used < n) {
        plan_chunk **link = m->now ? &m->now->next : &m->first;
        if (!*link)
            *link = chunk_open(n);
        if (!*link) {
            nn_fail(c, OM_ENOMEM, "nn: no memory for %zu bytes of tape", n);
            return NULL;
        }
        m->now = *link;
        m->now->used = 0;
    }
    void *p = (char *)m->now + chunk_head() + m->now->used;
    m->now->used += n;
    return memset(p, 0, n);
}

void plan_meta_reset(plan_meta *m)
{
    m->now = m->first;
    if (m->now)
        m->now->used = 0;
}

static void meta_free(plan_meta *m)
{
    for (plan_chunk *k = m->first, *next; k; k = next) {
        next = k->next;
        mem_free(k);
    }
    *m = (plan_meta){0};
}

/* ---- recording and replaying --------------------------------------------------------- */

void plan_start_dry(nn_plan *p)
{
    p->n_buf = 0;
    p->tick = 0;
}

static uint32_t record(nn *c, size_t bytes)
{
    nn_plan *p = c->plan;
    if (p->n_buf == p->cap_buf) {
        uint32_t cap = p->cap_buf ? p->cap_buf * 2 : 256;
        plan_buf *grown =
            mem_grow(p->buf, p->n_buf * sizeof(*p->buf), cap * sizeof(*p->buf));
        if (!grown) {
            nn_fail(c, OM_ENOMEM, "nn: no memory to plan %u buffers", cap);
            return 0;
        }
        p->buf = grown;
        p->cap_buf = cap;
    }
    p->buf[p->n_buf] = (plan_buf){.bytes = bytes, .birth = p->tick, .last = p->tick};
    return ++p->n_buf;
}

static uint32_t replay(nn *c, size_t bytes, void **data)
{
    nn_plan *p = c->plan;
    if (p->next >= p->now->n || p->now->slot[p->next].bytes != bytes) {
        nn_fail(c, OM_EARG,
                "nn: allocation %u of this run (%zu bytes) is not the planned "
                "one; the shape key must change whenever shapes do",
                p->next + 1, bytes);
        return 0;
    }
    *data = p->block + p->now->slot[p->next].offset;
    return ++p->next;
}

uint32_t plan_alloc(nn *c, size_t bytes, void **data)
{
    *data = NULL;
    if (c->status != OM_OK)
        return 0;
    bytes = size_align(bytes, ALIGN);
    return c->dry ? record(c, bytes) : replay(c, bytes, data);
}

void plan_touch(nn *c, uint32_t id)
{
    nn_plan *p = c->plan;
    if (c->dry && id > 0 && id <= p->n_buf)
        p->buf[id - 1].last = p->tick;
}

/* ---- packing --------------------------------------------------------------------------
 */

static bool meet(const plan_buf *a, const plan_buf *b)
{
    return a->birth <= b->last && b->birth <= a->last;
}

/* Larger first; equal sizes in order of birth, so that the result is one. */
static bool goes_before(const plan_buf *all, uint32_t a, uint32_t b)
{
    if (all[a].bytes != all[b].bytes)
        return all[a].bytes > all[b].bytes;
    return a < b;
}

static void sift(const plan_buf *all, uint32_t *heap, uint32_t n, uint32_t i)
{
    for (;;) {
        uint32_t last = i, l = 2 * i + 1;
        for (uint32_t j = l; j < n && j < l + 2; j++)
            if (goes_before(all, heap[last], heap[j]))
                last = j;
        if (last == i)
            return;
        uint32_t swap = heap[i];
        heap[i] = heap[last];
        heap[last] = swap;
        i = last;
    }
}

static void sort_by_size(const plan_buf *all, uint32_t *idx, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        idx[i] = i;
    for (uint32_t i = n / 2; i-- > 0;)
        sift(all, idx, n, i);
    for (uint32_t end = n; end-- > 1;) {
        uint32_t swap = idx[0];
        idx[0] = idx[end];
        idx[end] = swap;
        sift(all, idx, end, 0);
    }
}

/* The smallest gap that holds b between the placed buffers (ascending offsets) alive
 * at the same time; else after the last of them. */
static size_t best_fit(const plan_buf *all, const uint32_t *placed, uint32_t n,
                       const plan_buf *b)
{
    size_t top = 0, best = SIZE_MAX, best_gap = SIZE_MAX;
    for (uint32_t i = 0; i < n; i++) {
        const plan_buf *q = &all[placed[i]];
        if (!meet(q, b))
            continue;
        if (q->offset > top && q->offset - top >= b->bytes && q->offset - top < best_gap) {
            best = top;
            best_gap = q->offset - top;
        }
        top = size_max(top, q->offset + q->bytes);
    }
    return best != SIZE_MAX ? best : top;
}

static void insert_sorted(const plan_buf *all, uint32_t *placed, uint32_t n, uint32_t id)
{
    uint32_t at = n;
    while (at > 0 && all[placed[at - 1]].offset > all[id].offset) {
        placed[at] = placed[at - 1];
        at--;
    }
    placed[at] = id;
}

size_t plan_pack(plan_buf *all, uint32_t n, bool no_reuse, uint32_t *scratch)
{
    uint32_t *order = scratch, *placed = scratch + n;
    size_t total = 0;
    sort_by_size(all, order, n);
    for (uint32_t i = 0; i < n; i++) {
        plan_buf *b = &all[order[i]];
        b->offset = no_reuse ? total : best_fit(all, placed, i, b);
        total = size_max(total, b->offset + b->bytes);
        insert_sorted(all, placed, i, order[i]);
    }
    return total;
}

/* ---- plans ------------------------------------------------------------------------------
 */

plan_entry *plan_find(nn_plan *p, uint64_t key, unsigned mode)
{
    for (int i = 0; i < PLAN_CACHED; i++) {
        plan_entry *e = &p->entry[i];
        if (e->used && e->key == key && e->mode == mode)
            return e;
    }
    return NULL;
}

static plan_entry *oldest(nn_plan *p)
{
    plan_entry *e = &p->entry[0];
    for (int i = 1; i < PLAN_CACHED; i++)
        if (p->entry[i].used < e->used)
            e = &p->entry[i];
    return e;
}

static om_status grow_block(nn_plan *p, size_t bytes, om_err *err)
{
    if (bytes <= p->block_bytes)
        return OM_OK;
    mem_free(p->block);
    p->block_bytes = 0;
    p->block = mem_alloc(bytes);
    if (!p->block)
        return fail(err, OM_ENOMEM,
                    "nn: no memory for a block of %zu bytes; take a smaller "
                    "batch or length, or recompute activations",
                    bytes);
    p->block_bytes = bytes;
    return OM_OK;
}

om_status plan_keep(nn_plan *p, uint64_t key, unsigned mode, plan_entry **out, om_err *err)
{
    plan_entry *e = oldest(p);
    mem_free(e->slot);
    *e = (plan_entry){0};
    uint32_t *scratch = mem_array((size_t)p->n_buf * 2 + 1, sizeof(*scratch));
    plan_slot *slot = mem_array(p->n_buf, sizeof(*slot));
    if (!scratch || !slot) {
        mem_free(scratch);
        mem_free(slot);
        return fail(err, OM_ENOMEM, "nn: no memory to plan %u buffers", p->n_buf);
    }
    size_t total = plan_pack(p->buf, p->n_buf, p->no_reuse, scratch);
    mem_free(scratch);
    for (uint32_t i = 0; i < p->n_buf; i++)
        slot[i] = (plan_slot){p->buf[i].bytes, p->buf[i].offset};
    om_status s =
        p->max_bytes && total > p->max_bytes
            ? fail(err, OM_ELIMIT,
                   "nn: this pass needs %zu bytes of working memory, %zu are "
                   "allowed; take a smaller batch or length, or recompute activations",
                   total, p->max_bytes)
            : grow_block(p, size_max(total, ALIGN), err);
    if (s != OM_OK) {
        mem_free(slot);
        return s;
    }
    *e = (plan_entry){.key = key,
                      .mode = mode,
                      .used = ++p->stamp,
                      .n = p->n_buf,
                      .slot = slot,
                      .total = total};
    *out = e;
    return OM_OK;
}

void plan_clear(nn_plan *p)
{
    for (int i = 0; i < PLAN_CACHED; i++)
        mem_free(p->entry[i].slot);
    meta_free(&p->meta);
    mem_free(p->buf);
    mem_free(p->block);
    *p = (nn_plan){0};
}
