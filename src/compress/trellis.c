/* trellis.c - see trellis.h.
 *
 * The Viterbi algorithm over 2^(8-B) survivors, one for every run of old bits a state can
 * keep.  With feedback each survivor carries its own future: how the errors it made move
 * the next AHEAD targets (per-survivor processing, Raheli et al. 1995); for columns
 * further on, the best survivor's choice AHEAD steps ago speaks for all.
 *
 * The ring is closed in two passes: a free one says which bits the end would like to hand
 * to the beginning, and a second starts and ends with those. */
#include "compress/trellis.h"

enum { N = QK, STATES = 256, MOST = 64, AHEAD = 24, FREE = 256 };

typedef struct {
    float cost;
    float pending[AHEAD]; /* what its errors add to the targets to come */
} survivor;

typedef struct {
    const trellis_job *j;
    unsigned bits, n_low; /* n_low survivors = 2^(8 - bits) */
    float value[STATES];
    float decided[N]; /* feedback of decided choices into each column */
    survivor a[MOST], b[MOST];
    uint8_t from[N][MOST]; /* the state that survivor came by at that position */
} search;

/* The state of `low`'s survivor `back` positions before i. */
static unsigned trace(const search *s, unsigned low, size_t i, size_t back)
{
    unsigned state = s->from[i][low];
    for (size_t k = 0; k < back; k++)
        state = s->from[i - 1 - k][state & (s->n_low - 1)];
    return state;
}

static unsigned cheapest(const search *s)
{
    unsigned best = 0;
    for (unsigned l = 1; l < s->n_low; l++)
        if (s->a[l].cost < s->a[best].cost)
            best = l;
    return best;
}

/* Survivors of position i: of the states that share their upper bits the cheapest. */
static void step(search *s, size_t i)
{
    const trellis_job *j = s->j;
    float weight = j->weight ? j->weight[i] : 1, base = j->t[i] + s->decided[i];
    float cost[STATES];
    for (unsigned high = 0; high < STATES; high += s->n_low)
        for (unsigned l = 0; l < s->n_low; l++) {
            float e = base + s->a[l].pending[0] - s->value[high + l];
            cost[high + l] = s->a[l].cost + weight * e * e;
        }
    for (unsigned to = 0; to < s->n_low; to++) {
        unsigned first = to << s->bits, best = first;
        for (unsigned r = first; r < first + (1u << s->bits); r++)
            if (cost[r] < cost[best])
                best = r;
        s->from[i][to] = (uint8_t)best;
        s->b[to].cost = cost[best];
        const float *old = s->a[best & (s->n_low - 1)].pending;
        size_t more = j->u ? size_min(AHEAD, N - 1 - i) : 0;
        const float *u = j->u ? j->u + i * j->ldu + i + 1 : NULL;
        float e = j->w[i] - s->value[best];
        memcpy(s->b[to].pending, old + 1, (AHEAD - 1) * sizeof(float));
        s->b[to].pending[AHEAD - 1] = 0;
        for (size_t k = 0; k < more; k++)
            s->b[to].pending[k] += e * u[k];
    }
    memcpy(s->a, s->b, s->n_low * sizeof(survivor));
}

/* The error of position i - AHEAD, as the best survivor made it, into columns after i;
 * those up to i have had it from `pending`. */
static void decide(search *s, size_t i)
{
    size_t at = i + 1 - AHEAD;
    unsigned state = trace(s, cheapest(s), i, AHEAD - 1);
    float e = s->j->w[at] - s->value[state];
    const float *u = s->j->u + at * s->j->ldu;
    for (size_t k = i + 2; k < N; k++)
        s->decided[k] += e * u[k];
}

/* Best path that starts behind the bits `begin` and, unless FREE, ends with them. */
static unsigned walk(search *s, unsigned begin, unsigned end)
{
    memset(s->decided, 0, sizeof(s->decided));
    for (unsigned l = 0; l < s->n_low; l++) {
        memset(&s->a[l], 0, sizeof(s->a[l]));
        s->a[l].cost = begin == FREE || l == begin ? 0 : 1e30f;
    }
    for (size_t i = 0; i < N; i++) {
        step(s, i);
        if (s->j->u && i + 1 >= AHEAD)
            decide(s, i);
    }
    return end == FREE ? cheapest(s) : end;
}

float trellis_path(const trellis_job *j, uint8_t *state, float *q)
{
    search s = {.j = j, .bits = j->h->bits, .n_low = 256u >> j->h->bits};
    for (unsigned v = 0; v < STATES; v++)
        s.value[v] = j->d * (float)j->h->value[v];
    unsigned low = walk(&s, FREE, FREE);
    walk(&s, low, low);
    float cost = s.a[low].cost;
    for (size_t i = N; i-- > 0;) {
        state[i] = s.from[i][low];
        q[i] = s.value[state[i]];
        low = state[i] & (s.n_low - 1);
    }
    return cost;
}
