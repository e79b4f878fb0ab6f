/* sampler.c - the next token from logits.
 *
 * Filters act on probabilities p = exp((logit - max) / T) in the order top-k, top-p,
 * min-p.  A heap hands candidates out by falling p (ties: lower id), so that with a
 * vocabulary of 150 thousand and top-k of 40 only 40 are ever sorted.
 *
 *     top-k   the k most likely (Fan et al. 2018)
 *     top-p   the fewest whose share of what top-k left reaches p (Holtzman et al. 2020)
 *     min-p   those at least min_p times as likely as the most likely (Nguyen et al. 2024)
 *     repetition penalty: seen tokens' logits divided, negative ones multiplied
 *             (Keskar et al. 2019) */
#include "llm/model.h"

#include <math.h>

typedef struct {
    double p;
    int32_t id;
} candidate;

/* heap[0..n) is a max-heap; [n..size) are the taken ones, the best last. */
typedef struct {
    candidate *at;
    uint32_t n, size;
} heap;

size_t llm_sample_bytes(uint32_t vocab)
{
    return arena_bytes(candidate, vocab) + arena_bytes(uint8_t, vocab);
}

static bool above(candidate a, candidate b)
{
    return a.p > b.p || (a.p == b.p && a.id < b.id);
}

static void sift_down(heap *h, uint32_t i)
{
    candidate x = h->at[i];
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= h->n)
            break;
        if (child + 1 < h->n && above(h->at[child + 1], h->at[child]))
            child++;
        if (!above(h->at[child], x))
            break;
        h->at[i] = h->at[child];
        i = child;
    }
    h->at[i] = x;
}

/* The i-th most likely, i < size. */
static candidate nth(heap *h, uint32_t i)
{
    while (h->size - h->n <= i) {
        candidate top = h->at[0];
        h->at[0] = h->at[--h->n];
        if (h->n)
            sift_down(h, 0);
        h->at[h->n] = top;
    }
    return h->at[h->size - 1 - i];
}

static void penalise(float *logits, uint32_t vocab, float penalty, const int32_t *recent,
                     uint32_t n_recent, uint8_t *seen)
{
    for (uint32_t i = 0; i < n_recent; i++) {
        int32_t id = recent[i];
        if (id < 0 || (uint32_t)id >= vocab || seen[id])
            continue;
        seen[id] = 1;
        logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
    }
}

/* The most likely token; NaN never wins. */
static int32_t argmax(const float *logits, uint32_t vocab)
{
    float best = -INFINITY;
    int32_t id = 0;
    for (uint32_t i = 0; i < vocab; i++)
        if (logits[i] > best) {
            best = logits[i];
            id = (int32_t)i;
        }
    return id;
}

static void fill(heap *h, const float *logits, uint32_t vocab, double max, double temperature)
{
    h->size = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        double p = exp(((double)logits[i] - max) / temperature);
        if (p > 0) /* neither -inf nor NaN */
            h->at[h->size++] = (candidate){p, (int32_t)i};
    }
    h->n = h->size;
}

/* How many of the most likely stay; *mass is the sum of their p. */
static uint32_t keep(heap *h, const llm_sampling *s, double *mass)
{
    bool k_cuts = s->top_k && s->top_k < h->size;
    uint32_t most = k_cuts ? s->top_k : h->size, kept = 0;
    double total = 0;
    for (uint32_t i = h->n / 2; i-- > 0;)
        sift_down(h, i);
    for (uint32_t i = 0; i < most; i++)
        total += k_cuts ? nth(h, i).p : h->at[i].p;
    double enough = s->top_p > 0 && s->top_p < 1 ? (double)s->top_p * total
                                                 : (double)INFINITY;
    *mass = 0;
    while (kept < most && *mass < enough) {
        double p = nth(h, kept).p;
        if (kept && p < (double)s->min_p * nth(h, 0).p)
            break;
        *mass += p;
        kept++;
    }
    return kept;
}

static int32_t draw(heap *h, uint32_t kept, double u)
{
    for (uint32_t i = 0; i + 1 < kept; i++) {
        u -= nth(h, i).p;
        if (u < 0)
            return nth(h, i).id;
    }
    return nth(h, kept - 1).id;
}

/* Without filters nothing need be sorted. */
static int32_t draw_any(const heap *h, double u01)
{
    double total = 0;
    for (uint32_t i = 0; i < h->size; i++)
        total += h->at[i].p;
    double u = u01 * total;
    for (uint32_t i = 0; i + 1 < h->size; i++) {
        u -= h->at[i].p;
        if (u < 0)
            return h->at[i].id;
    }
    return h->at[h->size - 1].id;
}

int32_t llm_sample(const llm_sampling *s, float *logits, uint32_t vocab,
                   const int32_t *recent, uint32_t n_recent, rng *r, arena scratch)
{
    if (s->repeat_penalty > 0 && s->repeat_penalty != 1)
        penalise(logits, vocab, s->repeat_penalty, recent, n_recent,
                 arena_new(&scratch, uint8_t, vocab));
    int32_t best = argmax(logits, vocab);
    if (!(s->temperature > 0))
        return best;
    heap h = {.at = arena_new(&scratch, candidate, vocab)};
    fill(&h, logits, vocab, (double)logits[best], (double)s->temperature);
    double u = rng_unit(r), mass;
    if (h.size == 0)
        return best;
    bool filters = s->top_k || (s->top_p > 0 && s->top_p < 1) || s->min_p > 0;
    if (!filters)
        return draw_any(&h, u);
    uint32_t kept = keep(&h, s, &mass);
    return draw(&h, kept, u * mass);
}
