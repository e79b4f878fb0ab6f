/* windows.c - see windows.h.
 *
 * Windows of one batch lie side by side without a cache: each attends within itself.  A
 * text's token is scored once, in the first window that holds it.  With PERPLEXITY_HALVES
 * windows are disjoint and a token is scored when it lies behind the middle of its own;
 * that, with the last incomplete window left out, is how llama.cpp's llama-perplexity
 * measures, where BOS takes the place of a window's first token. */
#include "llm/windows.h"

enum { DEFAULT_WINDOW = 512, MAX_WINDOW = 1 << 20, ROWS = 1024 };

/* One window behind the rows there are; row w predicts text[t] from what is before. */
static void add_window(text_windows *s)
{
    size_t end = size_min(s->next + s->content, s->n);
    nn_seq *q = &s->seq[s->n_seq++];
    *q = (nn_seq){.row = s->rows};
    uint32_t at = 0;
    for (; at < s->lead; at++, s->rows++) {
        s->ids[s->rows] = (int32_t)(s->m->h.vocab + at);
        s->pos[s->rows] = (int32_t)at;
    }
    for (size_t t = s->next; t < end || at == s->lead;) {
        uint32_t r = s->rows++;
        bool first = at == s->lead && s->bos >= 0;
        s->ids[r] = first ? s->bos : s->text[t];
        s->pos[r] = (int32_t)at++;
        t += !first;
        if (t < end && (s->halves ? at > s->window / 2 : t >= s->scored_to)) {
            s->target[s->n_scored] = s->text[t];
            s->row[s->n_scored++] = r;
        }
    }
    q->n_rows = s->rows - q->row;
    s->scored_to = end;
    s->next += s->stride;
    s->finished = s->halves ? s->n - size_min(s->next, s->n) < s->content : end == s->n;
}

bool text_windows_next(text_windows *s)
{
    if (s->finished)
        return false;
    s->rows = s->n_seq = s->n_scored = 0;
    while (!s->finished && s->rows + s->window <= s->room)
        add_window(s);
    return true;
}

nn_tensor *text_windows_forward(nn *c, const llm_model *m, const text_windows *t)
{
    llm_batch b = {
        .ids = t->ids, .pos = t->pos, .rows = t->rows, .seq = t->seq, .n_seq = t->n_seq};
    return nn_rows(c, m->arch->forward(c, m, &b), t->row, t->n_scored);
}

uint64_t text_windows_key(const text_windows *t)
{
    return (uint64_t)t->rows << 40 | (uint64_t)t->n_seq << 20 | t->n_scored;
}

static om_status room(text_windows *s, om_err *err)
{
    s->room = (uint32_t)size_max(s->window, ROWS);
    s->ids = mem_array(s->room, sizeof(*s->ids));
    s->pos = mem_array(s->room, sizeof(*s->pos));
    s->target = mem_array(s->room, sizeof(*s->target));
    s->row = mem_array(s->room, sizeof(*s->row));
    s->seq = mem_array(s->room, sizeof(*s->seq));
    if (!s->ids || !s->pos || !s->target || !s->row || !s->seq)
        return fail(err, OM_ENOMEM, "perplexity: no memory for %u tokens", s->room);
    return OM_OK;
}

static om_status check(const text_windows *s, om_err *err)
{
    uint32_t most = s->m->pos_embed ? s->m->h.context : MAX_WINDOW;
    uint32_t longest = s->window - s->lead - 1; /* every token but BOS needs one before it */
    if (s->window < 2 || s->window > most)
        return fail(err, OM_EARG,
                    "perplexity: a window of %u tokens; this model takes 2 to "
                    "%u",
                    s->window, most);
    if (!s->halves && s->stride > longest)
        return fail(err, OM_EARG,
                    "perplexity: stride %u; a window of %u tokens allows up to "
                    "%u",
                    s->stride, s->window, longest);
    size_t least = s->halves ? s->content : 2;
    if (s->n < least)
        return fail(err, OM_EARG, "perplexity: the text has %zu tokens; %zu are needed",
                    s->n, least);
    for (size_t i = 0; i < s->n; i++)
        if (s->text[i] < 0 || (uint32_t)s->text[i] >= s->m->h.vocab)
            return fail(err, OM_EARG, "perplexity: token %d; the vocabulary has %u",
                        s->text[i], s->m->h.vocab);
    return OM_OK;
}

om_status text_windows_open(text_windows *s, const llm_model *m, const int32_t *ids,
                            size_t n, uint32_t window, uint32_t stride, om_err *err)
{
    const tokenizer *tok = m->tok;
    *s = (text_windows){.m = m, .text = ids, .n = n};
    s->bos = tok && tokenizer_adds_bos(tok) ? tokenizer_bos(tok) : -1;
    if (s->bos >= 0 && s->n && s->text[0] == s->bos) {
        s->text++;
        s->n--;
    }
    s->window = window ? window : (uint32_t)size_min(m->h.context, DEFAULT_WINDOW);
    s->lead = llm_prompt_tokens(m);
    if (s->lead + 2 > s->window)
        return fail(err, OM_EARG, "perplexity: a window of %u tokens behind a prompt of %u",
                    s->window, s->lead);
    s->content = s->window - s->lead - (s->bos >= 0);
    s->halves = stride == PERPLEXITY_HALVES;
    s->stride = s->halves ? s->window - s->lead : stride ? stride : (s->window - s->lead + 1) / 2;
    TRY(check(s, err));
    s->scored_to = s->bos >= 0 ? 0 : 1;
    return room(s, err);
}

void text_windows_close(text_windows *s)
{
    mem_free(s->ids);
    mem_free(s->pos);
    mem_free(s->target);
    mem_free(s->row);
    mem_free(s->seq);
}
