/* text_data.c - see text_data.h. */
#include "cli/text_data.h"

enum { MAX_TEXT = 1u << 30 };

om_status token_text_read(const llm_model *m, const char *path, token_text *out, om_err *err)
{
    buf text = {0};
    const char *file = strcmp(path, "-") == 0 ? "/dev/stdin" : path;
    *out = (token_text){0};
    TRY(os_read_file(file, MAX_TEXT, &text, err));
    om_status s = llm_tokenize(m, (str){(char *)text.data, text.len}, &out->ids, &out->n, err);
    buf_free(&text);
    return s == OM_OK ? s : fail_in(err, s, path);
}

void token_text_free(token_text *t)
{
    mem_free(t->ids);
    *t = (token_text){0};
}
