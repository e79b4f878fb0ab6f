/* windows.h - private to llm/: a text cut into windows, several of them at once as rows
 * of one forward, and which of their tokens are to be scored. */
#ifndef LLM_WINDOWS_H
#define LLM_WINDOWS_H

#include "llm/perplexity.h"

typedef struct {
    const llm_model *m;
    const int32_t *text;
    size_t n;
    uint32_t window, stride, content; /* content: text tokens in a window               */
    uint32_t lead;                    /* tokens of a trained prompt before them         */
    bool halves;                      /* disjoint windows, second halves scored         */
    int32_t bos;                      /* -1: none in front                              */
    size_t next, scored_to;           /* next window starts; targets before are scored  */
    bool finished;
    uint32_t room;                  /* rows one forward takes                         */
    int32_t *ids, *pos, *target;    /* (room)                                         */
    uint32_t *row;                  /* (room) rows that are scored                    */
    nn_seq *seq;                    /* (room)                                         */
    uint32_t rows, n_seq, n_scored; /* of the batch                                   */
} text_windows;

/* window, stride as in llm_perplexity.  Closing a zeroed one is allowed. */
om_status text_windows_open(text_windows *t, const llm_model *m, const int32_t *ids,
                            size_t n, uint32_t window, uint32_t stride, om_err *err);
void text_windows_close(text_windows *t);
/* The next batch; false: there is none. */
bool text_windows_next(text_windows *t);
/* Hidden states of the scored rows, (n_scored, dim); target and nll in their order. */
nn_tensor *text_windows_forward(nn *c, const llm_model *m, const text_windows *t);
/* Names the shapes of the batch, for nn_run. */
uint64_t text_windows_key(const text_windows *t);

#endif
