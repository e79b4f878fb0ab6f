/* kv_spill.c - pages in files.
 *
 * A spilled page lies in a mapped file and is attended to where it lies: the system reads
 * it when it is touched, keeps what it has memory for and drops the rest.  The bytes are
 * the page's own, so a session computes the same bits wherever its pages are.  Files have
 * no name left once they are open and end with the process. */
#include "llm/kv.h"

#include <stdio.h>

enum { SEGMENT_PAGES = 32 }; /* one bit each in kv_segment.taken */

struct kv_segment {
    kv_segment *next;
    os_state map;
    size_t page_bytes;
    uint32_t taken;
};

static om_status segment_open(llm_kv *kv, size_t bytes, kv_segment **out, om_err *err)
{
    char path[1024], name[64];
    uint64_t id;
    kv_segment *g = mem_alloc(sizeof(*g));
    if (!g)
        return fail(err, OM_ENOMEM, "session: no memory");
    om_status s = os_entropy(&id, sizeof(id), err);
    snprintf(name, sizeof(name), "octomil-%016llx.kv", (unsigned long long)id);
    if (s == OM_OK)
        s = os_join(path, sizeof(path), kv->spill, name);
    if (s == OM_OK)
        s = os_state_create(path, SEGMENT_PAGES * bytes, &g->map, err);
    if (s != OM_OK) {
        mem_free(g);
        return s;
    }
    os_remove(path, NULL);
    g->page_bytes = bytes;
    g->next = kv->segments;
    kv->segments = *out = g;
    return OM_OK;
}

om_status kv_page_spill(llm_kv *kv, kv_page *p, om_err *err)
{
    size_t bytes = p->form->bytes, slot = 0;
    kv_segment *g = kv->segments;
    while (g && (g->page_bytes != bytes || g->taken == UINT32_MAX))
        g = g->next;
    if (!g)
        TRY(segment_open(kv, bytes, &g, err));
    while (g->taken >> slot & 1)
        slot++;
    memcpy(g->map.p + slot * bytes, p->data, bytes);
    mem_free(p->data);
    g->taken |= 1u << slot;
    p->data = g->map.p + slot * bytes;
    p->segment = g;
    kv->now.memory -= bytes;
    kv->now.spilled += bytes;
    return OM_OK;
}

om_status kv_page_fetch(llm_kv *kv, kv_page *p, om_err *err)
{
    size_t bytes = p->form->bytes;
    uint8_t *data = mem_alloc(bytes);
    if (!data)
        return fail(err, OM_ENOMEM, "session: no memory for a page of %zu bytes", bytes);
    memcpy(data, p->data, bytes);
    kv_spill_leave(p);
    p->data = data;
    kv->now.memory += bytes;
    kv->now.spilled -= bytes;
    return OM_OK;
}

void kv_spill_leave(kv_page *p)
{
    kv_segment *g = p->segment;
    g->taken &= ~(1u << (size_t)(p->data - g->map.p) / g->page_bytes);
    p->segment = NULL;
    p->data = NULL;
}

void kv_spill_rest(llm_kv *kv)
{
    for (kv_segment *g = kv->segments; g; g = g->next)
        os_state_release(&g->map);
}

void kv_spill_close(llm_kv *kv)
{
    while (kv->segments) {
        kv_segment *g = kv->segments;
        kv->segments = g->next;
        os_state_close(&g->map);
        mem_free(g);
    }
}
