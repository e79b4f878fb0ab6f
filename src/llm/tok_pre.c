/* tok_pre.c - pre-tokenizers: cutting a text into words before byte-level merges.
 *
 * Each model family publishes one or more regular expressions; here each is a scanner
 * written by hand over Unicode classes, so that there is no regular-expression engine, no
 * backtracking and no text on which it is slow.  The expression stands above its scanner;
 * \p{..} are Unicode categories, \s is White_Space, (?!\S) "no other character follows".
 *
 * Sources: the tokenizer.json files of the models, and the names that GGUF files carry
 * in tokenizer.ggml.pre.  New one: its rules, and a row in the table below. */
#include "llm/tok_impl.h"

#include "llm/unicode.h"

/* A character under the scanner; beyond the end it is of no class and has no length. */
typedef struct {
    uint32_t cp, len;
    unicode_class cls;
} letter;

static letter look(const uint8_t *p, const uint8_t *end)
{
    letter c = {UINT32_MAX, 0, UNI_OTHER};
    if (p < end) {
        c.cp = unicode_at(p, end, &c.len);
        c.cls = unicode_class_of(c.cp);
    }
    return c;
}

/* Sets of classes. */
enum {
    L = 1 << UNI_CASED | 1 << UNI_LETTER,
    M = 1 << UNI_MARK,
    N = 1 << UNI_NUMBER,
    P = 1 << UNI_PUNCT,
    S = 1 << UNI_SYMBOL,
    Z = 1 << UNI_SPACE,
    ANY = 255
};

static bool in(letter c, unsigned set) { return c.len && (set >> c.cls & 1); }

/* Bytes of the longest run of characters in the set. */
static size_t run(const uint8_t *p, const uint8_t *end, unsigned set)
{
    const uint8_t *q = p;
    for (letter c = look(q, end); in(c, set); c = look(q, end))
        q += c.len;
    return (size_t)(q - p);
}

static size_t newlines(const uint8_t *p, const uint8_t *end)
{
    size_t n = 0;
    while (p + n < end && (p[n] == '\r' || p[n] == '\n'))
        n++;
    return n;
}

/* The n-th character after a quote, small, with the one letter that folds to s. */
static char folded(const uint8_t *p, const uint8_t *end, bool any_case, uint32_t *len)
{
    letter c = look(p, end);
    *len = c.len;
    if (any_case && c.cp == 0x17F)
        return 's';
    if (any_case && c.cp >= 'A' && c.cp <= 'Z')
        return (char)(c.cp + 32);
    return c.cp < 128 ? (char)c.cp : '\0';
}

/* 's|'t|'re|'ve|'m|'ll|'d, or the same with (?i: ) */
static size_t contraction(const uint8_t *p, const uint8_t *end, bool any_case)
{
    uint32_t la, lb;
    if (*p != '\'')
        return 0;
    char a = folded(p + 1, end, any_case, &la);
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 1 + la;
    char b = folded(p + 1 + la, end, any_case, &lb);
    if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l'))
        return 1 + la + lb;
    return 0;
}

