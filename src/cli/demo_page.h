/* demo_page.h - the page the demo leaves behind. */
#ifndef CLI_DEMO_PAGE_H
#define CLI_DEMO_PAGE_H

#include "base/base.h"

enum { DEMO_DEVICES = 64, DEMO_ROUNDS = 1000, DEMO_TEXT = 512 };

typedef struct {
    const char *model;
    uint32_t devices, rounds;          /* rounds: done */
    uint64_t trainable, model_bytes;   /* numbers; file */
    double round[DEMO_ROUNDS], loss[DEMO_ROUNDS], perplexity[DEMO_ROUNDS];
    uint64_t bytes_up[DEMO_ROUNDS], bytes_down[DEMO_ROUNDS];
    char name[DEMO_DEVICES][64];
    double before[DEMO_DEVICES], after[DEMO_DEVICES]; /* perplexity on its held-out text */
    double all_before, all_after;
    char prompt[DEMO_TEXT], text_before[DEMO_TEXT], text_after[DEMO_TEXT];
    double seconds;
} demo_results;

/* A self-contained HTML page: curves, table, the two completions. */
om_status demo_page(const demo_results *r, buf *out);

#endif
