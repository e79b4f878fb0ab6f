/* kv.h - inside llm/: the pages of a key-value cache and who holds them. */
#ifndef LLM_KV_H
#define LLM_KV_H

#include "llm/experts.h"

/* How a page is stored: where each layer's blocks lie. */
typedef struct {
    nn_kv_part *layer; /* (n_layer) */
    size_t bytes;
} kv_form;

typedef struct kv_segment kv_segment; /* a file of spilled pages */

typedef struct {
    uint32_t refs;
    const kv_form *form;
    uint8_t *data;       /* in memory or in the map of a file */
    kv_segment *segment; /* NULL: in memory */
} kv_page;

struct llm_kv {
    llm_model *m;
    uint32_t refs;
    kv_form plain, packed; /* packed.bytes 0: pages are never packed */
    uint32_t recent;
    bool pack_late;
    uint64_t budget;
    llm_kv_stats now;
    char *spill; /* folder or NULL */
    kv_segment *segments;
    llm_session *sessions; /* a list, the last used first */
    expert_store *experts; /* NULL: all are mapped */
    /* the forward */
    nn *c;
    nn_kv_layer *layer; /* (n_layer) */
    uint32_t batch, capacity;
    int32_t *ids, *pos; /* (batch) */
    nn_seq *seq;        /* (batch) */
    uint32_t *out_row;  /* (batch) */
    float *logits;      /* (cap_logits, vocab) */
    size_t cap_logits;
};

struct llm_session {
    llm_kv *kv;
    llm_session *prev, *next; /* in kv->sessions */
    kv_page **page;           /* (pages) of the n tokens; NULL behind them */
    nn_kv_page *view;         /* (pages) the same for nn */
    int32_t *ids;             /* (context) the timeline */
    uint32_t n, context, pages;
    uint32_t computed; /* n, and within a call what of its tokens is in the pages */
    bool busy;         /* in the forward being prepared: its last page will be written */
    uint32_t shift;    /* positions dropped from the middle of an endless session */
    bool endless;
    const om_cancel *cancel;
};

void kv_session_swap(llm_session *a, llm_session *b); /* timelines of one llm_kv */

static inline uint32_t kv_pages_of(uint32_t tokens)
{
    return (tokens + KV_TOKENS - 1) / KV_TOKENS;
}

/* kv_form.c: forms of a model's pages. */
om_status kv_form_plain(const llm_hparams *h, kv_type type, kv_form *f, om_err *err);
om_status kv_form_packed(const llm_hparams *h, float bits, kv_form *f, om_err *err);
/* Bits per number of keys and values, scales and padding included. */
double kv_form_bits(const llm_hparams *h, const kv_form *f);
void kv_form_close(kv_form *f);

/* kv.c: a page, zeroed, with one reference.  Over budget others are packed and
 * spilled, as far as that is allowed; OM_ELIMIT when it does not help. */
om_status kv_page_new(llm_kv *kv, const kv_form *form, kv_page **out, om_err *err);
void kv_page_drop(llm_kv *kv, kv_page *p); /* NULL is allowed */
/* Make *p a page that may be written: a plain copy in memory when it is not. */
om_status kv_page_own(llm_kv *kv, kv_page **p, om_err *err);
/* Pack a plain page, for all who hold it. */
om_status kv_page_pack(llm_kv *kv, kv_page *p, om_err *err);

/* Turn the keys of a plain page that nobody else holds to positions `by` later. */
void kv_page_turn(const llm_kv *kv, kv_page *p, int32_t by);

/* kv_spill.c: a page moves to a file; and back when the budget has room. */
om_status kv_page_spill(llm_kv *kv, kv_page *p, om_err *err);
om_status kv_page_fetch(llm_kv *kv, kv_page *p, om_err *err);
void kv_spill_leave(kv_page *p); /* its place in the file is free */
void kv_spill_close(llm_kv *kv);
/* Between forwards: maps of spilled pages are out of our memory again. */
void kv_spill_rest(llm_kv *kv);

#endif
