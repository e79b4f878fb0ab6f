/* spec_lookup.c - guesses from the text itself: what followed the last time.
 *
 * Texts repeat what they were given: names, lines of code, whole sentences of a document
 * they summarise.  The last three tokens, else two, else one, are looked up among those
 * before, and what followed there is the guess (Saxena 2023, "Prompt lookup decoding";
 * Yang et al. 2023, "Inference with reference").  A guess that runs into the end of the text
 * goes on with itself, which makes a loop of any period.
 *
 * The table is a hash of n-grams to the place behind their last occurrence; a collision only
 * forgets an occurrence, since the tokens are compared.  How far the agreement reaches back
 * is the guess's class: one token is right seldom, a dozen nearly always. */
#include "llm/speculate.h"

enum { GRAM = 3, FAR = 12 };

typedef struct {
    uint32_t *at;   /* (mask + 1) the place behind an n-gram, 0: none */
    uint32_t mask;
    uint32_t known; /* n-grams that end before this place are in the table */
    uint32_t match; /* what look found */
} lookup;

static void close_it(void *self)
{
    lookup *l = self;
    if (l)
        mem_free(l->at);
    mem_free(l);
}

static om_status open_it(const spec_source *from, void **self, om_err *err)
{
    uint32_t slots = 1024, want = llm_context(from->s);
    while (slots / 4 < want && slots < (1u << 20))
        slots *= 2;
    lookup *l = mem_alloc(sizeof(*l));
    *self = l;
    if (!l || !(l->at = mem_array(slots, sizeof(*l->at)))) {
        close_it(l);
        *self = NULL;
        return fail(err, OM_ENOMEM, "speculation: no memory for a table of %u entries", slots);
    }
    l->mask = slots - 1;
    return OM_OK;
}

static void begin(void *self)
{
    lookup *l = self;
    memset(l->at, 0, ((size_t)l->mask + 1) * sizeof(*l->at));
    l->known = l->match = 0;
}

/* The slot of the n tokens before ids[end]. */
static uint32_t *slot(const lookup *l, const int32_t *ids, uint32_t end, uint32_t n)
{
    uint64_t h = n;
    for (uint32_t i = end - n; i < end; i++)
        h = (h ^ (uint32_t)ids[i]) * 0x9e3779b97f4a7c15u;
    return &l->at[(h >> 32) & l->mask];
}

/* n-grams that something follows. */
static void extend(lookup *l, const spec_text *t)
{
    for (; l->known < t->n; l->known++)
        for (uint32_t n = 1; n <= GRAM && n <= l->known; n++)
            *slot(l, t->ids, l->known, n) = l->known;
}

/* Tokens before `at` that are those before the end, up to FAR. */
static uint32_t agreement(const spec_text *t, uint32_t at)
{
    uint32_t n = 0;
    while (n < FAR && n < at && t->ids[at - 1 - n] == t->ids[t->n - 1 - n])
        n++;
    return n;
}

static int look(void *self, const spec_text *t)
{
    static const uint8_t class_of[FAR + 1] = {0, 0, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4};
    lookup *l = self;
    extend(l, t);
    for (uint32_t n = (uint32_t)size_min(GRAM, t->n - 1); n > 0; n--) {
        uint32_t at = *slot(l, t->ids, t->n, n);
        uint32_t same = at ? agreement(t, at) : 0;
        if (same >= n) {
            l->match = at;
            return class_of[same];
        }
    }
    return -1;
}

static om_status guess(void *self, const spec_text *t, uint32_t want, int32_t *out,
                       uint32_t *n, om_err *err)
{
    const lookup *l = self;
    (void)err;
    for (uint32_t i = 0; i < want; i++) {
        uint32_t from = l->match + i;
        out[i] = from < t->n ? t->ids[from] : out[from - t->n];
    }
    *n = want;
    return OM_OK;
}

const spec_kind spec_lookup = {
    .name = "lookup", .summary = "what followed the last tokens where they stood before",
    .first_class = 0, .classes = 5,
    .open = open_it, .close = close_it, .begin = begin, .look = look, .guess = guess,
};
