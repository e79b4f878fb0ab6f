/* text_data.h - a text file as token ids for a model. */
#ifndef CLI_TEXT_DATA_H
#define CLI_TEXT_DATA_H

#include "cli/cli.h"
#include "llm/model.h"

typedef struct {
    int32_t *ids;
    size_t n;
} token_text;

/* The whole file (or - for standard input) through the model's tokenizer, with BOS when
 * the model wants it.  Caller frees with token_text_free. */
om_status token_text_read(const llm_model *m, const char *path, token_text *out, om_err *err);
void token_text_free(token_text *t);

#endif
