/* tok_vocab.c - the vocabulary of a tokenizer: tokens as bytes, the indexes over them,
 * and the builder that every loader goes through, so that hostile files are checked in
 * one place.
 *
 * Two tokens with the same bytes: the first one is what encoding gives, both decode.
 * Control tokens are in no index but by_special: no merge and no byte sequence of a
 * text can become one. */
#include "llm/tok_impl.h"

#include "llm/unicode.h"

#include <math.h>
#include <stdlib.h>

/* ---- file form of tokens ------------------------------------------------------------- */

/* GPT-2 shows bytes that are printable in Latin-1 as themselves and the others, in
 * order, as the characters from 256 on. */
static bool printable(uint32_t b)
{
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

uint32_t tok_byte_char(uint8_t b)
{
    uint32_t before = 0; /* unprintable bytes below b */
    if (printable(b))
        return b;
    for (uint32_t i = 0; i < b; i++)
        before += !printable(i);
    return 256 + before;
}

static int char_byte(uint32_t cp)
{
    if (cp < 256)
        return printable(cp) ? (int)cp : -1;
    uint32_t k = cp - 256; /* 0..32 -> 0..32, 33 -> 127, 34..66 -> 128..160, 67 -> 173 */
    return k < 33 ? (int)k : k == 33 ? 127 : k < 67 ? (int)k + 94 : k == 67 ? 173 : -1;
}

om_status tok_unmap_bytes(str piece, buf *out)
{
    const uint8_t *p = (const uint8_t *)piece.p, *end = p + piece.n;
    for (uint32_t len; p < end; p += len) {
        int b = char_byte(unicode_at(p, end, &len));
        if (b >= 0)
            TRY(buf_u8(out, (uint8_t)b));
        else /* not of the alphabet: it stands for itself */
            TRY(buf_put(out, p, len));
    }
    return OM_OK;
}

om_status tok_map_bytes(str raw, buf *out)
{
    for (size_t i = 0; i < raw.n; i++) {
        uint8_t utf8[4];
        TRY(buf_put(out, utf8, unicode_put(tok_byte_char((uint8_t)raw.p[i]), utf8)));
    }
    return OM_OK;
}

static const char space_mark[] = "\xE2\x96\x81"; /* U+2581 */

om_status tok_unmap_space(str piece, buf *out)
{
    for (size_t i = 0; i < piece.n; i++) {
        if (piece.n - i >= 3 && memcmp(piece.p + i, space_mark, 3) == 0) {
            TRY(buf_u8(out, ' '));
            i += 2;
        } else {
            TRY(buf_u8(out, (uint8_t)piece.p[i]));
        }
    }
    return OM_OK;
}

om_status tok_map_space(str raw, buf *out)
{
    for (size_t i = 0; i < raw.n; i++)
        TRY(raw.p[i] == ' ' ? buf_put(out, space_mark, 3) : buf_u8(out, (uint8_t)raw.p[i]));
    return OM_OK;
}

int tok_parse_byte(str piece)
{
    static const char digit[] = "0123456789ABCDEFabcdef";
    int v = 0;
    if (piece.n != 6 || memcmp(piece.p, "<0x", 3) != 0 || piece.p[5] != '>')
        return -1;
    for (int i = 3; i < 5; i++) {
        const char *d = piece.p[i] ? strchr(digit, piece.p[i]) : NULL;
        if (!d)
            return -1;
        int k = (int)(d - digit);
        v = v * 16 + (k < 16 ? k : k - 6);
    }
    return v;
}

/* ---- indexes ------------------------------------------------------------------------- */

static bool map_alloc(tok_map *m, uint32_t n)
{
    uint32_t size = 16;
    while (size < 2 * n)
        size *= 2;
    m->slot = mem_array(size, sizeof(*m->slot));
    m->mask = size - 1;
    return m->slot != NULL;
}

/* Pieces are short: eight bytes a step, mixed as in splitmix64. */
static uint32_t hash_piece(str s)
{
    uint64_t h = s.n * UINT64_C(0x9E3779B97F4A7C15);
    size_t i = 0;
    for (; i + 8 <= s.n; i += 8) {
        uint64_t w;
        memcpy(&w, s.p + i, 8);
        h = (h ^ w) * UINT64_C(0xBF58476D1CE4E5B9);
        h ^= h >> 29;
    }
    uint64_t w = 0;
    for (size_t k = 0; i + k < s.n; k++)
        w |= (uint64_t)(uint8_t)s.p[i + k] << (8 * k);
    h = (h ^ w) * UINT64_C(0x94D049BB133111EB);
    return (uint32_t)(h >> 32);
}

static uint32_t *map_slot(const tokenizer *t, const tok_map *m, str raw)
{
    uint32_t i = hash_piece(raw) & m->mask;
    while (m->slot[i] && !str_eq(tok_raw(t, m->slot[i] - 1), raw))
        i = (i + 1) & m->mask;
    return &m->slot[i];
}

int32_t tok_find_word(const tokenizer *t, str raw)
{
    return (int32_t)*map_slot(t, &t->by_word, raw) - 1;
}

int32_t tok_find_special(const tokenizer *t, str raw)
{
    return (int32_t)*map_slot(t, &t->by_special, raw) - 1;
}

static void map_add(const tokenizer *t, tok_map *m, uint32_t id)
{
    uint32_t *slot = map_slot(t, m, tok_raw(t, id));
    if (*slot == 0)
        *slot = id + 1;
}

static bool is_word(const tokenizer *t, const tok_entry *e)
{
    return e->len && (e->type == TOKEN_NORMAL || (t->kind == TOK_SPM && e->type == TOKEN_UNUSED));
}

static bool is_special(const tok_entry *e)
{
    return e->len && (e->type == TOKEN_CONTROL || e->type == TOKEN_USER ||
                      e->type == TOKEN_UNKNOWN);
}

/* ---- builder ------------------------------------------------------------------------- */

om_status tok_new(tok_kind kind, tokenizer **out, om_err *err)
{
    tokenizer *t = mem_alloc(sizeof(*t));
    if (!t)
        return fail(err, OM_ENOMEM, "tokenizer: no memory");
    t->kind = kind;
    t->bos = t->eos = t->unk = t->pad = -1;
    t->blob = buf_growing(UINT32_MAX);
    memset(t->byte_id, -1, sizeof(t->byte_id));
    *out = t;
    return OM_OK;
}

void tokenizer_close(tokenizer *t)
{
    if (!t)
        return;
    mem_free(t->tok);
    buf_free(&t->blob);
    mem_free(t->by_word.slot);
    mem_free(t->by_special.slot);
    mem_free(t->order);
    mem_free(t->merge);
    mem_free(t->special_len);
    mem_free(t);
}

om_status tok_add(tokenizer *t, str raw, token_type type, float score, uint8_t flags,
                  om_err *err)
{
    if (t->n == TOK_MAX_TOKENS || raw.n > TOK_MAX_PIECE)
        return fail(err, OM_ELIMIT, "tokenizer: token %u has %zu bytes; the limits are %d "
                    "tokens of %d bytes", t->n, raw.n, TOK_MAX_TOKENS, TOK_MAX_PIECE);
    if (isnan(score))
        return fail(err, OM_EFORMAT, "tokenizer: the score of token %u is not a number", t->n);
    if (t->n == t->tok_cap) {
        size_t cap = t->tok_cap ? t->tok_cap * 2 : 1024, size = sizeof(*t->tok);
        tok_entry *tok = mem_grow(t->tok, t->tok_cap * size, cap * size);
        if (!tok)
            return fail(err, OM_ENOMEM, "tokenizer: no memory for %zu tokens", cap);
        t->tok = tok;
        t->tok_cap = cap;
    }
    size_t off = t->blob.len;
    if (buf_put(&t->blob, raw.p, raw.n) != OM_OK)
        return fail(err, OM_ENOMEM, "tokenizer: no memory for the text of %u tokens", t->n);
    t->tok[t->n++] = (tok_entry){(uint32_t)off, (uint32_t)raw.n, score, (uint8_t)type, flags};
    return OM_OK;
}

om_status tok_index(tokenizer *t, om_err *err)
{
    if (t->n == 0)
        return fail(err, OM_EFORMAT, "tokenizer: the vocabulary is empty");
    if (!map_alloc(&t->by_word, t->n) || !map_alloc(&t->by_special, t->n))
        return fail(err, OM_ENOMEM, "tokenizer: no memory for an index of %u tokens", t->n);
    for (uint32_t id = 0; id < t->n; id++) {
        const tok_entry *e = &t->tok[id];
        if (is_word(t, e))
            map_add(t, &t->by_word, id);
        if (is_special(e))
            map_add(t, &t->by_special, id);
        bool byte = e->type == TOKEN_BYTE || (t->kind == TOK_BPE && e->type == TOKEN_NORMAL);
        if (byte && e->len == 1 && t->byte_id[t->blob.data[e->off]] < 0)
            t->byte_id[t->blob.data[e->off]] = (int32_t)id;
    }
    return OM_OK;
}

om_status tok_reserve_merges(tokenizer *t, uint64_t n, om_err *err)
{
    if (n > TOK_MAX_MERGES)
        return fail(err, OM_ELIMIT, "tokenizer: %llu merges, the limit is %d",
                    (unsigned long long)n, TOK_MAX_MERGES);
    uint32_t size = 16;
    while (size < 2 * n)
        size *= 2;
    t->merge = mem_array(size, sizeof(*t->merge));
    t->merge_mask = size - 1;
    return t->merge ? OM_OK : fail(err, OM_ENOMEM, "tokenizer: no memory for %llu merges",
                                   (unsigned long long)n);
}

static tok_merge *merge_slot(const tokenizer *t, uint64_t pair)
{
    uint32_t i = (uint32_t)((pair * UINT64_C(0x9E3779B97F4A7C15)) >> 32) & t->merge_mask;
    while (t->merge[i].rank && t->merge[i].pair != pair)
        i = (i + 1) & t->merge_mask;
    return &t->merge[i];
}

const tok_merge *tok_merge_of(const tokenizer *t, uint32_t left, uint32_t right)
{
    const tok_merge *m = merge_slot(t, (uint64_t)left << 32 | right);
    return m->rank ? m : NULL;
}

static om_status merge_part(const tokenizer *t, str raw, uint32_t *id, om_err *err)
{
    int32_t found = tok_find_word(t, raw);
    if (found < 0)
        return fail(err, OM_EFORMAT, "tokenizer: merge %u names \"%.*s\" (%zu bytes), which is "
                    "no token", t->n_merges, (int)size_min(raw.n, 40), raw.p, raw.n);
    *id = (uint32_t)found;
    return OM_OK;
}

om_status tok_add_merge(tokenizer *t, str left, str right, om_err *err)
{
    uint8_t joined[256];
    uint32_t a = 0, b = 0, both = 0;
    TRY(merge_part(t, left, &a, err));
    TRY(merge_part(t, right, &b, err));
    buf j = left.n + right.n <= sizeof(joined) ? buf_fixed(joined, sizeof(joined))
                                               : buf_growing(2 * TOK_MAX_PIECE);
    om_status s = buf_str(&j, left);
    if (s == OM_OK)
        s = buf_str(&j, right);
    s = s == OM_OK ? merge_part(t, (str){(const char *)j.data, j.len}, &both, err)
                   : fail(err, s, "tokenizer: merge %u is too long", t->n_merges);
    buf_free(&j);
    TRY(s);
    tok_merge *m = merge_slot(t, (uint64_t)a << 32 | b);
    t->n_merges++;
    if (!m->rank) /* said twice: the first counts */
        *m = (tok_merge){(uint64_t)a << 32 | b, t->n_merges, both};
    return OM_OK;
}

/* ---- the finish ---------------------------------------------------------------------- */

typedef struct {
    float score;
    uint32_t id;
} scored;

static int best_first(const void *x, const void *y)
{
    const scored *a = x, *b = y;
    return (a->score < b->score) - (a->score > b->score);
}

/* Scores become ranks: equal scores are equal ranks, as the leftmost then wins. */
static om_status rank_scores(tokenizer *t, om_err *err)
{
    scored *s = mem_array(t->n, sizeof(*s));
    t->order = mem_array(t->n, sizeof(*t->order));
    if (!s || !t->order) {
        mem_free(s);
        return fail(err, OM_ENOMEM, "tokenizer: no memory to order %u scores", t->n);
    }
    for (uint32_t i = 0; i < t->n; i++)
        s[i] = (scored){t->tok[i].score, i};
    qsort(s, t->n, sizeof(*s), best_first);
    for (uint32_t i = 0, rank = 0; i < t->n; i++) {
        rank += i && s[i].score < s[i - 1].score;
        t->order[s[i].id] = isinf(s[i].score) && s[i].score < 0 ? UINT32_MAX : rank;
    }
    mem_free(s);
    return OM_OK;
}

/* May the text be cut before every space that follows another character? */
static bool words_stand_alone(const tokenizer *t)
{
    for (uint32_t id = 0; id < t->n; id++) {
        str raw = tok_raw(t, id);
        if (!is_word(t, &t->tok[id]))
            continue;
        for (size_t i = 1; i < raw.n; i++)
            if (raw.p[i] == ' ' && raw.p[i - 1] != ' ')
                return false;
    }
    return true;
}

/* Special tokens are looked up by text; to know which lengths to try at a place in the
 * text, the distinct lengths are kept by first byte. */
typedef struct {
    uint32_t first, len;
} first_len;

static int longest_first(const void *x, const void *y)
{
    const first_len *a = x, *b = y;
    if (a->first != b->first)
        return a->first < b->first ? -1 : 1;
    return (a->len < b->len) - (a->len > b->len);
}

static om_status index_specials(tokenizer *t, om_err *err)
{
    uint32_t n = 0;
    first_len *f = mem_array(t->n, sizeof(*f));
    t->special_len = mem_array(t->n, sizeof(*t->special_len));
    if (!f || !t->special_len) {
        mem_free(f);
        return fail(err, OM_ENOMEM, "tokenizer: no memory for special tokens");
    }
    for (uint32_t id = 0; id < t->n; id++)
        if (is_special(&t->tok[id]))
            f[n++] = (first_len){t->blob.data[t->tok[id].off], t->tok[id].len};
    qsort(f, n, sizeof(*f), longest_first);
    uint32_t kept = 0, i = 0;
    for (uint32_t b = 0; b < 256; b++) {
        t->special_beg[b] = kept;
        for (; i < n && f[i].first == b; i++)
            if (kept == t->special_beg[b] || t->special_len[kept - 1] != f[i].len)
                t->special_len[kept++] = f[i].len;
    }
    t->special_beg[256] = kept;
    mem_free(f);
    return OM_OK;
}

/* Tokens after which a model has said what it had to say, by the names they are given. */
static void mark_ends(tokenizer *t)
{
    /* <|end_of_sentence|> with DeepSeek's wide bars and U+2581; C needs the hex escapes cut */
    static const char deepseek[] = "<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence"
                                   "\xEF\xBD\x9C>";
    static const char *const names[] = {
        "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>",
        "<end_of_turn>", "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>", "<EOT>", "<|EOT|>",
        deepseek, "</s>"};
    for (size_t i = 0; i < countof(names); i++) {
        int32_t id = tok_find_special(t, str_of(names[i]));
        if (id >= 0 && t->tok[id].type != TOKEN_UNKNOWN)
            t->tok[id].flags |= TOKEN_END;
    }
    if (t->eos >= 0)
        t->tok[t->eos].flags |= TOKEN_END;
}

static om_status check_id(const tokenizer *t, const char *what, int32_t id, om_err *err)
{
    if (id < -1 || (id >= 0 && (uint32_t)id >= t->n))
        return fail(err, OM_EFORMAT, "tokenizer: the %s token is %d, there are %u tokens", what,
                    id, t->n);
    return OM_OK;
}

om_status tok_ready(tokenizer *t, om_err *err)
{
    TRY(check_id(t, "bos", t->bos, err));
    TRY(check_id(t, "eos", t->eos, err));
    TRY(check_id(t, "unknown", t->unk, err));
    TRY(check_id(t, "padding", t->pad, err));
    if (t->kind == TOK_BPE && !t->merge)
        TRY(tok_reserve_merges(t, 0, err));
    if (t->kind == TOK_SPM) {
        TRY(rank_scores(t, err));
        t->words = words_stand_alone(t);
    }
    TRY(index_specials(t, err));
    mark_ends(t);
    return OM_OK;
}