/* \s+(?!\S)|\s+ : a run of spaces leaves its last one to the word that follows. */
static size_t spaces(const uint8_t *p, const uint8_t *end)
{
    size_t last = 0, n = 0;
    for (letter c = look(p, end); in(c, Z); c = look(p + n, end)) {
        last = n;
        n += c.len;
    }
    return p + n == end || last == 0 ? n : last;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t lines_or_spaces(const uint8_t *p, const uint8_t *end)
{
    size_t n = run(p, end, Z), line = n;
    while (line && p[line - 1] != '\n' && p[line - 1] != '\r')
        line--;
    return line ? line : spaces(p, end);
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
size_t tok_rule_gpt2(const uint8_t *p, const uint8_t *end, size_t *skip)
{
    (void)skip;
    size_t n = contraction(p, end, false), blank = *p == ' ';
    if (n)
        return n;
    letter c = look(p + blank, end);
    unsigned set = in(c, L) ? L : in(c, N) ? N : ANY & ~(L | N | Z);
    n = run(p + blank, end, set);
    return n ? blank + n : spaces(p, end);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?A+|\p{N}{1,digits}|
 *  ?[^\s\p{N}A]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+      where A is \p{L}, or \p{L}\p{M} */
static size_t llama3_like(const uint8_t *p, const uint8_t *end, unsigned alpha, int digits)
{
    size_t n = contraction(p, end, true);
    if (n)
        return n;
    letter c = look(p, end);
    if (in(c, alpha))
        return run(p, end, alpha);
    if (!in(c, L | N) && *p != '\r' && *p != '\n') {
        n = run(p + c.len, end, alpha);
        if (n)
            return c.len + n;
    }
    for (; digits > 0 && in(c, N); digits--, c = look(p + n, end))
        n += c.len;
    if (n)
        return n;
    size_t blank = *p == ' ';
    n = run(p + blank, end, ANY & ~(Z | N | alpha));
    if (n)
        return blank + n + newlines(p + blank + n, end);
    return lines_or_spaces(p, end);
}

static size_t llama3(const uint8_t *p, const uint8_t *end, size_t *skip)
{
    (void)skip;
    return llama3_like(p, end, L, 3);
}

static size_t qwen2(const uint8_t *p, const uint8_t *end, size_t *skip)
{
    (void)skip;
    return llama3_like(p, end, L, 1);
}

static size_t qwen35(const uint8_t *p, const uint8_t *end, size_t *skip)
{
    (void)skip;
    return llama3_like(p, end, L | M, 1);
}

/* Rules that do not match everything: a run of a set, at most `most` characters. */
static size_t of_set(const uint8_t *p, const uint8_t *end, unsigned set, int most, size_t *skip)
{
    size_t n = 0;
    letter c = look(p, end);
    *skip = c.len;
    for (; most > 0 && in(c, set); most--, c = look(p + n, end))
        n += c.len;
    return n;
}

size_t tok_rule_digit(const uint8_t *p, const uint8_t *end, size_t *skip) /* \p{N} */
{
    return of_set(p, end, N, 1, skip);
}

static size_t digits3(const uint8_t *p, const uint8_t *end, size_t *skip) /* \p{N}{1,3} */
{
    return of_set(p, end, N, 3, skip);
}

static size_t number(const uint8_t *p, const uint8_t *end, size_t *skip) /* \p{N}+ */
{
    size_t n = run(p, end, N);
    *skip = look(p, end).len;
    return n;
}

static size_t thousand(const uint8_t *p, const uint8_t *end, size_t *skip) /* [0-9][0-9][0-9] */
{
    *skip = 1;
    for (int i = 0; i < 3; i++)
        if (p + i >= end || p[i] < '0' || p[i] > '9')
            return 0;
    return 3;
}

/* [\p{P}\$\+<=>\^~\|`]+ : the characters named are the symbols of ASCII. */
static size_t punctuation(const uint8_t *p, const uint8_t *end, size_t *skip)
{
    size_t n = 0;
    *skip = look(p, end).len;
    for (letter c = look(p, end); in(c, P) || (in(c, S) && c.cp < 128); c = look(p + n, end))
        n += c.len;
    return n;
}

/* [\p{P}!-/:-@\[-`{-~] : one of the same */
static size_t one_punctuation(const uint8_t *p, const uint8_t *end, size_t *skip)
{
    letter c = look(p, end);
    *skip = c.len;
    return in(c, P) || (in(c, S) && c.cp < 128) ? c.len : 0;
}

/* ---- DeepSeek ------------------------------------------------------------------------ */

static size_t line_end(const uint8_t *p, const uint8_t *end, size_t *skip) /* [\r\n] */
{
    (void)end;
    *skip = 1;
    return *p == '\r' || *p == '\n';
}

typedef bool member(letter c);

/* \s?[set]+ ; a run of spaces can begin a match only with its last one. */
static size_t after_space(const uint8_t *p, const uint8_t *end, member *set, size_t *skip)
{
    letter first = look(p, end);
    size_t blank = in(first, Z) ? first.len : 0, n = blank;
    *skip = first.len;
    for (letter c = look(p + n, end); c.len && set(c); c = look(p + n, end))
        n += c.len;
    return n > blank || (blank && set(first)) ? n : 0; /* U+3000 is in both sets */
}

/* The published list of letters: \p{Lu}\p{Ll}\p{Lt} of its day without a few blocks. */
static bool deepseek_letter(letter c)
{
    static const uint32_t left_out[][2] = {{0x2D00, 0x2D2D}, {0xA790, 0xA7FA}, {0xAB30, 0xAB6F},
                                           {0x10570, 0x105BC}, {0x16E40, 0x16E7F},
                                           {0x1D400, 0x1DF1E}};
    for (size_t i = 0; i < countof(left_out); i++)
        if (c.cp >= left_out[i][0] && c.cp <= left_out[i][1])
            return false;
    return c.cls == UNI_CASED;
}

static bool any_letter(letter c) { return in(c, L); }
static bool any_punct(letter c) { return in(c, P); }

/* [!-/:-~！-／：-～‘-‟　-。] */
static bool deepseek_mark(letter c)
{
    uint32_t u = c.cp;
    return (u >= '!' && u <= '/') || (u >= ':' && u <= '~') || (u >= 0xFF01 && u <= 0xFF0F) ||
           (u >= 0xFF1A && u <= 0xFF5E) || (u >= 0x2018 && u <= 0x201F) ||
           (u >= 0x3000 && u <= 0x3002);
}

/* \s?[A-Za-z and the other cased letters]+ */
static size_t cased_word(const uint8_t *p, const uint8_t *end, size_t *skip)
{
    return after_space(p, end, deepseek_letter, skip);
}

static size_t marks(const uint8_t *p, const uint8_t *end, size_t *skip)
{
    return after_space(p, end, deepseek_mark, skip);
}

static size_t letters(const uint8_t *p, const uint8_t *end, size_t *skip) /* \s?\p{L}+ */
{
    return after_space(p, end, any_letter, skip);
}

static size_t puncts(const uint8_t *p, const uint8_t *end, size_t *skip) /* \s?\p{P}+ */
{
    return after_space(p, end, any_punct, skip);
}

static size_t last_spaces(const uint8_t *p, const uint8_t *end, size_t *skip) /* \s+$ */
{
    size_t n = run(p, end, Z);
    *skip = n ? n : look(p, end).len;
    return p + n == end ? n : 0;
}

static size_t between(const uint8_t *p, const uint8_t *end, const uint32_t (*range)[2],
                      int n_ranges, size_t *skip)
{
    size_t n = 0;
    letter c = look(p, end);
    *skip = c.len;
    for (bool more = true; more && c.len; c = look(p + n, end)) {
        more = false;
        for (int i = 0; i < n_ranges; i++)
            more |= c.cp >= range[i][0] && c.cp <= range[i][1];
        n += more ? c.len : 0;
    }
    return n;
}

/* [一-龥ࠀ-一가-퟿]+ */
static size_t east_asian(const uint8_t *p, const uint8_t *end, size_t *skip)
{
    static const uint32_t range[][2] = {{0x800, 0x9FA5}, {0xAC00, 0xD7FF}};
    return between(p, end, range, 2, skip);
}

/* [一-龥぀-ゟ゠-ヿ]+ */
static size_t han_kana(const uint8_t *p, const uint8_t *end, size_t *skip)
{
    static const uint32_t range[][2] = {{0x4E00, 0x9FA5}, {0x3040, 0x30FF}};
    return between(p, end, range, 2, skip);
}

static size_t ascii_word(const uint8_t *p, const uint8_t *end) /* [A-Za-z]+ */
{
    size_t n = 0;
    while (p + n < end && ((p[n] | 32) >= 'a' && (p[n] | 32) <= 'z'))
        n++;
    return n;
}

/* [ASCII punctuation][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|
 * \s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t deepseek3(const uint8_t *p, const uint8_t *end, size_t *skip)
{
    letter c = look(p, end);
    size_t n;
    *skip = c.len;
    if (c.cp < 128 && in(c, P | S) && (n = ascii_word(p + 1, end)) > 0)
        return 1 + n;
    if (in(c, L | M))
        return run(p, end, L | M);
    if (!in(c, P | S) && c.cp != '\r' && c.cp != '\n' &&
        (n = run(p + c.len, end, L | M)) > 0)
        return c.len + n;
    size_t blank = c.cp == ' ';
    n = run(p + blank, end, P | S);
    if (n)
        return blank + n + newlines(p + blank + n, end);
    return lines_or_spaces(p, end);
}

/* ---- Chameleon ----------------------------------------------------------------------- */

static bool begins(const uint8_t *p, const uint8_t *end, const char *with)
{
    size_t n = strlen(with);
    return (size_t)(end - p) >= n && memcmp(p, with, n) == 0;
}

/* <sentinel:[0-9]+> */
static size_t sentinel(const uint8_t *p, const uint8_t *end, size_t *skip)
{
    *skip = 1;
    if (!begins(p, end, "<sentinel:"))
        return 0;
    size_t n = 10, digits = 0;
    for (; p + n < end && p[n] >= '0' && p[n] <= '9'; n++)
        digits++;
    return digits && p + n < end && p[n] == '>' ? n + 1 : 0;
}

/* (IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z */
static size_t image(const uint8_t *p, const uint8_t *end, size_t *skip)
{
    *skip = 1;
    if (!begins(p, end, "IMGIMG"))
        return 0;
    size_t n = 6;
    while (n < 10 && p + n < end && p[n] >= 'A' && p[n] <= 'I')
        n++;
    return n > 6 && p + n < end && p[n] == 'Z' ? n + 1 : 0;
}

/* ([\t\n]|    |  ) */
static size_t indent(const uint8_t *p, const uint8_t *end, size_t *skip)
{
    *skip = 1;
    if (*p == '\t' || *p == '\n')
        return 1;
    return begins(p, end, "    ") ? 4 : begins(p, end, "  ") ? 2 : 0;
}

/* ---- table --------------------------------------------------------------------------- */

static const tok_pre table[] = {
    {.names = "gpt-2 gpt2 mpt olmo jais trillion granite-docling roberta-bpe phi-2 gigachat "
              "jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code exaone4",
     .rule = {tok_rule_gpt2}},
    {.names = "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
     .rule = {llama3}, .whole_words_first = true, .add_bos = true},
    {.names = "smaug-bpe dbrx chatglm-bpe glm4", .rule = {llama3}},
    {.names = "qwen2 deepseek-r1-qwen stablelm2 hunyuan megrez grok-2 kormo",
     .rule = {qwen2}},
    {.names = "qwen35", .rule = {qwen35}},
    {.names = "smollm starcoder refact command-r codeshell exaone minerva-7b",
     .rule = {tok_rule_digit, tok_rule_gpt2}},
    {.names = "falcon", .rule = {punctuation, tok_rule_gpt2, thousand}},
    {.names = "default", .rule = {punctuation, tok_rule_gpt2, number, thousand}},
    {.names = "deepseek-llm",
     .rule = {line_end, cased_word, marks, last_spaces, east_asian, number}},
    {.names = "deepseek-coder",
     .rule = {line_end, letters, puncts, east_asian, tok_rule_digit}},
    {.names = "deepseek-v3 hunyuan-dense", .rule = {digits3, han_kana, deepseek3}},
    {.names = "chameleon",
     .rule = {sentinel, image, indent, tok_rule_digit, one_punctuation, tok_rule_gpt2}},
};

static bool listed(const char *names, str name)
{
    while (*names) {
        size_t n = strcspn(names, " ");
        if (str_eq((str){names, n}, name))
            return true;
        names += n + (names[n] == ' ');
    }
    return false;
}

const tok_pre *tok_pre_find(str name)
{
    for (size_t i = 0; i < countof(table); i++)
        if (listed(table[i].names, name))
            return &table[i];
    return NULL;
}

const tok_pre *tok_pre_by_rules(tok_rule *const *rule, bool whole_words_first)
{
    const tok_pre *found = NULL;
    for (size_t i = 0; i < countof(table); i++) {
        size_t k = 0;
        while (rule[k] && rule[k] == table[i].rule[k])
            k++;
        if (rule[k] || table[i].rule[k])
            continue;
        if (!found || table[i].whole_words_first == whole_words_first)
            found = &table[i];
        if (found->whole_words_first == whole_words_first)
            return found;
    }
    return found;
}

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
#define REST "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

tok_rule *tok_rule_of_regex(str regex)
{
    static const struct {
        const char *text;
        tok_rule *rule;
    } known[] = {
        {CONTRACTIONS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
         REST, llama3},
        {CONTRACTIONS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
         REST, qwen2},
        {CONTRACTIONS "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}|"
         " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" REST, qwen35},
        {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
         tok_rule_gpt2},
        {"\\p{N}", tok_rule_digit},
        {"\\p{N}{1,3}", digits3},
        {"[0-9][0-9][0-9]", thousand},
        {"[\xE4\xB8\x80-\xE9\xBE\xA5\xE3\x81\x80-\xE3\x82\x9F\xE3\x82\xA0-\xE3\x83\xBF]+",
         han_kana},
        {"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"
         "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" REST,
         deepseek3},
    };
    for (size_t i = 0; i < countof(known); i++)
        if (str_is(regex, known[i].text))
            return known[i].rule;
    return NULL;
}

om_status tok_split(tok_rule *const *rule, const uint8_t *p, size_t n, tok_sink *sink,
                    void *ctx)
{
    if (!*rule)
        return sink(ctx, p, n);
    const uint8_t *end = p + n, *gap = p;
    while (p < end) {
        size_t skip = 1, m = (*rule)(p, end, &skip);
        if (m == 0) {
            p += skip;
            continue;
        }
        if (p > gap)
            TRY(tok_split(rule + 1, gap, (size_t)(p - gap), sink, ctx));
        TRY(tok_split(rule + 1, p, m, sink, ctx));
        p += m;
        gap = p;
    }
    return end > gap ? tok_split(rule + 1, gap, (size_t)(end - gap), sink, ctx) : OM_OK;
}
