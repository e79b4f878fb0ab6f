/* kv.h - inside llm/: the pages of a key-value cache. */
#ifndef LLM_KV_H
#define LLM_KV_H

#include "llm/model.h"

/* How a page is stored: where each layer's blocks lie. */
typedef struct {
    nn_kv_part *layer; /* (n_layer) */
    size_t bytes;
} kv_form;

typedef struct {
    uint32_t refs;
    const kv_form *form;
    uint8_t *data;
} kv_page;

struct llm_kv {
    llm_model *m;
    uint32_t refs;
    kv_form plain;
    uint64_t budget, used; /* bytes; budget 0: none */
    /* the forward */
    nn *c;
    nn_kv_layer *layer;    /* (n_layer) */
    uint32_t batch, capacity;
    int32_t *ids, *pos;    /* (batch) */
    nn_seq *seq;           /* (batch) */
    uint32_t *out_row;     /* (batch) */
    float *logits;         /* (cap_logits, vocab) */
    size_t cap_logits;
};

/* A plain page, zeroed, with one reference.  OM_ELIMIT when the budget is used up. */
om_status kv_page_new(llm_kv *kv, kv_page **out, om_err *err);
void kv_page_drop(llm_kv *kv, kv_page *p); /* NULL is allowed */
/* Make *p a page that may be written: a copy when others hold it too. */
om_status kv_page_own(llm_kv *kv, kv_page **p, om_err *err);

#endif
